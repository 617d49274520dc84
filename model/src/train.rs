//! The training loop, in the open.

use crate::adamw::{AdamW, Moments, Update};
use crate::backward::{Gradients, backward};
use crate::clip::{factor, global_norm};
use crate::error::{Error, Result};
use crate::freeze::{Trainable, decays, is_row};
use crate::loss::{Batch, LossWeights, Losses, cross_entropy_of};
use crate::lr::Schedule;
use crate::mask::Sequences;
use crate::olmo2::{Model, weight, whole_tensors};
use crate::spike::{Action, Measured, QUANTITIES, Recent, Spike, SpikeRule};
use crate::state::TrainState;
use crate::weights::Weights;
use burn::tensor::Tensor;
use flow_data::loader::{Batches, TokenBatch};
use std::collections::BTreeSet;
use std::time::Instant;

/// What a run does. Nothing here says where, or with how many threads.
#[derive(Clone, Debug)]
pub struct TrainSpec {
    /// Updates of the whole run; the run goes on from the state's step up to this.
    pub steps: u64,
    /// Batches whose gradients are summed into one update, at least 1. Update s takes batches s·accumulate and on.
    pub accumulate: u64,
    /// Learning rate of each update.
    pub schedule: Schedule,
    /// The optimizer.
    pub optimizer: AdamW,
    /// Largest global norm of the gradients; no clipping where absent.
    pub clip: Option<f64>,
    /// Weights of the losses beside the cross-entropy.
    pub losses: LossWeights,
    /// What is trained.
    pub trainable: Trainable,
    /// Factor on the learning rate of router rows; 0 leaves them as they are.
    pub row_lr: f64,
    /// Whether tokens see only their own document: a document ends with the model's end-of-document token.
    pub mask_documents: bool,
    /// Updates between two checkpoints; none but on cancellation where absent.
    pub checkpoint_every: Option<u64>,
    /// What happens at a loss or a gradient that is no number.
    pub on_nan: Action,
    /// What happens at one that stands out among those before; nothing where absent.
    pub on_spike: Option<SpikeRule>,
    /// What is scored between updates, and when.
    pub validation: Option<Validation>,
    /// Whether a block's activations are computed again on the way back instead of kept: the same bits on the CPU, in less
    /// memory and more time.
    pub recompute: bool,
}

/// Held-out batches, whose loss tells how the run goes.
#[derive(Clone, Debug)]
pub struct Validation {
    /// Updates between two scorings, at least 1; the end of the run is always scored.
    pub every: u64,
    /// What is scored.
    pub batches: Vec<TokenBatch>,
}

/// What one update showed.
#[derive(Clone, Debug, PartialEq)]
pub struct StepMetrics {
    /// Number of the update, from 1: after it the state has this step.
    pub step: u64,
    /// Targets seen up to and with this update, were all batches as large as this one.
    pub tokens: u64,
    /// Means over the update's targets.
    pub losses: Losses,
    /// Learning rate.
    pub lr: f64,
    /// Global norm of the gradients before clipping.
    pub grad_norm: f64,
    /// Whether the update was left out, by [`TrainSpec::on_nan`] or [`TrainSpec::on_spike`].
    pub skipped: bool,
    /// Ids of the documents of an update that was left out.
    pub documents: Vec<u64>,
    /// Mean cross-entropy of the validation batches after the update, in nats a token, where they were scored.
    pub validation: Option<f64>,
    /// Wall-clock time. For progress only: it must not enter an artifact.
    pub seconds: f64,
}

/// What a caller does between updates.
pub trait Hooks {
    /// After each update.
    ///
    /// # Errors
    /// End the run.
    fn on_step(&mut self, metrics: &StepMetrics) -> Result<()>;

    /// Keeps a state from which the run can go on; called every [`TrainSpec::checkpoint_every`] updates, on cancellation, and
    /// before the run ends with [`Error::Diverged`].
    ///
    /// # Errors
    /// End the run.
    fn checkpoint(&mut self, state: TrainState) -> Result<()>;

    /// Whether to stop. Asked before each update.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Keeps what each update showed, and no states.
impl Hooks for Vec<StepMetrics> {
    fn on_step(&mut self, metrics: &StepMetrics) -> Result<()> {
        self.push(metrics.clone());
        Ok(())
    }

    fn checkpoint(&mut self, _: TrainState) -> Result<()> {
        Ok(())
    }
}

/// Trains `model` from `start` to the end of the run; the model then holds the final weights, and so does the state.
///
/// The bytes depend on `spec`, the model's weights, the state and the batches only: not on threads, and not on where a run
/// was cut off and resumed.
///
/// # Errors
/// [`Error::Cancelled`] after a checkpoint; [`Error::Diverged`]; [`Error::Param`] for a spec that says nothing to train; [`Error::Input`] for batches that do not fit the model;
/// [`Error::Mismatch`] for a state of another run; and the hooks' own.
pub fn train(
    spec: &TrainSpec,
    model: &mut Model,
    start: TrainState,
    batches: &dyn Batches,
    hooks: &mut dyn Hooks,
) -> Result<TrainState> {
    spec.trainable.check(model.config())?;
    if spec.accumulate == 0 {
        return Err(Error::Param { param: "accumulate", reason: "an update needs at least one batch".to_owned() });
    }
    model.train_only(&|name| spec.trains(name));
    let mut step = start.step;
    let mut recent = Recent::from(start.recent.clone());
    let mut moments = start.restore(model, &|name| spec.trains(name))?;
    while step < spec.steps {
        if hooks.cancelled() {
            hooks.checkpoint(TrainState::of(model, &moments, recent, step))?;
            return Err(Error::Cancelled);
        }
        let began = Instant::now();
        let lr = spec.schedule.lr(step);

        let first = step * spec.accumulate;
        let parts = (first..first + spec.accumulate).map(|i| batches.batch(i)).collect::<Result<Vec<_>, _>>()?;
        let count: usize = parts.iter().map(|part| part.batch * part.seq).sum();
        let mut losses = Losses::default();
        let mut gradients = Gradients::new();
        for part in &parts {
            let batch = spec.batch(model, part)?;
            losses = losses.plus(backward(model, &batch, count, spec.losses, spec.recompute, &mut gradients)?);
        }

        let grad_norm = global_norm(gradients.values());
        let measured = [losses.loss, grad_norm];
        let wrong = spec.wrong(measured, &recent);
        if let Some((spike, Action::Stop)) = wrong {
            hooks.checkpoint(TrainState::of(model, &moments, recent, step))?;
            return Err(spike.error(step + 1, &parts));
        }
        if let Some(rule) = spec.on_spike.filter(|_| measured.iter().all(|value| value.is_finite())) {
            rule.remember(&mut recent, measured);
        }
        let skipped = wrong.is_some();
        if !skipped {
            let scale = factor(grad_norm, spec.clip);
            for parameter in model.parameters() {
                let Some(gradient) = gradients.remove(&parameter.name) else { continue };
                let lr = if is_row(&parameter.name) { lr * spec.row_lr } else { lr };
                let weight_decay = if decays(&parameter.name) { spec.optimizer.weight_decay } else { 0.0 };
                let moments = moments.entry(parameter.name).or_insert_with(|| Moments::zero(&gradient));
                let nothing = Tensor::empty([0, 0], &gradient.device());
                let value = std::mem::replace(parameter.value, nothing).inner();
                let update = Update { lr, scale, weight_decay, step: step + 1 };
                *parameter.value = spec.optimizer.update(value, gradient, moments, update).autodiff().require_grad();
            }
        }

        step += 1;
        let validation = spec.validation.as_ref().filter(|v| step == spec.steps || v.is_due(step));
        let validation = validation.map(|v| v.loss(model)).transpose()?;
        let (tokens, seconds) = (step * count as u64, began.elapsed().as_secs_f64());
        let documents = if skipped { documents_of(&parts) } else { Vec::new() };
        let metrics = StepMetrics { step, tokens, losses, lr, grad_norm, skipped, documents, validation, seconds };
        hooks.on_step(&metrics)?;
        if step < spec.steps && spec.checkpoint_every.is_some_and(|n| n > 0 && step.is_multiple_of(n)) {
            hooks.checkpoint(TrainState::of(model, &moments, recent.iter().copied(), step))?;
        }
    }
    let end = TrainState::of(model, &moments, recent, step);
    model.train_only(&|_| false);
    Ok(end)
}

/// The losses of one batch and the gradient of every parameter, by its own name (for the parts of a tensor that experts
/// share: summed up again under the tensor's Hugging Face name). For tests and for looking into a model.
///
/// # Errors
/// [`Error::Input`] for a batch that does not fit the model.
pub fn gradients(model: &mut Model, part: &TokenBatch, weights: LossWeights) -> Result<(Losses, Weights)> {
    model.train_only(&|_| true);
    let batch = causal(model, part)?;
    let mut found = Gradients::new();
    let values = backward(model, &batch, part.batch * part.seq, weights, false, &mut found)?;
    let parts = model.parameters().into_iter().filter_map(|parameter| {
        let gradient = found.remove(&parameter.name)?;
        Some((parameter.name, weight(gradient, parameter.vector)))
    });
    let gradients = whole_tensors(parts);
    model.train_only(&|_| false);
    Ok((values, gradients))
}

impl TrainSpec {
    /// Training as plain as it can be: one batch an update, the cross-entropy alone, nothing clipped, masked, checked or kept.
    pub fn new(steps: u64, schedule: Schedule, trainable: Trainable) -> Self {
        Self {
            steps,
            accumulate: 1,
            schedule,
            optimizer: AdamW::default(),
            clip: None,
            losses: LossWeights::default(),
            trainable,
            row_lr: 1.0,
            mask_documents: false,
            checkpoint_every: None,
            on_nan: Action::Stop,
            on_spike: None,
            validation: None,
            recompute: false,
        }
    }

    /// What is wrong with an update after `recent`, and what to do about it.
    fn wrong(&self, now: Measured, recent: &Recent) -> Option<(Spike, Action)> {
        if let Some(i) = now.iter().position(|value| !value.is_finite()) {
            let spike = Spike { quantity: QUANTITIES[i], value: now[i], limit: f64::INFINITY };
            return Some((spike, self.on_nan));
        }
        let rule = self.on_spike?;
        rule.judge(recent, now).map(|spike| (spike, rule.action))
    }

    fn trains(&self, name: &str) -> bool {
        self.trainable.includes(name) && !(self.row_lr == 0.0 && is_row(name))
    }

    fn batch(&self, model: &Model, part: &TokenBatch) -> Result<Batch> {
        let mut batch = causal(model, part)?;
        if self.mask_documents {
            let eos = model.config().eos_token_id;
            let rows = part.tokens.chunks_exact(part.seq + 1);
            let segments: Vec<u32> = rows.flat_map(|row| documents(&row[..part.seq], eos)).collect();
            batch.sequences = Sequences::segmented(part.batch, part.seq, &segments)?;
        }
        Ok(batch)
    }
}

/// A batch whose tokens see all before them.
fn causal(model: &Model, part: &TokenBatch) -> Result<Batch> {
    let (batch, seq) = (part.batch, part.seq);
    let fail = |reason: String| Err(Error::Input { what: "a training batch".to_owned(), reason });
    if part.tokens.len() != batch * (seq + 1) || batch == 0 || seq == 0 {
        return fail(format!("there are {} tokens, not {batch} × ({seq} + 1)", part.tokens.len()));
    }
    if let Some(token) = part.tokens.iter().find(|&&t| t as usize >= model.config().vocab_size) {
        return fail(format!("token {token} is not in the vocabulary of {}", model.config().vocab_size));
    }
    Ok(Batch::new(&part.tokens, seq, Sequences::causal(batch, seq)))
}

/// The number, from 1, of the document that each token of an instance belongs to; `eos` ends a document.
fn documents(row: &[u32], eos: u32) -> impl Iterator<Item = u32> {
    let mut document = 1;
    row.iter().map(move |&token| {
        let own = document;
        document += u32::from(token == eos);
        own
    })
}

impl Losses {
    fn plus(self, other: Self) -> Self {
        Self {
            loss: self.loss + other.loss,
            ce: self.ce + other.ce,
            z: self.z + other.z,
            router_z: self.router_z + other.router_z,
        }
    }
}

impl Moments {
    fn zero(like: &Tensor<2>) -> Self {
        let zero = || Tensor::zeros(like.dims(), &like.device());
        Self { first: zero(), second: zero() }
    }
}

fn documents_of(parts: &[TokenBatch]) -> Vec<u64> {
    let documents: BTreeSet<u64> = parts.iter().flat_map(|part| part.documents.iter().copied()).collect();
    documents.into_iter().collect()
}

impl Spike {
    fn error(self, step: u64, parts: &[TokenBatch]) -> Error {
        let Self { quantity, value, limit } = self;
        let limit = Some(limit).filter(|_| value.is_finite());
        Error::Diverged { step, quantity, value, limit, documents: documents_of(parts) }
    }
}

impl Validation {
    fn is_due(&self, step: u64) -> bool {
        step.is_multiple_of(self.every.max(1))
    }

    /// Mean cross-entropy in nats a token.
    fn loss(&self, model: &Model) -> Result<f64> {
        let still = model.without_gradients();
        let (mut sum, mut count) = (0.0, 0);
        for part in &self.batches {
            let targets = part.batch * part.seq;
            sum += cross_entropy_of(&still, &causal(&still, part)?)? * targets as f64;
            count += targets;
        }
        Ok(sum / count.max(1) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Mixture, ModelConfig};
    use crate::init::initial_weights;
    use crate::numerics::device;
    use crate::ops::check::{as_other_devices, as_reduced_devices};
    use crate::weights::Weight;

    #[test]
    fn a_document_ends_with_its_last_token() {
        assert_eq!(documents(&[5, 0, 7, 8, 0, 0, 9], 0).collect::<Vec<_>>(), [1, 1, 2, 2, 2, 3, 4]);
    }

    struct Texts;

    impl Batches for Texts {
        fn batch(&self, step: u64) -> flow_data::Result<TokenBatch> {
            let token = |i: u64| ((i + step * 99).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) as u32 % 40;
            Ok(TokenBatch { batch: 2, seq: 20, tokens: (0..42).map(token).collect(), documents: vec![step] })
        }
    }

    fn a_mixture() -> (TrainSpec, ModelConfig, Weights) {
        let config = ModelConfig {
            vocab_size: 40,
            hidden_size: 16,
            num_layers: 2,
            num_heads: 2,
            head_dim: 8,
            ffn_hidden: 24,
            rope_theta: 10_000.0,
            norm_eps: 1e-6,
            max_positions: 64,
            eos_token_id: 0,
            pad_token_id: None,
            experts: Some(Mixture::of(["a".to_owned(), "b".to_owned()], 2)),
        };
        let spec = TrainSpec {
            accumulate: 2,
            clip: Some(1.0),
            losses: LossWeights { z: 1e-4, router_z: 1e-3 },
            row_lr: 0.5,
            mask_documents: true,
            ..TrainSpec::new(6, Schedule::constant(3e-3), Trainable::All)
        };
        let mut weights = initial_weights(&config, 3);
        let bias = || Weight { shape: vec![3], data: vec![0.0, -0.3, -0.1] };
        weights.extend((0..2).map(|l| (format!("model.layers.{l}.mlp.gate.bias"), bias())));
        (spec, config, weights)
    }

    fn run(spec: &TrainSpec, config: &ModelConfig, weights: &Weights) -> (Vec<StepMetrics>, Weights) {
        let mut model = Model::new(config, weights, &device("cpu").unwrap()).unwrap();
        let mut curve = Vec::new();
        train(spec, &mut model, TrainState::start(), &Texts, &mut curve).unwrap();
        (curve, model.weights())
    }

    /// bf16 products move a curve by about their rounding, and the weights that they train stay f32.
    #[test]
    fn bf16_products_train_alike() {
        let (spec, config, weights) = a_mixture();
        let run = || run(&spec, &config, &weights);
        let ((full, _), (reduced, end)) = (as_other_devices(run), as_reduced_devices(run));
        assert!(full.iter().zip(&reduced).any(|(a, b)| a.losses.loss != b.losses.loss), "nothing was rounded");
        for (a, b) in full.iter().zip(&reduced) {
            assert!((a.losses.loss - b.losses.loss).abs() < 5e-3, "{a:?} {b:?}");
            // AdamW moves a weight whose gradient is rounding error by the learning rate in either direction.
            assert!((a.grad_norm - b.grad_norm).abs() < 5e-2 * a.grad_norm, "{a:?} {b:?}");
        }
        assert!(reduced[5].losses.loss < reduced[0].losses.loss);
        let mut trained = end.values().flat_map(|weight| &weight.data);
        assert!(trained.any(|&x| half::bf16::from_f32(x).to_f32() != x), "weights were rounded");
    }

    #[test]
    fn other_devices_train_alike() {
        let (spec, config, weights) = a_mixture();
        let run = || run(&spec, &config, &weights);
        let ((fused, end), (composed, other)) = (run(), as_other_devices(run));
        for (a, b) in fused.iter().zip(&composed) {
            assert!((a.losses.loss - b.losses.loss).abs() < 1e-4, "{a:?} {b:?}");
            assert!((a.grad_norm - b.grad_norm).abs() < 1e-3 * b.grad_norm, "{a:?} {b:?}");
        }
        assert!(fused[5].losses.loss < fused[0].losses.loss);
        // AdamW moves a weight whose gradient is rounding error by the learning rate in either direction.
        for (name, weight) in &end {
            let far = weight.data.iter().zip(&other[name].data).filter(|(a, b)| (*a - *b).abs() > 1e-3).count();
            assert!(far * 100 <= weight.data.len(), "{name}: {far} of {}", weight.data.len());
        }
        let bias = &end["model.layers.0.mlp.gate.bias"].data;
        assert!(bias[0] == 0.0 && bias[1] != -0.3);
    }
}
