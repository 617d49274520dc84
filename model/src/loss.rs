//! The loss of a batch: next-token cross-entropy + z-loss on the logits + z-loss on the router (FLEXOLMO §1, §2).

use crate::error::Result;
use crate::mask::Sequences;
use crate::olmo2::{Model, Routing};
use crate::ops::cross_entropy::{Targets, cross_entropy};
use burn::tensor::Tensor;
use std::sync::Arc;

/// Weights of what is added to the cross-entropy.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossWeights {
    /// Of mean(logsumexp(logits)²).
    pub z: f64,
    /// Of mean(logsumexp(router logits)²), summed over the layers.
    pub router_z: f64,
}

/// Values of the losses, weighted and summed into `loss`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Losses {
    /// What is minimised: the sum of the others.
    pub loss: f64,
    /// Mean cross-entropy in nats a token.
    pub ce: f64,
    /// Weighted z-loss.
    pub z: f64,
    /// Weighted router z-loss.
    pub router_z: f64,
}

/// Inputs and next tokens of a batch.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub inputs: Arc<[u32]>,
    pub targets: Arc<[u32]>,
    pub sequences: Sequences,
}

impl Batch {
    /// From rows of `seq + 1` tokens.
    pub fn new(tokens: &[u32], seq: usize, sequences: Sequences) -> Self {
        let rows = || tokens.chunks_exact(seq + 1);
        let inputs: Vec<u32> = rows().flat_map(|r| &r[..seq]).copied().collect();
        let targets: Vec<u32> = rows().flat_map(|r| &r[1..]).copied().collect();
        Self { inputs: Arc::from(inputs), targets: Arc::from(targets), sequences }
    }
}

/// The loss [1] of the final hidden state as its part of a whole of `count` targets, and its values; without the router's.
pub(crate) fn head_loss(
    model: &Model,
    hidden_nd: Tensor<2>,
    batch: &Batch,
    count: usize,
    weights: LossWeights,
) -> (Tensor<1>, Losses) {
    let targets = Targets { ids: batch.targets.clone(), count: count as f32, z_weight: weights.z as f32 };
    let losses = cross_entropy(hidden_nd, model.head(), &targets);
    let values: Vec<f32> = losses.clone().inner().into_data().iter::<f32>().collect();
    let values =
        Losses { loss: f64::from(values[0]), ce: f64::from(values[1]), z: f64::from(values[2]), router_z: 0.0 };
    (losses.narrow(0, 0, 1), values)
}

/// The router's loss [1] in one layer, and its value; nothing where it has no weight.
pub(crate) fn router_z(layer: Tensor<2>, count: usize, weights: LossWeights) -> Option<(Tensor<1>, f64)> {
    if weights.router_z == 0.0 {
        return None;
    }
    let last = layer.dims()[1] - 1;
    let z = layer.narrow(1, last, 1).square().sum() * (weights.router_z / count as f64);
    let value = z.clone().inner().into_data().iter::<f32>().next().unwrap_or(0.0);
    Some((z, f64::from(value)))
}

/// Mean cross-entropy of a batch in nats a token, without a graph.
pub(crate) fn cross_entropy_of(model: &Model, batch: &Batch) -> Result<f64> {
    let hidden_nd = model.hidden(&batch.inputs, &batch.sequences, &mut Routing::default())?;
    let (_, losses) = head_loss(model, hidden_nd, batch, batch.targets.len(), LossWeights::default());
    Ok(losses.ce)
}
