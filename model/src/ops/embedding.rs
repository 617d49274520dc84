//! Rows of the embedding table.

use super::buffer::{contiguous, dims, slice, tensor, written_by};
use super::{ROWS, Tape};
use burn::backend::autodiff::{
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::{Int, Tensor, TensorData};
use burn_flex::FlexTensor;
use rayon::prelude::*;
use std::mem::MaybeUninit;
use std::sync::Arc;

/// Embedding as one operation of a backend.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait EmbeddingOp: Backend {
    /// `table` [v, d] → [n, d]; every id is below v.
    fn embedding(table: FloatTensor<Self>, ids: Arc<[u32]>) -> FloatTensor<Self>;
}

/// Rows `ids` of `table` [v, d]; every id must be below v.
pub(crate) fn embedding(table: Tensor<2>, ids: &Arc<[u32]>) -> Tensor<2> {
    if super::fused(&table) {
        return Tensor::from_dispatch(Dispatch::embedding(table.into_dispatch(), ids.clone()));
    }
    let ids: Vec<i64> = ids.iter().map(|&i| i64::from(i)).collect();
    let n = ids.len();
    let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [n]), &table.device());
    table.select(0, ids)
}

fn forward(table: &FlexTensor, ids: &[u32]) -> FlexTensor {
    let d = dims(table)[1];
    let rows = slice(table);
    // SAFETY: every row of the output is copied over.
    let out = unsafe {
        written_by(ids.len() * d, |out| {
            out.par_chunks_mut(d * ROWS).zip(ids.par_chunks(ROWS)).for_each(|(out, ids)| {
                for (out, &id) in out.chunks_exact_mut(d).zip(ids) {
                    for (out, &x) in out.iter_mut().zip(&rows[id as usize * d..][..d]) {
                        *out = MaybeUninit::new(x);
                    }
                }
            });
        })
    };
    tensor(out, &[ids.len(), d])
}

impl EmbeddingOp for Flex {
    fn embedding(table: FlexTensor, ids: Arc<[u32]>) -> FlexTensor {
        forward(&contiguous(table), &ids)
    }
}

#[derive(Debug)]
struct EmbeddingBackward;

impl Backward<Flex, 1> for EmbeddingBackward {
    type State = (Arc<[u32]>, usize);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let g = contiguous(grads.consume::<Flex>(&ops.node));
        let (ids, v) = ops.state;
        let d = dims(&g)[1];
        if let [Some(parent)] = ops.parents {
            // On one thread, in the order of the tokens: the sums' order is part of the result.
            let mut table = vec![0f32; v * d];
            for (g, &id) in slice(&g).chunks_exact(d).zip(ids.iter()) {
                for (sum, &x) in table[id as usize * d..][..d].iter_mut().zip(g) {
                    *sum += x;
                }
            }
            grads.register::<Flex>(parent.id, tensor(table, &[v, d]));
        }
    }
}

impl<C: CheckpointStrategy> EmbeddingOp for Autodiff<Flex, C> {
    fn embedding(table: Tape<C>, ids: Arc<[u32]>) -> Tape<C> {
        let nodes = [table.node()];
        let table = contiguous(table.into_primitive());
        let out = forward(&table, &ids);
        match EmbeddingBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((ids, dims(&table)[0]), out),
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
        let ids: Arc<[u32]> = Arc::from([3u32, 0, 3, 6, 1, 3].as_slice());
        gradients_agree(&Inputs::new(&[[7, 12]]), 1e-6, |x| embedding(x[0].clone(), &ids));
    }
}
