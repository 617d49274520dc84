//! A run that goes on in another terminal, or one that ended: the same fold of the same events.

use std::fmt::Write;

use console::Style;
use flow_pipeline::{
    event::state::{Phase, RunState, StageState},
    run::Standing,
};
use serde_json::{Value, json};

use super::{
    numbers::{bytes, duration},
    runs,
};

/// Figures of a stage that are shown.
const FIGURES: usize = 4;
/// Characters of a bar.
const BAR: usize = 12;

/// The state for programs.
pub fn value(state: &RunState, standing: Standing, now: &str) -> Value {
    let mut value = serde_json::to_value(state).unwrap_or_default();
    if let Some(map) = value.as_object_mut() {
        map.insert("standing".into(), json!(standing));
    }
    for (id, stage) in &state.stages {
        if let Some(shown) = value["stages"].get_mut(id.to_string()).and_then(Value::as_object_mut) {
            let left = stage.seconds_left(now).filter(|_| stage.phase == Phase::Running);
            shown.insert("seconds_left".into(), json!(left));
        }
    }
    value
}

/// The state for people, at the time `now`.
pub fn text(state: &RunState, standing: Standing, now: &str) -> String {
    let mut out = String::new();
    let ended = match standing {
        Standing::CutOff => "cut off; the same command goes on from here",
        other => runs::word(other),
    };
    // Writing to a String cannot fail.
    let _ = writeln!(out, "run {} of {}: {ended}", state.run, state.recipe);
    let width = state.order.iter().map(|id| id.to_string().chars().count()).max().unwrap_or(0);
    for id in &state.order {
        let Some(stage) = state.stages.get(id) else { continue };
        let (word, colour) = word(stage.phase, standing);
        let facts = facts(stage, now).join(", ");
        let line = format!("{} {:width$}  {facts}", colour.apply_to(format!("{word:>9}")), id.to_string());
        let _ = writeln!(out, "{}", line.trim_end());
        for note in &stage.notes {
            let _ = writeln!(out, "{:>9} {note}", "note");
        }
        if let Some(help) = stage.error.as_ref().and_then(|error| error.help.as_ref()) {
            let _ = writeln!(out, "{:>9} {help}", "help");
        }
        for line in &stage.log_tail {
            let _ = writeln!(out, "{:>9} {line}", "|");
        }
    }
    let _ = writeln!(out, "\n{}", summary(state));
    out
}

/// How many stages stand where, and how long the run took.
pub fn summary(state: &RunState) -> String {
    let under_way = [(Phase::Running, "running"), (Phase::Waiting, "waiting")];
    let parts: Vec<String> = counts(state, &under_way).chain(counts(state, &ENDED)).collect();
    let time = state.seconds.map(|seconds| format!(" in {}", duration(seconds))).unwrap_or_default();
    format!("{}{time}", parts.join(", "))
}

/// Where the stages of a run stand that has ended.
pub const ENDED: [(Phase, &str); 6] = [
    (Phase::Finished, "finished"),
    (Phase::Cached, "cached"),
    (Phase::Failed, "failed"),
    (Phase::Stopped, "stopped"),
    (Phase::Skipped, "not reached"),
    (Phase::Pending, "not begun"),
];

/// How many stages are in each of these phases, but for those that none is in.
pub fn counts<'a>(state: &'a RunState, words: &'a [(Phase, &str)]) -> impl Iterator<Item = String> + 'a {
    let counted = words.iter().map(|(phase, word)| (state.count(*phase), word)).filter(|(count, _)| *count > 0);
    counted.map(|(count, word)| format!("{count} {word}"))
}

/// Whatever ran when its run was cut off runs no more.
fn word(phase: Phase, standing: Standing) -> (&'static str, Style) {
    match phase {
        Phase::Running if standing == Standing::CutOff => ("cut off", Style::new().yellow()),
        Phase::Pending => ("pending", Style::new().dim()),
        Phase::Waiting => ("waiting", Style::new().yellow()),
        Phase::Running => ("running", Style::new().cyan()),
        Phase::Cached => ("cached", Style::new().cyan()),
        Phase::Finished => ("finished", Style::new().green()),
        Phase::Failed => ("failed", Style::new().red()),
        Phase::Stopped => ("stopped", Style::new().yellow()),
        Phase::Skipped => ("skipped", Style::new().yellow()),
    }
}

fn facts(stage: &StageState, now: &str) -> Vec<String> {
    let mut facts = Vec::new();
    if let Some((done, total, unit)) = stage.progress.as_ref().filter(|_| stage.phase == Phase::Running) {
        let share = total.filter(|total| *total > 0).map(|total| *done as f64 / total as f64);
        if let Some(share) = share.filter(|_| console::user_attended()) {
            facts.push(bar(share));
        }
        let total = total.map(|total| format!("/{total}")).unwrap_or_default();
        let percent = share.map(|share| format!(" ({:.0} %)", share * 100.0)).unwrap_or_default();
        facts.push(format!("{done}{total} {unit}{percent}"));
        if let Some(left) = stage.seconds_left(now) {
            facts.push(format!("about {} left", duration(left)));
        }
    }
    let metrics = stage.metrics.as_ref().filter(|_| matches!(stage.phase, Phase::Running | Phase::Finished));
    let figures = metrics.and_then(Value::as_object).into_iter().flatten();
    // What a person looks for first comes first; the step is in the progress.
    let mut figures: Vec<(&String, f64)> = figures.filter_map(|(name, value)| Some((name, value.as_f64()?))).collect();
    figures.retain(|(name, _)| *name != "step");
    figures.sort_by_key(|(name, _)| !name.ends_with("loss"));
    facts.extend(figures.iter().take(FIGURES).map(|(name, value)| format!("{name} {}", figure(*value))));
    facts.extend(stage.seconds.map(duration));
    facts.extend(stage.bytes.map(bytes));
    if let Some(error) = &stage.error {
        facts.push(error.message.clone());
    }
    if let Some(other) = stage.blocked_by.as_ref().filter(|_| stage.phase != Phase::Finished) {
        facts.push(format!("because of {other}"));
    }
    facts
}

/// Four digits that count.
fn figure(value: f64) -> String {
    let size = value.abs();
    if value == 0.0 || (1e-3..1e4).contains(&size) {
        format!("{:.*}", if size >= 100.0 { 0 } else { 3 }, value)
    } else if size >= 1e4 {
        super::numbers::count(value)
    } else {
        format!("{value:.2e}")
    }
}

fn bar(share: f64) -> String {
    let full = (share.clamp(0.0, 1.0) * BAR as f64).round() as usize;
    format!("{}{}", "━".repeat(full), "─".repeat(BAR - full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_and_bars_read_well() {
        let read = [0.0, 2.34567, 0.003, 1.5e-5, 123.4, 56_789.0].map(figure);
        assert_eq!(read, ["0.000", "2.346", "0.003", "1.50e-5", "123", "56.8K"]);
        assert_eq!([0.0, 0.5, 1.0, 7.0].map(bar), ["────────────", "━━━━━━──────", "━━━━━━━━━━━━", "━━━━━━━━━━━━"]);
    }
}
