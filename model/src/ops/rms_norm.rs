//! `RMSNorm` over the last axis, with the residual of `OLMo` 2's reordered norm: `out = residual + x / rms(x) · w`.

use super::buffer::{Unwritten, contiguous, dims, slice, tensor, written_by};
use super::simd::{add_rows, dot, dot_three, simd};
use super::{ROWS, Tape};
use burn::backend::autodiff::{
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;
use rayon::prelude::*;
use std::sync::Arc;

/// `RMSNorm` as one operation of a backend.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait RmsNormOp: Backend {
    /// `x` [n, d], `w` [1, d].
    fn rms_norm(x: FloatTensor<Self>, w: FloatTensor<Self>, eps: f32) -> FloatTensor<Self>;
    /// The same plus `residual` [n, d].
    fn add_rms_norm(
        x: FloatTensor<Self>,
        w: FloatTensor<Self>,
        residual: FloatTensor<Self>,
        eps: f32,
    ) -> FloatTensor<Self>;
}

/// `x / sqrt(mean(x²) + eps) · w` for `x` [n, d] and `w` [1, d].
pub(crate) fn rms_norm(x: Tensor<2>, w: Tensor<2>, eps: f32) -> Tensor<2> {
    if super::fused(&x) {
        return Tensor::from_dispatch(Dispatch::rms_norm(x.into_dispatch(), w.into_dispatch(), eps));
    }
    let scale = (x.clone().square().mean_dim(1) + eps).sqrt().recip();
    x * scale * w
}

/// `residual + rms_norm(x, w)`.
pub(crate) fn add_rms_norm(x: Tensor<2>, w: Tensor<2>, residual: Tensor<2>, eps: f32) -> Tensor<2> {
    if super::fused(&x) {
        let (x, w, residual) = (x.into_dispatch(), w.into_dispatch(), residual.into_dispatch());
        return Tensor::from_dispatch(Dispatch::add_rms_norm(x, w, residual, eps));
    }
    residual + rms_norm(x, w, eps)
}

simd! {
    fn forward_rows(x: &[f32], w: &[f32], residual: Option<&[f32]>, eps: f32, out: &mut [Unwritten], inverse: &mut [Unwritten]) {
        let d = w.len();
        for (i, inverse) in inverse.iter_mut().enumerate() {
            let x = &x[i * d..][..d];
            let r = 1.0 / (dot(x, x) / d as f32 + eps).sqrt();
            inverse.write(r);
            let out = &mut out[i * d..][..d];
            match residual {
                Some(residual) => {
                    let residual = &residual[i * d..][..d];
                    for j in 0..d {
                        out[j].write((x[j] * r).mul_add(w[j], residual[j]));
                    }
                }
                None => {
                    for j in 0..d {
                        out[j].write(x[j] * r * w[j]);
                    }
                }
            }
        }
    }
}

/// Gradient of one row: `dx` is written, `dw` is added to. `r` is the row's 1 / rms.
#[inline(always)]
#[allow(clippy::inline_always, reason = "must take on its caller's instruction set")]
pub(crate) fn backward_row(x: &[f32], w: &[f32], r: f32, g: &[f32], dx: &mut [f32], dw: &mut [f32]) {
    let d = w.len();
    let (x, g, dx, dw) = (&x[..d], &g[..d], &mut dx[..d], &mut dw[..d]);
    let s = dot_three(g, w, x);
    let c = s * r * r * r / d as f32;
    for j in 0..d {
        dw[j] = (g[j] * r).mul_add(x[j], dw[j]);
        dx[j] = (g[j] * w[j]).mul_add(r, -(x[j] * c));
    }
}

simd! {
    fn backward_rows(x: &[f32], w: &[f32], inverse: &[f32], g: &[f32], dx: &mut [f32], dw: &mut [f32]) {
        let d = w.len();
        for (i, dx) in dx.chunks_exact_mut(d).enumerate() {
            backward_row(&x[i * d..][..d], w, inverse[i], &g[i * d..][..d], dx, dw);
        }
    }
}

/// The output and 1 / rms of every row.
fn forward(x: &FlexTensor, w: &FlexTensor, residual: Option<&FlexTensor>, eps: f32) -> (FlexTensor, Vec<f32>) {
    let [n, d] = dims(x);
    let (xs, ws, rs) = (slice(x), slice(w), residual.map(slice));
    let mut inverse = Vec::new();
    // SAFETY: the chunks cover both buffers, and `forward_rows` writes all of each chunk.
    let out = unsafe {
        written_by(n * d, |out| {
            inverse = written_by(n, |inverse| {
                let chunks = out.par_chunks_mut(d * ROWS).zip(inverse.par_chunks_mut(ROWS)).enumerate();
                chunks.for_each(|(c, (out, inverse))| {
                    let at = c * ROWS * d;
                    forward_rows(&xs[at..], ws, rs.map(|r| &r[at..]), eps, out, inverse);
                });
            });
        })
    };
    (tensor(out, &[n, d]), inverse)
}

impl RmsNormOp for Flex {
    fn rms_norm(x: FlexTensor, w: FlexTensor, eps: f32) -> FlexTensor {
        forward(&contiguous(x), &contiguous(w), None, eps).0
    }
    fn add_rms_norm(x: FlexTensor, w: FlexTensor, residual: FlexTensor, eps: f32) -> FlexTensor {
        forward(&contiguous(x), &contiguous(w), Some(&contiguous(residual)), eps).0
    }
}

/// Parents: x, w and, for N = 3, the residual.
#[derive(Debug)]
struct RmsNormBackward;

impl<const N: usize> Backward<Flex, N> for RmsNormBackward {
    type State = (FlexTensor, FlexTensor, Arc<Vec<f32>>);

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let g = contiguous(grads.consume::<Flex>(&ops.node));
        let (x, w, inverse) = ops.state;
        let [n, d] = dims(&x);
        let (xs, ws, gs) = (slice(&x), slice(&w), slice(&g));
        let mut dx = vec![0f32; n * d];
        let mut parts = vec![0f32; n.div_ceil(ROWS) * d];
        dx.par_chunks_mut(d * ROWS).zip(parts.par_chunks_mut(d)).enumerate().for_each(|(c, (dx, dw))| {
            let at = c * ROWS * d;
            backward_rows(&xs[at..], ws, &inverse[c * ROWS..], &gs[at..], dx, dw);
        });
        let mut parents = ops.parents.into_iter();
        if let Some(Some(parent)) = parents.next() {
            grads.register::<Flex>(parent.id, tensor(dx, &[n, d]));
        }
        if let Some(Some(parent)) = parents.next() {
            let mut dw = vec![0f32; d];
            add_rows(&parts, &mut dw);
            grads.register::<Flex>(parent.id, tensor(dw, &[1, d]));
        }
        if let Some(Some(parent)) = parents.next() {
            grads.register::<Flex>(parent.id, g);
        }
    }
}

impl<C: CheckpointStrategy> RmsNormOp for Autodiff<Flex, C> {
    fn rms_norm(x: Tape<C>, w: Tape<C>, eps: f32) -> Tape<C> {
        let nodes = [x.node(), w.node()];
        let (x, w) = (contiguous(x.into_primitive()), contiguous(w.into_primitive()));
        let (out, inverse) = forward(&x, &w, None, eps);
        match RmsNormBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x, w, Arc::new(inverse)), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }

    fn add_rms_norm(x: Tape<C>, w: Tape<C>, residual: Tape<C>, eps: f32) -> Tape<C> {
        let nodes = [x.node(), w.node(), residual.node()];
        let (x, w) = (contiguous(x.into_primitive()), contiguous(w.into_primitive()));
        let (out, inverse) = forward(&x, &w, Some(&contiguous(residual.into_primitive())), eps);
        match RmsNormBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((x, w, Arc::new(inverse)), out),
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::{Inputs, gradients_agree};
    use super::*;

    #[test]
    fn agrees_with_the_composition() {
        let inputs = Inputs::new(&[[70, 24], [1, 24]]);
        gradients_agree(&inputs, 1e-6, |x| rms_norm(x[0].clone(), x[1].clone(), 1e-6));
    }

    #[test]
    fn agrees_with_the_composition_beside_a_residual() {
        let inputs = Inputs::new(&[[70, 40], [1, 40], [70, 40]]);
        gradients_agree(&inputs, 1e-6, |x| add_rms_norm(x[0].clone(), x[1].clone(), x[2].clone(), 1e-6));
    }
}
