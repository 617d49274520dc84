//! Documents that are there more than once: the same text ([`exact`]), or nearly the same ([`minhash`]). Of each group the first
//! in the order of reading stays.

pub mod exact;
pub mod minhash;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use minhash::MinHash;

/// Which duplicates are dropped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Dedup {
    /// Drop documents whose normalised text was there before. Reason: `exact_duplicate`.
    pub exact: bool,
    /// Drop documents that are nearly the same as an earlier one; `null` turns it off. Reason: `near_duplicate`.
    pub minhash: Option<MinHash>,
}

impl Default for Dedup {
    fn default() -> Self {
        Dedup { exact: true, minhash: Some(MinHash::default()) }
    }
}
