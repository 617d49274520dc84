//! A real small store, listed against the drawing in `layout.rs`; and what it may take in.

use std::{
    os::unix::fs::{MetadataExt, symlink},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use object_store::memory::InMemory;

use crate::{
    BlobDigest, Cache, Error, Pin, StageKey, hash_folder, layout,
    suite::{record, stranger, write_files},
};

fn list(folder: &Path, prefix: &str, lines: &mut Vec<String>) {
    for entry in fs_err::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        let meta = entry.metadata().unwrap();
        if meta.is_dir() {
            if fs_err::read_dir(entry.path()).unwrap().count() == 0 {
                lines.push(format!("{path}/"));
            }
            list(&entry.path(), &format!("{path}/"), lines);
        } else {
            let read_only = if path.contains("/blobs/") && meta.mode() & 0o222 == 0 { " (read-only)" } else { "" };
            lines.push(format!("{path}{read_only}"));
        }
    }
    lines.sort();
}

#[tokio::test]
async fn a_small_store() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let cache = Cache::open_over(&root, Arc::new(InMemory::new()), "memory".into()).await.unwrap();
    let key = StageKey::of(b"key");
    let work = cache.work_dir(&key).unwrap();
    write_files(&work.output(), &[("a", b"1"), ("b/c", b"2")]);
    let artifact = cache.publish(&work.output()).await.unwrap().digest;
    cache.put_record(&record(key, artifact)).await.unwrap();
    cache.set_latest("recipe", "corpus[news]", &key).unwrap();
    cache.pin(&Pin { name: "best[1]".into(), artifact, key: None, since: "now".into() }).await.unwrap();
    cache.flush().await;
    let local = Cache::open_local(&root).unwrap();
    local.acquire(&key, &stranger("ada"), SystemTime::UNIX_EPOCH, Duration::ZERO).await.unwrap();
    local.store().replace(&layout::blob(&BlobDigest::of(b"1")), "?".into()).await.unwrap();
    local.verify().await.unwrap();

    let mut lines = Vec::new();
    list(&root, "", &mut lines);
    for line in &mut lines {
        if line.contains("quarantine") || line.contains("unsynced") {
            // The number that keeps names apart is another each time.
            line.replace_range(line.len() - 16.., "<number>");
        }
    }
    let want = [
        "v1/blobs/81/813e9b729141e7f385afa0a2d0df3e6c3789e427ffe4aeef566a565bc8f2fe3d (read-only)",
        "v1/blobs/d6/",
        "v1/latest/recipe.keys",
        "v1/leases/ff8e2bab3b26e0c127002127905539b47eb421de85d554e15f55a446459b52b4/000000000001.json",
        "v1/pending/",
        "v1/pins/best~5b1~5d",
        "v1/quarantine/blobs-d63bd9a826af91c1fea371965a64e11ee20f13e46b5f52c59901136605b3a487-<number>",
        "v1/records/ff/ff8e2bab3b26e0c127002127905539b47eb421de85d554e15f55a446459b52b4.json",
        "v1/remotes/0d7ff77320de",
        "v1/tmp/",
        "v1/trees/25/25cdcc1a454c318bd4bfa47685e5165e23180a6c0ce370835f4ddaaec9131a8f",
        "v1/unsynced/<number>",
        "v1/work/ff8e2bab3b26e0c127002127905539b47eb421de85d554e15f55a446459b52b4/output/a",
        "v1/work/ff8e2bab3b26e0c127002127905539b47eb421de85d554e15f55a446459b52b4/output/b/c",
        "v1/work/ff8e2bab3b26e0c127002127905539b47eb421de85d554e15f55a446459b52b4/scratch/",
    ];
    assert_eq!(lines, want);
}

#[tokio::test]
async fn the_store_owns_its_work_dirs_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open_local(&dir.path().join("store")).unwrap();
    let theirs = dir.path().join("theirs");
    write_files(&theirs, &[("a", b"before")]);
    let artifact = cache.publish(&theirs).await.unwrap().digest;
    fs_err::write(theirs.join("a"), "after!").unwrap();
    assert_eq!(&cache.read_file(&artifact, &"a".parse().unwrap()).await.unwrap()[..], b"before");

    let work = cache.work_dir(&StageKey::of(b"key")).unwrap();
    write_files(&work.output(), &[("b", b"ours")]);
    cache.publish(&work.output()).await.unwrap();
    let blob = fs_err::metadata(cache.store().file(&layout::blob(&BlobDigest::of(b"ours"))).unwrap()).unwrap();
    assert_eq!(blob.mode() & 0o222, 0);
    let output = fs_err::metadata(work.output().join("b")).unwrap();
    // Where the disk clones, the output stays a file of its own; else it is the blob, and read-only.
    assert!(output.ino() != blob.ino() || output.mode() & 0o222 == 0);
}

#[tokio::test]
async fn what_cannot_be_part_of_an_artifact() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open_local(&dir.path().join("store")).unwrap();
    let refused = |name: &str, make: &dyn Fn(&Path)| {
        let folder = dir.path().join(name);
        fs_err::create_dir(&folder).unwrap();
        make(&folder);
        hash_folder(&folder).unwrap_err()
    };
    let link = refused("link", &|folder| symlink("/etc/passwd", folder.join("a")).unwrap());
    assert!(matches!(link, Error::Unsupported { .. }), "{link}");
    let linked_folder = refused("linked", &|folder| symlink("/etc", folder.join("a")).unwrap());
    assert!(matches!(linked_folder, Error::Unsupported { .. }), "{linked_folder}");
    let socket = refused("socket", &|folder| {
        std::os::unix::net::UnixListener::bind(folder.join("s")).unwrap();
    });
    assert!(socket.to_string().contains("neither a file nor a folder"), "{socket}");
    let name = refused("name", &|folder| fs_err::write(folder.join("a\nb"), "").unwrap());
    assert!(matches!(name, Error::RelPath { .. }), "{name}");
    let bytes = refused("bytes", &|folder| {
        use std::os::unix::ffi::OsStrExt;
        fs_err::write(folder.join(std::ffi::OsStr::from_bytes(b"\xff")), "").unwrap();
    });
    assert!(bytes.to_string().contains("UTF-8"), "{bytes}");
    assert!(hash_folder(&dir.path().join("absent")).is_err());
    assert!(cache.publish(&dir.path().join("link")).await.is_err());
    assert_eq!(cache.usage().await.unwrap().blobs, 0);
}

#[test]
fn threads_and_sizes_do_not_change_a_hash() {
    let dir = tempfile::tempdir().unwrap();
    let large: Vec<u8> = (0u32..1_000_000).flat_map(u32::to_le_bytes).collect();
    write_files(dir.path(), &[("large", &large), ("edge", &large[..1 << 20]), ("over", &large[..=1 << 20])]);
    let manifest = hash_folder(dir.path()).unwrap();
    for (path, length) in [("large", large.len()), ("edge", 1 << 20), ("over", (1 << 20) + 1)] {
        assert_eq!(manifest.entries[path].digest, BlobDigest::of(&large[..length]));
        assert_eq!(manifest.entries[path].size, length as u64);
    }
    let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    assert_eq!(one.install(|| hash_folder(dir.path())).unwrap(), manifest);
}
