//! What a plan may know of the cache.

use async_trait::async_trait;
use flow_cache::{ArtifactDigest, Cache, StageKey};
use serde::Deserialize;

use crate::{error::Result, key::KeyParts, names::StageId};

/// Questions that a plan asks.
#[async_trait]
pub trait Probe: Send + Sync {
    /// The artifact of this key, if it is on record and all its bytes are there.
    async fn hit(&self, key: &StageKey) -> Result<Option<ArtifactDigest>>;
    /// Whether there is a record of this key, even if bytes are missing.
    async fn is_recorded(&self, key: &StageKey) -> Result<bool>;
    /// The parts of the key with which a stage of this name last ended.
    async fn last(&self, stage: &StageId) -> Result<Option<KeyParts>>;
}

/// The answers of a real store.
pub struct CacheProbe<'a> {
    /// The store.
    pub cache: &'a Cache,
    /// The recipe's name: stages of different recipes may share a name.
    pub recipe: &'a str,
}

#[async_trait]
impl Probe for CacheProbe<'_> {
    async fn hit(&self, key: &StageKey) -> Result<Option<ArtifactDigest>> {
        Ok(self.cache.hit_artifact(key).await?)
    }

    async fn is_recorded(&self, key: &StageKey) -> Result<bool> {
        Ok(self.cache.record(key).await?.is_some())
    }

    async fn last(&self, stage: &StageId) -> Result<Option<KeyParts>> {
        let Some(key) = self.cache.latest(self.recipe, &stage.to_string())? else { return Ok(None) };
        let record = self.cache.record(&key).await?;
        // A record of an older version may have parts that no longer read: then there is nothing to compare with.
        Ok(record.and_then(|record| KeyParts::deserialize(record.parts).ok()))
    }
}
