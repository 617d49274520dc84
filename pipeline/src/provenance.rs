//! Where every artifact of a plan came from: the records of its stages, in order.

use std::collections::BTreeMap;

use flow_cache::{Cache, Record};
use serde::Serialize;
use serde_json::Value;

use crate::{
    error::{Error, Result},
    event::state::{Phase, RunState},
    key::{self, Change, KeyParts},
    names::StageId,
    plan::{Plan, PreparedStage},
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
    /// What its artifact was made of that lies outside of flow.
    pub sources: Vec<LineageSource>,
    /// What its artifact was made of: the parts of its key or, where a person kept an artifact, of the key that it was made for.
    pub parts: KeyParts,
    /// What a person said makes no difference: from those parts to the key's.
    pub accepted: Vec<Change>,
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
    /// The sources of these identities. What is not among the sources of the stage as it is now lay at a place that nobody knows any
    /// more.
    fn of(identities: &[Value], stage: &PreparedStage) -> Vec<Self> {
        let mut open: Vec<&External> = stage.sources.iter().flatten().collect();
        let source = |identity: &Value| {
            let known = open.iter().position(|source| source.identity == *identity).map(|at| open.remove(at));
            let place = known.map_or_else(|| "as it was before".to_owned(), |source| source.place.clone());
            Self { place, identity: identity.clone() }
        };
        identities.iter().map(source).collect()
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
///
/// # Errors
/// [`Error::RecordLost`]: a lineage with a gap is none.
pub async fn lineage(plan: &Plan, cache: &Cache, state: &RunState) -> Result<Vec<LineageStage>> {
    let mut artifacts = vec![None; plan.stages().len()];
    let mut lineage = Vec::new();
    for &at in plan.graph().order() {
        let stage = &plan.stages()[at];
        let Some(known) = state.stages.get(&stage.id) else { continue };
        let Some(key) = known.key else { continue };
        artifacts[at] = known.artifact;
        let Some(parts) = stage.key_parts(&plan.numerics, |input| artifacts[input]) else { continue };
        let Some(record) = cache.record(&key).await? else {
            return Err(Error::RecordLost { stage: Box::new(stage.id.clone()) });
        };
        let (made, accepted) = match record.made_for.as_ref().map(|made| serde_json::from_value(made.parts.clone())) {
            Some(Ok(made)) => {
                let changes = parts.changes_from(&made);
                (made, changes)
            }
            _ => (parts, Vec::new()),
        };
        let inputs =
            stage.inputs.iter().map(|input| (input.key_name(), plan.stages()[input.stage].id.clone())).collect();
        lineage.push(LineageStage {
            stage: stage.id.clone(),
            record,
            inputs,
            sources: LineageSource::of(&made.sources, stage),
            parts: made,
            accepted,
            cached: known.phase == Phase::Cached,
        });
    }
    Ok(lineage)
}
