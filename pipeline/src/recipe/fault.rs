//! What goes wrong while serde reads a node, and how it is put in words.

use std::fmt;

use serde::de;

use super::diagnostic::{Diagnostic, Span, nearest, nearest_help};
use super::node::{Entry, Node};

/// What went wrong, before it is put into words.
#[derive(Debug)]
pub(super) enum Fault {
    Custom(String),
    /// serde's words for what it wanted.
    Expected(String),
    UnknownField(String, &'static [&'static str]),
    UnknownVariant(String, &'static [&'static str]),
    Missing(&'static str),
}

/// An error on its way out of serde.
#[derive(Debug)]
pub(super) struct DecodeError {
    pub(super) fault: Fault,
    pub(super) span: Option<Span>,
    pub(super) found: Option<String>,
    /// Steps to the node, innermost first.
    pub(super) path: Vec<String>,
}

impl DecodeError {
    pub(super) fn new(fault: Fault) -> Self {
        DecodeError { fault, span: None, found: None, path: Vec::new() }
    }

    /// Gives the error the place of a node, unless it has a nearer one.
    pub(super) fn at(mut self, node: &Node) -> Self {
        if self.span.is_none() {
            self.span = Some(match &self.fault {
                // serde's buffered forms report an unknown field only after the keys' places are gone.
                Fault::UnknownField(field, _) => node.entry(field).map_or(node.span, |entry| entry.key.span),
                _ => node.span,
            });
            self.found = Some(node.describe());
        }
        self
    }

    pub(super) fn at_key(mut self, entry: &Entry) -> Self {
        if self.span.is_none() {
            self.span = Some(entry.key.span);
            self.found = Some(format!("`{}`", entry.key.value));
        }
        self
    }

    pub(super) fn inside(mut self, step: impl Into<String>) -> Self {
        self.path.push(step.into());
        self
    }

    /// `optimizer.lr`, or `stages[2].name`; `extra` is a last step.
    fn shown_path(&self, extra: Option<&str>) -> String {
        let mut out = String::new();
        for step in self.path.iter().rev().map(String::as_str).chain(extra) {
            if !out.is_empty() && !step.starts_with('[') {
                out.push('.');
            }
            out.push_str(step);
        }
        out
    }

    pub(super) fn into_diagnostic(self, node: &Node, about: Option<String>) -> Diagnostic {
        let span = self.span.unwrap_or(node.span);
        let path = self.shown_path(None);
        let within = if path.is_empty() { String::new() } else { format!(" in `{path}`") };
        match &self.fault {
            Fault::Custom(words) if path.is_empty() => Diagnostic::new("recipe::value", words.clone()).at(span, ""),
            Fault::Custom(words) => Diagnostic::new("recipe::value", format!("`{path}`: {words}")).at(span, ""),
            Fault::Expected(wanted) => {
                let name = if path.is_empty() { "the value".to_owned() } else { format!("`{path}`") };
                let wanted = plain_words(wanted);
                let found = self.found.as_deref().unwrap_or("that");
                let diagnostic = Diagnostic::new("recipe::type", format!("{name} must be {wanted}, not {found}"));
                let help = if wanted == "text" && (found.starts_with("the number") || found.starts_with("the boolean"))
                {
                    Some("put it in quotes".to_owned())
                } else if wanted == "true or false" {
                    Some("YAML knows `true` and `false`; `yes`, `no`, `on` and `off` are text".to_owned())
                } else {
                    about
                };
                let diagnostic = diagnostic.at(span, format!("expected {wanted}"));
                if let Some(help) = help { diagnostic.help(help) } else { diagnostic }
            }
            Fault::UnknownField(field, known) => {
                let diagnostic = Diagnostic::new("recipe::unknown-key", format!("unknown key `{field}`{within}"))
                    .at(span, "not known here");
                if known.is_empty() { diagnostic } else { diagnostic.nearest(field, known.iter().copied()) }
            }
            Fault::UnknownVariant(variant, known) => {
                let name = if path.is_empty() { "the value".to_owned() } else { format!("`{path}`") };
                let label = nearest(variant, known).map_or(String::new(), |near| format!("did you mean `{near}`?"));
                let diagnostic =
                    Diagnostic::new("recipe::unknown-value", format!("{name} cannot be `{variant}`")).at(span, label);
                match nearest_help(variant, known) {
                    Some(help) => diagnostic.help(help),
                    None => diagnostic,
                }
            }
            Fault::Missing(field) => {
                let diagnostic =
                    Diagnostic::new("recipe::missing-key", format!("missing key `{}`", self.shown_path(Some(field))))
                        .at(span, format!("`{field}` is not here"));
                if let Some(about) = about { diagnostic.help(about) } else { diagnostic }
            }
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.fault)
    }
}

impl std::error::Error for DecodeError {}

impl de::Error for DecodeError {
    fn custom<T: fmt::Display>(words: T) -> Self {
        DecodeError::new(Fault::Custom(words.to_string()))
    }

    fn invalid_type(_: de::Unexpected<'_>, wanted: &dyn de::Expected) -> Self {
        DecodeError::new(Fault::Expected(wanted.to_string()))
    }

    fn invalid_value(_: de::Unexpected<'_>, wanted: &dyn de::Expected) -> Self {
        DecodeError::new(Fault::Expected(wanted.to_string()))
    }

    fn unknown_field(field: &str, known: &'static [&'static str]) -> Self {
        DecodeError::new(Fault::UnknownField(field.to_owned(), known))
    }

    fn unknown_variant(variant: &str, known: &'static [&'static str]) -> Self {
        DecodeError::new(Fault::UnknownVariant(variant.to_owned(), known))
    }

    fn missing_field(field: &'static str) -> Self {
        DecodeError::new(Fault::Missing(field))
    }
}

/// What serde calls a type, in words for people who do not write Rust.
fn plain_words(wanted: &str) -> String {
    let range = |low: String, high: String| format!("a whole number from {low} to {high}");
    match wanted {
        "u8" => range("0".into(), u8::MAX.to_string()),
        "u16" => range("0".into(), u16::MAX.to_string()),
        "u32" => range("0".into(), u32::MAX.to_string()),
        "u64" | "usize" => range("0".into(), u64::MAX.to_string()),
        "i8" => range(i8::MIN.to_string(), i8::MAX.to_string()),
        "i16" => range(i16::MIN.to_string(), i16::MAX.to_string()),
        "i32" => range(i32::MIN.to_string(), i32::MAX.to_string()),
        "i64" | "isize" => range(i64::MIN.to_string(), i64::MAX.to_string()),
        "f32" | "f64" => "a number".into(),
        "a string" | "path string" | "a character" => "text".into(),
        "a boolean" => "true or false".into(),
        "a sequence" => "a list".into(),
        "unit" => "null".into(),
        _ if wanted.starts_with("struct ") || wanted == "a map" => "a map".into(),
        _ if wanted.starts_with("a nonzero ") => "a whole number above 0".into(),
        _ if wanted.starts_with("string or map") || wanted.starts_with("enum ") => "one of its names".into(),
        _ => wanted.to_owned(),
    }
}

/// The first sentence of the schema's description of the field that an error is about.
pub(super) fn about_field(schema: &serde_json::Value, error: &DecodeError) -> Option<String> {
    let mut steps: Vec<&str> = error.path.iter().rev().map(String::as_str).collect();
    if let Fault::Missing(field) = &error.fault {
        steps.push(field);
    }
    let mut here = schema;
    for step in steps {
        here = follow(schema, here)?;
        here = if step.starts_with('[') {
            here.get("items")?
        } else {
            here.get("properties").and_then(|fields| fields.get(step)).or_else(|| here.get("additionalProperties"))?
        };
    }
    let words = here.get("description").or_else(|| follow(schema, here)?.get("description"))?.as_str()?;
    let first = words.split("\n\n").next().unwrap_or(words).replace('\n', " ");
    (!first.is_empty()).then(|| first.trim_end_matches('.').to_owned())
}

fn follow<'a>(root: &'a serde_json::Value, here: &'a serde_json::Value) -> Option<&'a serde_json::Value> {
    let target = here.get("$ref").or_else(|| here.get("anyOf")?.get(0)?.get("$ref"));
    match target.and_then(serde_json::Value::as_str) {
        Some(target) => root.pointer(target.strip_prefix('#')?),
        None => Some(here),
    }
}
