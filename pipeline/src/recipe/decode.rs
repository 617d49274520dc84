//! From a [`Node`] to a params struct, through serde, without losing the place of anything.
//!
//! serde's errors carry no span, so each is given the place of the node that was being read when it passes by on its
//! way out: an unknown field the place of its key, a wrong value its own, a missing field that of the map.

use schemars::JsonSchema;
use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::diagnostic::Diagnostic;
use super::fault::{DecodeError, Fault, about_field};
use super::node::{Entry, Node, Value};
use crate::units::{Inexact, decimal};

/// Reads a value out of a node.
///
/// Numbers may be spelt as people do: `1e6` and `1_000` are whole numbers, `"0.5"` is a number. The error is one
/// diagnostic; its message names the path inside the node, its help what `T`'s schema says about the field.
pub fn decode<T: DeserializeOwned + JsonSchema>(node: &Node) -> Result<T, Diagnostic> {
    T::deserialize(NodeDeserializer(node)).map_err(|error| {
        let error = error.at(node);
        let about = about_field(&schemars::schema_for!(T).to_value(), &error);
        error.into_diagnostic(node, about)
    })
}

/// Splits a map in two by its keys. Each half keeps the map's place.
///
/// A key of neither list is an error at that key, with the nearest word of both; further such keys are its related
/// places.
pub fn decode_split(node: &Node, names_a: &[&str], names_b: &[&str]) -> Result<(Node, Node), Diagnostic> {
    let Some(entries) = node.as_map() else {
        let message = format!("expected a map, not {}", node.describe());
        return Err(Diagnostic::new("recipe::type", message).at(node.span, "expected a map"));
    };
    let (mut half_a, mut half_b) = (Vec::new(), Vec::new());
    let mut wrong: Option<Diagnostic> = None;
    for entry in entries {
        let key = entry.key.value.as_str();
        if names_a.contains(&key) {
            half_a.push(entry.clone());
        } else if names_b.contains(&key) {
            half_b.push(entry.clone());
        } else {
            wrong = Some(match wrong {
                Some(first) => first.also(entry.key.span, format!("`{key}` is not known either")),
                None => Diagnostic::new("recipe::unknown-key", format!("unknown key `{key}`"))
                    .at(entry.key.span, "not known here")
                    .nearest(key, names_a.iter().chain(names_b).copied()),
            });
        }
    }
    let half = |entries| Node { value: Value::Map(entries), span: node.span };
    match wrong {
        None => Ok((half(half_a), half(half_b))),
        Some(wrong) => Err(wrong),
    }
}

#[derive(Clone, Copy)]
struct NodeDeserializer<'a>(&'a Node);

impl NodeDeserializer<'_> {
    /// The node as a whole number, where its text is one.
    fn whole(self) -> Result<Option<i128>, DecodeError> {
        let shown;
        let text = match &self.0.value {
            Value::Int(value) => return Ok(Some(*value)),
            Value::Float(value) => {
                shown = format!("{value:?}");
                shown.as_str()
            }
            Value::Str(text) => text.trim(),
            _ => return Ok(None),
        };
        let Some(number) = decimal(text).filter(|number| number.rest.is_empty()) else { return Ok(None) };
        match number.whole(1) {
            Ok(value) => Ok(Some(value)),
            Err(Inexact::Fraction) => Err(de::Error::custom(format!("`{text}` is not a whole number"))),
            Err(Inexact::Range) => Ok(None),
        }
    }

    fn read_integer<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.whole()? {
            Some(value) => visit_whole(value, visitor),
            None => self.deserialize_any(visitor),
        }
    }

    fn read_float<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.0.value {
            Value::Int(value) => visitor.visit_f64(*value as f64),
            Value::Str(text) if decimal(text.trim()).is_some_and(|number| number.rest.is_empty()) => {
                match text.trim().replace('_', "").parse::<f64>() {
                    Ok(value) if value.is_finite() => visitor.visit_f64(value),
                    _ => self.deserialize_any(visitor),
                }
            }
            _ => self.deserialize_any(visitor),
        }
    }

    /// Reads fields by their names. What serde derives would also take a list, and fill the fields in the order of the code: nobody
    /// who writes a recipe knows that order.
    fn read_fields<'de, V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match self.0.value {
            Value::List(_) => Err(DecodeError::new(Fault::Expected(format!("a map{}", with_fields(fields))))),
            _ => self.deserialize_any(visitor),
        }
    }
}

/// ` with fields such as …`, for a map that has some.
fn with_fields(fields: &[&str]) -> String {
    const SHOWN: usize = 3;
    let names: Vec<String> = fields.iter().take(SHOWN).map(|field| format!("`{field}`")).collect();
    match names.as_slice() {
        [] => String::new(),
        [one] => format!(" with the field {one}"),
        [rest @ .., last] if fields.len() <= SHOWN => format!(" with the fields {} and {last}", rest.join(", ")),
        several => format!(" with fields such as {}", several.join(", ")),
    }
}

fn visit_whole<'de, V: Visitor<'de>>(value: i128, visitor: V) -> Result<V::Value, DecodeError> {
    if let Ok(value) = u64::try_from(value) {
        visitor.visit_u64(value)
    } else if let Ok(value) = i64::try_from(value) {
        visitor.visit_i64(value)
    } else {
        visitor.visit_i128(value)
    }
}

macro_rules! forward {
    ($to:ident: $($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            self.$to(visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for NodeDeserializer<'_> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match &self.0.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Int(value) => visit_whole(*value, visitor),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Str(text) => visitor.visit_str(text),
            Value::List(items) => visitor.visit_seq(Items { items, next: 0 }),
            Value::Map(entries) => visitor.visit_map(Entries { entries, next: 0 }),
        }
    }

    forward!(read_integer: deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128);
    forward!(read_float: deserialize_f32 deserialize_f64);

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.read_fields(fields, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        match &self.0.value {
            Value::Str(text) => visitor.visit_enum(Variant { name: text, entry: None }),
            Value::Map(entries) => match entries.as_slice() {
                [entry] => visitor.visit_enum(Variant { name: &entry.key.value, entry: Some(entry) }),
                _ => Err(de::Error::custom(format!(
                    "expected a map with exactly one key out of {}",
                    variants.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
                ))),
            },
            _ => Err(DecodeError::new(Fault::Expected(format!(
                "one of {}",
                variants.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
            )))),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map identifier
    }
}

struct Items<'a> {
    items: &'a [Node],
    next: usize,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, DecodeError> {
        let Some(node) = self.items.get(self.next) else { return Ok(None) };
        let at = self.next;
        self.next += 1;
        seed.deserialize(NodeDeserializer(node)).map(Some).map_err(|error| error.at(node).inside(format!("[{at}]")))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len() - self.next)
    }
}

struct Entries<'a> {
    entries: &'a [Entry],
    next: usize,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        let Some(entry) = self.entries.get(self.next) else { return Ok(None) };
        let key: StrDeserializer<'_, DecodeError> = entry.key.value.as_str().into_deserializer();
        seed.deserialize(key).map(Some).map_err(|error| error.at_key(entry))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DecodeError> {
        let Some(entry) = self.entries.get(self.next) else {
            return Err(de::Error::custom("no value is left"));
        };
        self.next += 1;
        seed.deserialize(NodeDeserializer(&entry.value))
            .map_err(|error| error.at(&entry.value).inside(entry.key.value.as_str()))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.entries.len() - self.next)
    }
}

/// A variant by its name, with its content where it was written as `name: content`.
struct Variant<'a> {
    name: &'a str,
    entry: Option<&'a Entry>,
}

impl<'de, 'a> EnumAccess<'de> for Variant<'a> {
    type Error = DecodeError;
    type Variant = Content<'a>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Content<'a>), DecodeError> {
        let name: StrDeserializer<'_, DecodeError> = self.name.into_deserializer();
        let value = seed.deserialize(name).map_err(|error| match self.entry {
            Some(entry) => error.at_key(entry),
            None => error,
        })?;
        Ok((value, Content(self.entry)))
    }
}

struct Content<'a>(Option<&'a Entry>);

impl Content<'_> {
    fn read<T>(&self, read: impl FnOnce(NodeDeserializer<'_>) -> Result<T, DecodeError>) -> Result<T, DecodeError> {
        match self.0 {
            Some(entry) => read(NodeDeserializer(&entry.value))
                .map_err(|error| error.at(&entry.value).inside(entry.key.value.as_str())),
            None => Err(de::Error::custom("this name needs a value: write `name: value`")),
        }
    }
}

impl<'de> VariantAccess<'de> for Content<'_> {
    type Error = DecodeError;

    fn unit_variant(self) -> Result<(), DecodeError> {
        match self.0 {
            Some(entry) if !entry.value.is_null() => {
                let error: DecodeError = de::Error::custom("this name takes no value");
                Err(error.at(&entry.value).inside(entry.key.value.as_str()))
            }
            _ => Ok(()),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, DecodeError> {
        self.read(|node| seed.deserialize(node))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, DecodeError> {
        self.read(|node| node.deserialize_any(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.read(|node| node.read_fields(fields, visitor))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    /// How something is cut.
    #[derive(Debug, PartialEq, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Cut {
        share: f64,
        #[serde(default)]
        least: u64,
    }

    #[derive(Debug, PartialEq, Deserialize, JsonSchema)]
    #[serde(rename_all = "kebab-case")]
    enum Shape {
        Cosine { decay: f64, least: f64, warmup: u64, cycles: u64 },
    }

    #[derive(Debug, PartialEq, Deserialize, JsonSchema)]
    struct Params {
        cut: Option<Cut>,
        cuts: Vec<Cut>,
        betas: (f64, f64),
        shape: Shape,
    }

    fn read(what: &str, value: serde_json::Value) -> Result<Params, Diagnostic> {
        let shape = json!({ "cosine": { "decay": 1, "least": 0, "warmup": 5, "cycles": 1 } });
        let mut params = json!({ "cut": null, "cuts": [{ "share": 0.5 }], "betas": [0.9, 0.95], "shape": shape });
        params[what] = value;
        decode(&Node::from_json(&params))
    }

    #[test]
    fn a_list_is_no_map_of_fields() {
        assert_eq!(read("betas", json!([0.9, 0.99])).unwrap().betas, (0.9, 0.99));
        assert_eq!(read("cut", json!({ "share": 1 })).unwrap().cut, Some(Cut { share: 1.0, least: 0 }));
        let two = "must be a map with the fields `share` and `least`, not a list";
        let four = "must be a map with fields such as `decay`, `least`, `warmup`, not a list";
        for (what, value, message) in [
            ("cut", json!([0.1]), format!("`cut` {two}")),
            ("cut", json!([]), format!("`cut` {two}")),
            ("cuts", json!([{ "share": 0.1 }, [0.1, 2]]), format!("`cuts[1]` {two}")),
            ("shape", json!({ "cosine": [1, 0, 5, 1] }), format!("`shape.cosine` {four}")),
        ] {
            let refused = read(what, value).unwrap_err();
            assert_eq!((refused.code, refused.message), ("recipe::type", message));
        }
    }
}
