//! What a person accepted, and what is left to do.

use std::fmt::Write;

use console::Style;
use flow_pipeline::{
    accept::Proposal,
    plan::{Reason, Verdict, WrittenPlan},
};
use serde_json::{Value, json};

use super::plan;

/// What was accepted, for people.
pub fn text(accepted: &Proposal) -> String {
    let (green, cyan) = (Style::new().green(), Style::new().cyan());
    let ids = accepted.stages.iter().map(|stage| &stage.stage).chain(&accepted.cached);
    let width = ids.map(|id| id.to_string().chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    let mut row = |word, id: &str, why: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{word} {id:width$}  {why}");
    };
    for stage in &accepted.stages {
        let changes = Reason::Changed { changes: stage.changes.clone() };
        let why = format!("{changes}; keeps {}", stage.record.artifact.short());
        row(green.apply_to(format!("{:>9}", "accepted")), &stage.stage.to_string(), &why);
    }
    for id in &accepted.cached {
        row(cyan.apply_to(format!("{:>9}", "cached")), &id.to_string(), "nothing to accept");
    }
    let _ = writeln!(out, "\n{}", plan::summary(&WrittenPlan::of(&accepted.plan)));
    out
}

/// The same for programs.
pub fn value(reason: &str, accepted: &Proposal) -> Value {
    let stages = accepted.stages.iter().map(|stage| {
        json!({
            "stage": stage.stage,
            "key": stage.record.key,
            "artifact": stage.record.artifact,
            "was": stage.was,
            "changes": stage.changes,
            "accepted": stage.record.accepted,
        })
    });
    let counted = |what: fn(&Verdict) -> bool| accepted.plan.verdicts.iter().filter(|verdict| what(verdict)).count();
    json!({
        "reason": reason,
        "accepted": stages.collect::<Vec<_>>(),
        "cached": accepted.cached,
        "plan": {
            "cached": counted(|verdict| matches!(verdict, Verdict::Cached { .. })),
            "run": counted(|verdict| matches!(verdict, Verdict::Run { .. })),
            "blocked": counted(|verdict| matches!(verdict, Verdict::Blocked { .. })),
        },
    })
}
