//! A run on the terminal, like cargo's: one line for every stage that ended, a live line for every stage that runs. Without
//! a terminal only the lines that end are printed.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    time::Duration,
};

use console::{Style, style};
use flow_pipeline::{
    event::{
        Event, Outcome, Stamped,
        state::{Phase, RunState},
    },
    names::StageId,
    plan::Reason,
};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;

use super::{
    numbers::{bytes, duration},
    status::{ENDED, counts},
};

/// Prints a run as it goes.
pub struct Terminal {
    bars: MultiProgress,
    running: BTreeMap<StageId, ProgressBar>,
    /// Stages that are cached by their record alone.
    hollow: BTreeSet<StageId>,
    live: bool,
}

const VERB: usize = 12;

impl Terminal {
    /// A view on standard error. Of the `hollow` stages nothing but the record is there.
    pub fn new(hollow: BTreeSet<StageId>) -> Self {
        let live = console::user_attended_stderr();
        Self { bars: MultiProgress::new(), running: BTreeMap::new(), hollow, live }
    }

    fn line(&self, verb: &str, colour: &Style, rest: &str) {
        let verb = colour.apply_to(format!("{verb:>VERB$}"));
        let line = format!("{verb} {rest}");
        if self.live {
            // Without a place to draw there is nothing to tell.
            let _ = self.bars.println(line);
        } else {
            print_line(&line);
        }
    }

    /// Takes one event in.
    pub fn see(&mut self, event: &Stamped, state: &RunState) {
        let green = Style::new().for_stderr().green().bold();
        let cyan = Style::new().for_stderr().cyan().bold();
        let yellow = Style::new().for_stderr().yellow().bold();
        let red = Style::new().for_stderr().red().bold();
        match &event.what {
            Event::RunStarted { run, recipe, stages, cores } => {
                self.line(
                    "Running",
                    &green,
                    &format!("{recipe}: {} stages on {cores} cores (run {run})", stages.len()),
                );
            }
            Event::StageCached { stage, artifact, .. } => {
                let bytes =
                    if self.hollow.contains(stage) { " (its bytes are gone, and nothing needs them)" } else { "" };
                self.line("Cached", &cyan, &format!("{stage} {}{bytes}", dim(&artifact.short())));
            }
            Event::StageWaiting { stage, holder } => {
                self.line("Waiting", &yellow, &format!("{stage}: being done by {holder}"));
            }
            Event::StageStarted { stage, reason, .. } => self.start(stage, reason),
            Event::StageRetrying { stage, attempt, of, wait, error } => {
                self.line(
                    "Retrying",
                    &yellow,
                    &format!("{stage}: {}; attempt {attempt} of {of} in {}", error.message, duration(*wait)),
                );
            }
            Event::StageProgress { stage, done, total, unit } => {
                if let Some(bar) = self.running.get(stage) {
                    if let Some(total) = total {
                        bar.set_length(*total);
                    }
                    bar.set_position(*done);
                    bar.set_message(message(unit, state.stages.get(stage).and_then(|s| s.metrics.as_ref())));
                }
            }
            Event::StageNote { stage, text } => self.line("Note", &yellow, &format!("{stage}: {text}")),
            Event::StageFinished { stage, artifact, seconds, bytes: size, .. } => {
                self.clear(stage);
                let facts = format!("in {}, {} {}", duration(*seconds), bytes(*size), dim(&artifact.short()));
                self.line("Finished", &green, &format!("{stage} {facts}"));
            }
            Event::StageFailed { stage, error, log_tail } => {
                self.clear(stage);
                self.line("Failed", &red, &format!("{stage}: {}", error.message));
                if let Some(help) = &error.help {
                    self.line("help", &cyan, help);
                }
                for line in log_tail {
                    self.line("|", &red, line);
                }
            }
            Event::StageStopped { stage } => {
                self.clear(stage);
                self.line("Stopped", &yellow, &format!("{stage}: what it had done is kept"));
            }
            // Metrics are in the message of the next progress; what was not reached is told once, at the end: after an early
            // failure it is nearly everything.
            Event::StageMetrics { .. } | Event::StageSkipped { .. } => {}
            Event::RunFinished { outcome, seconds } => self.finish(*outcome, *seconds, state, [&green, &red, &yellow]),
        }
    }

    fn start(&mut self, stage: &StageId, reason: &Reason) {
        if !self.live {
            return;
        }
        // One that began before, and had to wait for a lost input, begins anew.
        self.clear(stage);
        let bar = self.bars.add(ProgressBar::new_spinner());
        if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:24.cyan/blue} {pos}/{len} {msg} {eta}") {
            bar.set_style(style.progress_chars("━╸─"));
        }
        bar.set_prefix(format!("{:>VERB$} {stage}", style("Running").for_stderr().cyan()));
        bar.set_message(format!("({reason})"));
        bar.enable_steady_tick(Duration::from_millis(250));
        self.running.insert(stage.clone(), bar);
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
        let parts: Vec<String> = counts(state, &ENDED).collect();
        let skipped: Vec<&StageId> =
            state.order.iter().filter(|id| state.stages.get(id).is_some_and(|s| s.phase == Phase::Skipped)).collect();
        if !skipped.is_empty() {
            let names: Vec<String> = skipped.iter().take(5).map(ToString::to_string).collect();
            let more = skipped.len().saturating_sub(names.len());
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            self.line("Skipped", yellow, &format!("{}{more}: they need what failed", names.join(", ")));
        }
        let summary = format!("{} in {}", parts.join(", "), duration(seconds));
        match outcome {
            Outcome::Done => self.line("Done", green, &summary),
            Outcome::Failed => self.line("Failed", red, &summary),
            Outcome::Interrupted => {
                self.line("Interrupted", yellow, &format!("{summary}; the same command goes on from here"));
            }
        }
    }
}

fn dim(text: &str) -> String {
    style(text).for_stderr().dim().to_string()
}

fn message(unit: &str, metrics: Option<&Value>) -> String {
    match metrics.and_then(|metrics| metrics.get("loss")).and_then(Value::as_f64) {
        Some(loss) => format!("{unit} loss {loss:.3}"),
        None => unit.to_owned(),
    }
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

fn print_line(line: &str) {
    // Whoever listened may be gone; the run goes on.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
