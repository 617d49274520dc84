//! Updates that stand out: a loss or a gradient far above those of the last updates, as one broken document makes them.
//!
//! The rule is that of `OLMo-core`'s step-skipping optimizers: an update is a spike if its loss or its gradients' norm lies more
//! than so many standard deviations above the mean of the last ones. It says nothing before it has seen half a window.

use std::collections::VecDeque;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When an update is a spike, and what happens then.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SpikeRule {
    /// Standard deviations above the mean.
    pub deviations: f64,
    /// Updates that mean and deviation are taken of, at least 4.
    pub window: u32,
    /// What happens then.
    pub action: Action,
}

impl Default for SpikeRule {
    fn default() -> Self {
        Self { deviations: 6.0, window: 128, action: Action::Stop }
    }
}

/// What happens at an update that cannot be right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// The run fails, names the step and the documents, and keeps the state before it.
    #[default]
    Stop,
    /// The update is left out.
    Skip,
}

/// What an update measured: its loss, and the norm of its gradients.
pub type Measured = [f64; 2];

/// The names of what [`Measured`] holds.
pub(crate) const QUANTITIES: [&str; 2] = ["loss", "gradient norm"];

/// The last updates, oldest first.
pub(crate) type Recent = VecDeque<Measured>;

/// A quantity above its limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spike {
    pub quantity: &'static str,
    pub value: f64,
    pub limit: f64,
}

impl SpikeRule {
    fn window(&self) -> usize {
        (self.window as usize).max(4)
    }

    /// What makes `now` a spike after `recent`, if it is one.
    pub(crate) fn judge(&self, recent: &Recent, now: Measured) -> Option<Spike> {
        (recent.len() >= self.window() / 2).then(|| (0..2).find_map(|i| self.above(recent, i, now[i]))).flatten()
    }

    /// `now` joins `recent`, spike or not, so that a lasting change is no spike for long.
    pub(crate) fn remember(&self, recent: &mut Recent, now: Measured) {
        recent.push_back(now);
        while recent.len() > self.window() {
            recent.pop_front();
        }
    }

    fn above(&self, recent: &Recent, i: usize, value: f64) -> Option<Spike> {
        let n = recent.len() as f64;
        let mean = recent.iter().map(|measured| measured[i]).sum::<f64>() / n;
        let variance = recent.iter().map(|measured| (measured[i] - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let limit = mean + self.deviations * variance.sqrt();
        (value > limit).then_some(Spike { quantity: QUANTITIES[i], value, limit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: SpikeRule = SpikeRule { deviations: 6.0, window: 16, action: Action::Skip };

    fn seen(recent: &mut Recent, now: Measured) -> Option<Spike> {
        let spike = RULE.judge(recent, now);
        RULE.remember(recent, now);
        spike
    }

    fn calm(recent: &mut Recent, updates: u32) {
        for i in 0..updates {
            assert_eq!(seen(recent, [3.0 + f64::from(i % 5) * 0.01, 1.0 + f64::from(i % 3) * 0.1]), None);
        }
    }

    #[test]
    fn either_quantity_can_stand_out() {
        for (now, quantity) in [([9.0, 1.0], "loss"), ([3.0, 40.0], "gradient norm")] {
            let mut recent = Recent::new();
            calm(&mut recent, 20);
            let spike = seen(&mut recent, now).unwrap();
            assert_eq!((spike.quantity, spike.value), (quantity, now[0].max(now[1])));
            assert!(spike.limit < 5.0);
            assert_eq!(recent.len(), 16);
        }
    }

    #[test]
    fn the_first_updates_and_a_lower_loss_are_none() {
        let mut recent = Recent::new();
        calm(&mut recent, 7);
        assert_eq!(seen(&mut recent, [99.0, 99.0]), None);
        let mut recent = Recent::new();
        calm(&mut recent, 20);
        assert_eq!(seen(&mut recent, [0.0, 0.0]), None);
    }

    #[test]
    fn a_lasting_change_is_soon_the_new_normal() {
        let mut recent = Recent::new();
        calm(&mut recent, 20);
        let spikes = (0..16).filter(|_| seen(&mut recent, [8.0, 1.0]).is_some()).count();
        assert!((1..4).contains(&spikes), "{spikes}");
    }
}
