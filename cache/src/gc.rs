//! Freeing space in the local store: first a plan, which is data, then its application.
//!
//! Records stay: they are small, and with them the digests of middle artifacts, so that what is downstream of bytes that
//! went remains valid. Only bytes go: manifests and blobs that nothing kept or pinned reaches, work dirs of keys that are
//! recorded, and temporaries. What was touched within the grace time stays too, as another process may be about to record it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::Metadata,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use object_store::path::Path as ObjectPath;

use crate::{
    cache::{Cache, absent, blocking},
    digest::{ArtifactDigest, BlobDigest, StageKey},
    error::{Result, during},
    layout,
};

/// What a collection must leave.
#[derive(Clone, Debug)]
pub struct Keep {
    /// Stage keys whose artifacts and logs stay.
    pub keys: BTreeSet<StageKey>,
    /// Artifacts that stay.
    pub artifacts: BTreeSet<ArtifactDigest>,
    /// The time now.
    pub now: SystemTime,
    /// What was touched less long ago stays.
    pub grace: Duration,
}

impl Keep {
    /// Keeps `keys`, and what was touched in the last hour.
    pub fn keys(keys: impl IntoIterator<Item = StageKey>, now: SystemTime) -> Self {
        let keys = keys.into_iter().collect();
        Self { keys, artifacts: BTreeSet::new(), now, grace: Duration::from_hours(1) }
    }
}

/// What would go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GcPlan {
    /// Manifests that nothing kept names.
    pub artifacts: BTreeSet<ArtifactDigest>,
    /// Blobs that nothing kept names, with their sizes.
    pub blobs: BTreeMap<BlobDigest, u64>,
    /// Work dirs of keys that have a complete record, with their sizes.
    pub work: BTreeMap<StageKey, u64>,
    /// Temporaries that a killed process left, with their sizes.
    pub stray: BTreeMap<PathBuf, u64>,
    /// Records whose artifact would be incomplete afterwards: their stages are made again only if really needed.
    pub hollowed: BTreeSet<StageKey>,
    /// Bytes that would be freed. Work dirs share blocks with blobs, so that this is at most so much.
    pub bytes: u64,
    /// What was touched since is left by [`Cache::apply_gc`].
    before: Option<SystemTime>,
}

/// What went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GcDone {
    /// Manifests.
    pub artifacts: u64,
    /// Blobs.
    pub blobs: u64,
    /// Bytes, as planned for them.
    pub bytes: u64,
}

impl Cache {
    /// What a collection would free, in the local store only: a remote store has other users.
    pub async fn plan_gc(&self, keep: &Keep) -> Result<GcPlan> {
        let pins = self.pins().await?;
        let mut kept_artifacts = keep.artifacts.clone();
        kept_artifacts.extend(pins.iter().map(|pin| pin.artifact));
        let mut kept_keys: BTreeSet<StageKey> = pins.iter().filter_map(|pin| pin.key).collect();
        kept_keys.extend(self.pending_uploads().await?);
        let mut kept_blobs = BTreeSet::new();
        let mut records = Vec::new();
        for meta in self.store().list(&layout::records()).await? {
            let Some(key) = layout::id(&meta.location) else { continue };
            // A record that cannot be used (newer, damaged) keeps nothing, and is not ours to judge here.
            let Ok(Some(record)) = self.store().record(&key).await else { continue };
            if keep.keys.contains(&key) || kept_keys.contains(&key) {
                kept_artifacts.insert(record.artifact);
                kept_blobs.extend(record.log);
            }
            records.push(record);
        }
        let before = keep.now.checked_sub(keep.grace);
        let mut plan = GcPlan { before, ..GcPlan::default() };
        for (digest, meta) in self.files::<ArtifactDigest>(layout::trees()).await? {
            if kept_artifacts.contains(&digest) || !older(&meta, before) {
                if let Some(manifest) = self.manifest(&digest).await? {
                    kept_blobs.extend(manifest.blobs().into_keys());
                }
            } else {
                plan.artifacts.insert(digest);
                plan.bytes += meta.len();
            }
        }
        for (digest, meta) in self.files::<BlobDigest>(layout::blobs()).await? {
            if !kept_blobs.contains(&digest) && older(&meta, before) {
                plan.blobs.insert(digest, meta.len());
                plan.bytes += meta.len();
            }
        }
        for record in &records {
            if plan.artifacts.contains(&record.artifact) {
                plan.hollowed.insert(record.key);
            }
            let path = self.local().work(&record.key);
            if path.exists() && self.is_complete(&record.artifact).await? {
                let size = blocking(move || folder_bytes(&path)).await?;
                plan.work.insert(record.key, size);
                plan.bytes += size;
            }
        }
        for (path, meta) in self.stray_files().await? {
            if older(&meta, before) {
                plan.bytes += meta.len();
                plan.stray.insert(path, meta.len());
            }
        }
        Ok(plan)
    }

    /// Frees what `plan` names, but for what was touched since it was made. Manifests go before their blobs, so that no artifact
    /// is seen as complete while it is being taken apart.
    pub async fn apply_gc(&self, plan: &GcPlan) -> Result<GcDone> {
        let plan = plan.clone();
        let cache = self.clone();
        blocking(move || {
            let mut done = GcDone::default();
            let mut remove = |file: Option<PathBuf>| -> io::Result<bool> {
                let Some(file) = file else { return Ok(false) };
                let Some(meta) = absent(fs_err::metadata(&file))? else { return Ok(false) };
                if !older(&meta, plan.before) {
                    return Ok(false);
                }
                done.bytes += meta.len();
                absent(fs_err::remove_file(file)).map(|gone| gone.is_some())
            };
            let (mut artifacts, mut blobs) = (0, 0);
            for digest in &plan.artifacts {
                let file = cache.store().file(&layout::tree(digest));
                artifacts += u64::from(remove(file).map_err(during(|| "remove a manifest"))?);
            }
            for digest in plan.blobs.keys() {
                let file = cache.store().file(&layout::blob(digest));
                blobs += u64::from(remove(file).map_err(during(|| "remove a blob"))?);
            }
            for stray in plan.stray.keys() {
                let is_folder = fs_err::symlink_metadata(stray).is_ok_and(|meta| meta.is_dir());
                if is_folder {
                    absent(fs_err::remove_dir_all(stray)).map_err(during(|| "remove a temporary"))?;
                } else {
                    remove(Some(stray.clone())).map_err(during(|| "remove a temporary"))?;
                }
            }
            for (key, size) in &plan.work {
                cache.work_dir(key)?.remove()?;
                done.bytes += size;
            }
            Ok(GcDone { artifacts, blobs, ..done })
        })
        .await
    }

    /// The files of one kind in the local store, with what `stat` says.
    async fn files<T: std::str::FromStr + Ord + Send + 'static>(
        &self,
        prefix: ObjectPath,
    ) -> Result<BTreeMap<T, Metadata>> {
        let listed = self.store().list(&prefix).await?;
        let store = self.store().clone();
        blocking(move || {
            let mut found = BTreeMap::new();
            for meta in listed {
                let (Some(id), Some(file)) = (layout::id::<T>(&meta.location), store.file(&meta.location)) else {
                    continue;
                };
                if let Some(meta) = absent(fs_err::metadata(file)).map_err(during(|| "look at a file of the store"))? {
                    found.insert(id, meta);
                }
            }
            Ok(found)
        })
        .await
    }

    /// What a killed process may have left: files in `tmp`, and `…#1` where `object_store` stages.
    pub(crate) async fn stray_files(&self) -> Result<BTreeMap<PathBuf, Metadata>> {
        let (tmp, all, works) = (self.local().tmp(), self.local().everything(), self.local().works());
        blocking(move || {
            let mut found = BTreeMap::new();
            each_file(&all, &mut |path, meta| {
                let staged = path.file_name().is_some_and(|name| name.to_string_lossy().contains('#'));
                // Stages may name their scratch as they like.
                if path.starts_with(&tmp) || (staged && !path.starts_with(&works)) {
                    found.insert(path.to_owned(), meta);
                }
            })
            .map_err(during(|| "look for temporaries"))?;
            Ok(found)
        })
        .await
    }
}

/// Was the file last touched before? The change time and not the modification time counts: a blob that was linked into the
/// store keeps the latter from when it was written.
fn older(meta: &Metadata, before: Option<SystemTime>) -> bool {
    let Ok(seconds) = u64::try_from(meta.ctime()) else { return false };
    let touched = UNIX_EPOCH + Duration::new(seconds, u32::try_from(meta.ctime_nsec()).unwrap_or(0));
    before.is_some_and(|before| touched < before)
}

pub(crate) fn folder_bytes(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    each_file(folder, &mut |_, meta| bytes += meta.len()).map_err(during(|| "measure a folder"))?;
    Ok(bytes)
}

/// Calls `visit` for each file below `folder`. What vanishes meanwhile is passed over: others work in the store too.
fn each_file(folder: &Path, visit: &mut impl FnMut(&Path, Metadata)) -> io::Result<()> {
    let Some(entries) = absent(fs_err::read_dir(folder))? else { return Ok(()) };
    for entry in entries {
        let path = entry?.path();
        let Some(meta) = absent(fs_err::symlink_metadata(&path))? else { continue };
        if meta.is_dir() { each_file(&path, visit)? } else { visit(&path, meta) }
    }
    Ok(())
}
