//! `flow plan`: what would run, why, and what it would cost.

use std::{io::Write, process::ExitCode};

use super::planning;
use crate::{cli::PlanArgs, failure::Ended, view};

/// Runs the command.
pub fn plan(args: &PlanArgs, json: bool) -> Ended {
    let recipe = planning::load(&args.recipe)?;
    let registry = flow_stages::registry();
    let plan = planning::runtime()?.block_on(async {
        let cache = planning::open(&args.store).await?;
        let prepared = planning::prepare(&recipe, &registry, &cache, &args.stages)?;
        planning::plan(prepared, &cache, args.device.device(&recipe), &[]).await
    })?;
    if json {
        view::json::pretty(&view::plan::value(&plan));
    } else {
        // A reader that went away wants no more.
        let _ = write!(std::io::stdout(), "{}", view::plan::text(&plan));
    }
    Ok(ExitCode::SUCCESS)
}
