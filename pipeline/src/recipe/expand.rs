//! From sections to the stages of the graph: `foreach` makes instances, each with its own params.
//!
//! The params of an instance are `defaults` of its kind, then the stage's `with`, then the member's `with` for the
//! stage, each laid over the one before, then variables.

use std::collections::{BTreeMap, BTreeSet};

use super::decode::decode;
use super::diagnostic::{Diagnostic, Span, Spanned, nearest};
use super::node::{Entry, Node, Value};
use super::overlay::lay;
use super::raw::{RawMember, RawRecipe, RawStage, TITLES, wrong_type};
use super::reference::{self, Shapes};
use super::variable::{Scope, fill, too_large};
use super::yaml::Budget;
use super::{Member, Resources, StageSpec};
use crate::names::{InstanceName, StageId};

/// The most stages of an expanded recipe.
const MAX_STAGES: usize = 10_000;
/// The largest expanded recipe, in [`Node::weight`].
const MAX_EXPANDED: usize = 4_000_000;

/// Words that a recipe used before profiles took some away: a domain file may still speak of them.
pub(super) struct Known {
    pub(super) stages: BTreeSet<String>,
    pub(super) kinds: BTreeSet<String>,
}

impl Known {
    /// The stages and kinds of a tree.
    pub(super) fn of(root: &Node) -> Self {
        let stages = root.get("stages").and_then(Node::as_map).unwrap_or_default();
        Known {
            stages: stages.iter().map(|entry| entry.key.value.clone()).collect(),
            kinds: stages.iter().filter_map(|entry| entry.value.get("kind")?.as_str().map(str::to_owned)).collect(),
        }
    }
}

impl Known {
    /// Adds the words of another tree.
    pub(super) fn add(&mut self, root: &Node) {
        let more = Known::of(root);
        self.stages.extend(more.stages);
        self.kinds.extend(more.kinds);
    }
}

/// Expands a recipe. The stages are sorted by id.
pub(super) fn expand(raw: &mut RawRecipe, known: &Known, found: &mut Vec<Diagnostic>) -> (Vec<Member>, Vec<StageSpec>) {
    let mut budget = Budget::new(MAX_EXPANDED);
    let members = members(raw, &mut budget, found);
    raw.vars.insert(TITLES.to_owned(), all_titles(&members));
    let raw = &*raw;
    let titles: BTreeMap<&InstanceName, &str> =
        members.iter().map(|member| (&member.name, member.title.as_str())).collect();

    let shapes: Shapes = raw
        .stages
        .iter()
        .map(|(name, stage)| {
            let instances = stage.foreach.as_ref().map(|node| instances(node, raw, &mut budget, found));
            (name.clone(), instances)
        })
        .collect();
    check_words(raw, known, &shapes, found);

    let mut stages = Vec::new();
    for (name, stage) in &raw.stages {
        match &shapes[name] {
            None => stages.push(one(raw, &shapes, StageId::plain(name.clone()), None, stage, &mut budget, found)),
            // What is wrong with `foreach` is noted.
            Some(None) => {}
            Some(Some(instances)) => {
                for instance in instances {
                    if stages.len() >= MAX_STAGES {
                        let message = format!("the recipe has more than {MAX_STAGES} stages");
                        found.push(Diagnostic::new("recipe::too-large", message).at(stage.span, ""));
                        return (members, stages);
                    }
                    let title = titles.get(instance).copied().unwrap_or(instance.as_str());
                    let id = StageId::of(name.clone(), instance.clone());
                    stages.push(one(raw, &shapes, id, Some(title), stage, &mut budget, found));
                }
            }
        }
    }
    (members, stages)
}

fn members(raw: &RawRecipe, budget: &mut Budget, found: &mut Vec<Diagnostic>) -> Vec<Member> {
    let scope = Scope { vars: &raw.vars, instance: None };
    let mut title = |name: &InstanceName, member: &RawMember| {
        let Some(node) = &member.title else { return name.to_string() };
        let node = fill(node, &scope, budget, found);
        if let Value::Str(title) = node.value {
            title
        } else {
            found.push(wrong_type("title", "text", &node));
            name.to_string()
        }
    };
    let mut members = Vec::new();
    if let (Some(member), Ok(name)) = (&raw.public, InstanceName::new("public")) {
        members.push(Member { title: title(&name, member), name, public: true });
    }
    members.extend(raw.domains.iter().map(|(name, member)| Member {
        name: name.clone(),
        title: title(name, member),
        public: false,
    }));
    members
}

/// What `${titles}` stands for: name → title of every member.
fn all_titles(members: &[Member]) -> Node {
    let spanned = |text: &str| Spanned::new(text.to_owned(), Span::NOWHERE);
    let entry = |member: &Member| Entry {
        key: spanned(member.name.as_str()),
        value: Node { value: Value::Str(member.title.clone()), span: Span::NOWHERE },
    };
    Node { value: Value::Map(members.iter().map(entry).collect()), span: Span::NOWHERE }
}

/// The instances that a `foreach` names, sorted; none where it is wrong, which is noted.
fn instances(
    node: &Node,
    raw: &RawRecipe,
    budget: &mut Budget,
    found: &mut Vec<Diagnostic>,
) -> Option<BTreeSet<InstanceName>> {
    let node = fill(node, &Scope { vars: &raw.vars, instance: None }, budget, found);
    let mut out = BTreeSet::new();
    let mut fine = true;
    let words: Vec<Node> = match &node.value {
        Value::Str(word) => match raw.vars.get(word) {
            Some(Node { value: Value::List(items), .. }) => items.clone(),
            _ if word == "domains" || word == "public" => vec![node.clone()],
            _ => {
                let lists =
                    raw.vars.iter().filter(|(_, value)| value.as_list().is_some()).map(|(name, _)| name.as_str());
                found.push(
                    Diagnostic::new("recipe::foreach", format!("`foreach` cannot be `{word}`"))
                        .at(node.span, "not known here")
                        .nearest(word, ["domains", "public"].into_iter().chain(lists)),
                );
                return None;
            }
        },
        Value::List(items) => items.clone(),
        _ => {
            found.push(wrong_type("foreach", "`domains` or a list of names", &node));
            return None;
        }
    };
    for word in &words {
        let Some(text) = word.as_str() else {
            found.push(wrong_type("foreach", "a list of names", word));
            fine = false;
            continue;
        };
        let names: Vec<InstanceName> = match text {
            "domains" => {
                if raw.domains.is_empty() {
                    found.push(
                        Diagnostic::new("recipe::foreach", "the recipe has no domains")
                            .at(word.span, "")
                            .help("add one below `domains:`, such as `rust: { title: Rust }`"),
                    );
                    fine = false;
                }
                raw.domains.keys().cloned().collect()
            }
            "public" if raw.public.is_none() => {
                found.push(
                    Diagnostic::new("recipe::foreach", "the recipe has no section `public`")
                        .at(word.span, "")
                        .help("add `public: { title: … }`, or take the word away"),
                );
                fine = false;
                Vec::new()
            }
            _ => match InstanceName::new(text) {
                Ok(name) => vec![name],
                Err(error) => {
                    found.push(Diagnostic::new("recipe::name", error.to_string()).at(word.span, error.reason));
                    fine = false;
                    Vec::new()
                }
            },
        };
        for name in names {
            if !out.insert(name.clone()) {
                found.push(
                    Diagnostic::new("recipe::foreach", format!("`foreach` names `{name}` twice"))
                        .at(word.span, "again here"),
                );
                fine = false;
            }
        }
    }
    fine.then_some(out)
}

/// Params for stages and kinds that are not there would be dropped in silence.
fn check_words(raw: &RawRecipe, known: &Known, shapes: &Shapes, found: &mut Vec<Diagnostic>) {
    // Without stages, which is told, all defaults and params would be for nobody.
    if known.stages.is_empty() {
        return;
    }
    for entry in raw.defaults.values() {
        if !known.kinds.contains(&entry.key.value) {
            let kinds: Vec<&str> = known.kinds.iter().map(String::as_str).collect();
            let help = match nearest(&entry.key.value, &kinds) {
                Some(near) => format!("did you mean `{near}`? Otherwise take these defaults away: no stage uses them"),
                None => "take these defaults away: no stage uses them".to_owned(),
            };
            found.push(
                Diagnostic::new("recipe::unknown-kind", format!("no stage is of the kind `{}`", entry.key.value))
                    .at(entry.key.span, "used by no stage")
                    .help(help),
            );
        }
    }
    let public = InstanceName::new("public").ok();
    let all = raw.public.iter().filter_map(|member| Some((public.as_ref()?, member))).chain(&raw.domains);
    for (name, member) in all {
        for entry in member.with.values() {
            let stage = &entry.key.value;
            let shape = shapes.iter().find(|(base, _)| base.as_str() == stage.as_str()).map(|(_, shape)| shape);
            let diagnostic = match shape {
                Some(None) => Diagnostic::new("recipe::with", format!("stage `{stage}` has no instance `{name}`"))
                    .help("it has no `foreach`; put the params into the stage's own `with`"),
                Some(Some(Some(instances))) if !instances.contains(name) => {
                    Diagnostic::new("recipe::with", format!("stage `{stage}` has no instance `{name}`"))
                        .help(format!("its `foreach` leaves `{name}` out"))
                }
                None if !known.stages.contains(stage) => Diagnostic::new(
                    "recipe::unknown-stage",
                    format!("`{name}` has params for an unknown stage `{stage}`"),
                )
                .nearest(stage, known.stages.iter().map(String::as_str)),
                _ => continue,
            };
            found.push(diagnostic.at(entry.key.span, "params for this stage"));
        }
    }
}

fn one(
    raw: &RawRecipe,
    shapes: &Shapes,
    id: StageId,
    title: Option<&str>,
    stage: &RawStage,
    budget: &mut Budget,
    found: &mut Vec<Diagnostic>,
) -> StageSpec {
    let instance = id.instance().map(|name| (name.as_str(), title.unwrap_or(name.as_str())));
    let scope = Scope { vars: &raw.vars, instance };
    let kind = stage.kind.clone().unwrap_or(Spanned::new(String::new(), stage.span));
    let mut with = Node::empty_map(stage.with.span);
    let own = own_params(raw, &id);
    let layers = raw.defaults.get(&kind.value).map(|entry| &entry.value).into_iter().chain([&stage.with]).chain(own);
    for layer in layers {
        if budget.take(layer.weight()) {
            lay_params(&mut with, layer);
        } else {
            found.push(too_large(stage.span));
        }
    }
    // What is missing is missing in the stage, and not in the defaults below which it would be looked for.
    with.span = stage.with.span;
    let with = fill(&with, &scope, budget, found);
    let mut inputs: Vec<_> = stage
        .inputs
        .iter()
        .filter_map(|entry| {
            let node = fill(&entry.value, &scope, budget, found);
            reference::input(&entry.key, &node, &id, shapes, found)
        })
        .collect();
    inputs.sort_by(|a, b| a.role.value.cmp(&b.role.value));
    if !budget.take(inputs.iter().map(|input| 1 + input.refs.len()).sum()) {
        found.push(too_large(stage.span));
    }
    let resources = match &stage.resources {
        None => Resources::default(),
        Some(node) => {
            let node = fill(node, &scope, budget, found);
            let read = decode::<Resources>(&node).and_then(|resources| resources.check(&node).map(|()| resources));
            read.unwrap_or_else(|mut diagnostic| {
                diagnostic.message = format!("resources of stage `{}`: {}", id.base(), diagnostic.message);
                found.push(diagnostic);
                Resources::default()
            })
        }
    };
    StageSpec { span: stage.span, kind, with, inputs, resources, id }
}

/// The stage's own `with` keeps a null: there it is a value. Over something, null takes away.
fn lay_params(with: &mut Node, layer: &Node) {
    if with.as_map().is_some_and(<[_]>::is_empty) {
        *with = layer.clone();
    } else {
        lay(with, layer);
    }
}

fn own_params<'a>(raw: &'a RawRecipe, id: &StageId) -> Option<&'a Node> {
    let name = id.instance()?;
    let member = if name.as_str() == "public" { raw.public.as_ref() } else { raw.domains.get(name) };
    Some(&member?.with.get(id.base().as_str())?.value)
}
