//! What every store must do, whatever it is made of: one macro, so that nobody leaves a line out.
//!
//! Each case gets two clients of one store, as two machines have. Where the store is a folder both have that folder; where it is
//! a local folder before a remote store, each has a folder of its own and they share the remote one.
//!
//! ```ignore
//! flow_cache::store_suite!(on_my_store, make_clients, Caps { at_once: false });
//! ```

#![allow(clippy::unwrap_used, reason = "a suite is test code, also where a feature and not cfg(test) brings it in")]

use std::{
    collections::BTreeSet,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures::future::join_all;

use crate::{Acquired, ArtifactDigest, Cache, Error, Holder, PutRecord, RECORD_FORMAT, Record, StageKey, layout};

/// What a store can do beyond what all must.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// Does one client see at once what the other recorded, without a flush?
    pub at_once: bool,
}

/// Two clients of one store.
#[derive(Debug)]
pub struct Clients {
    /// One.
    pub first: Cache,
    /// Another.
    pub second: Cache,
    /// A folder for what a case needs beside the store.
    pub dir: PathBuf,
    /// What the store can do.
    pub caps: Caps,
}

/// Makes the tests of the suite, in the module `$name`. `$make` is an `async fn(&Path) -> (Cache, Cache)` that makes two clients of a
/// new store below a folder. The caller needs `tokio` and `tempfile` as dev-dependencies.
#[macro_export]
macro_rules! store_suite {
    ($name:ident, $make:path, $caps:expr) => {
        $crate::store_suite!(@cases $name, $make, $caps,
            an_artifact_reaches_the_other_client
            an_empty_folder_is_an_artifact
            publishing_twice_is_harmless
            a_large_file_survives
            a_record_is_written_once
            of_racing_records_one_wins
            a_record_without_its_blobs_is_no_hit
            a_forgotten_record_is_gone_for_both
            damaged_records_and_manifests_are_set_aside
            a_damaged_blob_is_never_used
            materialize_is_all_or_nothing
            a_lease_keeps_the_other_out
            an_expired_lease_is_fenced
            clocks_that_jump_hold_nobody_up
            of_racing_acquisitions_one_wins
        );
    };
    (@cases $name:ident, $make:path, $caps:expr, $($case:ident)*) => {
        mod $name {
            #[allow(unused_imports, reason = "the maker and the capabilities may be written with names of the caller's")]
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let dir = tempfile::tempdir().unwrap();
                    let (first, second) = $make(dir.path()).await;
                    let dir = dir.path().join("beside");
                    std::fs::create_dir(&dir).unwrap();
                    $crate::suite::$case($crate::suite::Clients { first, second, dir, caps: $caps }).await;
                }
            )*
        }
    };
}

/// Writes `files` below `dir`.
pub fn write_files(dir: &Path, files: &[(&str, &[u8])]) {
    fs_err::create_dir_all(dir).unwrap();
    for (path, content) in files {
        let path = dir.join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, content).unwrap();
    }
}

/// All files below `dir`, sorted.
pub fn read_files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let manifest = crate::hash_folder(dir).unwrap();
    manifest.entries.keys().map(|path| (path.to_string(), fs_err::read(dir.join(path)).unwrap())).collect()
}

/// A text as the store keeps it for itself.
pub fn sealed(text: String) -> String {
    crate::sealed::Seal::LINE.seal(text)
}

/// A record that says that `key` gave `artifact`.
pub fn record(key: StageKey, artifact: ArtifactDigest) -> Record {
    Record {
        format: RECORD_FORMAT,
        key,
        kind: "curate".into(),
        kind_version: 1,
        artifact,
        parts: serde_json::json!({"seed": 7}),
        stage: "corpus[news]".into(),
        run: "run-1".into(),
        started: "2026-01-02T03:04:05Z".into(),
        seconds: 0.1,
        flow_version: "0.1.0".into(),
        host: "host".into(),
        log: None,
        bytes: 1,
        files: 1,
        accepted: None,
        made_for: None,
        metrics: serde_json::json!({"documents": 3}),
    }
}

/// A process on another host.
pub fn stranger(name: &str) -> Holder {
    Holder { host: name.to_owned(), boot: "boot".into(), pid: 1, pid_start: 1, run: "run".into() }
}

impl Clients {
    async fn publish(&self, files: &[(&str, &[u8])]) -> ArtifactDigest {
        let dir = self.dir.join(format!("in-{:x}", crate::staged::nonce()));
        write_files(&dir, files);
        self.first.publish(&dir).await.unwrap().digest
    }

    /// Publishes and records with the first client, and waits until the second can see it.
    async fn share(&self, key: &StageKey, files: &[(&str, &[u8])]) -> ArtifactDigest {
        let artifact = self.publish(files).await;
        assert_eq!(self.first.put_record(&record(*key, artifact)).await.unwrap(), PutRecord::Created);
        let report = self.first.flush().await;
        assert!(report.failed.is_empty() && report.conflicts.is_empty(), "{report:?}");
        artifact
    }

    async fn set_aside(&self) -> usize {
        self.second.shared().list(&layout::quarantine_all()).await.unwrap().len()
    }
}

/// What one client records, the other finds whole: record, manifest, files, tree.
pub async fn an_artifact_reaches_the_other_client(clients: Clients) {
    let key = StageKey::of(b"key");
    let files: &[(&str, &[u8])] = &[("a.txt", b"hello"), ("b/c.bin", &[0, 255]), ("b/d", b""), ("twice", b"hello")];
    let artifact = clients.share(&key, files).await;

    let second = &clients.second;
    let found = second.hit(&key).await.unwrap().unwrap();
    assert_eq!(found, record(key, artifact));
    assert_eq!(second.records().await.unwrap(), [found]);
    assert!(second.is_complete(&artifact).await.unwrap());
    assert_eq!(second.manifest(&artifact).await.unwrap().unwrap().digest(), artifact);
    assert_eq!(second.read_file(&artifact, &"b/c.bin".parse().unwrap()).await.unwrap(), Bytes::from_static(&[0, 255]));
    let missing = second.read_file(&artifact, &"b".parse().unwrap()).await.unwrap_err();
    assert!(matches!(missing, Error::NoFile { .. }), "{missing}");

    let out = clients.dir.join("out");
    second.materialize(&artifact, &out).await.unwrap();
    let expected: Vec<_> = files.iter().map(|(path, content)| ((*path).to_owned(), content.to_vec())).collect();
    assert_eq!(read_files(&out), expected);
    // The reader of a tree cannot write to it, even where the user may: the blob behind it would change.
    assert_eq!(fs_err::metadata(out.join("a.txt")).unwrap().permissions().mode() & 0o777, 0o444);
}

/// A stage may make no file.
pub async fn an_empty_folder_is_an_artifact(clients: Clients) {
    let key = StageKey::of(b"empty");
    let artifact = clients.share(&key, &[]).await;
    assert!(clients.second.hit(&key).await.unwrap().is_some());
    let out = clients.dir.join("out");
    clients.second.materialize(&artifact, &out).await.unwrap();
    assert_eq!(read_files(&out), []);
}

/// The same files give the same artifact, and their blobs are stored once.
pub async fn publishing_twice_is_harmless(clients: Clients) {
    let one = clients.publish(&[("a", b"1"), ("b", b"1")]).await;
    let two = clients.publish(&[("a", b"1"), ("b", b"1")]).await;
    assert_eq!(one, two);
    assert_eq!(clients.first.usage().await.unwrap().blobs, 1);
    let racing: Vec<_> = (0..8).map(|_| clients.publish(&[("x", b"new"), ("y/z", b"newer")])).collect();
    let digests: BTreeSet<_> = join_all(racing).await.into_iter().collect();
    assert_eq!(digests.len(), 1);
    assert_eq!(clients.first.usage().await.unwrap().blobs, 3);
    assert!(clients.first.verify().await.unwrap().is_sound());
}

/// Above the size at which remote stores take parts.
pub async fn a_large_file_survives(clients: Clients) {
    // Parts that differ, so that their order counts.
    let large: Vec<u8> = (0..20).flat_map(|part: u8| vec![part; 1 << 20]).collect();
    let key = StageKey::of(b"large");
    let artifact = clients.share(&key, &[("large", &large)]).await;
    let out = clients.dir.join("out");
    clients.second.materialize(&artifact, &out).await.unwrap();
    assert!(fs_err::read(out.join("large")).unwrap() == large);
}

/// The first record stays; a second is the same or a conflict.
pub async fn a_record_is_written_once(clients: Clients) {
    let key = StageKey::of(b"key");
    let artifact = clients.share(&key, &[("a", b"1")]).await;
    let other = clients.publish(&[("a", b"2")]).await;
    for client in [&clients.first, &clients.second] {
        assert_eq!(client.put_record(&record(key, artifact)).await.unwrap(), PutRecord::Same);
        let PutRecord::Conflict(theirs) = client.put_record(&record(key, other)).await.unwrap() else {
            panic!("another artifact for one key must be a conflict")
        };
        assert_eq!(theirs.artifact, artifact);
        client.flush().await;
        assert_eq!(client.record(&key).await.unwrap().unwrap().artifact, artifact);
    }
}

/// However many race, all agree on one record in the end.
pub async fn of_racing_records_one_wins(clients: Clients) {
    let key = StageKey::of(b"raced");
    let mut artifacts = Vec::new();
    for i in 0u8..8 {
        let dir = clients.dir.join(i.to_string());
        write_files(&dir, &[("a", &[i])]);
        let client = if i % 2 == 0 { &clients.first } else { &clients.second };
        artifacts.push((client.clone(), client.publish(&dir).await.unwrap().digest));
    }
    let racers = artifacts.iter().map(|(client, artifact)| {
        let (client, record) = (client.clone(), record(key, *artifact));
        tokio::spawn(async move { client.put_record(&record).await.unwrap() })
    });
    let outcomes: Vec<PutRecord> = join_all(racers).await.into_iter().map(|outcome| outcome.unwrap()).collect();
    let winners = outcomes.iter().filter(|outcome| **outcome == PutRecord::Created).count();
    let mut conflicts = 0;
    for client in [&clients.first, &clients.second] {
        conflicts += client.flush().await.conflicts.len();
    }
    if clients.caps.at_once {
        assert_eq!(winners, 1);
    } else {
        // Each local store had its winner; where there were two, the upload found the conflict.
        assert_eq!(winners, 1 + conflicts, "{outcomes:?}");
    }
    let agreed = clients.second.shared().record(&key).await.unwrap().unwrap();
    for outcome in outcomes {
        if let (PutRecord::Conflict(theirs), true) = (outcome, clients.caps.at_once) {
            assert_eq!(theirs.artifact, agreed.artifact);
        }
    }
    assert!(artifacts.iter().any(|(_, artifact)| *artifact == agreed.artifact));
}

/// A record alone is no hit, and where records are uploaded it is not: what is recorded there is complete there.
pub async fn a_record_without_its_blobs_is_no_hit(clients: Clients) {
    let key = StageKey::of(b"hollow");
    let hollow = record(key, ArtifactDigest::of(b"never published"));
    assert_eq!(clients.first.put_record(&hollow).await.unwrap(), PutRecord::Created);
    assert_eq!(clients.first.record(&key).await.unwrap(), Some(hollow));
    assert_eq!(clients.first.hit(&key).await.unwrap(), None);
    let report = clients.first.flush().await;
    if !clients.caps.at_once {
        assert!(report.failed.contains_key(&key));
        assert_eq!(clients.second.record(&key).await.unwrap(), None);
    }
}

/// Forgetting is for all.
pub async fn a_forgotten_record_is_gone_for_both(clients: Clients) {
    let key = StageKey::of(b"key");
    let artifact = clients.share(&key, &[("a", b"1")]).await;
    assert!(clients.first.forget(&key).await.unwrap());
    assert!(!clients.first.forget(&key).await.unwrap());
    assert_eq!(clients.first.record(&key).await.unwrap(), None);
    assert_eq!(clients.second.record(&key).await.unwrap(), None);
    assert!(clients.second.is_complete(&artifact).await.unwrap(), "the artifact stays");
    assert_eq!(clients.second.put_record(&record(key, artifact)).await.unwrap(), PutRecord::Created);
}

/// Cut, empty, foreign: set aside, absent, and the next record takes the place.
pub async fn damaged_records_and_manifests_are_set_aside(clients: Clients) {
    let key = StageKey::of(b"key");
    let artifact = clients.publish(&[("a", b"1")]).await;
    let good = record(key, artifact).to_bytes().unwrap();
    let foreign = record(StageKey::of(b"other"), artifact).to_bytes().unwrap();
    let flipped = String::from_utf8(good.to_vec()).unwrap().replace("\"documents\": 3", "\"documents\": 2").into();
    let words = [Bytes::from_static(b"[1]"), Bytes::from_static(b"\xff"), flipped];
    let cases = [good.slice(..good.len() / 2), Bytes::new(), foreign].into_iter().chain(words);
    for (i, bytes) in cases.enumerate() {
        clients.second.shared().replace(&layout::record(&key), bytes).await.unwrap();
        assert_eq!(clients.second.record(&key).await.unwrap(), None);
        assert_eq!(clients.set_aside().await, i + 1);
    }
    // A newer flow's record is no damage.
    let newer = Bytes::from(
        crate::sealed::Seal::MEMBER.seal(format!("{{\n  \"format\": {},\n  \"key\": \"{key}\"", RECORD_FORMAT + 1)),
    );
    clients.second.shared().replace(&layout::record(&key), newer).await.unwrap();
    let error = clients.second.record(&key).await.unwrap_err();
    assert!(matches!(error, Error::NewerRecord { .. }), "{error}");
    clients.second.shared().remove(&layout::record(&key)).await.unwrap();

    let before = clients.set_aside().await;
    let tree = ArtifactDigest::of(b"tree");
    clients.second.shared().replace(&layout::tree(&tree), Bytes::from_static(b"flow-manifest 1\n")).await.unwrap();
    assert_eq!(clients.second.manifest(&tree).await.unwrap(), None);
    assert!(!clients.second.is_complete(&tree).await.unwrap());
    assert_eq!(clients.set_aside().await, before + 1);
    assert_eq!(clients.first.put_record(&record(key, artifact)).await.unwrap(), PutRecord::Created);
}

/// A blob with other bytes than its name says: not read, not materialized from a remote store, and the stage is done again.
pub async fn a_damaged_blob_is_never_used(clients: Clients) {
    let key = StageKey::of(b"key");
    let artifact = clients.share(&key, &[("a", b"good")]).await;
    let blob = layout::blob(&crate::BlobDigest::of(b"good"));
    clients.second.shared().replace(&blob, Bytes::from_static(b"evil")).await.unwrap();
    let error = clients.second.read_file(&artifact, &"a".parse().unwrap()).await.unwrap_err();
    assert!(matches!(error, Error::NoBlob { .. }), "{error}");
    assert_eq!(clients.set_aside().await, 1);
    assert_eq!(clients.second.hit(&key).await.unwrap(), None);
    let out = clients.dir.join("out");
    clients.second.materialize(&artifact, &out).await.unwrap_err();
    assert!(!out.exists());

    // A cut blob has another size: one `stat` tells.
    clients.second.shared().replace(&blob, Bytes::from_static(b"go")).await.unwrap();
    assert_eq!(clients.second.hit(&key).await.unwrap(), None);

    let dir = clients.dir.join("again");
    write_files(&dir, &[("a", b"good")]);
    assert_eq!(clients.second.publish(&dir).await.unwrap().digest, artifact);
    assert!(clients.second.hit(&key).await.unwrap().is_some());
}

/// An existing folder is not touched, and a failure leaves nothing.
pub async fn materialize_is_all_or_nothing(clients: Clients) {
    let artifact = clients.publish(&[("a", b"1"), ("b", b"22")]).await;
    let out = clients.dir.join("deep/out");
    fs_err::create_dir_all(&out).unwrap();
    let error = clients.first.materialize(&artifact, &out).await.unwrap_err();
    assert!(matches!(error, Error::Exists { .. }), "{error}");
    fs_err::remove_dir(&out).unwrap();

    let error = clients.first.materialize(&ArtifactDigest::of(b"?"), &out).await.unwrap_err();
    assert!(matches!(error, Error::NoArtifact { .. }), "{error}");
    clients.first.store().remove(&layout::blob(&crate::BlobDigest::of(b"22"))).await.unwrap();
    let error = clients.first.materialize(&artifact, &out).await.unwrap_err();
    assert!(matches!(error, Error::NoBlob { .. }), "{error}");
    assert_eq!(fs_err::read_dir(clients.dir.join("deep")).unwrap().count(), 0);
}

const MINUTE: Duration = Duration::from_mins(1);

fn granted(outcome: Acquired) -> crate::Lease {
    match outcome {
        Acquired::Yes(lease) => lease,
        Acquired::HeldBy { holder, .. } => panic!("held by {holder:?}"),
    }
}

/// While one holds it, the other hears who and until when; once released, it is free, with the next number.
pub async fn a_lease_keeps_the_other_out(clients: Clients) {
    let (key, now) = (StageKey::of(b"key"), SystemTime::UNIX_EPOCH + 1000 * MINUTE);
    let (ada, bob) = (stranger("ada"), stranger("bob"));
    let lease = granted(clients.first.acquire(&key, &ada, now, MINUTE).await.unwrap());
    assert_eq!(lease.attempt, 1);
    let held = clients.second.acquire(&key, &bob, now, MINUTE).await.unwrap();
    assert_eq!(held, Acquired::HeldBy { holder: ada, until: now + MINUTE });
    assert!(clients.first.renew(&lease, now + MINUTE / 2).await.unwrap());
    let held = clients.second.acquire(&key, &bob, now + MINUTE, MINUTE).await.unwrap();
    assert!(matches!(held, Acquired::HeldBy { until, .. } if until == now + MINUTE + MINUTE / 2));
    assert!(clients.second.acquire(&StageKey::of(b"other"), &bob, now, MINUTE).await.is_ok(), "keys do not interfere");

    assert!(clients.first.release(&lease).await.unwrap());
    assert!(!clients.first.still_holds(&lease).await.unwrap());
    assert!(!clients.first.renew(&lease, now).await.unwrap());
    let lease = granted(clients.second.acquire(&key, &bob, now, MINUTE).await.unwrap());
    assert_eq!(lease.attempt, 2);
}

/// Who slept through the expiry can neither renew, release nor record.
pub async fn an_expired_lease_is_fenced(clients: Clients) {
    let (key, now) = (StageKey::of(b"key"), SystemTime::UNIX_EPOCH + 1000 * MINUTE);
    let old = granted(clients.first.acquire(&key, &stranger("ada"), now, MINUTE).await.unwrap());
    assert!(clients.first.still_holds(&old).await.unwrap());
    let new = granted(clients.second.acquire(&key, &stranger("bob"), now + MINUTE, MINUTE).await.unwrap());
    assert_eq!((old.attempt, new.attempt), (1, 2));
    assert!(!clients.first.still_holds(&old).await.unwrap());
    assert!(!clients.first.renew(&old, now + MINUTE).await.unwrap());
    assert!(!clients.first.release(&old).await.unwrap());
    let artifact = clients.publish(&[("a", b"1")]).await;
    let error = clients.first.put_record_under(&record(key, artifact), &old).await.unwrap_err();
    assert!(matches!(error, Error::LeaseLost { attempt: 1, .. }), "{error}");
    assert_eq!(clients.first.record(&key).await.unwrap(), None);
    assert!(clients.second.still_holds(&new).await.unwrap(), "the fenced one did no harm to the holder");

    // A lease file that cannot be read is passed on.
    clients.second.shared().replace(&layout::lease(&key, 2), Bytes::from_static(b"{")).await.unwrap();
    assert!(!clients.second.still_holds(&new).await.unwrap());
    assert_eq!(granted(clients.first.acquire(&key, &stranger("eve"), now, MINUTE).await.unwrap()).attempt, 3);
}

/// A holder whose clock was far ahead, or a waiter whose clock jumps back: once nothing was heard for two lifetimes, the lease
/// passes on; as long as it is renewed it does not, and who comes back is fenced.
pub async fn clocks_that_jump_hold_nobody_up(clients: Clients) {
    let key = StageKey::of(b"key");
    let now = SystemTime::UNIX_EPOCH + 10_000 * MINUTE;
    let ahead = now + 5000 * MINUTE;
    let old = granted(clients.first.acquire(&key, &stranger("ada"), ahead, MINUTE).await.unwrap());
    let ask = async |now| clients.second.acquire(&key, &stranger("bob"), now, MINUTE).await.unwrap();
    assert!(matches!(ask(now).await, Acquired::HeldBy { .. }));
    assert!(matches!(ask(now + 2 * MINUTE).await, Acquired::HeldBy { .. }));
    assert!(clients.first.renew(&old, ahead + MINUTE / 4).await.unwrap());
    assert!(matches!(ask(now + 3 * MINUTE).await, Acquired::HeldBy { .. }), "it was renewed");
    // One's own clock jumps back by a day: counting begins again.
    let back = now - 1440 * MINUTE;
    assert!(matches!(ask(back).await, Acquired::HeldBy { .. }));
    assert!(matches!(ask(back + 2 * MINUTE).await, Acquired::HeldBy { .. }));
    let new = granted(ask(back + 2 * MINUTE + MINUTE / 4).await);
    assert!(new.attempt > old.attempt);
    assert!(!clients.first.renew(&old, ahead + MINUTE).await.unwrap(), "who lost it hears so");
    // The other way: a clock that jumps ahead takes a lease that lives, and the one who had it is fenced, not doubled.
    let far = granted(clients.first.acquire(&key, &stranger("eve"), ahead + MINUTE, MINUTE).await.unwrap());
    assert!(!clients.second.still_holds(&new).await.unwrap());
    assert!(clients.first.still_holds(&far).await.unwrap());
    // But not from a process that is seen to live here, and that renews it.
    if cfg!(target_os = "linux") {
        let key = StageKey::of(b"here");
        let here = granted(clients.first.acquire(&key, &Holder::this_process("here"), now, MINUTE).await.unwrap());
        let ask = async |now| clients.second.acquire(&key, &stranger("bob"), now, MINUTE).await.unwrap();
        assert!(matches!(ask(ahead).await, Acquired::HeldBy { .. }));
        assert!(clients.first.renew(&here, now + MINUTE / 4).await.unwrap());
        assert!(matches!(ask(ahead + 3 * MINUTE).await, Acquired::HeldBy { .. }));
        assert!(matches!(ask(ahead + 5 * MINUTE).await, Acquired::HeldBy { .. }));
        // One that hangs does not hold it for ever.
        granted(ask(ahead + 6 * MINUTE).await);
    }
}

/// However many ask at once, one gets it, again and again.
pub async fn of_racing_acquisitions_one_wins(clients: Clients) {
    let key = StageKey::of(b"key");
    let mut now = SystemTime::UNIX_EPOCH + 1000 * MINUTE;
    let mut last = 0;
    for _ in 0..5 {
        let racers = (0..8).map(|i| {
            let client = if i % 2 == 0 { clients.first.clone() } else { clients.second.clone() };
            tokio::spawn(async move { client.acquire(&key, &stranger(&i.to_string()), now, MINUTE).await.unwrap() })
        });
        let outcomes = join_all(racers).await.into_iter().map(|outcome| outcome.unwrap());
        let leases: Vec<crate::Lease> = outcomes
            .filter_map(|outcome| if let Acquired::Yes(lease) = outcome { Some(lease) } else { None })
            .collect();
        assert_eq!(leases.len(), 1);
        assert!(leases[0].attempt > last);
        last = leases[0].attempt;
        now += 2 * MINUTE;
    }
}
