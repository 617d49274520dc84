//! Where a change began. A reason names what is different in the stage itself or in its inputs; where that is an input, the
//! stage that made it has a reason too, and so on, up to what a person changed.

use std::collections::{BTreeMap, BTreeSet};

use flow_cache::ArtifactDigest;
use serde::{Deserialize, Serialize};

use super::{Change, Probe, Reason, Verdict, WrittenPlan, WrittenStage, written::Artifacts};
use crate::{error::Result, names::StageId};

/// More causes of one stage than anybody reads.
const MANY: usize = 16;
/// A longer way than anybody follows.
const FAR: usize = 32;

/// A first change: what lies behind it is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cause {
    /// The stage that is not what it was.
    pub stage: StageId,
    /// What is different in it.
    pub why: Reason,
    /// The stages between it and the one that was asked about, from it on.
    pub through: Vec<StageId>,
}

/// What is different in a stage itself, and which of its inputs are to be followed, with the artifacts that they were.
#[derive(Default)]
struct Step {
    own: Vec<Reason>,
    follow: Vec<(StageId, Option<ArtifactDigest>)>,
}

impl Step {
    /// Sorts changes into those of the stage itself and those that an input brings.
    fn of(stage: &WrittenStage, changes: &[Change]) -> Self {
        let mut step = Self::default();
        let mut own = Vec::new();
        for change in changes {
            let maker =
                change.path.strip_prefix("inputs.").and_then(|role| stage.inputs.get(&role.replace("\\.", ".")));
            let old = change.old.as_deref().and_then(|text| text.trim_matches('"').parse().ok());
            match (maker, old, &change.new) {
                (Some(maker), Some(old), Some(_)) => step.follow.push((maker.clone(), Some(old))),
                _ => own.push(change.clone()),
            }
        }
        if !own.is_empty() {
            step.own.push(Reason::Changed { changes: own });
        }
        step
    }
}

struct Explainer<'a> {
    plan: &'a WrittenPlan,
    stages: BTreeMap<&'a StageId, &'a WrittenStage>,
    artifacts: &'a Artifacts,
    probe: &'a dyn Probe,
    told: BTreeMap<StageId, Vec<Cause>>,
}

/// The causes of every stage that would run or ran. `artifacts` are those that the plan's stages have by now.
pub async fn explain(
    plan: &WrittenPlan,
    artifacts: &Artifacts,
    probe: &dyn Probe,
) -> Result<BTreeMap<StageId, Vec<Cause>>> {
    let stages = plan.stages.iter().map(|stage| (&stage.stage, stage)).collect();
    let mut explainer = Explainer { plan, stages, artifacts, probe, told: BTreeMap::new() };
    // Inputs come first, so that what a stage waits for has been explained.
    for stage in &plan.stages {
        if let Verdict::Run { reason, .. } = &stage.verdict {
            let step = explainer.why_it_runs(stage, reason).await?;
            let causes = explainer.collect(stage, step).await?;
            explainer.told.insert(stage.stage.clone(), causes);
        }
    }
    Ok(explainer.told)
}

impl Explainer<'_> {
    async fn why_it_runs(&self, stage: &WrittenStage, reason: &Reason) -> Result<Step> {
        Ok(match reason {
            Reason::NeverRun | Reason::Unfinished { .. } | Reason::Evicted | Reason::Unrecorded | Reason::Recheck => {
                Step { own: vec![reason.clone()], follow: Vec::new() }
            }
            Reason::Changed { changes } => Step::of(stage, changes),
            Reason::Upstream { stages } => {
                let Some(last) = self.probe.last(&stage.stage).await? else {
                    let gone = self.probe.has_ended(&stage.stage).await?;
                    let why = if gone { Reason::Unrecorded } else { Reason::NeverRun };
                    return Ok(Step { own: vec![why], follow: Vec::new() });
                };
                let (parts, unknown) = stage.known_parts(&self.plan.numerics, self.artifacts);
                let open: BTreeSet<String> = unknown.iter().map(|role| input_path(role)).collect();
                let mut changes = parts.changes_from(&last);
                // An input that is not known yet did not go.
                changes.retain(|change| !open.contains(&change.path) && change.path != "inputs");
                let mut step = Step::of(stage, &changes);
                step.follow.extend(stages.iter().map(|stage| (stage.clone(), None)));
                step
            }
        })
    }

    /// How a stage that is in the cache differs from the one that made `old`.
    async fn why_it_differs(&self, stage: &WrittenStage, old: ArtifactDigest) -> Result<Step> {
        let before = self.probe.made(&old, &stage.stage).await?;
        let (now, _) = stage.known_parts(&self.plan.numerics, self.artifacts);
        let changes = before.map(|before| now.changes_from(&before)).unwrap_or_default();
        if !changes.is_empty() {
            return Ok(Step::of(stage, &changes));
        }
        let new = self.artifacts.get(&stage.stage).map(ToString::to_string);
        let artifact = Change { path: "artifact".into(), old: Some(old.to_string()), new };
        Ok(Step { own: vec![Reason::Changed { changes: vec![artifact] }], follow: Vec::new() })
    }

    /// Follows a step to its ends. What runs has been told before; what is cached with another artifact is followed on, as far
    /// as [`FAR`]. A loop and no recursion, as a chain may be long.
    async fn collect(&self, asked: &WrittenStage, step: Step) -> Result<Vec<Cause>> {
        let mut causes: Vec<Cause> = Vec::new();
        let mut seen = BTreeSet::new();
        let mut open = vec![(asked, step, Vec::<StageId>::new())];
        while let Some((stage, step, through)) = open.pop() {
            for why in step.own {
                add(&mut causes, Cause { stage: stage.stage.clone(), why, through: through.clone() });
            }
            let mut way = through.clone();
            if stage.stage != asked.stage {
                way.insert(0, stage.stage.clone());
            }
            for (input, old) in step.follow {
                let Some(input) = self.stages.get(&input).copied() else { continue };
                if causes.len() >= MANY || way.len() >= FAR || !seen.insert(&input.stage) {
                    continue;
                }
                match (&input.verdict, old) {
                    // What is on record is known by its digest: that its bytes are gone changed nothing.
                    (Verdict::Cached { .. } | Verdict::Run { artifact: Some(_), .. }, Some(old)) => {
                        open.push((input, self.why_it_differs(input, old).await?, way.clone()));
                    }
                    (Verdict::Run { .. }, _) => {
                        for cause in self.told.get(&input.stage).into_iter().flatten() {
                            let mut through = cause.through.clone();
                            if cause.stage != input.stage {
                                through.push(input.stage.clone());
                            }
                            through.extend(way.iter().cloned());
                            through.truncate(FAR);
                            add(&mut causes, Cause { through, ..cause.clone() });
                        }
                    }
                    (Verdict::Cached { .. } | Verdict::Blocked { .. }, _) => {}
                }
            }
        }
        causes.sort_by_key(|cause| (cause.through.len(), cause.stage.clone()));
        Ok(causes)
    }
}

/// Each cause once, by the shortest way to it.
fn add(causes: &mut Vec<Cause>, cause: Cause) {
    let room = causes.len() < MANY;
    match causes.iter_mut().find(|known| known.stage == cause.stage && known.why == cause.why) {
        Some(known) if known.through.len() > cause.through.len() => *known = cause,
        None if room => causes.push(cause),
        _ => {}
    }
}

/// The path that an input has among the lines of a key.
fn input_path(role: &str) -> String {
    format!("inputs.{}", role.replace('.', "\\."))
}
