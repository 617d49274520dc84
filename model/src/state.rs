//! All that a training run needs to go on. A checkpoint is the serialisation of this and of nothing else.

use std::collections::BTreeMap;

use burn::tensor::{Tensor, TensorData};

use crate::adamw::Moments;
use crate::error::{Error, Result};
use crate::olmo2::{Model, weight};
use crate::spike::Measured;
use crate::weights::{Weight, Weights};

/// A run between two steps. The three maps have the same names and shapes: those of the trained parameters, with `[e]`
/// behind the name of a tensor that experts share (`model.layers.0.mlp.gate.weight[1]`).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrainState {
    /// Steps done: the number of the next one.
    pub step: u64,
    /// The trained parameters; empty before the first step, when the model's own hold.
    pub parameters: Weights,
    /// `AdamW`'s mean of the gradients.
    pub first_moments: Weights,
    /// `AdamW`'s mean of their squares.
    pub second_moments: Weights,
    /// What the last updates measured, oldest first, by which a spike is known.
    pub recent: Vec<Measured>,
}

impl TrainState {
    /// The beginning of a run from the model's own weights.
    pub fn start() -> Self {
        Self::default()
    }

    /// The state of a model that is being trained, in host memory.
    pub(crate) fn of(
        model: &Model,
        moments: &BTreeMap<String, Moments>,
        recent: impl IntoIterator<Item = Measured>,
        step: u64,
    ) -> Self {
        let mut state = Self { step, recent: recent.into_iter().collect(), ..Self::default() };
        // Handles are shared with the copy only for as long as this function runs.
        let mut copy = model.clone();
        for parameter in copy.parameters() {
            if !parameter.value.is_require_grad() {
                continue;
            }
            if let Some(m) = moments.get(&parameter.name) {
                state.first_moments.insert(parameter.name.clone(), weight(m.first.clone(), parameter.vector));
                state.second_moments.insert(parameter.name.clone(), weight(m.second.clone(), parameter.vector));
            }
            state.parameters.insert(parameter.name.clone(), parameter.weight());
        }
        state
    }

    /// Puts the parameters into the model, each recorded that is `trained`; the moments.
    pub(crate) fn restore(
        self,
        model: &mut Model,
        trained: &dyn Fn(&str) -> bool,
    ) -> Result<BTreeMap<String, Moments>> {
        let Self { step, mut parameters, mut first_moments, mut second_moments, recent: _ } = self;
        let mut moments = BTreeMap::new();
        if step == 0 && parameters.is_empty() {
            return Ok(moments);
        }
        let mismatch = |reason: String| Error::Mismatch {
            one: "the checkpoint".to_owned(),
            other: "the model that is trained".to_owned(),
            reason,
        };
        let device = model.device().clone();
        for parameter in model.parameters() {
            if !trained(&parameter.name) {
                continue;
            }
            let dims = parameter.value.dims();
            let take = |from: &mut Weights, what: &str| -> Result<Tensor<2>> {
                let Weight { data, .. } = from
                    .remove(&parameter.name)
                    .filter(|w| w.data.len() == dims[0] * dims[1])
                    .ok_or_else(|| mismatch(format!("it has no {what} of this shape for `{}`", parameter.name)))?;
                Ok(Tensor::from_data(TensorData::new(data, dims), &device))
            };
            let value = take(&mut parameters, "value")?;
            // A parameter that no batch has reached yet has no moments.
            if first_moments.contains_key(&parameter.name) {
                let first = take(&mut first_moments, "first moment")?;
                let second = take(&mut second_moments, "second moment")?;
                moments.insert(parameter.name.clone(), Moments { first, second });
            }
            *parameter.value = value.autodiff().require_grad();
        }
        if let Some(name) = parameters.keys().chain(first_moments.keys()).chain(second_moments.keys()).next() {
            return Err(mismatch(format!("it has `{name}`, which is not trained")));
        }
        Ok(moments)
    }
}
