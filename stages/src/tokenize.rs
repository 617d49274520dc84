//! `tokenize`: a corpus as token shards, with the ends of documents.

use std::ops::ControlFlow;

use flow_data::{
    corpus::{Corpus, Split},
    tokenize::{TokenizeParams, TokensWriter},
    tokenizer::Tokenizer,
};
use flow_pipeline::{
    Misfit, StageError,
    context::Context,
    stage::{Arity, Estimate, Forecast, Forecasts, Kind, NoPlaces, Role},
    units::Tokens,
};
use fs_err as fs;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    artifact,
    engine::{self, data, go_on, io},
    facts,
};

/// The kind.
pub(crate) struct Tokenize;

/// How tokens are written.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// Tokens of one shard at most; a longer document has a shard of its own.
    #[serde(default = "shard_tokens")]
    pub shard_tokens: Tokens,
    /// What of the corpus is encoded: what there is to train on, or what is held out, for the validation of a training.
    #[serde(default, skip_serializing_if = "is_train")]
    pub split: Split,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_train(split: &Split) -> bool {
    *split == Split::Train
}

fn shard_tokens() -> Tokens {
    Tokens(TokenizeParams::default().shard_tokens)
}

impl Kind for Tokenize {
    const NAME: &'static str = "tokenize";
    const VERSION: u32 = 1;
    const ABOUT: &'static str =
        "Encode a split of a corpus, and write its tokens, with the end of each document, as shards.";
    const MAKES: &'static str = artifact::TOKENS;
    type Params = Params;
    type Places = NoPlaces;

    fn roles() -> &'static [Role] {
        &[
            Role { name: "corpus", takes: &[artifact::CORPUS], arity: Arity::One, about: "the corpus to encode" },
            Role {
                name: "tokenizer",
                takes: &[artifact::TOKENIZER],
                arity: Arity::One,
                about: "the tokenizer to encode it with",
            },
        ]
    }

    fn check(params: &Params) -> Result<(), Misfit> {
        if params.shard_tokens.0 == 0 {
            return Err(Misfit::param("shard_tokens", "`shard_tokens` is 0; it must be at least 1"));
        }
        Ok(())
    }

    fn fits(params: &Params, inputs: &Forecasts) -> Result<(), Misfit> {
        if params.split == Split::Heldout { facts::check_held_out(inputs, "corpus") } else { Ok(()) }
    }

    fn forecast(params: &Params, inputs: &Forecasts) -> Forecast {
        let mut forecast = Forecast::default();
        let vocabulary = facts::number(inputs, "tokenizer", facts::VOCABULARY);
        forecast.facts.extend(vocabulary.map(|entries| (facts::VOCABULARY.to_owned(), entries.into())));
        forecast.facts.insert(facts::SPLIT.to_owned(), params.split.name().into());
        let bytes = facts::number(inputs, "corpus", facts::TRAIN_BYTES).filter(|_| params.split == Split::Train);
        let tokens = bytes.map(facts::tokens_of);
        forecast.estimate = Estimate { tokens, disk: tokens.map(|tokens| 4 * tokens), ..Estimate::default() };
        forecast
    }

    fn run(ctx: &Context, params: Params, _: NoPlaces) -> Result<(), StageError> {
        engine::start(ctx)?;
        let corpus = Corpus::open(ctx.input("corpus")?).map_err(data)?;
        let tokenizer_file = ctx.input("tokenizer")?.join("tokenizer.json");
        let tokenizer = Tokenizer::from_file(&tokenizer_file).map_err(data)?;
        // One split a stage: a document more in what is held out makes no training token anew.
        let split = params.split;
        let params = TokenizeParams { shard_tokens: params.shard_tokens.0 };
        let mut writer = TokensWriter::new(ctx.output(), &tokenizer, &params).map_err(data)?;
        let rows = corpus.statistics.splits.get(split.name()).map(|split| split.rows);
        let documents = corpus.documents(split).map_err(data)?.map(|row| row.map(|row| (row.id, row.text)));
        let progress = |written: &flow_data::shard::SplitStatistics| -> ControlFlow<()> {
            go_on(ctx, written.documents, rows, "documents")
        };
        writer.split(split.name(), documents, progress).map_err(data)?;
        writer.finish().map_err(data)?;
        // Beside the tokens, so that whatever is made of them knows how to read and write text.
        fs::copy(tokenizer_file, ctx.output().join("tokenizer.json")).map_err(io)?;
        Ok(())
    }
}
