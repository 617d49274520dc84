//! Durability that costs no more than what it keeps: a sync takes milliseconds, a quick stage less than one, and a training hours.
//!
//! ```text
//!  the first time ▶ mark unsynced/<number>, durable
//!  each stage     ▶ blobs ▶ manifest, log ▶ (if it took a second or more) sync ▶ record ▶ (two seconds later at most) sync
//!                                                                          └───────────────────────────────────────┴▶ of
//!                   all that the process has published, in one go; the mark gets its time
//! ```
//!
//! What `kill -9` leaves the system writes all the same. Only where the whole machine stops may something of the last seconds
//! be lost, or be there with its size and without its bytes: a record, the result of a stage that took a moment, and what no
//! record names yet or came from a remote store. The mark tells: whoever opens the store after a restart hashes the blobs that
//! are younger than it, and sets aside what is damaged; manifests and records are read with their checks each time.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rayon::prelude::*;

use crate::{
    cache::absent,
    digest::BlobDigest,
    error::{Result, during},
    failpoint,
    holder::Holder,
    layout::Local,
    plain,
    staged::{Staged, nonce, sync_folder},
    store::Store,
    trees::hash_file,
};

/// How long a record may wait for its sync.
const WAIT: Duration = Duration::from_secs(2);
/// Above this many new files, one `syncfs` is cheaper than a sync of each.
const SYNC_EACH: usize = 64;
/// Clocks and times of files are not exact: what is this much older than a mark is looked at too.
const SLACK: Duration = Duration::from_secs(5);
/// A mark of another host that may still work. Its own next start takes it away; after this long, nobody will.
const FOREIGN: Duration = Duration::from_hours(24 * 7);

/// What this process has published and not yet synced.
#[derive(Debug)]
pub(crate) struct Batch {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    /// A folder on the disk of the store.
    root: PathBuf,
    mark: PathBuf,
    /// Where the mark is written aside.
    tmp: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
    /// Held by who syncs: another one waits until what it has published is durable too. The folders of which the own name is
    /// durable: nothing removes a folder of a store, so that this stays so.
    syncing: Mutex<BTreeSet<PathBuf>>,
}

#[derive(Debug, Default)]
struct State {
    marked: bool,
    /// Files whose bytes and names are not durable.
    files: BTreeSet<PathBuf>,
    closed: bool,
}

impl Batch {
    pub(crate) fn new(local: &Local) -> Self {
        let mark = local.unsynced().join(format!("{:016x}", nonce()));
        let shared = Shared {
            root: local.everything(),
            mark,
            tmp: local.tmp(),
            state: Mutex::default(),
            changed: Condvar::new(),
            syncing: Mutex::default(),
        };
        Self { shared: Arc::new(shared), thread: Mutex::new(None) }
    }

    /// Says that something is about to be published. The first time in a process this writes the mark, durably.
    pub(crate) fn begin(&self) -> io::Result<()> {
        let mut state = self.shared.state();
        if state.marked {
            return Ok(());
        }
        self.shared.write_mark()?;
        state.marked = true;
        drop(state);
        let shared = Arc::clone(&self.shared);
        let work = std::thread::Builder::new().name("flow-sync".into()).spawn(move || shared.work())?;
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(work);
        Ok(())
    }

    /// Says that these files have been published.
    pub(crate) fn add(&self, files: impl IntoIterator<Item = PathBuf>) {
        let mut state = self.shared.state();
        let waits = !state.files.is_empty();
        state.files.extend(files);
        if !waits && !state.files.is_empty() {
            self.shared.changed.notify_all();
        }
    }

    /// Makes everything durable that this process has published.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.shared.sync()
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        self.shared.changed.notify_all();
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A panic there has been printed, and leaves the mark: the next start looks.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Each change of the state is whole, so that of a thread that panicked is as good as any.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_mark(&self) -> io::Result<()> {
        let Some(folder) = self.mark.parent() else { return Ok(()) };
        failpoint::at("unsynced.write")?;
        fs_err::create_dir_all(folder)?;
        // Aside: who opens the store meanwhile takes half a mark for one that the stop of the machine cut short.
        let staged = Staged::reserve(&self.tmp);
        let mut file = fs_err::File::create_new(staged.path())?;
        file.write_all(&serde_json::to_vec(&Holder::this_process(""))?)?;
        file.sync_all()?;
        staged.publish(&self.mark)?;
        failpoint::at("unsynced.renamed")?;
        sync_folder(folder)?;
        sync_folder(&self.root)
    }

    /// Syncs what is published, at most [`WAIT`] later; when the store is closed, at once and for the last time.
    fn work(&self) {
        loop {
            let mut state = self.state();
            while state.files.is_empty() && !state.closed {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let closed = self.changed.wait_timeout_while(state, WAIT, |state| !state.closed);
            let closed = closed.unwrap_or_else(PoisonError::into_inner).0.closed;
            match self.sync() {
                Ok(()) if closed => {
                    if let Err(error) = absent(std::fs::remove_file(&self.mark)) {
                        tracing::warn!(%error, "the mark of unsynced publications could not be removed");
                    }
                    return;
                }
                Ok(()) => {}
                Err(error) => {
                    tracing::warn!(%error, store = %self.root.display(), "what was published could not be synced");
                    if closed {
                        return;
                    }
                }
            }
        }
    }

    fn sync(&self) -> io::Result<()> {
        let mut named = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let files = std::mem::take(&mut self.state().files);
        if files.is_empty() {
            return Ok(());
        }
        let began = SystemTime::now();
        if let Err(error) = sync_all(&self.root, &files, &mut named) {
            self.state().files.extend(files);
            return Err(error);
        }
        // Older publications need not be looked at after a restart. Not durable: a mark that seems older only costs time.
        match absent(fs_err::File::options().write(true).open(&self.mark))? {
            Some(mark) => mark.set_modified(began),
            // Somebody took it for that of a dead process.
            None => self.write_mark(),
        }
    }
}

/// Makes files, and the names of them and of the folders that were made for them, durable.
fn sync_all(root: &Path, files: &BTreeSet<PathBuf>, named: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    failpoint::at("blobs.sync")?;
    // What it could not write it does not name: then each is asked.
    #[cfg(target_os = "linux")]
    if files.len() > SYNC_EACH && rustix::fs::syncfs(fs_err::File::open(root)?).is_ok() {
        return failpoint::at("blobs.durable");
    }
    let paths: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    // A collection may have taken one meanwhile.
    paths.par_iter().with_min_len(4).try_for_each(|path| match absent(fs_err::File::open(path))? {
        // Its bytes may be lost, and a second sync may not say so: it must not count as there.
        Some(file) => file.sync_all().inspect_err(|_| drop(std::fs::remove_file(path))),
        None => Ok(()),
    })?;
    failpoint::at("blobs.sync-folders")?;
    let (mut folders, mut named_now) = (BTreeSet::new(), Vec::new());
    for path in paths {
        for folder in path.ancestors().skip(1).take_while(|folder| folder.starts_with(root)) {
            folders.insert(folder);
            if named.contains(folder) {
                break;
            }
            named_now.push(folder.to_owned());
        }
    }
    folders.into_iter().collect::<Vec<_>>().par_iter().with_min_len(4).try_for_each(|folder| sync_folder(folder))?;
    named.extend(named_now);
    failpoint::at("blobs.durable")
}

/// Looks at the marks that others left. After a restart of the machine, hashes what was not synced before it.
pub(crate) fn recover(local: &Local, store: &Store) -> Result<Vec<BlobDigest>> {
    let mut damaged = Vec::new();
    let Some(marks) =
        absent(fs_err::read_dir(local.unsynced())).map_err(during(|| "look for unsynced publications"))?
    else {
        return Ok(damaged);
    };
    let mut since: Option<SystemTime> = None;
    let mut past = Vec::new();
    for mark in marks.flatten() {
        let Ok(modified) = mark.metadata().and_then(|meta| meta.modified()) else { continue };
        let holder = plain::read(&mark.path()).ok().and_then(|text| serde_json::from_slice::<Holder>(&text).ok());
        let (restarted, here) = match &holder {
            Some(holder) => (!holder.is_of_this_boot(), holder.is_of_this_host()),
            // Cut short by the stop itself.
            None => (true, true),
        };
        if restarted {
            since = Some(since.map_or(modified, |since| since.min(modified)));
        }
        let old = modified.elapsed().is_ok_and(|age| age > FOREIGN);
        if (restarted && (here || old)) || holder.is_some_and(|holder| holder.is_dead()) {
            past.push(mark.path());
        }
    }
    if let Some(since) = since {
        damaged = set_aside_damaged(local, store, since.checked_sub(SLACK).unwrap_or(UNIX_EPOCH))?;
    }
    if past.is_empty() {
        return Ok(damaged);
    }
    // What a killed process of this boot left is in the system's memory, and need only be written.
    #[cfg(target_os = "linux")]
    fs_err::File::open(local.everything())
        .and_then(|root| rustix::fs::syncfs(root).map_err(io::Error::from))
        .map_err(during(|| "sync the store"))?;
    for mark in past {
        absent(fs_err::remove_file(mark)).map_err(during(|| "remove the mark of unsynced publications"))?;
    }
    Ok(damaged)
}

fn set_aside_damaged(local: &Local, store: &Store, since: SystemTime) -> Result<Vec<BlobDigest>> {
    let since = since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as i64;
    let mut young = Vec::new();
    for shard in local.folders_of_blobs().map_err(during(|| "list the blobs"))? {
        for blob in fs_err::read_dir(&shard).map_err(during(|| "list the blobs"))?.flatten() {
            let named = blob.file_name().to_str().and_then(|name| name.parse::<BlobDigest>().ok());
            let Some((named, meta)) = named.zip(blob.metadata().ok()) else { continue };
            // The change time is that of the publication, which may link a file that was written long before.
            if meta.ctime() >= since {
                young.push((named, blob.path(), meta.len()));
            }
        }
    }
    let damaged: Vec<(BlobDigest, PathBuf)> = young
        .into_par_iter()
        .filter_map(|(named, path, size)| match hash_file(&path, size) {
            Ok(digest) if digest == named => None,
            _ => Some((named, path)),
        })
        .collect();
    for (named, path) in &damaged {
        store.step("set aside a blob").map_err(during(|| "set aside a damaged blob"))?;
        tracing::warn!(blob = %named, "damaged when the machine stopped, set aside");
        let aside = local.quarantined(named);
        fs_err::create_dir_all(aside.parent().unwrap_or(&aside)).map_err(during(|| "set aside a damaged blob"))?;
        absent(fs_err::rename(path, aside)).map_err(during(|| "set aside a damaged blob"))?;
    }
    Ok(damaged.into_iter().map(|(named, _)| named).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cache, StageKey, suite::record};

    fn marks(cache: &Cache) -> Vec<PathBuf> {
        let Ok(found) = fs_err::read_dir(cache.local().unsynced()) else { return Vec::new() };
        found.map(|mark| mark.unwrap().path()).collect()
    }

    async fn published(root: &Path, text: &str) -> (Cache, StageKey) {
        let cache = Cache::open_local(root).unwrap();
        let key = StageKey::of(text.as_bytes());
        let work = cache.work_dir(&key).unwrap();
        fs_err::write(work.output().join("a"), text).unwrap();
        let artifact = cache.publish(&work.output()).await.unwrap().digest;
        cache.put_record(&record(key, artifact)).await.unwrap();
        (cache, key)
    }

    #[tokio::test]
    async fn the_mark_is_there_while_the_store_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open_local(dir.path()).unwrap();
        assert!(marks(&cache).is_empty(), "who publishes nothing leaves nothing");
        drop(cache);
        let (cache, _) = published(dir.path(), "text").await;
        assert_eq!(marks(&cache).len(), 1);
        cache.flush().await;
        assert_eq!(marks(&cache).len(), 1, "more may come");
        let root = cache.root().to_owned();
        drop(cache);
        assert!(marks(&Cache::open_local(&root).unwrap()).is_empty());
    }

    fn waiting(cache: &Cache) -> BTreeSet<PathBuf> {
        cache.tiers().batch.shared.state().files.clone()
    }

    /// A sync that fails stands before the record that names what it should have made durable.
    #[tokio::test]
    async fn what_took_long_is_on_the_disk_before_its_record_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let (cache, _) = published(dir.path(), "first").await;
        let key = StageKey::of(b"key");
        let work = cache.work_dir(&key).unwrap();
        fs_err::write(work.output().join("a"), "text").unwrap();
        let broken = cache.local().everything().join("loop");
        let break_syncs = || {
            std::os::unix::fs::symlink(&broken, &broken).unwrap();
            cache.tiers().batch.add([broken.clone()]);
        };
        let artifact = cache.publish(&work.output()).await.unwrap().digest;
        assert!(waiting(&cache).contains(&layout_of(cache.root(), b"text")));

        let log = cache.put_blob("log".into()).await.unwrap();
        break_syncs();
        let record = crate::Record { log: Some(log), seconds: 1.0, ..record(key, artifact) };
        cache.put_record(&record).await.unwrap_err();
        let lease = cache.acquire(&key, &Holder::this_process(""), SystemTime::now(), Duration::from_mins(1)).await;
        let crate::Acquired::Yes(lease) = lease.unwrap() else { panic!("nobody else is here") };
        cache.put_record_under(&record, &lease).await.unwrap_err();
        assert_eq!(cache.record(&key).await.unwrap(), None, "no record before the manifest and the log");
        fs_err::remove_file(&broken).unwrap();
        cache.put_record_under(&record, &lease).await.unwrap();
        let tree = cache.store().file(&crate::layout::tree(&artifact)).unwrap();
        let artifact = BTreeSet::from([tree, layout_of(cache.root(), b"text")]);
        assert!(waiting(&cache).is_disjoint(&artifact));
        assert!(!waiting(&cache).contains(&layout_of(cache.root(), b"log")));

        // Work of a moment does not wait for a disk, and is synced all the same.
        cache.publish(&work.output()).await.unwrap();
        break_syncs();
        let key = StageKey::of(b"of a moment");
        let record = crate::Record { key, seconds: 0.999, ..record };
        cache.put_record(&record).await.unwrap();
        assert!(waiting(&cache).is_superset(&artifact));
        fs_err::remove_file(&broken).unwrap();
        cache.flush().await;
        assert!(waiting(&cache).is_empty());
    }

    /// Another process may have published it a moment ago, and not synced it.
    #[tokio::test]
    async fn what_was_there_already_is_synced_too() {
        let dir = tempfile::tempdir().unwrap();
        let (cache, key) = published(dir.path(), "text").await;
        let work = cache.work_dir(&key).unwrap();
        fs_err::write(work.output().join("b"), "text").unwrap();
        for published in [true, false] {
            let other = Cache::open_local(dir.path()).unwrap();
            if published {
                other.publish(&work.output()).await.unwrap();
            } else {
                other.put_blob("text".into()).await.unwrap();
            }
            assert!(waiting(&other).contains(&layout_of(other.root(), b"text")), "{published}");
        }
    }

    #[tokio::test]
    async fn a_mark_that_was_taken_away_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let (cache, _) = published(dir.path(), "text").await;
        let mark = marks(&cache).remove(0);
        fs_err::remove_file(&mark).unwrap();
        published(dir.path(), "other").await;
        cache.put_blob("more".into()).await.unwrap();
        cache.tiers().batch.sync().unwrap();
        assert_eq!(marks(&cache), [mark]);
    }

    /// As after a power cut: the mark is of another boot, and a blob has its size but not its bytes.
    #[tokio::test]
    async fn after_a_restart_what_was_not_synced_is_hashed() {
        let dir = tempfile::tempdir().unwrap();
        let (cache, key) = published(dir.path(), "text").await;
        let (_, whole) = published(dir.path(), "more").await;
        let mark = dir.path().join("mark");
        fs_err::copy(&marks(&cache)[0], &mark).unwrap();
        drop(cache);
        let lost = layout_of(dir.path(), b"text");
        fs_err::set_permissions(&lost, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        fs_err::write(&lost, "\0\0\0\0").unwrap();
        assert!(Cache::open_local(dir.path()).unwrap().hit(&key).await.unwrap().is_some(), "without a mark none looks");

        let text = fs_err::read_to_string(&mark).unwrap();
        let boot = Holder::this_process("").boot;
        let local = Local::new(dir.path());
        fs_err::create_dir_all(local.unsynced()).unwrap();
        fs_err::write(local.unsynced().join("left"), text.replace(&boot, "an earlier boot")).unwrap();
        let cache = Cache::open_local(dir.path()).unwrap();
        assert_eq!(cache.hit(&key).await.unwrap(), None);
        assert!(cache.hit(&whole).await.unwrap().is_some());
        assert!(marks(&cache).is_empty());
        assert!(cache.verify().await.unwrap().is_sound());
    }

    #[tokio::test]
    async fn a_mark_that_was_cut_short_counts_as_one() {
        let dir = tempfile::tempdir().unwrap();
        let (cache, key) = published(dir.path(), "text").await;
        drop(cache);
        let lost = layout_of(dir.path(), b"text");
        fs_err::set_permissions(&lost, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        fs_err::write(&lost, "\0\0\0\0").unwrap();
        fs_err::write(Local::new(dir.path()).unsynced().join("left"), "").unwrap();
        assert_eq!(Cache::open_local(dir.path()).unwrap().hit(&key).await.unwrap(), None);
    }

    fn layout_of(root: &Path, text: &[u8]) -> PathBuf {
        crate::layout::blob_file(root, &BlobDigest::of(text))
    }
}
