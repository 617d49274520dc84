//! Collection, verification and use, on a small store.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;

use crate::{
    ArtifactDigest, BlobDigest, Cache, Holder, Keep, KindUsage, Moved, Pin, StageKey, layout,
    suite::{record, write_files},
};

struct Store {
    dir: tempfile::TempDir,
    cache: Cache,
}

impl Store {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open_local(&dir.path().join("store")).unwrap();
        Self { dir, cache }
    }

    async fn stage(&self, name: &str, files: &[(&str, &[u8])]) -> (StageKey, ArtifactDigest) {
        let (input, key) = (self.dir.path().join(name), StageKey::of(name.as_bytes()));
        write_files(&input, files);
        let artifact = self.cache.publish(&input).await.unwrap().digest;
        self.cache.put_record(&record(key, artifact)).await.unwrap();
        (key, artifact)
    }
}

fn in_two_hours() -> SystemTime {
    SystemTime::now() + Duration::from_hours(2)
}

#[tokio::test]
async fn what_is_kept_stays_and_digests_stay_of_what_goes() {
    let store = Store::new();
    let (kept, _) = store.stage("kept", &[("a", b"shared"), ("b", b"kept")]).await;
    let (gone, artifact) = store.stage("gone", &[("a", b"shared"), ("c", b"gone!")]).await;
    let cache = &store.cache;

    let now = cache.plan_gc(&Keep::keys([kept], SystemTime::now())).await.unwrap();
    assert!(now.blobs.is_empty() && now.artifacts.is_empty(), "within the grace time nothing goes: {now:?}");

    let plan = cache.plan_gc(&Keep::keys([kept], in_two_hours())).await.unwrap();
    assert_eq!(plan.blobs.keys().copied().collect::<Vec<_>>(), [BlobDigest::of(b"gone!")]);
    assert_eq!(plan.artifacts.iter().copied().collect::<Vec<_>>(), [artifact]);
    assert_eq!(plan.hollowed.iter().copied().collect::<Vec<_>>(), [gone]);
    assert!(cache.hit(&gone).await.unwrap().is_some(), "a plan frees nothing");

    let done = cache.apply_gc(&plan).await.unwrap();
    assert_eq!((done.artifacts, done.blobs, done.bytes), (1, 1, plan.bytes));
    assert!(cache.hit(&kept).await.unwrap().is_some());
    assert_eq!(cache.hit(&gone).await.unwrap(), None);
    assert_eq!(cache.record(&gone).await.unwrap().unwrap().artifact, artifact);
    let report = cache.verify().await.unwrap();
    assert!(report.is_sound());
    assert_eq!(report.incomplete.into_iter().collect::<Vec<_>>(), [gone]);

    // Made again, it is the same record.
    store.stage("gone", &[]).await;
    assert!(cache.hit(&gone).await.unwrap().is_some());
}

#[tokio::test]
async fn artifacts_can_be_kept_by_digest_and_logs_by_key() {
    let store = Store::new();
    let (_, artifact) = store.stage("a", &[("a", b"1")]).await;
    let log = store.cache.put_blob(Bytes::from_static(b"log")).await.unwrap();
    let logged = StageKey::of(b"logged");
    store.cache.put_record(&crate::Record { log: Some(log), ..record(logged, artifact) }).await.unwrap();
    let keep = Keep { artifacts: [artifact].into(), ..Keep::keys([], in_two_hours()) };
    assert_eq!(store.cache.plan_gc(&keep).await.unwrap().blobs.into_keys().collect::<Vec<_>>(), [log]);
    let keep = Keep::keys([logged], in_two_hours());
    assert!(store.cache.plan_gc(&keep).await.unwrap().blobs.is_empty());
}

#[tokio::test]
async fn leftovers_go() {
    let store = Store::new();
    let cache = &store.cache;
    let (done, _) = store.stage("done", &[("a", b"1")]).await;
    let open = StageKey::of(b"open");
    for key in [done, open] {
        fs_err::write(cache.work_dir(&key).unwrap().scratch().join("state#1"), "1234").unwrap();
    }
    let stray = cache.local().tmp().join("0123");
    fs_err::write(&stray, "12345").unwrap();
    let torn = cache.store().file(&layout::record(&open)).unwrap().with_extension("json#1");
    fs_err::create_dir_all(torn.parent().unwrap()).unwrap();
    fs_err::write(&torn, "1").unwrap();
    assert_eq!(cache.verify().await.unwrap().stray, [stray.clone(), torn.clone()].into());

    let plan = cache.plan_gc(&Keep::keys([done], in_two_hours())).await.unwrap();
    assert_eq!(plan.work, [(done, 4)].into());
    assert_eq!(plan.bytes, 4 + 5 + 1);
    cache.apply_gc(&plan).await.unwrap();
    assert!(!stray.exists() && !torn.exists() && !cache.local().work(&done).exists());
    assert!(cache.local().work(&open).exists(), "an unfinished stage resumes here");
}

#[tokio::test]
async fn a_pin_outlives_every_collection() {
    let store = Store::new();
    let cache = &store.cache;
    let (key, artifact) = store.stage("pinned", &[("a", b"1")]).await;
    let (gone, _) = store.stage("gone", &[("a", b"2")]).await;
    let pin = Pin { name: "the/best one".into(), artifact, key: Some(key), since: "2026-01-01T00:00:00Z".into() };
    assert_eq!(cache.pin(&pin).await.unwrap(), None);
    assert_eq!(cache.pin(&pin).await.unwrap(), Some(pin.clone()));
    assert_eq!(cache.pins().await.unwrap(), std::slice::from_ref(&pin));

    let plan = cache.plan_gc(&Keep::keys([], in_two_hours())).await.unwrap();
    assert_eq!(plan.hollowed, [gone].into());
    cache.apply_gc(&plan).await.unwrap();
    assert!(cache.hit(&key).await.unwrap().is_some());

    assert!(cache.unpin(&pin.name).await.unwrap());
    assert!(!cache.unpin(&pin.name).await.unwrap());
    let plan = cache.plan_gc(&Keep::keys([], in_two_hours())).await.unwrap();
    assert_eq!(plan.hollowed, [key].into());

    // What a person wanted to keep is not guessed.
    cache.pin(&pin).await.unwrap();
    fs_err::write(cache.local().pin(&pin.name), "{").unwrap();
    assert!(cache.plan_gc(&Keep::keys([], in_two_hours())).await.is_err());
}

#[tokio::test]
async fn a_transfer_moves_what_is_missing_and_says_how_much() {
    let dir = tempfile::tempdir().unwrap();
    let remote: Arc<dyn object_store::ObjectStore> = Arc::new(object_store::memory::InMemory::new());
    let open = async |name: &str| {
        Cache::open_over(&dir.path().join(name), Arc::clone(&remote), "memory".into()).await.unwrap()
    };
    let alone = Store::new();
    let (key, artifact) = alone.stage("a", &[("a", b"12"), ("b", b"345")]).await;
    let here = Cache::open_over(alone.cache.root(), Arc::clone(&remote), "memory".into()).await.unwrap();
    let record = here.local_records().await.unwrap().remove(0);
    assert!(here.remote_keys().await.unwrap().is_empty());
    assert_eq!(here.push(&record).await.unwrap(), Moved { blobs: 2, bytes: 5, already: 0, ..Moved::default() });
    assert_eq!(here.push(&record).await.unwrap(), Moved { blobs: 0, bytes: 0, already: 2, ..Moved::default() });
    assert_eq!(here.remote_keys().await.unwrap(), [key].into());

    let there = open("there").await;
    assert!(!there.is_local(&artifact).await.unwrap());
    let record = there.record(&key).await.unwrap().unwrap();
    assert_eq!(there.pull(&record).await.unwrap(), Moved { blobs: 2, bytes: 5, already: 0, ..Moved::default() });
    assert_eq!(there.pull(&record).await.unwrap(), Moved { blobs: 0, bytes: 0, already: 2, ..Moved::default() });
    assert!(there.is_local(&artifact).await.unwrap());
}

#[tokio::test]
async fn what_is_touched_after_the_plan_stays() {
    let store = Store::new();
    let (key, _) = store.stage("a", &[("a", b"1")]).await;
    let mut keep = Keep::keys([], SystemTime::now());
    keep.grace = Duration::ZERO;
    std::thread::sleep(Duration::from_millis(20));
    keep.now = SystemTime::now();
    let plan = store.cache.plan_gc(&keep).await.unwrap();
    assert_eq!(plan.blobs.len(), 1);
    std::thread::sleep(Duration::from_millis(20));
    // Another process materializes it: its links change.
    let artifact = store.cache.record(&key).await.unwrap().unwrap().artifact;
    store.cache.publish(&store.dir.path().join("a")).await.unwrap();
    store.cache.materialize(&artifact, &store.dir.path().join("out")).await.unwrap();
    store.cache.apply_gc(&plan).await.unwrap();
    assert!(store.cache.manifest(&artifact).await.unwrap().is_some());
}

#[tokio::test]
async fn verify_finds_what_was_damaged() {
    let store = Store::new();
    let cache = &store.cache;
    let (bad, artifact) = store.stage("bad", &[("a", b"good")]).await;
    let (good, _) = store.stage("good", &[("a", b"fine")]).await;
    let (torn, _) = store.stage("torn", &[("a", b"fine")]).await;
    for (path, bytes) in [(layout::blob(&BlobDigest::of(b"good")), "evil"), (layout::record(&torn), "{")] {
        cache.store().replace(&path, Bytes::from_static(bytes.as_bytes())).await.unwrap();
    }
    assert!(cache.hit(&bad).await.unwrap().is_some(), "a stat does not see it");

    let report = cache.verify().await.unwrap();
    assert_eq!((report.blobs, report.bytes), (2, 8));
    assert_eq!(report.corrupt, [BlobDigest::of(b"good")].into());
    assert_eq!(report.corrupt_records, [torn].into());
    assert_eq!((&report.incomplete, &report.damaged), (&[bad].into(), &[bad].into()));
    assert!(!report.is_sound());
    assert_eq!(cache.hit(&bad).await.unwrap(), None);
    assert!(cache.hit(&good).await.unwrap().is_some());
    assert!(cache.verify().await.unwrap().is_sound(), "damaged things are set aside once");
    assert_eq!(cache.usage().await.unwrap().quarantine_bytes, 5);

    write_files(&store.dir.path().join("again"), &[("a", b"good")]);
    assert_eq!(cache.publish(&store.dir.path().join("again")).await.unwrap().digest, artifact);
    assert!(cache.hit(&bad).await.unwrap().is_some());
}

/// Folders, pipes and links to nothing where files belong, files that nobody may read, manifests that lead out of an artifact:
/// each is found in one go, what can be set aside is, and the same stages are made again.
#[tokio::test]
async fn verify_passes_over_nothing_and_stops_at_nothing() {
    let store = Store::new();
    let cache = &store.cache;
    let file = |path: &object_store::path::Path| cache.store().file(path).unwrap();
    let (no_blob, artifact) = store.stage("no blob", &[("a", b"1")]).await;
    let (no_tree, other) = store.stage("no tree", &[("a", b"2")]).await;
    let (no_record, third) = store.stage("no record", &[("a", b"3")]).await;
    let (link, _) = store.stage("link", &[("a", b"4")]).await;
    let at = [layout::blob(&BlobDigest::of(b"1")), layout::tree(&other), layout::record(&no_record)];
    for path in &at {
        fs_err::remove_file(file(path)).unwrap();
        fs_err::create_dir(file(path)).unwrap();
        fs_err::write(file(path).join("inside"), "x").unwrap();
    }
    fs_err::remove_file(file(&layout::record(&link))).unwrap();
    std::os::unix::fs::symlink("/nowhere", file(&layout::record(&link))).unwrap();
    let out = format!("flow-manifest 1\n{} 1 ../../out\n", BlobDigest::of(b"4"));
    let led_out = ArtifactDigest::of(out.as_bytes());
    cache.store().replace(&layout::tree(&led_out), Bytes::from(out)).await.unwrap();
    let (evil, key) = (record(StageKey::of(b"evil"), led_out), StageKey::of(b"evil"));
    cache.put_record(&evil).await.unwrap();

    let report = cache.verify().await.unwrap();
    assert_eq!(report.corrupt, [BlobDigest::of(b"1")].into());
    assert_eq!(report.corrupt_artifacts, [other, led_out].into());
    assert_eq!(report.corrupt_records, [no_record, link].into());
    assert_eq!(report.damaged, [no_blob, no_tree, key].into());
    assert!(cache.verify().await.unwrap().is_sound(), "set aside once");
    assert!(cache.quarantine().read_dir().unwrap().count() == 5);

    // Nobody has verified, and the next run meets them.
    for path in &at {
        let _ = fs_err::remove_file(file(path));
        fs_err::create_dir(file(path)).unwrap();
    }
    let _ = fs_err::remove_file(file(&layout::record(&link)));
    std::os::unix::fs::symlink("/nowhere", file(&layout::record(&link))).unwrap();
    assert_eq!(cache.hit(&no_blob).await.unwrap(), None);
    assert_eq!(store.stage("no blob", &[("a", b"1")]).await.1, artifact);
    assert_eq!(store.stage("no tree", &[("a", b"2")]).await.1, other);
    assert_eq!(store.stage("no record", &[("a", b"3")]).await.1, third);
    store.stage("link", &[("a", b"4")]).await;
    for key in [no_blob, no_tree, no_record, link] {
        assert!(cache.hit(&key).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_named_and_stops_no_verification() {
    use std::os::unix::fs::PermissionsExt;
    let store = Store::new();
    let cache = &store.cache;
    let mut sealed = Vec::new();
    for name in ["one", "two", "three"] {
        let (key, artifact) = store.stage(name, &[("a", name.as_bytes())]).await;
        sealed.push([layout::blob(&BlobDigest::of(name.as_bytes())), layout::tree(&artifact), layout::record(&key)]);
    }
    let sealed = [&sealed[0][0], &sealed[1][1], &sealed[2][2]].map(|path| cache.store().file(path).unwrap());
    for path in &sealed {
        fs_err::set_permissions(path, PermissionsExt::from_mode(0o000)).unwrap();
    }
    if fs_err::read(&sealed[0]).is_ok() {
        // Who may read everything sees an error of the disk as one of a mode: none can be made here.
        return;
    }
    let report = cache.verify().await.unwrap();
    assert_eq!(report.unreadable.keys().cloned().collect::<std::collections::BTreeSet<_>>(), sealed.into());
    assert!(!report.is_sound() && report.blobs == 2, "{report:?}");
}

#[tokio::test]
async fn usage_counts() {
    let store = Store::new();
    store.stage("a", &[("a", b"12"), ("b", b"12"), ("c", b"345")]).await;
    fs_err::write(store.cache.work_dir(&StageKey::of(b"k")).unwrap().scratch().join("x"), "1234567").unwrap();
    let usage = store.cache.usage().await.unwrap();
    assert_eq!((usage.blobs, usage.blob_bytes, usage.artifacts, usage.records), (2, 5, 1, 1));
    assert_eq!((usage.work_bytes, usage.stray_bytes, usage.quarantine_bytes), (7, 0, 0));
    store.stage("b", &[("other", b"12")]).await;
    let kinds = store.cache.usage_by_kind().await.unwrap();
    assert_eq!(kinds.into_values().collect::<Vec<_>>(), [KindUsage { records: 2, artifacts: 2, bytes: 5 }]);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_dead_holder_of_this_host_does_not_keep_anybody_waiting() {
    let store = Store::new();
    let (key, now, day) = (StageKey::of(b"key"), SystemTime::now(), Duration::from_hours(24));
    let me = Holder::this_process("run");
    let dead = Holder { pid_start: me.pid_start + 1, ..me.clone() };
    assert!(matches!(store.cache.acquire(&key, &dead, now, day).await.unwrap(), crate::Acquired::Yes(_)));
    let crate::Acquired::Yes(lease) = store.cache.acquire(&key, &me, now, day).await.unwrap() else {
        panic!("a dead holder keeps the lease")
    };
    assert_eq!(lease.attempt, 2);
    assert!(matches!(store.cache.acquire(&key, &me, now, day).await.unwrap(), crate::Acquired::HeldBy { .. }));
}

#[tokio::test]
async fn the_last_key_of_a_stage() {
    let store = Store::new();
    let (cache, one, two) = (&store.cache, StageKey::of(b"1"), StageKey::of(b"2"));
    assert_eq!(cache.latest("r", "expert[news]").unwrap(), None);
    cache.set_latest("r", "expert[news]", &one).unwrap();
    cache.set_latest("r", "expert[news]", &two).unwrap();
    cache.set_latest("other", "expert[news]", &one).unwrap();
    assert_eq!(cache.latest("r", "expert[news]").unwrap(), Some(two));
    fs_err::write(cache.local().latest("r"), "torn").unwrap();
    let cache = Cache::open_local(cache.root()).unwrap();
    assert_eq!(cache.latest("r", "expert[news]").unwrap(), None);
}
