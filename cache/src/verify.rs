//! Reading everything again, to find what time, disks and hands have damaged.

use std::{collections::BTreeSet, path::PathBuf};

use rayon::prelude::*;

use crate::{
    cache::{Cache, absent, blocking},
    digest::{ArtifactDigest, BlobDigest, StageKey},
    error::{Result, during},
    layout,
    trees::hash_file,
};

/// What a verification found. Damaged things have been set aside: the stages that made them will run again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Blobs that were read.
    pub blobs: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Blobs whose bytes are not those of their name.
    pub corrupt: BTreeSet<BlobDigest>,
    /// Manifests whose bytes are not those of their name.
    pub corrupt_artifacts: BTreeSet<ArtifactDigest>,
    /// Records that cannot be read.
    pub corrupt_records: BTreeSet<StageKey>,
    /// Records of a newer flow: left alone.
    pub newer_records: BTreeSet<StageKey>,
    /// Records of which the artifact is not complete, here or in the remote store. After `gc` there may well be some.
    pub incomplete: BTreeSet<StageKey>,
    /// Of those, the ones that what was set aside now belonged to: their stages will run again.
    pub damaged: BTreeSet<StageKey>,
    /// Temporaries, of a process that works now or of one that was killed; `gc` removes those that are old.
    pub stray: BTreeSet<PathBuf>,
}

impl VerifyReport {
    /// Was nothing damaged?
    pub fn is_sound(&self) -> bool {
        self.corrupt.is_empty() && self.corrupt_artifacts.is_empty() && self.corrupt_records.is_empty()
    }
}

impl Cache {
    /// Hashes every blob of the local store again, and sets aside what is damaged.
    pub async fn verify(&self) -> Result<VerifyReport> {
        let mut report = VerifyReport::default();
        let store = self.store();
        let listed = store.list(&layout::blobs()).await?;
        let (hashing, blobs) = (store.clone(), listed.clone());
        let found: Vec<Option<(u64, BlobDigest)>> = blocking(move || {
            blobs
                .par_iter()
                .map(|meta| {
                    let Some(file) = hashing.file(&meta.location) else { return Ok(None) };
                    let hashed = absent(hash_file(&file, meta.size)).map_err(during(|| "read a blob again"))?;
                    Ok(hashed.map(|digest| (meta.size, digest)))
                })
                .collect()
        })
        .await?;
        for (meta, found) in listed.iter().zip(found) {
            // Removed meanwhile, by a collection.
            let Some((size, digest)) = found else { continue };
            report.blobs += 1;
            report.bytes += size;
            if let Some(named) = layout::id::<BlobDigest>(&meta.location)
                && named != digest
            {
                store.set_aside(&meta.location, "its bytes are not those of its name").await?;
                report.corrupt.insert(named);
            }
        }
        for meta in store.list(&layout::trees()).await? {
            let (Some(digest), Some(bytes)) = (layout::id(&meta.location), store.read(&meta.location).await?) else {
                continue;
            };
            if ArtifactDigest::of(&bytes) != digest {
                store.set_aside(&meta.location, "a manifest whose bytes are not those of its name").await?;
                report.corrupt_artifacts.insert(digest);
            }
        }
        for meta in store.list(&layout::records()).await? {
            let Some(key) = layout::id::<StageKey>(&meta.location) else { continue };
            match store.record(&key).await {
                Ok(Some(record)) if self.is_complete(&record.artifact).await? => {}
                Ok(Some(record)) => {
                    report.incomplete.insert(key);
                    let manifest = self.local_manifest(&record.artifact).await?;
                    let lost = manifest.is_some_and(|m| m.blobs().keys().any(|blob| report.corrupt.contains(blob)));
                    if lost || report.corrupt_artifacts.contains(&record.artifact) {
                        report.damaged.insert(key);
                    }
                }
                Ok(None) => drop(report.corrupt_records.insert(key)),
                Err(crate::Error::NewerRecord { .. }) => drop(report.newer_records.insert(key)),
                Err(e) => return Err(e),
            }
        }
        report.stray = self.stray_files().await?.into_keys().collect();
        Ok(report)
    }
}
