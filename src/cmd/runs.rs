//! `flow runs`: what has run with this store.

use std::process::ExitCode;

use flow_pipeline::run::history;

use super::planning;
use crate::{cli::RunsArgs, failure::Ended, view};

/// Runs the command.
pub fn runs(args: &RunsArgs, json: bool) -> Ended {
    let folder = planning::runs(&args.folder.store);
    let runs = history::summaries(&folder)?;
    if json {
        view::json::pretty(&runs);
    } else if runs.is_empty() {
        view::terminal::remark(&format!("there is no run in {} yet", folder.display()));
    } else {
        view::print(&view::runs::text(&runs));
    }
    Ok(ExitCode::SUCCESS)
}
