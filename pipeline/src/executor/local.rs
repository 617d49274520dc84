//! Child processes of this machine, each the leader of its own process group, so that all that a stage leaves behind ends
//! with it. The child holds the other end of a pipe: when this process dies, the child sees its end and stops.

use std::{
    io::{Read, Seek, SeekFrom},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use async_trait::async_trait;
use flow_cache::{failpoint, plain};
use fs_err as fs;
use tokio::{
    process::{Child, Command},
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use super::{Executor, Exit, Stop, Task};
use crate::{
    error::{Error, Result},
    event::Report,
};

/// How often the child's reports are read.
const TAIL_EVERY: Duration = Duration::from_millis(50);
/// How long a stage may take to save its state after it was asked to end.
pub const GRACE: Duration = Duration::from_mins(1);

/// Runs `flow exec` on this machine.
#[derive(Debug, Clone)]
pub struct Local {
    /// The program that understands `exec JOB`.
    pub program: PathBuf,
    /// How long a stage may take to save its state after it was asked to end; then it is killed.
    pub grace: Duration,
}

#[async_trait]
impl Executor for Local {
    async fn execute(
        &self,
        task: &Task,
        mut stop: watch::Receiver<Stop>,
        report: &mut (dyn FnMut(Report) + Send),
    ) -> Result<Exit> {
        let mut child = self.spawn(task)?;
        failpoint::at("stage.spawned").map_err(Error::io("start a stage"))?;
        // Held, never written to: waiting for a child would close it, and its end tells the child that we are gone.
        let _alive = child.stdin.take();
        let mut group = Group::of(&child);
        let mut tail = Tail::new(&task.events);
        let mut tick = interval(TAIL_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut deadline = task.time.map(|time| Instant::now() + time);
        let (mut timed_out, mut asked) = (false, Stop::No);
        let status = loop {
            let far = Instant::now() + Duration::from_hours(24);
            tokio::select! {
                status = child.wait() => break status,
                _ = tick.tick() => tail.read(report),
                () = sleep_until(deadline.unwrap_or(far)), if deadline.is_some() => {
                    if asked == Stop::No && !timed_out {
                        // As with a person's request: what it saves now, the next run goes on from.
                        timed_out = true;
                        deadline = Some(Instant::now() + self.grace);
                        group.signal(rustix::process::Signal::TERM);
                    } else {
                        deadline = None;
                        group.signal(rustix::process::Signal::KILL);
                    }
                }
                changed = stop.changed(), if asked < Stop::Now => {
                    let wanted = if changed.is_ok() { *stop.borrow() } else { Stop::Now };
                    if wanted > asked {
                        asked = wanted;
                        if wanted == Stop::Now {
                            group.signal(rustix::process::Signal::KILL);
                        } else {
                            group.signal(rustix::process::Signal::TERM);
                            deadline = Some(Instant::now() + self.grace);
                        }
                    }
                }
            }
        };
        // Whatever the stage started and did not end must not outlive it.
        group.end();
        tail.read(report);
        let status = status.map_err(|source| Error::Spawn { stage: task.stage.clone(), source })?;
        Ok(match (timed_out, status.code(), status.signal()) {
            (true, _, _) => Exit::TimedOut,
            (_, Some(code), _) => Exit::Code(code),
            (_, None, signal) => Exit::Signal(signal.unwrap_or(0)),
        })
    }
}

impl Local {
    fn spawn(&self, task: &Task) -> Result<Child> {
        failpoint::at("stage.spawn").map_err(Error::io("start a stage"))?;
        // What an earlier attempt of this run printed stays: it may say why there is another.
        let log = plain::append(&task.log);
        let log = log.map_err(Error::io("create a stage's log"))?.into_parts().0;
        let also = log.try_clone().map_err(Error::io("create a stage's log"))?;
        Command::new(&self.program)
            .arg("exec")
            .arg("--watch-stdin")
            .arg(&task.job)
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(also)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| Error::Spawn { stage: task.stage.clone(), source })
    }
}

/// The process group that a child leads.
struct Group(Option<rustix::process::Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).unwrap_or(0))))
    }

    fn signal(&self, signal: rustix::process::Signal) {
        if let Some(leader) = self.0 {
            // The group is gone when all of it has ended: that is what is wanted.
            let _ = rustix::process::kill_process_group(leader, signal);
        }
    }
}

impl Group {
    /// Kills what is left of it, once: its number may be somebody else's later.
    fn end(&mut self) {
        self.signal(rustix::process::Signal::KILL);
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end();
    }
}

/// Reads what was appended to a file of reports.
struct Tail {
    path: PathBuf,
    file: Option<fs::File>,
    offset: u64,
    rest: Vec<u8>,
}

impl Tail {
    fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf(), file: None, offset: 0, rest: Vec::new() }
    }

    fn read(&mut self, report: &mut (dyn FnMut(Report) + Send)) {
        if self.file.is_none() {
            self.file = plain::open(&self.path).ok();
        }
        let Some(file) = self.file.as_mut() else { return };
        if file.seek(SeekFrom::Start(self.offset)).is_err() {
            return;
        }
        let Ok(read) = file.read_to_end(&mut self.rest) else { return };
        self.offset += read as u64;
        let Some(end) = self.rest.iter().rposition(|&byte| byte == b'\n') else { return };
        let lines: Vec<u8> = self.rest.drain(..=end).collect();
        for line in lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            // A line that does not read is a remark of something else that wrote to the file: it is only for eyes.
            if let Ok(said) = serde_json::from_slice(line) {
                report(said);
            }
        }
    }
}

/// The last lines of a log, for a message.
pub fn tail_of(path: &Path, lines: usize) -> Vec<String> {
    let Ok(mut file) = plain::open(path) else { return Vec::new() };
    let length = file.metadata().map_or(0, |meta| meta.len());
    let from = length.saturating_sub(16 * 1024);
    let mut bytes = Vec::new();
    if file.seek(SeekFrom::Start(from)).is_err() || file.read_to_end(&mut bytes).is_err() {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    all.iter().skip(all.len().saturating_sub(lines)).map(ToString::to_string).collect()
}
