//! Two runs side by side, for people.

use std::fmt::Write;

use flow_pipeline::plan::{Change, compare::Comparison};
use serde::Serialize;

use super::{
    numbers::{counted, difference},
    plan,
    table::{self, row},
};

/// A figure that two runs have, or one of them.
#[derive(Debug, Serialize)]
pub struct Figure {
    /// The stage and the metric, such as `eval-soup.cloze.mean`.
    pub name: String,
    /// In the first run.
    pub first: Option<f64>,
    /// In the second run.
    pub second: Option<f64>,
}

/// Two runs side by side.
#[derive(Debug, Serialize)]
pub struct Differences {
    /// The ids of both.
    pub runs: [String; 2],
    /// Values of the resolved recipe, by path.
    pub recipe: Vec<Change>,
    /// Stages: keys and artifacts.
    pub stages: Comparison,
    /// Metrics of stages that are not the same.
    pub figures: Vec<Figure>,
    /// Metrics that are.
    pub same_figures: usize,
}

/// Lines of one part that are shown.
const SHOWN: usize = 40;

/// The differences for people.
pub fn text(differences: &Differences) -> String {
    let mut out = String::new();
    let [first, second] = &differences.runs;
    // Writing to a String cannot fail.
    let _ = writeln!(out, "run {first} → run {second}\n");
    let count = differences.recipe.len();
    let _ = writeln!(
        out,
        "recipe: {}",
        if count == 0 { "the same".into() } else { format!("{} not the same", counted(count, "value")) }
    );
    for change in differences.recipe.iter().take(SHOWN) {
        let _ = writeln!(out, "  {change}");
    }
    more(&mut out, count);
    let _ = write!(
        out,
        "\n{}",
        plan::differences(&differences.stages, [&format!("run {first}"), &format!("run {second}")])
    );
    let artifacts: Vec<Vec<String>> = differences
        .stages
        .stages
        .iter()
        .filter_map(|stage| stage.artifacts.0.zip(stage.artifacts.1).map(|pair| (&stage.stage, pair)))
        .filter(|(_, (first, second))| first != second)
        .map(|(stage, (first, second))| row([&format!("  {stage}"), &first.short(), "→", &second.short()]))
        .collect();
    let _ = writeln!(out, "\nartifacts: {} differ", artifacts.len());
    out += &table::text(artifacts.get(..SHOWN).unwrap_or(&artifacts), &[]);
    more(&mut out, artifacts.len());

    let both: Vec<(&String, f64, f64)> =
        differences.figures.iter().filter_map(|figure| Some((&figure.name, figure.first?, figure.second?))).collect();
    let one = differences.figures.len() - both.len();
    let one = if one > 0 { format!(", {one} are of one run only") } else { String::new() };
    let _ = writeln!(out, "\nfigures: {} differ, {} are the same{one}", both.len(), differences.same_figures);
    let figures: Vec<Vec<String>> = both
        .iter()
        .take(SHOWN)
        .map(|(name, first, second)| {
            let [first, second, by] = difference(*first, *second);
            row([&format!("  {name}"), &first, "→", &second, &by])
        })
        .collect();
    out += &table::text(&figures, &[1, 3, 4]);
    more(&mut out, both.len());
    out
}

fn more(out: &mut String, count: usize) {
    if count > SHOWN {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  and {} more; --json has all", count - SHOWN);
    }
}
