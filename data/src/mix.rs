//! Which source each instance comes from, when several are mixed.
//!
//! Shares become whole parts of a period, and the period is laid out so that after any number of instances every
//! source is within one instance of its exact part (Tijdeman 1980, "The chairman assignment problem"). The place of an
//! instance is therefore a table lookup: no state, and no randomness that a small run would suffer from.

use crate::{Error, Result};

/// The longest period. Shares that are no fractions of a smaller one are met to within 1/65,536.
const LONGEST_PERIOD: u64 = 1 << 16;

/// How near to a whole number `share × period` must be to count as one.
const WHOLE: f64 = 1e-9;

/// One instance's origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pick {
    /// Index of the source.
    pub source: usize,
    /// How many instances the source gave before this one.
    pub nth: u64,
}

/// The repeating order in which sources give instances.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// Instances of each source in one period.
    parts: Vec<u64>,
    /// For each place of the period: the source, and how many instances it gave earlier in the period.
    places: Vec<(u16, u32)>,
}

impl Schedule {
    /// A schedule for shares of any scale: `[3.0, 1.0]` and `[0.75, 0.25]` are the same. A share of 0 gives nothing.
    ///
    /// # Errors
    /// [`Error::Parameter`] when there is no share, one is negative or not finite, all are 0, or one is too small to
    /// get a single instance in 65,536.
    pub fn new(shares: &[f64]) -> Result<Self> {
        let wrong = |reason: String| Error::Parameter { name: "shares".into(), reason };
        let total: f64 = shares.iter().sum();
        if shares.is_empty() || shares.len() > 1024 {
            return Err(wrong(format!("are {} numbers; 1 to 1024 sources can be mixed", shares.len())));
        }
        if let Some(share) = shares.iter().find(|share| !share.is_finite() || **share < 0.0) {
            return Err(wrong(format!("have {share} among them; a share is a number from 0 on")));
        }
        if !(total > 0.0 && total.is_finite()) {
            return Err(wrong("are all 0; at least one must be more".into()));
        }
        let fractions: Vec<f64> = shares.iter().map(|share| share / total).collect();
        let parts = whole_parts(&fractions);
        if let Some(index) = (0..shares.len()).find(|&index| shares[index] > 0.0 && parts[index] == 0) {
            return Err(wrong(format!(
                "have {} of {total} among them, which is less than 1 in {LONGEST_PERIOD}",
                shares[index]
            )));
        }
        let places = lay_out(&parts);
        Ok(Self { parts, places })
    }

    /// The share of each source that the schedule keeps to, adding up to 1.
    pub fn shares(&self) -> Vec<f64> {
        self.parts.iter().map(|&part| part as f64 / self.period() as f64).collect()
    }

    /// After how many instances the order repeats.
    pub fn period(&self) -> u64 {
        self.places.len() as u64
    }

    /// Where instance `index` of the whole run comes from.
    pub fn pick(&self, index: u64) -> Pick {
        let (round, place) = (index / self.period(), (index % self.period()) as usize);
        let (source, earlier) = self.places[place];
        Pick { source: source as usize, nth: round * self.parts[source as usize] + u64::from(earlier) }
    }
}

/// The parts of the smallest period in which all are whole, else of the longest one by largest remainder.
fn whole_parts(fractions: &[f64]) -> Vec<u64> {
    let exact = (1..=LONGEST_PERIOD).find(|&period| {
        fractions.iter().all(|fraction| {
            let part = fraction * period as f64;
            (part - part.round()).abs() < WHOLE
        })
    });
    if let Some(period) = exact {
        return fractions.iter().map(|fraction| (fraction * period as f64).round() as u64).collect();
    }
    let scaled: Vec<f64> = fractions.iter().map(|fraction| fraction * LONGEST_PERIOD as f64).collect();
    let mut parts: Vec<u64> = scaled.iter().map(|part| part.floor() as u64).collect();
    let mut order: Vec<usize> = (0..fractions.len()).collect();
    order.sort_by(|&a, &b| scaled[b].fract().total_cmp(&scaled[a].fract()).then(a.cmp(&b)));
    let missing = LONGEST_PERIOD.saturating_sub(parts.iter().sum());
    for &index in order.iter().cycle().take(missing as usize) {
        parts[index] += 1;
    }
    parts
}

/// Tijdeman's rule: among the sources that have fallen behind enough to be eligible, the one whose deadline is next.
/// Deviations stay within `1 - 1/(2k - 2)` instances for `k` sources. All numbers are scaled by `period × (2k - 2)`.
fn lay_out(parts: &[u64]) -> Vec<(u16, u32)> {
    let sources: Vec<usize> = (0..parts.len()).filter(|&source| parts[source] > 0).collect();
    let period: i128 = parts.iter().map(|&part| i128::from(part)).sum();
    let scale = (2 * sources.len() as i128 - 2).max(1);
    let mut given = vec![0u32; parts.len()];
    let mut places = Vec::with_capacity(period as usize);
    for place in 0..period {
        let behind = |source: usize| i128::from(parts[source]) * (place + 1) - i128::from(given[source]) * period;
        let deadline = |source: usize| {
            let slack = (scale - 1) * period - scale * behind(source);
            let per_place = scale * i128::from(parts[source]);
            slack.div_euclid(per_place) + i128::from(slack.rem_euclid(per_place) != 0)
        };
        let eligible = sources.iter().copied().filter(|&source| scale * behind(source) >= period);
        // Tijdeman proves that one is always eligible; a lone source is so at every place.
        let next = eligible.min_by_key(|&source| (deadline(source), source)).unwrap_or(sources[0]);
        places.push((next as u16, given[next]));
        given[next] += 1;
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn order(shares: &[f64], count: u64) -> String {
        let schedule = Schedule::new(shares).unwrap();
        (0..count).map(|index| char::from(b'a' + schedule.pick(index).source as u8)).collect()
    }

    #[test]
    fn sources_take_turns() {
        assert_eq!(order(&[1.0], 5), "aaaaa");
        assert_eq!(order(&[0.5, 0.5], 6), "ababab");
        assert_eq!(order(&[3.0, 1.0], 8), "aabaaaba");
        assert_eq!(order(&[1.0, 0.0, 1.0], 4), "acac");
        assert_eq!(Schedule::new(&[0.75, 0.25]).unwrap().period(), 4);
        assert_eq!(Schedule::new(&[1.0, 1.0, 1.0]).unwrap().period(), 3);
    }

    #[test]
    fn a_period_is_filled_exactly() {
        let schedule = Schedule::new(&[1.0, std::f64::consts::SQRT_2, std::f64::consts::PI]).unwrap();
        assert_eq!(schedule.period(), LONGEST_PERIOD);
        let total: f64 = 1.0 + std::f64::consts::SQRT_2 + std::f64::consts::PI;
        for (share, asked) in schedule.shares().iter().zip([1.0, std::f64::consts::SQRT_2, std::f64::consts::PI]) {
            assert!((share - asked / total).abs() <= 1.0 / LONGEST_PERIOD as f64);
        }
    }

    #[test]
    fn wrong_shares_are_refused() {
        for shares in [&[][..], &[0.0], &[-1.0, 2.0], &[f64::NAN], &[f64::INFINITY], &[1.0, 1e-9], &[1.0; 1025]] {
            assert!(matches!(Schedule::new(shares), Err(Error::Parameter { .. })), "{shares:?}");
        }
    }

    proptest! {
        #[test]
        fn no_source_is_ever_an_instance_off(shares in prop::collection::vec(1u32..60, 1..8), start in 0u64..1_000_000) {
            let total: u32 = shares.iter().sum();
            let schedule = Schedule::new(&shares.iter().map(|&share| f64::from(share)).collect::<Vec<_>>()).unwrap();
            let mut given = vec![0u64; shares.len()];
            for index in 0..3 * u64::from(total) {
                let pick = schedule.pick(index);
                prop_assert_eq!(pick.nth, given[pick.source]);
                given[pick.source] += 1;
                for (source, &share) in shares.iter().enumerate() {
                    let exact = (index + 1) as f64 * f64::from(share) / f64::from(total);
                    prop_assert!((given[source] as f64 - exact).abs() < 1.0 + 1e-9, "{source}: {} for {exact}", given[source]);
                }
            }
            // Far into a run a window holds what it should too, within one instance at each end.
            let mut window = vec![0u64; shares.len()];
            for index in start..start + 500 {
                window[schedule.pick(index).source] += 1;
            }
            for (source, &share) in shares.iter().enumerate() {
                let exact = 500.0 * f64::from(share) / f64::from(total);
                prop_assert!((window[source] as f64 - exact).abs() < 2.0 + 1e-9);
            }
        }
    }
}
