//! Linear layers without bias, several of the same input side by side: `out = [x·w₁ᵀ | x·w₂ᵀ | …]`, weights [out, in].

use super::Tape;
use super::buffer::{contiguous, dims, slice, tensor, written_by};
use super::gemm::{Mat, Old, Size, shared_product};
use super::product::product;
use burn::backend::autodiff::{
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;

/// Linear layers as one operation of a backend.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait LinearOp: Backend {
    /// `x` [n, i], `w` [o, i] → [n, o].
    fn linear(x: FloatTensor<Self>, w: FloatTensor<Self>) -> FloatTensor<Self>;
    /// Three layers of one input: [n, o₁ + o₂ + o₃].
    fn linear_three(
        x: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        c: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

/// `x·wᵀ` for `x` [n, i] and `w` [o, i].
pub(crate) fn linear(x: Tensor<2>, w: Tensor<2>) -> Tensor<2> {
    if super::fused(&x) {
        return Tensor::from_dispatch(Dispatch::linear(x.into_dispatch(), w.into_dispatch()));
    }
    product(x, w.transpose())
}

/// `[x·aᵀ | x·bᵀ | x·cᵀ]`.
pub(crate) fn linear_three(x: Tensor<2>, [a, b, c]: [Tensor<2>; 3]) -> Tensor<2> {
    if super::fused(&x) {
        let (a, b, c) = (a.into_dispatch(), b.into_dispatch(), c.into_dispatch());
        return Tensor::from_dispatch(Dispatch::linear_three(x.into_dispatch(), a, b, c));
    }
    let y = |w: Tensor<2>| product(x.clone(), w.transpose());
    Tensor::cat(vec![y(a), y(b), y(c)], 1)
}

fn forward(x: &FlexTensor, weights: &[FlexTensor]) -> FlexTensor {
    let [n, k] = dims(x);
    let total: usize = weights.iter().map(|w| dims(w)[0]).sum();
    // SAFETY: the products' columns cover the output, which is new.
    let out = unsafe {
        written_by(n * total, |out| {
            let out: *mut f32 = out.as_mut_ptr().cast();
            let mut column = 0;
            for w in weights {
                let m = dims(w)[0];
                let (a, b) = (Mat::rows(slice(x), 0, k), Mat::rows(slice(w), 0, k).t());
                shared_product(Size { m: n, n: m, k }, out.add(column), total, Old::Replace, a, b, 1.0);
                column += m;
            }
        })
    };
    tensor(out, &[n, total])
}

impl LinearOp for Flex {
    fn linear(x: FlexTensor, w: FlexTensor) -> FlexTensor {
        forward(&contiguous(x), &[contiguous(w)])
    }
    fn linear_three(x: FlexTensor, a: FlexTensor, b: FlexTensor, c: FlexTensor) -> FlexTensor {
        forward(&contiguous(x), &[contiguous(a), contiguous(b), contiguous(c)])
    }
}

/// Parents: x, then the weights.
#[derive(Debug)]
struct LinearBackward;

impl<const N: usize> Backward<Flex, N> for LinearBackward {
    type State = (FlexTensor, Vec<FlexTensor>);

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let g = contiguous(grads.consume::<Flex>(&ops.node));
        let (x, weights) = ops.state;
        let ([n, k], total) = (dims(&x), dims(&g)[1]);
        let mut parents = ops.parents.into_iter();
        let px = parents.next().flatten();
        if let Some(parent) = px {
            // SAFETY: the first product writes all of dx, the others add to it.
            let dx = unsafe {
                written_by(n * k, |dx| {
                    let mut column = 0;
                    for (i, w) in weights.iter().enumerate() {
                        let m = dims(w)[0];
                        let old = if i == 0 { Old::Replace } else { Old::Add };
                        let (a, b) = (Mat::rows(slice(&g), column, total), Mat::rows(slice(w), 0, k));
                        shared_product(Size { m: n, n: k, k: m }, dx.as_mut_ptr().cast(), k, old, a, b, 1.0);
                        column += m;
                    }
                })
            };
            grads.register::<Flex>(parent.id, tensor(dx, &[n, k]));
        }
        let mut column = 0;
        for (w, parent) in weights.iter().zip(parents) {
            let m = dims(w)[0];
            if let Some(parent) = parent {
                // SAFETY: the product writes all of dw.
                let dw = unsafe {
                    written_by(m * k, |dw| {
                        let (a, b) = (Mat::rows(slice(&g), column, total).t(), Mat::rows(slice(&x), 0, k));
                        shared_product(Size { m, n: k, k: n }, dw.as_mut_ptr().cast(), k, Old::Replace, a, b, 1.0);
                    })
                };
                grads.register::<Flex>(parent.id, tensor(dw, &[m, k]));
            }
            column += m;
        }
    }
}

fn record<C: CheckpointStrategy, const N: usize>(x: Tape<C>, weights: [Tape<C>; N]) -> Tape<C>
where
    LinearBackward: RecordWith<C, N>,
{
    <LinearBackward as RecordWith<C, N>>::record(x, weights)
}

/// Recording with N weights, that is N + 1 parents (stable Rust cannot say `N + 1`).
trait RecordWith<C: CheckpointStrategy, const N: usize> {
    fn record(x: Tape<C>, weights: [Tape<C>; N]) -> Tape<C>;
}

macro_rules! record_with {
    ($n:literal, $parents:literal) => {
        impl<C: CheckpointStrategy> RecordWith<C, $n> for LinearBackward {
            fn record(x: Tape<C>, weights: [Tape<C>; $n]) -> Tape<C> {
                let nodes: [_; $parents] =
                    std::array::from_fn(|i| if i == 0 { x.node() } else { weights[i - 1].node() });
                let x = contiguous(x.into_primitive());
                let weights: Vec<_> = weights.into_iter().map(|w| contiguous(w.into_primitive())).collect();
                let out = forward(&x, &weights);
                match LinearBackward.prepare::<C>(nodes).compute_bound().stateful() {
                    OpsKind::Tracked(prep) => prep.finish((x, weights), out),
                    OpsKind::UnTracked(prep) => prep.finish(out),
                }
            }
        }
    };
}
record_with!(1, 2);
record_with!(3, 4);

impl<C: CheckpointStrategy> LinearOp for Autodiff<Flex, C> {
    fn linear(x: Tape<C>, w: Tape<C>) -> Tape<C> {
        record::<C, 1>(x, [w])
    }
    fn linear_three(x: Tape<C>, a: Tape<C>, b: Tape<C>, c: Tape<C>) -> Tape<C> {
        record::<C, 3>(x, [a, b, c])
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::{Inputs, gradients_agree};
    use super::*;

    #[test]
    fn agrees_with_the_composition() {
        let inputs = Inputs::new(&[[33, 24], [40, 24]]);
        gradients_agree(&inputs, 1e-5, |x| linear(x[0].clone(), x[1].clone()));
        let inputs = Inputs::new(&[[33, 24], [8, 24], [16, 24], [24, 24]]);
        gradients_agree(&inputs, 1e-5, |x| linear_three(x[0].clone(), [x[1].clone(), x[2].clone(), x[3].clone()]));
    }
}
