//! The output layer with its loss: mean cross-entropy plus z-loss `z · mean(logsumexp(logits)²)` (FLEXOLMO §1), over
//! chunks of rows, so that never more than [`CHUNK`] rows of logits exist. Also log-probabilities, for scoring.

use super::Tape;
use super::buffer::{contiguous, dims, slice, tensor};
use super::gemm::{Mat, Old, Size, shared_product};
use super::product::product;
use super::simd::{exp_sub_sum, max, simd, sum_exp};
use burn::backend::autodiff::{
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::{Int, Tensor, TensorData, activation};
use burn_flex::FlexTensor;
use rayon::prelude::*;
use std::sync::Arc;

/// Rows of logits that exist at a time.
const CHUNK: usize = 512;

/// What the loss is taken over.
#[derive(Clone, Debug)]
pub(crate) struct Targets {
    /// The next token of each row, or [`Targets::IGNORE`].
    pub ids: Arc<[u32]>,
    /// What sums are divided by: the number of targets of the whole (accumulated) batch.
    pub count: f32,
    /// Weight of the z-loss.
    pub z_weight: f32,
}

impl Targets {
    /// A row that has no target.
    pub const IGNORE: u32 = u32::MAX;
}

/// Which gradients to make.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    x: bool,
    w: bool,
}

/// Output layer and loss as one operation of a backend.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait CrossEntropyOp: Backend {
    /// `x` [n, d], `w` [v, d] → [3]: loss, cross-entropy, z-loss.
    fn cross_entropy(x: FloatTensor<Self>, w: FloatTensor<Self>, targets: Targets, wanted: Wanted)
    -> FloatTensor<Self>;
}

/// Loss, cross-entropy and z-loss [3] of the logits `x·wᵀ`, for `x` [n, d] and `w` [v, d]; loss = cross-entropy + z-loss.
/// Only the first element may be differentiated: its gradients are made in the forward pass, while the logits exist.
pub(crate) fn cross_entropy(x: Tensor<2>, w: Tensor<2>, targets: &Targets) -> Tensor<1> {
    if super::fused(&x) {
        let wanted = Wanted { x: x.is_tracked(), w: w.is_tracked() };
        let (x, w) = (x.into_dispatch(), w.into_dispatch());
        return Tensor::from_dispatch(Dispatch::cross_entropy(x, w, targets.clone(), wanted));
    }
    composed(x, w, targets)
}

fn composed(x: Tensor<2>, w: Tensor<2>, targets: &Targets) -> Tensor<1> {
    let (n, device) = (targets.ids.len(), x.device());
    let live: Vec<f32> = targets.ids.iter().map(|&t| f32::from(u8::from(t != Targets::IGNORE))).collect();
    let live = Tensor::<2>::from_data(TensorData::new(live, [n, 1]), &device);
    let ids: Vec<i64> = targets.ids.iter().map(|&t| if t == Targets::IGNORE { 0 } else { i64::from(t) }).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [n, 1]), &device);
    let logits = product(x, w.transpose());
    let top = logits.clone().max_dim(1).detach();
    let lse = (logits.clone() - top.clone()).exp().sum_dim(1).log() + top;
    let ce = ((lse.clone() - logits.gather(1, ids)) * live.clone()).sum() / targets.count;
    let z = (lse.square() * live).sum() * (targets.z_weight / targets.count);
    Tensor::cat(vec![ce.clone() + z.clone(), ce.detach(), z.detach()], 0)
}

simd! {
    /// One row of logits → gradient of the loss; the row's cross-entropy and squared logsumexp.
    fn loss_row(row: &mut [f32], target: u32, inverse: f32, z: f32, need: bool, out: &mut [f32; 2]) {
        if target == Targets::IGNORE {
            row.fill(0.0);
            *out = [0.0, 0.0];
            return;
        }
        let m = max(row);
        let at = row[target as usize];
        let sum = if need { exp_sub_sum(row, m) } else { sum_exp(row, m) };
        let lse = m + libm::logf(sum);
        *out = [lse - at, lse * lse];
        if need {
            let f = inverse * (1.0 + 2.0 * z * lse) / sum;
            for p in row.iter_mut() {
                *p *= f;
            }
            row[target as usize] -= inverse;
        }
    }
}

/// The three losses, and the gradients of x and w that are wanted (else empty).
fn forward(x: &FlexTensor, w: &FlexTensor, targets: &Targets, wanted: Wanted) -> (FlexTensor, Vec<f32>, Vec<f32>) {
    let ([n, d], [v, _]) = (dims(x), dims(w));
    let (xs, ws) = (slice(x), slice(w));
    let inverse = 1.0 / targets.count;
    let mut rows = vec![[0f32; 2]; n];
    let mut logits = vec![0f32; CHUNK.min(n) * v];
    let mut dx = vec![0f32; if wanted.x { n * d } else { 0 }];
    let mut dw = vec![0f32; if wanted.w { v * d } else { 0 }];
    for from in (0..n).step_by(CHUNK) {
        let m = CHUNK.min(n - from);
        let x_chunk = Mat::rows(xs, from * d, d);
        // SAFETY: logits holds CHUNK rows of v, dx n rows of d, dw v rows of d.
        unsafe {
            let size = Size { m, n: v, k: d };
            shared_product(size, logits.as_mut_ptr(), v, Old::Replace, x_chunk, Mat::rows(ws, 0, d).t(), 1.0);
        }
        let chunk = logits[..m * v].par_chunks_mut(v).zip(&mut rows[from..from + m]).zip(&targets.ids[from..from + m]);
        chunk.with_min_len(8).for_each(|((row, out), &target)| {
            loss_row(row, target, inverse, targets.z_weight, wanted.x || wanted.w, out);
        });
        let g = Mat::rows(&logits, 0, v);
        // SAFETY: as above.
        unsafe {
            if wanted.x {
                let dst = dx[from * d..].as_mut_ptr();
                shared_product(Size { m, n: d, k: v }, dst, d, Old::Replace, g, Mat::rows(ws, 0, d), 1.0);
            }
            if wanted.w {
                shared_product(Size { m: v, n: d, k: m }, dw.as_mut_ptr(), d, Old::Add, g.t(), x_chunk, 1.0);
            }
        }
    }
    let sum = |i: usize| rows.iter().map(|r| f64::from(r[i])).sum::<f64>() / f64::from(targets.count);
    let (ce, z) = (sum(0), f64::from(targets.z_weight) * sum(1));
    (tensor(vec![(ce + z) as f32, ce as f32, z as f32], &[3]), dx, dw)
}

impl CrossEntropyOp for Flex {
    fn cross_entropy(x: FlexTensor, w: FlexTensor, targets: Targets, wanted: Wanted) -> FlexTensor {
        forward(&contiguous(x), &contiguous(w), &targets, wanted).0
    }
}

/// Parents: x, w. The state is their gradients, but for the factor that comes in.
#[derive(Debug)]
struct CrossEntropyBackward;

impl Backward<Flex, 2> for CrossEntropyBackward {
    type State = [FlexTensor; 2];

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let factor = slice(&contiguous(grads.consume::<Flex>(&ops.node)))[0];
        for (parent, mut gradient) in ops.parents.into_iter().zip(ops.state) {
            if let Some(parent) = parent {
                if factor != 1.0 {
                    gradient.storage_mut::<f32>().par_iter_mut().for_each(|x| *x *= factor);
                }
                grads.register::<Flex>(parent.id, gradient);
            }
        }
    }
}

impl<C: CheckpointStrategy> CrossEntropyOp for Autodiff<Flex, C> {
    fn cross_entropy(x: Tape<C>, w: Tape<C>, targets: Targets, wanted: Wanted) -> Tape<C> {
        let nodes = [x.node(), w.node()];
        let (x, w) = (contiguous(x.into_primitive()), contiguous(w.into_primitive()));
        let (out, dx, dw) = forward(&x, &w, &targets, wanted);
        match CrossEntropyBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let shape = |wanted: bool, t: &FlexTensor| if wanted { dims(t) } else { [0, 0] };
                prep.finish([tensor(dx, &shape(wanted.x, &x)), tensor(dw, &shape(wanted.w, &w))], out)
            }
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}

simd! {
    fn log_probability_row(row: &[f32], target: u32, out: &mut f32) {
        let m = max(row);
        *out = row[target as usize] - (m + libm::logf(sum_exp(row, m)));
    }
}

/// log p(target) of each row under the logits `x·wᵀ`; no gradients, never more than a chunk of logits.
pub(crate) fn log_probabilities(x: Tensor<2>, w: Tensor<2>, targets: &[u32]) -> Vec<f32> {
    let n = targets.len();
    if !super::fused(&x) {
        let mut out = Vec::with_capacity(n);
        for (i, chunk) in targets.chunks(CHUNK).enumerate() {
            let logits = product(x.clone().narrow(0, i * CHUNK, chunk.len()), w.clone().transpose());
            let ids: Vec<i64> = chunk.iter().map(|&t| i64::from(t)).collect();
            let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [chunk.len(), 1]), &x.device());
            out.extend(activation::log_softmax(logits, 1).gather(1, ids).into_data().iter::<f32>());
        }
        return out;
    }
    let (x, w) = (super::flex(x), super::flex(w));
    let ([_, d], [v, _]) = (dims(&x), dims(&w));
    let mut out = vec![0f32; n];
    let mut logits = vec![0f32; CHUNK.min(n) * v];
    for (i, (out, targets)) in out.chunks_mut(CHUNK).zip(targets.chunks(CHUNK)).enumerate() {
        let size = Size { m: targets.len(), n: v, k: d };
        let (a, b) = (Mat::rows(slice(&x), i * CHUNK * d, d), Mat::rows(slice(&w), 0, d).t());
        // SAFETY: logits holds CHUNK rows of v.
        unsafe { shared_product(size, logits.as_mut_ptr(), v, Old::Replace, a, b, 1.0) };
        logits.par_chunks(v).zip(out).zip(targets).with_min_len(8).for_each(|((row, out), &target)| {
            log_probability_row(row, target, out);
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::check::{Inputs, gradients_agree};
    use super::*;

    fn targets(n: usize, v: u32) -> Targets {
        let ids: Vec<u32> =
            (0..n as u32).map(|i| if i % 7 == 3 { Targets::IGNORE } else { i.wrapping_mul(37) % v }).collect();
        Targets { ids: Arc::from(ids), count: 500.0, z_weight: 0.3 }
    }

    #[test]
    fn agrees_with_the_composition() {
        for n in [9, 600] {
            let targets = targets(n, 40);
            let inputs = Inputs::new(&[[n, 16], [40, 16]]);
            gradients_agree(&inputs, 2e-6, |x| {
                cross_entropy(x[0].clone(), x[1].clone(), &targets).narrow(0, 0, 1).unsqueeze_dim(1)
            });
        }
    }

    #[test]
    fn log_probabilities_are_those_of_a_softmax() {
        let inputs = Inputs::new(&[[5, 16], [40, 16]]);
        let x = inputs.tensors(&burn::tensor::Device::flex());
        let all = activation::log_softmax(x[0].clone().matmul(x[1].clone().transpose()), 1).into_data();
        let all: Vec<f32> = all.iter::<f32>().collect();
        let targets = [3, 0, 39, 7, 7];
        let got = log_probabilities(x[0].clone(), x[1].clone(), &targets);
        for (i, (&t, got)) in targets.iter().zip(got).enumerate() {
            assert!((got - all[i * 40 + t as usize]).abs() < 1e-5);
        }
    }
}
