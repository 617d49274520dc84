//! The same numbers on a GPU as on the CPU, within 1e-3. Any adapter will do, Mesa's software Vulkan (llvmpipe) too; where
//! there is none the tests say so and pass, unless `FLOW_WGPU=required`.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

use flow_data::loader::{Batches, TokenBatch};
use flow_model::config::{Mixture, ModelConfig};
use flow_model::embed::embed;
use flow_model::freeze::Trainable;
use flow_model::generate::{Generated, Sampling, generate};
use flow_model::init::initial_weights;
use flow_model::loss::LossWeights;
use flow_model::lr::Schedule;
use flow_model::mask::Sequences;
use flow_model::numerics::{Device, device};
use flow_model::olmo2::Model;
use flow_model::preset::Preset;
use flow_model::score::{ModelScorer, ScoreRequest, Scorer};
use flow_model::state::TrainState;
use flow_model::train::{StepMetrics, TrainSpec, gradients, train};
use flow_model::upcycle::beside_public;
use flow_model::weights::{Weight, Weights};
use std::ops::ControlFlow;
use std::path::PathBuf;

const TOLERANCE: f64 = 1e-3;

/// The CPU, then the GPU.
fn devices() -> Option<[Device; 2]> {
    match device("wgpu") {
        Ok(gpu) => Some([device("cpu").unwrap(), gpu]),
        Err(error) => {
            let required = std::env::var("FLOW_WGPU").is_ok_and(|value| value == "required");
            assert!(!required, "{error}");
            eprintln!("skipped: {error}");
            None
        }
    }
}

fn dense() -> ModelConfig {
    Preset::Tiny.config()
}

fn mixture(count: usize, top_k: usize) -> ModelConfig {
    dense().with_experts(Mixture::of((1..count).map(|e| format!("e{e}")), top_k))
}

/// Fresh weights, larger than those of a real model so that attention, routing and logits are far from uniform.
fn weights(config: &ModelConfig, seed: u64) -> Weights {
    let mut weights = initial_weights(config, seed);
    for weight in weights.values_mut().filter(|w| w.shape.len() == 2) {
        weight.data.iter_mut().for_each(|x| *x *= 6.0);
    }
    if let Some(experts) = &config.experts {
        let bias = |e: usize| if e == 0 { 0.0 } else { -0.2 * e as f32 };
        for layer in 0..config.num_layers {
            let data = (0..experts.count).map(bias).collect();
            weights.insert(format!("model.layers.{layer}.mlp.gate.bias"), Weight { shape: vec![experts.count], data });
        }
    }
    weights
}

/// Words of a small language: what is learned lowers the loss.
fn tokens(n: usize, seed: u64) -> Vec<u32> {
    let noise = |i: u64| (i + 1 + seed * 1000).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    (0..n as u64).map(|i| ((i * 7 + noise(i) % 3) % 40 + u64::from(i % 17 != 0)) as u32).collect()
}

fn worst<'a>(a: impl IntoIterator<Item = &'a f32>, b: impl IntoIterator<Item = &'a f32>) -> f64 {
    let (a, b): (Vec<_>, Vec<_>) = (a.into_iter().collect(), b.into_iter().collect());
    assert_eq!(a.len(), b.len());
    assert!(a.iter().chain(&b).all(|x| x.is_finite()));
    a.iter().zip(&b).map(|(a, b)| f64::from((*a - *b).abs())).fold(0.0, f64::max)
}

fn logits_agree(config: &ModelConfig, weights: &Weights, text: &[u32], sequences: &Sequences) -> Vec<f32> {
    let [cpu, gpu] = devices().unwrap().map(|device| {
        let model = Model::new(config, weights, &device).unwrap();
        model.logits(text, sequences).unwrap()
    });
    let spread = cpu.iter().fold(0f32, |top, x| top.max(x.abs()));
    assert!(spread > 0.1, "logits up to {spread} would agree whatever was computed");
    let worst = worst(&cpu, &gpu);
    eprintln!("{} layers, {:?}: logits up to {spread:.2}, apart by {worst:.1e}", config.num_layers, config.experts);
    assert!(worst < TOLERANCE, "logits differ by up to {worst}");
    gpu
}

#[test]
fn logits_of_a_dense_model() {
    if devices().is_none() {
        return;
    }
    let segments: Vec<u32> = [vec![0; 9], vec![1; 13], vec![2; 10], vec![1; 32]].concat();
    let sequences = Sequences::segmented(2, 32, &segments).unwrap();
    logits_agree(&dense(), &weights(&dense(), 1), &tokens(64, 1), &sequences);
}

#[test]
fn logits_of_a_mixture() {
    if devices().is_none() {
        return;
    }
    let sequences = Sequences::causal(2, 24);
    for config in [mixture(4, 2), mixture(3, 3)] {
        logits_agree(&config, &weights(&config, 2), &tokens(48, 2), &sequences);
    }
}

/// Logits that transformers gave, recorded beside the checkout; without that folder nothing is compared.
#[test]
fn logits_of_transformers() {
    if devices().is_none() {
        return;
    }
    let tensors = |path: PathBuf| -> Weights {
        let bytes = std::fs::read(path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let numbers = |data: &[u8]| data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        let weight = |t: &safetensors::tensor::TensorView<'_>| (t.shape().to_vec(), numbers(t.data()));
        let named = |(name, t): (String, _)| {
            let (shape, data) = weight(&t);
            (name, Weight { shape, data })
        };
        file.tensors().into_iter().map(named).collect()
    };
    for name in ["olmo2-dense", "flexolmo-3-top2", "flexolmo-4-top4"] {
        let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/reference")).join(name);
        if !folder.exists() {
            eprintln!("skipped: {} is not there", folder.display());
            continue;
        }
        let config = ModelConfig::read(&folder.join("config.json")).unwrap();
        let batches: Vec<Vec<Vec<u32>>> =
            serde_json::from_slice(&std::fs::read(folder.join("batch.json")).unwrap()).unwrap();
        let rows = &batches[0];
        let sequences = Sequences::causal(rows.len(), rows[0].len());
        let weights = tensors(folder.join("model.safetensors"));
        let found = logits_agree(&config, &weights, &rows.concat(), &sequences);
        let worst = worst(&found, &tensors(folder.join("logits.safetensors"))["logits"].data);
        assert!(worst < TOLERANCE, "{name}: logits differ by up to {worst} from those recorded");
    }
}

struct Language;

impl Batches for Language {
    fn batch(&self, step: u64) -> flow_data::Result<TokenBatch> {
        Ok(TokenBatch { batch: 2, seq: 32, tokens: tokens(66, step), documents: vec![step] })
    }
}

fn spec(steps: u64, trainable: Trainable) -> TrainSpec {
    TrainSpec {
        clip: Some(1.0),
        losses: LossWeights { z: 1e-5, router_z: 1e-3 },
        row_lr: 0.5,
        mask_documents: true,
        ..TrainSpec::new(steps, Schedule::constant(2e-3), trainable)
    }
}

fn trained(spec: &TrainSpec, model: &mut Model, start: TrainState) -> (Vec<StepMetrics>, TrainState) {
    let mut curve = Vec::new();
    let end = train(spec, model, start, &Language, &mut curve).unwrap();
    (curve, end)
}

/// 20 steps on both; the GPU's weights after them.
fn curves_agree(config: &ModelConfig, weights: &Weights, trainable: Trainable) -> Option<Weights> {
    let spec = spec(20, trainable);
    let [(cpu, _), (gpu, end)] = devices()?.map(|device| {
        let mut model = Model::new(config, weights, &device).unwrap();
        let (curve, _) = trained(&spec, &mut model, TrainState::start());
        (curve, model.weights())
    });
    assert_eq!((cpu.len(), gpu.len()), (20, 20));
    let mut worst = 0f64;
    for (a, b) in cpu.iter().zip(&gpu) {
        worst = worst.max((a.losses.loss - b.losses.loss).abs());
        assert!((a.losses.loss - b.losses.loss).abs() < TOLERANCE, "{a:?} {b:?}");
        assert!((a.losses.router_z - b.losses.router_z).abs() < TOLERANCE, "{a:?} {b:?}");
        assert!((a.grad_norm - b.grad_norm).abs() < TOLERANCE * a.grad_norm.max(1.0), "{a:?} {b:?}");
    }
    let ends = [cpu[0].losses.loss, cpu[19].losses.loss];
    assert!(ends[1] < ends[0] - 0.2, "nothing was learned: {ends:?}");
    eprintln!("{trainable:?}: loss {:.4} → {:.4}, curves apart by {worst:.1e}", ends[0], ends[1]);
    Some(end)
}

#[test]
fn twenty_steps_of_a_dense_model() {
    curves_agree(&dense(), &weights(&dense(), 3), Trainable::All);
}

#[test]
fn twenty_steps_of_one_expert_beside_the_frozen_public_one() {
    let public = weights(&dense(), 4);
    let row = |from: f32| {
        let data = (0..dense().hidden_size).map(|i| (i as f32 * 0.7 + from).sin() * 0.04).collect();
        Weight::new(vec![dense().hidden_size], data).unwrap()
    };
    let (config, start) = beside_public(&dense(), &public, "news", &row(0.0), &row(1.0), true).unwrap();
    let Some(end) = curves_agree(&config, &start, Trainable::Expert(1)) else { return };
    for (name, weight) in &start {
        let own = name.contains(".experts.1.");
        if own || !name.contains(".mlp.gate.") {
            assert_eq!(*weight != end[name], own, "{name}");
        }
    }
}

#[test]
fn gradients_of_a_mixture() {
    let Some(devices) = devices() else { return };
    let config = mixture(3, 2);
    let weights = weights(&config, 5);
    let [(a, cpu), (b, gpu)] = devices.map(|device| {
        let mut model = Model::new(&config, &weights, &device).unwrap();
        gradients(&mut model, &Language.batch(0).unwrap(), LossWeights { z: 1e-4, router_z: 1e-3 }).unwrap()
    });
    assert!((a.loss - b.loss).abs() < TOLERANCE, "{a:?} {b:?}");
    assert!(cpu.keys().eq(gpu.keys()));
    for (name, gradient) in &cpu {
        let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
        let all = norm(&mut gradient.data.iter().copied());
        let apart = norm(&mut gradient.data.iter().zip(&gpu[name].data).map(|(a, b)| a - b));
        assert!(apart <= TOLERANCE * (all + 1e-3), "{name}: {apart:e} of {all:e}");
    }
}

/// A run cut in two goes on as if it had not been: the state leaves the GPU and comes back.
#[test]
fn a_run_goes_on_from_its_state() {
    let Some([_, gpu]) = devices() else { return };
    let weights = weights(&dense(), 6);
    let model = || Model::new(&dense(), &weights, &gpu).unwrap();
    let (whole, _) = trained(&spec(6, Trainable::All), &mut model(), TrainState::start());
    let mut other = model();
    let (_, state) = trained(&spec(3, Trainable::All), &mut other, TrainState::start());
    assert_eq!((state.step, state.first_moments.len()), (3, state.parameters.len()));
    let (rest, _) = trained(&spec(6, Trainable::All), &mut model(), state);
    for (a, b) in whole[3..].iter().zip(&rest) {
        assert_eq!(a.step, b.step);
        assert!((a.losses.loss - b.losses.loss).abs() < 1e-4, "{a:?} {b:?}");
    }
}

#[test]
fn generation_scores_and_rows() {
    let Some(devices) = devices() else { return };
    let config = mixture(3, 2);
    let weights = weights(&config, 7);
    let prompt = tokens(6, 3);
    let documents = [tokens(20, 4), tokens(9, 5)];
    let requests = [
        ScoreRequest::text(tokens(20, 6)),
        ScoreRequest::continuations(&tokens(7, 7), &[tokens(3, 8), tokens(2, 9)]).unwrap(),
    ];
    let [cpu, gpu] = devices.map(|device| {
        let model = Model::new(&config, &weights, &device).unwrap();
        let mut steps: Vec<Generated> = Vec::new();
        let mut each = |step: &Generated| {
            steps.push(step.clone());
            ControlFlow::Continue(())
        };
        generate(&model, &prompt, 8, &[1], Sampling::GREEDY, &mut each).unwrap();
        let scores = ModelScorer::new(&model).log_probs(&requests).unwrap().concat();
        let without = ModelScorer::without(&model, &[2]).unwrap().log_probs(&requests).unwrap().concat();
        (steps, scores, without, embed(&model, &documents, 16).unwrap().row)
    });
    assert!(!cpu.0.is_empty() && cpu.0.len() == gpu.0.len());
    for (a, b) in cpu.0.iter().zip(&gpu.0) {
        assert_eq!(a.token, b.token);
        assert!((a.log_prob - b.log_prob).abs() < TOLERANCE, "{a:?} {b:?}");
        assert!(b.experts[1] == 0.0 && a.experts.iter().zip(&b.experts).all(|(a, b)| (a - b).abs() < TOLERANCE));
    }
    assert!(worst(&cpu.1, &gpu.1) < TOLERANCE);
    assert!(worst(&cpu.2, &gpu.2) < TOLERANCE);
    assert!(worst(&cpu.1, &cpu.2) > TOLERANCE, "the expert that was left out had no part");
    assert!(worst(&cpu.3, &gpu.3) < TOLERANCE);
}
