//! Contents of files, named by their digest.

use std::{
    collections::BTreeMap,
    fs::Metadata,
    io::{self, Write},
    path::PathBuf,
};

use bytes::Bytes;
use futures::StreamExt;
use object_store::path::Path as ObjectPath;
use rayon::prelude::*;

use crate::{
    cache::{Cache, absent, blocking},
    digest::BlobDigest,
    error::{Error, Result, during},
    failpoint, layout,
    link::{Linker, Share},
    staged::Staged,
    store::Store,
    tiered::Tiers,
    trees::{FEW, hash_file},
};

/// A file that is to become a blob.
#[derive(Debug)]
pub(crate) struct Candidate {
    /// Where it is.
    pub path: PathBuf,
    /// Its bytes.
    pub size: u64,
    /// Which metadata it had before it was hashed: if it has others when it is linked, it was written to meanwhile.
    pub before: Metadata,
}

impl Cache {
    /// Stores `bytes`, such as a log, and returns their name.
    pub async fn put_blob(&self, bytes: Bytes) -> Result<BlobDigest> {
        let tiers = self.tiers().clone();
        blocking(move || {
            let digest = BlobDigest::of(&bytes);
            tiers.adopt(&digest, bytes.len() as u64, |file| file.write_all(&bytes))?;
            Ok(digest)
        })
        .await
    }

    /// The bytes of a blob, checked against its name. A damaged one is set aside and looked for in the remote store.
    pub async fn blob(&self, digest: &BlobDigest) -> Result<Option<Bytes>> {
        let path = layout::blob(digest);
        for store in self.tiers().all() {
            let Some(bytes) = store.read(&path).await? else { continue };
            if BlobDigest::of(&bytes) == *digest {
                return Ok(Some(bytes));
            }
            store.set_aside(&path, "its bytes are not those of its name").await?;
        }
        Ok(None)
    }
}

impl Store {
    /// Is the blob in this folder, whole? One `stat`. A cut one is no blob.
    pub(crate) fn has_local(&self, digest: &BlobDigest, size: u64) -> Result<bool> {
        let look = during(|| format!("look for blob {}", digest.short()));
        // Below an open folder: a plan looks for each blob of each artifact, and most of that is the way to the folder.
        let found = match self.blobs_folder() {
            Some(folder) => rustix::fs::statat(folder, layout::below_blobs(digest), rustix::fs::AtFlags::empty()),
            None => match self.blob(digest) {
                Some(file) => rustix::fs::stat(file),
                None => return Ok(false),
            },
        };
        let found = absent(found.map_err(io::Error::from)).map_err(look)?;
        let Some(found) = found else { return Ok(false) };
        if !rustix::fs::FileType::from_raw_mode(found.st_mode).is_file() {
            // A blob that is to come here could not replace it.
            self.make_way(&layout::blob(digest))?;
            return Ok(false);
        }
        Ok(u64::try_from(found.st_size) == Ok(size))
    }

    /// Are the bytes of a blob in this folder those of its name? All of it is read.
    fn is_whole(&self, digest: &BlobDigest, size: u64) -> Result<bool> {
        let read = absent(hash_file(&self.blob_file(digest)?, size)).map_err(during(|| "read a blob"))?;
        Ok(read == Some(*digest))
    }

    /// [`Store::has_local`] of each of these.
    pub(crate) fn has_every_local(&self, blobs: impl IntoIterator<Item = (BlobDigest, u64)>) -> Result<bool> {
        for (blob, size) in blobs {
            if !self.has_local(&blob, size)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn blob_file(&self, digest: &BlobDigest) -> Result<PathBuf> {
        // Only the local tier publishes files, and that is a folder by construction.
        self.blob(digest).ok_or(Error::NoBlob { digest: *digest })
    }
}

impl Tiers {
    /// Publishes `files`: all are staged, and then renamed. On an error nothing half-written is visible; blobs that were renamed
    /// before it do no harm. What makes them durable is in `durable.rs`.
    ///
    /// What is there under the name of one may be damaged, and its size would not tell: it is replaced, which costs no more than to
    /// look, or, where bytes would have to be copied for it, read.
    pub(crate) fn publish(&self, files: &BTreeMap<BlobDigest, Candidate>, share: Share) -> Result<()> {
        let mut missing: Vec<(&BlobDigest, &Candidate)> = Vec::new();
        for (digest, file) in files {
            let is_there = self.local.has_local(digest, file.size)?;
            if !is_there || share == Share::Inode || !self.local.is_whole(digest, file.size)? {
                missing.push((digest, file));
            }
        }
        self.batch.begin().map_err(during(|| "mark what is being published"))?;
        let outside = Linker::new();
        let linker = if share == Share::Inode { &self.linker } else { &outside };
        let staged: Vec<(&BlobDigest, Staged)> = missing
            .par_iter()
            .with_min_len(FEW)
            .map(|(digest, file)| {
                let stage = || -> io::Result<Staged> {
                    self.local.step("stage a blob")?;
                    failpoint::at("blobs.stage")?;
                    let staged = Staged::reserve(&self.tmp);
                    linker.place(&file.path, staged.path(), share)?;
                    Ok(staged)
                };
                let staged = stage().map_err(during(|| describe(file)))?;
                let now = fs_err::metadata(&file.path).map_err(during(|| describe(file)))?;
                if changed(&file.before, &now) {
                    return Err(Error::Changed { path: file.path.clone() });
                }
                Ok((*digest, staged))
            })
            .collect::<Result<_>>()?;
        for (digest, staged) in staged {
            let to = self.local.blob_file(digest)?;
            self.local
                .step("publish a blob")
                .and_then(|()| failpoint::at("blobs.rename"))
                .and_then(|()| staged.publish(&to))
                .and_then(|()| failpoint::at("blobs.renamed"))
                .map_err(during(|| "publish a blob"))?;
        }
        // Also what was there already: another process may have published it a moment ago.
        let all: Vec<PathBuf> = files.keys().map(|digest| self.local.blob_file(digest)).collect::<Result<_>>()?;
        self.batch.add(all);
        Ok(())
    }

    /// Publishes one blob of which the bytes come from `write`, which must write exactly `size` bytes of `digest`.
    fn adopt(
        &self,
        digest: &BlobDigest,
        size: u64,
        write: impl FnOnce(&mut fs_err::File) -> io::Result<()>,
    ) -> Result<()> {
        if self.local.has_local(digest, size)? && self.local.is_whole(digest, size)? {
            self.batch.begin().map_err(during(|| "mark what is being published"))?;
            self.batch.add([self.local.blob_file(digest)?]);
            return Ok(());
        }
        let run = || -> io::Result<Staged> {
            self.local.step("stage a blob")?;
            failpoint::at("blob.write")?;
            let staged = Staged::reserve(&self.tmp);
            write(&mut fs_err::File::create_new(staged.path())?)?;
            Ok(staged)
        };
        let staged = run().map_err(during(|| format!("write blob {} ({size} bytes)", digest.short())))?;
        self.finish(digest, staged)
    }

    /// Makes a staged file, whose bytes are known to be those of `digest`, a blob.
    fn finish(&self, digest: &BlobDigest, staged: Staged) -> Result<()> {
        let to = self.local.blob_file(digest)?;
        let run = || -> io::Result<()> {
            self.batch.begin()?;
            fs_err::set_permissions(staged.path(), std::os::unix::fs::PermissionsExt::from_mode(0o444))?;
            self.local.step("publish a blob")?;
            failpoint::at("blob.rename")?;
            staged.publish(&to)?;
            failpoint::at("blob.renamed")?;
            self.batch.add([to]);
            Ok(())
        };
        run().map_err(during(|| format!("publish blob {}", digest.short())))
    }

    /// Brings a blob from the remote store into the local one, hashing while it comes.
    pub(crate) async fn fetch(&self, digest: &BlobDigest, size: u64) -> Result<()> {
        if self.local.has_local(digest, size)? {
            return Ok(());
        }
        let path = layout::blob(digest);
        let Some(remote) = &self.remote else { return Err(Error::NoBlob { digest: *digest }) };
        let Some(mut parts) = remote.stream(&path).await? else { return Err(Error::NoBlob { digest: *digest }) };
        let staged = Staged::reserve(&self.tmp);
        let what = || format!("write blob {} ({size} bytes) from {}", digest.short(), remote.name());
        let mut file = fs_err::File::create_new(staged.path()).map_err(during(what))?;
        let mut hasher = blake3::Hasher::new();
        while let Some(part) = parts.next().await {
            // Parts are of some kilobytes to a few megabytes: written in place, as a hop to another thread costs more.
            let part = part?;
            hasher.update(&part);
            file.write_all(&part).map_err(during(what))?;
        }
        if hasher.finalize().as_bytes() != digest.as_bytes() {
            remote.set_aside(&path, "its bytes are not those of its name").await?;
            return Err(Error::Corrupt { digest: *digest });
        }
        drop(file);
        self.finish(digest, staged)
    }

    /// Uploads a blob of the local store unless it is there; whether it was not.
    pub(crate) async fn push(&self, remote: &Store, digest: &BlobDigest, size: u64) -> Result<bool> {
        let path: ObjectPath = layout::blob(digest);
        if remote.size(&path).await? == Some(size) {
            return Ok(false);
        }
        if !self.local.has_local(digest, size)? {
            return Err(Error::NoBlob { digest: *digest });
        }
        remote.upload(&path, &self.local.blob_file(digest)?, digest, size).await?;
        Ok(true)
    }
}

fn describe(file: &Candidate) -> String {
    format!("write the blob of {} ({} bytes)", file.path.display(), file.size)
}

/// Was the file written to? Its link count and mode, and with them its change time, change when it is linked.
fn changed(before: &Metadata, now: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    let stamp = |meta: &Metadata| (meta.dev(), meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec());
    stamp(before) != stamp(now)
}
