//! `flow runs`: what has run with this store.

use std::{io::Write, process::ExitCode};

use flow_pipeline::run::history;

use crate::{cli::RunsArgs, failure::Ended, view};

/// Runs the command.
pub fn runs(args: &RunsArgs, json: bool) -> Ended {
    let folder = args.folder.store.join("runs");
    let runs = history::summaries(&folder)?;
    if json {
        view::json::pretty(&runs);
    } else if runs.is_empty() {
        view::terminal::remark(&format!("there is no run in {} yet", folder.display()));
    } else {
        // A reader that went away wants no more.
        let _ = write!(std::io::stdout(), "{}", view::runs::text(&runs));
    }
    Ok(ExitCode::SUCCESS)
}
