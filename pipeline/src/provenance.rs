//! Where every artifact of a plan came from: the records of its stages, in order.

use std::collections::BTreeMap;

use flow_cache::{Cache, Record};
use serde::Serialize;
use serde_json::Value;

use crate::{
    error::Result,
    event::state::{Phase, RunState},
    key::{self, KeyParts},
    names::StageId,
    plan::Plan,
    stage::External,
};

/// One stage of a lineage.
#[derive(Debug, Clone, Serialize)]
pub struct LineageStage {
    /// The stage.
    pub stage: StageId,
    /// How its artifact was made.
    pub record: Record,
    /// Role (with label) → stage that made the input.
    pub inputs: BTreeMap<String, StageId>,
    /// What it read from outside of flow.
    pub sources: Vec<LineageSource>,
    /// The parts of its key.
    pub parts: KeyParts,
    /// Whether this run took it from the cache.
    pub cached: bool,
}

/// A source outside of flow that a stage read.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LineageSource {
    /// Where it is, in the recipe's own words.
    pub place: String,
    /// What it is: part of the key.
    pub identity: Value,
}

impl LineageSource {
    fn of(source: &External) -> Self {
        let External { identity, handle: _, place } = source;
        Self { place: place.clone(), identity: identity.clone() }
    }

    /// The digests in the identity, each with its name there, such as `digest` or `model.tensors[0]`.
    pub fn digests(&self) -> impl Iterator<Item = (String, String)> {
        key::lines(&self.identity).into_iter().filter_map(|(name, text)| {
            let digest = text.trim_matches('"');
            let is_digest = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
            is_digest.then(|| (name, digest.to_owned()))
        })
    }
}

/// The lineage of all stages that have an artifact.
pub async fn lineage(plan: &Plan, cache: &Cache, state: &RunState) -> Result<Vec<LineageStage>> {
    let mut artifacts = vec![None; plan.stages().len()];
    let mut lineage = Vec::new();
    for &at in plan.graph().order() {
        let stage = &plan.stages()[at];
        let Some(known) = state.stages.get(&stage.id) else { continue };
        let Some(key) = known.key else { continue };
        artifacts[at] = known.artifact;
        let Some(parts) = stage.key_parts(&plan.numerics, |input| artifacts[input]) else { continue };
        let Some(record) = cache.record(&key).await? else { continue };
        let inputs =
            stage.inputs.iter().map(|input| (input.key_name(), plan.stages()[input.stage].id.clone())).collect();
        lineage.push(LineageStage {
            stage: stage.id.clone(),
            record,
            inputs,
            sources: stage.sources.iter().flatten().map(LineageSource::of).collect(),
            parts,
            cached: known.phase == Phase::Cached,
        });
    }
    Ok(lineage)
}
