//! `train-expert`: what a data owner does (FLEXOLMO §3): one FFN a layer beside the frozen public one, handed over as a bundle
//! without a single document.

use std::collections::BTreeMap;

use flow_data::{corpus::Split, shard::TokenShards};
use flow_model::{
    adamw::AdamW,
    bundle::{self, Expert, Provenance},
    config::Mixture,
    count::Trained,
    freeze::Trainable,
    hf::ModelFolder,
    lr::ScheduleParams,
    numerics,
    olmo2::Model,
    spike::{Action, SpikeRule},
    upcycle,
};
use flow_pipeline::{
    Misfit, StageError,
    context::Context,
    stage::{Arity, DefaultCores, Forecast, Forecasts, Kind, Role},
    units::Tokens,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    artifact,
    engine::{self, data, model},
    facts, misfit,
    pretrain::{check, clip, loader, schedule},
    rows::RowParams,
    training::{self, BatchParams, LossParams, Run, TrainingPlaces, VALIDATION, ValidationParams},
};

/// The kind.
pub(crate) struct TrainExpert;

/// What is trained, and how.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// The expert's name.
    pub name: String,
    /// Tokens to train on, in all, public ones included.
    pub tokens: Tokens,
    /// Tokens that the schedule is laid out for; absent: `tokens`.
    #[serde(default)]
    pub horizon: Option<Tokens>,
    /// Share of public text in the batches, 0 to 1; needs the input `public_tokens`. The paper has none; a little keeps the
    /// expert from taking tokens that the public one is better at.
    #[serde(default)]
    pub public_share: f64,
    /// Shape of the batches.
    #[serde(default)]
    pub batch: BatchParams,
    /// Learning rate.
    #[serde(default)]
    pub schedule: ScheduleParams,
    /// The optimizer. No decay by default: it would pull the expert's copy of the public FFN towards 0.
    #[serde(default = "optimizer")]
    pub optimizer: AdamW,
    /// Largest global norm of the gradients; `null` for no clipping.
    #[serde(default = "clip")]
    pub clip: Option<f64>,
    /// What is minimised beside the cross-entropy.
    #[serde(default)]
    pub losses: LossParams,
    /// Whether tokens see only their own document.
    #[serde(default)]
    pub mask_documents: bool,
    /// What happens at a loss or a gradient that is no number.
    #[serde(default)]
    pub on_nan: Action,
    /// What happens at a loss or a gradient that stands out among those of the last updates; absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_spike: Option<SpikeRule>,
    /// How often the input `validation` is scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<ValidationParams>,
    /// How the router rows are made of the embeddings.
    #[serde(default)]
    pub row: RowParams,
    /// Factor on the learning rate of the own router row; 0 leaves it as it was made.
    #[serde(default = "row_lr")]
    pub row_lr: f64,
    /// Whether the router has a bias, at most 0, for the expert.
    #[serde(default)]
    pub router_bias: RouterBias,
}

/// The router's bias (FLEXOLMO §2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RouterBias {
    /// There is none.
    #[default]
    None,
    /// It starts at 0 and is learned; what is above 0 counts as 0.
    Learned,
}

fn optimizer() -> AdamW {
    AdamW { weight_decay: 0.0, ..AdamW::default() }
}

fn row_lr() -> f64 {
    1.0
}

impl Kind for TrainExpert {
    const NAME: &'static str = "train-expert";
    const VERSION: u32 = 1;
    const ABOUT: &'static str =
        "Train one expert, an FFN a layer and a router row, beside the frozen public model, and pack it as a bundle.";
    const MAKES: &'static str = artifact::EXPERT;
    const SEEDED: bool = true;
    const COMPUTES: bool = true;
    const CORES: DefaultCores = DefaultCores::All;
    type Params = Params;
    type Places = TrainingPlaces;

    fn roles() -> &'static [Role] {
        &[
            Role {
                name: "anchor",
                takes: &[artifact::MODEL],
                arity: Arity::One,
                about: "the public model, which is frozen",
            },
            Role { name: "tokens", takes: &[artifact::TOKENS], arity: Arity::One, about: "the domain's tokens" },
            Role {
                name: "public_tokens",
                takes: &[artifact::TOKENS],
                arity: Arity::Optional,
                about: "public tokens, for `public_share`",
            },
            Role {
                name: VALIDATION,
                takes: &[artifact::TOKENS],
                arity: Arity::Optional,
                about: "held-out tokens of the domain, for `validation`",
            },
            Role {
                name: "embedding",
                takes: &[artifact::EMBEDDING],
                arity: Arity::One,
                about: "the domain's embedding",
            },
            Role {
                name: "public_embedding",
                takes: &[artifact::EMBEDDING],
                arity: Arity::One,
                about: "the public embedding",
            },
        ]
    }

    fn check(params: &Params) -> Result<(), Misfit> {
        check(params.tokens, params.horizon, params.batch, &params.schedule, params.validation)?;
        params.row.check()?;
        if !(0.0..1.0).contains(&params.public_share) {
            let message = format!("`public_share` is {}; it must be at least 0 and below 1", params.public_share);
            return Err(Misfit::param("public_share", message));
        }
        if !(params.row_lr.is_finite() && params.row_lr >= 0.0) {
            return Err(Misfit::param("row_lr", format!("`row_lr` is {}; a factor is at least 0", params.row_lr)));
        }
        flow_model::config::check_expert_name(&params.name).map_err(|error| misfit::model(error, "name"))
    }

    fn fits(params: &Params, inputs: &Forecasts) -> Result<(), Misfit> {
        if params.public_share > 0.0 && !inputs.contains_key("public_tokens") {
            let message = "`public_share` is above 0, and the stage has no input `public_tokens`";
            return Err(Misfit::param("public_share", message)
                .with_help("add the input, such as `public_tokens: tokens[public]`"));
        }
        facts::check_split(inputs, "public_tokens", Split::Train)?;
        training::fits(params.batch, params.validation, inputs, facts::model(inputs, "anchor").as_ref())
    }

    fn forecast(params: &Params, inputs: &Forecasts) -> Forecast {
        let name = (facts::EXPERT.to_owned(), params.name.clone().into());
        let Some(config) = facts::model(inputs, "anchor") else {
            return Forecast { facts: [name].into(), ..Forecast::default() };
        };
        let pair = config.with_experts(Mixture::of([params.name.clone()], 2));
        let batch = params.batch;
        let tokens = batch.steps(params.tokens).saturating_mul(batch.tokens());
        let at_once = batch.part().saturating_mul(batch.length);
        let mut estimate = facts::training(&pair, Trained::LastExpert, tokens, at_once, batch.length as usize);
        estimate.disk = estimate.trained_parameters.map(|trained| 4 * trained);
        let mut facts: BTreeMap<_, _> = [facts::of_model(&config), name].into();
        let anchor = facts::of(inputs, "anchor").next().and_then(|anchor| anchor.facts.get(facts::TRAINING));
        facts.extend(anchor.map(|training| (facts::TRAINING.to_owned(), training.clone())));
        Forecast { estimate, facts }
    }

    fn run(ctx: &Context, params: Params, places: TrainingPlaces) -> Result<(), StageError> {
        engine::start(ctx)?;
        let Params {
            name,
            tokens,
            horizon,
            public_share,
            batch,
            schedule: rate,
            optimizer,
            clip,
            losses,
            mask_documents,
            on_nan,
            on_spike,
            validation,
            row,
            row_lr,
            router_bias,
        } = params;
        let public = ModelFolder::open(ctx.input("anchor")?).map_err(model)?;
        let identity = public.identity().map_err(model)?;
        let public_embedding = ctx.input("public_embedding")?;
        let public_row = row.public(public_embedding)?;
        let own_row = row.own(ctx.input("embedding")?, public_embedding)?;

        let mut sources = vec![(TokenShards::open(ctx.input("tokens")?, "train").map_err(data)?, 1.0 - public_share)];
        if let Some(folder) = ctx.optional_input("public_tokens") {
            sources.push((TokenShards::open(folder, "train").map_err(data)?, public_share));
        }
        let batches = loader(sources, batch, ctx.seed().derive(&["order", &name]).0)?;

        let bias = router_bias == RouterBias::Learned;
        let (config, weights) =
            upcycle::beside_public(public.config(), &public.weights(), &name, &public_row, &own_row, bias)
                .map_err(model)?;
        let device = numerics::device(ctx.device()).map_err(model)?;
        let mut trained = Model::new(&config, &weights, &device).map_err(model)?;
        drop(weights);
        let steps = batch.steps(tokens);
        let run = Run {
            steps,
            batch,
            schedule: schedule(&rate, batch, horizon),
            optimizer,
            clip,
            losses,
            trainable: Trainable::Expert(1),
            row_lr,
            mask_documents,
            on_nan,
            on_spike,
            validation,
            places,
        };
        let last = run.train(ctx, &mut trained, batches)?;

        let expert = Expert::from_mixture(&config, &trained.weights(), 1).map_err(model)?;
        let provenance = Provenance {
            name: &name,
            public: &identity,
            config: public.config(),
            dtype: public.dtype().map_err(model)?,
            public_row: &public_row,
            training: json!({
                "steps": steps,
                "tokens": last.get("tokens"),
                "last_loss": last.get("loss"),
                "public_share": public_share,
            }),
        };
        bundle::write(ctx.output(), &provenance, &expert).map(drop).map_err(model)
    }
}
