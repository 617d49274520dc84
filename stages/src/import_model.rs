//! `import-model`: a model that somebody else trained, such as OLMo 2 7B, from a folder as Hugging Face has it. The artifact has the
//! layout of `pretrain`'s, so it can be the public model of everything downstream; the same tensors give the same bytes, however
//! they were spread over files.

use std::path::{Path, PathBuf};

use flow_model::{
    config::ModelConfig,
    hf::{self, BESIDE_TOKENIZER, ModelFolder},
    preset::ModelParams,
};
use flow_pipeline::{
    Misfit, StageError,
    context::Context,
    stage::{External, Forecast, Forecasts, Kind, ResolveContext, Role},
    units::Bytes,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};

use crate::{
    artifact,
    engine::{self, io, model},
    facts,
    interop::{self, Trouble},
    merge::shard_bytes,
    misfit,
};

/// The kind.
pub(crate) struct ImportModel;

/// What is expected of it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// Sizes that it must have, a dense model's; absent: any. A plan then knows what the stages cost that use it.
    #[serde(default)]
    pub model: Option<ModelParams>,
    /// A file of tensors is ended before it grows beyond this.
    #[serde(default = "shard_bytes")]
    pub shard_bytes: Bytes,
}

/// Where it lies.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Places {
    /// A folder with `config.json`, safetensors files and `tokenizer.json`.
    pub path: PathBuf,
}

impl Kind for ImportModel {
    const NAME: &'static str = "import-model";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Take over an OLMo 2 or FlexOlmo model from a folder as Hugging Face has it.";
    const MAKES: &'static str = artifact::MODEL;
    type Params = Params;
    type Places = Places;

    fn roles() -> &'static [Role] {
        &[]
    }

    fn check(params: &Params) -> Result<(), Misfit> {
        let Some(sizes) = &params.model else { return Ok(()) };
        sizes.resolve(None).map(drop).map_err(|error| misfit::sizes(sizes, None, error))
    }

    fn resolve(params: &Params, places: &Places, ctx: &ResolveContext<'_>) -> Result<Vec<External>, StageError> {
        let folder = open(&ctx.base.join(&places.path), params).map_err(|error| error.of_param("path"))?;
        let path = folder.path();
        let digest = |file: &Path| (ctx.hash)(file).map_err(io);
        // By what they are and not by name: the names of shards say nothing of the model.
        let tensors = folder.files().map(digest).collect::<Result<Vec<_>, _>>()?;
        let mut identity = Map::new();
        identity.insert("tensors".to_owned(), json!(tensors));
        for name in ["config.json", "tokenizer.json"].iter().chain(&BESIDE_TOKENIZER) {
            let file = path.join(name);
            if file.is_file() {
                identity.insert((*name).to_owned(), json!(digest(&file)?));
            }
        }
        let place = places.path.display().to_string();
        Ok(vec![External { identity: json!({ "model": identity }), handle: json!(path), place }])
    }

    fn forecast(params: &Params, _: &Forecasts) -> Forecast {
        let config = params.model.as_ref().and_then(|sizes| sizes.resolve(None).ok());
        let Some(config) = config else { return Forecast::default() };
        Forecast { estimate: facts::copying(&config), facts: [facts::of_model(&config)].into() }
    }

    fn run(ctx: &Context, params: Params, _: Places) -> Result<(), StageError> {
        engine::start(ctx)?;
        let path = ctx.sources().first().and_then(|external| external.handle.as_str());
        let path = path.ok_or_else(|| StageError::new("the job names no model"))?;
        let folder = open(Path::new(path), &params)?;
        // Reads every byte: a model with a number that is none would spoil all that is trained beside it.
        folder.identity().map_err(model)?;
        ctx.check_cancelled()?;
        let specs = folder.tensors().map(|view| (view.name().to_owned(), view.spec().clone())).collect();
        hf::write_tensors(ctx.output(), &specs, params.shard_bytes.0, |name, sink| sink.copy(folder.expect(name)?))
            .map_err(model)?;
        let dtype = folder.dtype().map_err(model)?;
        hf::write_settings(ctx.output(), folder.config(), dtype, folder.tokenizer_path().as_deref()).map_err(model)
    }
}

/// The model, if it is one, has a tokenizer that fits and the sizes that are expected.
fn open(path: &Path, params: &Params) -> Result<ModelFolder, StageError> {
    let folder = interop::open(path).map_err(Trouble::into_error)?;
    // Without it nothing downstream could read a text, and an expert would be trained before that shows.
    interop::tokenizer(&folder)?;
    folder.dtype().map_err(model)?;
    if let Some(sizes) = &params.model {
        let expected = sizes.resolve(None).map_err(model)?;
        check(folder.config(), &expected).map_err(|reason| {
            StageError::new(format!("failed to take {} for the model of the recipe: {reason}", path.display()))
                .with_help("name the right folder, or set `model` to what it has")
        })?;
    }
    Ok(folder)
}

/// The first size that is not as expected. The special tokens are the tokenizer's and no size.
fn check(found: &ModelConfig, expected: &ModelConfig) -> Result<(), String> {
    if let Some(mixture) = &found.experts {
        return Err(format!("it is a mixture of {} experts, and `model` is dense", mixture.count));
    }
    let sizes = |config: &ModelConfig| {
        [
            ("vocab_size", config.vocab_size as f64),
            ("hidden_size", config.hidden_size as f64),
            ("num_layers", config.num_layers as f64),
            ("num_heads", config.num_heads as f64),
            ("ffn_hidden", config.ffn_hidden as f64),
            ("rope_theta", config.rope_theta),
            ("norm_eps", config.norm_eps),
            ("max_positions", config.max_positions as f64),
        ]
    };
    match sizes(found).into_iter().zip(sizes(expected)).find(|(found, expected)| found != expected) {
        None => Ok(()),
        Some(((name, found), (_, expected))) => Err(format!("its `{name}` is {found}, not {expected}")),
    }
}
