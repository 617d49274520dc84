//! `train-tokenizer`: a byte-level BPE vocabulary from a corpus.

use flow_data::{
    corpus::{Corpus, Split},
    tokenizer::{self, SpecialTokens, SplitPattern, TokenizerParams},
};
use flow_pipeline::{
    Misfit, StageError,
    context::Context,
    stage::{Arity, DefaultCores, Forecast, Forecasts, Kind, NoPlaces, Role},
    units::{Bytes, Count},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    artifact,
    engine::{self, data, go_on},
    facts, misfit,
};

/// The kind.
pub(crate) struct TrainTokenizer;

/// What the tokenizer is like.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// Tokens in all: special ones, the 256 bytes and the merges. Reached exactly, or the stage fails.
    #[serde(default = "vocab_size")]
    pub vocab_size: Count,
    /// A pair must be seen this often to be merged.
    #[serde(default = "min_frequency")]
    pub min_frequency: u64,
    /// At most so much text is read of each corpus.
    #[serde(default = "max_bytes")]
    pub max_bytes: Bytes,
    /// How text is cut into words; tokens never cross a word's border.
    #[serde(default)]
    pub pattern: SplitPattern,
}

/// What the engine counts in.
const MOST_BYTES: u64 = i32::MAX as u64;

fn vocab_size() -> Count {
    Count(TokenizerParams::default().vocab_size as u64)
}

fn min_frequency() -> u64 {
    TokenizerParams::default().min_frequency
}

fn max_bytes() -> Bytes {
    Bytes(TokenizerParams::default().max_bytes)
}

/// The params in the engine's form, for so many corpora.
fn engine_params(params: &Params, corpora: u64) -> TokenizerParams {
    let Params { vocab_size, min_frequency, max_bytes, pattern } = params.clone();
    TokenizerParams {
        vocab_size: usize::try_from(vocab_size.0).unwrap_or(usize::MAX),
        min_frequency,
        max_bytes: max_bytes.0.saturating_mul(corpora).min(MOST_BYTES),
        special: SpecialTokens::default(),
        pattern,
    }
}

impl Kind for TrainTokenizer {
    const NAME: &'static str = "train-tokenizer";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Learn a byte-level BPE vocabulary from corpora.";
    const MAKES: &'static str = artifact::TOKENIZER;
    const CORES: DefaultCores = DefaultCores::All;
    type Params = Params;
    type Places = NoPlaces;

    fn roles() -> &'static [Role] {
        &[Role {
            name: "corpus",
            takes: &[artifact::CORPUS],
            arity: Arity::Many,
            about: "the corpora whose `train` documents are learned from",
        }]
    }

    fn check(params: &Params) -> Result<(), Misfit> {
        engine_params(params, 1).validate().map_err(|error| misfit::data(error, ""))
    }

    fn forecast(params: &Params, inputs: &Forecasts) -> Forecast {
        let mut forecast = Forecast::default();
        forecast.facts.insert(facts::VOCABULARY.to_owned(), params.vocab_size.0.into());
        let read = |bytes: u64| bytes.min(params.max_bytes.0 * facts::of(inputs, "corpus").count() as u64);
        forecast.estimate.tokens = facts::sum(inputs, "corpus", facts::TRAIN_BYTES).map(|b| facts::tokens_of(read(b)));
        forecast
    }

    fn run(ctx: &Context, params: Params, _: NoPlaces) -> Result<(), StageError> {
        engine::start(ctx)?;
        let max_bytes = params.max_bytes;
        let mut texts: Vec<Box<dyn Iterator<Item = flow_data::Result<String>> + Send>> = Vec::new();
        for input in ctx.inputs("corpus") {
            let documents = Corpus::open(&input.path).map_err(data)?.documents(Split::Train).map_err(data)?;
            let mut read = 0;
            let mut count = 0;
            let some = documents.map_while(move |document| {
                if read >= max_bytes.0 {
                    return None;
                }
                count += 1;
                if go_on(ctx, count, None, "documents").is_break() {
                    return Some(Err(flow_data::Error::Cancelled));
                }
                Some(document.map(|document| {
                    read += document.text.len() as u64;
                    document.text
                }))
            });
            texts.push(Box::new(some));
        }
        let corpora = ctx.inputs("corpus").len() as u64;
        let trained =
            tokenizer::try_train(texts.into_iter().flatten(), &engine_params(&params, corpora)).map_err(data)?;
        trained.write(ctx.output()).map_err(data)
    }
}
