//! The last key of a stage of a recipe, so that `flow plan` can say what changed since. Local, mutable, advisory: it is
//! never asked whether a stage must run.

use crate::{
    cache::{Cache, absent, blocking},
    digest::StageKey,
    error::{Result, during},
    staged::replace,
};

impl Cache {
    /// The key that the stage had when it last ran or was found in the cache.
    pub async fn latest(&self, recipe: &str, stage: &str) -> Result<Option<StageKey>> {
        let path = self.local().latest(recipe, stage);
        blocking(move || {
            let text = absent(fs_err::read_to_string(path)).map_err(during(|| "read the last key of a stage"))?;
            // Damaged is as good as absent.
            Ok(text.and_then(|text| text.trim_end().parse().ok()))
        })
        .await
    }

    /// Remembers `key` as the last one of the stage.
    pub async fn set_latest(&self, recipe: &str, stage: &str, key: &StageKey) -> Result<()> {
        let (tmp, path, text) = (self.local().tmp(), self.local().latest(recipe, stage), format!("{key}\n"));
        blocking(move || replace(&tmp, &path, text.as_bytes()).map_err(during(|| "write the last key of a stage")))
            .await
    }
}
