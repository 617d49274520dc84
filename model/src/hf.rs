//! Model folders as Hugging Face has them.
//!
//! ```text
//! config.json             the sizes (crate::config)
//! generation_config.json  the special tokens
//! model.safetensors       or model-00001-of-00003.safetensors … with model.safetensors.index.json
//! tokenizer.json          copied from where the model was trained
//! tokenizer_config.json   how transformers reads that; copied where there is one, else made by an export
//! ```
//!
//! To open a folder is to check it: every tensor that the configuration asks for is there once, in its shape, and no other. Files are
//! written one by one; whoever hands in a folder publishes it as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use flow_data::whole;
use rayon::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::config::{ModelConfig, PUBLIC};
use crate::error::{Error, Result};
use crate::json;
use crate::names::{self, Role, TensorName};
use crate::safetensors::{Dtype, SafeTensors, Sink, Spec, View};
use crate::weights::{Digest, Weights, frozen_digest};

mod shards;
mod tokenizer_config;

pub use shards::write_tensors;

/// How tensors are laid out in files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Element type.
    pub dtype: Dtype,
    /// A file is ended before it grows beyond this; a larger tensor has a file for itself.
    pub shard_bytes: u64,
}

impl Default for Layout {
    /// Single precision, files of at most 5 GB, as Hugging Face has them.
    fn default() -> Self {
        Self { dtype: Dtype::F32, shard_bytes: 5_000_000_000 }
    }
}

/// A model on disk, opened and checked; tensors stay in the mapped files until they are asked for.
#[derive(Debug)]
pub struct ModelFolder {
    path: PathBuf,
    config: ModelConfig,
    files: Vec<SafeTensors>,
    /// Which file has the tensor.
    holder: BTreeMap<String, usize>,
    tokenizer: Option<Digest>,
}

/// What makes two models the same one: for a public model, what every expert beside it must agree with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The digest of all tensors.
    pub digest: Digest,
    /// The digest of each.
    pub tensors: BTreeMap<String, Digest>,
    /// BLAKE3 of `tokenizer.json`, where there is one.
    pub tokenizer: Option<Digest>,
}

impl ModelFolder {
    /// Opens a folder.
    ///
    /// # Errors
    /// What can be wrong with a configuration, with files, or with the two together.
    pub fn open(path: &Path) -> Result<Self> {
        let config = ModelConfig::read(&path.join("config.json"))?;
        let files = open_files(path)?;
        let mut holder = BTreeMap::new();
        for (i, file) in files.iter().enumerate() {
            for (name, _) in file.specs() {
                if let Some(other) = holder.insert(name.to_owned(), i) {
                    let (one, other) = (file.path().display().to_string(), files[other].path().display().to_string());
                    return Err(Error::Mismatch { one, other, reason: format!("both have the tensor `{name}`") });
                }
            }
        }
        let found = files.iter().flat_map(|file| file.specs().map(|(name, spec)| (name, spec.shape.as_slice())));
        names::check(&config, found, &path.display().to_string())?;
        let tokenizer = path.join("tokenizer.json");
        let tokenizer = if tokenizer.is_file() { Some(Digest::of_file(&tokenizer)?) } else { None };
        Ok(Self { path: path.to_owned(), config, files, holder, tokenizer })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The sizes.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// BLAKE3 of `tokenizer.json`, where there is one.
    pub fn tokenizer(&self) -> Option<Digest> {
        self.tokenizer
    }

    /// The folder's `tokenizer.json`, where there is one.
    pub fn tokenizer_path(&self) -> Option<PathBuf> {
        self.tokenizer.map(|_| self.path.join("tokenizer.json"))
    }

    /// The files of tensors, sorted by name.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(SafeTensors::path)
    }

    /// One tensor, if the model has it.
    pub fn tensor(&self, name: &str) -> Option<View<'_>> {
        self.files[*self.holder.get(name)?].tensor(name)
    }

    /// One tensor, or the error that says which one is missing.
    ///
    /// # Errors
    /// [`Error::MissingTensors`].
    pub fn expect(&self, name: &str) -> Result<View<'_>> {
        let missing = || Error::MissingTensors { place: self.path.display().to_string(), names: vec![name.to_owned()] };
        self.tensor(name).ok_or_else(missing)
    }

    /// All tensors, sorted by name.
    pub fn tensors(&self) -> impl Iterator<Item = View<'_>> {
        self.holder.iter().filter_map(|(name, file)| self.files[*file].tensor(name))
    }

    /// Whether the router has a bias, which transformers knows nothing of.
    pub fn has_router_bias(&self) -> bool {
        self.holder.keys().any(|name| is_router_bias(name))
    }

    /// All tensors in memory, as f32.
    pub fn weights(&self) -> Weights {
        self.tensors().map(|view| (view.name().to_owned(), view.weight())).collect()
    }

    /// [`ModelFolder::weights`], each number of which is one.
    ///
    /// # Errors
    /// [`Error::NotFinite`].
    pub fn finite_weights(&self) -> Result<Weights> {
        let weights = self.weights();
        for (name, weight) in &weights {
            if let Some(index) = weight.data.par_iter().position_first(|x| !x.is_finite()) {
                return Err(Error::NotFinite { name: name.clone(), place: self.path.display().to_string(), index });
            }
        }
        Ok(weights)
    }

    /// The type of all tensors but the router's bias, which is f32 beside any other.
    ///
    /// # Errors
    /// [`Error::TensorDtype`] where they have more than one.
    pub fn dtype(&self) -> Result<Dtype> {
        let mut all = self.tensors().filter(|view| !is_router_bias(view.name()));
        let dtype = all.next().map_or(Dtype::F32, |view| view.spec().dtype);
        match all.find(|view| view.spec().dtype != dtype) {
            None => Ok(dtype),
            Some(other) => Err(Error::TensorDtype {
                name: other.name().to_owned(),
                place: self.path.display().to_string(),
                found: other.spec().dtype.to_string(),
                expected: format!("{dtype}, as the tensors before it"),
            }),
        }
    }

    /// Reads every byte: digests, and the check that all numbers are finite.
    ///
    /// # Errors
    /// [`Error::NotFinite`].
    pub fn identity(&self) -> Result<Identity> {
        let views: Vec<View<'_>> = self.tensors().collect();
        let tensors = views
            .par_iter()
            .map(|view| Ok((view.name().to_owned(), view.checked_digest()?)))
            .collect::<Result<BTreeMap<String, Digest>>>()?;
        Ok(Identity { digest: frozen_digest(&tensors), tensors, tokenizer: self.tokenizer })
    }
}

/// The folder's tensor files, by its index or the single one.
fn open_files(path: &Path) -> Result<Vec<SafeTensors>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index_path = path.join("model.safetensors.index.json");
    if !index_path.is_file() {
        return Ok(vec![SafeTensors::open(&path.join("model.safetensors"))?]);
    }
    let Index { weight_map } = json::read(&index_path)?;
    let names: BTreeSet<&String> = weight_map.values().collect();
    let mut files = vec![];
    for name in names {
        // An index comes from strangers: it may name files of this folder only.
        if Path::new(name).file_name().is_none_or(|file| file != name.as_str()) {
            let reason = format!("its index names the file `{name}`, which is not a plain name");
            return Err(Error::Config { place: path.display().to_string(), reason });
        }
        let file = SafeTensors::open(&path.join(name))?;
        let here: BTreeSet<&str> = file.specs().map(|(name, _)| name).collect();
        let claimed: BTreeSet<&str> = weight_map.iter().filter(|(_, f)| *f == name).map(|(n, _)| n.as_str()).collect();
        if let Some(tensor) = here.symmetric_difference(&claimed).next() {
            let reason = format!("they disagree about the tensor `{tensor}`");
            let (one, other) = (index_path.display().to_string(), file.path().display().to_string());
            return Err(Error::Mismatch { one, other, reason });
        }
        files.push(file);
    }
    Ok(files)
}

/// Writes a model from memory.
///
/// # Errors
/// [`Error::Io`], and what [`names::check`] finds wrong with the weights.
pub fn write(
    folder: &Path,
    config: &ModelConfig,
    weights: &Weights,
    tokenizer: Option<&Path>,
    layout: Layout,
) -> Result<()> {
    let found = weights.iter().map(|(name, weight)| (name.as_str(), weight.shape.as_slice()));
    names::check(config, found, "the model in memory")?;
    let spec = |shape: &Vec<usize>| Spec { dtype: layout.dtype, shape: shape.clone() };
    let specs = weights.iter().map(|(name, weight)| (name.clone(), spec(&weight.shape))).collect();
    write_tensors(folder, &specs, layout.shard_bytes, |name, sink| match weights.get(name) {
        Some(weight) => sink.values(&weight.data),
        None => Ok(()),
    })?;
    write_settings(folder, config, layout.dtype, tokenizer)
}

/// Files that go with a `tokenizer.json` wherever it goes.
pub const BESIDE_TOKENIZER: [&str; 2] = [tokenizer_config::FILE, "special_tokens_map.json"];

/// Writes what stands beside the tensors: `config.json`, `generation_config.json`, the tokenizer's files.
///
/// # Errors
/// [`Error::Io`].
pub fn write_settings(folder: &Path, config: &ModelConfig, dtype: Dtype, tokenizer: Option<&Path>) -> Result<()> {
    let mut generation = Map::new();
    generation.insert("_from_model_config".into(), json!(true));
    generation.insert("eos_token_id".into(), json!(config.eos_token_id));
    if let Some(pad) = config.pad_token_id {
        generation.insert("pad_token_id".into(), json!(pad));
    }
    json::write(&folder.join("generation_config.json"), &Value::Object(generation))?;
    if let Some(tokenizer) = tokenizer {
        json::write_bytes(&folder.join("tokenizer.json"), &whole::read(tokenizer, json::MOST)?)?;
        for beside in BESIDE_TOKENIZER {
            let from = tokenizer.with_file_name(beside);
            if from.is_file() {
                json::write_bytes(&folder.join(beside), &whole::read(&from, json::MOST)?)?;
            }
        }
    }
    // Last: a folder with a config.json is a whole one.
    json::write(&folder.join("config.json"), &config.to_hf(dtype.torch()))
}

/// What an export does with a router bias, for which the Hugging Face format has no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RouterBias {
    /// A bias that is in use (negative) is an error.
    #[default]
    Refuse,
    /// It is left out: the router then sends more tokens to that expert than it was trained to.
    Drop,
}

fn is_router_bias(name: &str) -> bool {
    TensorName::parse(name).is_some_and(|name| name.role == Role::RouterBias)
}

/// Writes a model as transformers reads it without a missing or unexpected key, from one folder to another, tensor by tensor.
///
/// # Errors
/// [`Error::BiasNotExportable`], [`Error::Io`].
pub fn export(model: &ModelFolder, out: &Path, layout: Layout, bias: RouterBias) -> Result<()> {
    for view in model.tensors().filter(|view| bias == RouterBias::Refuse && is_router_bias(view.name())) {
        let layer = TensorName::parse(view.name()).map_or(0, |name| name.layer);
        let values = view.weight().data;
        // Only what is below zero is used: min(b, 0); and expert 0 has none.
        if let Some((expert, value)) = values.iter().enumerate().skip(1).find(|(_, value)| **value < 0.0) {
            let names = model.config.experts.as_ref().map(|mixture| &mixture.names);
            let expert = names.and_then(|names| names.get(expert)).map_or(PUBLIC.to_owned(), Clone::clone);
            return Err(Error::BiasNotExportable {
                place: model.path.display().to_string(),
                expert,
                layer,
                value: *value,
            });
        }
    }
    let spec = |view: View<'_>| Spec { dtype: layout.dtype, shape: view.spec().shape.clone() };
    let kept = model.tensors().filter(|view| !is_router_bias(view.name()));
    let specs = kept.map(|view| (view.name().to_owned(), spec(view))).collect();
    write_tensors(out, &specs, layout.shard_bytes, |name, sink: &mut Sink<'_>| sink.copy(model.expect(name)?))?;
    if let Some(tokenizer) =
        model.tokenizer_path().filter(|file| !file.with_file_name(tokenizer_config::FILE).is_file())
    {
        tokenizer_config::write(out, &model.config, &tokenizer)?;
    }
    write_settings(out, &model.config, layout.dtype, model.tokenizer_path().as_deref())
}

#[cfg(test)]
pub(crate) mod tests;
