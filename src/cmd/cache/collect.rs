//! `flow cache gc`: what nothing needs any more.

use std::{collections::BTreeSet, process::ExitCode, time::SystemTime};

use flow_cache::{Cache, Keep, StageKey};
use flow_pipeline::{
    Error, chain,
    event::state::RunState,
    plan::{Artifacts, WrittenPlan, WrittenStage},
    run::{RunFolder, Standing, folder},
};
use serde_json::json;

use super::super::planning;
use crate::{
    cli::GcArgs,
    failure::{Ended, Failure},
    view::{self, cache::Kept},
};

/// Says what would be freed, and with `--yes` frees it.
pub async fn gc(args: &GcArgs, json: bool) -> Ended {
    let cache = planning::open_existing(&args.folder.store)?;
    let (mut keys, runs) = of_runs(args)?;
    let mut recipes = Vec::new();
    for recipe in args.recipes() {
        let plan = planning::planned(&planning::load(&recipe)?, &[], &cache, &args.device).await?;
        keys.extend(reached(&plan, &cache).await?);
        recipes.push(plan.recipe);
    }
    let kept = Kept { runs, recipes, pins: cache.pins().await?.len(), grace: args.grace.0 > 0 };
    let keep = Keep { grace: args.grace.as_std(), ..Keep::keys(keys, SystemTime::now()) };
    let plan = cache.plan_gc(&keep).await?;
    let mut hollowed = cache.records_of(&plan.hollowed).await?;
    hollowed.sort_by(|a, b| (&a.stage, a.key).cmp(&(&b.stage, b.key)));
    let done = if args.yes { Some(cache.apply_gc(&plan).await?) } else { None };
    if json {
        let stages: Vec<_> = hollowed
            .iter()
            .map(
                |r| json!({ "stage": r.stage, "kind": r.kind, "key": r.key, "artifact": r.artifact, "bytes": r.bytes }),
            )
            .collect();
        view::json::pretty(&json!({
            "bytes": plan.bytes, "artifacts": plan.artifacts, "blobs": plan.blobs.len(),
            "blob_bytes": plan.blobs.values().sum::<u64>(), "work": plan.work.len(),
            "work_bytes": plan.work.values().sum::<u64>(), "temporaries": plan.stray.len(),
            "temporary_bytes": plan.stray.values().sum::<u64>(), "stages": stages,
            "kept": { "runs": kept.runs, "recipes": kept.recipes, "pins": kept.pins },
            "freed": done.map(|done| json!({ "artifacts": done.artifacts, "blobs": done.blobs, "bytes": done.bytes })),
        }));
    } else {
        view::print(&view::cache::collection(&plan, &hollowed, &kept, done.as_ref()));
    }
    Ok(ExitCode::SUCCESS)
}

/// The keys of a plan's stages. Bytes of a middle artifact may have gone before: its record still has the digest, and what was
/// made of it is found by that.
async fn reached(plan: &WrittenPlan, cache: &Cache) -> Result<BTreeSet<StageKey>, Failure> {
    let (mut keys, mut artifacts) = (BTreeSet::new(), Artifacts::new());
    for stage in &plan.stages {
        let (parts, unknown) = stage.known_parts(&plan.numerics, &artifacts);
        if unknown.is_empty() {
            let key = parts.key();
            keys.insert(key);
            artifacts.extend(cache.record(&key).await?.map(|record| (stage.stage.clone(), record.artifact)));
        }
    }
    Ok(keys)
}

/// What is left of a run that cannot be read: its other lines and its plan still say what it needs. Where nothing is left, it
/// may need anything, and nothing is freed behind its back.
fn salvaged(folder: &RunFolder, error: &Error) -> Result<RunState, Failure> {
    let state = folder.salvaged().unwrap_or_default();
    let delete = format!("delete {} if you no longer want it", folder.path().display());
    if state.stages.is_empty() && folder.plan().is_err() {
        return Err(Failure::usage(
            chain(error),
            format!("what it needs cannot be told: {delete}, or lower `--keep-runs`"),
        ));
    }
    view::terminal::warning(&format!("{}; kept is what the rest of it names: {delete}", chain(error)));
    Ok(state)
}

/// The keys that the last runs reach, and all runs that go on, and how many runs these are.
fn of_runs(args: &GcArgs) -> Result<(BTreeSet<StageKey>, usize), Failure> {
    let runs = planning::runs(&args.folder.store);
    let (mut keys, mut count) = (BTreeSet::new(), 0);
    for (nth, id) in folder::list(&runs)?.iter().rev().enumerate() {
        let folder = RunFolder::open(&runs, Some(id))?;
        if nth >= args.keep_runs && !folder.is_alive() {
            continue;
        }
        let state = match folder.state() {
            Ok(state) => state,
            Err(error) => salvaged(&folder, &error)?,
        };
        if nth >= args.keep_runs && folder.standing(&state) != Standing::Running {
            continue;
        }
        count += 1;
        keys.extend(state.stages.values().filter_map(|stage| stage.key));
        // What it will find in the cache, but has not come to yet. A run of an older flow has no such plan.
        if let Ok(plan) = folder.plan() {
            keys.extend(plan.stages.iter().filter_map(WrittenStage::key));
        }
    }
    Ok((keys, count))
}
