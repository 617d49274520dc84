//! A store over a network fails now and then, and sometimes does not answer at all. Each call has a time, and is made again
//! after a pause, twice as long each time, where that can help.
//!
//! A call that is made again after its answer got lost may meet its own work: a create then looks refused. Records and leases
//! know that (the same record is no conflict, a lease knows its own number).

use std::{error::Error as StdError, fmt, future::Future, io, ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart, path::Path,
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

    async fn ask<T, F: Future<Output = Result<T>>>(self, call: impl Fn() -> F) -> Result<T> {
        let mut pause = self.backoff;
        for _ in 1..self.attempts {
            match self.once(call()).await {
                Err(error) if may_pass(&error) => {
                    tracing::warn!(%error, ?pause, "a store failed, it is asked again");
                    tokio::time::sleep(pause).await;
                    pause *= 2;
                }
                done => return done,
            }
        }
        self.once(call()).await
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
    let source =
        io::Error::new(io::ErrorKind::TimedOut, format!("it gave no answer within {} s", timeout.as_secs_f64()));
    Error::Generic { store: "remote", source: source.into() }
}

/// Whether the same call may go well in a while: what is refused or not there stays so.
pub(crate) fn may_pass(error: &Error) -> bool {
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
pub(crate) struct Patient {
    objects: Arc<dyn ObjectStore>,
    patience: Patience,
}

impl Patient {
    pub(crate) fn over(objects: Arc<dyn ObjectStore>, patience: Patience) -> Arc<dyn ObjectStore> {
        Arc::new(Self { objects, patience })
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
        if let GetResultPayload::Stream(parts) = found.payload {
            found.payload = GetResultPayload::Stream(self.patience.watch(parts));
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
        self.patience.watch(self.objects.list(prefix))
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

#[cfg(test)]
mod tests {
    use object_store::{GetOptions, ObjectStoreExt, memory::InMemory};

    use super::*;

    #[tokio::test]
    async fn an_empty_object_can_be_read_to_its_end_and_asked_again() {
        let patience = Patience::default();
        let mut items = patience.watch(stream::empty::<Result<Bytes>>().boxed());
        assert!(items.next().await.is_none() && items.next().await.is_none());

        let store = Patient::over(Arc::new(InMemory::new()), patience);
        let place = Path::from("empty");
        store.put_opts(&place, PutPayload::new(), PutOptions::default()).await.unwrap();
        let bytes = store.get_opts(&place, GetOptions::default()).await.unwrap().bytes().await.unwrap();
        assert!(bytes.is_empty());
        assert_eq!(store.head(&place).await.unwrap().size, 0);
    }
}
