//! The last key of each stage of a recipe, so that `flow plan` can say what changed since. Local, mutable, advisory: it is
//! never asked whether a stage must run.
//!
//! One file a recipe, a line a change, the last line of a stage counts: a run of ten thousand cached stages writes nothing.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    sync::{Mutex, PoisonError},
};

use crate::{
    cache::{Cache, absent},
    digest::StageKey,
    error::{Result, during},
    failpoint,
    layout::file_name,
    plain,
    staged::replace,
};

/// Recipe → stage → key, as far as they have been asked for.
#[derive(Debug, Default)]
pub(crate) struct LatestKeys(Mutex<BTreeMap<String, BTreeMap<String, StageKey>>>);

/// A file with this many lines more than stages is written anew.
const SPARE: usize = 1_000;

impl Cache {
    /// The key that the stage had when it last ran or was found in the cache.
    pub fn latest(&self, recipe: &str, stage: &str) -> Result<Option<StageKey>> {
        // One file, read once: no hop to another thread for each stage.
        let stage = file_name(stage);
        self.with_latest(recipe, |keys| Ok(keys.get(&stage).copied()))
    }

    /// Remembers `key` as the last one of the stage.
    pub fn set_latest(&self, recipe: &str, stage: &str, key: &StageKey) -> Result<()> {
        let stage = file_name(stage);
        self.with_latest(recipe, |keys| {
            if keys.get(&stage) == Some(key) {
                return Ok(());
            }
            let path = self.local().latest(recipe);
            let write = || {
                failpoint::at("latest.append")?;
                fs_err::create_dir_all(path.parent().unwrap_or(&path))?;
                let mut file = plain::append(&path)?;
                // One write, so that two runs at once do not tear each other's lines.
                file.write_all(format!("{key} {stage}\n").as_bytes())?;
                failpoint::at("latest.written")
            };
            write().map_err(during(|| "write the last key of a stage"))?;
            keys.insert(stage, *key);
            Ok(())
        })
    }

    /// Length and time of the file of the last keys: while they stay, so do the keys.
    pub fn latest_stamp(&self, recipe: &str) -> Option<(u64, i64, i64)> {
        let meta = std::fs::metadata(self.local().latest(recipe)).ok()?;
        Some((meta.len(), meta.mtime(), meta.mtime_nsec()))
    }

    fn with_latest<T>(
        &self,
        recipe: &str,
        then: impl FnOnce(&mut BTreeMap<String, StageKey>) -> Result<T>,
    ) -> Result<T> {
        // Each change of the maps is whole, so those of a thread that panicked are as good as any.
        let mut recipes = self.latest_keys().0.lock().unwrap_or_else(PoisonError::into_inner);
        if !recipes.contains_key(recipe) {
            recipes.insert(recipe.to_owned(), self.read_latest(recipe)?);
        }
        then(recipes.entry(recipe.to_owned()).or_default())
    }

    /// Lines that cannot be read are as good as absent.
    fn read_latest(&self, recipe: &str) -> Result<BTreeMap<String, StageKey>> {
        let path = self.local().latest(recipe);
        let read = match plain::read(&path) {
            Err(error) if plain::is_no_file(&error) => {
                let aside = self.local().aside("latest", &path);
                tracing::warn!(%error, aside = %aside.display(), "set aside");
                fs_err::create_dir_all(aside.parent().unwrap_or(&aside))
                    .and_then(|()| fs_err::rename(&path, aside))
                    .map(|()| None)
            }
            read => absent(read),
        };
        let text = read.map_err(during(|| "read the last keys of a recipe"))?.unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut keys = BTreeMap::new();
        let mut lines = 0;
        for line in text.lines() {
            lines += 1;
            if let Some((key, stage)) = line.split_once(' ')
                && let Ok(key) = key.parse()
            {
                keys.insert(stage.to_owned(), key);
            }
        }
        let torn = !text.is_empty() && !text.ends_with('\n');
        if torn || lines > 2 * keys.len() + SPARE {
            let mut text = String::new();
            for (stage, key) in &keys {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{key} {stage}");
            }
            if let Err(error) = replace(&self.local().tmp(), &path, text.as_bytes()) {
                tracing::warn!(%error, "the last keys of a recipe could not be written anew");
            }
        }
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_counts_and_the_file_does_not_grow_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Cache::open_local(dir.path()).unwrap();
        let cache = open();
        let key = |i: u32| StageKey::of(&i.to_le_bytes());
        for i in 0..1_500 {
            cache.set_latest("r", "a", &key(i % 2)).unwrap();
            cache.set_latest("r", "expert[news]", &key(7)).unwrap();
        }
        let file = cache.local().latest("r");
        assert_eq!(fs_err::read_to_string(&file).unwrap().lines().count(), 1_501);
        assert_eq!(open().latest("r", "a").unwrap(), Some(key(1)));
        assert_eq!(fs_err::read_to_string(&file).unwrap().lines().count(), 2);
        assert_eq!(open().latest("r", "expert[news]").unwrap(), Some(key(7)));
        assert_eq!(open().latest("other", "a").unwrap(), None);

        fs_err::OpenOptions::new().append(true).open(&file).unwrap().write_all(b"0123 a").unwrap();
        let cache = open();
        assert_eq!(cache.latest("r", "a").unwrap(), Some(key(1)));
        cache.set_latest("r", "a", &key(2)).unwrap();
        assert_eq!(open().latest("r", "a").unwrap(), Some(key(2)), "a torn line takes no other with it");
    }
}
