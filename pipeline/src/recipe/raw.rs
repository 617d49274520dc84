//! The shape of a recipe: from a tree to sections with checked keys and names.
//!
//! Nothing is expanded here, and nothing of this leaves the language. What is wrong is noted and left out, so that one
//! reading finds as much as it can.

use std::collections::BTreeMap;

use super::diagnostic::{Diagnostic, Span, Spanned};
use super::node::{Entry, Node, Value, shorten};
use crate::names::{InstanceName, NameError, RecipeName, StageName};

/// The format that this version reads.
const FORMAT: i128 = 1;

/// The sections of a recipe.
pub(super) const SECTIONS: [&str; 10] =
    ["flow", "name", "seed", "device", "vars", "defaults", "public", "domains", "stages", "profiles"];
const STAGE_KEYS: [&str; 5] = ["foreach", "kind", "with", "inputs", "resources"];
const MEMBER_KEYS: [&str; 2] = ["title", "with"];
/// Names that `${…}` knows without a variable.
pub(super) const BUILTIN: [&str; 3] = ["domain", "title", TITLES];
/// All members' titles by name, as a map.
pub(super) const TITLES: &str = "titles";

/// A recipe in sections.
pub(super) struct RawRecipe {
    pub(super) name: Option<RecipeName>,
    pub(super) seed: u64,
    pub(super) device: Option<Spanned<String>>,
    pub(super) vars: BTreeMap<String, Node>,
    pub(super) defaults: BTreeMap<String, Entry>,
    pub(super) public: Option<RawMember>,
    pub(super) domains: BTreeMap<InstanceName, RawMember>,
    pub(super) stages: BTreeMap<StageName, RawStage>,
}

/// `public`, or a domain.
pub(super) struct RawMember {
    pub(super) title: Option<Node>,
    /// Stage name → params to lay over its own.
    pub(super) with: BTreeMap<String, Entry>,
}

/// A stage before `foreach`.
pub(super) struct RawStage {
    pub(super) foreach: Option<Node>,
    /// None where it is missing or wrong, which is noted.
    pub(super) kind: Option<Spanned<String>>,
    pub(super) with: Node,
    pub(super) inputs: Vec<Entry>,
    pub(super) resources: Option<Node>,
    pub(super) span: Span,
}

pub(super) fn wrong_type(what: &str, wanted: &str, node: &Node) -> Diagnostic {
    Diagnostic::new("recipe::type", format!("`{what}` must be {wanted}, not {}", node.describe()))
        .at(node.span, format!("expected {wanted}"))
}

pub(super) fn unknown_key<'a>(
    key: &Spanned<String>,
    place: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Diagnostic {
    Diagnostic::new("recipe::unknown-key", format!("unknown key `{}` in {place}", shorten(&key.value)))
        .at(key.span, "not known here")
        .nearest(&key.value, known)
}

fn bad_name(error: &NameError, span: Span) -> Diagnostic {
    Diagnostic::new("recipe::name", error.to_string())
        .at(span, error.reason)
        .help("a name begins with a-z, goes on with a-z, 0-9, `-` and `_`, and has at most 64 characters")
}

/// Reads the sections of a recipe.
pub(super) fn read(root: &Node, found: &mut Vec<Diagnostic>) -> RawRecipe {
    let mut recipe = RawRecipe {
        name: None,
        seed: 0,
        device: None,
        vars: BTreeMap::new(),
        defaults: BTreeMap::new(),
        public: None,
        domains: BTreeMap::new(),
        stages: BTreeMap::new(),
    };
    let Some(sections) = root.as_map() else {
        let message = if root.is_null() {
            "the recipe is empty".into()
        } else {
            format!("a recipe is a map, not {}", root.describe())
        };
        found.push(
            Diagnostic::new("recipe::type", message)
                .at(root.span, "")
                .help("begin with `flow: 1`, then `name:` and `stages:`"),
        );
        return recipe;
    };
    let missing = |key: &str, help: &str| {
        Diagnostic::new("recipe::missing-key", format!("missing key `{key}`"))
            .at(Span { end: root.span.start, ..root.span }, "")
            .help(help)
    };
    match root.get("flow") {
        None => found.push(missing("flow", "the first line of a recipe is `flow: 1`, its format")),
        Some(Node { value: Value::Int(FORMAT), .. }) => {}
        Some(Node { value: Value::Int(other), span }) => found.push(
            Diagnostic::new(
                "recipe::format",
                format!("the recipe has format {other}, this flow reads format {FORMAT}"),
            )
            .at(*span, "")
            .help("use a flow that reads it, or write the recipe anew"),
        ),
        Some(node) => found.push(wrong_type("flow", "the number 1", node)),
    }
    if root.get("name").is_none() {
        found.push(missing("name", "give the recipe a name, such as `name: crates-nano`"));
    }
    if root.get("stages").is_none() {
        found.push(missing("stages", "a recipe without stages does nothing"));
    }
    for section in sections {
        let value = &section.value;
        match section.key.value.as_str() {
            "flow" => {}
            "name" => match value.as_str().map(RecipeName::new) {
                Some(Ok(name)) => recipe.name = Some(name),
                Some(Err(error)) => found.push(bad_name(&error, value.span)),
                None => found.push(wrong_type("name", "text", value)),
            },
            "seed" => match value.value {
                Value::Int(seed) if u64::try_from(seed).is_ok() => recipe.seed = seed as u64,
                _ => found.push(wrong_type("seed", "a whole number from 0 to 18446744073709551615", value)),
            },
            "device" => match value.as_str() {
                Some(device) => recipe.device = Some(Spanned::new(device.to_owned(), value.span)),
                None if value.is_null() => {}
                None => found.push(wrong_type("device", "text, such as `cpu`", value)),
            },
            "vars" => recipe.vars = vars(value, found),
            "defaults" => recipe.defaults = maps(value, "defaults", found),
            "public" => recipe.public = Some(member("public", value, found)),
            "domains" => {
                for entry in map_of(value, "domains", found) {
                    match InstanceName::new(entry.key.value.as_str()) {
                        Ok(name) if name.as_str() == "public" => found.push(
                            Diagnostic::new("recipe::name", "no domain can be named `public`: the word is reserved")
                                .at(entry.key.span, "reserved")
                                .help("the public part has its own section `public`"),
                        ),
                        Ok(name) => {
                            let member = member(&format!("domains.{name}"), &entry.value, found);
                            recipe.domains.insert(name, member);
                        }
                        Err(error) => found.push(bad_name(&error, entry.key.span)),
                    }
                }
            }
            "stages" => {
                let entries = map_of(value, "stages", found);
                if entries.is_empty() && matches!(value.value, Value::Map(_) | Value::Null) {
                    found.push(no_stage().at(value.span, "no stage is here"));
                }
                for entry in entries {
                    match StageName::new(entry.key.value.as_str()) {
                        Ok(name) => {
                            let stage = stage(&name, entry, found);
                            recipe.stages.insert(name, stage);
                        }
                        Err(error) => found.push(bad_name(&error, entry.key.span)),
                    }
                }
            }
            _ => found.push(unknown_key(&section.key, "a recipe", SECTIONS)),
        }
    }
    recipe
}

/// The complaint about a recipe that does nothing.
fn no_stage() -> Diagnostic {
    Diagnostic::new("recipe::no-stage", "the recipe has no stage")
        .help("a recipe without stages does nothing: name one, such as `corpus: { kind: curate }`")
}

/// The entries of a section that may be empty.
fn map_of<'a>(node: &'a Node, what: &str, found: &mut Vec<Diagnostic>) -> &'a [Entry] {
    match &node.value {
        Value::Map(entries) => entries,
        Value::Null => &[],
        _ => {
            found.push(wrong_type(what, "a map", node));
            &[]
        }
    }
}

/// A map of maps, such as the params of stages by name.
fn maps(node: &Node, what: &str, found: &mut Vec<Diagnostic>) -> BTreeMap<String, Entry> {
    let mut out = BTreeMap::new();
    for entry in map_of(node, what, found) {
        match &entry.value.value {
            Value::Map(_) => drop(out.insert(entry.key.value.clone(), entry.clone())),
            Value::Null => {}
            _ => found.push(wrong_type(&format!("{what}.{}", entry.key.value), "a map of params", &entry.value)),
        }
    }
    out
}

fn vars(node: &Node, found: &mut Vec<Diagnostic>) -> BTreeMap<String, Node> {
    let mut out = BTreeMap::new();
    for entry in map_of(node, "vars", found) {
        let name = entry.key.value.as_str();
        if BUILTIN.contains(&name) {
            found.push(
                Diagnostic::new("recipe::variable", format!("no variable can be named `{name}`"))
                    .at(entry.key.span, "taken")
                    .help("`${domain}` and `${title}` are those of the instance, `${titles}` those of all members"),
            );
        } else if let Err(error) = StageName::new(name) {
            let error = NameError { what: "variable name", ..error };
            found.push(bad_name(&error, entry.key.span));
        } else {
            refuse_variables(&entry.value, found);
            out.insert(name.to_owned(), entry.value.clone());
        }
    }
    out
}

fn refuse_variables(node: &Node, found: &mut Vec<Diagnostic>) {
    match &node.value {
        Value::Str(text) if text.contains("${") => found.push(
            Diagnostic::new("recipe::variable", "a variable cannot use another one")
                .at(node.span, "")
                .help("put the `${…}` where the variable is used"),
        ),
        Value::List(items) => items.iter().for_each(|item| refuse_variables(item, found)),
        Value::Map(entries) => entries.iter().for_each(|entry| refuse_variables(&entry.value, found)),
        _ => {}
    }
}

fn member(path: &str, node: &Node, found: &mut Vec<Diagnostic>) -> RawMember {
    let mut member = RawMember { title: None, with: BTreeMap::new() };
    let Some(entries) = node.as_map() else {
        found.push(wrong_type(path, "a map", node).help("an empty one is written `{}`"));
        return member;
    };
    for entry in entries {
        match entry.key.value.as_str() {
            "title" => member.title = Some(entry.value.clone()),
            "with" => member.with = maps(&entry.value, &format!("{path}.with"), found),
            _ => found.push(unknown_key(&entry.key, &format!("`{path}`"), MEMBER_KEYS)),
        }
    }
    member
}

fn stage(name: &StageName, entry: &Entry, found: &mut Vec<Diagnostic>) -> RawStage {
    let span = entry.key.span;
    let mut stage =
        RawStage { foreach: None, kind: None, with: Node::empty_map(span), inputs: Vec::new(), resources: None, span };
    let Some(entries) = entry.value.as_map() else {
        found.push(wrong_type(&format!("stages.{name}"), "a map", &entry.value).help("a stage needs at least `kind`"));
        return stage;
    };
    let mut has_kind = false;
    for Entry { key, value } in entries {
        match key.value.as_str() {
            "foreach" => stage.foreach = Some(value.clone()),
            "kind" => {
                has_kind = true;
                match value.as_str() {
                    Some(kind) => stage.kind = Some(Spanned::new(kind.to_owned(), value.span)),
                    None => found.push(wrong_type(&format!("stages.{name}.kind"), "text", value)),
                }
            }
            "with" => match value.value {
                Value::Map(_) => stage.with = value.clone(),
                Value::Null => stage.with = Node::empty_map(key.span),
                _ => found.push(wrong_type(&format!("stages.{name}.with"), "a map of params", value)),
            },
            "inputs" => stage.inputs = map_of(value, &format!("stages.{name}.inputs"), found).to_vec(),
            "resources" => stage.resources = (!value.is_null()).then(|| value.clone()),
            _ => found.push(unknown_key(key, &format!("stage `{name}`"), STAGE_KEYS)),
        }
    }
    if !has_kind {
        found.push(
            Diagnostic::new("recipe::missing-key", format!("stage `{name}` has no `kind`"))
                .at(span, "`kind` is not here")
                .help("`kind` says what the stage does, such as `kind: curate`"),
        );
    }
    stage
}
