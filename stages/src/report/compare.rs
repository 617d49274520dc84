//! Two models on the same documents. What is hard for both cancels, so their difference is known better than either: the
//! intervals are paired bootstraps where the scores of single documents are there, and by [`Estimate::minus`] where they are not.

use flow_data::evaluation::Bootstrap;

use super::{
    input::{Estimate, ModelResult},
    metric::Metric,
};

/// What `first` has more than `second` in a domain.
pub(super) fn difference(first: &ModelResult, second: &ModelResult, domain: &str, metric: Metric) -> Option<Estimate> {
    let value = |model: &ModelResult| metric.of(model.evaluation.domains.get(domain)?);
    let (ours, theirs) = (value(first)?, value(second)?);
    Some(paired(first, second, domain, metric).unwrap_or_else(|| ours.minus(theirs)))
}

fn paired(first: &ModelResult, second: &ModelResult, domain: &str, metric: Metric) -> Option<Estimate> {
    let (ours, theirs) = (first.scores.get(domain)?, second.scores.get(domain)?);
    let bootstrap = Bootstrap::default();
    let interval = match metric {
        Metric::BitsPerByte => {
            let bytes = |documents: &[[f64; 2]]| documents.iter().map(|[_, bytes]| *bytes).collect::<Vec<_>>();
            if bytes(&ours.documents) != bytes(&theirs.documents) {
                return None;
            }
            bootstrap.ratio_difference(&ours.documents, &theirs.documents)
        }
        Metric::Cloze => bootstrap.mean_difference(&ours.cloze, &theirs.cloze),
    };
    let interval = interval.ok()?;
    Some(Estimate { value: interval.value, low: interval.low, high: interval.high })
}

/// The mean of differences over domains, which have no document in common: the intervals' halves add up as squares.
pub(super) fn mean(differences: impl Iterator<Item = Estimate>) -> Option<Estimate> {
    let parts: Vec<Estimate> = differences.collect();
    if parts.is_empty() {
        return None;
    }
    let count = parts.len() as f64;
    let value = parts.iter().map(|part| part.value).sum::<f64>() / count;
    let half = |side: fn(&Estimate) -> f64| parts.iter().map(|part| side(part).powi(2)).sum::<f64>().sqrt() / count;
    Some(Estimate { value, low: value - half(|p| p.value - p.low), high: value + half(|p| p.high - p.value) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{DomainResult, Evaluation, ModelGroup};
    use flow_data::evaluation::Scores;

    fn model(bits: [f64; 4]) -> ModelResult {
        let documents = bits.map(|bits| [bits, 10.0]).to_vec();
        let value = bits.iter().sum::<f64>() / 40.0;
        let estimate = Estimate { value, low: value - 0.5, high: value + 0.5 };
        let domain = DomainResult { bits_per_byte: Some(estimate), ..DomainResult::default() };
        ModelResult {
            label: "m".into(),
            group: ModelGroup::Combined,
            title: "M".into(),
            left_out: None,
            evaluation: Evaluation { domains: [("rust".to_owned(), domain)].into(), ..Evaluation::default() },
            scores: [("rust".to_owned(), Scores { cloze: vec![], documents })].into(),
        }
    }

    #[test]
    fn what_is_hard_for_both_cancels() {
        let (hard, easy) = (model([11.0, 21.0, 31.0, 41.0]), model([10.0, 20.0, 30.0, 40.0]));
        let one = difference(&hard, &easy, "rust", Metric::BitsPerByte).unwrap();
        assert!((one.value - 0.1).abs() < 1e-9 && one.is_clear() && one.high - one.low < 1e-9, "{one:?}");
        let apart = ModelResult { scores: [].into(), ..hard.clone() };
        let two = difference(&apart, &easy, "rust", Metric::BitsPerByte).unwrap();
        assert!(!two.is_clear(), "{two:?}");
        assert_eq!(difference(&hard, &easy, "rust", Metric::Cloze), None);
        assert_eq!(difference(&hard, &easy, "c", Metric::BitsPerByte), None);
        assert_eq!(mean([].into_iter()), None);
        assert!((mean([one, two].into_iter()).unwrap().value - 0.1).abs() < 1e-9);
    }
}
