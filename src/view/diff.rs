//! Two runs side by side, for people.

use std::fmt::Write;

use super::{
    plan,
    table::{self, row},
};
use crate::cmd::diff::Differences;

/// Lines of one part that are shown.
const SHOWN: usize = 40;

/// The differences for people.
pub fn text(differences: &Differences) -> String {
    let mut out = String::new();
    let [first, second] = &differences.runs;
    // Writing to a String cannot fail.
    let _ = writeln!(out, "run {first} → run {second}\n");
    let count = differences.recipe.len();
    let _ = writeln!(out, "recipe: {}", if count == 0 { "the same".into() } else { format!("{count} values differ") });
    for change in differences.recipe.iter().take(SHOWN) {
        let _ = writeln!(out, "  {change}");
    }
    more(&mut out, count);
    let _ = write!(out, "\n{}", plan::differences(&differences.stages));
    let artifacts: Vec<Vec<String>> = differences
        .stages
        .stages
        .iter()
        .filter(|stage| stage.artifacts.0 != stage.artifacts.1)
        .map(|stage| {
            let short =
                |digest: Option<flow_cache::ArtifactDigest>| digest.map_or("–".into(), |digest| digest.short());
            vec![format!("  {}", stage.stage), short(stage.artifacts.0), "→".into(), short(stage.artifacts.1)]
        })
        .collect();
    let _ = writeln!(out, "\nartifacts: {} differ", artifacts.len());
    out += &table::text(artifacts.get(..SHOWN).unwrap_or(&artifacts), &[]);
    more(&mut out, artifacts.len());

    let _ = writeln!(out, "\nfigures: {} differ, {} are the same", differences.figures.len(), differences.same_figures);
    let figures: Vec<Vec<String>> = differences
        .figures
        .iter()
        .take(SHOWN)
        .map(|figure| {
            let shown = |value: Option<f64>| value.map_or("–".into(), |value| format!("{value:.4}"));
            let by = figure.first.zip(figure.second).map(|(first, second)| format!("{:+.4}", second - first));
            let [name, first, second] = [format!("  {}", figure.name), shown(figure.first), shown(figure.second)];
            row([&name, &first, "→", &second, &by.unwrap_or_default()])
        })
        .collect();
    out += &table::text(&figures, &[1, 3, 4]);
    more(&mut out, differences.figures.len());
    out
}

fn more(out: &mut String, count: usize) {
    if count > SHOWN {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  and {} more; --json has all", count - SHOWN);
    }
}
