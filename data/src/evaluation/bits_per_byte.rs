//! How many bits a model needs for a byte of text: comparable between tokenizers, since bytes do not depend on them.

use super::{Bootstrap, Interval};
use crate::{Error, Result};

/// One document's score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DocumentScore {
    /// Sum over the tokens of its text, in nats; its end token is not counted, for it stands for no byte.
    pub log_prob: f64,
    /// Bytes of its text.
    pub bytes: u64,
}

impl DocumentScore {
    /// Bits and bytes.
    pub fn ratio(&self) -> [f64; 2] {
        [-self.log_prob / std::f64::consts::LN_2, self.bytes as f64]
    }
}

/// All bits over all bytes, so that a long document weighs more; the interval is over documents. Documents without text
/// are left out.
///
/// # Errors
/// [`Error::Evaluation`] without any byte or for a log-probability that is not finite or is above 0.
pub fn bits_per_byte(documents: &[DocumentScore], bootstrap: &Bootstrap) -> Result<Interval> {
    bootstrap.ratio(&ratios(documents)?)
}

/// What the first model needs more than the second, on the same documents.
///
/// # Errors
/// As [`bits_per_byte`]; also when the documents are not the same in number or bytes.
pub fn difference(first: &[DocumentScore], second: &[DocumentScore], bootstrap: &Bootstrap) -> Result<Interval> {
    if !first.iter().map(|score| score.bytes).eq(second.iter().map(|score| score.bytes)) {
        return Err(wrong("the two models were scored on different documents".into()));
    }
    bootstrap.ratio_difference(&ratios(first)?, &ratios(second)?)
}

fn ratios(documents: &[DocumentScore]) -> Result<Vec<[f64; 2]>> {
    // `!(x <= 0)` is also true for NaN. A little above 0 is rounding of a sure model.
    if let Some(bad) = documents.iter().find(|score| !(score.log_prob <= 1e-3 && score.log_prob.is_finite())) {
        return Err(wrong(format!("a document of {} bytes has log-probability {}", bad.bytes, bad.log_prob)));
    }
    let ratios: Vec<_> = documents.iter().filter(|score| score.bytes > 0).map(DocumentScore::ratio).collect();
    if ratios.is_empty() {
        return Err(wrong("no document has any text".into()));
    }
    Ok(ratios)
}

fn wrong(reason: String) -> Error {
    Error::Evaluation { measure: "bits per byte", reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(bits: f64, bytes: u64) -> DocumentScore {
        DocumentScore { log_prob: -bits * std::f64::consts::LN_2, bytes }
    }

    #[test]
    fn bits_are_weighted_by_bytes() {
        // 8 + 300 bits over 4 + 100 bytes, not the mean of 2 and 3.
        let interval =
            bits_per_byte(&[score(8.0, 4), score(0.0, 0), score(300.0, 100)], &Bootstrap::default()).unwrap();
        assert!((interval.value - 308.0 / 104.0).abs() < 1e-12);
        assert!((interval.low - 2.0).abs() < 1e-9 && (interval.high - 3.0).abs() < 1e-9);
    }

    #[test]
    fn a_uniform_model_over_bytes_needs_eight_bits() {
        let log_prob = -(1f64 / 256.0).ln().abs() * 50.0;
        let interval = bits_per_byte(&[DocumentScore { log_prob, bytes: 50 }], &Bootstrap::default()).unwrap();
        assert!((interval.value - 8.0).abs() < 1e-12);
    }

    #[test]
    fn differences_are_paired() {
        let (worse, better) = ([score(30.0, 10), score(60.0, 20)], [score(20.0, 10), score(40.0, 20)]);
        let interval = difference(&worse, &better, &Bootstrap::default()).unwrap();
        assert!((interval.value - 1.0).abs() < 1e-12 && (interval.low - 1.0).abs() < 1e-12);
        assert!(difference(&worse, &better[..1], &Bootstrap::default()).is_err());
    }

    #[test]
    fn scores_that_cannot_be_are_refused() {
        for bad in [f64::NAN, f64::NEG_INFINITY, 1.0] {
            let documents = [DocumentScore { log_prob: bad, bytes: 1 }];
            assert!(matches!(bits_per_byte(&documents, &Bootstrap::default()), Err(Error::Evaluation { .. })));
        }
        assert!(bits_per_byte(&[], &Bootstrap::default()).is_err());
        assert!(bits_per_byte(&[score(0.0, 0)], &Bootstrap::default()).is_err());
    }
}
