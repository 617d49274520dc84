//! A flow that runs beside the test, and what becomes of it and of the processes of its stages.

use std::{
    fs,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

/// Longer than anything here takes on a slow machine.
const PATIENCE: Duration = Duration::from_mins(2);

/// A process and those that it started. Whatever is left of it ends with the test.
pub struct Running {
    child: Child,
}

impl Running {
    /// Starts a command.
    pub fn spawn(command: &mut Command) -> Self {
        Self { child: command.spawn().unwrap() }
    }

    /// Sends a signal to the process alone.
    pub fn signal(&self, signal: &str) {
        send(signal, &[self.child.id()]);
    }

    /// Kills the process and all that it started, at once.
    pub fn kill_tree(&mut self) {
        let mut all = self.stages();
        all.insert(0, self.child.id());
        send("KILL", &all);
        self.child.wait().unwrap();
        wait_until("all of the tree has ended", || all.iter().all(|id| !is_alive(*id)));
    }

    /// The processes of its stages.
    pub fn stages(&self) -> Vec<u32> {
        children(self.child.id())
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end; its exit code, nothing if a signal ended it.
    pub fn wait(&mut self) -> Option<i32> {
        self.wait_at_most(PATIENCE)
    }

    /// The same, with less patience.
    pub fn wait_at_most(&mut self, patience: Duration) -> Option<i32> {
        let mut status = None;
        wait_at_most(patience, "flow ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.and_then(|status| status.code())
    }

    /// Waits until something is so while it runs.
    pub fn wait_until(&mut self, what: &str, mut is_so: impl FnMut() -> bool) {
        let child = &mut self.child;
        wait_until(what, || {
            let ended = child.try_wait().unwrap();
            let now = is_so();
            assert!(now || ended.is_none(), "flow ended ({ended:?}) before {what}");
            now
        });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.kill_tree();
        }
    }
}

/// Waits until something is so.
pub fn wait_until(what: &str, is_so: impl FnMut() -> bool) {
    wait_at_most(PATIENCE, what, is_so);
}

fn wait_at_most(patience: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < patience, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

fn send(signal: &str, processes: &[u32]) {
    let mut kill = Command::new("kill");
    // One that has ended by itself is no failure.
    let _ = kill.arg("-s").arg(signal).args(processes.iter().map(u32::to_string)).output().unwrap();
}

/// Whether a process runs: one that has ended and that nobody has asked about does not.
pub fn is_alive(process: u32) -> bool {
    status(process).is_some_and(|(state, _)| state != "Z")
}

fn children(parent: u32) -> Vec<u32> {
    let all = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    all.filter(|process| status(*process).is_some_and(|(_, of)| of == parent)).collect()
}

/// The state of a process and its parent (`man 5 proc`: `pid (name) state ppid …`).
fn status(process: u32) -> Option<(String, u32)> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}
