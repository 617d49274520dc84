//! Router rows from the embeddings of domain samples (FLEXOLMO §4). The trainer of an expert and the coordinator who merges
//! compute the public row alike, from the same params; the merge checks by digest that they did.

use std::path::Path;

use flow_model::{
    bundle::read_row,
    embed::{router_row, scaled_row},
    weights::Weight,
};
use flow_pipeline::{Misfit, StageError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::engine::model;

/// The file of an embedding's artifact.
pub(crate) const FILE: &str = "row.safetensors";

/// How an embedding becomes a router row.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RowParams {
    /// Length of a row. Short rows let the router begin undecided: hidden states are long, so its softmax saturates early.
    pub norm: f64,
    /// Whether the public embedding is subtracted, so that a row says what is particular to its domain and the public row is
    /// 0. Mean hidden states are nearly parallel as they are. Every owner knows the public one, so nobody has to talk.
    pub center: bool,
}

impl Default for RowParams {
    fn default() -> Self {
        Self { norm: 1.0, center: true }
    }
}

impl RowParams {
    pub(crate) fn check(self) -> Result<(), Misfit> {
        if self.norm.is_finite() && self.norm > 0.0 {
            return Ok(());
        }
        Err(Misfit::param("row.norm", format!("`row.norm` is {}; a length is above 0", self.norm)))
    }

    /// The public row from the public embedding's folder.
    pub(crate) fn public(self, embedding: &Path) -> Result<Weight, StageError> {
        let mean = read(embedding)?;
        let row = if self.center { vec![0.0; mean.len()] } else { scaled_row(&mean, self.norm) };
        weight(row)
    }

    /// A domain's row from its own embedding and the public one.
    pub(crate) fn own(self, embedding: &Path, public: &Path) -> Result<Weight, StageError> {
        let own = read(embedding)?;
        let row = if self.center {
            router_row(&own, &read(public)?, self.norm).map_err(model)?
        } else {
            scaled_row(&own, self.norm)
        };
        weight(row)
    }
}

fn read(embedding: &Path) -> Result<Vec<f32>, StageError> {
    Ok(read_row(&embedding.join(FILE)).map_err(model)?.data)
}

fn weight(row: Vec<f32>) -> Result<Weight, StageError> {
    Weight::new(vec![row.len()], row).map_err(model)
}
