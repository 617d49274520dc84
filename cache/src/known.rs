//! Which keys were hits when they were last looked up, so that a plan over ten thousand of them reads one file and not twenty
//! thousand.
//!
//! An entry is believed while the folder of its record and the folder of its manifest have the times that they had before it
//! was looked up: a record or a manifest that came, went or was set aside changes them. Its blobs are looked at each time.
//! A folder that changed a moment before it was looked at could change again within one tick of the clock: it is not noted.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rayon::prelude::*;

use crate::{
    digest::{ArtifactDigest, BlobDigest, StageKey},
    error::{Result, during},
    layout::{self, Local},
    manifest::Manifest,
    plain,
    sealed::Seal,
    staged::replace,
    store::Store,
};

const HEADER: &str = "flow-hits 2";
/// See the head of this file. The clocks of today's systems tick every few milliseconds.
const YOUNG: Duration = Duration::from_millis(100);
/// The same where a time has no fraction of a second: some disks keep none, or every other second.
const YOUNG_IN_SECONDS: Duration = Duration::from_secs(3);
/// Artifacts of more files than this are read each time: it is not them that make a plan slow.
const FEW: usize = 16;
/// So many are looked at in less time than another thread takes to wake.
const MANY_HERE: usize = 500;
/// Beyond this many, what was not asked for since loading is dropped when saving.
const MANY: usize = 200_000;

#[derive(Debug)]
struct Entry {
    artifact: ArtifactDigest,
    blobs: Vec<(BlobDigest, u64)>,
    used: AtomicBool,
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Known {
    path: PathBuf,
    tmp: PathBuf,
    root: PathBuf,
    /// Nothing until the first question.
    entries: Mutex<Option<Entries>>,
}

#[derive(Debug, Default)]
struct Entries {
    /// Folder → the time that it has and has had for a while.
    settled: BTreeMap<String, (i64, i64)>,
    known: BTreeMap<StageKey, Entry>,
    dirty: bool,
}

/// The folder of a file of the store, such as `records/ab`.
fn folder(path: &object_store::path::Path) -> String {
    let parts: Vec<_> = path.parts().collect();
    parts.iter().skip(1).take(2).map(AsRef::as_ref).collect::<Vec<&str>>().join("/")
}

impl Known {
    pub(crate) fn new(local: &Local) -> Self {
        Self { path: local.hits(), tmp: local.tmp(), root: local.everything(), entries: Mutex::new(None) }
    }

    /// Each change of the entries is whole, so those of a thread that panicked are as good as any.
    fn entries(&self) -> MutexGuard<'_, Option<Entries>> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.is_none() {
            *entries = Some(self.load());
        }
        entries
    }

    fn load(&self) -> Entries {
        let settled = self.settled(SystemTime::now());
        let known = plain::read(&self.path)
            .ok()
            .and_then(|text| parse(Seal::LINE.unseal(&text)?, &settled))
            .unwrap_or_default();
        Entries { settled, known, dirty: false }
    }

    /// The folders that have not changed for a while. One that cannot be listed is none: then nothing is known of it.
    fn settled(&self, now: SystemTime) -> BTreeMap<String, (i64, i64)> {
        let mut settled = BTreeMap::new();
        for kind in ["records", "trees"] {
            let Ok(folders) = std::fs::read_dir(self.root.join(kind)) else { continue };
            for folder in folders.flatten() {
                let (Ok(meta), Some(name)) = (folder.metadata(), folder.file_name().to_str().map(str::to_owned)) else {
                    continue;
                };
                let (seconds, nanos) = (meta.mtime(), meta.mtime_nsec());
                let modified = UNIX_EPOCH + Duration::new(seconds.unsigned_abs(), nanos as u32);
                let young = if nanos == 0 { YOUNG_IN_SECONDS } else { YOUNG };
                if now.duration_since(modified).is_ok_and(|age| age > young) {
                    settled.insert(format!("{kind}/{name}"), (seconds, nanos));
                }
            }
        }
        settled
    }

    /// The artifact of `key`, if it is known to be on record, and all its blobs are there. Nothing means: look it up.
    pub(crate) fn hit(&self, store: &Store, key: &StageKey) -> Result<Option<ArtifactDigest>> {
        let mut entries = self.entries();
        let Some(entry) = entries.as_mut().and_then(|entries| entries.known.get_mut(key)) else { return Ok(None) };
        if !store.has_every_local(entry.blobs.iter().copied())? {
            return Ok(None);
        }
        entry.used.store(true, Ordering::Relaxed);
        Ok(Some(entry.artifact))
    }

    /// Whether an entry of `key` is believed, wherever its blobs are.
    pub(crate) fn has(&self, key: &StageKey) -> bool {
        self.entries().as_ref().is_some_and(|entries| entries.known.contains_key(key))
    }

    /// Whether [`Known::hit`] gives each of these keys its artifact.
    pub(crate) fn hits(&self, store: &Store, wanted: &[(StageKey, ArtifactDigest)]) -> Vec<bool> {
        let entries = self.entries();
        let Some(entries) = entries.as_ref() else { return vec![false; wanted.len()] };
        let is_hit = |(key, artifact): &(StageKey, ArtifactDigest)| {
            let entry = entries.known.get(key).filter(|entry| entry.artifact == *artifact);
            let is_hit = entry.is_some_and(|entry| store.has_every_local(entry.blobs.iter().copied()).unwrap_or(false));
            if let Some(entry) = entry.filter(|_| is_hit) {
                entry.used.store(true, Ordering::Relaxed);
            }
            is_hit
        };
        wanted.par_iter().with_min_len(MANY_HERE).map(is_hit).collect()
    }

    /// Remembers that `key` was looked up and is a hit, with all its blobs in this folder.
    pub(crate) fn insert(&self, key: StageKey, artifact: ArtifactDigest, manifest: &Manifest) {
        let mut entries = self.entries();
        let Some(entries) = entries.as_mut() else { return };
        let blobs: Vec<_> = manifest.blobs().into_iter().collect();
        let noted = [folder(&layout::record(&key)), folder(&layout::tree(&artifact))];
        if blobs.len() <= FEW && noted.iter().all(|folder| entries.settled.contains_key(folder)) {
            entries.known.insert(key, Entry { artifact, blobs, used: AtomicBool::new(true) });
            entries.dirty = true;
        }
    }

    /// The record of `key` is gone.
    pub(crate) fn forget(&self, key: &StageKey) {
        if let Some(entries) = self.entries().as_mut() {
            entries.dirty |= entries.known.remove(key).is_some();
        }
    }

    /// Something of this artifact is damaged or gone.
    pub(crate) fn doubt(&self, artifact: &ArtifactDigest) {
        if let Some(entries) = self.entries().as_mut() {
            let before = entries.known.len();
            entries.known.retain(|_, entry| entry.artifact != *artifact);
            entries.dirty |= entries.known.len() < before;
        }
    }

    /// Writes it, if it learnt something. Of two processes that save at once the last one's wins: what is lost is looked up
    /// again.
    pub(crate) fn save(&self) -> Result<()> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(entries) = entries.as_mut().filter(|entries| entries.dirty) else { return Ok(()) };
        if entries.known.len() > MANY {
            entries.known.retain(|_, entry| entry.used.load(Ordering::Relaxed));
        }
        let mut text = format!("{HEADER}\n");
        let mut write = |line: std::fmt::Arguments<'_>| {
            // Writing to a string cannot fail.
            let _ = text.write_fmt(line);
        };
        for (folder, (seconds, nanos)) in &entries.settled {
            write(format_args!("{folder} {seconds} {nanos}\n"));
        }
        for (key, Entry { artifact, blobs, .. }) in &entries.known {
            write(format_args!("{key} {artifact}"));
            for (blob, size) in blobs {
                write(format_args!(" {blob} {size}"));
            }
            write(format_args!("\n"));
        }
        replace(&self.tmp, &self.path, Seal::LINE.seal(text).as_bytes())
            .map_err(during(|| "write what was looked up"))?;
        entries.dirty = false;
        Ok(())
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        if let Err(error) = self.save() {
            tracing::warn!(%error, "what was looked up will be looked up again");
        }
    }
}

/// The entries of which both folders have the time that they had then.
fn parse(text: &str, settled: &BTreeMap<String, (i64, i64)>) -> Option<BTreeMap<StageKey, Entry>> {
    let mut lines = text.strip_suffix('\n')?.split('\n');
    if lines.next()? != HEADER {
        return None;
    }
    let mut same = BTreeSet::new();
    let mut known = BTreeMap::new();
    for line in lines {
        let mut fields = line.split(' ');
        let first = fields.next()?;
        if first.contains('/') {
            let time = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            if settled.get(first) == Some(&time) {
                same.insert(first);
            }
            continue;
        }
        let artifact = fields.next()?;
        let of = |kind: &str, id: &str| Some(format!("{kind}/{}", id.get(..2)?));
        let believed = same.contains(of("records", first)?.as_str()) && same.contains(of("trees", artifact)?.as_str());
        let mut blobs = Vec::new();
        while let Some(blob) = fields.next() {
            blobs.push((blob.parse().ok()?, fields.next()?.parse().ok()?));
        }
        if believed {
            known.insert(
                first.parse().ok()?,
                Entry { artifact: artifact.parse().ok()?, blobs, used: AtomicBool::new(false) },
            );
        }
    }
    Some(known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cache, suite::record};

    fn age(cache: &Cache, kind: &str) {
        for folder in fs_err::read_dir(cache.local().everything().join(kind)).unwrap() {
            let long_ago = SystemTime::now() - Duration::from_mins(1);
            std::fs::File::open(folder.unwrap().path()).unwrap().set_modified(long_ago).unwrap();
        }
    }

    async fn store(root: &std::path::Path) -> (StageKey, ArtifactDigest) {
        let cache = Cache::open_local(root).unwrap();
        let key = StageKey::of(b"key");
        let work = cache.work_dir(&key).unwrap();
        fs_err::write(work.output().join("a"), "text").unwrap();
        let artifact = cache.publish(&work.output()).await.unwrap().digest;
        cache.put_record(&record(key, artifact)).await.unwrap();
        age(&cache, "records");
        age(&cache, "trees");
        (key, artifact)
    }

    fn remembered(cache: &Cache, key: &StageKey) -> bool {
        cache.known().hit(cache.store(), key).unwrap().is_some()
    }

    #[tokio::test]
    async fn a_hit_is_remembered_until_something_of_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let (key, artifact) = store(dir.path()).await;
        let open = || Cache::open_local(dir.path()).unwrap();
        assert!(!remembered(&open(), &key));
        assert_eq!(open().hit_artifact(&key).await.unwrap(), Some(artifact));
        assert!(remembered(&open(), &key));
        assert_eq!(open().hit_artifact(&key).await.unwrap(), Some(artifact));

        let blob = layout::blob_file(dir.path(), &BlobDigest::of(b"text"));
        let aside = dir.path().join("aside");
        fs_err::rename(&blob, &aside).unwrap();
        assert_eq!(open().hit_artifact(&key).await.unwrap(), None, "a blob is gone");
        fs_err::rename(&aside, &blob).unwrap();
        assert!(remembered(&open(), &key));

        let file = open().store().file(&layout::record(&key)).unwrap();
        fs_err::remove_file(&file).unwrap();
        assert!(!remembered(&open(), &key));
        assert_eq!(open().hit_artifact(&key).await.unwrap(), None, "the record is gone");
    }

    #[tokio::test]
    async fn a_manifest_that_went_takes_its_hits_along() {
        let dir = tempfile::tempdir().unwrap();
        let (key, artifact) = store(dir.path()).await;
        let open = || Cache::open_local(dir.path()).unwrap();
        let cache = open();
        cache.hit_artifact(&key).await.unwrap();
        cache.flush().await;
        assert!(remembered(&cache, &key) && remembered(&open(), &key));
        fs_err::write(cache.store().file(&layout::tree(&artifact)).unwrap(), "damaged").unwrap();
        assert_eq!(cache.manifest(&artifact).await.unwrap(), None);
        assert_eq!(cache.hit_artifact(&key).await.unwrap(), None, "who finds the damage");
        assert_eq!(open().hit_artifact(&key).await.unwrap(), None, "who comes later");
    }

    #[tokio::test]
    async fn a_young_folder_is_not_noted_and_a_damaged_file_is_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let (key, _) = store(dir.path()).await;
        let open = || Cache::open_local(dir.path()).unwrap();
        open().hit_artifact(&key).await.unwrap();
        let file = open().local().hits();
        let text = fs_err::read_to_string(&file).unwrap();
        for cut in [0, 5, text.len() - 1, text.len() - 30] {
            fs_err::write(&file, &text[..cut]).unwrap();
            assert!(!remembered(&open(), &key), "{cut}");
        }
        fs_err::write(&file, &text).unwrap();
        assert!(remembered(&open(), &key));
        let folder = open().store().file(&layout::record(&key)).unwrap();
        // As young as can be: its clock is ahead of this one.
        let ahead = SystemTime::now() + Duration::from_hours(1);
        std::fs::File::open(folder.parent().unwrap()).unwrap().set_modified(ahead).unwrap();
        assert!(open().hit_artifact(&key).await.unwrap().is_some());
        assert!(!remembered(&open(), &key));
    }
}
