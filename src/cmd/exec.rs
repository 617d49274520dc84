//! `flow exec`: one stage in a process of its own.

use std::{path::Path, process::ExitCode};

use flow_pipeline::exec;

use crate::failure::Ended;

/// Runs the command.
pub fn exec(job: &Path, watch_stdin: bool) -> Ended {
    let cancelled = exec::stop_flag(watch_stdin)?;
    let result = exec::exec(job, &flow_stages::registry(), cancelled)?;
    Ok(if result.error.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
