//! Folders that are not needed any more, for the next stage that needs some: where a disk is told of each block that comes free,
//! to remove a folder costs milliseconds, and ext4 is slow to make files where others went a moment ago.
//!
//! Each lies among the temporaries under a name of its own, so that what a killed run leaves is removed by the next.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{MutexGuard, PoisonError},
};

use crate::{
    cache::{Cache, absent, blocking},
    error::{Result, during},
    failpoint,
    staged::nonce,
    workdir::WorkDir,
};

/// Begins the name of a folder that was put away.
const AWAY: &str = "away-";
/// And of one that is being removed.
const GONE: &str = "gone-";
/// More folders are not kept: no stage of a moment needs them.
const KEPT: usize = 64;

/// What this process has put away, and may use again. Another run may remove any of it.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    works: Vec<WorkDir>,
    /// Empty ones.
    folders: Vec<PathBuf>,
}

impl Cache {
    /// Moves a work dir of which nothing is needed any more out of the way of its key: who has the key's lease next finds nothing,
    /// and loses nothing. The next stage of this process may have it, emptied. [`Cache::remove_put_away`] removes what is left.
    pub fn put_away(&self, work: &WorkDir) -> Result<()> {
        let run = || {
            failpoint::at("work.put-away")?;
            let put_away = WorkDir { path: self.move_away(work.path())? };
            failpoint::at("work.removed")?;
            // Another run may be removing it; one that is not empty is not used again.
            if [put_away.output(), put_away.inputs()].iter().all(|folder| self.empty(folder).is_ok()) {
                self.spares().works.push(put_away);
            }
            Ok(())
        };
        run().map_err(during(|| "put a work dir away"))
    }

    /// Makes a work dir of one that was put away, if there is one.
    pub(crate) fn take_spare_work(&self, work: &WorkDir) -> io::Result<bool> {
        fs_err::create_dir_all(self.local().works())?;
        self.take(|spares| spares.works.pop().map(|spare| spare.path), work.path())
    }

    /// Makes a folder of the store, and those above it.
    pub(crate) fn make_folder(&self, path: &Path) -> io::Result<()> {
        if let Some(above) = path.parent().filter(|above| !above.is_dir()) {
            self.make_folder(above)?;
        }
        if self.take(|spares| spares.folders.pop(), path)? { Ok(()) } else { fs_err::create_dir(path) }
    }

    fn take(&self, spare: impl Fn(&mut Spares) -> Option<PathBuf>, to: &Path) -> io::Result<bool> {
        loop {
            let Some(spare) = spare(&mut self.spares()) else { return Ok(false) };
            // Another run may have removed it.
            if absent(fs_err::rename(spare, to))?.is_some() {
                return Ok(true);
            }
        }
    }

    fn move_away(&self, path: &Path) -> io::Result<PathBuf> {
        let away = self.local().tmp().join(format!("{AWAY}{:016x}", nonce()));
        fs_err::rename(path, &away)?;
        Ok(away)
    }

    /// Takes out what is in a folder.
    fn empty(&self, folder: &Path) -> io::Result<()> {
        for entry in absent(fs_err::read_dir(folder))?.into_iter().flatten() {
            let entry = entry?;
            let path = entry.path();
            if !entry.file_type()?.is_dir() {
                fs_err::remove_file(path)?;
                continue;
            }
            self.empty(&path)?;
            if self.spares().folders.len() < KEPT {
                let spare = self.move_away(&path)?;
                self.spares().folders.push(spare);
            } else {
                fs_err::remove_dir(path)?;
            }
        }
        Ok(())
    }

    /// Removes what was put away, also by runs that were killed: nobody needs any of it.
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

    /// Each change of the lists is whole, so that those of a thread that panicked are as good as any.
    fn spares(&self) -> MutexGuard<'_, Spares> {
        self.spare().lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{digest::StageKey, suite::write_files};

    fn put_away(dir: &Path) -> usize {
        fs_err::read_dir(dir.join("v1/tmp")).unwrap().count()
    }

    #[tokio::test]
    async fn the_next_stage_gets_folders_with_nothing_in_them() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open_local(dir.path()).unwrap();
        let work = cache.work_dir(&StageKey::of(b"key")).unwrap();
        write_files(&work.output(), &[("part", b"x"), ("sub/part", b"y")]);
        let artifact = cache.publish(&work.output()).await.unwrap().digest;
        cache.materialize(&artifact, &work.inputs().join("tokens/news")).await.unwrap();
        cache.put_away(&work).unwrap();
        // The work dir, the output's `sub` and the inputs' `tokens`, `news` and `sub`.
        assert_eq!((work.path().exists(), put_away(dir.path())), (false, 5));

        let next = cache.work_dir(&StageKey::of(b"next")).unwrap();
        assert_eq!((work.path().exists(), put_away(dir.path())), (false, 4));
        for folder in [next.output(), next.scratch(), next.inputs()] {
            assert_eq!(fs_err::read_dir(folder).unwrap().count(), 0);
        }
        cache.materialize(&artifact, &next.inputs().join("tokens/code")).await.unwrap();
        assert_eq!(put_away(dir.path()), 2, "one for `tokens`, one for `code`");
        assert_eq!(fs_err::read(next.inputs().join("tokens/code/sub/part")).unwrap(), b"y");
        assert_eq!(fs_err::read_dir(next.inputs().join("tokens")).unwrap().count(), 1);
        assert!(cache.verify().await.unwrap().is_sound());
    }

    #[tokio::test]
    async fn what_another_run_removed_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open_local(dir.path()).unwrap();
        let work = cache.work_dir(&StageKey::of(b"key")).unwrap();
        write_files(&work.inputs(), &[("tokens/news/part", b"x")]);
        cache.put_away(&work).unwrap();
        let other = Cache::open_local(dir.path()).unwrap();
        other.remove_put_away().await.unwrap();
        other.remove_put_away().await.unwrap();
        assert_eq!(put_away(dir.path()), 0);
        assert!(cache.work_dir(&StageKey::of(b"key")).unwrap().output().exists());
        cache.make_folder(&work.inputs().join("tokens/news")).unwrap();
        assert!(work.inputs().join("tokens/news").exists());
    }

    #[test]
    fn of_thousands_of_folders_few_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open_local(dir.path()).unwrap();
        let work = cache.work_dir(&StageKey::of(b"key")).unwrap();
        for i in 0..2 * KEPT {
            fs_err::create_dir_all(work.inputs().join(i.to_string())).unwrap();
        }
        cache.put_away(&work).unwrap();
        assert_eq!(put_away(dir.path()), KEPT + 1);
    }
}
