//! All that a training run needs to go on. A checkpoint is the serialisation of this and of nothing else.

use crate::weights::Weights;

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
}

impl TrainState {
    /// The beginning of a run from the model's own weights.
    pub fn start() -> Self {
        Self::default()
    }
}
