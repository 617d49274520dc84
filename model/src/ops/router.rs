//! The router of a mixture layer (FLEXOLMO §2): softmax over the present experts, the top k keep their probability,
//! which is not renormalised, the others get 0. The last column is the logits' logsumexp, for the router z-loss.

use super::buffer::{contiguous, dims, slice, tensor};
use super::simd::{add_rows, dot, exp, simd};
use super::{ROWS, Tape};
use burn::backend::autodiff::{
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::{Int, Tensor, activation};
use burn_flex::FlexTensor;
use rayon::prelude::*;
use std::sync::Arc;

/// Routing as one operation of a backend.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait RouterOp: Backend {
    /// `h` [n, d], `rows` [e, d], `bias` [1, e] → [n, e + 1].
    fn route(h: FloatTensor<Self>, rows: FloatTensor<Self>, bias: FloatTensor<Self>, top_k: usize)
    -> FloatTensor<Self>;
}

/// Weights of the experts [n, e], then logsumexp of the logits `h·rowsᵀ + min(bias, 0)`: [n, e + 1], for `h` [n, d],
/// `rows` [e, d] and `bias` [1, e]. Of equal probabilities the earlier expert is chosen.
pub(crate) fn route(h: Tensor<2>, rows: Tensor<2>, bias: Tensor<2>, top_k: usize) -> Tensor<2> {
    if super::fused(&h) {
        let (h, rows, bias) = (h.into_dispatch(), rows.into_dispatch(), bias.into_dispatch());
        return Tensor::from_dispatch(Dispatch::route(h, rows, bias, top_k));
    }
    composed(h, rows, bias, top_k)
}

fn composed(h: Tensor<2>, rows: Tensor<2>, bias: Tensor<2>, top_k: usize) -> Tensor<2> {
    let e = rows.dims()[0];
    // In f32 everywhere: a rounding would change which experts are chosen, and the product is small.
    let logits = h.matmul(rows.transpose()) + bias.clamp_max(0.0);
    let p = activation::softmax(logits.clone(), 1);
    let top = logits.clone().max_dim(1).detach();
    let lse = (logits - top.clone()).exp().sum_dim(1).log() + top;
    // How many experts come before this one: those more probable, and the equal ones to the left.
    let n = p.dims()[0];
    let before = |i: usize| -> Tensor<2, Int> {
        let own = p.clone().narrow(1, i, 1).expand([n, e]);
        let mut rank = p.clone().greater(own.clone()).int();
        if i > 0 {
            let left = p.clone().narrow(1, 0, i).equal(own.narrow(1, 0, i)).int();
            rank = rank.slice_assign(
                [0..n, 0..i],
                left.clone() + p.clone().narrow(1, 0, i).greater(p.clone().narrow(1, i, 1).expand([n, i])).int(),
            );
        }
        rank.sum_dim(1)
    };
    let chosen = Tensor::cat((0..e).map(before).collect(), 1).lower_elem(top_k as i64).float();
    Tensor::cat(vec![p * chosen.detach(), lse], 1)
}

simd! {
    fn route_rows(h: &[f32], rows: &[f32], bias: &[f32], top_k: usize, p: &mut [f32], out: &mut [f32]) {
        let e = bias.len();
        let d = rows.len() / e;
        for (i, p) in p.chunks_exact_mut(e).enumerate() {
            let h = &h[i * d..][..d];
            let out = &mut out[i * (e + 1)..][..=e];
            let mut top = f32::NEG_INFINITY;
            for (j, p) in p.iter_mut().enumerate() {
                *p = dot(h, &rows[j * d..][..d]) + bias[j].min(0.0);
                top = top.max(*p);
            }
            let mut sum = 0f32;
            for p in p.iter_mut() {
                *p = exp(*p - top);
                sum += *p;
            }
            for p in p.iter_mut() {
                *p /= sum;
            }
            for (j, out) in out[..e].iter_mut().enumerate() {
                let before = p.iter().enumerate().filter(|&(l, q)| *q > p[j] || (*q == p[j] && l < j)).count();
                *out = if before < top_k { p[j] } else { 0.0 };
            }
            out[e] = top + libm::logf(sum);
        }
    }
}

simd! {
    /// `g` [rows, e + 1] → gradient of the logits, left in `p`; `dh` is written, `dw` [e, d] and `db` [e] are added to.
    fn route_rows_backward(h: &[f32], rows: &[f32], bias: &[f32], weights: &[f32], g: &[f32], p: &[f32], dh: &mut [f32], dw: &mut [f32]) {
        let e = bias.len();
        let d = rows.len() / e;
        let (dw, db) = dw.split_at_mut(e * d);
        for (i, dh) in dh.chunks_exact_mut(d).enumerate() {
            let h = &h[i * d..][..d];
            let (p, weights) = (&p[i * e..][..e], &weights[i * (e + 1)..][..e]);
            let g = &g[i * (e + 1)..][..=e];
            // A probability that was not chosen (weight 0) has no gradient of its own, but moves the chosen ones.
            let mut mean = 0f32;
            for j in 0..e {
                mean += weights[j] * g[j];
            }
            dh.fill(0.0);
            for j in 0..e {
                let own = if weights[j] > 0.0 { g[j] } else { 0.0 };
                let dl = p[j] * (own - mean + g[e]);
                let (row, dw) = (&rows[j * d..][..d], &mut dw[j * d..][..d]);
                for l in 0..d {
                    dh[l] = dl.mul_add(row[l], dh[l]);
                    dw[l] = dl.mul_add(h[l], dw[l]);
                }
                // min(b, 0): as torch's clamp, the boundary lets the gradient through, so that a bias can leave 0.
                if bias[j] <= 0.0 {
                    db[j] += dl;
                }
            }
        }
    }
}

/// The output and the probabilities before the choice.
fn forward(h: &FlexTensor, rows: &FlexTensor, bias: &FlexTensor, top_k: usize) -> (FlexTensor, Vec<f32>) {
    let ([n, d], [e, _]) = (dims(h), dims(rows));
    let (hs, rs, bs) = (slice(h), slice(rows), slice(bias));
    let (mut p, mut out) = (vec![0f32; n * e], vec![0f32; n * (e + 1)]);
    p.par_chunks_mut(e * ROWS).zip(out.par_chunks_mut((e + 1) * ROWS)).enumerate().for_each(|(c, (p, out))| {
        route_rows(&hs[c * ROWS * d..], rs, bs, top_k, p, out);
    });
    (tensor(out, &[n, e + 1]), p)
}

impl RouterOp for Flex {
    fn route(h: FlexTensor, rows: FlexTensor, bias: FlexTensor, top_k: usize) -> FlexTensor {
        forward(&contiguous(h), &contiguous(rows), &contiguous(bias), top_k).0
    }
}

#[derive(Clone, Debug)]
struct State {
    h: FlexTensor,
    rows: FlexTensor,
    bias: FlexTensor,
    weights: FlexTensor,
    p: Arc<Vec<f32>>,
}

/// Parents: h, rows, bias.
#[derive(Debug)]
struct RouterBackward;

impl Backward<Flex, 3> for RouterBackward {
    type State = State;

    fn backward(self, ops: Ops<State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let g = contiguous(grads.consume::<Flex>(&ops.node));
        let s = ops.state;
        let ([n, d], [e, _]) = (dims(&s.h), dims(&s.rows));
        let (hs, rs, bs, ws, gs) = (slice(&s.h), slice(&s.rows), slice(&s.bias), slice(&s.weights), slice(&g));
        let mut dh = vec![0f32; n * d];
        let width = e * d + e;
        let mut parts = vec![0f32; n.div_ceil(ROWS) * width];
        dh.par_chunks_mut(d * ROWS).zip(parts.par_chunks_mut(width)).enumerate().for_each(|(c, (dh, dw))| {
            let at = c * ROWS;
            let (ws, gs) = (&ws[at * (e + 1)..], &gs[at * (e + 1)..]);
            route_rows_backward(&hs[at * d..], rs, bs, ws, gs, &s.p[at * e..], dh, dw);
        });
        let mut dw = vec![0f32; width];
        add_rows(&parts, &mut dw);
        let db = dw.split_off(e * d);
        let [ph, pr, pb] = ops.parents;
        if let Some(parent) = ph {
            grads.register::<Flex>(parent.id, tensor(dh, &[n, d]));
        }
        if let Some(parent) = pr {
            grads.register::<Flex>(parent.id, tensor(dw, &[e, d]));
        }
        if let Some(parent) = pb {
            grads.register::<Flex>(parent.id, tensor(db, &[1, e]));
        }
    }
}

impl<C: CheckpointStrategy> RouterOp for Autodiff<Flex, C> {
    fn route(h: Tape<C>, rows: Tape<C>, bias: Tape<C>, top_k: usize) -> Tape<C> {
        let nodes = [h.node(), rows.node(), bias.node()];
        let (h, rows) = (contiguous(h.into_primitive()), contiguous(rows.into_primitive()));
        let bias = contiguous(bias.into_primitive());
        let (out, p) = forward(&h, &rows, &bias, top_k);
        match RouterBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(State { h, rows, bias, weights: out.clone(), p: Arc::new(p) }, out),
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
        let inputs = Inputs::new(&[[70, 12], [4, 12], [1, 4]]);
        for top_k in [1, 2, 4] {
            gradients_agree(&inputs, 1e-5, |x| route(x[0].clone(), x[1].clone(), x[2].clone(), top_k));
        }
    }

    #[test]
    fn of_equal_experts_the_earlier_is_chosen() {
        let device = burn::tensor::Device::flex();
        let rows = Tensor::<2>::ones([3, 4], &device);
        let out = route(Tensor::ones([1, 4], &device), rows, Tensor::zeros([1, 3], &device), 2);
        let out: Vec<f32> = out.into_data().iter::<f32>().collect();
        assert!(out[0] > 0.3 && out[1] > 0.3 && out[2] == 0.0, "{out:?}");
    }
}
