//! What training came to, and the curves' smoothing.

use super::{
    input::{ReportInput, StepMetrics, TrainingRun},
    metric::{fixed, grouped},
    table::{Cell, Column, Raw, Row, RowGroup, Table},
};

/// The smoothing of a curve spans this part of the run.
const WINDOW: usize = 50;

/// Steps that are averaged: a fiftieth of the run, at least one.
pub(super) fn window(metrics: &[StepMetrics]) -> usize {
    (metrics.len() / WINDOW).max(1)
}

/// The mean over the last records, as many as [`window`] says; not a number without any.
pub(super) fn last_loss(metrics: &[StepMetrics]) -> f64 {
    let end = &metrics[metrics.len().saturating_sub(window(metrics))..];
    end.iter().map(|m| m.loss).sum::<f64>() / end.len() as f64
}

/// Exponential moving average over `window` records, corrected for its start (as Adam's moments are).
pub(super) fn smooth(values: impl Iterator<Item = f64>, window: usize) -> Vec<f64> {
    let keep = 1.0 - 2.0 / (window as f64 + 1.0);
    let (mut mean, mut weight) = (0.0, 0.0);
    values
        .map(|value| {
            mean = keep * mean + (1.0 - keep) * value;
            weight = keep * weight + (1.0 - keep);
            mean / weight
        })
        .collect()
}

/// The run's name as people read it: the model's title where there is one of that label.
pub(super) fn title<'a>(input: &'a ReportInput, run: &'a TrainingRun) -> &'a str {
    input.model(&run.label).map_or_else(
        || input.title(run.label.split_once('.').map_or(run.label.as_str(), |(_, domain)| domain)),
        |model| &model.title,
    )
}

/// One row a run.
pub(super) fn table(input: &ReportInput) -> Option<Table> {
    let validated = input.training.iter().any(|run| validation_loss(run).is_some());
    let row = |run: &TrainingRun| {
        let (first, last) = (run.metrics.first()?, run.metrics.last()?);
        let last_loss = last_loss(&run.metrics);
        let number = |value: f64, decimals| {
            if value.is_finite() { Cell::new(fixed(value, decimals), Raw::Number(value)) } else { Cell::missing() }
        };
        let most = |field: fn(&StepMetrics) -> Option<f64>| run.metrics.iter().filter_map(field).max_by(f64::total_cmp);
        let lr = most(|m| m.lr).filter(|lr| lr.is_finite());
        let mut cells = vec![
            Cell::count(last.step),
            Cell::new(grouped(last.tokens), Raw::Count(last.tokens)),
            number(first.loss, 3),
            number(last_loss, 3),
        ];
        if validated {
            cells.push(validation_loss(run).map_or_else(Cell::missing, |loss| number(loss, 3)));
        }
        cells.push(lr.map_or_else(Cell::missing, |lr| Cell::new(format!("{lr:.1e}"), Raw::Number(lr))));
        cells.push(most(|m| m.grad_norm).map_or_else(Cell::missing, |norm| number(norm, 2)));
        Some(Row { key: run.label.clone(), title: title(input, run).to_owned(), cells })
    };
    let rows: Vec<Row> = input.training.iter().filter_map(row).collect();
    if rows.is_empty() {
        return None;
    }
    let mut columns =
        vec![("steps", "Steps"), ("tokens", "Tokens"), ("first_loss", "First loss"), ("last_loss", "Last loss")];
    if validated {
        columns.push(("validation_loss", "Held-out loss"));
    }
    columns.extend([("lr", "Highest learning rate"), ("grad_norm", "Largest gradient norm")]);
    Some(Table {
        id: "training".to_owned(),
        caption: "Training".to_owned(),
        note: "Loss is cross-entropy in nats a token; the last one is the mean over the last fiftieth of the records."
            .to_owned(),
        corner: "Run".to_owned(),
        columns: columns.into_iter().map(|(key, title)| Column::new(key, title)).collect(),
        groups: vec![RowGroup { title: None, rows }],
    })
}

/// The last loss on held-out text, where it was scored.
fn validation_loss(run: &TrainingRun) -> Option<f64> {
    run.metrics.iter().rev().find_map(|m| m.validation_loss)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_average_starts_at_the_first_value_and_keeps_a_constant() {
        assert_eq!(smooth([5.0, 5.0, 5.0].into_iter(), 10), [5.0, 5.0, 5.0]);
        assert_eq!(smooth([3.0, 1.0].into_iter(), 1), [3.0, 1.0]);
        let line = smooth([0.0, 1.0].into_iter(), 3);
        assert!((line[1] - 2.0 / 3.0).abs() < 1e-12, "{line:?}");
    }
}
