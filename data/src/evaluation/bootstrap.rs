//! Intervals by the percentile bootstrap (Efron 1979): the measure is taken again on samples of the documents, drawn
//! with replacement, and the middle part of what comes out is the interval.
//!
//! Draw `i` of resample `r` is number `i` of the stream `seed / r` (see [`crate::random`]), so an interval depends on
//! the seed and the values and on nothing else. Sums run in the order of the draws.

use crate::random::Stream;
use crate::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How intervals are made.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Bootstrap {
    /// Samples that are drawn.
    pub resamples: u32,
    /// Part of them that lies within the interval.
    pub confidence: f64,
    /// Chooses the samples.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { resamples: 1000, confidence: 0.95, seed: 0 }
    }
}

/// The most samples: each is kept until all are drawn, and an interval is steady long before.
const MOST_RESAMPLES: u32 = 1_000_000;

/// A value with its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interval {
    /// Upper end.
    pub high: f64,
    /// Lower end.
    pub low: f64,
    /// The measure on the documents themselves.
    pub value: f64,
}

impl Bootstrap {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::Parameter`] with the name of the first that is out of its range.
    pub fn validate(&self) -> Result<()> {
        let wrong = |name: &str, reason: String| Err(Error::Parameter { name: name.into(), reason });
        if !(1..=MOST_RESAMPLES).contains(&self.resamples) {
            return wrong("resamples", format!("is {}; it must be from 1 to {MOST_RESAMPLES}", self.resamples));
        }
        if !(self.confidence > 0.0 && self.confidence < 1.0) {
            return wrong("confidence", format!("is {}; it must be between 0 and 1", self.confidence));
        }
        Ok(())
    }

    /// Mean of values.
    ///
    /// # Errors
    /// [`Error::Evaluation`] when there is no value or one is not finite; [`Error::Parameter`] for settings out of range.
    pub fn mean(&self, values: &[f64]) -> Result<Interval> {
        let pairs: Vec<[f64; 2]> = values.iter().map(|&value| [value, 1.0]).collect();
        self.ratio(&pairs)
    }

    /// Sum of numerators over sum of denominators, of `[numerator, denominator]` pairs that are drawn together.
    ///
    /// # Errors
    /// As [`Bootstrap::mean`]; also for a denominator that is not positive.
    pub fn ratio(&self, pairs: &[[f64; 2]]) -> Result<Interval> {
        check_ratios(pairs.iter())?;
        self.resample(pairs, |[top, bottom]| top / bottom)
    }

    /// Mean of `first - second`, of values on the same documents.
    ///
    /// # Errors
    /// As [`Bootstrap::mean`]; also for slices of different lengths.
    pub fn mean_difference(&self, first: &[f64], second: &[f64]) -> Result<Interval> {
        same_length(first.len(), second.len())?;
        self.mean(&first.iter().zip(second).map(|(first, second)| first - second).collect::<Vec<_>>())
    }

    /// Ratio of `first` minus ratio of `second`, of pairs on the same documents: each sample draws the same documents
    /// for both, so what is hard for both cancels.
    ///
    /// # Errors
    /// As [`Bootstrap::ratio`]; also for slices of different lengths.
    pub fn ratio_difference(&self, first: &[[f64; 2]], second: &[[f64; 2]]) -> Result<Interval> {
        same_length(first.len(), second.len())?;
        check_ratios(first.iter().chain(second))?;
        let both: Vec<[f64; 4]> = first.iter().zip(second).map(|(a, b)| [a[0], a[1], b[0], b[1]]).collect();
        self.resample(&both, |[top, bottom, other_top, other_bottom]| top / bottom - other_top / other_bottom)
    }

    /// The measure of the sums of all rows, and its interval.
    fn resample<const N: usize>(&self, rows: &[[f64; N]], measure: impl Fn([f64; N]) -> f64) -> Result<Interval> {
        if rows.is_empty() {
            return Err(wrong("there is nothing to measure".into()));
        }
        self.validate()?;
        let sum = |chosen: &mut dyn Iterator<Item = &[f64; N]>| {
            chosen.fold([0.0; N], |mut sums, row| {
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
                sums
            })
        };
        let stream = Stream::new(self.seed);
        let mut measures: Vec<f64> = (0..u64::from(self.resamples))
            .map(|resample| {
                let draws = stream.derive(resample);
                let count = rows.len() as u64;
                measure(sum(&mut (0..count).map(|draw| &rows[draws.below(draw, count) as usize])))
            })
            .collect();
        measures.sort_unstable_by(f64::total_cmp);
        let tail = (1.0 - self.confidence) / 2.0;
        let value = measure(sum(&mut rows.iter()));
        Ok(Interval { high: quantile(&measures, 1.0 - tail), low: quantile(&measures, tail), value })
    }
}

/// Quantile of sorted values, with straight lines between them (numpy's default).
fn quantile(sorted: &[f64], at: f64) -> f64 {
    let place = at * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

fn check_ratios<'a>(mut pairs: impl Iterator<Item = &'a [f64; 2]>) -> Result<()> {
    let bad = |pair: &&[f64; 2]| !(pair[0].is_finite() && pair[1].is_finite() && pair[1] > 0.0);
    match pairs.find(bad) {
        Some([top, bottom]) => Err(wrong(format!("a document has {top} over {bottom}"))),
        None => Ok(()),
    }
}

fn same_length(first: usize, second: usize) -> Result<()> {
    if first != second {
        return Err(wrong(format!("{first} values cannot be paired with {second}")));
    }
    Ok(())
}

fn wrong(reason: String) -> Error {
    Error::Evaluation { measure: "an interval", reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn samples_without_number_are_refused() {
        for resamples in [0, MOST_RESAMPLES + 1, u32::MAX] {
            let error = Bootstrap { resamples, ..Bootstrap::default() }.mean(&[1.0]).unwrap_err();
            assert!(matches!(&error, Error::Parameter { name, .. } if name == "resamples"), "{error}");
        }
    }

    #[test]
    fn quantiles_are_numpys() {
        assert_eq!(quantile(&[1.0, 2.0, 4.0, 8.0], 0.0), 1.0);
        assert_eq!(quantile(&[1.0, 2.0, 4.0, 8.0], 0.5), 3.0);
        assert!((quantile(&[1.0, 2.0, 4.0, 8.0], 0.9) - 6.8).abs() < 1e-12);
        assert_eq!(quantile(&[5.0], 0.3), 5.0);
    }

    #[test]
    fn the_interval_of_a_mean_is_about_two_standard_errors_wide() {
        // 400 values of a uniform distribution: standard error 0.2887 / 20 = 0.0144.
        let stream = Stream::new(4);
        let values: Vec<f64> = (0..400).map(|at| stream.at(at) as f64 / 2f64.powi(64)).collect();
        let interval = Bootstrap::default().mean(&values).unwrap();
        let half = (interval.high - interval.low) / 2.0;
        assert!((half - 1.96 * 0.0144).abs() < 0.004, "{interval:?}");
    }

    #[test]
    fn about_95_of_100_intervals_hold_the_truth() {
        let held = (0..200)
            .filter(|&trial| {
                let stream = Stream::new(1000 + trial);
                let values: Vec<f64> = (0..60).map(|at| stream.at(at) as f64 / 2f64.powi(64)).collect();
                let bootstrap = Bootstrap { resamples: 400, seed: trial, ..Bootstrap::default() };
                let interval = bootstrap.mean(&values).unwrap();
                interval.low <= 0.5 && 0.5 <= interval.high
            })
            .count();
        assert!((178..=199).contains(&held), "{held} of 200");
    }

    #[test]
    fn a_paired_difference_is_narrower() {
        // Documents differ a lot, the two models by little.
        let stream = Stream::new(9);
        let first: Vec<[f64; 2]> = (0..100).map(|at| [100.0 + stream.below(at, 400) as f64, 100.0]).collect();
        let second: Vec<[f64; 2]> = first.iter().map(|[top, bottom]| [top * 0.99, *bottom]).collect();
        let bootstrap = Bootstrap::default();
        let difference = bootstrap.ratio_difference(&first, &second).unwrap();
        assert!(difference.low > 0.0);
        let alone = bootstrap.ratio(&first).unwrap();
        assert!(difference.high - difference.low < (alone.high - alone.low) / 10.0);
        let means = bootstrap.mean_difference(&[3.0, 5.0], &[1.0, 2.0]).unwrap();
        assert_eq!((means.value, means.low, means.high), (2.5, 2.0, 3.0));
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        let bootstrap = Bootstrap::default();
        assert!(matches!(bootstrap.mean(&[]), Err(Error::Evaluation { .. })));
        assert!(matches!(bootstrap.mean(&[f64::NAN]), Err(Error::Evaluation { .. })));
        assert!(matches!(bootstrap.ratio(&[[1.0, 0.0]]), Err(Error::Evaluation { .. })));
        assert!(matches!(bootstrap.mean_difference(&[1.0], &[]), Err(Error::Evaluation { .. })));
        assert!(matches!(Bootstrap { resamples: 0, ..bootstrap }.mean(&[1.0]), Err(Error::Parameter { .. })));
        assert!(matches!(Bootstrap { confidence: 1.0, ..bootstrap }.mean(&[1.0]), Err(Error::Parameter { .. })));
    }

    proptest! {
        #[test]
        fn resamples_stay_within_the_values(values in prop::collection::vec(-1e3f64..1e3, 1..40), seed in any::<u64>()) {
            let bootstrap = Bootstrap { resamples: 50, seed, ..Bootstrap::default() };
            let interval = bootstrap.mean(&values).unwrap();
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            prop_assert!(least - 1e-9 <= interval.low && interval.low <= interval.high && interval.high <= most + 1e-9);
            prop_assert_eq!(bootstrap.mean(&values).unwrap(), interval);
        }
    }
}
