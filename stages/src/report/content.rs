//! What the report says of the results, in reading order and in no language yet.

use super::{
    chart, corpus,
    headline::{self, Headline},
    input::ReportInput,
    metric::Metric,
    results,
    table::Table,
    training,
};

/// All that follows from [`ReportInput`].
#[derive(Debug, Clone, PartialEq)]
pub struct Content {
    /// What the numbers say of the paper's claims.
    pub headlines: Vec<Headline>,
    /// One section a metric.
    pub metrics: Vec<MetricSection>,
    /// Loss curves: the public model's own, then the others in one.
    pub figures: Vec<Figure>,
    /// What training came to.
    pub training: Option<Table>,
    /// What curation kept and dropped.
    pub corpora: Option<Table>,
    /// The models.
    pub models: Table,
}

/// One metric's tables.
#[derive(Debug, Clone, PartialEq)]
pub struct MetricSection {
    /// Which.
    pub metric: Metric,
    /// Models by domains.
    pub main: Table,
    /// The same with intervals.
    pub intervals: Table,
    /// What leaving a domain out changes.
    pub opt_out: Option<Table>,
}

/// A picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figure {
    /// Name of its file.
    pub id: String,
    /// What it shows and how it was smoothed.
    pub caption: String,
    /// Self-contained SVG.
    pub svg: String,
}

pub(super) fn build(input: &ReportInput) -> Content {
    let metrics = Metric::ALL
        .into_iter()
        .filter(|metric| !results::domains(input, *metric).is_empty())
        .map(|metric| MetricSection {
            metric,
            main: results::main(input, metric),
            intervals: results::intervals(input, metric),
            opt_out: results::opt_out_matrix(input, metric),
        })
        .collect();
    Content {
        headlines: headline::headlines(input),
        metrics,
        figures: chart::figures(input),
        training: training::table(input),
        corpora: corpus::table(input),
        models: results::models(input),
    }
}

impl Content {
    /// Every table, as the pages show them.
    pub fn tables(&self) -> impl Iterator<Item = &Table> {
        let metrics = self
            .metrics
            .iter()
            .flat_map(|section| [&section.main, &section.intervals].into_iter().chain(&section.opt_out));
        metrics.chain(&self.training).chain(&self.corpora).chain([&self.models])
    }
}
