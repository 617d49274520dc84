//! `flow run`: what is not in the cache is done, then the report is written.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use flow_cache::{Cache, FlushReport};
use flow_pipeline::{
    Error,
    event::{
        Outcome, Stamped,
        state::{Phase, RunState},
    },
    executor::local::{GRACE, Local},
    plan::Plan,
    recipe::{self, LoadOptions, Recipe},
    run::{self, Asked, RunFolder, RunOptions, Unchanged, capacity},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::{planning, report};
use crate::{
    cli::RunArgs,
    failure::{Ended, Failure},
    machine,
    view::{self, tensorboard::TensorBoard, terminal::Terminal},
};

/// Runs the command.
pub fn run(args: &RunArgs, json: bool) -> Ended {
    let runtime = planning::runtime()?;
    let ended = runtime.block_on(async {
        if let Some(ended) = nothing_changed(args, json).await? {
            return Ok(ended);
        }
        run_recipe(&planning::load(&args.recipe)?, args, json).await
    });
    // A stage's process that does not end must not keep this one.
    runtime.shutdown_background();
    ended
}

/// The run of a command that found everything in the cache before, where nothing has changed since. A remote store may lack
/// what the local one has, and a stage to be done again is not looked up: then a plan is made.
async fn nothing_changed(args: &RunArgs, json: bool) -> Result<Option<ExitCode>, Failure> {
    if args.store.remote.is_some() || !args.recheck.is_empty() || !args.store.store.is_dir() {
        return Ok(None);
    }
    let (program, options) = (program()?, planning::options(&args.recipe));
    let cache = planning::open(&args.store).await?;
    let Some(known) = planning::recall(&asked(args, &program, &options), &cache) else { return Ok(None) };
    if !known.is_all_there(&cache).await? {
        return Ok(None);
    }
    let capacity = machine::capacity(args.device.threads, 0);
    let mut terminal = Terminal::new(BTreeSet::new());
    let mut watcher = |event: &Stamped, state: &RunState| tell(&mut terminal, json, event, state);
    let state = known.run(&cache, &planning::runs(cache.root()), capacity.cores, &mut watcher)?;
    tell_uploads(&cache.flush().await, json);
    Ok(state.map(|_| ExitCode::SUCCESS))
}

fn asked<'a>(args: &'a RunArgs, program: &'a Path, options: &'a LoadOptions) -> Asked<'a> {
    Asked { program, recipe: &args.recipe.recipe, options, stages: &args.stages, device: args.device.device.as_deref() }
}

fn program() -> Result<PathBuf, Error> {
    std::env::current_exe().map_err(|source| Error::Io { doing: "find the program that runs the stages", source })
}

fn tell(terminal: &mut Terminal, json: bool, event: &Stamped, state: &RunState) {
    if json {
        view::json::line(event);
    } else {
        terminal.see(event, state);
    }
}

async fn run_recipe(recipe: &Recipe, args: &RunArgs, json: bool) -> Ended {
    let registry = flow_stages::registry();
    let device = args.device.device(recipe);
    let numerics = planning::chosen_numerics(recipe, &args.device)?;
    let cache = planning::open(&args.store).await?;
    let prepared = planning::prepare(recipe, &registry, &cache, &args.stages)?;
    let recheck = planning::rechecked(recipe, &prepared, &args.recheck)?;
    let mut plan = planning::plan(prepared.clone(), &cache, numerics.clone(), &recheck).await?;
    if report::is_damaged(&plan, &cache).await? {
        plan = planning::plan(prepared, &cache, numerics, &recheck).await?;
    }
    let capacity = machine::capacity(args.device.threads, flow_stages::device::count(device));
    capacity::check(&plan, capacity, &recipe.profiles)?;
    let blocked = plan.blocked();
    if !blocked.is_empty() {
        return Err(Failure::lost_sources(recipe, &blocked));
    }
    report::check_place(recipe, &plan, args.report.as_deref())?;
    let folder = RunFolder::create(&planning::runs(cache.root()))?;
    let written = planning::explained(&plan, &cache).await?;
    folder.freeze(&recipe::resolved_json(recipe), &written)?;
    let options = RunOptions {
        capacity,
        device: device.to_owned(),
        keep_going: !args.fail_fast,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        recheck,
    };
    let ended = watch(&plan, &cache, &options, &folder, json).await;
    // What was finished is brought to the shared store, however the run ended.
    let cached = ended.iter().flat_map(|state| state.stages.values());
    let cached = cached.filter(|stage| stage.phase == Phase::Cached).filter_map(|stage| stage.key);
    if let Err(error) = cache.share(cached).await {
        view::terminal::warning(&format!(
            "what was cached is not in the shared store yet: {}",
            flow_pipeline::chain(&error)
        ));
    }
    tell_uploads(&cache.flush().await, json);
    let state = ended?;
    Ok(match state.outcome {
        Some(Outcome::Done) if report::is_found_damaged(&plan, &state, &cache).await? => {
            view::terminal::warning("what is in the cache of the report is damaged: it is made again");
            return Box::pin(run_recipe(recipe, args, json)).await;
        }
        Some(Outcome::Done) => {
            remember(recipe, &plan, &cache, &folder, args)?;
            let written = report::write(recipe, &plan, &cache, &state, device, args.report.as_deref()).await?;
            tell_report(written, json);
            ExitCode::SUCCESS
        }
        Some(Outcome::Interrupted) => ExitCode::from(130),
        _ => ExitCode::FAILURE,
    })
}

/// Remembers that there was nothing to do. A report is written from the recipe each time.
fn remember(recipe: &Recipe, plan: &Plan, cache: &Cache, folder: &RunFolder, args: &RunArgs) -> Result<(), Failure> {
    if plan.stages().iter().all(|stage| stage.kind != report::KIND) {
        let (program, options) = (program()?, planning::options(&args.recipe));
        Unchanged::remember(&asked(args, &program, &options), cache, recipe, plan, args.device.device(recipe), folder);
    }
    Ok(())
}

/// What did not reach the shared store is on this disk all the same: said, not an error.
pub fn tell_uploads(flushed: &FlushReport, json: bool) {
    for (key, error) in &flushed.failed {
        if json {
            view::json::line(&serde_json::json!({ "upload_failed": key, "error": flow_pipeline::chain(error) }));
        } else {
            view::terminal::warning(&format!(
                "{} is not in the shared store yet: {}",
                key.short(),
                flow_pipeline::chain(error)
            ));
        }
    }
}

fn tell_report(written: Option<PathBuf>, json: bool) {
    let Some(folder) = written else { return };
    if json {
        view::json::line(&serde_json::json!({ "report": folder }));
    } else {
        view::terminal::report(&folder);
    }
}

/// Comes when the terminal goes, as when a connection ends; never under `nohup`, whose whole sense that is.
fn hangups() -> Option<std::pin::Pin<Box<dyn Future<Output = ()> + Send>>> {
    if hangup_is_ignored() {
        return Some(Box::pin(std::future::pending()));
    }
    let mut hangup = signal(SignalKind::hangup()).ok()?;
    Some(Box::pin(async move {
        if hangup.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
    }))
}

/// Whether this process was started with SIGHUP ignored; where that cannot be told, it counts as ignored.
fn hangup_is_ignored() -> bool {
    let status = fs_err::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // The lowest bit is the first signal, which SIGHUP is everywhere.
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_none_or(|mask| mask & 1 == 1)
}

async fn watch(
    plan: &Plan,
    cache: &Cache,
    options: &RunOptions,
    folder: &RunFolder,
    json: bool,
) -> Result<RunState, Failure> {
    let program = program()?;
    let (ask, interrupts) = mpsc::channel(4);
    tokio::spawn(async move {
        let (Ok(mut terminate), Some(mut hangup)) = (signal(SignalKind::terminate()), hangups()) else { return };
        loop {
            tokio::select! {
                pressed = tokio::signal::ctrl_c() => if pressed.is_err() { return },
                _ = terminate.recv() => {}
                () = &mut hangup => hangup = Box::pin(std::future::pending()),
            }
            if ask.send(()).await.is_err() {
                return;
            }
        }
    });
    let hollow = plan.hollow.iter().filter_map(|&at| plan.stages().get(at)).map(|stage| stage.id.clone());
    let mut terminal = Terminal::new(hollow.collect());
    let mut curves = TensorBoard::new(folder.path(), folder.id());
    let mut watcher = |event: &Stamped, state: &RunState| {
        curves.see(event);
        tell(&mut terminal, json, event, state);
    };
    let executor = Arc::new(Local { program, grace: GRACE });
    Ok(run::run(plan, cache, executor, options, folder, interrupts, &mut watcher).await?)
}
