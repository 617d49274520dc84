//! A folder as a shared store, such as one on a network file system: opened are only its files. `object_store` would open a pipe, and
//! the thread that waits for its other end could not be ended.

use std::{fmt, ops::Range, path::Path};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, local::LocalFileSystem,
    path::Path as ObjectPath,
};

use crate::{
    cache::blocking,
    error::during,
    plain::{self, is_no_file},
};

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct PlainFolder(LocalFileSystem);

impl PlainFolder {
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        Ok(Self(LocalFileSystem::new_with_prefix(folder)?.with_fsync(true)))
    }

    /// An error for what is there and is no file.
    async fn look(&self, path: &ObjectPath) -> Result<()> {
        let file = self.0.path_to_filesystem(path)?;
        let found = blocking(move || plain::check(&file).map_err(during(|| "open a file of a shared folder"))).await;
        match found {
            Err(crate::Error::Io { source, .. }) if is_no_file(&source) => {
                Err(Error::Generic { store: "folder", source: source.into() })
            }
            // What else there is to say, the folder says.
            _ => Ok(()),
        }
    }
}

impl fmt::Display for PlainFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for PlainFolder {
    async fn put_opts(&self, path: &ObjectPath, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.0.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &ObjectPath,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &ObjectPath, options: GetOptions) -> Result<GetResult> {
        self.look(path).await?;
        self.0.get_opts(path, options).await
    }

    async fn get_ranges(&self, path: &ObjectPath, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.look(path).await?;
        self.0.get_ranges(path, ranges).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, Result<ObjectPath>>) -> BoxStream<'static, Result<ObjectPath>> {
        self.0.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &ObjectPath, to: &ObjectPath, options: CopyOptions) -> Result<()> {
        self.look(from).await?;
        self.0.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &ObjectPath, to: &ObjectPath, options: RenameOptions) -> Result<()> {
        self.0.rename_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use object_store::ObjectStoreExt;

    use super::*;
    use crate::Patience;

    #[tokio::test]
    async fn a_pipe_in_a_shared_folder_is_told_and_not_asked_for_again() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let store = Patience::default().over("folder", std::sync::Arc::new(PlainFolder::new(dir.path()).unwrap()));
        let begun = Instant::now();
        for error in [
            store.get(&"pipe".into()).await.unwrap_err(),
            store.head(&"pipe".into()).await.unwrap_err(),
            store.get_range(&"pipe".into(), 0..1).await.unwrap_err(),
        ] {
            let text = error.to_string();
            assert!(text.contains("pipe: it is no file but a pipe"), "{text}");
        }
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        assert!(matches!(store.get(&"none".into()).await.unwrap_err(), Error::NotFound { .. }));
        store.put(&"file".into(), vec![1].into()).await.unwrap();
        assert_eq!(store.get(&"file".into()).await.unwrap().bytes().await.unwrap().len(), 1);
    }
}
