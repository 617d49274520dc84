//! `merge`: experts that never met, side by side in one model (FLEXOLMO §5).

use std::path::Path;

use flow_model::{
    bundle::Bundle,
    config::{Mixture, PUBLIC},
    hf::ModelFolder,
    merge::{self, MergeRecord},
};
use flow_pipeline::{
    Misfit, StageError,
    context::Context,
    stage::{Arity, Forecast, Forecasts, Kind, NoPlaces, Role},
    units::Bytes,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    artifact,
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
    /// Experts that a token is sent to, the public one among those to choose from; all where there are fewer.
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
    const MAKES: &'static str = artifact::MIXTURE;
    type Params = Params;
    type Places = NoPlaces;

    fn roles() -> &'static [Role] {
        &[
            Role { name: "public", takes: &[artifact::MODEL], arity: Arity::One, about: "the public model" },
            Role {
                name: "public_embedding",
                takes: &[artifact::EMBEDDING],
                arity: Arity::One,
                about: "the public embedding",
            },
            Role { name: "experts", takes: &[artifact::EXPERT], arity: Arity::Many, about: "the experts' bundles" },
        ]
    }

    fn check(params: &Params) -> Result<(), Misfit> {
        if params.top_k == 0 {
            return Err(Misfit::param("top_k", "`top_k` is 0: a token has to go somewhere"));
        }
        params.row.check()
    }

    fn fits(_: &Params, inputs: &Forecasts) -> Result<(), Misfit> {
        facts::check_public(inputs, "public", "experts")?;
        let mut names = std::collections::BTreeSet::from([PUBLIC]);
        for expert in facts::of(inputs, "experts") {
            if let Some(name) = facts::text(expert, facts::EXPERT).filter(|name| !names.insert(name)) {
                let message = format!("input `experts` has two experts of the name `{name}`");
                let what =
                    if name == PUBLIC { "that is the name of the public one: train it" } else { "train one of them" };
                return Err(Misfit::input("experts", message).with_help(format!("{what} with another `name`")));
            }
        }
        Ok(())
    }

    fn forecast(params: &Params, inputs: &Forecasts) -> Forecast {
        let Some(config) = facts::model(inputs, "public") else { return Forecast::default() };
        let names: Vec<String> = facts::of(inputs, "experts")
            .filter_map(|expert| facts::text(expert, facts::EXPERT).map(str::to_owned))
            .collect();
        let top_k = (params.top_k as usize).min(names.len() + 1);
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
