//! Speed of training and scoring, for docs/PERFORMANCE.md:
//!
//! ```text
//! cargo run --release -p flow-model --example speed -- nano|study [threads] [steps] [only]
//! ```
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measuring script")]

use flow_data::loader::{Batches, TokenBatch};
use flow_model::adamw::AdamW;
use flow_model::config::{Mixture, ModelConfig};
use flow_model::error::Result;
use flow_model::freeze::Trainable;
use flow_model::init::initial_weights;
use flow_model::loss::LossWeights;
use flow_model::lr::Schedule;
use flow_model::numerics;
use flow_model::olmo2::Model;
use flow_model::score::{ModelScorer, ScoreRequest, Scorer};
use flow_model::spike::Action;
use flow_model::state::TrainState;
use flow_model::train::{Hooks, StepMetrics, TrainSpec, train};
use std::time::Instant;

struct Noise {
    vocab: u32,
    batch: usize,
    seq: usize,
}

impl Noise {
    fn tokens(&self, step: u64, n: usize) -> Vec<u32> {
        (0..n as u64)
            .map(|i| ((step * 7919 + i).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) as u32 % self.vocab)
            .collect()
    }
}

impl Batches for Noise {
    fn batch(&self, step: u64) -> flow_data::Result<TokenBatch> {
        let tokens = self.tokens(step, self.batch * (self.seq + 1));
        Ok(TokenBatch { batch: self.batch, seq: self.seq, tokens, documents: Vec::new() })
    }
}

#[derive(Default)]
struct Times(Vec<f64>, f64);

impl Hooks for Times {
    fn on_step(&mut self, metrics: &StepMetrics) -> Result<()> {
        self.0.push(metrics.seconds);
        self.1 = metrics.losses.loss;
        Ok(())
    }

    fn checkpoint(&mut self, _: TrainState) -> Result<()> {
        Ok(())
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let number = |i: usize, default: usize| args.get(i).and_then(|a| a.parse().ok()).unwrap_or(default);
    let nano = args.get(1).is_none_or(|a| a == "nano");
    numerics::set_threads(number(2, 2)).unwrap();
    numerics::keep_memory();
    let (d, layers, heads, ffn, vocab, batch, seq) =
        if nano { (128, 4, 4, 384, 4096, 16, 256) } else { (256, 8, 8, 768, 8192, 8, 256) };
    let dense = ModelConfig {
        vocab_size: vocab,
        hidden_size: d,
        num_layers: layers,
        num_heads: heads,
        head_dim: d / heads,
        ffn_hidden: ffn,
        rope_theta: 500_000.0,
        norm_eps: 1e-6,
        max_positions: 4096,
        eos_token_id: 0,
        pad_token_id: None,
        experts: None,
    };
    let device = numerics::device("cpu").unwrap();
    let noise = Noise { vocab: vocab as u32, batch, seq };
    let steps = number(3, 8) as u64;
    let wanted = |what: &str| args.get(4).is_none_or(|only| what.contains(only.as_str()));
    let names = |n: usize| (1..n).map(|i| format!("e{i}"));
    for (what, experts, trainable) in [("dense", 1, Trainable::All), ("expert", 2, Trainable::Expert(1))] {
        if !wanted(&format!("train {what}")) {
            continue;
        }
        let config = if experts == 1 { dense.clone() } else { dense.with_experts(Mixture::of(names(experts), 2)) };
        let mut model = Model::new(&config, &initial_weights(&config, 1), &device).unwrap();
        let spec = TrainSpec {
            steps,
            accumulate: 1,
            schedule: Schedule::constant(1e-3),
            optimizer: AdamW::default(),
            clip: Some(1.0),
            losses: LossWeights { z: 1e-5, router_z: if experts > 1 { 1e-3 } else { 0.0 } },
            trainable,
            row_lr: 1.0,
            mask_documents: false,
            checkpoint_every: None,
            on_nan: Action::Stop,
            on_spike: None,
            validation: None,
            recompute: false,
        };
        let mut times = Times::default();
        train(&spec, &mut model, TrainState::start(), &noise, &mut times).unwrap();
        let loss = times.1;
        let mut times: Vec<f64> = times.0.into_iter().skip(2).collect();
        times.sort_by(f64::total_cmp);
        let (min, median) = (times[0], times[times.len() / 2]);
        let speed = (batch * seq) as f64 / median;
        println!("train {what:7} median {median:.4} s, min {min:.4} s a step, {speed:.0} tokens/s, loss {loss:.6}");
    }
    for (what, experts, top_k) in [("dense", 1, 1), ("6, top 4", 6, 4), ("8, top 2", 8, 2), ("2, top 2", 2, 2)] {
        if !wanted(&format!("score {what}")) {
            continue;
        }
        let config = if experts == 1 { dense.clone() } else { dense.with_experts(Mixture::of(names(experts), top_k)) };
        let model = Model::new(&config, &initial_weights(&config, 1), &device).unwrap();
        let requests: Vec<ScoreRequest> = (0..64).map(|i| ScoreRequest::text(noise.tokens(i, 256))).collect();
        let scorer = ModelScorer::new(&model);
        scorer.log_probs(&requests).unwrap();
        let began = Instant::now();
        scorer.log_probs(&requests).unwrap();
        println!("score {what:9} {:.0} tokens/s", 64.0 * 256.0 / began.elapsed().as_secs_f64());
    }
}
