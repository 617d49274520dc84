//! Batches prepared ahead of their step by a thread of their own. What is prepared is what would have been read:
//! whoever trains cannot tell the difference, but for the time.

use crate::loader::{Batches, TokenBatch};
use crate::{Error, Result};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Batches of another source, the next few of them ready.
pub struct Prefetch {
    inner: Arc<dyn Batches>,
    depth: usize,
    running: Mutex<Option<Running>>,
}

/// A thread that counts up from some step.
struct Running {
    next: u64,
    batches: Option<Receiver<Result<TokenBatch>>>,
    thread: Option<JoinHandle<()>>,
}

impl Prefetch {
    /// Keeps up to `depth` batches (at least one) beyond the one that was asked for last. Nothing is read before the
    /// first batch is asked for; a jump to another step starts there anew.
    pub fn new(inner: Arc<dyn Batches>, depth: usize) -> Self {
        Self { inner, depth: depth.max(1), running: Mutex::new(None) }
    }

    fn start(&self, step: u64) -> Result<Running> {
        // One more waits in the thread's hand until there is room.
        let (sender, receiver) = sync_channel(self.depth - 1);
        let inner = Arc::clone(&self.inner);
        let work = move || {
            for step in step..=u64::MAX {
                let batch = inner.batch(step);
                let last = batch.is_err();
                if sender.send(batch).is_err() || last {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("batches".into()).spawn(work)?;
        Ok(Running { next: step, batches: Some(receiver), thread: Some(thread) })
    }
}

impl Batches for Prefetch {
    fn batch(&self, step: u64) -> Result<TokenBatch> {
        // A panic of another caller leaves nothing half done here: the state is replaced as a whole.
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let current = match running.take() {
            Some(current) if current.next == step => current,
            other => {
                drop(other);
                self.start(step)?
            }
        };
        let current = running.insert(current);
        let batch = current.batches.as_ref().and_then(|batches| batches.recv().ok());
        let batch = batch.unwrap_or(Err(Error::PrefetchGone { step }));
        match &batch {
            Ok(_) => current.next = step.wrapping_add(1),
            Err(_) => *running = None,
        }
        batch
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Without a receiver the thread's next send fails, and it ends.
        drop(self.batches.take());
        if let Some(thread) = self.thread.take() {
            // It returns nothing, and a panic in it has been reported as `PrefetchGone`.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for Prefetch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prefetch").field("depth", &self.depth).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loader::tests::loader;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn batches_are_those_of_the_loader_wherever_one_jumps() {
        let folder = tempfile::tempdir().unwrap();
        let loader = Arc::new(loader(folder.path(), 3, 4, 1));
        for depth in [0, 1, 4] {
            let prefetch = Prefetch::new(loader.clone(), depth);
            for step in (0..20).chain(7..12).chain([100, 3, 3, 4]) {
                assert_eq!(prefetch.batch(step).unwrap(), loader.batch(step).unwrap());
            }
        }
    }

    struct Counting(AtomicU64);

    impl Batches for Counting {
        fn batch(&self, step: u64) -> Result<TokenBatch> {
            if step == 5 {
                return Err(Error::Cancelled);
            }
            assert!(step != 9, "a test that panics on purpose");
            self.0.fetch_add(1, Ordering::SeqCst);
            Ok(TokenBatch { batch: 1, seq: 1, tokens: vec![step as u32; 2], documents: vec![] })
        }
    }

    #[test]
    fn no_more_is_prepared_than_asked_for() {
        let inner = Arc::new(Counting(AtomicU64::new(0)));
        let prefetch = Prefetch::new(inner.clone(), 2);
        assert_eq!(inner.0.load(Ordering::SeqCst), 0);
        prefetch.batch(0).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
        // Step 0, and two beyond it.
        assert!(inner.0.load(Ordering::SeqCst) <= 3);
        drop(prefetch);
        assert_eq!(Arc::strong_count(&inner), 1, "the thread ended");
    }

    #[test]
    fn an_error_comes_at_its_step_and_work_goes_on() {
        let prefetch = Prefetch::new(Arc::new(Counting(AtomicU64::new(0))), 3);
        assert_eq!(prefetch.batch(4).unwrap().tokens, [4, 4]);
        assert!(matches!(prefetch.batch(5), Err(Error::Cancelled)));
        assert_eq!(prefetch.batch(6).unwrap().tokens, [6, 6]);
        prefetch.batch(7).unwrap();
        prefetch.batch(8).unwrap();
        assert!(matches!(prefetch.batch(9), Err(Error::PrefetchGone { step: 9 })));
        assert_eq!(prefetch.batch(10).unwrap().tokens, [10, 10]);
    }
}
