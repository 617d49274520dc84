//! Bytes of a whole document.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Page, Rule, Verdict};

/// Drops documents that are too short to teach anything, or so long that they are data. Reasons: `too_short`, `too_long`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Length {
    /// Fewest bytes, spaces at the ends not counted.
    pub min_bytes: u64,
    /// Most bytes.
    pub max_bytes: u64,
}

impl Default for Length {
    fn default() -> Self {
        Length { min_bytes: 100, max_bytes: 16 << 20 }
    }
}

impl Rule for Length {
    fn check(&self, page: &Page<'_>) -> Verdict {
        if (page.text.trim().len() as u64) < self.min_bytes {
            return Verdict::Drop("too_short");
        }
        if page.text.len() as u64 > self.max_bytes { Verdict::Drop("too_long") } else { Verdict::Keep }
    }
}
