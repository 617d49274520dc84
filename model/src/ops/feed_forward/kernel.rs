//! The loops of the feed-forward layer on slices.

use crate::ops::buffer::{Shared, written_by};
use crate::ops::gemm::{Mat, Old, Size, product, shared_product};
use crate::ops::simd::{dot, exp, simd};
use rayon::prelude::*;
use std::sync::Arc;

/// Rows that go through the layer together.
const BLOCK: usize = 128;

/// The rows that chose an expert, and with what weight.
#[derive(Debug)]
pub(super) struct Chosen {
    pub rows: Vec<u32>,
    weights: Vec<f32>,
    /// Every row, in order: nothing needs to be gathered.
    all: bool,
}

impl Chosen {
    /// The rows of `routing` [n, columns] whose weight in `column` is positive.
    pub fn new(routing: &[f32], columns: usize, column: usize) -> Self {
        let weights = routing.chunks_exact(columns).map(|row| row[column]);
        let (rows, weights): (Vec<u32>, Vec<f32>) =
            weights.enumerate().filter(|&(_, w)| w > 0.0).map(|(i, w)| (i as u32, w)).unzip();
        let all = rows.len() * columns == routing.len();
        Self { rows, weights, all }
    }
}

/// gate and up [f, d], down [d, f].
pub(super) struct Weights<'a> {
    pub gate: &'a [f32],
    pub up: &'a [f32],
    pub down: &'a [f32],
    pub d: usize,
    pub f: usize,
}

simd! {
    /// `[gate | up]` rows → `silu(gate) · up`.
    fn swiglu_rows(gate_up: &[f32], f: usize, out: &mut [f32]) {
        for (gu, out) in gate_up.chunks_exact(2 * f).zip(out.chunks_exact_mut(f)) {
            let (gate, up) = (&gu[..f], &gu[f..][..f]);
            for j in 0..f {
                out[j] = gate[j] / (1.0 + exp(-gate[j])) * up[j];
            }
        }
    }
}

simd! {
    /// `g`: gradient of the activations [rows, f] → `dgu` = gradient of `[gate | up]`; `act` = the activations again.
    /// Per row also Σ g · act, which is the gradient of the row's weight when `g` lacks that weight.
    fn swiglu_rows_backward(gate_up: &[f32], f: usize, weights: &[f32], g: &[f32], dgu: &mut [f32], act: &mut [f32], dweight: &mut [f32]) {
        for (i, dgu) in dgu.chunks_exact_mut(2 * f).enumerate() {
            let (gate, up) = (&gate_up[i * 2 * f..][..f], &gate_up[i * 2 * f + f..][..f]);
            let (g, act) = (&g[i * f..][..f], &mut act[i * f..][..f]);
            let (dgate, dup) = dgu.split_at_mut(f);
            let dup = &mut dup[..f];
            let w = if weights.is_empty() { 1.0 } else { weights[i] };
            for j in 0..f {
                let s = 1.0 / (1.0 + exp(-gate[j]));
                let silu = gate[j] * s;
                act[j] = silu * up[j];
                let gw = g[j] * w;
                dup[j] = gw * silu;
                dgate[j] = gw * up[j] * (s + silu * (1.0 - s));
            }
            if !weights.is_empty() {
                dweight[i] = dot(g, act);
                // The gradient of `down` needs weight · act.
                for a in act.iter_mut() {
                    *a *= w;
                }
            }
        }
    }
}

fn gather(x: &[f32], d: usize, rows: &[u32]) -> Vec<f32> {
    let mut out = Vec::with_capacity(rows.len() * d);
    for &row in rows {
        out.extend_from_slice(&x[row as usize * d..][..d]);
    }
    out
}

/// Products of gate and up of `m` rows: [m, 2f].
///
/// # Safety
/// `dst` must have m · 2f elements that nobody else uses.
unsafe fn gate_up(x: Mat, m: usize, w: &Weights<'_>, dst: *mut f32) {
    let (d, f) = (w.d, w.f);
    // SAFETY: the caller's promise; the two products write different columns.
    unsafe {
        product(Size { m, n: f, k: d }, dst, 2 * f, Old::Replace, x, Mat::rows(w.gate, 0, d).t(), 1.0);
        product(Size { m, n: f, k: d }, dst.add(f), 2 * f, Old::Replace, x, Mat::rows(w.up, 0, d).t(), 1.0);
    }
}

/// `out += weight · ffn(h)` for the chosen rows, `out = ffn(h)` for all where none are named. `out` [n, d]. Returns the
/// products of gate and up where they are to be kept.
pub(super) fn forward(
    h: &[f32],
    chosen: Option<&Arc<Chosen>>,
    w: &Weights<'_>,
    keep: bool,
    out: &mut [f32],
) -> Vec<f32> {
    let (d, f) = (w.d, w.f);
    let n = chosen.map_or(h.len() / d, |c| c.rows.len());
    let out = Shared::of(out);
    // SAFETY: `out` has a row for every row of h, `kept` 2f elements for each of the n; `blocks` writes all of `kept`.
    unsafe {
        written_by(if keep { n * 2 * f } else { 0 }, |kept| {
            blocks(h, chosen, w, keep.then(|| Shared::new(kept)), n, out);
        })
    }
}

/// The blocks of [`forward`]: `n` rows, into `out` and, where there is such a place, into `kept`.
///
/// # Safety
/// `out` must have d elements for every row of `h`, `kept` 2f for each of the `n` rows, and nobody else may use them.
unsafe fn blocks(
    h: &[f32],
    chosen: Option<&Arc<Chosen>>,
    w: &Weights<'_>,
    kept: Option<Shared>,
    n: usize,
    out: Shared,
) {
    let (d, f) = (w.d, w.f);
    (0..n.div_ceil(BLOCK)).into_par_iter().for_each(|block| {
        let from = block * BLOCK;
        let m = BLOCK.min(n - from);
        let gathered = match chosen {
            Some(c) if !c.all => gather(h, d, &c.rows[from..from + m]),
            _ => Vec::new(),
        };
        let x = if gathered.is_empty() { Mat::rows(h, from * d, d) } else { Mat::rows(&gathered, 0, d) };
        let mut own = vec![0f32; if kept.is_some() { 0 } else { m * 2 * f }];
        let mut act = vec![0f32; m * f];
        // SAFETY: this block's rows of `kept` and `out`, which no other block touches: the chosen rows are distinct.
        unsafe {
            let gu = kept.map_or(own.as_mut_ptr(), |kept| kept.at(from * 2 * f));
            gate_up(x, m, w, gu);
            swiglu_rows(std::slice::from_raw_parts(gu, m * 2 * f), f, &mut act);
            let (size, act) = (Size { m, n: d, k: f }, Mat::rows(&act, 0, f));
            let down = Mat::rows(w.down, 0, f).t();
            match chosen {
                None => product(size, out.at(from * d), d, Old::Replace, act, down, 1.0),
                Some(c) => {
                    let mut y = vec![0f32; m * d];
                    product(size, y.as_mut_ptr(), d, Old::Replace, act, down, 1.0);
                    for (i, y) in y.chunks_exact(d).enumerate() {
                        let to = std::slice::from_raw_parts_mut(out.at(c.rows[from + i] as usize * d), d);
                        add_scaled(y, c.weights[from + i], to);
                    }
                }
            }
        }
    });
}

simd! {
    fn add_scaled(y: &[f32], w: f32, to: &mut [f32]) {
        for (y, to) in y.iter().zip(to) {
            *to = y.mul_add(w, *to);
        }
    }
}

/// Which gradients to make.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub h: bool,
    pub weights: bool,
}

/// Gradients; empty where they are not wanted.
pub(super) struct Gradients {
    pub h: Vec<f32>,
    pub gate: Vec<f32>,
    pub up: Vec<f32>,
    pub down: Vec<f32>,
    /// Of the weights of the chosen rows.
    pub weight: Vec<f32>,
}

/// The backward pass; `kept` as [`forward`] returned it, `g` [n, d].
pub(super) fn backward(
    h: &[f32],
    chosen: Option<&Chosen>,
    w: &Weights<'_>,
    kept: &[f32],
    g: &[f32],
    wanted: Wanted,
) -> Gradients {
    let (d, f) = (w.d, w.f);
    let n = chosen.map_or(h.len() / d, |c| c.rows.len());
    let sparse = chosen.is_some_and(|c| !c.all);
    let mut dh = vec![0f32; if wanted.h { h.len() } else { 0 }];
    let mut weight = vec![0f32; if chosen.is_some() { n } else { 0 }];
    let whole = |width: usize| vec![0f32; if wanted.weights { n * width } else { 0 }];
    let (mut act, mut dgu) = (whole(f), whole(2 * f));
    let gathered = match chosen {
        Some(c) if sparse => Some((gather(h, d, &c.rows), gather(g, d, &c.rows))),
        _ => None,
    };
    let (h, g) = gathered.as_ref().map_or((h, g), |(h, g)| (h, g));
    let (dh_at, act_at, dgu_at) = (Shared::of(&mut dh), Shared::of(&mut act), Shared::of(&mut dgu));
    let weight_at = Shared::of(&mut weight);
    (0..n.div_ceil(BLOCK)).into_par_iter().for_each(|block| {
        let from = block * BLOCK;
        let m = BLOCK.min(n - from);
        let mut dact = vec![0f32; m * f];
        let own = |width: usize| vec![0f32; if wanted.weights { 0 } else { m * width }];
        let (mut own_act, mut own_dgu) = (own(f), own(2 * f));
        let row_weights = chosen.map_or(&[][..], |c| &c.weights[from..from + m]);
        // SAFETY: this block's rows of `act`, `dgu`, `weight` and `dh`, which no other block touches.
        unsafe {
            let part = |whole: Shared, own: &mut [f32], width: usize| {
                let at = if wanted.weights { whole.at(from * width) } else { own.as_mut_ptr() };
                std::slice::from_raw_parts_mut(at, m * width)
            };
            let act = part(act_at, &mut own_act, f);
            let dgu = part(dgu_at, &mut own_dgu, 2 * f);
            let dweight: &mut [f32] = match chosen {
                Some(_) => std::slice::from_raw_parts_mut(weight_at.at(from), m),
                None => &mut [],
            };
            let (size, gout) = (Size { m, n: f, k: d }, Mat::rows(g, from * d, d));
            product(size, dact.as_mut_ptr(), f, Old::Replace, gout, Mat::rows(w.down, 0, f), 1.0);
            swiglu_rows_backward(&kept[from * 2 * f..][..m * 2 * f], f, row_weights, &dact, dgu, act, dweight);
            if wanted.h {
                let mut own_dh = vec![0f32; if sparse { m * d } else { 0 }];
                let dst = if sparse { own_dh.as_mut_ptr() } else { dh_at.at(from * d) };
                let (dgate, dup) = (Mat::rows(dgu, 0, 2 * f), Mat::rows(dgu, f, 2 * f));
                let size = Size { m, n: d, k: f };
                product(size, dst, d, Old::Replace, dgate, Mat::rows(w.gate, 0, d), 1.0);
                product(size, dst, d, Old::Add, dup, Mat::rows(w.up, 0, d), 1.0);
                if let Some(c) = chosen.filter(|_| sparse) {
                    for (row, dh) in c.rows[from..from + m].iter().zip(own_dh.chunks_exact(d)) {
                        std::slice::from_raw_parts_mut(dh_at.at(*row as usize * d), d).copy_from_slice(dh);
                    }
                }
            }
        }
    });
    let mut made = Gradients { h: dh, gate: Vec::new(), up: Vec::new(), down: Vec::new(), weight };
    if wanted.weights {
        (made.gate, made.up, made.down) = (vec![0f32; f * d], vec![0f32; f * d], vec![0f32; d * f]);
        // An expert that no row chose has gradients of zero.
        if n > 0 {
            let tall = Size { m: f, n: d, k: n };
            // SAFETY: each product writes a buffer of its own size.
            unsafe {
                let (x, gout) = (Mat::rows(h, 0, d), Mat::rows(g, 0, d));
                shared_product(tall, made.gate.as_mut_ptr(), d, Old::Replace, Mat::rows(&dgu, 0, 2 * f).t(), x, 1.0);
                shared_product(tall, made.up.as_mut_ptr(), d, Old::Replace, Mat::rows(&dgu, f, 2 * f).t(), x, 1.0);
                let wide = Size { m: d, n: f, k: n };
                shared_product(wide, made.down.as_mut_ptr(), f, Old::Replace, gout.t(), Mat::rows(&act, 0, f), 1.0);
            }
        }
    }
    made
}
