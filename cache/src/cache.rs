//! The handle that the rest of flow holds, and how it is opened. What it does is in the files of each idea.

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::{Arc, Mutex},
    time::SystemTime,
};

use bytes::Bytes;
use flow_patience::Patience;
use object_store::{ObjectStore, local::LocalFileSystem};

use crate::{
    digest::StageKey,
    durable::{self, Batch},
    error::{Error, Result, during},
    known::Known,
    latest::LatestKeys,
    layout::{self, Local},
    link::Linker,
    location::Location,
    spare::Spares,
    store::{Folder, Store},
    tiered::{Tiers, Uploads},
};

/// A store: a local folder, and maybe a remote store behind it. Cloning is cheap; clones are the same store.
#[derive(Clone, Debug)]
pub struct Cache {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    local: Local,
    tiers: Arc<Tiers>,
    uploads: Option<Uploads>,
    latest: LatestKeys,
    known: Known,
    seen: Mutex<BTreeMap<StageKey, SeenLease>>,
    spare: Mutex<Spares>,
}

/// A lease of somebody else, its attempt and end, and when it was first seen so.
type SeenLease = ((u64, u64), SystemTime);

impl Cache {
    /// Opens the folder `root` as a store, making it if it is not there.
    pub fn open_local(root: &Path) -> Result<Self> {
        let (local, store) = open_folder(root, None)?;
        Ok(Self::assemble(local, store, None))
    }

    /// Opens the folder `root`, with `remote` behind it: what is not in the folder is looked for there, and what is
    /// recorded is uploaded in the background ([`Cache::flush`]). Needs to be called within a tokio runtime.
    ///
    /// A remote store is probed once for put-if-absent, on which the promise rests that racing runs agree on one record. If
    /// it lets a second writer in, that is said in a warning and by [`Cache::promises_put_if_absent`].
    pub async fn open(root: &Path, remote: Option<&Location>) -> Result<Self> {
        Self::open_with(root, remote, Patience::default()).await
    }

    /// [`Cache::open`] with a word on how long and how often the remote store is asked.
    pub async fn open_with(root: &Path, remote: Option<&Location>, patience: Patience) -> Result<Self> {
        let Some(location) = remote else { return Self::open_local(root) };
        let objects = location.objects(patience)?;
        Self::open_over(root, objects, location.to_string()).await
    }

    /// [`Cache::open`] with an object store of the caller's in the place of the remote location. `name` is what errors
    /// call it, and what the result of the probe is remembered under.
    pub async fn open_over(root: &Path, remote: Arc<dyn ObjectStore>, name: String) -> Result<Self> {
        let (local, store) = open_folder(root, None)?;
        let remote = probed(&store, Store::new(remote, name, None)).await?;
        Ok(Self::assemble(local, store, Some(remote)))
    }

    /// A local store of which each step that writes or reads may fail, as `faults` says.
    #[cfg(any(test, feature = "suite"))]
    pub fn open_faulty(root: &Path, faults: &Arc<crate::faults::Faults>) -> Result<Self> {
        let (local, store) = open_folder(root, Some(&|objects| faults.over(objects)))?;
        let hook = Arc::clone(faults);
        Ok(Self::assemble(local, store.with_hook(hook), None))
    }

    fn assemble(local: Local, store: Store, remote: Option<Store>) -> Self {
        let tiers = Arc::new(Tiers {
            tmp: local.tmp(),
            batch: Batch::new(&local),
            linker: Linker::new(),
            local: store,
            remote,
        });
        let uploads = tiers.remote.is_some().then(|| Uploads::start(Arc::clone(&tiers)));
        let known = Known::new(&local);
        let latest = LatestKeys::default();
        Self {
            inner: Arc::new(Inner {
                local,
                tiers,
                uploads,
                latest,
                known,
                seen: Mutex::default(),
                spare: Mutex::default(),
            }),
        }
    }

    /// The folder of the local store.
    pub fn root(&self) -> &Path {
        self.inner.local.root()
    }

    /// A folder of this process on the store's own disk, where to lay out an artifact is to link it. It is a temporary: who makes
    /// it removes it, and what a killed process leaves goes with a collection.
    pub fn room_to_lay_out(&self) -> std::path::PathBuf {
        self.inner.local.laid_out()
    }

    /// Where damaged things are set aside, for a person to look at.
    pub fn quarantine(&self) -> std::path::PathBuf {
        self.inner.local.root().join(layout::quarantine_all().as_ref())
    }

    /// The remote store, as a person would write it.
    pub fn remote_name(&self) -> Option<&str> {
        self.inner.tiers.remote.as_ref().map(Store::name)
    }

    /// Does the store in which records and leases meet refuse a second writer? Where it does not, two runs that race may
    /// each believe that they wrote a record or hold a lease; the bytes of artifacts are safe all the same.
    pub fn promises_put_if_absent(&self) -> bool {
        self.shared().conditional()
    }

    pub(crate) fn local(&self) -> &Local {
        &self.inner.local
    }

    pub(crate) fn tiers(&self) -> &Arc<Tiers> {
        &self.inner.tiers
    }

    pub(crate) fn latest_keys(&self) -> &LatestKeys {
        &self.inner.latest
    }

    pub(crate) fn known(&self) -> &Known {
        &self.inner.known
    }

    pub(crate) fn store(&self) -> &Store {
        &self.inner.tiers.local
    }

    pub(crate) fn seen(&self) -> &Mutex<BTreeMap<StageKey, SeenLease>> {
        &self.inner.seen
    }

    pub(crate) fn spare(&self) -> &Mutex<Spares> {
        &self.inner.spare
    }

    pub(crate) fn uploads(&self) -> Option<&Uploads> {
        self.inner.uploads.as_ref()
    }

    /// The store in which runs on several machines meet.
    pub(crate) fn shared(&self) -> &Store {
        self.inner.tiers.remote.as_ref().unwrap_or(&self.inner.tiers.local)
    }
}

/// What stands between the store and its folder: nothing, or a store that fails on purpose.
type Wrap<'a> = &'a dyn Fn(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>;

fn open_folder(root: &Path, wrap: Option<Wrap<'_>>) -> Result<(Local, Store)> {
    let make = |path: &Path| fs_err::create_dir_all(path).map_err(during(|| "create the folder of the store"));
    make(root)?;
    // Absolute, so that a later change of the current folder does not move the store.
    let root = fs_err::canonicalize(root).map_err(during(|| "open the folder of the store"))?;
    let local = Local::new(&root);
    make(&local.tmp())?;
    let objects = LocalFileSystem::new_with_prefix(&root)
        .map_err(|e| Error::store("open the folder", &root.display().to_string(), e))?
        .with_fsync(false);
    let objects: Arc<dyn ObjectStore> = Arc::new(objects);
    let objects = wrap.map_or_else(|| Arc::clone(&objects), |wrap| wrap(Arc::clone(&objects)));
    let folder = Folder { tmp: local.tmp(), root, blobs: Arc::default() };
    let store = Store::new(objects, folder.root.display().to_string(), Some(folder));
    durable::recover(&local, &store)?;
    Ok((local, store))
}

/// Probes `remote` unless the local store remembers that it was found good. A bad result is not remembered: servers get mended.
async fn probed(local: &Store, remote: Store) -> Result<Store> {
    let remembered = layout::remote(remote.name());
    if local.read(&remembered).await?.is_some_and(|text| text.starts_with(b"put-if-absent holds")) {
        return Ok(remote);
    }
    if remote.probe().await? {
        local.replace(&remembered, Bytes::from(format!("put-if-absent holds\n{}\n", remote.name()))).await?;
        return Ok(remote);
    }
    tracing::warn!(
        store = remote.name(),
        "this store does not refuse a second writer of one name: runs that race may both write a record; use one run at a time"
    );
    Ok(remote.with_conditional(false))
}

/// Polls `future` so that what it does with files it does right there, and not on other threads: for a task that has a
/// thread of its own, as `spawn_blocking` gives it.
pub async fn in_place<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|context| {
        let _back = Back(MAY_BLOCK.replace(true));
        future.as_mut().poll(context)
    })
    .await
}

/// Sets the mark of the thread back, also when a poll panics.
struct Back(bool);

impl Drop for Back {
    fn drop(&mut self) {
        MAY_BLOCK.set(self.0);
    }
}

thread_local! {
    /// Whether work that blocks is done on this thread.
    static MAY_BLOCK: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Runs work that blocks off the async threads; in place where there is no runtime, or the thread is there for it.
pub(crate) async fn blocking<T, F>(work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    if MAY_BLOCK.get() {
        return work();
    }
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => runtime.spawn_blocking(work).await.map_err(|source| Error::Task { source })?,
        Err(_) => work(),
    }
}

/// Is there no such file? Other errors stay errors.
pub(crate) fn absent<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(e),
    }
}
