//! Reading everything again, to find what time, disks and hands have damaged.

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error as _,
    path::{Path, PathBuf},
};

use object_store::ObjectMeta;
use rayon::prelude::*;

use crate::{
    cache::{Cache, absent, blocking},
    digest::{ArtifactDigest, BlobDigest, StageKey},
    error::{Error, Result, during},
    folder, layout,
    manifest::Manifest,
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
    /// Files of the store that cannot be read, and why. They were left where they are: what is damaged about them may be their
    /// mode or the disk.
    pub unreadable: BTreeMap<PathBuf, String>,
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
        self.corrupt.is_empty()
            && self.corrupt_artifacts.is_empty()
            && self.corrupt_records.is_empty()
            && self.unreadable.is_empty()
    }
}

/// What became of a file that was to be read.
type Read<T> = Result<Option<T>>;

impl Cache {
    /// Reads everything in the local store again, and sets aside what is damaged. What cannot be read stops nothing: it is
    /// named in the report.
    pub async fn verify(&self) -> Result<VerifyReport> {
        let mut report = VerifyReport::default();
        self.no_files(&mut report)?;
        self.verify_blobs(&mut report).await?;
        self.verify_manifests(&mut report).await?;
        self.verify_records(&mut report).await?;
        report.stray = self.stray_files().await?.into_keys().collect();
        Ok(report)
    }

    /// What stands where a file belongs and is none. A list of objects does not show it.
    fn no_files(&self, report: &mut VerifyReport) -> Result<()> {
        let store = self.store();
        for prefix in [layout::blobs(), layout::trees(), layout::records()] {
            let Some(folder) = store.file(&prefix) else { continue };
            for shard in folder_names(&folder)? {
                for name in folder_names(&folder.join(&shard))? {
                    let path = prefix.clone().join(shard.as_str()).join(name.as_str());
                    // Of names that no object has, nothing is known.
                    if layout::id::<BlobDigest>(&path).is_none() || !store.make_way(&path)? {
                        continue;
                    }
                    if prefix == layout::blobs() {
                        report.corrupt.extend(layout::id::<BlobDigest>(&path));
                    } else if prefix == layout::trees() {
                        report.corrupt_artifacts.extend(layout::id::<ArtifactDigest>(&path));
                    } else {
                        report.corrupt_records.extend(layout::id::<StageKey>(&path));
                    }
                }
            }
        }
        Ok(())
    }

    async fn verify_blobs(&self, report: &mut VerifyReport) -> Result<()> {
        let store = self.store();
        let listed = store.list(&layout::blobs()).await?;
        let (hashing, blobs) = (store.clone(), listed.clone());
        let found: Vec<Read<BlobDigest>> = blocking(move || {
            let read = |meta: &ObjectMeta| {
                let Some(file) = hashing.file(&meta.location) else { return Ok(None) };
                absent(hash_file(&file, meta.size)).map_err(during(|| "read a blob again"))
            };
            Ok(blobs.par_iter().map(read).collect())
        })
        .await?;
        for (meta, found) in listed.iter().zip(found) {
            // Removed meanwhile, by a collection, or not to be read.
            let Some(digest) = self.noted(found, meta, report) else { continue };
            report.blobs += 1;
            report.bytes += meta.size;
            if let Some(named) = layout::id::<BlobDigest>(&meta.location)
                && named != digest
            {
                store.set_aside(&meta.location, "its bytes are not those of its name").await?;
                report.corrupt.insert(named);
            }
        }
        Ok(())
    }

    async fn verify_manifests(&self, report: &mut VerifyReport) -> Result<()> {
        let store = self.store();
        for meta in store.list(&layout::trees()).await? {
            let Some(digest) = layout::id(&meta.location) else { continue };
            let read = store.read(&meta.location).await;
            let Some(bytes) = self.noted(read, &meta, report) else { continue };
            let reason = if ArtifactDigest::of(&bytes) != digest {
                "a manifest whose bytes are not those of its name"
            } else if Manifest::from_bytes(&bytes).is_err() {
                "a manifest that no flow wrote"
            } else {
                continue;
            };
            store.set_aside(&meta.location, reason).await?;
            report.corrupt_artifacts.insert(digest);
        }
        Ok(())
    }

    async fn verify_records(&self, report: &mut VerifyReport) -> Result<()> {
        let store = self.store();
        for meta in store.list(&layout::records()).await? {
            let Some(key) = layout::id::<StageKey>(&meta.location) else { continue };
            let read = match store.record(&key).await {
                Ok(None) => {
                    report.corrupt_records.insert(key);
                    continue;
                }
                Err(Error::NewerRecord { .. }) => {
                    report.newer_records.insert(key);
                    continue;
                }
                read => read,
            };
            let Some(record) = self.noted(read, &meta, report) else { continue };
            let manifest = store.file(&layout::tree(&record.artifact));
            if manifest.is_some_and(|file| report.unreadable.contains_key(&file)) {
                continue;
            }
            let complete = self.is_complete(&record.artifact).await.map(Some);
            if self.noted(complete, &meta, report) != Some(false) {
                continue;
            }
            report.incomplete.insert(key);
            let manifest = self.local_manifest(&record.artifact).await.unwrap_or_default();
            let lost = manifest.is_some_and(|m| m.blobs().keys().any(|blob| report.corrupt.contains(blob)));
            if lost || report.corrupt_artifacts.contains(&record.artifact) {
                report.damaged.insert(key);
            }
        }
        Ok(())
    }

    /// What was read, or nothing and a line in the report.
    fn noted<T>(&self, read: Read<T>, meta: &ObjectMeta, report: &mut VerifyReport) -> Option<T> {
        read.unwrap_or_else(|error| {
            let cause = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            report.unreadable.entry(self.store().file(&meta.location).unwrap_or_default()).or_insert(cause);
            None
        })
    }
}

fn folder_names(path: &Path) -> Result<Vec<String>> {
    // What is no folder has no names; a run that needs one there says so.
    if !path.is_dir() {
        return Ok(Vec::new());
    }
    folder::names(path).map_err(during(|| "list a folder of the store"))
}
