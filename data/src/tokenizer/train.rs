//! Training a byte-level tokenizer: words are cut and counted here, merges are learned by the `tokenizers` crate.
//!
//! The file is the same, byte for byte, for the same texts in any order, on any number of threads, although the library
//! counts in parallel into randomly keyed hash maps:
//! - counts are sums of whole numbers, and its queue takes the most frequent pair, of equals the smallest;
//! - no pair is ever queued twice with a part of its words each, which would let the map's order decide: that needs a
//!   token that two different pairs make, and there is none. For a token's text to come together nothing may have been
//!   merged across its ends, so what happens inside is what would happen to that text alone: always the same merges;
//! - it writes tokens by id and merges by rank.
//!
//! Tests compare with the definition of BPE, counted anew for each merge. What breaks the argument is a limit on the
//! length of tokens (`max_token_length`): do not set one.

use super::{SplitPattern, Tokenizer, TokenizerParams, failed};
use crate::shard::{write_aside, write_json};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern as SplitBy};
use tokenizers::tokenizer::Trainer;
use tokenizers::{
    AddedToken, Model, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, SplitDelimiterBehavior,
};

/// Longer words (encoded binaries, gene sequences) teach nothing about text, and would make training quadratic.
const MAX_WORD_BYTES: usize = 256;

/// The library counts pairs in 32 bits; a pair is seen less often than there are bytes.
const MAX_BYTES: u64 = (1 << 31) - 1;

/// More entries than any tokenizer has.
const LARGEST_VOCABULARY: usize = 1 << 24;

const CL100K: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A trained tokenizer.
#[derive(Debug, Clone)]
pub struct Trained {
    /// The content of `tokenizer.json`.
    pub json: Vec<u8>,
    /// What it was trained on.
    pub statistics: TrainingStatistics,
}

/// What a tokenizer was trained on. Fields stand in the order in which they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingStatistics {
    /// Bytes of text that were read.
    pub bytes: u64,
    /// Whether there was more text than `max_bytes`.
    pub bytes_limited: bool,
    /// Documents that were read.
    pub documents: u64,
    /// Version of this file.
    pub format: u32,
    /// Occurrences of words of more than 256 bytes, which were left out.
    pub long_words: u64,
    /// Merges that were learned.
    pub merges: u64,
    /// Tokens in all.
    pub vocab_size: u64,
    /// Different words.
    pub words: u64,
}

impl Trained {
    /// Writes `tokenizer.json` and `statistics.json` into a folder that is there.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_aside(&folder.join("tokenizer.json"), &self.json)?;
        write_json(&folder.join("statistics.json"), &self.statistics)
    }

    /// The tokenizer, ready for use.
    pub fn tokenizer(&self, params: &TokenizerParams) -> Result<Tokenizer> {
        Tokenizer::from_bytes(&self.json, "(trained)", &params.special)
    }
}

impl TokenizerParams {
    /// Entries before the first merge: eos, pad and the bytes.
    fn smallest() -> usize {
        2 + ByteLevel::alphabet().len()
    }

    /// Checks what no text could satisfy.
    ///
    /// # Errors
    /// [`Error::Parameter`] with the name of the first that is out of its range.
    pub fn validate(&self) -> Result<()> {
        let special = [&self.special.eos, &self.special.pad];
        let smallest = Self::smallest();
        let wrong = |name: &str, reason: String| Err(Error::Parameter { name: name.into(), reason });
        if self.vocab_size < smallest || self.vocab_size > LARGEST_VOCABULARY {
            let reason = format!(
                "is {}; it must be from {smallest}, the special tokens and the bytes, to {LARGEST_VOCABULARY}",
                self.vocab_size
            );
            return wrong("vocab_size", reason);
        }
        if self.max_bytes > MAX_BYTES {
            let reason = format!("is {}, more than {MAX_BYTES}; a tokenizer needs no more text", self.max_bytes);
            return wrong("max_bytes", reason);
        }
        if special[0] == special[1] || special.iter().any(|token| token.chars().count() < 2) {
            return wrong("special", "must hold an eos and a pad that differ and are longer than one letter".into());
        }
        Ok(())
    }
}

/// Trains a byte-level BPE tokenizer: eos is 0, pad is 1, the 256 bytes follow in the order of their letters, then the
/// merges in the order in which they were learned.
///
/// # Errors
/// [`Error::Parameter`] for a vocabulary that cannot hold special tokens and bytes, equal special tokens or too many
/// bytes; [`Error::VocabularyTooLarge`] when the text cannot fill it.
pub fn train(texts: impl Iterator<Item = String> + Send, params: &TokenizerParams) -> Result<Trained> {
    try_train(texts.map(Ok), params)
}

/// As [`train`], for texts that may fail to be read: the first failure ends it.
pub fn try_train(texts: impl Iterator<Item = Result<String>> + Send, params: &TokenizerParams) -> Result<Trained> {
    params.validate()?;
    let special = [&params.special.eos, &params.special.pad];
    let special = special.map(|text| AddedToken::from(text.clone(), true));
    let pre_tokenizer = pre_tokenizer(params.pattern)?;
    let failed = |source| failed("train", "(trained)", source);

    let (mut documents, mut bytes, mut bytes_limited) = (0u64, 0u64, false);
    let long_words = AtomicU64::new(0);
    let mut unreadable = None;
    let readable = texts.map_while(|text| text.map_err(|error| unreadable = Some(error)).ok());
    let taken = readable.take_while(|text| {
        bytes_limited = bytes >= params.max_bytes;
        if !bytes_limited {
            documents += 1;
            bytes += text.len() as u64;
        }
        !bytes_limited
    });
    let mut trainer = BpeTrainer::builder()
        .vocab_size(params.vocab_size)
        .min_frequency(params.min_frequency)
        .special_tokens(special.to_vec())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    trainer.feed(taken, |text| words_of(text, &pre_tokenizer, &long_words)).map_err(failed)?;
    if let Some(error) = unreadable {
        return Err(error);
    }
    let words = trainer.get_word_count() as u64;
    let mut model = BPE::default();
    trainer.train(&mut model).map_err(failed)?;
    let reached = model.get_vocab_size();
    if reached < params.vocab_size {
        let (asked, min_frequency) = (params.vocab_size, params.min_frequency);
        return Err(Error::VocabularyTooLarge { asked, reached, min_frequency });
    }

    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(pre_tokenizer)).with_decoder(Some(ByteLevel::new(false, true, true)));
    tokenizer.add_special_tokens(special).map_err(failed)?;
    let mut json = tokenizer.to_string(true).map_err(failed)?.into_bytes();
    json.push(b'\n');
    let statistics = TrainingStatistics {
        bytes,
        bytes_limited,
        documents,
        format: 1,
        long_words: long_words.into_inner(),
        merges: (reached - TokenizerParams::smallest()) as u64,
        vocab_size: reached as u64,
        words,
    };
    Ok(Trained { json, statistics })
}

fn pre_tokenizer(pattern: SplitPattern) -> Result<PreTokenizerWrapper> {
    Ok(match pattern {
        SplitPattern::Gpt2 => ByteLevel::new(false, true, true).into(),
        SplitPattern::Cl100k => {
            let split = Split::new(SplitBy::Regex(CL100K.into()), SplitDelimiterBehavior::Isolated, false)
                .map_err(|source| failed("train", "(trained)", source))?;
            Sequence::new(vec![split.into(), ByteLevel::new(false, true, false).into()]).into()
        }
    })
}

/// The words of a text, the long ones only counted.
fn words_of(text: &str, splitter: &PreTokenizerWrapper, long_words: &AtomicU64) -> tokenizers::Result<Vec<String>> {
    let mut cut = PreTokenizedString::from(text);
    splitter.pre_tokenize(&mut cut)?;
    let mut words = Vec::new();
    for (word, _, _) in cut.get_splits(OffsetReferential::Original, OffsetType::None) {
        // A letter of the byte alphabet is one byte of the text.
        if word.chars().count() > MAX_WORD_BYTES {
            long_words.fetch_add(1, Ordering::Relaxed);
        } else {
            words.push(word.to_owned());
        }
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::cmp::Reverse;
    use std::collections::BTreeMap;

    type Merge = (String, String);

    #[test]
    fn a_text_that_cannot_be_read_ends_training() {
        let texts = [Ok("some text".to_owned()), Err(Error::Cancelled), Ok("more".to_owned())];
        let params = TokenizerParams { vocab_size: 258, ..TokenizerParams::default() };
        assert!(matches!(try_train(texts.into_iter(), &params), Err(Error::Cancelled)));
        // A corpus can be read from the library's threads.
        fn sendable<T: Send>() {}
        sendable::<crate::corpus::Documents>();
    }

    fn library(text: &str, vocab_size: usize, min_frequency: u64) -> Result<Vec<Merge>> {
        let pattern = SplitPattern::Gpt2;
        let params = TokenizerParams { vocab_size, min_frequency, pattern, ..TokenizerParams::default() };
        let json = train(std::iter::once(text.to_owned()), &params)?.json;
        let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
        Ok(serde_json::from_value(json["model"]["merges"].clone()).unwrap())
    }

    /// Applies the first merge that was learned of those that fit, leftmost first, until none fits.
    fn encode(word: &str, merges: &[Merge]) -> Vec<String> {
        let mut parts: Vec<String> = word.chars().map(String::from).collect();
        loop {
            let rank = |two: &[String]| merges.iter().position(|(left, right)| *left == two[0] && *right == two[1]);
            let best = parts.windows(2).enumerate().filter_map(|(at, two)| Some((rank(two)?, at))).min();
            let Some((_, at)) = best else { return parts };
            let right = parts.remove(at + 1);
            parts[at] += &right;
        }
    }

    /// The definition: before each merge every word is encoded from its letters and every pair is counted.
    fn definition(words: &[String], merges: usize, min_frequency: u64) -> Vec<Merge> {
        let (mut learned, mut ids) = (Vec::<Merge>::new(), ["a", "b", "c"].map(String::from).to_vec());
        while learned.len() < merges {
            let mut counts = BTreeMap::<(usize, usize), u64>::new();
            for word in words {
                let id = |part: &String| ids.iter().position(|known| known == part).unwrap();
                for two in encode(word, &learned).windows(2) {
                    *counts.entry((id(&two[0]), id(&two[1]))).or_default() += 1;
                }
            }
            let best = counts.into_iter().max_by_key(|&(pair, count)| (count, Reverse(pair)));
            let Some(((left, right), _)) = best.filter(|&(_, count)| count >= min_frequency.max(1)) else { break };
            let made = format!("{}{}", ids[left], ids[right]);
            assert!(!ids.contains(&made), "`{made}` is made by two pairs");
            learned.push((ids[left].clone(), ids[right].clone()));
            ids.push(made);
        }
        learned
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn merges_are_those_of_the_definition(
            words in prop::collection::vec("[a-c]{1,14}", 1..30),
            wanted in 0usize..50,
            min_frequency in 0u64..4,
        ) {
            // Line ends are words of their own, and have no pairs.
            let text = words.join("\n");
            let expected = definition(&words, wanted, min_frequency);
            prop_assert_eq!(&library(&text, 258 + expected.len(), min_frequency).unwrap(), &expected);
            if expected.len() < wanted {
                let refused = library(&text, 258 + wanted, min_frequency);
                let Err(Error::VocabularyTooLarge { reached, .. }) = refused else { panic!("filled") };
                prop_assert_eq!(reached, 258 + expected.len());
            }
        }
    }
}
