//! `flow plan`: what would run, why, and what it would cost; or what would differ from a run.

use std::process::ExitCode;

use flow_pipeline::{
    plan::compare::{Side, compare},
    run::history,
};

use super::planning;
use crate::{
    cli::PlanArgs,
    failure::{Ended, Failure},
    render_error, view,
};

/// Runs the command.
pub fn plan(args: &PlanArgs, json: bool) -> Ended {
    let run = args.diff.as_deref().map(|run| planning::run(&args.store.store, Some(run))).transpose()?;
    let recipe = planning::load(&args.recipe)?;
    let plan = planning::runtime()?.block_on(async {
        let cache = planning::open_to_look(&args.store).await?;
        planning::planned(&recipe, &args.stages, &cache, &args.device).await
    })?;
    let text = if let Some(run) = run {
        let stages = recipe.stages.iter().map(|stage| stage.id.clone()).collect();
        let comparison = compare(
            Side { plan: &run.plan()?, artifacts: &history::artifacts(&run.state()?), recipe: &run.recipe_stages()? },
            Side { plan: &plan, artifacts: &plan.artifacts(), recipe: &stages },
        );
        if json {
            view::json::pretty(&comparison);
            return Ok(ExitCode::SUCCESS);
        }
        view::plan::differences(&comparison, [&format!("run {}", run.id()), "this plan"])
    } else {
        let blocked = plan.blocked();
        let refused = (!blocked.is_empty()).then(|| Failure::lost_sources(&recipe, &blocked));
        if json {
            view::json::pretty(&plan);
            // The plan is the one value that is written; it has the errors.
            return Ok(refused.map_or(ExitCode::SUCCESS, |failure| render_error::print(&failure, false)));
        }
        view::print(&view::plan::text(&plan));
        return refused.map_or(Ok(ExitCode::SUCCESS), Err);
    };
    view::print(&text);
    Ok(ExitCode::SUCCESS)
}
