//! Expert bundles: what a data owner hands over. One expert's weights and where they come from; never a document.
//!
//! ```text
//! bundle.safetensors   layers.{l}.mlp.{gate,up,down}_proj.weight, in the public model's element type;
//!                      row [layers, d] and bias [layers], always f32
//! bundle.json          [`BundleInfo`]
//! metrics.jsonl        one line a step, where there is one
//! ```
//!
//! The bundle records the digest of every frozen tensor that the expert was trained beside (FLEXOLMO §3), so that a merge can refuse
//! an expert of another public model, and name what differs, before it reads a weight.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::{ModelConfig, PUBLIC, check_expert_name};
use crate::error::{Error, Result};
use crate::hf::{self, Identity, Layout, ModelFolder};
use crate::json;
use crate::names::{self, Projection, Role, TensorName};
use crate::safetensors::{Dtype, SafeTensors, Spec, View, Writer};
use crate::weights::{Digest, Weight, Weights, frozen_digest};

/// The format that is written.
const FORMAT: u64 = 1;

/// `bundle.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BundleInfo {
    /// Version of the format.
    pub format: u64,
    /// Name of the expert.
    pub name: String,
    /// Digest of the frozen public tensors.
    pub public_digest: Digest,
    /// Digest of each of them.
    pub public_tensors: BTreeMap<String, Digest>,
    /// Digest of the public router row, [layers, d] as f32: it was frozen too.
    pub public_row: Digest,
    /// The public model's `config.json`.
    pub config: Map<String, Value>,
    /// BLAKE3 of the `tokenizer.json` that the documents were read with.
    pub tokenizer: Option<Digest>,
    /// Digest of each tensor of `bundle.safetensors`.
    pub tensors: BTreeMap<String, Digest>,
    /// What the owner says of the training: steps, tokens, losses.
    pub training: Value,
}

/// An expert in memory, as training leaves it.
#[derive(Debug, Clone, PartialEq)]
pub struct Expert {
    /// The FFN, by the names of a dense model: `model.layers.{l}.mlp.{gate,up,down}_proj.weight`.
    pub ffn: Weights,
    /// Router rows, [layers, d].
    pub row: Weight,
    /// Router biases, [layers]; all 0 where there is none.
    pub bias: Weight,
}

impl Expert {
    /// Takes expert number `expert` out of a mixture's weights.
    ///
    /// # Errors
    /// [`Error::MissingTensors`], [`Error::Expert`].
    pub fn from_mixture(config: &ModelConfig, weights: &Weights, expert: usize) -> Result<Self> {
        let place = "the mixture in memory";
        let get = |name: TensorName| {
            let name = name.to_string();
            let missing = || Error::MissingTensors { place: place.into(), names: vec![name.clone()] };
            weights.get(&name).ok_or_else(missing)
        };
        let (layers, d) = (config.num_layers, config.hidden_size);
        let (mut ffn, mut row, mut bias) = (Weights::new(), Vec::with_capacity(layers * d), Vec::with_capacity(layers));
        for layer in 0..layers {
            for projection in Projection::ALL {
                let weight = get(TensorName::expert(projection, layer, expert))?;
                ffn.insert(TensorName::layer(Role::Ffn(projection), layer).to_string(), weight.clone());
            }
            let rows = get(TensorName::layer(Role::Router, layer))?;
            let Some(own) = rows.data.get(expert * d..(expert + 1) * d) else {
                let reason = format!("the router of layer {layer} has no row for expert {expert}");
                return Err(Error::Expert { name: expert.to_string(), reason });
            };
            row.extend_from_slice(own);
            let biases = weights.get(&TensorName::layer(Role::RouterBias, layer).to_string());
            bias.push(biases.and_then(|biases| biases.data.get(expert)).copied().unwrap_or(0.0));
        }
        let (row, bias) = (Weight::new(vec![layers, d], row)?, Weight::new(vec![layers], bias)?);
        Ok(Self { ffn, row, bias })
    }
}

/// The router rows of all layers from one for all, [d], or one a layer, [layers, d].
///
/// # Errors
/// [`Error::TensorShape`], [`Error::NotFinite`].
pub fn rows_by_layer(config: &ModelConfig, row: &Weight) -> Result<Weight> {
    let (layers, d) = (config.num_layers, config.hidden_size);
    if let Some(index) = row.data.iter().position(|value| !value.is_finite()) {
        return Err(Error::NotFinite { name: "row".into(), place: "a router row".into(), index });
    }
    if row.shape == [layers, d] {
        return Ok(row.clone());
    }
    if row.shape == [d] {
        return Weight::new(vec![layers, d], row.data.repeat(layers));
    }
    let (name, place) = ("row".to_owned(), "a router row".to_owned());
    Err(Error::TensorShape { name, place, found: row.shape.clone(), expected: vec![d] })
}

/// Reads the `row` of a `row.safetensors`: a router row made from samples.
///
/// # Errors
/// What can be wrong with the file; [`Error::MissingTensors`].
pub fn read_row(path: &Path) -> Result<Weight> {
    let file = SafeTensors::open(path)?;
    let missing = || Error::MissingTensors { place: path.display().to_string(), names: vec!["row".into()] };
    Ok(file.tensor("row").ok_or_else(missing)?.weight())
}

/// An open bundle: its record read, its tensors' shapes checked. Its content is checked by [`Bundle::verify`].
#[derive(Debug)]
pub struct Bundle {
    path: PathBuf,
    info: BundleInfo,
    config: ModelConfig,
    digest: Digest,
    file: SafeTensors,
}

/// The bundle's name of a tensor of the FFN.
fn bundle_name(projection: Projection, layer: usize) -> String {
    format!("layers.{layer}.mlp.{}.weight", projection.hf())
}

/// Every tensor of a bundle with its spec; FFN tensors as the public model has them.
fn specs(config: &ModelConfig, dtype: Dtype) -> BTreeMap<String, Spec> {
    let mut specs = BTreeMap::new();
    for layer in 0..config.num_layers {
        for projection in Projection::ALL {
            let shape = match projection {
                Projection::Down => vec![config.hidden_size, config.ffn_hidden],
                Projection::Gate | Projection::Up => vec![config.ffn_hidden, config.hidden_size],
            };
            specs.insert(bundle_name(projection, layer), Spec { dtype, shape });
        }
    }
    specs.insert("row".into(), Spec { dtype: Dtype::F32, shape: vec![config.num_layers, config.hidden_size] });
    specs.insert("bias".into(), Spec { dtype: Dtype::F32, shape: vec![config.num_layers] });
    specs
}

/// What a bundle is written from, apart from the expert itself.
#[derive(Debug, Clone)]
pub struct Provenance<'a> {
    /// Name of the expert.
    pub name: &'a str,
    /// The frozen public model's identity.
    pub public: &'a Identity,
    /// Its sizes.
    pub config: &'a ModelConfig,
    /// Its element type.
    pub dtype: Dtype,
    /// The frozen public router row, [d] or [layers, d].
    pub public_row: &'a Weight,
    /// What to say of the training.
    pub training: Value,
}

/// Writes a bundle into an existing folder.
///
/// # Errors
/// [`Error::Expert`] for a name that cannot be used, [`Error::TensorShape`], [`Error::MissingTensors`], [`Error::NotFinite`],
/// [`Error::Io`].
pub fn write(folder: &Path, provenance: &Provenance<'_>, expert: &Expert) -> Result<BundleInfo> {
    let Provenance { name, public, config, dtype, public_row, training } = provenance;
    check_expert_name(name)?;
    if *name == PUBLIC {
        return Err(Error::Expert { name: PUBLIC.into(), reason: "this is the public expert's name".into() });
    }
    let place = format!("the expert `{name}`");
    let config = config.dense();
    let Expert { ffn, row, bias } = expert;
    let mut tensors: BTreeMap<String, &Weight> = BTreeMap::from([("row".into(), row), ("bias".into(), bias)]);
    for (hf_name, weight) in ffn {
        match TensorName::parse(hf_name) {
            Some(TensorName { role: Role::Ffn(projection), layer, .. }) => {
                tensors.insert(bundle_name(projection, layer), weight);
            }
            _ => return Err(names::unknown(&config, hf_name, &place)),
        }
    }
    let specs = specs(&config, *dtype);
    check(&specs, tensors.iter().map(|(name, weight)| (name.as_str(), weight.shape.as_slice())), &place)?;

    let path = folder.join("bundle.safetensors");
    let mut writer = Writer::create(&path, &specs)?;
    while let Some((name, _)) = writer.next() {
        let name = name.to_owned();
        writer.tensor(&name, |sink| tensors.get(&name).map_or(Ok(()), |weight| sink.values(&weight.data)))?;
    }
    writer.finish()?;
    let info = BundleInfo {
        format: FORMAT,
        name: (*name).to_owned(),
        public_digest: public.digest,
        public_tensors: public.tensors.clone(),
        public_row: rows_by_layer(&config, public_row)?.digest(),
        config: config.to_hf(dtype.torch()).as_object().cloned().unwrap_or_default(),
        tokenizer: public.tokenizer,
        // Of the file and not of memory: what counts is what was written, after rounding. Refuses what is not finite.
        tensors: digests(&SafeTensors::open(&path)?)?,
        training: training.clone(),
    };
    json::write(&folder.join("bundle.json"), &info)?;
    Ok(info)
}

fn digests(file: &SafeTensors) -> Result<BTreeMap<String, Digest>> {
    let views: Vec<View<'_>> = file.tensors().collect();
    views.par_iter().map(|view| Ok((view.name().to_owned(), view.checked_digest()?))).collect()
}

/// Names and shapes against what a bundle must have.
fn check<'a>(
    specs: &BTreeMap<String, Spec>,
    found: impl Iterator<Item = (&'a str, &'a [usize])>,
    place: &str,
) -> Result<()> {
    let mut missing: BTreeMap<&str, &Spec> = specs.iter().map(|(name, spec)| (name.as_str(), spec)).collect();
    for (name, shape) in found {
        let (name, place) = (name.to_owned(), place.to_owned());
        let Some(spec) = specs.get(&name) else {
            let nearest = names::nearest(&name, specs.keys());
            return Err(Error::UnknownTensor { name, place, nearest });
        };
        if shape != spec.shape {
            return Err(Error::TensorShape { name, place, found: shape.to_vec(), expected: spec.shape.clone() });
        }
        missing.remove(name.as_str());
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::MissingTensors { place: place.to_owned(), names: missing.into_keys().map(str::to_owned).collect() })
}

impl Bundle {
    /// Opens a bundle.
    ///
    /// # Errors
    /// [`Error::Format`], [`Error::Json`], [`Error::Config`], and what can be wrong with the tensors' names, shapes and types.
    pub fn open(path: &Path) -> Result<Self> {
        let info_path = path.join("bundle.json");
        let bytes = flow_data::whole::read(&info_path, json::MOST)?;
        let broken = |source| Error::Json { path: info_path.clone(), source };
        let value: Value = serde_json::from_slice(&bytes).map_err(broken)?;
        // Before the fields: a newer format may have others.
        if let Some(found) = value.get("format").and_then(Value::as_u64).filter(|found| *found != FORMAT) {
            return Err(Error::Format { path: info_path, found, known: FORMAT });
        }
        let info: BundleInfo = serde_json::from_value(value).map_err(broken)?;
        let place = info_path.display().to_string();
        check_expert_name(&info.name)?;
        let config = ModelConfig::from_hf(&info.config, &place)?;
        if config.experts.is_some() {
            return Err(Error::Config { place, reason: "a bundle stands beside a dense public model".into() });
        }
        if frozen_digest(&info.public_tensors) != info.public_digest {
            let (name, found) = ("public_tensors".to_owned(), frozen_digest(&info.public_tensors));
            return Err(Error::Corrupt { place, name, recorded: info.public_digest, found });
        }

        let file = SafeTensors::open(&path.join("bundle.safetensors"))?;
        let place = path.display().to_string();
        let dtype = file.tensor(&bundle_name(Projection::Gate, 0)).map_or(Dtype::F32, |view| view.spec().dtype);
        let specs = specs(&config, dtype);
        check(&specs, file.specs().map(|(name, spec)| (name, spec.shape.as_slice())), &place)?;
        if let Some((name, spec)) =
            file.specs().find(|(name, spec)| specs.get(*name).is_none_or(|due| due.dtype != spec.dtype))
        {
            let expected = specs.get(name).map_or(dtype, |due| due.dtype).to_string();
            return Err(Error::TensorDtype { name: name.to_owned(), place, found: spec.dtype.to_string(), expected });
        }
        Ok(Self { path: path.to_owned(), info, config, digest: Digest::of(&bytes), file })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The record.
    pub fn info(&self) -> &BundleInfo {
        &self.info
    }

    /// Name of the expert.
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// The public model's sizes.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// BLAKE3 of `bundle.json`, which names every tensor's digest: the identity of the bundle.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Element type of the FFN.
    pub fn dtype(&self) -> Dtype {
        self.file.tensor(&bundle_name(Projection::Gate, 0)).map_or(Dtype::F32, |view| view.spec().dtype)
    }

    /// A tensor of the FFN.
    ///
    /// # Errors
    /// [`Error::MissingTensors`] for a layer that the model has not.
    pub fn ffn(&self, projection: Projection, layer: usize) -> Result<View<'_>> {
        self.get(&bundle_name(projection, layer))
    }

    /// Router rows, [layers, d].
    ///
    /// # Errors
    /// None in an open bundle.
    pub fn row(&self) -> Result<Weight> {
        Ok(self.get("row")?.weight())
    }

    /// Router biases, [layers].
    ///
    /// # Errors
    /// None in an open bundle.
    pub fn bias(&self) -> Result<Weight> {
        Ok(self.get("bias")?.weight())
    }

    /// The expert in memory.
    ///
    /// # Errors
    /// None in an open bundle.
    pub fn expert(&self) -> Result<Expert> {
        let mut ffn = Weights::new();
        for layer in 0..self.config.num_layers {
            for projection in Projection::ALL {
                let name = TensorName::layer(Role::Ffn(projection), layer).to_string();
                ffn.insert(name, self.ffn(projection, layer)?.weight());
            }
        }
        Ok(Expert { ffn, row: self.row()?, bias: self.bias()? })
    }

    fn get(&self, name: &str) -> Result<View<'_>> {
        let missing = || Error::MissingTensors { place: self.path.display().to_string(), names: vec![name.to_owned()] };
        self.file.tensor(name).ok_or_else(missing)
    }

    /// Reads every byte: the tensors are those of the record, and finite.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::NotFinite`].
    pub fn verify(&self) -> Result<()> {
        let found = digests(&self.file)?;
        let place = self.path.display().to_string();
        for (name, found) in &found {
            match self.info.tensors.get(name) {
                Some(recorded) if recorded == found => {}
                Some(recorded) => {
                    return Err(Error::Corrupt { place, name: name.clone(), recorded: *recorded, found: *found });
                }
                None => {
                    let nearest = names::nearest(name, self.info.tensors.keys());
                    return Err(Error::UnknownTensor { name: name.clone(), place, nearest });
                }
            }
        }
        let gone: Vec<String> = self.info.tensors.keys().filter(|name| !found.contains_key(*name)).cloned().collect();
        if gone.is_empty() { Ok(()) } else { Err(Error::MissingTensors { place, names: gone }) }
    }

    /// Checks that the expert was trained beside this public model: sizes, tokenizer, and every frozen tensor. `public` is computed
    /// from the model's bytes, not from a record.
    ///
    /// # Errors
    /// [`Error::OtherPublicModel`], which names the tensors that differ, and [`Error::Mismatch`].
    pub fn check_public(&self, model: &ModelFolder, public: &Identity) -> Result<()> {
        if public.digest != self.info.public_digest {
            let (ours, theirs) = (&public.tensors, &self.info.public_tensors);
            let all: std::collections::BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
            let names = all.into_iter().filter(|name| ours.get(*name) != theirs.get(*name)).cloned().collect();
            return Err(Error::OtherPublicModel {
                expert: self.info.name.clone(),
                recorded: self.info.public_digest,
                found: public.digest,
                names,
            });
        }
        let mismatch = |reason: String| {
            let (one, other) = (format!("the expert `{}`", self.info.name), model.path().display().to_string());
            Err(Error::Mismatch { one, other, reason })
        };
        if *model.config() != self.config {
            return mismatch(
                "the configurations differ, though the tensors are the same: compare their config.json".into(),
            );
        }
        if public.tokenizer != self.info.tokenizer {
            let text = |digest: Option<Digest>| digest.map_or("none".to_owned(), |digest| digest.to_string());
            let (theirs, ours) = (text(self.info.tokenizer), text(public.tokenizer));
            return mismatch(format!("the tokenizers differ: the expert's is {theirs}, the public model's {ours}"));
        }
        if self.dtype() != model.dtype()? {
            return mismatch(format!("the element types differ: {} and {}", self.dtype(), model.dtype()?));
        }
        Ok(())
    }
}

/// A dense model on disk: a folder, or an expert in the place of the public FFN.
#[derive(Debug, Clone, Copy)]
pub enum Dense<'a> {
    /// As it stands.
    Folder(&'a ModelFolder),
    /// The public model with this expert's FFN (the paper's Individual rows). Not checked: see [`Bundle::check_public`].
    Expert(&'a ModelFolder, &'a Bundle),
}

impl<'a> Dense<'a> {
    /// The folder with everything but the FFN.
    pub fn folder(self) -> &'a ModelFolder {
        match self {
            Self::Folder(folder) | Self::Expert(folder, _) => folder,
        }
    }

    /// In words, for errors.
    pub fn place(self) -> String {
        match self {
            Self::Folder(folder) => folder.path().display().to_string(),
            Self::Expert(_, bundle) => bundle.path().display().to_string(),
        }
    }

    /// A tensor, by its Hugging Face name.
    ///
    /// # Errors
    /// [`Error::MissingTensors`].
    pub fn tensor(self, name: &str) -> Result<View<'a>> {
        match (self, TensorName::parse(name)) {
            (Self::Expert(_, bundle), Some(TensorName { role: Role::Ffn(projection), layer, .. })) => {
                bundle.ffn(projection, layer)
            }
            _ => self.folder().expect(name),
        }
    }

    /// The whole model in memory.
    ///
    /// # Errors
    /// None where folder and bundle belong together.
    pub fn weights(self) -> Result<Weights> {
        let names = names::tensors(self.folder().config());
        names.into_keys().map(|name| Ok((name.clone(), self.tensor(&name)?.weight()))).collect()
    }
}

/// Writes the dense model that has `bundle`'s expert as its FFN into an existing folder, tensor by tensor.
///
/// # Errors
/// As [`Bundle::check_public`] and [`Bundle::verify`], before anything is written; [`Error::Io`].
pub fn densify(public: &ModelFolder, bundle: &Bundle, out: &Path, shard_bytes: u64) -> Result<()> {
    bundle.check_public(public, &public.identity()?)?;
    bundle.verify()?;
    let model = Dense::Expert(public, bundle);
    let layout = Layout { dtype: public.dtype()?, shard_bytes };
    let spec = |shape| Spec { dtype: layout.dtype, shape };
    let specs = names::tensors(public.config()).into_iter().map(|(name, shape)| (name, spec(shape))).collect();
    hf::write_tensors(out, &specs, shard_bytes, |name, sink| sink.copy(model.tensor(name)?))?;
    hf::write_settings(out, public.config(), layout.dtype, public.tokenizer_path().as_deref())
}

#[cfg(test)]
pub(crate) mod tests;
