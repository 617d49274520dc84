//! A remote store that does not answer: nothing waits for ever, one lost call is made again, and nothing half-made is seen.

use std::{
    io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, UNIX_EPOCH},
};

use object_store::memory::InMemory;

use crate::{
    Acquired, Cache, Error, Holder, Patience, Result, StageKey,
    faults::Faults,
    suite::{record, write_files},
    tests::failures::Keeper,
};

const QUICK: Patience = Patience { timeout: Duration::from_millis(40), attempts: 2, backoff: Duration::from_millis(1) };

async fn open(at: &Path, faults: &Arc<Faults>, remote: &Arc<InMemory>) -> Cache {
    let objects = QUICK.over("test", faults.over(Arc::clone(remote) as Arc<_>));
    Cache::open_over(at, objects, "memory".into()).await.unwrap()
}

/// Everything that a stage does with a store.
async fn a_stage(cache: &Cache, input: &Path, key: StageKey) -> Result<()> {
    let now = UNIX_EPOCH + Duration::from_hours(1);
    let asked = cache.acquire(&key, &Holder::this_process("run"), now, Duration::from_mins(1)).await?;
    let Acquired::Yes(lease) = asked else { panic!("{asked:?}") };
    cache.renew(&lease, now).await?;
    let artifact = cache.publish(input).await?.digest;
    cache.put_record_under(&record(key, artifact), &lease).await?;
    let flushed = cache.flush().await;
    cache.release(&lease).await?;
    flushed.failed.into_values().next().map_or(Ok(()), Err)
}

async fn walk(stall: bool, forever: bool) {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in");
    write_files(&input, &[("a", b"one"), ("b", b"two")]);
    fs_err::write(input.join("large"), vec![7; 9 << 20]).unwrap();
    let key = StageKey::of(b"key");
    let (mut failed, mut passed) = (0, 0);
    for k in 0.. {
        let (faults, remote) = (Faults::new(io::ErrorKind::ConnectionReset), Arc::new(InMemory::new()));
        let cache = open(&dir.path().join(k.to_string()), &faults, &remote).await;
        faults.stall(stall);
        if forever {
            faults.fail_from(k);
        } else {
            faults.fail_at(k);
        }
        let begun = Instant::now();
        let outcome = a_stage(&cache, &input, key).await;
        let made = faults.calls();
        faults.heal();
        assert!(begun.elapsed() < Duration::from_secs(20), "call {k} was waited for: {:?}", begun.elapsed());
        if made <= k {
            outcome.unwrap();
            assert!(k > 20, "the walk must meet more than {k} calls");
            assert!(if forever { failed > passed } else { passed > failed }, "{failed} failed, {passed} did not");
            return;
        }
        match outcome {
            Ok(()) => passed += 1,
            Err(error) => {
                assert!(matches!(error, Error::Store { .. }), "{k}: {error:?}");
                assert!(error.may_pass(), "{k}: {error:?}");
                failed += 1;
            }
        }
        let other = open(&dir.path().join(format!("{k}-other")), &faults, &remote).await;
        let seen = other.record(&key).await.unwrap().is_some();
        assert_eq!(seen, other.hit(&key).await.unwrap().is_some(), "call {k}: recorded, but not complete");
    }
}

#[tokio::test]
async fn one_call_that_fails_is_made_again() {
    walk(false, false).await;
}

#[tokio::test]
async fn one_call_that_does_not_come_back_is_made_again() {
    walk(true, false).await;
}

#[tokio::test]
async fn a_store_that_does_not_answer_any_more_is_an_error_in_time() {
    walk(true, true).await;
}

/// The answer got lost, so that the call is made again and meets its own work.
#[tokio::test]
async fn an_answer_that_got_lost_is_no_rival() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in");
    write_files(&input, &[("a", b"one")]);
    for k in 0..40 {
        let (faults, remote) = (Faults::new(io::ErrorKind::TimedOut), Arc::new(InMemory::new()));
        let cache = open(&dir.path().join(k.to_string()), &faults, &remote).await;
        faults.lose_answers(true);
        faults.fail_at(k);
        let key = StageKey::of(b"key");
        if let Err(error) = a_stage(&cache, &input, key).await {
            assert!(error.may_pass(), "{k}: {error:?}");
        }
        faults.heal();
        let report = cache.flush().await;
        assert!(report.conflicts.is_empty() && report.failed.is_empty(), "{k}: {report:?}");
    }
}

/// Whichever answer is lost, or call fails, while a store is probed: it is a sound one, and found to be so for good.
#[tokio::test]
async fn a_sound_store_that_loses_an_answer_while_it_is_probed_is_trusted() {
    let dir = tempfile::tempdir().unwrap();
    for (patient, lose) in [(true, true), (true, false), (false, true), (false, false)] {
        for k in 0.. {
            let (faults, remote) = (Faults::new(io::ErrorKind::TimedOut), Arc::new(InMemory::new()));
            faults.lose_answers(lose);
            faults.fail_at(k);
            let objects = faults.over(Arc::clone(&remote) as Arc<_>);
            let objects = if patient { QUICK.over("test", objects) } else { objects };
            let at = dir.path().join(format!("{patient}-{lose}-{k}"));
            let opened = Cache::open_over(&at, Arc::clone(&objects), "memory".into()).await;
            let made = faults.calls();
            // Without patience a read that fails has failed.
            if let Ok(cache) = opened {
                assert!(cache.promises_put_if_absent(), "patient {patient}, lose {lose}, call {k}");
                drop(cache);
                faults.heal();
                Cache::open_over(&at, objects, "memory".into()).await.unwrap();
                assert_eq!(faults.calls(), 0, "it is remembered");
            } else {
                assert!(!patient, "lose {lose}, call {k}");
            }
            if made <= k {
                assert!(k > 30, "the walk must meet more than {k} calls");
                break;
            }
        }
    }
}

/// What a probe wrote is a few bytes: that it cannot be removed is no reason not to work.
#[tokio::test]
async fn a_probe_that_cannot_clear_up_is_a_probe() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open_over(dir.path(), Arc::new(Keeper(InMemory::new())), "keeper".into()).await.unwrap();
    assert!(cache.promises_put_if_absent());
}

#[test]
fn what_is_refused_or_full_is_not_asked_again() {
    let of = |kind: io::ErrorKind| {
        Error::store("write", "s", object_store::Error::Generic { store: "s", source: io::Error::from(kind).into() })
    };
    assert!(of(io::ErrorKind::ConnectionReset).may_pass());
    for kind in [io::ErrorKind::StorageFull, io::ErrorKind::PermissionDenied, io::ErrorKind::ReadOnlyFilesystem] {
        assert!(!of(kind).may_pass(), "{kind:?}");
    }
}
