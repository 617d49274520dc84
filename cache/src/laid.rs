//! What a laid-out artifact looked like, so that it shows whether somebody changed it.
//!
//! Files are laid out read-only, but a process may give itself the right to write; where the disk cannot clone, a write goes
//! through to the blob. The system stamps every change with the time (`ctime`), which no call sets back, so that only files
//! with another stamp are read again. A stamp is as coarse as the system's clock, and a file that was just laid out has one of
//! this very moment: little of that is read again in the end, for much it is cheaper to wait for the next moment.

use std::{
    collections::BTreeMap,
    fs::Metadata,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{
    cache::{Cache, absent, blocking},
    digest::{ArtifactDigest, BlobDigest},
    error::{Error, Result, during},
    layout,
    manifest::RelPath,
    trees::{hash_file, hash_folder, walk},
};

/// The system's stamps may be as coarse as its clock ticks: a change within this time of another might not show.
const TICK: Duration = Duration::from_millis(20);
/// So many bytes and files are read in a fraction of [`TICK`].
const LITTLE: (u64, usize) = (4 << 20, 256);

/// The stamps of a folder's files.
#[derive(Debug)]
pub struct Laid {
    files: BTreeMap<RelPath, Stamp>,
    /// When the system's clock has gone on since the last of them was laid out.
    settled: SystemTime,
    /// Whether it goes without a wait, so that no stamp is believed.
    is_little: bool,
}

type Stamp = (u64, u64, u64, i64, i64);

fn stamp(meta: &Metadata) -> Stamp {
    (meta.dev(), meta.ino(), meta.len(), meta.ctime(), meta.ctime_nsec())
}

impl Laid {
    /// Looks at a folder that was just laid out. A later change must show only after [`Laid::settles_in`].
    pub fn look(folder: &Path) -> Result<Self> {
        let mut found = Vec::new();
        walk(folder, "", &mut found)?;
        let mut files = BTreeMap::new();
        let (mut newest, mut bytes) = (UNIX_EPOCH, 0);
        for (rel, path) in found {
            let meta = fs_err::metadata(path).map_err(during(|| "look at a laid-out file"))?;
            let changed = Duration::new(meta.ctime().try_into().unwrap_or(0), meta.ctime_nsec() as u32);
            newest = newest.max(UNIX_EPOCH + changed);
            bytes += meta.len();
            files.insert(rel, stamp(&meta));
        }
        let is_little = bytes <= LITTLE.0 && files.len() <= LITTLE.1;
        Ok(Self { files, settled: newest + TICK, is_little })
    }

    /// How long until a change must show, a few milliseconds at most. One wait serves all that was laid out before it.
    pub fn settles_in(&self) -> Duration {
        if self.is_little {
            return Duration::ZERO;
        }
        // A clock that was set back must not keep anybody for long.
        self.settled.duration_since(SystemTime::now()).unwrap_or(Duration::ZERO).min(TICK)
    }
}

impl Cache {
    /// Does a folder hold the files of an artifact and no others? Every byte is read.
    pub async fn is_laid_out(&self, digest: &ArtifactDigest, folder: &Path) -> Result<bool> {
        let (digest, folder) = (*digest, folder.to_owned());
        // What is no file, or cannot be read, is no part of an artifact.
        blocking(move || Ok(hash_folder(&folder).is_ok_and(|manifest| manifest.digest() == digest))).await
    }

    /// The files of a laid-out artifact that are not as they were: changed, gone or new. A blob that was changed through its
    /// link is set aside.
    pub async fn changes(&self, digest: &ArtifactDigest, folder: &Path, laid: Laid) -> Result<Vec<String>> {
        let manifest = self.manifest(digest).await?.ok_or(Error::NoArtifact { digest: *digest })?;
        let (folder, local) = (folder.to_owned(), self.store().clone());
        let (changed, damaged) = blocking(move || {
            let (mut found, mut changed, mut damaged) = (Vec::new(), Vec::new(), Vec::<BlobDigest>::new());
            walk(&folder, "", &mut found)?;
            let mut left = laid.files;
            for (rel, path) in found {
                let meta = fs_err::metadata(&path).map_err(during(|| "look at a laid-out file"))?;
                let (before, entry) = (left.remove(&rel), manifest.entries.get(&rel));
                if before == Some(stamp(&meta)) && !laid.is_little {
                    continue;
                }
                // Another link to the same blob moves the stamp too.
                let now = hash_file(&path, meta.len()).map_err(during(|| "read a laid-out file again"))?;
                let Some(entry) = entry.filter(|entry| entry.digest != now) else {
                    if entry.is_none() {
                        changed.push(rel.to_string());
                    }
                    continue;
                };
                changed.push(rel.to_string());
                let Some(blob) = local.blob(&entry.digest) else { continue };
                let stored = absent(fs_err::metadata(&blob)).map_err(during(|| "look for a blob"))?;
                if let Some(meta) = stored
                    && hash_file(&blob, meta.len()).map_err(during(|| "read a blob again"))? != entry.digest
                {
                    damaged.push(entry.digest);
                }
            }
            changed.extend(left.into_keys().map(|gone| gone.to_string()));
            changed.sort();
            Ok((changed, damaged))
        })
        .await?;
        for blob in damaged {
            self.store().set_aside(&layout::blob(&blob), "it was changed through a link").await?;
        }
        Ok(changed)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::suite::write_files;

    async fn laid(dir: &Path, much: bool) -> (Cache, ArtifactDigest, Laid) {
        let cache = Cache::open_local(&dir.join("store")).unwrap();
        write_files(&dir.join("in"), &[("a", b"one"), ("b/c", b"two")]);
        if much {
            write_files(&dir.join("in"), &[("much", &vec![7; LITTLE.0 as usize])]);
        }
        let artifact = cache.publish(&dir.join("in")).await.unwrap().digest;
        cache.materialize(&artifact, &dir.join("out")).await.unwrap();
        let laid = Laid::look(&dir.join("out")).unwrap();
        assert_eq!(laid.settles_in() > Duration::ZERO, much);
        std::thread::sleep(laid.settles_in());
        (cache, artifact, laid)
    }

    #[tokio::test]
    async fn another_link_is_no_change() {
        let dir = tempfile::tempdir().unwrap();
        let (cache, artifact, laid) = laid(dir.path(), true).await;
        cache.materialize(&artifact, &dir.path().join("again")).await.unwrap();
        assert_eq!(cache.changes(&artifact, &dir.path().join("out"), laid).await.unwrap(), [""; 0]);
    }

    /// At once, in the very moment in which a little was laid out; and after the wait for much.
    #[tokio::test]
    async fn what_was_changed_added_or_taken_away_is_named() {
        for much in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let (cache, artifact, laid) = laid(dir.path(), much).await;
            let file = dir.path().join("out/a");
            // The very size and time of before.
            let before = std::fs::metadata(&file).unwrap().modified().unwrap();
            fs_err::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
            fs_err::write(&file, "eno").unwrap();
            std::fs::File::options().write(true).open(&file).unwrap().set_modified(before).unwrap();
            fs_err::remove_file(dir.path().join("out/b/c")).unwrap();
            fs_err::write(dir.path().join("out/new"), "").unwrap();
            let changes = cache.changes(&artifact, &dir.path().join("out"), laid).await.unwrap();
            assert_eq!(changes, ["a", "b/c", "new"]);
            // Whether the blob was hit depends on the disk; it is not used either way.
            let next = cache.materialize(&artifact, &dir.path().join("next")).await;
            assert!(next.is_err() || fs_err::read(dir.path().join("next/a")).unwrap() == b"one");
            assert!(cache.verify().await.unwrap().is_sound());
        }
    }
}
