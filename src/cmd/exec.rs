//! `flow exec`: one stage in a process of its own.

use std::{io::ErrorKind, path::Path, process::ExitCode};

use flow_pipeline::{Error, exec};

use crate::failure::Ended;

/// Runs the command.
pub fn exec(job: &Path, watch_stdin: bool) -> Ended {
    let cancelled = exec::stop_flag(watch_stdin)?;
    match exec::exec(job, &flow_stages::registry(), cancelled) {
        Ok(result) if result.error.is_none() => Ok(ExitCode::SUCCESS),
        Ok(_) => Ok(ExitCode::FAILURE),
        // Without a result the code is all that the run hears.
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::StorageFull => Ok(ExitCode::from(exec::DISK_FULL)),
        Err(error) => Err(error.into()),
    }
}
