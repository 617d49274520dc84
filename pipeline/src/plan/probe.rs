//! What a plan may know of the cache.

use std::collections::BTreeMap;

use async_trait::async_trait;
use flow_cache::{ArtifactDigest, Cache, Record, StageKey};
use serde::Deserialize;
use tokio::sync::OnceCell;

use crate::{
    error::{Error, Result},
    key::KeyParts,
    names::StageId,
};

/// Questions that a plan asks.
#[async_trait]
pub trait Probe: Send + Sync {
    /// The artifact of this key, if it is on record and all its bytes are there.
    async fn hit(&self, key: &StageKey) -> Result<Option<ArtifactDigest>>;
    /// The artifact that is on record for this key, even if bytes of it are missing.
    async fn recorded(&self, key: &StageKey) -> Result<Option<ArtifactDigest>>;
    /// The parts of the key with which a stage of this name last ended.
    async fn last(&self, stage: &StageId) -> Result<Option<KeyParts>>;
    /// Whether a stage of this name ever ended well, whatever became of its record.
    async fn has_ended(&self, stage: &StageId) -> Result<bool>;
    /// Where a stage with this key was begun and is not on record: whether it saved something to go on from.
    async fn begun(&self, key: &StageKey) -> Result<Option<bool>>;
    /// The parts of a key with which this artifact was made: by the stage of this name, or else by any.
    async fn made(&self, artifact: &ArtifactDigest, stage: &StageId) -> Result<Option<KeyParts>>;
}

/// The answers of a real store.
pub struct CacheProbe<'a> {
    /// The store.
    cache: &'a Cache,
    /// The recipe's name: stages of different recipes may share a name.
    recipe: &'a str,
    /// Artifact → its records, read when they are first asked for.
    made: OnceCell<BTreeMap<ArtifactDigest, Vec<Record>>>,
}

impl<'a> CacheProbe<'a> {
    /// The answers of `cache` for the stages of a recipe.
    pub fn new(cache: &'a Cache, recipe: &'a str) -> Self {
        Self { cache, recipe, made: OnceCell::new() }
    }
}

#[async_trait]
impl Probe for CacheProbe<'_> {
    async fn hit(&self, key: &StageKey) -> Result<Option<ArtifactDigest>> {
        Ok(self.cache.hit_artifact(key).await?)
    }

    async fn recorded(&self, key: &StageKey) -> Result<Option<ArtifactDigest>> {
        Ok(self.cache.record(key).await?.map(|record| record.artifact))
    }

    async fn last(&self, stage: &StageId) -> Result<Option<KeyParts>> {
        let Some(key) = self.cache.latest(self.recipe, &stage.to_string())? else { return Ok(None) };
        let record = self.cache.record(&key).await?;
        // A record of an older version may have parts that no longer read: then there is nothing to compare with.
        Ok(record.and_then(|record| KeyParts::deserialize(record.parts).ok()))
    }

    async fn has_ended(&self, stage: &StageId) -> Result<bool> {
        Ok(self.cache.latest(self.recipe, &stage.to_string())?.is_some())
    }

    async fn begun(&self, key: &StageKey) -> Result<Option<bool>> {
        Ok(self.cache.work_begun(key))
    }

    async fn made(&self, artifact: &ArtifactDigest, stage: &StageId) -> Result<Option<KeyParts>> {
        let read = || async {
            let mut made: BTreeMap<ArtifactDigest, Vec<Record>> = BTreeMap::new();
            for record in self.cache.local_records().await? {
                made.entry(record.artifact).or_default().push(record);
            }
            Ok::<_, Error>(made)
        };
        let Some(records) = self.made.get_or_try_init(read).await?.get(artifact) else { return Ok(None) };
        let name = stage.to_string();
        let record = records.iter().find(|record| record.stage == name).or(records.first());
        Ok(record.and_then(|record| KeyParts::deserialize(&record.parts).ok()))
    }
}
