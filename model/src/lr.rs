//! Learning rates (FLEXOLMO §1, §3): a linear warmup, then one of four shapes.
//!
//! ```text
//! peak ┤   ╭──╮                    the horizon may lie behind the end of the run: the paper lays the cosine out
//!      │  ╱    ╲                   for 5T tokens and stops at 1T, at 91% of the peak
//! floor┤ ╱      ╲____
//!      └──┬─────┬────┬───► step
//!      warmup  end  horizon
//! ```
//!
//! [`ScheduleParams`] is what a recipe says, [`Schedule`] is what a run of so many steps makes of it: a pure function of the step, so
//! a resumed run needs nothing but the step's number. Cosines come from `libm` in Rust and not from the system's C library, whose last
//! bit differs from version to version.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What happens after the warmup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// The peak, to the end.
    Constant,
    /// Half a cosine from the peak to the floor.
    #[default]
    Cosine,
    /// A straight line from the peak to the floor: an anneal.
    Linear,
    /// Warmup, stable, decay: the peak, and a straight line to the floor over the last `decay_steps`.
    Wsd,
}

/// A schedule as a recipe has it. Steps are updates of the weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleParams {
    /// What happens after the warmup.
    pub shape: Shape,
    /// The largest learning rate.
    pub peak: f64,
    /// Where the shape ends, as a share of the peak, 0 to 1.
    pub floor: f64,
    /// Steps over which the rate rises from 0 to the peak, linearly.
    pub warmup_steps: u64,
    /// The step at which the floor is reached; absent: the end of the run. Larger than the run: the run stops early on the curve.
    pub horizon_steps: Option<u64>,
    /// Length of the last part of `wsd`; absent: a tenth of the horizon.
    pub decay_steps: Option<u64>,
}

impl Default for ScheduleParams {
    /// The paper's public pretraining, up to the horizon.
    fn default() -> Self {
        Self {
            shape: Shape::Cosine,
            peak: 9e-4,
            floor: 0.1,
            warmup_steps: 2000,
            horizon_steps: None,
            decay_steps: None,
        }
    }
}

impl ScheduleParams {
    /// The schedule of a run of `steps` updates.
    ///
    /// # Errors
    /// [`Error::Param`] for numbers that are no learning rates, and for a horizon before the end of the run or of the warmup: a run
    /// that goes on beyond its horizon would train at the floor, which nobody asks for knowingly.
    pub fn resolve(&self, steps: u64) -> Result<Schedule> {
        let Self { shape, peak, floor, warmup_steps, horizon_steps, decay_steps } = *self;
        if !(peak.is_finite() && peak > 0.0) {
            return Err(Error::Param { param: "peak", reason: format!("{peak} is not a positive number") });
        }
        if !(0.0..=1.0).contains(&floor) {
            return Err(Error::Param {
                param: "floor",
                reason: format!("{floor} is not a share from 0 to 1 of the peak"),
            });
        }
        let horizon = horizon_steps.unwrap_or(steps);
        if horizon < steps {
            let reason = format!("the run has {steps} steps and goes on after the horizon of {horizon}");
            return Err(Error::Param { param: "horizon_steps", reason });
        }
        if warmup_steps > horizon {
            let reason =
                format!("{warmup_steps} steps of warmup do not fit before step {horizon}, where the schedule ends");
            return Err(Error::Param { param: "warmup_steps", reason });
        }
        if decay_steps.is_some() && shape != Shape::Wsd {
            let reason = "only the shape `wsd` has a decay of its own length".into();
            return Err(Error::Param { param: "decay_steps", reason });
        }
        let decay = decay_steps.unwrap_or(horizon / 10);
        if shape == Shape::Wsd && warmup_steps.checked_add(decay).is_none_or(|both| both > horizon) {
            let reason = format!("{warmup_steps} steps of warmup and {decay} of decay do not fit into {horizon}");
            return Err(Error::Param { param: "decay_steps", reason });
        }
        Ok(Schedule { shape, peak, floor, warmup: warmup_steps, horizon, decay })
    }
}

/// A learning rate for every step.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    shape: Shape,
    peak: f64,
    floor: f64,
    warmup: u64,
    horizon: u64,
    decay: u64,
}

impl Schedule {
    /// The same rate at every step.
    pub fn constant(peak: f64) -> Self {
        Self { shape: Shape::Constant, peak, floor: 1.0, warmup: 0, horizon: 0, decay: 0 }
    }

    /// The largest rate.
    pub fn peak(&self) -> f64 {
        self.peak
    }

    /// The learning rate of the update number `step`, counted from 0. The last step of the warmup has the peak, and so has the first
    /// one after it; the floor would be reached at the step `horizon`, one after the last.
    pub fn lr(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * (step + 1) as f64 / self.warmup as f64;
        }
        let Self { peak, floor, .. } = *self;
        match self.shape {
            Shape::Constant => peak,
            Shape::Cosine => {
                let angle = std::f64::consts::PI * share(step - self.warmup, self.horizon - self.warmup);
                peak * (floor + (1.0 - floor) * 0.5 * (1.0 + libm::cos(angle)))
            }
            Shape::Linear => peak * (1.0 - (1.0 - floor) * share(step - self.warmup, self.horizon - self.warmup)),
            Shape::Wsd => {
                let gone = step.saturating_sub(self.horizon - self.decay);
                peak * (1.0 - (1.0 - floor) * share(gone, self.decay))
            }
        }
    }
}

/// How much of `whole` is done, 0 to 1.
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { f64::from(u8::from(part > 0)) } else { (part as f64 / whole as f64).min(1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn params(shape: Shape, peak: f64, floor: f64, warmup_steps: u64, horizon_steps: Option<u64>) -> ScheduleParams {
        ScheduleParams { shape, peak, floor, warmup_steps, horizon_steps, decay_steps: None }
    }

    /// The rates that the reference trajectory was trained with (`make_reference.py`, numpy).
    #[test]
    fn agrees_with_the_reference_trajectory() {
        let schedule = params(Shape::Cosine, 2e-3, 0.1, 5, None).resolve(40).unwrap();
        let expected = [
            (0, 0.0004),
            (1, 0.0008),
            (2, 0.0012000000000000001),
            (3, 0.0016),
            (4, 0.002),
            (5, 0.002),
            (6, 0.001996376864595715),
            (7, 0.0019855366297387668),
            (39, 0.00020362313540428484),
        ];
        for (step, lr) in expected {
            assert!((schedule.lr(step) - lr).abs() < 1e-17, "step {step}: {} and {lr}", schedule.lr(step));
        }
    }

    /// The whole file, where it is there.
    #[test]
    fn agrees_with_the_reference_files() {
        for case in ["olmo2-dense", "flexolmo-2-expert-training"] {
            let path = format!("{}/../../shared/reference/{case}/expected.json", env!("CARGO_MANIFEST_DIR"));
            let Ok(text) = std::fs::read_to_string(&path) else {
                println!("skipped: {path} is not there");
                return;
            };
            let expected: serde_json::Value = serde_json::from_str(&text).unwrap();
            let trajectory = &expected["trajectory"];
            let steps = trajectory["steps"].as_u64().unwrap();
            let warmup = trajectory["warmup"].as_u64().unwrap();
            let peak = trajectory["lr"].as_f64().unwrap();
            let schedule = params(Shape::Cosine, peak, 0.1, warmup, None).resolve(steps).unwrap();
            let points = trajectory["points"].as_array().unwrap();
            assert_eq!(points.len(), 40);
            for point in points {
                let (step, lr) = (point["step"].as_u64().unwrap(), point["lr"].as_f64().unwrap());
                assert!((schedule.lr(step) - lr).abs() < 1e-17, "step {step}: {} and {lr}", schedule.lr(step));
            }
        }
    }

    /// The cosine of 5T tokens, stopped at 1T, 4 Mi tokens a step: the paper's anneal starts from 8.24e-4.
    #[test]
    fn the_paper_stops_early_on_its_cosine() {
        let steps = |tokens: f64| (tokens / (1024.0 * 4096.0)) as u64;
        let run = steps(1e12);
        let schedule = params(Shape::Cosine, 9e-4, 0.1, 2000, Some(steps(5e12))).resolve(run).unwrap();
        assert!((schedule.lr(run) - 8.24e-4).abs() < 2e-6, "{}", schedule.lr(run));
    }

    #[test]
    fn linear_and_wsd_have_their_corners() {
        let linear = params(Shape::Linear, 1.0, 0.0, 0, None).resolve(4).unwrap();
        assert_eq!([0, 1, 2, 3].map(|s| linear.lr(s)), [1.0, 0.75, 0.5, 0.25]);
        let wsd = ScheduleParams { decay_steps: Some(4), ..params(Shape::Wsd, 1.0, 0.5, 2, None) }.resolve(10).unwrap();
        assert_eq!([0, 1, 2, 6, 7, 8, 9].map(|s| wsd.lr(s)), [0.5, 1.0, 1.0, 1.0, 0.875, 0.75, 0.625]);
        let constant = params(Shape::Constant, 3.0, 0.1, 3, None).resolve(9).unwrap();
        assert_eq!([0, 2, 3, 8].map(|s| constant.lr(s)), [1.0, 3.0, 3.0, 3.0]);
    }

    #[test]
    fn numbers_without_meaning_are_refused() {
        let good = params(Shape::Cosine, 1e-3, 0.1, 5, None);
        assert!(good.resolve(5).is_ok());
        for (bad, param) in [
            (ScheduleParams { peak: f64::NAN, ..good.clone() }, "peak"),
            (ScheduleParams { peak: 0.0, ..good.clone() }, "peak"),
            (ScheduleParams { floor: 1.5, ..good.clone() }, "floor"),
            (ScheduleParams { floor: f64::NAN, ..good.clone() }, "floor"),
            (ScheduleParams { horizon_steps: Some(9), ..good.clone() }, "horizon_steps"),
            (ScheduleParams { warmup_steps: 11, ..good.clone() }, "warmup_steps"),
            (ScheduleParams { decay_steps: Some(1), ..good.clone() }, "decay_steps"),
            (ScheduleParams { shape: Shape::Wsd, decay_steps: Some(u64::MAX), ..good }, "decay_steps"),
        ] {
            let error = bad.resolve(10).unwrap_err();
            assert!(matches!(error, Error::Param { param: found, .. } if found == param), "{error}");
        }
    }

    #[test]
    fn params_are_read_as_recipes_write_them() {
        let read: ScheduleParams = serde_json::from_str(r#"{"shape":"linear","peak":0.01,"warmup_steps":3}"#).unwrap();
        assert_eq!(read, params(Shape::Linear, 0.01, 0.1, 3, None));
        assert!(serde_json::from_str::<ScheduleParams>(r#"{"warm":3}"#).unwrap_err().to_string().contains("warm"));
    }

    proptest! {
        /// Between floor and peak everywhere after the warmup, never rising there, rising before.
        #[test]
        fn never_leaves_its_bounds(
            shape in prop_oneof![Just(Shape::Constant), Just(Shape::Cosine), Just(Shape::Linear), Just(Shape::Wsd)],
            floor in 0.0..=1.0f64, warmup in 0..50u64, run in 50..300u64, beyond in 0..500u64,
        ) {
            let schedule = params(shape, 1e-3, floor, warmup, Some(run + beyond + 20)).resolve(run).unwrap();
            for step in 0..run {
                let (lr, next) = (schedule.lr(step), schedule.lr(step + 1));
                prop_assert!(lr > 0.0 || floor == 0.0);
                prop_assert!(lr <= 1e-3 * (1.0 + 1e-12));
                if step + 1 < warmup { prop_assert!(next > lr); }
                if step >= warmup {
                    prop_assert!(next <= lr * (1.0 + 1e-12));
                    prop_assert!(lr >= 1e-3 * floor * (1.0 - 1e-12));
                }
            }
        }
    }
}
