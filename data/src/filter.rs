//! Which documents are worth keeping. One rule family a file, each with its paper; a rule gives the name of the first thing that
//! it finds wrong, and the tally counts by that name. All rules of a document share one split into words ([`Page`]).

pub mod characters;
pub mod generated;
pub mod gopher_quality;
pub mod gopher_repetition;
pub mod length;
pub mod lines;
mod page;
mod spacy;

#[cfg(test)]
mod conformance;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use page::{Page, Words};

/// One entry of `filters`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Filter {
    /// Bytes of the document.
    Length(length::Length),
    /// Bytes of lines.
    Lines(lines::Lines),
    /// Shares of letters and digits.
    Characters(characters::Characters),
    /// Marks of generated files.
    Generated(generated::Generated),
    /// Gopher's quality rules.
    GopherQuality(gopher_quality::GopherQuality),
    /// Gopher's repetition rules.
    GopherRepetition(gopher_repetition::GopherRepetition),
}

/// Which of the published programs a rule family follows; they differ under one name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Flavour {
    /// `huggingface/datatrove` 0.10 (`FineWeb`).
    #[default]
    Datatrove,
    /// DCLM and `allenai/datamap-rs`.
    Dclm,
    /// `allenai/dolma` 1.2.
    Dolma,
}

/// What a rule says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is wrong.
    Keep,
    /// Leave the document out, for this reason.
    Drop(&'static str),
    /// Go on with this text.
    Rewrite(String),
}

/// A rule family with its thresholds.
pub trait Rule: Send + Sync {
    /// Looks at one document.
    fn check(&self, page: &Page<'_>) -> Verdict;
}

impl Filter {
    /// The rule behind an entry: one line a family.
    pub fn rule(&self) -> &dyn Rule {
        match self {
            Filter::Length(rule) => rule,
            Filter::Lines(rule) => rule,
            Filter::Characters(rule) => rule,
            Filter::Generated(rule) => rule,
            Filter::GopherQuality(rule) => rule,
            Filter::GopherRepetition(rule) => rule,
        }
    }
}

/// Runs the filters in their order; the text that is left, or the reason of the first that drops it.
pub fn apply(filters: &[Filter], mut text: String) -> Result<String, &'static str> {
    let mut next = 0;
    while next < filters.len() {
        let page = Page::new(&text);
        let mut rewritten = None;
        while next < filters.len() && rewritten.is_none() {
            match filters[next].rule().check(&page) {
                Verdict::Keep => {}
                Verdict::Drop(reason) => return Err(reason),
                Verdict::Rewrite(text) => rewritten = Some(text),
            }
            next += 1;
        }
        if let Some(rewritten) = rewritten {
            text = rewritten;
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_wins_and_unknown_names_are_refused() {
        let filters: Vec<Filter> =
            serde_json::from_str(r#"[{"length":{"min_bytes":3}},{"characters":{}},{"generated":{}}]"#).unwrap();
        assert_eq!(apply(&filters, "ab".into()), Err("too_short"));
        assert_eq!(apply(&filters, "-----------".into()), Err("few_alphanumeric"));
        assert_eq!(apply(&filters, "abcdef".into()), Ok("abcdef".into()));
        assert!(serde_json::from_str::<Filter>(r#"{"length":{"min":3}}"#).is_err());
        assert!(serde_json::from_str::<Filter>(r#"{"lenght":{}}"#).is_err());
    }
}
