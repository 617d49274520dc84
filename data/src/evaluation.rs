//! Measures of a model on held-out text: pure functions from texts to what a model has to score, and from its scores to
//! numbers with intervals. No model is known here.
//!
//! ```text
//! documents ─ windows ─▶ tokens to score ─ (model) ─▶ log-probabilities ─ bits_per_byte ─▶ Interval ─┐
//! documents ─ cloze ─▶ items ─ pairs ─▶ tokens to score ─ (model) ─▶ log-probabilities ─ cloze ─▶ Interval ─┴─▶ Evaluation
//! ```

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

pub mod bits_per_byte;
pub mod bootstrap;
pub mod cloze;
pub mod pairs;
pub mod windows;

pub use bootstrap::{Bootstrap, Interval};

/// Version of `results.json`.
pub const FORMAT: u32 = 1;

/// `results.json`: one model on all domains. Fields stand in the order in which they are written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evaluation {
    /// Plain means over the domains.
    pub average: Average,
    /// Each domain's measures.
    pub domains: BTreeMap<String, DomainResult>,
    /// [`FORMAT`].
    pub format: u32,
    /// What was measured.
    pub model: ModelLabel,
}

/// Plain means over domains, each counted once.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Average {
    /// Mean of the domains' bits per byte; none without a domain that has it.
    pub bits_per_byte: Option<f64>,
    /// Mean of the domains' cloze accuracies; none without a domain that has it.
    pub cloze: Option<f64>,
}

/// One domain's measures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainResult {
    /// Bits the model needs for a byte of text; lower is better.
    pub bits_per_byte: Option<Interval>,
    /// Bytes of text that were scored.
    pub bytes: u64,
    /// Share of cloze items answered right; higher is better.
    pub cloze: Option<Interval>,
    /// Documents that were scored.
    pub documents: u64,
    /// Cloze items.
    pub items: u64,
    /// Tokens that were scored.
    pub tokens: u64,
}

/// The model that was measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelLabel {
    /// Experts that were used, in order; empty for a dense model.
    pub experts: Vec<String>,
    /// What the report calls it.
    pub label: String,
    /// Experts that a token visits; none for a dense model.
    pub top_k: Option<u32>,
}

/// What each held-out document and question of a domain gave, in the corpus's order: so that two models can be compared on
/// the same ones.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scores {
    /// 1 for each question that was answered right, 0 for each that was not.
    pub cloze: Vec<f64>,
    /// Bits and bytes of each document.
    pub documents: Vec<[f64; 2]>,
}

/// Writes `scores.json`, the scores by domain, into a folder that is there.
pub fn write_scores(scores: &BTreeMap<String, Scores>, folder: &Path) -> crate::Result<()> {
    crate::shard::write_json(&folder.join("scores.json"), scores)
}

/// Reads `scores.json` of a folder.
///
/// # Errors
/// [`crate::Error::Io`], [`crate::Error::Json`].
pub fn read_scores(folder: &Path) -> crate::Result<BTreeMap<String, Scores>> {
    let file = folder.join("scores.json");
    let place = file.display().to_string();
    serde_json::from_slice(&fs_err::read(&file)?).map_err(|source| crate::Error::Json { place, source })
}

impl Evaluation {
    /// Puts domains together and takes their means.
    pub fn new(model: ModelLabel, domains: BTreeMap<String, DomainResult>) -> Self {
        let mean = |value: fn(&DomainResult) -> Option<Interval>| {
            let values: Vec<f64> = domains.values().filter_map(value).map(|interval| interval.value).collect();
            (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
        };
        let average =
            Average { bits_per_byte: mean(|domain| domain.bits_per_byte), cloze: mean(|domain| domain.cloze) };
        Self { average, domains, format: FORMAT, model }
    }

    /// Writes `results.json` into a folder that is there.
    pub fn write(&self, folder: &Path) -> crate::Result<()> {
        crate::shard::write_json(&folder.join("results.json"), self)
    }

    /// Reads `results.json` of a folder.
    ///
    /// # Errors
    /// [`crate::Error::Io`], [`crate::Error::Json`], and [`crate::Error::Evaluation`] for an unknown version.
    pub fn read(folder: &Path) -> crate::Result<Self> {
        let file = folder.join("results.json");
        let bytes = fs_err::read(&file)?;
        let place = file.display().to_string();
        let results: Self =
            serde_json::from_slice(&bytes).map_err(|source| crate::Error::Json { place: place.clone(), source })?;
        if results.format != FORMAT {
            let reason = format!("`{place}` has format {}, this program reads {FORMAT}", results.format);
            return Err(crate::Error::Evaluation { measure: "results", reason });
        }
        Ok(results)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_written_in_order_and_read_again() {
        let interval = |value| Some(Interval { high: value + 0.5, low: value - 0.5, value });
        let domain =
            |bits, cloze| DomainResult { bits_per_byte: bits, bytes: 90, cloze, documents: 2, items: 4, tokens: 30 };
        let domains = BTreeMap::from([
            ("news".to_owned(), domain(interval(2.0), interval(0.5))),
            ("c".to_owned(), domain(interval(1.0), None)),
        ]);
        let model = ModelLabel { experts: vec!["c".into()], label: "FlexOlmo top-1".into(), top_k: Some(1) };
        let results = Evaluation::new(model, domains);
        assert_eq!(results.average, Average { bits_per_byte: Some(1.5), cloze: Some(0.5) });
        let folder = tempfile::tempdir().unwrap();
        results.write(folder.path()).unwrap();
        assert_eq!(Evaluation::read(folder.path()).unwrap(), results);

        let text = fs_err::read_to_string(folder.path().join("results.json")).unwrap();
        let sorted: BTreeMap<String, serde_json::Value> = serde_json::from_str(&text).unwrap();
        let keys: Vec<&str> = text.lines().filter(|line| line.starts_with("  \"")).collect();
        assert_eq!(keys.len(), sorted.len());
        assert!(keys.is_sorted() && text.ends_with("}\n"));
        fs_err::write(folder.path().join("results.json"), text.replace("\"format\": 1", "\"format\": 2")).unwrap();
        assert!(matches!(Evaluation::read(folder.path()), Err(crate::Error::Evaluation { .. })));
    }
}
