//! `soup`: the mean of the dense models' weights, a baseline that costs nothing at run time (FLEXOLMO §8).

use std::collections::BTreeSet;

use flow_data::evaluation::Evaluation;
use flow_model::{
    bundle::Dense,
    hf::Layout,
    soup::{self, softmax_weights, uniform_weights},
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
    engine::{self, data, model},
    facts,
    merge::{bundles, folder, shard_bytes},
    misfit,
};

/// The kind.
pub(crate) struct Soup;

/// Who counts how much.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// Weights of the models.
    #[serde(default)]
    pub weights: Weighting,
    /// Of the softmax, in bits per byte: low gives the best model everything, high gives all the same.
    #[serde(default = "temperature")]
    pub temperature: f64,
    /// Whether the public model is one of those that are averaged.
    #[serde(default = "include_public")]
    pub include_public: bool,
    /// A file of tensors is ended before it grows beyond this.
    #[serde(default = "shard_bytes")]
    pub shard_bytes: Bytes,
}

/// How weights are found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Weighting {
    /// All the same.
    #[default]
    Uniform,
    /// By a softmax over the models' average bits per byte: needs the input `results`, and takes no public model.
    Softmax,
}

fn temperature() -> f64 {
    0.1
}

fn include_public() -> bool {
    true
}

impl Kind for Soup {
    const NAME: &'static str = "soup";
    const VERSION: u32 = 1;
    const ABOUT: &'static str =
        "Average the weights of the public model and of the dense models that the experts make.";
    const MAKES: &'static str = artifact::MODEL;
    type Params = Params;
    type Places = NoPlaces;

    fn roles() -> &'static [Role] {
        &[
            Role { name: "public", takes: &[artifact::MODEL], arity: Arity::One, about: "the public model" },
            Role { name: "experts", takes: &[artifact::EXPERT], arity: Arity::Many, about: "the experts' bundles" },
            Role {
                name: "results",
                takes: &[artifact::EVALUATION],
                arity: Arity::Any,
                about: "each expert's evaluation as a dense model, for `softmax`",
            },
        ]
    }

    fn check(params: &Params) -> Result<(), Misfit> {
        if params.weights == Weighting::Softmax && params.include_public {
            return Err(Misfit::param("weights", "`weights: softmax` weighs the experts' models alone")
                .also_param("include_public", "and the public one is included")
                .with_help("add `include_public: false`"));
        }
        softmax_weights(&[0.0], params.temperature).map(drop).map_err(|error| misfit::model(error, ""))
    }

    fn fits(params: &Params, inputs: &Forecasts) -> Result<(), Misfit> {
        facts::check_public(inputs, "public", "experts")?;
        if params.weights == Weighting::Uniform {
            return Ok(());
        }
        let labels = |role: &str| inputs.get(role).into_iter().flatten().map(|(label, _)| expert_of(label.as_deref()));
        let results: BTreeSet<&str> = labels("results").collect();
        match labels("experts").find(|name| !results.contains(name)) {
            None => Ok(()),
            Some(name) => {
                let message =
                    format!("`weights: softmax` needs the evaluation of each expert, and has none of `{name}`");
                Err(Misfit::param("weights", message).with_help("add them, such as `results: individual[*]`"))
            }
        }
    }

    fn forecast(_: &Params, inputs: &Forecasts) -> Forecast {
        let Some(config) = facts::model(inputs, "public") else { return Forecast::default() };
        Forecast { estimate: facts::copying(&config), facts: [facts::of_model(&config)].into() }
    }

    fn run(ctx: &Context, params: Params, _: NoPlaces) -> Result<(), StageError> {
        engine::start(ctx)?;
        let public = folder(ctx.input("public")?)?;
        let bundles = bundles(ctx, "experts")?;
        let identity = public.identity().map_err(model)?;
        for bundle in &bundles {
            bundle.check_public(&public, &identity).map_err(model)?;
            bundle.verify().map_err(model)?;
        }
        let mut models: Vec<Dense<'_>> = if params.include_public { vec![Dense::Folder(&public)] } else { Vec::new() };
        models.extend(bundles.iter().map(|bundle| Dense::Expert(&public, bundle)));
        let weights = match params.weights {
            Weighting::Uniform => uniform_weights(models.len()),
            Weighting::Softmax => softmax_weights(&losses(ctx)?, params.temperature),
        };
        let layout = Layout { dtype: public.dtype().map_err(model)?, shard_bytes: params.shard_bytes.0 };
        soup::soup(&models, &weights.map_err(model)?, ctx.output(), layout).map_err(model)
    }
}

/// `individual.rust` and `rust` are both about `rust`.
fn expert_of(label: Option<&str>) -> &str {
    label.and_then(|label| label.rsplit('.').next()).unwrap_or_default()
}

/// The average bits per byte of each expert's dense model, in the experts' order.
fn losses(ctx: &Context) -> Result<Vec<f64>, StageError> {
    let results = ctx.inputs("results");
    ctx.inputs("experts")
        .iter()
        .map(|expert| {
            let name = expert_of(expert.label.as_deref());
            let result = results.iter().find(|result| expert_of(result.label.as_deref()) == name).ok_or_else(|| {
                StageError::new(format!("`results` has no evaluation of the expert `{name}`"))
                    .with_help("`weights: softmax` needs one for each, such as `results: individual[*]`")
            })?;
            let average = Evaluation::read(&result.path).map_err(data)?.average.bits_per_byte;
            average.ok_or_else(|| StageError::new(format!("the evaluation of `{name}` has no bits per byte")))
        })
        .collect()
}
