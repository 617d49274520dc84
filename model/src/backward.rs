//! Loss and gradients of a batch: either all activations are kept for the way back, or only what goes into each block,
//! and the block's own are computed again (activation checkpointing; Chen et al. 2016, arXiv 1604.06174).
//!
//! ```text
//!   kept        x0 ─block─ x1 ─block─ x2 ─head─ loss          one graph, one pass back
//!   recomputed  x0 · x1 · x2 without a graph, then from the end: graph of the head alone → dx2,
//!               graph of the last block alone, and Σ y·dx2 as its loss → dx1, …
//! ```
//! Both give the same bits on the CPU: each block's graph is the same, and Σ y·dx has the gradient dx.

use std::collections::BTreeMap;

use burn::tensor::Tensor;

use crate::error::Result;
use crate::loss::{Batch, LossWeights, Losses, head_loss, router_z};
use crate::olmo2::{Model, Routing};

/// The gradient of each recorded parameter, by its own name.
pub(crate) type Gradients = BTreeMap<String, Tensor<2>>;

/// Adds the gradients of a batch, as its part of a whole of `count` targets, to `gradients`; the values of its losses.
pub(crate) fn backward(
    model: &mut Model,
    batch: &Batch,
    count: usize,
    weights: LossWeights,
    recompute: bool,
    gradients: &mut Gradients,
) -> Result<Losses> {
    if recompute {
        return recomputed(model, batch, count, weights, gradients);
    }
    let mut routing = Routing::default();
    let hidden_nd = model.hidden(&batch.inputs, &batch.sequences, &mut routing)?;
    let (mut total, mut losses) = head_loss(model, hidden_nd, batch, count, weights);
    for layer in routing.layers {
        if let Some((z, value)) = router_z(layer, count, weights) {
            losses.router_z += value;
            total = total + z;
        }
    }
    losses.loss += losses.router_z;
    collect(model, total, None, gradients);
    Ok(losses)
}

fn recomputed(
    model: &mut Model,
    batch: &Batch,
    count: usize,
    weights: LossWeights,
    gradients: &mut Gradients,
) -> Result<Losses> {
    let heads = model.heads_of(&batch.inputs, &batch.sequences)?;
    // What goes into each block, and out of the last one.
    let mut inputs = Vec::new();
    let mut routing = Routing::default();
    let still = model.without_gradients();
    let mut x_nd = still.embed(&batch.inputs);
    for l in 0..still.layers() {
        inputs.push(x_nd.clone());
        x_nd = still.block(l, x_nd, &heads, &mut routing);
    }
    drop(still);
    // Below the lowest part with something to train no gradient is needed.
    let trained = model.parameters().into_iter().filter(|parameter| parameter.value.is_require_grad());
    let lowest = trained.map(|parameter| place(&parameter.name)).min().unwrap_or(usize::MAX);

    let leaf = |x_nd: Tensor<2>| x_nd.autodiff().require_grad();
    let end_nd = leaf(x_nd);
    let (total, mut losses) = head_loss(model, model.end(end_nd.clone()), batch, count, weights);
    let mut gradient_nd = collect(model, total, Some(end_nd), gradients);
    for (l, x_nd) in inputs.into_iter().enumerate().rev() {
        if l + 1 < lowest {
            break;
        }
        let Some(dy_nd) = gradient_nd.take() else { break };
        let below = l + 1 > lowest;
        let x_nd = if below { leaf(x_nd) } else { x_nd };
        let mut routing = Routing::default();
        let mut total = (model.block(l, x_nd.clone(), &heads, &mut routing) * dy_nd).sum();
        for (z, _) in routing.layers.into_iter().filter_map(|layer| router_z(layer, count, weights)) {
            total = total + z;
        }
        gradient_nd = collect(model, total, below.then_some(x_nd), gradients);
    }
    if let Some(dx_nd) = gradient_nd.filter(|_| lowest == 0) {
        let total = (model.embed(&batch.inputs) * dx_nd).sum();
        collect(model, total, None, gradients);
    }
    let values = routing.layers.into_iter().filter_map(|layer| router_z(layer, count, weights));
    losses.router_z = values.map(|(_, value)| value).sum();
    losses.loss += losses.router_z;
    Ok(losses)
}

/// Where a parameter stands on the way through the model: 0 in the embedding, l + 1 in block l, behind all of them in the head.
fn place(name: &str) -> usize {
    if name.starts_with("model.embed_tokens") {
        return 0;
    }
    let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
    layer.map_or(usize::MAX, |l| l + 1)
}

/// Goes back from `total`: the parameters' gradients join `gradients`, that of `input` is the answer.
fn collect(
    model: &mut Model,
    total: Tensor<1>,
    input: Option<Tensor<2>>,
    gradients: &mut Gradients,
) -> Option<Tensor<2>> {
    let mut recorded = total.backward();
    for parameter in model.parameters() {
        if let Some(gradient) = parameter.value.grad_remove(&mut recorded) {
            let sum = match gradients.remove(&parameter.name) {
                Some(sum) => sum + gradient,
                None => gradient,
            };
            gradients.insert(parameter.name, sum);
        }
    }
    input.and_then(|input| input.grad_remove(&mut recorded))
}
