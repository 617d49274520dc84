//! Where the numbers come from: what only the run knows, and a digest cannot say.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One run of one recipe.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lineage {
    /// The recipe's name.
    pub recipe: String,
    /// The recipe's seed.
    pub seed: u64,
    /// The profile that was laid over it.
    pub profile: Option<String>,
    /// The program's version.
    pub flow_version: String,
    /// What the numbers were computed with.
    pub numerics: Numerics,
    /// The graph as SVG. It is put into the page as it is, so it must come from `flow_pipeline::drawing`, not from outside.
    pub svg: String,
    /// The graph as Mermaid; collapsed, if there are more than some thirty stages.
    pub mermaid: String,
    /// Every stage, inputs first.
    pub stages: Vec<StageLine>,
    /// The recipe, resolved, as JSON.
    pub recipe_text: String,
    /// BLAKE3 of that text, in hex.
    pub recipe_digest: String,
}

/// What the numbers were computed with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Numerics {
    /// Such as `cpu`.
    pub device: String,
    /// Such as `f32`.
    pub dtype: String,
    /// What a second run may be expected to give, in a sentence.
    pub promise: String,
}

/// One stage.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StageLine {
    /// Such as `expert[rust]`.
    pub name: String,
    /// Such as `train-expert`.
    pub kind: String,
    /// The kind's version.
    pub kind_version: u32,
    /// Its key, in hex.
    pub key: String,
    /// Its artifact's digest, in hex.
    pub artifact: String,
    /// Size of the artifact.
    pub bytes: u64,
    /// How long it took when it was made.
    pub seconds: f64,
    /// When it was made, RFC 3339.
    pub started: Option<String>,
    /// When its process had ended, RFC 3339.
    pub ended: Option<String>,
    /// Where it was made.
    pub host: Option<String>,
    /// (role, digest of the artifact).
    pub inputs: Vec<(String, String)>,
    /// What it read from outside of flow.
    pub sources: Vec<SourceLine>,
    /// Its params with defaults filled in.
    pub params: Value,
    /// Whether this run found it in the cache.
    pub cached: bool,
    /// Where an artifact of an older key stands for it, since a person said so. Then `inputs`, `sources`, `params` and `kind_version`
    /// are what that artifact was made of.
    pub accepted: Option<AcceptedLine>,
}

/// A person's word in place of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptedLine {
    /// Why what is different makes no difference.
    pub reason: String,
    /// The key that the artifact was made for, in hex.
    pub made_for: Option<String>,
    /// What is different, each in a line.
    pub changes: Vec<String>,
}

/// A source outside of flow.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceLine {
    /// Digest of its content, in hex.
    pub digest: String,
    /// Where it is, in the recipe's own words.
    pub place: String,
    /// What it is: the part of the key of whatever reads it, as JSON.
    pub identity: String,
}

impl Lineage {
    /// Every source with the stages that read it, by place.
    pub(super) fn sources(&self) -> Vec<(&SourceLine, Vec<&str>)> {
        let mut read: BTreeMap<(&str, &str), (&SourceLine, Vec<&str>)> = BTreeMap::new();
        for stage in &self.stages {
            for source in &stage.sources {
                let entry = read.entry((&source.place, &source.digest)).or_insert_with(|| (source, Vec::new()));
                entry.1.push(&stage.name);
            }
        }
        read.into_values().collect()
    }

    /// The stage that made an artifact.
    pub(super) fn maker(&self, artifact: &str) -> Option<&StageLine> {
        self.stages.iter().find(|stage| stage.artifact == artifact)
    }

    /// Stages that a person accepted.
    pub(super) fn accepted(&self) -> impl Iterator<Item = (&StageLine, &AcceptedLine)> {
        self.stages.iter().filter_map(|stage| Some((stage, stage.accepted.as_ref()?)))
    }

    /// What the run was, in a sentence.
    pub(super) fn summary(&self) -> String {
        let profile = self.profile.as_ref().map_or_else(|| "no profile".to_owned(), |name| format!("profile {name}"));
        let cached = self.stages.iter().filter(|stage| stage.cached).count();
        let seconds = self.stages.iter().map(|stage| stage.seconds).sum::<f64>();
        format!(
            "Recipe {}, {profile}, seed {}, flow {}. {} stages, {} of them from the cache; making all of them took {} of work.",
            self.recipe,
            self.seed,
            self.flow_version,
            self.stages.len(),
            cached,
            duration(seconds)
        )
    }

    pub(super) fn numerics_sentence(&self) -> String {
        format!("Computed on {} in {}. {}", self.numerics.device, self.numerics.dtype, self.numerics.promise)
    }
}

/// The first letters of a digest: enough to tell artifacts of one run apart.
pub(super) fn short(digest: &str) -> String {
    digest.chars().take(12).collect()
}

/// Time that a person can take in.
pub(super) fn duration(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "–".to_owned();
    }
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    let (hours, minutes) = (whole / 3600, whole / 60 % 60);
    if hours == 0 { format!("{minutes} min {:02} s", whole % 60) } else { format!("{hours} h {minutes:02} min") }
}

/// Bytes that a person can take in, in binary units.
pub(super) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB", "TiB"] {
        if value < 1023.95 || unit == "TiB" {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{bytes} B")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_readable() {
        assert_eq!(
            [0, 1023, 1024, 1_048_576, 1 << 50].map(size),
            ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "1024.0 TiB"]
        );
        assert_eq!(
            [0.04, 59.94, 61.0, 3600.0, 90061.0].map(duration),
            ["0.0 s", "59.9 s", "1 min 01 s", "1 h 00 min", "25 h 01 min"]
        );
        assert_eq!(duration(f64::NAN), "–");
    }
}
