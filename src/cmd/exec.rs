//! `flow exec`: one stage in a process of its own.

use std::{
    io::Read,
    path::Path,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::failure::Ended;

/// How long a stage may take to save its state once the process that started it is gone.
const GRACE: Duration = Duration::from_secs(60);

/// Runs the command.
pub fn exec(job: &Path, watch_stdin: bool) -> Ended {
    let cancelled = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, Arc::clone(&cancelled)).map_err(|source| {
            flow_pipeline::Error::Io { doing: "listen for the signal to stop", source }
        })?;
    }
    if watch_stdin {
        let flag = Arc::clone(&cancelled);
        std::thread::spawn(move || {
            // Nothing is ever written to this pipe: a read returns when its other end is gone.
            let _ = std::io::stdin().lock().read(&mut [0]);
            flag.store(true, Ordering::Relaxed);
            std::thread::sleep(GRACE);
            std::process::exit(1);
        });
    }
    let result = flow_pipeline::exec::exec(job, &flow_stages::registry(), cancelled)?;
    Ok(if result.error.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
