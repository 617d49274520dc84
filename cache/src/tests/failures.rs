//! Every step fails once: nothing half-made is ever seen, and the next try succeeds.

use std::{
    io,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::{StreamExt, stream::BoxStream};
use object_store::{
    CopyOptions, Error as ObjectError, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result as ObjectResult, memory::InMemory,
    path::Path as ObjectPath,
};

use crate::{
    Acquired, ArtifactDigest, Cache, Error, PutRecord, Result, StageKey,
    faults::Faults,
    suite::{read_files, record, stranger, write_files},
};

const FILES: &[(&str, &[u8])] = &[("a", b"one"), ("b/c", b"two"), ("b/d", b""), ("e", b"one")];

async fn publish_and_record(cache: &Cache, input: &Path, key: StageKey) -> Result<(ArtifactDigest, PutRecord)> {
    let artifact = cache.publish(input).await?.digest;
    Ok((artifact, cache.put_record(&record(key, artifact)).await?))
}

#[tokio::test]
async fn publishing_into_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in");
    write_files(&input, FILES);
    let key = StageKey::of(b"key");
    for k in 0.. {
        let faults = Faults::new(io::ErrorKind::StorageFull);
        let cache = Cache::open_faulty(&dir.path().join(k.to_string()), &faults).unwrap();
        faults.fail_at(k);
        let outcome = publish_and_record(&cache, &input, key).await;
        let made = faults.calls();
        faults.heal();
        let Err(error) = outcome else {
            assert!(made <= k, "call {k} of {made} failed, and nobody said so");
            assert!(made > 5, "the walk must meet more than {made} calls");
            return;
        };
        assert!(matches!(error, Error::DiskFull { .. }), "{k}: {error:?}");
        assert!(error.to_string().contains("nothing was published"));

        let report = cache.verify().await.unwrap();
        assert!(report.is_sound() && report.incomplete.is_empty() && report.stray.is_empty(), "{k}: {report:?}");
        assert_eq!(cache.record(&key).await.unwrap(), None);

        publish_and_record(&cache, &input, key).await.unwrap();
        assert!(cache.hit(&key).await.unwrap().is_some(), "{k}");
    }
}

#[tokio::test]
async fn materializing() {
    let dir = tempfile::tempdir().unwrap();
    write_files(&dir.path().join("in"), FILES);
    let faults = Faults::new(io::ErrorKind::Other);
    let cache = Cache::open_faulty(&dir.path().join("store"), &faults).unwrap();
    let artifact = cache.publish(&dir.path().join("in")).await.unwrap().digest;
    let (parent, out) = (dir.path().join("parent"), dir.path().join("parent/out"));
    for k in 0.. {
        faults.fail_at(k);
        let outcome = cache.materialize(&artifact, &out).await;
        if outcome.is_ok() {
            assert!(k > 3);
            assert_eq!(read_files(&out), read_files(&dir.path().join("in")));
            return;
        }
        assert!(!parent.exists() || fs_err::read_dir(&parent).unwrap().count() == 0, "call {k} left something");
    }
}

#[tokio::test]
async fn uploading() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in");
    write_files(&input, FILES);
    fs_err::write(input.join("large"), vec![7; 9 << 20]).unwrap();
    let key = StageKey::of(b"key");
    for k in 0.. {
        let (faults, remote) = (Faults::new(io::ErrorKind::ConnectionReset), Arc::new(InMemory::new()));
        let at = |name: &str| dir.path().join(format!("{k}-{name}"));
        let ours = Cache::open_over(&at("ours"), faults.over(remote.clone()), "memory".into()).await.unwrap();
        let artifact = ours.publish(&input).await.unwrap().digest;
        // From k on, so that the retry within the flush cannot hide the fault.
        faults.fail_from(k);
        assert_eq!(ours.put_record(&record(key, artifact)).await.unwrap(), PutRecord::Created);
        let report = ours.flush().await;
        let made = faults.calls();
        faults.heal();

        let theirs = Cache::open_over(&at("theirs"), remote, "memory".into()).await.unwrap();
        let seen = theirs.record(&key).await.unwrap().is_some();
        assert_eq!(seen, theirs.hit(&key).await.unwrap().is_some(), "call {k}: recorded, but not complete");
        if made <= k {
            assert!(report.failed.is_empty() && seen && k > 10);
            return;
        }
        if report.failed.contains_key(&key) {
            assert_eq!(ours.pending_uploads().await.unwrap(), [key]);
            // The process ends, the next one goes on.
            drop(ours);
            let next =
                Cache::open_over(&at("ours"), faults.over(theirs_store(&theirs)), "memory".into()).await.unwrap();
            assert_eq!(next.flush().await.uploaded, [key], "call {k}");
            assert!(next.pending_uploads().await.unwrap().is_empty());
        }
        assert!(theirs.hit(&key).await.unwrap().is_some());
    }
}

fn theirs_store(cache: &Cache) -> Arc<dyn ObjectStore> {
    cache.shared().objects()
}

#[tokio::test]
async fn fetching() {
    let dir = tempfile::tempdir().unwrap();
    write_files(&dir.path().join("in"), FILES);
    let key = StageKey::of(b"key");
    let remote: Arc<InMemory> = Arc::new(InMemory::new());
    let ours = Cache::open_over(&dir.path().join("ours"), remote.clone(), "memory".into()).await.unwrap();
    let (artifact, _) = publish_and_record(&ours, &dir.path().join("in"), key).await.unwrap();
    ours.flush().await;
    for k in 0.. {
        let faults = Faults::new(io::ErrorKind::ConnectionReset);
        let at = dir.path().join(k.to_string());
        let cache = Cache::open_over(&at.join("store"), faults.over(remote.clone()), "memory".into()).await.unwrap();
        faults.fail_at(k);
        let fetched = async {
            let found = cache.hit(&key).await?.is_some();
            cache.materialize(&artifact, &at.join("out")).await?;
            Ok::<_, Error>(found)
        };
        let outcome = fetched.await;
        let made = faults.calls();
        faults.heal();
        let Err(error) = outcome else {
            assert!(made <= k && k > 4);
            return;
        };
        assert!(matches!(error, Error::Store { .. }), "{error:?}");
        assert!(!at.join("out").exists());
        assert!(cache.verify().await.unwrap().is_sound());
        cache.materialize(&artifact, &at.join("out")).await.unwrap();
    }
}

/// The answer to a write got lost: it was done, and the caller does not know.
#[tokio::test]
async fn lost_answers() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::new(io::ErrorKind::TimedOut);
    let cache = Cache::open_faulty(&dir.path().join("store"), &faults).unwrap();
    write_files(&dir.path().join("in"), FILES);
    let artifact = cache.publish(&dir.path().join("in")).await.unwrap().digest;
    let record = record(StageKey::of(b"key"), artifact);
    faults.lose_answers(true);
    faults.fail_at(0);
    cache.put_record(&record).await.unwrap_err();
    faults.heal();
    assert_eq!(cache.put_record(&record).await.unwrap(), PutRecord::Same);
}

/// A remote store that says yes to every create.
#[derive(Debug)]
struct Liar(InMemory);

/// One that removes nothing.
#[derive(Debug)]
pub(super) struct Keeper(pub(super) InMemory);

macro_rules! odd_store {
    ($store:ident) => {
        impl std::fmt::Display for $store {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(stringify!($store))
            }
        }

        #[async_trait::async_trait]
        impl ObjectStore for $store {
            async fn put_opts(
                &self,
                path: &ObjectPath,
                payload: PutPayload,
                options: PutOptions,
            ) -> ObjectResult<PutResult> {
                self.0.put_opts(path, payload, Self::put(options)).await
            }
            async fn put_multipart_opts(
                &self,
                path: &ObjectPath,
                options: PutMultipartOptions,
            ) -> ObjectResult<Box<dyn MultipartUpload>> {
                self.0.put_multipart_opts(path, options).await
            }
            async fn get_opts(&self, path: &ObjectPath, options: GetOptions) -> ObjectResult<GetResult> {
                self.0.get_opts(path, options).await
            }
            fn delete_stream(
                &self,
                paths: BoxStream<'static, ObjectResult<ObjectPath>>,
            ) -> BoxStream<'static, ObjectResult<ObjectPath>> {
                self.0.delete_stream(paths.map(Self::delete).boxed())
            }
            fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, ObjectResult<ObjectMeta>> {
                self.0.list(prefix)
            }
            async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> ObjectResult<ListResult> {
                self.0.list_with_delimiter(prefix).await
            }
            async fn copy_opts(&self, from: &ObjectPath, to: &ObjectPath, options: CopyOptions) -> ObjectResult<()> {
                self.0.copy_opts(from, to, options).await
            }
        }
    };
}

odd_store!(Liar);
odd_store!(Keeper);

impl Liar {
    fn put(_: PutOptions) -> PutOptions {
        PutOptions::default()
    }

    fn delete(path: ObjectResult<ObjectPath>) -> ObjectResult<ObjectPath> {
        path
    }
}

impl Keeper {
    fn put(options: PutOptions) -> PutOptions {
        options
    }

    fn delete(path: ObjectResult<ObjectPath>) -> ObjectResult<ObjectPath> {
        Err(ObjectError::PermissionDenied { path: path?.to_string(), source: "it keeps everything".into() })
    }
}

#[tokio::test]
async fn a_store_that_lies_about_put_if_absent_is_found_out() {
    let dir = tempfile::tempdir().unwrap();
    let liar = Cache::open_over(&dir.path().join("a"), Arc::new(Liar(InMemory::new())), "liar".into()).await.unwrap();
    assert!(!liar.promises_put_if_absent());
    // One at a time it still holds.
    write_files(&dir.path().join("in"), FILES);
    let key = StageKey::of(b"key");
    publish_and_record(&liar, &dir.path().join("in"), key).await.unwrap();
    assert!(liar.flush().await.failed.is_empty());
    let other = record(key, ArtifactDigest::of(b"other"));
    assert!(matches!(liar.shared().put_record(&other).await.unwrap(), PutRecord::Conflict(_)));

    let good = Cache::open_over(&dir.path().join("b"), Arc::new(InMemory::new()), "good".into()).await.unwrap();
    assert!(good.promises_put_if_absent());
}

/// A good probe is remembered, so that opening asks nothing of the network.
#[tokio::test]
async fn a_store_is_probed_once() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::new(io::ErrorKind::Other);
    let remote = faults.over(Arc::new(InMemory::new()));
    Cache::open_over(dir.path(), remote.clone(), "memory".into()).await.unwrap();
    assert!(faults.calls() > 10);
    faults.heal();
    Cache::open_over(dir.path(), remote, "memory".into()).await.unwrap();
    assert_eq!(faults.calls(), 0);
}

#[tokio::test]
async fn without_the_network_a_record_is_kept_here() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::new(io::ErrorKind::NotConnected);
    let cache = Cache::open_over(&dir.path().join("store"), faults.over(Arc::new(InMemory::new())), "memory".into())
        .await
        .unwrap();
    faults.fail_from(0);
    write_files(&dir.path().join("in"), FILES);
    let key = StageKey::of(b"key");
    let (_, outcome) = publish_and_record(&cache, &dir.path().join("in"), key).await.unwrap();
    assert_eq!(outcome, PutRecord::Created);
    assert!(cache.hit(&key).await.unwrap().is_some());
    assert!(cache.flush().await.failed.contains_key(&key));
    // What only the network knows is an error and not a miss: weeks of work are not done again for a pulled plug.
    assert!(cache.hit(&StageKey::of(b"unknown")).await.is_err());
    faults.heal();
    assert_eq!(cache.flush().await.uploaded, [key]);
}

/// Bytes that rot keep their size: what is published next under the same name is what its name says.
#[tokio::test]
async fn what_is_published_again_takes_the_place_of_what_was_damaged() {
    use crate::BlobDigest;

    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open_local(&dir.path().join("store")).unwrap();
    let outside = dir.path().join("in");
    write_files(&outside, FILES);
    let artifact = cache.publish(&outside).await.unwrap().digest;
    let blob = cache.store().blob(&BlobDigest::of(b"one")).unwrap();
    let damage = || {
        fs_err::remove_file(&blob).unwrap();
        fs_err::write(&blob, "0ne").unwrap();
    };
    let work = cache.work_dir(&StageKey::of(b"key")).unwrap().output();
    for folder in [&outside, &work] {
        damage();
        write_files(&work, FILES);
        assert_eq!(cache.publish(folder).await.unwrap().digest, artifact);
        assert!(cache.verify().await.unwrap().is_sound(), "{}", folder.display());
        fs_err::remove_dir_all(&work).unwrap();
    }
    damage();
    cache.put_blob("one".into()).await.unwrap();
    assert!(cache.verify().await.unwrap().is_sound());
    assert_eq!(fs_err::read(outside.join("a")).unwrap(), b"one");
}

/// Of two machines the second must not begin what the first has done and is still uploading.
#[tokio::test]
async fn a_lease_is_kept_until_its_record_is_where_others_look() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::new(io::ErrorKind::NotConnected);
    let remote: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let open = async |name: &str, remote| Cache::open_over(&dir.path().join(name), remote, "memory".into()).await;
    let (ours, theirs) =
        (open("ours", faults.over(remote.clone())).await.unwrap(), open("theirs", remote).await.unwrap());
    write_files(&dir.path().join("in"), FILES);
    let now = SystemTime::now();
    let acquire = async |cache: &Cache, key: &StageKey, who: &str| {
        cache.acquire(key, &stranger(who), now, Duration::from_mins(10)).await.unwrap()
    };
    for reachable in [true, false] {
        let key = StageKey::of(&[u8::from(reachable)]);
        let Acquired::Yes(lease) = acquire(&ours, &key, "ada").await else { panic!("nobody has it") };
        let artifact = ours.publish(&dir.path().join("in")).await.unwrap().digest;
        ours.put_record_under(&record(key, artifact), &lease).await.unwrap();
        if !reachable {
            faults.fail_from(0);
        }
        ours.release_recorded(lease).await.unwrap();
        // Whether it is uploaded by now or not: who gets the lease finds the record.
        if reachable {
            let mut looks = 0;
            while let Acquired::HeldBy { holder, .. } = acquire(&theirs, &key, "bob").await {
                assert_eq!(holder, stranger("ada"));
                looks += 1;
                tokio::task::yield_now().await;
            }
            assert!(looks > 0, "it was kept");
            assert!(theirs.hit(&key).await.unwrap().is_some());
            continue;
        }
        // What cannot be uploaded holds up nobody for longer than its run.
        assert!(ours.flush().await.failed.contains_key(&key));
        faults.heal();
        assert!(matches!(acquire(&theirs, &key, "bob").await, Acquired::HeldBy { .. }), "it could not be given back");
        let later = theirs.acquire(&key, &stranger("bob"), now + Duration::from_mins(11), Duration::from_mins(1)).await;
        assert!(matches!(later.unwrap(), Acquired::Yes(_)));
    }
}

/// Names that no flow gives: one is passed over, the other is told; neither is counted on from for ever.
#[tokio::test]
async fn leases_with_odd_numbers_hang_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open_local(dir.path()).unwrap();
    let key = StageKey::of(b"key");
    let leases = dir.path().join("v1/leases").join(key.to_string());
    fs_err::create_dir_all(&leases).unwrap();
    let now = std::time::UNIX_EPOCH + Duration::from_hours(1);
    let acquire = || async {
        let holder = crate::Holder::this_process("run");
        let asked = cache.acquire(&key, &holder, now, Duration::from_mins(1));
        tokio::time::timeout(Duration::from_secs(5), asked).await.expect("it does not go on for ever")
    };
    fs_err::write(leases.join(format!("{}.json", u64::MAX)), "{}").unwrap();
    assert!(matches!(acquire().await.unwrap(), Acquired::Yes(lease) if lease.attempt == 1));
    fs_err::write(leases.join("999999999999.json"), "{}").unwrap();
    let error = acquire().await.unwrap_err();
    assert!(matches!(error, Error::LastAttempt { .. }) && error.to_string().contains("v1/leases/"), "{error}");
}
