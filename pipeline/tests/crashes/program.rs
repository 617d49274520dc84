//! A run and a stage's process, as `flow run` and `flow exec` are, without a terminal.

use std::{path::Path, process::ExitCode, sync::Arc};

use flow_cache::Cache;
use flow_pipeline::{
    Error, chain,
    event::{Stamped, state::RunState},
    exec,
    executor::local::{GRACE, Local},
    key::Numerics,
    plan::{self, CacheProbe, prepare::Surroundings},
    recipe::{self, LoadOptions},
    run::{self, Capacity, RunFolder, RunOptions},
};

use super::make::registry;

pub fn exec(job: &Path) -> ExitCode {
    let cancelled = exec::stop_flag(true).unwrap();
    match exec::exec(job, &registry(), cancelled) {
        Ok(result) => ExitCode::from(u8::from(result.error.is_some())),
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::StorageFull => {
            ExitCode::from(exec::DISK_FULL)
        }
        Err(error) => panic!("{}", chain(&error)),
    }
}

/// Prints the state that the run ended with, or why it could not go on and the last state that was seen.
pub fn run(store: &Path, recipe: &str) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut seen = RunState::default();
    match runtime.block_on(run_recipe(store, recipe, &mut seen)) {
        Ok(state) => {
            println!("{}", serde_json::to_string(&state).unwrap());
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{}", serde_json::json!({ "error": chain(&error), "seen": seen }));
            ExitCode::FAILURE
        }
    }
}

async fn run_recipe(store: &Path, recipe: &str, seen: &mut RunState) -> Result<RunState, Error> {
    let cache = Cache::open(store, None).await?;
    let recipe = recipe::parse_str("r.yaml", recipe, &LoadOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    let hash = |path: &Path| cache.hash_memo().digest(path).map(|digest| digest.to_string());
    let prepared = plan::prepare(&recipe, &registry(), &Surroundings { memo: cache.root(), hash: &hash }, &[])?;
    let probe = CacheProbe::new(&cache, recipe.name.as_str());
    let plan = plan::plan(prepared, Numerics { backend: "cpu".into(), dtype: "f32".into() }, &probe, &[]).await?;
    let folder = RunFolder::create(&cache.root().join("runs"))?;
    folder.freeze(&recipe::resolved_json(&recipe), &plan::WrittenPlan::of(&plan))?;
    let options = RunOptions {
        capacity: Capacity { cores: 2, memory: 1 << 30, gpus: 0 },
        device: "cpu".into(),
        keep_going: true,
        version: "0.0.0".into(),
        recheck: Vec::new(),
    };
    let (_ask, interrupts) = tokio::sync::mpsc::channel(1);
    let executor = Arc::new(Local { program: std::env::current_exe().unwrap(), grace: GRACE });
    let mut watcher = |_: &Stamped, state: &RunState| seen.clone_from(state);
    run::run(&plan, &cache, executor, &options, &folder, interrupts, &mut watcher).await
}
