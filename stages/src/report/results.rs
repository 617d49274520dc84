//! The tables of results: the paper's table 2, the intervals behind it, and what each model without one domain loses.

use super::{
    compare,
    input::{Estimate, FLEXOLMO, ModelGroup, ModelResult, ReportInput},
    metric::Metric,
    table::{Cell, Column, Raw, Row, RowGroup, Table, Tone},
};

const RANKS: &str = "Best of a column in bold, second underlined, by the digits shown; equal digits share a rank.";

/// Domains that any model was measured on by this metric.
pub(super) fn domains(input: &ReportInput, metric: Metric) -> Vec<(&str, &str)> {
    let measured = input.results.iter().flat_map(|model| &model.evaluation.domains);
    input.domains(measured.filter(|(_, result)| metric.of(result).is_some()).map(|(name, _)| name))
}

fn columns(domains: &[(&str, &str)]) -> Vec<Column> {
    let mut columns: Vec<Column> = domains.iter().map(|(name, title)| Column::new(*name, *title)).collect();
    columns.push(Column::new("average", "Avg."));
    columns
}

fn estimate(model: &ModelResult, domain: &str, metric: Metric) -> Option<Estimate> {
    model.evaluation.domains.get(domain).and_then(|result| metric.of(result))
}

fn group(
    input: &ReportInput,
    group: ModelGroup,
    domains: &[(&str, &str)],
    metric: Metric,
    cell: impl Fn(Estimate) -> Cell,
) -> RowGroup {
    let row = |model: &ModelResult| {
        let values = domains.iter().map(|(domain, _)| estimate(model, domain, metric));
        let cells = values
            .chain([metric.mean(&model.evaluation)])
            .map(|value| value.map_or_else(Cell::missing, &cell))
            .collect();
        Row { key: model.label.clone(), title: model.title.clone(), cells }
    };
    RowGroup { title: Some(group.title().to_owned()), rows: input.group(group).into_iter().map(row).collect() }
}

/// Table 2's shape: rows are models, columns are domains and their mean.
pub(super) fn main(input: &ReportInput, metric: Metric) -> Table {
    let domains = domains(input, metric);
    let cell = |estimate: Estimate| Cell::new(metric.show(estimate.value), Raw::Number(estimate.value));
    let groups = [ModelGroup::Individual, ModelGroup::Combined]
        .into_iter()
        .map(|each| group(input, each, &domains, metric, cell))
        .filter(|group| !group.rows.is_empty())
        .collect();
    let mut table = Table {
        id: format!("results-{}", metric.id()),
        caption: format!("{} by model and domain", metric.title()),
        note: format!("{} {RANKS}", metric.explanation()),
        corner: "Model".to_owned(),
        columns: columns(&domains),
        groups,
    };
    table.rank(metric.lower_is_better());
    table
}

/// Each value with its interval, the opt-out models too.
pub(super) fn intervals(input: &ReportInput, metric: Metric) -> Table {
    let domains = domains(input, metric);
    let cell = |estimate: Estimate| {
        let Estimate { value, low, high } = estimate;
        let text = format!("{} [{}, {}]", metric.show(value), metric.show(low), metric.show(high));
        Cell::new(text, Raw::Interval(estimate))
    };
    let groups = [ModelGroup::Individual, ModelGroup::Combined, ModelGroup::OptOut]
        .into_iter()
        .map(|each| group(input, each, &domains, metric, cell))
        .filter(|group| !group.rows.is_empty())
        .collect();
    Table {
        id: format!("intervals-{}", metric.id()),
        caption: format!("{} with 95% intervals", metric.title()),
        note: format!(
            "{} Intervals by bootstrap over the documents or items of a domain; that of the mean is put together from those \
             of the domains.",
            metric.explanation()
        ),
        corner: "Model".to_owned(),
        columns: columns(&domains),
        groups,
    }
}

/// One model without a domain, against the full one.
pub(super) struct OptOut<'a> {
    pub left_out: &'a str,
    pub model: &'a ModelResult,
    /// Domain, and the difference there.
    pub differences: Vec<(&'a str, Option<Estimate>)>,
}

impl OptOut<'_> {
    /// The difference on the domain that is missing.
    pub fn own(&self) -> Option<Estimate> {
        self.differences.iter().find(|(domain, _)| *domain == self.left_out).and_then(|(_, difference)| *difference)
    }

    /// The differences on the other domains.
    pub fn others(&self) -> impl Iterator<Item = (&str, Estimate)> {
        let others = self.differences.iter().filter(|(domain, _)| *domain != self.left_out);
        others.filter_map(|(domain, difference)| Some((*domain, (*difference)?)))
    }

    fn mean_of_others(&self) -> Option<Estimate> {
        compare::mean(self.others().map(|(_, difference)| difference))
    }

    fn mean(&self) -> Option<Estimate> {
        compare::mean(self.differences.iter().filter_map(|(_, difference)| *difference))
    }
}

/// Every opt-out model against the full one; nothing without the full one.
pub(super) fn opt_outs(input: &ReportInput, metric: Metric) -> Vec<OptOut<'_>> {
    let Some(full) = input.model(FLEXOLMO) else { return Vec::new() };
    let domains = domains(input, metric);
    let models =
        input.group(ModelGroup::OptOut).into_iter().filter_map(|model| Some((model.left_out.as_deref()?, model)));
    models
        .map(|(left_out, model)| OptOut {
            left_out,
            model,
            differences: domains
                .iter()
                .map(|(name, _)| (*name, compare::difference(model, full, name, metric)))
                .collect(),
        })
        .collect()
}

/// The opt-out matrix: rows are the domains left out, columns the domains measured.
pub(super) fn opt_out_matrix(input: &ReportInput, metric: Metric) -> Option<Table> {
    let cell = |difference: Option<Estimate>, is_own: bool| {
        let Some(difference) = difference else { return Cell::missing() };
        let (tone, star) = match (difference.is_clear(), metric.is_better(difference.value, 0.0)) {
            (false, _) => (Tone::None, ""),
            (true, true) => (Tone::Better, "*"),
            (true, false) => (Tone::Worse, "*"),
        };
        let text = format!("{}{star}", metric.show_difference(difference.value));
        Cell { tone, is_own, ..Cell::new(text, Raw::Interval(difference)) }
    };
    let rows: Vec<Row> = opt_outs(input, metric)
        .into_iter()
        .map(|opt_out| {
            let mut cells: Vec<Cell> =
                opt_out.differences.iter().map(|(name, value)| cell(*value, *name == opt_out.left_out)).collect();
            cells.push(cell(opt_out.mean_of_others(), false));
            cells.push(cell(opt_out.mean(), false));
            Row { key: opt_out.model.label.clone(), title: input.title(opt_out.left_out).to_owned(), cells }
        })
        .collect();
    if rows.is_empty() {
        return None;
    }
    let mut columns = columns(&domains(input, metric));
    columns.insert(columns.len() - 1, Column::new("others", "Others"));
    let unit = match metric {
        Metric::BitsPerByte => "Bits per byte more than the full FlexOlmo needs: above 0 is worse.",
        Metric::Cloze => "Percentage points of cloze accuracy more than the full FlexOlmo has: below 0 is worse.",
    };
    Some(Table {
        id: format!("opt-out-{}", metric.id()),
        caption: format!("{}: what leaving one domain out changes", metric.title()),
        note: format!(
            "{unit} The bold cell is the domain that was left out; Others is the mean of the rest of its row. A star marks a \
             difference whose 95% interval does not hold 0, by bootstrap over the documents or items that both models saw."
        ),
        corner: "Left out".to_owned(),
        columns,
        groups: vec![RowGroup { title: None, rows }],
    })
}

/// What each model is and how much text it was measured on.
pub(super) fn models(input: &ReportInput) -> Table {
    let row = |model: &ModelResult| {
        let sum = |field: fn(&super::input::DomainResult) -> u64| {
            Cell::count(model.evaluation.domains.values().map(field).fold(0, u64::saturating_add))
        };
        Row {
            key: model.label.clone(),
            title: model.title.clone(),
            cells: vec![
                Cell::text(&model.label),
                model.left_out.as_deref().map_or_else(Cell::missing, |domain| Cell::text(input.title(domain))),
                Cell::count(model.evaluation.domains.len() as u64),
                sum(|d| d.documents),
                sum(|d| d.bytes),
                sum(|d| d.tokens),
                sum(|d| d.items),
            ],
        }
    };
    let groups = [ModelGroup::Individual, ModelGroup::Combined, ModelGroup::OptOut]
        .into_iter()
        .map(|group| RowGroup {
            title: Some(group.title().to_owned()),
            rows: input.group(group).into_iter().map(row).collect(),
        })
        .filter(|group| !group.rows.is_empty())
        .collect();
    Table {
        id: "models".to_owned(),
        caption: "Models".to_owned(),
        note: "Held-out text that each model was measured on, over all domains.".to_owned(),
        corner: "Model".to_owned(),
        columns: [
            ("label", "Label"),
            ("left_out", "Left out"),
            ("domains", "Domains"),
            ("documents", "Documents"),
            ("bytes", "Bytes"),
            ("tokens", "Tokens"),
            ("items", "Cloze items"),
        ]
        .map(|(key, title)| Column::new(key, title))
        .to_vec(),
        groups,
    }
}
