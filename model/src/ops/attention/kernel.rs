//! The loops of attention on slices. Work is cut by (sequence, head) and by tiles of [`TILE`] queries.

use super::Heads;
use crate::ops::ROWS;
use crate::ops::buffer::{Shared, Unwritten, written_by};
use crate::ops::gemm::{Mat, Old, Size, product};
use crate::ops::rms_norm::backward_row;
use crate::ops::simd::{add_rows, dot, exp, exp_sub_sum, max, simd};
use rayon::prelude::*;

/// Queries of a tile.
const TILE: usize = 64;

/// What the backward pass needs of the forward pass.
pub(super) struct Saved {
    /// Normalised and rotated q and k, [n, d].
    q: Vec<f32>,
    k: Vec<f32>,
    /// 1 / rms of every row of q and k.
    rms_q: Vec<f32>,
    rms_k: Vec<f32>,
    /// log Σ exp of every row of scores, [batch, heads, length].
    lse: Vec<f32>,
}

/// The forward pass as the backward pass sees it.
pub(super) struct Forward<'a> {
    pub qkv: &'a [f32],
    pub wq: &'a [f32],
    pub wk: &'a [f32],
    pub out: &'a [f32],
    pub saved: &'a Saved,
}

simd! {
    /// `RMSNorm` and `RoPE` of rows `first..` of q or k, which starts at column `at` of qkv.
    fn norm_rope_rows(first: usize, qkv: &[f32], at: usize, w: &[f32], heads: &Heads, out: &mut [Unwritten], rms: &mut [Unwritten]) {
        let (d, h) = (heads.width(), heads.head_dim);
        let half = h / 2;
        for (i, rms) in rms.iter_mut().enumerate() {
            let row = first + i;
            let x = &qkv[row * 3 * d + at..][..d];
            let r = 1.0 / (dot(x, x) / d as f32 + heads.eps).sqrt();
            rms.write(r);
            let (cos, sin) = heads.angles.at(heads.sequences.position(row));
            let (cos, sin) = (&cos[..half], &sin[..half]);
            for ((x, w), out) in x.chunks_exact(h).zip(w.chunks_exact(h)).zip(out[i * d..][..d].chunks_exact_mut(h)) {
                let (x1, x2) = (&x[..half], &x[half..][..half]);
                let (w1, w2) = (&w[..half], &w[half..][..half]);
                let (o1, o2) = out.split_at_mut(half);
                let (o1, o2) = (&mut o1[..half], &mut o2[..half]);
                for j in 0..half {
                    let (y1, y2) = (x1[j] * r * w1[j], x2[j] * r * w2[j]);
                    o1[j].write(y1 * cos[j] - y2 * sin[j]);
                    o2[j].write(y2 * cos[j] + y1 * sin[j]);
                }
            }
        }
    }
}

simd! {
    /// Back through `RoPE` and `RMSNorm`, in place: `grad` holds rows `first..` of the gradient of `[q | k | v]`.
    fn norm_rope_rows_backward(first: usize, f: &Forward<'_>, heads: &Heads, scratch: &mut [f32], grad: &mut [f32], dw: &mut [f32]) {
        let (d, h) = (heads.width(), heads.head_dim);
        let half = h / 2;
        for (i, grad) in grad.chunks_exact_mut(3 * d).enumerate() {
            let row = first + i;
            let (cos, sin) = heads.angles.at(heads.sequences.position(row));
            let (cos, sin) = (&cos[..half], &sin[..half]);
            for (part, (w, rms)) in [(f.wq, &f.saved.rms_q), (f.wk, &f.saved.rms_k)].into_iter().enumerate() {
                let grad = &mut grad[part * d..][..d];
                for (g, s) in grad.chunks_exact(h).zip(scratch.chunks_exact_mut(h)) {
                    let (g1, g2) = (&g[..half], &g[half..][..half]);
                    let (s1, s2) = s.split_at_mut(half);
                    let (s1, s2) = (&mut s1[..half], &mut s2[..half]);
                    for j in 0..half {
                        s1[j] = g1[j] * cos[j] + g2[j] * sin[j];
                        s2[j] = g2[j] * cos[j] - g1[j] * sin[j];
                    }
                }
                let x = &f.qkv[row * 3 * d + part * d..][..d];
                backward_row(x, w, rms[row], scratch, grad, &mut dw[part * d..][..d]);
            }
        }
    }
}

/// What one query of a tile sees, as columns of the tile's scores: `..shared` and `start..end`.
struct Span {
    shared: usize,
    start: usize,
    end: usize,
}

/// Queries `from..to` of a sequence and the keys `low..to` that they see.
struct Tile {
    from: usize,
    to: usize,
    low: usize,
}

impl Tile {
    fn new(heads: &Heads, sequence: usize, from: usize, to: usize) -> Self {
        let low = if heads.sequences.shared(sequence) > 0 { 0 } else { heads.sequences.start(sequence, from) };
        Self { from, to, low }
    }

    fn queries(&self) -> usize {
        self.to - self.from
    }

    fn keys(&self) -> usize {
        self.to - self.low
    }

    fn span(&self, heads: &Heads, sequence: usize, i: usize) -> Span {
        let t = self.from + i;
        let start = heads.sequences.start(sequence, t) - self.low;
        // The prefix's own tokens see it up to themselves: their segment starts at 0.
        let shared = heads.sequences.shared(sequence).min(start);
        Span { shared, start, end: t + 1 - self.low }
    }
}

simd! {
    /// Scores → probabilities, row by row; what a query does not see becomes 0.
    fn softmax(tile: &Tile, heads: &Heads, sequence: usize, scores: &mut [f32], lse: &mut [f32]) {
        let width = tile.keys();
        for (i, lse) in lse.iter_mut().enumerate() {
            let span = tile.span(heads, sequence, i);
            let row = &mut scores[i * width..][..width];
            let (prefix, rest) = row.split_at_mut(span.start);
            let (own, after) = rest.split_at_mut(span.end - span.start);
            let (shared, between) = prefix.split_at_mut(span.shared);
            let mut m = max(own);
            if !shared.is_empty() {
                m = m.max(max(shared));
            }
            let mut sum = exp_sub_sum(own, m);
            if !shared.is_empty() {
                sum += exp_sub_sum(shared, m);
            }
            let inverse = 1.0 / sum;
            for x in own.iter_mut() {
                *x *= inverse;
            }
            for x in shared.iter_mut() {
                *x *= inverse;
            }
            between.fill(0.0);
            after.fill(0.0);
            *lse = m + libm::logf(sum);
        }
    }
}

simd! {
    /// Scores → probabilities again, and `g` (gradient of the probabilities) → gradient of the scores.
    fn softmax_backward(tile: &Tile, heads: &Heads, sequence: usize, lse: &[f32], delta: &[f32], scores: &mut [f32], g: &mut [f32]) {
        let (width, scale) = (tile.keys(), heads.scale());
        for i in 0..tile.queries() {
            let span = tile.span(heads, sequence, i);
            let (lse, delta) = (lse[i], delta[i]);
            let row = &mut scores[i * width..][..width];
            let grow = &mut g[i * width..][..width];
            for (from, to) in [(0, span.shared), (span.start, span.end)] {
                for (s, g) in row[from..to].iter_mut().zip(&mut grow[from..to]) {
                    let p = exp(*s - lse);
                    *s = p;
                    *g = p * (*g - delta) * scale;
                }
            }
            for (from, to) in [(span.shared, span.start), (span.end, width)] {
                row[from..to].fill(0.0);
                grow[from..to].fill(0.0);
            }
        }
    }
}

simd! {
    /// Σ over the head of gradient · output, for every query of a tile.
    fn deltas(from: usize, d: usize, h: usize, g: &[f32], out: &[f32], delta: &mut [f32]) {
        for (i, delta) in delta.iter_mut().enumerate() {
            let at = from + i * d;
            *delta = dot(&g[at..at + h], &out[at..at + h]);
        }
    }
}

fn norm_rope(qkv: &[f32], at: usize, w: &[f32], heads: &Heads) -> (Vec<f32>, Vec<f32>) {
    let (d, n) = (heads.width(), heads.sequences.tokens());
    let mut rms = Vec::new();
    // SAFETY: the chunks cover both buffers, and `norm_rope_rows` writes all of each chunk.
    let out = unsafe {
        written_by(n * d, |out| {
            rms = written_by(n, |rms| {
                out.par_chunks_mut(d * ROWS).zip(rms.par_chunks_mut(ROWS)).enumerate().for_each(|(c, (out, rms))| {
                    norm_rope_rows(c * ROWS, qkv, at, w, heads, out, rms);
                });
            });
        })
    };
    (out, rms)
}

/// The output [n, d].
pub(super) fn forward(qkv: &[f32], wq: &[f32], wk: &[f32], heads: &Heads) -> (Vec<f32>, Saved) {
    let (d, h, t) = (heads.width(), heads.head_dim, heads.sequences.length);
    let n = heads.sequences.tokens();
    let (q, rms_q) = norm_rope(qkv, 0, wq, heads);
    let (k, rms_k) = norm_rope(qkv, d, wk, heads);
    let mut lse = vec![0f32; heads.sequences.batch * heads.heads * t];
    // SAFETY: each (sequence, head) writes its own columns of its own rows, all of them tile by tile.
    let out = unsafe {
        written_by(n * d, |out| {
            let out = Shared::new(out);
            lse.par_chunks_mut(t.max(1)).enumerate().for_each(|(which, lse)| {
                let (sequence, head) = (which / heads.heads, which % heads.heads);
                let first = sequence * t;
                let mut scores = vec![0f32; TILE.min(t) * t];
                for from in (0..t).step_by(TILE) {
                    let tile = Tile::new(heads, sequence, from, t.min(from + TILE));
                    let (m, w) = (tile.queries(), tile.keys());
                    let queries = Mat::raw(q[(first + from) * d + head * h..].as_ptr(), d);
                    let keys = Mat::raw(k[(first + tile.low) * d + head * h..].as_ptr(), d);
                    let values = Mat::raw(qkv[(first + tile.low) * 3 * d + 2 * d + head * h..].as_ptr(), 3 * d);
                    let size = Size { m, n: w, k: h };
                    product(size, scores.as_mut_ptr(), w, Old::Replace, queries, keys.t(), heads.scale());
                    softmax(&tile, heads, sequence, &mut scores, &mut lse[from..tile.to]);
                    let (size, probabilities) = (Size { m, n: h, k: w }, Mat::rows(&scores, 0, w));
                    let dst = out.at((first + from) * d + head * h);
                    product(size, dst, d, Old::Replace, probabilities, values, 1.0);
                }
            });
        })
    };
    (out, Saved { q, k, rms_q, rms_k, lse })
}

/// Gradients of qkv [n, 3d], wq [d] and wk [d].
pub(super) fn backward(f: &Forward<'_>, g: &[f32], heads: &Heads) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let (d, h, t) = (heads.width(), heads.head_dim, heads.sequences.length);
    let n = heads.sequences.tokens();
    // The gradients of k and v are added to, tile by tile: they start at zero.
    let mut grad = vec![0f32; n * 3 * d];
    let grad_at = Shared::of(&mut grad);
    (0..heads.sequences.batch * heads.heads).into_par_iter().for_each(|which| {
        let (sequence, head) = (which / heads.heads, which % heads.heads);
        let first = sequence * t;
        let lse = &f.saved.lse[which * t..][..t];
        let mut scores = vec![0f32; TILE.min(t) * t];
        let mut gs = vec![0f32; TILE.min(t) * t];
        let mut delta = [0f32; TILE];
        for from in (0..t).step_by(TILE) {
            let tile = Tile::new(heads, sequence, from, t.min(from + TILE));
            let (m, w) = (tile.queries(), tile.keys());
            let (top, low) = (first + from, first + tile.low);
            let queries = Mat::raw(f.saved.q[top * d + head * h..].as_ptr(), d);
            let keys = Mat::raw(f.saved.k[low * d + head * h..].as_ptr(), d);
            let values = Mat::raw(f.qkv[low * 3 * d + 2 * d + head * h..].as_ptr(), 3 * d);
            let gout = Mat::raw(g[top * d + head * h..].as_ptr(), d);
            let delta = &mut delta[..m];
            deltas(top * d + head * h, d, h, g, f.out, delta);
            // SAFETY: each (sequence, head) uses its own columns of its own rows of `grad`.
            unsafe {
                let wide = Size { m, n: w, k: h };
                product(wide, scores.as_mut_ptr(), w, Old::Replace, queries, keys.t(), heads.scale());
                product(wide, gs.as_mut_ptr(), w, Old::Replace, gout, values.t(), 1.0);
                softmax_backward(&tile, heads, sequence, &lse[from..tile.to], delta, &mut scores, &mut gs);
                let (p, ds) = (Mat::rows(&scores, 0, w), Mat::rows(&gs, 0, w));
                let column = head * h;
                let (dq, dk) = (grad_at.at(top * 3 * d + column), grad_at.at(low * 3 * d + d + column));
                let dv = grad_at.at(low * 3 * d + 2 * d + column);
                let tall = Size { m: w, n: h, k: m };
                product(tall, dv, 3 * d, Old::Add, p.t(), gout, 1.0);
                product(tall, dk, 3 * d, Old::Add, ds.t(), queries, 1.0);
                product(Size { m, n: h, k: w }, dq, 3 * d, Old::Replace, ds, keys, 1.0);
            }
        }
    });
    let mut parts = vec![0f32; n.div_ceil(ROWS) * 2 * d];
    grad.par_chunks_mut(3 * d * ROWS).zip(parts.par_chunks_mut(2 * d)).enumerate().for_each(|(c, (grad, dw))| {
        let mut scratch = vec![0f32; d];
        norm_rope_rows_backward(c * ROWS, f, heads, &mut scratch, grad, dw);
    });
    let mut dw = vec![0f32; 2 * d];
    add_rows(&parts, &mut dw);
    let dwk = dw.split_off(d);
    (grad, dw, dwk)
}
