//! A store that is silent must not keep a run from its end.

use std::time::Duration;

use tokio::{sync::watch, time::sleep};

use crate::executor::Stop;

/// A store that is well has answered by then.
const LAST_WORD: Duration = if cfg!(test) { Duration::from_millis(200) } else { Duration::from_secs(2) };

/// Does `work` that waits for a store, and gives it up a moment after the run is asked to end, or at once if it is to end at once.
pub(super) async fn unless_stopped<T>(stop: &watch::Receiver<Stop>, work: impl Future<Output = T>) -> Option<T> {
    let mut stop = stop.clone();
    let enough = async {
        // An error means that nobody is left who waits.
        let _ = stop.wait_for(|stop| *stop > Stop::No).await;
        tokio::select! {
            () = sleep(LAST_WORD) => {}
            _ = stop.wait_for(|stop| *stop == Stop::Now) => {}
        }
    };
    tokio::select! {
        biased;
        done = work => Some(done),
        () = enough => None,
    }
}

/// Does `work` that must not be given up half-way, unless the run is to end at once.
pub(super) async fn unless_killed<T>(stop: &watch::Receiver<Stop>, work: impl Future<Output = T>) -> Option<T> {
    let mut stop = stop.clone();
    tokio::select! {
        biased;
        done = work => Some(done),
        _ = stop.wait_for(|stop| *stop == Stop::Now) => None,
    }
}
