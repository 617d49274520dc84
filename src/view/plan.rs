//! A plan as a table: verdict, reason, cost.

use std::{collections::BTreeMap, fmt::Write};

use console::Style;
use flow_pipeline::{
    names::StageId,
    plan::{
        Cause, Expected, Reason, Verdict, WrittenPlan, WrittenStage,
        compare::{Comparison, Difference, Which},
    },
};

use super::{
    indented,
    numbers::{bytes, count, duration, hours as shown_hours},
    visible,
};

/// Causes of one stage that are named in its line.
const NAMED: usize = 2;

/// The plan for people.
pub fn text(plan: &WrittenPlan) -> String {
    let (cyan, yellow, red) = (Style::new().cyan(), Style::new().yellow(), Style::new().red());
    let mut rows = Vec::new();
    let takers = takers(plan);
    for stage in &plan.stages {
        let (word, colour, why) = match &stage.verdict {
            Verdict::Cached { artifact, .. } => {
                let hollow =
                    if stage.hollow { ", by its record: its bytes are gone, and nothing needs them" } else { "" };
                let accepted = stage.accepted.as_ref().map(|reason| format!(", accepted: {reason}"));
                ("cached", &cyan, format!("{}{hollow}{}", artifact.short(), accepted.unwrap_or_default()))
            }
            Verdict::Run { reason: Reason::Evicted, .. } => {
                let taker = takers.get(&stage.stage).map(|taker| format!(", and {taker} needs them"));
                ("will run", &yellow, format!("{}{}", Reason::Evicted, taker.unwrap_or_default()))
            }
            Verdict::Run { reason, .. } => ("will run", &yellow, format!("{reason}{}", since(stage, reason))),
            Verdict::Blocked { error } => ("blocked", &red, visible(&error.message).into_owned()),
        };
        let cost = match &stage.verdict {
            Verdict::Cached { .. } => String::new(),
            // What it would cost is the lesser trouble.
            Verdict::Blocked { error } => error.help.clone().unwrap_or_default(),
            Verdict::Run { .. } => cost(stage),
        };
        rows.push((word, colour, stage.stage.to_string(), why, cost));
    }
    let width = rows.iter().map(|row| row.2.chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for (word, colour, id, why, cost) in &rows {
        // Writing to a String cannot fail.
        let why = indented(why, 9 + 1 + width + 2);
        let _ = writeln!(out, "{} {id:width$}  {why}", colour.apply_to(format!("{word:>9}")));
        if !cost.is_empty() {
            let _ = writeln!(out, "{:>9} {:width$}  {cost}", "", "");
        }
    }
    let _ = writeln!(out, "\n{}", summary(plan));
    out
}

/// For each stage the first of those that take it and will run.
fn takers(plan: &WrittenPlan) -> BTreeMap<&StageId, &StageId> {
    let run = plan.stages.iter().filter(|stage| matches!(stage.verdict, Verdict::Run { .. }));
    let mut takers = BTreeMap::new();
    for stage in run {
        for input in stage.inputs.values() {
            takers.entry(input).or_insert(&stage.stage);
        }
    }
    takers
}

/// What a reason goes back to, where it does not say so itself. A stage that never ran needs no history.
fn since(stage: &WrittenStage, reason: &Reason) -> String {
    let is_first = |why: &Reason| matches!(why, Reason::NeverRun | Reason::Unfinished { .. });
    let first = stage.because.iter().any(|cause| cause.stage == stage.stage && is_first(&cause.why));
    if first {
        return String::new();
    }
    let said = |cause: &Cause| cause.stage == stage.stage && !matches!(reason, Reason::Upstream { .. });
    let causes: Vec<&Cause> = stage.because.iter().filter(|cause| !said(cause)).collect();
    let mut text = String::new();
    for (nth, cause) in causes.iter().take(NAMED).enumerate() {
        text += if nth == 0 { ", since " } else { " and " };
        text += &cause_text(cause, stage);
    }
    if causes.len() > NAMED {
        // Writing to a String cannot fail.
        let _ = write!(text, " and {} more", causes.len() - NAMED);
    }
    text
}

/// A cause as a clause.
pub fn cause_text(cause: &Cause, of: &WrittenStage) -> String {
    let stage = if cause.stage == of.stage { "it".to_owned() } else { cause.stage.to_string() };
    match &cause.why {
        Reason::NeverRun => format!("{stage} never ran"),
        Reason::Unfinished { .. } => format!("{stage} was begun and not finished"),
        Reason::Evicted => format!("the bytes of {stage} are no longer in the store"),
        Reason::Unrecorded => format!("the record of {stage} is gone"),
        Reason::Recheck => format!("{stage} is done again to compare"),
        Reason::Changed { .. } | Reason::Upstream { .. } => format!("{stage} has {}", cause.why),
    }
}

/// What would differ from a run, or differs between two, for people. `plans` is what the two are called.
pub fn differences(comparison: &Comparison, plans: [&str; 2]) -> String {
    let mut out = String::new();
    let width = comparison.stages.iter().map(|stage| stage.stage.to_string().chars().count()).max().unwrap_or(0);
    for stage in &comparison.stages {
        let (word, colour, why) = match &stage.how {
            Difference::Added => ("added", Style::new().green(), String::new()),
            Difference::Removed => ("removed", Style::new().red(), String::new()),
            Difference::NotAsked { plan } => {
                let [first, second] = plans;
                let name = if *plan == Which::First { first } else { second };
                ("not asked", Style::new().dim(), format!("{name} was not asked for it"))
            }
            Difference::Changed { changes } => {
                ("changed", Style::new().yellow(), Reason::Changed { changes: changes.clone() }.to_string())
            }
            Difference::Waits { stages } => {
                ("may change", Style::new().yellow(), Reason::Upstream { stages: stages.clone() }.to_string())
            }
        };
        let line = format!("{} {:width$}  {why}", colour.apply_to(format!("{word:>10}")), stage.stage.to_string());
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{}", line.trim_end());
    }
    let counted = |what: fn(&Difference) -> bool| comparison.stages.iter().filter(|stage| what(&stage.how)).count();
    let counts = [
        (counted(|how| matches!(how, Difference::Added)), "added"),
        (counted(|how| matches!(how, Difference::Removed)), "removed"),
        (counted(|how| matches!(how, Difference::NotAsked { .. })), "not asked for"),
        (counted(|how| matches!(how, Difference::Changed { .. })), "changed"),
        (counted(|how| matches!(how, Difference::Waits { .. })), "may change"),
        (comparison.unchanged, "unchanged"),
    ];
    let parts: Vec<String> =
        counts.iter().filter(|(count, _)| *count > 0).map(|(count, word)| format!("{count} {word}")).collect();
    let gap = if comparison.stages.is_empty() { "" } else { "\n" };
    let _ = writeln!(out, "{gap}stages: {}", parts.join(", "));
    out
}

/// Counts and costs, in a line.
pub fn summary(plan: &WrittenPlan) -> String {
    let counted = |what: fn(&Verdict) -> bool| plan.stages.iter().filter(|stage| what(&stage.verdict)).count();
    let cached = counted(|verdict| matches!(verdict, Verdict::Cached { .. }));
    let run = counted(|verdict| matches!(verdict, Verdict::Run { .. }));
    let blocked = counted(|verdict| matches!(verdict, Verdict::Blocked { .. }));
    let mut parts = vec![format!("{cached} cached"), format!("{run} will run")];
    if blocked > 0 {
        parts.push(format!("{blocked} blocked, so that a run does not begin"));
    }
    let open = || plan.stages.iter().filter(|stage| !matches!(stage.verdict, Verdict::Cached { .. }));
    let flops: f64 = open().filter_map(|stage| stage.estimate.flops).sum();
    if flops > 0.0 {
        parts.push(format!("{} FLOPs", count(flops)));
    }
    let hours: f64 = open().filter_map(|stage| stage.estimate.device_hours).sum();
    let accelerator = open().find_map(|stage| stage.estimate.accelerator.clone());
    if let Some(accelerator) = accelerator.filter(|_| hours >= 1.0) {
        parts.push(format!("{} device-hours ({accelerator})", count(hours)));
    }
    parts.join(", ")
}

/// What it would cost, in a line; empty where nothing is known.
pub fn cost(stage: &WrittenStage) -> String {
    let estimate = &stage.estimate;
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
        let devices = stage.devices;
        let each = if devices > 1 { format!(" on each of {devices} devices") } else { String::new() };
        parts.push(format!("{} of memory{each}", bytes(memory / devices)));
    }
    if let (Some(hours), Some(accelerator)) = (estimate.device_hours, &estimate.accelerator)
        && hours >= 0.1
    {
        let wall = duration(hours * 3600.0 / stage.devices as f64);
        parts.push(format!("{} device-hours ({accelerator}; {wall} on {})", shown_hours(hours), stage.devices));
    }
    if let Some(Expected { seconds, run, then }) = &stage.expected {
        parts.push(format!("about {} by the {} of run {run}", duration(*seconds), duration(*then)));
    }
    parts.join(", ")
}
