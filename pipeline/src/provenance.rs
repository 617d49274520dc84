//! Where every artifact of a plan came from: the records of its stages, in order.

use std::collections::BTreeMap;

use flow_cache::{Cache, Record};
use serde::Serialize;

use crate::{
    error::Result,
    event::state::{Phase, RunState},
    key::KeyParts,
    names::StageId,
    plan::Plan,
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
    /// The parts of its key.
    pub parts: KeyParts,
    /// Whether this run took it from the cache.
    pub cached: bool,
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
            parts,
            cached: known.phase == Phase::Cached,
        });
    }
    Ok(lineage)
}
