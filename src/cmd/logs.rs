//! `flow logs`: what a stage's process printed, in this run or, where its result was in the cache, in the one that made it.

use std::{
    io::{Read, Seek, SeekFrom},
    process::ExitCode,
    time::Duration,
};

use flow_cache::plain;
use flow_pipeline::{
    Error,
    event::state::{Phase, RunState, StageState},
    names::StageId,
    run::{RunFolder, Standing, history},
};

use super::planning;
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
        None => kept(args, &stage)?,
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
                "{id} ({}) was made in run {run}, and what it printed there is not in this store; `--remote` names a shared store \
                 that has it",
                phase(&stage)
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
fn kept(args: &LogsArgs, stage: &StageState) -> Result<Kept, Failure> {
    let mut kept = Kept { text: None, run: None, elsewhere: false };
    let Some(key) = stage.key else { return Ok(kept) };
    let cache = planning::open_existing(&args.store.store)?;
    planning::runtime()?.block_on(async {
        let Some(record) = cache.record(&key).await? else { return Ok(kept) };
        kept.run = Some(record.run);
        let Some(log) = record.log else { return Ok(kept) };
        kept.text = cache.blob(&log).await?.map(|bytes| bytes.to_vec());
        if kept.text.is_none() && args.store.remote.is_some() {
            let cache = planning::open_to_look(&args.store).await?;
            kept.text = cache.blob(&log).await?.map(|bytes| bytes.to_vec());
        }
        kept.elsewhere = kept.text.is_none();
        Ok(kept)
    })
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
