//! A stage that costs nothing: it writes one line that depends on its text and on every byte that it reads. So what is
//! measured is flow and not the stage.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
};

use async_trait::async_trait;
use flow_pipeline::{
    Result, StageError,
    context::Context,
    event::Report,
    exec,
    executor::{Executor, Exit, Stop, Task},
    registry::Registry,
    stage::{Arity, Forecast, Forecasts, Kind, NoPlaces, Role},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// See [`Line`].
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LineParams {
    /// What is hashed beside the inputs.
    text: String,
}

/// Writes the digest of its text and its inputs.
pub struct Line;

impl Kind for Line {
    const NAME: &'static str = "line";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "writes a line";
    const MAKES: &'static str = "line";
    type Params = LineParams;
    type Places = NoPlaces;

    fn roles() -> &'static [Role] {
        &[Role { name: "parts", takes: &["line"], arity: Arity::Any, about: "lines" }]
    }

    fn forecast(_: &LineParams, _: &Forecasts) -> Forecast {
        Forecast::default()
    }

    fn run(ctx: &Context, params: LineParams, _: NoPlaces) -> Result<(), StageError> {
        let refuse = |error: std::io::Error| StageError::from_error(&error);
        let mut hasher = blake3::Hasher::new();
        hasher.update(params.text.as_bytes());
        for part in ctx.inputs("parts") {
            hasher.update(&fs_err::read(part.path.join("line")).map_err(refuse)?);
        }
        fs_err::write(ctx.output().join("line"), format!("{}\n", hasher.finalize())).map_err(refuse)
    }
}

/// The kinds of the benchmark.
pub fn registry() -> Registry {
    Registry::new().with::<Line>()
}

/// Runs jobs in this process: what is left is the scheduler, the store and the log.
pub struct InProcess(pub Arc<Registry>);

#[async_trait]
impl Executor for InProcess {
    async fn execute(&self, task: &Task, _: watch::Receiver<Stop>, _: &mut (dyn FnMut(Report) + Send)) -> Result<Exit> {
        let (registry, job): (_, PathBuf) = (Arc::clone(&self.0), task.job.clone());
        let work = tokio::task::spawn_blocking(move || exec::exec(&job, &registry, Arc::new(AtomicBool::new(false))));
        let result = work.await.map_err(|panic| flow_pipeline::Error::Io {
            doing: "run a job in this process",
            source: std::io::Error::other(panic),
        })??;
        Ok(Exit::Code(i32::from(result.error.is_some())))
    }
}
