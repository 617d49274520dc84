//! The engines' words about params as misfits of a stage, each at the param that it is about.

use flow_model::preset::{ModelParams, Vocabulary};
use flow_pipeline::Misfit;

use crate::engine;

/// An error of `flow-data` about params that a recipe has below `within`; empty: at the top.
pub(crate) fn data(error: flow_data::Error, within: &str) -> Misfit {
    match error {
        flow_data::Error::Parameter { name, reason } => {
            let path = below(within, &name);
            Misfit::param(&path, format!("`{path}` {reason}"))
        }
        other => plain(engine::data(other), within),
    }
}

/// An error of `flow-model` about params that a recipe has below `within`.
pub(crate) fn model(error: flow_model::Error, within: &str) -> Misfit {
    match error {
        flow_model::Error::Param { param, reason } => {
            let path = below(within, param);
            Misfit::param(&path, format!("`{path}`: {reason}"))
        }
        other => plain(engine::model(other), within),
    }
}

/// Why a model cannot have these sizes, at the first size without which it could.
pub(crate) fn sizes(sizes: &ModelParams, vocabulary: Option<Vocabulary>, error: flow_model::Error) -> Misfit {
    let own = || sizes.clone();
    let changed = [
        ("num_heads", ModelParams { num_heads: None, ..own() }),
        ("hidden_size", ModelParams { hidden_size: None, ..own() }),
        ("ffn_hidden", ModelParams { ffn_hidden: None, ..own() }),
        ("num_layers", ModelParams { num_layers: None, ..own() }),
        ("vocab_size", ModelParams { vocab_size: None, ..own() }),
        ("max_positions", ModelParams { max_positions: None, ..own() }),
        ("rope_theta", ModelParams { rope_theta: None, ..own() }),
        ("norm_eps", ModelParams { norm_eps: None, ..own() }),
    ];
    let culprit = changed.iter().find(|(_, sizes)| sizes.resolve(vocabulary).is_ok());
    let path = culprit.map_or_else(|| "model".to_owned(), |(name, _)| below("model", name));
    let reason = match error {
        flow_model::Error::Config { place: _, reason } => reason,
        other => engine::model(other).message,
    };
    Misfit::param(&path, format!("`{path}`: {reason}"))
}

fn below(within: &str, name: &str) -> String {
    if within.is_empty() { name.to_owned() } else { format!("{within}.{name}") }
}

fn plain(error: flow_pipeline::StageError, within: &str) -> Misfit {
    let misfit = if within.is_empty() { Misfit::new(error.message) } else { Misfit::param(within, error.message) };
    Misfit { help: error.help, ..misfit }
}
