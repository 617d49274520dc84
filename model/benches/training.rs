//! Updates of a training and passes of a model at the sizes of docs/PERFORMANCE.md, 8 × 256 tokens each, on two threads.
//!
//! ```text
//! cargo bench --workspace --bench training                  all of them
//! benches/against-pytorch                                   each beside the same step in PyTorch
//! ```
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark")]

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use divan::{Bencher, counter::ItemsCount};
use flow_data::loader::{Batches, TokenBatch};
use flow_model::config::{Mixture, ModelConfig};
use flow_model::error::Result;
use flow_model::freeze::Trainable;
use flow_model::init::initial_weights;
use flow_model::loss::LossWeights;
use flow_model::lr::Schedule;
use flow_model::numerics;
use flow_model::olmo2::Model;
use flow_model::score::{ModelScorer, ScoreRequest, Scorer};
use flow_model::state::TrainState;
use flow_model::train::{Hooks, StepMetrics, TrainSpec, train};

const VOCAB: usize = 8192;
const BATCH: usize = 8;
const LENGTH: usize = 256;

/// `OLMo` 2 of 8 layers of this width.
fn dense(width: usize) -> ModelConfig {
    ModelConfig {
        vocab_size: VOCAB,
        hidden_size: width,
        num_layers: 8,
        num_heads: 8,
        head_dim: width / 8,
        ffn_hidden: 3 * width,
        rope_theta: 500_000.0,
        norm_eps: 1e-6,
        max_positions: 4096,
        eos_token_id: 0,
        pad_token_id: None,
        experts: None,
    }
}

fn mixture(width: usize, experts: usize, top_k: usize) -> ModelConfig {
    dense(width).with_experts(Mixture::of((1..experts).map(|e| format!("e{e}")), top_k))
}

fn model(config: &ModelConfig) -> Model {
    numerics::set_threads(2).unwrap();
    numerics::keep_memory();
    Model::new(config, &initial_weights(config, 1), &numerics::device("cpu").unwrap()).unwrap()
}

/// Tokens that no model can learn.
struct Noise;

impl Noise {
    fn tokens(step: u64, n: usize) -> Vec<u32> {
        let token = |i: u64| ((step * 7919 + i).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) as u32 % VOCAB as u32;
        (0..n as u64).map(token).collect()
    }
}

impl Batches for Noise {
    fn batch(&self, step: u64) -> flow_data::Result<TokenBatch> {
        let tokens = Self::tokens(step, BATCH * (LENGTH + 1));
        Ok(TokenBatch { batch: BATCH, seq: LENGTH, tokens, documents: Vec::new() })
    }
}

/// Makes the loop wait before each update until it is asked for, so that one is timed at a time.
struct Paced {
    go: Receiver<()>,
    done: SyncSender<()>,
    over: bool,
}

impl Hooks for Paced {
    fn on_step(&mut self, _: &StepMetrics) -> Result<()> {
        self.over = self.done.send(()).is_err() || self.go.recv().is_err();
        Ok(())
    }

    fn checkpoint(&mut self, _: TrainState) -> Result<()> {
        Ok(())
    }

    fn cancelled(&self) -> bool {
        self.over
    }
}

/// Times one update after another of a training that goes on meanwhile.
fn updates(bencher: Bencher<'_, '_>, config: ModelConfig, trainable: Trainable, recompute: bool) {
    let spec = TrainSpec {
        clip: Some(1.0),
        losses: LossWeights { z: 1e-5, router_z: if config.experts.is_some() { 1e-3 } else { 0.0 } },
        recompute,
        ..TrainSpec::new(u64::MAX, Schedule::constant(1e-3), trainable)
    };
    let (go, asked) = sync_channel(0);
    let (done, ended) = sync_channel(0);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut model = model(&config);
            let mut hooks = Paced { go: asked, done, over: false };
            drop(train(&spec, &mut model, TrainState::start(), &Noise, &mut hooks));
        });
        // The first ones also do what is only done once.
        ended.recv().unwrap();
        let update = || {
            go.send(()).unwrap();
            ended.recv().unwrap();
        };
        update();
        bencher.counter(tokens()).bench_local(update);
        drop(go);
    });
}

/// Times the probabilities of a batch's tokens: a pass without a way back.
fn passes(bencher: Bencher<'_, '_>, config: ModelConfig) {
    let model = model(&config);
    let scorer = ModelScorer::new(&model);
    let requests: Vec<ScoreRequest> = (0..BATCH as u64).map(|i| ScoreRequest::text(Noise::tokens(i, LENGTH))).collect();
    bencher.counter(tokens()).bench_local(|| scorer.log_probs(&requests).unwrap());
}

/// Tokens of one call.
fn tokens() -> ItemsCount {
    ItemsCount::new(BATCH * LENGTH)
}

#[divan::bench_group(sample_count = 10, sample_size = 1)]
mod train_step {
    use super::{Bencher, Trainable, mixture, updates};

    #[divan::bench(args = [256, 512])]
    fn dense(bencher: Bencher<'_, '_>, width: usize) {
        updates(bencher, super::dense(width), Trainable::All, false);
    }

    #[divan::bench(args = [256, 512])]
    fn dense_recomputed(bencher: Bencher<'_, '_>, width: usize) {
        updates(bencher, super::dense(width), Trainable::All, true);
    }

    /// One expert beside the frozen public one.
    #[divan::bench(args = [256, 512])]
    fn expert(bencher: Bencher<'_, '_>, width: usize) {
        updates(bencher, mixture(width, 2, 2), Trainable::Expert(1), false);
    }
}

#[divan::bench_group(sample_count = 10, sample_size = 1)]
mod forward {
    use super::{Bencher, mixture, passes};

    #[divan::bench]
    fn dense(bencher: Bencher<'_, '_>) {
        passes(bencher, super::dense(256));
    }

    /// The number of experts, and of those that a token is sent to.
    #[divan::bench(args = ["2 top 2", "8 top 2", "8 top 4", "8 top 8"])]
    fn experts(bencher: Bencher<'_, '_>, sizes: &str) {
        let (experts, top_k) = sizes.split_once(" top ").unwrap();
        passes(bencher, mixture(256, experts.parse().unwrap(), top_k.parse().unwrap()));
    }
}

fn main() {
    divan::main();
}
