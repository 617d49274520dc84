//! Text to token ids and back, with a Hugging Face `tokenizer.json`, whoever made it.
//!
//! A text that happens to contain `<|endoftext|>` is encoded as these letters, never as the special token: what a
//! document says cannot end it. Encoding adds nothing in front or behind.

use crate::{Error, Result, whole};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::Path;

mod train;

pub use train::{Trained, TrainingStatistics, train, try_train};

/// What a tokenizer is trained to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TokenizerParams {
    /// Tokens in all: special ones, the 256 bytes and the merges. Reached exactly, or training fails.
    pub vocab_size: usize,
    /// A pair must be seen this often to be merged.
    pub min_frequency: u64,
    /// Reading stops after the document that reaches this many bytes of text.
    pub max_bytes: u64,
    /// The tokens with a meaning of their own.
    pub special: SpecialTokens,
    /// How text is cut into words; tokens never cross a word's border.
    pub pattern: SplitPattern,
}

impl Default for TokenizerParams {
    fn default() -> Self {
        Self {
            vocab_size: 8192,
            min_frequency: 2,
            max_bytes: 256 << 20,
            special: SpecialTokens::default(),
            pattern: SplitPattern::default(),
        }
    }
}

/// Bytes of a `tokenizer.json` that is read. Those of 250,000 tokens have some 30 MB.
const MOST: u64 = 1 << 30;

/// Texts of the special tokens, as `OLMo`'s tokenizers name them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SpecialTokens {
    /// Ends each document.
    pub eos: String,
    /// Fills a batch; is never in a shard.
    pub pad: String,
}

impl Default for SpecialTokens {
    fn default() -> Self {
        Self { eos: "<|endoftext|>".into(), pad: "<|pad|>".into() }
    }
}

/// How text is cut into words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SplitPattern {
    /// As GPT-2: words with one leading space, digits together.
    Gpt2,
    /// As cl100k and dolma2: numbers in groups of three digits, line ends apart.
    #[default]
    Cl100k,
}

/// A tokenizer that is ready for use.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    name: String,
    eos: u32,
    pad: u32,
    vocab_size: u32,
    digest: String,
}

impl Tokenizer {
    /// Reads `tokenizer.json`: the file, or a folder that holds it. Special tokens have their usual names.
    ///
    /// # Errors
    /// As [`Tokenizer::from_file_with`].
    pub fn from_file(path: &Path) -> Result<Self> {
        Self::from_file_with(path, &SpecialTokens::default())
    }

    /// As [`Tokenizer::from_file`], with other names of special tokens. A tokenizer without a pad token pads with eos.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Tokenizer`] for a file that is no tokenizer, [`Error::TokenMissing`] without an eos.
    pub fn from_file_with(path: &Path, special: &SpecialTokens) -> Result<Self> {
        let file = if path.is_dir() { path.join("tokenizer.json") } else { path.to_path_buf() };
        Self::from_bytes(&whole::read(&file, MOST)?, &file.display().to_string(), special)
    }

    /// The content of a `tokenizer.json`; `name` is for messages.
    pub fn from_bytes(json: &[u8], name: &str, special: &SpecialTokens) -> Result<Self> {
        let mut inner = tokenizers::Tokenizer::from_bytes(json).map_err(|source| failed("load", name, source))?;
        inner.set_encode_special_tokens(true);
        // Both would make the tokens of a text depend on its neighbours or its length.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|source| failed("load", name, source))?;
        let missing = || Error::TokenMissing { token: special.eos.clone(), name: name.into() };
        let eos = inner.token_to_id(&special.eos).ok_or_else(missing)?;
        let pad = inner.token_to_id(&special.pad).unwrap_or(eos);
        check_added_ids(json, &inner, name)?;
        // What indexes an embedding is the largest id, however many tokens there are.
        let vocab_size = inner.get_vocab(true).into_values().max().unwrap_or(eos).saturating_add(1);
        let digest = blake3::hash(json).to_hex().to_string();
        Ok(Self { inner, name: name.into(), eos, pad, vocab_size, digest })
    }

    /// The end-of-document token.
    pub fn eos(&self) -> u32 {
        self.eos
    }

    /// The padding token; eos where there is none.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// One more than the largest id.
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    /// BLAKE3 of `tokenizer.json`, in hex.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Tokens of one text, no end token added.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, false).map_err(|source| failed("encode", &self.name, source))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Tokens of many texts, in the order of the texts, on all threads.
    pub fn encode_batch<T: AsRef<str> + Sync>(&self, texts: &[T]) -> Result<Vec<Vec<u32>>> {
        texts.par_iter().map(|text| self.encode(text.as_ref())).collect()
    }

    /// Text of tokens. Special tokens are left out; bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// [`Error::Tokenizer`].
    pub fn decode(&self, tokens: &[u32]) -> Result<String> {
        self.inner.decode(tokens, true).map_err(|source| failed("decode", &self.name, source))
    }
}

/// The library gives added tokens the next free ids, whatever the file says, and only logs it. A model was trained with
/// the file's.
fn check_added_ids(json: &[u8], inner: &tokenizers::Tokenizer, name: &str) -> Result<()> {
    #[derive(Deserialize)]
    struct File {
        #[serde(default)]
        added_tokens: Vec<Added>,
    }
    #[derive(Deserialize)]
    struct Added {
        id: u32,
        content: String,
    }
    let file: File = serde_json::from_slice(json).map_err(|source| Error::Json { place: name.into(), source })?;
    for Added { id, content } in file.added_tokens {
        let given = inner.token_to_id(&content);
        if given != Some(id) {
            let given =
                given.map_or_else(|| "would not be loaded".to_owned(), |given| format!("would be loaded as {given}"));
            let reason = format!("its added token `{content}` has id {id} and {given}");
            return Err(failed("load", name, reason.into()));
        }
    }
    Ok(())
}

fn failed(action: &'static str, name: &str, source: tokenizers::Error) -> Error {
    Error::Tokenizer { action, name: name.into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    /// Text with many ties between pairs, several scripts, and the special tokens' own letters.
    fn texts() -> Vec<String> {
        let words =
            ["the", "river", "stone", "Straße", "naïve", "水", "let", "mut", "fn", "1234567", "<|endoftext|>", "\n\n"];
        let stream = crate::random::Stream::new(11);
        let text = |document: u64| {
            let draws = stream.derive(document);
            let word = |at| words[(draws.below(at, 12) * draws.below(at + 1000, 12) / 11) as usize % words.len()];
            (0..60).flat_map(|at| [word(at), if at % 7 == 0 { ". " } else { " " }]).collect::<String>()
        };
        (0..200).map(text).collect()
    }

    fn params(pattern: SplitPattern) -> TokenizerParams {
        TokenizerParams { vocab_size: 300, pattern, ..TokenizerParams::default() }
    }

    static TRAINED: LazyLock<Trained> =
        LazyLock::new(|| train(texts().into_iter(), &params(SplitPattern::Cl100k)).unwrap());
    static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| TRAINED.tokenizer(&params(SplitPattern::Cl100k)).unwrap());

    #[test]
    fn the_file_is_the_same_on_one_thread_and_on_many_and_in_any_order() {
        for pattern in [SplitPattern::Gpt2, SplitPattern::Cl100k] {
            let on = |threads: usize, texts: Vec<String>| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| train(texts.into_iter(), &params(pattern)).unwrap().json)
            };
            let expected = on(1, texts());
            for threads in [1, 2, 3] {
                assert_eq!(on(threads, texts()), expected);
            }
            assert_eq!(on(2, texts().into_iter().rev().collect()), expected);
        }
        assert_eq!(blake3::hash(&TRAINED.json).to_hex().as_str(), GOLDEN);
    }

    /// If this changes, every tokenizer that flow trains changes.
    const GOLDEN: &str = "e124712ffdfeeb75bab63d8fd808eb20a87c25b242728495b5fa1b97914dd0a6";

    #[test]
    fn ids_stand_where_they_should() {
        assert_eq!((TOKENIZER.eos(), TOKENIZER.pad(), TOKENIZER.vocab_size()), (0, 1, 300));
        assert_eq!(TRAINED.statistics.documents, 200);
        assert_eq!((TRAINED.statistics.vocab_size, TRAINED.statistics.bytes_limited), (300, false));
        assert_eq!(TOKENIZER.digest(), blake3::hash(&TRAINED.json).to_hex().as_str());
    }

    #[test]
    fn a_text_that_names_eos_is_no_eos() {
        let tokens = TOKENIZER.encode("a<|endoftext|>b<|pad|>").unwrap();
        assert!(!tokens.contains(&TOKENIZER.eos()) && !tokens.contains(&TOKENIZER.pad()));
        assert_eq!(TOKENIZER.decode(&tokens).unwrap(), "a<|endoftext|>b<|pad|>");
        assert_eq!(TOKENIZER.decode(&[0, 1]).unwrap(), "");
    }

    #[test]
    fn what_cannot_be_trained_is_refused() {
        let texts = || ["ab ab".to_owned()].into_iter();
        let with = |vocab_size| TokenizerParams { vocab_size, ..TokenizerParams::default() };
        assert!(matches!(train(texts(), &with(257)), Err(Error::Parameter { .. })));
        assert!(train(texts(), &with(258)).is_ok());
        assert!(matches!(train(texts(), &with(400)), Err(Error::VocabularyTooLarge { asked: 400, .. })));
        assert!(matches!(train(std::iter::empty(), &with(259)), Err(Error::VocabularyTooLarge { reached: 258, .. })));
        let greedy = TokenizerParams { max_bytes: 1 << 31, ..with(300) };
        assert!(matches!(train(texts(), &greedy), Err(Error::Parameter { .. })));
        let mut same = with(300);
        same.special.pad = same.special.eos.clone();
        assert!(matches!(train(texts(), &same), Err(Error::Parameter { .. })));
    }

    #[test]
    fn reading_stops_after_max_bytes_and_long_words_teach_nothing() {
        let params = TokenizerParams { vocab_size: 258, max_bytes: 10, ..TokenizerParams::default() };
        let trained = train(["12345678", "12345678", "x"].map(String::from).into_iter(), &params).unwrap();
        assert_eq!((trained.statistics.documents, trained.statistics.bytes), (2, 16));
        assert!(trained.statistics.bytes_limited);
        let trained = train(["g".repeat(300)].into_iter(), &TokenizerParams { max_bytes: 300, ..params }).unwrap();
        assert_eq!((trained.statistics.long_words, trained.statistics.words), (1, 0));
        assert!(!trained.statistics.bytes_limited);
    }

    #[test]
    fn files_that_are_no_tokenizer_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(Tokenizer::from_file(folder.path()), Err(Error::Io(_))));
        fs_err::write(folder.path().join("tokenizer.json"), "{}").unwrap();
        assert!(matches!(Tokenizer::from_file(folder.path()), Err(Error::Tokenizer { action: "load", .. })));
        TRAINED.write(folder.path()).unwrap();
        assert_eq!(Tokenizer::from_file(folder.path()).unwrap().digest(), TOKENIZER.digest());
        let other = SpecialTokens { eos: "</s>".into(), ..SpecialTokens::default() };
        assert!(matches!(Tokenizer::from_file_with(folder.path(), &other), Err(Error::TokenMissing { .. })));
        let other = SpecialTokens { pad: "</pad>".into(), ..SpecialTokens::default() };
        assert_eq!(Tokenizer::from_file_with(folder.path(), &other).unwrap().pad(), 0);
    }

    #[test]
    fn added_tokens_keep_their_ids() {
        // As in dolma2: further tokens after the merges, some of them ordinary text.
        let with = |id: u32| {
            let mut file: serde_json::Value = serde_json::from_slice(&TRAINED.json).unwrap();
            let mut added = file["added_tokens"][0].clone();
            added["id"] = id.into();
            added["content"] = "|||IP_ADDRESS|||".into();
            added["special"] = false.into();
            file["added_tokens"].as_array_mut().unwrap().push(added);
            Tokenizer::from_bytes(&serde_json::to_vec(&file).unwrap(), "dolma", &SpecialTokens::default())
        };
        let tokenizer = with(300).unwrap();
        assert_eq!(tokenizer.vocab_size(), 301);
        assert_eq!(tokenizer.encode("|||IP_ADDRESS|||").unwrap(), [300]);
        assert_eq!(tokenizer.decode(&[300]).unwrap(), "|||IP_ADDRESS|||");
        assert!(matches!(with(305), Err(Error::Tokenizer { action: "load", .. })));
    }

    proptest! {
        #[test]
        fn any_text_comes_back(texts in prop::collection::vec(any::<String>(), 0..5), repeated in "[a-z \n]{0,40}") {
            let texts: Vec<String> = texts.into_iter().chain([repeated.repeat(5)]).collect();
            let tokens = TOKENIZER.encode_batch(&texts).unwrap();
            for (text, tokens) in texts.iter().zip(tokens) {
                prop_assert_eq!(&TOKENIZER.encode(text).unwrap(), &tokens);
                prop_assert!(tokens.iter().all(|&token| token > 1 && token < 300));
                prop_assert_eq!(&TOKENIZER.decode(&tokens).unwrap(), text);
            }
        }
    }
}
