//! What a plan knows of artifacts before they are made: how large a corpus may be, what shape a model will have. A kind's
//! `forecast` leaves facts for the kinds downstream; what no kind knows is left out, never guessed.

use flow_data::corpus::Split;
use flow_model::{
    config::ModelConfig,
    count::{self, Accelerator, H100, Trained, TrainingLayout, flops_per_token, training_memory},
};
use flow_pipeline::{
    Misfit,
    stage::{Estimate, Forecast, Forecasts},
};
use serde_json::Value;

/// Most bytes of text in the `train` split of a corpus.
pub(crate) const TRAIN_BYTES: &str = "train_bytes";
/// Most bytes of held-out text of a corpus.
pub(crate) const HELDOUT_BYTES: &str = "heldout_bytes";
/// Whether a corpus holds documents out.
pub(crate) const HOLDS_OUT: &str = "holds_out";
/// What decides on the weights of a trained model; of an expert, on those of the public model that it was trained beside.
pub(crate) const TRAINING: &str = "training";
/// Entries of a tokenizer.
pub(crate) const VOCABULARY: &str = "vocabulary";
/// Which split of a corpus tokens are of.
pub(crate) const SPLIT: &str = "split";
/// The name of an expert.
pub(crate) const EXPERT: &str = "expert";
/// How many models are asked in an ensemble.
pub(crate) const MEMBERS: &str = "members";
/// A model's `config.json`.
pub(crate) const MODEL: &str = "model";

/// Bytes of text a token stands for: about what cl100k-like vocabularies reach on English. For estimates only.
const BYTES_PER_TOKEN: u64 = 4;

/// The accelerator that hours are stated for.
pub(crate) const ACCELERATOR: Accelerator = H100;

/// The forecasts of a role's artifacts.
pub(crate) fn of<'a>(inputs: &'a Forecasts, role: &str) -> impl Iterator<Item = &'a Forecast> {
    inputs.get(role).into_iter().flatten().map(|(_, forecast)| forecast)
}

/// A whole number that a role's first artifact is known to have.
pub(crate) fn number(inputs: &Forecasts, role: &str, fact: &str) -> Option<u64> {
    of(inputs, role).next()?.facts.get(fact)?.as_u64()
}

/// A text that a forecast is known to have.
pub(crate) fn text<'a>(forecast: &'a Forecast, fact: &str) -> Option<&'a str> {
    forecast.facts.get(fact)?.as_str()
}

/// Refuses tokens of another split than `wanted` as the input `role`.
pub(crate) fn check_split(inputs: &Forecasts, role: &str, wanted: Split) -> Result<(), Misfit> {
    let wrong = of(inputs, role).find_map(|tokens| text(tokens, SPLIT).filter(|split| *split != wanted.name()));
    let Some(split) = wrong else { return Ok(()) };
    let wanted = wanted.name();
    Err(Misfit::input(role, format!("input `{role}` takes tokens of the split `{wanted}`, and these are of `{split}`"))
        .with_help(format!("name a stage of kind `tokenize` with `split: {wanted}`")))
}

/// Refuses corpora as the input `role` that hold no documents out, for a stage that needs such.
pub(crate) fn check_held_out(inputs: &Forecasts, role: &str) -> Result<(), Misfit> {
    let none = |corpus: &Forecast| corpus.facts.get(HOLDS_OUT) == Some(&Value::Bool(false));
    let Some((label, _)) = inputs.get(role).into_iter().flatten().find(|(_, corpus)| none(corpus)) else {
        return Ok(());
    };
    let name = label.as_ref().map_or_else(|| "it".to_owned(), |label| format!("`{label}`"));
    let message = format!("input `{role}` needs documents that are held out, and {name} holds none out");
    Err(Misfit::input(role, message).with_help("set `heldout.share` of that `curate` stage above 0"))
}

/// Refuses experts that are known to be trained beside another public model than the one of the input `public`.
pub(crate) fn check_public(inputs: &Forecasts, public: &str, experts: &str) -> Result<(), Misfit> {
    let Some(model) = of(inputs, public).next() else { return Ok(()) };
    let is_other = |expert: &&Forecast| matches!((model.facts.get(TRAINING), expert.facts.get(TRAINING)), (Some(one), Some(other)) if one != other);
    let Some(expert) = of(inputs, experts).find(is_other) else { return Ok(()) };
    let name = text(expert, EXPERT).unwrap_or("the expert");
    let message = format!("input `{public}` is not the public model that the expert `{name}` is trained beside");
    Err(Misfit::input(public, message).with_help("name the stage that is the `anchor` of the experts"))
}

/// The sum of a number over a role's artifacts, where each is known.
pub(crate) fn sum(inputs: &Forecasts, role: &str, fact: &str) -> Option<u64> {
    of(inputs, role).map(|forecast| forecast.facts.get(fact).and_then(Value::as_u64)).sum()
}

/// The model of a role.
pub(crate) fn model(inputs: &Forecasts, role: &str) -> Option<ModelConfig> {
    let facts = &of(inputs, role).next()?.facts;
    ModelConfig::from_hf(facts.get(MODEL)?.as_object()?, "the plan").ok()
}

/// A model as a fact.
pub(crate) fn of_model(config: &ModelConfig) -> (String, Value) {
    (MODEL.to_owned(), config.to_hf("float32"))
}

/// About how many tokens so much text has.
pub(crate) fn tokens_of(bytes: u64) -> u64 {
    bytes / BYTES_PER_TOKEN
}

/// The cost of training `config` on so many tokens.
pub(crate) fn training(config: &ModelConfig, trained: Trained, tokens: u64, batch: u64, length: usize) -> Estimate {
    let parameters = count::parameters(config);
    let trained_parameters = match trained {
        Trained::Nothing => 0,
        Trained::Everything => parameters.total,
        Trained::LastExpert => parameters.expert,
        Trained::Router => {
            let rows = config.experts.as_ref().map_or(0, |mixture| mixture.count);
            (rows * config.num_layers * config.hidden_size) as u64
        }
    };
    let layout = TrainingLayout { trained, tokens_per_device: batch, compute_bytes: 4, recompute: false, devices: 1 };
    let flops = flops_per_token(config, length, trained) * tokens as f64;
    Estimate {
        tokens: Some(tokens),
        parameters: Some(parameters.total),
        trained_parameters: Some(trained_parameters),
        flops: Some(flops),
        memory: Some(training_memory(config, &layout).total),
        device_hours: Some(ACCELERATOR.hours(flops)),
        accelerator: Some(accelerator()),
        disk: Some(4 * parameters.total),
    }
}

/// The cost of running `config` over so many tokens, so many of them at a time.
pub(crate) fn inference(config: &ModelConfig, tokens: Option<u64>, length: usize) -> Estimate {
    let layout = TrainingLayout {
        trained: Trained::Nothing,
        tokens_per_device: 4096,
        compute_bytes: 4,
        recompute: false,
        devices: 1,
    };
    let flops = tokens.map(|tokens| flops_per_token(config, length, Trained::Nothing) * tokens as f64);
    Estimate {
        tokens,
        parameters: Some(count::parameters(config).total),
        trained_parameters: None,
        flops,
        memory: Some(training_memory(config, &layout).total),
        device_hours: flops.map(|flops| ACCELERATOR.hours(flops)),
        accelerator: flops.map(|_| accelerator()),
        disk: None,
    }
}

/// The cost of writing a model's tensors from other files: they are mapped and copied.
pub(crate) fn copying(config: &ModelConfig) -> Estimate {
    let parameters = count::parameters(config).total;
    Estimate { parameters: Some(parameters), disk: Some(4 * parameters), ..Estimate::default() }
}

fn accelerator() -> String {
    format!("{}, {:.0}% of its peak", ACCELERATOR.name, ACCELERATOR.utilisation * 100.0)
}
