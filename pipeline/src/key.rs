//! The identity of a stage: what enters it, how it is hashed, and how two identities are compared.
//!
//! **The canonical form.** [`KeyParts`] as JSON without white space; the members of every object sorted by the bytes of
//! their names; strings with the escapes of `serde_json`; numbers as `serde_json` prints them (integers in decimal,
//! floats in the shortest form that reads back, always with a point or an exponent). The key is the BLAKE3 of these bytes.
//! One walk over the parts serves two visitors: [`Canonical`] writes those bytes, [`Lines`] writes one line a leaf, so
//! that what `flow plan` says has changed is exactly what changed the key.

use std::collections::BTreeMap;

use flow_cache::{ArtifactDigest, StageKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What the compute device has to do with the bytes of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Numerics {
    /// `cpu`, `wgpu` or `cuda`: the family, never the device's number or name.
    pub backend: String,
    /// The type that is computed in, such as `f32`.
    pub dtype: String,
}

/// All that a stage's result depends on. Where and how it runs has no field here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyParts {
    /// The kind's name.
    pub kind: String,
    /// The kind's version.
    pub kind_version: u32,
    /// Every param with defaults filled in.
    pub params: Value,
    /// The recipe's seed, where the kind uses chance.
    pub seed: Option<u64>,
    /// The numerics, where the kind computes on a device.
    pub numerics: Option<Numerics>,
    /// Role, or `role[label]` where a role takes many → artifact.
    pub inputs: BTreeMap<String, ArtifactDigest>,
    /// Sources outside of flow, by content.
    pub sources: Vec<Value>,
}

/// Receives the parts of a key in canonical order.
trait Visitor {
    fn open(&mut self, bracket: char);
    fn close(&mut self, bracket: char);
    fn separator(&mut self);
    fn name(&mut self, name: &str);
    fn index(&mut self, index: usize);
    fn leaf(&mut self, text: &str);
    fn leave(&mut self);
}

fn walk(value: &Value, visitor: &mut dyn Visitor) {
    match value {
        Value::Object(map) => {
            // serde_json keeps insertion order when any crate of the build turns that feature on: sort here.
            let sorted: BTreeMap<&String, &Value> = map.iter().collect();
            visitor.open('{');
            for (i, (name, member)) in sorted.into_iter().enumerate() {
                if i > 0 {
                    visitor.separator();
                }
                visitor.name(name);
                walk(member, visitor);
                visitor.leave();
            }
            visitor.close('}');
        }
        Value::Array(items) => {
            visitor.open('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    visitor.separator();
                }
                visitor.index(i);
                walk(item, visitor);
                visitor.leave();
            }
            visitor.close(']');
        }
        scalar => visitor.leaf(&scalar.to_string()),
    }
}

/// Writes the canonical bytes.
#[derive(Default)]
struct Canonical(String);

impl Visitor for Canonical {
    fn open(&mut self, bracket: char) {
        self.0.push(bracket);
    }
    fn close(&mut self, bracket: char) {
        self.0.push(bracket);
    }
    fn separator(&mut self) {
        self.0.push(',');
    }
    fn name(&mut self, name: &str) {
        self.0.push_str(&Value::from(name).to_string());
        self.0.push(':');
    }
    fn index(&mut self, _: usize) {}
    fn leaf(&mut self, text: &str) {
        self.0.push_str(text);
    }
    fn leave(&mut self) {}
}

/// Writes `path → text` for every leaf, and for every empty map or list.
#[derive(Default)]
struct Lines {
    path: Vec<String>,
    found: BTreeMap<String, String>,
    leaves: Vec<usize>,
}

impl Lines {
    fn place(&self) -> String {
        self.path.join(".").replace(".[", "[")
    }
}

impl Visitor for Lines {
    fn open(&mut self, _: char) {
        self.leaves.push(self.found.len());
    }
    fn close(&mut self, bracket: char) {
        if self.leaves.pop() == Some(self.found.len()) {
            self.found.insert(self.place(), if bracket == '}' { "{}".into() } else { "[]".into() });
        }
    }
    fn separator(&mut self) {}
    fn name(&mut self, name: &str) {
        self.path.push(name.replace('.', "\\."));
    }
    fn index(&mut self, index: usize) {
        self.path.push(format!("[{index}]"));
    }
    fn leaf(&mut self, text: &str) {
        self.found.insert(self.place(), text.to_owned());
    }
    fn leave(&mut self) {
        self.path.pop();
    }
}

/// The canonical JSON of any value, by the rule of this module.
pub fn canonical(value: &Value) -> String {
    let mut visitor = Canonical::default();
    walk(value, &mut visitor);
    visitor.0
}

/// `path → text` of every leaf of any value, and of every empty map or list.
pub fn lines(value: &Value) -> BTreeMap<String, String> {
    let mut visitor = Lines::default();
    walk(value, &mut visitor);
    visitor.found
}

/// What changed from one value to another, by path.
pub fn changes(old: &Value, new: &Value) -> Vec<Change> {
    let (before, after) = (lines(old), lines(new));
    let paths: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    paths
        .into_iter()
        .filter(|path| before.get(*path) != after.get(*path))
        .map(|path| Change { path: path.clone(), old: before.get(path).cloned(), new: after.get(path).cloned() })
        .collect()
}

/// One leaf that differs between two identities.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// The leaf's path, such as `params.lr` or `inputs.tokens`.
    pub path: String,
    /// Its text before, if it was there.
    pub old: Option<String>,
    /// Its text now, if it is there.
    pub new: Option<String>,
}

impl KeyParts {
    fn value(&self) -> Value {
        // A struct of plain data: this cannot fail, and a null would still hash.
        serde_json::to_value(self).unwrap_or(Value::Null)
    }

    /// The stage key of these parts.
    pub fn key(&self) -> StageKey {
        StageKey::of(canonical(&self.value()).as_bytes())
    }

    /// `path → text` of every leaf.
    pub fn lines(&self) -> BTreeMap<String, String> {
        lines(&self.value())
    }

    /// What changed from `old` to `self`, by path. Empty exactly if the keys are equal. Of another kind nothing can be compared:
    /// then the kind is all that is told.
    pub fn changes_from(&self, old: &Self) -> Vec<Change> {
        if self.kind != old.kind {
            return vec![Change {
                path: "kind".to_owned(),
                old: Some(Value::from(old.kind.as_str()).to_string()),
                new: Some(Value::from(self.kind.as_str()).to_string()),
            }];
        }
        changes(&old.value(), &self.value())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn parts(params: Value) -> KeyParts {
        KeyParts {
            kind: "curate".into(),
            kind_version: 1,
            params,
            seed: None,
            numerics: None,
            inputs: BTreeMap::new(),
            sources: Vec::new(),
        }
    }

    #[test]
    fn the_canonical_form_does_not_drift() {
        for (value, expected) in [
            (json!({"b": 1, "a": [true, null]}), r#"{"a":[true,null],"b":1}"#),
            (json!({"x": 1.0, "y": 1e-3, "z": 1e21}), r#"{"x":1.0,"y":0.001,"z":1e+21}"#),
            (json!({"é": "a\"\n"}), "{\"é\":\"a\\\"\\n\"}"),
            (json!({}), "{}"),
        ] {
            assert_eq!(canonical(&value), expected);
        }
        assert_eq!(
            parts(json!({"lr": 0.001})).key().to_string(),
            "c102f942ce2757a98ede7d23028c574f1c62aeb5500e949820e834d61dc5bcee"
        );
    }

    #[test]
    fn a_change_names_its_path_and_both_values() {
        let (old, new) = (parts(json!({"lr": 0.001, "steps": [1]})), parts(json!({"lr": 0.002, "steps": []})));
        let changes = new.changes_from(&old);
        let text: Vec<_> = changes.iter().map(|c| format!("{} {:?} {:?}", c.path, c.old, c.new)).collect();
        assert_eq!(
            text,
            [
                r#"params.lr Some("0.001") Some("0.002")"#,
                r#"params.steps None Some("[]")"#,
                r#"params.steps[0] Some("1") None"#
            ]
        );
    }

    #[test]
    fn of_another_kind_the_kind_is_told_alone() {
        let old = KeyParts { inputs: [("a".into(), ArtifactDigest::of(b"a"))].into(), ..parts(json!({"lr": 1})) };
        let new = KeyParts { kind: "tokenize".into(), ..parts(json!({"steps": [1]})) };
        let changes = new.changes_from(&old);
        assert_eq!(changes.iter().map(|change| change.path.as_str()).collect::<Vec<_>>(), ["kind"]);
        assert_eq!(crate::plan::Reason::Changed { changes }.to_string(), "the kind changed (curate → tokenize)");
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_filter("finite", |f| f.is_finite()).prop_map(Value::from),
            "[a-c]{0,3}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-c]{1,2}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// The two visitors agree: a key changes exactly when a line changes.
        #[test]
        fn reasons_and_keys_agree(a in any_json(), b in any_json()) {
            let (a, b) = (parts(a), parts(b));
            prop_assert_eq!(a.key() == b.key(), b.changes_from(&a).is_empty());
            prop_assert!(a.changes_from(&a).is_empty());
        }
    }
}
