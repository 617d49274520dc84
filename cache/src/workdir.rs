//! Scratch of one stage key, kept until its record is written, so that a stage resumes inside itself.

use std::{
    fs::TryLockError,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::PoisonError,
};

use crate::{
    cache::{Cache, absent, blocking},
    digest::StageKey,
    error::{Error, Result, during},
    failpoint,
    holder::Holder,
    staged::nonce,
};

/// The folder of a stage key. It is on the disk of the store, so that publishing its output moves no bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkDir {
    path: PathBuf,
}

impl Cache {
    /// Opens the work dir of `key`, making it if it is not there.
    pub fn work_dir(&self, key: &StageKey) -> Result<WorkDir> {
        let work = WorkDir { path: self.local().work(key) };
        let run = || {
            failpoint::at("work.create")?;
            if !work.path.exists() && self.take_spare(&work)? {
                return Ok(());
            }
            fs_err::create_dir_all(work.output())?;
            failpoint::at("work.create")?;
            fs_err::create_dir_all(work.scratch())
        };
        run().map_err(during(|| "create a work dir"))?;
        Ok(work)
    }

    /// Moves a work dir of which nothing is needed any more out of the way of its key: who has the key's lease next finds nothing,
    /// and loses nothing. The next stage of this process may have it, emptied: where a disk is told of each block that comes
    /// free, to remove folders costs milliseconds. [`Cache::remove_put_away`] removes what is left.
    pub fn put_away(&self, work: &WorkDir) -> Result<()> {
        let away = self.local().tmp().join(format!("{AWAY}{:016x}", nonce()));
        let run = || {
            failpoint::at("work.put-away")?;
            fs_err::rename(work.path(), &away)?;
            failpoint::at("work.removed")?;
            let put_away = WorkDir { path: away };
            // Another run may be removing it; one that is not empty is not used again.
            if [put_away.output(), put_away.inputs()].iter().all(|folder| empty(folder).is_ok()) {
                self.spare().lock().unwrap_or_else(PoisonError::into_inner).push(put_away);
            }
            Ok(())
        };
        run().map_err(during(|| "put a work dir away"))
    }

    /// Makes a work dir of one that was put away, if there is one.
    fn take_spare(&self, work: &WorkDir) -> io::Result<bool> {
        loop {
            // Each change of the list is whole, so that of a thread that panicked is as good as any.
            let spare = self.spare().lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(spare) = spare else { return Ok(false) };
            fs_err::create_dir_all(self.local().works())?;
            // Another run may have removed it.
            if absent(fs_err::rename(spare.path(), work.path()))?.is_some() {
                return Ok(true);
            }
        }
    }

    /// Removes the work dirs that were put away, those of runs that were killed among them: nobody needs any of them.
    pub async fn remove_put_away(&self) -> Result<()> {
        let tmp = self.local().tmp();
        let run = move || {
            for entry in absent(fs_err::read_dir(&tmp))?.into_iter().flatten() {
                let entry = entry?;
                let name = entry.file_name().to_string_lossy().into_owned();
                // First out of reach of a run that would take it for its next stage.
                let gone = tmp.join(format!("{GONE}{:016x}", nonce()));
                // One that is being removed was left by a process that was killed over it; if it was not, both go on.
                let is_left = name.starts_with(AWAY) || name.starts_with(GONE);
                let is_ours = is_left && absent(fs_err::rename(entry.path(), &gone))?.is_some();
                while is_ours && absent(fs_err::remove_dir_all(&gone))?.is_none() && gone.exists() {}
            }
            Ok(())
        };
        blocking(move || run().map_err(during(|| "remove work dirs that were put away"))).await
    }
}

/// Removes what is in a folder.
fn empty(folder: &Path) -> io::Result<()> {
    for entry in absent(fs_err::read_dir(folder))?.into_iter().flatten() {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs_err::remove_dir_all(entry.path())?;
        } else {
            fs_err::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Begins the name of a work dir that was put away.
const AWAY: &str = "away-";
/// And of one that is being removed.
const GONE: &str = "gone-";

/// The right to write in a work dir. The system takes it back when its process ends, however it ends.
#[derive(Debug)]
pub struct WorkLock {
    file: std::fs::File,
}

impl WorkLock {
    /// Takes the lock that the file `path` stands for; `None` while another process (or thread) has it.
    ///
    /// A lease says which *run* may work on a key, and a dead run's lease passes on at once. The process that the dead run
    /// started may live a little longer, saving its state: this lock is what its successor waits for.
    pub fn try_take(path: &Path) -> Result<Option<Self>> {
        let file = fs_err::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(during(|| "open the lock of a work dir"))?
            .into_parts()
            .0;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(Error::io("lock a work dir", source)),
        }
    }

    /// Writes down that it is this process that has the lock, for people: whether it is taken is the system's word.
    pub fn sign(&mut self) {
        let name = serde_json::to_vec(&Holder::this_process("")).unwrap_or_default();
        // Where there is no room for it, there is no name.
        let _ = self.file.set_len(0).and_then(|()| self.file.write_all(&name));
    }

    /// Who had the lock last, where that was written down.
    pub fn signer(path: &Path) -> Option<Holder> {
        serde_json::from_slice(&fs_err::read(path).ok()?).ok()
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
        again.remove().unwrap();
        again.remove().unwrap();
        assert!(!again.path().exists());

        let work = cache.work_dir(&key).unwrap();
        fs_err::write(work.output().join("part"), "x").unwrap();
        fs_err::create_dir_all(work.inputs().join("tokens")).unwrap();
        cache.put_away(&work).unwrap();
        let tmp = || fs_err::read_dir(dir.path().join("v1/tmp")).unwrap().count();
        assert_eq!((work.path().exists(), tmp()), (false, 1));

        // The next one gets it, and finds nothing in it.
        let next = cache.work_dir(&StageKey::of(b"next")).unwrap();
        assert_eq!((work.path().exists(), tmp()), (false, 0));
        for folder in [next.output(), next.scratch(), next.inputs()] {
            assert_eq!(fs_err::read_dir(folder).unwrap().count(), 0);
        }
        cache.put_away(&next).unwrap();
        let other = Cache::open_local(dir.path()).unwrap();
        other.remove_put_away().await.unwrap();
        assert_eq!(tmp(), 0);
        other.remove_put_away().await.unwrap();
        assert!(cache.work_dir(&key).unwrap().output().exists(), "what another run removed is made");
    }
}
