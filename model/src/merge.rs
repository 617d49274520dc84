//! Merging experts into one model, and taking them out again (FLEXOLMO §5).
//!
//! ```text
//! public model ─┬─ embedding, attention, norms, output layer ──────────────▶ as they are
//!               └─ FFN ────────────▶ expert 0 ─┐
//! bundle 1, 2, … ─ FFN ───────────▶ expert i ──┴─▶ mixture in every layer; row i, bias i of the router
//! ```
//!
//! No number is changed and nothing is trained: tensors go from file to file. Before the first byte is written, every byte of the
//! inputs has been read: each bundle was trained beside exactly this public model (by digest), its tensors are those of its record,
//! and all numbers are finite. Memory is that of a few megabytes of mapped pages, whatever the size of the models.
//!
//! Beside the model stands `merge.json`, [`MergeRecord`]: who is in it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::bundle::{Bundle, rows_by_layer};
use crate::config::{Mixture, ModelConfig, PUBLIC};
use crate::error::{Error, Result};
use crate::hf::{self, ModelFolder};
use crate::json;
use crate::names::{self, Role, TensorName};
use crate::safetensors::{Dtype, Spec, View};
use crate::weights::{Digest, Weight};

/// `merge.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MergeRecord {
    /// Version of the format: 1.
    pub format: u64,
    /// Names of the experts beside the public one, in the router's order.
    pub experts: Vec<String>,
    /// Digest of the public model's tensors.
    pub public_digest: Digest,
    /// Digest of the public router row, [layers, d] as f32.
    pub public_row: Digest,
    /// Digest of each expert's bundle.
    pub bundles: BTreeMap<String, Digest>,
}

/// Where one tensor of the output comes from.
enum Source<'a> {
    /// Another file, as it is.
    Copy(View<'a>),
    /// Parts that stand one after another: a router's rows or biases, in the output's own type.
    Parts(Vec<Vec<u8>>),
}

/// A model that is planned and not yet written.
struct Output<'a> {
    config: ModelConfig,
    tensors: BTreeMap<String, (Spec, Source<'a>)>,
}

impl Output<'_> {
    fn write(&self, out: &Path, shard_bytes: u64, dtype: Dtype, tokenizer: Option<&Path>) -> Result<()> {
        let specs = self.tensors.iter().map(|(name, (spec, _))| (name.clone(), spec.clone())).collect();
        hf::write_tensors(out, &specs, shard_bytes, |name, sink| match self.tensors.get(name) {
            Some((_, Source::Copy(view))) => sink.copy(*view),
            Some((_, Source::Parts(parts))) => parts.iter().try_for_each(|part| sink.bytes(part)),
            None => Ok(()),
        })?;
        hf::write_settings(out, &self.config, dtype, tokenizer)
    }

    /// Adds the router of every layer; the bias only where it does something somewhere, so that a model whose biases are all without
    /// effect is the one that transformers reads without a word, and taking out the last biased expert gives the model without it.
    fn add_router(&mut self, dtype: Dtype, rows: Vec<Vec<Vec<u8>>>, biases: Vec<Vec<f32>>) {
        let (experts, d) = (self.config.experts.as_ref().map_or(0, |mixture| mixture.count), self.config.hidden_size);
        for (layer, rows) in rows.into_iter().enumerate() {
            let name = TensorName::layer(Role::Router, layer).to_string();
            self.tensors.insert(name, (Spec { dtype, shape: vec![experts, d] }, Source::Parts(rows)));
        }
        // min(b, 0): only what is negative is used.
        if biases.iter().flatten().any(|bias| *bias < 0.0) {
            for (layer, biases) in biases.into_iter().enumerate() {
                let name = TensorName::layer(Role::RouterBias, layer).to_string();
                let bytes = biases.iter().flat_map(|bias| bias.to_le_bytes()).collect();
                // In f32 whatever the rest is in: it is a few numbers, and rounding them would undo the identity of take-out.
                let spec = Spec { dtype: Dtype::F32, shape: vec![experts] };
                self.tensors.insert(name, (spec, Source::Parts(vec![bytes])));
            }
        }
    }
}

/// Merges `bundles`, in their order, with the public model into the existing folder `out`. `public_row` is the router row that all
/// experts were trained beside, [d] or [layers, d]; `top_k` the number of experts a token is sent to, or all where there are fewer.
///
/// # Errors
/// Before anything is written: [`Error::OtherPublicModel`], [`Error::Mismatch`], [`Error::Corrupt`], [`Error::NotFinite`],
/// [`Error::Expert`] for two bundles of one name. While writing: [`Error::Io`].
pub fn merge(
    public: &ModelFolder,
    public_row: &Weight,
    bundles: &[Bundle],
    top_k: usize,
    out: &Path,
    shard_bytes: u64,
) -> Result<MergeRecord> {
    let place = public.path().display().to_string();
    let config = public.config();
    if config.experts.is_some() {
        return Err(Error::Config {
            place,
            reason: "it is a mixture already; experts are merged with a dense model".into(),
        });
    }
    let mut names = BTreeSet::from([PUBLIC]);
    if let Some(bundle) = bundles.iter().find(|bundle| !names.insert(bundle.name())) {
        let reason =
            format!("it is given twice, or is named `{PUBLIC}`; the second one is {}", bundle.path().display());
        return Err(Error::Expert { name: bundle.name().to_owned(), reason });
    }
    let mixture = Mixture::of(bundles.iter().map(|bundle| bundle.name().to_owned()), top_k);
    let config = config.with_experts(mixture);
    config.validate("the merged model")?;

    // Everything is read and compared before a byte is written.
    let (dtype, identity) = (public.dtype()?, public.identity()?);
    let public_row = rows_by_layer(&config, public_row)?;
    let public_row_digest = public_row.digest();
    for bundle in bundles {
        bundle.check_public(public, &identity)?;
        if bundle.info().public_row != public_row_digest {
            let recorded = bundle.info().public_row;
            return Err(Error::Mismatch {
                one: format!("the expert `{}`", bundle.name()),
                other: place,
                reason: format!(
                    "it was trained beside another public router row: its digest is {recorded}, of the given one {public_row_digest}"
                ),
            });
        }
    }
    bundles.par_iter().try_for_each(Bundle::verify)?;

    let output = plan(public, &public_row, bundles, config, dtype)?;
    output.write(out, shard_bytes, dtype, public.tokenizer_path().as_deref())?;
    let record = MergeRecord {
        format: 1,
        experts: bundles.iter().map(|bundle| bundle.name().to_owned()).collect(),
        public_digest: identity.digest,
        public_row: public_row_digest,
        bundles: bundles.iter().map(|bundle| (bundle.name().to_owned(), bundle.digest())).collect(),
    };
    json::write(&out.join("merge.json"), &record)?;
    Ok(record)
}

fn plan<'a>(
    public: &'a ModelFolder,
    public_row: &Weight,
    bundles: &'a [Bundle],
    config: ModelConfig,
    dtype: Dtype,
) -> Result<Output<'a>> {
    let (layers, d) = (config.num_layers, config.hidden_size);
    let mut tensors = BTreeMap::new();
    for (name, shape) in names::typed_tensors(&config) {
        let view = match name.role {
            Role::Router => continue,
            Role::Expert(projection) if name.expert == 0 => {
                public.expect(&TensorName::layer(Role::Ffn(projection), name.layer).to_string())?
            }
            Role::Expert(projection) => bundles[name.expert - 1].ffn(projection, name.layer)?,
            _ => public.expect(&name.to_string())?,
        };
        tensors.insert(name.to_string(), (Spec { dtype, shape }, Source::Copy(view)));
    }
    let mut rows = vec![public_row.data.clone()];
    let mut biases = vec![vec![0.0; layers]];
    for bundle in bundles {
        rows.push(bundle.row()?.data);
        biases.push(bundle.bias()?.data);
    }
    let row = |layer: usize, rows: &[f32]| {
        let mut bytes = vec![];
        dtype.encode(&rows[layer * d..(layer + 1) * d], &mut bytes);
        bytes
    };
    let rows = (0..layers).map(|layer| rows.iter().map(|rows| row(layer, rows)).collect()).collect();
    let biases = (0..layers).map(|layer| biases.iter().map(|biases| biases[layer]).collect()).collect();
    let mut output = Output { config, tensors };
    output.add_router(dtype, rows, biases);
    Ok(output)
}

/// Writes the model without the experts `names` into the existing folder `out`: byte for byte what a merge without them gives
/// (with the same `shard_bytes`).
///
/// # Errors
/// [`Error::Expert`] for a name that is not in the model, given twice, or `public`; [`Error::NotFinite`]; [`Error::Io`].
pub fn take_out(model: &ModelFolder, names: &[&str], out: &Path, shard_bytes: u64) -> Result<()> {
    let place = model.path().display().to_string();
    let Some(mixture) = &model.config().experts else {
        return Err(Error::Config { place, reason: "it is a dense model; there is no expert to take out".into() });
    };
    let mut gone = BTreeSet::new();
    for name in names {
        let reason = match mixture.index(name) {
            None => format!("the model has {}", mixture.names.join(", ")),
            Some(0) => "the public expert stays: all others were trained beside it".into(),
            Some(_) if !gone.insert(*name) => "it is named twice".into(),
            Some(_) => continue,
        };
        return Err(Error::Expert { name: (*name).to_owned(), reason });
    }
    let kept: Vec<usize> = (0..mixture.count).filter(|e| !gone.contains(mixture.names[*e].as_str())).collect();
    let rest = Mixture::of(kept.iter().skip(1).map(|e| mixture.names[*e].clone()), mixture.top_k);
    let config = model.config().with_experts(rest);
    let dtype = model.dtype()?;

    let mut tensors = BTreeMap::new();
    for (name, shape) in names::typed_tensors(&config) {
        let from = match name.role {
            Role::Router => continue,
            Role::Expert(_) => TensorName { expert: kept[name.expert], ..name },
            _ => name,
        };
        let view = model.expect(&from.to_string())?;
        tensors.insert(name.to_string(), (Spec { dtype, shape }, Source::Copy(view)));
    }
    let (mut rows, mut biases) = (vec![], vec![]);
    for layer in 0..config.num_layers {
        let view = model.expect(&TensorName::layer(Role::Router, layer).to_string())?;
        let width = config.hidden_size * view.spec().dtype.bytes();
        rows.push(kept.iter().map(|e| view.bytes()[e * width..(e + 1) * width].to_vec()).collect());
        let bias = model.tensor(&TensorName::layer(Role::RouterBias, layer).to_string());
        let bias = bias.map_or_else(|| vec![0.0; mixture.count], |view| view.weight().data);
        biases.push(kept.iter().map(|e| bias[*e]).collect());
    }
    let mut output = Output { config, tensors };
    output.add_router(dtype, rows, biases);
    output.write(out, shard_bytes, dtype, model.tokenizer_path().as_deref())?;

    let record = model.path().join("merge.json");
    if record.is_file() {
        let mut record: MergeRecord = json::read(&record)?;
        record.experts.retain(|name| !gone.contains(name.as_str()));
        record.bundles.retain(|name, _| !gone.contains(name.as_str()));
        json::write(&out.join("merge.json"), &record)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
