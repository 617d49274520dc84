//! Sources on object stores: listed, hashed once (remembered by version), and brought here when they are read.

use std::{io::Seek, io::Write, path::Path};

use fs_err as fs;
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use url::Url;

use super::{
    FilesSpec, ResolveContext, ResolvedFile,
    files::{Selection, split_pattern},
};
use crate::{Error, Result};

/// What a `path` with a scheme means.
pub(super) enum Address {
    /// `file://…`.
    Local(String),
    /// Anything else: the whole text, pattern included.
    Store(String),
}

/// None when `path` is no URL.
pub(super) fn parse(path: &str) -> Result<Option<Address>> {
    let Some((scheme, rest)) = path.split_once("://") else { return Ok(None) };
    if scheme.is_empty() || !scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)) {
        return Ok(None);
    }
    if scheme != "file" {
        return Ok(Some(Address::Store(path.to_string())));
    }
    if !rest.starts_with('/') {
        let reason = "a file URL has three slashes and an absolute path".to_string();
        return Err(Error::Address { url: path.to_string(), reason });
    }
    Ok(Some(Address::Local(rest.to_string())))
}

fn connect(address: &str) -> Result<(Box<dyn ObjectStore>, object_store::path::Path)> {
    let url = Url::parse(address).map_err(|error| Error::Address { url: address.into(), reason: error.to_string() })?;
    let environment = std::env::vars().map(|(key, value)| (key.to_ascii_lowercase(), value));
    object_store::parse_url_opts(&url, environment).map_err(|source| match source {
        object_store::Error::NotImplemented { .. } => refused(address),
        source if source.to_string().contains("feature") => refused(address),
        source => Error::Store { url: address.into(), source: Box::new(source) },
    })
}

fn refused(address: &str) -> Error {
    let reason = "this build reads no such store; build with `--features cloud` for s3, gs and az".to_string();
    Error::Address { url: address.into(), reason }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

pub(super) fn resolve(address: &str, spec: &FilesSpec, context: &ResolveContext<'_>) -> Result<Vec<ResolvedFile>> {
    let (root, pattern) = split_pattern(address);
    let (store, prefix) = connect(root)?;
    let failed = |source| Error::Store { url: address.to_string(), source: Box::new(source) };
    let selection = Selection::new(pattern, &spec.exclude)?;
    runtime()?.block_on(async {
        let listed: Vec<ObjectMeta> = store.list(Some(&prefix)).try_collect().await.map_err(failed)?;
        let mut files = Vec::new();
        for meta in listed {
            let parts: Option<Vec<_>> = meta.location.prefix_match(&prefix).map(Iterator::collect);
            let below = parts.map(|parts| parts.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join("/"));
            let name = below.unwrap_or_else(|| meta.location.to_string());
            if !selection.takes(&name) {
                continue;
            }
            let location = format!("{}/{name}", root.trim_end_matches('/'));
            let digest = digest(&*store, &meta, &location, context.memo_dir).await?;
            files.push(ResolvedFile { name, location, size: meta.size, digest });
        }
        if files.is_empty() {
            let reason = "the store lists no file that belongs to it".to_string();
            return Err(Error::SourceMissing { location: address.to_string(), reason });
        }
        Ok(files)
    })
}

/// BLAKE3 of an object; remembered under its address, size, time and tag, since it costs a whole download.
async fn digest(store: &dyn ObjectStore, meta: &ObjectMeta, location: &str, memo: Option<&Path>) -> Result<String> {
    let version = format!("{location}\n{}\n{}\n{:?}\n{:?}", meta.size, meta.last_modified, meta.e_tag, meta.version);
    let memo = memo.map(|folder| folder.join(format!("remote-{}", blake3::hash(version.as_bytes()).to_hex())));
    if let Some(known) = memo.as_ref().and_then(|path| fs::read_to_string(path).ok())
        && known.len() == 64
        && known.bytes().all(|byte| byte.is_ascii_hexdigit())
    {
        return Ok(known);
    }
    let mut hasher = blake3::Hasher::new();
    download(store, &meta.location, location, &mut |chunk| {
        hasher.update(chunk);
        Ok(())
    })
    .await?;
    let digest = hasher.finalize().to_hex().to_string();
    if let Some(path) = memo {
        write_memo(&path, digest.as_bytes())?;
    }
    Ok(digest)
}

/// Writes an answer so that a reader sees all of it or nothing.
pub(super) fn write_memo(path: &Path, content: &[u8]) -> Result<()> {
    let Some(folder) = path.parent() else { return Ok(()) };
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(content)?;
    file.persist(path).map_err(|error| Error::Io(error.error))?;
    Ok(())
}

async fn download(
    store: &dyn ObjectStore,
    path: &object_store::path::Path,
    location: &str,
    sink: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let failed = |source| Error::Store { url: location.to_string(), source: Box::new(source) };
    let mut chunks = store.get(path).await.map_err(failed)?.into_stream();
    while let Some(chunk) = chunks.next().await {
        sink(&chunk.map_err(failed)?)?;
    }
    Ok(())
}

/// The file, at its start; a remote one is brought into an unnamed temporary file first.
pub(super) fn open(file: &ResolvedFile) -> Result<std::fs::File> {
    if parse(&file.location)?.is_none() {
        return Ok(fs::File::open(&file.location)?.into_parts().0);
    }
    let (store, path) = connect(&file.location)?;
    let mut local = tempfile::tempfile()?;
    runtime()?.block_on(download(&*store, &path, &file.location, &mut |chunk| Ok(local.write_all(chunk)?)))?;
    local.rewind()?;
    Ok(local)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_are_told_from_paths() {
        assert!(matches!(parse("a/b"), Ok(None)));
        assert!(matches!(parse("file:///x/*.txt"), Ok(Some(Address::Local(path))) if path == "/x/*.txt"));
        assert!(matches!(parse("s3://bucket/x"), Ok(Some(Address::Store(_)))));
        assert!(parse("file://x").is_err());
    }

    #[cfg(not(feature = "cloud"))]
    #[test]
    fn a_store_that_this_build_lacks_is_refused_with_the_remedy() {
        let Err(error) = connect("s3://bucket/x") else { panic!("connected") };
        assert!(error.to_string().contains("--features cloud"), "{error}");
    }
}
