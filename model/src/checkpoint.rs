//! What a cut-off training goes on from: named sets of tensors and whatever else the trainer needs, as one folder.
//!
//! ```text
//! checkpoints/
//!   step-0000000200/            whole, or not there: written under another name, flushed, renamed
//!     checkpoint.json           step, extra, digest of each file; and its own digest
//!     weights.safetensors       one file a set
//!     moments-1.safetensors …
//!   .partial-step-0000000300/   of a process that was cut off; the next save takes it away
//! ```
//!
//! [`latest`] trusts nothing: a folder whose digests do not hold is passed over, and the one before it is taken.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::json;
use crate::safetensors::{self, Dtype, SafeTensors};
use crate::weights::{Digest, Weights};

pub mod saver;

const FORMAT: u64 = 1;
const RECORD: &str = "checkpoint.json";
const PARTIAL: &str = ".partial-";

/// `checkpoint.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    format: u64,
    step: u64,
    /// BLAKE3 of each set's file.
    sets: BTreeMap<String, Digest>,
    extra: Value,
    /// Digest of this record's text with this field absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
}

impl Record {
    fn own_digest(&self) -> Result<Digest> {
        let bare = Self { digest: None, ..self.clone() };
        let value = serde_json::to_value(bare).map_err(|source| Error::Json { path: RECORD.into(), source })?;
        Ok(Digest::of(json::text(&value).as_bytes()))
    }
}

/// A checkpoint that was found whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    path: PathBuf,
    record: Record,
}

/// Writes a checkpoint of `step` (the number of updates that were made) into `folder`, and then takes away all but the `keep` newest.
/// `sets` are tensors under names such as `weights`; they are kept as f32, bit for bit.
///
/// # Errors
/// [`Error::Io`]; [`Error::Input`] for a set's name that is no plain word, or `keep` of 0.
pub fn save(folder: &Path, step: u64, sets: &[(&str, &Weights)], extra: Value, keep: usize) -> Result<Checkpoint> {
    let bad = |reason: String| Err(Error::Input { what: "a checkpoint".into(), reason });
    if keep == 0 {
        return bad("0 checkpoints are to be kept, not even this one".into());
    }
    for (i, (name, _)) in sets.iter().enumerate() {
        let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !plain || name.is_empty() || sets[..i].iter().any(|(other, _)| other == name) {
            return bad(format!(
                "`{name}` cannot name a set of tensors: lower-case letters, digits and `-`, each name once"
            ));
        }
    }
    fs_err::create_dir_all(folder)?;
    let name = format!("step-{step:010}");
    let partial = folder.join(format!("{PARTIAL}{name}"));
    if partial.exists() {
        fs_err::remove_dir_all(&partial)?;
    }
    fs_err::create_dir(&partial)?;
    let mut record = Record { format: FORMAT, step, sets: BTreeMap::new(), extra, digest: None };
    for (set, weights) in sets {
        let path = partial.join(file_name(set));
        safetensors::save(&path, Dtype::F32, weights.iter().map(|(name, weight)| (name.as_str(), weight)))?;
        record.sets.insert((*set).to_owned(), Digest::of_file(&path)?);
    }
    record.digest = Some(record.own_digest()?);
    json::write(&partial.join(RECORD), &record)?;
    flush(&partial)?;

    let path = folder.join(name);
    // A checkpoint of the same step can only be one that was not good enough to go on from, or the same.
    if path.exists() {
        let stale = folder.join(format!("{PARTIAL}stale-{step:010}"));
        if stale.exists() {
            fs_err::remove_dir_all(&stale)?;
        }
        fs_err::rename(&path, &stale)?;
    }
    fs_err::rename(&partial, &path)?;
    flush(folder)?;
    take_away_old(folder, step, keep)?;
    Ok(Checkpoint { path, record })
}

/// The newest whole checkpoint, if there is one. Broken ones are reported to the log and passed over.
///
/// # Errors
/// [`Error::Io`] where the folder cannot be listed; [`Error::Format`] for a checkpoint of a newer program.
pub fn latest(folder: &Path) -> Result<Option<Checkpoint>> {
    for (_, path) in listed(folder)?.into_iter().rev() {
        match open(&path) {
            Ok(checkpoint) => return Ok(Some(checkpoint)),
            // Passing this one over would throw good work away silently.
            Err(error @ Error::Format { .. }) => return Err(error),
            Err(error) => tracing::warn!(path = %path.display(), %error, "a broken checkpoint is passed over"),
        }
    }
    Ok(None)
}

/// Opens a checkpoint and checks every byte of it.
///
/// # Errors
/// [`Error::Io`], [`Error::Json`], [`Error::Format`], [`Error::Corrupt`].
pub fn open(path: &Path) -> Result<Checkpoint> {
    let record_path = path.join(RECORD);
    let value: Value = json::read(&record_path)?;
    if let Some(found) = value.get("format").and_then(Value::as_u64).filter(|found| *found > FORMAT) {
        return Err(Error::Format { path: record_path, found, known: FORMAT });
    }
    let record: Record = serde_json::from_value(value).map_err(|source| Error::Json { path: record_path, source })?;
    let check = |name: String, recorded: Digest, found: Digest| {
        let place = path.display().to_string();
        if found == recorded { Ok(()) } else { Err(Error::Corrupt { place, name, recorded, found }) }
    };
    let own = record.own_digest()?;
    check(RECORD.into(), record.digest.unwrap_or(Digest::of(b"")), own)?;
    for (set, digest) in &record.sets {
        check(file_name(set), *digest, Digest::of_file(&path.join(file_name(set)))?)?;
    }
    Ok(Checkpoint { path: path.to_owned(), record })
}

impl Checkpoint {
    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Updates that were made when it was written; also the number of the next one.
    pub fn step(&self) -> u64 {
        self.record.step
    }

    /// What the trainer put beside the tensors.
    pub fn extra(&self) -> &Value {
        &self.record.extra
    }

    /// Reads one set of tensors.
    ///
    /// # Errors
    /// [`Error::Input`] for a set that the checkpoint has not; what can be wrong with the file.
    pub fn set(&self, name: &str) -> Result<Weights> {
        if !self.record.sets.contains_key(name) {
            let known: Vec<&str> = self.record.sets.keys().map(String::as_str).collect();
            let reason = format!("it has no tensors named `{name}`, only {}", known.join(", "));
            return Err(Error::Input { what: format!("the checkpoint {}", self.path.display()), reason });
        }
        let file = SafeTensors::open(&self.path.join(file_name(name)))?;
        Ok(file.tensors().map(|view| (view.name().to_owned(), view.weight())).collect())
    }
}

fn file_name(set: &str) -> String {
    format!("{set}.safetensors")
}

/// Folders that have a checkpoint's name, oldest first.
fn listed(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    if !folder.exists() {
        return Ok(vec![]);
    }
    let mut found = vec![];
    for entry in fs_err::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(Ok(step)) = name.strip_prefix("step-").map(str::parse) {
            found.push((step, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// Takes away what is older than the `keep` newest, what is newer than the run itself (of a run that went on from an earlier step),
/// and what a cut-off process left.
fn take_away_old(folder: &Path, step: u64, keep: usize) -> Result<()> {
    let all = listed(folder)?;
    let (own, newer): (Vec<_>, Vec<_>) = all.into_iter().partition(|(found, _)| *found <= step);
    let old = own.len().saturating_sub(keep);
    for (_, path) in own.into_iter().take(old).chain(newer) {
        fs_err::remove_dir_all(path)?;
    }
    for entry in fs_err::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PARTIAL) {
            fs_err::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Puts a folder's own entries on the disk: without it a rename may be lost with the power.
fn flush(folder: &Path) -> Result<()> {
    fs_err::File::open(folder)?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::Weight;
    use proptest::prelude::*;
    use serde_json::json;

    fn set(value: f32) -> Weights {
        Weights::from([(
            "w".to_owned(),
            Weight::new(vec![2, 2], vec![value, -0.0, f32::MIN_POSITIVE / 4.0, 3.5]).unwrap(),
        )])
    }

    fn saved(folder: &Path, step: u64) -> Checkpoint {
        let (weights, moments) = (set(step as f32), Weights::new());
        save(folder, step, &[("weights", &weights), ("moments-1", &moments)], json!({ "seed": step }), 2).unwrap()
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs_err::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn there_and_back_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(latest(&folder.path().join("nothing")).unwrap(), None);
        assert_eq!(latest(folder.path()).unwrap(), None);
        let written = saved(folder.path(), 7);
        let read = latest(folder.path()).unwrap().unwrap();
        assert_eq!(read, written);
        assert_eq!((read.step(), read.extra()), (7, &json!({ "seed": 7 })));
        let bits = |weights: &Weights| weights["w"].data.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&read.set("weights").unwrap()), bits(&set(7.0)));
        assert_eq!(read.set("moments-1").unwrap(), Weights::new());
        assert!(matches!(read.set("moments-2"), Err(Error::Input { .. })));
    }

    #[test]
    fn the_newest_are_kept_and_leftovers_go() {
        let folder = tempfile::tempdir().unwrap();
        for step in [1, 2, 30] {
            saved(folder.path(), step);
        }
        assert_eq!(names(folder.path()), ["step-0000000002", "step-0000000030"]);
        fs_err::create_dir(folder.path().join(".partial-step-0000000031")).unwrap();
        assert_eq!(latest(folder.path()).unwrap().unwrap().step(), 30);
        // The run went back to step 2 and saves again there: what came after is of another past.
        saved(folder.path(), 3);
        assert_eq!(names(folder.path()), ["step-0000000002", "step-0000000003"]);
        saved(folder.path(), 3);
        assert_eq!(names(folder.path()), ["step-0000000002", "step-0000000003"]);
    }

    #[test]
    fn broken_ones_are_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let newest = folder.path().join("step-0000000002");
        for file in ["weights.safetensors", "moments-1.safetensors", RECORD] {
            for damage in ["cut", "flip", "remove", "empty"] {
                saved(folder.path(), 1);
                saved(folder.path(), 2);
                let path = newest.join(file);
                let mut bytes = fs_err::read(&path).unwrap();
                match damage {
                    "cut" => bytes.truncate(bytes.len() / 2),
                    // Inside of the text of a record this is another step, and still JSON.
                    "flip" => {
                        let at = bytes.iter().rposition(|b| *b == b'2').unwrap_or(bytes.len() - 1);
                        bytes[at] ^= 1;
                    }
                    _ => bytes.clear(),
                }
                if damage == "remove" {
                    fs_err::remove_file(&path).unwrap();
                } else {
                    fs_err::write(&path, bytes).unwrap();
                }
                assert_eq!(latest(folder.path()).unwrap().unwrap().step(), 1, "{file} {damage}");
            }
        }
    }

    #[test]
    fn a_newer_format_stops_instead_of_starting_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = saved(folder.path(), 1).path().join(RECORD);
        let mut value: Value = json::read(&path).unwrap();
        value["format"] = json!(2);
        json::write(&path, &value).unwrap();
        assert!(matches!(latest(folder.path()), Err(Error::Format { found: 2, .. })));
    }

    #[test]
    fn names_that_leave_the_folder_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let weights = set(0.0);
        for name in ["../x", "", "A", "a/b"] {
            assert!(save(folder.path(), 1, &[(name, &weights)], Value::Null, 1).is_err(), "{name}");
        }
        assert!(save(folder.path(), 1, &[("a", &weights), ("a", &weights)], Value::Null, 1).is_err());
        assert!(save(folder.path(), 1, &[], Value::Null, 0).is_err());
        assert!(names(folder.path()).is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Whatever bytes are lost from whichever file, what is found is whole.
        #[test]
        fn what_is_found_is_whole(file in 0..3usize, at in any::<prop::sample::Index>(), to in any::<u8>()) {
            let folder = tempfile::tempdir().unwrap();
            let old = saved(folder.path(), 1);
            let new = saved(folder.path(), 2);
            let path = new.path().join(["weights.safetensors", "moments-1.safetensors", RECORD][file]);
            let mut bytes = fs_err::read(&path).unwrap();
            let at = at.index(bytes.len());
            let changed = bytes[at] != to;
            bytes[at] = to;
            fs_err::write(&path, bytes).unwrap();
            let found = latest(folder.path());
            // White space of the record may change without changing what it says; and a changed format number stops.
            match found {
                Ok(found) => {
                    let found = found.unwrap();
                    prop_assert!(found == old || found == new);
                    prop_assert!(changed || found == new);
                    prop_assert_eq!(found.set("weights").unwrap(), set(found.step() as f32));
                }
                Err(error) => {
                    let newer = matches!(error, Error::Format { .. });
                    prop_assert!(newer, "{}", error);
                }
            }
        }
    }
}
