//! What training stages share: the params of the loop, the work dir that a cut-off run goes on from, and the metrics.
//!
//! ```text
//! scratch/checkpoints/step-…   the state of the loop, whole or not there
//! scratch/metrics.jsonl        one line an update; flushed before each checkpoint, cut back to it on resume
//! output/metrics.jsonl         the same lines at the end: no clock in them, so the same bytes each time
//! ```

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use flow_data::{
    corpus::Split,
    loader::{Batches, TokenBatch},
    pack,
    prefetch::Prefetch,
    shard::TokenShards,
};
use flow_model::{
    adamw::AdamW,
    checkpoint::saver::Saver,
    config::ModelConfig,
    freeze::Trainable,
    loss::LossWeights,
    lr::{Schedule, ScheduleParams},
    olmo2::Model,
    spike::{Action, SpikeRule},
    state::TrainState,
    train::{self, Hooks, StepMetrics, TrainSpec, Validation},
};
use flow_pipeline::{Misfit, StageError, context::Context, stage::Forecasts, units::Tokens};
use fs_err as fs;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    engine::{data, io, model},
    facts,
};

/// Batches that are prepared ahead.
const PREFETCH: usize = 2;
/// The role of the tokens that [`ValidationParams`] speaks of.
pub(crate) const VALIDATION: &str = "validation";

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

    pub(crate) fn check(self) -> Result<(), Misfit> {
        let Self { sequences, length, accumulate } = self;
        for (name, value) in [("sequences", sequences), ("length", length), ("accumulate", accumulate)] {
            let path = format!("batch.{name}");
            if value == 0 || value > u64::from(u32::MAX) {
                let message = format!("`{path}` is {value}; it must be from 1 to {}", u32::MAX);
                return Err(Misfit::param(path, message));
            }
        }
        if !sequences.is_multiple_of(accumulate) {
            let message =
                format!("`batch.sequences` is {sequences}, which `batch.accumulate` = {accumulate} does not divide");
            return Err(Misfit::param("batch.accumulate", message).also_param("batch.sequences", "the sequences"));
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

/// Scoring of held-out text between updates.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ValidationParams {
    /// Updates between two scorings; the end of the run is always scored.
    pub every: u64,
    /// Tokens that are scored each time, from the beginning of the held-out ones; fewer where there are not so many.
    pub tokens: Tokens,
}

impl Default for ValidationParams {
    fn default() -> Self {
        Self { every: 1000, tokens: Tokens(1 << 20) }
    }
}

impl ValidationParams {
    pub(crate) fn check(self) -> Result<(), Misfit> {
        for (name, value) in [("every", self.every), ("tokens", self.tokens.0)] {
            if value == 0 {
                let path = format!("validation.{name}");
                return Err(Misfit::param(&path, format!("`{path}` is 0; it must be at least 1")));
            }
        }
        Ok(())
    }

    /// The batches that are scored: held-out tokens in their order.
    fn read(self, folder: &Path, batch: BatchParams) -> Result<Validation, StageError> {
        let shards = TokenShards::open(folder, Split::Heldout.name()).map_err(|error| {
            let help = "`validation` needs tokens that are held out: a `tokenize` stage with `split: heldout`";
            data(error).with_help(help)
        })?;
        let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        // Of little text one instance, as long as there is.
        let length = batch.length.min(shards.len_tokens().saturating_sub(1));
        if length == 0 {
            return Err(StageError::new("there are no held-out tokens to score")
                .with_help("hold out more text in the corpus, or leave `validation` out"));
        }
        let (rows, seq) = (size(batch.part()), size(length));
        let instances = pack::instances(shards.len_tokens(), seq).min(self.tokens.0.div_ceil(length));
        let all: Vec<u64> = (0..instances).collect();
        let batches = all.chunks(rows).map(|instances| {
            let mut tokens = Vec::with_capacity(instances.len() * (seq + 1));
            for instance in instances {
                shards.read(pack::instance(shards.len_tokens(), seq, *instance).unwrap_or_default(), &mut tokens)?;
            }
            Ok(TokenBatch { batch: instances.len(), seq, tokens, documents: Vec::new() })
        });
        let batches = batches.collect::<flow_data::Result<_>>().map_err(data)?;
        Ok(Validation { every: self.every, batches })
    }
}

/// Where and how a training stage runs: nothing of it changes a byte.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct TrainingPlaces {
    /// Updates between two checkpoints of the state of the training, from which a cut-off run goes on.
    pub checkpoint_every: u64,
    /// Checkpoints that are kept.
    pub checkpoints: u64,
    /// Whether a block's activations are computed again on the way back instead of kept: less memory, about a quarter more time.
    pub activation_checkpointing: bool,
}

impl Default for TrainingPlaces {
    fn default() -> Self {
        Self { checkpoint_every: 500, checkpoints: 2, activation_checkpointing: false }
    }
}

/// What the inputs of both training kinds must satisfy, `model` being the one that is trained, as far as it is known.
pub(crate) fn fits(
    batch: BatchParams,
    validation: Option<ValidationParams>,
    inputs: &Forecasts,
    model: Option<&ModelConfig>,
) -> Result<(), Misfit> {
    if let Some(config) = model.filter(|config| batch.length > config.max_positions as u64) {
        let BatchParams { length, .. } = batch;
        let message = format!("`batch.length` is {length}, and the model has {} positions", config.max_positions);
        return Err(Misfit::param("batch.length", message)
            .also_param("model.max_positions", "the positions")
            .with_help("lower `batch.length`, or make the model with more `max_positions`"));
    }
    facts::check_split(inputs, "tokens", Split::Train)?;
    facts::check_split(inputs, VALIDATION, Split::Heldout)?;
    match (validation, inputs.contains_key(VALIDATION)) {
        (Some(_), false) => {
            Err(Misfit::param("validation", "`validation` is given, and the stage has no input `validation`")
                .with_help("add the input: tokens of a `tokenize` stage with `split: heldout`"))
        }
        (None, true) => {
            let message = "input `validation` is given, and no param `validation` says how often it is scored";
            Err(Misfit::input(VALIDATION, message)
                .with_help("add the param, such as `validation: { every: 1000, tokens: 1M }`"))
        }
        _ => Ok(()),
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
    pub on_nan: Action,
    pub on_spike: Option<SpikeRule>,
    pub validation: Option<ValidationParams>,
    pub places: TrainingPlaces,
}

impl Run {
    fn spec(&self, schedule: Schedule, validation: Option<Validation>) -> TrainSpec {
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
            on_nan: self.on_nan,
            on_spike: self.on_spike,
            validation,
            recompute: self.places.activation_checkpointing,
        }
    }

    /// Trains `model`, from the stage's last checkpoint if there is one, and writes `metrics.jsonl`.
    pub(crate) fn train(
        &self,
        ctx: &Context,
        trained: &mut Model,
        batches: impl Batches + 'static,
    ) -> Result<Value, StageError> {
        // A plan has neither of them without the other: see `fits`.
        let held_out = self.validation.zip(ctx.optional_input(VALIDATION));
        let validation = held_out.map(|(params, folder)| params.read(folder, self.batch)).transpose()?;
        let spec = self.spec(self.schedule.resolve(self.steps).map_err(model)?, validation);
        let batches = Prefetch::new(Arc::new(batches), PREFETCH);
        let mut log = Log::open(ctx, self)?;
        let start = log.resume()?;
        let trained = train::train(&spec, trained, start, &batches, &mut log);
        let saved = log.saver.wait();
        trained.and(saved).map_err(model)?;
        log.finish()
    }
}

/// The work dir of a training stage.
struct Log<'a> {
    ctx: &'a Context,
    steps: u64,
    saver: Saver,
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
            saver: Saver::new(
                &ctx.scratch().join("checkpoints"),
                usize::try_from(run.places.checkpoints).unwrap_or(usize::MAX),
            ),
            metrics,
            lines: std::io::BufWriter::new(file),
            written: 0,
            last: None,
        })
    }

    /// The state to go on from. Where the metrics of its steps are not all there, training begins anew: an artifact is whole.
    fn resume(&mut self) -> Result<TrainState, StageError> {
        let found = self.saver.latest().map_err(model)?;
        let step = found.as_ref().map_or(0, |state| state.step);
        let lines = self.lines_before(step)?;
        let state = match found {
            Some(state) if lines.len() as u64 == step => {
                self.ctx.note(format!("goes on from step {step} of {}", self.steps));
                state
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
        let StepMetrics { step, tokens, losses, lr, grad_norm, skipped, ref documents, validation, seconds } = *metrics;
        let mut line = json!({
            "step": step,
            "tokens": tokens,
            "loss": losses.ce,
            "z_loss": losses.z,
            "router_z_loss": losses.router_z,
            "lr": lr,
            "grad_norm": grad_norm,
            "skipped": skipped,
        });
        if let Some(validation) = validation {
            line["validation_loss"] = json!(validation);
        }
        if skipped {
            line["documents"] = json!(documents);
            self.ctx.note(format!(
                "step {step} was left out: loss {:.4}, gradient norm {grad_norm:.4}; its documents are in metrics.jsonl",
                losses.loss
            ));
        }
        writeln!(self.lines, "{line}")?;
        self.written = step;
        let rate = tokens as f64 / step.max(1) as f64 / seconds.max(1e-9);
        self.ctx.progress(step, Some(self.steps), "steps");
        let mut measured = json!({
            "step": step,
            "loss": losses.ce,
            "lr": lr,
            "grad_norm": grad_norm,
            "tokens_per_second": rate.round(),
        });
        if let Some(validation) = validation {
            measured["validation_loss"] = json!(validation);
        }
        self.ctx.metrics(measured);
        self.last = Some(line);
        Ok(())
    }

    fn checkpoint(&mut self, state: TrainState) -> flow_model::Result<()> {
        self.lines.flush()?;
        self.lines.get_ref().sync_data()?;
        self.saver.save(state)
    }

    fn cancelled(&self) -> bool {
        self.ctx.is_cancelled()
    }
}
