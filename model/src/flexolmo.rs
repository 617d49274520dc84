//! The mixture layer of `FlexOlmo` (FLEXOLMO §2), and which of its experts take part.
//!
//! ```text
//!   logits_e = r_e · h (+ min(b_e, 0) for e ≥ 1)     p = softmax over the present experts     top k keep p, unchanged
//!   y = Σ_e p_e · ffn_e(h)                           summed in the order of the experts
//! ```
//! An expert that is left out is left out before the softmax: what remains is, bit for bit, the model without it.

use crate::config::{self, ModelConfig};
use crate::error::{Error, Result};
use crate::olmo2::{Parameter, Routing, SwiGlu, Taken};
use crate::ops::feed_forward::expert;
use crate::ops::router::route;
use burn::tensor::Tensor;

/// The experts that take part, by number, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Present(Vec<usize>);

impl Present {
    /// All experts of `config` but `without`; nothing to say where that is all of them.
    ///
    /// # Errors
    /// [`Error::Expert`] for a number that the mixture does not have, and where no expert would be left.
    pub fn without(config: &ModelConfig, without: &[usize]) -> Result<Option<Self>> {
        if without.is_empty() {
            return Ok(None);
        }
        let count = config.experts.as_ref().map_or(0, |m| m.count);
        if let Some(e) = without.iter().find(|&&e| e >= count) {
            return Err(Error::Expert { name: e.to_string(), reason: format!("the model has {count} experts") });
        }
        let present: Vec<usize> = (0..count).filter(|e| !without.contains(e)).collect();
        if present.is_empty() {
            return Err(Error::Expert { name: format!("{without:?}"), reason: "no expert would be left".to_owned() });
        }
        Ok(Some(Self(present)))
    }
}

/// Experts and router of one layer.
#[derive(Clone, Debug)]
pub(crate) struct Mixture {
    experts: Vec<SwiGlu>,
    /// Row e of the router, [1, d] each.
    rows: Vec<Tensor<2>>,
    /// Bias of each expert, [1, 1] each; that of expert 0 is 0 and stays so.
    bias: Option<Vec<Tensor<2>>>,
    top_k: usize,
}

impl Mixture {
    pub(crate) fn take(weights: &mut Taken<'_>, prefix: &str, mixture: &config::Mixture) -> Result<Self> {
        let experts = (0..mixture.count).map(|e| SwiGlu::take(weights, &format!("{prefix}.experts.{e}")));
        Ok(Self {
            experts: experts.collect::<Result<_>>()?,
            rows: weights.rows(&format!("{prefix}.gate.weight"), mixture.count, weights.config.hidden_size)?,
            bias: weights.elements(&format!("{prefix}.gate.bias"), mixture.count)?,
            top_k: mixture.top_k,
        })
    }

    pub(crate) fn parameters<'a>(&'a mut self, prefix: &str, out: &mut Vec<Parameter<'a>>) {
        for (e, expert) in self.experts.iter_mut().enumerate() {
            expert.parameters(&format!("{prefix}.experts.{e}"), out);
        }
        for (e, row) in self.rows.iter_mut().enumerate() {
            out.push(Parameter::vector(format!("{prefix}.gate.weight[{e}]"), row));
        }
        for (e, bias) in self.bias.iter_mut().flatten().enumerate() {
            out.push(Parameter::vector(format!("{prefix}.gate.bias[{e}]"), bias));
        }
    }

    pub(crate) fn forward(&self, h_nd: &Tensor<2>, routing: &mut Routing) -> Tensor<2> {
        let all: Vec<usize> = (0..self.experts.len()).collect();
        let present = routing.present.as_ref().map_or(&all, |p| &p.0);
        let device = h_nd.device().inner();
        let rows_ed = Tensor::cat(present.iter().map(|&e| self.rows[e].clone()).collect(), 0);
        let bias_1e = match &self.bias {
            Some(bias) => Tensor::cat(present.iter().map(|&e| bias[e].clone()).collect(), 1),
            None => Tensor::zeros([1, present.len()], &device),
        };
        if let Some(probabilities) = &mut routing.probabilities {
            probabilities.push(route(h_nd.clone(), rows_ed.clone(), bias_1e.clone(), present.len()));
        }
        let routing_ne = route(h_nd.clone(), rows_ed, bias_1e, self.top_k.min(present.len()));
        let mut y_nd = Tensor::zeros(h_nd.dims(), &device);
        for (column, &e) in present.iter().enumerate() {
            y_nd = expert(h_nd.clone(), routing_ne.clone(), column, y_nd, self.experts[e].matrices());
        }
        routing.layers.push(routing_ne);
        y_nd
    }
}
