//! `embed`: what a domain looks like to the public model, as one vector (FLEXOLMO §4).

use flow_data::{corpus::Split, permute::Permutation, random::Stream, shard::TokenShards};
use flow_model::{
    embed,
    hf::ModelFolder,
    json, numerics,
    olmo2::Model,
    safetensors::{self, Dtype},
    weights::Weight,
};
use flow_pipeline::{
    Misfit, StageError,
    context::Context,
    stage::{Arity, DefaultCores, Forecast, Forecasts, Kind, NoPlaces, Role},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    artifact,
    engine::{self, data, go_on, model},
    facts, rows,
};

/// The kind.
pub(crate) struct Embed;

/// What is sampled.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// Documents that are sampled from the tokens; all, where there are fewer.
    #[serde(default = "documents")]
    pub documents: u64,
    /// Tokens that are read of a document at most.
    #[serde(default = "max_tokens")]
    pub max_tokens: u64,
}

fn documents() -> u64 {
    1000
}

fn max_tokens() -> u64 {
    512
}

/// Documents between two looks at whether to stop.
const CHUNK: usize = 32;

impl Kind for Embed {
    const NAME: &'static str = "embed";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Average the public model's final hidden states over sample documents of a domain.";
    const MAKES: &'static str = artifact::EMBEDDING;
    const SEEDED: bool = true;
    const COMPUTES: bool = true;
    const CORES: DefaultCores = DefaultCores::All;
    type Params = Params;
    type Places = NoPlaces;

    fn roles() -> &'static [Role] {
        &[
            Role {
                name: "model",
                takes: &[artifact::MODEL, artifact::MIXTURE],
                arity: Arity::One,
                about: "the public model",
            },
            Role {
                name: "tokens",
                takes: &[artifact::TOKENS],
                arity: Arity::One,
                about: "the domain's tokens, of which documents are sampled",
            },
        ]
    }

    fn check(params: &Params) -> Result<(), Misfit> {
        for (name, value) in [("documents", params.documents), ("max_tokens", params.max_tokens)] {
            if value == 0 {
                return Err(Misfit::param(name, format!("`{name}` is 0; it must be at least 1")));
            }
        }
        Ok(())
    }

    fn fits(_: &Params, inputs: &Forecasts) -> Result<(), Misfit> {
        facts::check_split(inputs, "tokens", Split::Train)
    }

    fn forecast(params: &Params, inputs: &Forecasts) -> Forecast {
        let Some(config) = facts::model(inputs, "model") else { return Forecast::default() };
        let tokens = params.documents.saturating_mul(params.max_tokens);
        let estimate = facts::inference(&config, Some(tokens), params.max_tokens as usize);
        Forecast { estimate, ..Forecast::default() }
    }

    fn run(ctx: &Context, params: Params, _: NoPlaces) -> Result<(), StageError> {
        engine::start(ctx)?;
        let folder = ModelFolder::open(ctx.input("model")?).map_err(model)?;
        let shards = TokenShards::open(ctx.input("tokens")?, "train").map_err(data)?;
        let device = numerics::device(ctx.device()).map_err(model)?;
        let public = Model::new(folder.config(), &folder.weights(), &device).map_err(model)?;
        let (count, wanted) = (shards.len_documents(), params.documents.min(shards.len_documents()));
        let order = Permutation::from_stream(count, Stream::new(ctx.seed().derive(&["sample"]).0));
        let max_tokens = (params.max_tokens as usize).min(folder.config().max_positions);
        let mut samples = Vec::new();
        for nth in 0..wanted {
            let document = order.at(nth).unwrap_or(nth);
            let Some(range) = shards.document(document) else { continue };
            // Without the token that ends it: that says nothing of a domain.
            let end = range.end.saturating_sub(1).min(range.start + max_tokens as u64).max(range.start);
            samples.push(shards.slice(range.start..end).map_err(data)?);
        }
        // In one order and in chunks of one size, so that the sums are the same wherever it is stopped.
        let (mut sum, mut used, mut dropped) = (vec![0f64; folder.config().hidden_size], 0usize, 0usize);
        for (nth, chunk) in samples.chunks(CHUNK).enumerate() {
            if go_on(ctx, (nth * CHUNK) as u64, Some(wanted), "documents").is_break() {
                return Err(StageError::cancelled());
            }
            // A chunk of nothing but unusable documents counts as dropped; if all are, there is no row.
            let Ok(part) = embed::embed(&public, chunk, max_tokens) else {
                dropped += chunk.len();
                continue;
            };
            for (sum, x) in sum.iter_mut().zip(&part.row) {
                *sum += f64::from(*x) * part.documents as f64;
            }
            used += part.documents;
            dropped += part.dropped;
        }
        if used == 0 {
            return Err(StageError::new(format!("none of the {} sample documents can be used", samples.len()))
                .with_help("they are empty, or the model's hidden states are no numbers"));
        }
        let row = sum.into_iter().map(|x| (x / used as f64) as f32).collect::<Vec<_>>();
        let row = Weight::new(vec![row.len()], row).map_err(model)?;
        safetensors::save(&ctx.output().join(rows::FILE), Dtype::F32, [("row", &row)]).map_err(model)?;
        let statistics = serde_json::json!({ "documents": used, "dropped": dropped, "format": 1 });
        json::write(&ctx.output().join("statistics.json"), &statistics).map_err(model)
    }
}
