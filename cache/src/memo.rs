//! Digests of files that were hashed before, so that planning does not read terabytes of input again.
//!
//! A file counts as the same while device, inode, size, modification time and change time are the same. The change time
//! is there because `cp -p`, `rsync -t` and `touch -r` set the modification time of other bytes to an old one.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs::Metadata,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{
    cache::{Cache, absent},
    digest::BlobDigest,
    error::{Error, Result, during},
    staged::replace,
};

/// A file written so shortly ago could be written to again within one tick of the file system's clock, and look the same.
const YOUNG: Duration = Duration::from_secs(2);

/// Beyond this many, what was not asked for since loading is dropped when saving.
const MANY: usize = 200_000;

const HEADER: &str = "flow-memo 1";

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

/// Which file had which digest. Load it, hand it to [`hash_folder_with`](crate::hash_folder_with), save it.
#[derive(Debug)]
pub struct HashMemo {
    known: BTreeMap<Stamp, BlobDigest>,
    used: BTreeSet<Stamp>,
    loaded: SystemTime,
    dirty: bool,
    path: PathBuf,
    tmp: PathBuf,
}

impl Cache {
    /// Reads the memo of this store; an unreadable one is an empty one.
    pub fn memo(&self) -> Result<HashMemo> {
        let path = self.local().memo();
        let text = absent(fs_err::read(&path)).map_err(during(|| "read the memo of digests"))?;
        let known = text.and_then(|text| parse(std::str::from_utf8(&text).ok()?)).unwrap_or_default();
        let tmp = self.local().tmp();
        Ok(HashMemo { known, used: BTreeSet::new(), loaded: SystemTime::now(), dirty: false, path, tmp })
    }
}

impl HashMemo {
    /// The digest of the file with this metadata, if it is known.
    pub fn get(&mut self, meta: &Metadata) -> Option<BlobDigest> {
        let stamp = Stamp::of(meta);
        let digest = self.known.get(&stamp).copied()?;
        self.used.insert(stamp);
        Some(digest)
    }

    /// Remembers the digest of a file. `before` is its metadata from *before* it was hashed. A file that changed less
    /// than two seconds before the memo was loaded, or since, is not remembered.
    pub fn insert(&mut self, before: &Metadata, digest: BlobDigest) {
        let stamp = Stamp::of(before);
        let settled = self.loaded.checked_sub(YOUNG);
        if stamp.last().zip(settled).is_some_and(|(last, settled)| last < settled) {
            self.known.insert(stamp, digest);
            self.used.insert(stamp);
            self.dirty = true;
        }
    }

    /// How many files it knows.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Does it know none?
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Writes it, if it learnt something. Of two processes that save at once the last one's wins: what is lost is hashed again.
    pub fn save(&mut self) -> Result<(), Error> {
        if !self.dirty {
            return Ok(());
        }
        if self.known.len() > MANY {
            let used = std::mem::take(&mut self.used);
            self.known.retain(|stamp, _| used.contains(stamp));
        }
        let mut text = format!("{HEADER}\n");
        for (s, digest) in &self.known {
            let (modified, changed) = (s.modified, s.changed);
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{} {} {} {} {} {} {} {digest}",
                s.device, s.inode, s.size, modified.0, modified.1, changed.0, changed.1
            );
        }
        replace(&self.tmp, &self.path, text.as_bytes()).map_err(during(|| "write the memo of digests"))?;
        self.dirty = false;
        Ok(())
    }
}

/// All or nothing: a file that is damaged in one place is not believed in another.
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
    fn later(memo: &mut HashMemo, seconds: u64) {
        memo.loaded += Duration::from_secs(seconds);
    }

    #[test]
    fn a_known_file_is_not_read_again_and_a_changed_one_is() {
        let (dir, cache) = store();
        let (folder, file) = (dir.path().join("in"), dir.path().join("in/a"));
        fs_err::create_dir(&folder).unwrap();
        fs_err::write(&file, "one").unwrap();
        let mut memo = cache.memo().unwrap();
        later(&mut memo, 10);
        let manifest = hash_folder_with(&folder, &mut memo).unwrap();
        assert_eq!(memo.len(), 1);
        memo.save().unwrap();

        // A lie in the memo shows that it, and not the file, is asked.
        let mut memo = cache.memo().unwrap();
        let lie = BlobDigest::of(b"lie");
        for digest in memo.known.values_mut() {
            *digest = lie;
        }
        let lied = hash_folder_with(&folder, &mut memo).unwrap();
        assert_eq!(lied.entries["a"].digest, lie);

        // Other bytes of the same size, the modification time set back: the change time tells.
        let times = FileTimes::new().set_modified(fs_err::metadata(&file).unwrap().modified().unwrap());
        std::thread::sleep(Duration::from_millis(20));
        fs_err::write(&file, "two").unwrap();
        std::fs::File::options().write(true).open(&file).unwrap().set_times(times).unwrap();
        let changed = hash_folder_with(&folder, &mut memo).unwrap();
        assert_eq!(changed.entries["a"].digest, BlobDigest::of(b"two"));
        assert_ne!(changed, manifest);
    }

    #[test]
    fn young_files_are_not_remembered() {
        let (dir, cache) = store();
        fs_err::write(dir.path().join("a"), "one").unwrap();
        let meta = fs_err::metadata(dir.path().join("a")).unwrap();
        let mut memo = cache.memo().unwrap();
        memo.insert(&meta, BlobDigest::of(b"one"));
        assert!(memo.is_empty());
        later(&mut memo, 3);
        memo.insert(&meta, BlobDigest::of(b"one"));
        assert_eq!(memo.len(), 1);
    }

    #[test]
    fn a_damaged_memo_is_an_empty_one() {
        let (_dir, cache) = store();
        let digest = BlobDigest::of(b"");
        for text in [
            "",
            "flow-memo 1",
            "flow-memo 2\n",
            "flow-memo 1\n1 2 3\n",
            &format!("flow-memo 1\n1 2 3 4 5 6 7 {digest} 9\n"),
        ] {
            fs_err::write(cache.local().memo(), text).unwrap();
            assert!(cache.memo().unwrap().is_empty(), "{text:?}");
        }
        fs_err::write(cache.local().memo(), format!("flow-memo 1\n1 2 3 -4 5 6 7 {digest}\n")).unwrap();
        assert_eq!(cache.memo().unwrap().len(), 1);
    }
}
