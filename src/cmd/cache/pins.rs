//! `flow cache pin` and `unpin`: what stays because a person said so.

use std::{path::Path, process::ExitCode};

use flow_cache::{Cache, Pin, Record};
use flow_pipeline::{Error, event, run::RunFolder};

use super::super::planning;
use crate::{
    cli::StoreArgs,
    failure::{Ended, Failure},
    view,
};

/// So few digits of a digest could be a word.
const DIGITS: usize = 6;

/// Pins an artifact.
pub async fn pin(store: &Path, target: &str, name: Option<&str>, run: Option<&str>, json: bool) -> Ended {
    let cache = planning::open_existing(store)?;
    let records = find(&cache, store, target, run).await?;
    // What is pinned is the artifact, which all of them have.
    let Some(record) = records.first() else { return Err(none(target)) };
    let name = name.unwrap_or(target).to_owned();
    if name.is_empty() {
        return Err(Failure::usage("a pin needs a name", None));
    }
    let pin = Pin { name, artifact: record.artifact, key: Some(record.key), since: event::now() };
    let old = cache.pin(&pin).await?;
    if json {
        view::json::pretty(&pin);
    } else {
        let moved = old.filter(|old| old.artifact != pin.artifact);
        let moved = moved.map(|old| format!("; it was {} before", old.artifact.short())).unwrap_or_default();
        view::terminal::remark(&format!("{} keeps {} of {}{moved}", pin.name, pin.artifact.short(), record.stage));
    }
    Ok(ExitCode::SUCCESS)
}

/// The records that a person means, never none: that of a stage of a run, or those of which the key or the artifact begins with
/// these digits. Several are of one artifact.
async fn find(cache: &Cache, store: &Path, target: &str, run: Option<&str>) -> Result<Vec<Record>, Failure> {
    let digits = target.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let hex = digits && target.len() >= DIGITS;
    if hex && run.is_none() {
        let mut records = cache.local_records().await?;
        records.retain(|r| r.key.to_string().starts_with(target) || r.artifact.to_string().starts_with(target));
        records.sort_by_key(|record| (record.artifact, record.key));
        if records.iter().any(|record| Some(record.artifact) != records.first().map(|first| first.artifact)) {
            let message = format!("`{target}` begins the keys or artifacts of {} records", records.len());
            return Err(Failure::usage(message, Some("give more digits; `flow cache ls` shows twelve".to_owned())));
        }
        if !records.is_empty() {
            return Ok(records);
        }
    }
    let folder = match RunFolder::open(&planning::runs(store), run) {
        Err(Error::NoRuns { .. }) if hex => return Err(none(target)),
        opened => opened?,
    };
    let state = folder.state()?;
    let id = match planning::choose(state.order.iter(), target) {
        Err(_) if hex => return Err(none(target)),
        Err(_) if digits && !target.is_empty() => {
            let message = format!("no stage is named `{target}`, and for a key or an artifact it has too few digits");
            return Err(Failure::usage(
                message,
                format!("give at least {DIGITS} digits; `flow cache ls` shows twelve"),
            ));
        }
        chosen => chosen?,
    };
    let missing = || {
        let message = format!("{id} has no artifact in run {}", folder.id());
        Failure::usage(message, Some("`flow cache ls` lists what is on record".to_owned()))
    };
    let key = state.stages.get(&id).and_then(|stage| stage.key).ok_or_else(missing)?;
    Ok(vec![cache.record(&key).await?.ok_or_else(missing)?])
}

fn none(target: &str) -> Failure {
    Failure::usage(
        format!("no key or artifact begins with `{target}`"),
        Some("`flow cache ls` lists what is on record".to_owned()),
    )
}

/// Takes records away, here and in the store behind this one: a damaged artifact is that of all that were made to it.
pub async fn forget(store: &StoreArgs, target: &str, run: Option<&str>, json: bool) -> Ended {
    // What only looks makes no store.
    drop(planning::open_existing(&store.store)?);
    let cache = planning::open(store).await?;
    let records = find(&cache, &store.store, target, run).await?;
    let pins = cache.pins().await?;
    for record in &records {
        if let Some(pin) = pins.iter().find(|pin| pin.key == Some(record.key)) {
            let message = format!("{} is pinned as `{}`", record.stage, pin.name);
            return Err(Failure::usage(message, Some(format!("`flow cache unpin {}` comes first", pin.name))));
        }
    }
    for record in &records {
        cache.forget(&record.key).await?;
    }
    if json {
        view::json::pretty(&serde_json::json!({ "forgotten": records }));
    } else {
        for record in &records {
            let (stage, key) = (&record.stage, record.key.short());
            view::terminal::remark(&format!(
                "{stage} (key {key}) is on record no more; its bytes stay until `flow cache gc`"
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Takes a pin away.
pub async fn unpin(store: &Path, name: &str, json: bool) -> Ended {
    let cache = planning::open_existing(store)?;
    if !cache.unpin(name).await? {
        let names: Vec<String> = cache.pins().await?.into_iter().map(|pin| pin.name).collect();
        let help =
            if names.is_empty() { "nothing is pinned".into() } else { format!("pinned are {}", names.join(", ")) };
        return Err(Failure::usage(format!("nothing is pinned as `{name}`"), Some(help)));
    }
    if json {
        view::json::pretty(&serde_json::json!({ "unpinned": name }));
    } else {
        view::terminal::remark(&format!("{name} is pinned no more"));
    }
    Ok(ExitCode::SUCCESS)
}
