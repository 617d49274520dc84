//! `flow report`, and the end of `flow run`: the pages of every `report` stage.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
};

use flow_cache::{ArtifactDigest, BlobDigest, Cache, Record};
use flow_pipeline::{
    Error, chain,
    drawing::NodeState,
    event::state::{Phase, RunState},
    key,
    names::StageId,
    plan::{Plan, Verdict},
    provenance::{self, LineageSource},
    recipe::{self, Recipe},
};
use flow_stages::report::{self, AcceptedLine, Lineage, Numerics, SourceLine, StageLine};

use super::{graph, looking, planning};
use crate::{
    cli::ReportArgs,
    failure::{Ended, Failure},
    view,
};

/// The kind of the stages that a report is written from.
pub const KIND: &str = "report";

/// More stages than this, and the Markdown page shows one node for all instances of a `foreach`.
const MERMAID_NODES: usize = 30;

/// Runs the command.
pub fn report(args: &ReportArgs, json: bool) -> Ended {
    let recipe = planning::load(&args.recipe)?;
    let registry = flow_stages::registry();
    let written = planning::runtime()?.block_on(async {
        let cache = looking::open_to_take(&args.store).await?;
        let prepared = planning::prepare(&recipe, &registry, &cache, &[])?;
        let plan = planning::plan(prepared, &cache, planning::chosen_numerics(&recipe, &args.device)?, &[]).await?;
        let missing: Vec<String> = plan
            .stages()
            .iter()
            .zip(&plan.verdicts)
            .filter(|(_, verdict)| !matches!(verdict, Verdict::Cached { .. }))
            .map(|(stage, _)| stage.id.to_string())
            .collect();
        if !missing.is_empty() {
            let message = format!("the report is not complete: {} of the stages are not in the cache", missing.len());
            return Err(Failure::usage(message, format!("`flow run` makes them: {}", missing.join(", "))));
        }
        check_place(&recipe, &plan, args.report.as_deref())?;
        let state = cached(&plan);
        write(&recipe, &plan, &cache, &state, args.device.device(&recipe), args.report.as_deref()).await
    })?;
    let Some(folder) = written else {
        return Err(Failure::usage("the recipe has no stage of the kind `report`", None));
    };
    if json {
        view::json::line(&serde_json::json!({ "report": folder }));
    } else {
        view::terminal::report(&folder);
    }
    Ok(ExitCode::SUCCESS)
}

/// The state of a run that found everything in the cache.
fn cached(plan: &Plan) -> RunState {
    let mut state = RunState::default();
    for (stage, verdict) in plan.stages().iter().zip(&plan.verdicts) {
        if let Verdict::Cached { key, artifact } = verdict {
            let entry = state.stages.entry(stage.id.clone()).or_default();
            entry.phase = Phase::Cached;
            entry.key = Some(*key);
            entry.artifact = Some(*artifact);
        }
    }
    state
}

/// Whether something that the pages are written from is damaged: the bytes of a report that is cached, the record of any stage. They
/// are read after the run: what is found before it, and set aside, is made again in it.
pub async fn is_damaged(plan: &Plan, cache: &Cache) -> Result<bool, Failure> {
    let mut damaged = false;
    if plan.stages().iter().all(|stage| stage.kind != KIND) {
        return Ok(false);
    }
    for (stage, verdict) in plan.stages().iter().zip(&plan.verdicts) {
        if let Verdict::Cached { key, artifact } = verdict {
            damaged |= cache.record(key).await?.is_none();
            damaged |= stage.kind == KIND && !cache.is_sound(artifact).await?;
        }
    }
    Ok(damaged)
}

/// Whether a report that only the run found in the cache is damaged: its key was not known before.
pub async fn is_found_damaged(plan: &Plan, state: &RunState, cache: &Cache) -> Result<bool, Failure> {
    let mut damaged = false;
    for (stage, verdict) in plan.stages().iter().zip(&plan.verdicts) {
        let Some(known) = state.stages.get(&stage.id).filter(|known| known.phase == Phase::Cached) else { continue };
        if let (KIND, Some(artifact), Verdict::Run { .. }) = (stage.kind, known.artifact, verdict) {
            damaged |= !cache.is_sound(&artifact).await?;
        }
    }
    Ok(damaged)
}

/// Writes the report of each `report` stage that has an artifact; the folder, or nothing where there is none. With several,
/// each has a folder of its own below it.
pub async fn write(
    recipe: &Recipe,
    plan: &Plan,
    cache: &Cache,
    state: &RunState,
    device: &str,
    out: Option<&Path>,
) -> Result<Option<PathBuf>, Failure> {
    let artifact = |stage: &StageId| state.stages.get(stage)?.artifact;
    let stages: Vec<(&StageId, ArtifactDigest)> =
        reports(plan).filter_map(|stage| Some((stage, artifact(stage)?))).collect();
    if stages.is_empty() {
        return Ok(None);
    }
    let folder = place(recipe, out);
    let lineage = lineage(recipe, plan, cache, state, device).await?;
    for (stage, artifact) in &stages {
        let own = own_place(&folder, stage, stages.len());
        fs_err::create_dir_all(&own).map_err(Failure::Report)?;
        let aside = own.join(".artifact");
        remove(&aside)?;
        cache.materialize(artifact, &aside).await?;
        let written = report::publish(&aside, &lineage, &own).map_err(Failure::Report);
        remove(&aside)?;
        written?;
    }
    Ok(Some(folder))
}

/// The stages that a report is written from.
fn reports(plan: &Plan) -> impl Iterator<Item = &StageId> {
    plan.stages().iter().filter(|stage| stage.kind == KIND).map(|stage| &stage.id)
}

fn place(recipe: &Recipe, out: Option<&Path>) -> PathBuf {
    out.map_or_else(|| Path::new("report").join(recipe.name.as_str()), Path::to_owned)
}

/// With several reports, each has a folder of its own below the one that was asked for.
fn own_place(folder: &Path, stage: &StageId, of: usize) -> PathBuf {
    if of == 1 { folder.to_owned() } else { folder.join(stage.base().as_str()) }
}

/// Refuses a place in which the reports of a plan cannot be written, before anything runs: it may be days until they are. Nothing
/// is left there.
pub fn check_place(recipe: &Recipe, plan: &Plan, out: Option<&Path>) -> Result<(), Failure> {
    let folder = place(recipe, out);
    let count = reports(plan).count();
    for own in reports(plan).map(|stage| own_place(&folder, stage, count)) {
        let page = own.join("report.md");
        // The crate is written before the page, so that the page of a report that was cut off has it beside it.
        let ours = ["provenance.json", "ro-crate-metadata.json"].iter().any(|name| own.join(name).is_file());
        if page.exists() && !ours {
            let message = format!("{} is not of a report of flow, and would be written over", page.display());
            return Err(Failure::usage(message, "`--report` names another folder; or move that file".to_owned()));
        }
        try_to_write(&own).map_err(|error| {
            let message = format!("the report cannot be written to {}: {}", own.display(), chain(&error));
            Failure::usage(message, "`--report` names a folder that can be made and written to".to_owned())
        })?;
    }
    Ok(())
}

/// Makes the folder and a file in it, and takes away what it made: what a path allows, only that tells.
fn try_to_write(folder: &Path) -> std::io::Result<()> {
    let absent: Vec<&Path> = folder.ancestors().take_while(|at| !at.as_os_str().is_empty() && !at.exists()).collect();
    let file = folder.join(format!(".written-{}", std::process::id()));
    let tried = fs_err::create_dir_all(folder)
        .and_then(|()| fs_err::write(&file, ""))
        .and_then(|()| fs_err::remove_file(&file));
    for made in absent {
        // One that was not made, or that others put something into meanwhile, stays.
        let _ = fs_err::remove_dir(made);
    }
    tried
}

fn remove(folder: &Path) -> Result<(), Failure> {
    match fs_err::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Failure::Report(error)),
        _ => Ok(()),
    }
}

/// When the process of a stage had ended.
fn ended(record: &Record) -> Option<String> {
    let started: jiff::Timestamp = record.started.parse().ok()?;
    let ended = started.checked_add(jiff::SignedDuration::try_from_secs_f64(record.seconds).ok()?).ok()?;
    Some(ended.round(jiff::Unit::Millisecond).unwrap_or(ended).to_string())
}

async fn lineage(
    recipe: &Recipe,
    plan: &Plan,
    cache: &Cache,
    state: &RunState,
    device: &str,
) -> Result<Lineage, Failure> {
    let made = provenance::lineage(plan, cache, state).await?;
    let mut states = BTreeMap::new();
    let mut stages = Vec::new();
    for line in made {
        let found = if line.cached { NodeState::Cached } else { NodeState::Finished };
        states.insert(line.stage.to_string(), found);
        let roles = line.parts.inputs.iter().map(|(role, artifact)| (role.clone(), artifact.to_string()));
        stages.push(StageLine {
            name: line.stage.to_string(),
            kind: line.parts.kind.clone(),
            kind_version: line.parts.kind_version,
            key: line.record.key.to_string(),
            artifact: line.record.artifact.to_string(),
            bytes: line.record.bytes,
            seconds: line.record.seconds,
            started: Some(line.record.started.clone()),
            ended: ended(&line.record),
            host: Some(line.record.host.clone()),
            inputs: roles.collect(),
            sources: line.sources.iter().flat_map(sources).collect(),
            params: line.parts.params.clone(),
            cached: line.cached,
            accepted: line.record.accepted.clone().map(|reason| AcceptedLine {
                reason,
                made_for: line.record.made_for.as_ref().map(|made| made.key.to_string()),
                changes: line.accepted.iter().map(ToString::to_string).collect(),
            }),
        });
    }
    let mut drawing = graph::of(recipe);
    for node in &mut drawing.nodes {
        node.state = states.get(&node.id).copied();
    }
    let small = drawing.nodes.len() <= MERMAID_NODES;
    let resolved = recipe::resolved_json(recipe);
    let recipe_text = serde_json::to_string_pretty(&resolved).map_err(|source| {
        Failure::Pipeline(Error::Format { what: "resolved recipe", path: PathBuf::from(recipe.name.as_str()), source })
    })?;
    Ok(Lineage {
        recipe: recipe.name.to_string(),
        seed: recipe.seed,
        profile: Some(recipe.profile.join(", ")).filter(|profile| !profile.is_empty()),
        flow_version: env!("CARGO_PKG_VERSION").to_owned(),
        numerics: Numerics {
            device: device.to_owned(),
            dtype: plan.numerics.dtype.clone(),
            promise: flow_stages::device::promise(device).to_owned(),
        },
        mermaid: if small { drawing.mermaid() } else { drawing.collapsed().mermaid() },
        svg: drawing.svg(),
        stages,
        recipe_digest: BlobDigest::of(recipe_text.as_bytes()).to_string(),
        recipe_text,
    })
}

/// A line for each digest of a source: of a model folder, for example, each file has one.
fn sources(source: &LineageSource) -> Vec<SourceLine> {
    let digests: Vec<(String, String)> = source.digests().collect();
    let is_one = digests.len() == 1;
    let identity = key::canonical(&source.identity);
    let line = |(name, digest): (String, String)| {
        let place =
            if is_one { source.place.clone() } else { format!("{}: {}", source.place, name.replace("\\.", ".")) };
        SourceLine { digest, place, identity: identity.clone() }
    };
    digests.into_iter().map(line).collect()
}
