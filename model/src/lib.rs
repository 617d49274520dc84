//! `OLMo` 2 and `FlexOlmo`: models from weights, weights from training, and what is made of weights without training.
//!
//! ```text
//!   config, init ─▶ Weights ─▶ Model ─┬─▶ train: batch ─ loss ─ gradients ─ clip ─ AdamW ─▶ TrainState ─▶ checkpoint
//!        hf  ◀───────▶ │              ├─▶ embed: documents ─▶ router row
//!                       │              ├─▶ generate: prompt ─▶ tokens
//!                      ▼              └─▶ score: requests ─▶ log-probabilities
//!            bundle, merge, soup          (all three over ops: fused kernels on the CPU, burn's own elsewhere)
//! ```

pub mod config;
pub mod count;
pub mod error;
pub mod json;
pub mod lr;
pub mod names;
pub mod preset;
pub mod weights;

// files
pub mod bundle;
pub mod checkpoint;
pub mod hf;
pub mod merge;
pub mod safetensors;
pub mod soup;
pub mod upcycle;
// end of files

// compute
pub mod adamw;
mod backward;
mod clip;
pub mod embed;
mod flexolmo;
pub mod freeze;
pub mod generate;
pub mod init;
mod kv_cache;
pub mod loss;
pub mod mask;
pub mod numerics;
pub mod olmo2;
mod ops;
mod rope;
pub mod score;
pub mod spike;
pub mod state;
pub mod train;
// end of compute

pub use error::{Error, Result};
