//! Bringing records with all that they need to the remote store and from there, when a person asks for it. What is there
//! already is passed over, blob by blob, so that a transfer that was cut off goes on where it stopped.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use crate::{
    cache::Cache,
    digest::{ArtifactDigest, StageKey},
    error::{Error, Result},
    layout,
    records::{PutRecord, Record},
    tiered::BLOBS_AT_ONCE,
};

/// What was moved for a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Blobs that were not there.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs that were there already.
    pub already: u64,
    /// Whether the other side has another artifact for this key, which stays.
    pub conflict: bool,
    /// Whether bytes of the artifact are nowhere, so that only the record was moved: it gives the keys of what was made of it.
    pub bare: bool,
}

impl Cache {
    /// The keys on record in the remote store, sorted.
    pub async fn remote_keys(&self) -> Result<BTreeSet<StageKey>> {
        let Some(remote) = &self.tiers().remote else { return Ok(BTreeSet::new()) };
        let listed = remote.list(&layout::records()).await?;
        Ok(listed.iter().filter_map(|meta| layout::id(&meta.location)).collect())
    }

    /// Begins to upload those of these records that are here in full and that the remote store lacks: what was found here was
    /// maybe made before there was a store behind. [`Cache::flush`] waits for them. Where the bytes are gone, the record goes alone.
    pub async fn share(&self, keys: impl IntoIterator<Item = StageKey>) -> Result<()> {
        let Some(uploads) = self.uploads() else { return Ok(()) };
        let Some(remote) = &self.tiers().remote else { return Ok(()) };
        let there = self.remote_keys().await?;
        // One that went alone has no manifest.
        let trees = remote.list(&layout::trees()).await?;
        let trees: BTreeSet<ArtifactDigest> = trees.iter().filter_map(|meta| layout::id(&meta.location)).collect();
        for key in keys {
            let Some(record) = self.store().record(&key).await? else { continue };
            let is_there = there.contains(&key);
            if is_there && trees.contains(&record.artifact) {
                continue;
            }
            if self.is_local(&record.artifact).await? {
                self.store().replace(&layout::pending(&key), Bytes::new()).await?;
                uploads.push(key);
            } else if !is_there {
                remote.put_record(&record).await?;
            }
        }
        Ok(())
    }

    /// Uploads the artifact of a local record, then its log, then the record.
    pub async fn push(&self, record: &Record) -> Result<Moved> {
        let Some(remote) = &self.tiers().remote else { return Ok(Moved::default()) };
        let (moved, put) = match self.tiers().send(remote, record).await {
            Err(Error::NoArtifact { .. } | Error::NoBlob { .. }) => {
                (Moved { bare: true, ..Moved::default() }, remote.put_record(record).await?)
            }
            sent => sent?,
        };
        self.store().remove(&layout::pending(&record.key)).await?;
        Ok(Moved { conflict: matches!(put, PutRecord::Conflict(_)), ..moved })
    }

    /// Brings the artifact of a record into the local store, then its log. The record itself came with [`Cache::record`].
    pub async fn pull(&self, record: &Record) -> Result<Moved> {
        match self.pull_bytes(record).await {
            Err(Error::NoArtifact { .. } | Error::NoBlob { .. }) => Ok(Moved { bare: true, ..Moved::default() }),
            pulled => pulled,
        }
    }

    async fn pull_bytes(&self, record: &Record) -> Result<Moved> {
        let manifest = self.manifest(&record.artifact).await?.ok_or(Error::NoArtifact { digest: record.artifact })?;
        let mut moved: Moved = stream::iter(manifest.blobs())
            .map(|(blob, size)| async move {
                let here = self.store().has_local(&blob, size)?;
                self.tiers().fetch(&blob, size).await?;
                Ok::<_, Error>((!here, size))
            })
            .buffer_unordered(BLOBS_AT_ONCE)
            .try_fold(Moved::default(), |moved, (came, size)| async move { Ok(moved.with(came, size)) })
            .await?;
        if let (Some(log), Some(remote)) = (record.log, &self.tiers().remote)
            && let Some(size) = remote.size(&layout::blob(&log)).await?
        {
            let here = self.store().has_local(&log, size)?;
            self.tiers().fetch(&log, size).await?;
            moved = moved.with(!here, size);
        }
        Ok(moved)
    }
}

impl Moved {
    pub(crate) fn with(self, moved: bool, size: u64) -> Self {
        if moved {
            Self { blobs: self.blobs + 1, bytes: self.bytes + size, ..self }
        } else {
            Self { already: self.already + 1, ..self }
        }
    }
}
