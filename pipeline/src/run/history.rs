//! The runs of a store: what each was to do, and what came of it.

use std::{collections::BTreeSet, path::Path};

use flow_cache::plain;
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
    names::StageId,
    plan::{Artifacts, Reason, Verdict, WrittenPlan, written},
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
    /// Its events cannot be read: they are damaged, or another version of flow wrote them.
    Unreadable,
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
        // Asked first: what a run that ends meanwhile had to say is in the events.
        let alive = self.is_alive();
        let events = log::read(&self.events()).map_err(|error| match error {
            Error::Format { source, .. } => self.of_another(format!("its events.jsonl cannot be read ({source})")),
            other => other,
        });
        let mut state = RunState::replay(&events?);
        if !alive {
            state.cut_off();
        }
        Ok(state)
    }

    /// What can be told of a run whose events cannot all be read.
    pub fn salvaged(&self) -> Result<RunState> {
        Ok(RunState::replay(&log::salvage(&self.events())?))
    }

    fn of_another(&self, why: String) -> Error {
        Error::OtherFlow { run: self.id().to_owned(), why }
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
        let plan = self.frozen("plan.json")?;
        // The version is judged before the rest is read: of another one nothing is known.
        match plan.get("format").and_then(Value::as_u64) {
            Some(format) if format == u64::from(written::FORMAT) => {}
            Some(format) => {
                let why = format!("its plan.json has format {format}, and this flow reads {}", written::FORMAT);
                return Err(self.of_another(why));
            }
            None => return Err(self.of_another("its plan.json does not say which format it has".to_owned())),
        }
        serde_json::from_value(plan).map_err(|error| self.of_another(format!("its plan.json cannot be read ({error})")))
    }

    /// The resolved recipe that it ran.
    pub fn recipe(&self) -> Result<Value> {
        self.frozen("recipe.json")
    }

    /// The stages of that recipe, also those that the run was not asked for.
    pub fn recipe_stages(&self) -> Result<BTreeSet<StageId>> {
        let recipe = self.recipe()?;
        let names = recipe.get("stages").and_then(Value::as_object).into_iter().flatten();
        Ok(names.filter_map(|(name, _)| name.parse().ok()).collect())
    }

    /// What the run froze when it began.
    fn frozen(&self, name: &str) -> Result<Value> {
        let path = self.path().join(name);
        match read_json(&path, "file of a run") {
            _ if !path.exists() => Err(self.of_another(format!("it has no {name}"))),
            Err(Error::Format { source, .. }) => Err(self.of_another(format!("its {name} cannot be read ({source})"))),
            read => read,
        }
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
                stage.hollow = false;
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
        // One run that cannot be read hides none of the others.
        let (state, readable) = match folder.state() {
            Ok(state) => (state, true),
            Err(_) => (folder.salvaged().unwrap_or_default(), false),
        };
        Ok(RunSummary {
            run: id.clone(),
            recipe: state.recipe.clone(),
            started: state.started.clone(),
            outcome: if readable { folder.standing(&state) } else { Standing::Unreadable },
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
    match plain::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::Io { doing: "read a stage's log", source: error }),
    }
}
