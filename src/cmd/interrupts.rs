//! What asks a command to end: Ctrl-C, SIGTERM, and SIGHUP when the terminal goes, as when a connection ends.
//!
//! Once it is listened for, the system no longer ends the process by itself: from then on whatever waits must wait with
//! [`Interrupts::next`] beside it. A command that does not listen is ended by the system, which is right where nothing is to be saved.

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
};

/// Counts the requests to end.
pub struct Interrupts {
    count: watch::Receiver<u32>,
}

impl Interrupts {
    /// Listens from now on. The second value has a message for each request.
    pub fn listen() -> (Self, mpsc::Receiver<()>) {
        let (counted, count) = watch::channel(0);
        let (ask, asked) = mpsc::channel(4);
        let caught = |kind| signal(kind).ok();
        let (mut interrupt, mut terminate) = (caught(SignalKind::interrupt()), caught(SignalKind::terminate()));
        // Not under `nohup`, whose whole sense that is.
        let mut hangup = if hangup_is_ignored() { None } else { caught(SignalKind::hangup()) };
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = next(&mut interrupt) => {}
                    () = next(&mut terminate) => {}
                    // The terminal goes once.
                    () = next(&mut hangup) => hangup = None,
                }
                counted.send_modify(|count| *count += 1);
                // Whoever has so many to hear of ends at once anyway, or is gone.
                let _ = ask.try_send(());
            }
        });
        (Self { count }, asked)
    }

    /// How many there were.
    pub fn count(&self) -> u32 {
        *self.count.borrow()
    }

    /// Ends once there were more than `seen`.
    pub async fn more_than(&self, seen: u32) {
        let mut count = self.count.clone();
        if count.wait_for(|count| *count > seen).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Ends with the next one.
    pub async fn next(&self) {
        self.more_than(self.count()).await;
    }
}

/// Ends with the next one; never where the signal could not be caught, and the system answers it.
async fn next(signal: &mut Option<Signal>) {
    if let Some(signal) = signal
        && signal.recv().await.is_some()
    {
        return;
    }
    std::future::pending::<()>().await;
}

/// Whether this process was started with SIGHUP ignored; where that cannot be told, it counts as ignored.
fn hangup_is_ignored() -> bool {
    let status = fs_err::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // The lowest bit is the first signal, which SIGHUP is everywhere.
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_none_or(|mask| mask & 1 == 1)
}
