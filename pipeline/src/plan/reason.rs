//! Why a stage runs, in words that a person can check.

use serde::{Deserialize, Serialize};

use super::Probe;
pub use crate::key::Change;
use crate::{error::Result, key::KeyParts, names::StageId};

/// Why a stage would run, or ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Reason {
    /// No stage of this name was ever finished with this store and recipe.
    NeverRun,
    /// The same, and it was begun: it failed, or was stopped or cut off.
    Unfinished {
        /// Whether it saved something that it goes on from.
        saved: bool,
    },
    /// Something that enters the key is not what it was.
    Changed {
        /// Path, old, new.
        changes: Vec<Change>,
    },
    /// An input will be made anew first; whether this stage runs depends on what comes out.
    Upstream {
        /// The stages that it waits for.
        stages: Vec<StageId>,
    },
    /// It was done, but its bytes are no longer all in the store.
    Evicted,
    /// It was done, but the record of it is gone: forgotten, or damaged and set aside.
    Unrecorded,
    /// It was done, and shall be done again to compare.
    Recheck,
}

/// The reason for a stage with these parts, which is not on record.
pub async fn of(parts: &KeyParts, stage: &StageId, probe: &dyn Probe) -> Result<Reason> {
    Ok(match probe.last(stage).await? {
        Some(last) => Reason::Changed { changes: parts.changes_from(&last) },
        None if probe.has_ended(stage).await? => Reason::Unrecorded,
        None => match probe.begun(&parts.key()).await? {
            Some(saved) => Reason::Unfinished { saved },
            None => Reason::NeverRun,
        },
    })
}

fn shorten(text: &str) -> String {
    let text = text.trim_matches('"');
    let is_digest = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    if is_digest {
        return text.chars().take(12).collect();
    }
    if text.chars().count() > 40 { text.chars().take(39).chain(['…']).collect() } else { text.to_owned() }
}

/// A fact of a source, such as `sources[0].digest`, in words. Counted as in the recipe.
fn source(path: &str) -> Option<String> {
    let (nth, fact) = path.strip_prefix("sources[")?.split_once("].")?;
    let nth = nth.parse::<usize>().ok()?;
    Some(format!("{} of sources[{nth}]", if fact == "digest" { "content" } else { fact }))
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = match self.path.split_once('.') {
            Some(("params", param)) => param.to_owned(),
            Some(("inputs", role)) => format!("input {role}"),
            _ if self.path == "kind_version" => "kind version".to_owned(),
            _ => source(&self.path).unwrap_or_else(|| self.path.clone()),
        };
        match (&self.old, &self.new) {
            (Some(old), Some(new)) if self.path == "kind" => {
                write!(f, "the kind changed ({} → {})", shorten(old), shorten(new))
            }
            (Some(old), Some(new)) => write!(f, "{path}: {} → {}", shorten(old), shorten(new)),
            (None, Some(new)) => write!(f, "{path}: new, {}", shorten(new)),
            (Some(old), None) => write!(f, "{path}: gone, was {}", shorten(old)),
            (None, None) => write!(f, "{path}"),
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NeverRun => write!(f, "never run"),
            Self::Unfinished { saved: true } => write!(f, "begun and not finished; goes on from what it saved"),
            Self::Unfinished { saved: false } => write!(f, "begun and not finished"),
            Self::Evicted => write!(f, "its bytes are no longer in the store"),
            Self::Unrecorded => write!(f, "its record is gone"),
            Self::Recheck => write!(f, "to compare with what is on record"),
            Self::Upstream { stages } => {
                let names: Vec<String> = stages.iter().take(4).map(ToString::to_string).collect();
                write!(f, "waits for {}", names.join(", "))?;
                if stages.len() > 4 { write!(f, " and {} more", stages.len() - 4) } else { Ok(()) }
            }
            Self::Changed { changes } => {
                let lines: Vec<String> = changes.iter().take(3).map(ToString::to_string).collect();
                write!(f, "{}", lines.join("; "))?;
                if changes.len() > 3 { write!(f, "; and {} more", changes.len() - 3) } else { Ok(()) }
            }
        }
    }
}
