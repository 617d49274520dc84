//! `flow logs`: what a stage's process printed, in this run or, where its result was in the cache, in the one that made it.

use std::{
    io::{Read, Seek, SeekFrom},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use flow_cache::{Record, StageKey, plain};
use flow_pipeline::{
    Error,
    event::state::{Phase, RunState, StageState},
    names::StageId,
    run::{RunFolder, Standing, folder, history},
};

use super::{looking, planning};
use crate::{
    cli::LogsArgs,
    failure::{Ended, Failure},
    view,
};

/// How often a log that grows is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Runs the command.
pub fn logs(args: &LogsArgs, json: bool) -> Ended {
    let folder = planning::run(&args.store.store, args.run.as_deref())?;
    let state = folder.state()?;
    let id = planning::choose(state.order.iter(), &args.stage)?;
    let mut stage = state.stages.get(&id).cloned().unwrap_or_default();
    if args.follow && !json && is_open(&folder, &state, &stage) {
        if stage.phase != Phase::Running {
            view::terminal::remark(&format!("{id} has not begun yet"));
        }
        stage = follow(&folder, &id)?;
        // What was found in the cache printed nothing here, but did when it was made.
        if stage.phase != Phase::Cached {
            let cut_off = folder.standing(&folder.state()?) == Standing::CutOff;
            let word = if cut_off { "cut off".to_owned() } else { phase(&stage) };
            view::terminal::remark(&format!("{id}: {word}"));
            return Ok(if cut_off || stage.phase == Phase::Failed { ExitCode::FAILURE } else { ExitCode::SUCCESS });
        }
    }
    let Kept { text, run, elsewhere } = match history::read_log(&folder.log(&id))? {
        Some(text) => Kept { text: Some(text), run: Some(folder.id().to_owned()), elsewhere: false },
        None => kept(args, &id, &stage)?,
    };
    let text = text.map(|text| String::from_utf8_lossy(&text).into_owned());
    if json {
        view::json::pretty(&serde_json::json!({ "stage": id, "run": run, "phase": stage.phase, "log": text }));
        return Ok(ExitCode::SUCCESS);
    }
    match text.as_deref() {
        None if elsewhere => {
            let run = run.unwrap_or_default();
            view::terminal::remark(&format!(
                "{id} ({}) was made in run {run}, and what it printed there is not in this store{}",
                phase(&stage),
                kept_where(args, &run, stage.key)
            ));
        }
        Some("") | None => {
            let error = stage.error.as_ref().map(|error| format!("; it failed: {}", error.message)).unwrap_or_default();
            view::terminal::remark(&format!("{id} ({}) printed nothing{error}", phase(&stage)));
        }
        Some(text) => {
            if let Some(run) = run.filter(|run| run != folder.id()) {
                view::terminal::remark(&format!("{id} was cached; this is what it printed in run {run}"));
            }
            view::print_as_it_is(text);
            if !text.ends_with('\n') {
                view::print("\n");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What is known of what a stage printed when it was made.
struct Kept {
    text: Option<Vec<u8>>,
    run: Option<String>,
    /// It printed something, but that is not here.
    elsewhere: bool,
}

/// The log that is kept with the record, and the run that made it. What came from a shared store has its log there.
fn kept(args: &LogsArgs, id: &StageId, stage: &StageState) -> Result<Kept, Failure> {
    let mut kept = Kept { text: None, run: None, elsewhere: false };
    let Some(key) = stage.key else { return Ok(kept) };
    let cache = planning::open_existing(&args.store.store)?;
    planning::runtime()?.block_on(async {
        let Some(record) = cache.record(&key).await? else {
            // It was forgotten, and the run that made it may still be here.
            return Ok(of_a_run(&args.store.store, id, &key, None)?.unwrap_or(kept));
        };
        kept.run = Some(record.run.clone());
        let Some(log) = record.log else { return Ok(kept) };
        kept.text = cache.blob(&log).await?.map(|bytes| bytes.to_vec());
        if kept.text.is_none() && args.store.remote.is_some() {
            let cache = looking::open(&args.store).await?;
            kept.text = cache.blob(&log).await?.map(|bytes| bytes.to_vec());
        }
        if kept.text.is_none()
            && let Some(found) = of_a_run(&args.store.store, id, &key, Some(&record))?
        {
            return Ok(found);
        }
        kept.elsewhere = kept.text.is_none();
        Ok(kept)
    })
}

/// The log in the folder of a run that made the key: of that on record, or else of the last one. What a collection took from the
/// store is still there.
fn of_a_run(store: &Path, id: &StageId, key: &StageKey, record: Option<&Record>) -> Result<Option<Kept>, Failure> {
    let runs = planning::runs(store);
    let mut ids = folder::list(&runs)?;
    ids.reverse();
    // The same key may have had another name.
    let named = record.and_then(|record| record.stage.parse().ok());
    if let Some(record) = record {
        // The sort is stable: the others stay in their order.
        ids.sort_by_key(|run| *run != record.run);
    }
    for run in &ids {
        let folder = RunFolder::open(&runs, Some(run))?;
        for stage in std::iter::once(id).chain(&named) {
            let Some(text) = history::read_log(&folder.log(stage))? else { continue };
            // A run that another flow wrote tells nothing.
            let state = folder.state().unwrap_or_default();
            let made = state.stages.get(stage).filter(|made| made.phase == Phase::Finished);
            if made.and_then(|made| made.key) == Some(*key) {
                return Ok(Some(Kept { text: Some(text), run: Some(run.clone()), elsewhere: false }));
            }
        }
    }
    Ok(None)
}

/// Where a log may be that is not in this store: what a run of this store made is in no other, unless it was shared.
fn kept_where(args: &LogsArgs, run: &str, key: Option<StageKey>) -> &'static str {
    // Of another store a run may have the same id: those begin with the second.
    let made_here = || {
        let state = RunFolder::open(&planning::runs(&args.store.store), Some(run)).and_then(|run| run.state()).ok()?;
        state.stages.values().find(|stage| stage.phase == Phase::Finished && stage.key == key).map(drop)
    };
    match &args.store.remote {
        Some(_) => ", nor in the shared one",
        None if made_here().is_some() => " any more",
        None => "; `--remote` names a shared store that may have it",
    }
}

fn phase(stage: &StageState) -> String {
    let word = serde_json::to_value(stage.phase).unwrap_or_default();
    word.as_str().unwrap_or_default().to_owned()
}

fn is_open(folder: &RunFolder, state: &RunState, stage: &StageState) -> bool {
    let open = matches!(stage.phase, Phase::Pending | Phase::Waiting | Phase::Running);
    open && folder.standing(state) == Standing::Running
}

/// Prints what is there and what comes, until the stage or its run has ended.
fn follow(folder: &RunFolder, id: &StageId) -> Result<StageState, Failure> {
    let (path, mut at) = (folder.log(id), 0);
    loop {
        // Asked before the log is read: what was printed before an end is printed here before the end.
        let state = folder.state()?;
        let stage = state.stages.get(id).cloned().unwrap_or_default();
        let ended = !is_open(folder, &state, &stage);
        if let Ok(mut file) = plain::open(&path) {
            let read = Error::io("read a stage's log");
            let mut more = Vec::new();
            let grown = file.seek(SeekFrom::Start(at)).and_then(|_| file.read_to_end(&mut more));
            at += grown.map_err(read)? as u64;
            if !view::print_as_it_is(&String::from_utf8_lossy(&more)) {
                return Ok(stage);
            }
        }
        if ended {
            return Ok(stage);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}
