//! Models to and from folders as Hugging Face has them, for the command line: what `flow export` writes, and what `flow import` reads
//! and scores. In a recipe the way in is the kind `import-model`.

use std::{
    io::{self, BufRead, Read},
    path::{Path, PathBuf},
};

use flow_data::tokenizer::Tokenizer;
use flow_model::{
    Error,
    bundle::{self, Bundle},
    count,
    hf::{self, Layout, ModelFolder, RouterBias},
    numerics,
    olmo2::Model,
    score::{ModelScorer, ScoreRequest, Scorer},
};
use flow_pipeline::{StageError, stage::Kind};
use fs_err as fs;
use serde::{Deserialize, Serialize};

use crate::{
    engine, import_model::ImportModel, merge::Merge, pretrain::Pretrain, soup::Soup, train_expert::TrainExpert,
};

pub use flow_model::safetensors::Dtype;

/// Why a model could not be handed out, taken over or used.
#[derive(Debug)]
pub enum Trouble {
    /// What was asked for cannot be: another folder, file or flag is needed.
    Refused(StageError),
    /// A file could not be read or written.
    Disk(io::Error),
    /// The model could not be computed with.
    Failed(StageError),
}

impl Trouble {
    /// The same as a stage's failure.
    pub(crate) fn into_error(self) -> StageError {
        match self {
            Self::Refused(error) | Self::Failed(error) => error,
            Self::Disk(error) => engine::io(error),
        }
    }
}

impl From<StageError> for Trouble {
    fn from(error: StageError) -> Self {
        Self::Refused(error)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        match error {
            Error::Io(source) if source.kind() != io::ErrorKind::NotFound => Self::Disk(source),
            Error::BiasNotExportable { place: _, expert, layer, value } => Self::Refused(
                StageError::new(format!(
                    "failed to export the model: the router bias of `{expert}` is {value} in layer {layer}, and the Hugging Face format has none"
                ))
                .with_help(
                    "`--drop-bias` leaves it out; the router will then send more tokens to that expert than it was trained to",
                ),
            ),
            Error::Overflow => Self::Failed(engine::model(error)),
            other => Self::Refused(engine::model(other)),
        }
    }
}

/// What of a model a kind's artifact holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    /// All of it.
    Model,
    /// An expert; the public model is the artifact of the input of this name.
    Expert {
        /// The role.
        public: &'static str,
    },
}

/// What of a model the artifacts of a kind hold; none where they hold something else.
pub fn held_by(kind: &str) -> Option<Holds> {
    match kind {
        Pretrain::NAME | Merge::NAME | Soup::NAME | ImportModel::NAME => Some(Holds::Model),
        TrainExpert::NAME => Some(Holds::Expert { public: "anchor" }),
        _ => None,
    }
}

/// Where the model lies that is exported.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// A model folder.
    Model(&'a Path),
    /// An expert's bundle: what is exported is the dense model with the expert's FFN in the place of the public one.
    Expert {
        /// The bundle.
        bundle: &'a Path,
        /// The public model that it was trained beside.
        public: &'a Path,
        /// A folder to put the dense model together in; it is made.
        scratch: &'a Path,
    },
}

/// How a model is exported.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Element type; absent: the model's own.
    pub dtype: Option<Dtype>,
    /// A file of tensors is ended before it grows beyond this.
    pub shard_bytes: u64,
    /// Whether a router bias that is in use is left out instead of refused.
    pub drop_bias: bool,
}

/// Writes a model into the existing folder `out` as transformers reads it, and reads it again.
///
/// # Errors
/// A bias that the format has no place for; what can be wrong with the source; what the disk says.
pub fn export(source: Source<'_>, out: &Path, options: Options) -> Result<Description, Trouble> {
    let Options { dtype, shard_bytes, drop_bias } = options;
    let folder = match source {
        Source::Model(folder) => ModelFolder::open(folder)?,
        Source::Expert { bundle, public, scratch } => {
            fs::create_dir(scratch).map_err(Trouble::Disk)?;
            bundle::densify(&ModelFolder::open(public)?, &Bundle::open(bundle)?, scratch, shard_bytes)?;
            ModelFolder::open(scratch)?
        }
    };
    let layout = Layout { dtype: dtype.map_or_else(|| folder.dtype(), Ok)?, shard_bytes };
    let bias = if drop_bias { RouterBias::Drop } else { RouterBias::Refuse };
    hf::export(&folder, out, layout, bias)?;
    describe(out)
}

/// What a model folder holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Description {
    /// The folder.
    pub path: PathBuf,
    /// `olmo2` or `flex_olmo`, as `config.json` has it.
    pub architecture: &'static str,
    /// Blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside of one FFN.
    pub ffn_hidden: usize,
    /// Attention heads.
    pub heads: usize,
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// The longest sequence, in tokens.
    pub max_positions: usize,
    /// Parameters in all.
    pub parameters: u64,
    /// Parameters that one token meets.
    pub active_parameters: u64,
    /// Names of the experts; none in a dense model.
    pub experts: Vec<String>,
    /// Experts that a token is sent to.
    pub top_k: Option<usize>,
    /// Whether the router has a bias, which only flow reads.
    pub router_bias: bool,
    /// Element type.
    pub dtype: Dtype,
    /// Files of tensors.
    pub files: usize,
    /// Bytes of all tensors.
    pub bytes: u64,
    /// Digest of all tensors: names, types, shapes and bytes, however they are spread over files.
    pub digest: String,
    /// The tokenizer, where flow can use it.
    pub tokenizer: Option<Vocabulary>,
    /// Why the tokenizer cannot be used.
    pub tokenizer_problem: Option<String>,
}

/// A model's tokenizer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vocabulary {
    /// Entries.
    pub entries: u32,
    /// The token that ends a document.
    pub eos: u32,
    /// BLAKE3 of `tokenizer.json`.
    pub digest: String,
}

/// Reads and checks every byte of a model folder.
///
/// # Errors
/// A folder that is no model, or one that flow does not compute; tensors that are not finite; what the disk says.
pub fn describe(path: &Path) -> Result<Description, Trouble> {
    let folder = open(path)?;
    check_tokenizer_file(&folder.path().join("tokenizer.json"))?;
    let (config, counted) = (folder.config(), count::parameters(folder.config()));
    let (tokenizer, tokenizer_problem) = match tokenizer(&folder) {
        Ok(found) => {
            let digest = found.digest().to_owned();
            (Some(Vocabulary { entries: found.vocab_size(), eos: found.eos(), digest }), None)
        }
        Err(error) => (None, Some(error.message)),
    };
    Ok(Description {
        path: path.to_owned(),
        architecture: if config.experts.is_some() { "flex_olmo" } else { "olmo2" },
        layers: config.num_layers,
        hidden_size: config.hidden_size,
        ffn_hidden: config.ffn_hidden,
        heads: config.num_heads,
        vocab_size: config.vocab_size,
        max_positions: config.max_positions,
        parameters: counted.total,
        active_parameters: counted.active,
        experts: config.experts.as_ref().map_or_else(Vec::new, |mixture| mixture.names.clone()),
        top_k: config.experts.as_ref().map(|mixture| mixture.top_k),
        router_bias: folder.has_router_bias(),
        dtype: folder.dtype()?,
        files: folder.files().count(),
        bytes: folder.tensors().filter_map(|view| view.spec().bytes()).sum(),
        digest: folder.identity()?.digest.to_string(),
        tokenizer,
        tokenizer_problem,
    })
}

/// Opens a model folder from outside of flow: what is missing is said in a stranger's terms.
pub(crate) fn open(path: &Path) -> Result<ModelFolder, Trouble> {
    let place = path.display();
    let refuse = |reason: &str, help: &str| {
        Trouble::Refused(StageError::new(format!("failed to read a model from {place}: {reason}")).with_help(help))
    };
    if !path.is_dir() {
        let reason = if path.exists() { "it is no folder" } else { "there is no such folder" };
        return Err(refuse(reason, "name the folder that holds `config.json` and the safetensors files"));
    }
    if !path.join("config.json").is_file() {
        return Err(refuse("it has no `config.json`", "name the folder that `save_pretrained` or `flow export` wrote"));
    }
    if !["model.safetensors", "model.safetensors.index.json"].iter().any(|file| path.join(file).is_file()) {
        return Err(refuse(
            "it has neither `model.safetensors` nor `model.safetensors.index.json`",
            "other formats are not read; load the model with transformers and write it with `save_pretrained`",
        ));
    }
    Ok(ModelFolder::open(path)?)
}

/// A `tokenizer.json`, where there is one, must be that. Whether flow can use it with the model is another question.
fn check_tokenizer_file(file: &Path) -> Result<(), StageError> {
    if fs::symlink_metadata(file).is_err() {
        return Ok(());
    }
    match Tokenizer::from_file(file) {
        Ok(_) | Err(flow_data::Error::TokenMissing { .. }) => Ok(()),
        Err(error) => Err(engine::data(error)
            .with_help("bring the `tokenizer.json` that the model was trained with, or take it away")),
    }
}

/// The tokenizer of a model, if the two fit together.
pub(crate) fn tokenizer(folder: &ModelFolder) -> Result<Tokenizer, StageError> {
    let place = folder.path().display();
    let Some(file) = folder.tokenizer_path() else {
        return Err(StageError::new(format!("failed to read a tokenizer from {place}: it has no `tokenizer.json`"))
            .with_help("put the tokenizer that the model was trained with beside it"));
    };
    let tokenizer = Tokenizer::from_file(&file).map_err(engine::data)?;
    let config = folder.config();
    if tokenizer.vocab_size() as usize > config.vocab_size {
        return Err(StageError::new(format!(
            "failed to use the tokenizer of {place}: it has {} entries, the model {}",
            tokenizer.vocab_size(),
            config.vocab_size
        ))
        .with_help("put the tokenizer that the model was trained with beside it"));
    }
    if tokenizer.eos() != config.eos_token_id {
        return Err(StageError::new(format!(
            "failed to use the tokenizer of {place}: it ends a document with token {}, the model's `eos_token_id` is {}",
            tokenizer.eos(),
            config.eos_token_id
        ))
        .with_help("one of `tokenizer.json` and `config.json` is another model's"));
    }
    Ok(tokenizer)
}

/// Sets the process up to compute with so many threads. No result depends on it.
///
/// # Errors
/// Computing has begun with another number.
pub fn start(threads: usize) -> Result<(), Trouble> {
    numerics::keep_memory();
    Ok(numerics::set_threads(threads)?)
}

/// One line of what is scored: tokens, or a text for the folder's tokenizer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default)]
    tokens: Option<Vec<u32>>,
    #[serde(default)]
    text: Option<String>,
}

/// A scored line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scores {
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// log p of each token but the first, given those before it, in nats.
    pub log_probs: Vec<f32>,
}

/// Bytes of a line at most: what has no line ends is no list of texts.
const LONGEST: u64 = 256 << 20;

/// Lines that are scored together. No number depends on it.
const LINES: usize = 64;

/// Scores JSON lines, `{"tokens": [5, 9]}` or `{"text": "…"}`, by the model in `path`; `each` gets the answers in the lines' order.
/// `name` is the lines' place, for messages. Nothing is put before a text: its first token has no probability.
///
/// # Errors
/// Lines that cannot be read, each by its number; what can be wrong with the folder and the device.
pub fn score(
    path: &Path,
    mut lines: impl BufRead,
    name: &str,
    device: &str,
    mut each: impl FnMut(&Scores),
) -> Result<(), Trouble> {
    let folder = open(path)?;
    let loaded = Model::new(folder.config(), &folder.finite_weights()?, &numerics::device(device)?)?;
    let scorer = ModelScorer::new(&loaded);
    // Read where a line asks for it.
    let mut texts: Option<Tokenizer> = None;
    let mut waiting = Vec::new();
    for at in 0.. {
        let wrong = |reason: String| StageError::new(format!("failed to score line {} of {name}: {reason}", at + 1));
        let mut line = Vec::new();
        let read = (&mut lines).take(LONGEST + 1).read_until(b'\n', &mut line).map_err(Trouble::Disk)?;
        if read == 0 {
            break;
        }
        if read as u64 > LONGEST {
            return Err(wrong(format!("it is longer than {LONGEST} bytes")).into());
        }
        let Line { tokens, text } = serde_json::from_slice(&line).map_err(|error| {
            wrong(error.to_string()).with_help("a line is `{\"tokens\": [5, 9, 2]}` or `{\"text\": \"some words\"}`")
        })?;
        let tokens = match (tokens, text) {
            (Some(tokens), None) => tokens,
            (None, Some(text)) => {
                if texts.is_none() {
                    texts = Some(tokenizer(&folder)?);
                }
                let encoded = texts.as_ref().map(|tokenizer| tokenizer.encode(&text));
                encoded.transpose().map_err(engine::data)?.unwrap_or_default()
            }
            _ => return Err(wrong("give either `tokens` or `text`".to_owned()).into()),
        };
        let config = folder.config();
        if let Some(token) = tokens.iter().find(|token| **token as usize >= config.vocab_size) {
            let reason = format!("the token {token} is not in the vocabulary of {}", config.vocab_size);
            return Err(wrong(reason).into());
        }
        if tokens.len() > config.max_positions {
            let reason = format!("its {} tokens are more than the model's {}", tokens.len(), config.max_positions);
            return Err(wrong(reason).with_help("cut it into shorter lines").into());
        }
        waiting.push(tokens);
        if waiting.len() == LINES {
            answer(&scorer, std::mem::take(&mut waiting), &mut each)?;
        }
    }
    answer(&scorer, waiting, &mut each)
}

fn answer(scorer: &ModelScorer<'_>, lines: Vec<Vec<u32>>, each: &mut impl FnMut(&Scores)) -> Result<(), Trouble> {
    let requests: Vec<ScoreRequest> = lines.iter().map(|tokens| ScoreRequest::text(tokens.clone())).collect();
    for (tokens, log_probs) in lines.into_iter().zip(scorer.log_probs(&requests)?) {
        each(&Scores { tokens, log_probs });
    }
    Ok(())
}
