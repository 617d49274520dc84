//! `flow status`: how a run stands or ended.

use std::{io::Write, process::ExitCode};

use flow_pipeline::{event, run::RunFolder};

use crate::{cli::StatusArgs, failure::Ended, view};

/// Runs the command.
pub fn status(args: &StatusArgs, json: bool) -> Ended {
    let folder = RunFolder::open(&args.folder.store.join("runs"), args.run.as_deref())?;
    let state = folder.state()?;
    let (standing, now) = (folder.standing(&state), event::now());
    if json {
        view::json::pretty(&view::status::value(&state, standing, &now));
    } else {
        // A reader that went away wants no more.
        let _ = write!(std::io::stdout(), "{}", view::status::text(&state, standing, &now));
    }
    Ok(ExitCode::SUCCESS)
}
