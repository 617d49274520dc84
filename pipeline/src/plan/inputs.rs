//! What fills a stage's roles: that they are there, as many as the kind takes, and of the right sort.

use std::collections::{BTreeMap, BTreeSet};

use super::PlannedInput;
use crate::{
    names::{InstanceName, StageId, StageName, nearest},
    recipe::{Diagnostic, StageSpec},
    registry::Registry,
    stage::{AnyKind, Arity, Role},
};

/// The inputs of a stage, checked against the roles of its kind.
pub(super) fn read(
    spec: &StageSpec,
    kind: &dyn AnyKind,
    places: &BTreeMap<&StageId, usize>,
) -> Result<Vec<PlannedInput>, Vec<Diagnostic>> {
    let roles = kind.roles();
    let mut wrong = Vec::new();
    let mut inputs = Vec::new();
    let diagnostic = |message: String, span, label: &str, help: Option<String>| Diagnostic {
        message: format!("{}: {message}", spec.id),
        code: "recipe::inputs",
        label: Some((span, label.to_owned())),
        related: Vec::new(),
        help,
    };
    let known = || {
        let names: Vec<&str> = roles.iter().map(|role| role.name).collect();
        if names.is_empty() {
            format!("kind `{}` takes no inputs", kind.name())
        } else {
            format!("kind `{}` takes {}", kind.name(), names.join(", "))
        }
    };
    for input in &spec.inputs {
        let name = input.role.value.as_str();
        let Some(role) = roles.iter().find(|role| role.name == name) else {
            let nearest = nearest(name, roles.iter().map(|role| role.name), 1).pop();
            let help = nearest.map_or_else(known, |role| format!("did you mean `{role}`?"));
            wrong.push(diagnostic(
                format!("there is no input `{name}`"),
                input.role.span,
                "not an input of this kind",
                Some(help),
            ));
            continue;
        };
        let many = matches!(role.arity, Arity::Many | Arity::Any);
        if !many && (input.refs.len() != 1 || input.many) {
            wrong.push(diagnostic(
                format!("input `{name}` takes one artifact, not {}", input.refs.len()),
                input.role.span,
                "takes one",
                Some("name one stage, such as `tokens[public]`".into()),
            ));
            continue;
        }
        for reference in &input.refs {
            // The recipe's references were checked when it was read.
            let Some(&stage) = places.get(&reference.stage) else { continue };
            let label = many.then(|| reference.label.clone().unwrap_or_else(|| reference.stage.label()));
            inputs.push(PlannedInput { role: name.to_owned(), label, stage });
        }
    }
    for role in roles {
        let given = spec.inputs.iter().any(|input| input.role.value == role.name && !input.refs.is_empty());
        if !given && matches!(role.arity, Arity::One | Arity::Many) {
            wrong.push(diagnostic(
                format!("input `{}` is missing", role.name),
                spec.span,
                "this stage",
                Some(format!("`{}` is {}", role.name, role.about)),
            ));
        }
    }
    inputs.sort_by(|a, b| (&a.role, &a.label).cmp(&(&b.role, &b.label)));
    for pair in inputs.windows(2) {
        if let [a, b] = pair
            && a.role == b.role
            && a.label == b.label
        {
            let label = a.label.clone().unwrap_or_default();
            wrong.push(diagnostic(
                format!("input `{}` has two artifacts labelled `{label}`", a.role),
                spec.span,
                "this stage",
                None,
            ));
        }
    }
    if wrong.is_empty() { Ok(inputs) } else { Err(wrong) }
}

/// The references to stages that make something else than the role takes.
pub(super) fn misplaced(
    spec: &StageSpec,
    kind: &dyn AnyKind,
    specs: &[&StageSpec],
    places: &BTreeMap<&StageId, usize>,
    registry: &Registry,
) -> Vec<Diagnostic> {
    let mut wrong = Vec::new();
    for input in &spec.inputs {
        let Some(role) = kind.roles().iter().find(|role| role.name == input.role.value) else { continue };
        for reference in &input.refs {
            let maker = places.get(&reference.stage).map(|&at| specs[at]);
            // A kind that there is not is told where it stands.
            let Some(made) = maker.and_then(|maker| registry.get(&maker.kind.value)) else { continue };
            if role.takes.contains(&made.makes()) {
                continue;
            }
            let (name, makes, takes) = (role.name, made.makes(), either(role.takes));
            let message = format!("{}: input `{name}` takes {takes}, and `{}` makes {makes}", spec.id, reference.stage);
            let diagnostic = Diagnostic::new("recipe::input-kind", message)
                .at(reference.span, format!("a stage of kind `{}`", made.name()))
                .help(instead(spec, role, specs, places, registry));
            wrong.push(diagnostic);
        }
    }
    wrong
}

/// Which stages of the recipe would do, or else which kinds.
fn instead(
    spec: &StageSpec,
    role: &Role,
    specs: &[&StageSpec],
    places: &BTreeMap<&StageId, usize>,
    registry: &Registry,
) -> String {
    const LISTED: usize = 8;
    let makes = |kind: &str| registry.get(kind).is_some_and(|kind| role.takes.contains(&kind.makes()));
    let behind = made_of(&spec.id, specs, places);
    let mut found: BTreeMap<&StageName, BTreeSet<Option<&InstanceName>>> = BTreeMap::new();
    for other in specs.iter().filter(|other| makes(&other.kind.value) && !behind.contains(&other.id)) {
        if other.id.base() == spec.id.base() {
            continue;
        }
        found.entry(other.id.base()).or_default().insert(other.id.instance());
    }
    let many = matches!(role.arity, Arity::Many | Arity::Any);
    let names: Vec<String> = found
        .iter()
        .map(|(base, instances)| match instances.iter().flatten().next() {
            None => format!("`{base}`"),
            Some(_) if many => format!("`{base}[*]`"),
            Some(_) if spec.id.instance().is_some() && instances.contains(&spec.id.instance()) => {
                format!("`{base}[each]`")
            }
            Some(first) => {
                let public = instances.iter().flatten().find(|name| name.as_str() == "public");
                format!("`{base}[{}]`", public.unwrap_or(first))
            }
        })
        .collect();
    if names.is_empty() {
        let kinds: Vec<&str> = registry.iter().map(AnyKind::name).filter(|kind| makes(kind)).collect();
        return format!("no other stage of the recipe makes that; kinds that do are {}", kinds.join(", "));
    }
    let more = if names.len() > LISTED { format!(" and {} more", names.len() - LISTED) } else { String::new() };
    let listed = names.iter().take(LISTED).cloned().collect::<Vec<_>>().join(", ");
    format!("stages that make that: {listed}{more}")
}

/// The stage and all that is made from its result: none of these can be its input.
fn made_of<'a>(id: &'a StageId, specs: &[&'a StageSpec], places: &BTreeMap<&StageId, usize>) -> BTreeSet<&'a StageId> {
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); specs.len()];
    for (at, spec) in specs.iter().enumerate() {
        for reference in spec.inputs.iter().flat_map(|input| &input.refs) {
            if let Some(&made) = places.get(&reference.stage) {
                readers[made].push(at);
            }
        }
    }
    let mut behind = BTreeSet::from([id]);
    let mut open: Vec<usize> = places.get(id).copied().into_iter().collect();
    while let Some(at) = open.pop() {
        for &reader in &readers[at] {
            if behind.insert(&specs[reader].id) {
                open.push(reader);
            }
        }
    }
    behind
}

/// `model`, `model or mixture`, `model, mixture or ensemble`.
pub fn either(words: &[&str]) -> String {
    match words {
        [] => "nothing".to_owned(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}
