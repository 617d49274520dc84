//! `flow plan`: what would run, why, and what it would cost; or what would differ from a run.

use std::process::ExitCode;

use flow_pipeline::{plan::compare::compare, run::history};

use super::planning;
use crate::{cli::PlanArgs, failure::Ended, view};

/// Runs the command.
pub fn plan(args: &PlanArgs, json: bool) -> Ended {
    let run = args.diff.as_deref().map(|run| planning::run(&args.store.store, Some(run))).transpose()?;
    let plan = planning::runtime()?.block_on(async {
        let cache = planning::open(&args.store).await?;
        planning::planned(&args.recipe, &args.stages, &cache, &args.device).await
    })?;
    let text = if let Some(run) = run {
        let (before, artifacts) = (run.plan()?, history::artifacts(&run.state()?));
        let comparison = compare((&before, &artifacts), (&plan, &plan.artifacts()));
        if json {
            view::json::pretty(&comparison);
            return Ok(ExitCode::SUCCESS);
        }
        view::plan::differences(&comparison)
    } else {
        if json {
            view::json::pretty(&plan);
            return Ok(ExitCode::SUCCESS);
        }
        view::plan::text(&plan)
    };
    view::print(&text);
    Ok(ExitCode::SUCCESS)
}
