//! A run that goes on in another terminal, or one that ended: the same fold of the same events.

use std::fmt::Write;

use console::Style;
use flow_pipeline::event::state::{Phase, RunState};

use super::numbers::{bytes, duration};

/// The state for people.
pub fn text(state: &RunState, alive: bool) -> String {
    let mut out = String::new();
    let ended = match (state.outcome, alive) {
        (Some(outcome), _) => format!("{outcome:?}").to_lowercase(),
        (None, true) => "running".into(),
        (None, false) => "cut off; the same command goes on from here".into(),
    };
    // Writing to a String cannot fail.
    let _ = writeln!(out, "run {} of {}: {ended}", state.run, state.recipe);
    let width = state.order.iter().map(|id| id.to_string().chars().count()).max().unwrap_or(0);
    for id in &state.order {
        let Some(stage) = state.stages.get(id) else { continue };
        let (word, colour) = match stage.phase {
            Phase::Pending => ("pending", Style::new().dim()),
            Phase::Waiting => ("waiting", Style::new().yellow()),
            Phase::Running => ("running", Style::new().cyan()),
            Phase::Cached => ("cached", Style::new().cyan()),
            Phase::Finished => ("finished", Style::new().green()),
            Phase::Failed => ("failed", Style::new().red()),
            Phase::Stopped => ("stopped", Style::new().yellow()),
            Phase::Skipped => ("skipped", Style::new().yellow()),
        };
        let mut facts = Vec::new();
        if let Some((done, total, unit)) = stage.progress.as_ref().filter(|_| stage.phase == Phase::Running) {
            let total = total.map(|total| format!("/{total}")).unwrap_or_default();
            facts.push(format!("{done}{total} {unit}"));
        }
        if let Some(loss) = stage.metrics.as_ref().and_then(|m| m.get("loss")).and_then(serde_json::Value::as_f64) {
            facts.push(format!("loss {loss:.3}"));
        }
        if let Some(seconds) = stage.seconds {
            facts.push(duration(seconds));
        }
        if let Some(size) = stage.bytes {
            facts.push(bytes(size));
        }
        if let Some(error) = &stage.error {
            facts.push(error.message.clone());
        }
        if let Some(other) = stage.blocked_by.as_ref().filter(|_| stage.phase != Phase::Finished) {
            facts.push(format!("because of {other}"));
        }
        let _ =
            writeln!(out, "{} {:width$}  {}", colour.apply_to(format!("{word:>9}")), id.to_string(), facts.join(", "));
        for line in &stage.log_tail {
            let _ = writeln!(out, "{:>9} | {line}", "");
        }
    }
    if let Some(seconds) = state.seconds {
        let _ = writeln!(out, "\nin {}", duration(seconds));
    }
    out
}
