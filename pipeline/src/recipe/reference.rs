//! References of stages to each other: `name`, `name[instance]`, `name[each]`, `name[*]`, and lists of these.

use std::collections::{BTreeMap, BTreeSet};

use super::diagnostic::{Diagnostic, Span, Spanned};
use super::node::{Node, Value, shorten};
use super::raw::wrong_type;
use super::{InputRef, InputSpec, StageSpec};
use crate::names::{InstanceName, StageId, StageName};

/// What a stage expands to: nothing for a plain one, else its instances, which are not known where `foreach` is wrong.
pub(super) type Shapes = BTreeMap<StageName, Option<Option<BTreeSet<InstanceName>>>>;

/// Reads what fills one role of stage `of`; none where nothing of it is right.
pub(super) fn input(
    role: &Spanned<String>,
    node: &Node,
    of: &StageId,
    shapes: &Shapes,
    found: &mut Vec<Diagnostic>,
) -> Option<InputSpec> {
    let mut refs: Vec<InputRef> = Vec::new();
    let many = match &node.value {
        Value::Str(text) => {
            let all = text.trim_end().ends_with("[*]");
            let targets = targets(text, node.span, of, shapes, found)?;
            refs.extend(targets.into_iter().map(|stage| {
                let label = if all { stage.instance().map(ToString::to_string) } else { None };
                InputRef { label, stage, span: node.span }
            }));
            all
        }
        Value::List(items) => {
            let mut places: BTreeMap<StageId, Span> = BTreeMap::new();
            for item in items {
                let Some(text) = item.as_str() else {
                    found.push(wrong_type(&format!("inputs.{}", role.value), "a list of references", item));
                    continue;
                };
                for stage in targets(text, item.span, of, shapes, found).unwrap_or_default() {
                    if let Some(first) = places.insert(stage.clone(), item.span) {
                        found.push(
                            Diagnostic::new("recipe::reference", format!("`{stage}` is in the list twice"))
                                .at(item.span, "again here")
                                .also(first, "first here"),
                        );
                        places.insert(stage, first);
                        continue;
                    }
                    refs.push(InputRef { label: Some(stage.label()), stage, span: item.span });
                }
            }
            true
        }
        _ => {
            found.push(
                wrong_type(&format!("inputs.{}", role.value), "a reference to a stage, or a list of them", node)
                    .help("such as `corpus`, `corpus[each]` or `[eval-public, \"eval[*]\"]`"),
            );
            return None;
        }
    };
    Some(InputSpec { role: role.clone(), refs, many })
}

/// The stages that one reference names.
fn targets(text: &str, span: Span, of: &StageId, shapes: &Shapes, found: &mut Vec<Diagnostic>) -> Option<Vec<StageId>> {
    match resolve(text.trim(), of, shapes) {
        Ok(targets) => Some(targets),
        Err(diagnostic) => {
            found.extend(diagnostic.map(|diagnostic| diagnostic.at(span, "refers to nothing")));
            None
        }
    }
}

/// `Err(None)` where the target's own `foreach` is wrong, which is noted there.
fn resolve(text: &str, of: &StageId, shapes: &Shapes) -> Result<Vec<StageId>, Option<Diagnostic>> {
    let fail = |message: String| Diagnostic::new("recipe::reference", message);
    let (base, inside) = match text.strip_suffix(']').and_then(|rest| rest.split_once('[')) {
        Some((base, inside)) => (base, Some(inside)),
        None => (text, None),
    };
    let Some((name, shape)) = shapes.get_key_value(base) else {
        let plain = StageName::new(base).is_ok();
        let diagnostic = if plain {
            fail(format!("unknown stage `{base}`"))
        } else {
            fail(format!("`{}` is no reference to a stage", shorten(text)))
        };
        return Err(Some(diagnostic.nearest(base, shapes.keys().map(StageName::as_str))));
    };
    match (shape, inside) {
        (None, None) => Ok(vec![StageId::plain(name.clone())]),
        (None, Some(inside)) => Err(Some(
            fail(format!("stage `{name}` has no `foreach`, so no instance `[{}]`", shorten(inside)))
                .help(format!("write `{name}`")),
        )),
        (Some(None), _) => Err(None),
        (Some(Some(instances)), None) => {
            let example = instances.iter().find(|name| name.as_str() == "public").or(instances.first());
            let mut forms = Vec::new();
            if of.instance().is_some() {
                forms.push(format!("`{name}[each]`"));
            }
            forms.extend(example.map(|example| format!("`{name}[{example}]`")));
            let last = format!("`{name}[*]`");
            let forms = if forms.is_empty() { last } else { format!("{} or {last}", forms.join(", ")) };
            Err(Some(
                fail(format!("stage `{name}` has `foreach`: which instance is meant?"))
                    .help(format!("did you mean {forms}?")),
            ))
        }
        (Some(Some(instances)), Some("*")) => {
            Ok(instances.iter().map(|instance| StageId::of(name.clone(), instance.clone())).collect())
        }
        (Some(Some(instances)), Some("each")) => match of.instance() {
            Some(instance) if instances.contains(instance) => Ok(vec![StageId::of(name.clone(), instance.clone())]),
            Some(instance) => Err(Some(
                fail(format!("stage `{name}` has no instance `{instance}`, which `[each]` is in `{of}`"))
                    .nearest("", instances.iter().map(InstanceName::as_str)),
            )),
            None => Err(Some(
                fail(format!("`{name}[each]` in stage `{}`, which has no `foreach`", of.base()))
                    .help(format!("`[each]` is the own instance; write `{name}[*]` for all of them")),
            )),
        },
        (Some(Some(instances)), Some(inside)) => match instances.get(inside) {
            Some(instance) => Ok(vec![StageId::of(name.clone(), instance.clone())]),
            None => Err(Some(
                fail(format!("stage `{name}` has no instance `{}`", shorten(inside)))
                    .nearest(inside, instances.iter().map(InstanceName::as_str).chain(["*", "each"])),
            )),
        },
    }
}

/// Finds stages that wait for each other, one diagnostic for each cycle of stage names.
pub(super) fn cycles(stages: &[StageSpec], found: &mut Vec<Diagnostic>) {
    let index: BTreeMap<&StageId, usize> = stages.iter().enumerate().map(|(at, stage)| (&stage.id, at)).collect();
    let edges: Vec<Vec<(usize, Span)>> = stages
        .iter()
        .map(|stage| {
            let refs = stage.inputs.iter().flat_map(|input| &input.refs);
            refs.filter_map(|reference| Some((*index.get(&reference.stage)?, reference.span))).collect()
        })
        .collect();
    // 0: not seen, 1: on the path, 2: done. A loop instead of recursion: the graph may be a chain of thousands.
    let mut state = vec![0_u8; stages.len()];
    let mut told: BTreeSet<Vec<&StageName>> = BTreeSet::new();
    for start in 0..stages.len() {
        let mut path: Vec<(usize, usize)> = Vec::new();
        if state[start] == 0 {
            state[start] = 1;
            path.push((start, 0));
        }
        while let Some((at, next)) = path.last_mut() {
            let Some((target, _)) = edges[*at].get(*next) else {
                state[*at] = 2;
                path.pop();
                continue;
            };
            *next += 1;
            match state[*target] {
                0 => {
                    state[*target] = 1;
                    path.push((*target, 0));
                }
                1 => {
                    let first = path.iter().position(|(at, _)| at == target).unwrap_or(0);
                    // Every step's cursor is one past the edge that it went along.
                    let members: Vec<(usize, Span)> =
                        path[first..].iter().map(|(at, next)| (*at, edges[*at][*next - 1].1)).collect();
                    let mut names: Vec<&StageName> = members.iter().map(|(at, _)| stages[*at].id.base()).collect();
                    names.sort_unstable();
                    names.dedup();
                    if told.insert(names) {
                        found.push(cycle(stages, &members));
                    }
                }
                _ => {}
            }
        }
    }
}

fn cycle(stages: &[StageSpec], members: &[(usize, Span)]) -> Diagnostic {
    let id = |at: usize| &stages[members[at % members.len()].0].id;
    let chain: Vec<String> = (0..=members.len()).map(|at| id(at).to_string()).collect();
    let mut diagnostic = Diagnostic::new("recipe::cycle", format!("stages wait for each other: {}", chain.join(" → ")))
        .at(members[0].1, format!("`{}` needs `{}`", id(0), id(1)))
        .help("a stage cannot use what is made from its own result: remove one of these inputs");
    for (at, (_, span)) in members.iter().enumerate().skip(1) {
        diagnostic = diagnostic.also(*span, format!("`{}` needs `{}`", id(at), id(at + 1)));
    }
    diagnostic
}
