//! What must hold of the model, its training and its scores whatever the numbers are.
#![allow(clippy::unwrap_used, reason = "tests")]

use flow_data::loader::{Batches, TokenBatch};
use flow_model::config::{Mixture, ModelConfig};
use flow_model::embed::embed;
use flow_model::error::{Error, Result};
use flow_model::freeze::Trainable;
use flow_model::generate::{Sampling, generate};
use flow_model::init::initial_weights;
use flow_model::loss::LossWeights;
use flow_model::lr::Schedule;
use flow_model::mask::Sequences;
use flow_model::numerics::device;
use flow_model::olmo2::Model;
use flow_model::score::{Ensemble, ModelScorer, ScoreRequest, Scorer};
use flow_model::spike::{Action, SpikeRule};
use flow_model::state::TrainState;
use flow_model::train::{Hooks, StepMetrics, TrainSpec, Validation, train};
use flow_model::weights::{Weight, Weights};
use std::ops::ControlFlow;

const VOCAB: usize = 50;

fn dense() -> ModelConfig {
    ModelConfig {
        vocab_size: VOCAB,
        hidden_size: 24,
        num_layers: 2,
        num_heads: 3,
        head_dim: 8,
        ffn_hidden: 40,
        rope_theta: 10_000.0,
        norm_eps: 1e-6,
        max_positions: 512,
        eos_token_id: 0,
        pad_token_id: None,
        experts: None,
    }
}

fn mixture(count: usize, top_k: usize) -> ModelConfig {
    dense().with_experts(Mixture::of((1..count).map(|e| format!("e{e}")), top_k))
}

/// Fresh weights, larger than those of a real model so that routing and attention are far from uniform.
fn weights(config: &ModelConfig, seed: u64) -> Weights {
    let mut weights = initial_weights(config, seed);
    for weight in weights.values_mut().filter(|w| w.shape.len() == 2) {
        weight.data.iter_mut().for_each(|x| *x *= 12.0);
    }
    weights
}

fn model(config: &ModelConfig, weights: &Weights) -> Model {
    Model::new(config, weights, &device("cpu").unwrap()).unwrap()
}

fn tokens(n: usize, seed: u64) -> Vec<u32> {
    (0..n as u64)
        .map(|i| ((i + 1 + seed * 1000).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as u32 % VOCAB as u32)
        .collect()
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn with_threads<T: Send>(threads: usize, f: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
}

// ---- the model

#[test]
fn a_later_token_changes_no_earlier_logit() {
    let model = model(&mixture(3, 2), &weights(&mixture(3, 2), 1));
    let (mut text, sequences) = (tokens(70, 1), Sequences::causal(1, 70));
    let before = model.logits(&text, &sequences).unwrap();
    text[40] = (text[40] + 1) % VOCAB as u32;
    let after = model.logits(&text, &sequences).unwrap();
    assert_eq!(bits(&before[..40 * VOCAB]), bits(&after[..40 * VOCAB]));
    assert_ne!(before[40 * VOCAB..], after[40 * VOCAB..]);
}

#[test]
fn weights_come_back_as_they_went_in() {
    for config in [dense(), mixture(3, 2)] {
        let weights = weights(&config, 2);
        assert_eq!(model(&config, &weights).weights(), weights);
    }
    let mut with_bias = weights(&mixture(3, 2), 2);
    for layer in 0..2 {
        let name = format!("model.layers.{layer}.mlp.gate.bias");
        with_bias.insert(name, Weight { shape: vec![3], data: vec![0.0, -0.5, -1.0] });
    }
    assert_eq!(model(&mixture(3, 2), &with_bias).weights(), with_bias);
}

/// The weights of a mixture with its experts in another order.
fn reordered(config: &ModelConfig, weights: &Weights, order: &[usize]) -> Weights {
    let d = config.hidden_size;
    let mut out = Weights::new();
    for (name, weight) in weights {
        if name.ends_with("gate.weight") {
            let data: Vec<f32> = order.iter().flat_map(|&e| weight.data[e * d..(e + 1) * d].to_vec()).collect();
            out.insert(name.clone(), Weight { shape: vec![order.len(), d], data });
        } else if let Some((layer, rest)) = name.split_once(".experts.") {
            let (expert, part) = rest.split_once('.').unwrap();
            let from = expert.parse::<usize>().unwrap();
            if let Some(to) = order.iter().position(|&e| e == from) {
                out.insert(format!("{layer}.experts.{to}.{part}"), weight.clone());
            }
        } else {
            out.insert(name.clone(), weight.clone());
        }
    }
    out
}

#[test]
fn experts_permuted_with_their_rows_change_nothing() {
    let config = mixture(4, 2);
    let weights = weights(&config, 3);
    let (text, sequences) = (tokens(60, 2), Sequences::causal(2, 30));
    let one = model(&config, &weights).logits(&text, &sequences).unwrap();
    let other = model(&config, &reordered(&config, &weights, &[2, 0, 3, 1])).logits(&text, &sequences).unwrap();
    let worst = one.iter().zip(&other).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(worst < 1e-4, "{worst}");
}

#[test]
fn leaving_an_expert_out_is_the_model_without_it_to_the_bit() {
    for top_k in [1, 2, 4] {
        let config = mixture(4, top_k);
        let weights = weights(&config, 4);
        let whole = model(&config, &weights);
        let (text, sequences) = (tokens(90, 3), Sequences::causal(2, 45));
        for out in 0..4 {
            let left: Vec<usize> = (0..4).filter(|&e| e != out).collect();
            let smaller = mixture(3, top_k.min(3));
            let without = model(&smaller, &reordered(&config, &weights, &left));
            let a = whole.logits_without(&text, &sequences, &[out]).unwrap();
            assert_eq!(bits(&a), bits(&without.logits(&text, &sequences).unwrap()), "expert {out}, top {top_k}");
            assert_ne!(bits(&a), bits(&whole.logits(&text, &sequences).unwrap()));
        }
        assert!(matches!(whole.logits_without(&text, &sequences, &[4]), Err(Error::Expert { .. })));
        assert!(matches!(whole.logits_without(&text, &sequences, &[0, 1, 2, 3]), Err(Error::Expert { .. })));
    }
}

#[test]
fn bad_input_is_an_error() {
    let model = model(&dense(), &weights(&dense(), 1));
    for (tokens, sequences) in [
        (vec![1, VOCAB as u32], Sequences::causal(1, 2)),
        (vec![1, 2, 3], Sequences::causal(1, 2)),
        (vec![], Sequences::causal(1, 0)),
        (vec![1; 600], Sequences::causal(1, 600)),
    ] {
        assert!(matches!(model.logits(&tokens, &sequences), Err(Error::Input { .. })));
    }
    let device = device("cpu").unwrap();
    let mut missing = weights(&dense(), 1);
    missing.remove("lm_head.weight");
    assert!(matches!(Model::new(&dense(), &missing, &device), Err(Error::MissingTensors { .. })));
    let mut unknown = weights(&dense(), 1);
    unknown.insert("lm_head.bias".to_owned(), Weight::zeros(vec![1]));
    assert!(matches!(Model::new(&dense(), &unknown, &device), Err(Error::UnknownTensor { .. })));
}

// ---- training

struct Texts;

impl Batches for Texts {
    fn batch(&self, step: u64) -> flow_data::Result<TokenBatch> {
        let documents = vec![step];
        Ok(TokenBatch { batch: 3, seq: 70, tokens: tokens(3 * 71, step), documents })
    }
}

#[derive(Default)]
struct Kept {
    states: Vec<TrainState>,
    losses: Vec<f64>,
    /// Step and documents.
    skipped: Vec<(u64, Vec<u64>)>,
    /// Step and loss.
    validation: Vec<(u64, f64)>,
    /// Steps after which the run is cancelled.
    cancel_after: Option<usize>,
}

impl Hooks for Kept {
    fn on_step(&mut self, metrics: &StepMetrics) -> Result<()> {
        self.losses.push(metrics.losses.loss);
        if metrics.skipped {
            self.skipped.push((metrics.step, metrics.documents.clone()));
        }
        self.validation.extend(metrics.validation.map(|loss| (metrics.step, loss)));
        Ok(())
    }

    fn checkpoint(&mut self, state: TrainState) -> Result<()> {
        self.states.push(state);
        Ok(())
    }

    fn cancelled(&self) -> bool {
        self.cancel_after.is_some_and(|n| self.losses.len() >= n)
    }
}

fn spec(trainable: Trainable) -> TrainSpec {
    TrainSpec {
        accumulate: 2,
        clip: Some(1.0),
        losses: LossWeights { z: 1e-5, router_z: 1e-3 },
        mask_documents: true,
        checkpoint_every: Some(2),
        ..TrainSpec::new(5, Schedule::constant(3e-3), trainable)
    }
}

fn run(config: &ModelConfig, spec: &TrainSpec, start: TrainState, hooks: &mut Kept) -> (Result<TrainState>, Weights) {
    let mut model = model(config, &weights(config, 5));
    let end = train(spec, &mut model, start, &Texts, hooks);
    (end, model.weights())
}

#[test]
fn training_has_the_same_bytes_on_any_number_of_threads() {
    for (config, trainable) in
        [(dense(), Trainable::All), (mixture(3, 2), Trainable::All), (mixture(2, 2), Trainable::Expert(1))]
    {
        let one = with_threads(1, || run(&config, &spec(trainable), TrainState::start(), &mut Kept::default()));
        let two = with_threads(2, || run(&config, &spec(trainable), TrainState::start(), &mut Kept::default()));
        assert_eq!(one.0.unwrap(), two.0.unwrap());
        assert!(one.1 == two.1);
    }
}

#[test]
fn a_resumed_run_has_the_bytes_of_an_uninterrupted_one() {
    for (config, trainable) in [(dense(), Trainable::All), (mixture(2, 2), Trainable::Expert(1))] {
        let mut hooks = Kept::default();
        let (end, weights) = run(&config, &spec(trainable), TrainState::start(), &mut hooks);
        assert_eq!(hooks.states.iter().map(|s| s.step).collect::<Vec<_>>(), [2, 4]);
        let mut cancelled = Kept { cancel_after: Some(3), ..Kept::default() };
        let (stopped, _) = run(&config, &spec(trainable), TrainState::start(), &mut cancelled);
        assert!(matches!(stopped, Err(Error::Cancelled)));
        assert_eq!(cancelled.states.last().unwrap().step, 3);
        let end = end.unwrap();
        for state in [hooks.states.remove(0), cancelled.states.pop().unwrap()] {
            let (resumed, resumed_weights) = run(&config, &spec(trainable), state, &mut Kept::default());
            assert_eq!(resumed.unwrap(), end);
            assert!(resumed_weights == weights);
        }
        assert!(hooks.losses[4] < hooks.losses[0], "{:?}", hooks.losses);
    }
}

#[test]
fn what_is_frozen_does_not_move_and_has_no_state() {
    let config = mixture(3, 2);
    let before = weights(&config, 5);
    let (end, after) = run(&config, &spec(Trainable::Expert(1)), TrainState::start(), &mut Kept::default());
    let moved = |name: &str| before[name] != after[name];
    assert!(
        after.keys().filter(|name| !name.contains(".experts.1.") && !name.ends_with("gate.weight")).all(|n| !moved(n))
    );
    assert!(after.keys().filter(|name| name.contains(".experts.1.")).all(|name| moved(name)));
    let d = config.hidden_size;
    for layer in 0..2 {
        let name = format!("model.layers.{layer}.mlp.gate.weight");
        let row = |w: &Weights, e: usize| bits(&w[&name].data[e * d..(e + 1) * d]);
        assert_eq!(row(&before, 0), row(&after, 0));
        assert_ne!(row(&before, 1), row(&after, 1));
        assert_eq!(row(&before, 2), row(&after, 2));
    }
    let end = end.unwrap();
    assert_eq!(end.first_moments.len(), 2 * (3 + 1));
    assert!(end.first_moments.keys().eq(end.parameters.keys()));
    let still = TrainSpec { row_lr: 0.0, ..spec(Trainable::Expert(1)) };
    let (end, _) = run(&config, &still, TrainState::start(), &mut Kept::default());
    assert_eq!(end.unwrap().parameters.len(), 2 * 3);
}

#[test]
fn a_state_of_another_run_is_refused() {
    let (end, _) = run(&mixture(3, 2), &spec(Trainable::Expert(1)), TrainState::start(), &mut Kept::default());
    let longer = TrainSpec { steps: 9, ..spec(Trainable::Expert(2)) };
    let (other, _) = run(&mixture(3, 2), &longer, end.unwrap(), &mut Kept::default());
    assert!(matches!(other, Err(Error::Mismatch { .. })));
    let (none, _) = run(&mixture(3, 2), &spec(Trainable::Expert(0)), TrainState::start(), &mut Kept::default());
    assert!(matches!(none, Err(Error::Expert { .. })));
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_or_is_skipped() {
    let mut bad = weights(&dense(), 5);
    bad.get_mut("lm_head.weight").unwrap().data[7] = f32::NAN;
    let mut broken = model(&dense(), &bad);
    let stopped = train(&spec(Trainable::All), &mut broken, TrainState::start(), &Texts, &mut Kept::default());
    match stopped {
        Err(Error::Diverged { step: 1, quantity: "loss", documents, .. }) => assert_eq!(documents, [0, 1]),
        other => panic!("{other:?}"),
    }
    let mut broken = model(&dense(), &bad);
    let skip = TrainSpec { on_nan: Action::Skip, ..spec(Trainable::All) };
    train(&skip, &mut broken, TrainState::start(), &Texts, &mut Kept::default()).unwrap();
    assert_eq!(broken.weights()["model.norm.weight"], bad["model.norm.weight"]);
}

#[test]
fn a_stopped_run_keeps_the_state_before() {
    let mut bad = weights(&dense(), 5);
    bad.get_mut("lm_head.weight").unwrap().data[7] = f32::NAN;
    let mut hooks = Kept::default();
    let mut broken = model(&dense(), &bad);
    train(&spec(Trainable::All), &mut broken, TrainState::start(), &Texts, &mut hooks).unwrap_err();
    assert_eq!(hooks.states.len(), 1);
    assert_eq!(hooks.states[0].step, 0);
    assert_eq!(hooks.states[0].parameters["model.norm.weight"], bad["model.norm.weight"]);
}

/// Batches of one token over and over, but for one of noise: a spike for a model that has learned the token.
struct Spiky(u64);

impl Batches for Spiky {
    fn batch(&self, step: u64) -> flow_data::Result<TokenBatch> {
        let tokens = if step == self.0 { tokens(3 * 71, 1) } else { vec![7; 3 * 71] };
        Ok(TokenBatch { batch: 3, seq: 70, tokens, documents: vec![step] })
    }
}

#[test]
fn a_spike_stops_the_run_or_is_left_out() {
    let config = dense();
    let rule = SpikeRule { deviations: 6.0, window: 16, action: Action::Stop };
    let spiky = TrainSpec {
        steps: 40,
        accumulate: 1,
        on_spike: Some(rule),
        checkpoint_every: Some(10),
        ..spec(Trainable::All)
    };
    let run = |spec: &TrainSpec, at: u64, start: TrainState| {
        let (mut hooks, mut model) = (Kept::default(), model(&config, &initial_weights(&config, 5)));
        let end = train(spec, &mut model, start, &Spiky(at), &mut hooks);
        (end, model.weights(), hooks)
    };
    let (end, ..) = run(&spiky, 99, TrainState::start());
    end.unwrap();
    let (stopped, _, hooks) = run(&spiky, 33, TrainState::start());
    match stopped {
        Err(Error::Diverged { step: 34, limit: Some(limit), value, documents, .. }) => {
            assert_eq!(documents, [33]);
            assert!(value > limit);
        }
        other => panic!("{other:?}"),
    }
    // The state before it is kept, and going on from it ends at the same step again.
    let mut states = hooks.states;
    assert_eq!(states.iter().map(|s| s.step).collect::<Vec<_>>(), [10, 20, 30, 33]);
    let (again, ..) = run(&spiky, 33, states.pop().unwrap());
    assert!(matches!(again, Err(Error::Diverged { step: 34, .. })));

    let skip = TrainSpec { on_spike: Some(SpikeRule { action: Action::Skip, ..rule }), ..spiky };
    let (end, weights, hooks) = run(&skip, 33, TrainState::start());
    let end = end.unwrap();
    assert_eq!(hooks.skipped, [(34, vec![33])]);
    for state in hooks.states {
        let (resumed, resumed_weights, _) = run(&skip, 33, state);
        assert_eq!(resumed.unwrap(), end);
        assert!(resumed_weights == weights);
    }
}

#[test]
fn recomputed_activations_change_no_bit() {
    let none = LossWeights { z: 1e-5, router_z: 0.0 };
    for (config, trainable, losses) in [
        (dense(), Trainable::All, none),
        (mixture(3, 2), Trainable::All, spec(Trainable::All).losses),
        (mixture(3, 2), Trainable::All, none),
        (mixture(2, 2), Trainable::Expert(1), spec(Trainable::All).losses),
        (mixture(3, 2), Trainable::Router, spec(Trainable::All).losses),
    ] {
        let kept = TrainSpec { losses, ..spec(trainable) };
        let again = TrainSpec { recompute: true, ..kept.clone() };
        let (mut one, mut two) = (Kept::default(), Kept::default());
        let a = run(&config, &kept, TrainState::start(), &mut one);
        let b = run(&config, &again, TrainState::start(), &mut two);
        assert_eq!(a.0.unwrap(), b.0.unwrap(), "{trainable:?}");
        assert!(a.1 == b.1);
        assert_eq!(one.losses, two.losses);
    }
}

#[test]
fn validation_is_the_held_out_loss_and_changes_no_bit() {
    let config = mixture(3, 2);
    let held_out: Vec<TokenBatch> = [90, 91].map(|step| Texts.batch(step).unwrap()).into();
    let validation = Validation { every: 2, batches: held_out.clone() };
    let (mut without, mut with) = (Kept::default(), Kept::default());
    let plain = run(&config, &spec(Trainable::All), TrainState::start(), &mut without);
    let watched = TrainSpec { validation: Some(validation), ..spec(Trainable::All) };
    let (end, weights) = run(&config, &watched, TrainState::start(), &mut with);
    assert_eq!(end.unwrap(), plain.0.unwrap());
    assert_eq!(with.validation.iter().map(|(step, _)| *step).collect::<Vec<_>>(), [2, 4, 5]);
    assert_eq!(without.validation, []);
    let trained = model(&config, &weights);
    let requests: Vec<ScoreRequest> = held_out
        .iter()
        .flat_map(|part| part.tokens.chunks(part.seq + 1).map(|row| ScoreRequest::text(row.to_vec())))
        .collect();
    let scored: Vec<f32> = ModelScorer::new(&trained).log_probs(&requests).unwrap().concat();
    let mean = -scored.iter().map(|x| f64::from(*x)).sum::<f64>() / scored.len() as f64;
    let last = with.validation[2].1;
    assert!((last - mean).abs() < 1e-5 * mean, "{last} {mean}");
}

#[test]
fn masked_documents_do_not_see_each_other() {
    let model = model(&dense(), &weights(&dense(), 6));
    let text = tokens(40, 9);
    let segments: Vec<u32> = (0..40).map(|i| if i < 25 { 1 } else { 2 }).collect();
    let packed = model.logits(&text, &Sequences::segmented(1, 40, &segments).unwrap()).unwrap();
    let alone = model.logits(&text[25..], &Sequences::causal(1, 15)).unwrap();
    let worst = packed[25 * VOCAB..].iter().zip(&alone).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    // RoPE is relative: other positions give the same numbers but for rounding.
    assert!(worst < 2e-3, "{worst}");
}

// ---- scoring and embedding

fn requests() -> Vec<ScoreRequest> {
    let mut requests: Vec<ScoreRequest> = (1..20).map(|i| ScoreRequest::text(tokens(7 * i, i as u64))).collect();
    let continuations = [tokens(5, 30), tokens(1, 31), tokens(90, 32)];
    requests.push(ScoreRequest::continuations(&tokens(33, 33), &continuations).unwrap());
    requests.push(ScoreRequest::text_from(tokens(30, 34), 20));
    requests
}

#[test]
fn a_score_does_not_depend_on_what_it_is_scored_with() {
    let config = mixture(4, 2);
    let model = model(&config, &weights(&config, 7));
    let scorer = ModelScorer::without(&model, &[2]).unwrap();
    let requests = requests();
    let together = with_threads(2, || scorer.log_probs(&requests).unwrap());
    for (request, answer) in requests.iter().zip(&together) {
        assert_eq!(answer.len(), request.targets().len());
        let alone = scorer.log_probs(std::slice::from_ref(request)).unwrap();
        assert_eq!(bits(&alone[0]), bits(answer));
    }
}

#[test]
fn scores_are_the_logits_log_softmax() {
    let model = model(&dense(), &weights(&dense(), 8));
    let text = tokens(30, 4);
    let scores = ModelScorer::new(&model).log_probs(&[ScoreRequest::text(text.clone())]).unwrap();
    let logits = model.logits(&text, &Sequences::causal(1, 30)).unwrap();
    for (i, score) in scores[0].iter().enumerate() {
        let row: Vec<f64> = logits[i * VOCAB..(i + 1) * VOCAB].iter().map(|&x| f64::from(x)).collect();
        let lse = row.iter().map(|x| x.exp()).sum::<f64>().ln();
        assert!((f64::from(*score) - (row[text[i + 1] as usize] - lse)).abs() < 1e-4);
    }
}

#[test]
fn a_text_may_have_one_token_more_than_the_model_has_positions() {
    let config = ModelConfig { max_positions: 16, ..dense() };
    let (short, long) = (model(&config, &weights(&config, 8)), model(&dense(), &weights(&dense(), 8)));
    let text = ScoreRequest::text(tokens(17, 4));
    let scores = ModelScorer::new(&short).log_probs(std::slice::from_ref(&text)).unwrap();
    assert_eq!(scores[0].len(), 16);
    assert_eq!(scores, ModelScorer::new(&long).log_probs(&[text]).unwrap());
    let beyond = ModelScorer::new(&short).log_probs(&[ScoreRequest::text(tokens(18, 4))]);
    assert!(matches!(beyond, Err(Error::Input { .. })), "{beyond:?}");
}

/// Finite weights do not make finite logits.
#[test]
fn logits_that_are_no_numbers_are_an_error() {
    let mut huge = weights(&dense(), 8);
    huge.get_mut("lm_head.weight").unwrap().data.fill(3e38);
    let model = model(&dense(), &huge);
    let scores = ModelScorer::new(&model).log_probs(&[ScoreRequest::text(tokens(9, 4))]);
    assert!(matches!(scores, Err(Error::Overflow)), "{scores:?}");
    let text = generate(&model, &tokens(9, 4), 5, &[], Sampling::GREEDY, &mut |_| ControlFlow::Continue(()));
    assert!(matches!(text, Err(Error::Overflow)), "{text:?}");
}

#[test]
fn continuations_in_one_pass_score_as_each_alone() {
    let model = model(&dense(), &weights(&dense(), 8));
    let member = model.clone();
    let ensemble = Ensemble::new(vec![Box::new(ModelScorer::new(&member))], 1).unwrap();
    let scorers: [&dyn Scorer; 2] = [&ModelScorer::new(&model), &ensemble];
    let (context, continuations) = (tokens(20, 1), [tokens(6, 2), tokens(9, 3), tokens(1, 4)]);
    let request = ScoreRequest::continuations(&context, &continuations).unwrap();
    for scorer in scorers {
        let answers = request.split(&scorer.log_probs(std::slice::from_ref(&request)).unwrap()[0]);
        for (continuation, answer) in continuations.iter().zip(answers) {
            let whole = [context.clone(), continuation.clone()].concat();
            let alone = scorer.log_probs(&[ScoreRequest::text_from(whole, 20)]).unwrap();
            assert_eq!(alone[0].len(), answer.len());
            assert!(alone[0].iter().zip(&answer).all(|(a, b)| (a - b).abs() < 1e-4), "{alone:?} {answer:?}");
        }
    }
    assert!(ScoreRequest::continuations(&[], &continuations).is_err());
}

/// A member that gives every token the same probability.
struct Flat(f32);

impl Scorer for Flat {
    fn log_probs(&self, requests: &[ScoreRequest]) -> Result<Vec<Vec<f32>>> {
        Ok(requests.iter().map(|r| vec![self.0.ln(); r.targets().len()]).collect())
    }
}

#[test]
fn an_ensemble_weighs_its_members_by_the_text_so_far() {
    let members = |n: usize| -> Vec<Box<dyn Scorer>> {
        [0.5f32, 0.25, 0.125].iter().take(n).map(|&p| Box::new(Flat(p)) as Box<dyn Scorer>).collect()
    };
    let scores = Ensemble::new(members(3), 2).unwrap().log_probs(&[ScoreRequest::text(vec![1, 2, 3])]).unwrap();
    // Nothing read: the first two members, evenly. One token read: weights 2/3 and 1/3.
    let want = [0.375f64, 0.5 * 2.0 / 3.0 + 0.25 / 3.0];
    for (score, want) in scores[0].iter().zip(want) {
        assert!((f64::from(*score) - want.ln()).abs() < 1e-6, "{score}");
    }
    let requests = [ScoreRequest::continuations(&[1, 2], &[vec![3], vec![4, 5]]).unwrap()];
    let scores = Ensemble::new(members(2), 2).unwrap().log_probs(&requests).unwrap();
    let after = |n: i32| (0.5f64.powi(n + 1) + 0.25f64.powi(n + 1)) / (0.5f64.powi(n) + 0.25f64.powi(n));
    for (score, read) in scores[0].iter().zip([1, 1, 2]) {
        assert!((f64::from(*score) - after(read).ln()).abs() < 1e-6, "{score}");
    }
    assert!(matches!(Ensemble::new(members(2), 0), Err(Error::Param { .. })));
}

#[test]
fn an_embedding_is_the_mean_over_documents_of_the_mean_over_tokens() {
    let model = model(&dense(), &weights(&dense(), 9));
    let documents = vec![tokens(30, 1), vec![], tokens(4, 2), tokens(80, 3)];
    let all = embed(&model, &documents, 50).unwrap();
    assert_eq!((all.documents, all.dropped), (3, 1));
    let mut sum = [0f64; 24];
    for document in [&documents[0], &documents[2], &documents[3][..50].to_vec()] {
        let one = embed(&model, std::slice::from_ref(document), 50).unwrap();
        sum.iter_mut().zip(&one.row).for_each(|(sum, x)| *sum += f64::from(*x) / 3.0);
    }
    assert!(sum.iter().zip(&all.row).all(|(a, b)| (a - f64::from(*b)).abs() < 1e-5));
    assert!(matches!(embed(&model, &[vec![]], 50), Err(Error::Input { .. })));
}
