//! The runs of a store: what each was to do, and what came of it.

use std::path::Path;

use fs_err as fs;
use serde::Serialize;
use serde_json::Value;

use super::folder::{RunFolder, list};
use crate::{
    error::{Error, Result},
    event::{
        Outcome, log,
        state::{Phase, RunState},
    },
    job::read_json,
    plan::{Artifacts, Reason, Verdict, WrittenPlan},
};

/// How a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// Its process lives.
    Running,
    /// Every stage has its artifact.
    Done,
    /// At least one stage failed.
    Failed,
    /// Somebody stopped it.
    Interrupted,
    /// Its process is gone and never said how it ended.
    CutOff,
}

/// A run in a line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunSummary {
    /// Its id.
    pub run: String,
    /// The recipe's name.
    pub recipe: String,
    /// When it began, RFC 3339.
    pub started: Option<String>,
    /// How it stands.
    pub outcome: Standing,
    /// Stages in all.
    pub stages: usize,
    /// Stages that it made.
    pub finished: usize,
    /// Stages that it found in the cache.
    pub cached: usize,
    /// Stages that failed.
    pub failed: usize,
    /// Seconds from start to end, once it ended.
    pub seconds: Option<f64>,
}

impl RunFolder {
    /// What happened so far.
    pub fn state(&self) -> Result<RunState> {
        Ok(RunState::replay(&log::read(&self.events())?))
    }

    /// How it stands, given what happened so far.
    pub fn standing(&self, state: &RunState) -> Standing {
        match state.outcome {
            Some(Outcome::Done) => Standing::Done,
            Some(Outcome::Failed) => Standing::Failed,
            Some(Outcome::Interrupted) => Standing::Interrupted,
            None if self.is_alive() => Standing::Running,
            None => Standing::CutOff,
        }
    }

    /// The plan that it began with.
    pub fn plan(&self) -> Result<WrittenPlan> {
        read_json(&self.path().join("plan.json"), "plan")
    }

    /// The resolved recipe that it ran.
    pub fn recipe(&self) -> Result<Value> {
        read_json(&self.path().join("recipe.json"), "resolved recipe")
    }
}

/// The stages' artifacts in a run.
pub fn artifacts(state: &RunState) -> Artifacts {
    state.stages.iter().filter_map(|(id, stage)| Some((id.clone(), stage.artifact?))).collect()
}

/// The plan as it turned out: what the run found in the cache, and why it made the rest.
pub fn settled(mut plan: WrittenPlan, state: &RunState) -> WrittenPlan {
    for stage in &mut plan.stages {
        let Some(known) = state.stages.get(&stage.stage) else { continue };
        match (known.phase, known.key, known.artifact, &known.reason) {
            (Phase::Cached, Some(key), Some(artifact), _) => stage.verdict = Verdict::Cached { key, artifact },
            (_, key, _, Some(reason)) => {
                let again = matches!(reason, Reason::Evicted | Reason::Recheck);
                let artifact = known.artifact.filter(|_| again);
                stage.verdict = Verdict::Run { key, reason: reason.clone(), artifact };
                stage.reason = Some(reason.to_string());
            }
            _ => {}
        }
    }
    plan
}

/// All runs, newest first.
pub fn summaries(runs: &Path) -> Result<Vec<RunSummary>> {
    let ids = list(runs)?;
    let summary = |id: &String| {
        let folder = RunFolder::open(runs, Some(id))?;
        let state = folder.state()?;
        Ok(RunSummary {
            run: id.clone(),
            recipe: state.recipe.clone(),
            started: state.started.clone(),
            outcome: folder.standing(&state),
            stages: state.stages.len(),
            finished: state.count(Phase::Finished),
            cached: state.count(Phase::Cached),
            failed: state.count(Phase::Failed),
            seconds: state.seconds,
        })
    };
    ids.iter().rev().map(summary).collect()
}

/// A stage's log in the run's own folder; nothing where it did not start there.
pub fn read_log(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::Io { doing: "read a stage's log", source: error }),
    }
}
