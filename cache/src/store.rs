//! The few operations that the rest of the crate needs of a store, over `object_store`: the one code path for a folder,
//! S3, GCS and Azure.
//!
//! The local store has shortcuts: its blobs are linked instead of copied, and its small files written by plain calls.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{
    Error as ObjectError, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, WriteMultipart, path::Path as ObjectPath,
};

use crate::{
    cache::{absent, blocking},
    digest::BlobDigest,
    error::{Error, Result, during},
    failpoint, folder, layout, plain,
    staged::nonce,
};

/// Stands around each step of the plain-file path, so that tests can make a step fail.
pub(crate) trait Hook: Send + Sync {
    /// Before a step.
    fn before(&self, what: &str) -> io::Result<()>;
    /// After one that writes a small file.
    fn after(&self, what: &str) -> io::Result<()>;
}

/// Above this, a blob goes up in parts.
const PART: usize = 8 << 20;

#[derive(Clone)]
pub(crate) struct Store {
    objects: Arc<dyn ObjectStore>,
    /// As a person would write it.
    name: String,
    folder: Option<Folder>,
    /// Does put-if-absent hold? Otherwise [`create`](Self::create) looks before it writes, which a race can fool.
    conditional: bool,
    hook: Option<Arc<dyn Hook>>,
}

/// Where the files of a local store lie.
#[derive(Clone)]
pub(crate) struct Folder {
    pub(crate) root: PathBuf,
    /// Where they are staged.
    pub(crate) tmp: PathBuf,
    /// The folder of the blobs, once it is there. Nothing removes it while a store is open.
    pub(crate) blobs: Arc<OnceLock<fs_err::File>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Store({})", self.name)
    }
}

impl Store {
    /// A store of which put-if-absent is trusted.
    pub(crate) fn new(objects: Arc<dyn ObjectStore>, name: String, folder: Option<Folder>) -> Self {
        Self { objects, name, folder, conditional: true, hook: None }
    }

    #[cfg(any(test, feature = "suite"))]
    pub(crate) fn with_hook(self, hook: Arc<dyn Hook>) -> Self {
        Self { hook: Some(hook), ..self }
    }

    pub(crate) fn with_conditional(self, conditional: bool) -> Self {
        Self { conditional, ..self }
    }

    #[cfg(test)]
    pub(crate) fn objects(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.objects)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn conditional(&self) -> bool {
        self.conditional
    }

    /// The file of an object, where the store is a folder.
    pub(crate) fn file(&self, path: &ObjectPath) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.root.join(path.as_ref()))
    }

    /// The file of an object and where it is staged, where the store is a folder.
    fn staged(&self, path: &ObjectPath) -> Option<(PathBuf, PathBuf)> {
        self.file(path).zip(self.folder.as_ref().map(|folder| folder.tmp.clone()))
    }

    /// The file of a blob, where the store is a folder.
    pub(crate) fn blob(&self, digest: &BlobDigest) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| layout::blob_file(&folder.root, digest))
    }

    /// The folder of the blobs, where the store is a folder and has one.
    pub(crate) fn blobs_folder(&self) -> Option<&fs_err::File> {
        let folder = self.folder.as_ref()?;
        if folder.blobs.get().is_none() {
            let opened = fs_err::File::open(folder.root.join(layout::blobs().as_ref())).ok()?;
            // Another thread may have been faster.
            let _ = folder.blobs.set(opened);
        }
        folder.blobs.get()
    }

    /// Called before a step that does not go through `object_store`.
    pub(crate) fn step(&self, what: &str) -> io::Result<()> {
        self.hook.as_ref().map_or(Ok(()), |hook| hook.before(what))
    }

    /// Does `work` on a file of the local store: a plain call, and not on an async thread.
    async fn plainly<T: Send + 'static>(
        &self,
        what: &'static str,
        path: &ObjectPath,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let explain = || during(|| format!("{what} {path}"));
        self.step(what).map_err(explain())?;
        let done = blocking(|| Ok(work())).await?.map_err(explain())?;
        self.hook.as_ref().map_or(Ok(()), |hook| hook.after(what)).map_err(explain())?;
        Ok(done)
    }

    fn explain(&self, what: &str, path: &ObjectPath) -> impl FnOnce(ObjectError) -> Error {
        let (what, name) = (format!("{what} {path}"), self.name.clone());
        move |source| Error::store(what, &name, source)
    }

    /// The size of an object, if it is there.
    pub(crate) async fn size(&self, path: &ObjectPath) -> Result<Option<u64>> {
        if let Some(file) = self.file(path) {
            return self.plainly("look for", path, move || folder::size(&file)).await;
        }
        match self.objects.head(path).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(ObjectError::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.explain("look for", path)(e)),
        }
    }

    /// All of an object, if it is there.
    pub(crate) async fn read(&self, path: &ObjectPath) -> Result<Option<Bytes>> {
        if let Some(file) = self.file(path) {
            let read = self.plainly("read", path, move || absent(plain::read(&file))).await;
            // What was read is a file: only what was not is looked at more closely.
            if !matches!(read, Ok(Some(_))) && self.make_way(path)? {
                return Ok(None);
            }
            return Ok(read?.map(Bytes::from));
        }
        match self.objects.get(path).await {
            Ok(found) => found.bytes().await.map(Some).map_err(self.explain("read", path)),
            Err(ObjectError::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.explain("read", path)(e)),
        }
    }

    /// An object piece by piece, if it is there.
    pub(crate) async fn stream(
        &self,
        path: &ObjectPath,
    ) -> Result<Option<impl StreamExt<Item = Result<Bytes>> + Unpin>> {
        match self.objects.get(path).await {
            Ok(found) => {
                let (name, path) = (self.name.clone(), path.clone());
                Ok(Some(found.into_stream().map_err(move |e| Error::store(format!("read {path}"), &name, e))))
            }
            Err(ObjectError::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.explain("read", path)(e)),
        }
    }

    /// Writes an object atomically, replacing what may be there.
    pub(crate) async fn replace(&self, path: &ObjectPath, bytes: Bytes) -> Result<()> {
        place(path, "write")?;
        if let Some((file, tmp)) = self.staged(path) {
            self.plainly("write", path, move || folder::replace(&tmp, &file, &bytes)).await?;
            return place(path, "written");
        }
        self.objects.put(path, bytes.into()).await.map(drop).map_err(self.explain("write", path))?;
        place(path, "written")
    }

    /// Writes over an object that is there and for which half a text means the same; on object stores no less atomic.
    pub(crate) async fn overwrite(&self, path: &ObjectPath, bytes: Bytes) -> Result<()> {
        let Some(file) = self.file(path) else { return self.replace(path, bytes).await };
        place(path, "write")?;
        self.plainly("write", path, move || folder::overwrite(&file, &bytes)).await?;
        place(path, "written")
    }

    /// Writes an object atomically unless there is one; `false` means that there is one.
    pub(crate) async fn create(&self, path: &ObjectPath, bytes: Bytes) -> Result<bool> {
        if !self.conditional {
            if self.size(path).await?.is_some() {
                return Ok(false);
            }
            self.replace(path, bytes.clone()).await?;
            return Ok(self.read(path).await? == Some(bytes));
        }
        place(path, "create")?;
        if let Some((file, tmp)) = self.staged(path) {
            let created = self.plainly("create", path, move || folder::create(&tmp, &file, &bytes)).await?;
            return if created { place(path, "created").map(|()| true) } else { Ok(false) };
        }
        match self.objects.put_opts(path, bytes.into(), PutMode::Create.into()).await {
            Ok(_) => place(path, "created").map(|()| true),
            Err(ObjectError::AlreadyExists { .. } | ObjectError::Precondition { .. }) => Ok(false),
            Err(e) => Err(self.explain("create", path)(e)),
        }
    }

    /// Uploads `file` as `path`, hashing while it goes: bytes that are not `digest` never become visible.
    pub(crate) async fn upload(&self, path: &ObjectPath, file: &Path, digest: &BlobDigest, size: u64) -> Result<()> {
        let mut reader = Reader::open(file, size).await?;
        let first = reader.next().await?;
        if size <= PART as u64 {
            reader.check(digest)?;
            return self.replace(path, first).await;
        }
        let upload = self.objects.put_multipart(path).await.map_err(self.explain("upload", path))?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PART);
        upload.put(first);
        let sent = async {
            loop {
                let part = reader.next().await?;
                if part.is_empty() {
                    return reader.check(digest);
                }
                upload.wait_for_capacity(4).await.map_err(self.explain("upload", path))?;
                upload.put(part);
            }
        };
        if let Err(e) = sent.await {
            // The first error is the one to tell; what the abort leaves, the bucket's lifecycle rule removes.
            let _ = upload.abort().await;
            return Err(e);
        }
        upload.finish().await.map(drop).map_err(self.explain("upload", path))
    }

    /// Everything below `prefix`, sorted by path.
    pub(crate) async fn list(&self, prefix: &ObjectPath) -> Result<Vec<ObjectMeta>> {
        let mut found: Vec<ObjectMeta> =
            self.objects.list(Some(prefix)).try_collect().await.map_err(self.explain("list", prefix))?;
        found.sort_by(|a, b| a.location.cmp(&b.location));
        Ok(found)
    }

    /// The names right below `prefix`, in no order.
    pub(crate) async fn names(&self, prefix: &ObjectPath) -> Result<Vec<String>> {
        if let Some(file) = self.file(prefix) {
            return self.plainly("list", prefix, move || folder::names(&file)).await;
        }
        Ok(self.list(prefix).await?.iter().filter_map(|meta| meta.location.filename().map(str::to_owned)).collect())
    }

    /// Removes an object; `false` means that there was none.
    pub(crate) async fn remove(&self, path: &ObjectPath) -> Result<bool> {
        place(path, "remove")?;
        if let Some(file) = self.file(path) {
            return self.plainly("remove", path, move || folder::remove(&file)).await;
        }
        // S3 does not tell whether there was one.
        let was_there = self.size(path).await?.is_some();
        match self.objects.delete(path).await {
            Ok(()) | Err(ObjectError::NotFound { .. }) => Ok(was_there),
            Err(e) => Err(self.explain("remove", path)(e)),
        }
    }

    /// Sets aside what stands where a file belongs and is none: a folder, a pipe, a link to nothing. Whether there was such a
    /// thing; then nothing is there any more.
    pub(crate) fn make_way(&self, path: &ObjectPath) -> Result<bool> {
        let Some((folder, file)) = self.folder.as_ref().zip(self.file(path)) else { return Ok(false) };
        let what = || format!("set aside {}, which is no file", file.display());
        let Some(found) = absent(fs_err::symlink_metadata(&file)).map_err(during(what))? else { return Ok(false) };
        if found.is_file() || (found.is_symlink() && std::fs::metadata(&file).is_ok_and(|meta| meta.is_file())) {
            return Ok(false);
        }
        let aside = folder.root.join(layout::quarantine(path, nonce()).as_ref());
        tracing::warn!(store = %self.name, %path, aside = %aside.display(), "no file, set aside");
        let moved = || {
            fs_err::create_dir_all(aside.parent().unwrap_or(&folder.root))?;
            absent(fs_err::rename(&file, &aside))
        };
        moved().map_err(during(what))?;
        Ok(true)
    }

    /// Moves a damaged object out of the way, so that it counts as absent and a person can still look at it.
    pub(crate) async fn set_aside(&self, path: &ObjectPath, reason: &str) -> Result<()> {
        let aside = layout::quarantine(path, nonce());
        tracing::warn!(store = %self.name, %path, %aside, reason, "damaged, set aside");
        place(path, "set-aside")?;
        match self.objects.rename(path, &aside).await {
            // Somebody else was faster.
            Ok(()) | Err(ObjectError::NotFound { .. }) => Ok(()),
            Err(e) => Err(self.explain("set aside the damaged", path)(e)),
        }
    }

    /// Does put-if-absent hold here? Stores claim it that let a second writer in, some only when writers race
    /// (s3s-fs 0.14: up to 16 winners of 16), so eight writers race for each of three names, and a late one comes after.
    pub(crate) async fn probe(&self) -> Result<bool> {
        // A word first: a store that is away says so sooner than eight writers do, one after the other.
        self.size(&layout::probe(nonce())).await?;
        let mut sound = 0;
        for _ in 0..RACES {
            match self.race().await? {
                Race::Sound => sound += 1,
                Race::Unsound => return Ok(false),
                Race::Unclear => {}
            }
            if sound == SOUND_RACES {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn race(&self) -> Result<Race> {
        let path = layout::probe(nonce());
        let trusting = Self { conditional: true, ..self.clone() };
        // By its bytes each knows its own object: who asks again after an answer got lost meets it.
        let texts: Vec<Bytes> = (0..=RACERS).map(|at| Bytes::from(format!("{:016x} {at}", nonce()))).collect();
        let Some((last, racers)) = texts.split_last() else { return Ok(Race::Unclear) };
        let raced = racers.iter().map(|text| trusting.create(&path, text.clone()));
        let mut outcomes: Vec<Result<bool>> = stream::iter(raced).buffered(RACERS).collect().await;
        outcomes.push(trusting.create(&path, last.clone()).await);
        let found = self.read(&path).await;
        // What stays takes few bytes, and the next race has another name.
        if let Err(error) = self.remove(&path).await {
            tracing::debug!(store = %self.name, %error, "what a probe wrote could not be removed");
        }
        let Some(found) = found? else { return Ok(judge(&outcomes, None)) };
        let whose = texts.iter().position(|text| *text == found);
        Ok(if whose.is_some() { judge(&outcomes, whose) } else { Race::Unsound })
    }
}

/// How many writers race for a name, before the late one.
const RACERS: usize = 8;
/// So many races tell that put-if-absent holds.
const SOUND_RACES: u32 = 3;
/// So many are held at most, where answers get lost.
const RACES: u32 = 6;

/// What a race tells.
#[derive(Debug, PartialEq, Eq)]
enum Race {
    /// One was let in.
    Sound,
    /// More than one was, or put-if-absent is not to be had at all.
    Unsound,
    /// Too many answers got lost.
    Unclear,
}

/// What became of each writer, the late one last, and whose object is there.
fn judge(outcomes: &[Result<bool>], there: Option<usize>) -> Race {
    // A loser may get a server error instead of a refusal (moto); a store that cannot do it at all says so each time.
    if outcomes.iter().all(Result::is_err) {
        return Race::Unsound;
    }
    let mut let_in = outcomes.iter().enumerate().filter(|(_, outcome)| matches!(outcome, Ok(true)));
    // Who was let in is there, or else somebody else was let in too.
    if let_in.any(|(at, _)| there != Some(at)) {
        return Race::Unsound;
    }
    match (there, outcomes) {
        // The answer to the one that is there may have got lost.
        (Some(there), [_, .., Ok(false)]) if there + 1 < outcomes.len() => Race::Sound,
        // The late one came after all the others had failed, or nobody knows what it met.
        _ => Race::Unclear,
    }
}

/// A place at which tests may step in.
fn place(path: &ObjectPath, step: &str) -> Result<()> {
    failpoint::on_object(path, step).map_err(during(|| format!("write {path}")))
}

/// Reads a file in parts of 8 MiB off the async threads, and hashes what it reads.
struct Reader {
    state: Option<(fs_err::File, blake3::Hasher)>,
    path: PathBuf,
    left: u64,
}

impl Reader {
    async fn open(path: &Path, size: u64) -> Result<Self> {
        let at = path.to_owned();
        let file = blocking(move || plain::open(&at).map_err(during(|| "open a blob"))).await?;
        Ok(Self { state: Some((file, blake3::Hasher::new())), path: path.to_owned(), left: size })
    }

    async fn next(&mut self) -> Result<Bytes> {
        let Some((mut file, mut hasher)) = self.state.take() else { return Ok(Bytes::new()) };
        let want = self.left.min(PART as u64);
        let (part, state) = blocking(move || {
            let mut part = Vec::with_capacity(want as usize);
            io::Read::read_to_end(&mut io::Read::take(&mut file, want), &mut part).map_err(during(|| "read a blob"))?;
            hasher.update(&part);
            Ok((part, (file, hasher)))
        })
        .await?;
        self.left -= part.len() as u64;
        self.state = Some(state);
        Ok(part.into())
    }

    fn check(&self, digest: &BlobDigest) -> Result<()> {
        let found = self.state.as_ref().map(|(_, hasher)| BlobDigest::from_bytes(*hasher.finalize().as_bytes()));
        if found == Some(*digest) {
            return Ok(());
        }
        tracing::warn!(path = %self.path.display(), "not uploaded: its bytes are not those of its name");
        Err(Error::Corrupt { digest: *digest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_race_is_judged_by_who_is_there() {
        let lost = || Err(Error::NoArtifact { digest: crate::ArtifactDigest::of(b"") });
        let judged =
            |racers: [Option<bool>; 3], there| judge(&racers.map(|outcome| outcome.map_or_else(lost, Ok)), there);
        let (yes, no, lost) = (Some(true), Some(false), None);
        for (racers, there, expected) in [
            ([yes, no, no], Some(0), Race::Sound),
            ([yes, lost, no], Some(0), Race::Sound),
            // Who asked again met its own object.
            ([no, no, no], Some(1), Race::Sound),
            ([lost, no, no], Some(0), Race::Sound),
            ([no, no, no], Some(2), Race::Unclear),
            ([lost, lost, yes], Some(2), Race::Unclear),
            ([yes, no, lost], Some(0), Race::Unclear),
            ([no, no, no], None, Race::Unclear),
            ([yes, yes, no], Some(1), Race::Unsound),
            ([yes, no, no], Some(1), Race::Unsound),
            ([yes, no, yes], Some(2), Race::Unsound),
            ([yes, no, no], None, Race::Unsound),
            ([lost, lost, lost], None, Race::Unsound),
        ] {
            assert_eq!(judged(racers, there), expected, "{racers:?}, {there:?}");
        }
    }
}
