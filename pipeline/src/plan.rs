//! Recipe → plan: which stages would run, and why.
//!
//! [`prepare`] turns the recipe's stages into typed ones and looks at the sources outside of flow. [`plan`] walks them in
//! order and asks a [`Probe`] what is in the cache. Nothing is written and nothing is started.

pub mod cause;
pub mod compare;
mod inputs;
pub mod prepare;
pub mod probe;
pub mod reason;
pub mod written;

use std::collections::{BTreeMap, BTreeSet};

use flow_cache::{ArtifactDigest, StageKey};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Result, StageError},
    graph::Graph,
    key::{KeyParts, Numerics},
    names::StageId,
    recipe::Resources,
    stage::{Decoded, DefaultCores, External, Forecast},
};
pub use cause::Cause;
pub use inputs::either;
pub use prepare::{Prepared, prepare};
pub use probe::{CacheProbe, Probe};
pub use reason::{Change, Reason};
pub use written::{Artifacts, Expected, WrittenPlan, WrittenStage};

/// One input of a prepared stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedInput {
    /// The role.
    pub role: String,
    /// The label, where the role takes many.
    pub label: Option<String>,
    /// The stage that makes it, as a place in [`Plan::stages`].
    pub stage: usize,
}

impl PlannedInput {
    /// How the key names this input.
    pub fn key_name(&self) -> String {
        match &self.label {
            Some(label) => format!("{}[{label}]", self.role),
            None => self.role.clone(),
        }
    }
}

/// A stage with its types known.
#[derive(Debug, Clone, Serialize)]
pub struct PreparedStage {
    /// Its name.
    pub id: StageId,
    /// Its kind.
    pub kind: &'static str,
    /// The kind's version.
    pub kind_version: u32,
    /// Whether the numerics enter its key.
    pub computes: bool,
    /// The seed that enters its key.
    pub seed: Option<u64>,
    /// Its params and places.
    pub decoded: Decoded,
    /// Its inputs, sorted by role and label.
    pub inputs: Vec<PlannedInput>,
    /// Its sources outside of flow, or why they cannot be read.
    pub sources: std::result::Result<Vec<External>, StageError>,
    /// What it would cost.
    pub forecast: Forecast,
    /// What the recipe says that it needs.
    pub resources: Resources,
    /// Cores where the recipe does not say.
    #[serde(skip)]
    pub default_cores: DefaultCores,
}

impl PreparedStage {
    /// The parts of the key, once every input is known.
    pub fn key_parts(
        &self,
        numerics: &Numerics,
        artifact: impl Fn(usize) -> Option<ArtifactDigest>,
    ) -> Option<KeyParts> {
        let sources = self.sources.as_ref().ok()?;
        let inputs: Option<BTreeMap<String, ArtifactDigest>> =
            self.inputs.iter().map(|input| Some((input.key_name(), artifact(input.stage)?))).collect();
        Some(KeyParts {
            kind: self.kind.to_owned(),
            kind_version: self.kind_version,
            params: self.decoded.params.clone(),
            seed: self.seed,
            numerics: self.computes.then(|| numerics.clone()),
            inputs: inputs?,
            sources: sources.iter().map(|source| source.identity.clone()).collect(),
        })
    }
}

/// What would happen to a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "kebab-case")]
pub enum Verdict {
    /// Its artifact is in the cache.
    Cached {
        /// The key.
        key: StageKey,
        /// The artifact.
        artifact: ArtifactDigest,
    },
    /// It would run.
    Run {
        /// The key, where every input is known by now.
        key: Option<StageKey>,
        /// Why.
        reason: Reason,
        /// The artifact on record, which it will give again: what takes it has a key.
        artifact: Option<ArtifactDigest>,
    },
    /// It cannot run, since a source is not there.
    Blocked {
        /// What is missing.
        error: StageError,
    },
}

/// What a run would do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The prepared stages, in the recipe's order.
    pub prepared: Prepared,
    /// A verdict for each.
    pub verdicts: Vec<Verdict>,
    /// The numerics of the device that was asked for.
    pub numerics: Numerics,
    /// Those of the cached stages of which only the record is there: bytes are gone, and nothing needs them.
    pub hollow: BTreeSet<usize>,
}

impl Plan {
    /// The stages, in the recipe's order.
    pub fn stages(&self) -> &[PreparedStage] {
        &self.prepared.stages
    }

    /// The graph over them.
    pub fn graph(&self) -> &Graph {
        &self.prepared.graph
    }

    /// The artifact of a stage that is in the cache with all its bytes.
    pub fn artifact(&self, at: usize) -> Option<ArtifactDigest> {
        match self.verdicts.get(at)? {
            Verdict::Cached { artifact, .. } if !self.hollow.contains(&at) => Some(*artifact),
            _ => None,
        }
    }

    /// The sources that cannot be read, by stage.
    pub fn blocked(&self) -> Vec<(StageId, StageError)> {
        let stages = self.prepared.stages.iter().zip(&self.verdicts);
        stages
            .filter_map(|(stage, verdict)| match verdict {
                Verdict::Blocked { error } => Some((stage.id.clone(), error.clone())),
                _ => None,
            })
            .collect()
    }
}

/// Says for every stage whether it would run, and why. Stages in `recheck` run even if they are cached.
pub async fn plan(prepared: Prepared, numerics: Numerics, probe: &dyn Probe, recheck: &[StageId]) -> Result<Plan> {
    let mut artifacts: Vec<Option<ArtifactDigest>> = vec![None; prepared.stages.len()];
    let mut verdicts: Vec<Option<Verdict>> = vec![None; prepared.stages.len()];
    for &at in prepared.graph.order() {
        let stage = &prepared.stages[at];
        let verdict = match (&stage.sources, stage.key_parts(&numerics, |input| artifacts[input])) {
            (Err(error), _) => Verdict::Blocked { error: error.clone() },
            (Ok(_), Some(parts)) => {
                let key = parts.key();
                match probe.hit(&key).await? {
                    Some(artifact) if !recheck.contains(&stage.id) => {
                        artifacts[at] = Some(artifact);
                        Verdict::Cached { key, artifact }
                    }
                    Some(artifact) => {
                        artifacts[at] = Some(artifact);
                        Verdict::Run { key: Some(key), reason: Reason::Recheck, artifact: Some(artifact) }
                    }
                    None => {
                        let artifact = probe.recorded(&key).await?;
                        let reason = match artifact {
                            Some(_) => Reason::Evicted,
                            None => reason::of(&parts, &stage.id, probe).await?,
                        };
                        artifacts[at] = artifact;
                        Verdict::Run { key: Some(key), reason, artifact }
                    }
                }
            }
            (Ok(_), None) => {
                let mut seen = BTreeSet::new();
                let waits = stage.inputs.iter().map(|input| input.stage);
                let waits = waits.filter(|&input| artifacts[input].is_none() && seen.insert(input));
                let waits = waits.map(|input| prepared.stages[input].id.clone()).collect();
                Verdict::Run { key: None, reason: Reason::Upstream { stages: waits }, artifact: None }
            }
        };
        verdicts[at] = Some(verdict);
    }
    // Every stage of an acyclic graph is in its order, so none is left without a verdict.
    let mut verdicts: Vec<Verdict> = verdicts.into_iter().flatten().collect();
    let hollow = pass_over(&prepared, &mut verdicts, recheck);
    Ok(Plan { prepared, verdicts, numerics, hollow })
}

/// A stage of which only bytes are gone is made again where somebody wants them: a person who asks for it, or a stage that takes
/// it and runs. Elsewhere its record is enough, and it counts as cached.
fn pass_over(prepared: &Prepared, verdicts: &mut [Verdict], recheck: &[StageId]) -> BTreeSet<usize> {
    let mut hollow = BTreeSet::new();
    // Who takes comes before what is taken.
    for &at in prepared.graph.order().iter().rev() {
        let Verdict::Run { key: Some(key), reason: Reason::Evicted, artifact: Some(artifact) } = verdicts[at] else {
            continue;
        };
        let runs = |next: usize| matches!(verdicts[next], Verdict::Run { .. });
        let asked = prepared.targets.contains(&at) || recheck.contains(&prepared.stages[at].id);
        if !asked && !prepared.graph.dependents(at).any(runs) {
            verdicts[at] = Verdict::Cached { key, artifact };
            hollow.insert(at);
        }
    }
    hollow
}
