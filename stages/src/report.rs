//! The report: what was measured, as tables and pages. Pure functions from facts to text; nothing here reads a cache, runs a
//! stage or knows a model.
//!
//! ```text
//! results, statistics, metrics ─ input ─▶ ReportInput ─ build ─▶ Content ─┬─ write_tables ─▶ tables/*.{tex,csv,json}
//!                                                                         │
//!                                              who, when, what ─ Lineage ─┴─ write_pages ──▶ report.md, report.html,
//!                                                                                            figures/*.svg, provenance.json,
//!                                                                                            ro-crate-metadata.json
//! ```
//!
//! `tables/` depends on [`ReportInput`] alone, hence on artifacts alone: two runs of one recipe give the same bytes. The pages
//! also say when and where, which only the run knows.

mod chart;
mod compare;
mod content;
mod corpus;
mod csv;
mod escape;
mod headline;
mod html;
mod input;
mod json;
pub(crate) mod kind;
mod latex;
mod lineage;
mod markdown;
mod metric;
mod provenance;
mod results;
mod sheet;
mod table;
mod training;

use std::{io, path::Path};

pub use content::{Content, Figure, MetricSection};
pub use headline::{Headline, Verdict};
pub use input::{
    Average, DomainResult, Estimate, Evaluation, Member, ModelGroup, ModelResult, ReportInput, StepMetrics, TrainingRun,
};
pub use lineage::{AcceptedLine, Lineage, Numerics, SourceLine, StageLine};
pub use metric::Metric;
pub use table::{Cell, Column, Mark, Raw, Row, RowGroup, Table, Tone};

/// Everything that the report says of the results, in the order in which it is read.
pub fn build(input: &ReportInput) -> Content {
    content::build(input)
}

/// Writes `tables/*.tex`, `*.csv` and `*.json` below `out`. The same content gives the same bytes.
///
/// # Errors
/// Of the file system, naming the path.
pub fn write_tables(content: &Content, out: &Path) -> io::Result<()> {
    let folder = out.join("tables");
    for table in content.tables() {
        write(&folder.join(format!("{}.tex", table.id)), &latex::render(table))?;
        write(&folder.join(format!("{}.csv", table.id)), &csv::render(table))?;
        write(&folder.join(format!("{}.json", table.id)), &json::render(table))?;
    }
    Ok(())
}

/// Writes `report.md`, `report.html`, the figures that `report.md` shows, and the provenance below `out`.
///
/// # Errors
/// Of the file system, naming the path.
pub fn write_pages(content: &Content, lineage: &Lineage, out: &Path) -> io::Result<()> {
    for figure in &content.figures {
        write(&out.join("figures").join(format!("{}.svg", figure.id)), &figure.svg)?;
    }
    // Before the page: by it flow knows a page for its own, also after a write that was cut off.
    let provenance = provenance::render(content, lineage);
    write(&out.join("provenance.json"), &provenance)?;
    // By this name others know a crate.
    write(&out.join("ro-crate-metadata.json"), &provenance)?;
    write(&out.join("report.md"), &markdown::render(content, lineage))?;
    write(&out.join("report.html"), &html::render(content, lineage))
}

/// Writes the whole report of a `report` stage's artifact below `out`: tables, pages, figures and provenance.
///
/// # Errors
/// Of the file system, and of an artifact that is none of a `report` stage.
pub fn publish(artifact: &Path, lineage: &Lineage, out: &Path) -> io::Result<()> {
    let text = fs_err::read(artifact.join(kind::FILE))?;
    let input: ReportInput = serde_json::from_slice(&text).map_err(io::Error::other)?;
    let content = build(&input);
    write_tables(&content, out)?;
    write_pages(&content, lineage, out)
}

/// Written aside and renamed, so that a reader never meets half a file.
fn write(file: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        fs_err::create_dir_all(folder)?;
    }
    let mut aside = file.as_os_str().to_owned();
    aside.push(".part");
    let aside = Path::new(&aside);
    fs_err::write(aside, text)?;
    fs_err::rename(aside, file)
}

#[cfg(test)]
mod sample;
#[cfg(test)]
mod tests;
