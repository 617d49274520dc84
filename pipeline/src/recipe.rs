//! The recipe language: from YAML to a typed, expanded [`Recipe`], with the place of every word kept.
mod decode;
mod diagnostic;
mod expand;
mod fault;
mod load;
mod node;
mod overlay;
mod raw;
mod reference;
mod resources;
mod scalar;
mod schema;
mod set;
mod syntax;
mod variable;
mod yaml;

use std::path::{Path, PathBuf};

pub use self::decode::{decode, decode_split};
pub use self::diagnostic::{Diagnostic, FileId, SourceFile, SourceMap, Span, Spanned};
use self::expand::Known;
use self::load::Loader;
pub use self::load::text_of_file;
pub use self::node::{Entry, Node, Value};
pub use self::resources::{Resources, Retries};
pub use self::schema::{KindSchema, recipe_schema};
use crate::names::{InstanceName, RecipeName, StageId};

/// What the text of a `--set` is called in a [`SourceMap`].
pub const SET_SOURCE: &str = "--set";

/// A recipe, read, overlaid, expanded and checked.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Its name.
    pub name: RecipeName,
    /// The seed that every stage's own is derived from.
    pub seed: u64,
    /// The compute device that it asks for; the command line may name another.
    pub device: Option<String>,
    /// Where it does.
    pub device_span: Option<Span>,
    /// All stages after `foreach`, sorted by id. Their references exist and make no cycle.
    pub stages: Vec<StageSpec>,
    /// `public` where there is one, then the domains, sorted by name.
    pub members: Vec<Member>,
    /// The texts that all spans are of.
    pub sources: SourceMap,
    /// The profiles laid over it, in order.
    pub profile: Vec<String>,
    /// All profiles that it offers, in the order of the text.
    pub profiles: Vec<String>,
    /// The folder of the recipe file, for paths in params; empty for a recipe from memory.
    pub root: PathBuf,
}

/// Somebody whose text a recipe is about: the public part, or a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The name, which is the instance name of its stages.
    pub name: InstanceName,
    /// For people.
    pub title: String,
    /// Whether this is the public part.
    pub public: bool,
}

/// One stage of the expanded graph.
#[derive(Clone, Debug)]
pub struct StageSpec {
    /// Its name, and its instance where `foreach` made it.
    pub id: StageId,
    /// Its kind. That the kind exists is for the registry to say.
    pub kind: Spanned<String>,
    /// Its params: always a map. See [`decode`].
    pub with: Node,
    /// What it reads, sorted by role.
    pub inputs: Vec<InputSpec>,
    /// What it needs to run; never part of its key.
    pub resources: Resources,
    /// Where it is written.
    pub span: Span,
}

/// One role of a stage and what fills it.
#[derive(Clone, Debug)]
pub struct InputSpec {
    /// The role.
    pub role: Spanned<String>,
    /// The stages that fill it: exactly one unless `many`.
    pub refs: Vec<InputRef>,
    /// Whether it was written as a list or with `[*]`.
    pub many: bool,
}

/// One stage that fills a role.
#[derive(Clone, Debug)]
pub struct InputRef {
    /// What the stage is called among its like: the instance name for `expert[*]`, `individual.rust` in a list, none alone.
    pub label: Option<String>,
    /// The stage.
    pub stage: StageId,
    /// Where it is referred to.
    pub span: Span,
}

/// What is laid over a recipe when it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Profiles by name, the later over the earlier.
    pub profiles: Vec<String>,
    /// Dotted paths or names of variables, and the YAML to put there.
    pub set: Vec<(String, String)>,
}

/// Everything that is wrong with a recipe, and the texts to show it in.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", self.render())]
pub struct LoadError {
    /// What is wrong; never empty.
    pub diagnostics: Vec<Diagnostic>,
    /// The texts that the spans are of.
    pub sources: SourceMap,
}

/// Sorts by place, and says once what several instances of a stage would repeat.
pub(crate) fn once_each(mut diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    diagnostics.sort_by_key(|diagnostic| diagnostic.label.as_ref().map(|(span, _)| *span));
    diagnostics.dedup_by(|next, first| {
        next.code == first.code
            && next.label.as_ref().map(|(span, _)| *span) == first.label.as_ref().map(|(span, _)| *span)
            && (next.label.is_some() || next.message == first.message)
    });
    diagnostics
}

impl LoadError {
    fn new(diagnostics: Vec<Diagnostic>, sources: SourceMap) -> Self {
        LoadError { diagnostics: once_each(diagnostics), sources }
    }

    /// Every diagnostic in its plain form.
    pub fn render(&self) -> String {
        self.diagnostics.iter().map(|diagnostic| diagnostic.render(&self.sources)).collect::<Vec<_>>().join("\n")
    }
}

/// Reads a recipe file with what it includes, lays profiles and `--set` over it, expands and checks it.
///
/// The error holds every diagnostic that could be found at once, in the order of the text.
pub fn load(path: &Path, options: &LoadOptions) -> Result<Recipe, LoadError> {
    let mut loader = Loader::new();
    let root = loader.read(path);
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    build(root, loader.sources, options, folder)
}

/// Reads a recipe from memory; `!include` is refused. `name` stands for the file in messages.
pub fn parse_str(name: &str, text: &str, options: &LoadOptions) -> Result<Recipe, LoadError> {
    let mut loader = Loader::new();
    let root = loader.read_text(name, text);
    build(root, loader.sources, options, PathBuf::new())
}

fn build(
    root: Result<Node, Vec<Diagnostic>>,
    mut sources: SourceMap,
    options: &LoadOptions,
    folder: PathBuf,
) -> Result<Recipe, LoadError> {
    let mut root = match root {
        Ok(root) => root,
        Err(diagnostics) => return Err(LoadError::new(diagnostics, sources)),
    };
    let mut found = Vec::new();
    let mut known = Known::of(&root);
    let profiles = overlay::apply_profiles(&mut root, &options.profiles, &mut found);
    known.add(&root);
    for (path, value) in &options.set {
        if let Err(wrong) = set::apply(&mut root, path, value, &mut sources) {
            found.extend(wrong);
        }
    }
    let mut raw = raw::read(&root, &mut found);
    let (members, stages) = expand::expand(&mut raw, &known, &mut found);
    reference::cycles(&stages, &mut found);
    match raw.name {
        Some(name) if found.is_empty() => Ok(Recipe {
            name,
            seed: raw.seed,
            device_span: raw.device.as_ref().map(|device| device.span),
            device: raw.device.map(|device| device.value),
            stages,
            members,
            sources,
            profile: options.profiles.clone(),
            profiles,
            root: folder,
        }),
        _ => Err(LoadError::new(found, sources)),
    }
}

/// A frozen recipe ([`resolved_json`]) with what a recipe calls its parts: members as `public` and `domains`, inputs as the names
/// of stages, and of resources those that are not as they are anyway. For comparisons that people read.
pub fn as_written(mut frozen: serde_json::Value) -> serde_json::Value {
    use serde_json::Value as Json;
    let defaults = serde_json::json!(Resources::default());
    for (_, stage) in frozen.get_mut("stages").and_then(Json::as_object_mut).into_iter().flatten() {
        for (_, input) in stage.get_mut("inputs").and_then(Json::as_object_mut).into_iter().flatten() {
            let many = input.get("many").and_then(Json::as_bool) != Some(false);
            let refs = input.get("refs").and_then(Json::as_array).into_iter().flatten();
            let mut names: Vec<Json> = refs.filter_map(|one| one.get("stage").cloned()).collect();
            *input = if many || names.len() != 1 { names.into() } else { names.remove(0) };
        }
        let resources = stage.get_mut("resources").and_then(Json::as_object_mut);
        if let Some(resources) = resources {
            resources.retain(|name, value| defaults.get(name) != Some(value));
        }
        if let Some(stage) = stage.as_object_mut() {
            // What is empty was not written.
            let is_empty = |value: &Json| value.as_object().is_some_and(serde_json::Map::is_empty);
            stage.retain(|name, value| name == "kind" || !is_empty(value));
        }
    }
    let Some(recipe) = frozen.as_object_mut() else { return frozen };
    let mut domains = serde_json::Map::new();
    if let Some(Json::Array(members)) = recipe.remove("members") {
        for member in members {
            let title = serde_json::json!({ "title": member.get("title") });
            match member.get("name").and_then(Json::as_str) {
                Some(_) if member.get("public").and_then(Json::as_bool) == Some(true) => {
                    recipe.insert("public".to_owned(), title);
                }
                Some(name) => drop(domains.insert(name.to_owned(), title)),
                None => {}
            }
        }
    }
    if !domains.is_empty() {
        recipe.insert("domains".to_owned(), domains.into());
    }
    frozen
}

/// The expanded recipe as JSON with sorted keys: what a run folder keeps.
pub fn resolved_json(recipe: &Recipe) -> serde_json::Value {
    // Moved together and not by `json!`, which copies what it is given, at every level.
    let object = |members: Vec<(&str, serde_json::Value)>| -> serde_json::Value { members.into_iter().collect() };
    let stages = recipe.stages.iter().map(|stage| {
        let inputs = stage.inputs.iter().map(|input| {
            let refs = input.refs.iter().map(|reference| {
                object(vec![("stage", reference.stage.to_string().into()), ("label", reference.label.clone().into())])
            });
            let input_json = object(vec![("many", input.many.into()), ("refs", refs.collect())]);
            (input.role.value.clone(), input_json)
        });
        let json = object(vec![
            ("kind", stage.kind.value.as_str().into()),
            ("with", stage.with.to_json()),
            ("inputs", inputs.collect()),
            ("resources", serde_json::json!(stage.resources)),
        ]);
        (stage.id.to_string(), json)
    });
    let members = recipe.members.iter().map(
        |member| serde_json::json!({ "name": member.name.as_str(), "title": member.title, "public": member.public }),
    );
    object(vec![
        ("flow", 1.into()),
        ("members", members.collect()),
        ("name", recipe.name.as_str().into()),
        ("profile", recipe.profile.clone().into()),
        ("seed", recipe.seed.into()),
        ("device", serde_json::json!(recipe.device)),
        ("stages", stages.collect()),
    ])
}
