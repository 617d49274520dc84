//! What the language can say, from text to stages.

use serde_json::{Value, json};

use crate::recipe::{LoadOptions, Recipe, as_written, load, parse_str, resolved_json};

fn read_with(text: &str, profiles: &[&str], set: &[(&str, &str)]) -> Recipe {
    let options = LoadOptions {
        profiles: profiles.iter().map(ToString::to_string).collect(),
        set: set.iter().map(|(path, value)| ((*path).to_owned(), (*value).to_owned())).collect(),
    };
    parse_str("r.yaml", text, &options).unwrap_or_else(|error| panic!("{error}"))
}

/// The params of a stage as JSON.
fn with(recipe: &Recipe, id: &str) -> Value {
    let stage = recipe.stages.iter().find(|stage| stage.id.to_string() == id).unwrap_or_else(|| panic!("no {id}"));
    stage.with.to_json()
}

fn ids(recipe: &Recipe) -> Vec<String> {
    recipe.stages.iter().map(|stage| stage.id.to_string()).collect()
}

/// `role: label=stage …` of a stage.
fn inputs(recipe: &Recipe, id: &str) -> Vec<String> {
    let stage = recipe.stages.iter().find(|stage| stage.id.to_string() == id).unwrap_or_else(|| panic!("no {id}"));
    let show = |label: &Option<String>, stage: &dyn std::fmt::Display| {
        label.as_ref().map_or_else(|| stage.to_string(), |label| format!("{label}={stage}"))
    };
    let lines = stage.inputs.iter().map(|input| {
        let refs: Vec<String> = input.refs.iter().map(|one| show(&one.label, &one.stage)).collect();
        format!("{}: {}", input.role.value, refs.join(" "))
    });
    lines.collect()
}

const SMALL: &str = r#"
flow: 1
name: small
seed: 6198
vars: { steps: 100, edition: 2024, lang: [en, de], note: ~ }
defaults:
  train: { lr: 3e-4, steps: "${steps}" }
public: { title: Everybody }
domains:
  rust: { title: "Rust ${edition}", with: { expert: { lr: 1e-3, schedule: { warmup: 5 } } } }
  news: {}
stages:
  corpus:
    foreach: [public, domains]
    kind: curate
    with: { name: "${domain}", title: "about ${title}", langs: "${lang}", note: "${note}", price: "$${x}" }
  base: { kind: train, inputs: { tokens: "corpus[public]" } }
  expert:
    foreach: domains
    kind: train
    with: { schedule: { kind: cosine, warmup: 10 } }
    inputs: { tokens: "corpus[each]", anchor: base }
  merge: { kind: join, inputs: { anchor: base, experts: "expert[*]" } }
  report:
    kind: report
    inputs:
      all: [merge, "expert[rust]", base]
    resources: { cores: 2, memory: 4GiB, gpus: 8, nodes: 4, time: 72h }
profiles:
  nano:
    vars: { steps: 2, lang: null }
    domains: { news: null }
    stages: { report: { resources: { gpus: 0, nodes: null } } }
  fast: { defaults: { train: { lr: 1 } } }
"#;

#[test]
fn foreach_makes_instances_with_their_own_params() {
    let recipe = read_with(SMALL, &[], &[]);
    assert_eq!(
        ids(&recipe),
        ["base", "corpus[news]", "corpus[public]", "corpus[rust]", "expert[news]", "expert[rust]", "merge", "report"]
    );
    let members: Vec<_> =
        recipe.members.iter().map(|one| (one.name.as_str(), one.title.as_str(), one.public)).collect();
    assert_eq!(members, [("public", "Everybody", true), ("news", "news", false), ("rust", "Rust 2024", false)]);
    assert_eq!(
        with(&recipe, "corpus[rust]"),
        json!({ "name": "rust", "title": "about Rust 2024", "langs": ["en", "de"], "note": null, "price": "${x}" })
    );
    assert_eq!(
        with(&recipe, "expert[rust]"),
        json!({ "lr": 0.001, "steps": 100, "schedule": { "kind": "cosine", "warmup": 5 } })
    );
    assert_eq!(
        with(&recipe, "expert[news]"),
        json!({ "lr": 0.0003, "steps": 100, "schedule": { "kind": "cosine", "warmup": 10 } })
    );
    assert_eq!((recipe.seed, recipe.profile.len()), (6198, 0));
    assert_eq!(recipe.profiles, ["nano", "fast"]);
}

#[test]
fn references_name_one_stage_or_many() {
    let recipe = read_with(SMALL, &[], &[]);
    assert_eq!(inputs(&recipe, "expert[rust]"), ["anchor: base", "tokens: corpus[rust]"]);
    assert_eq!(inputs(&recipe, "merge"), ["anchor: base", "experts: news=expert[news] rust=expert[rust]"]);
    assert_eq!(inputs(&recipe, "report"), ["all: merge=merge expert.rust=expert[rust] base=base"]);
}

#[test]
fn profiles_lie_over_the_recipe_and_set_over_all() {
    let recipe = read_with(SMALL, &["nano", "fast"], &[("stages.merge.with.deep.er", "[1, {a: b}]")]);
    assert_eq!(ids(&recipe), ["base", "corpus[public]", "corpus[rust]", "expert[rust]", "merge", "report"]);
    assert_eq!(with(&recipe, "base"), json!({ "lr": 1, "steps": 2 }));
    assert_eq!(with(&recipe, "corpus[rust]")["langs"], Value::Null);
    assert_eq!(with(&recipe, "merge"), json!({ "deep": { "er": [1, { "a": "b" }] } }));
    let resources = &recipe.stages.iter().find(|stage| stage.id.base().as_str() == "report").unwrap().resources;
    assert_eq!((resources.gpus, resources.nodes, resources.devices()), (0, 1, 0));
    assert_eq!((resources.memory.unwrap().0, resources.time.unwrap().seconds()), (4 << 30, 259_200));
    assert_eq!(recipe.profile, ["nano", "fast"]);

    for (path, value, id, want) in [
        ("steps", "7", "base", json!({ "lr": 0.0003, "steps": 7 })),
        ("vars.steps", "1e1", "base", json!({ "lr": 0.0003, "steps": 10 })),
        ("steps", "null", "base", json!({ "lr": 0.0003, "steps": null })),
        ("stages.base.with.lr", "0.5", "base", json!({ "lr": 0.5, "steps": 100 })),
        (
            "domains.rust.with.expert.schedule",
            "null",
            "expert[rust]",
            json!({ "lr": 0.001, "steps": 100, "schedule": { "kind": "cosine", "warmup": 10 } }),
        ),
        (
            "stages.expert.with.schedule",
            "flat",
            "expert[news]",
            json!({ "lr": 0.0003, "steps": 100, "schedule": "flat" }),
        ),
        ("defaults.train.lr", "null", "base", json!({ "steps": 100 })),
    ] {
        assert_eq!(with(&read_with(SMALL, &[], &[(path, value)]), id), want, "{path}={value}");
    }
    let list = read_with(SMALL, &[], &[("stages.report.inputs.all.1", "corpus[news]")]);
    assert_eq!(inputs(&list, "report"), ["all: merge=merge corpus.news=corpus[news] base=base"]);
}

#[test]
fn yaml_anchors_and_merges_work() {
    let recipe = read_with(
        r"
flow: 1
name: anchors
stages:
  a: &a { kind: x, with: &w { lr: 1, steps: 2 } }
  b: { <<: *a, with: { <<: *w, lr: 3 } }
  c: { kind: x, with: { list: [*w, *w], text: |
    two
    lines
    } }
",
        &[],
        &[],
    );
    assert_eq!(with(&recipe, "b"), json!({ "lr": 3, "steps": 2 }));
    assert_eq!(with(&recipe, "c")["list"], json!([{ "lr": 1, "steps": 2 }, { "lr": 1, "steps": 2 }]));
}

#[test]
fn scalars_follow_yaml_1_2() {
    let recipe = read_with(
        "flow: 1\nname: scalars\nstages:\n  a:\n    kind: x\n    with: { l: [1, 1_000, 1e3, 0x3e8, 0o17, 1.5, .5, -2, '1', yes, no, true, ~, 2026-01-01, 1.0, 18446744073709551615, 1e300] }\n",
        &[],
        &[],
    );
    assert_eq!(
        with(&recipe, "a")["l"],
        json!([1, 1000, 1000, 1000, 15, 1.5, 0.5, -2, "1", "yes", "no", true, null, "2026-01-01", 1, u64::MAX, 1e300])
    );
}

#[test]
fn includes_are_relative_to_the_file_that_names_them() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, text).unwrap();
    };
    write(
        "r.yaml",
        "flow: 1\nname: inc\ndomains:\n  rust: !include domains/rust.yaml\nstages:\n  a: { foreach: domains, kind: x }\n",
    );
    write("domains/rust.yaml", "title: Rust\nwith:\n  a: !include ../params.yaml\n");
    write("params.yaml", "lr: 1\nbad: '${nothing}'\n");
    let path = dir.path().join("r.yaml");
    let wrong = load(&path, &LoadOptions::default()).unwrap_err();
    assert_eq!(wrong.diagnostics.len(), 1);
    let place = format!("{}:2:6: unknown variable `nothing`", dir.path().join("domains/../params.yaml").display());
    assert!(wrong.render().starts_with(&place), "{}", wrong.render());

    write("params.yaml", "lr: 1\n");
    let recipe = load(&path, &LoadOptions::default()).unwrap();
    assert_eq!(with(&recipe, "a[rust]"), json!({ "lr": 1 }));
    assert_eq!((recipe.sources.files().len(), recipe.root.as_path()), (3, dir.path()));
}

#[test]
fn the_frozen_form_is_sorted_and_whole() {
    let json = resolved_json(&read_with(SMALL, &["nano"], &[]));
    assert_eq!(json["profile"], json!(["nano"]));
    assert_eq!(
        json["stages"]["report"],
        json!({
            "kind": "report", "with": {},
            "inputs": { "all": { "many": true, "refs": [
                { "stage": "merge", "label": "merge" },
                { "stage": "expert[rust]", "label": "expert.rust" },
                { "stage": "base", "label": "base" },
            ] } },
            "resources": {
                "cores": 2, "gpus": 0, "memory": 4_u64 << 30, "nodes": 1, "retries": { "attempts": 1, "backoff": 10 },
                "time": 259_200, "timeout": null,
            },
        })
    );
    assert_eq!(json, resolved_json(&read_with(&format!("# a comment\n{SMALL}"), &["nano"], &[])));
}

#[test]
fn a_frozen_recipe_is_compared_in_the_words_of_a_recipe() {
    let json = as_written(resolved_json(&read_with(SMALL, &["nano"], &[])));
    assert_eq!((&json["members"], &json["public"]["title"]), (&Value::Null, &"Everybody".into()));
    assert_eq!(json["domains"], json!({ "rust": { "title": "Rust 2024" } }));
    assert_eq!(
        json["stages"]["report"],
        json!({
            "kind": "report", "inputs": { "all": ["merge", "expert[rust]", "base"] },
            "resources": { "cores": 2, "memory": 4_u64 << 30, "time": 259_200 },
        })
    );
    assert_eq!(json["stages"]["expert[rust]"]["inputs"], json!({ "anchor": "base", "tokens": "corpus[rust]" }));
}

#[test]
fn the_schema_of_recipes_knows_the_kinds() {
    let kinds = super::toys::registry();
    let kinds = kinds
        .iter()
        .map(|kind| {
            let (params, places) = kind.schemas();
            let schema = crate::recipe::KindSchema { params, places, roles: kind.roles(), doc: kind.about().into() };
            (kind.name().to_owned(), schema)
        })
        .collect();
    let schema = crate::recipe::recipe_schema(&kinds);
    assert_eq!(schema["$defs"]["with:write"]["properties"]["text"]["description"], "What is written.");
    assert_eq!(schema["$defs"]["with:write"]["properties"]["file"]["type"], json!(["string", "null"]));
    let described = schema["$defs"]["stage"]["allOf"].to_string();
    assert!(described.contains("text: what comes first"), "{described}");
    // Every reference leads somewhere.
    fn check(root: &Value, here: &Value) {
        match here {
            Value::Object(map) => {
                if let Some(target) = map.get("$ref").and_then(Value::as_str) {
                    let target = target.strip_prefix('#').unwrap();
                    assert!(root.pointer(target).is_some(), "{target}");
                }
                map.values().for_each(|value| check(root, value));
            }
            Value::Array(items) => items.iter().for_each(|value| check(root, value)),
            _ => {}
        }
    }
    check(&schema, &schema);
}
