//! `flow cache ls`, `du` and `verify`: what there is.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::ExitCode,
};

use flow_cache::{Cache, Pin, Record, StageKey, VerifyReport};
use flow_pipeline::names::nearest;
use serde_json::{Value, json};

use super::super::planning;
use crate::{
    failure::{Ended, Failure},
    view,
};

/// Names that are proposed for one that is not there.
const NEAR: usize = 3;

/// Lists the records, newest first.
pub async fn ls(store: &Path, filter: Option<&str>, json: bool) -> Ended {
    let cache = planning::open_existing(store)?;
    let mut records = cache.local_records().await?;
    if let Some(filter) = filter {
        let nothing = nothing_of(filter, &records);
        records.retain(|record| names(record).contains(&filter));
        if let (true, Some(nothing)) = (records.is_empty(), nothing) {
            return Err(nothing);
        }
    }
    records.sort_by(|a, b| (&b.started, &a.stage).cmp(&(&a.started, &b.stage)));
    let pins = cache.pins().await?;
    let mut rows = Vec::new();
    for record in &records {
        rows.push((record, cache.is_local(&record.artifact).await?, named(&pins, record)));
    }
    if json {
        let value: Vec<Value> = rows
            .iter()
            .map(|(record, here, pinned)| json!({ "record": record, "here": here, "pinned": pinned }))
            .collect();
        view::json::pretty(&value);
    } else if rows.is_empty() {
        view::terminal::remark(&format!("the store in {} is empty: nothing is on record", store.display()));
    } else {
        view::print(&view::cache::records(&rows));
    }
    Ok(ExitCode::SUCCESS)
}

/// What a record may be asked for by: its stage, the stage's base name, its kind.
fn names(record: &Record) -> [&str; 3] {
    [&record.stage, record.stage.split('[').next().unwrap_or_default(), &record.kind]
}

/// The complaint that no record has this name; none in an empty store, where no name is wrong.
fn nothing_of(name: &str, records: &[Record]) -> Option<Failure> {
    let known: BTreeSet<&str> = records.iter().flat_map(names).collect();
    if known.is_empty() {
        return None;
    }
    let near: Vec<String> = nearest(name, known.iter().copied(), NEAR).iter().map(|near| format!("`{near}`")).collect();
    let help = if near.is_empty() {
        let kinds: BTreeSet<&str> = records.iter().map(|record| record.kind.as_str()).collect();
        format!("name a stage, or one of the kinds {}", kinds.into_iter().collect::<Vec<_>>().join(", "))
    } else {
        format!("did you mean {}?", near.join(" or "))
    };
    Some(Failure::usage(format!("no stage or kind on record is named `{name}`"), help))
}

fn named(pins: &[Pin], record: &Record) -> Vec<String> {
    pins.iter().filter(|pin| pin.artifact == record.artifact).map(|pin| pin.name.clone()).collect()
}

/// Measures the store.
pub async fn du(store: &Path, json: bool) -> Ended {
    let cache = planning::open_existing(store)?;
    let (usage, kinds) = (cache.usage().await?, cache.usage_by_kind().await?);
    if json {
        let kinds: BTreeMap<&String, Value> = kinds
            .iter()
            .map(|(kind, u)| (kind, json!({ "records": u.records, "artifacts": u.artifacts, "bytes": u.bytes })))
            .collect();
        view::json::pretty(&json!({
            "kinds": kinds, "blobs": usage.blobs, "blob_bytes": usage.blob_bytes, "artifacts": usage.artifacts,
            "records": usage.records, "work_bytes": usage.work_bytes, "temporary_bytes": usage.stray_bytes,
            "quarantine_bytes": usage.quarantine_bytes,
        }));
    } else {
        view::print(&view::cache::usage(&usage, &kinds));
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads everything again.
pub async fn verify(store: &Path, json: bool) -> Ended {
    let cache = planning::open_existing(store)?;
    let report = cache.verify().await?;
    let damaged = stages(&cache, &report).await?;
    if json {
        view::json::pretty(&json!({
            "sound": report.is_sound(), "blobs": report.blobs, "bytes": report.bytes,
            "corrupt_blobs": report.corrupt, "corrupt_artifacts": report.corrupt_artifacts,
            "corrupt_records": report.corrupt_records, "unreadable": report.unreadable, "newer_records": report.newer_records,
            "incomplete_records": report.incomplete, "temporaries": report.stray, "damaged_stages": damaged,
            "quarantine": cache.quarantine(),
        }));
    } else {
        view::print(&view::cache::verified(&report, &damaged, &cache.quarantine()));
    }
    Ok(if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The names of the stages whose artifacts lost bytes.
async fn stages(cache: &Cache, report: &VerifyReport) -> Result<BTreeMap<StageKey, String>, flow_cache::Error> {
    let records = cache.records_of(&report.damaged).await?;
    Ok(records.into_iter().map(|record| (record.key, record.stage)).collect())
}
