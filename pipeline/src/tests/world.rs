//! A store to run recipes on, and an executor without processes.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use flow_cache::Cache;
use tokio::sync::{mpsc, watch};

use super::toys::registry;
use crate::{
    error::Result,
    event::{Report, Stamped, log, state::RunState},
    exec,
    executor::{Executor, Exit, Stop, Task},
    key::Numerics,
    names::StageId,
    plan::{self, CacheProbe, Plan, Prepared, prepare::Surroundings},
    recipe::{self, LoadOptions, Recipe},
    registry::Registry,
    run::{self, Capacity, RunFolder, RunOptions},
};

/// Runs jobs in this process.
pub struct InProcess {
    registry: Arc<Registry>,
    ran: Arc<Mutex<Vec<String>>>,
    /// Stages whose next attempt is killed.
    kills: Mutex<Vec<String>>,
}

#[async_trait]
impl Executor for InProcess {
    async fn execute(
        &self,
        task: &Task,
        mut stop: watch::Receiver<Stop>,
        report: &mut (dyn FnMut(Report) + Send),
    ) -> Result<Exit> {
        let name = task.stage.to_string();
        let killed = {
            let mut kills = self.kills.lock().unwrap();
            kills.iter().position(|stage| *stage == name).map(|at| kills.remove(at)).is_some()
        };
        if killed {
            return Ok(Exit::Signal(9));
        }
        self.ran.lock().unwrap().push(name);
        let cancelled = Arc::new(AtomicBool::new(false));
        let (registry, job, flag) = (Arc::clone(&self.registry), task.job.clone(), Arc::clone(&cancelled));
        let mut work = tokio::task::spawn_blocking(move || exec::exec(&job, &registry, flag));
        let asked = async { stop.wait_for(|stop| *stop > Stop::No).await.map(drop) };
        let ended = tokio::select! {
            result = &mut work => Some(result),
            _ = asked => None,
        };
        cancelled.store(true, Ordering::Relaxed);
        let result = match ended {
            Some(result) => result,
            None => work.await,
        };
        let said = fs_err::read_to_string(&task.events).unwrap_or_default();
        said.lines().for_each(|line| report(serde_json::from_str(line).unwrap()));
        Ok(Exit::Code(i32::from(result.unwrap()?.error.is_some())))
    }
}

/// Types a recipe with the toys.
pub fn prepare(recipe: &Recipe, targets: &[StageId]) -> Result<Prepared> {
    let hash = |path: &Path| Ok(blake3::hash(&fs_err::read(path)?).to_string());
    plan::prepare(recipe, &registry(), &Surroundings { memo: Path::new(""), hash: &hash }, targets)
}

pub fn numerics() -> Numerics {
    Numerics { backend: "cpu".into(), dtype: "f32".into() }
}

/// A store and the runs on it.
pub struct World {
    pub dir: tempfile::TempDir,
    pub cache: Cache,
}

/// What came of one run.
pub struct Ran {
    pub state: RunState,
    pub events: Vec<Stamped>,
    /// The stages that really ran, sorted.
    pub made: Vec<String>,
}

/// How a test runs a recipe.
#[derive(Default)]
pub struct Manner<'a> {
    pub recheck: &'a [&'a str],
    /// Ask for the end at the first remark of a stage.
    pub interrupt: bool,
    /// Stages whose first attempt is killed.
    pub kills: &'a [&'a str],
    /// Ask for the end after each of these pauses.
    pub interrupts: &'a [Duration],
}

impl World {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open_local(&dir.path().join("store")).unwrap();
        World { dir, cache }
    }

    pub fn recipe(text: &str) -> Recipe {
        let text = format!("flow: 1\nname: toy\nstages:\n{text}");
        recipe::parse_str("toy.yaml", &text, &LoadOptions::default()).unwrap_or_else(|error| panic!("{error}"))
    }

    pub async fn plan(&self, text: &str, recheck: &[&str]) -> Plan {
        let prepared = prepare(&Self::recipe(text), &[]).unwrap();
        let recheck: Vec<StageId> = recheck.iter().map(|id| id.parse().unwrap()).collect();
        plan::plan(prepared, numerics(), &CacheProbe::new(&self.cache, "toy"), &recheck).await.unwrap()
    }

    pub async fn run(&self, text: &str) -> Ran {
        self.run_as(text, Manner::default()).await.unwrap()
    }

    pub async fn run_as(&self, text: &str, how: Manner<'_>) -> Result<Ran> {
        self.run_plan(&self.plan(text, how.recheck).await, how).await
    }

    /// Runs the toys, but for the first attempts of these.
    pub fn executor(kills: &[&str]) -> InProcess {
        let kills = Mutex::new(kills.iter().map(|&stage| stage.to_owned()).collect());
        InProcess { registry: Arc::new(registry()), ran: Arc::default(), kills }
    }

    /// Runs a plan. Always also checks that the log gives the state that the run had.
    pub async fn run_plan(&self, plan: &Plan, how: Manner<'_>) -> Result<Ran> {
        let folder = RunFolder::create(&self.dir.path().join("runs"))?;
        assert!(folder.is_alive());
        let options = RunOptions {
            capacity: Capacity { cores: 2, memory: 1 << 30, gpus: 0 },
            device: "cpu".into(),
            keep_going: true,
            version: "0.0.0".into(),
            recheck: how.recheck.iter().map(|id| id.parse().unwrap()).collect(),
        };
        let executor = Self::executor(how.kills);
        let ran = Arc::clone(&executor.ran);
        let executor = Arc::new(executor);
        let (ask, interrupts) = mpsc::channel(1);
        let (pauses, asks) = (how.interrupts.to_vec(), ask.clone());
        tokio::spawn(async move {
            for pause in pauses {
                tokio::time::sleep(pause).await;
                // The run may have ended.
                let _ = asks.send(()).await;
            }
        });
        let scratch = self.dir.path().join("store/v1/work");
        if how.interrupt {
            tokio::spawn(async move {
                while !any_saved(&scratch) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                ask.send(()).await.unwrap();
            });
        }
        let mut seen = Vec::new();
        let mut watcher = |event: &Stamped, _: &RunState| seen.push(event.clone());
        let state = run::run(plan, &self.cache, executor, &options, &folder, interrupts, &mut watcher).await?;
        let events = log::read(&folder.events())?;
        assert_eq!(events, seen, "the log is what the watcher saw");
        assert_eq!(RunState::replay(&events), state, "the log gives the state that the run had");
        let mut made = std::mem::take(&mut *ran.lock().unwrap());
        made.sort();
        Ok(Ran { state, events, made })
    }
}

/// Whether a stage's scratch holds its mark.
fn any_saved(works: &Path) -> bool {
    let Ok(entries) = fs_err::read_dir(works) else { return false };
    entries.flatten().any(|entry| entry.path().join("scratch/saved").exists())
}

impl Ran {
    /// `stage: phase` of all stages.
    pub fn phases(&self) -> Vec<String> {
        self.state.stages.iter().map(|(id, stage)| format!("{id}: {:?}", stage.phase)).collect()
    }
}
