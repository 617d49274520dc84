//! From the spelling of a recipe to the identity of a stage.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::world::{World, numerics, prepare};
use crate::key::{KeyParts, canonical};

/// The parts of the one stage of a recipe.
fn parts(stage: &str) -> KeyParts {
    let prepared = prepare(&World::recipe(&format!("  it: {stage}")), &[]).unwrap_or_else(|error| panic!("{error:?}"));
    prepared.stages[0].key_parts(&numerics(), |_| None).unwrap()
}

#[test]
fn spelling_never_changes_a_key() {
    let plain =
        parts("{ kind: write, with: { text: x, times: 1000000, tokens: 1500, rate: 0.5, tags: { a: [1], b: [] } } }");
    for other in [
        "{ with: { tags: { b: [], a: [1] }, rate: 0.5, tokens: 1500, times: 1000000, text: x }, kind: write }",
        "{ kind: write, with: { text: x, times: 1e6, tokens: 1.5K, rate: 5e-1, tags: { a: [0x1], b: [] } } }",
        "{ kind: write, with: { text: x, times: 1M, tokens: 1_500, rate: 0.50, tags: { a: ['1'], b: [] } } }",
        "{ kind: write, with: { text: x, times: 1_000_000, tokens: '1500', rate: '0.5e0', tags: { a: [1.0], b: [] } } }",
        "{ kind: 'write', with: { \"text\": \"x\", times: '1000 K', tokens: 0.0015M, rate: +0.5, tags: { a: [1e0], b: [] } } }",
        "\n    # why\n    kind: write # what\n    with:\n      text: x\n      times: 1e+6\n      tokens: 15e2\n      rate: 0.5\n      tags:\n        b: []\n        a:\n          - 1\n",
        "{ kind: write, with: { text: x, times: 1000000, tokens: 1500, rate: 0.5, tags: { a: [1], b: [] }, case: as-it-is, size: null } }",
    ] {
        assert_eq!(parts(other), plain, "{other}");
        assert_eq!(parts(other).key(), plain.key(), "{other}");
    }
}

#[test]
fn what_counts_changes_a_key() {
    let plain = parts("{ kind: write, with: { text: x } }");
    for (other, path) in [
        ("{ kind: write, with: { text: X } }", "params.text"),
        ("{ kind: write, with: { text: x, times: 2 } }", "params.times"),
        ("{ kind: write, with: { text: x, case: upper } }", "params.case"),
        ("{ kind: write, with: { text: x, size: 0 } }", "params.size"),
        ("{ kind: write, with: { text: x, tags: { a: [] } } }", "params.tags"),
    ] {
        let other = parts(other);
        assert_ne!(other.key(), plain.key());
        assert!(other.changes_from(&plain).iter().any(|change| change.path.starts_with(path)), "{path}");
    }
    let seeded = |seed: u64| {
        let mut recipe = World::recipe("  it: { kind: odd, with: { how: wait } }");
        recipe.seed = seed;
        let prepared = prepare(&recipe, &[]).unwrap();
        prepared.stages[0].key_parts(&numerics(), |_| None).unwrap()
    };
    let changes = seeded(2).changes_from(&seeded(1));
    assert_eq!(changes.len(), 1);
    assert_eq!((changes[0].path.as_str(), changes[0].to_string().as_str()), ("seed", "seed: 1 → 2"));
}

#[test]
fn a_source_enters_by_content_and_not_by_place() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [("a", "same"), ("b", "same"), ("c", "other")] {
        fs_err::write(dir.path().join(name), text).unwrap();
    }
    let key = |name: &str| {
        let mut recipe = World::recipe(&format!("  it: {{ kind: write, with: {{ text: x, file: {name} }} }}"));
        recipe.root = dir.path().to_owned();
        let stage = prepare(&recipe, &[]).unwrap().stages.remove(0);
        stage.key_parts(&numerics(), |_| None).map(|parts| parts.key())
    };
    assert_eq!(key("a"), key("b"));
    assert_ne!(key("a"), key("c"));
    assert_eq!(key("absent"), None);
}

/// The same JSON with the members of every object turned round.
fn reversed(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            Value::Object(map.iter().rev().map(|(name, value)| (name.clone(), reversed(value))).collect())
        }
        Value::Array(items) => items.iter().map(reversed).collect(),
        scalar => scalar.clone(),
    }
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
    ]
}

proptest! {
    /// The canonical form is JSON for the same value, whatever the order, and reads back to itself.
    #[test]
    fn the_canonical_form_is_the_value(map in prop::collection::btree_map(".{0,4}", leaf(), 0..6)) {
        let map: BTreeMap<String, Value> = map;
        let value = json!({ "outer": map, "list": [map] });
        let text = canonical(&value);
        prop_assert_eq!(&canonical(&reversed(&value)), &text);
        let again: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(canonical(&again), text);
        prop_assert_eq!(again, value);
    }

    /// Every spelling of a number of tokens gives one key.
    #[test]
    fn spellings_of_a_number_agree(thousands in 1_u64..10_000_000) {
        let with = |tokens: String| parts(&format!("{{ kind: write, with: {{ text: x, tokens: {tokens} }} }}")).key();
        let plain = with((thousands * 1000).to_string());
        for spelling in [format!("{thousands}K"), format!("{thousands}e3"), format!("'{thousands}_000'"), format!("{thousands}000.0")] {
            prop_assert_eq!(with(spelling), plain);
        }
    }
}
