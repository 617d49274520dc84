//! Says that a store keeps somebody waiting, as a tracing event: who shows such things to people listens for it.

use std::{
    fmt::Display,
    future::pending,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep};

/// The target of the events: a message that is fit for people, and nothing else.
pub const WAITS: &str = "flow_patience::waits";

/// A call that takes longer than this is worth a word, and a pause that is as long.
const LONG: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_secs(1);
/// Of a store that is silent, many calls would tell: one of them does, and again when this time has gone by.
const EVERY: Duration = Duration::from_secs(15);

/// What has been said about a store.
#[derive(Debug)]
pub(crate) struct Waits {
    name: String,
    told: Mutex<Option<Instant>>,
}

impl Waits {
    pub(crate) fn new(name: String) -> Self {
        Self { name, told: Mutex::new(None) }
    }

    /// Says that a call takes long, once it does. Never ends.
    pub(crate) async fn grow_long(&self) {
        sleep(LONG).await;
        self.tell(&format_args!("it has given no answer for {} s", LONG.as_secs()));
        pending::<()>().await;
    }

    /// Says that there is a pause after a failure.
    pub(crate) fn rest(&self, pause: Duration, attempt: u32, of: u32, error: &dyn Display) {
        if pause >= PAUSE {
            let (pause, next) = (pause.as_secs_f64(), attempt + 1);
            self.tell(&format_args!("{error}; asked again in {pause} s, attempt {next} of {of}"));
        }
    }

    fn tell(&self, why: &dyn Display) {
        let now = Instant::now();
        // A time is whole, whoever panicked.
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_some_and(|told| now.duration_since(told) < EVERY) {
            return;
        }
        *told = Some(now);
        tracing::warn!(target: WAITS, "waiting for {}: {why}", self.name);
    }
}
