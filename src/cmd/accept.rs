//! `flow accept`: a change is harmless, says a person, and why; the stages keep the artifacts that they have.

use std::process::ExitCode;

use flow_pipeline::accept;

use super::{planning, run};
use crate::{
    cli::AcceptArgs,
    failure::{Ended, Failure},
    view,
};

/// Runs the command.
pub fn accept(args: &AcceptArgs, json: bool) -> Ended {
    // One line in every list that shows it.
    let reason = args.reason.split_whitespace().collect::<Vec<_>>().join(" ");
    if reason.is_empty() {
        return Err(Failure::usage(
            "an acceptance without a reason is none",
            "say why the change is harmless: `--reason \"only a log line changed\"`; the report shows it".to_owned(),
        ));
    }
    let asked = planning::stage_ids(&args.stages)?;
    let recipe = planning::load(&args.recipe)?;
    planning::runtime()?.block_on(async {
        if args.store.remote.is_none() {
            // Without a store there is nothing to keep, and its folder may be mistyped.
            drop(planning::open_existing(&args.store.store)?);
        }
        let cache = planning::open(&args.store).await?;
        let prepared = planning::prepare(&recipe, &flow_stages::registry(), &cache, &[])?;
        let numerics = planning::chosen_numerics(&recipe, &args.device)?;
        let proposal = flow_cache::in_place(accept::propose(&prepared, &numerics, &cache, &asked, &reason)).await?;
        accept::record(&cache, &proposal).await?;
        let flushed = cache.flush().await;
        if json {
            view::json::line(&view::accept::value(&reason, &proposal));
        } else {
            view::print(&view::accept::text(&proposal));
        }
        run::tell_uploads(&flushed, json);
        Ok(ExitCode::SUCCESS)
    })
}
