//! `flow run`: what is not in the cache is done, then the report is written.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use flow_cache::{Cache, FlushReport};
use flow_pipeline::{
    Error,
    event::{Outcome, Stamped, state::RunState},
    executor::local::{GRACE, Local},
    plan::Plan,
    recipe::{self, Recipe},
    run::{self, RunFolder, RunOptions, capacity},
};
use tokio::sync::mpsc;

use super::{planning, report};
use crate::{
    cli::RunArgs,
    failure::{Ended, Failure},
    machine,
    view::{self, tensorboard::TensorBoard, terminal::Terminal},
};

/// Runs the command.
pub fn run(args: &RunArgs, json: bool) -> Ended {
    let recipe = planning::load(&args.recipe)?;
    let runtime = planning::runtime()?;
    let ended = runtime.block_on(run_recipe(&recipe, args, json));
    // A stage's process that does not end must not keep this one.
    runtime.shutdown_background();
    ended
}

async fn run_recipe(recipe: &Recipe, args: &RunArgs, json: bool) -> Ended {
    let registry = flow_stages::registry();
    let device = args.device.device(recipe);
    let cache = planning::open(&args.store).await?;
    let prepared = planning::prepare(recipe, &registry, &cache, &args.stages)?;
    let plan = planning::plan(prepared, &cache, device, &args.recheck).await?;
    let capacity = machine::capacity(args.device.threads, flow_stages::device::count(device));
    capacity::check(&plan, capacity, &recipe.profiles)?;
    let blocked = plan.blocked();
    if !blocked.is_empty() {
        return Err(Error::Sources(blocked).into());
    }
    let folder = RunFolder::create(&planning::runs(cache.root()))?;
    let written = planning::explained(&plan, &cache).await?;
    folder.freeze(&recipe::resolved_json(recipe), &written)?;
    let options = RunOptions {
        capacity,
        device: device.to_owned(),
        keep_going: !args.fail_fast,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        recheck: planning::stage_ids(&args.recheck)?,
    };
    let ended = watch(&plan, &cache, &options, &folder, json).await;
    // What was finished is brought to the shared store, however the run ended.
    tell_uploads(&cache.flush().await, json);
    let state = ended?;
    Ok(match state.outcome {
        Some(Outcome::Done) => {
            let written = report::write(recipe, &plan, &cache, &state, device, args.report.clone()).await?;
            tell_report(written, json);
            ExitCode::SUCCESS
        }
        Some(Outcome::Interrupted) => ExitCode::from(130),
        _ => ExitCode::FAILURE,
    })
}

/// What did not reach the shared store is on this disk all the same: said, not an error.
fn tell_uploads(flushed: &FlushReport, json: bool) {
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

async fn watch(
    plan: &Plan,
    cache: &Cache,
    options: &RunOptions,
    folder: &RunFolder,
    json: bool,
) -> Result<RunState, Failure> {
    let program = std::env::current_exe()
        .map_err(|source| Error::Io { doing: "find the program that runs the stages", source })?;
    let (ask, interrupts) = mpsc::channel(4);
    tokio::spawn(async move {
        let Ok(mut terminate) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) else {
            return;
        };
        loop {
            tokio::select! {
                pressed = tokio::signal::ctrl_c() => if pressed.is_err() { return },
                _ = terminate.recv() => {}
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
        if json {
            view::json::line(event);
        } else {
            terminal.see(event, state);
        }
    };
    let executor = Arc::new(Local { program, grace: GRACE });
    Ok(run::run(plan, cache, executor, options, folder, interrupts, &mut watcher).await?)
}
