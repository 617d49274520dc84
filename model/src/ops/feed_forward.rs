//! The `SwiGLU` feed-forward layer `down(silu(gate(h)) · up(h))`, alone or as one expert of a mixture.
//!
//! Rows are cut into blocks of [`BLOCK`], each of which goes through all three products while it is in the cache. As an
//! expert it takes only the rows that chose it, and adds `weight · ffn(row)` to what the experts before it have made:
//! a chain in the order of the experts, so an expert that is left out changes no bit of the others' sum.

use super::Tape;
use super::buffer::{contiguous, dims, slice, tensor};
use super::product::product;
use burn::backend::autodiff::{
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension, tensor::FloatTensor};
use burn::tensor::{Tensor, activation};
use burn_flex::FlexTensor;
use kernel::{Chosen, Wanted, Weights};
use std::sync::Arc;

mod kernel;

/// Feed-forward layers as one operation of a backend.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait FeedForwardOp: Backend {
    /// `h` [n, d], `gate` and `up` [f, d], `down` [d, f] → [n, d].
    fn feed_forward(
        h: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        down: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// `sum` [n, d] + column `column` of `routing` · feed-forward.
    fn expert(
        h: FloatTensor<Self>,
        routing: FloatTensor<Self>,
        sum: FloatTensor<Self>,
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        down: FloatTensor<Self>,
        column: usize,
    ) -> FloatTensor<Self>;
}

/// gate and up [f, d], down [d, f].
pub(crate) type Matrices = [Tensor<2>; 3];

/// `down·(silu(gate·h) · (up·h))` for rows `h` [n, d].
pub(crate) fn feed_forward(h: Tensor<2>, weights: Matrices) -> Tensor<2> {
    if super::fused(&h) {
        let [gate, up, down] = weights.map(Tensor::into_dispatch);
        return Tensor::from_dispatch(Dispatch::feed_forward(h.into_dispatch(), gate, up, down));
    }
    composed(h, weights)
}

/// `sum + routing[:, column] · feed_forward(h)`; rows of weight 0 cost nothing on the CPU. `routing` [n, columns].
pub(crate) fn expert(h: Tensor<2>, routing: Tensor<2>, column: usize, sum: Tensor<2>, weights: Matrices) -> Tensor<2> {
    if super::fused(&h) {
        let [gate, up, down] = weights.map(Tensor::into_dispatch);
        let (h, routing, sum) = (h.into_dispatch(), routing.into_dispatch(), sum.into_dispatch());
        return Tensor::from_dispatch(Dispatch::expert(h, routing, sum, gate, up, down, column));
    }
    sum + composed(h, weights) * routing.narrow(1, column, 1)
}

fn composed(h: Tensor<2>, [gate, up, down]: Matrices) -> Tensor<2> {
    let (gate, up) = (product(h.clone(), gate.transpose()), product(h, up.transpose()));
    product(activation::silu(gate) * up, down.transpose())
}

impl FeedForwardOp for Flex {
    fn feed_forward(h: FlexTensor, gate: FlexTensor, up: FlexTensor, down: FlexTensor) -> FlexTensor {
        let layer = Layer::new(contiguous(h), [gate, up, down], None);
        layer.forward(None, false).0
    }

    fn expert(
        h: FlexTensor,
        routing: FlexTensor,
        sum: FlexTensor,
        gate: FlexTensor,
        up: FlexTensor,
        down: FlexTensor,
        column: usize,
    ) -> FlexTensor {
        let layer = Layer::new(contiguous(h), [gate, up, down], Some((&contiguous(routing), column)));
        layer.forward(Some(contiguous(sum)), false).0
    }
}

/// Inputs of one layer: what the backward pass needs again.
#[derive(Clone, Debug)]
struct Layer {
    h: FlexTensor,
    weights: [FlexTensor; 3],
    /// The rows that take part and their weights; all, with weight 1, where absent.
    chosen: Option<Arc<Chosen>>,
    /// [n, columns] of the routing and the own column.
    routing: Option<([usize; 2], usize)>,
}

impl Layer {
    fn new(h: FlexTensor, weights: [FlexTensor; 3], routing: Option<(&FlexTensor, usize)>) -> Self {
        let chosen = routing.map(|(r, column)| Arc::new(Chosen::new(slice(r), dims(r)[1], column)));
        let routing = routing.map(|(r, column)| (dims(r), column));
        Self { h, weights: weights.map(contiguous), chosen, routing }
    }

    fn weights(&self) -> Weights<'_> {
        let [f, d] = dims(&self.weights[0]);
        let [gate, up, down] = &self.weights;
        Weights { gate: slice(gate), up: slice(up), down: slice(down), d, f }
    }

    /// The output, and the products of gate and up where they are to be kept.
    fn forward(&self, sum: Option<FlexTensor>, keep: bool) -> (FlexTensor, Vec<f32>) {
        let (n, d) = (dims(&self.h)[0], dims(&self.h)[1]);
        if let (Some(chosen), Some(mut sum)) = (&self.chosen, sum) {
            // In place where the sum has no other owner, as it has not in the model.
            let out = super::elements_mut(&mut sum);
            let kept = kernel::forward(slice(&self.h), Some(chosen), &self.weights(), keep, out);
            return (sum, kept);
        }
        let mut out = vec![0f32; n * d];
        let kept = kernel::forward(slice(&self.h), None, &self.weights(), keep, &mut out);
        (tensor(out, &[n, d]), kept)
    }
}

/// A layer and its products of gate and up, [rows, 2f].
#[derive(Clone, Debug)]
struct State {
    layer: Layer,
    gate_up: Arc<Vec<f32>>,
}

impl State {
    fn backward(&self, g: &FlexTensor, wanted: Wanted) -> kernel::Gradients {
        let layer = &self.layer;
        kernel::backward(slice(&layer.h), layer.chosen.as_deref(), &layer.weights(), &self.gate_up, slice(g), wanted)
    }
}

/// Parents: h, gate, up, down.
#[derive(Debug)]
struct FeedForwardBackward;

impl Backward<Flex, 4> for FeedForwardBackward {
    type State = State;

    fn backward(self, ops: Ops<State, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
        let g = contiguous(grads.consume::<Flex>(&ops.node));
        let [ph, pg, pu, pd] = ops.parents;
        let wanted = Wanted { h: ph.is_some(), weights: pg.is_some() || pu.is_some() || pd.is_some() };
        let made = ops.state.backward(&g, wanted);
        let [f, d] = dims(&ops.state.layer.weights[0]);
        if let Some(parent) = ph {
            grads.register::<Flex>(parent.id, tensor(made.h, &dims(&ops.state.layer.h)));
        }
        for (parent, made, shape) in [(pg, made.gate, [f, d]), (pu, made.up, [f, d]), (pd, made.down, [d, f])] {
            if let Some(parent) = parent {
                grads.register::<Flex>(parent.id, tensor(made, &shape));
            }
        }
    }
}

/// Parents: h, routing, sum, gate, up, down.
#[derive(Debug)]
struct ExpertBackward;

impl Backward<Flex, 6> for ExpertBackward {
    type State = State;

    fn backward(self, ops: Ops<State, 6>, grads: &mut Gradients, _: &mut Checkpointer) {
        let g = contiguous(grads.consume::<Flex>(&ops.node));
        let [ph, pr, ps, pg, pu, pd] = ops.parents;
        let wanted = Wanted { h: ph.is_some(), weights: pg.is_some() || pu.is_some() || pd.is_some() };
        let made = ops.state.backward(&g, wanted);
        let layer = &ops.state.layer;
        let [f, d] = dims(&layer.weights[0]);
        if let Some(parent) = ph {
            grads.register::<Flex>(parent.id, tensor(made.h, &dims(&layer.h)));
        }
        if let (Some(parent), Some(([n, columns], column)), Some(chosen)) = (pr, layer.routing, &layer.chosen) {
            let mut routing = vec![0f32; n * columns];
            for (row, g) in chosen.rows.iter().zip(&made.weight) {
                routing[*row as usize * columns + column] = *g;
            }
            grads.register::<Flex>(parent.id, tensor(routing, &[n, columns]));
        }
        if let Some(parent) = ps {
            grads.register::<Flex>(parent.id, g);
        }
        for (parent, made, shape) in [(pg, made.gate, [f, d]), (pu, made.up, [f, d]), (pd, made.down, [d, f])] {
            if let Some(parent) = parent {
                grads.register::<Flex>(parent.id, tensor(made, &shape));
            }
        }
    }
}

impl<C: CheckpointStrategy> FeedForwardOp for Autodiff<Flex, C> {
    fn feed_forward(h: Tape<C>, gate: Tape<C>, up: Tape<C>, down: Tape<C>) -> Tape<C> {
        let nodes = [h.node(), gate.node(), up.node(), down.node()];
        let weights = [gate, up, down].map(Tape::<C>::into_primitive);
        let layer = Layer::new(contiguous(h.into_primitive()), weights, None);
        match FeedForwardBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (out, gate_up) = layer.forward(None, true);
                prep.finish(State { layer, gate_up: Arc::new(gate_up) }, out)
            }
            OpsKind::UnTracked(prep) => prep.finish(layer.forward(None, false).0),
        }
    }

    fn expert(
        h: Tape<C>,
        routing: Tape<C>,
        sum: Tape<C>,
        gate: Tape<C>,
        up: Tape<C>,
        down: Tape<C>,
        column: usize,
    ) -> Tape<C> {
        let nodes = [h.node(), routing.node(), sum.node(), gate.node(), up.node(), down.node()];
        let weights = [gate, up, down].map(Tape::<C>::into_primitive);
        let (h, routing) = (contiguous(h.into_primitive()), contiguous(routing.into_primitive()));
        let sum = contiguous(sum.into_primitive());
        let layer = Layer::new(h, weights, Some((&routing, column)));
        match ExpertBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (out, gate_up) = layer.forward(Some(sum), true);
                prep.finish(State { layer, gate_up: Arc::new(gate_up) }, out)
            }
            OpsKind::UnTracked(prep) => prep.finish(layer.forward(Some(sum), false).0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::{Inputs, gradients_agree};
    use super::*;

    fn weights(x: &[Tensor<2>]) -> Matrices {
        [x[0].clone(), x[1].clone(), x[2].clone()]
    }

    #[test]
    fn agrees_with_the_composition() {
        for n in [3, 300] {
            let inputs = Inputs::new(&[[n, 16], [24, 16], [24, 16], [16, 24]]);
            gradients_agree(&inputs, 1e-5, |x| feed_forward(x[0].clone(), weights(&x[1..])));
        }
    }

    #[test]
    fn an_expert_agrees_with_the_composition() {
        let inputs = Inputs::new(&[[300, 16], [300, 3], [300, 16], [24, 16], [24, 16], [16, 24]]);
        gradients_agree(&inputs, 1e-5, |x| {
            expert(x[0].clone(), x[1].clone().clamp_min(0.0), 1, x[2].clone(), weights(&x[3..]))
        });
    }

    #[test]
    fn an_expert_that_no_row_chose_adds_nothing() {
        let inputs = Inputs::new(&[[5, 16], [5, 3], [5, 16], [24, 16], [24, 16], [16, 24]]);
        gradients_agree(&inputs, 1e-5, |x| expert(x[0].clone(), x[1].clone() * 0.0, 1, x[2].clone(), weights(&x[3..])));
    }
}
