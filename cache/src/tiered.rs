//! A local folder before a shared store: read through, write behind.
//!
//! ```text
//!  read:   local ──miss──▶ remote ──keep──▶ local
//!  record: mark pending/<key> ▶ local record ▶ (background) blobs ▶ manifest ▶ remote record ▶ unmark
//! ```
//!
//! The remote record comes last, so that what is recorded there is complete there. The mark survives a crash: the next process
//! that opens the store goes on where this one stopped. Until then the lease of the key is kept: whoever gets it next finds the
//! record.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::{
    StreamExt, TryStreamExt,
    future::BoxFuture,
    stream::{self, FuturesUnordered},
};
use tokio::sync::{
    mpsc::{self, UnboundedReceiver, UnboundedSender},
    oneshot,
};

use crate::{
    cache::{Cache, blocking},
    digest::{ArtifactDigest, StageKey},
    durable::Batch,
    error::{Error, Result, during},
    layout,
    leases::Lease,
    link::Linker,
    manifest::Manifest,
    records::{PutRecord, Record},
    store::Store,
    transfer::Moved,
};

/// The local store and what is behind it.
#[derive(Debug)]
pub(crate) struct Tiers {
    pub local: Store,
    pub remote: Option<Store>,
    /// Where files of the local store are staged.
    pub tmp: PathBuf,
    /// What is published and not synced.
    pub batch: Batch,
    /// From the store's folder into it: what its disk refuses is asked for once. A try costs a file that is made and removed,
    /// and ext4 is slow to make files where others went a moment ago.
    pub linker: Linker,
}

impl Tiers {
    /// The nearest first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Store> {
        std::iter::once(&self.local).chain(&self.remote)
    }

    /// Uploads what a record needs, blob by blob where it is not there, and then the record.
    pub(crate) async fn send(&self, remote: &Store, record: &Record) -> Result<(Moved, PutRecord)> {
        let tree = layout::tree(&record.artifact);
        let no_artifact = Error::NoArtifact { digest: record.artifact };
        let bytes = self.local.read(&tree).await?.filter(|bytes| ArtifactDigest::of(bytes) == record.artifact);
        // An artifact that came from the remote store, or was collected, may be there in full.
        let bytes = match bytes {
            Some(bytes) => bytes,
            None => remote.read(&tree).await?.ok_or(no_artifact)?,
        };
        let mut moved: Moved = stream::iter(Manifest::from_bytes(&bytes)?.blobs())
            .map(|(blob, size)| async move { Ok::<_, Error>((self.push(remote, &blob, size).await?, size)) })
            .buffer_unordered(BLOBS_AT_ONCE)
            .try_fold(Moved::default(), |moved, (sent, size)| async move { Ok(moved.with(sent, size)) })
            .await?;
        if let Some(log) = &record.log
            && let Some(size) = self.local.size(&layout::blob(log)).await?
        {
            moved = moved.with(self.push(remote, log, size).await?, size);
        }
        remote.replace(&tree, bytes).await?;
        Ok((moved, remote.put_record(record).await?))
    }

    async fn upload(&self, remote: &Store, key: &StageKey) -> Result<Uploaded> {
        // Forgotten meanwhile: nothing to do.
        let Some(record) = self.local.record(key).await? else { return Ok(Uploaded::Done) };
        Ok(match self.send(remote, &record).await?.1 {
            PutRecord::Created | PutRecord::Same => Uploaded::Done,
            PutRecord::Conflict(theirs) => Uploaded::Conflict(Box::new(record), theirs),
        })
    }

    /// Uploads what a key needs and takes its mark away.
    async fn upload_and_unmark(&self, remote: &Store, key: StageKey) -> Result<Uploaded> {
        let outcome = self.upload(remote, &key).await?;
        if let Err(error) = self.local.remove(&layout::pending(&key)).await {
            tracing::warn!(%key, %error, "the mark of an upload could not be removed; it will be looked at again");
        }
        Ok(outcome)
    }

    async fn pending(&self) -> Result<Vec<StageKey>> {
        let marks = self.local.list(&layout::pending_all()).await?;
        Ok(marks.iter().filter_map(|mark| layout::id(&mark.location)).collect())
    }
}

enum Uploaded {
    Done,
    Conflict(Box<Record>, Box<Record>),
}

/// What the background uploads came to since the last [`Cache::flush`].
#[derive(Debug, Default)]
pub struct FlushReport {
    /// Records that are in the remote store now, with all that they need.
    pub uploaded: Vec<StageKey>,
    /// Records that are not, and why; the next flush, or the next process, tries again.
    pub failed: BTreeMap<StageKey, Error>,
    /// Ours and theirs: somebody else recorded another artifact for the key. Theirs stays in the remote store.
    pub conflicts: Vec<(Record, Record)>,
}

enum Job {
    Upload(StageKey),
    /// Give the lease back once the record of its key is in the remote store, or could not be brought there.
    Release(Lease),
    Flush(oneshot::Sender<FlushReport>),
}

/// The background task. It ends when the last clone of its cache is gone and the queue is empty.
#[derive(Debug)]
pub(crate) struct Uploads {
    jobs: UnboundedSender<Job>,
}

impl Uploads {
    /// Starts the task, which begins with what an earlier process left.
    pub(crate) fn start(tiers: Arc<Tiers>) -> Self {
        let (jobs, queue) = mpsc::unbounded_channel();
        tokio::spawn(work(tiers, queue));
        Self { jobs }
    }

    pub(crate) fn push(&self, key: StageKey) {
        // Fails only when the runtime is shutting down; the mark is on disk.
        let _ = self.jobs.send(Job::Upload(key));
    }
}

/// The leases that are kept while the records of their keys are on the way.
#[derive(Default)]
struct Kept {
    leases: BTreeMap<StageKey, Lease>,
    /// Keys of which the upload has not ended.
    open: BTreeSet<StageKey>,
    calls: FuturesUnordered<BoxFuture<'static, ()>>,
}

impl Kept {
    /// Takes a lease, for as long as it is needed.
    fn keep(&mut self, remote: &Store, lease: Lease) {
        if self.open.contains(&lease.key) {
            self.leases.insert(lease.key, lease);
        } else {
            self.give_back(remote, lease);
        }
    }

    fn give_back(&mut self, remote: &Store, lease: Lease) {
        let remote = remote.clone();
        self.calls.push(Box::pin(async move {
            if let Err(error) = remote.release(&lease).await {
                tracing::warn!(%error, "a lease could not be given back");
            }
        }));
    }

    fn ended(&mut self, remote: &Store, key: &StageKey, uploaded: bool) {
        self.open.remove(key);
        // What failed is tried again before the end.
        if uploaded && let Some(lease) = self.leases.remove(key) {
            self.give_back(remote, lease);
        }
    }

    fn give_all_back(&mut self, remote: &Store) {
        while let Some((_, lease)) = self.leases.pop_first() {
            self.give_back(remote, lease);
        }
    }

    fn renew_all(&mut self, remote: &Store) {
        for lease in self.leases.values() {
            let (remote, lease) = (remote.clone(), lease.clone());
            self.calls.push(Box::pin(async move {
                // Who lost it hears so from the remote record.
                if let Err(error) = remote.renew(&lease, SystemTime::now()).await {
                    tracing::warn!(%error, "a lease could not be renewed");
                }
            }));
        }
    }
}

/// How often a lease that is kept is renewed: a fraction of what any lives.
const RENEWAL: Duration = Duration::from_secs(10);
/// How many records are on their way at once, each with up to [`BLOBS_AT_ONCE`] of its blobs.
const AT_ONCE: usize = 8;
/// How many blobs of one record are on their way at once.
pub(crate) const BLOBS_AT_ONCE: usize = 8;

async fn work(tiers: Arc<Tiers>, mut queue: UnboundedReceiver<Job>) {
    let Some(remote) = &tiers.remote else { return };
    let mut report = FlushReport::default();
    let mut waiting = VecDeque::from(pending(&tiers).await);
    let mut running = FuturesUnordered::new();
    let mut flushes = VecDeque::new();
    let mut open = true;
    let mut kept = Kept { open: waiting.iter().copied().collect(), ..Kept::default() };
    let mut renewal = tokio::time::interval(RENEWAL);
    renewal.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // Whether what failed before has been tried again for the flush that is first in line.
    let mut tried_again = false;
    loop {
        while running.len() < AT_ONCE
            && let Some(key) = waiting.pop_front()
        {
            let tiers = &tiers;
            running.push(async move { (key, tiers.upload_and_unmark(remote, key).await) });
        }
        if running.is_empty() && !flushes.is_empty() && !tried_again {
            tried_again = true;
            waiting.extend(pending(&tiers).await);
            continue;
        }
        if running.is_empty() && (!open || !flushes.is_empty()) {
            kept.give_all_back(remote);
        }
        if running.is_empty()
            && kept.calls.is_empty()
            && let Some(done) = flushes.pop_front()
        {
            tried_again = false;
            // Who asked may be gone.
            let _ = oneshot::Sender::send(done, std::mem::take(&mut report));
            continue;
        }
        tokio::select! {
            job = queue.recv(), if open => match job {
                Some(Job::Upload(key)) => {
                    kept.open.insert(key);
                    waiting.push_back(key);
                }
                Some(Job::Release(lease)) => kept.keep(remote, lease),
                Some(Job::Flush(done)) => flushes.push_back(done),
                None => open = false,
            },
            Some((key, outcome)) = running.next() => {
                kept.ended(remote, &key, outcome.is_ok());
                report.note(key, outcome, remote);
            }
            Some(()) = kept.calls.next() => {}
            _ = renewal.tick(), if !kept.leases.is_empty() => kept.renew_all(remote),
            else => return,
        }
    }
}

async fn pending(tiers: &Tiers) -> Vec<StageKey> {
    tiers.pending().await.unwrap_or_else(|error| {
        tracing::warn!(%error, "the list of records to upload could not be read");
        Vec::new()
    })
}

impl FlushReport {
    fn note(&mut self, key: StageKey, outcome: Result<Uploaded>, remote: &Store) {
        match outcome {
            Ok(uploaded) => {
                self.failed.remove(&key);
                match uploaded {
                    Uploaded::Done => self.uploaded.push(key),
                    Uploaded::Conflict(ours, theirs) => {
                        tracing::warn!(%key, ours = %ours.artifact, theirs = %theirs.artifact, "the stage is not deterministic");
                        self.conflicts.push((*ours, *theirs));
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%key, %error, store = remote.name(), "not uploaded yet");
                self.failed.insert(key, error);
            }
        }
    }
}

impl Cache {
    /// Waits until what has been published is durable, and what has been recorded is in the remote store, or could not be
    /// brought there.
    pub async fn flush(&self) -> FlushReport {
        let tiers = self.tiers().clone();
        if let Err(error) = blocking(move || tiers.batch.sync().map_err(during(|| "sync the store"))).await {
            tracing::warn!(%error, "what was published could not be synced");
        }
        if let Err(error) = self.known().save() {
            tracing::warn!(%error, "what was looked up will be looked up again");
        }
        let (done, report) = oneshot::channel();
        match self.uploads() {
            Some(uploads) if uploads.jobs.send(Job::Flush(done)).is_ok() => report.await.unwrap_or_default(),
            _ => FlushReport::default(),
        }
    }

    /// [`Cache::release`] of a lease under which a record was put, once whoever gets it next will find the record: with a remote
    /// store that is after its upload. [`Cache::flush`] waits for that too.
    pub async fn release_recorded(&self, lease: Lease) -> Result<()> {
        match self.uploads() {
            // Fails only when the runtime is shutting down; then the holder is gone in a moment.
            Some(uploads) => drop(uploads.jobs.send(Job::Release(lease))),
            None => drop(self.release(&lease).await?),
        }
        Ok(())
    }

    /// The keys whose records are still to be uploaded.
    pub async fn pending_uploads(&self) -> Result<Vec<StageKey>> {
        self.tiers().pending().await
    }
}
