//! A store over a network fails now and then, and sometimes does not answer at all. Each call has a time, and is made again
//! after a pause, twice as long each time, where that can help.
//!
//! A call that is made again after its answer got lost may meet its own work: a create then looks refused. Records and leases
//! know that (the same record is no conflict, a lease knows its own number).

use std::{error::Error as StdError, fmt, future::Future, io, ops::Range, sync::Arc, time::Duration};

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
    /// The longest that one call may take.
    pub timeout: Duration,
    /// How often a call is made in all, at least once.
    pub attempts: u32,
    /// The pause before the second attempt; it doubles.
    pub backoff: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { timeout: Duration::from_mins(2), attempts: 4, backoff: Duration::from_millis(500) }
    }
}

impl Patience {
    async fn once<T>(self, call: impl Future<Output = Result<T>>) -> Result<T> {
        match tokio::time::timeout(self.timeout, call).await {
            Ok(done) => done,
            Err(_) => Err(silent(self.timeout)),
        }
    }

    /// `objects`, asked with this patience. An object's bytes that stop on their way go on from where they stopped, as long as
    /// it is the same object; a list that breaks off is asked for anew.
    pub fn over(self, objects: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        Arc::new(Patient { objects, patience: self })
    }

    async fn ask<T, F: Future<Output = Result<T>>>(self, call: impl Fn() -> F) -> Result<T> {
        self.again(|| self.once(call())).await
    }

    /// A call that keeps its own time.
    async fn again<T, F: Future<Output = Result<T>>>(self, call: impl Fn() -> F) -> Result<T> {
        for attempt in 1..self.attempts {
            match call().await {
                Err(error) if may_pass(&error) => self.pause(attempt, &error).await,
                done => return done,
            }
        }
        call().await
    }

    /// Waits after attempt number `attempt`, which failed.
    async fn pause(self, attempt: u32, error: &Error) {
        let pause = self.backoff.saturating_mul(1_u32.checked_shl(attempt - 1).unwrap_or(u32::MAX));
        tracing::warn!(%error, ?pause, "a store failed, it is asked again");
        tokio::time::sleep(pause).await;
    }

    fn watch<T: Send + 'static>(self, items: BoxStream<'static, Result<T>>) -> BoxStream<'static, Result<T>> {
        let next = move |items: Option<BoxStream<'static, Result<T>>>| async move {
            let mut items = items?;
            match tokio::time::timeout(self.timeout, items.next()).await {
                Ok(None) => None,
                Ok(Some(item)) => Some((item, Some(items))),
                Err(_) => Some((Err(silent(self.timeout)), None)),
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
    patience: Patience,
}

/// The bytes of an object on their way, and what it takes to ask for the rest of them.
struct Download {
    objects: Arc<dyn ObjectStore>,
    patience: Patience,
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
                Err(error) if may_pass(&error) && self.attempt < self.patience.attempts => {
                    self.patience.pause(self.attempt, &error).await;
                    self.attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn once(&mut self) -> Result<Option<Bytes>> {
        let mut parts = match self.parts.take() {
            Some(parts) => parts,
            None if self.rest.is_empty() => return Ok(None),
            None => self.patience.once(self.go_on()).await?,
        };
        let next = self.patience.once(async { parts.next().await.transpose() }).await?;
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
        self.patience.ask(|| self.objects.put_opts(path, payload.clone(), options.clone())).await
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let upload = self.patience.ask(|| self.objects.put_multipart_opts(path, options.clone())).await?;
        Ok(Box::new(PatientUpload { upload, patience: self.patience }))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        let mut found = self.patience.ask(|| self.objects.get_opts(path, options.clone())).await?;
        // What is asked for without its bytes has none that could be missing.
        if options.head {
            return Ok(found);
        }
        if let GetResultPayload::Stream(parts) = found.payload {
            let download = Download {
                objects: Arc::clone(&self.objects),
                patience: self.patience,
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
        self.patience.ask(|| self.objects.get_ranges(path, ranges)).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.patience.watch(self.objects.delete_stream(paths))
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (objects, patience, prefix) = (Arc::clone(&self.objects), self.patience, prefix.cloned());
        // Whole, since of half a list nobody knows which half it is.
        let whole = async move {
            let ask = || patience.watch(objects.list(prefix.as_ref())).try_collect::<Vec<_>>();
            patience.again(ask).await.map(|found| stream::iter(found.into_iter().map(Ok)))
        };
        stream::once(whole).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.patience.ask(|| self.objects.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.patience.ask(|| self.objects.copy_opts(from, to, options.clone())).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.patience.once(self.objects.rename_opts(from, to, options)).await
    }
}

/// Parts are timed and not sent again: the caller begins a new upload.
#[derive(Debug)]
struct PatientUpload {
    upload: Box<dyn MultipartUpload>,
    patience: Patience,
}

#[async_trait]
impl MultipartUpload for PatientUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (part, patience) = (self.upload.put_part(data), self.patience);
        async move { patience.once(part).await }.boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.patience.once(self.upload.complete()).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.patience.once(self.upload.abort()).await
    }
}
