//! `import-tokenizer`: a tokenizer that somebody else trained, such as dolma2, from its `tokenizer.json`.

use std::path::{Path, PathBuf};

use flow_data::{
    tokenizer::{SpecialTokens, Tokenizer},
    whole,
};
use flow_pipeline::{
    StageError,
    context::Context,
    stage::{External, Forecast, Forecasts, Kind, ResolveContext, Role},
    units::Count,
};
use fs_err as fs;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    artifact,
    engine::{data, io},
    facts,
};

/// Bytes of a `tokenizer.json` that is taken over.
const MOST: u64 = 1 << 30;

/// The kind.
pub(crate) struct ImportTokenizer;

/// What is expected of it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Params {
    /// Entries that it must have; absent: any number.
    #[serde(default)]
    pub vocab_size: Option<Count>,
}

/// Where it lies.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Places {
    /// A Hugging Face `tokenizer.json`, or the folder that holds one.
    pub path: PathBuf,
}

impl Kind for ImportTokenizer {
    const NAME: &'static str = "import-tokenizer";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Take over a Hugging Face tokenizer.json.";
    const MAKES: &'static str = artifact::TOKENIZER;
    type Params = Params;
    type Places = Places;

    fn roles() -> &'static [Role] {
        &[]
    }

    fn resolve(_: &Params, places: &Places, ctx: &ResolveContext<'_>) -> Result<Vec<External>, StageError> {
        let mut file = ctx.base.join(&places.path);
        if file.is_dir() {
            file.push("tokenizer.json");
        }
        if !file.is_file() {
            let missing = StageError::new(format!("there is no tokenizer at {}", file.display())).with_help(
                "bring the model's `tokenizer.json` there (dolma2's is in any OLMo 2 repository on the Hugging Face hub)",
            );
            return Err(missing.of_param("path"));
        }
        let digest = (ctx.hash)(&file).map_err(io)?;
        let place = places.path.display().to_string();
        Ok(vec![External { identity: json!({ "tokenizer": digest }), handle: json!(file), place }])
    }

    fn forecast(params: &Params, _: &Forecasts) -> Forecast {
        let mut forecast = Forecast::default();
        if let Some(Count(entries)) = params.vocab_size {
            forecast.facts.insert(facts::VOCABULARY.to_owned(), entries.into());
        }
        forecast
    }

    fn run(ctx: &Context, params: Params, _: Places) -> Result<(), StageError> {
        let file = ctx.sources().first().and_then(|external| external.handle.as_str());
        let file = file.ok_or_else(|| StageError::new("the job names no tokenizer"))?;
        let bytes = whole::read(Path::new(file), MOST).map_err(io)?;
        let tokenizer = Tokenizer::from_bytes(&bytes, file, &SpecialTokens::default()).map_err(data)?;
        if let Some(Count(wanted)) = params.vocab_size.filter(|wanted| wanted.0 != u64::from(tokenizer.vocab_size())) {
            return Err(StageError::new(format!("{file} has {} entries, not {wanted}", tokenizer.vocab_size()))
                .with_help("name the right file, or set `vocab_size` to what it has"));
        }
        fs::write(ctx.output().join("tokenizer.json"), bytes).map_err(io)
    }
}
