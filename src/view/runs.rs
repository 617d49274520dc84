//! The runs of a store as a table.

use flow_pipeline::run::{RunSummary, Standing};

use super::{
    numbers::duration,
    table::{self, row},
};

/// A standing in a word or two.
pub fn word(standing: Standing) -> &'static str {
    match standing {
        Standing::Running => "running",
        Standing::Done => "done",
        Standing::Failed => "failed",
        Standing::Interrupted => "interrupted",
        Standing::CutOff => "cut off",
        Standing::Unreadable => "unreadable",
    }
}

/// A time (RFC 3339, UTC) as people read it.
fn to_the_second(time: &str) -> String {
    time.replacen('T', " ", 1).chars().take(19).collect()
}

/// The runs for people.
pub fn text(runs: &[RunSummary]) -> String {
    let mut rows = vec![row(["run", "recipe", "started (UTC)", "outcome", "made", "cached", "failed", "of", "time"])];
    for run in runs {
        let [made, cached, failed, of] =
            [run.finished, run.cached, run.failed, run.stages].map(|count: usize| count.to_string());
        rows.push(vec![
            run.run.clone(),
            run.recipe.clone(),
            run.started.as_deref().map(to_the_second).unwrap_or_default(),
            word(run.outcome).to_owned(),
            made,
            cached,
            failed,
            of,
            run.seconds.map(duration).unwrap_or_default(),
        ]);
    }
    table::text(&rows, &[4, 5, 6, 7, 8])
}
