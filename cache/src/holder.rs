//! Who holds a lease, told so exactly that another process on the same host can see whether the holder lives.

use std::{fmt, path::Path};

use serde::{Deserialize, Serialize};

/// A process of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The host's name.
    pub host: String,
    /// The boot of the host and, on Linux, the namespace that `pid` counts in: containers share a host name and a boot,
    /// but a pid of one is nobody, or somebody else, in another.
    pub boot: String,
    /// The process.
    pub pid: u32,
    /// When the process started, in the system's own unit: pids are used again.
    pub pid_start: u64,
    /// The run that the process works for.
    pub run: String,
}

impl Holder {
    /// This process.
    pub fn this_process(run: &str) -> Self {
        let pid = std::process::id();
        Self { host: host_name(), boot: boot(), pid, pid_start: start_of(pid).unwrap_or(0), run: run.to_owned() }
    }

    /// Did the process run on the kernel that runs here, and since it was started?
    pub(crate) fn is_of_this_boot(&self) -> bool {
        let of = |boot: &str| boot.split('/').next().map(str::to_owned);
        of(&self.boot) == of(&boot())
    }

    /// Did the process run on a machine of this name?
    pub(crate) fn is_of_this_host(&self) -> bool {
        self.host == host_name()
    }

    /// Is the process known to be gone? `false` where it lives or where that cannot be seen from here.
    pub fn is_dead(&self) -> bool {
        self.lives() == Some(false)
    }

    /// Is the process known to live? `false` where it has ended or where that cannot be seen from here.
    pub(crate) fn is_seen_alive(&self) -> bool {
        self.lives() == Some(true)
    }

    /// Nothing where that cannot be seen from here.
    fn lives(&self) -> Option<bool> {
        // Without a boot id (not Linux) a host name alone does not say that it is this machine since this boot.
        if self.boot.is_empty() || self.boot != boot() || self.host != host_name() {
            return None;
        }
        Some(match start_of(self.pid) {
            Some(start) => start == self.pid_start,
            None => Path::new("/proc").join(self.pid.to_string()).exists(),
        })
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "run {} (process {} on {})", self.run, self.pid, self.host)
    }
}

/// This machine's name.
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn boot() -> String {
    let Ok(boot) = std::fs::read_to_string("/proc/sys/kernel/random/boot_id") else { return String::new() };
    let Ok(namespace) = std::fs::read_link("/proc/self/ns/pid") else { return String::new() };
    format!("{}/{}", boot.trim(), namespace.display())
}

/// Field 22 of `/proc/<pid>/stat`, in clock ticks since boot. The name in field 2 may itself hold spaces and brackets, so
/// counting starts after the last bracket. A zombie has ended, though it still has its entry.
fn start_of(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return Some(u64::MAX);
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives() {
        let holder = Holder::this_process("run");
        assert!(holder.pid_start > 0);
        assert!(!holder.is_dead());
        assert_eq!(holder, Holder::this_process("run"));
    }

    #[test]
    fn the_dead_are_known_only_where_they_can_be_seen() {
        let me = Holder::this_process("run");
        assert!(Holder { pid_start: me.pid_start + 1, ..me.clone() }.is_dead(), "the pid was given to another process");
        assert!(!Holder { host: "elsewhere".into(), pid: u32::MAX, ..me.clone() }.is_dead());
        assert!(!Holder { boot: "another/pid:[1]".into(), pid: u32::MAX, ..me.clone() }.is_dead());
        assert!(!Holder { boot: String::new(), pid: u32::MAX, ..me }.is_dead());
    }

    #[test]
    fn a_child_that_ended_is_dead_before_and_after_it_is_waited_for() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let me = Holder::this_process("run");
        let holder = Holder { pid: child.id(), pid_start: start_of(child.id()).unwrap(), ..me };
        assert!(!holder.is_dead());
        child.kill().unwrap();
        while !holder.is_dead() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(holder.is_dead());
    }
}
