//! The names of a recipe: valid by construction, and one macro so that parsing, display, serde and schema cannot differ.
//!
//! A name is `[a-z][a-z0-9_-]*`, at most 64 characters: safe in a path, a URL, a shell, a TeX label and a `[…]` suffix.

use std::borrow::{Borrow, Cow};
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

/// Those of the `known` names that are most like `name`, the most similar first; none where nothing is.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>, most: usize) -> Vec<&'a str> {
    let similar = known.map(|known| (strsim::jaro_winkler(name, known), known));
    let mut similar: Vec<(f64, &str)> = similar.filter(|(similarity, _)| *similarity > 0.7).collect();
    similar.sort_by(|a, b| b.0.total_cmp(&a.0));
    similar.into_iter().take(most).map(|(_, known)| known).collect()
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
        let known = ["report", "expert", "expert[sea]", "embed"];
        assert_eq!(nearest("exprt", known.into_iter(), 2), ["expert", "expert[sea]"]);
        assert_eq!(nearest("zzz", known.into_iter(), 2), [""; 0]);
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
