//! Digests of files that were hashed before, so that planning does not read terabytes of input again.
//!
//! A file counts as the same while device, inode, size, modification time and change time are the same. The change time
//! is there because `cp -p`, `rsync -t` and `touch -r` set the modification time of other bytes to an old one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs::Metadata,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{
    cache::{Cache, absent},
    digest::BlobDigest,
    error::{Result, during},
    plain,
    sealed::Seal,
    staged::replace,
    trees::hash_file,
};

/// A file written so shortly ago could be written to again within one tick of the file system's clock, and look the same.
const YOUNG: Duration = Duration::from_secs(2);

/// Beyond this many, what was not asked for since loading is dropped when saving.
const MANY: usize = 200_000;

const HEADER: &str = "flow-memo 2";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// When the file last changed in any way.
    fn last(&self) -> Option<SystemTime> {
        let (seconds, nanos) = self.modified.max(self.changed);
        UNIX_EPOCH.checked_add(Duration::new(u64::try_from(seconds).ok()?, u32::try_from(nanos).ok()?))
    }
}

/// Which file had which digest, for any number of threads. Load it, hand it to
/// [`hash_folder_with`](crate::hash_folder_with) or ask it for a [`digest`](HashMemo::digest), save it.
#[derive(Debug)]
pub struct HashMemo {
    entries: Mutex<Entries>,
    path: PathBuf,
    tmp: PathBuf,
}

#[derive(Debug)]
struct Entries {
    known: BTreeMap<Stamp, BlobDigest>,
    used: BTreeSet<Stamp>,
    loaded: SystemTime,
    dirty: bool,
}

impl Cache {
    /// Reads the memo of this store; an unreadable one is an empty one, since it costs only time.
    pub fn hash_memo(&self) -> HashMemo {
        let path = self.local().memo();
        let text = absent(plain::read(&path)).unwrap_or_else(|error| {
            tracing::warn!(%error, "the memo of digests could not be read");
            None
        });
        let known = text.and_then(|text| parse(Seal::LINE.unseal(&text)?)).unwrap_or_default();
        let entries = Entries { known, used: BTreeSet::new(), loaded: SystemTime::now(), dirty: false };
        HashMemo { entries: Mutex::new(entries), path, tmp: self.local().tmp() }
    }
}

impl HashMemo {
    /// Each change of the entries is whole, so those of a thread that panicked are as good as any.
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The digest of a file's content: remembered, or hashed now and remembered.
    pub fn digest(&self, path: &Path) -> io::Result<BlobDigest> {
        let before = fs_err::metadata(path)?;
        if let Some(known) = self.get(&before) {
            return Ok(known);
        }
        let digest = hash_file(path, before.len())?;
        self.insert(&before, digest);
        Ok(digest)
    }

    /// The digest of the file with this metadata, if it is known.
    pub fn get(&self, meta: &Metadata) -> Option<BlobDigest> {
        let stamp = Stamp::of(meta);
        let mut entries = self.entries();
        let digest = entries.known.get(&stamp).copied()?;
        entries.used.insert(stamp);
        Some(digest)
    }

    /// Remembers the digest of a file. `before` is its metadata from *before* it was hashed. A file that changed less
    /// than two seconds before the memo was loaded, or since, is not remembered.
    pub fn insert(&self, before: &Metadata, digest: BlobDigest) {
        let stamp = Stamp::of(before);
        let mut entries = self.entries();
        let settled = entries.loaded.checked_sub(YOUNG);
        if stamp.last().zip(settled).is_some_and(|(last, settled)| last < settled) {
            entries.known.insert(stamp, digest);
            entries.used.insert(stamp);
            entries.dirty = true;
        }
    }

    /// How many files it knows.
    pub fn len(&self) -> usize {
        self.entries().known.len()
    }

    /// Does it know none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes it, if it learnt something. Of two processes that save at once the last one's wins: what is lost is hashed again.
    pub fn save(&self) -> Result<()> {
        let mut entries = self.entries();
        if !entries.dirty {
            return Ok(());
        }
        if entries.known.len() > MANY {
            let used = std::mem::take(&mut entries.used);
            entries.known.retain(|stamp, _| used.contains(stamp));
        }
        let mut text = format!("{HEADER}\n");
        for (s, digest) in &entries.known {
            let (modified, changed) = (s.modified, s.changed);
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{} {} {} {} {} {} {} {digest}",
                s.device, s.inode, s.size, modified.0, modified.1, changed.0, changed.1
            );
        }
        replace(&self.tmp, &self.path, Seal::LINE.seal(text).as_bytes())
            .map_err(during(|| "write the memo of digests"))?;
        entries.dirty = false;
        Ok(())
    }
}

fn parse(text: &str) -> Option<BTreeMap<Stamp, BlobDigest>> {
    let mut lines = text.strip_suffix('\n')?.split('\n');
    if lines.next()? != HEADER {
        return None;
    }
    let line = |line: &str| {
        let mut fields = line.split(' ');
        let stamp = Stamp {
            device: fields.next()?.parse().ok()?,
            inode: fields.next()?.parse().ok()?,
            size: fields.next()?.parse().ok()?,
            modified: (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?),
            changed: (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?),
        };
        let digest = fields.next()?.parse().ok()?;
        fields.next().is_none().then_some((stamp, digest))
    };
    lines.map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::fs::FileTimes;

    use super::*;
    use crate::trees::hash_folder_with;

    fn store() -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open_local(&dir.path().join("store")).unwrap();
        (dir, cache)
    }

    /// As if `seconds` had passed since the memo's files were written.
    fn later(memo: &HashMemo, seconds: u64) {
        memo.entries().loaded += Duration::from_secs(seconds);
    }

    #[test]
    fn a_known_file_is_not_read_again_and_a_changed_one_is() {
        let (dir, cache) = store();
        let (folder, file) = (dir.path().join("in"), dir.path().join("in/a"));
        fs_err::create_dir(&folder).unwrap();
        fs_err::write(&file, "one").unwrap();
        let memo = cache.hash_memo();
        later(&memo, 10);
        let manifest = hash_folder_with(&folder, &memo).unwrap();
        assert_eq!(memo.len(), 1);
        memo.save().unwrap();

        // A lie in the memo shows that it, and not the file, is asked.
        let memo = cache.hash_memo();
        let lie = BlobDigest::of(b"lie");
        for digest in memo.entries().known.values_mut() {
            *digest = lie;
        }
        let lied = hash_folder_with(&folder, &memo).unwrap();
        assert_eq!(lied.entries["a"].digest, lie);

        // Other bytes of the same size, the modification time set back: the change time tells.
        let times = FileTimes::new().set_modified(fs_err::metadata(&file).unwrap().modified().unwrap());
        std::thread::sleep(Duration::from_millis(20));
        fs_err::write(&file, "two").unwrap();
        std::fs::File::options().write(true).open(&file).unwrap().set_times(times).unwrap();
        let changed = hash_folder_with(&folder, &memo).unwrap();
        assert_eq!(memo.digest(&file).unwrap(), BlobDigest::of(b"two"));
        assert_eq!(changed.entries["a"].digest, BlobDigest::of(b"two"));
        assert_ne!(changed, manifest);
    }

    #[test]
    fn young_files_are_not_remembered() {
        let (dir, cache) = store();
        fs_err::write(dir.path().join("a"), "one").unwrap();
        let meta = fs_err::metadata(dir.path().join("a")).unwrap();
        let memo = cache.hash_memo();
        memo.insert(&meta, BlobDigest::of(b"one"));
        assert!(memo.is_empty());
        later(&memo, 3);
        memo.insert(&meta, BlobDigest::of(b"one"));
        assert_eq!(memo.len(), 1);
    }

    #[test]
    fn a_damaged_memo_is_an_empty_one() {
        let (_dir, cache) = store();
        let digest = BlobDigest::of(b"");
        let line = format!("1 2 3 -4 5 6 7 {digest}\n");
        for text in ["", "flow-memo 1\n", "flow-memo 2\n1 2 3\n", &format!("flow-memo 2\n1 2 3 4 5 6 7 {digest} 9\n")] {
            fs_err::write(cache.local().memo(), Seal::LINE.seal(text.to_owned())).unwrap();
            assert!(cache.hash_memo().is_empty(), "{text:?}");
        }
        let whole = Seal::LINE.seal(format!("flow-memo 2\n{line}"));
        fs_err::write(cache.local().memo(), &whole).unwrap();
        assert_eq!(cache.hash_memo().len(), 1);
        let lie = line.replace(&digest.to_string(), &BlobDigest::of(b"lie").to_string());
        for text in [whole.replace(&line, &lie), format!("flow-memo 2\n{line}")] {
            fs_err::write(cache.local().memo(), text).unwrap();
            assert!(cache.hash_memo().is_empty());
        }
    }
}
