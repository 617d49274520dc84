//! Keys and values of the tokens that a text already has, so that the next token costs one token's work and not the whole
//! text's.
//!
//! ```text
//!   prompt  t t t t │ t          keys, values of a layer: [length, d] each, normalised and rotated, in host memory
//!           cached  │ new: q·kᵀ over all cached rows and its own
//! ```
//! Every row is computed alone, in the order of positions: what a token sees does not depend on how many came with it.

use crate::ops::attention::Heads;
use crate::rope::Angles;
use rayon::prelude::*;

/// The cache of one text.
#[derive(Clone, Debug)]
pub(crate) struct KvCache {
    layers: Vec<Rows>,
    length: usize,
}

#[derive(Clone, Debug, Default)]
struct Rows {
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl KvCache {
    /// An empty one.
    pub fn new(layers: usize) -> Self {
        Self { layers: vec![Rows::default(); layers], length: 0 }
    }

    /// Tokens that it holds.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Says that all layers have taken `tokens` more.
    pub fn advance(&mut self, tokens: usize) {
        self.length += tokens;
    }

    /// Attention of new tokens: `qkv_n3d` [n, 3d] row-major, norm weights `wq`, `wk` [d] → [n, d]. Their keys and values join
    /// those of `layer`.
    pub fn attend(&mut self, layer: usize, qkv_n3d: &[f32], wq: &[f32], wk: &[f32], heads: &Heads) -> Vec<f32> {
        let (d, h) = (heads.width(), heads.head_dim);
        let first = self.length;
        let rows = &mut self.layers[layer];
        let mut queries = Vec::with_capacity(qkv_n3d.len() / 3);
        for (i, row) in qkv_n3d.chunks_exact(3 * d).enumerate() {
            let (q, rest) = row.split_at(d);
            let (k, v) = rest.split_at(d);
            queries.extend(norm_rope(q, wq, first + i, heads));
            rows.keys.extend(norm_rope(k, wk, first + i, heads));
            rows.values.extend_from_slice(v);
        }
        let mut out = vec![0f32; queries.len()];
        let rows = &*rows;
        out.par_chunks_mut(h).enumerate().for_each(|(at, out)| {
            let (i, head) = (at / heads.heads, at % heads.heads);
            let query = &queries[at * h..][..h];
            let column = head * h;
            let visible = first + i + 1;
            let mut scores: Vec<f32> =
                (0..visible).map(|j| dot(query, &rows.keys[j * d + column..][..h]) * heads.scale()).collect();
            let top = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let mut sum = 0f32;
            for score in &mut scores {
                *score = libm::expf(*score - top);
                sum += *score;
            }
            for (j, score) in scores.iter().enumerate() {
                let weight = score / sum;
                for (out, value) in out.iter_mut().zip(&rows.values[j * d + column..][..h]) {
                    *out += weight * value;
                }
            }
        });
        out
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `RMSNorm` over all heads together, then `RoPE` on each.
fn norm_rope(x: &[f32], w: &[f32], position: usize, heads: &Heads) -> Vec<f32> {
    let mean = x.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / x.len() as f64;
    let scale = (1.0 / (mean + f64::from(heads.eps)).sqrt()) as f32;
    let mut row: Vec<f32> = x.iter().zip(w).map(|(x, w)| x * scale * w).collect();
    let angles: &Angles = &heads.angles;
    let (cos, sin) = angles.at(position);
    for head in row.chunks_exact_mut(heads.head_dim) {
        let (a, b) = head.split_at_mut(heads.head_dim / 2);
        for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
            (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
        }
    }
    row
}
