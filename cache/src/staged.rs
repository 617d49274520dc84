//! A file, or a folder, that is written aside and appears under its name only when it is whole.
//!
//! The guard's drop removes what was not published, so that every early return and every panic cleans up. What `kill -9`
//! leaves lies in `tmp/` and is never looked at; `verify` lists it and `gc` removes it.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    io,
    path::{Path, PathBuf},
};

use crate::failpoint;

/// A number that no other process or thread has. Seeded by the system, so that two hosts on one file system differ too.
pub(crate) fn nonce() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// A name aside. Nothing is there yet: the owner creates, links or clones it.
#[derive(Debug)]
pub(crate) struct Staged {
    path: PathBuf,
}

impl Staged {
    pub(crate) fn reserve(tmp: &Path) -> Self {
        Self { path: tmp.join(format!("{:016x}", nonce())) }
    }

    /// Beside `to`, for a folder that must be renamed to a place outside the store, maybe on another disk.
    pub(crate) fn beside(to: &Path) -> Self {
        let name = to.file_name().unwrap_or_default().to_string_lossy();
        Self { path: to.with_file_name(format!(".{name}.{:016x}", nonce())) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Moves it to its name, replacing what may be there. The caller makes data and folder durable.
    ///
    /// Where both names are the same inode (two processes publish one hard-linked file) `rename` does nothing and reports
    /// success; the drop of the guard then removes the name aside.
    pub(crate) fn publish(self, to: &Path) -> io::Result<()> {
        match fs_err::rename(&self.path, to) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if let Some(parent) = to.parent() {
                    fs_err::create_dir_all(parent)?;
                }
                fs_err::rename(&self.path, to)
            }
            done => done,
        }
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Not there after a publication. A failure leaves a stray temporary, which `verify` shows.
        let gone = match std::fs::symlink_metadata(&self.path) {
            Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(&self.path),
            Ok(_) => std::fs::remove_file(&self.path),
            Err(_) => Ok(()),
        };
        if let Err(error) = gone {
            tracing::warn!(path = %self.path.display(), %error, "a temporary could not be removed");
        }
    }
}

/// Replaces a small advisory file. Atomic; durable is not needed, since losing it loses only speed or a reason.
pub(crate) fn replace(tmp: &Path, to: &Path, bytes: &[u8]) -> io::Result<()> {
    fs_err::create_dir_all(tmp)?;
    let staged = Staged::reserve(tmp);
    failpoint::at("advice.write")?;
    fs_err::write(staged.path(), bytes)?;
    failpoint::at("advice.rename")?;
    staged.publish(to)?;
    failpoint::at("advice.renamed")
}

/// Makes the names in `folder` durable.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    fs_err::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_published_vanishes() {
        let dir = tempfile::tempdir().unwrap();
        let staged = Staged::reserve(dir.path());
        fs_err::write(staged.path(), "half").unwrap();
        drop(staged);
        let staged = Staged::reserve(dir.path());
        fs_err::create_dir_all(staged.path().join("a/b")).unwrap();
        drop(staged);
        assert_eq!(fs_err::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn publishing_over_the_same_inode_leaves_one_name() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("blob");
        fs_err::write(&to, "x").unwrap();
        let staged = Staged::reserve(dir.path());
        fs_err::hard_link(&to, staged.path()).unwrap();
        staged.publish(&to).unwrap();
        assert_eq!(fs_err::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn replace_makes_the_folders() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("a/b/c");
        replace(&dir.path().join("tmp"), &to, b"1").unwrap();
        replace(&dir.path().join("tmp"), &to, b"2").unwrap();
        assert_eq!(fs_err::read(&to).unwrap(), b"2");
        assert_eq!(fs_err::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    }
}
