//! What training stages share: the params of the loop, the work dir that a cut-off run goes on from, and the metrics.
//!
//! ```text
//! scratch/checkpoints/step-…   the state of the loop, whole or not there
//! scratch/metrics.jsonl        one line an update; flushed before each checkpoint, cut back to it on resume
//! output/metrics.jsonl         the same lines at the end: no clock in them, so the same bytes each time
//! ```

use std::{
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    sync::Arc,
};

use flow_data::{loader::Batches, prefetch::Prefetch};
use flow_model::{
    adamw::AdamW,
    checkpoint,
    freeze::Trainable,
    loss::LossWeights,
    lr::{Schedule, ScheduleParams},
    olmo2::Model,
    state::TrainState,
    train::{self, Hooks, StepMetrics, TrainSpec},
};
use flow_pipeline::{StageError, context::Context, units::Tokens};
use fs_err as fs;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::engine::{io, model};

/// Batches that are prepared ahead.
const PREFETCH: usize = 2;

/// Shape of the batches.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct BatchParams {
    /// Instances whose gradients make one update.
    pub sequences: u64,
    /// Tokens of an instance.
    pub length: u64,
    /// Parts that an update's instances go through the model in, one after another, where not all fit at once.
    pub accumulate: u64,
}

impl Default for BatchParams {
    /// The paper's: 1024 × 4096 tokens an update.
    fn default() -> Self {
        Self { sequences: 1024, length: 4096, accumulate: 1 }
    }
}

impl BatchParams {
    /// Tokens of one update.
    pub(crate) fn tokens(self) -> u64 {
        self.sequences.saturating_mul(self.length)
    }

    /// Instances that go through the model together.
    pub(crate) fn part(self) -> u64 {
        self.sequences / self.accumulate.max(1)
    }

    /// Updates that so many tokens make; a part of an update counts as one.
    pub(crate) fn steps(self, tokens: Tokens) -> u64 {
        tokens.0.div_ceil(self.tokens().max(1))
    }

    pub(crate) fn check(self) -> Result<(), StageError> {
        let Self { sequences, length, accumulate } = self;
        if sequences == 0 || length == 0 || accumulate == 0 {
            return Err(StageError::new("`batch.sequences`, `batch.length` and `batch.accumulate` are at least 1"));
        }
        if !sequences.is_multiple_of(accumulate) {
            return Err(StageError::new(format!(
                "`batch.sequences` is {sequences}, which `batch.accumulate` = {accumulate} does not divide"
            )));
        }
        Ok(())
    }
}

/// What is minimised beside the cross-entropy.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LossParams {
    /// Weight of the mean of logsumexp(logits)².
    pub z: f64,
    /// Weight of the mean of logsumexp(router logits)², in a mixture.
    pub router_z: f64,
}

impl Default for LossParams {
    fn default() -> Self {
        Self { z: 1e-5, router_z: 1e-3 }
    }
}

/// What happens at a loss or a gradient that is no number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OnNan {
    /// The stage fails and names the step and the documents.
    #[default]
    Stop,
    /// The update is left out.
    Skip,
}

/// Where and how a training stage runs: nothing of it changes a byte.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TrainingPlaces {
    /// Updates between two checkpoints of the state of the training, from which a cut-off run goes on.
    pub checkpoint_every: u64,
    /// Checkpoints that are kept.
    pub checkpoints: u64,
}

impl Default for TrainingPlaces {
    fn default() -> Self {
        Self { checkpoint_every: 500, checkpoints: 2 }
    }
}

/// A training run, as its kind describes it.
pub(crate) struct Run {
    pub steps: u64,
    pub batch: BatchParams,
    pub schedule: ScheduleParams,
    pub optimizer: AdamW,
    pub clip: Option<f64>,
    pub losses: LossParams,
    pub trainable: Trainable,
    pub row_lr: f64,
    pub mask_documents: bool,
    pub on_nan: OnNan,
    pub places: TrainingPlaces,
}

impl Run {
    fn spec(&self, schedule: Schedule) -> TrainSpec {
        TrainSpec {
            steps: self.steps,
            accumulate: self.batch.accumulate,
            schedule,
            optimizer: self.optimizer,
            clip: self.clip,
            losses: LossWeights { z: self.losses.z, router_z: self.losses.router_z },
            trainable: self.trainable,
            row_lr: self.row_lr,
            mask_documents: self.mask_documents,
            checkpoint_every: Some(self.places.checkpoint_every).filter(|every| *every > 0),
            stop_on_nan: self.on_nan == OnNan::Stop,
        }
    }

    /// Trains `model`, from the stage's last checkpoint if there is one, and writes `metrics.jsonl`.
    pub(crate) fn train(
        &self,
        ctx: &Context,
        trained: &mut Model,
        batches: impl Batches + 'static,
    ) -> Result<Value, StageError> {
        let spec = self.spec(self.schedule.resolve(self.steps).map_err(model)?);
        let batches = Prefetch::new(Arc::new(batches), PREFETCH);
        let mut log = Log::open(ctx, self)?;
        let start = log.resume()?;
        train::train(&spec, trained, start, &batches, &mut log).map_err(model)?;
        log.finish()
    }
}

/// The work dir of a training stage.
struct Log<'a> {
    ctx: &'a Context,
    steps: u64,
    keep: usize,
    checkpoints: PathBuf,
    metrics: PathBuf,
    lines: std::io::BufWriter<std::fs::File>,
    written: u64,
    last: Option<Value>,
}

impl<'a> Log<'a> {
    fn open(ctx: &'a Context, run: &Run) -> Result<Self, StageError> {
        let metrics = ctx.scratch().join("metrics.jsonl");
        let (file, _) = fs::OpenOptions::new().create(true).append(true).open(&metrics).map_err(io)?.into_parts();
        Ok(Self {
            ctx,
            steps: run.steps,
            keep: usize::try_from(run.places.checkpoints).unwrap_or(1).max(1),
            checkpoints: ctx.scratch().join("checkpoints"),
            metrics,
            lines: std::io::BufWriter::new(file),
            written: 0,
            last: None,
        })
    }

    /// The state to go on from. Where the metrics of its steps are not all there, training begins anew: an artifact is whole.
    fn resume(&mut self) -> Result<TrainState, StageError> {
        let found = checkpoint::latest(&self.checkpoints).map_err(model)?;
        let step = found.as_ref().map_or(0, checkpoint::Checkpoint::step);
        let lines = self.lines_before(step)?;
        let state = match found {
            Some(found) if lines.len() as u64 == step => {
                let set = |name: &str| found.set(name).map_err(model);
                self.ctx.note(format!("goes on from step {step} of {}", self.steps));
                TrainState {
                    step,
                    parameters: set("parameters")?,
                    first_moments: set("first-moments")?,
                    second_moments: set("second-moments")?,
                }
            }
            _ => TrainState::start(),
        };
        let kept = if state.step == 0 { &[][..] } else { &lines };
        let aside = self.metrics.with_extension("part");
        fs::write(&aside, kept.concat()).map_err(io)?;
        fs::rename(&aside, &self.metrics).map_err(io)?;
        let (file, _) = fs::OpenOptions::new().append(true).open(&self.metrics).map_err(io)?.into_parts();
        self.lines = std::io::BufWriter::new(file);
        self.written = state.step;
        self.last = kept.last().and_then(|line| serde_json::from_str(line).ok());
        Ok(state)
    }

    /// The lines of steps 1 to `step`, up to the first that is not whole.
    fn lines_before(&self, step: u64) -> Result<Vec<String>, StageError> {
        let file = fs::File::open(&self.metrics).map_err(io)?;
        let mut lines = Vec::new();
        for (line, number) in BufReader::new(file).lines().zip(1..=step) {
            let Ok(line) = line else { break };
            let whole = serde_json::from_str::<Value>(&line).ok().and_then(|value| value.get("step")?.as_u64());
            if whole != Some(number) {
                break;
            }
            lines.push(line + "\n");
        }
        Ok(lines)
    }

    /// Puts the metrics into the output; the last of them.
    fn finish(mut self) -> Result<Value, StageError> {
        self.lines.flush().map_err(io)?;
        fs::copy(&self.metrics, self.ctx.output().join("metrics.jsonl")).map_err(io)?;
        Ok(self.last.unwrap_or(Value::Null))
    }
}

impl Hooks for Log<'_> {
    fn on_step(&mut self, metrics: &StepMetrics) -> flow_model::Result<()> {
        // Without `..`: what is added must be thought of here. Time must not enter an artifact.
        let StepMetrics { step, tokens, losses, lr, grad_norm, skipped, seconds } = *metrics;
        let line = json!({
            "step": step + 1,
            "tokens": tokens,
            "loss": losses.ce,
            "z_loss": losses.z,
            "router_z_loss": losses.router_z,
            "lr": lr,
            "grad_norm": grad_norm,
            "skipped": skipped,
        });
        writeln!(self.lines, "{line}")?;
        self.written = step + 1;
        let rate = tokens as f64 / (step + 1) as f64 / seconds.max(1e-9);
        self.ctx.progress(step + 1, Some(self.steps), "steps");
        self.ctx.metrics(json!({ "loss": losses.ce, "lr": lr, "tokens_per_second": rate.round() }));
        self.last = Some(line);
        Ok(())
    }

    fn checkpoint(&mut self, state: &TrainState) -> flow_model::Result<()> {
        self.lines.flush()?;
        self.lines.get_ref().sync_data()?;
        fs::create_dir_all(&self.checkpoints)?;
        let TrainState { step, parameters, first_moments, second_moments } = state;
        let sets = [("parameters", parameters), ("first-moments", first_moments), ("second-moments", second_moments)];
        checkpoint::save(&self.checkpoints, *step, &sets, Value::Null, self.keep)?;
        Ok(())
    }

    fn cancelled(&self) -> bool {
        self.ctx.is_cancelled()
    }
}
