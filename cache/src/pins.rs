//! Names that a person gave to artifacts: what is pinned stays, whatever a collection is told to keep.
//!
//! One small file a pin, written whole or not at all; local, like collections.

use serde::{Deserialize, Serialize};

use crate::{
    cache::{Cache, absent, blocking},
    digest::{ArtifactDigest, StageKey},
    error::{Error, Result, during},
    plain,
    staged::replace,
};

/// A pinned artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    /// What a person calls it.
    pub name: String,
    /// What stays.
    pub artifact: ArtifactDigest,
    /// The key whose record led to it, if one did: its log stays too.
    pub key: Option<StageKey>,
    /// When it was pinned, RFC 3339.
    pub since: String,
}

impl Cache {
    /// Pins an artifact; a pin of this name is replaced and returned.
    pub async fn pin(&self, pin: &Pin) -> Result<Option<Pin>> {
        let old = self.pins().await?.into_iter().find(|known| known.name == pin.name);
        let mut text = serde_json::to_vec_pretty(pin)
            .map_err(|source| Error::io(format!("write pin `{}`", pin.name), std::io::Error::other(source)))?;
        text.push(b'\n');
        let (tmp, path) = (self.local().tmp(), self.local().pin(&pin.name));
        blocking(move || replace(&tmp, &path, &text).map_err(during(|| "write a pin"))).await?;
        Ok(old)
    }

    /// Takes a pin away; `false` if there was none of this name.
    pub async fn unpin(&self, name: &str) -> Result<bool> {
        let path = self.local().pin(name);
        blocking(move || Ok(absent(fs_err::remove_file(path)).map_err(during(|| "remove a pin"))?.is_some())).await
    }

    /// All pins, by name. One that does not read is an error: a collection must not guess what a person wanted to keep.
    pub async fn pins(&self) -> Result<Vec<Pin>> {
        let folder = self.local().pins();
        blocking(move || {
            let Some(entries) = absent(fs_err::read_dir(&folder)).map_err(during(|| "list the pins"))? else {
                return Ok(Vec::new());
            };
            let mut pins: Vec<Pin> = Vec::new();
            for entry in entries {
                let path = entry.map_err(during(|| "list the pins"))?.path();
                let Some(text) = absent(plain::read(&path)).map_err(during(|| "read a pin"))? else { continue };
                let pin = serde_json::from_slice(&text).map_err(|source| {
                    let what = format!("read the pin {}; remove the file if it is damaged", path.display());
                    Error::io(what, std::io::Error::other(source))
                })?;
                pins.push(pin);
            }
            pins.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(pins)
        })
        .await
    }
}
