//! What a store holds, and what of it each kind of stage made.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::Metadata,
};

use crate::{
    cache::{Cache, blocking},
    digest::BlobDigest,
    error::Result,
    gc::folder_bytes,
    layout,
};

/// What a store holds, for `flow cache du`. Sizes are of the files' contents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Blobs.
    pub blobs: u64,
    /// Bytes of blobs.
    pub blob_bytes: u64,
    /// Artifacts.
    pub artifacts: u64,
    /// Records.
    pub records: u64,
    /// Bytes in work dirs.
    pub work_bytes: u64,
    /// Bytes in temporaries.
    pub stray_bytes: u64,
    /// Bytes set aside as damaged.
    pub quarantine_bytes: u64,
}

/// What a kind of stage has in the local store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KindUsage {
    /// Records.
    pub records: u64,
    /// Different artifacts of which the manifest is there.
    pub artifacts: u64,
    /// Bytes of their different blobs that are there. A blob that several kinds have counts for each.
    pub bytes: u64,
}

impl Cache {
    /// What the local store holds.
    pub async fn usage(&self) -> Result<Usage> {
        let mut usage = Usage::default();
        for meta in self.store().list(&layout::blobs()).await? {
            usage.blobs += 1;
            usage.blob_bytes += meta.size;
        }
        usage.artifacts = self.store().list(&layout::trees()).await?.len() as u64;
        usage.records = self.store().list(&layout::records()).await?.len() as u64;
        usage.quarantine_bytes = self.store().list(&layout::quarantine_all()).await?.iter().map(|meta| meta.size).sum();
        usage.stray_bytes = self.stray_files().await?.values().map(Metadata::len).sum();
        let works = self.local().works();
        usage.work_bytes = blocking(move || folder_bytes(&works)).await?;
        Ok(usage)
    }

    /// What each kind of stage has in the local store.
    pub async fn usage_by_kind(&self) -> Result<BTreeMap<String, KindUsage>> {
        let mut kinds: BTreeMap<String, KindUsage> = BTreeMap::new();
        let (mut artifacts, mut blobs) = (BTreeSet::new(), BTreeSet::<(String, BlobDigest)>::new());
        for record in self.local_records().await? {
            let usage = kinds.entry(record.kind.clone()).or_default();
            usage.records += 1;
            if !artifacts.insert((record.kind.clone(), record.artifact)) {
                continue;
            }
            let Some(manifest) = self.local_manifest(&record.artifact).await? else { continue };
            usage.artifacts += 1;
            for (blob, size) in manifest.blobs() {
                if self.store().has_local(&blob, size)? && blobs.insert((record.kind.clone(), blob)) {
                    usage.bytes += size;
                }
            }
        }
        Ok(kinds)
    }
}
