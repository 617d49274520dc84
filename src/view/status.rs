//! A run that goes on in another terminal, or one that ended: the same fold of the same events.

use std::fmt::Write;

use console::Style;
use flow_pipeline::{
    event::state::{Phase, RunState, StageState},
    names::StageId,
    plan::Reason,
    run::Standing,
};
use serde_json::{Value, json};

use super::{
    indented,
    numbers::{bytes, duration, figure},
    progress, runs, visible,
};

/// Figures of a stage that are shown.
const FIGURES: usize = 4;
/// How wide the words at the left are.
const WORD: usize = 9;
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
        Standing::CutOff => "cut off; the same command goes on from here".to_owned(),
        Standing::Running => format!("running{}", since(state, now)),
        other => runs::word(other).to_owned(),
    };
    // Writing to a String cannot fail.
    let _ = writeln!(out, "run {} of {}: {ended}", state.run, state.recipe);
    let width = width(state.order.iter());
    for id in &state.order {
        let Some(stage) = state.stages.get(id) else { continue };
        let _ = writeln!(out, "{}", line(id, stage, standing, now, width));
        let help = stage.error.as_ref().and_then(|error| error.help.as_ref());
        let notes = stage.notes.iter().map(|note| ("note", note));
        let below = notes.chain(help.map(|help| ("help", help))).chain(stage.log_tail.iter().map(|line| ("|", line)));
        for (word, text) in below {
            let _ = writeln!(out, "{word:>WORD$} {}", indented(&visible(text), WORD + 1));
        }
    }
    let _ = writeln!(out, "\n{}", summary(state, standing));
    out
}

/// A run that goes on, on so much of a terminal: what runs or failed, and how many stages stand where.
pub fn under_way(state: &RunState, now: &str, rows: usize, columns: usize) -> String {
    let shown = |id: &&StageId| {
        let phase = state.stages.get(id).map(|stage| stage.phase);
        matches!(phase, Some(Phase::Running | Phase::Waiting | Phase::Failed))
    };
    // The heading, the empty line, the summary, and where the cursor stands.
    let room = rows.saturating_sub(4).max(1);
    let shown: Vec<&StageId> = state.order.iter().filter(shown).take(room).collect();
    let width = width(shown.iter().copied());
    let mut lines = vec![format!("run {} of {}: running{}", state.run, state.recipe, since(state, now))];
    let stages = shown.iter().filter_map(|id| Some((id, state.stages.get(id)?)));
    lines.extend(stages.map(|(id, stage)| line(id, stage, Standing::Running, now, width)));
    lines.extend([String::new(), summary(state, Standing::Running)]);
    // A line that was broken would be two to clear.
    let lines = lines.iter().map(|line| line.lines().next().unwrap_or_default());
    lines.map(|line| console::truncate_str(line, columns.saturating_sub(1), "…").into_owned() + "\n").collect()
}

fn width<'a>(ids: impl Iterator<Item = &'a StageId>) -> usize {
    ids.map(|id| id.to_string().chars().count()).max().unwrap_or(0)
}

/// How long the run has been going.
fn since(state: &RunState, now: &str) -> String {
    let begun = state.started.as_deref().and_then(|time| time.parse::<jiff::Timestamp>().ok());
    let passed = begun.zip(now.parse().ok()).map(|(begun, now): (_, jiff::Timestamp)| now.duration_since(begun));
    passed.map(|passed| format!(" for {}", duration(passed.as_secs_f64()))).unwrap_or_default()
}

/// A stage in a line.
fn line(id: &StageId, stage: &StageState, standing: Standing, now: &str, width: usize) -> String {
    let (word, colour) = word(stage.phase, standing);
    let facts = visible(&facts(stage, standing, now).join(", ")).into_owned();
    let facts = indented(&facts, WORD + 1 + width + 2);
    let line = format!("{} {:width$}  {facts}", colour.apply_to(format!("{word:>WORD$}")), id.to_string());
    line.trim_end().to_owned()
}

/// How many stages stand where, and how long the run took.
pub fn summary(state: &RunState, standing: Standing) -> String {
    let under_way = [(Phase::Running, "running"), (Phase::Waiting, "waiting")];
    // What ran when its run was cut off comes first, as what runs does.
    let cut_off = standing == Standing::CutOff;
    let stopped = cut_off.then_some((Phase::Stopped, "cut off"));
    let ended = ENDED.into_iter().filter(|(phase, _)| !cut_off || *phase != Phase::Stopped);
    let words: Vec<_> = under_way.into_iter().chain(stopped).chain(ended).collect();
    let parts: Vec<String> = counts(state, &words).collect();
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

/// What ran when its run was cut off was not stopped by anybody.
fn word(phase: Phase, standing: Standing) -> (&'static str, Style) {
    match phase {
        Phase::Stopped if standing == Standing::CutOff => ("cut off", Style::new().yellow()),
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

fn facts(stage: &StageState, standing: Standing, now: &str) -> Vec<String> {
    let mut facts = Vec::new();
    // How far it came is what a person wants to know of one that was stopped, too.
    if let Some(count) = progress::count(stage).filter(|_| matches!(stage.phase, Phase::Running | Phase::Stopped)) {
        let share = progress::share(stage);
        if let Some(share) = share.filter(|_| stage.phase == Phase::Running && console::user_attended()) {
            let (full, rest) = progress::bar(share, BAR);
            facts.push(full + &rest);
        }
        let percent = share.map(|share| format!(" ({:.0} %)", share * 100.0)).unwrap_or_default();
        facts.push(format!("{count}{percent}"));
    }
    facts.extend(progress::time(stage, now).filter(|_| standing != Standing::CutOff));
    if stage.phase == Phase::Finished && stage.reason == Some(Reason::Recheck) {
        facts.push("the same bytes as before".to_owned());
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
