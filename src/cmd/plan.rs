//! `flow plan`: what would run, why, and what it would cost; or what would differ from a run.

use std::{io::Write, process::ExitCode};

use flow_pipeline::{
    plan::compare::compare,
    run::{RunFolder, history},
};

use super::planning;
use crate::{cli::PlanArgs, failure::Ended, view};

/// Runs the command.
pub fn plan(args: &PlanArgs, json: bool) -> Ended {
    let run = args.diff.as_deref().map(|run| RunFolder::open(&args.store.store.join("runs"), Some(run))).transpose()?;
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
    // A reader that went away wants no more.
    let _ = write!(std::io::stdout(), "{text}");
    Ok(ExitCode::SUCCESS)
}
