//! Reading shards through memory maps. Sizes are checked before anything is read, tokens when they are read: a file
//! that was cut, swapped or damaged is an error with the file's name, never a panic and never a wrong index into a model.

use super::{END_BYTES, Manifest, SplitStatistics, TOKEN_BYTES, documents_file, tokens_file};
use crate::{Error, Result};
use memmap2::Mmap;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// All shards of one split, as one stream of tokens.
#[derive(Debug)]
pub struct TokenShards {
    folder: PathBuf,
    manifest: Manifest,
    statistics: SplitStatistics,
    shards: Vec<Shard>,
}

#[derive(Debug)]
struct Shard {
    file: PathBuf,
    tokens: Mmap,
    ends: Mmap,
    first_token: u64,
    first_document: u64,
}

/// Checks that `tokens` and `ends` are the two files of one shard, and gives its numbers of tokens and documents.
///
/// # Errors
/// What is wrong, as a fragment of a sentence.
pub fn parse(tokens: &[u8], ends: &[u8]) -> Result<(u64, u64), String> {
    if !tokens.len().is_multiple_of(TOKEN_BYTES) {
        return Err(format!("{} bytes are no whole number of {TOKEN_BYTES}-byte tokens", tokens.len()));
    }
    if !ends.len().is_multiple_of(END_BYTES) {
        return Err(format!("{} bytes of document ends are no whole number of {END_BYTES}", ends.len()));
    }
    let token_count = (tokens.len() / TOKEN_BYTES) as u64;
    let mut last = 0;
    for (document, end) in ends.as_chunks::<END_BYTES>().0.iter().enumerate() {
        let end = u64::from_le_bytes(*end);
        if end <= last || end > token_count {
            return Err(format!("document {document} ends at {end}, after {last}, of {token_count} tokens"));
        }
        last = end;
    }
    if last != token_count {
        return Err(format!("the last document ends at {last}, but there are {token_count} tokens"));
    }
    Ok((token_count, (ends.len() / END_BYTES) as u64))
}

impl TokenShards {
    /// Opens one split of a folder of tokens.
    ///
    /// # Errors
    /// [`Error::SplitMissing`], [`Error::Io`] for a missing file, [`Error::Shard`] for sizes that do not agree.
    pub fn open(folder: &Path, split: &str) -> Result<Self> {
        let manifest = Manifest::read(folder)?;
        let Some(&statistics) = manifest.splits.get(split) else {
            let known = manifest.splits.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            return Err(Error::SplitMissing { folder: folder.into(), split: split.into(), known });
        };
        let mut shards = Vec::new();
        let (mut first_token, mut first_document) = (0u64, 0u64);
        for part in 0..statistics.shards {
            let file = tokens_file(folder, split, part);
            let (tokens, ends) = (map(&file)?, map(&documents_file(folder, split, part))?);
            let (token_count, document_count) =
                parse(&tokens, &ends).map_err(|reason| Error::Shard { file: file.clone(), reason })?;
            shards.push(Shard { file, tokens, ends, first_token, first_document });
            first_token += token_count;
            first_document += document_count;
        }
        if (first_token, first_document) != (statistics.tokens, statistics.documents) {
            let reason = format!(
                "split `{split}` should have {} tokens in {} documents, its files have {first_token} in {first_document}",
                statistics.tokens, statistics.documents
            );
            return Err(Error::Shard { file: super::manifest_file(folder), reason });
        }
        Ok(Self { folder: folder.into(), manifest, statistics, shards })
    }

    /// Tokens of all shards.
    pub fn len_tokens(&self) -> u64 {
        self.statistics.tokens
    }

    /// Documents of all shards.
    pub fn len_documents(&self) -> u64 {
        self.statistics.documents
    }

    /// `tokens.json`.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What `tokens.json` says of this split.
    pub fn statistics(&self) -> &SplitStatistics {
        &self.statistics
    }

    /// The folder that was opened.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Which document token `index` belongs to, counted over all shards; `None` after the last token.
    pub fn document_of(&self, index: u64) -> Option<u64> {
        let shard = self.shard_of(index)?;
        let inside = index - shard.first_token;
        Some(shard.first_document + shard.ends().partition_point(|end| u64::from_le_bytes(*end) <= inside) as u64)
    }

    /// The tokens of document `document`, its end token included; `None` after the last document.
    pub fn document(&self, document: u64) -> Option<Range<u64>> {
        let at = self.shards.partition_point(|shard| shard.first_document <= document).checked_sub(1)?;
        let shard = self.shards.get(at)?;
        let inside = (document - shard.first_document) as usize;
        let end = u64::from_le_bytes(*shard.ends().get(inside)?);
        let start = inside.checked_sub(1).and_then(|before| shard.ends().get(before));
        let start = start.map_or(0, |end| u64::from_le_bytes(*end));
        Some(shard.first_token + start..shard.first_token + end)
    }

    /// Tokens of `range`, across shards.
    ///
    /// # Errors
    /// [`Error::TokenRange`] beyond the last token; [`Error::Shard`] for a token that is not in the vocabulary.
    pub fn slice(&self, range: Range<u64>) -> Result<Vec<u32>> {
        let mut tokens = Vec::with_capacity(range.end.saturating_sub(range.start).min(self.len_tokens()) as usize);
        self.read(range, &mut tokens)?;
        Ok(tokens)
    }

    /// As [`TokenShards::slice`], appended to `into`.
    pub fn read(&self, range: Range<u64>, into: &mut Vec<u32>) -> Result<()> {
        if range.start > range.end || range.end > self.len_tokens() {
            let (start, end) = (range.start, range.end);
            return Err(Error::TokenRange { folder: self.folder.clone(), start, end, tokens: self.len_tokens() });
        }
        let mut at = range.start;
        while at < range.end {
            let Some(shard) = self.shard_of(at) else { break };
            let stored = shard.tokens.as_chunks::<TOKEN_BYTES>().0;
            let from = (at - shard.first_token) as usize;
            let to = stored.len().min((range.end - shard.first_token) as usize);
            let added = into.len();
            into.extend(stored[from..to].iter().map(|token| u32::from_le_bytes(*token)));
            // A model would index its embedding with it.
            if let Some(wrong) = into[added..].iter().position(|&token| token >= self.manifest.vocab_size) {
                let reason = format!(
                    "token {} is {}, the vocabulary has {}",
                    from + wrong,
                    into[added + wrong],
                    self.manifest.vocab_size
                );
                return Err(Error::Shard { file: shard.file.clone(), reason });
            }
            at = shard.first_token + to as u64;
        }
        Ok(())
    }

    fn shard_of(&self, token: u64) -> Option<&Shard> {
        if token >= self.len_tokens() {
            return None;
        }
        let at = self.shards.partition_point(|shard| shard.first_token <= token).checked_sub(1)?;
        self.shards.get(at)
    }
}

impl Shard {
    fn ends(&self) -> &[[u8; END_BYTES]] {
        self.ends.as_chunks::<END_BYTES>().0
    }
}

fn map(file: &Path) -> Result<Mmap> {
    let open = fs_err::File::open(file)?;
    // SAFETY: artifacts are immutable once made and the store hands them out read-only; the map is only ever read as
    // plain bytes, and whatever they are is checked. A file that is cut while mapped ends the process with a signal.
    Ok(unsafe { Mmap::map(open.file())? })
}

#[cfg(test)]
mod tests {
    use super::super::{FORMAT, SplitWriter, manifest_file};
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Documents of the given lengths (an end of 0 each), tokens rising from 1.
    fn write(folder: &Path, lengths: &[usize], shard_tokens: u64) -> Vec<u32> {
        let mut writer = SplitWriter::create(folder, "train", shard_tokens).unwrap();
        let mut all = Vec::new();
        for &length in lengths {
            let mut document: Vec<u32> = (0..length).map(|_| 1).collect();
            for token in &mut document {
                all.push(all.len() as u32 + 1);
                *token = all.len() as u32;
            }
            document.push(0);
            all.push(0);
            writer.push(&document, length as u64).unwrap();
        }
        let train = writer.finish().unwrap();
        let splits = BTreeMap::from([("train".to_owned(), train)]);
        Manifest { eos: 0, format: FORMAT, splits, tokenizer: "0".repeat(64), vocab_size: 1000 }.write(folder).unwrap();
        all
    }

    #[test]
    fn the_bytes_are_as_drawn() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &[2, 1, 4], 6);
        let hex = |name: &str| {
            let bytes = fs_err::read(folder.path().join(name)).unwrap();
            bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
        };
        assert_eq!(hex("train/part-00000.npy"), "0100000002000000000000000400000000000000");
        assert_eq!(hex("train/part-00000.documents"), "03000000000000000500000000000000");
        assert_eq!(hex("train/part-00001.npy"), "0600000007000000080000000900000000000000");
        assert_eq!(hex("train/part-00001.documents"), "0500000000000000");
        let manifest = fs_err::read_to_string(manifest_file(folder.path())).unwrap();
        assert_eq!(manifest, MANIFEST);
    }

    const MANIFEST: &str = r#"{
  "eos": 0,
  "format": 1,
  "splits": {
    "train": {
      "bytes": 7,
      "documents": 3,
      "shards": 2,
      "tokens": 10
    }
  },
  "tokenizer": "0000000000000000000000000000000000000000000000000000000000000000",
  "vocab_size": 1000
}
"#;

    #[test]
    fn damage_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &[2, 1, 4], 6);
        let open = || TokenShards::open(folder.path(), "train");
        open().unwrap();
        assert!(
            matches!(TokenShards::open(folder.path(), "heldout"), Err(Error::SplitMissing { known, .. }) if known == "train")
        );

        let (tokens, ends) =
            (folder.path().join("train/part-00001.npy"), folder.path().join("train/part-00001.documents"));
        let (whole_tokens, whole_ends) = (fs_err::read(&tokens).unwrap(), fs_err::read(&ends).unwrap());
        for cut in 0..whole_tokens.len() {
            fs_err::write(&tokens, &whole_tokens[..cut]).unwrap();
            assert!(matches!(open(), Err(Error::Shard { .. })), "cut at {cut}");
        }
        fs_err::write(&tokens, &whole_tokens).unwrap();
        fs_err::write(&ends, &whole_ends[..3]).unwrap();
        assert!(matches!(open(), Err(Error::Shard { .. })));
        fs_err::remove_file(&ends).unwrap();
        assert!(matches!(open(), Err(Error::Io(_))));
        fs_err::write(&ends, &whole_ends).unwrap();

        let mut strange = whole_tokens.clone();
        strange[2] = 1;
        fs_err::write(&tokens, strange).unwrap();
        let shards = open().unwrap();
        assert_eq!(shards.slice(0..5).unwrap().len(), 5);
        assert!(matches!(shards.slice(0..6), Err(Error::Shard { .. })));
        assert!(matches!(shards.slice(9..11), Err(Error::TokenRange { tokens: 10, .. })));
    }

    #[test]
    fn an_empty_split_opens() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &[], 6);
        let shards = TokenShards::open(folder.path(), "train").unwrap();
        assert_eq!((shards.len_tokens(), shards.document_of(0), shards.document(0)), (0, None, None));
        assert!(shards.slice(0..0).unwrap().is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn what_was_written_is_read(lengths in prop::collection::vec(0usize..9, 1..20), shard_tokens in 0u64..40) {
            let folder = tempfile::tempdir().unwrap();
            let all = write(folder.path(), &lengths, shard_tokens);
            let shards = TokenShards::open(folder.path(), "train").unwrap();
            prop_assert_eq!(shards.slice(0..all.len() as u64).unwrap(), all.clone());
            let mut start = 0;
            for (document, length) in lengths.iter().enumerate() {
                let range = start..start + *length as u64 + 1;
                prop_assert_eq!(shards.document(document as u64), Some(range.clone()));
                for token in range.clone() {
                    prop_assert_eq!(shards.document_of(token), Some(document as u64));
                }
                prop_assert_eq!(&shards.slice(range.clone()).unwrap()[..], &all[range.start as usize..range.end as usize]);
                start = range.end;
            }
            prop_assert_eq!(shards.document(lengths.len() as u64), None);
            prop_assert_eq!(shards.document_of(start), None);
        }

        #[test]
        fn any_bytes_are_parsed_or_refused(tokens in prop::collection::vec(any::<u8>(), 0..64), ends in prop::collection::vec(0u8..12, 0..64)) {
            if let Ok((token_count, documents)) = parse(&tokens, &ends) {
                prop_assert_eq!(token_count as usize * TOKEN_BYTES, tokens.len());
                prop_assert!(documents <= token_count);
            }
        }
    }
}
