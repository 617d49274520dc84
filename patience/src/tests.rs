//! One call that fails or does not come back is made again, whatever the call; what would fail again is not.

use std::{
    fmt::Debug,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, stream};
use object_store::{
    Error, GetOptions, ObjectStore, ObjectStoreExt, PutOptions, PutPayload, Result, local::LocalFileSystem,
    memory::InMemory, path::Path,
};

use tokio::time::Instant;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context, layer::SubscriberExt};

use crate::{Patience, WAITS, faults::Faults, may_pass};

const QUICK: Patience = Patience { timeout: Duration::from_millis(40), attempts: 3, backoff: Duration::from_millis(1) };

async fn filled() -> Arc<InMemory> {
    let store = Arc::new(InMemory::new());
    for (name, size) in [("a", 0), ("b", 10), ("c", 3000)] {
        let bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
        store.put(&Path::from(name), bytes.into()).await.unwrap();
    }
    store
}

/// Lists the store and reads all that is in it.
async fn read(store: &dyn ObjectStore) -> Result<Vec<(String, usize)>> {
    let mut all = Vec::new();
    let listed: Vec<_> = store.list(None).try_collect().await?;
    for meta in listed {
        let mut parts = store.get_opts(&meta.location, GetOptions::default()).await?.into_stream();
        let mut bytes = Vec::new();
        while let Some(part) = parts.next().await {
            bytes.extend_from_slice(&part?);
        }
        assert!(parts.next().await.is_none(), "asked after its end");
        let expected: Vec<u8> = (0..bytes.len()).map(|at| (at % 251) as u8).collect();
        assert_eq!(bytes, expected, "parts came twice, or not at all");
        all.push((meta.location.to_string(), bytes.len()));
    }
    Ok(all)
}

/// Every call and every part of a stream fails, or does not come, once.
async fn walk(stall: bool) {
    let all = [("a".to_owned(), 0), ("b".to_owned(), 10), ("c".to_owned(), 3000)];
    for k in 0.. {
        let faults = Faults::new(io::ErrorKind::ConnectionReset);
        faults.stall(stall);
        faults.cut_parts(1000);
        let store = QUICK.over("test", faults.over(filled().await));
        faults.fail_at(k);
        assert_eq!(read(&*store).await.unwrap(), all, "call {k}");
        if faults.calls() <= k {
            assert!(k >= 8, "the walk must meet more than {k} calls");
            return;
        }
        let without = faults.over(filled().await);
        faults.fail_at(k);
        if !stall {
            assert!(read(&*without).await.is_err(), "call {k} does not fail");
        }
    }
}

#[tokio::test]
async fn each_call_and_each_part_that_fails_is_asked_for_again() {
    walk(false).await;
}

#[tokio::test]
async fn each_call_and_each_part_that_does_not_come_is_asked_for_again() {
    walk(true).await;
}

#[tokio::test]
async fn a_store_that_stays_away_is_an_error_after_so_many_attempts() {
    for (stall, at) in [(false, 0), (true, 0), (false, 4), (true, 4), (false, 6), (true, 6)] {
        let faults = Faults::new(io::ErrorKind::ConnectionReset);
        faults.stall(stall);
        faults.cut_parts(1000);
        let store = QUICK.over("test", faults.over(filled().await));
        faults.fail_from(at);
        let error = read(&*store).await.unwrap_err();
        assert!(may_pass(&error), "{error}");
        assert_eq!(faults.calls(), at + u64::from(QUICK.attempts), "stall {stall}, from call {at}");
    }
}

/// A folder, since it says of a file that is gone that it is not there, which memory and S3 do not.
#[tokio::test]
async fn a_removal_and_a_move_are_asked_for_again_and_what_was_done_by_then_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let objects = Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap());
    for (stall, lose) in [(false, false), (true, false), (false, true)] {
        let faults = Faults::new(io::ErrorKind::ConnectionReset);
        faults.stall(stall);
        faults.lose_answers(lose);
        let store = QUICK.over("test", faults.over(objects.clone()));
        let (from, to) = (Path::from("from"), Path::from("to"));
        objects.put(&from, vec![1].into()).await.unwrap();
        faults.fail_at(0);
        store.rename(&from, &to).await.unwrap();
        assert_eq!(faults.calls(), 2, "stall {stall}, lose {lose}");
        assert!(objects.head(&from).await.is_err() && objects.head(&to).await.is_ok());

        faults.fail_at(0);
        store.delete(&to).await.unwrap();
        assert_eq!(faults.calls(), 2, "stall {stall}, lose {lose}");
        assert!(objects.head(&to).await.is_err());

        // What was never there is told, and asked for once.
        faults.heal();
        assert!(matches!(store.delete(&to).await, Err(Error::NotFound { .. })));
        assert!(matches!(store.rename(&from, &to).await, Err(Error::NotFound { .. })));
        assert_eq!(faults.calls(), 2);

        faults.fail_from(0);
        assert!(may_pass(&store.delete(&to).await.unwrap_err()));
        assert_eq!(faults.calls(), u64::from(QUICK.attempts));
    }
}

/// Of many some are gone by the second time, and each is told once.
#[tokio::test]
async fn of_many_removals_each_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let objects = Arc::new(LocalFileSystem::new_with_prefix(folder.path()).unwrap());
    let paths: Vec<Path> = (0..1200).map(|at| Path::from(format!("{at}"))).collect();
    for path in &paths {
        objects.put(path, vec![1].into()).await.unwrap();
    }
    let faults = Faults::new(io::ErrorKind::ConnectionReset);
    faults.lose_answers(true);
    faults.fail_at(1);
    let store = QUICK.over("test", faults.over(objects));
    let asked = stream::iter(paths.clone().into_iter().map(Ok)).boxed();
    let mut removed: Vec<Path> = store.delete_stream(asked).try_collect().await.unwrap();
    let mut expected = paths;
    removed.sort();
    expected.sort();
    assert!(removed == expected, "{} of {}", removed.len(), expected.len());
    assert_eq!(faults.calls(), 3);
}

#[tokio::test]
async fn what_is_not_there_or_not_allowed_is_asked_for_once() {
    let faults = Faults::new(io::ErrorKind::PermissionDenied);
    let store = QUICK.over("test", faults.over(filled().await));
    let missing = store.get_opts(&Path::from("x"), GetOptions::default()).await.unwrap_err();
    assert!(matches!(missing, Error::NotFound { .. }) && !may_pass(&missing));
    assert_eq!(faults.calls(), 1);
    faults.fail_from(0);
    let refused = read(&*store).await.unwrap_err();
    assert!(!may_pass(&refused));
    assert_eq!(faults.calls(), 1);
}

/// Half of one object and half of another are no object.
#[tokio::test]
async fn an_object_that_changed_while_it_was_read_is_an_error() {
    let memory = filled().await;
    let faults = Faults::new(io::ErrorKind::ConnectionReset);
    faults.cut_parts(1000);
    let store = QUICK.over("test", faults.over(memory.clone()));
    let place = Path::from("c");
    let mut parts = store.get_opts(&place, GetOptions::default()).await.unwrap().into_stream();
    assert_eq!(parts.next().await.unwrap().unwrap().len(), 1000);
    memory.put_opts(&place, PutPayload::from(vec![1; 3000]), PutOptions::default()).await.unwrap();
    faults.fail_at(0);
    let error = parts.next().await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Precondition { .. }), "{error}");
}

/// What is said to people.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl<S: Subscriber> Layer<S> for Heard {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() == WAITS {
            event.record(&mut self.clone());
        }
    }
}

impl Visit for Heard {
    fn record_debug(&mut self, _: &Field, value: &dyn Debug) {
        self.0.lock().unwrap().push(format!("{value:?}"));
    }
}

/// With the patience that nobody has set otherwise: how long until a store is given up, and what is said meanwhile.
async fn given_up(stall: bool) -> (Duration, Vec<String>) {
    let heard = Heard::default();
    let _listening = tracing::subscriber::set_default(tracing_subscriber::registry().with(heard.clone()));
    let faults = Faults::new(io::ErrorKind::ConnectionRefused);
    faults.stall(stall);
    let store = Patience::default().over("s3://bucket/prefix", faults.over(filled().await));
    faults.fail_from(0);
    let begun = Instant::now();
    let error = store.get_opts(&Path::from("a"), GetOptions::default()).await.unwrap_err();
    assert!(may_pass(&error), "{error}");
    let said = heard.0.lock().unwrap().clone();
    (begun.elapsed(), said)
}

#[tokio::test(start_paused = true)]
async fn a_store_that_keeps_us_waiting_is_told() {
    let (time, said) = given_up(false).await;
    assert_eq!(time.as_secs(), 15);
    let [said] = &said[..] else { panic!("{said:?}") };
    assert!(said.starts_with("waiting for s3://bucket/prefix: "), "{said}");
    assert!(said.ends_with("asked again in 1 s, attempt 2 of 5"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_store_is_given_up_in_time() {
    let (time, said) = given_up(true).await;
    assert_eq!(time.as_secs(), 65);
    assert_eq!(said[0], "waiting for s3://bucket/prefix: it has given no answer for 3 s");
    assert!((2..=5).contains(&said.len()), "now and then, and not at each call: {said:?}");
}

/// Bytes take their time: only a word has little.
#[tokio::test(start_paused = true)]
async fn what_moves_bytes_has_the_whole_time() {
    let faults = Faults::new(io::ErrorKind::ConnectionRefused);
    faults.stall(true);
    let patience = Patience { attempts: 1, ..Patience::default() };
    let store = patience.over("test", faults.over(filled().await));
    for (is_put, seconds) in [(true, 120), (false, 10)] {
        faults.fail_from(0);
        let begun = Instant::now();
        let failed = if is_put {
            store.put(&Path::from("d"), vec![1; 100_000].into()).await.map(drop)
        } else {
            store.head(&Path::from("a")).await.map(drop)
        };
        assert!(failed.is_err());
        assert_eq!(begun.elapsed().as_secs(), seconds);
    }
}
