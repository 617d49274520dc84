//! A store that fails on purpose, or does not answer: the k-th call, once, or every call from then on.
//!
//! `over` wraps an object store; steps on plain files (staging, linking) ask `step`. Both count in one row, so that a test can
//! walk k through everything that an operation does.

use std::{
    fmt, io,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart, path::Path,
};

/// When to fail, and with what.
#[derive(Debug)]
pub struct Faults {
    calls: AtomicU64,
    fail_at: AtomicU64,
    forever: AtomicBool,
    after: AtomicBool,
    stall: AtomicBool,
    parts: AtomicU64,
    kind: io::ErrorKind,
}

impl Faults {
    /// Never fails until [`Faults::fail_at`] is called; then with an I/O error of `kind`.
    pub fn new(kind: io::ErrorKind) -> Arc<Self> {
        Arc::new(Self {
            calls: AtomicU64::new(0),
            fail_at: AtomicU64::new(u64::MAX),
            forever: AtomicBool::new(false),
            after: AtomicBool::new(false),
            stall: AtomicBool::new(false),
            parts: AtomicU64::new(0),
            kind,
        })
    }

    /// Starts counting again; call number `k`, from 0, will fail.
    pub fn fail_at(&self, k: u64) {
        self.calls.store(0, Ordering::SeqCst);
        self.forever.store(false, Ordering::SeqCst);
        self.fail_at.store(k, Ordering::SeqCst);
    }

    /// Starts counting again; every call from number `k` on will fail.
    pub fn fail_from(&self, k: u64) {
        self.fail_at(k);
        self.forever.store(true, Ordering::SeqCst);
    }

    /// Calls that would fail do not come back instead.
    pub fn stall(&self, stall: bool) {
        self.stall.store(stall, Ordering::SeqCst);
    }

    /// Fail after a write was done instead of before: an answer that got lost.
    pub fn lose_answers(&self, lose: bool) {
        self.after.store(lose, Ordering::SeqCst);
    }

    /// What is read comes in parts of so many bytes, each of which counts as a call.
    pub fn cut_parts(&self, bytes: u64) {
        self.parts.store(bytes, Ordering::SeqCst);
    }

    /// Starts counting again, and never fails.
    pub fn heal(&self) {
        self.fail_at(u64::MAX);
    }

    /// How many calls there were since counting began.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// Counts a call, and fails if it is the one.
    pub fn step(&self, what: &str) -> io::Result<()> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        let fail_at = self.fail_at.load(Ordering::SeqCst);
        if call == fail_at || (call > fail_at && self.forever.load(Ordering::SeqCst)) {
            return Err(io::Error::new(self.kind, format!("injected at call {call}: {what}")));
        }
        Ok(())
    }

    /// Whether what fails was done all the same.
    pub fn loses_answers(&self) -> bool {
        self.after.load(Ordering::SeqCst)
    }

    /// `objects`, failing as told.
    pub fn over(self: &Arc<Self>, objects: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        Arc::new(FaultyStore { objects, faults: Arc::clone(self) })
    }

    fn trip(&self, what: &str) -> Result<()> {
        self.step(what).map_err(|source| Error::Generic { store: "faults", source: source.into() })
    }

    async fn pass(&self, what: &str) -> Result<()> {
        let tripped = self.trip(what);
        self.hold(&tripped).await;
        tripped
    }

    async fn hold(&self, tripped: &Result<()>) {
        if tripped.is_err() && self.stall.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }

    fn failed<T: Send + 'static>(self: &Arc<Self>, error: Error) -> BoxStream<'static, Result<T>> {
        let faults = Arc::clone(self);
        stream::once(async move {
            if faults.stall.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            Err(error)
        })
        .boxed()
    }
}

/// An object store that fails as its [`Faults`] say.
#[derive(Debug)]
struct FaultyStore {
    objects: Arc<dyn ObjectStore>,
    faults: Arc<Faults>,
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Faulty({})", self.objects)
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let failed = self.faults.trip("put");
        self.faults.hold(&failed).await;
        if self.faults.loses_answers() {
            let done = self.objects.put_opts(path, payload, options).await?;
            return failed.map(|()| done);
        }
        failed?;
        self.objects.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(&self, path: &Path, options: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.faults.pass("begin upload").await?;
        let upload = self.objects.put_multipart_opts(path, options).await?;
        Ok(Box::new(FaultyUpload { upload, faults: Arc::clone(&self.faults) }))
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
        self.faults.pass("get").await?;
        let found = self.objects.get_opts(path, options).await?;
        let size = self.faults.parts.load(Ordering::SeqCst) as usize;
        if size == 0 {
            return Ok(found);
        }
        let (meta, range, attributes, extensions) =
            (found.meta.clone(), found.range.clone(), found.attributes.clone(), found.extensions.clone());
        let faults = Arc::clone(&self.faults);
        let rest = move |(mut bytes, faults): (Bytes, Arc<Faults>)| async move {
            if bytes.is_empty() {
                return None;
            }
            if let Err(error) = faults.pass("read a part").await {
                return Some((Err(error), (Bytes::new(), faults)));
            }
            let part = bytes.split_to(size.min(bytes.len()));
            Some((Ok(part), (bytes, faults)))
        };
        let parts = stream::unfold((found.bytes().await?, faults), rest).fuse().boxed();
        Ok(GetResult { payload: GetResultPayload::Stream(parts), meta, range, attributes, extensions })
    }

    async fn get_ranges(&self, path: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.faults.pass("get ranges").await?;
        self.objects.get_ranges(path, ranges).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        match self.faults.trip("delete") {
            Ok(()) => self.objects.delete_stream(paths),
            Err(e) if self.faults.loses_answers() => {
                let done = self.objects.delete_stream(paths).collect::<Vec<_>>().map(|_| stream::empty());
                stream::once(done).flatten().chain(self.faults.failed(e)).boxed()
            }
            Err(e) => self.faults.failed(e),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.faults.trip("list") {
            Ok(()) => self.objects.list(prefix),
            Err(e) => self.faults.failed(e),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.faults.pass("list").await?;
        self.objects.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.faults.pass("copy").await?;
        self.objects.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let failed = self.faults.trip("rename");
        self.faults.hold(&failed).await;
        if failed.is_err() && !self.faults.loses_answers() {
            return failed;
        }
        self.objects.rename_opts(from, to, options).await.and(failed)
    }
}

#[derive(Debug)]
struct FaultyUpload {
    upload: Box<dyn MultipartUpload>,
    faults: Arc<Faults>,
}

#[async_trait]
impl MultipartUpload for FaultyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        match self.faults.trip("upload part") {
            Ok(()) => self.upload.put_part(data),
            Err(e) => {
                let faults = Arc::clone(&self.faults);
                async move {
                    let tripped = Err(e);
                    faults.hold(&tripped).await;
                    tripped
                }
                .boxed()
            }
        }
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.faults.pass("complete upload").await?;
        self.upload.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await
    }
}
