//! The names of a recipe: valid by construction, and one macro so that parsing, display, serde and schema cannot differ.
//!
//! A name is `[a-z][a-z0-9_-]*`, at most 64 characters: safe in a path, a URL, a shell, a TeX label and a `[…]` suffix.

use std::borrow::{Borrow, Cow};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The longest name, in characters.
pub const MAX_NAME: usize = 64;

/// What editors check names with.
pub(crate) const NAME_PATTERN: &str = "^[a-z][a-z0-9_-]{0,63}$";

/// Why a text is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {what}: {reason}")]
pub struct NameError {
    /// The text, cut to a printable length.
    pub text: String,
    /// What it should have named.
    pub what: &'static str,
    /// The rule that it breaks.
    pub reason: &'static str,
}

fn check(text: &str, what: &'static str, reserved: &[&str]) -> Result<(), NameError> {
    let mut letters = text.chars();
    let reason = match letters.next() {
        None => "it is empty",
        Some(first) if !first.is_ascii_lowercase() => "it must begin with a small letter a-z",
        _ if !letters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_') => {
            "only a-z, 0-9, `-` and `_` are allowed"
        }
        _ if text.len() > MAX_NAME => "it is longer than 64 characters",
        _ if reserved.contains(&text) => "the word is reserved",
        _ => return Ok(()),
    };
    Err(NameError { text: text.chars().take(MAX_NAME + 1).collect(), what, reason })
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, reserved: [$($word:literal),*]) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks a text and takes it as a name.
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                check(&text, $what, &[$($word),*])?;
                Ok($name(text))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        // Sound: `Ord` and `Hash` of a name are those of the `String` within.
        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                $name::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                $name::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": NAME_PATTERN, "description": $what })
            }
        }
    };
}

name_type!(
    /// The name of a recipe.
    RecipeName, "recipe name", reserved: []
);
name_type!(
    /// The name of a stage as the recipe writes it, before `foreach`.
    StageName, "stage name", reserved: []
);
name_type!(
    /// The name of one instance of a `foreach` stage: a domain, `public`, or a word of a list.
    InstanceName, "instance name", reserved: ["each"]
);

/// One stage of the expanded graph: `merge`, or `expert[rust]` where `foreach` made it. Ordered by name, then instance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StageId {
    base: StageName,
    instance: Option<InstanceName>,
}

impl StageId {
    /// A stage without `foreach`.
    pub fn plain(base: StageName) -> Self {
        StageId { base, instance: None }
    }

    /// One instance of a stage with `foreach`.
    pub fn of(base: StageName, instance: InstanceName) -> Self {
        StageId { base, instance: Some(instance) }
    }

    /// The stage's name in the recipe.
    pub fn base(&self) -> &StageName {
        &self.base
    }

    /// Which instance of it, where the stage has `foreach`.
    pub fn instance(&self) -> Option<&InstanceName> {
        self.instance.as_ref()
    }

    /// The display form without brackets, `expert.rust`: fit for file names and for labels.
    pub fn label(&self) -> String {
        match &self.instance {
            Some(instance) => format!("{}.{instance}", self.base),
            None => self.base.to_string(),
        }
    }
}

impl fmt::Display for StageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.instance {
            Some(instance) => f.pad(&format!("{}[{instance}]", self.base)),
            None => f.pad(self.base.as_str()),
        }
    }
}

impl FromStr for StageId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.strip_suffix(']').and_then(|rest| rest.split_once('[')) {
            Some((base, instance)) => Ok(StageId::of(StageName::new(base)?, InstanceName::new(instance)?)),
            None if text.contains('[') => Err(NameError {
                text: text.chars().take(MAX_NAME + 1).collect(),
                what: "stage name",
                reason: "its bracket is not closed by a `]` at the end",
            }),
            None => Ok(StageId::plain(StageName::new(text)?)),
        }
    }
}

impl TryFrom<String> for StageId {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<StageId> for String {
    fn from(id: StageId) -> String {
        id.to_string()
    }
}

/// Those of the `known` words that `name` was probably meant to be, the most similar first; of words that are as similar, the
/// first. At most a third of its letters differ, or one, and never all: two that stand the wrong way round count once.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>, most: usize) -> Vec<&'a str> {
    let letters = name.chars().count();
    // Words beyond any name's length are no typing mistake, and the distance is quadratic.
    if letters > 2 * MAX_NAME + 2 {
        return Vec::new();
    }
    let limit = (letters / 3).max(1).min(letters.saturating_sub(1));
    let distance = |known: &'a str| {
        let length = known.chars().count();
        // A word that is longer or shorter by more than that needs no closer look.
        let distance = (length.abs_diff(letters) <= limit).then(|| strsim::osa_distance(name, known))?;
        ((1..=limit).contains(&distance) && distance < length).then_some((distance, known))
    };
    let mut near: Vec<(usize, &str)> = known.filter_map(distance).collect();
    near.sort_by_key(|(distance, _)| *distance);
    near.into_iter().take(most).map(|(_, known)| known).collect()
}

/// The stage that `name` was probably meant to be: of `expert[sae]` each part is looked at by itself, so that a long name does
/// not excuse what stands in its brackets. A name without brackets may mean all instances of a `foreach`.
pub fn nearest_stage<'a>(name: &str, stages: impl Iterator<Item = &'a StageId>) -> Option<String> {
    let stages: Vec<&StageId> = stages.collect();
    let (base, instance) = match name.split_once('[') {
        Some((base, rest)) => (base, Some(rest.trim_end_matches(']'))),
        None => (name, None),
    };
    let meant = |word: &str, known: BTreeSet<&'a str>| {
        let same = known.get(word).copied();
        same.or_else(|| nearest(word, known.iter().copied(), 1).pop())
    };
    let base = meant(base, stages.iter().map(|id| id.base.as_str()).collect())?;
    let Some(instance) = instance else { return Some(base.to_owned()) };
    let of_base = stages.iter().filter(|id| id.base.as_str() == base);
    let instances: BTreeSet<&str> = of_base.filter_map(|id| id.instance.as_ref()).map(InstanceName::as_str).collect();
    if instances.is_empty() {
        return Some(base.to_owned());
    }
    Some(format!("{base}[{}]", meant(instance, instances)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "crates-nano", "flexolmo_7x7b", &"a".repeat(64)] {
            assert_eq!(RecipeName::new(good).unwrap().as_str(), good);
        }
        for (bad, reason) in [
            ("", "it is empty"),
            ("A", "it must begin with a small letter a-z"),
            ("7b", "it must begin with a small letter a-z"),
            ("a b", "only a-z, 0-9, `-` and `_` are allowed"),
            ("a/../b", "only a-z, 0-9, `-` and `_` are allowed"),
            ("é", "it must begin with a small letter a-z"),
            (&"a".repeat(65), "it is longer than 64 characters"),
        ] {
            assert_eq!(StageName::new(bad).unwrap_err().reason, reason, "{bad}");
        }
        assert_eq!(
            InstanceName::new("each").unwrap_err().to_string(),
            "`each` is no instance name: the word is reserved"
        );
        assert!(InstanceName::new("public").is_ok());
    }

    #[test]
    fn the_nearest_names_come_first() {
        let known = ["report", "export", "expert", "embed", "lr", "a", "zo"];
        let near = |word| nearest(word, known.into_iter(), 2);
        assert_eq!(near("exprt"), ["export", "expert"], "of words that are as similar, the first");
        assert_eq!(near("expret"), ["expert", "export"]);
        assert_eq!(near("exp"), [""; 0], "half of a word is no typing mistake");
        assert_eq!(near("rl"), ["lr"], "two letters that stand the wrong way round are one mistake");
        assert_eq!(near("embde"), ["embed"]);
        assert_eq!(near("expert"), ["export"], "the word itself is none that it was meant to be");
        for word in ["", "b", "x", "aa", "zzz", "toy", "\u{1b}"] {
            assert_eq!(near(word), [""; 0], "{word}");
        }
        assert_eq!(nearest(&"a".repeat(100_000), known.into_iter(), 2), [""; 0]);
    }

    #[test]
    fn each_part_of_a_stages_name_is_set_right() {
        let stages = ["report", "tokenizer", "tokens[sea]", "tokens[stars]"].map(|id| id.parse::<StageId>().unwrap());
        for (name, want) in [
            ("reprot", Some("report")),
            ("token", Some("tokens")),
            ("tokens[sae]", Some("tokens[sea]")),
            ("tokesn[star]", Some("tokens[stars]")),
            ("tokens[c]", None),
            ("tokens[", None),
            ("report[sea]", Some("report")),
            ("r", None),
            ("zzz[sea]", None),
        ] {
            assert_eq!(nearest_stage(name, stages.iter()).as_deref(), want, "{name}");
        }
    }

    #[test]
    fn stage_id_reads_what_it_shows() {
        let id: StageId = "expert[rust]".parse().unwrap();
        assert_eq!((id.base.as_str(), id.instance.as_ref().map(InstanceName::as_str)), ("expert", Some("rust")));
        assert_eq!((id.to_string(), id.label()), ("expert[rust]".into(), "expert.rust".into()));
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"expert[rust]\"");
        assert_eq!(serde_json::from_str::<StageId>("\"expert[rust]\"").unwrap(), id);
        for bad in ["expert[", "expert]", "expert[]", "expert[*]", "[rust]", "a[b][c]", "expert[each]"] {
            assert!(bad.parse::<StageId>().is_err(), "{bad}");
        }
        let plain: StageId = "expert".parse().unwrap();
        assert!(plain < id, "a plain stage sorts before the instances of its name");
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_parses_round_trips(text in ".{0,80}") {
            if let Ok(id) = text.parse::<StageId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
