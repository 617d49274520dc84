//! Stage key → artifact, and how it was made. Written once, last.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    cache::{Cache, blocking},
    digest::{ArtifactDigest, BlobDigest, StageKey},
    error::{Error, Result, during},
    layout,
    leases::Lease,
    sealed::Seal,
    store::Store,
};

/// The format that this version writes. A record of a newer one is an error, not a miss: doing its stage again would be
/// refused at the end. Every format ends with the check, so that a damaged record is not taken for a newer one.
pub const RECORD_FORMAT: u32 = 1;

/// Seconds. A stage that took less is not waited for by the disk: see `durable.rs`.
const MOMENT: f64 = 1.0;

/// How an artifact was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`RECORD_FORMAT`].
    pub format: u32,
    /// The key that it answers.
    pub key: StageKey,
    /// The kind of the stage.
    pub kind: String,
    /// The version of the kind.
    pub kind_version: u32,
    /// What was made.
    pub artifact: ArtifactDigest,
    /// The canonical parts that the key was hashed from, so that a change can be explained.
    pub parts: Value,
    /// The name that the stage had.
    pub stage: String,
    /// The run that made it.
    pub run: String,
    /// When it started, RFC 3339.
    pub started: String,
    /// How long it took, wall clock.
    pub seconds: f64,
    /// The version of flow.
    pub flow_version: String,
    /// The machine.
    pub host: String,
    /// The stage's log.
    pub log: Option<BlobDigest>,
    /// Bytes of the artifact.
    pub bytes: u64,
    /// Files of the artifact.
    pub files: u64,
    /// If a person kept an old artifact for this key: the reason.
    pub accepted: Option<String>,
    /// What the artifact was made for, where that is not this key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_for: Option<MadeFor>,
    /// Numbers that the stage reported.
    pub metrics: Value,
}

/// What an artifact was made for that a person kept for another key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MadeFor {
    /// The key.
    pub key: StageKey,
    /// Its parts.
    pub parts: Value,
}

/// What became of a record that was to be written.
#[derive(Clone, Debug, PartialEq)]
pub enum PutRecord {
    /// It was written.
    Created,
    /// There is one with the same artifact.
    Same,
    /// There is one with another artifact: the stage is not deterministic. It stays.
    Conflict(Box<Record>),
}

impl Record {
    pub(crate) fn to_bytes(&self) -> Result<Bytes> {
        let refuse = |reason| Error::BadRecord { key: self.key, reason };
        if self.format != RECORD_FORMAT {
            return Err(refuse("its format is not the one that this flow writes"));
        }
        // JSON has no such number: it would be written as null, and never be read again.
        if !self.seconds.is_finite() {
            return Err(refuse("its duration is not a finite number"));
        }
        let mut text = serde_json::to_string_pretty(self).map_err(|_| refuse("it cannot be written as JSON"))?;
        text.truncate(text.strip_suffix("\n}").map_or(text.len(), str::len));
        Ok(Seal::MEMBER.seal(text).into())
    }
}

/// What the bytes of a record file are.
enum Read {
    Record(Box<Record>),
    Newer(u32),
    Damaged,
}

fn parse(key: &StageKey, bytes: &[u8]) -> Read {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    if Seal::MEMBER.unseal(bytes).is_none() {
        return Read::Damaged;
    }
    match serde_json::from_slice::<Format>(bytes) {
        Ok(Format { format }) if format > RECORD_FORMAT => return Read::Newer(format),
        Ok(Format { format: RECORD_FORMAT }) => {}
        _ => return Read::Damaged,
    }
    match serde_json::from_slice::<Record>(bytes) {
        Ok(record) if record.key == *key => Read::Record(Box::new(record)),
        _ => Read::Damaged,
    }
}

impl Store {
    /// The record of `key` in this store. A damaged one is set aside and counts as absent.
    pub(crate) async fn record(&self, key: &StageKey) -> Result<Option<Record>> {
        let path = layout::record(key);
        let Some(bytes) = self.read(&path).await? else { return Ok(None) };
        match parse(key, &bytes) {
            Read::Record(record) => Ok(Some(*record)),
            Read::Newer(found) => Err(Error::NewerRecord { key: *key, found, known: RECORD_FORMAT }),
            Read::Damaged => {
                self.set_aside(&path, "a record that cannot be read").await?;
                Ok(None)
            }
        }
    }

    /// Puts `record` unless there is one.
    pub(crate) async fn put_record(&self, record: &Record) -> Result<PutRecord> {
        let (path, bytes) = (layout::record(&record.key), record.to_bytes()?);
        // What is in the way is a record, or is set aside by looking at it, or was forgotten meanwhile: then try again.
        loop {
            if self.create(&path, bytes.clone()).await? {
                return Ok(PutRecord::Created);
            }
            if let Some(theirs) = self.record(&record.key).await? {
                return Ok(judge(record, theirs));
            }
        }
    }
}

/// `theirs` is there; what does that mean for `ours`?
fn judge(ours: &Record, theirs: Record) -> PutRecord {
    if theirs.artifact == ours.artifact { PutRecord::Same } else { PutRecord::Conflict(Box::new(theirs)) }
}

impl Cache {
    /// The record of `key`, from the local store or else the remote one. Its artifact may be incomplete: see [`Cache::hit`].
    pub async fn record(&self, key: &StageKey) -> Result<Option<Record>> {
        if let Some(record) = self.store().record(key).await? {
            return Ok(Some(record));
        }
        // It may have been set aside just now.
        self.known().forget(key);
        let Some(remote) = &self.tiers().remote else { return Ok(None) };
        let Some(record) = remote.record(key).await? else { return Ok(None) };
        self.store().create(&layout::record(key), record.to_bytes()?).await?;
        Ok(Some(record))
    }

    /// The record of `key` if its artifact is complete: then, and only then, the stage need not run.
    pub async fn hit(&self, key: &StageKey) -> Result<Option<Record>> {
        match self.record(key).await? {
            Some(record) if self.is_complete(&record.artifact).await? => Ok(Some(record)),
            _ => Ok(None),
        }
    }

    /// The artifact of [`Cache::hit`], and nothing else of the record: what was looked up before is not read again.
    pub async fn hit_artifact(&self, key: &StageKey) -> Result<Option<ArtifactDigest>> {
        if let Some(artifact) = self.known().hit(self.store(), key)? {
            return Ok(Some(artifact));
        }
        let Some(record) = self.record(key).await? else { return Ok(None) };
        let Some(manifest) = self.manifest(&record.artifact).await? else { return Ok(None) };
        let (here, complete) = self.has_all(&manifest).await?;
        // See `accepted.rs`.
        if here && record.accepted.is_none() {
            self.known().insert(*key, record.artifact, &manifest);
        }
        Ok(complete.then_some(record.artifact))
    }

    /// Whether [`Cache::hit_artifact`] gives each of these keys its artifact: of thousands at once.
    pub async fn are_hits(&self, wanted: &[(StageKey, ArtifactDigest)]) -> Result<bool> {
        let known = self.known().hits(self.store(), wanted);
        for (key, artifact) in wanted.iter().zip(known).filter(|(_, known)| !known).map(|(wanted, _)| wanted) {
            if self.hit_artifact(key).await? != Some(*artifact) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The records of these keys, of those that have one.
    pub async fn records_of(&self, keys: impl IntoIterator<Item = &StageKey>) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        for key in keys {
            records.extend(self.record(key).await?);
        }
        Ok(records)
    }

    /// Writes `record` unless its key has one. With a remote store the artifact and then the record are uploaded in the
    /// background; a rival that got there first meanwhile shows in [`Cache::flush`].
    pub async fn put_record(&self, record: &Record) -> Result<PutRecord> {
        record.to_bytes()?;
        self.settle_for(record).await?;
        self.put_record_of_settled(record).await
    }

    /// What the record names is on the disk before it is seen: blobs, manifest, log. Not so for work of a moment, which a
    /// sync would cost more than it is worth: that is synced with its record a little later.
    async fn settle_for(&self, record: &Record) -> Result<()> {
        if record.seconds >= MOMENT {
            return self.settle().await;
        }
        self.tiers().batch.begin().map_err(during(|| "mark what is being recorded"))
    }

    async fn settle(&self) -> Result<()> {
        let tiers = self.tiers().clone();
        let sync = move || tiers.batch.begin().and_then(|()| tiers.batch.sync());
        blocking(move || sync().map_err(during(|| "make durable what a record names"))).await
    }

    async fn put_record_of_settled(&self, record: &Record) -> Result<PutRecord> {
        let outcome = self.put_record_behind(record).await?;
        self.tiers().batch.add(self.store().file(&layout::record(&record.key)));
        Ok(outcome)
    }

    async fn put_record_behind(&self, record: &Record) -> Result<PutRecord> {
        let Some(remote) = &self.tiers().remote else { return self.store().put_record(record).await };
        let theirs = match remote.record(&record.key).await {
            Ok(Some(theirs)) if theirs.artifact != record.artifact => return Ok(PutRecord::Conflict(Box::new(theirs))),
            Ok(theirs) => theirs,
            // The work is done and must not be lost because the network is: the upload will find out.
            Err(error) => {
                tracing::warn!(%error, "the remote store could not be asked; the record is kept here");
                None
            }
        };
        // The mark comes first, so that a crash between the two forgets no upload. It is set even where the remote store has
        // the record: the bytes there may have gone, and were just made again.
        let mark = layout::pending(&record.key);
        self.store().replace(&mark, Bytes::new()).await?;
        self.tiers().batch.add(self.store().file(&mark));
        self.settle().await?;
        let outcome = match self.store().put_record(theirs.as_ref().unwrap_or(record)).await? {
            PutRecord::Created if theirs.is_some() => PutRecord::Same,
            outcome => outcome,
        };
        match (&outcome, self.uploads()) {
            (PutRecord::Conflict(_), _) | (_, None) => drop(self.store().remove(&mark).await?),
            (_, Some(uploads)) => uploads.push(record.key),
        }
        Ok(outcome)
    }

    /// [`Cache::put_record`] for the holder of `lease`, which must still be the holder.
    pub async fn put_record_under(&self, record: &Record, lease: &Lease) -> Result<PutRecord> {
        record.to_bytes()?;
        self.settle_for(record).await?;
        // After the sync, which takes its time.
        if !self.still_holds(lease).await? {
            return Err(Error::LeaseLost { key: lease.key, attempt: lease.attempt });
        }
        self.put_record_of_settled(record).await
    }

    /// All records of the local store, sorted by key. A damaged one is set aside, one of a newer flow passed over.
    pub async fn local_records(&self) -> Result<Vec<Record>> {
        let listed = self.store().list(&layout::records()).await?;
        let mut keys: Vec<StageKey> = listed.iter().filter_map(|meta| layout::id(&meta.location)).collect();
        keys.sort();
        let read = |key: StageKey| async move {
            match self.store().record(&key).await {
                Err(Error::NewerRecord { .. }) => Ok(None),
                read => read,
            }
        };
        let found: Vec<Option<Record>> = stream::iter(keys).map(read).buffered(16).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// All records, sorted by key, of the local and the remote store.
    pub async fn records(&self) -> Result<Vec<Record>> {
        let mut keys: BTreeSet<StageKey> = BTreeSet::new();
        for store in self.tiers().all() {
            let listed = store.list(&layout::records()).await?;
            keys.extend(listed.iter().filter_map(|meta| layout::id::<StageKey>(&meta.location)));
        }
        let found: Vec<Option<Record>> =
            stream::iter(keys).map(|key| async move { self.record(&key).await }).buffered(16).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// Was a record of `key` in the local store damaged, and set aside?
    pub fn has_set_aside_record(&self, key: &StageKey) -> bool {
        let begins = layout::quarantine_of(&layout::record(key));
        let found = fs_err::read_dir(self.quarantine()).into_iter().flatten().flatten();
        found.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(&begins))
    }

    /// Removes the record of `key` from the local and the remote store; `false` if there was none. The artifact stays
    /// until `gc`. A copy that another machine fetched earlier stays in that machine's local store.
    pub async fn forget(&self, key: &StageKey) -> Result<bool> {
        self.known().forget(key);
        self.store().remove(&layout::pending(key)).await?;
        let mut was_there = false;
        for store in self.tiers().all() {
            was_there |= store.remove(&layout::record(key)).await?;
        }
        Ok(was_there)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flipped_bit_is_read() {
        let record = crate::suite::record(StageKey::of(b"key"), ArtifactDigest::of(b"artifact"));
        let bytes = record.to_bytes().unwrap();
        assert!(matches!(parse(&record.key, &bytes), Read::Record(read) if *read == record));
        assert_eq!(serde_json::from_slice::<Record>(&bytes).unwrap(), record, "it is JSON for whoever looks");
        for bit in 0..8 * bytes.len() {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(parse(&record.key, &flipped), Read::Damaged), "bit {bit}");
        }
        for end in 0..bytes.len() {
            assert!(matches!(parse(&record.key, &bytes[..end]), Read::Damaged), "the first {end} bytes");
        }
    }
}
