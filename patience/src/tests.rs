//! One call that fails or does not come back is made again, whatever the call; what would fail again is not.

use std::{io, sync::Arc, time::Duration};

use futures::{StreamExt, TryStreamExt};
use object_store::{
    Error, GetOptions, ObjectStore, ObjectStoreExt, PutOptions, PutPayload, Result, memory::InMemory, path::Path,
};

use crate::{Patience, faults::Faults, may_pass};

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
        let store = QUICK.over(faults.over(filled().await));
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
        let store = QUICK.over(faults.over(filled().await));
        faults.fail_from(at);
        let error = read(&*store).await.unwrap_err();
        assert!(may_pass(&error), "{error}");
        assert_eq!(faults.calls(), at + u64::from(QUICK.attempts), "stall {stall}, from call {at}");
    }
}

#[tokio::test]
async fn what_is_not_there_or_not_allowed_is_asked_for_once() {
    let faults = Faults::new(io::ErrorKind::PermissionDenied);
    let store = QUICK.over(faults.over(filled().await));
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
    let store = QUICK.over(faults.over(memory.clone()));
    let place = Path::from("c");
    let mut parts = store.get_opts(&place, GetOptions::default()).await.unwrap().into_stream();
    assert_eq!(parts.next().await.unwrap().unwrap().len(), 1000);
    memory.put_opts(&place, PutPayload::from(vec![1; 3000]), PutOptions::default()).await.unwrap();
    faults.fail_at(0);
    let error = parts.next().await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Precondition { .. }), "{error}");
}
