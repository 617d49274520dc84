//! `flow diff`: what is different between two runs, from the recipe to the figures.

use std::{collections::BTreeMap, process::ExitCode};

use flow_cache::Cache;
use flow_pipeline::{
    event::state::RunState,
    key,
    plan::compare::{Side, compare},
    recipe,
    run::history,
};
use serde_json::Value;

use super::planning;
use crate::{
    cli::DiffArgs,
    failure::{Ended, Failure},
    view::{
        self,
        diff::{Differences, Figure},
    },
};

/// Runs the command.
pub fn diff(args: &DiffArgs, json: bool) -> Ended {
    let [first, second] = [&args.first, &args.second].map(|id| planning::run(&args.folder.store, Some(id)));
    let (first, second) = (first?, second?);
    let (was, is) = (first.state()?, second.state()?);
    let (first_recipe, second_recipe) = (first.recipe_stages()?, second.recipe_stages()?);
    let stages = compare(
        Side { plan: &first.plan()?, artifacts: &history::artifacts(&was), recipe: &first_recipe },
        Side { plan: &second.plan()?, artifacts: &history::artifacts(&is), recipe: &second_recipe },
    );
    let cache = planning::open_existing(&args.folder.store)?;
    let (before, after) = planning::runtime()?
        .block_on(async { Ok::<_, Failure>((metrics(&cache, &was).await?, metrics(&cache, &is).await?)) })?;
    let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let (same, other): (Vec<Figure>, Vec<Figure>) = names
        .into_iter()
        .map(|name| Figure { name: name.clone(), first: before.get(name).copied(), second: after.get(name).copied() })
        .partition(|figure| figure.first == figure.second);
    let differences = Differences {
        runs: [first.id().to_owned(), second.id().to_owned()],
        recipe: key::changes(&recipe::as_written(first.recipe()?), &recipe::as_written(second.recipe()?)),
        stages,
        figures: other,
        same_figures: same.len(),
    };
    if json {
        view::json::pretty(&differences);
    } else {
        view::print(&view::diff::text(&differences));
    }
    Ok(ExitCode::SUCCESS)
}

/// The numbers that the stages of a run reported: in the run itself, or where they were cached in the record.
async fn metrics(cache: &Cache, state: &RunState) -> Result<BTreeMap<String, f64>, Failure> {
    let mut numbers = BTreeMap::new();
    for (id, stage) in &state.stages {
        let reported = match (&stage.metrics, &stage.key) {
            (Some(metrics), _) => metrics.clone(),
            (None, Some(key)) => cache.record(key).await?.map_or(Value::Null, |record| record.metrics),
            (None, None) => Value::Null,
        };
        // How fast a stage was says nothing of its result.
        let leaves = key::lines(&reported).into_iter().filter(|(path, _)| path != "tokens_per_second");
        numbers.extend(leaves.filter_map(|(path, text)| Some((format!("{id}.{path}"), text.parse().ok()?))));
    }
    Ok(numbers)
}
