//! A handful of kinds that work on lines of text, an executor without processes, and a place to run recipes in.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use flow_cache::Cache;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

use crate::{
    context::Context,
    error::{Result, StageError},
    event::{Report, Stamped, log, state::RunState},
    exec,
    executor::{Executor, Exit, Stop, Task},
    key::Numerics,
    names::StageId,
    plan::{self, CacheProbe, Plan, Prepared, prepare::Surroundings},
    recipe::{self, LoadOptions, Recipe},
    registry::Registry,
    run::{self, Capacity, RunFolder, RunOptions},
    stage::{Arity, DefaultCores, External, Forecast, Forecasts, Kind, NoPlaces, ResolveContext, Role},
    units::{Bytes, Count, Duration as Time, Tokens},
};

fn write(ctx: &Context, text: &str) -> Result<(), StageError> {
    fs_err::write(ctx.output().join("text"), text).map_err(|error| StageError::from_error(&error))
}

fn read(folder: &Path) -> Result<String, StageError> {
    fs_err::read_to_string(folder.join("text")).map_err(|error| StageError::from_error(&error))
}

/// How [`Write`] spells its text.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Case {
    #[default]
    AsItIs,
    Upper,
}

/// Params of every shape that a recipe can write.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WriteParams {
    /// What is written.
    text: String,
    /// How often.
    #[serde(default = "once")]
    times: Count,
    #[serde(default)]
    tokens: Tokens,
    #[serde(default)]
    size: Option<Bytes>,
    #[serde(default)]
    pause: Option<Time>,
    #[serde(default)]
    rate: f64,
    #[serde(default)]
    case: Case,
    #[serde(default)]
    tags: BTreeMap<String, Vec<u8>>,
}

fn once() -> Count {
    Count(1)
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WritePlaces {
    /// A file whose content comes first.
    #[serde(default)]
    file: Option<String>,
    #[serde(default)]
    every: Option<Count>,
}

/// Writes a text.
pub struct Write;

impl Kind for Write {
    const NAME: &'static str = "write";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "writes a text";
    type Params = WriteParams;
    type Places = WritePlaces;

    fn roles() -> &'static [Role] {
        &[]
    }

    fn check(params: &WriteParams) -> Result<(), StageError> {
        if params.rate <= 1.0 { Ok(()) } else { Err(StageError::new("`rate` is above 1").with_help("it is a share")) }
    }

    fn resolve(_: &WriteParams, places: &WritePlaces, ctx: &ResolveContext<'_>) -> Result<Vec<External>, StageError> {
        let Some(file) = &places.file else { return Ok(Vec::new()) };
        let path = ctx.base.join(file);
        let digest = (ctx.hash)(&path).map_err(|error| StageError::from_error(&error))?;
        Ok(vec![External { identity: digest.into(), handle: path.display().to_string().into() }])
    }

    fn forecast(params: &WriteParams, _: &Forecasts) -> Forecast {
        let mut forecast = Forecast::default();
        forecast.facts.insert("lines".into(), params.times.0.into());
        forecast
    }

    fn run(ctx: &Context, params: WriteParams, _: WritePlaces) -> Result<(), StageError> {
        let mut text = String::new();
        for source in ctx.sources() {
            let path = source.handle.as_str().unwrap_or_default();
            text += &fs_err::read_to_string(path).map_err(|error| StageError::from_error(&error))?;
        }
        for _ in 0..params.times.0 {
            text += &params.text;
            text.push('\n');
        }
        ctx.progress(params.times.0, Some(params.times.0), "lines");
        ctx.metrics(serde_json::json!({ "loss": 0.1 }));
        write(ctx, &if matches!(params.case, Case::Upper) { text.to_uppercase() } else { text })
    }
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinParams {
    /// Whether blank lines go and letters become small.
    #[serde(default)]
    tidy: bool,
}

/// Puts texts one after the other.
pub struct Join;

impl Kind for Join {
    const NAME: &'static str = "join";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "puts texts one after the other";
    type Params = JoinParams;
    type Places = NoPlaces;

    fn roles() -> &'static [Role] {
        &[
            Role { name: "parts", arity: Arity::Many, about: "the texts" },
            Role { name: "header", arity: Arity::Optional, about: "what comes first" },
        ]
    }

    fn forecast(_: &JoinParams, _: &Forecasts) -> Forecast {
        Forecast::default()
    }

    fn run(ctx: &Context, params: JoinParams, _: NoPlaces) -> Result<(), StageError> {
        let mut text = ctx.optional_input("header").map_or_else(|| Ok(String::new()), read)?;
        for part in ctx.inputs("parts") {
            text += &format!("{}: {}", part.label.as_deref().unwrap_or("?"), read(&part.path)?);
        }
        if params.tidy {
            text = text.lines().filter(|line| !line.ends_with(": ")).map(|line| line.to_lowercase() + "\n").collect();
        }
        write(ctx, &text)
    }
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrimParams {}

/// Takes blanks off both ends: many inputs, one result.
pub struct Trim;

impl Kind for Trim {
    const NAME: &'static str = "trim";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "takes blanks away";
    const COMPUTES: bool = true;
    const CORES: DefaultCores = DefaultCores::All;
    type Params = TrimParams;
    type Places = NoPlaces;

    fn roles() -> &'static [Role] {
        &[Role { name: "text", arity: Arity::One, about: "the text" }]
    }

    fn forecast(_: &TrimParams, inputs: &Forecasts) -> Forecast {
        inputs.get("text").and_then(|texts| texts.first()).map(|(_, forecast)| forecast.clone()).unwrap_or_default()
    }

    fn run(ctx: &Context, _: TrimParams, _: NoPlaces) -> Result<(), StageError> {
        write(ctx, read(ctx.input("text")?)?.trim())
    }
}

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OddParams {
    how: How,
}

/// What goes wrong.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    Fail,
    Panic,
    /// Other bytes each time.
    Dice,
    /// Goes on until it is asked to stop, and the next time to its end.
    Wait,
}

/// Does what a stage should not.
pub struct Odd;

impl Kind for Odd {
    const NAME: &'static str = "odd";
    const VERSION: u32 = 3;
    const ABOUT: &'static str = "does what a stage should not";
    const SEEDED: bool = true;
    type Params = OddParams;
    type Places = NoPlaces;

    fn roles() -> &'static [Role] {
        &[Role { name: "after", arity: Arity::Any, about: "what it waits for" }]
    }

    fn forecast(_: &OddParams, _: &Forecasts) -> Forecast {
        Forecast::default()
    }

    fn run(ctx: &Context, params: OddParams, _: NoPlaces) -> Result<(), StageError> {
        static DICE: AtomicU64 = AtomicU64::new(0);
        write(ctx, "half of ")?;
        match params.how {
            How::Fail => Err(StageError::new("it did not work").with_help("try something else")),
            How::Panic => panic!("at the disco"),
            How::Dice => write(ctx, &DICE.fetch_add(1, Ordering::SeqCst).to_string()),
            How::Wait => {
                let saved = ctx.scratch().join("saved");
                if !saved.exists() {
                    fs_err::write(&saved, "").map_err(|error| StageError::from_error(&error))?;
                    ctx.note("waiting");
                    while !ctx.is_cancelled() {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    ctx.check_cancelled()?;
                }
                write(ctx, "waited")
            }
        }
    }
}

/// All toys.
pub fn registry() -> Registry {
    Registry::new().with::<Write>().with::<Join>().with::<Trim>().with::<Odd>()
}

/// Runs jobs in this process.
pub struct InProcess {
    registry: Arc<Registry>,
    ran: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl Executor for InProcess {
    async fn execute(
        &self,
        task: &Task,
        mut stop: watch::Receiver<Stop>,
        report: &mut (dyn FnMut(Report) + Send),
    ) -> Result<Exit> {
        self.ran.lock().unwrap().push(task.stage.to_string());
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
    pub ran: Vec<String>,
}

/// How a test runs a recipe.
#[derive(Default)]
pub struct How2Run<'a> {
    pub recheck: &'a [&'a str],
    pub fail_fast: bool,
    /// Ask for the end at the first remark of a stage.
    pub interrupt: bool,
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
        plan::plan(prepared, numerics(), &CacheProbe { cache: &self.cache, recipe: "toy" }, &recheck).await.unwrap()
    }

    pub async fn run(&self, text: &str) -> Ran {
        self.run_as(text, How2Run::default()).await.unwrap()
    }

    pub async fn run_as(&self, text: &str, how: How2Run<'_>) -> Result<Ran> {
        self.run_plan(&self.plan(text, how.recheck).await, how).await
    }

    /// Runs a plan. Always also checks that the log gives the state that the run had.
    pub async fn run_plan(&self, plan: &Plan, how: How2Run<'_>) -> Result<Ran> {
        let folder = RunFolder::create(&self.dir.path().join("runs"))?;
        assert!(folder.is_alive());
        let options = RunOptions {
            capacity: Capacity { cores: 2, memory: 1 << 30, gpus: 0 },
            device: "cpu".into(),
            keep_going: !how.fail_fast,
            version: "0.0.0".into(),
            recheck: how.recheck.iter().map(|id| id.parse().unwrap()).collect(),
        };
        let ran = Arc::new(Mutex::new(Vec::new()));
        let executor = Arc::new(InProcess { registry: Arc::new(registry()), ran: Arc::clone(&ran) });
        let (ask, interrupts) = mpsc::channel(1);
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
        let mut ran = std::mem::take(&mut *ran.lock().unwrap());
        ran.sort();
        Ok(Ran { state, events, ran })
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
