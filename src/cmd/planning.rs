//! What `run`, `plan`, `graph` and `report` have in common: recipe, store and plan.

use std::path::{Path, PathBuf};

use flow_cache::{Cache, HashMemo, Location, Patience};
use flow_pipeline::{
    key::Numerics,
    names::StageId,
    plan::{self, Artifacts, CacheProbe, Plan, Prepared, Verdict, WrittenPlan, cause, prepare::Surroundings},
    recipe::{self, LoadOptions, Recipe},
    registry::Registry,
    run::{Asked, RunFolder, Unchanged},
};

use crate::{
    cli::{DeviceArgs, RecipeArgs, StoreArgs},
    failure::Failure,
};

/// Reads a recipe with all that is laid over it.
pub fn load(args: &RecipeArgs) -> Result<Recipe, Failure> {
    recipe::load(&args.recipe, &options(args)).map_err(|invalid| Failure::Recipe(invalid.diagnostics, invalid.sources))
}

/// What is laid over a recipe.
pub fn options(args: &RecipeArgs) -> LoadOptions {
    LoadOptions { profiles: args.profile.clone(), set: args.set.clone() }
}

/// Opens the store and the one behind it.
pub async fn open(args: &StoreArgs) -> Result<Cache, Failure> {
    let remote = args.remote.as_deref().map(str::parse::<Location>).transpose()?;
    let patience =
        Patience { timeout: args.remote_timeout.as_std(), attempts: args.remote_attempts, ..Patience::default() };
    Ok(Cache::open_with(&args.store, remote.as_ref(), patience).await?)
}

/// Types the recipe's stages and looks at their sources.
pub fn prepare(recipe: &Recipe, registry: &Registry, cache: &Cache, targets: &[String]) -> Result<Prepared, Failure> {
    let targets = stage_ids(targets)?;
    let prepared = look(cache, |surroundings| plan::prepare(recipe, registry, surroundings, &targets));
    prepared.map_err(|error| match error {
        flow_pipeline::Error::Recipe(diagnostics) => Failure::Recipe(diagnostics, recipe.sources.clone()),
        other => Failure::Pipeline(other),
    })
}

/// What is remembered of a command that had nothing to do.
pub fn recall(asked: &Asked<'_>, cache: &Cache) -> Option<Unchanged> {
    let numerics = |device: &str| numerics(device).ok();
    look(cache, |surroundings| Unchanged::recall(asked, cache, &flow_stages::registry(), surroundings, &numerics))
}

/// Looks at sources. Those on object stores are listed and hashed by a runtime of their own, which must not start inside of this
/// one.
fn look<T>(cache: &Cache, then: impl FnOnce(&Surroundings<'_>) -> T) -> T {
    let memo = cache.hash_memo();
    let hash = |path: &Path| memo.digest(path).map(|digest| digest.to_string());
    let folder = cache.root().join("memo");
    let found = tokio::task::block_in_place(|| then(&Surroundings { memo: &folder, hash: &hash }));
    save(&memo);
    found
}

/// What was hashed is remembered; a memo that cannot be written costs time and nothing else.
fn save(memo: &HashMemo) {
    if let Err(error) = memo.save() {
        tracing::warn!("the memo of file digests was not saved: {error}");
    }
}

/// A plan against this store.
pub async fn plan(prepared: Prepared, cache: &Cache, device: &str, recheck: &[String]) -> Result<Plan, Failure> {
    let numerics = numerics(device)?;
    let recheck = stage_ids(recheck)?;
    let recipe = prepared.recipe.clone();
    // Ten thousand records are looked for one by one, and nothing else goes on meanwhile.
    Ok(flow_cache::in_place(plan::plan(prepared, numerics, &CacheProbe::new(cache, &recipe), &recheck)).await?)
}

/// The plan as it is written, with what was accepted and the causes of all that would run.
pub async fn explained(plan: &Plan, cache: &Cache) -> Result<WrittenPlan, Failure> {
    let mut written = WrittenPlan::of(plan);
    for stage in &mut written.stages {
        if let Verdict::Cached { key, .. } = &stage.verdict {
            stage.accepted = flow_cache::in_place(cache.accepted(key)).await?;
        }
    }
    let artifacts = written.artifacts();
    explain(&mut written, &artifacts, cache).await?;
    Ok(written)
}

/// Adds the causes of all that runs to a plan whose stages have these artifacts.
pub async fn explain(written: &mut WrittenPlan, artifacts: &Artifacts, cache: &Cache) -> Result<(), Failure> {
    let recipe = written.recipe.clone();
    let mut causes = cause::explain(written, artifacts, &CacheProbe::new(cache, &recipe)).await?;
    for stage in &mut written.stages {
        stage.because = causes.remove(&stage.stage).unwrap_or_default();
    }
    Ok(())
}

/// The plan of a recipe against a store, with causes.
pub async fn planned(
    recipe: &Recipe,
    stages: &[String],
    cache: &Cache,
    device: &DeviceArgs,
) -> Result<WrittenPlan, Failure> {
    let prepared = prepare(recipe, &flow_stages::registry(), cache, stages)?;
    let plan = plan(prepared, cache, device.device(recipe), &[]).await?;
    explained(&plan, cache).await
}

/// A store that must be there: what only looks makes none.
pub fn open_existing(folder: &Path) -> Result<Cache, Failure> {
    if !folder.is_dir() {
        let message = format!("there is no store in {}", folder.display());
        return Err(Failure::usage(message, Some("`flow run RECIPE` makes one; `--store` names another".to_owned())));
    }
    Ok(Cache::open_local(folder)?)
}

/// The folder of the runs of a store.
pub fn runs(store: &Path) -> PathBuf {
    store.join("runs")
}

/// The run of this id, or the last one.
pub fn run(store: &Path, id: Option<&str>) -> Result<RunFolder, Failure> {
    Ok(RunFolder::open(&runs(store), id)?)
}

/// The one stage of these that a person names.
pub fn choose<'a>(ids: impl Iterator<Item = &'a StageId>, name: &str) -> Result<StageId, Failure> {
    let ids: Vec<&StageId> = ids.collect();
    if let Some(id) = ids.iter().find(|id| id.to_string() == name) {
        return Ok((*id).clone());
    }
    let instances: Vec<&StageId> = ids.iter().copied().filter(|id| id.base().as_str() == name).collect();
    match instances.as_slice() {
        [] => Err(plan::prepare::no_such_stage(name, ids.iter().copied()).into()),
        [one] => Ok((*one).clone()),
        several => {
            let names: Vec<String> = several.iter().map(ToString::to_string).collect();
            Err(Failure::usage(
                format!("`{name}` stands for {} stages", several.len()),
                Some(format!("name one of them: {}", names.join(", "))),
            ))
        }
    }
}

/// What the device has to do with the bytes of a result. Fails before anything runs if it cannot be used.
pub fn numerics(device: &str) -> Result<Numerics, Failure> {
    let (backend, dtype) =
        flow_stages::device::numerics(device).map_err(|error| Failure::usage(error.message, error.help))?;
    Ok(Numerics { backend, dtype })
}

/// Stage names from the command line.
pub fn stage_ids(names: &[String]) -> Result<Vec<StageId>, Failure> {
    let parse = |name: &String| {
        name.parse().map_err(|error: flow_pipeline::names::NameError| {
            Failure::usage(error.to_string(), Some("stages are named like `merge` or `expert[rust]`".to_owned()))
        })
    };
    names.iter().map(parse).collect()
}

/// A runtime for the commands that use the store.
pub fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|source| Failure::Pipeline(flow_pipeline::Error::Io { doing: "start the runtime", source }))
}
