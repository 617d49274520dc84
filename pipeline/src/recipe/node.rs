//! A tree of YAML values that remember where they stand.

use std::borrow::Cow;

use super::diagnostic::{Span, Spanned};

/// One value of a recipe with its place.
#[derive(Clone, Debug)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Where it stands: a scalar's text, or a map from its first key to the end of its last value.
    pub span: Span,
}

/// What a [`Node`] holds.
#[derive(Clone, Debug)]
pub enum Value {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number, however it was spelt (`1000`, `1_000`, `1e3`, `0x3e8`), from `i64::MIN` to `u64::MAX`.
    Int(i128),
    /// A finite number that is not whole, or is too large for [`Value::Int`].
    Float(f64),
    /// Text.
    Str(String),
    /// A list.
    List(Vec<Node>),
    /// A map in the order of the text; no key is there twice.
    Map(Vec<Entry>),
}

/// One key of a map and its value.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key.
    pub key: Spanned<String>,
    /// Its value.
    pub value: Node,
}

impl Node {
    /// A node without a place, for values that no text holds.
    pub fn synthetic(value: Value) -> Self {
        Node { value, span: Span::NOWHERE }
    }

    /// An empty map that stands at `span`.
    pub fn empty_map(span: Span) -> Self {
        Node { value: Value::Map(Vec::new()), span }
    }

    /// The entries, where this is a map.
    pub fn as_map(&self) -> Option<&[Entry]> {
        match &self.value {
            Value::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// The items, where this is a list.
    pub fn as_list(&self) -> Option<&[Node]> {
        match &self.value {
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    /// The text, where this is text.
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::Str(text) => Some(text),
            _ => None,
        }
    }

    /// Whether this is null.
    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// The value of a key, where this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// The entry of a key, where this is a map that has it.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.as_map()?.iter().find(|entry| entry.key.value == key)
    }

    /// The value as JSON: maps sorted by key, whole numbers as integers, places gone.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Int(value) => match u64::try_from(*value) {
                Ok(value) => value.into(),
                Err(_) => i64::try_from(*value).unwrap_or(i64::MIN).into(),
            },
            Value::Float(value) => (*value).into(),
            Value::Str(text) => text.as_str().into(),
            Value::List(items) => items.iter().map(Node::to_json).collect::<Vec<_>>().into(),
            Value::Map(entries) => {
                let sorted: std::collections::BTreeMap<_, _> =
                    entries.iter().map(|entry| (entry.key.value.clone(), entry.value.to_json())).collect();
                serde_json::Value::Object(sorted.into_iter().collect())
            }
        }
    }

    /// Reads JSON back, without places. Numbers are normalised as in YAML.
    pub fn from_json(json: &serde_json::Value) -> Self {
        Node::synthetic(match json {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(value) => Value::Bool(*value),
            serde_json::Value::Number(number) => match number.as_i128() {
                Some(whole) => Value::Int(whole),
                None => Value::Float(number.as_f64().unwrap_or(0.0)),
            },
            serde_json::Value::String(text) => Value::Str(text.clone()),
            serde_json::Value::Array(items) => Value::List(items.iter().map(Node::from_json).collect()),
            serde_json::Value::Object(map) => Value::Map(
                map.iter()
                    .map(|(key, value)| Entry {
                        key: Spanned::new(key.clone(), Span::NOWHERE),
                        value: Node::from_json(value),
                    })
                    .collect(),
            ),
        })
    }

    /// What this is, for messages: `the number 7`, `a map`.
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Null => "null".into(),
            Value::Bool(value) => format!("the boolean {value}"),
            Value::Int(value) => format!("the number {value}"),
            // Its digits are not those that were written.
            Value::Float(value) if *value > u64::MAX as f64 => format!("a number above {}", u64::MAX),
            Value::Float(value) if *value < i64::MIN as f64 => format!("a number below {}", i64::MIN),
            Value::Float(value) => format!("the number {value}"),
            Value::Str(text) => format!("the text `{}`", shorten(text)),
            Value::List(_) => "a list".into(),
            Value::Map(_) => "a map".into(),
        }
    }

    /// How much memory a copy of this takes, in units of about 64 bytes: what limits of expansion are counted in.
    pub(crate) fn weight(&self) -> usize {
        match &self.value {
            Value::Str(text) => 1 + text.len() / 64,
            Value::List(items) => 1 + items.iter().map(Node::weight).sum::<usize>(),
            Value::Map(entries) => {
                1 + entries.iter().map(|entry| 1 + entry.key.value.len() / 64 + entry.value.weight()).sum::<usize>()
            }
            _ => 1,
        }
    }

    /// How deep the tree is; a scalar is 1.
    pub(crate) fn depth(&self) -> usize {
        1 + match &self.value {
            Value::List(items) => items.iter().map(Node::depth).max().unwrap_or(0),
            Value::Map(entries) => entries.iter().map(|entry| entry.value.depth()).max().unwrap_or(0),
            _ => 0,
        }
    }
}

/// The text cut to a length that fits a message.
pub(crate) fn shorten(text: &str) -> Cow<'_, str> {
    const SHOWN: usize = 48;
    match text.char_indices().nth(SHOWN) {
        Some((cut, _)) => format!("{}…", &text[..cut]).into(),
        None => text.into(),
    }
}
