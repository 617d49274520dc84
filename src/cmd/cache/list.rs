//! `flow cache ls`, `du` and `verify`: what there is.

use std::{collections::BTreeMap, path::Path, process::ExitCode};

use flow_cache::{Cache, Pin, Record, StageKey, VerifyReport};
use serde_json::{Value, json};

use super::super::planning;
use crate::{failure::Ended, view};

/// Lists the records, newest first.
pub async fn ls(store: &Path, filter: Option<&str>, json: bool) -> Ended {
    let cache = planning::open_existing(store)?;
    let mut records = cache.local_records().await?;
    let all = records.len();
    if let Some(filter) = filter {
        let base = |stage: &str| stage.split('[').next().unwrap_or_default().to_owned();
        records.retain(|record| record.stage == filter || record.kind == filter || base(&record.stage) == filter);
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
        let message = match filter {
            Some(filter) if all > 0 => format!("none of the {all} records is of `{filter}`; it is a stage or a kind"),
            _ => format!("the store in {} is empty: nothing is on record", store.display()),
        };
        view::terminal::remark(&message);
    } else {
        view::print(&view::cache::records(&rows));
    }
    Ok(ExitCode::SUCCESS)
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
            "corrupt_records": report.corrupt_records, "newer_records": report.newer_records,
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
