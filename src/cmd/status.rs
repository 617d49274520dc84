//! `flow status`: how a run stands or ended.

use std::{io::Write, process::ExitCode};

use flow_pipeline::{
    event::{log, state::RunState},
    run::RunFolder,
};

use crate::{cli::StatusArgs, failure::Ended, view};

/// Runs the command.
pub fn status(args: &StatusArgs, json: bool) -> Ended {
    let folder = RunFolder::open(&args.store.join("runs"), args.run.as_deref())?;
    let state = RunState::replay(&log::read(&folder.events())?);
    if json {
        view::json::pretty(&state);
    } else {
        // A reader that went away wants no more.
        let _ = write!(std::io::stdout(), "{}", view::status::text(&state, folder.is_alive()));
    }
    Ok(ExitCode::SUCCESS)
}
