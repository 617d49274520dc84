//! The JSON Schema of a recipe, for editors: draft 2020-12, the params of each stage chosen by its `kind`.

use std::collections::BTreeMap;

use schemars::Schema;
use serde_json::{Map, Value, json};

use super::Resources;
use crate::{
    names::NAME_PATTERN,
    plan::either,
    stage::{Arity, Role},
};

/// What an editor has to know of one kind.
#[derive(Clone, Debug)]
pub struct KindSchema {
    /// The schema of its params.
    pub params: Schema,
    /// The schema of its places; its fields stand in `with` beside the params.
    pub places: Schema,
    /// Its input roles.
    pub roles: &'static [Role],
    /// What it does.
    pub doc: String,
}

/// The schema of a recipe that may use these kinds.
pub fn recipe_schema(kinds: &BTreeMap<String, KindSchema>) -> Value {
    let mut defs = Map::new();
    let mut choices = Vec::new();
    let mut defaults = Map::new();
    for (name, kind) in kinds {
        let (with, partial) = with_schema(name, kind, &mut defs);
        defs.insert(format!("with:{name}"), with);
        defaults.insert(name.clone(), partial);
        let inputs: Map<String, Value> = kind
            .roles
            .iter()
            .map(|role| {
                let many = matches!(role.arity, Arity::Many | Arity::Any);
                let about = format!("{}: {}", either(role.takes), role.about);
                let target = if many { "#/$defs/references" } else { "#/$defs/reference" };
                (role.name.to_owned(), json!({ "$ref": target, "description": about }))
            })
            .collect();
        choices.push(json!({
            "if": { "properties": { "kind": { "const": name } }, "required": ["kind"] },
            "then": { "properties": {
                "with": { "$ref": format!("#/$defs/with:{name}") },
                "inputs": { "type": ["object", "null"], "properties": inputs, "additionalProperties": false },
            } },
        }));
    }
    let names: Vec<Value> =
        kinds.iter().map(|(name, kind)| json!({ "const": name, "description": kind.doc })).collect();
    let mut stage = json!({
        "type": "object",
        "description": "one node of the graph",
        "properties": {
            "kind": { "description": "what the stage does", "anyOf": names },
            "foreach": {
                "description": "one instance for each of these: `domains`, `public`, or a list of names",
                "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }],
            },
            "with": { "description": "the params of the kind", "type": ["object", "null"] },
            "inputs": { "description": "role → reference to a stage", "type": ["object", "null"] },
            "resources": { "anyOf": [embed("resources", &schemars::schema_for!(Resources), &mut defs), { "type": "null" }] },
        },
        "required": ["kind"],
        "additionalProperties": false,
    });
    stage["allOf"] = choices.into();
    // A profile may give any part of a stage, so its kind is not asked for.
    let mut partial_stage = stage.clone();
    if let Some(object) = partial_stage.as_object_mut() {
        object.remove("required");
        object.remove("allOf");
    }
    let member = |description: &str| {
        json!({
            "type": "object",
            "description": description,
            "properties": {
                "title": { "type": "string", "description": "the name for people" },
                "with": { "type": "object", "description": "stage → params laid over that stage's `with`",
                          "additionalProperties": { "type": ["object", "null"] } },
            },
            "additionalProperties": false,
        })
    };
    for (name, schema) in [
        (
            "reference",
            json!({ "type": "string", "description": "`stage`, `stage[instance]`, `stage[each]` or `stage[*]`" }),
        ),
        (
            "references",
            json!({ "anyOf": [{ "$ref": "#/$defs/reference" },
            { "type": "array", "items": { "$ref": "#/$defs/reference" } }] }),
        ),
        ("stage", stage),
        ("partial-stage", partial_stage),
        ("member", member("somebody whose text the recipe is about")),
        (
            "vars",
            json!({ "type": ["object", "null"], "description": "values for `${name}`; `--set name=value` overrides" }),
        ),
        (
            "defaults",
            json!({ "type": ["object", "null"], "description": "kind → params laid under every stage of it",
            "properties": defaults, "additionalProperties": false }),
        ),
    ] {
        defs.insert(name.into(), schema);
    }
    let named = |target: &str, nullable: bool| {
        let target = json!({ "$ref": format!("#/$defs/{target}") });
        let value = if nullable { json!({ "anyOf": [target, { "type": "null" }] }) } else { target };
        json!({ "type": ["object", "null"], "propertyNames": { "pattern": NAME_PATTERN }, "additionalProperties": value })
    };
    let shared = |nullable: bool| {
        json!({
            "name": { "type": "string", "pattern": NAME_PATTERN, "description": "the name of the recipe" },
            "device": { "type": ["string", "null"], "description": "the compute device: `cpu` (the default), `wgpu` or `cuda`; `--device` goes before it" },
            "seed": { "type": "integer", "minimum": 0, "description": "what every stage's own seed is derived from" },
            "vars": { "$ref": "#/$defs/vars" },
            "defaults": { "$ref": "#/$defs/defaults" },
            "public": { "$ref": "#/$defs/member" },
            "domains": named("member", nullable),
            "stages": named(if nullable { "partial-stage" } else { "stage" }, nullable),
        })
    };
    let mut top = shared(false);
    top["flow"] = json!({ "const": 1, "description": "the format of the recipe" });
    top["profiles"] = json!({
        "type": ["object", "null"],
        "description": "laid over the recipe by `--profile`: maps merge, the rest replaces, null takes away",
        "additionalProperties": { "type": "object", "properties": shared(true), "additionalProperties": false },
    });
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "flow recipe",
        "type": "object",
        "properties": top,
        "required": ["flow", "name", "stages"],
        "additionalProperties": false,
        "$defs": defs,
    })
}

/// The schema of a kind's `with`: as it is, and without required fields, since layers below may give those.
fn with_schema(name: &str, kind: &KindSchema, defs: &mut Map<String, Value>) -> (Value, Value) {
    let mut properties = Map::new();
    for (part, schema) in [("params", &kind.params), ("places", &kind.places)] {
        let target = format!("{part}:{name}");
        embed(&target, schema, defs);
        if let Some(Value::Object(fields)) = defs.get(&target).and_then(|schema| schema.get("properties")) {
            properties.extend(fields.clone());
        }
        defs.remove(&target);
    }
    // Not `required`: a domain's `with` or `defaults` may hold what the stage itself leaves out.
    let schema = json!({
        "type": ["object", "null"],
        "description": kind.doc,
        "properties": properties,
        "additionalProperties": false,
    });
    (schema.clone(), schema)
}

/// Puts a root schema below `$defs` with its own definitions renamed to stay apart, and gives the reference to it.
fn embed(name: &str, schema: &Schema, defs: &mut Map<String, Value>) -> Value {
    let mut schema = schema.clone().to_value();
    let own = schema.as_object_mut().and_then(|object| {
        object.remove("$schema");
        object.remove("$defs")
    });
    rename(&mut schema, name);
    if let Some(Value::Object(own)) = own {
        for (key, mut value) in own {
            rename(&mut value, name);
            defs.insert(format!("{name}.{key}"), value);
        }
    }
    defs.insert(name.to_owned(), schema);
    json!({ "$ref": format!("#/$defs/{name}") })
}

fn rename(value: &mut Value, name: &str) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                match value {
                    Value::String(target) if key == "$ref" => {
                        if let Some(rest) = target.strip_prefix("#/$defs/") {
                            *target = format!("#/$defs/{name}.{rest}");
                        }
                    }
                    _ => rename(value, name),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, name)),
        _ => {}
    }
}
