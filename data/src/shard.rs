//! Token shards, byte by byte.
//!
//! ```text
//! tokens.json                   what is here (below)
//! train/part-00000.npy          tokens: unsigned 32-bit little-endian numbers, one after the other. No header, as
//!                               OLMo-core and FlexMix read them: the length is the size divided by 4
//! train/part-00000.documents    document ends: unsigned 64-bit little-endian numbers, one a document, rising;
//!                               document i of the shard is tokens end[i-1]..end[i] (end[-1] = 0), its last token
//!                               the end-of-document token; the last end is the shard's length
//! train/part-00001.npy …
//! heldout/…                     the same, where there is a held-out split
//! ```
//! A document never crosses from one shard into the next, and no shard is empty. Parts are numbered without gaps.
//!
//! `tokens.json`: `{"eos", "format": 1, "splits": {name: {"bytes", "documents", "shards", "tokens"}}, "tokenizer",
//! "vocab_size"}`; `bytes` are those of the documents' text, `tokenizer` is the BLAKE3 of `tokenizer.json` in hex.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

mod reader;

pub use reader::{TokenShards, parse};

/// Version of the format above.
pub const FORMAT: u32 = 1;

/// Bytes of one token.
pub const TOKEN_BYTES: usize = 4;

/// Bytes of one document end.
pub const END_BYTES: usize = 8;

/// `tokens.json`. Fields stand in the order in which they are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The token after each document.
    pub eos: u32,
    /// [`FORMAT`].
    pub format: u32,
    /// What each split holds.
    pub splits: BTreeMap<String, SplitStatistics>,
    /// BLAKE3 of `tokenizer.json`, in hex.
    pub tokenizer: String,
    /// All tokens are below this.
    pub vocab_size: u32,
}

/// Sizes of one split.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitStatistics {
    /// Bytes of text, ends of documents not counted.
    pub bytes: u64,
    /// Documents.
    pub documents: u64,
    /// Files of tokens.
    pub shards: u32,
    /// Tokens, one a document for its end included.
    pub tokens: u64,
}

impl SplitStatistics {
    /// Bytes of text for each token of it (ends of documents left out); 0 when there is no text.
    pub fn bytes_per_token(&self) -> f64 {
        match self.tokens.saturating_sub(self.documents) {
            0 => 0.0,
            tokens => self.bytes as f64 / tokens as f64,
        }
    }
}

impl Manifest {
    /// Reads `tokens.json` of a folder.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Json`], and [`Error::Shard`] for a version that is not known or sizes that cannot be.
    pub fn read(folder: &Path) -> Result<Self> {
        let file = manifest_file(folder);
        let bytes = fs_err::read(&file)?;
        let place = file.display().to_string();
        let manifest: Self = serde_json::from_slice(&bytes).map_err(|source| Error::Json { place, source })?;
        if manifest.format != FORMAT {
            let reason = format!("its format is {}, this program reads {FORMAT}", manifest.format);
            return Err(Error::Shard { file, reason });
        }
        if manifest.eos >= manifest.vocab_size {
            let reason = format!("its eos {} is no token of {}", manifest.eos, manifest.vocab_size);
            return Err(Error::Shard { file, reason });
        }
        Ok(manifest)
    }

    /// Writes `tokens.json` into a folder.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_json(&manifest_file(folder), self)
    }
}

/// `tokens.json` of a folder.
pub fn manifest_file(folder: &Path) -> PathBuf {
    folder.join("tokens.json")
}

/// Tokens of part `part` of a split.
pub fn tokens_file(folder: &Path, split: &str, part: u32) -> PathBuf {
    folder.join(split).join(format!("part-{part:05}.npy"))
}

/// Document ends of part `part` of a split.
pub fn documents_file(folder: &Path, split: &str, part: u32) -> PathBuf {
    folder.join(split).join(format!("part-{part:05}.documents"))
}

/// Writes a value as JSON with a line end, aside first and then under its name.
pub(crate) fn write_json<T: Serialize>(file: &Path, value: &T) -> Result<()> {
    let place = || file.display().to_string();
    let mut text = serde_json::to_vec_pretty(value).map_err(|source| Error::Json { place: place(), source })?;
    text.push(b'\n');
    write_aside(file, &text)
}

/// Writes bytes under a temporary name and renames, so that a reader sees all of a file or none.
pub(crate) fn write_aside(file: &Path, bytes: &[u8]) -> Result<()> {
    let aside = aside(file);
    fs_err::write(&aside, bytes)?;
    fs_err::rename(&aside, file)?;
    Ok(())
}

fn aside(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
}

/// Writes the shards of one split.
#[derive(Debug)]
pub struct SplitWriter {
    folder: PathBuf,
    split: String,
    shard_tokens: u64,
    open: Option<OpenShard>,
    written: SplitStatistics,
}

#[derive(Debug)]
struct OpenShard {
    tokens: std::io::BufWriter<fs_err::File>,
    ends: Vec<u64>,
    len: u64,
}

impl SplitWriter {
    /// A new split in `folder`. A shard is closed before a document would take it over `shard_tokens`; a document
    /// longer than that has a shard of its own.
    pub fn create(folder: &Path, split: &str, shard_tokens: u64) -> Result<Self> {
        let plain =
            !split.is_empty() && split.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        if !plain {
            return Err(Error::Parameter {
                name: "split".into(),
                reason: format!("is `{split}`; it must be letters, digits, `-` or `_`"),
            });
        }
        fs_err::create_dir_all(folder.join(split))?;
        Ok(Self {
            folder: folder.into(),
            split: split.into(),
            shard_tokens,
            open: None,
            written: SplitStatistics::default(),
        })
    }

    /// Adds one document: its tokens with the end-of-document token last, and the bytes of its text.
    pub fn push(&mut self, tokens: &[u32], bytes: u64) -> Result<()> {
        if tokens.is_empty() {
            let reason = "a document without even an end token".into();
            return Err(Error::Shard { file: tokens_file(&self.folder, &self.split, self.written.shards), reason });
        }
        if self.open.as_ref().is_some_and(|open| open.len + tokens.len() as u64 > self.shard_tokens) {
            self.close_shard()?;
        }
        let open = match &mut self.open {
            Some(open) => open,
            none => {
                let file = fs_err::File::create(aside(&tokens_file(&self.folder, &self.split, self.written.shards)))?;
                none.insert(OpenShard { tokens: std::io::BufWriter::new(file), ends: Vec::new(), len: 0 })
            }
        };
        for token in tokens {
            open.tokens.write_all(&token.to_le_bytes())?;
        }
        open.len += tokens.len() as u64;
        open.ends.push(open.len);
        self.written.documents += 1;
        self.written.tokens += tokens.len() as u64;
        self.written.bytes += bytes;
        Ok(())
    }

    /// What was added so far; the shard that is open is not yet counted.
    pub fn statistics(&self) -> &SplitStatistics {
        &self.written
    }

    /// Closes the last shard.
    pub fn finish(mut self) -> Result<SplitStatistics> {
        self.close_shard()?;
        Ok(self.written)
    }

    fn close_shard(&mut self) -> Result<()> {
        let Some(mut open) = self.open.take() else { return Ok(()) };
        open.tokens.flush()?;
        drop(open.tokens);
        let ends: Vec<u8> = open.ends.iter().flat_map(|end| end.to_le_bytes()).collect();
        write_aside(&documents_file(&self.folder, &self.split, self.written.shards), &ends)?;
        let file = tokens_file(&self.folder, &self.split, self.written.shards);
        fs_err::rename(aside(&file), file)?;
        self.written.shards += 1;
        Ok(())
    }
}
