//! Two plans side by side, such as those of two runs, or of a run and of what would run now.

use std::collections::BTreeSet;

use flow_cache::{ArtifactDigest, StageKey};
use serde::Serialize;

use super::{Change, WrittenPlan, written::Artifacts};
use crate::names::StageId;

/// One of two plans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Which {
    /// The first.
    First,
    /// The second.
    Second,
}

/// One of two plans, with what is to be known of it.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    /// The plan.
    pub plan: &'a WrittenPlan,
    /// The artifacts that its stages have.
    pub artifacts: &'a Artifacts,
    /// The stages of its recipe, also those that nobody asked for.
    pub recipe: &'a BTreeSet<StageId>,
}

/// How a stage of one plan differs from its namesake in the other.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "difference", rename_all = "kebab-case")]
pub enum Difference {
    /// Only the second plan has it.
    Added,
    /// Only the first plan has it.
    Removed,
    /// Both recipes have it, and one of the plans is for other stages and what they need.
    NotAsked {
        /// Which.
        plan: Which,
    },
    /// Parts of its key, or with the same key its artifact.
    Changed {
        /// Which.
        changes: Vec<Change>,
    },
    /// The stage itself is the same; inputs of it are not known yet.
    Waits {
        /// The stages that will make them.
        stages: Vec<StageId>,
    },
}

/// A stage that is not the same in both.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageDifference {
    /// The stage.
    pub stage: StageId,
    /// How it differs.
    pub how: Difference,
    /// Its keys, where they are known.
    pub keys: (Option<StageKey>, Option<StageKey>),
    /// Its artifacts, where there are any.
    pub artifacts: (Option<ArtifactDigest>, Option<ArtifactDigest>),
}

/// What is different between two plans.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// Stages that are the same in both.
    pub unchanged: usize,
    /// The others, in the second plan's order; those that only the first one has come last.
    pub stages: Vec<StageDifference>,
}

/// Compares `new` with `old`.
pub fn compare(old: Side<'_>, new: Side<'_>) -> Comparison {
    let mut found = Comparison { unchanged: 0, stages: Vec::new() };
    let key = |Side { plan, artifacts, .. }: Side<'_>, id: &StageId| {
        let (parts, unknown) = plan.stage(id)?.known_parts(&plan.numerics, artifacts);
        unknown.is_empty().then(|| parts.key())
    };
    let mut tell = |stage: &StageId, how| {
        found.stages.push(StageDifference {
            stage: stage.clone(),
            how,
            keys: (key(old, stage), key(new, stage)),
            artifacts: (old.artifacts.get(stage).copied(), new.artifacts.get(stage).copied()),
        });
    };
    for stage in &new.plan.stages {
        let Some(before) = old.plan.stage(&stage.stage) else {
            let not_asked = Difference::NotAsked { plan: Which::First };
            tell(&stage.stage, if old.recipe.contains(&stage.stage) { not_asked } else { Difference::Added });
            continue;
        };
        let (was, was_unknown) = before.known_parts(&old.plan.numerics, old.artifacts);
        let (is, unknown) = stage.known_parts(&new.plan.numerics, new.artifacts);
        let open: BTreeSet<String> =
            was_unknown.iter().chain(&unknown).map(|role| format!("inputs.{}", role.replace('.', "\\."))).collect();
        let mut changes = is.changes_from(&was);
        // Of an input that one of the two does not know nothing can be said, but for which stage makes it.
        changes.retain(|change| !open.contains(&change.path) && change.path != "inputs");
        let artifacts = (old.artifacts.get(&stage.stage), new.artifacts.get(&stage.stage));
        if let (true, (Some(first), Some(second))) = (changes.is_empty(), artifacts)
            && first != second
        {
            let text = |digest: &ArtifactDigest| Some(digest.to_string());
            changes.push(Change { path: "artifact".into(), old: text(first), new: text(second) });
        }
        if !changes.is_empty() {
            tell(&stage.stage, Difference::Changed { changes });
        } else if unknown.iter().any(|role| !was_unknown.contains(role)) {
            let waits: BTreeSet<&StageId> = unknown.iter().filter_map(|role| stage.inputs.get(role)).collect();
            tell(&stage.stage, Difference::Waits { stages: waits.into_iter().cloned().collect() });
        } else {
            found.unchanged += 1;
        }
    }
    for stage in &old.plan.stages {
        if new.plan.stage(&stage.stage).is_none() {
            let not_asked = Difference::NotAsked { plan: Which::Second };
            tell(&stage.stage, if new.recipe.contains(&stage.stage) { not_asked } else { Difference::Removed });
        }
    }
    found
}
