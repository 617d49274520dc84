//! Log-probabilities of given tokens, for evaluation. Never more than a chunk of logits exists.
//!
//! ```text
//!   ScoreRequest::continuations(context, [A, B])        one pass: the context is computed once
//!   tokens    c c c c A A B B          targets: A₁ after c, A₂ after A₁, A₃ after A₂, B₁ after c, …
//!   segments  0 0 0 0 1 1 2 2          (the last token of a continuation is only a target)
//! ```
//! A request's numbers are the same to the bit whatever other requests it is scored with.

use crate::error::{Error, Result};
use crate::flexolmo::Present;
use crate::mask::Sequences;
use crate::olmo2::{Model, Routing};
use crate::ops::cross_entropy::log_probabilities;
use crate::ops::embedding::embedding;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Tokens, padding included, that go through a model together.
const BATCH: usize = 4096;

/// A token whose probability is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Index of the token after which it stands.
    pub after: usize,
    /// The token itself.
    pub token: u32,
}

/// Tokens and what is asked about them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScoreRequest {
    tokens: Vec<u32>,
    /// As [`Sequences::segmented`] has them; all of one segment where empty.
    segments: Vec<u32>,
    positions: Vec<u32>,
    targets: Vec<Target>,
    /// Number of targets of each continuation.
    parts: Vec<usize>,
}

impl ScoreRequest {
    /// Every token of a text but the first, given those before it.
    pub fn text(mut tokens: Vec<u32>) -> Self {
        let pairs = tokens.windows(2).enumerate();
        let targets: Vec<Target> = pairs.map(|(after, pair)| Target { after, token: pair[1] }).collect();
        let parts = vec![targets.len()];
        // The last token is only a target: a text of one token more than the model has positions can be scored.
        tokens.pop();
        Self { tokens, segments: Vec::new(), positions: Vec::new(), targets, parts }
    }

    /// Every token of a text from index `from` on (at least 1), given those before it.
    pub fn text_from(tokens: Vec<u32>, from: usize) -> Self {
        let mut request = Self::text(tokens);
        request.targets.retain(|target| target.after + 1 >= from);
        request.parts = vec![request.targets.len()];
        request
    }

    /// The tokens of each continuation, given the context and what of the continuation stands before them. The context
    /// goes through the model once.
    ///
    /// # Errors
    /// [`Error::Input`] for an empty context: the first token of a continuation needs something before it.
    pub fn continuations(context: &[u32], continuations: &[Vec<u32>]) -> Result<Self> {
        if context.is_empty() {
            let reason = "the context is empty; begin it with the end-of-document token".to_owned();
            return Err(Error::Input { what: "a score request".to_owned(), reason });
        }
        let mut request = Self {
            tokens: context.to_vec(),
            segments: vec![0; context.len()],
            positions: (0..context.len() as u32).collect(),
            targets: Vec::new(),
            parts: Vec::new(),
        };
        for (i, continuation) in continuations.iter().enumerate() {
            let mut after = context.len() - 1;
            for (j, &token) in continuation.iter().enumerate() {
                request.targets.push(Target { after, token });
                if j + 1 < continuation.len() {
                    after = request.tokens.len();
                    request.tokens.push(token);
                    request.segments.push(i as u32 + 1);
                    request.positions.push((context.len() + j) as u32);
                }
            }
            request.parts.push(continuation.len());
        }
        Ok(request)
    }

    /// Number of tokens that go through the model.
    pub fn tokens(&self) -> usize {
        self.tokens.len()
    }

    /// What is asked for, in the order of the answers.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// The answers of [`Scorer::log_probs`] by continuation.
    pub fn split(&self, log_probs: &[f32]) -> Vec<Vec<f32>> {
        let mut rest = log_probs;
        let parts = self.parts.iter().map(|&n| {
            let (part, after) = rest.split_at(n.min(rest.len()));
            rest = after;
            part.to_vec()
        });
        parts.collect()
    }

    fn check(&self, vocab_size: usize) -> Result<()> {
        match self.targets.iter().find(|t| t.token as usize >= vocab_size || t.after >= self.tokens.len()) {
            Some(t) => {
                let reason = format!("the target {t:?} is not in the vocabulary of {vocab_size}");
                Err(Error::Input { what: "a score request".to_owned(), reason })
            }
            None => Ok(()),
        }
    }

    /// The token before token `i` as the model sees it; none for the first of a document.
    fn before(&self, i: usize) -> Option<usize> {
        if i == 0 {
            return None;
        }
        let segment = |i: usize| self.segments.get(i).copied().unwrap_or(0);
        if segment(i) == segment(i - 1) {
            return Some(i - 1);
        }
        self.segments.iter().take_while(|&&s| s == 0).count().checked_sub(1)
    }
}

/// Something that gives tokens probabilities.
pub trait Scorer {
    /// log p of each target of each request, in their orders, in nats.
    ///
    /// # Errors
    /// [`Error::Input`] for tokens or positions that the model does not have; [`Error::Overflow`].
    fn log_probs(&self, requests: &[ScoreRequest]) -> Result<Vec<Vec<f32>>>;
}

/// A model, dense or a mixture, as a scorer.
#[derive(Clone, Debug)]
pub struct ModelScorer<'a> {
    model: &'a Model,
    present: Option<Present>,
}

impl<'a> ModelScorer<'a> {
    /// The model as it is.
    pub fn new(model: &'a Model) -> Self {
        Self { model, present: None }
    }

    /// A mixture without some of its experts, by number.
    ///
    /// # Errors
    /// [`Error::Expert`] for experts that cannot be left out.
    pub fn without(model: &'a Model, experts: &[usize]) -> Result<Self> {
        Ok(Self { model, present: Present::without(model.config(), experts)? })
    }

    fn batch(&self, requests: &[&ScoreRequest]) -> Result<Vec<Vec<f32>>> {
        let length = requests.iter().map(|r| r.tokens.len()).max().unwrap_or(0);
        let (mut tokens, mut segments, mut positions) = (Vec::new(), Vec::new(), Vec::new());
        let mut rows: Vec<u32> = Vec::new();
        let mut targets = Vec::new();
        for (b, request) in requests.iter().enumerate() {
            let n = request.tokens.len();
            // Padding stands behind all that is asked for, as a segment of its own: nobody sees it.
            let padding = length - n;
            tokens.extend(request.tokens.iter().copied().chain(std::iter::repeat_n(0, padding)));
            let own = |i: usize| request.segments.get(i).copied().unwrap_or(0);
            segments.extend((0..n).map(own).chain(std::iter::repeat_n(u32::MAX, padding)));
            let position = |i: usize| request.positions.get(i).copied().unwrap_or(i as u32);
            positions.extend((0..n).map(position).chain(std::iter::repeat_n(0, padding)));
            rows.extend(request.targets.iter().map(|t| (b * length + t.after) as u32));
            targets.extend(request.targets.iter().map(|t| t.token));
        }
        let sequences = Sequences::segmented(requests.len(), length, &segments)?.with_positions(&positions)?;
        let mut routing = Routing { present: self.present.clone(), ..Routing::default() };
        let hidden = self.model.hidden(&Arc::from(tokens), &sequences, &mut routing)?;
        let asked = embedding(hidden, &Arc::from(rows));
        let all = log_probabilities(asked, self.model.head(), &targets);
        if !all.iter().all(|log_prob| log_prob.is_finite()) {
            return Err(Error::Overflow);
        }
        let mut rest = &all[..];
        let parts = requests.iter().map(|request| {
            let (part, after) = rest.split_at(request.targets.len());
            rest = after;
            part.to_vec()
        });
        Ok(parts.collect())
    }
}

impl Scorer for ModelScorer<'_> {
    fn log_probs(&self, requests: &[ScoreRequest]) -> Result<Vec<Vec<f32>>> {
        let mut answers = vec![Vec::new(); requests.len()];
        for request in requests {
            request.check(self.model.config().vocab_size)?;
        }
        let mut order: Vec<usize> = (0..requests.len()).filter(|&i| !requests[i].targets.is_empty()).collect();
        order.sort_by_key(|&i| requests[i].tokens.len());
        // From the longest down: a batch is as wide as its first request.
        let mut rest = &order[..];
        while let Some(&longest) = rest.last() {
            let fits = (BATCH / requests[longest].tokens.len()).clamp(1, rest.len());
            let (before, group) = rest.split_at(rest.len() - fits);
            rest = before;
            let batch: Vec<&ScoreRequest> = group.iter().map(|&i| &requests[i]).collect();
            for (&i, answer) in group.iter().zip(self.batch(&batch)?) {
                answers[i] = answer;
            }
        }
        Ok(answers)
    }
}

/// Branch-Train-Merge (FLEXOLMO §8): the members' next-token probabilities, weighted by the posterior over members given
/// the text so far, p(d | prefix) ∝ p(prefix | d) with a uniform prior; the `top_k` most probable members, renormalised.
pub struct Ensemble<'a> {
    members: Vec<Box<dyn Scorer + 'a>>,
    top_k: usize,
}

impl<'a> Ensemble<'a> {
    /// An ensemble of dense models.
    ///
    /// # Errors
    /// [`Error::Param`] where there are no members or `top_k` is 0.
    pub fn new(members: Vec<Box<dyn Scorer + 'a>>, top_k: usize) -> Result<Self> {
        if members.is_empty() || top_k == 0 {
            let reason = format!("an ensemble of {} members cannot use {top_k}", members.len());
            return Err(Error::Param { param: "top_k", reason });
        }
        Ok(Self { members, top_k })
    }

    /// log Σ w·p of one token, from the members' log-likelihoods of the prefix and of the token.
    fn mix(&self, prefix: &[f64], token: &[f64]) -> f32 {
        let mut order: Vec<usize> = (0..prefix.len()).collect();
        order.sort_by(|&a, &b| prefix[b].total_cmp(&prefix[a]));
        order.truncate(self.top_k);
        let weighted = log_sum_exp(order.iter().map(|&d| prefix[d] + token[d]));
        (weighted - log_sum_exp(order.iter().map(|&d| prefix[d]))) as f32
    }
}

fn log_sum_exp(x: impl Iterator<Item = f64> + Clone) -> f64 {
    let top = x.clone().fold(f64::NEG_INFINITY, f64::max);
    top + libm::log(x.map(|x| libm::exp(x - top)).sum::<f64>())
}

impl Scorer for Ensemble<'_> {
    fn log_probs(&self, requests: &[ScoreRequest]) -> Result<Vec<Vec<f32>>> {
        // The posterior needs every token of the prefixes, so each is asked for, once.
        let complete: Vec<ScoreRequest> = requests
            .iter()
            .map(|request| {
                let path = (0..request.tokens.len())
                    .filter_map(|i| Some(Target { after: request.before(i)?, token: request.tokens[i] }));
                let mut targets: Vec<Target> = path.chain(request.targets.iter().copied()).collect();
                targets.sort_unstable();
                targets.dedup();
                ScoreRequest { parts: vec![targets.len()], targets, ..request.clone() }
            })
            .collect();
        let members = self.members.iter().map(|m| m.log_probs(&complete)).collect::<Result<Vec<_>>>()?;
        let answer = |(r, request): (usize, &ScoreRequest)| {
            let index: BTreeMap<Target, usize> = complete[r].targets.iter().copied().zip(0..).collect();
            let of = |target: Target| -> Vec<f64> {
                index.get(&target).map(|&i| members.iter().map(|m| f64::from(m[r][i])).collect()).unwrap_or_default()
            };
            // Each member's log-likelihood of the text up to and with token i.
            let mut likelihood: Vec<Vec<f64>> = Vec::with_capacity(request.tokens.len());
            for (i, &token) in request.tokens.iter().enumerate() {
                let own = match request.before(i) {
                    Some(after) => {
                        let step = of(Target { after, token });
                        likelihood[after].iter().zip(&step).map(|(a, b)| a + b).collect()
                    }
                    None => vec![0.0; members.len()],
                };
                likelihood.push(own);
            }
            request.targets.iter().map(|&t| self.mix(&likelihood[t.after], &of(t))).collect()
        };
        Ok(requests.iter().enumerate().map(answer).collect())
    }
}
