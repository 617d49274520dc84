//! Sources on object stores: listed, hashed once (remembered by version), and brought here when they are read.

use std::{io::Seek, io::Write, path::Path, sync::Arc};

use fs_err as fs;
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use url::Url;

use super::{
    FilesSpec, Patience, ResolveContext, ResolvedFile,
    files::{Selection, split_pattern},
};
use crate::{Error, Result, whole};

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

/// The store of an address, asked with patience, and the place in it.
#[cfg(feature = "cloud")]
fn connect(address: &str, patience: Patience) -> Result<(Arc<dyn ObjectStore>, object_store::path::Path)> {
    let url = url(address)?;
    patience.open(&url).map_err(|source| match source {
        object_store::Error::NotSupported { .. } | object_store::Error::NotImplemented { .. } => refused(address),
        source => Error::Store { url: address.into(), source: Box::new(source) },
    })
}

#[cfg(not(feature = "cloud"))]
fn connect(address: &str, _: Patience) -> Result<(Arc<dyn ObjectStore>, object_store::path::Path)> {
    url(address).and_then(|_| Err(refused(address)))
}

fn url(address: &str) -> Result<Url> {
    Url::parse(address).map_err(|error| Error::Address { url: address.into(), reason: error.to_string() })
}

fn refused(address: &str) -> Error {
    let cloud = ["s3:", "s3a:", "gs:", "az:", "azure:", "abfs:", "abfss:", "adl:"]
        .iter()
        .any(|scheme| address.starts_with(scheme));
    let reason = if cloud {
        "this build reads no such store; build with `--features cloud` for s3, gs and az"
    } else {
        "sources are read from folders and files, `file:///…`, `s3://…`, `gs://…` and `az://…`; bring it to one of these"
    };
    let reason = reason.to_string();
    Error::Address { url: address.into(), reason }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

pub(super) fn resolve(address: &str, spec: &FilesSpec, context: &ResolveContext<'_>) -> Result<Vec<ResolvedFile>> {
    let (store, prefix) = connect(split_pattern(address).0, context.patience)?;
    runtime()?.block_on(list(&*store, &prefix, address, spec, context.memo_dir))
}

/// The files of a store that belong to a source, with their digests.
async fn list(
    store: &dyn ObjectStore,
    prefix: &object_store::path::Path,
    address: &str,
    spec: &FilesSpec,
    memo_dir: Option<&Path>,
) -> Result<Vec<ResolvedFile>> {
    let (root, pattern) = split_pattern(address);
    let failed = |source| Error::Store { url: address.to_string(), source: Box::new(source) };
    let selection = Selection::new(pattern, &spec.exclude)?;
    let listed: Vec<ObjectMeta> = store.list(Some(prefix)).try_collect().await.map_err(failed)?;
    let mut files = Vec::new();
    for meta in listed {
        let parts: Option<Vec<_>> = meta.location.prefix_match(prefix).map(Iterator::collect);
        let below = parts.map(|parts| parts.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join("/"));
        let name = below.unwrap_or_else(|| meta.location.to_string());
        if !selection.takes(&name) {
            continue;
        }
        let location = format!("{}/{name}", root.trim_end_matches('/'));
        let digest = digest(store, &meta, &location, memo_dir).await?;
        files.push(ResolvedFile { name, location, size: meta.size, digest });
    }
    if files.is_empty() {
        let reason = "the store lists no file that belongs to it".to_string();
        return Err(Error::SourceMissing { location: address.to_string(), reason });
    }
    Ok(files)
}

/// BLAKE3 of an object; remembered under its address, size, time and tag, since it costs a whole download.
async fn digest(store: &dyn ObjectStore, meta: &ObjectMeta, location: &str, memo: Option<&Path>) -> Result<String> {
    let version = format!("{location}\n{}\n{}\n{:?}\n{:?}", meta.size, meta.last_modified, meta.e_tag, meta.version);
    let memo = memo.map(|folder| folder.join(format!("remote-{}", blake3::hash(version.as_bytes()).to_hex())));
    if let Some(known) = memo.as_ref().and_then(|path| whole::read(path, 64).ok())
        && let Ok(known) = String::from_utf8(known)
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
pub(super) fn open(file: &ResolvedFile, patience: Patience) -> Result<std::fs::File> {
    if parse(&file.location)?.is_none() {
        // What was a file when the plan was made may be none now.
        whole::size_of_file(file.location.as_ref())?;
        return Ok(fs::File::open(&file.location)?.into_parts().0);
    }
    let (store, path) = connect(&file.location, patience)?;
    runtime()?.block_on(bring(&*store, &path, &file.location))
}

async fn bring(store: &dyn ObjectStore, path: &object_store::path::Path, location: &str) -> Result<std::fs::File> {
    let mut local = tempfile::tempfile()?;
    download(store, path, location, &mut |chunk| Ok(local.write_all(chunk)?)).await?;
    local.rewind()?;
    Ok(local)
}

#[cfg(test)]
mod tests {
    use std::{io::Read, time::Duration};

    use flow_patience::faults::Faults;
    use object_store::memory::InMemory;

    use super::*;

    #[test]
    fn schemes_are_told_from_paths() {
        assert!(matches!(parse("a/b"), Ok(None)));
        assert!(matches!(parse("file:///x/*.txt"), Ok(Some(Address::Local(path))) if path == "/x/*.txt"));
        assert!(matches!(parse("s3://bucket/x"), Ok(Some(Address::Store(_)))));
        assert!(parse("file://x").is_err());
    }

    const QUICK: Patience =
        Patience { timeout: Duration::from_millis(40), attempts: 3, backoff: Duration::from_millis(1) };

    async fn filled() -> Arc<InMemory> {
        let store = Arc::new(InMemory::new());
        for (name, text) in [("in/a.txt", "one two three"), ("in/sub/b.txt", "four five six"), ("out/c.txt", "no")] {
            store.put(&name.into(), text.into()).await.unwrap();
        }
        store
    }

    /// All that a plan and a stage ask of a store: the list, the digests, the bytes.
    async fn read(store: &dyn ObjectStore) -> Result<Vec<String>> {
        let (address, prefix) = ("memory://in", object_store::path::Path::from("in"));
        let mut texts = Vec::new();
        for file in list(store, &prefix, address, &FilesSpec::folder(address), None).await? {
            let path = prefix.clone().join("x");
            let path = object_store::path::Path::from(path.as_ref().replace("/x", &format!("/{}", file.name)));
            let mut text = String::new();
            bring(store, &path, &file.location).await?.read_to_string(&mut text)?;
            assert_eq!(file.digest, blake3::hash(text.as_bytes()).to_hex().as_str());
            texts.push(text);
        }
        Ok(texts)
    }

    /// The k-th call, or the k-th part of an object, fails or does not come.
    #[tokio::test]
    async fn sources_are_read_whatever_call_fails_once() {
        for stall in [false, true] {
            for k in 0.. {
                let faults = Faults::new(std::io::ErrorKind::ConnectionReset);
                faults.stall(stall);
                faults.cut_parts(5);
                let store = QUICK.over("test", faults.over(filled().await));
                faults.fail_at(k);
                assert_eq!(read(&*store).await.unwrap(), ["one two three", "four five six"], "call {k}");
                if faults.calls() <= k {
                    assert!(k > 12, "the walk must meet more than {k} calls");
                    break;
                }
            }
        }
    }

    #[tokio::test]
    async fn a_store_that_stays_away_is_an_error_that_may_pass_and_one_that_refuses_is_not() {
        for (kind, attempts, passes) in [
            (std::io::ErrorKind::ConnectionReset, u64::from(QUICK.attempts), true),
            (std::io::ErrorKind::PermissionDenied, 1, false),
        ] {
            for at in [0, 1, 3] {
                let faults = Faults::new(kind);
                let store = QUICK.over("test", faults.over(filled().await));
                faults.fail_from(at);
                let error = read(&*store).await.unwrap_err();
                assert!(matches!(error, Error::Store { .. }) && error.may_pass() == passes, "{at}: {error:?}");
                assert_eq!(faults.calls(), at + attempts, "{kind:?} from call {at}");
            }
        }
        let missing = bring(&*filled().await, &"in/none.txt".into(), "memory://in/none.txt").await.unwrap_err();
        assert!(!missing.may_pass(), "{missing:?}");
    }

    #[cfg(not(feature = "cloud"))]
    #[test]
    fn a_store_that_this_build_lacks_is_refused_with_the_remedy() {
        let Err(error) = connect("s3://bucket/x", Patience::default()) else { panic!("connected") };
        assert!(error.to_string().contains("--features cloud"), "{error}");
    }
}
