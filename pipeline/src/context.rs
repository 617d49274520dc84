//! What a running stage may touch: its inputs, its output folder, its scratch folder, and the way to say how far it is.

use std::{
    io::Write,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use flow_cache::plain;
use fs_err as fs;
use serde_json::Value;

use crate::{
    error::StageError,
    event::Report,
    job::Job,
    seed::Seed,
    stage::{External, InputTree},
};

/// Progress and metrics are written at most this often: they are for eyes.
const REPORT_EVERY: Duration = Duration::from_millis(100);
/// And to the log at most this often: it is kept.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// A stage's view of the world.
pub struct Context {
    job: Job,
    events: Mutex<Option<fs::File>>,
    last_progress: Mutex<Option<Instant>>,
    logged: Mutex<[Option<Instant>; 2]>,
    /// Metrics that the log has not heard of.
    unlogged: Mutex<Option<Value>>,
    cancelled: Arc<AtomicBool>,
}

impl Context {
    /// The context of a job. `cancelled` is raised from outside when the stage should stop.
    pub fn new(job: Job, cancelled: Arc<AtomicBool>) -> Self {
        // Events are for eyes: a stage works on without them where the file cannot be had.
        let events = plain::append(&job.events).ok();
        let (events, last_progress) = (Mutex::new(events), Mutex::new(None));
        Self { job, events, last_progress, logged: Mutex::new([None; 2]), unlogged: Mutex::new(None), cancelled }
    }

    /// The one artifact of a role.
    pub fn input(&self, role: &str) -> Result<&Path, StageError> {
        match self.inputs(role) {
            [one] => Ok(&one.path),
            other => Err(StageError::new(format!("input `{role}` has {} artifacts where one is needed", other.len()))),
        }
    }

    /// The artifact of an optional role.
    pub fn optional_input(&self, role: &str) -> Option<&Path> {
        self.inputs(role).first().map(|tree| tree.path.as_path())
    }

    /// The artifacts of a role, sorted by label.
    pub fn inputs(&self, role: &str) -> &[InputTree] {
        self.job.inputs.get(role).map_or(&[], Vec::as_slice)
    }

    /// The sources outside of flow, as the plan found them.
    pub fn sources(&self) -> &[External] {
        &self.job.sources
    }

    /// The folder that becomes the artifact.
    pub fn output(&self) -> &Path {
        &self.job.output
    }

    /// A folder that survives a stage that was cut off: what lies here lets the next attempt go on.
    pub fn scratch(&self) -> &Path {
        &self.job.scratch
    }

    /// The recipe's seed; derive from it, by words, for every use of chance.
    pub fn seed(&self) -> Seed {
        Seed(self.job.seed)
    }

    /// Cores that the stage may use. The result must not depend on it.
    pub fn threads(&self) -> usize {
        self.job.threads.max(1) as usize
    }

    /// The compute device asked for.
    pub fn device(&self) -> &str {
        &self.job.device
    }

    /// Whether the stage should save what it needs to go on, and return [`StageError::cancelled`].
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// [`StageError::cancelled`] if the stage should stop.
    pub fn check_cancelled(&self) -> Result<(), StageError> {
        if self.is_cancelled() { Err(StageError::cancelled()) } else { Ok(()) }
    }

    /// Says how far the work is. Cheap enough to call in a loop.
    pub fn progress(&self, done: u64, total: Option<u64>, unit: &str) {
        if let Ok(mut last) = self.last_progress.lock() {
            let due = last.is_none_or(|at| at.elapsed() >= REPORT_EVERY) || total == Some(done);
            if !due {
                return;
            }
            *last = Some(Instant::now());
        }
        if self.is_to_be_logged(0, total == Some(done)) {
            let total = total.map(|total| format!(" of {total}")).unwrap_or_default();
            tracing::info!("{done}{total} {unit}");
        }
        self.say(&Report::Progress { done, total, unit: unit.to_owned() });
    }

    /// Reports figures, such as the loss of a step.
    pub fn metrics(&self, metrics: Value) {
        let is_due = self.is_to_be_logged(1, false);
        if is_due {
            tracing::info!("{}", short(&metrics));
        }
        if let Ok(mut unlogged) = self.unlogged.lock() {
            *unlogged = (!is_due).then(|| metrics.clone());
        }
        self.say(&Report::Metrics { metrics });
    }

    /// Logs the last metrics, if they came too soon after others: they say how it ended.
    pub(crate) fn log_last(&self) {
        if let Some(metrics) = self.unlogged.lock().ok().and_then(|mut unlogged| unlogged.take()) {
            tracing::info!("{}", short(&metrics));
        }
    }

    /// A remark that is worth a line on the terminal and in the report.
    pub fn note(&self, text: impl Into<String>) {
        let text = text.into();
        tracing::info!("{text}");
        self.say(&Report::Note { text });
    }

    /// Whether the log has not heard of this for long, or must hear of it.
    fn is_to_be_logged(&self, what: usize, must: bool) -> bool {
        let Ok(mut logged) = self.logged.lock() else { return false };
        let Some(last) = logged.get_mut(what) else { return false };
        let due = must || last.is_none_or(|at| at.elapsed() >= LOG_EVERY);
        if due {
            *last = Some(Instant::now());
        }
        due
    }

    fn say(&self, report: &Report) {
        let Ok(mut line) = serde_json::to_vec(report) else { return };
        line.push(b'\n');
        if let Ok(mut events) = self.events.lock()
            && let Some(file) = events.as_mut()
            && file.write_all(&line).is_err()
        {
            *events = None;
        }
    }
}

/// Metrics as a person reads them: no more digits than an `f32` has.
fn short(metrics: &Value) -> Value {
    match metrics {
        Value::Object(map) => map.iter().map(|(name, value)| (name.clone(), short(value))).collect(),
        Value::Array(values) => values.iter().map(short).collect(),
        Value::Number(number) if number.is_f64() => {
            let digits = number.as_f64().map(|value| (value as f32).to_string());
            let short = digits.and_then(|digits| digits.parse::<f64>().ok()).filter(|value| value.is_finite());
            short.map_or_else(|| metrics.clone(), Value::from)
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_in_the_log_have_no_noise() {
        let metrics = json!({ "lr": 0.000_600_000_000_000_000_1, "step": 20_000_003, "more": [1e300, null, "0.1"] });
        assert_eq!(
            short(&metrics).to_string(),
            json!({ "lr": 0.0006, "step": 20_000_003, "more": [1e300, null, "0.1"] }).to_string()
        );
    }
}
