//! A run's process and those of its stages, and ways to end them.

use std::{
    process::Child,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// Ends a run and all of its stages as at one moment: while the run is halted it starts nothing more.
pub fn kill(run: &mut Child) {
    let root = Pid::from_child(run);
    // One that has ended by itself cannot be halted.
    let _ = kill_process(root, Signal::STOP);
    let stages = children(run.id());
    let _ = kill_process(root, Signal::KILL);
    for stage in &stages {
        let _ = kill_process(*stage, Signal::KILL);
    }
    run.wait().unwrap();
    wait("the end of the stages", || {
        stages.iter().all(|stage| status(stage.as_raw_nonzero().get()).is_none()).then_some(())
    });
}

/// Ends the run and leaves its stages to themselves.
pub fn kill_root(run: &mut Child) {
    run.kill().unwrap();
    run.wait().unwrap();
}

/// Ends the stages, and lets the run see what it can do.
pub fn kill_stages(run: &mut Child) {
    for stage in children(run.id()) {
        let _ = kill_process(stage, Signal::KILL);
    }
    run.wait().unwrap();
}

pub fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(since.elapsed() < Duration::from_mins(1), "waited for {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

fn children(parent: u32) -> Vec<Pid> {
    let all = fs_err::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    all.filter(|pid| status(*pid) == i32::try_from(parent).ok()).filter_map(Pid::from_raw).collect()
}

/// The parent of a process that has not ended.
pub fn status(pid: i32) -> Option<i32> {
    let text = fs_err::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" { None } else { fields.next()?.parse().ok() }
}
