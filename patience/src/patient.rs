//! A store over a network fails now and then, and sometimes does not answer at all. Each call has a time, and is made again
//! after a pause, twice as long each time, where that can help.
//!
//! A call that is made again after its answer got lost may meet its own work: a create then looks refused. Records and leases
//! know that (the same record is no conflict, a lease knows its own number).

use std::{
    error::Error as StdError,
    fmt,
    future::Future,
    io,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::waits::Waits;
use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt, stream, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart, path::Path,
};

/// How long and how often a remote store is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// The longest that one call may take. One that only waits for a word, and moves few bytes or none, has a twelfth of it, or
    /// ten seconds if that is more.
    pub timeout: Duration,
    /// How often a call is made in all, at least once.
    pub attempts: u32,
    /// The pause before the second attempt; it doubles.
    pub backoff: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        // A store that refuses is told after 15 seconds, one that is silent after about a minute.
        Self { timeout: Duration::from_mins(2), attempts: 5, backoff: Duration::from_secs(1) }
    }
}

/// No store needs longer for a word, and who waits for it should hear of it.
const WORD: Duration = Duration::from_secs(10);
/// So many bytes are on their way no longer than a word.
const FEW: usize = 64 << 10;
/// So many objects S3 removes with one request.
const DELETED_AT_ONCE: usize = 1000;

impl Patience {
    /// `objects`, asked with this patience; `name` is what people call the store. An object's bytes that stop on their way go on
    /// from where they stopped, as long as it is the same object; a list that breaks off is asked for anew.
    pub fn over(self, name: impl Into<String>, objects: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        self.over_both(name.into(), objects, None)
    }

    /// The same, where `uploads` makes the calls of uploads in parts again by itself: a part cannot be sent again from here.
    pub(crate) fn over_both(
        self,
        name: String,
        objects: Arc<dyn ObjectStore>,
        uploads: Option<Arc<dyn ObjectStore>>,
    ) -> Arc<dyn ObjectStore> {
        Arc::new(Patient { objects, uploads, asking: Asking { patience: self, waits: Arc::new(Waits::new(name)) } })
    }

    /// How long a word is waited for.
    fn word(self) -> Duration {
        (self.timeout / 12).max(self.timeout.min(WORD))
    }

    /// The pause after attempt number `attempt`.
    pub(crate) fn pause(self, attempt: u32) -> Duration {
        self.backoff.saturating_mul(1_u32.checked_shl(attempt - 1).unwrap_or(u32::MAX))
    }

    /// The longest that all attempts and their pauses may take.
    fn whole(self) -> Duration {
        self.timeout.saturating_mul(self.attempts).saturating_add(self.pause(self.attempts))
    }
}

/// Patience with a store.
#[derive(Clone, Debug)]
struct Asking {
    patience: Patience,
    waits: Arc<Waits>,
}

impl Asking {
    /// A call that may take so long.
    async fn once<T>(&self, time: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            done = call => done,
            () = self.waits.grow_long() => Err(silent(time)),
            () = tokio::time::sleep(time) => Err(silent(time)),
        }
    }

    /// A call that moves bytes.
    async fn ask<T, F: Future<Output = Result<T>>>(&self, call: impl Fn() -> F) -> Result<T> {
        self.again(|| self.once(self.patience.timeout, call())).await
    }

    /// A call that waits for a word.
    async fn ask_for_word<T, F: Future<Output = Result<T>>>(&self, call: impl Fn() -> F) -> Result<T> {
        self.again(|| self.once(self.patience.word(), call())).await
    }

    /// A call that keeps its own time.
    async fn again<T, F: Future<Output = Result<T>>>(&self, call: impl Fn() -> F) -> Result<T> {
        for attempt in 1..self.patience.attempts {
            match call().await {
                Err(error) if may_pass(&error) => self.pause(attempt, &error).await,
                done => return done,
            }
        }
        call().await
    }

    /// Waits after attempt number `attempt`, which failed.
    async fn pause(&self, attempt: u32, error: &Error) {
        let pause = self.patience.pause(attempt);
        tracing::debug!(%error, ?pause, "a store failed, it is asked again");
        self.waits.rest(pause, attempt, self.patience.attempts, error);
        tokio::time::sleep(pause).await;
    }

    /// Removes objects, and asks again about those that no answer came for. What is gone when it is asked again was removed.
    async fn delete(&self, objects: &dyn ObjectStore, paths: Vec<Result<Path>>) -> Vec<Result<Path>> {
        let (mut left, mut outcomes) = (Vec::new(), Vec::new());
        for path in paths {
            match path {
                Ok(path) => left.push(path),
                Err(error) => outcomes.push(Err(error)),
            }
        }
        for attempt in 1.. {
            let mut failure = None;
            let asked = stream::iter(left.clone().into_iter().map(Ok)).boxed();
            let mut answers = objects.delete_stream(asked);
            loop {
                let next = self.once(self.patience.word(), async { Ok(answers.next().await) });
                let answer = match next.await {
                    Ok(Some(answer)) => answer,
                    Ok(None) => break,
                    Err(silent) => {
                        failure = Some(silent);
                        break;
                    }
                };
                match answer {
                    Ok(path) => {
                        left.retain(|known| *known != path);
                        outcomes.push(Ok(path));
                    }
                    Err(error) if may_pass(&error) => failure = Some(error),
                    Err(error) => {
                        // The store may write the path with more before it.
                        let named = match &error {
                            Error::NotFound { path, .. } => left.iter().position(|known| {
                                let before = path.strip_suffix(known.as_ref());
                                before.is_some_and(|before| before.is_empty() || before.ends_with('/'))
                            }),
                            _ => None,
                        };
                        let gone = named.map(|at| left.swap_remove(at));
                        outcomes.push(gone.filter(|_| attempt > 1).ok_or(error));
                    }
                }
            }
            match failure {
                Some(error) if attempt < self.patience.attempts && !left.is_empty() => {
                    self.pause(attempt, &error).await;
                }
                failure => {
                    outcomes.extend(failure.map(Err));
                    break;
                }
            }
        }
        outcomes
    }

    fn watch<T: Send + 'static>(&self, items: BoxStream<'static, Result<T>>) -> BoxStream<'static, Result<T>> {
        let asking = self.clone();
        let next = move |items: Option<BoxStream<'static, Result<T>>>| {
            let asking = asking.clone();
            async move {
                let mut items = items?;
                let next = async { items.next().await.transpose() };
                match asking.once(asking.patience.word(), next).await {
                    Ok(None) => None,
                    Ok(Some(item)) => Some((Ok(item), Some(items))),
                    Err(error) => Some((Err(error), None)),
                }
            }
        };
        // Whoever reads an empty object asks once more after the end.
        stream::unfold(Some(items), next).fuse().boxed()
    }
}

fn silent(timeout: Duration) -> Error {
    broken(io::ErrorKind::TimedOut, format!("it gave no answer within {} s", timeout.as_secs_f64()))
}

fn broken(kind: io::ErrorKind, what: String) -> Error {
    Error::Generic { store: "remote", source: io::Error::new(kind, what).into() }
}

/// Whether the same call may go well in a while: what is refused or not there stays so.
pub fn may_pass(error: &Error) -> bool {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = cause {
        let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
        if matches!(
            kind,
            Some(
                io::ErrorKind::StorageFull
                    | io::ErrorKind::QuotaExceeded
                    | io::ErrorKind::PermissionDenied
                    | io::ErrorKind::ReadOnlyFilesystem
                    // What is no file.
                    | io::ErrorKind::InvalidInput
            )
        ) {
            return false;
        }
        cause = error.source();
    }
    matches!(error, Error::Generic { .. } | Error::JoinError { .. })
}

/// An object store that is asked with patience.
#[derive(Debug)]
struct Patient {
    objects: Arc<dyn ObjectStore>,
    uploads: Option<Arc<dyn ObjectStore>>,
    asking: Asking,
}

/// The bytes of an object on their way, and what it takes to ask for the rest of them.
struct Download {
    objects: Arc<dyn ObjectStore>,
    asking: Asking,
    options: GetOptions,
    /// The object as it was when it was first asked for.
    meta: ObjectMeta,
    /// What has not come yet.
    rest: Range<u64>,
    /// Nothing where they stopped.
    parts: Option<BoxStream<'static, Result<Bytes>>>,
    /// Attempts since the last bytes came.
    attempt: u32,
}

impl Download {
    /// Bytes, or nothing where all are there.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.once().await {
                Ok(bytes) => {
                    if let Some(bytes) = bytes.as_ref().filter(|bytes| !bytes.is_empty()) {
                        self.rest.start += bytes.len() as u64;
                        self.attempt = 1;
                    }
                    return Ok(bytes);
                }
                Err(error) if may_pass(&error) && self.attempt < self.asking.patience.attempts => {
                    self.asking.pause(self.attempt, &error).await;
                    self.attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn once(&mut self) -> Result<Option<Bytes>> {
        let asking = self.asking.clone();
        let mut parts = match self.parts.take() {
            Some(parts) => parts,
            None if self.rest.is_empty() => return Ok(None),
            None => asking.once(asking.patience.word(), self.go_on()).await?,
        };
        let next = async { parts.next().await.transpose() };
        let next = asking.once(asking.patience.timeout, next).await?;
        if next.is_none() && !self.rest.is_empty() {
            let left = self.rest.end - self.rest.start;
            return Err(broken(io::ErrorKind::UnexpectedEof, format!("it ended {left} bytes before its end")));
        }
        self.parts = Some(parts);
        Ok(next)
    }

    async fn go_on(&mut self) -> Result<BoxStream<'static, Result<Bytes>>> {
        let options = GetOptions { range: Some(GetRange::Bounded(self.rest.clone())), ..self.options.clone() };
        let found = self.objects.get_opts(&self.meta.location, options).await?;
        if found.meta != self.meta || found.range != self.rest {
            let source = "another object took its place while it was read".into();
            return Err(Error::Precondition { path: self.meta.location.to_string(), source });
        }
        Ok(found.into_stream())
    }
}

impl fmt::Display for Patient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Patient({})", self.objects)
    }
}

#[async_trait]
impl ObjectStore for Patient {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let asking = &self.asking;
        let time = if payload.content_length() > FEW { asking.patience.timeout } else { asking.patience.word() };
        asking.again(|| asking.once(time, self.objects.put_opts(path, payload.clone(), options.clone()))).await
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let (upload, time) = if let Some(uploads) = &self.uploads {
            let time = self.asking.patience.whole();
            (self.asking.once(time, uploads.put_multipart_opts(path, options)).await?, time)
        } else {
            let upload = self.asking.ask(|| self.objects.put_multipart_opts(path, options.clone())).await?;
            (upload, self.asking.patience.timeout)
        };
        Ok(Box::new(PatientUpload { upload, time, asking: self.asking.clone() }))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let mut found = self.asking.ask_for_word(|| self.objects.get_opts(path, options.clone())).await?;
        // What is asked for without its bytes has none that could be missing.
        if options.head {
            return Ok(found);
        }
        if let GetResultPayload::Stream(parts) = found.payload {
            let download = Download {
                objects: Arc::clone(&self.objects),
                asking: self.asking.clone(),
                options,
                meta: found.meta.clone(),
                rest: found.range.clone(),
                parts: Some(parts),
                attempt: 1,
            };
            let next = |mut download: Download| async move {
                let bytes = download.next().await.transpose()?;
                Some((bytes, download))
            };
            // Whoever reads an empty object asks once more after the end.
            found.payload = GetResultPayload::Stream(stream::unfold(download, next).fuse().boxed());
        }
        Ok(found)
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.asking.ask(|| self.objects.get_ranges(path, ranges)).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (objects, asking) = (Arc::clone(&self.objects), self.asking.clone());
        let delete = move |paths: Vec<Result<Path>>| {
            let (objects, asking) = (Arc::clone(&objects), asking.clone());
            async move { stream::iter(asking.delete(&*objects, paths).await) }
        };
        paths.chunks(DELETED_AT_ONCE).then(delete).flatten().boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (objects, asking, prefix) = (Arc::clone(&self.objects), self.asking.clone(), prefix.cloned());
        // Whole, since of half a list nobody knows which half it is.
        let whole = async move {
            let ask = || asking.watch(objects.list(prefix.as_ref())).try_collect::<Vec<_>>();
            asking.again(ask).await.map(|found| stream::iter(found.into_iter().map(Ok)))
        };
        stream::once(whole).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.asking.ask_for_word(|| self.objects.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.asking.ask(|| self.objects.copy_opts(from, to, options.clone())).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let asked = AtomicBool::new(false);
        let rename = || async {
            let is_first = !asked.swap(true, Ordering::Relaxed);
            match self.objects.rename_opts(from, to, options.clone()).await {
                // It was moved, and the answer got lost.
                Err(Error::NotFound { .. }) if !is_first => Ok(()),
                done => done,
            }
        };
        self.asking.ask(rename).await
    }
}

/// Parts are timed and not sent again from here: what makes an upload in parts does it, or the caller begins a new one.
#[derive(Debug)]
struct PatientUpload {
    upload: Box<dyn MultipartUpload>,
    /// For each call.
    time: Duration,
    asking: Asking,
}

#[async_trait]
impl MultipartUpload for PatientUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (part, time, asking) = (self.upload.put_part(data), self.time, self.asking.clone());
        async move { asking.once(time, part).await }.boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.asking.once(self.time, self.upload.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.asking.once(self.time, self.upload.abort()).await
    }
}
