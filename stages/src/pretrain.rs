//! `pretrain`: the dense public model (FLEXOLMO §1), from fresh weights or, for an anneal, from those of another stage.

use flow_data::{
    loader::{Loader, LoaderParams},
    shard::TokenShards,
    tokenizer::Tokenizer,
};
use flow_model::{
    adamw::AdamW,
    config::ModelConfig,
    count::Trained,
    freeze::Trainable,
    hf::{self, Layout, ModelFolder},
    init::initial_weights,
    lr::ScheduleParams,
    numerics,
    olmo2::Model,
    preset::{ModelParams, Preset, Vocabulary},
    spike::{Action, SpikeRule},
};
use flow_pipeline::{
    Misfit, Place, StageError,
    context::Context,
    stage::{Arity, DefaultCores, Forecast, Forecasts, Kind, Role},
    units::Tokens,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    artifact,
    engine::{self, data, model},
    facts, misfit,
    training::{self, BatchParams, LossParams, Run, TrainingPlaces, VALIDATION, ValidationParams},
};

/// The kind.
pub(crate) struct Pretrain;

/// What is trained, and how.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// The model's sizes. With `init` they are those of that model, and this is not read.
    #[serde(default = "olmo2_7b")]
    pub model: ModelParams,
    /// Tokens to train on, in all; text that is used up begins again in another order.
    pub tokens: Tokens,
    /// Tokens that the schedule is laid out for, where training stops early on its curve; absent: `tokens`.
    #[serde(default)]
    pub horizon: Option<Tokens>,
    /// Shape of the batches.
    #[serde(default)]
    pub batch: BatchParams,
    /// Learning rate.
    #[serde(default)]
    pub schedule: ScheduleParams,
    /// The optimizer.
    #[serde(default)]
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
}

fn olmo2_7b() -> ModelParams {
    ModelParams::preset(Preset::Olmo27b)
}

#[expect(clippy::unnecessary_wraps, reason = "the default of an optional field")]
pub(crate) fn clip() -> Option<f64> {
    Some(1.0)
}

/// The schedule of a run of so many tokens, its horizon in updates.
pub(crate) fn schedule(schedule: &ScheduleParams, batch: BatchParams, horizon: Option<Tokens>) -> ScheduleParams {
    let mut schedule = schedule.clone();
    if let Some(horizon) = horizon {
        schedule.horizon_steps = Some(batch.steps(horizon));
    }
    schedule
}

/// What the params of both training kinds must satisfy.
pub(crate) fn check(
    tokens: Tokens,
    horizon: Option<Tokens>,
    batch: BatchParams,
    schedule_params: &ScheduleParams,
    validation: Option<ValidationParams>,
) -> Result<(), Misfit> {
    batch.check()?;
    validation.map_or(Ok(()), ValidationParams::check)?;
    if tokens.0 == 0 {
        return Err(Misfit::param("tokens", "`tokens` is 0: there is nothing to train on"));
    }
    if horizon.is_some() && schedule_params.horizon_steps.is_some() {
        let message = "`horizon` and `schedule.horizon_steps` say the same; give one of them";
        return Err(Misfit::param("horizon", message).also_param("schedule.horizon_steps", "and here"));
    }
    let steps = batch.steps(tokens);
    let Err(error) = schedule(schedule_params, batch, horizon).resolve(steps) else { return Ok(()) };
    let misfit = match &error {
        flow_model::Error::Param { param: "horizon_steps", reason } if horizon.is_some() => {
            Misfit::param("horizon", format!("`horizon`: {reason}"))
        }
        _ => misfit::model(error, "schedule"),
    };
    // The schedule ends where its tokens do.
    let (end, name) = horizon.map_or((tokens, "tokens"), |horizon| (horizon, "horizon"));
    let steps = batch.steps(end);
    let made = if steps == 1 { "1 step".to_owned() } else { format!("{steps} steps") };
    // Of a rate that is none the steps say nothing.
    let about_steps =
        !matches!(&misfit.place, Place::Param(path) if path == "schedule.peak" || path == "schedule.floor");
    let misfit = if about_steps { misfit.also_param(name, format!("these make {made}")) } else { misfit };
    Err(if misfit.place == Place::Param("schedule.warmup_steps".into()) {
        misfit.with_help(format!(
            "{} tokens in updates of {} × {} make {made}: set `schedule: {{ warmup_steps: {} }}`, a tenth of them, or \
             give more tokens",
            end.0,
            batch.sequences,
            batch.length,
            steps / 10
        ))
    } else {
        misfit
    })
}

/// The batches of a training stage.
pub(crate) fn loader(sources: Vec<(TokenShards, f64)>, batch: BatchParams, seed: u64) -> Result<Loader, StageError> {
    let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    Loader::new(sources, LoaderParams { batch: size(batch.part()), seq: size(batch.length), seed }).map_err(data)
}

/// The tokenizer's vocabulary, where its size is known. Special tokens are among the first entries, as far as a plan cares.
fn vocabulary(inputs: &Forecasts) -> Option<Vocabulary> {
    let entries = facts::number(inputs, "tokens", facts::VOCABULARY)?;
    Some(Vocabulary { entries: usize::try_from(entries).ok()?, eos: 0, pad: None })
}

/// The model that is trained: that of `init`, if it is known, or one of the params' sizes.
fn trained(params: &Params, inputs: &Forecasts) -> Option<flow_model::Result<ModelConfig>> {
    if inputs.contains_key("init") {
        return facts::model(inputs, "init").map(Ok);
    }
    Some(params.model.resolve(vocabulary(inputs)))
}

impl Kind for Pretrain {
    const NAME: &'static str = "pretrain";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Train a dense OLMo 2 on tokens.";
    const MAKES: &'static str = artifact::MODEL;
    const SEEDED: bool = true;
    const COMPUTES: bool = true;
    const CORES: DefaultCores = DefaultCores::All;
    type Params = Params;
    type Places = TrainingPlaces;

    fn roles() -> &'static [Role] {
        &[
            Role { name: "tokens", takes: &[artifact::TOKENS], arity: Arity::One, about: "the tokens to train on" },
            Role {
                name: "init",
                takes: &[artifact::MODEL, artifact::MIXTURE],
                arity: Arity::Optional,
                about: "the model to go on from, as for an anneal",
            },
            Role {
                name: VALIDATION,
                takes: &[artifact::TOKENS],
                arity: Arity::Optional,
                about: "held-out tokens, for `validation`",
            },
        ]
    }

    fn check(params: &Params) -> Result<(), Misfit> {
        check(params.tokens, params.horizon, params.batch, &params.schedule, params.validation)
    }

    fn fits(params: &Params, inputs: &Forecasts) -> Result<(), Misfit> {
        let config = trained(params, inputs)
            .transpose()
            .map_err(|error| misfit::sizes(&params.model, vocabulary(inputs), error))?;
        training::fits(params.batch, params.validation, inputs, config.as_ref())
    }

    fn forecast(params: &Params, inputs: &Forecasts) -> Forecast {
        let config = trained(params, inputs).and_then(Result::ok);
        let Some(config) = config else { return Forecast::default() };
        let batch = params.batch;
        let tokens = batch.steps(params.tokens).saturating_mul(batch.tokens());
        let at_once = batch.part().saturating_mul(batch.length);
        let estimate = facts::training(&config, Trained::Everything, tokens, at_once, batch.length as usize);
        // Not all that decides, but where one of these differs, no two models are the same.
        let training = serde_json::json!({
            "steps": batch.steps(params.tokens),
            "sequences": batch.sequences,
            "length": batch.length,
            "peak": params.schedule.peak,
            "init": inputs.contains_key("init"),
            "layers": config.num_layers,
            "hidden_size": config.hidden_size,
            "ffn_hidden": config.ffn_hidden,
        });
        Forecast { estimate, facts: [facts::of_model(&config), (facts::TRAINING.to_owned(), training)].into() }
    }

    fn run(ctx: &Context, params: Params, places: TrainingPlaces) -> Result<(), StageError> {
        engine::start(ctx)?;
        let Params {
            model: sizes,
            tokens,
            horizon,
            batch,
            schedule: rate,
            optimizer,
            clip,
            losses,
            mask_documents,
            on_nan,
            on_spike,
            validation,
        } = params;
        let folder = ctx.input("tokens")?;
        let tokenizer_file = folder.join("tokenizer.json");
        let shards = TokenShards::open(folder, "train").map_err(data)?;
        let (config, weights) = if let Some(init) = ctx.optional_input("init") {
            let init = ModelFolder::open(init).map_err(model)?;
            (init.config().clone(), init.weights())
        } else {
            let tokenizer = Tokenizer::from_file(&tokenizer_file).map_err(data)?;
            let config = config(&sizes, &tokenizer)?;
            let weights = initial_weights(&config, ctx.seed().derive(&["init"]).0);
            (config, weights)
        };
        let device = numerics::device(ctx.device()).map_err(model)?;
        let mut trained = Model::new(&config, &weights, &device).map_err(model)?;
        drop(weights);
        let run = Run {
            steps: batch.steps(tokens),
            batch,
            schedule: schedule(&rate, batch, horizon),
            optimizer,
            clip,
            losses,
            trainable: Trainable::All,
            row_lr: 1.0,
            mask_documents,
            on_nan,
            on_spike,
            validation,
            places,
        };
        let batches = loader(vec![(shards, 1.0)], batch, ctx.seed().derive(&["order"]).0)?;
        run.train(ctx, &mut trained, batches)?;
        hf::write(ctx.output(), &config, &trained.weights(), Some(&tokenizer_file), Layout::default()).map_err(model)
    }
}

/// The model's sizes for a tokenizer.
fn config(sizes: &ModelParams, tokenizer: &Tokenizer) -> Result<ModelConfig, StageError> {
    let pad = Some(tokenizer.pad()).filter(|pad| *pad != tokenizer.eos());
    let vocabulary = Vocabulary { entries: tokenizer.vocab_size() as usize, eos: tokenizer.eos(), pad };
    sizes.resolve(Some(vocabulary)).map_err(model)
}
