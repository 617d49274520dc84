//! The two measures: how each is read, printed and compared.

use super::input::{Average, DomainResult, Estimate, Evaluation};

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// Bits that a model needs for a byte of text: lower is better. Shown with three decimals.
    BitsPerByte,
    /// Share of cloze items answered right: higher is better. Shown in per cent with one decimal.
    Cloze,
}

impl Metric {
    /// Both.
    pub const ALL: [Self; 2] = [Self::BitsPerByte, Self::Cloze];

    /// As in file names.
    pub fn id(self) -> &'static str {
        match self {
            Self::BitsPerByte => "bits-per-byte",
            Self::Cloze => "cloze",
        }
    }

    /// As in headings.
    pub fn title(self) -> &'static str {
        match self {
            Self::BitsPerByte => "Bits per byte",
            Self::Cloze => "Cloze accuracy",
        }
    }

    pub(super) fn explanation(self) -> &'static str {
        match self {
            Self::BitsPerByte => "Bits per byte of held-out text; lower is better.",
            Self::Cloze => {
                "Share of held-out passages, in %, whose true continuation the model prefers to three others; higher is \
                 better."
            }
        }
    }

    pub(super) fn lower_is_better(self) -> bool {
        matches!(self, Self::BitsPerByte)
    }

    pub(super) fn is_better(self, one: f64, other: f64) -> bool {
        if self.lower_is_better() { one < other } else { one > other }
    }

    pub(super) fn of(self, result: &DomainResult) -> Option<Estimate> {
        let estimate = match self {
            Self::BitsPerByte => result.bits_per_byte,
            Self::Cloze => result.cloze,
        }?;
        [estimate.value, estimate.low, estimate.high].iter().all(|v| v.is_finite()).then_some(estimate)
    }

    fn average(self, average: Average) -> Option<f64> {
        let value = match self {
            Self::BitsPerByte => average.bits_per_byte,
            Self::Cloze => average.cloze,
        };
        value.filter(|value| value.is_finite())
    }

    /// The mean over the domains, its interval put together from theirs: the domains have no document in common.
    pub(super) fn mean(self, evaluation: &Evaluation) -> Option<Estimate> {
        let value = self.average(evaluation.average)?;
        let parts: Vec<Estimate> = evaluation.domains.values().filter_map(|domain| self.of(domain)).collect();
        let half = |side: fn(&Estimate) -> f64| {
            parts.iter().map(|part| side(part).powi(2)).sum::<f64>().sqrt() / parts.len().max(1) as f64
        };
        Some(Estimate { value, low: value - half(|p| p.value - p.low), high: value + half(|p| p.high - p.value) })
    }

    /// The value as it is printed.
    pub(super) fn show(self, value: f64) -> String {
        match self {
            Self::BitsPerByte => fixed(value, 3),
            Self::Cloze => fixed(100.0 * value, 1),
        }
    }

    /// A difference as it is printed, with its sign.
    pub(super) fn show_difference(self, value: f64) -> String {
        let text = self.show(value);
        let is_zero = !text.contains(|digit: char| ('1'..='9').contains(&digit));
        if is_zero || text.starts_with(MINUS) { text } else { format!("+{text}") }
    }
}

/// The true minus sign, as wide as a plus.
pub(super) const MINUS: char = '\u{2212}';

/// A number with so many decimals; never a negative zero.
pub(super) fn fixed(value: f64, decimals: usize) -> String {
    let text = format!("{:.decimals$}", value.abs());
    let is_zero = !text.contains(|digit: char| ('1'..='9').contains(&digit));
    if value < 0.0 && !is_zero { format!("{MINUS}{text}") } else { text }
}

/// A count with its thousands apart: `1,234,567`.
pub(super) fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

impl Estimate {
    /// `self - other` with an interval by the MOVER method (Zou & Donner 2008), which takes the two as independent.
    /// On the same documents the true interval is narrower: what counts as clear here is clear.
    pub(super) fn minus(self, other: Self) -> Self {
        let value = self.value - other.value;
        let below = (self.value - self.low).hypot(other.high - other.value);
        let above = (self.high - self.value).hypot(other.value - other.low);
        Self { value, low: value - below, high: value + above }
    }

    /// Whether 0 is outside of the interval.
    pub(super) fn is_clear(self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_printed_one_way() {
        assert_eq!(Metric::BitsPerByte.show(1.23456), "1.235");
        assert_eq!(Metric::Cloze.show(0.6125), "61.3");
        assert_eq!(fixed(-0.0004, 3), "0.000");
        assert_eq!(Metric::BitsPerByte.show_difference(-0.0004), "0.000");
        assert_eq!(Metric::BitsPerByte.show_difference(-0.0126), "\u{2212}0.013");
        assert_eq!(Metric::Cloze.show_difference(0.031), "+3.1");
        assert_eq!([grouped(7), grouped(123), grouped(1234), grouped(1_234_567)], ["7", "123", "1,234", "1,234,567"]);
    }

    #[test]
    fn a_difference_widens_both_intervals() {
        let a = Estimate { value: 2.0, low: 1.7, high: 2.4 };
        let b = Estimate { value: 1.0, low: 0.7, high: 1.4 };
        let d = a.minus(b);
        assert!((d.low - 0.5).abs() < 1e-12 && (d.high - 1.5).abs() < 1e-12, "{d:?}");
        assert!(d.is_clear() && !a.minus(a).is_clear());
    }
}
