//! What `run`, `plan`, `graph` and `report` have in common: recipe, store and plan.

use std::path::{Component, Path, PathBuf};

use flow_cache::{Cache, HashMemo, Location, Patience};
use flow_pipeline::{
    StageError,
    key::Numerics,
    names::StageId,
    plan::{self, Artifacts, CacheProbe, Plan, Prepared, Verdict, WrittenPlan, cause, prepare::Surroundings},
    recipe::{self, Diagnostic, LoadOptions, Recipe},
    registry::Registry,
    run::{Asked, RunFolder, Unchanged},
};

use crate::{
    cli::{DeviceArgs, RecipeArgs, StoreArgs},
    failure::Failure,
    render_error, view,
};

/// Reads a recipe with all that is laid over it.
pub fn load(args: &RecipeArgs) -> Result<Recipe, Failure> {
    recipe::load(&args.recipe, &options(args)).map_err(|invalid| Failure::Recipe(invalid.diagnostics, invalid.sources))
}

/// What is laid over a recipe.
pub fn options(args: &RecipeArgs) -> LoadOptions {
    LoadOptions { profiles: args.profile.clone(), set: args.set.clone() }
}

/// Opens the store and the one behind it, which is made where it is a folder that is not there.
pub async fn open(args: &StoreArgs) -> Result<Cache, Failure> {
    let remote = location(args)?;
    if let Some(Location::Folder(folder)) = &remote
        && let Some(note) = like_a_bucket(folder)
    {
        view::terminal::warning(&format!("the shared store is a new folder, {}: {note}", folder.display()));
    }
    open_in(&args.store, args, remote.as_ref()).await
}

/// Opens the folder `store`, with `remote` behind it.
pub async fn open_in(store: &Path, args: &StoreArgs, remote: Option<&Location>) -> Result<Cache, Failure> {
    let patience =
        Patience { timeout: args.remote_timeout.as_std(), attempts: args.remote_attempts, ..Patience::default() };
    let cache = Cache::open_with(store, remote, patience).await.map_err(no_place)?;
    if let Some(name) = cache.remote_name().filter(|_| !cache.promises_put_if_absent()) {
        view::terminal::warning(&format!(
            "{name} does not refuse a second writer of one name (put-if-absent): two runs at once may both do a stage, and both \
             record it. Let one run at a time use this store"
        ));
    }
    Ok(cache)
}

/// A folder that cannot be a store: nothing was tried yet.
fn no_place(error: flow_cache::Error) -> Failure {
    use std::io::ErrorKind as Kind;
    match &error {
        flow_cache::Error::Io { source, .. }
            if matches!(
                source.kind(),
                Kind::AlreadyExists
                    | Kind::NotADirectory
                    | Kind::NotFound
                    | Kind::PermissionDenied
                    | Kind::ReadOnlyFilesystem
            ) =>
        {
            let other = "a store is a folder that can be made and written to; `--store` and `--remote` name others";
            let help = render_error::disk_help(source).unwrap_or_else(|| other.to_owned());
            Failure::usage(StageError::from_error(&error).message, help)
        }
        _ => error.into(),
    }
}

/// The place of the store behind this one.
pub fn location(args: &StoreArgs) -> Result<Option<Location>, Failure> {
    let parsed = args.remote.as_deref().map(str::parse::<Location>).transpose();
    parsed.map_err(|error| {
        let message = StageError::from_error(&error).message;
        let help = "a store is a folder, or a URL such as `s3://bucket/prefix`".to_owned();
        named_by_variable("FLOW_REMOTE", "--remote", args.remote.as_deref(), message, Some(help))
    })
}

/// A word on a folder that is not there and is written as a bucket would be.
pub fn like_a_bucket(folder: &Path) -> Option<String> {
    let plain = folder.components().next().is_some_and(|first| matches!(first, Component::Normal(_)));
    let written = folder.to_string_lossy();
    (plain && written.contains('/') && !written.starts_with('.') && !folder.exists())
        .then(|| format!("for a bucket write `s3://{written}`, for a folder `./{written}`"))
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
pub async fn plan(prepared: Prepared, cache: &Cache, numerics: Numerics, recheck: &[StageId]) -> Result<Plan, Failure> {
    let recipe = prepared.recipe.clone();
    // Ten thousand records are looked for one by one, and nothing else goes on meanwhile.
    Ok(flow_cache::in_place(plan::plan(prepared, numerics, &CacheProbe::new(cache, &recipe), recheck)).await?)
}

/// The stages of a run that a person wants to be done again.
pub fn rechecked(recipe: &Recipe, prepared: &Prepared, names: &[String]) -> Result<Vec<StageId>, Failure> {
    let mut rechecked = Vec::new();
    for name in stage_ids(names)? {
        let all = plan::prepare::named(&name, recipe.stages.iter().map(|stage| &stage.id))?;
        let asked = all.into_iter().filter(|id| prepared.stages.iter().any(|stage| stage.id == **id));
        let before = rechecked.len();
        rechecked.extend(asked.cloned());
        if rechecked.len() == before {
            return Err(Failure::usage(
                format!(
                    "`--recheck {name}`: that stage is not one of those that this run was asked for, nor needed by them"
                ),
                Some(format!("name `{name}` beside them, or name none, so that the whole recipe is run")),
            ));
        }
    }
    Ok(rechecked)
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
    let plan = plan(prepared, cache, chosen_numerics(recipe, device)?, &[]).await?;
    explained(&plan, cache).await
}

/// A store that must be there: what only looks makes none.
pub fn open_existing(folder: &Path) -> Result<Cache, Failure> {
    if !folder.is_dir() {
        let message = format!("there is no store in {}", folder.display());
        return Err(Failure::usage(message, Some("`flow run RECIPE` makes one; `--store` names another".to_owned())));
    }
    Cache::open_local(folder).map_err(no_place)
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
pub fn numerics(device: &str) -> Result<Numerics, StageError> {
    let (backend, dtype) = flow_stages::device::numerics(device)?;
    Ok(Numerics { backend, dtype })
}

/// [`numerics`] of the device that a person chose; what is wrong with it is said where it was chosen.
pub fn chosen_numerics(recipe: &Recipe, args: &DeviceArgs) -> Result<Numerics, Failure> {
    numerics(args.device(recipe)).map_err(|error| match recipe.device_span {
        Some(span) if args.device.is_none() => {
            let complaint = Diagnostic::new("recipe::device", error.message).at(span, "");
            Failure::Recipe(vec![Diagnostic { help: error.help, ..complaint }], recipe.sources.clone())
        }
        _ => refused_device(args, error),
    })
}

/// Fails where the device that the command line names, or its environment, cannot be used.
pub fn check_device(args: &DeviceArgs) -> Result<(), Failure> {
    let Some(device) = &args.device else { return Ok(()) };
    numerics(device).map(drop).map_err(|error| refused_device(args, error))
}

fn refused_device(args: &DeviceArgs, error: StageError) -> Failure {
    named_by_variable("FLOW_DEVICE", "--device", args.device.as_deref(), error.message, error.help)
}

/// A complaint about a value that is an option's, or else its variable's: who did not give the option looks for it in vain.
fn named_by_variable(
    variable: &str,
    option: &str,
    value: Option<&str>,
    message: String,
    help: Option<String>,
) -> Failure {
    let given = std::env::args().any(|word| word.split('=').next() == Some(option));
    let from_variable = !given && value.is_some() && std::env::var(variable).ok().as_deref() == value;
    Failure::usage(if from_variable { format!("`{variable}`: {message}") } else { message }, help)
}

/// Stage names from the command line.
pub fn stage_ids(names: &[String]) -> Result<Vec<StageId>, Failure> {
    let parse = |name: &String| {
        name.parse().map_err(|error: flow_pipeline::names::NameError| {
            let help = match name.strip_suffix("[*]") {
                Some(base) => format!("`{base}` alone stands for all its instances"),
                None => "stages are named like `merge` or `expert[rust]`".to_owned(),
            };
            Failure::usage(error.to_string(), Some(help))
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
