//! Whether this machine can hold what a plan would run. Asked before anything starts.

use super::schedule::{Capacity, Need};
use crate::{
    error::{Error, Result},
    plan::{Plan, PreparedStage, Verdict},
    stage::DefaultCores,
    units::Bytes,
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

/// Refuses a plan with a stage that can never fit. Stages that are cached do not count.
pub fn check(plan: &Plan, capacity: Capacity, profiles: &[String]) -> Result<()> {
    let mut shortfalls = Vec::new();
    for (stage, verdict) in plan.stages().iter().zip(&plan.verdicts) {
        if matches!(verdict, Verdict::Cached { .. }) {
            continue;
        }
        let need = need(stage, capacity);
        let mut short = Vec::new();
        if need.gpus > capacity.gpus {
            short.push(format!("{} accelerators (there are {})", need.gpus, capacity.gpus));
        }
        if need.memory > capacity.memory {
            short.push(format!("{} of memory (there are {})", Bytes(need.memory), Bytes(capacity.memory)));
        }
        if !short.is_empty() {
            shortfalls.push(format!("{} needs {}", stage.id, short.join(" and ")));
        }
    }
    if shortfalls.is_empty() { Ok(()) } else { Err(Error::Capacity { shortfalls, profiles: profiles.to_vec() }) }
}
