//! Text from a model, token by token: greedy, or sampled by temperature and top-p from a seed; any expert of a mixture can be
//! left out, and each token says which experts it came from.

use crate::error::{Error, Result};
use crate::flexolmo::Present;
use crate::kv_cache::KvCache;
use crate::olmo2::{Model, Routing};
use flow_data::random::Stream;
use std::ops::ControlFlow;

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// What the logits are divided by; 0 takes the most probable token each time.
    pub temperature: f64,
    /// Only the most probable tokens whose probabilities together reach this are drawn from.
    pub top_p: f64,
    /// The same seed gives the same text.
    pub seed: u64,
}

impl Sampling {
    /// The most probable token each time.
    pub const GREEDY: Self = Self { temperature: 0.0, top_p: 1.0, seed: 0 };

    fn check(self) -> Result<()> {
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            let reason = format!("{} is not a number from 0 on", self.temperature);
            return Err(Error::Param { param: "temperature", reason });
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Error::Param {
                param: "top_p",
                reason: format!("{} is not above 0 and at most 1", self.top_p),
            });
        }
        Ok(())
    }
}

/// One new token.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    /// The token.
    pub token: u32,
    /// Its log-probability under the model itself, in nats, whatever the temperature.
    pub log_prob: f64,
    /// Of a mixture: what share of the FFN outputs' weight each expert had at this token, averaged over the layers; adds up
    /// to 1, and is 0 for experts that are left out. Empty for a dense model.
    pub experts: Vec<f64>,
}

/// Goes on with `prompt` (a text's tokens; the end-of-document token where it is empty) for at most `most` tokens, without the
/// experts of these numbers. Ends after the end-of-document token, at the model's last position, or when `each` breaks.
///
/// # Errors
/// [`Error::Param`] for sampling out of range; [`Error::Input`] for tokens that the model does not have and for a prompt longer
/// than it can see; [`Error::Expert`] for experts that cannot be left out; [`Error::Overflow`] for logits that are no numbers.
pub fn generate(
    model: &Model,
    prompt: &[u32],
    most: usize,
    without: &[usize],
    sampling: Sampling,
    each: &mut dyn FnMut(&Generated) -> ControlFlow<()>,
) -> Result<Vec<u32>> {
    sampling.check()?;
    let config = model.config();
    let present = Present::without(config, without)?;
    let eos = config.eos_token_id;
    let mut new: Vec<u32> = if prompt.is_empty() { vec![eos] } else { prompt.to_vec() };
    let room = config.max_positions.saturating_sub(new.len() - 1);
    let mut cache = KvCache::new(config.num_layers);
    let mut text = Vec::new();
    for step in 0..most.min(room) {
        let mut routing = Routing { present: present.clone(), ..Routing::default() };
        let logits = model.decode(&new, &mut cache, &mut routing)?;
        if !logits.iter().all(|logit| logit.is_finite()) {
            return Err(Error::Overflow);
        }
        let token = choose(&logits, sampling, step as u64);
        let log_prob = log_softmax(&logits, token);
        text.push(token);
        let generated = Generated { token, log_prob, experts: shares(model, routing, without) };
        if each(&generated).is_break() || token == eos {
            break;
        }
        new = vec![token];
    }
    Ok(text)
}

fn log_softmax(logits: &[f32], token: u32) -> f64 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&l| libm::exp(f64::from(l - top))).sum();
    f64::from(logits[token as usize] - top) - libm::log(sum)
}

/// The next token; of equals the first.
fn choose(logits: &[f32], sampling: Sampling, step: u64) -> u32 {
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
    if sampling.temperature == 0.0 {
        return order[0];
    }
    let top = f64::from(logits[order[0] as usize]);
    let weight = |token: u32| libm::exp((f64::from(logits[token as usize]) - top) / sampling.temperature);
    let all: f64 = order.iter().map(|&token| weight(token)).sum();
    let mut kept = 0.0;
    let count = order.iter().position(|&token| {
        kept += weight(token);
        kept >= sampling.top_p * all
    });
    order.truncate(count.map_or(order.len(), |last| last + 1));
    // 53 bits of the draw, as a number from 0 to 1.
    let draw = (Stream::new(sampling.seed).at(step) >> 11) as f64 / (1u64 << 53) as f64;
    let mut left = draw * order.iter().map(|&token| weight(token)).sum::<f64>();
    for &token in &order {
        left -= weight(token);
        if left < 0.0 {
            return token;
        }
    }
    order[order.len() - 1]
}

/// Each expert's share at the last token.
fn shares(model: &Model, routing: Routing, without: &[usize]) -> Vec<f64> {
    let Some(mixture) = &model.config().experts else { return Vec::new() };
    let present: Vec<usize> = (0..mixture.count).filter(|e| !without.contains(e)).collect();
    let mut shares = vec![0f64; mixture.count];
    let layers = routing.layers.len() as f64;
    for layer in routing.layers {
        let width = layer.dims()[1];
        let all: Vec<f32> = layer.inner().into_data().iter::<f32>().collect();
        // The last token's row; its last column is not an expert.
        let row = &all[all.len() - width..all.len() - 1];
        let sum: f64 = row.iter().map(|&p| f64::from(p)).sum();
        for (&e, &p) in present.iter().zip(row) {
            shares[e] += f64::from(p) / sum.max(f64::MIN_POSITIVE) / layers;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Mixture;
    use crate::init::initial_weights;
    use crate::mask::Sequences;
    use crate::numerics::device;
    use crate::preset::Preset;

    fn model(experts: Option<Mixture>) -> Model {
        let mut config = Preset::Tiny.config();
        config.experts = experts;
        let mut weights = initial_weights(&config, 5);
        // Fresh weights are so small that every token is as good as another.
        for weight in weights.values_mut().filter(|weight| weight.shape.len() == 2) {
            weight.data.iter_mut().for_each(|x| *x *= 6.0);
        }
        Model::new(&config, &weights, &device("cpu").unwrap()).unwrap()
    }

    #[test]
    fn cached_steps_give_the_logits_of_a_whole_pass() {
        for experts in [None, Some(Mixture::of(["a".to_owned(), "b".to_owned()], 2))] {
            let model = model(experts);
            let tokens: Vec<u32> = (0..23).map(|i| (i * 37 + 11) % 256).collect();
            let whole = model.logits(&tokens, &Sequences::causal(1, tokens.len())).unwrap();
            let width = model.config().vocab_size;
            // In pieces: a prompt of 9, then one by one, then two at once.
            let mut cache = KvCache::new(model.config().num_layers);
            let mut at = 0;
            for piece in [9, 1, 1, 1, 1, 2, 8] {
                at += piece;
                let logits = model.decode(&tokens[at - piece..at], &mut cache, &mut Routing::default()).unwrap();
                let worst = logits.iter().zip(&whole[(at - 1) * width..at * width]);
                let worst = worst.map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
                assert!(worst < 2e-4, "position {at}: {worst}");
            }
        }
    }

    #[test]
    fn text_is_seeded_and_ends_where_it_must() {
        let model = model(Some(Mixture::of(["a".to_owned(), "b".to_owned()], 2)));
        let sampling = Sampling { temperature: 0.8, top_p: 0.95, seed: 3 };
        let run = |sampling, without: &[usize], most| {
            let mut experts = Vec::new();
            let text = generate(&model, &[1, 2, 3], most, without, sampling, &mut |token| {
                assert!(token.log_prob <= 0.0);
                experts.push(token.experts.clone());
                ControlFlow::Continue(())
            });
            (text.unwrap(), experts)
        };
        assert_eq!(run(sampling, &[], 20), run(sampling, &[], 20));
        assert_ne!(run(sampling, &[], 20).0, run(Sampling { seed: 4, ..sampling }, &[], 20).0);
        assert_eq!(run(sampling, &[], 5).0, run(sampling, &[], 20).0[..5]);
        for shares in run(Sampling::GREEDY, &[1], 10).1 {
            assert!(shares[1] == 0.0 && (shares.iter().sum::<f64>() - 1.0).abs() < 1e-6, "{shares:?}");
        }
        let limit = model.config().max_positions;
        let prompt = vec![7; limit];
        let mut keep = |_: &Generated| ControlFlow::Continue(());
        assert_eq!(generate(&model, &prompt, 9, &[], Sampling::GREEDY, &mut keep).unwrap().len(), 1);
        assert!(generate(&model, &[7; 600], 9, &[], Sampling::GREEDY, &mut keep).unwrap().is_empty());
        for wrong in [Sampling { top_p: 0.0, ..sampling }, Sampling { temperature: -1.0, ..sampling }] {
            assert!(generate(&model, &[1], 1, &[], wrong, &mut keep).is_err());
        }
    }

    #[test]
    fn little_top_p_is_greedy_and_draws_follow_the_probabilities() {
        let logits = [1.0f32, 3.0, 2.0, f32::NEG_INFINITY];
        let sampling = Sampling { temperature: 1.0, top_p: 1.0, seed: 1 };
        assert_eq!(choose(&logits, Sampling { top_p: 0.01, ..sampling }, 5), 1);
        assert_eq!(choose(&[2.0, 2.0], Sampling::GREEDY, 0), 0);
        let mut counts = [0u32; 4];
        for step in 0..20_000 {
            counts[choose(&logits, sampling, step) as usize] += 1;
        }
        let sum: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
        for (count, logit) in counts.into_iter().zip(logits) {
            let (found, wanted) = (f64::from(count) / 20_000.0, f64::from(logit).exp() / sum);
            assert!((found - wanted).abs() < 0.015, "{found} {wanted}");
        }
    }
}
