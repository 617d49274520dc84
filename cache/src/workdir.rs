//! Scratch of one stage key, kept until its record is written, so that a stage resumes inside itself.

use std::{
    fs::TryLockError,
    path::{Path, PathBuf},
};

use crate::{
    cache::{Cache, absent},
    digest::StageKey,
    error::{Error, Result, during},
    failpoint,
    folder::write_over,
    holder::Holder,
    plain,
};

/// The folder of a stage key. It is on the disk of the store, so that publishing its output moves no bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkDir {
    pub(crate) path: PathBuf,
}

impl Cache {
    /// Opens the work dir of `key`, making it if it is not there.
    pub fn work_dir(&self, key: &StageKey) -> Result<WorkDir> {
        let work = WorkDir { path: self.local().work(key) };
        let run = || {
            failpoint::at("work.create")?;
            if !work.path.exists() && self.take_spare_work(&work)? {
                return Ok(());
            }
            fs_err::create_dir_all(work.output())?;
            failpoint::at("work.create")?;
            fs_err::create_dir_all(work.scratch())
        };
        run().map_err(during(|| "create a work dir"))?;
        Ok(work)
    }

    /// Whether there is something to go on from in the work dir of `key`; nothing where there is no work dir.
    pub fn work_begun(&self, key: &StageKey) -> Option<bool> {
        let work = WorkDir { path: self.local().work(key) };
        work.path.exists().then(|| !work.is_scratch_empty())
    }
}

/// The right to write in a work dir. The system takes it back when its process ends, however it ends.
#[derive(Debug)]
pub struct WorkLock {
    file: fs_err::File,
}

impl WorkLock {
    /// Takes the lock that the file `path` stands for; `None` while another process (or thread) has it.
    ///
    /// A lease says which *run* may work on a key, and a dead run's lease passes on at once. The process that the dead run
    /// started may live a little longer, saving its state: this lock is what its successor waits for.
    pub fn try_take(path: &Path) -> Result<Option<Self>> {
        let file = plain::write(path).map_err(during(|| "open the lock of a work dir"))?;
        match file.file().try_lock() {
            Ok(()) => Ok(Some(Self { file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(Error::io("lock a work dir", source)),
        }
    }

    /// Writes down that it is this process that has the lock, for people: whether it is taken is the system's word.
    pub fn sign(&mut self) {
        let name = serde_json::to_vec(&Holder::this_process("")).unwrap_or_default();
        // Where there is no room for it, there is no name.
        let _ = write_over(&mut self.file, &name);
    }

    /// Who had the lock last, where that was written down.
    pub fn signer(path: &Path) -> Option<Holder> {
        serde_json::from_slice(&plain::read(path).ok()?).ok()
    }
}

impl WorkDir {
    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What becomes the artifact.
    pub fn output(&self) -> PathBuf {
        self.path.join("output")
    }

    /// What does not: checkpoints, finished parts.
    pub fn scratch(&self) -> PathBuf {
        self.path.join("scratch")
    }

    /// Where a stage's inputs are laid out.
    pub fn inputs(&self) -> PathBuf {
        self.path.join("inputs")
    }

    /// The file that [`WorkLock`] is taken on.
    pub fn lock(&self) -> PathBuf {
        self.path.join("lock")
    }

    /// Does nothing lie in `scratch`?
    pub fn is_scratch_empty(&self) -> bool {
        fs_err::read_dir(self.scratch()).is_ok_and(|mut found| found.next().is_none())
    }

    /// Removes it with all that is in it.
    pub fn remove(&self) -> Result<()> {
        failpoint::at("work.remove").map_err(during(|| "remove a work dir"))?;
        absent(fs_err::remove_dir_all(&self.path)).map_err(during(|| "remove a work dir"))?;
        failpoint::at("work.removed").map_err(during(|| "remove a work dir"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_stays_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open_local(dir.path()).unwrap();
        let key = StageKey::of(b"key");
        let work = cache.work_dir(&key).unwrap();
        fs_err::write(work.scratch().join("checkpoint"), "7").unwrap();
        fs_err::write(work.output().join("part"), "x").unwrap();
        cache.publish(&work.output()).await.unwrap();

        let again = cache.work_dir(&key).unwrap();
        assert_eq!(fs_err::read_to_string(again.scratch().join("checkpoint")).unwrap(), "7");
        let lock = WorkLock::try_take(&again.lock()).unwrap().expect("nobody has it");
        assert!(WorkLock::try_take(&again.lock()).unwrap().is_none());
        drop(lock);
        assert!(WorkLock::try_take(&again.lock()).unwrap().is_some());
        assert!(!again.is_scratch_empty());
        assert_eq!((cache.work_begun(&key), cache.work_begun(&StageKey::of(b"other"))), (Some(true), None));
        again.remove().unwrap();
        again.remove().unwrap();
        assert!(!again.path().exists());
    }
}
