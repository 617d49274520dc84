//! What happens in a run, as data. Everything that a person sees of a run is a fold of these events.

pub mod log;
pub mod state;

use flow_cache::{ArtifactDigest, StageKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{error::StageError, names::StageId, plan::Reason};

/// One thing that happened. `events.jsonl` holds one [`Stamped`] event a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Event {
    /// A run began.
    RunStarted {
        /// The run's id.
        run: String,
        /// The recipe's name.
        recipe: String,
        /// Every stage, in an order in which each follows its inputs.
        stages: Vec<StageId>,
        /// Cores that stages may use together.
        cores: u32,
    },
    /// A stage's result was in the cache.
    StageCached {
        /// The stage.
        stage: StageId,
        /// Its key.
        key: StageKey,
        /// Its artifact.
        artifact: ArtifactDigest,
    },
    /// Another run is doing this stage; this one waits for its result.
    StageWaiting {
        /// The stage.
        stage: StageId,
        /// Who is doing it.
        holder: String,
    },
    /// A stage's process was started.
    StageStarted {
        /// The stage.
        stage: StageId,
        /// Its key.
        key: StageKey,
        /// Why it runs.
        reason: Reason,
        /// Cores that it may use.
        cores: u32,
    },
    /// A stage's attempt failed in a way that another may not; it is tried again after a pause.
    StageRetrying {
        /// The stage.
        stage: StageId,
        /// The attempt that comes, counted from 1.
        attempt: u32,
        /// Attempts that it has in all.
        of: u32,
        /// Seconds until then.
        wait: f64,
        /// What became of the last attempt.
        error: StageError,
    },
    /// How far a stage is.
    StageProgress {
        /// The stage.
        stage: StageId,
        /// Units done.
        done: u64,
        /// Units in all, where they are known.
        total: Option<u64>,
        /// What is counted, such as `steps`.
        unit: String,
    },
    /// Figures that a stage measured of its own work.
    StageMetrics {
        /// The stage.
        stage: StageId,
        /// Name → number.
        metrics: Value,
    },
    /// A remark of a stage that is worth a line.
    StageNote {
        /// The stage.
        stage: StageId,
        /// The remark.
        text: String,
    },
    /// A stage's artifact is in the store and on record.
    StageFinished {
        /// The stage.
        stage: StageId,
        /// Its key.
        key: StageKey,
        /// Its artifact.
        artifact: ArtifactDigest,
        /// Seconds that its process ran.
        seconds: f64,
        /// Bytes of the artifact.
        bytes: u64,
    },
    /// A stage failed.
    StageFailed {
        /// The stage.
        stage: StageId,
        /// Why.
        error: StageError,
        /// The last lines that it wrote to its log.
        log_tail: Vec<String>,
    },
    /// A stage stopped because the run was interrupted; what it had done is kept.
    StageStopped {
        /// The stage.
        stage: StageId,
    },
    /// A stage was not reached, since one that it needs failed.
    StageSkipped {
        /// The stage.
        stage: StageId,
        /// The stage that failed.
        because: StageId,
    },
    /// The run ended.
    RunFinished {
        /// How.
        outcome: Outcome,
        /// Seconds from start to end.
        seconds: f64,
    },
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Every stage has its artifact.
    Done,
    /// At least one stage failed.
    Failed,
    /// Somebody stopped it.
    Interrupted,
}

/// An event and when it happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stamped {
    /// RFC 3339, UTC.
    pub time: String,
    /// What.
    pub what: Event,
}

/// What a stage's own process may say; the parent adds the stage's name and the time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Report {
    /// See [`Event::StageProgress`].
    Progress {
        /// Units done.
        done: u64,
        /// Units in all.
        total: Option<u64>,
        /// What is counted.
        unit: String,
    },
    /// See [`Event::StageMetrics`].
    Metrics {
        /// Name → number.
        metrics: Value,
    },
    /// See [`Event::StageNote`].
    Note {
        /// The remark.
        text: String,
    },
    /// See [`Event::StageRetrying`]. Said by the run itself, between two processes of the stage.
    Retrying {
        /// The attempt that comes.
        attempt: u32,
        /// Attempts in all.
        of: u32,
        /// Seconds until then.
        wait: f64,
        /// What became of the last one.
        error: StageError,
    },
}

impl Report {
    /// The report as an event of `stage`.
    pub fn of(self, stage: StageId) -> Event {
        match self {
            Self::Progress { done, total, unit } => Event::StageProgress { stage, done, total, unit },
            Self::Metrics { metrics } => Event::StageMetrics { stage, metrics },
            Self::Note { text } => Event::StageNote { stage, text },
            Self::Retrying { attempt, of, wait, error } => Event::StageRetrying { stage, attempt, of, wait, error },
        }
    }
}

/// The time now, as events carry it.
pub fn now() -> String {
    jiff::Timestamp::now().round(jiff::Unit::Millisecond).unwrap_or_else(|_| jiff::Timestamp::now()).to_string()
}
