//! `AdamW` with decoupled weight decay, in place on the CPU.

use crate::ops::simd::simd;
use crate::ops::{elements, elements_mut, flex, from_flex, fused_on};
use burn::tensor::Tensor;
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Its constants; the defaults are FLEXOLMO §1's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdamW {
    /// Decay of the gradients' mean.
    pub beta1: f64,
    /// Decay of the squares' mean.
    pub beta2: f64,
    /// Added to the root of the squares' mean.
    pub eps: f64,
    /// Share of a weight that a step takes off, times the learning rate.
    pub weight_decay: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 }
    }
}

/// The two means of one parameter, shaped as it.
#[derive(Clone, Debug)]
pub(crate) struct Moments {
    pub first: Tensor<2>,
    pub second: Tensor<2>,
}

/// What a step does to one parameter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Update {
    pub lr: f64,
    /// Factor on the gradient, from clipping.
    pub scale: f64,
    /// 0 where the parameter does not decay.
    pub weight_decay: f64,
    /// Number of the step, from 1.
    pub step: u64,
}

/// Numbers of one step as the kernel takes them.
#[derive(Clone, Copy)]
struct Constants {
    lr: f32,
    scale: f32,
    keep: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    /// 1 / (1 - β^step).
    first: f32,
    second: f32,
}

/// Elements of a part; the update is element-wise, so only speed depends on it.
const PART: usize = 1 << 15;

impl AdamW {
    /// The parameter after the step; `moments` are moved on.
    pub(crate) fn update(&self, value: Tensor<2>, gradient: Tensor<2>, moments: &mut Moments, u: Update) -> Tensor<2> {
        let steps = u.step.min(1 << 20) as f64;
        let c = Constants {
            lr: u.lr as f32,
            scale: u.scale as f32,
            keep: (1.0 - u.lr * u.weight_decay) as f32,
            beta1: self.beta1 as f32,
            beta2: self.beta2 as f32,
            eps: self.eps as f32,
            first: (1.0 / (1.0 - libm::pow(self.beta1, steps))) as f32,
            second: (1.0 / (1.0 - libm::pow(self.beta2, steps))) as f32,
        };
        if fused_on(&value.device()) {
            let gradient = flex(gradient);
            // The handles in `moments` must go, or the buffers would have two owners and be copied.
            let nothing = Tensor::empty([0, 0], &value.device());
            let first = std::mem::replace(&mut moments.first, nothing.clone());
            let second = std::mem::replace(&mut moments.second, nothing);
            let (mut value, mut first, mut second) = (flex(value), flex(first), flex(second));
            {
                let (g, m, v) = (elements(&gradient), elements_mut(&mut first), elements_mut(&mut second));
                let parts = elements_mut(&mut value).par_chunks_mut(PART).zip(g.par_chunks(PART));
                let parts = parts.zip(m.par_chunks_mut(PART).zip(v.par_chunks_mut(PART)));
                parts.for_each(|((p, g), (m, v))| step(p, g, m, v, c));
            }
            *moments = Moments { first: from_flex(first), second: from_flex(second) };
            return from_flex(value);
        }
        let g = gradient * c.scale;
        moments.first = moments.first.clone() * c.beta1 + g.clone() * (1.0 - c.beta1);
        moments.second = moments.second.clone() * c.beta2 + g.square() * (1.0 - c.beta2);
        let root = (moments.second.clone() * c.second).sqrt() + c.eps;
        value.inner() * c.keep - moments.first.clone() * (c.first * c.lr) / root
    }
}

simd! {
    fn step(p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], c: Constants) {
        let n = p.len();
        let (g, m, v) = (&g[..n], &mut m[..n], &mut v[..n]);
        for j in 0..n {
            let g = g[j] * c.scale;
            m[j] = c.beta1 * m[j] + (1.0 - c.beta1) * g;
            v[j] = c.beta2 * v[j] + (1.0 - c.beta2) * g * g;
            p[j] = p[j] * c.keep - c.lr * (m[j] * c.first) / ((v[j] * c.second).sqrt() + c.eps);
        }
    }
}
