//! Documents to token shards: read in order, encoded on all threads, written in the order of reading.

use crate::shard::{FORMAT, Manifest, SplitStatistics, SplitWriter};
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Text that is encoded at a time. Not part of the result: documents are encoded one by one.
const CHUNK_BYTES: usize = 8 << 20;

/// How tokens are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TokenizeParams {
    /// Tokens of one shard at most; a longer document has a shard of its own.
    pub shard_tokens: u64,
}

impl Default for TokenizeParams {
    fn default() -> Self {
        // 1 GiB a file.
        Self { shard_tokens: 1 << 28 }
    }
}

/// Writes an artifact of tokens, split by split.
#[derive(Debug)]
pub struct TokensWriter<'a> {
    folder: PathBuf,
    tokenizer: &'a Tokenizer,
    params: TokenizeParams,
    splits: BTreeMap<String, SplitStatistics>,
}

impl<'a> TokensWriter<'a> {
    /// An artifact in a folder that is there and empty.
    pub fn new(folder: &Path, tokenizer: &'a Tokenizer, params: &TokenizeParams) -> Result<Self> {
        if params.shard_tokens == 0 {
            return Err(Error::Parameter { name: "shard_tokens".into(), reason: "is 0; it must be at least 1".into() });
        }
        Ok(Self { folder: folder.into(), tokenizer, params: params.clone(), splits: BTreeMap::new() })
    }

    /// Writes one split (`train`, `heldout`) from documents in their order, each an (id, text). `progress` is told what
    /// was written after every few MiB of text, and may end the work.
    ///
    /// # Errors
    /// Those of the documents, [`Error::Io`], [`Error::Tokenizer`], and [`Error::Cancelled`] when `progress` breaks.
    pub fn split<D>(
        &mut self,
        name: &str,
        documents: D,
        mut progress: impl FnMut(&SplitStatistics) -> ControlFlow<()>,
    ) -> Result<SplitStatistics>
    where
        D: IntoIterator<Item = Result<(String, String)>>,
    {
        let mut writer = SplitWriter::create(&self.folder, name, self.params.shard_tokens)?;
        let mut documents = documents.into_iter();
        loop {
            let (mut texts, mut bytes) = (Vec::new(), 0);
            while bytes < CHUNK_BYTES {
                let Some(document) = documents.next() else { break };
                let (_, text) = document?;
                bytes += text.len();
                texts.push(text);
            }
            if texts.is_empty() {
                break;
            }
            for (text, mut tokens) in texts.iter().zip(self.tokenizer.encode_batch(&texts)?) {
                tokens.push(self.tokenizer.eos());
                writer.push(&tokens, text.len() as u64)?;
            }
            if progress(writer.statistics()).is_break() {
                return Err(Error::Cancelled);
            }
        }
        let statistics = writer.finish()?;
        self.splits.insert(name.to_owned(), statistics);
        Ok(statistics)
    }

    /// Writes `tokens.json`.
    pub fn finish(self) -> Result<Manifest> {
        let manifest = Manifest {
            eos: self.tokenizer.eos(),
            format: FORMAT,
            splits: self.splits,
            tokenizer: self.tokenizer.digest().to_owned(),
            vocab_size: self.tokenizer.vocab_size(),
        };
        manifest.write(&self.folder)?;
        Ok(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::{TokenShards, documents_file, tokens_file};
    use crate::tokenizer::{TokenizerParams, train};

    fn tokenizer() -> Tokenizer {
        let params = TokenizerParams { vocab_size: 262, ..TokenizerParams::default() };
        let text = std::iter::once("the thin thing then".to_owned());
        train(text, &params).unwrap().tokenizer(&params).unwrap()
    }

    /// Each is an id and its text.
    fn documents() -> Vec<Result<(String, String)>> {
        let texts = ["the thing", "", "then 水", "x"];
        texts.iter().enumerate().map(|(id, text)| Ok((id.to_string(), (*text).to_owned()))).collect()
    }

    fn write(folder: &Path, threads: usize) -> Manifest {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let tokenizer = tokenizer();
            let mut writer = TokensWriter::new(folder, &tokenizer, &TokenizeParams { shard_tokens: 8 }).unwrap();
            writer.split("train", documents(), |_| ControlFlow::Continue(())).unwrap();
            writer.split("heldout", documents().into_iter().take(1), |_| ControlFlow::Continue(())).unwrap();
            writer.finish().unwrap()
        })
    }

    #[test]
    fn documents_come_back_from_their_shards() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = write(folder.path(), 2);
        let (shards, tokenizer) = (TokenShards::open(folder.path(), "train").unwrap(), tokenizer());
        assert_eq!((shards.len_documents(), shards.statistics().bytes), (4, 9 + 8 + 1));
        assert_eq!(manifest.tokenizer, tokenizer.digest());
        for (number, document) in documents().into_iter().enumerate() {
            let tokens = shards.slice(shards.document(number as u64).unwrap()).unwrap();
            let (last, text) = tokens.split_last().unwrap();
            assert_eq!(*last, tokenizer.eos());
            assert_eq!(tokenizer.decode(text).unwrap(), document.unwrap().1);
        }
        assert!((shards.statistics().bytes_per_token() - 18.0 / (shards.len_tokens() - 4) as f64).abs() < 1e-12);
        assert!(shards.statistics().shards > 1);
    }

    #[test]
    fn bytes_are_the_same_on_every_machine() {
        let mut hashes = Vec::new();
        for threads in [1, 2] {
            let folder = tempfile::tempdir().unwrap();
            let manifest = write(folder.path(), threads);
            let mut hash = blake3::Hasher::new();
            for part in 0..manifest.splits["train"].shards {
                hash.update(&fs_err::read(tokens_file(folder.path(), "train", part)).unwrap());
                hash.update(&fs_err::read(documents_file(folder.path(), "train", part)).unwrap());
            }
            hashes.push(hash.finalize().to_hex().to_string());
            let mut left: Vec<_> = walkdir::WalkDir::new(folder.path())
                .into_iter()
                .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
                .collect();
            left.retain(|name| name.ends_with(".partial"));
            assert!(left.is_empty(), "{left:?}");
        }
        assert_eq!(hashes, [GOLDEN, GOLDEN]);
    }

    /// If this changes, the shards of every recipe change.
    const GOLDEN: &str = "77d68b562708fae7d216a9b4e9117ce3222ee33ead86b796b6ff92154a4f0a67";

    #[test]
    fn work_can_be_stopped_and_errors_pass() {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = tokenizer();
        let mut writer = TokensWriter::new(folder.path(), &tokenizer, &TokenizeParams::default()).unwrap();
        assert!(matches!(writer.split("train", documents(), |_| ControlFlow::Break(())), Err(Error::Cancelled)));
        let broken = [Err(Error::Cancelled)];
        assert!(writer.split("other", broken, |_| ControlFlow::Continue(())).is_err());
        assert!(matches!(writer.split("../out", [], |_| ControlFlow::Continue(())), Err(Error::Parameter { .. })));
        assert!(!folder.path().join("tokens.json").exists());
    }
}
