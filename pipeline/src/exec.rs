//! The child's side: read the job, take the work dir, run the kind, write the result.

use std::{
    io::{ErrorKind, Read},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use flow_cache::{WorkLock, failpoint};
use fs_err as fs;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    context::Context,
    error::{Error, Result, StageError},
    job::{FORMAT, Job, JobResult, read_json, write_json},
    registry::Registry,
};

/// How long a stage may take to save its state once the process that started it is gone. Short: whoever gives the same
/// command again waits for it.
pub const ORPHAN_GRACE: Duration = Duration::from_secs(5);
/// How often a taken work dir is tried again.
pub(crate) const TRY_AGAIN: Duration = Duration::from_millis(20);

/// The exit code of a process that could not write its result since the disk is full (ENOSPC's own number).
pub const DISK_FULL: u8 = 28;

const THREAD: &str = "start a thread; is the limit of processes (`ulimit -u`) reached?";

/// A flag that is raised when this process is asked to stop: by SIGTERM or SIGINT, or, with `watch_stdin`, when standard
/// input ends, which means that the process at its other end is gone. Such an orphan has [`ORPHAN_GRACE`] left; then it
/// and all that it started are killed.
pub fn stop_flag(watch_stdin: bool) -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let listen = Error::io("listen for the signal to stop");
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Err(listen(error)),
    };
    // Registered before this returns, so that no signal is missed.
    let entered = runtime.enter();
    let signals = signal(SignalKind::terminate()).and_then(|term| Ok((term, signal(SignalKind::interrupt())?)));
    drop(entered);
    let (mut terminate, mut interrupt) = signals.map_err(listen)?;
    let raised = Arc::clone(&flag);
    let listener = thread::Builder::new().spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                raised.store(true, Ordering::Relaxed);
            }
        });
    });
    listener.map_err(Error::io(THREAD))?;
    if watch_stdin {
        let raised = Arc::clone(&flag);
        let watcher = thread::Builder::new().spawn(move || {
            wait_for_end(std::io::stdin().lock());
            raised.store(true, Ordering::Relaxed);
            thread::sleep(ORPHAN_GRACE);
            // The executor made this process the leader of a group of its own; a person who calls it by hand has not.
            if rustix::process::getpgrp() == rustix::process::getpid() {
                let _ = rustix::process::kill_current_process_group(rustix::process::Signal::KILL);
            }
            std::process::exit(1);
        });
        watcher.map_err(Error::io(THREAD))?;
    }
    Ok(flag)
}

/// Nothing is ever written to this pipe: a read returns when its other end is gone.
fn wait_for_end(mut pipe: impl Read) {
    let mut byte = [0];
    loop {
        match pipe.read(&mut byte) {
            Ok(1..) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => return,
        }
    }
}

/// Runs the job of this file. The result file is written last and says how it went; this returns an error only if no
/// result could be written.
///
/// `cancelled` is raised by the caller when the process is asked to stop.
pub fn exec(path: &Path, registry: &Registry, cancelled: Arc<AtomicBool>) -> Result<JobResult> {
    let job: Job = read_json(path, "job")?;
    let result_path = job.result.clone();
    // Held to the end: nobody else writes here while this process lives, and only who holds it may say how it went.
    let Some(_lock) = lock(&job.lock, &cancelled)? else {
        return Ok(JobResult { format: FORMAT, error: Some(StageError::cancelled()) });
    };
    failpoint::at("exec.locked").map_err(Error::io("begin a stage"))?;
    let error = clear(&job.output).and_then(|()| run(path, job, registry, cancelled)).err();
    failpoint::at("exec.ran").map_err(Error::io("end a stage"))?;
    let result = JobResult { format: FORMAT, error };
    write_json(&result_path, &result)?;
    Ok(result)
}

/// The lock of the work dir, waited for; nothing if this process is asked to stop before it is free.
fn lock(path: &Path, cancelled: &AtomicBool) -> Result<Option<WorkLock>> {
    loop {
        if cancelled.load(Ordering::Relaxed) {
            return Ok(None);
        }
        if let Some(mut lock) = WorkLock::try_take(path)? {
            lock.sign();
            return Ok(Some(lock));
        }
        thread::sleep(TRY_AGAIN);
    }
}

/// What an earlier attempt left in the output is no part of this one's.
fn clear(output: &Path) -> Result<(), StageError> {
    // Most often there is nothing: ext4 is slow to make files where others went a moment ago.
    if fs::read_dir(output).is_ok_and(|mut found| found.next().is_none()) {
        return Ok(());
    }
    let cleared = match fs::remove_dir_all(output) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => failpoint::at("exec.clear").and_then(|()| fs::create_dir_all(output)),
    };
    cleared.map_err(|error| StageError::from_error(&error))
}

fn run(path: &Path, job: Job, registry: &Registry, cancelled: Arc<AtomicBool>) -> Result<(), StageError> {
    let refuse = |why: String| {
        StageError::from_error(&Error::Job { path: path.to_path_buf(), why })
            .with_help("run the same version of flow everywhere")
    };
    if job.format != FORMAT {
        return Err(refuse(format!("it has format {} where this flow reads {FORMAT}", job.format)));
    }
    let Some(kind) = registry.get(&job.kind) else {
        return Err(refuse(format!("this flow has no kind `{}`", job.kind)));
    };
    if kind.version() != job.kind_version {
        return Err(refuse(format!(
            "this flow has version {} of kind `{}`, the job wants {}",
            kind.version(),
            job.kind,
            job.kind_version
        )));
    }
    let decoded = job.decoded.clone();
    let context = Context::new(job, cancelled);
    // A panic is a defect of flow; it must still leave a result that says so and names the place.
    let ended = catch_unwind(AssertUnwindSafe(|| kind.run(&context, &decoded)));
    context.log_last();
    ended.unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        // What the system says to who asks for one process or thread too many, which many a library takes for a defect.
        if text.contains("Resource temporarily unavailable") || text.contains("WouldBlock") {
            return Err(StageError::new(format!("the system refused another thread: {text}")).with_help(
                "raise the limit of processes (`ulimit -u`, or that of the container), or give it fewer `--threads`",
            ));
        }
        Err(StageError::new(format!("the stage panicked: {text}"))
            .with_help("this is a defect of flow; the stage's log has the place"))
    })
}
