//! Between an engine and the pipeline: threads, and errors in the pipeline's words.

use std::ops::ControlFlow;

use flow_data::source::ENVIRONMENT;
use flow_pipeline::{StageError, context::Context};

/// Sets up the process for a stage's computation. Call it first.
pub(crate) fn start(ctx: &Context) -> Result<(), StageError> {
    flow_model::numerics::keep_memory();
    flow_model::numerics::set_threads(ctx.threads()).map_err(model)
}

/// An error of `flow-data` as a stage's.
#[expect(clippy::needless_pass_by_value, reason = "it is handed to `map_err`")]
pub(crate) fn data(error: flow_data::Error) -> StageError {
    use flow_data::Error;
    let stage = StageError { may_pass: error.may_pass(), ..StageError::from_error(&error) };
    match &error {
        Error::Cancelled => StageError::cancelled(),
        Error::TooManyBroken { .. } => {
            stage.with_help("mend the records, or raise `max_broken.records` or `max_broken.share` of this stage")
        }
        Error::BrokenStreams { .. } => stage.with_help(
            "bring the files again, or raise `max_broken.streams` of this stage to go on without their rest",
        ),
        Error::PackageSourcesMissing { manifest, .. } => stage.with_help(format!(
            "`cargo fetch --locked --manifest-path {}` brings the sources of all packages",
            manifest.display()
        )),
        Error::SourceMissing { .. } => {
            stage.with_help("paths in a recipe start at the recipe's folder; `--set` can give another place")
        }
        Error::EmptyDomain { advice, .. } => stage.with_help(*advice),
        Error::Parquet { .. } => stage.with_help("bring the file again, or leave it out with `exclude`"),
        Error::Store { .. } if stage.may_pass => stage.with_help(format!(
            "the store failed or did not answer, more than once: the same command tries again, and `resources.retries` lets a \
             run do so by itself; {ENVIRONMENT}"
        )),
        Error::Store { .. } => stage.with_help(ENVIRONMENT),
        Error::Io(source) => with_disk_help(stage, source),
        _ => stage,
    }
}

/// An error of `flow-model` as a stage's.
#[expect(clippy::needless_pass_by_value, reason = "it is handed to `map_err`")]
pub(crate) fn model(error: flow_model::Error) -> StageError {
    use flow_model::Error;
    let stage = StageError::from_error(&error);
    match &error {
        Error::Cancelled | Error::Data(flow_data::Error::Cancelled) => StageError::cancelled(),
        Error::Diverged { limit: None, .. } => {
            stage.with_help("lower `schedule.peak`, raise `schedule.warmup_steps`, or set `on_nan: skip`")
        }
        Error::Diverged { .. } => stage.with_help(
            "look at these documents; `on_spike: {action: skip}` leaves such updates out, more `deviations` let them pass",
        ),
        Error::Overflow => stage.with_help(
            "some weights are so large that f32 overflows: the training of this model went wrong, or its files are damaged",
        ),
        Error::Io(source) => with_disk_help(stage, source),
        _ => stage,
    }
}

/// An error of the file system as a stage's.
#[expect(clippy::needless_pass_by_value, reason = "it is handed to `map_err`")]
pub(crate) fn io(error: std::io::Error) -> StageError {
    with_disk_help(StageError::from_error(&error), &error)
}

fn with_disk_help(stage: StageError, error: &std::io::Error) -> StageError {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => stage.with_help(
            "free some space on that disk, or put the store elsewhere with `--store`; nothing half-written is kept",
        ),
        std::io::ErrorKind::PermissionDenied => {
            stage.with_help("the store's folder must be writable, the sources readable")
        }
        _ => stage,
    }
}

/// Reports progress; `Break` where the stage should stop.
pub(crate) fn go_on(ctx: &Context, done: u64, total: Option<u64>, unit: &str) -> ControlFlow<()> {
    ctx.progress(done, total, unit);
    if ctx.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}
