//! What an artifact is: sorted paths, each with the size and the digest of its content.

use std::{borrow::Borrow, collections::BTreeMap, fmt, fmt::Write as _, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    digest::{ArtifactDigest, BlobDigest},
    error::{Error, Result},
};

/// A path inside an artifact: relative, `/` between its parts, the same on every system.
///
/// Refused: the empty path, a leading or trailing `/`, empty parts, `.` and `..`, backslashes, control characters (so that
/// a manifest has one path a line), parts above 255 bytes, which no usual file system can hold, and paths above 4,095 bytes,
/// which no system opens.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(String);

impl RelPath {
    /// Checks `path`.
    pub fn new(path: impl Into<String>) -> Result<Self> {
        let path = path.into();
        let reason = if path.is_empty() {
            "it is empty"
        } else if path.starts_with('/') {
            "it is absolute"
        } else if path.contains('\\') {
            "it has a backslash"
        } else if path.chars().any(char::is_control) {
            "it has a control character"
        } else if path.split('/').any(str::is_empty) {
            "it has an empty part"
        } else if path.split('/').any(|part| part == "." || part == "..") {
            "it has a part `.` or `..`"
        } else if path.split('/').any(|part| part.len() > 255) {
            "it has a part of more than 255 bytes"
        } else if path.len() > 4095 {
            "it has more than 4,095 bytes"
        } else {
            return Ok(Self(path));
        };
        Err(Error::RelPath { path, reason })
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folders above it, nearest first: `a/b/c` gives `a/b`, then `a`.
    fn parents(&self) -> impl Iterator<Item = &str> {
        std::iter::successors(self.0.rsplit_once('/').map(|(head, _)| head), |path| {
            path.rsplit_once('/').map(|(head, _)| head)
        })
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl AsRef<str> for RelPath {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl AsRef<std::path::Path> for RelPath {
    fn as_ref(&self) -> &std::path::Path {
        self.0.as_ref()
    }
}

// Sound: `Ord` and `Hash` of `RelPath` are those of the `String` within.
impl Borrow<str> for RelPath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for RelPath {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

impl Serialize for RelPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for RelPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// One file of an artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Bytes.
    pub size: u64,
    /// BLAKE3 of the content.
    pub digest: BlobDigest,
}

/// The files of an artifact. Empty folders, modes and times are no part of it.
///
/// # Canonical form
/// UTF-8, each line ended by `\n`: first `flow-manifest 1`, then for each file, in the order of the bytes of its path,
/// `<digest> <size> <path>`: 64 lowercase hexadecimal digits, a space, the size in decimal without leading zeros, a space, the path.
/// The artifact's digest is the BLAKE3 of exactly these bytes, and exactly these bytes are what the store keeps, so that
/// `b3sum` of a stored manifest gives its name. The golden table is in this file's tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The files, sorted by path.
    pub entries: BTreeMap<RelPath, Entry>,
}

const HEADER: &str = "flow-manifest 1";

impl Manifest {
    /// The name of the artifact.
    pub fn digest(&self) -> ArtifactDigest {
        ArtifactDigest::of(&self.to_bytes())
    }

    /// The sum of the sizes, files with equal content counted each.
    pub fn total_bytes(&self) -> u64 {
        self.entries.values().map(|entry| entry.size).fold(0, u64::saturating_add)
    }

    /// The different blobs with their sizes.
    pub fn blobs(&self) -> BTreeMap<BlobDigest, u64> {
        self.entries.values().map(|entry| (entry.digest, entry.size)).collect()
    }

    /// The canonical form.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = String::with_capacity(16 + self.entries.len() * 112);
        text.push_str(HEADER);
        text.push('\n');
        for (path, Entry { size, digest }) in &self.entries {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{digest} {size} {path}");
        }
        text.into_bytes()
    }

    /// Reads the canonical form. Whatever `to_bytes` would not have written is an error: a manifest that exists is valid.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let refuse = |line: usize, reason: &str| Error::Manifest { line, reason: reason.to_owned() };
        let text = std::str::from_utf8(bytes).map_err(|_| refuse(1, "not UTF-8"))?;
        let text = text.strip_suffix('\n').ok_or_else(|| refuse(text.lines().count().max(1), "cut short"))?;
        let mut lines = text.split('\n');
        if lines.next() != Some(HEADER) {
            return Err(refuse(1, "not `flow-manifest 1`"));
        }
        let mut entries: BTreeMap<RelPath, Entry> = BTreeMap::new();
        let mut sizes = BTreeMap::new();
        for (number, line) in (2..).zip(lines) {
            let mut fields = line.splitn(3, ' ');
            let (Some(digest), Some(size), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
                return Err(refuse(number, "not `<digest> <size> <path>`"));
            };
            let digest: BlobDigest = digest.parse().map_err(|e: Error| refuse(number, &e.to_string()))?;
            let bytes: u64 = size.parse().map_err(|_| refuse(number, "the size is not a number"))?;
            if bytes.to_string() != size {
                return Err(refuse(number, "the size is not in canonical decimal"));
            }
            if *sizes.entry(digest).or_insert(bytes) != bytes {
                return Err(refuse(number, "one digest with two sizes"));
            }
            let path = RelPath::new(path).map_err(|e| refuse(number, &e.to_string()))?;
            if entries.last_key_value().is_some_and(|(last, _)| *last >= path) {
                return Err(refuse(number, "paths are not sorted, or one is there twice"));
            }
            if path.parents().any(|parent| entries.contains_key(parent)) {
                return Err(refuse(number, "a folder of this path is a file"));
            }
            entries.insert(path, Entry { size: bytes, digest });
        }
        Ok(Self { entries })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn manifest(files: &[(&str, &str)]) -> Manifest {
        let entry = |text: &str| Entry { size: text.len() as u64, digest: BlobDigest::of(text.as_bytes()) };
        Manifest { entries: files.iter().map(|(path, text)| (path.parse().unwrap(), entry(text))).collect() }
    }

    /// Changing this table means that every artifact has another name: the format version in the header must change too.
    #[test]
    fn golden() {
        let table = [
            (manifest(&[]), "84c6f2c0c63cd051b2a44b152d750aa8400d66f15632b60b20de6fb4938ef3d2"),
            (manifest(&[("a", "")]), "95961102fd7b0af39947ba681e04e030c0ae0419f08e4718cc51d8ce36b8da99"),
            (
                manifest(&[("b/c.txt", "hello\n"), ("a b", "hello\n"), ("b.d", "x"), ("ü", "y")]),
                "8c5267860a30e203817dc7dad54059c7f7ad2ca8c39f31c59813d0d215467cf4",
            ),
        ];
        let found: Vec<String> = table.iter().map(|(manifest, _)| manifest.digest().to_string()).collect();
        let expected: Vec<&str> = table.iter().map(|(_, digest)| *digest).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn canonical_text() {
        let text = String::from_utf8(manifest(&[("b/c", "x"), ("b.d", ""), ("B", "x")]).to_bytes()).unwrap();
        let want = [
            "flow-manifest 1",
            "3ae7d805f6789a6402acb70ad4096a85a56bf6804eaf25c0493ac697548d30b5 1 B",
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262 0 b.d",
            "3ae7d805f6789a6402acb70ad4096a85a56bf6804eaf25c0493ac697548d30b5 1 b/c",
        ];
        assert_eq!(text.lines().collect::<Vec<_>>(), want);
    }

    #[test]
    fn a_hostile_manifest_for_each_rule() {
        let d = BlobDigest::of(b"").to_string();
        let cases: &[(&str, String)] = &[
            ("not `flow-manifest 1`", "\n".into()),
            ("not `flow-manifest 1`", format!("flow-manifest 2\n{d} 0 a\n")),
            ("cut short", String::new()),
            ("cut short", format!("flow-manifest 1\n{d} 0 a")),
            ("not `<digest>", format!("flow-manifest 1\n{d} 0\n")),
            ("not `<digest>", "flow-manifest 1\n\n".into()),
            ("64 lowercase", format!("flow-manifest 1\n{} 0 a\n", d.to_uppercase())),
            ("not a number", format!("flow-manifest 1\n{d} -1 a\n")),
            ("canonical decimal", format!("flow-manifest 1\n{d} 00 a\n")),
            ("canonical decimal", format!("flow-manifest 1\n{d} +1 a\n")),
            ("two sizes", format!("flow-manifest 1\n{d} 0 a\n{d} 1 b\n")),
            ("`.` or `..`", format!("flow-manifest 1\n{d} 0 a/../../etc/passwd\n")),
            ("absolute", format!("flow-manifest 1\n{d} 0 /etc/passwd\n")),
            ("more than 4,095 bytes", format!("flow-manifest 1\n{d} 0 {}a\n", "a/".repeat(9000))),
            ("control character", format!("flow-manifest 1\n{d} 0 a\r\n")),
            ("not sorted", format!("flow-manifest 1\n{d} 0 b\n{d} 0 a\n")),
            ("not sorted", format!("flow-manifest 1\n{d} 0 a\n{d} 0 a\n")),
            ("is a file", format!("flow-manifest 1\n{d} 0 a\n{d} 0 a.b\n{d} 0 a/b/c\n")),
        ];
        for (expected, text) in cases {
            let error = Manifest::from_bytes(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?} gave {error:?}, not {expected:?}");
        }
        assert!(Manifest::from_bytes(b"flow-manifest 1\n\xff\n").is_err());
    }

    #[test]
    fn paths() {
        for good in ["a", "a/b.c", "...", "a..b/c", ".hidden", "a b", "größe/日本", "a:b", "-"] {
            assert_eq!(RelPath::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "/", "/a", "a/", "a//b", ".", "..", "a/./b", "a/..", "a\\b", "a\0b", "a\nb"] {
            assert!(RelPath::new(bad).is_err(), "{bad:?}");
        }
        assert!(RelPath::new("x".repeat(256)).is_err());
        assert!(RelPath::new("a/".repeat(2047) + "a").is_ok());
        assert!(RelPath::new("a/".repeat(2047) + "ab").is_err());
        assert_eq!(RelPath::new("a/b/c").unwrap().parents().collect::<Vec<_>>(), ["a/b", "a"]);
    }

    proptest! {
        #[test]
        fn round_trip(files in prop::collection::btree_map("[a-c]{1,2}(/[a-c. é]{1,3}x){0,2}", 0u64..u64::MAX, 0..12)) {
            let entries = files.into_iter()
                .map(|(path, size)| (RelPath::new(path).unwrap(), Entry { size, digest: BlobDigest::of(&size.to_le_bytes()) }))
                .collect::<BTreeMap<_, _>>();
            let nested = entries.keys().any(|path| path.parents().any(|parent| entries.contains_key(parent)));
            let manifest = Manifest { entries };
            let read = Manifest::from_bytes(&manifest.to_bytes());
            if nested { prop_assert!(read.is_err()) } else { prop_assert_eq!(read.unwrap(), manifest) }
        }

        #[test]
        fn arbitrary_text_never_panics_and_reads_only_if_canonical(bytes in prop::collection::vec(any::<u8>(), 0..80), cut in 0usize..400) {
            if let Ok(read) = Manifest::from_bytes(&bytes) { prop_assert_eq!(read.to_bytes(), bytes) }
            let whole = manifest(&[("a/b", "1"), ("c", "2"), ("d", "3")]).to_bytes();
            let cut = &whole[..cut.min(whole.len())];
            if let Ok(read) = Manifest::from_bytes(cut) { prop_assert_eq!(read.to_bytes(), cut) }
        }

        #[test]
        fn a_path_that_is_accepted_stays_inside(text in "[./a\\\\\0]{0,8}") {
            if let Ok(path) = RelPath::new(text) {
                let path: &std::path::Path = path.as_ref();
                prop_assert!(path.components().all(|part| matches!(part, std::path::Component::Normal(_))));
            }
        }
    }
}
