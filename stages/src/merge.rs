//! `merge`: experts that never met, side by side in one model (FLEXOLMO §5).

use std::path::Path;

use flow_model::{
    bundle::Bundle,
    config::Mixture,
    hf::ModelFolder,
    merge::{self, MergeRecord},
};
use flow_pipeline::{
    StageError,
    context::Context,
    stage::{Arity, Forecast, Forecasts, Kind, NoPlaces, Role},
    units::Bytes,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    engine::{self, model},
    facts,
    rows::RowParams,
};

/// The kind.
pub(crate) struct Merge;

/// How the merged model works.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// Experts that a token is sent to, the public one among those to choose from.
    #[serde(default = "top_k")]
    pub top_k: u64,
    /// As in the stages that trained the experts: the public router row is made by it.
    #[serde(default)]
    pub row: RowParams,
    /// A file of tensors is ended before it grows beyond this.
    #[serde(default = "shard_bytes")]
    pub shard_bytes: Bytes,
}

fn top_k() -> u64 {
    4
}

pub(crate) fn shard_bytes() -> Bytes {
    Bytes(flow_model::hf::Layout::default().shard_bytes)
}

/// The bundles of a role, in the order of their labels.
pub(crate) fn bundles(ctx: &Context, role: &str) -> Result<Vec<Bundle>, StageError> {
    ctx.inputs(role).iter().map(|input| Bundle::open(&input.path).map_err(model)).collect()
}

/// The public model of a role.
pub(crate) fn folder(path: &Path) -> Result<ModelFolder, StageError> {
    ModelFolder::open(path).map_err(model)
}

impl Kind for Merge {
    const NAME: &'static str = "merge";
    const VERSION: u32 = 1;
    const ABOUT: &'static str =
        "Check that every expert was trained beside this public model, and put them side by side; nothing is trained.";
    type Params = Params;
    type Places = NoPlaces;

    fn roles() -> &'static [Role] {
        &[
            Role { name: "public", arity: Arity::One, about: "the public model" },
            Role { name: "public_embedding", arity: Arity::One, about: "the public embedding" },
            Role { name: "experts", arity: Arity::Many, about: "the experts' bundles" },
        ]
    }

    fn check(params: &Params) -> Result<(), StageError> {
        if params.top_k == 0 {
            return Err(StageError::new("`top_k` is 0: a token has to go somewhere"));
        }
        params.row.check()
    }

    fn forecast(params: &Params, inputs: &Forecasts) -> Forecast {
        let Some(config) = facts::model(inputs, "public") else { return Forecast::default() };
        let names: Vec<String> =
            inputs.get("experts").into_iter().flatten().filter_map(|(label, _)| label.clone()).collect();
        let top_k = (params.top_k as usize).min(names.len() + 1);
        // Labels of a list, `expert.news`, name the stage too: what is behind the last dot is the expert.
        let names = names.into_iter().map(|name| name.rsplit('.').next().unwrap_or(&name).to_owned());
        let config = config.with_experts(Mixture::of(names, top_k));
        Forecast { estimate: facts::copying(&config), facts: [facts::of_model(&config)].into() }
    }

    fn run(ctx: &Context, params: Params, _: NoPlaces) -> Result<(), StageError> {
        engine::start(ctx)?;
        let public = folder(ctx.input("public")?)?;
        let row = params.row.public(ctx.input("public_embedding")?)?;
        let bundles = bundles(ctx, "experts")?;
        let MergeRecord { .. } =
            merge::merge(&public, &row, &bundles, params.top_k as usize, ctx.output(), params.shard_bytes.0)
                .map_err(model)?;
        Ok(())
    }
}
