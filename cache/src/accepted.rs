//! Records that a person's word put in the place of a run: asked for of each stage of a plan, and hardly ever there.
//!
//! What is known by heart (`known.rs`) was made and not accepted, so that a plan over ten thousand stages need not read ten
//! thousand records to say so.

use crate::{cache::Cache, digest::StageKey, error::Result};

impl Cache {
    /// The reason for which a person kept an older artifact for `key`, if that is why it is on record.
    pub async fn accepted(&self, key: &StageKey) -> Result<Option<String>> {
        if self.known().has(key) {
            return Ok(None);
        }
        Ok(self.record(key).await?.and_then(|record| record.accepted))
    }
}
