//! `flow plan`: what would run, why, and what it would cost; or what would differ from a run.

use std::{collections::BTreeMap, process::ExitCode};

use flow_cache::{Cache, Record};
use flow_pipeline::{
    plan::{
        Expected, Verdict, WrittenPlan, WrittenStage,
        compare::{Side, compare},
    },
    run::{RunFolder, history},
};

use super::{looking, planning};
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
        let cache = looking::open(&args.store).await?;
        let mut plan = planning::planned(&recipe, &args.stages, &cache, &args.device).await?;
        expect(&mut plan, &cache).await?;
        Ok::<_, Failure>(plan)
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

/// Adds the time that stages may take to a plan: that of a stage's last record in this store, by the FLOPs of then and now.
async fn expect(plan: &mut WrittenPlan, cache: &Cache) -> Result<(), Failure> {
    let WrittenPlan { recipe, numerics, stages, .. } = plan;
    // Stages of one run have one plan.
    let mut plans: BTreeMap<String, Option<WrittenPlan>> = BTreeMap::new();
    for stage in stages.iter_mut().filter(|stage| matches!(stage.verdict, Verdict::Run { .. })) {
        let Some(flops) = stage.estimate.flops else { continue };
        let Some(key) = cache.latest(recipe, &stage.stage.to_string())? else { continue };
        let Some(Record { run, seconds, .. }) = cache.record(&key).await? else { continue };
        // A run that was removed, or that another version of flow wrote, tells nothing.
        let read = || RunFolder::open(&planning::runs(cache.root()), Some(&run)).and_then(|run| run.plan()).ok();
        let then = plans.entry(run.clone()).or_insert_with(read).as_ref();
        let then = then.filter(|then| then.numerics == *numerics).and_then(|then| then.stage(&stage.stage));
        let is_alike = |then: &&WrittenStage| then.kind == stage.kind && then.devices == stage.devices;
        if let Some(before) = then.filter(is_alike).and_then(|then| then.estimate.flops).filter(|flops| *flops > 0.0) {
            stage.expected = Some(Expected { seconds: seconds * flops / before, run, then: seconds });
        }
    }
    Ok(())
}
