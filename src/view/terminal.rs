//! A run on the terminal, like cargo's: one line for every stage that ended, a live line for every stage that runs. Without
//! a terminal only the lines that end are printed.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    io::Write,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use console::{Style, style};
use flow_pipeline::{
    event::{
        Event, Outcome, Stamped,
        state::{Phase, RunState, StageState},
    },
    names::StageId,
    plan::Reason,
};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;

use super::{
    harmless,
    numbers::{bytes, counted, duration},
    status::{ENDED, counts},
};

/// Prints a run as it goes.
pub struct Terminal {
    bars: MultiProgress,
    running: BTreeMap<StageId, ProgressBar>,
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
const BAR: &str = "{bar:24.cyan/blue}";

impl Terminal {
    /// A view on standard error. Of the `hollow` stages nothing but the record is there.
    pub fn new(hollow: BTreeSet<StageId>) -> Self {
        // On a terminal that cannot move its cursor (`TERM=dumb`) nothing would be drawn: it gets lines, as a pipe does.
        let bars = MultiProgress::new();
        let live = console::user_attended_stderr() && !bars.is_hidden();
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
            Event::StageStarted { stage, reason, .. } => self.start(stage, reason),
            Event::StageRetrying { stage, attempt, of, wait, error } => {
                line(
                    "Retrying",
                    &yellow,
                    &format!("{stage}: {}; attempt {attempt} of {of} in {}", error.message, duration(*wait)),
                );
            }
            Event::StageProgress { stage, done, total, unit } => {
                if let (Some(bar), Some(known)) = (self.running.get(stage), state.stages.get(stage)) {
                    let count = total.map_or_else(|| done.to_string(), |total| format!("{done}/{total}"));
                    let text = format!("{count} {unit}{}", message(known, &event.time));
                    bar.set_message(shown(&text).into_owned());
                    // Both at once: half of the last count beside half of this one would be a wrong picture.
                    bar.update(|drawn| {
                        drawn.set_pos(if total.is_some() { *done } else { 0 });
                        drawn.set_len(total.unwrap_or(0).max(1));
                    });
                }
            }
            Event::StageNote { stage, text } => line("Note", &yellow, &format!("{stage}: {text}")),
            Event::StageFinished { stage, artifact, seconds, bytes: size, .. } => {
                self.clear(stage);
                let facts = format!("in {}, {} {}", duration(*seconds), bytes(*size), dim(&artifact.short()));
                line("Finished", &green, &format!("{stage} {facts}"));
            }
            Event::StageFailed { stage, error, log_tail } => {
                self.clear(stage);
                line("Failed", &red, &format!("{stage}: {}", error.message));
                if let Some(help) = &error.help {
                    line("help", &cyan, help);
                }
                for text in log_tail {
                    line("|", &red, text);
                }
            }
            Event::StageStopped { stage } => {
                self.clear(stage);
                line("Stopped", &yellow, &format!("{stage}: what it had done is kept"));
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

    fn start(&mut self, stage: &StageId, reason: &Reason) {
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
        dress(&bar, "{wide_msg}");
        let verb = style(format!("{:>VERB$}", "Running")).for_stderr().cyan();
        bar.set_prefix(format!("{verb} {:width$}", stage.to_string(), width = self.width));
        bar.set_message(shown(&format!("({reason})")).into_owned());
        bar.enable_steady_tick(Duration::from_millis(250));
        self.running.insert(stage.clone(), bar);
    }

    fn begin(&mut self, stages: &[StageId]) {
        let names = stages.iter().map(|id| id.to_string().chars().count());
        self.width = names.max().unwrap_or(0).min(NAME);
        if self.live {
            let whole = self.bars.add(ProgressBar::new(stages.len() as u64));
            dress(&whole, "{pos}/{len} stages, {elapsed}");
            whole.set_prefix(format!("{:>VERB$} {:width$}", "", "all", width = self.width));
            whole.enable_steady_tick(Duration::from_secs(1));
            self.whole = Some(whole);
        }
    }

    fn clear(&mut self, stage: &StageId) {
        if let Some(bar) = self.running.remove(stage) {
            bar.finish_and_clear();
        }
    }

    fn finish(&mut self, outcome: Outcome, seconds: f64, state: &RunState, [green, red, yellow]: [&Style; 3]) {
        for (_, bar) in std::mem::take(&mut self.running) {
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
            line("Skipped", yellow, &format!("{}{more}: they need what failed", names.join(", ")));
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
    print_line(&format!("{} {rest}", colour.apply_to(format!("{verb:>VERB$}"))));
}

fn dim(text: &str) -> String {
    style(text).for_stderr().dim().to_string()
}

/// Gives a bar its look: what it is of, how far it is, and these words.
fn dress(bar: &ProgressBar, words: &str) {
    if let Ok(style) = ProgressStyle::with_template(&format!("{{prefix}} {BAR} {words}")) {
        bar.set_style(style.progress_chars("━╸─"));
    }
}

/// What is known of a stage beside its count: its loss, and the time that is left at the time `now`.
fn message(stage: &StageState, now: &str) -> String {
    let loss = stage.metrics.as_ref().and_then(|metrics| metrics.get("loss")).and_then(Value::as_f64);
    let loss = loss.map(|loss| format!(", loss {loss:.3}")).unwrap_or_default();
    let left = stage.seconds_left(now).map(|left| format!(", about {} left", duration(left))).unwrap_or_default();
    format!("{loss}{left}")
}

/// Something that a person should know and that stops nothing.
pub fn warning(text: &str) {
    let yellow = Style::new().for_stderr().yellow().bold();
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
