//! Tensors over one file, or over several with an index.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;

use crate::error::Result;
use crate::json;
use crate::safetensors::{Sink, Spec, Writer};

/// Writes tensors into `folder`: `model.safetensors`, or where that would be larger than `shard_bytes`, numbered files and
/// `model.safetensors.index.json`. Names are dealt out in sorted order, so the same tensors always give the same files. `fill` is called
/// once for each tensor.
///
/// # Errors
/// [`crate::Error::Io`], [`crate::Error::WriterMisused`], and those of `fill`.
pub fn write_tensors(
    folder: &Path,
    specs: &BTreeMap<String, Spec>,
    shard_bytes: u64,
    mut fill: impl FnMut(&str, &mut Sink<'_>) -> Result<()>,
) -> Result<()> {
    let shards = deal(specs, shard_bytes);
    let count = shards.len();
    let file_name = |i: usize| match count {
        1 => "model.safetensors".to_owned(),
        count => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
    };
    let mut weight_map = BTreeMap::new();
    for (i, shard) in shards.iter().enumerate() {
        let mut writer = Writer::create(&folder.join(file_name(i)), shard)?;
        while let Some((name, _)) = writer.next() {
            let name = name.to_owned();
            writer.tensor(&name, |sink| fill(&name, sink))?;
        }
        writer.finish()?;
        weight_map.extend(shard.keys().map(|name| (name.clone(), file_name(i))));
    }
    if count > 1 {
        let total: u64 = specs.values().filter_map(Spec::bytes).sum();
        let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
        json::write(&folder.join("model.safetensors.index.json"), &index)?;
    }
    Ok(())
}

/// At least one shard, even of nothing: a folder without a file of tensors is no model.
fn deal(specs: &BTreeMap<String, Spec>, limit: u64) -> Vec<BTreeMap<String, Spec>> {
    let mut shards = vec![BTreeMap::new()];
    let mut filled = 0_u64;
    for (name, spec) in specs {
        let bytes = spec.bytes().unwrap_or(u64::MAX);
        if filled > 0 && filled.saturating_add(bytes) > limit {
            shards.push(BTreeMap::new());
            filled = 0;
        }
        filled = filled.saturating_add(bytes);
        if let Some(shard) = shards.last_mut() {
            shard.insert(name.clone(), spec.clone());
        }
    }
    shards
}
