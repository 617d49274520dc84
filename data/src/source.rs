//! Where documents come from, in two steps.
//!
//! ```text
//! SourceSpec ──resolve──▶ ResolvedSource ──read──▶ Document | Broken, one after the other
//!  (recipe)    (plan)      names, digests   (run)
//! ```
//!
//! [`resolve`] turns folders, patterns and packages into a sorted list of files with their digests; it is what a plan hashes.
//! Of a [`ResolvedFile`] the *location* is never part of what is hashed: the same files in another folder are the same source.
//! [`read`] streams the documents in that order and refuses a file whose content is no longer the one that was planned.

pub mod cargo;
mod doc_comments;
pub mod files;
mod jsonl;
mod parquet;
mod remote;
mod text;

use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use cargo::{CargoSpec, Take};
pub use files::{FilesSpec, Format};
pub use flow_patience::{ENVIRONMENT, Patience};

use crate::{Error, Result, document::Document};

/// One entry of a recipe's `sources`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum SourceSpec {
    /// A folder, a pattern or a file, local or on an object store.
    Files(FilesSpec),
    /// The sources of packages that a `Cargo.lock` pins.
    #[serde(rename = "cargo-sources")]
    Cargo(CargoSpec),
}

/// What resolving may use. Nothing of it becomes part of the result's identity.
pub struct ResolveContext<'a> {
    /// The recipe's folder: relative paths start here.
    pub base: &'a Path,
    /// BLAKE3 of a local file in hex. The caller may remember it by size and time.
    pub hash: &'a dyn Fn(&Path) -> Result<String>,
    /// Folder for answers that are dear to get (`cargo metadata`, digests of remote objects). May be deleted at any time.
    pub memo_dir: Option<&'a Path>,
    /// How long and how often an object store is asked.
    pub patience: Patience,
}

/// A source as a plan sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResolvedSource {
    /// How the files are read: part of the identity.
    pub options: serde_json::Value,
    /// Sorted by name; names are distinct.
    pub files: Vec<ResolvedFile>,
    /// What was passed over on the way, for people. Not identity.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// How long and how often an object store that holds them is asked. Not identity, and not written: whoever reads them says
    /// so again.
    #[serde(skip)]
    pub patience: Patience,
}

/// A file of a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResolvedFile {
    /// Logical name with `/`, such as `serde-1.0.228/README.md` or the path below the pattern's root. Identity.
    pub name: String,
    /// Path or URL on this machine. Not identity.
    pub location: String,
    /// Bytes.
    pub size: u64,
    /// BLAKE3 of the content, hex. Identity.
    pub digest: String,
}

impl ResolvedSource {
    /// BLAKE3, in hex, over the names, sizes and digests of the files: what they are, not where they lie.
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("flow source files v1");
        for ResolvedFile { name, location: _, size, digest } in &self.files {
            for part in [name, digest] {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part.as_bytes());
            }
            hasher.update(&size.to_le_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }
}

/// How files become documents: what `ResolvedSource::options` holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum ReadOptions {
    /// By the ending of the name, or by force.
    Files {
        /// See [`Format`].
        format: Format,
        /// Field or column of the text.
        text_field: String,
        /// Field or column of the id.
        id_field: String,
    },
    /// A package's files.
    Cargo {
        /// Whole files or the prose in them.
        take: Take,
    },
}

impl ReadOptions {
    fn to_value(&self) -> Result<serde_json::Value> {
        serde_json::to_value(self).map_err(|source| Error::Json { place: "source options".into(), source })
    }

    fn from_value(value: &serde_json::Value) -> Result<Self> {
        ReadOptions::deserialize(value).map_err(|source| Error::Json { place: "source options".into(), source })
    }
}

/// What a source gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A document.
    Document(Document),
    /// Something that should have been one.
    Broken(Broken),
}

/// A record that is no document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Which sort.
    pub fault: Fault,
    /// `file` or `file:line`.
    pub place: String,
    /// Why.
    pub reason: String,
}

/// Sorts of [`Broken`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A line or a row: the next one is read. Counted against `max_broken`.
    Record,
    /// A compressed stream that ends early or is damaged: the rest of the file is lost.
    Stream,
    /// A package's file that is no UTF-8 text (images, archives): left out, counted, never an error.
    NotText,
}

/// Finds the files of `spec` and their digests.
///
/// # Errors
/// A folder, pattern or package that names nothing, and everything that reading a folder can meet.
pub fn resolve(spec: &SourceSpec, context: &ResolveContext<'_>) -> Result<ResolvedSource> {
    match spec {
        SourceSpec::Files(spec) => files::resolve(spec, context),
        SourceSpec::Cargo(spec) => cargo::resolve(spec, context),
    }
}

/// Gives every document of `source` to `sink`, file by file in the order of names, lines in order.
///
/// # Errors
/// What the sink returns; a file that is gone or that changed since it was resolved.
pub fn read(source: &ResolvedSource, sink: &mut dyn FnMut(Item) -> Result<()>) -> Result<()> {
    let options = ReadOptions::from_value(&source.options)?;
    for file in &source.files {
        let handle = remote::open(file, source.patience)?;
        match &options {
            ReadOptions::Cargo { take } => text::read_package_file(file, handle, *take, sink)?,
            ReadOptions::Files { format, text_field, id_field } => {
                let fields = Fields { text: text_field, id: id_field };
                match files::Encoding::of(&file.name, *format) {
                    files::Encoding::Text(pack) => text::read(file, handle, pack, sink)?,
                    files::Encoding::JsonLines(pack) => jsonl::read(file, handle, pack, fields, sink)?,
                    files::Encoding::Parquet => parquet::read(file, handle, fields, sink)?,
                }
            }
        }
    }
    Ok(())
}

/// Names of the two fields that are read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a> {
    text: &'a str,
    id: &'a str,
}
