//! The suite, over everything that a store can be made of here.

use std::{
    future::{Ready, ready},
    path::Path,
    sync::Arc,
};

use object_store::{ObjectStore, memory::InMemory};

use crate::{Cache, Location, faults::Faults, store_suite, suite::Caps};

fn one_folder(dir: &Path) -> Ready<(Cache, Cache)> {
    let open = || Cache::open_local(&dir.join("store")).unwrap();
    ready((open(), open()))
}

async fn over(dir: &Path, remote: Arc<dyn ObjectStore>) -> (Cache, Cache) {
    let first = Cache::open_over(&dir.join("first"), Arc::clone(&remote), "memory".into()).await.unwrap();
    let second = Cache::open_over(&dir.join("second"), remote, "memory".into()).await.unwrap();
    (first, second)
}

async fn memory_behind_folders(dir: &Path) -> (Cache, Cache) {
    over(dir, Arc::new(InMemory::new())).await
}

async fn folder_behind_folders(dir: &Path) -> (Cache, Cache) {
    let remote: Location = dir.join("remote").to_str().unwrap().parse().unwrap();
    let first = Cache::open(&dir.join("first"), Some(&remote)).await.unwrap();
    let second = Cache::open(&dir.join("second"), Some(&remote)).await.unwrap();
    (first, second)
}

/// The wrapper itself must change nothing while it is not told to fail.
async fn wrapped_memory(dir: &Path) -> (Cache, Cache) {
    over(dir, Faults::new(std::io::ErrorKind::Other).over(Arc::new(InMemory::new()))).await
}

fn wrapped_folder(dir: &Path) -> Ready<(Cache, Cache)> {
    let open = || Cache::open_faulty(&dir.join("store"), &Faults::new(std::io::ErrorKind::Other)).unwrap();
    ready((open(), open()))
}

/// A real server, such as `s3://bucket/prefix`, where `FLOW_TEST_REMOTE` names one (and the feature `cloud` is on); each case
/// gets a prefix of its own there.
#[cfg(feature = "cloud")]
async fn from_environment(dir: &Path) -> (Cache, Cache) {
    let Ok(remote) = std::env::var("FLOW_TEST_REMOTE") else {
        println!("FLOW_TEST_REMOTE is not set: this runs over memory");
        return memory_behind_folders(dir).await;
    };
    let remote: Location = format!("{remote}/{:016x}", crate::staged::nonce()).parse().unwrap();
    let first = Cache::open(&dir.join("first"), Some(&remote)).await.unwrap();
    let second = Cache::open(&dir.join("second"), Some(&remote)).await.unwrap();
    (first, second)
}

#[cfg(feature = "cloud")]
store_suite!(cloud, from_environment, Caps { at_once: false });
store_suite!(folder, one_folder, Caps { at_once: true });
store_suite!(memory, memory_behind_folders, Caps { at_once: false });
store_suite!(tiered, folder_behind_folders, Caps { at_once: false });
store_suite!(faultless_memory, wrapped_memory, Caps { at_once: false });
store_suite!(faultless_folder, wrapped_folder, Caps { at_once: true });
