//! From the recipe's stages to typed ones: params decoded by their kind, roles checked, sources looked at, costs forecast.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use super::{PreparedStage, inputs};
use crate::{
    error::{Error, Result},
    graph::Graph,
    names::{StageId, nearest_stage},
    recipe::{Diagnostic, Recipe, StageSpec, once_each},
    registry::Registry,
    stage::{AnyKind, Forecast, Forecasts, ResolveContext},
};

/// The typed stages of a recipe and the graph over them.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// The recipe's name.
    pub recipe: String,
    /// The stages, in the recipe's order.
    pub stages: Vec<PreparedStage>,
    /// Who needs whom.
    pub graph: Graph,
    /// The stages that were asked for: those that a person named, or else those that no other takes.
    pub targets: BTreeSet<usize>,
}

/// Where a recipe's sources are looked for.
pub struct Surroundings<'a> {
    /// A folder in which lookups may be remembered.
    pub memo: &'a Path,
    /// BLAKE3 of a file as hex.
    pub hash: &'a (dyn Fn(&Path) -> std::io::Result<String> + Sync),
}

/// Types, checks and looks at everything that can be known before anything runs. With `targets`, only these stages and
/// what they need are kept.
pub fn prepare(
    recipe: &Recipe,
    registry: &Registry,
    surroundings: &Surroundings<'_>,
    targets: &[StageId],
) -> Result<Prepared> {
    let (kept, named) = closure(recipe, targets)?;
    let specs: Vec<&StageSpec> = kept.iter().map(|&at| &recipe.stages[at]).collect();
    let places: BTreeMap<&StageId, usize> = specs.iter().enumerate().map(|(at, spec)| (&spec.id, at)).collect();

    let mut diagnostics = Vec::new();
    let mut typed = Vec::new();
    for spec in &specs {
        let Some(kind) = registry.get(&spec.kind.value) else {
            let nearest = registry.nearest(&spec.kind.value);
            diagnostics.push(Diagnostic {
                message: format!("there is no kind of stage `{}`", spec.kind.value),
                code: "recipe::unknown-kind",
                label: Some((spec.kind.span, "not a kind".into())),
                related: Vec::new(),
                help: Some(nearest.map_or_else(
                    || format!("kinds are {}", registry.iter().map(AnyKind::name).collect::<Vec<_>>().join(", ")),
                    |nearest| format!("did you mean `{nearest}`?"),
                )),
            });
            continue;
        };
        let inputs = match inputs::read(spec, kind, &places) {
            Ok(inputs) => inputs,
            Err(mut wrong) => {
                diagnostics.append(&mut wrong);
                Vec::new()
            }
        };
        diagnostics.extend(inputs::misplaced(spec, kind, &specs, &places, registry));
        match kind.decode(spec) {
            Ok(decoded) => typed.push((*spec, kind, decoded, inputs)),
            Err(diagnostic) => diagnostics.push(diagnostic),
        }
    }
    if !diagnostics.is_empty() {
        return Err(Error::Recipe(once_each(diagnostics)));
    }

    let edges: Vec<Vec<usize>> =
        typed.iter().map(|(_, _, _, inputs)| inputs.iter().map(|input| input.stage).collect()).collect();
    let graph = Graph::new(&edges).ok_or_else(|| {
        Error::Recipe(vec![Diagnostic {
            message: "the stages form a cycle".into(),
            code: "recipe::cycle",
            label: None,
            related: Vec::new(),
            help: None,
        }])
    })?;

    let context = ResolveContext { base: &recipe.root, memo: surroundings.memo, hash: surroundings.hash };
    let mut forecasts: Vec<Forecast> = vec![Forecast::default(); typed.len()];
    for &at in graph.order() {
        let (spec, kind, decoded, inputs) = &typed[at];
        let mut known = Forecasts::new();
        for input in inputs {
            let forecast = forecasts[input.stage].clone();
            known.entry(input.role.clone()).or_default().push((input.label.clone(), forecast));
        }
        if let Err(misfit) = kind.fits(decoded, &known) {
            diagnostics.push(misfit.into_diagnostic(spec));
        }
        forecasts[at] = kind.forecast(decoded, &known).unwrap_or_default();
    }
    if !diagnostics.is_empty() {
        return Err(Error::Recipe(once_each(diagnostics)));
    }
    let stages = typed
        .into_iter()
        .zip(forecasts)
        .map(|((spec, kind, decoded, inputs), forecast)| PreparedStage {
            id: spec.id.clone(),
            kind: kind.name(),
            kind_version: kind.version(),
            computes: kind.computes(),
            seed: kind.seeded().then_some(recipe.seed),
            sources: kind.resolve(&decoded, &context),
            decoded,
            inputs,
            forecast,
            resources: spec.resources.clone(),
            default_cores: kind.cores(),
        })
        .collect();
    let targets = if named.is_empty() {
        (0..graph.len()).filter(|&at| graph.dependents(at).next().is_none()).collect()
    } else {
        named
    };
    Ok(Prepared { recipe: recipe.name.to_string(), stages, graph, targets })
}

/// The targets and all that they need, in the recipe's order; everything if there are no targets. And which of these, counted
/// in that order, are the targets themselves.
fn closure(recipe: &Recipe, targets: &[StageId]) -> Result<(Vec<usize>, BTreeSet<usize>)> {
    let places: BTreeMap<&StageId, usize> = recipe.stages.iter().enumerate().map(|(at, s)| (&s.id, at)).collect();
    if targets.is_empty() {
        return Ok(((0..recipe.stages.len()).collect(), BTreeSet::new()));
    }
    let mut stack = Vec::new();
    for target in targets {
        stack.extend(named(target, places.keys().copied())?.into_iter().map(|id| places[id]));
    }
    let named: BTreeSet<usize> = stack.iter().copied().collect();
    let mut kept = BTreeSet::new();
    while let Some(at) = stack.pop() {
        if kept.insert(at) {
            let refs = recipe.stages[at].inputs.iter().flat_map(|input| &input.refs);
            stack.extend(refs.filter_map(|reference| places.get(&reference.stage).copied()));
        }
    }
    let targets = kept.iter().enumerate().filter(|(_, at)| named.contains(at)).map(|(place, _)| place).collect();
    Ok((kept.into_iter().collect(), targets))
}

/// The stages that a person means by `name`: the base name of a `foreach` stands for all its instances. Never none.
///
/// # Errors
/// A name that is none of theirs.
pub fn named<'a>(name: &StageId, stages: impl Iterator<Item = &'a StageId> + Clone) -> Result<Vec<&'a StageId>> {
    let meant = |id: &&StageId| *id == name || (name.instance().is_none() && id.base() == name.base());
    let found: Vec<&StageId> = stages.clone().filter(meant).collect();
    if found.is_empty() { Err(no_such_stage(&name.to_string(), stages)) } else { Ok(found) }
}

/// The complaint about a name that none of these stages has, with the nearest that one has.
pub fn no_such_stage<'a>(name: &str, stages: impl Iterator<Item = &'a StageId>) -> Error {
    Error::NoSuchStage { name: name.to_owned(), nearest: nearest_stage(name, stages) }
}
