//! Checkpoints of a training run, written while it goes on: the state is a copy in host memory, its files are a thread's work.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use serde_json::{Value, json};

use super::{Checkpoint, latest, save};
use crate::error::{Error, Result};
use crate::state::TrainState;

const PARAMETERS: &str = "parameters";
const FIRST: &str = "first-moments";
const SECOND: &str = "second-moments";
/// What the last updates measured, each number as the bits of a double: JSON's own numbers need not come back the same.
const RECENT: &str = "recent";

/// Writes the states of one run, one at a time: a second one waits for the first.
#[derive(Debug)]
pub struct Saver {
    folder: PathBuf,
    keep: usize,
    running: Option<JoinHandle<Result<()>>>,
}

impl Saver {
    /// Into `folder`, of which the `keep` newest stay (at least 1).
    pub fn new(folder: &Path, keep: usize) -> Self {
        Self { folder: folder.to_owned(), keep: keep.max(1), running: None }
    }

    /// Begins to write `state`, once the one before is written.
    ///
    /// # Errors
    /// What went wrong with the one before; [`Error::Io`] where no thread can be had.
    pub fn save(&mut self, state: TrainState) -> Result<()> {
        self.wait()?;
        let (folder, keep) = (self.folder.clone(), self.keep);
        let work = move || write(&folder, &state, keep);
        self.running = Some(std::thread::Builder::new().name("checkpoint".to_owned()).spawn(work)?);
        Ok(())
    }

    /// Waits until what was begun is written.
    ///
    /// # Errors
    /// What went wrong with it.
    pub fn wait(&mut self) -> Result<()> {
        let Some(running) = self.running.take() else { return Ok(()) };
        running.join().unwrap_or_else(|_| {
            let what = "a checkpoint".to_owned();
            Err(Error::Input { what, reason: "the thread that wrote it panicked".to_owned() })
        })
    }

    /// The newest whole state, if there is one.
    ///
    /// # Errors
    /// Those of [`latest`], and of reading it.
    pub fn latest(&self) -> Result<Option<TrainState>> {
        latest(&self.folder)?.map(|found| read(&found)).transpose()
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        if let Err(error) = self.wait() {
            tracing::warn!(%error, "the last checkpoint was not written");
        }
    }
}

fn write(folder: &Path, state: &TrainState, keep: usize) -> Result<()> {
    let TrainState { step, parameters, first_moments, second_moments, recent } = state;
    let sets = [(PARAMETERS, parameters), (FIRST, first_moments), (SECOND, second_moments)];
    let recent: Vec<[u64; 2]> = recent.iter().map(|measured| measured.map(f64::to_bits)).collect();
    save(folder, *step, &sets, json!({ RECENT: recent }), keep).map(drop)
}

fn read(found: &Checkpoint) -> Result<TrainState> {
    let bits = found.extra().get(RECENT).cloned().unwrap_or(Value::Array(Vec::new()));
    let bits: Vec<[u64; 2]> =
        serde_json::from_value(bits).map_err(|source| Error::Json { path: found.path().to_owned(), source })?;
    Ok(TrainState {
        step: found.step(),
        parameters: found.set(PARAMETERS)?,
        first_moments: found.set(FIRST)?,
        second_moments: found.set(SECOND)?,
        recent: bits.into_iter().map(|measured| measured.map(f64::from_bits)).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{Weight, Weights};

    fn state(step: u64) -> TrainState {
        let set = |x: f32| Weights::from([("a".to_owned(), Weight { shape: vec![2], data: vec![x, step as f32] })]);
        let recent = vec![[0.1 + 0.2, 1.0 / 3.0], [f64::MAX, 5e-324]];
        TrainState { step, parameters: set(1.0), first_moments: set(2.0), second_moments: set(3.0), recent }
    }

    #[test]
    fn states_come_back_to_the_bit_and_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let mut saver = Saver::new(folder.path(), 2);
        assert_eq!(saver.latest().unwrap(), None);
        for step in 1..=4 {
            saver.save(state(step)).unwrap();
        }
        saver.wait().unwrap();
        assert_eq!(saver.latest().unwrap(), Some(state(4)));
        assert_eq!(fs_err::read_dir(folder.path()).unwrap().count(), 2);
        saver.save(state(5)).unwrap();
        drop(saver);
        assert_eq!(Saver::new(folder.path(), 2).latest().unwrap(), Some(state(5)));
    }

    #[test]
    fn a_failure_is_told_at_the_next_occasion() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs_err::write(&file, "").unwrap();
        let mut saver = Saver::new(&file.join("below"), 1);
        saver.save(state(1)).unwrap();
        assert!(matches!(saver.save(state(2)), Err(Error::Io(_))));
        saver.save(state(2)).unwrap();
        assert!(saver.wait().is_err());
        assert!(saver.wait().is_ok());
    }
}
