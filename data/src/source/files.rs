//! Files and folders: which belong to a source, and how each is opened and checked.

use std::{
    fmt::Write as _,
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use fs_err as fs;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ReadOptions, ResolveContext, ResolvedFile, ResolvedSource, remote};
use crate::{Error, Result};

/// Text files, JSON lines and Parquet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilesSpec {
    /// A folder, a file or a pattern (`data/**/*.jsonl.zst`), relative to the recipe; or a URL: `file://`, and `s3://`, `gs://`,
    /// `az://` in builds with the feature `cloud`. Links are followed, also those that lead out of the folder; one that leads back
    /// to a folder above it is passed over with a note. Of a folder, what ends in `.txt`, `.md`, `.jsonl`, `.json.gz`, `.json.zst`
    /// (text and lines also with `.gz` or `.zst`) and `.parquet` is taken; of a pattern, all that it matches.
    pub path: String,
    /// Patterns below that folder that are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// How files are read; by default by the ending of their names.
    #[serde(default)]
    pub format: Format,
    /// Field (JSON) or column (Parquet) of the text.
    #[serde(default = "default_text_field")]
    pub text_field: String,
    /// Field or column of the id; records without it get one made of place and text.
    #[serde(default = "default_id_field")]
    pub id_field: String,
}

impl FilesSpec {
    /// All documents of a folder, by the endings of its files.
    pub fn folder(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            exclude: Vec::new(),
            format: Format::default(),
            text_field: default_text_field(),
            id_field: default_id_field(),
        }
    }
}

fn default_text_field() -> String {
    "text".into()
}

fn default_id_field() -> String {
    "id".into()
}

/// How a file becomes documents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// By the ending of the name; unknown endings are text.
    #[default]
    Auto,
    /// One document a file.
    Text,
    /// One JSON object a line.
    Jsonl,
    /// One document a row.
    Parquet,
}

/// Compression around a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pack {
    None,
    Gzip,
    Zstd,
}

/// What is inside a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Text(Pack),
    JsonLines(Pack),
    Parquet,
}

impl Encoding {
    pub(crate) fn of(name: &str, format: Format) -> Self {
        let lower = name.to_ascii_lowercase();
        let (stem, pack) = match (lower.strip_suffix(".gz"), lower.strip_suffix(".zst")) {
            (Some(stem), _) => (stem, Pack::Gzip),
            (_, Some(stem)) => (stem, Pack::Zstd),
            _ => (lower.as_str(), Pack::None),
        };
        match format {
            Format::Text => Encoding::Text(pack),
            Format::Jsonl => Encoding::JsonLines(pack),
            Format::Parquet => Encoding::Parquet,
            Format::Auto => match extension(stem) {
                "jsonl" | "ndjson" => Encoding::JsonLines(pack),
                // Dolma and its kin call compressed JSON lines `.json.gz`; a bare `.json` is one text.
                "json" if pack != Pack::None => Encoding::JsonLines(pack),
                "parquet" => Encoding::Parquet,
                _ => Encoding::Text(pack),
            },
        }
    }

    /// Whether a folder without a pattern takes a file of this name.
    fn known(name: &str) -> bool {
        let lower = name.to_ascii_lowercase();
        let stem = lower.strip_suffix(".gz").or_else(|| lower.strip_suffix(".zst")).unwrap_or(&lower);
        match extension(stem) {
            "txt" | "md" | "jsonl" | "ndjson" => true,
            "json" => stem.len() < lower.len(),
            "parquet" => stem.len() == lower.len(),
            _ => false,
        }
    }
}

fn extension(name: &str) -> &str {
    name.rsplit('/').next().and_then(|file| file.rsplit_once('.')).map_or("", |(_, extension)| extension)
}

/// The part of a pattern before its first special character, up to the last `/`, and the rest.
pub(super) fn split_pattern(path: &str) -> (&str, Option<&str>) {
    let Some(special) = path.find(['*', '?', '[', '{']) else { return (path, None) };
    match path[..special].rfind('/') {
        Some(slash) => (&path[..slash.max(1)], Some(&path[slash + 1..])),
        None => ("", Some(path)),
    }
}

pub(super) fn glob_set(patterns: &[String]) -> Result<GlobSet> {
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let glob = GlobBuilder::new(pattern)
            .literal_separator(true)
            .build()
            .map_err(|source| Error::Pattern { pattern: pattern.clone(), source })?;
        set.add(glob);
    }
    set.build().map_err(|source| Error::Pattern { pattern: patterns.join(", "), source })
}

/// Which names below a root belong to a source.
pub(super) struct Selection {
    include: Option<GlobSet>,
    exclude: GlobSet,
}

impl Selection {
    pub(super) fn new(pattern: Option<&str>, exclude: &[String]) -> Result<Self> {
        let include = pattern.map(|pattern| glob_set(&[pattern.to_string()])).transpose()?;
        Ok(Selection { include, exclude: glob_set(exclude)? })
    }

    pub(super) fn takes(&self, name: &str) -> bool {
        let included = self.include.as_ref().map_or_else(|| Encoding::known(name), |set| set.is_match(name));
        included && !self.exclude.is_match(name)
    }
}

pub(super) fn resolve(spec: &FilesSpec, context: &ResolveContext<'_>) -> Result<ResolvedSource> {
    let options = ReadOptions::Files {
        format: spec.format,
        text_field: spec.text_field.clone(),
        id_field: spec.id_field.clone(),
    }
    .to_value()?;
    let (mut files, notes) = match remote::parse(&spec.path)? {
        Some(remote::Address::Store(url)) => (remote::resolve(&url, spec, context)?, Vec::new()),
        Some(remote::Address::Local(path)) => resolve_local(&path, spec, context)?,
        None => resolve_local(&spec.path, spec, context)?,
    };
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(ResolvedSource { options, files, notes, patience: context.patience })
}

fn resolve_local(
    path: &str,
    spec: &FilesSpec,
    context: &ResolveContext<'_>,
) -> Result<(Vec<ResolvedFile>, Vec<String>)> {
    // A folder whose name holds a bracket is more likely meant than a pattern that is one.
    let whole = context.base.join(path);
    let (root, pattern) = if whole.exists() { (path, None) } else { split_pattern(path) };
    let root = context.base.join(root);
    let missing = |reason: &str| Error::SourceMissing { location: whole.display().to_string(), reason: reason.into() };
    if !root.exists() {
        return Err(missing(if pattern.is_some() {
            "the folder of this pattern does not exist"
        } else {
            "there is no such file or folder"
        }));
    }
    if !root.is_file() && !root.is_dir() {
        // Of a pipe nobody knows where it ends, and what was read of it cannot be read again.
        return Err(missing("it is neither a file nor a folder, but a pipe, a socket or a device"));
    }
    let (mut found, mut notes) = (Vec::new(), Vec::new());
    if root.is_file() {
        let name = root.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        found.push((name, root));
    } else {
        let selection = Selection::new(pattern, &spec.exclude)?;
        let walked = walk(&root, &mut |_| true)?;
        found = walked.files;
        found.retain(|(name, _)| selection.takes(name));
        notes = walked.notes;
    }
    if found.is_empty() {
        return Err(missing(if pattern.is_some() {
            "no file matches this pattern"
        } else {
            "the folder holds no .txt, .md, .jsonl, .json.gz, .json.zst or .parquet file; name others with a pattern"
        }));
    }
    let files = found.into_iter().map(|(name, path)| local_file(name, &path, context)).collect::<Result<_>>()?;
    Ok((files, notes))
}

pub(super) fn local_file(name: String, path: &Path, context: &ResolveContext<'_>) -> Result<ResolvedFile> {
    let unusable = |reason: &str| Error::SourceMissing { location: path.display().to_string(), reason: reason.into() };
    if path.to_str().is_none() {
        return Err(unusable("its name is not UTF-8: give it another, or leave it out with `exclude`"));
    }
    if leads_nowhere(path) {
        return Err(unusable("it is a link to nothing or to itself: mend it, or leave it out with `exclude`"));
    }
    let size = fs::metadata(path)?.len();
    Ok(ResolvedFile { name, location: path.to_string_lossy().into_owned(), size, digest: (context.hash)(path)? })
}

fn leads_nowhere(path: &Path) -> bool {
    // What may not be looked at may well be there.
    let is_gone = |error: std::io::Error| error.kind() != std::io::ErrorKind::PermissionDenied;
    fs::symlink_metadata(path).is_ok_and(|link| link.is_symlink()) && fs::metadata(path).is_err_and(is_gone)
}

/// `path` below `root`, with `/`.
fn below(root: &Path, path: &Path) -> String {
    let mut relative = String::new();
    for (index, part) in path.strip_prefix(root).unwrap_or(path).components().enumerate() {
        let separator = if index == 0 { "" } else { "/" };
        let _ = write!(relative, "{separator}{}", part.as_os_str().to_string_lossy());
    }
    relative
}

/// What is below a folder.
#[derive(Debug, Default)]
pub(crate) struct Walked {
    /// Name with `/`, path.
    pub files: Vec<(String, PathBuf)>,
    /// What was passed over, and should not have been there.
    pub notes: Vec<String>,
}

/// Every file below `root`. Hidden entries are left out, links are followed. `enter` sees folder names.
pub(crate) fn walk(root: &Path, enter: &mut dyn FnMut(&str) -> bool) -> Result<Walked> {
    let mut found = Walked::default();
    let hidden = |name: &str| name.starts_with('.');
    let mut entries = walkdir::WalkDir::new(root).min_depth(1).follow_links(true).sort_by_file_name().into_iter();
    while let Some(entry) = entries.next() {
        // A link to nothing matters to who wants to read it, and to nobody else.
        if let Err(error) = &entry
            && let Some(path) = error.path().filter(|path| leads_nowhere(path))
        {
            if !path.file_name().is_some_and(|name| hidden(&name.to_string_lossy())) {
                found.files.push((below(root, path), path.to_owned()));
            }
            continue;
        }
        // All that it leads to is there without it.
        if let Err(error) = &entry
            && let (Some(path), Some(above)) = (error.path(), error.loop_ancestor())
        {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if !hidden(&name) && enter(&name) {
                let (link, above) = (path.display(), above.display());
                found.notes.push(format!("{link} is a link back to {above}, a folder above it: passed over"));
            }
            continue;
        }
        let entry = entry.map_err(|source| {
            let path = source.path().unwrap_or(root).display().to_string();
            // Without a cause it would be a loop of links.
            let cause = source.into_io_error().unwrap_or_else(|| std::io::ErrorKind::Other.into());
            Error::Io(std::io::Error::new(cause.kind(), format!("{path}: {cause}")))
        })?;
        let name = entry.file_name().to_string_lossy();
        let folder = entry.file_type().is_dir();
        if hidden(&name) || (folder && !enter(&name)) {
            if folder {
                entries.skip_current_dir();
            }
            continue;
        }
        // Of pipes, sockets and devices nobody knows where they end: they are no part of a corpus.
        if entry.file_type().is_file() {
            found.files.push((below(root, entry.path()), entry.into_path()));
        }
    }
    Ok(found)
}

/// A file that hashes what is read of it.
pub(super) struct CheckedReader<'a> {
    file: &'a ResolvedFile,
    reader: BufReader<std::fs::File>,
    hasher: blake3::Hasher,
}

impl<'a> CheckedReader<'a> {
    pub(super) fn new(file: &'a ResolvedFile, handle: std::fs::File) -> Self {
        let reader = BufReader::with_capacity(1 << 17, handle);
        CheckedReader { file, reader, hasher: blake3::Hasher::new() }
    }

    /// Reads what is left and compares the digest with the plan's.
    pub(super) fn finish(mut self) -> Result<()> {
        let mut rest = vec![0; 1 << 16];
        while self.read(&mut rest)? > 0 {}
        check_digest(self.file, &self.hasher.finalize())
    }
}

impl Read for CheckedReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

pub(super) fn check_digest(file: &ResolvedFile, found: &blake3::Hash) -> Result<()> {
    let found = found.to_hex();
    if file.digest == found.as_str() {
        return Ok(());
    }
    Err(Error::SourceChanged { name: file.name.clone(), planned: file.digest.clone(), found: found.to_string() })
}

#[cfg(test)]
mod tests {
    use super::{super::Patience, *};

    #[test]
    fn endings_say_what_is_inside() {
        let of = |name| Encoding::of(name, Format::Auto);
        assert_eq!(of("a/b.jsonl.zst"), Encoding::JsonLines(Pack::Zstd));
        assert_eq!(of("b.json.gz"), Encoding::JsonLines(Pack::Gzip));
        assert_eq!(of("b.json"), Encoding::Text(Pack::None));
        assert_eq!(of("b.PARQUET"), Encoding::Parquet);
        assert_eq!(of("v1.jsonl/readme"), Encoding::Text(Pack::None));
        assert_eq!(Encoding::of("b.log.gz", Format::Jsonl), Encoding::JsonLines(Pack::Gzip));
        assert!(Encoding::known("x.md") && Encoding::known("x.txt.gz") && !Encoding::known("x.rs"));
        assert!(!Encoding::known("x.json") && !Encoding::known("x.parquet.gz"));
    }

    #[test]
    fn only_what_would_be_read_may_block() {
        use std::os::unix::{ffi::OsStrExt, fs::symlink};
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.txt"), "text").unwrap();
        symlink("/nowhere", folder.path().join("gone.so")).unwrap();
        let odd = |name: &[u8]| folder.path().join(std::ffi::OsStr::from_bytes(name));
        fs::write(odd(b"\xff.so"), "").unwrap();
        let hash = |path: &Path| Ok(blake3::hash(&fs::read(path)?).to_hex().to_string());
        let context =
            ResolveContext { base: folder.path(), hash: &hash, memo_dir: None, patience: Patience::default() };
        let spec = FilesSpec::folder(".");
        let found = resolve(&spec, &context).unwrap();
        assert_eq!(found.files.iter().map(|file| &*file.name).collect::<Vec<_>>(), ["a.txt"]);
        for (path, reason) in [(folder.path().join("gone.txt"), "a link to nothing"), (odd(b"\xff.txt"), "not UTF-8")] {
            if reason == "not UTF-8" {
                fs::write(&path, "").unwrap();
            } else {
                symlink("/nowhere", &path).unwrap();
            }
            let error = resolve(&spec, &context).unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("`exclude`"), "{error}");
            fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn links_in_a_circle_are_passed_over_and_links_out_are_followed() {
        use std::os::unix::fs::symlink;
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("in/sub")).unwrap();
        fs::write(at("in/sub/a.txt"), "text").unwrap();
        fs::write(elsewhere.path().join("b.txt"), "text").unwrap();
        symlink(elsewhere.path(), at("in/out")).unwrap();
        symlink("..", at("in/sub/up")).unwrap();
        symlink("..", at("in/sub/.hidden")).unwrap();
        symlink("two", at("in/one")).unwrap();
        symlink("one", at("in/two")).unwrap();
        let hash = |path: &Path| Ok(blake3::hash(&fs::read(path)?).to_hex().to_string());
        let context =
            ResolveContext { base: folder.path(), hash: &hash, memo_dir: None, patience: Patience::default() };
        let found = resolve(&FilesSpec::folder("in"), &context).unwrap();
        assert_eq!(found.files.iter().map(|file| &*file.name).collect::<Vec<_>>(), ["out/b.txt", "sub/a.txt"]);
        let (link, above) = (at("in/sub/up"), at("in"));
        let note = format!("{} is a link back to {}, a folder above it: passed over", link.display(), above.display());
        assert_eq!(found.notes, [note]);
        // What says the same without the circle is the same source.
        fs::remove_file(&link).unwrap();
        let without = resolve(&FilesSpec::folder("in"), &context).unwrap();
        assert_eq!((without.digest(), without.notes.len()), (found.digest(), 0));
        // It would be read.
        symlink("c.txt", at("in/c.txt")).unwrap();
        let error = resolve(&FilesSpec::folder("in"), &context).unwrap_err().to_string();
        assert!(error.contains("in/c.txt") && error.contains("or to itself"), "{error}");
    }

    #[test]
    fn patterns_split_at_the_last_plain_folder() {
        assert_eq!(split_pattern("data/x"), ("data/x", None));
        assert_eq!(split_pattern("data/a*/b.txt"), ("data", Some("a*/b.txt")));
        assert_eq!(split_pattern("*.txt"), ("", Some("*.txt")));
        assert_eq!(split_pattern("/*.txt"), ("/", Some("*.txt")));
    }
}
