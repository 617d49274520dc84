//! A plan as a table: verdict, reason, cost.

use std::fmt::Write;

use console::Style;
use flow_pipeline::plan::{Plan, PreparedStage, Verdict};
use serde_json::{Value, json};

use super::numbers::{bytes, count, duration, hours as shown_hours};

/// The plan for people.
pub fn text(plan: &Plan) -> String {
    let (cyan, yellow, red) = (Style::new().cyan(), Style::new().yellow(), Style::new().red());
    let mut rows = Vec::new();
    for &at in plan.graph().order() {
        let (stage, verdict) = (&plan.stages()[at], &plan.verdicts[at]);
        let (word, colour, why) = match verdict {
            Verdict::Cached { artifact, .. } => ("cached", &cyan, artifact.short()),
            Verdict::Run { reason, .. } => ("will run", &yellow, reason.to_string()),
            Verdict::Blocked { error } => ("blocked", &red, error.message.clone()),
        };
        let cost = if matches!(verdict, Verdict::Cached { .. }) { String::new() } else { cost(stage) };
        rows.push((word, colour, stage.id.to_string(), why, cost));
    }
    let width = rows.iter().map(|row| row.2.chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for (word, colour, id, why, cost) in &rows {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{} {id:width$}  {why}", colour.apply_to(format!("{word:>9}")));
        if !cost.is_empty() {
            let _ = writeln!(out, "{:>9} {:width$}  {cost}", "", "");
        }
    }
    let _ = writeln!(out, "\n{}", summary(plan));
    out
}

fn summary(plan: &Plan) -> String {
    let counted = |what: fn(&Verdict) -> bool| plan.verdicts.iter().filter(|verdict| what(verdict)).count();
    let cached = counted(|verdict| matches!(verdict, Verdict::Cached { .. }));
    let run = counted(|verdict| matches!(verdict, Verdict::Run { .. }));
    let blocked = counted(|verdict| matches!(verdict, Verdict::Blocked { .. }));
    let mut parts = vec![format!("{cached} cached"), format!("{run} will run")];
    if blocked > 0 {
        parts.push(format!("{blocked} blocked"));
    }
    let open = || {
        plan.stages().iter().zip(&plan.verdicts).filter(|(_, v)| !matches!(v, Verdict::Cached { .. })).map(|(s, _)| s)
    };
    let flops: f64 = open().filter_map(|stage| stage.forecast.estimate.flops).sum();
    if flops > 0.0 {
        parts.push(format!("{} FLOPs", count(flops)));
    }
    let hours: f64 = open().filter_map(|stage| stage.forecast.estimate.device_hours).sum();
    let accelerator = open().find_map(|stage| stage.forecast.estimate.accelerator.clone());
    if let Some(accelerator) = accelerator.filter(|_| hours >= 1.0) {
        parts.push(format!("{} device-hours ({accelerator})", count(hours)));
    }
    parts.join(", ")
}

/// Devices that a stage computes on.
fn devices(stage: &PreparedStage) -> u64 {
    u64::from(stage.resources.devices()).max(1)
}

fn cost(stage: &PreparedStage) -> String {
    let estimate = &stage.forecast.estimate;
    let mut parts = Vec::new();
    if let Some(tokens) = estimate.tokens {
        parts.push(format!("{} tokens", count(tokens as f64)));
    }
    if let Some(parameters) = estimate.parameters {
        let trained = estimate.trained_parameters.filter(|trained| *trained != parameters);
        let trained = trained.map(|n| format!(" ({} trained)", count(n as f64))).unwrap_or_default();
        parts.push(format!("{} parameters{trained}", count(parameters as f64)));
    }
    if let Some(flops) = estimate.flops {
        parts.push(format!("{} FLOPs", count(flops)));
    }
    if let Some(memory) = estimate.memory {
        let devices = devices(stage);
        let each = if devices > 1 { format!(" on each of {devices} devices") } else { String::new() };
        parts.push(format!("{} of memory{each}", bytes(memory / devices)));
    }
    if let (Some(hours), Some(accelerator)) = (estimate.device_hours, &estimate.accelerator)
        && hours >= 0.1
    {
        let wall = duration(hours * 3600.0 / devices(stage) as f64);
        parts.push(format!("{} device-hours ({accelerator}; {wall} on {})", shown_hours(hours), devices(stage)));
    }
    parts.join(", ")
}

/// The plan for programs.
pub fn value(plan: &Plan) -> Value {
    let stages: Vec<Value> = plan
        .graph()
        .order()
        .iter()
        .map(|&at| {
            let stage = &plan.stages()[at];
            json!({
                "stage": stage.id,
                "kind": stage.kind,
                "kind_version": stage.kind_version,
                "verdict": plan.verdicts[at],
                "reason": match &plan.verdicts[at] {
                    Verdict::Run { reason, .. } => Some(reason.to_string()),
                    Verdict::Blocked { error } => Some(error.message.clone()),
                    Verdict::Cached { .. } => None,
                },
                "inputs": stage.inputs.iter().map(|input| (input.key_name(), plan.stages()[input.stage].id.to_string())).collect::<std::collections::BTreeMap<_, _>>(),
                "params": stage.decoded.params,
                "devices": devices(stage),
                "estimate": stage.forecast.estimate,
            })
        })
        .collect();
    json!({ "recipe": plan.prepared.recipe, "numerics": plan.numerics, "stages": stages })
}
