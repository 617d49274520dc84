//! What `run`, `plan`, `graph` and `report` have in common: recipe, store and plan.

use flow_cache::{Cache, HashMemo, Location, Patience};
use flow_pipeline::{
    key::Numerics,
    names::StageId,
    plan::{self, CacheProbe, Plan, Prepared},
    recipe::{self, LoadOptions, Recipe},
    registry::Registry,
};

use crate::{
    cli::{RecipeArgs, StoreArgs},
    failure::Failure,
};

/// Reads a recipe with all that is laid over it.
pub fn load(args: &RecipeArgs) -> Result<Recipe, Failure> {
    let options = LoadOptions { profiles: args.profile.clone(), set: args.set.clone() };
    recipe::load(&args.recipe, &options).map_err(|invalid| Failure::Recipe(invalid.diagnostics, invalid.sources))
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
    let memo = cache.hash_memo();
    let hash = |path: &std::path::Path| memo.digest(path).map(|digest| digest.to_string());
    let folder = cache.root().join("memo");
    let surroundings = plan::prepare::Surroundings { memo: &folder, hash: &hash };
    // Sources on object stores are listed and hashed by a runtime of their own, which must not start inside of this one.
    let look = || plan::prepare(recipe, registry, &surroundings, &targets);
    let prepared = tokio::task::block_in_place(look).map_err(|error| match error {
        flow_pipeline::Error::Recipe(diagnostics) => Failure::Recipe(diagnostics, recipe.sources.clone()),
        other => Failure::Pipeline(other),
    })?;
    save(&memo);
    Ok(prepared)
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
    Ok(plan::plan(prepared, numerics, &CacheProbe { cache, recipe: &recipe }, &recheck).await?)
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
