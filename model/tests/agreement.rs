//! Agreement with Hugging Face transformers and `PyTorch`, recorded in `shared/reference` (its README gives the
//! tolerances). Without that folder the tests print so and pass.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

use flow_data::loader::{Batches, TokenBatch};
use flow_model::adamw::AdamW;
use flow_model::config::ModelConfig;
use flow_model::freeze::Trainable;
use flow_model::loss::LossWeights;
use flow_model::lr::{ScheduleParams, Shape};
use flow_model::mask::Sequences;
use flow_model::numerics::device;
use flow_model::olmo2::Model;
use flow_model::state::TrainState;
use flow_model::train::{StepMetrics, TrainSpec, gradients, train};
use flow_model::weights::{Weight, Weights};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

struct Case {
    model: Model,
    batches: Vec<Vec<Vec<u32>>>,
    expected: Value,
    logits: Vec<f32>,
}

fn tensors(path: PathBuf) -> Weights {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let weight = |t: &safetensors::tensor::TensorView<'_>| {
        let data = t.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        Weight { shape: t.shape().to_vec(), data }
    };
    file.tensors().iter().map(|(name, t)| (name.clone(), weight(t))).collect()
}

fn case(name: &str) -> Option<Case> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/reference")).join(name);
    if !folder.exists() {
        eprintln!("skipped: {} is not there", folder.display());
        return None;
    }
    let json = |file: &str| -> Value { serde_json::from_slice(&std::fs::read(folder.join(file)).unwrap()).unwrap() };
    let config = ModelConfig::read(&folder.join("config.json")).unwrap();
    let model = Model::new(&config, &tensors(folder.join("model.safetensors")), &device("cpu").unwrap()).unwrap();
    Some(Case {
        model,
        batches: serde_json::from_value(json("batch.json")).unwrap(),
        expected: json("expected.json"),
        logits: tensors(folder.join("logits.safetensors")).remove("logits").unwrap().data,
    })
}

const LOSSES: LossWeights = LossWeights { z: 1e-5, router_z: 0.0 };

impl Case {
    fn batch(&self, i: usize) -> TokenBatch {
        let rows = &self.batches[i % self.batches.len()];
        TokenBatch { batch: rows.len(), seq: rows[0].len() - 1, tokens: rows.concat(), documents: Vec::new() }
    }

    fn check_outputs(&mut self) {
        let rows = &self.batches[0];
        let (tokens, sequences) = (rows.concat(), Sequences::causal(rows.len(), rows[0].len()));
        let logits = self.model.logits(&tokens, &sequences).unwrap();
        assert_eq!(logits.len(), self.logits.len());
        let worst = logits.iter().zip(&self.logits).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(worst < 2e-4, "logits differ by up to {worst}");

        if let Some(layers) = self.expected["router_probabilities"].as_array() {
            let all = self.model.router_probabilities(&tokens, &sequences).unwrap();
            assert_eq!(all.len(), layers.len());
            for (layer, want) in all.iter().zip(layers) {
                let want: Vec<Vec<f32>> = serde_json::from_value(want.clone()).unwrap();
                for (p, want) in layer.iter().flatten().zip(want.iter().flatten()) {
                    assert!((p - want).abs() < 1e-5, "router probability {p}, not {want}");
                }
            }
        }
    }

    fn check_gradients(&mut self) {
        let batch = self.batch(0);
        let (losses, gradients) = gradients(&mut self.model, &batch, LOSSES).unwrap();
        for (found, name) in [(losses.ce, "ce"), (losses.z, "z")] {
            let want = self.expected[name].as_f64().unwrap();
            assert!((found - want).abs() < 1e-5, "{name} is {found}, not {want}");
        }
        // transformers holds the experts of a layer in two tensors, gate and up in one.
        let mut squares: BTreeMap<String, f64> = BTreeMap::new();
        for (name, gradient) in &gradients {
            let name = match name.split_once(".mlp.experts.") {
                Some((layer, rest)) if rest.contains("down_proj") => format!("{layer}.mlp.experts.down_proj"),
                Some((layer, _)) => format!("{layer}.mlp.experts.gate_up_proj"),
                None => name.clone(),
            };
            let square: f64 = gradient.data.iter().map(|&g| f64::from(g).powi(2)).sum();
            *squares.entry(name).or_default() += square;
        }
        let want = self.expected["grad_norm"].as_object().unwrap();
        assert_eq!(
            squares.keys().collect::<Vec<_>>(),
            want.keys().collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>()
        );
        for (name, square) in squares {
            let (found, want) = (square.sqrt(), want[&name].as_f64().unwrap());
            assert!((found - want).abs() < 1e-3 * want, "gradient norm of {name} is {found}, not {want}");
        }
    }

    fn check_trajectory(&mut self, trainable: Trainable) {
        let recipe = &self.expected["trajectory"];
        let steps = recipe["steps"].as_u64().unwrap();
        let schedule = ScheduleParams {
            shape: Shape::Cosine,
            peak: recipe["lr"].as_f64().unwrap(),
            floor: 0.1,
            warmup_steps: recipe["warmup"].as_u64().unwrap(),
            horizon_steps: None,
            decay_steps: None,
        };
        let spec = TrainSpec {
            optimizer: AdamW { weight_decay: recipe["weight_decay"].as_f64().unwrap(), ..AdamW::default() },
            clip: Some(1.0),
            losses: LOSSES,
            ..TrainSpec::new(steps, schedule.resolve(steps).unwrap(), trainable)
        };
        let batches = Fixed((0..self.batches.len()).map(|i| self.batch(i)).collect());
        let mut seen: Vec<StepMetrics> = Vec::new();
        train(&spec, &mut self.model, TrainState::start(), &batches, &mut seen).unwrap();
        let points = recipe["points"].as_array().unwrap();
        assert_eq!(seen.len(), points.len());
        for (found, want) in seen.iter().zip(points) {
            let want = |name: &str| want[name].as_f64().unwrap();
            assert!((found.lr - want("lr")).abs() < 1e-12, "step {}: lr {}, not {}", found.step, found.lr, want("lr"));
            assert!(
                (found.losses.ce - want("ce")).abs() < 1e-3,
                "step {}: {} {}",
                found.step,
                found.losses.ce,
                want("ce")
            );
            assert!((found.losses.z - want("z")).abs() < 1e-3, "step {}", found.step);
            assert!((found.grad_norm - want("grad_norm")).abs() < 5e-3 * want("grad_norm"), "step {}", found.step);
        }
    }
}

struct Fixed(Vec<TokenBatch>);

impl Batches for Fixed {
    fn batch(&self, step: u64) -> flow_data::Result<TokenBatch> {
        Ok(self.0[step as usize % self.0.len()].clone())
    }
}

#[test]
fn dense() {
    let Some(mut case) = case("olmo2-dense") else { return };
    case.check_outputs();
    case.check_gradients();
    case.check_trajectory(Trainable::All);
}

#[test]
fn three_experts_of_which_two_are_chosen() {
    let Some(mut case) = case("flexolmo-3-top2") else { return };
    case.check_outputs();
    case.check_gradients();
}

#[test]
fn four_experts_all_chosen() {
    let Some(mut case) = case("flexolmo-4-top4") else { return };
    case.check_outputs();
    case.check_gradients();
}

#[test]
fn one_expert_beside_the_frozen_public_one() {
    let Some(mut case) = case("flexolmo-2-expert-training") else { return };
    case.check_outputs();
    case.check_gradients();
    case.check_trajectory(Trainable::Expert(1));
}
