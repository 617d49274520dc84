//! Everything that can go wrong between a recipe and its report, one variant a cause.

use std::path::PathBuf;

use flow_cache::{ArtifactDigest, Record, StageKey};

use crate::{
    accept::Unfit,
    names::StageId,
    recipe::Diagnostic,
    run::{Capacity, Shortfall},
};

/// What this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a plan could not be made or a run could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The recipe's text is wrong; every complaint has its place.
    #[error("the recipe has {} error(s)", .0.len())]
    Recipe(Vec<Diagnostic>),
    /// The store could not be read or written.
    #[error("use the store")]
    Cache(#[from] flow_cache::Error),
    /// A file of a run could not be read or written; the source names its path.
    #[error("{doing}")]
    Io {
        /// What was being done, as a fragment.
        doing: &'static str,
        /// The operating system's word, with the path.
        #[source]
        source: std::io::Error,
    },
    /// The log of a run could not be written: the run started nothing more and let what ran end.
    #[error("write the log of the run to {}; nothing more was started, what ran came to its end", path.display())]
    EventLog {
        /// The log.
        path: PathBuf,
        /// The operating system's word.
        #[source]
        source: std::io::Error,
    },
    /// A file that flow wrote does not read back.
    #[error("read {}: it is no {what} that this version of flow wrote", path.display())]
    Format {
        /// What the file should have been.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The parser's word.
        #[source]
        source: serde_json::Error,
    },
    /// A machine cannot hold what the plan would run.
    #[error("this machine cannot hold {} of the stages", .shortfalls.len())]
    Capacity {
        /// What does not fit; never empty.
        shortfalls: Vec<Shortfall>,
        /// What there is.
        capacity: Capacity,
        /// Profiles of the recipe that may fit.
        profiles: Vec<String>,
    },
    /// A stage named on the command line is not in the recipe.
    #[error("no stage is named `{name}`")]
    NoSuchStage {
        /// What was asked for.
        name: String,
        /// The most similar stage.
        nearest: Option<String>,
    },
    /// A run id that is not in the store.
    #[error("no run is named `{name}`")]
    NoSuchRun {
        /// What was asked for.
        name: String,
        /// The most similar run.
        nearest: Option<String>,
    },
    /// A run of which this flow cannot read what was written.
    #[error("run {run} is damaged, or was made by another version of flow: {why}")]
    OtherFlow {
        /// The run's id.
        run: String,
        /// Which of its files cannot be read, and why.
        why: String,
    },
    /// A store in which nothing has run.
    #[error("there is no run in {}", runs.display())]
    NoRuns {
        /// The folder of its runs.
        runs: PathBuf,
    },
    /// A job file of another version, or for a kind that this binary does not have.
    #[error("run the job {}: {why}", path.display())]
    Job {
        /// The job file.
        path: PathBuf,
        /// What does not fit.
        why: String,
    },
    /// One key, two artifacts.
    #[error("stage `{stage}` gave {second} where {} was {} for the same key {key}", .first.artifact, on_record(.first))]
    NonDeterministic {
        /// The stage.
        stage: Box<StageId>,
        /// Its key.
        key: StageKey,
        /// What is on record: made, or kept from an older key by a person.
        first: Box<Record>,
        /// What was made now.
        second: ArtifactDigest,
    },
    /// A person's word that a change is harmless cannot be taken.
    #[error("{} of the stages cannot be accepted", .0.len())]
    NotAccepted(Vec<(StageId, Unfit)>),
    /// An input's bytes are damaged or gone; what was damaged has been set aside.
    #[error("read the input {artifact}")]
    InputLost {
        /// The artifact.
        artifact: ArtifactDigest,
        /// What the store says.
        #[source]
        source: Box<flow_cache::Error>,
    },
    /// The record of a stage went away, or was found damaged and set aside, after the stage was taken from the cache.
    #[error("read how stage `{stage}` was made: its record is gone, or was damaged and set aside")]
    RecordLost {
        /// The stage.
        stage: Box<StageId>,
    },
    /// A child process could not be started.
    #[error("start the process of stage `{stage}`")]
    Spawn {
        /// The stage.
        stage: StageId,
        /// The operating system's word.
        #[source]
        source: std::io::Error,
    },
}

fn on_record(record: &Record) -> String {
    let accepted = record.accepted.as_ref().map(|reason| format!("accepted (reason: {reason})"));
    accepted.unwrap_or_else(|| "recorded".to_owned())
}

impl Error {
    /// The error with its causes as a sentence: some texts are fragments, of what was being done.
    pub fn sentence(&self) -> String {
        match self {
            Self::Cache(_)
            | Self::Io { .. }
            | Self::EventLog { .. }
            | Self::Format { .. }
            | Self::Job { .. }
            | Self::InputLost { .. }
            | Self::RecordLost { .. }
            | Self::Spawn { .. } => failed_to(chain(self)),
            Self::Recipe(_)
            | Self::Capacity { .. }
            | Self::NotAccepted(_)
            | Self::NoSuchStage { .. }
            | Self::NoSuchRun { .. }
            | Self::OtherFlow { .. }
            | Self::NoRuns { .. }
            | Self::NonDeterministic { .. } => chain(self),
        }
    }

    /// An I/O failure with what was being done.
    pub fn io(doing: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }
}

/// What a stage says when it cannot do its work: the sentence that a person reads, and what to do.
///
/// It crosses a process boundary, so it is text and no longer the engine's own type.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize, thiserror::Error)]
#[error("{message}")]
#[serde(deny_unknown_fields)]
pub struct StageError {
    /// The error and its causes, outermost first, joined by `: `; a sentence, such as `failed to read …`.
    pub message: String,
    /// What the person can do about it.
    #[serde(default)]
    pub help: Option<String>,
    /// The stage stopped because it was asked to; its scratch folder holds its state.
    #[serde(default)]
    pub cancelled: bool,
    /// The same may go well in a while, such as where a store did not answer: tried again where the recipe has `retries`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub may_pass: bool,
    /// The param that it is about, such as `sources[0]`: what the recipe says there is shown. Not written, since a run has no
    /// recipe's text.
    #[serde(skip)]
    pub param: Option<String>,
}

impl StageError {
    /// An error without advice.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None, cancelled: false, may_pass: false, param: None }
    }

    /// The word of a stage that stopped when it was asked to.
    pub fn cancelled() -> Self {
        Self { cancelled: true, ..Self::new("stopped on request") }
    }

    /// The same error with advice.
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same error as the cause of what was being done.
    #[must_use]
    pub fn within(mut self, doing: &str) -> Self {
        let what = self.message.strip_prefix(FAILED_TO).unwrap_or(&self.message);
        self.message = format!("{FAILED_TO}{doing}: {what}");
        self
    }

    /// The same error as what became of the use of a param.
    #[must_use]
    pub fn of_param(self, param: &str) -> Self {
        Self { param: Some(param.to_owned()), ..self.within(&format!("use `{param}`")) }
    }

    /// The error and all its sources as one sentence: the errors of engines are fragments, of what was being done.
    pub fn from_error(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(failed_to(chain(error)))
    }
}

/// The text of an error with all its causes.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        // Some libraries repeat their source in their own text.
        if !message.contains(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        source = cause.source();
    }
    message
}

/// What was being done as a sentence; some libraries' fragments are sentences already.
fn failed_to(fragment: String) -> String {
    if fragment.starts_with(FAILED_TO) { fragment } else { format!("{FAILED_TO}{fragment}") }
}

const FAILED_TO: &str = "failed to ";
