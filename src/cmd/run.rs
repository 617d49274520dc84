//! `flow run`: what is not in the cache is done, then the report is written.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
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
use tokio::{sync::mpsc, time::sleep};

use super::{interrupts::Interrupts, planning, report};
use crate::{
    cli::RunArgs,
    failure::{Ended, Failure},
    machine,
    view::{self, tensorboard::TensorBoard, terminal::Terminal},
};

/// The exit code of a command that a person ended.
const INTERRUPTED: u8 = 130;
/// So long a run that was asked twice may take to end its stages and its log.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// So long uploads may take once a run was interrupted.
const LAST_UPLOADS: Duration = Duration::from_secs(5);

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
    let (interrupts, asked) = Interrupts::listen();
    let ended = watch(&plan, &cache, &options, &folder, (&interrupts, asked), json).await;
    if let Ok(None) = ended {
        view::terminal::warning("ended at once: what was finished is kept, and the same command goes on from here");
        return Ok(ExitCode::from(INTERRUPTED));
    }
    // What was finished is brought to the shared store, however the run ended.
    let is_uploaded = upload(&cache, ended.as_ref().ok().and_then(Option::as_ref), &interrupts, json).await;
    let Some(state) = ended?.filter(|_| is_uploaded) else { return Ok(ExitCode::from(INTERRUPTED)) };
    Ok(match state.outcome {
        Some(Outcome::Done) if report::is_found_damaged(&plan, &state, &cache).await? => {
            view::terminal::warning("what is in the cache of the report is damaged: it is made again");
            let asked = interrupts.count();
            // The next plan is made before anybody else listens.
            return tokio::select! {
                biased;
                ended = Box::pin(run_recipe(recipe, args, json)) => ended,
                () = interrupts.more_than(asked + 1) => Ok(ExitCode::from(INTERRUPTED)),
            };
        }
        Some(Outcome::Done) => {
            remember(recipe, &plan, &cache, &folder, args)?;
            let written = report::write(recipe, &plan, &cache, &state, device, args.report.as_deref());
            tokio::select! {
                biased;
                written = written => tell_report(written?, json),
                () = interrupts.next() => {
                    view::terminal::warning("the report is not written: the same command writes it");
                    return Ok(ExitCode::from(INTERRUPTED));
                }
            }
            ExitCode::SUCCESS
        }
        Some(Outcome::Interrupted) => ExitCode::from(INTERRUPTED),
        _ => ExitCode::FAILURE,
    })
}

/// Waits until what is on record here is durable and in the shared store; `false` where a person did not want to wait for that.
async fn upload(cache: &Cache, state: Option<&RunState>, interrupts: &Interrupts, json: bool) -> bool {
    let cached = state.into_iter().flat_map(|state| state.stages.values());
    let cached = cached.filter(|stage| stage.phase == Phase::Cached).filter_map(|stage| stage.key);
    let uploads = async {
        if let Err(error) = cache.share(cached).await {
            view::terminal::warning(&format!(
                "what was cached is not in the shared store yet: {}",
                flow_pipeline::chain(&error)
            ));
        }
        cache.flush().await
    };
    // Who has asked for the end gets it soon, also where the store is silent.
    let patience = async {
        if interrupts.count() == 0 {
            interrupts.next().await;
        } else {
            tokio::select! {
                () = sleep(LAST_UPLOADS) => {}
                () = interrupts.next() => {}
            }
        }
    };
    tokio::select! {
        biased;
        flushed = uploads => {
            tell_uploads(&flushed, json);
            true
        }
        () = patience => {
            tell_waiting(cache, json).await;
            false
        }
    }
}

/// What was not waited for.
async fn tell_waiting(cache: &Cache, json: bool) {
    let Some(remote) = cache.remote_name() else { return };
    // The marks lie on this disk. One that cannot be read is found by the next run.
    let waiting = cache.pending_uploads().await.unwrap_or_default();
    if json {
        for key in &waiting {
            view::json::line(&serde_json::json!({ "upload_failed": key, "error": "it was not waited for" }));
        }
    }
    let what = match waiting.len() {
        0 => "what is on record may not all be".to_owned(),
        1 => "1 record is not".to_owned(),
        count => format!("{count} records are not"),
    };
    view::terminal::warning(&format!(
        "{what} in {remote} yet: nothing is lost, the same command or `flow cache push` goes on with the upload"
    ));
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

/// Runs the plan; nothing where it was asked twice to end and something still holds it up.
async fn watch(
    plan: &Plan,
    cache: &Cache,
    options: &RunOptions,
    folder: &RunFolder,
    (interrupts, asked): (&Interrupts, mpsc::Receiver<()>),
    json: bool,
) -> Result<Option<RunState>, Failure> {
    let program = program()?;
    let hollow = plan.hollow.iter().filter_map(|&at| plan.stages().get(at)).map(|stage| stage.id.clone());
    let mut terminal = Terminal::new(hollow.collect());
    let mut curves = TensorBoard::new(folder.path(), folder.id());
    let mut watcher = |event: &Stamped, state: &RunState| {
        curves.see(event);
        tell(&mut terminal, json, event, state);
    };
    let executor = Arc::new(Local { program, grace: GRACE });
    let held_up = async {
        interrupts.more_than(1).await;
        tokio::select! {
            () = sleep(LAST_WORDS) => {}
            () = interrupts.next() => {}
        }
    };
    tokio::select! {
        biased;
        state = run::run(plan, cache, executor, options, folder, asked, &mut watcher) => Ok(Some(state?)),
        () = held_up => Ok(None),
    }
}
