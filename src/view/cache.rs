//! A store for people: what is on record, what takes room, what is damaged, what can go.

use std::{collections::BTreeMap, fmt::Write, path::Path};

use flow_cache::{GcDone, GcPlan, KindUsage, Record, StageKey, Usage, VerifyReport};

use super::{
    numbers::{age, bytes, counted},
    table::{self, row},
};

/// What is kept, in numbers.
pub struct Kept {
    /// Runs whose stages stay.
    pub runs: usize,
    /// The recipes whose stages stay.
    pub recipes: Vec<String>,
    /// Pins.
    pub pins: usize,
    /// Whether what was just touched stays.
    pub grace: bool,
}

/// Lines of one list that are shown.
const SHOWN: usize = 40;

/// Records with whether their bytes are here and how they are pinned.
pub fn records(rows: &[(&Record, bool, Vec<String>)]) -> String {
    let mut table = vec![row(["stage", "kind", "key", "artifact", "size", "age", "pinned"])];
    let any_accepted = rows.iter().any(|(record, _, _)| record.accepted.is_some());
    if any_accepted {
        table[0].push("accepted".to_owned());
    }
    for (record, here, pinned) in rows {
        let size = if *here { bytes(record.bytes) } else { "not here".to_owned() };
        table.push(vec![
            record.stage.clone(),
            record.kind.clone(),
            record.key.short(),
            record.artifact.short(),
            size,
            age(&record.started),
            pinned.join(", "),
        ]);
        if any_accepted && let Some(row) = table.last_mut() {
            row.push(record.accepted.clone().unwrap_or_default());
        }
    }
    table::text(&table, &[4, 5])
}

/// What takes room.
pub fn usage(usage: &Usage, kinds: &BTreeMap<String, KindUsage>) -> String {
    let mut rows = vec![row(["kind", "records", "artifacts", "size"])];
    let mut sorted: Vec<_> = kinds.iter().collect();
    sorted.sort_by_key(|(kind, usage)| (std::cmp::Reverse(usage.bytes), (*kind).clone()));
    for (kind, usage) in sorted {
        rows.push(row([kind, &usage.records.to_string(), &usage.artifacts.to_string(), &bytes(usage.bytes)]));
    }
    let sum = vec![
        row(["blobs", &usage.blobs.to_string(), &bytes(usage.blob_bytes)]),
        row(["work", "", &bytes(usage.work_bytes)]),
        row(["temporaries", "", &bytes(usage.stray_bytes)]),
        row(["quarantine", "", &bytes(usage.quarantine_bytes)]),
    ];
    format!(
        "{}\n{}\nEach blob is there once, however many artifacts have it.\n",
        table::text(&rows, &[1, 2, 3]),
        table::text(&sum, &[1, 2])
    )
}

/// What a verification found, and what to do about it.
pub fn verified(report: &VerifyReport, damaged: &BTreeMap<StageKey, String>, quarantine: &Path) -> String {
    let mut out = format!("read {} in {}\n", bytes(report.bytes), counted(report.blobs as usize, "blob"));
    let damages = [
        (report.corrupt.len(), "blob"),
        (report.corrupt_artifacts.len(), "manifest"),
        (report.corrupt_records.len(), "record"),
    ];
    let parts: Vec<String> =
        damages.iter().filter(|(count, _)| *count > 0).map(|(count, what)| counted(*count, what)).collect();
    // Writing to a String cannot fail.
    let _ = if report.is_sound() {
        writeln!(out, "sound: nothing is damaged")
    } else if parts.is_empty() {
        Ok(())
    } else {
        writeln!(out, "damaged, and set aside in {}: {}", quarantine.display(), parts.join(", "))
    };
    for (path, why) in &report.unreadable {
        let _ = writeln!(out, "cannot be read, and was left there: {} ({why})", path.display());
    }
    if !report.unreadable.is_empty() {
        let _ = writeln!(out, "make readable what these are, or remove them: `flow run RECIPE` makes them again");
    }
    for (key, stage) in damaged {
        let _ = writeln!(out, "  {stage} (key {}) is not complete any more", key.short());
    }
    if !parts.is_empty() {
        let _ = writeln!(out, "`flow run RECIPE` makes again what it needs of it; then the quarantine can be deleted");
    }
    let gone = report.incomplete.len() - report.damaged.len();
    if gone > 0 {
        let _ = writeln!(out, "{}: no bytes here, as after a collection; no damage", counted(gone, "record"));
    }
    if !report.newer_records.is_empty() {
        let _ = writeln!(out, "{} of a newer flow: left alone", counted(report.newer_records.len(), "record"));
    }
    if !report.stray.is_empty() {
        let _ = writeln!(
            out,
            "{}: `flow cache gc` removes those that are old",
            counted(report.stray.len(), "temporary file")
        );
    }
    out
}

/// What a collection would free, or freed.
pub fn collection(plan: &GcPlan, stages: &[Record], kept: &Kept, done: Option<&GcDone>) -> String {
    let rows = vec![
        row(["blobs", &plan.blobs.len().to_string(), &bytes(plan.blobs.values().sum())]),
        row(["manifests", &plan.artifacts.len().to_string(), ""]),
        row(["work dirs", &plan.work.len().to_string(), &bytes(plan.work.values().sum())]),
        row(["temporaries", &plan.stray.len().to_string(), &bytes(plan.stray.values().sum())]),
    ];
    let mut out = table::text(&rows, &[1, 2]);
    if !stages.is_empty() {
        out += "\nArtifacts that go; their records stay, so that what was made of them is still valid:\n";
        let rows: Vec<Vec<String>> = stages
            .iter()
            .take(SHOWN)
            .map(|r| row([&format!("  {}", r.stage), &r.kind, &r.artifact.short(), &bytes(r.bytes), &age(&r.started)]))
            .collect();
        out += &table::text(&rows, &[3, 4]);
        if stages.len() > SHOWN {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "  and {} more; --json has all", stages.len() - SHOWN);
        }
    }
    let recipes = match kept.recipes.as_slice() {
        [] => String::new(),
        [one] => format!(", all of recipe {one}"),
        several => format!(", all of recipes {}", several.join(" and ")),
    };
    let touched = if kept.grace { ", what was just touched" } else { "" };
    let _ =
        writeln!(out, "\nkept: all of {}{recipes}, {}{touched}", counted(kept.runs, "run"), counted(kept.pins, "pin"));
    let _ = match done {
        Some(done) => writeln!(out, "freed {}", bytes(done.bytes)),
        None if plan.bytes == 0 => writeln!(out, "there is nothing to free"),
        None => writeln!(out, "{} would be freed; `--yes` does it", bytes(plan.bytes)),
    };
    out
}
