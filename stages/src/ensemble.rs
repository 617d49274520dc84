//! `ensemble`: the dense models' next-token probabilities, weighted by the posterior over domains given the text so far
//! (Branch-Train-Merge; FLEXOLMO §8). The artifact holds the members as they are; [`crate::scoring`] runs them.

use std::path::Path;

use flow_model::json;
use flow_pipeline::{
    Misfit, StageError,
    context::Context,
    stage::{Arity, Estimate, Forecast, Forecasts, Kind, NoPlaces, Role},
};
use fs_err as fs;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    artifact,
    engine::{io, model},
    facts,
    merge::{bundles, folder},
};

/// The kind.
pub(crate) struct Ensemble;

/// Who is asked.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// The most probable members whose probabilities are mixed; all where there are fewer.
    #[serde(default = "top_k")]
    pub top_k: u64,
    /// Whether the public model is a member.
    #[serde(default = "include_public")]
    pub include_public: bool,
}

fn top_k() -> u64 {
    2
}

fn include_public() -> bool {
    true
}

/// The file that makes a folder an ensemble.
pub(crate) const FILE: &str = "ensemble.json";
/// The folder of the public model in it.
pub(crate) const PUBLIC: &str = "public";
/// The folder of the experts' bundles in it, each under its name.
pub(crate) const EXPERTS: &str = "experts";

/// `ensemble.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Members {
    /// Names of the experts, in order.
    pub experts: Vec<String>,
    /// 1.
    pub format: u32,
    /// Whether the public model is a member.
    pub include_public: bool,
    /// See [`Params::top_k`].
    pub top_k: u64,
}

impl Kind for Ensemble {
    const NAME: &'static str = "ensemble";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Put the dense models together as a Branch-Train-Merge ensemble.";
    const MAKES: &'static str = artifact::ENSEMBLE;
    type Params = Params;
    type Places = NoPlaces;

    fn roles() -> &'static [Role] {
        &[
            Role { name: "public", takes: &[artifact::MODEL], arity: Arity::One, about: "the public model" },
            Role { name: "experts", takes: &[artifact::EXPERT], arity: Arity::Many, about: "the experts' bundles" },
        ]
    }

    fn check(params: &Params) -> Result<(), Misfit> {
        if params.top_k == 0 {
            return Err(Misfit::param("top_k", "`top_k` is 0: somebody has to be asked"));
        }
        Ok(())
    }

    fn fits(_: &Params, inputs: &Forecasts) -> Result<(), Misfit> {
        facts::check_public(inputs, "public", "experts")
    }

    fn forecast(params: &Params, inputs: &Forecasts) -> Forecast {
        let members = facts::of(inputs, "experts").count() as u64 + u64::from(params.include_public);
        let count = (facts::MEMBERS.to_owned(), members.into());
        let Some(config) = facts::model(inputs, "public") else {
            return Forecast { facts: [count].into(), ..Forecast::default() };
        };
        let one = facts::copying(&config);
        let disk = one.disk.map(|disk| disk * (members + 1));
        Forecast {
            estimate: Estimate { parameters: one.parameters.map(|n| n * members), disk, ..Estimate::default() },
            facts: [facts::of_model(&config), count].into(),
        }
    }

    fn run(ctx: &Context, params: Params, _: NoPlaces) -> Result<(), StageError> {
        let public = folder(ctx.input("public")?)?;
        let identity = public.identity().map_err(model)?;
        let mut experts = Vec::new();
        for bundle in bundles(ctx, "experts")? {
            ctx.check_cancelled()?;
            bundle.check_public(&public, &identity).map_err(model)?;
            bundle.verify().map_err(model)?;
            copy(bundle.path(), &ctx.output().join(EXPERTS).join(bundle.name()))?;
            experts.push(bundle.name().to_owned());
        }
        copy(public.path(), &ctx.output().join(PUBLIC))?;
        let Params { top_k, include_public } = params;
        let members = Members { experts, format: 1, include_public, top_k };
        json::write(&ctx.output().join(FILE), &members).map_err(model)
    }
}

/// Copies the files of a flat folder. The store keeps equal files once.
fn copy(from: &Path, to: &Path) -> Result<(), StageError> {
    fs::create_dir_all(to).map_err(io)?;
    for entry in fs::read_dir(from).map_err(io)? {
        let entry = entry.map_err(io)?;
        // Curves say nothing of the model.
        if entry.file_name() != "metrics.jsonl" {
            fs::copy(entry.path(), to.join(entry.file_name())).map_err(io)?;
        }
    }
    Ok(())
}
