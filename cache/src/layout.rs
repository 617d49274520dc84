//! Every path in a store. Nothing else in this crate builds one.
//!
//! ```text
//! .flow/                                  a local store; a remote one has the parts marked *
//! └─ v1/                                  * the format, here and nowhere else
//!    ├─ blobs/ab/ab12…                    * content of one file, read-only, named by its BLAKE3
//!    ├─ trees/cd/cd34…                    * a manifest in canonical form, named by its BLAKE3
//!    ├─ records/ef/ef56….json             * stage key → artifact and how it was made; written once
//!    ├─ leases/ef56…/000000000001.json    * one file an attempt, the highest one counts; in the remote store if there is one
//!    ├─ quarantine/blobs-ab12…-9f…        * what was damaged, set aside for a person to look at
//!    ├─ probe/9f…                         * short-lived: does put-if-absent hold here?
//!    ├─ pending/ef56…                     records not yet uploaded to the remote store
//!    ├─ remotes/0a9b…                     what the probe found out about a remote store
//!    ├─ latest/<recipe>.keys              the last key of each stage, for the reasons of `flow plan`; advisory
//!    ├─ pins/<name>                       an artifact that collections leave, by the name that a person gave it
//!    ├─ unsynced/9f…                      a process that published what may not be on the disk yet
//!    ├─ work/ef56…/{output,scratch,lock}   work dir of a stage key, until its record is written
//!    ├─ tmp/                              staged files: whatever is here was not published
//!    ├─ hits                              stage key → artifact and blobs, as last looked up; believed while its folders stand
//!    └─ memo                              (device, inode, size, times) → digest, so that inputs are not hashed again
//! ```

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use object_store::path::Path as ObjectPath;

use crate::digest::{ArtifactDigest, BlobDigest, StageKey};

const VERSION: &str = "v1";

fn at(rest: &str) -> ObjectPath {
    ObjectPath::from(format!("{VERSION}/{rest}"))
}

/// Two digits of fan-out, so that no folder gets millions of names.
fn sharded(kind: &str, id: &str, suffix: &str) -> String {
    format!("{kind}/{}/{id}{suffix}", id.get(..2).unwrap_or_default())
}

pub(crate) fn blobs() -> ObjectPath {
    at("blobs")
}

pub(crate) fn blob(digest: &BlobDigest) -> ObjectPath {
    at(&sharded("blobs", &digest.to_string(), ""))
}

/// [`blob`] in a folder, without the detour: it is built for every blob of every artifact that is looked for.
pub(crate) fn blob_file(folder: &Path, digest: &BlobDigest) -> PathBuf {
    folder.join(VERSION).join(sharded("blobs", &digest.to_string(), ""))
}

/// The path of a blob below the folder of all blobs.
pub(crate) fn below_blobs(digest: &BlobDigest) -> String {
    let id = digest.to_string();
    format!("{}/{id}", &id[..2])
}

pub(crate) fn trees() -> ObjectPath {
    at("trees")
}

pub(crate) fn tree(digest: &ArtifactDigest) -> ObjectPath {
    at(&sharded("trees", &digest.to_string(), ""))
}

pub(crate) fn records() -> ObjectPath {
    at("records")
}

pub(crate) fn record(key: &StageKey) -> ObjectPath {
    at(&sharded("records", &key.to_string(), ".json"))
}

pub(crate) fn leases(key: &StageKey) -> ObjectPath {
    at(&format!("leases/{key}"))
}

/// Twelve digits: the order of the names is the order of the attempts.
pub(crate) fn lease(key: &StageKey, attempt: u64) -> ObjectPath {
    at(&format!("leases/{key}/{attempt:012}.json"))
}

/// The number in the name of a lease. Of names that [`lease`] does not give, nothing is known.
pub(crate) fn attempt(name: &str) -> Option<u64> {
    let number = name.strip_suffix(".json").filter(|number| number.len() == 12)?;
    number.bytes().all(|digit| digit.is_ascii_digit()).then(|| number.parse().ok())?
}

/// The attempt after this one; nothing after so many that nobody can have made them.
pub(crate) fn next_attempt(last: u64) -> Option<u64> {
    Some(last + 1).filter(|next| *next < 1_000_000_000_000)
}

pub(crate) fn pending_all() -> ObjectPath {
    at("pending")
}

pub(crate) fn pending(key: &StageKey) -> ObjectPath {
    at(&format!("pending/{key}"))
}

pub(crate) fn probe(nonce: u64) -> ObjectPath {
    at(&format!("probe/{nonce:016x}"))
}

pub(crate) fn quarantine_all() -> ObjectPath {
    at("quarantine")
}

/// Where `damaged` is set aside: its own name, so that a person sees what it was, and a number, so that nothing is lost.
pub(crate) fn quarantine(damaged: &ObjectPath, nonce: u64) -> ObjectPath {
    at(&format!("quarantine/{}{nonce:016x}", quarantine_of(damaged)))
}

/// Begins the names under which `damaged` was set aside.
pub(crate) fn quarantine_of(damaged: &ObjectPath) -> String {
    let kind = damaged.parts().nth(1).map(|part| part.as_ref().to_owned()).unwrap_or_default();
    format!("{kind}-{}-", damaged.filename().unwrap_or_default())
}

/// What was found out about the remote store of this name.
pub(crate) fn remote(name: &str) -> ObjectPath {
    at(&format!("remotes/{}", BlobDigest::of(name.as_bytes()).short()))
}

/// The id in the name of a blob, manifest, record or pending mark.
pub(crate) fn id<T: std::str::FromStr>(path: &ObjectPath) -> Option<T> {
    let name = path.filename()?;
    name.strip_suffix(".json").unwrap_or(name).parse().ok()
}

/// The parts of a store that are always in a local folder.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    root: PathBuf,
}

impl Local {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    fn versioned(&self, rest: &str) -> PathBuf {
        self.root.join(VERSION).join(rest)
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.versioned("tmp")
    }

    /// Where a process lays out artifacts for a while, among the temporaries.
    pub(crate) fn laid_out(&self) -> PathBuf {
        self.tmp().join(format!("laid-out-{}", std::process::id()))
    }

    pub(crate) fn memo(&self) -> PathBuf {
        self.versioned("memo")
    }

    /// The folders that hold blobs.
    pub(crate) fn folders_of_blobs(&self) -> std::io::Result<Vec<PathBuf>> {
        match fs_err::read_dir(self.versioned("blobs")) {
            Ok(found) => found.map(|entry| Ok(entry?.path())).collect(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// [`quarantine`] of a blob.
    pub(crate) fn quarantined(&self, blob: &BlobDigest) -> PathBuf {
        self.root.join(quarantine(&self::blob(blob), crate::staged::nonce()).as_ref())
    }

    /// Where a file that is no object is set aside.
    pub(crate) fn aside(&self, kind: &str, file: &Path) -> PathBuf {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        self.root.join(quarantine_all().as_ref()).join(format!("{kind}-{name}-{:016x}", crate::staged::nonce()))
    }

    /// Marks of processes that have published what is not synced.
    pub(crate) fn unsynced(&self) -> PathBuf {
        self.versioned("unsynced")
    }

    pub(crate) fn hits(&self) -> PathBuf {
        self.versioned("hits")
    }

    pub(crate) fn works(&self) -> PathBuf {
        self.versioned("work")
    }

    pub(crate) fn work(&self, key: &StageKey) -> PathBuf {
        self.works().join(key.to_string())
    }

    pub(crate) fn latest(&self, recipe: &str) -> PathBuf {
        self.versioned("latest").join(format!("{}.keys", file_name(recipe)))
    }

    pub(crate) fn pins(&self) -> PathBuf {
        self.versioned("pins")
    }

    pub(crate) fn pin(&self, name: &str) -> PathBuf {
        self.pins().join(file_name(name))
    }

    /// All of the store.
    pub(crate) fn everything(&self) -> PathBuf {
        self.root.join(VERSION)
    }
}

/// A name that a person chose, as a file name: letters, digits, `_`, `-` and inner dots stay, the rest becomes `~` and two
/// hexadecimal digits a byte. One to one, but for names so long that no file system would have them, which are hashed.
pub(crate) fn file_name(name: &str) -> String {
    let mut text = String::new();
    for (i, byte) in name.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => text.push(byte as char),
            b'.' if i > 0 => text.push('.'),
            _ => {
                // Writing to a string cannot fail.
                let _ = write!(text, "~{byte:02x}");
            }
        }
    }
    if text.is_empty() {
        return "~".to_owned();
    }
    if text.len() > 200 { format!("~~{}", BlobDigest::of(name.as_bytes())) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_people_become_safe_and_stay_apart() {
        for (name, expected) in [
            ("flexolmo-7x7b", "flexolmo-7x7b"),
            ("expert[news]", "expert~5bnews~5d"),
            ("", "~"),
            (".", "~2e"),
            ("..", "~2e."),
            ("a/../b", "a~2f..~2fb"),
            ("~", "~7e"),
            ("é", "~c3~a9"),
        ] {
            assert_eq!(file_name(name), expected);
        }
        assert_eq!(file_name(&"é".repeat(200)).len(), 66);
    }

    #[test]
    fn ids_are_read_back_from_paths() {
        let key = StageKey::of(b"key");
        assert_eq!(id::<StageKey>(&record(&key)), Some(key));
        assert_eq!(id::<BlobDigest>(&blob(&BlobDigest::of(b"b"))), Some(BlobDigest::of(b"b")));
        assert_eq!(Path::new(blob(&BlobDigest::of(b"b")).as_ref()), blob_file(Path::new(""), &BlobDigest::of(b"b")));
        assert_eq!(id::<StageKey>(&at("records/ab/ab.json#1")), None);
        assert_eq!(lease(&key, 42).filename().and_then(attempt), Some(42));
        for odd in ["42.json", "+00000000042.json", "18446744073709551615.json", "00000000004a.json"] {
            assert_eq!(attempt(odd), None, "{odd}");
        }
        assert_eq!((next_attempt(0), next_attempt(999_999_999_999)), (Some(1), None));
    }
}
