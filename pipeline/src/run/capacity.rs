//! Whether this machine can hold what a plan would run. Asked before anything starts.

use super::schedule::{Capacity, Need};
use crate::{
    error::{Error, Result},
    names::StageId,
    plan::{Plan, PreparedStage, Verdict},
    stage::DefaultCores,
};

/// What a stage takes while it runs: never more cores than there are, but memory and accelerators as they are asked for.
pub fn need(stage: &PreparedStage, capacity: Capacity) -> Need {
    let default = match stage.default_cores {
        DefaultCores::One => 1,
        DefaultCores::All => capacity.cores,
    };
    Need {
        cores: stage.resources.cores.unwrap_or(default).clamp(1, capacity.cores.max(1)),
        memory: stage.resources.memory.map_or(0, |memory| memory.0).max(stage.forecast.estimate.memory.unwrap_or(0)),
        gpus: stage.resources.devices(),
    }
}

/// A stage that this machine cannot hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortfall {
    /// The stage.
    pub stage: StageId,
    /// What it would take.
    pub need: Need,
    /// Machines that it asks for: there is one.
    pub nodes: u32,
}

/// Refuses a plan with a stage that can never fit. Stages that are cached do not count. What a stage on accelerators takes is
/// their memory, not this machine's.
pub fn check(plan: &Plan, capacity: Capacity, profiles: &[String]) -> Result<()> {
    let open =
        plan.stages().iter().zip(&plan.verdicts).filter(|(_, verdict)| !matches!(verdict, Verdict::Cached { .. }));
    let shortfalls: Vec<Shortfall> = open
        .map(|(stage, _)| Shortfall {
            stage: stage.id.clone(),
            need: need(stage, capacity),
            nodes: stage.resources.nodes,
        })
        .filter(|Shortfall { need, nodes, .. }| {
            *nodes > 1 || need.gpus > capacity.gpus || (need.gpus == 0 && need.memory > capacity.memory)
        })
        .collect();
    if shortfalls.is_empty() {
        Ok(())
    } else {
        Err(Error::Capacity { shortfalls, capacity, profiles: profiles.to_vec() })
    }
}
