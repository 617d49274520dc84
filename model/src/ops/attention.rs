//! Causal attention of `OLMo` 2: `RMSNorm` of q and k over all heads together, `RoPE`, softmax(q·kᵀ/√h)·v; one operation over
//! tiles, so that the [batch, heads, length, length] scores never exist.

use super::Tape;
use super::buffer::{contiguous, dims, slice, tensor};
use super::product::product;
use crate::mask::Sequences;
use crate::rope::Angles;
use burn::backend::autodiff::{
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::{Tensor, TensorData, activation};
use burn_flex::FlexTensor;
use kernel::Saved;
use std::sync::Arc;

mod kernel;

/// Sizes and tables of one call.
#[derive(Clone, Debug)]
#[expect(clippy::struct_field_names, reason = "`heads` is what every paper calls their number")]
pub(crate) struct Heads {
    pub sequences: Sequences,
    pub heads: usize,
    pub head_dim: usize,
    pub eps: f32,
    pub angles: Arc<Angles>,
}

impl Heads {
    /// Width of the hidden state.
    pub fn width(&self) -> usize {
        self.heads * self.head_dim
    }

    /// What scores are multiplied with: 1/√h.
    pub fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }
}

/// Attention as one operation of a backend.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait AttentionOp: Backend {
    /// `qkv` [n, 3d], `wq` and `wk` [1, d] → [n, d].
    fn attention(
        qkv: FloatTensor<Self>,
        wq: FloatTensor<Self>,
        wk: FloatTensor<Self>,
        heads: Heads,
    ) -> FloatTensor<Self>;
}

/// Attention over `qkv` [n, 3d] = `[q | k | v]` with norm weights `wq`, `wk` [1, d]: [n, d].
pub(crate) fn attention(qkv: Tensor<2>, wq: Tensor<2>, wk: Tensor<2>, heads: Heads) -> Tensor<2> {
    if super::fused(&qkv) {
        let (qkv, wq, wk) = (qkv.into_dispatch(), wq.into_dispatch(), wk.into_dispatch());
        return Tensor::from_dispatch(Dispatch::attention(qkv, wq, wk, heads));
    }
    composed(qkv, wq, wk, &heads)
}

/// The same from burn's own operations.
fn composed(qkv: Tensor<2>, wq: Tensor<2>, wk: Tensor<2>, heads: &Heads) -> Tensor<2> {
    let (d, h, device) = (heads.width(), heads.head_dim, qkv.device());
    let Sequences { batch, length, .. } = heads.sequences;
    let n = batch * length;
    let table = |which: usize| -> Tensor<4> {
        let rows = (0..n).flat_map(|i| {
            let at = heads.angles.at(heads.sequences.position(i));
            let row = if which == 0 { at.0 } else { at.1 };
            row.iter().chain(row).copied()
        });
        Tensor::from_data(TensorData::new(rows.collect::<Vec<f32>>(), [batch, 1, length, h]), &device)
    };
    let (cos, sin) = (table(0), table(1));
    let split = |x: Tensor<2>| x.reshape([batch, length, heads.heads, h]).swap_dims(1, 2);
    let rotate = |x: Tensor<4>| {
        let (a, b) = (x.clone().narrow(3, 0, h / 2), x.clone().narrow(3, h / 2, h / 2));
        x * cos.clone() + Tensor::cat(vec![b.neg(), a], 3) * sin.clone()
    };
    let normed = |at: usize, w| super::rms_norm::rms_norm(qkv.clone().narrow(1, at, d), w, heads.eps);
    let (q, k) = (rotate(split(normed(0, wq))), rotate(split(normed(d, wk))));
    let v = split(qkv.clone().narrow(1, 2 * d, d));
    let scores = product(q, k.swap_dims(2, 3)) * heads.scale();
    let scores = scores.mask_fill(heads.sequences.hidden(&device), f32::NEG_INFINITY);
    product(activation::softmax(scores, 3), v).swap_dims(1, 2).reshape([n, d])
}

impl AttentionOp for Flex {
    fn attention(qkv: FlexTensor, wq: FlexTensor, wk: FlexTensor, heads: Heads) -> FlexTensor {
        let (qkv, wq, wk) = (contiguous(qkv), contiguous(wq), contiguous(wk));
        let (out, _) = kernel::forward(slice(&qkv), slice(&wq), slice(&wk), &heads);
        tensor(out, &[dims(&qkv)[0], heads.width()])
    }
}

#[derive(Clone)]
struct State {
    qkv: FlexTensor,
    wq: FlexTensor,
    wk: FlexTensor,
    out: FlexTensor,
    saved: Arc<Saved>,
    heads: Heads,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("heads", &self.heads).finish_non_exhaustive()
    }
}

/// Parents: qkv, wq, wk.
#[derive(Debug)]
struct AttentionBackward;

impl Backward<Flex, 3> for AttentionBackward {
    type State = State;

    fn backward(self, ops: Ops<State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let g = contiguous(grads.consume::<Flex>(&ops.node));
        let s = ops.state;
        let d = s.heads.width();
        let forward = kernel::Forward {
            qkv: slice(&s.qkv),
            wq: slice(&s.wq),
            wk: slice(&s.wk),
            out: slice(&s.out),
            saved: &s.saved,
        };
        let (dqkv, dwq, dwk) = kernel::backward(&forward, slice(&g), &s.heads);
        let [pqkv, pq, pk] = ops.parents;
        if let Some(parent) = pqkv {
            grads.register::<Flex>(parent.id, tensor(dqkv, &dims(&s.qkv)));
        }
        if let Some(parent) = pq {
            grads.register::<Flex>(parent.id, tensor(dwq, &[1, d]));
        }
        if let Some(parent) = pk {
            grads.register::<Flex>(parent.id, tensor(dwk, &[1, d]));
        }
    }
}

impl<C: CheckpointStrategy> AttentionOp for Autodiff<Flex, C> {
    fn attention(qkv: Tape<C>, wq: Tape<C>, wk: Tape<C>, heads: Heads) -> Tape<C> {
        let nodes = [qkv.node(), wq.node(), wk.node()];
        let (qkv, wq, wk) = (qkv.into_primitive(), wq.into_primitive(), wk.into_primitive());
        let (qkv, wq, wk) = (contiguous(qkv), contiguous(wq), contiguous(wk));
        let (out, saved) = kernel::forward(slice(&qkv), slice(&wq), slice(&wk), &heads);
        let out = tensor(out, &[dims(&qkv)[0], heads.width()]);
        match AttentionBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let state = State { qkv, wq, wk, out: out.clone(), saved: Arc::new(saved), heads };
                prep.finish(state, out)
            }
            OpsKind::UnTracked(prep) => prep.finish(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::{Inputs, gradients_agree};
    use super::*;
    use crate::rope::Rope;

    fn heads(sequences: Sequences) -> Heads {
        let angles = Rope::new(8, 10_000.0).angles(sequences.positions_end());
        Heads { sequences, heads: 3, head_dim: 8, eps: 1e-6, angles }
    }

    fn agree(h: &Heads) {
        let inputs = Inputs::new(&[[h.sequences.tokens(), 72], [1, 24], [1, 24]]);
        gradients_agree(&inputs, 1e-5, |x| attention(x[0].clone(), x[1].clone(), x[2].clone(), h.clone()));
    }

    #[test]
    fn agrees_with_the_composition() {
        // Lengths below, at and above a tile.
        for length in [5, 64, 150] {
            agree(&heads(Sequences::causal(2, length)));
        }
    }

    #[test]
    fn agrees_with_the_composition_under_segments() {
        let segments: Vec<u32> = (0..300u32).map(|i| [0, 1, 7, 7, 9][(i % 150 / 30) as usize]).collect();
        let positions: Vec<u32> = (0..300u32).map(|i| i % 150 % 37).collect();
        agree(&heads(Sequences::segmented(2, 150, &segments).unwrap().with_positions(&positions).unwrap()));
        let documents: Vec<u32> = (0..300u32).map(|i| 1 + i % 150 / 49).collect();
        agree(&heads(Sequences::segmented(2, 150, &documents).unwrap()));
    }
}
