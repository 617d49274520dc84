//! The wire to `flow exec`: all that a stage's process needs, in one file, and what it leaves behind, in another.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use flow_cache::{StageKey, failpoint, plain, write_over};
use fs_err as fs;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    error::{Error, Result, StageError},
    names::StageId,
    stage::{Decoded, External, InputTree},
};

/// The version of both files.
pub const FORMAT: u32 = 1;

/// What one stage's process is asked to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// [`FORMAT`].
    pub format: u32,
    /// The version of flow, which made what is in the scratch folder.
    pub flow: String,
    /// The kind.
    pub kind: String,
    /// The kind's version, which the process must have too.
    pub kind_version: u32,
    /// The stage's name, for messages only.
    pub stage: StageId,
    /// The stage's key.
    pub key: StageKey,
    /// The params and places.
    pub decoded: Decoded,
    /// The recipe's seed (0 for a kind without chance).
    pub seed: u64,
    /// Role → artifacts, materialised.
    pub inputs: BTreeMap<String, Vec<InputTree>>,
    /// Sources outside of flow.
    pub sources: Vec<External>,
    /// The folder that becomes the artifact; the process empties it first.
    pub output: PathBuf,
    /// A folder that survives attempts: checkpoints live here.
    pub scratch: PathBuf,
    /// The lock of the work dir, which the process holds while it lives.
    pub lock: PathBuf,
    /// Where reports are appended.
    pub events: PathBuf,
    /// Where the result is written, last.
    pub result: PathBuf,
    /// The compute device asked for, such as `cpu`.
    pub device: String,
    /// Cores that the process may use.
    pub threads: u32,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobResult {
    /// [`FORMAT`].
    pub format: u32,
    /// Nothing if the output is complete.
    pub error: Option<StageError>,
}

/// Writes a value as JSON beside its place, then renames it into place.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|source| Error::Format {
        what: "file",
        path: path.to_path_buf(),
        source,
    })?;
    text.push(b'\n');
    let beside = beside(path);
    let write = || {
        failpoint::on_file(path, "write")?;
        write_over(&mut plain::write(&beside)?, &text)
    };
    write().map_err(Error::io("write a file of the run"))?;
    let place = || {
        failpoint::on_file(path, "rename")?;
        fs::rename(&beside, path)?;
        failpoint::on_file(path, "renamed")
    };
    place().map_err(Error::io("put a file of the run in place"))
}

/// Takes back what [`write_json`] wrote, if there is such a file: it becomes the one that the next is written in, as ext4 is slow
/// to make files where others went a moment ago.
pub(crate) fn take_back(path: &Path) -> Result<()> {
    match fs::rename(path, beside(path)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("clear a work dir")(error)),
        _ => Ok(()),
    }
}

fn beside(path: &Path) -> PathBuf {
    path.with_extension("json.part")
}

/// Reads what [`write_json`] wrote.
pub fn read_json<T: DeserializeOwned>(path: &Path, what: &'static str) -> Result<T> {
    // A pipe would keep who reads it waiting, and a device has no end.
    let text = plain::read(path).map_err(Error::io("read a file of the run"))?;
    let read = serde_json::from_slice(&text);
    read.map_err(|source| {
        // serde's own words for a list would count the fields of a type.
        let is_object = text.trim_ascii_start().starts_with(b"{");
        let source = if is_object { source } else { serde::de::Error::custom("it is no JSON object") };
        Error::Format { what, path: path.to_path_buf(), source }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_waited_for_to_write_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("job.json");
        assert!(std::process::Command::new("mkfifo").arg(file.with_extension("json.part")).status().unwrap().success());
        let error = crate::error::chain(&write_json(&file, &1).unwrap_err());
        assert!(error.contains("job.json.part: it is no file but a pipe"), "{error}");
        assert!(!file.exists());
    }

    #[test]
    fn what_has_no_end_is_not_begun() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("job.json");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for path in [pipe.as_path(), Path::new("/dev/zero"), folder.path()] {
            let error = crate::error::chain(&read_json::<Job>(path, "job").unwrap_err());
            assert!(error.contains("it is no file"), "{error}");
        }
    }
}
