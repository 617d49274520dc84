//! `flow why`: all that a stage's result depends on, where it is, how it was made, and why it would run.

use std::process::ExitCode;

use flow_cache::Cache;
use flow_pipeline::{
    names::StageId,
    plan::{Artifacts, WrittenPlan},
    run::history,
};

use super::{looking, planning};
use crate::{
    cli::WhyArgs,
    failure::{Ended, Failure},
    view::{
        self,
        why::{Input, Kept, Known},
    },
};

/// Runs the command.
pub fn why(args: &WhyArgs, json: bool) -> Ended {
    let known = planning::runtime()?.block_on(find(args))?;
    if json {
        view::json::pretty(&known);
    } else {
        view::print(&view::why::text(&known));
    }
    Ok(ExitCode::SUCCESS)
}

async fn find(args: &WhyArgs) -> Result<Known, Failure> {
    let (name, recipe) = args.asked()?;
    if let Some(recipe) = recipe {
        let cache = looking::open(&args.store).await?;
        let plan =
            planning::planned(&planning::load(&recipe)?, std::slice::from_ref(&name), &cache, &args.device).await?;
        let id = planning::choose(plan.stages.iter().map(|stage| &stage.stage), &name)?;
        let artifacts = plan.artifacts();
        return look(&cache, &plan, &artifacts, &id).await;
    }
    let folder = planning::run(&args.store.store, args.run.as_deref())?;
    let state = folder.state()?;
    let id = planning::choose(state.order.iter(), &name)?;
    let cache = looking::open(&args.store).await?;
    let artifacts = history::artifacts(&state);
    let mut plan = history::settled(folder.plan()?, &state);
    planning::explain(&mut plan, &artifacts, &cache).await?;
    let known = look(&cache, &plan, &artifacts, &id).await?;
    Ok(Known { run: Some(folder.id().to_owned()), ended: state.stages.get(&id).cloned(), ..known })
}

async fn look(cache: &Cache, plan: &WrittenPlan, artifacts: &Artifacts, id: &StageId) -> Result<Known, Failure> {
    let Some(planned) = plan.stage(id) else {
        return Err(planning::choose(plan.stages.iter().map(|stage| &stage.stage), &id.to_string())
            .err()
            .unwrap_or_else(|| Failure::usage(format!("the plan of this run does not have {id}"), None)));
    };
    let (parts, unknown) = planned.known_parts(&plan.numerics, artifacts);
    let key = unknown.is_empty().then(|| parts.key());
    let record = match &key {
        Some(key) => cache.record(key).await?,
        None => None,
    };
    let state = match (&key, &record) {
        (None, _) => Kept::NoKey,
        (Some(_), None) => Kept::NotMade,
        (Some(_), Some(record)) if cache.is_complete(&record.artifact).await? => Kept::Cached,
        (Some(_), Some(_)) => Kept::Evicted,
    };
    let inputs = planned.inputs.iter().map(|(role, stage)| Input {
        role: role.clone(),
        stage: stage.clone(),
        artifact: artifacts.get(stage).copied(),
    });
    Ok(Known {
        recipe: plan.recipe.clone(),
        run: None,
        ended: None,
        inputs: inputs.collect(),
        planned: planned.clone(),
        parts,
        key,
        state,
        record,
    })
}
