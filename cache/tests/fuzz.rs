//! Manifests, records and the store's own small files from strangers: a shared store is written by others.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

use std::{
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use flow_cache::{ArtifactDigest, BlobDigest, Cache, Location, Manifest, Record, StageKey, hash_folder, suite};
use flow_fuzz::{Meter, Target};
use object_store::{ObjectStore, ObjectStoreExt, local::LocalFileSystem, path::Path as ObjectPath};

#[global_allocator]
static METER: Meter = Meter;

const WORDS: &[&str] = &[
    "flow-manifest 1\n",
    "../",
    "/",
    "//",
    "./",
    "\\",
    "C:",
    " 0 ",
    " 18446744073709551615 ",
    "\0",
    "\r\n",
    "a/b",
    "a",
    "\u{202e}",
    ".git/hooks/x",
];

fn manifest() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    suite::write_files(folder.path(), &[("a", b"1"), ("b/c", b"2"), ("b/d/e", b""), ("ü", b"1")]);
    hash_folder(folder.path()).unwrap().to_bytes()
}

#[test]
fn manifests() {
    let deep = format!("flow-manifest 1\n{} 0 {}a\n", BlobDigest::of(b""), "a/".repeat(2047));
    assert!(Manifest::from_bytes(deep.as_bytes()).is_ok());
    let target = Target::new("manifest").seed(manifest()).seed(b"flow-manifest 1\n").seed(deep);
    target.words(WORDS).run(|bytes| {
        let Ok(manifest) = Manifest::from_bytes(bytes) else { return };
        assert_eq!(manifest.to_bytes(), bytes, "what is read is canonical");
        assert_eq!(manifest.digest(), ArtifactDigest::of(bytes));
        let _ = (manifest.total_bytes(), manifest.blobs());
        let mut folders = std::collections::BTreeSet::new();
        for path in manifest.entries.keys() {
            let mut parts = AsRef::<Path>::as_ref(path).components();
            assert!(parts.all(|part| matches!(part, Component::Normal(_))), "{path}");
            folders.extend(path.as_str().match_indices('/').map(|(at, _)| &path.as_str()[..at]));
        }
        for path in manifest.entries.keys() {
            assert!(!folders.contains(path.as_str()), "a file is a folder too");
        }
    });
}

/// A shared store in which one manifest is what a stranger wrote, and every blob that it names is there: whatever is
/// materialised lies in its folder.
#[test]
fn a_hostile_artifact_stays_in_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let remote = dir.path().join("remote");
    fs_err::create_dir(&remote).unwrap();
    let objects: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(&remote).unwrap());
    let location: Location = remote.to_str().unwrap().parse().unwrap();
    let cache = runtime.block_on(Cache::open(&dir.path().join("local"), Some(&location))).unwrap();
    let input = dir.path().join("in");
    suite::write_files(&input, &[("a", b"1"), ("b/c", b"2")]);
    let seed = runtime.block_on(cache.publish(&input)).unwrap().manifest.to_bytes();
    let beside = dir.path().join("beside");
    fs_err::create_dir(&beside).unwrap();
    Target::new("artifact").seed(seed).words(WORDS).run(|bytes| {
        let digest = ArtifactDigest::of(bytes);
        let id = digest.to_string();
        let at = ObjectPath::from(format!("v1/trees/{}/{id}", &id[..2]));
        runtime.block_on(async {
            objects.put(&at, bytes.to_vec().into()).await.unwrap();
            let out = beside.join("out");
            let made = cache.materialize(&digest, &out).await;
            assert_eq!(made.is_ok(), out.is_dir(), "whole or not at all");
            let _ = fs_err::remove_dir_all(&out);
        });
        assert_eq!(fs_err::read_dir(&beside).unwrap().count(), 0, "something is left");
        let outside: Vec<PathBuf> = fs_err::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(outside.len(), 4, "{outside:?}");
    });
}

#[test]
fn records() {
    let record = suite::record(StageKey::of(b"key"), ArtifactDigest::of(b"artifact"));
    let seed = serde_json::to_vec_pretty(&record).unwrap();
    let words = ["\"format\": 1", "\"format\": 2", "null", "1e400", "{}", "\"accepted\": \"yes\""];
    Target::new("record").seed(seed).words(&words).run(|bytes| {
        let Ok(record) = serde_json::from_slice::<Record>(bytes) else { return };
        let again = serde_json::to_vec(&record).unwrap();
        // A number that JSON cannot hold is written as null: such a record is refused before it is written.
        if record.seconds.is_finite() {
            assert_eq!(serde_json::from_slice::<Record>(&again).unwrap().artifact, record.artifact);
        }
    });
}

/// What the store keeps for itself is advisory: damaged, it costs time and never gives a wrong answer.
#[test]
fn a_stores_own_files() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (key, other) = (StageKey::of(b"key"), StageKey::of(b"other"));
    let root = dir.path().join("store");
    let artifact = runtime.block_on(async {
        let cache = Cache::open_local(&root).unwrap();
        suite::write_files(&dir.path().join("in"), &[("a", b"1")]);
        let artifact = cache.publish(&dir.path().join("in")).await.unwrap().digest;
        cache.put_record(&suite::record(key, artifact)).await.unwrap();
        cache.set_latest("r", "stage", &key).unwrap();
        artifact
    });
    let (hits, latest, memo) = (root.join("v1/hits"), root.join("v1/latest/r.keys"), root.join("v1/memo"));
    let target = Target::new("own-files")
        .seed(format!("flow-hits 2\nrecords/aa 1 2\n{key} {artifact} {key} 1\n"))
        .seed(format!("flow-memo 2\n1 2 3 -4 5 6 7 {artifact}\n"))
        .seed(fs_err::read(&latest).unwrap())
        .words(&["flow-hits 2\n", "flow-memo 2\n", "records/", "trees/", " 18446744073709551615"]);
    target.run(|bytes| {
        fs_err::write(&latest, bytes).unwrap();
        // Without their check nobody would read on.
        let sealed = suite::sealed(String::from_utf8_lossy(bytes).into_owned());
        fs_err::write(&hits, &sealed).unwrap();
        fs_err::write(&memo, sealed).unwrap();
        runtime.block_on(async {
            let cache = Cache::open_local(&root).unwrap();
            assert_eq!(cache.hit_artifact(&key).await.unwrap(), Some(artifact));
            assert_eq!(cache.hit_artifact(&other).await.unwrap(), None);
            let _ = (cache.latest("r", "stage").unwrap(), cache.hash_memo().len());
        });
    });
}
