//! Folder ↔ artifact.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use rayon::prelude::*;

use crate::{
    blobs::Candidate,
    cache::{Cache, absent, blocking},
    digest::{ArtifactDigest, BlobDigest},
    error::{Error, Result, during},
    failpoint, layout,
    link::{Linker, Share},
    manifest::{Entry, Manifest, RelPath},
    memo::HashMemo,
    plain,
    staged::Staged,
};

/// An artifact that has been published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its name.
    pub digest: ArtifactDigest,
    /// Its files.
    pub manifest: Manifest,
}

/// So many files are no work for another thread, unless they are large: then each is hashed on all cores.
pub(crate) const FEW: usize = 16;

/// Hashes every file below `dir`, on all cores. Symbolic links and what is neither file nor folder are refused: an
/// artifact must mean the same on another machine. Empty folders and modes are ignored.
pub fn hash_folder(dir: &Path) -> Result<Manifest> {
    Ok(hash_files(dir, None)?.0)
}

/// [`hash_folder`], asking `memo` first and telling it what was found.
pub fn hash_folder_with(dir: &Path, memo: &HashMemo) -> Result<Manifest> {
    Ok(hash_files(dir, Some(memo))?.0)
}

fn hash_files(dir: &Path, memo: Option<&HashMemo>) -> Result<(Manifest, BTreeMap<BlobDigest, Candidate>)> {
    let mut files = Vec::new();
    walk(dir, "", &mut files)?;
    let hashed: Vec<(RelPath, Entry, Candidate)> = files
        .into_par_iter()
        .with_min_len(FEW)
        .map(|(rel, path)| {
            let before = fs_err::metadata(&path).map_err(during(|| "hash a file"))?;
            let size = before.len();
            let known = memo.and_then(|memo| memo.get(&before));
            let digest = if let Some(digest) = known {
                digest
            } else {
                let digest = hash_file(&path, size).map_err(during(|| format!("hash {}", path.display())))?;
                if let Some(memo) = memo {
                    memo.insert(&before, digest);
                }
                digest
            };
            Ok((rel, Entry { size, digest }, Candidate { path, size, before }))
        })
        .collect::<Result<_>>()?;
    let mut manifest = Manifest::default();
    let mut candidates = BTreeMap::new();
    for (rel, entry, candidate) in hashed {
        candidates.insert(entry.digest, candidate);
        manifest.entries.insert(rel, entry);
    }
    Ok((manifest, candidates))
}

pub(crate) fn walk(dir: &Path, prefix: &str, files: &mut Vec<(RelPath, PathBuf)>) -> Result<()> {
    let refuse = |path: &Path, reason| Err(Error::Unsupported { path: path.to_owned(), reason });
    for entry in fs_err::read_dir(dir).map_err(during(|| "list a folder"))? {
        let entry = entry.map_err(during(|| "list a folder"))?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(during(|| "list a folder"))?);
        let Ok(name) = entry.file_name().into_string() else { return refuse(&path, "its name is not UTF-8") };
        let rel = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
        if kind.is_dir() {
            walk(&path, &rel, files)?;
        } else if kind.is_symlink() {
            return refuse(&path, "it is a symbolic link, which would mean something else on another machine");
        } else if kind.is_file() {
            files.push((RelPath::new(rel)?, path));
        } else {
            return refuse(&path, "it is neither a file nor a folder");
        }
    }
    Ok(())
}

/// BLAKE3 of a file; above 1 MiB memory-mapped, and on all cores.
pub(crate) fn hash_file(path: &Path, size: u64) -> io::Result<BlobDigest> {
    let mut hasher = blake3::Hasher::new();
    if size > 1 << 20 {
        hasher.update_mmap_rayon(path)?;
    } else {
        hasher.update_reader(plain::open(path)?)?;
    }
    Ok(BlobDigest::from_bytes(*hasher.finalize().as_bytes()))
}

impl Cache {
    /// Publishes the files of `dir` as an artifact: blobs first, each atomically, then the manifest.
    ///
    /// A folder inside the store (a [`WorkDir`](crate::WorkDir)) belongs to the store: where the disk cannot clone, its files
    /// are hard-linked and become read-only. From any other folder they are cloned or copied, and stay as they are.
    pub async fn publish(&self, dir: &Path) -> Result<Published> {
        let (dir, tiers, root) = (dir.to_owned(), self.tiers().clone(), self.root().to_owned());
        let manifest = blocking(move || {
            let inside = fs_err::canonicalize(&dir).map_err(during(|| "publish a folder"))?.starts_with(&root);
            let (manifest, files) = hash_files(&dir, None)?;
            tiers.publish(&files, if inside { Share::Inode } else { Share::Content })?;
            Ok(manifest)
        })
        .await?;
        let bytes = manifest.to_bytes();
        let digest = ArtifactDigest::of(&bytes);
        // Written even where it is there: a fresh time tells gc that somebody is about to record it.
        let tree = layout::tree(&digest);
        self.tiers().batch.begin().map_err(during(|| "mark what is being published"))?;
        self.store().make_way(&tree)?;
        self.store().replace(&tree, bytes.into()).await?;
        self.tiers().batch.add(self.store().file(&tree));
        Ok(Published { digest, manifest })
    }

    /// The manifest of an artifact, if it is in the local store and whole.
    pub(crate) async fn local_manifest(&self, digest: &ArtifactDigest) -> Result<Option<Manifest>> {
        let Some(bytes) = self.store().read(&layout::tree(digest)).await? else { return Ok(None) };
        Ok(if ArtifactDigest::of(&bytes) == *digest { Manifest::from_bytes(&bytes).ok() } else { None })
    }

    /// Are the manifest and every blob in the local store, each blob with its size?
    pub async fn is_local(&self, digest: &ArtifactDigest) -> Result<bool> {
        let Some(manifest) = self.local_manifest(digest).await? else { return Ok(false) };
        let store = self.store().clone();
        blocking(move || store.has_every_local(manifest.blobs())).await
    }

    /// The manifest of an artifact, from the local store or else the remote one. A damaged one is set aside.
    pub async fn manifest(&self, digest: &ArtifactDigest) -> Result<Option<Manifest>> {
        let path = layout::tree(digest);
        for (i, store) in self.tiers().all().enumerate() {
            let Some(bytes) = store.read(&path).await? else { continue };
            let read = if ArtifactDigest::of(&bytes) == *digest { Manifest::from_bytes(&bytes).ok() } else { None };
            let Some(manifest) = read else {
                self.known().doubt(digest);
                store.set_aside(&path, "a manifest whose bytes are not those of its name").await?;
                continue;
            };
            if i > 0 {
                self.store().replace(&path, bytes).await?;
            }
            return Ok(Some(manifest));
        }
        self.known().doubt(digest);
        Ok(None)
    }

    /// Are the manifest and every blob there, each blob with its size? Reads no blob: `verify` does that.
    pub async fn is_complete(&self, digest: &ArtifactDigest) -> Result<bool> {
        let Some(manifest) = self.manifest(digest).await? else { return Ok(false) };
        Ok(self.has_all(&manifest).await?.1)
    }

    /// Is every blob in the local store? Is every blob in one of them?
    pub(crate) async fn has_all(&self, manifest: &Manifest) -> Result<(bool, bool)> {
        let (tiers, blobs) = (self.tiers().clone(), manifest.blobs());
        let missing = blocking(move || {
            let mut missing = Vec::new();
            for (blob, size) in blobs {
                if !tiers.local.has_local(&blob, size)? {
                    missing.push((blob, size));
                    if tiers.remote.is_none() {
                        break;
                    }
                }
            }
            Ok(missing)
        })
        .await?;
        let here = missing.is_empty();
        let Some(remote) = &self.tiers().remote else { return Ok((here, here)) };
        let complete = stream::iter(missing)
            .map(|(blob, size)| async move { Ok(remote.size(&layout::blob(&blob)).await? == Some(size)) })
            .buffer_unordered(16)
            .try_fold(true, |all, one| async move { Ok(all && one) })
            .await?;
        Ok((here, complete))
    }

    /// Brings every blob of the artifact into the local store.
    pub async fn fetch(&self, digest: &ArtifactDigest) -> Result<Manifest> {
        let manifest = self.manifest(digest).await?.ok_or(Error::NoArtifact { digest: *digest })?;
        stream::iter(manifest.blobs())
            .map(|(blob, size)| async move { self.tiers().fetch(&blob, size).await })
            .buffer_unordered(8)
            .try_collect::<()>()
            .await?;
        Ok(manifest)
    }

    /// [`Cache::fetch`], and every blob is read: one whose bytes are not those of its name is set aside, and brought from
    /// the remote store where there is one.
    async fn fetch_sound(&self, digest: &ArtifactDigest) -> Result<Manifest> {
        let manifest = self.fetch(digest).await?;
        let (tiers, blobs) = (self.tiers().clone(), manifest.blobs());
        let damaged: Vec<BlobDigest> = blocking(move || {
            let blobs: Vec<(BlobDigest, u64)> = blobs.into_iter().collect();
            let read = |(blob, size): &(BlobDigest, u64)| {
                let Some(file) = tiers.local.blob(blob) else { return Ok(None) };
                let found = absent(hash_file(&file, *size)).map_err(during(|| "read a blob"))?;
                Ok((found != Some(*blob)).then_some(*blob))
            };
            let read: Vec<Option<BlobDigest>> = blobs.par_iter().with_min_len(FEW).map(read).collect::<Result<_>>()?;
            Ok(read.into_iter().flatten().collect())
        })
        .await?;
        if damaged.is_empty() {
            return Ok(manifest);
        }
        for blob in &damaged {
            self.store().set_aside(&layout::blob(blob), "its bytes are not those of its name").await?;
        }
        // What comes from afar is hashed as it comes.
        match self.fetch(digest).await {
            Err(Error::NoBlob { digest }) if damaged.contains(&digest) => Err(Error::Corrupt { digest }),
            fetched => fetched,
        }
    }

    /// Can the artifact be had, with every byte as it should be? All are read, and what is damaged is set aside.
    pub async fn is_sound(&self, digest: &ArtifactDigest) -> Result<bool> {
        match self.fetch_sound(digest).await {
            Ok(_) => Ok(true),
            Err(Error::Corrupt { .. } | Error::NoBlob { .. } | Error::NoArtifact { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes `dest`, which must not exist, a folder with the files of the artifact: clones of or hard links to blobs
    /// where the disk can, all read-only. It appears whole or not at all, and every byte of it was checked.
    pub async fn materialize(&self, digest: &ArtifactDigest, dest: &Path) -> Result<()> {
        if fs_err::symlink_metadata(dest).is_ok() {
            return Err(Error::Exists { path: dest.to_owned() });
        }
        let manifest = self.fetch_sound(digest).await?;
        let (cache, dest) = (self.clone(), dest.to_owned());
        blocking(move || {
            let what = || format!("materialize into {}", dest.display());
            let (aside, tiers, outside) = (Staged::beside(&dest), cache.tiers(), Linker::new());
            let inside = dest.starts_with(cache.root());
            let linker = if inside { &tiers.linker } else { &outside };
            let made = if inside { cache.make_folder(aside.path()) } else { fs_err::create_dir_all(aside.path()) };
            made.map_err(during(what))?;
            for (path, entry) in &manifest.entries {
                let to = aside.path().join(path);
                let Some(from) = tiers.local.blob(&entry.digest) else { continue };
                let place = || -> io::Result<()> {
                    tiers.local.step("materialize a file")?;
                    failpoint::at("inputs.link")?;
                    if let Some(parent) = to.parent() {
                        fs_err::create_dir_all(parent)?;
                    }
                    linker.place(&from, &to, Share::Inode)
                };
                place().map_err(during(what))?;
            }
            let appear = || -> io::Result<()> {
                failpoint::at("inputs.rename")?;
                aside.publish(&dest)?;
                failpoint::at("inputs.renamed")
            };
            appear().map_err(during(what))
        })
        .await
    }

    /// The bytes of one file of an artifact, checked against its digest. For small files: all of it is read.
    pub async fn read_file(&self, digest: &ArtifactDigest, path: &RelPath) -> Result<Bytes> {
        let manifest = self.manifest(digest).await?.ok_or(Error::NoArtifact { digest: *digest })?;
        let entry =
            manifest.entries.get(path).ok_or_else(|| Error::NoFile { digest: *digest, path: path.to_string() })?;
        self.blob(&entry.digest).await?.ok_or(Error::NoBlob { digest: entry.digest })
    }
}
