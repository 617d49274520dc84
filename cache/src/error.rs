//! What can go wrong in the store. Messages are fragments that fit after "failed to"; the cause is in `source`.

use std::{error::Error as StdError, io, path::PathBuf};

use crate::digest::{ArtifactDigest, BlobDigest, StageKey};

/// The result of an operation on the store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An operation on the store that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written; the source names its path.
    #[error("{what}")]
    Io {
        /// What was being done, as a verb phrase.
        what: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The disk, or the quota on it, is full.
    #[error(
        "{what}: the disk or its quota is full; nothing was published, free some space (`flow cache gc`) and run again"
    )]
    DiskFull {
        /// What was being written, as a verb phrase.
        what: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// An object store refused or failed.
    #[error("{what} in {store}")]
    Store {
        /// What was being done, as a verb phrase.
        what: String,
        /// The store, as a person would write it.
        store: String,
        /// The cause.
        #[source]
        source: object_store::Error,
    },
    /// Text that should be a digest or a key is none.
    #[error("read `{text}` as a {kind}: it must be 64 lowercase hexadecimal digits")]
    Digest {
        /// The name of the id type.
        kind: &'static str,
        /// What was given.
        text: String,
    },
    /// A path inside an artifact that is not allowed there.
    #[error("take `{path}` as a path inside an artifact: {reason}")]
    RelPath {
        /// What was given.
        path: String,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// A manifest that is not in canonical form.
    #[error("read a manifest: line {line}: {reason}")]
    Manifest {
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        reason: String,
    },
    /// Something in a folder that cannot be part of an artifact.
    #[error("take {path} into an artifact: {reason}", path = path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// A file was written to while it was being published.
    #[error("publish {path}: it changed while it was being read; is something still writing to it?", path = path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// An artifact of which the manifest is not in the store.
    #[error("find artifact {digest} in the store; run its stage again")]
    NoArtifact {
        /// The artifact.
        digest: ArtifactDigest,
    },
    /// An artifact without the file that was asked for.
    #[error("find `{path}` in artifact {digest}", digest = digest.short())]
    NoFile {
        /// The artifact.
        digest: ArtifactDigest,
        /// The path inside it.
        path: String,
    },
    /// A blob that a manifest names is not in the store.
    #[error("find blob {digest} in the store; run the stage that made it again")]
    NoBlob {
        /// The blob.
        digest: BlobDigest,
    },
    /// A blob whose bytes are not those that its name says. It has been set aside.
    #[error("read blob {digest}: its bytes are damaged and were set aside; run the stage that made it again")]
    Corrupt {
        /// The blob.
        digest: BlobDigest,
    },
    /// The folder to materialize into is there already.
    #[error("materialize into {path}: it exists already", path = path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// A record that cannot be stored.
    #[error("store the record of stage key {key}: {reason}", key = key.short())]
    BadRecord {
        /// The key.
        key: StageKey,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// A record that a newer flow wrote.
    #[error("use the record of stage key {key}: its format {found} is newer than this flow's {known}; update flow", key = key.short())]
    NewerRecord {
        /// The key.
        key: StageKey,
        /// The format found.
        found: u32,
        /// The format that this version writes.
        known: u32,
    },
    /// The lease went to somebody else, so nothing may be published under it.
    #[error("publish stage key {key}: the lease (attempt {attempt}) was lost to a later attempt", key = key.short())]
    LeaseLost {
        /// The key.
        key: StageKey,
        /// The attempt that was lost.
        attempt: u64,
    },
    /// A lease with the last of all numbers, which no flow wrote.
    #[error(
        "take the lease of stage key {key}: its last attempt has the highest number that there is, which no flow wrote; \
         remove the folder `v1/leases/{key}` of the store"
    )]
    LastAttempt {
        /// The key.
        key: StageKey,
    },
    /// A store location that cannot be understood.
    #[error("use `{text}` as a store: {reason}")]
    Location {
        /// What was given.
        text: String,
        /// Why not.
        reason: String,
    },
    /// A cloud store, and this build cannot speak to it.
    #[error("open `{text}`: this flow was built without the cargo feature `cloud`")]
    NoCloud {
        /// What was given.
        text: String,
    },
    /// A task of the store panicked or was cancelled with its runtime.
    #[error("finish a background task of the store")]
    Task {
        /// The cause.
        #[source]
        source: tokio::task::JoinError,
    },
}

impl Error {
    /// An [`Error::Io`], or [`Error::DiskFull`] where that is the cause.
    pub(crate) fn io(what: impl Into<String>, source: io::Error) -> Self {
        let what = what.into();
        if is_full(source.kind()) { Self::DiskFull { what, source } } else { Self::Io { what, source } }
    }

    /// Whether the same may go well in a while: a store over a network that failed or did not answer, a disk that had an
    /// error. What is refused, full or damaged stays so.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Store { source, .. } => flow_patience::may_pass(source),
            Self::Io { source, .. } => {
                !matches!(source.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
            }
            _ => false,
        }
    }

    /// Whether the store may not be written to, or read, by whoever runs this.
    pub fn is_refused(&self) -> bool {
        let mut cause: Option<&(dyn StdError + 'static)> = Some(self);
        while let Some(error) = cause {
            let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
            if matches!(kind, Some(io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)) {
                return true;
            }
            cause = error.source();
        }
        false
    }

    /// An [`Error::Store`], or [`Error::DiskFull`] where that is the cause.
    pub(crate) fn store(what: impl Into<String>, store: &str, source: object_store::Error) -> Self {
        let what = what.into();
        let mut cause: Option<&(dyn StdError + 'static)> = Some(&source);
        while let Some(error) = cause {
            if error.downcast_ref::<io::Error>().is_some_and(|e| is_full(e.kind())) {
                return Self::DiskFull { what, source: io::Error::other(source) };
            }
            cause = error.source();
        }
        Self::Store { what, store: store.to_owned(), source }
    }
}

fn is_full(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// `map_err(during(|| …))` for file errors.
pub(crate) fn during<W: Into<String>>(what: impl FnOnce() -> W) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::io(what(), source)
}
