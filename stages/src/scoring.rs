//! Any model that a stage makes, as a scorer: a dense model or a mixture, an expert as the FFN of a dense model, an ensemble.

use std::path::Path;

use flow_data::{evaluation::ModelLabel, tokenizer::Tokenizer};
use flow_model::{
    bundle::{Bundle, Dense},
    config::ModelConfig,
    hf::ModelFolder,
    json,
    numerics::Device,
    olmo2::Model,
    score::{self, ModelScorer, Scorer},
};
use flow_pipeline::StageError;

use crate::{
    engine::model,
    ensemble::{EXPERTS, FILE, Members, PUBLIC},
    interop::tokenizer,
};

/// A model that is in memory.
pub(crate) struct Scored {
    models: Vec<Model>,
    /// Of an ensemble: members that are mixed.
    ensemble: Option<usize>,
    /// Of a mixture: numbers of experts that are left out.
    without: Vec<usize>,
    /// Reads and writes its text.
    pub tokenizer: Tokenizer,
    /// What it is, by what it is made of.
    pub label: ModelLabel,
    /// The longest sequence that it was made for.
    pub max_positions: usize,
}

impl Scored {
    /// Opens the artifact in `folder`.
    ///
    /// # Errors
    /// Files that are not a model, and experts that are not in it.
    pub(crate) fn open(
        folder: &Path,
        expert: Option<&Path>,
        without: &[String],
        top_k: Option<u64>,
        device: &Device,
    ) -> Result<Self, StageError> {
        if folder.join(FILE).is_file() {
            if expert.is_some() || !without.is_empty() || top_k.is_some() {
                return Err(StageError::new(
                    "an ensemble is measured as it is: `expert`, `without` and `top_k` are for other models",
                )
                .with_help("set `top_k` where the ensemble is made, and leave members out there"));
            }
            return Self::ensemble(folder, device);
        }
        let opened = ModelFolder::open(folder).map_err(model)?;
        let tokenizer = tokenizer(&opened)?;
        let mut config = opened.config().clone();
        let (weights, experts) = match expert {
            Some(path) => {
                let bundle = Bundle::open(path).map_err(model)?;
                bundle.check_public(&opened, &opened.identity().map_err(model)?).map_err(model)?;
                bundle.verify().map_err(model)?;
                let weights = Dense::Expert(&opened, &bundle).weights().map_err(model)?;
                (weights, vec![bundle.name().to_owned()])
            }
            None => (opened.weights(), config.experts.as_ref().map_or_else(Vec::new, |mixture| mixture.names.clone())),
        };
        let left_out = left_out(&config, without)?;
        if let (Some(mixture), Some(top_k)) = (&mut config.experts, top_k) {
            mixture.top_k = (top_k as usize).clamp(1, mixture.count);
        }
        let label = ModelLabel {
            label: label(&config, expert.is_some()),
            experts: experts.into_iter().filter(|name| !without.contains(name)).collect(),
            top_k: config.experts.as_ref().map(|mixture| mixture.top_k as u32),
        };
        let loaded = Model::new(&config, &weights, device).map_err(model)?;
        let max_positions = config.max_positions;
        Ok(Self { models: vec![loaded], ensemble: None, without: left_out, tokenizer, label, max_positions })
    }

    fn ensemble(folder: &Path, device: &Device) -> Result<Self, StageError> {
        let Members { experts, format: _, include_public, top_k } = json::read(&folder.join(FILE)).map_err(model)?;
        let public = ModelFolder::open(&folder.join(PUBLIC)).map_err(model)?;
        let tokenizer = tokenizer(&public)?;
        let config = public.config();
        let load = |weights| Model::new(config, &weights, device).map_err(model);
        let mut models = Vec::new();
        if include_public {
            models.push(load(public.weights())?);
        }
        for name in &experts {
            let bundle = Bundle::open(&folder.join(EXPERTS).join(name)).map_err(model)?;
            models.push(load(Dense::Expert(&public, &bundle).weights().map_err(model)?)?);
        }
        let max_positions = config.max_positions;
        let label = ModelLabel { label: "ensemble".to_owned(), experts, top_k: u32::try_from(top_k).ok() };
        Ok(Self { models, ensemble: Some(top_k as usize), without: Vec::new(), tokenizer, label, max_positions })
    }

    /// Its scorer.
    pub(crate) fn scorer(&self) -> Result<Box<dyn Scorer + '_>, StageError> {
        match (self.ensemble, self.models.first()) {
            (Some(top_k), _) => {
                let members = self.models.iter().map(one).collect();
                Ok(Box::new(score::Ensemble::new(members, top_k).map_err(model)?))
            }
            (None, Some(only)) if !self.without.is_empty() => {
                Ok(Box::new(ModelScorer::without(only, &self.without).map_err(model)?))
            }
            (None, Some(only)) => Ok(one(only)),
            (None, None) => Err(StageError::new("there is no model to measure")),
        }
    }
}

fn one(member: &Model) -> Box<dyn Scorer + '_> {
    Box::new(ModelScorer::new(member))
}

fn label(config: &ModelConfig, expert: bool) -> String {
    match (&config.experts, expert) {
        (Some(_), _) => "mixture",
        (None, true) => "expert",
        (None, false) => "dense",
    }
    .to_owned()
}

/// The numbers of the experts of these names.
pub(crate) fn left_out(config: &ModelConfig, without: &[String]) -> Result<Vec<usize>, StageError> {
    if let Some(mixture) = &config.experts
        && mixture.names.iter().all(|name| without.contains(name))
    {
        let message = "`without` names every expert of this model: none would be left";
        return Err(StageError::new(message).with_help(format!("leave one of them: {}", mixture.names.join(", "))));
    }
    without
        .iter()
        .map(|name| {
            let index = config.experts.as_ref().and_then(|mixture| mixture.index(name));
            index.ok_or_else(|| {
                let known =
                    config.experts.as_ref().map_or_else(|| "none".to_owned(), |mixture| mixture.names.join(", "));
                StageError::new(format!("`without` names `{name}`, which is no expert of this model"))
                    .with_help(format!("its experts are: {known}"))
            })
        })
        .collect()
}
