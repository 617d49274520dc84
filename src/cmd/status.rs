//! `flow status`: how a run stands or ended.

use std::process::ExitCode;

use flow_pipeline::event;

use super::planning;
use crate::{cli::StatusArgs, failure::Ended, view};

/// Runs the command.
pub fn status(args: &StatusArgs, json: bool) -> Ended {
    let folder = planning::run(&args.folder.store, args.run.as_deref())?;
    let state = folder.state()?;
    let (standing, now) = (folder.standing(&state), event::now());
    if json {
        view::json::pretty(&view::status::value(&state, standing, &now));
    } else {
        view::print(&view::status::text(&state, standing, &now));
    }
    Ok(ExitCode::SUCCESS)
}
