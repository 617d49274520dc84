//! The folder of one run: `runs/ID/` beside the store.
//!
//! ```text
//! runs/20261124-083422-1f3a/
//!   process.json     who runs it
//!   recipe.json      the resolved recipe, frozen
//!   plan.json        the stages with all that enters their keys, as `flow plan --json` prints them (`plan::written`)
//!   events.jsonl     everything that happened
//!   logs/STAGE.log   what a stage's process printed
//!   tensorboard/     curves of what stages measure, written by whoever watches
//! ```

use std::path::{Path, PathBuf};

use flow_cache::{Holder, failpoint};
use fs_err as fs;
use serde::Serialize;

use crate::{
    error::{Error, Result},
    job::{read_json, write_json},
    names::{StageId, nearest},
    plan::WrittenPlan,
};

/// The folder of one run.
#[derive(Debug, Clone)]
pub struct RunFolder {
    id: String,
    path: PathBuf,
}

impl RunFolder {
    /// Makes a folder for a new run of this process. The id is the time (UTC) and, should that be taken, a number.
    pub fn create(runs: &Path) -> Result<Self> {
        fs::create_dir_all(runs).map_err(Error::io("create the folder of runs"))?;
        let stamp = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
        for attempt in 0u32.. {
            let id = if attempt == 0 { stamp.clone() } else { format!("{stamp}-{attempt}") };
            let path = runs.join(&id);
            failpoint::at("run.create").map_err(Error::io("create the folder of a run"))?;
            match fs::create_dir(&path) {
                Ok(()) => {
                    fs::create_dir(path.join("logs")).map_err(Error::io("create the folder of a run's logs"))?;
                    write_json(&path.join("process.json"), &Holder::this_process(&id))?;
                    return Ok(Self { id, path });
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::Io { doing: "create the folder of a run", source: error }),
            }
        }
        Err(Error::NoSuchRun { name: stamp, nearest: None })
    }

    /// The run of this id, or the last one.
    pub fn open(runs: &Path, id: Option<&str>) -> Result<Self> {
        let known = list(runs)?;
        let Some(last) = known.last() else { return Err(Error::NoRuns { runs: runs.to_owned() }) };
        // An id is one of the list: nothing that leads elsewhere.
        let id = id.unwrap_or(last).to_owned();
        if known.contains(&id) {
            let path = runs.join(&id);
            return Ok(Self { id, path });
        }
        // Of runs that are as similar the last one is meant.
        let nearest = nearest(&id, known.iter().rev().map(String::as_str), 1).pop().map(str::to_owned);
        Err(Error::NoSuchRun { name: id, nearest })
    }

    /// The run's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The event log.
    pub fn events(&self) -> PathBuf {
        self.path.join("events.jsonl")
    }

    /// A stage's log. `expert[rust]` is `expert.rust.log`, for shells that give brackets a meaning.
    pub fn log(&self, stage: &StageId) -> PathBuf {
        self.path.join("logs").join(format!("{}.log", stage.label()))
    }

    /// Whether the process that runs it lives, as far as can be seen from here: one on another machine counts as alive.
    pub fn is_alive(&self) -> bool {
        read_json::<Holder>(&self.path.join("process.json"), "process").is_ok_and(|process| !process.is_dead())
    }

    /// Writes the frozen recipe and the plan.
    pub fn freeze(&self, recipe: &impl Serialize, plan: &WrittenPlan) -> Result<()> {
        write_json(&self.path.join("recipe.json"), recipe)?;
        write_json(&self.path.join("plan.json"), plan)
    }
}

/// The ids of all runs, oldest first.
pub fn list(runs: &Path) -> Result<Vec<String>> {
    if !runs.is_dir() {
        return Ok(Vec::new());
    }
    let mut ids = Vec::new();
    for entry in fs::read_dir(runs).map_err(Error::io("read the folder of runs"))? {
        let entry = entry.map_err(Error::io("read the folder of runs"))?;
        if entry.path().join("events.jsonl").is_file() {
            ids.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    ids.sort_by(|a, b| age(a).cmp(&age(b)));
    Ok(ids)
}

/// What orders ids: the second in which a run began, and which one of that second it is, as a number.
fn age(id: &str) -> (&str, u32, &str) {
    let nth = id.rsplit_once('-').filter(|(stamp, _)| stamp.len() == STAMP);
    match nth.and_then(|(stamp, nth)| Some((stamp, nth.parse().ok()?))) {
        Some((stamp, nth)) => (stamp, nth, id),
        None => (id, 0, id),
    }
}

/// Characters of the time in an id.
const STAMP: usize = "20261124-083422".len();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_many_runs_of_one_second_is_the_last() {
        let folder = tempfile::tempdir().unwrap();
        let began =
            ["20261124-083422", "20261124-083422-1", "20261124-083422-9", "20261124-083422-15", "20261124-083423"];
        for id in began.iter().rev() {
            fs::create_dir(folder.path().join(id)).unwrap();
            fs::write(folder.path().join(id).join("events.jsonl"), "").unwrap();
        }
        assert_eq!(list(folder.path()).unwrap(), began);
    }
}
