//! A plan as it is written: what `flow plan --json` prints, and what a run keeps of its plan as `plan.json`. With the
//! artifacts of its events it holds every part of every key of that run.

use std::collections::BTreeMap;

use flow_cache::{ArtifactDigest, StageKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Cause, Plan, Verdict};
use crate::{
    error::StageError,
    key::{KeyParts, Numerics},
    names::StageId,
    stage::Estimate,
};

/// The version of the form.
pub const FORMAT: u32 = 1;

/// Stage → artifact, where there is one.
pub type Artifacts = BTreeMap<StageId, ArtifactDigest>;

/// A plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WrittenPlan {
    /// [`FORMAT`].
    pub format: u32,
    /// The recipe's name.
    pub recipe: String,
    /// The numerics of the device that was asked for.
    pub numerics: Numerics,
    /// Every stage, in an order in which each follows its inputs.
    pub stages: Vec<WrittenStage>,
}

/// A stage of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WrittenStage {
    /// Its name.
    pub stage: StageId,
    /// Its kind.
    pub kind: String,
    /// The kind's version.
    pub kind_version: u32,
    /// What would happen to it.
    pub verdict: Verdict,
    /// Whether it is cached by its record alone: bytes are gone, and nothing needs them.
    #[serde(default)]
    pub hollow: bool,
    /// Where it is cached since a person kept an older artifact for its key: the reason.
    #[serde(default)]
    pub accepted: Option<String>,
    /// Why it would run, or cannot, in words.
    pub reason: Option<String>,
    /// The first changes that this goes back to.
    #[serde(default)]
    pub because: Vec<Cause>,
    /// Role, or `role[label]` → the stage that makes the input.
    pub inputs: BTreeMap<String, StageId>,
    /// Every param with defaults filled in.
    pub params: Value,
    /// The seed that enters its key.
    pub seed: Option<u64>,
    /// Whether the numerics enter its key.
    pub computes: bool,
    /// Sources outside of flow, by content.
    pub sources: Vec<Value>,
    /// Devices that it computes on.
    pub devices: u64,
    /// What it would cost.
    pub estimate: Estimate,
    /// How long it may take, where a run tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<Expected>,
}

/// The time of a stage, by that of an earlier run and the FLOPs of both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Expected {
    /// Seconds that it may take.
    pub seconds: f64,
    /// The run that this is taken from.
    pub run: String,
    /// Seconds that the stage took then.
    pub then: f64,
}

impl WrittenStage {
    /// The parts of its key with the inputs that are known, and the roles of those that are not.
    pub fn known_parts(&self, numerics: &Numerics, artifacts: &Artifacts) -> (KeyParts, Vec<String>) {
        let mut inputs = BTreeMap::new();
        let mut unknown = Vec::new();
        for (role, stage) in &self.inputs {
            match artifacts.get(stage) {
                Some(artifact) => drop(inputs.insert(role.clone(), *artifact)),
                None => unknown.push(role.clone()),
            }
        }
        let parts = KeyParts {
            kind: self.kind.clone(),
            kind_version: self.kind_version,
            params: self.params.clone(),
            seed: self.seed,
            numerics: self.computes.then(|| numerics.clone()),
            inputs,
            sources: self.sources.clone(),
        };
        (parts, unknown)
    }

    /// Its key, where every input was known when the plan was made.
    pub fn key(&self) -> Option<StageKey> {
        match &self.verdict {
            Verdict::Cached { key, .. } => Some(*key),
            Verdict::Run { key, .. } => *key,
            Verdict::Blocked { .. } => None,
        }
    }
}

impl WrittenPlan {
    /// The stages that cannot run, and why.
    pub fn blocked(&self) -> Vec<(StageId, StageError)> {
        let stages = self.stages.iter().filter_map(|stage| match &stage.verdict {
            Verdict::Blocked { error } => Some((stage.stage.clone(), error.clone())),
            _ => None,
        });
        stages.collect()
    }

    /// The written form, without causes (see [`super::cause::explain`]) and acceptances.
    pub fn of(plan: &Plan) -> Self {
        let stages = plan.graph().order().iter().map(|&at| {
            let (stage, verdict) = (&plan.stages()[at], &plan.verdicts[at]);
            let inputs = stage.inputs.iter().map(|input| (input.key_name(), plan.stages()[input.stage].id.clone()));
            let sources = stage.sources.iter().flatten().map(|source| source.identity.clone());
            WrittenStage {
                stage: stage.id.clone(),
                kind: stage.kind.to_owned(),
                kind_version: stage.kind_version,
                verdict: verdict.clone(),
                hollow: plan.hollow.contains(&at),
                accepted: None,
                reason: match verdict {
                    Verdict::Run { reason, .. } => Some(reason.to_string()),
                    Verdict::Blocked { error } => Some(error.message.clone()),
                    Verdict::Cached { .. } => None,
                },
                because: Vec::new(),
                inputs: inputs.collect(),
                params: stage.decoded.params.clone(),
                seed: stage.seed,
                computes: stage.computes,
                sources: sources.collect(),
                devices: u64::from(stage.resources.devices()).max(1),
                estimate: stage.forecast.estimate.clone(),
                expected: None,
            }
        });
        Self {
            format: FORMAT,
            recipe: plan.prepared.recipe.clone(),
            numerics: plan.numerics.clone(),
            stages: stages.collect(),
        }
    }

    /// The stage of this name.
    pub fn stage(&self, id: &StageId) -> Option<&WrittenStage> {
        self.stages.iter().find(|stage| stage.stage == *id)
    }

    /// The artifacts that were on record when the plan was made.
    pub fn artifacts(&self) -> Artifacts {
        let known = self.stages.iter().filter_map(|stage| match stage.verdict {
            Verdict::Cached { artifact, .. } | Verdict::Run { artifact: Some(artifact), .. } => {
                Some((stage.stage.clone(), artifact))
            }
            Verdict::Run { .. } | Verdict::Blocked { .. } => None,
        });
        known.collect()
    }
}
