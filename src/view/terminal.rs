//! A run on the terminal, like cargo's: one line for every stage that ended, a live line for every stage that runs. Without
//! a terminal only the lines that end are printed.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    io::Write,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use console::{Style, style};
use flow_pipeline::{
    event::{
        Event, Outcome, Stamped, now,
        state::{Phase, RunState, StageState},
    },
    names::StageId,
    plan::Reason,
};
use indicatif::{MultiProgress, ProgressBar, ProgressState, ProgressStyle};

use super::{
    harmless, indented,
    numbers::{bytes, counted, duration},
    progress::{self, Fitted, Line},
    screen,
    status::{ENDED, counts},
    visible,
};

/// Prints a run as it goes.
pub struct Terminal {
    bars: MultiProgress,
    running: BTreeMap<StageId, (ProgressBar, Arc<Mutex<StageState>>)>,
    /// How many of all stages have ended, below those that run.
    whole: Option<ProgressBar>,
    /// How wide names are.
    width: usize,
    /// Stages that are cached by their record alone.
    hollow: BTreeSet<StageId>,
    live: bool,
}

const VERB: usize = 12;
/// A longer name pushes its own line to the right, and no other.
const NAME: usize = 24;

impl Terminal {
    /// A view on standard error. Of the `hollow` stages nothing but the record is there.
    pub fn new(hollow: BTreeSet<StageId>) -> Self {
        // On a terminal that cannot move its cursor (`TERM=dumb`) nothing would be drawn: it gets lines, as a pipe does.
        let bars = MultiProgress::new();
        let live = screen::can_draw(&console::Term::stderr()) && !bars.is_hidden();
        if live {
            *drawn() = Some(bars.clone());
        }
        Self { bars, running: BTreeMap::new(), whole: None, width: 0, hollow, live }
    }

    /// Takes one event in.
    pub fn see(&mut self, event: &Stamped, state: &RunState) {
        let green = Style::new().for_stderr().green().bold();
        let cyan = Style::new().for_stderr().cyan().bold();
        let yellow = Style::new().for_stderr().yellow().bold();
        let red = Style::new().for_stderr().red().bold();
        match &event.what {
            Event::RunStarted { run, recipe, stages, cores } => {
                line(
                    "Running",
                    &green,
                    &format!(
                        "{recipe}: {} on {} (run {run})",
                        counted(stages.len(), "stage"),
                        counted(*cores as usize, "core")
                    ),
                );
                self.begin(stages);
            }
            Event::StageCached { stage, artifact, .. } => {
                let bytes =
                    if self.hollow.contains(stage) { " (its bytes are gone, and nothing needs them)" } else { "" };
                line("Cached", &cyan, &format!("{stage} {}{bytes}", dim(&artifact.short())));
            }
            Event::StageWaiting { stage, holder } => {
                line("Waiting", &yellow, &format!("{stage}: being done by {holder}"));
            }
            Event::StageStarted { stage, .. } => self.start(stage, state),
            Event::StageRetrying { stage, attempt, of, wait, error } => {
                let why = visible(&error.message);
                line("Retrying", &yellow, &format!("{stage}: {why}; attempt {attempt} of {of} in {}", duration(*wait)));
                self.show(stage, state);
            }
            Event::StageProgress { stage, .. } => self.show(stage, state),
            Event::StageNote { stage, text } => {
                line("Note", &yellow, &format!("{stage}: {}", visible(text)));
            }
            Event::StageFinished { stage, artifact, seconds, bytes: size, .. } => {
                self.clear(stage);
                let facts = format!("in {}, {} {}", duration(*seconds), bytes(*size), dim(&artifact.short()));
                // Other bytes would have failed it.
                let rechecked = state.stages.get(stage).is_some_and(|known| known.reason == Some(Reason::Recheck));
                let same = if rechecked { ": the same bytes as before" } else { "" };
                line("Finished", &green, &format!("{stage} {facts}{same}"));
            }
            Event::StageFailed { stage, error, log_tail } => {
                self.clear(stage);
                line("Failed", &red, &format!("{stage}: {}", visible(&error.message)));
                if let Some(help) = &error.help {
                    line("help", &cyan, &visible(help));
                }
                for text in log_tail {
                    line("|", &red, &visible(text));
                }
            }
            Event::StageStopped { stage } => {
                self.clear(stage);
                let at = state.stages.get(stage).and_then(progress::count);
                let at = at.map(|count| format!("at {count}, ")).unwrap_or_default();
                line("Stopped", &yellow, &format!("{stage}: {at}what it had done is kept"));
            }
            // Metrics are in the message of the next progress; what was not reached is told once, at the end: after an early
            // failure it is nearly everything.
            Event::StageMetrics { .. } | Event::StageSkipped { .. } => {}
            Event::RunFinished { outcome, seconds } => self.finish(*outcome, *seconds, state, [&green, &red, &yellow]),
        }
        if let Some(whole) = &self.whole {
            let ended =
                ENDED.iter().filter(|(phase, _)| *phase != Phase::Pending).map(|(phase, _)| state.count(*phase));
            whole.set_position(ended.sum::<usize>() as u64);
        }
    }

    fn start(&mut self, stage: &StageId, state: &RunState) {
        if !self.live {
            return;
        }
        // One that began before, and had to wait for a lost input, begins anew.
        self.clear(stage);
        let bar = ProgressBar::new(1);
        let bar = match &self.whole {
            Some(whole) => self.bars.insert_before(whole, bar),
            None => self.bars.add(bar),
        };
        let shown = Arc::new(Mutex::new(state.stages.get(stage).cloned().unwrap_or_default()));
        let (name, width, known) = (stage.to_string(), self.width, Arc::clone(&shown));
        dress(&bar, move |_| {
            // Drawn anew a few times a second, so that the time that is left goes on while the stage is silent.
            let Ok(stage) = known.lock() else { return Line::default() };
            let facts = progress::facts(&stage, &now());
            Line { verb: "Running".to_owned(), name: name.clone(), width, share: progress::share(&stage), facts }
        });
        bar.enable_steady_tick(Duration::from_millis(250));
        self.running.insert(stage.clone(), (bar, shown));
    }

    /// What is known of a stage by now; it is drawn with the next tick.
    fn show(&self, stage: &StageId, state: &RunState) {
        if let (Some((bar, shown)), Some(known)) = (self.running.get(stage), state.stages.get(stage)) {
            if let Ok(mut shown) = shown.lock() {
                *shown = known.clone();
            }
            bar.tick();
        }
    }

    fn begin(&mut self, stages: &[StageId]) {
        let names = stages.iter().map(|id| id.to_string().chars().count());
        self.width = names.max().unwrap_or(0).min(NAME);
        if self.live {
            let whole = self.bars.add(ProgressBar::new(stages.len() as u64));
            let width = self.width;
            dress(&whole, move |state| {
                let (done, all) = (state.pos(), state.len().unwrap_or(0));
                let facts = vec![format!("{done}/{all} stages"), duration(state.elapsed().as_secs_f64())];
                let share = (all > 0).then(|| done as f64 / all as f64);
                Line { verb: String::new(), name: "all".to_owned(), width, share, facts }
            });
            whole.enable_steady_tick(Duration::from_secs(1));
            self.whole = Some(whole);
        }
    }

    fn clear(&mut self, stage: &StageId) {
        if let Some((bar, _)) = self.running.remove(stage) {
            bar.finish_and_clear();
        }
    }

    fn finish(&mut self, outcome: Outcome, seconds: f64, state: &RunState, [green, red, yellow]: [&Style; 3]) {
        for (_, (bar, _)) in std::mem::take(&mut self.running) {
            bar.finish_and_clear();
        }
        if let Some(whole) = self.whole.take() {
            whole.finish_and_clear();
        }
        *drawn() = None;
        let parts: Vec<String> = counts(state, &ENDED).collect();
        let skipped: Vec<&StageId> =
            state.order.iter().filter(|id| state.stages.get(id).is_some_and(|s| s.phase == Phase::Skipped)).collect();
        if !skipped.is_empty() {
            let names: Vec<String> = skipped.iter().take(5).map(ToString::to_string).collect();
            let more = skipped.len().saturating_sub(names.len());
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let need = if skipped.len() == 1 { "it needs" } else { "they need" };
            line("Skipped", yellow, &format!("{}{more}: {need} what failed", names.join(", ")));
        }
        let summary = format!("{} in {}", parts.join(", "), duration(seconds));
        match outcome {
            Outcome::Done => line("Done", green, &summary),
            Outcome::Failed => line("Failed", red, &summary),
            Outcome::Interrupted => {
                line("Interrupted", yellow, &format!("{summary}; the same command goes on from here"));
            }
        }
    }
}

fn line(verb: &str, colour: &Style, rest: &str) {
    print_line(&format!("{} {}", colour.apply_to(format!("{verb:>VERB$}")), indented(rest, VERB + 1)));
}

fn dim(text: &str) -> String {
    style(text).for_stderr().dim().to_string()
}

/// Gives a bar its look: a line that is made for the terminal's width each time that it is drawn.
fn dress(bar: &ProgressBar, line: impl Fn(&ProgressState) -> Line + Send + Sync + Clone + 'static) {
    let draw = move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        // The last column is left free: some terminals go to the next line as soon as it is written to.
        let columns = console::Term::stderr().size_checked().map_or(80, |(_, columns)| columns);
        let text = draw_line(&line(state), usize::from(columns).saturating_sub(1));
        // Whoever draws has a place for it.
        let _ = out.write_str(&shown(&text));
    };
    if let Ok(style) = ProgressStyle::with_template("{line}") {
        bar.set_style(style.with_key("line", draw));
    }
}

fn draw_line(line: &Line, columns: usize) -> String {
    let indented = Line { verb: format!("{:>VERB$}", line.verb), ..line.clone() };
    let Fitted { verb, name, bar, facts } = indented.fit(columns);
    let (cyan, blue) = (Style::new().for_stderr().cyan(), Style::new().for_stderr().blue());
    let verb = if verb.is_empty() { verb } else { format!("{} ", cyan.apply_to(verb)) };
    let bar = bar.map(|(full, rest)| format!("{}{} ", cyan.apply_to(full), blue.apply_to(rest))).unwrap_or_default();
    format!("{verb}{name} {bar}{facts}")
}

/// Something that a person should know and that stops nothing.
pub fn warning(text: &str) {
    let yellow = Style::new().for_stderr().yellow().bold();
    let text = indented(text, VERB + 1);
    print_line(&format!("{} {text}", yellow.apply_to(format!("{:>VERB$}", "Warning"))));
}

/// A word to the person that is no result: nothing is there, or where something came from.
pub fn remark(text: &str) {
    print_line(text);
}

/// A line about something that is done.
pub fn done(verb: &str, rest: &str) {
    let green = Style::new().for_stderr().green().bold();
    print_line(&format!("{} {rest}", green.apply_to(format!("{verb:>VERB$}"))));
}

/// Says where the report is.
pub fn report(folder: &std::path::Path) {
    let green = Style::new().for_stderr().green().bold();
    print_line(&format!("{} {}", green.apply_to(format!("{:>VERB$}", "Report")), folder.join("report.md").display()));
}

/// Something keeps a person waiting.
pub fn waiting(text: &str) {
    let yellow = Style::new().for_stderr().yellow().bold();
    print_line(&format!("{} {text}", yellow.apply_to(format!("{:>VERB$}", "Waiting"))));
}

/// The bars below which lines would be torn: whoever has something to say while a run is shown says it above them.
fn drawn() -> MutexGuard<'static, Option<MultiProgress>> {
    static DRAWN: Mutex<Option<MultiProgress>> = Mutex::new(None);
    // There are some or there are none, whoever panicked.
    DRAWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What may be shown of a text on standard error.
fn shown(text: &str) -> Cow<'_, str> {
    harmless(text, console::colors_enabled_stderr())
}

fn print_line(line: &str) {
    let bars = drawn().clone();
    if let Some(bars) = bars {
        // Without a place to draw there is nothing to tell.
        let _ = bars.println(shown(line));
        return;
    }
    // Whoever listened may be gone; the run goes on.
    let _ = writeln!(std::io::stderr().lock(), "{}", shown(line));
}
