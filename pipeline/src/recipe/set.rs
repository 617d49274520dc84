//! `--set path=value`: one value laid over a recipe from the command line.
//!
//! A path is dotted: `stages.expert.with.steps`, `domains.rust.with.corpus.sources.0.path`. A bare word is a variable.
//! The value is YAML. `null` takes an entry out, as in a profile; a variable becomes null.

use super::SET_SOURCE;
use super::diagnostic::{Diagnostic, SourceMap, Span, Spanned};
use super::node::{Entry, Node, Value};
use super::raw;
use super::yaml::{self, Budget, MAX_DEPTH, MAX_FILE, MAX_WEIGHT};

/// Applies one `--set`.
pub(super) fn apply(root: &mut Node, path: &str, value: &str, sources: &mut SourceMap) -> Result<(), Vec<Diagnostic>> {
    if path.len() + value.len() > MAX_FILE {
        return Err(vec![Diagnostic::new("recipe::too-large", "a `--set` is too large")]);
    }
    let text = format!("{path}={value}");
    let file = sources.add(SET_SOURCE, text.as_str());
    let node = yaml::parse(file, &text, path.len() + 1, &mut Budget::new(MAX_WEIGHT), &mut |_, span, _| {
        Err(vec![Diagnostic::new("recipe::include", "`--set` cannot include a file").at(span, "")])
    })?;
    let mut steps = Vec::new();
    let mut start = 0;
    for step in path.split('.') {
        let span = Span {
            file,
            start: start as u32,
            end: (start + step.len()) as u32,
            line: 1,
            col: 1 + path[..start].chars().count() as u32,
        };
        start += step.len() + 1;
        if step.is_empty() {
            return Err(vec![
                Diagnostic::new("recipe::set", format!("`{path}` is no path"))
                    .at(span, "a name is missing here")
                    .help("write `--set stages.NAME.with.PARAM=VALUE`, or `--set VARIABLE=VALUE`"),
            ]);
        }
        steps.push(Spanned::new(step.to_owned(), span));
    }
    if steps.len() + node.depth() > MAX_DEPTH {
        return Err(vec![
            Diagnostic::new("recipe::too-deep", "the path of a `--set` is too long").at(steps[0].span, ""),
        ]);
    }
    let steps = variable(root, steps)?;
    place(root, &steps, node).map_err(|diagnostic| vec![diagnostic])
}

/// Turns a bare word into the path of a variable, and checks the first steps against what the recipe has.
fn variable(root: &Node, mut steps: Vec<Spanned<String>>) -> Result<Vec<Spanned<String>>, Vec<Diagnostic>> {
    let keys = |section: &str| -> Vec<String> {
        let entries = root.get(section).and_then(Node::as_map).unwrap_or_default();
        entries.iter().map(|entry| entry.key.value.clone()).collect()
    };
    let vars = keys("vars");
    let first = steps[0].clone();
    if vars.contains(&first.value) && (steps.len() == 1 || !raw::SECTIONS.contains(&first.value.as_str())) {
        steps.insert(0, Spanned::new("vars".into(), first.span));
        return Ok(steps);
    }
    let fail = |step: &Spanned<String>, what: &str, known: Vec<&str>| {
        vec![
            Diagnostic::new("recipe::set", format!("{what} `{}`", step.value))
                .at(step.span, "not known here")
                .nearest(&step.value, known),
        ]
    };
    let settable = raw::SECTIONS.iter().copied().filter(|name| *name != "profiles" && *name != "flow");
    if !settable.clone().any(|name| name == first.value) {
        let known = vars.iter().map(String::as_str).chain(settable).collect();
        let what = if steps.len() == 1 { "no variable or section is named" } else { "no section is named" };
        return Err(fail(&first, what, known));
    }
    let Some(second) = steps.get(1) else { return Ok(steps) };
    let what = match first.value.as_str() {
        "vars" => "no variable is named",
        "stages" => "no stage is named",
        "domains" => "no domain is named",
        _ => return Ok(steps),
    };
    let there = keys(&first.value);
    if there.contains(&second.value) {
        Ok(steps)
    } else if let Some((base, instance)) =
        instance(&second.value).filter(|(base, _)| there.iter().any(|one| one == base))
    {
        let member = if instance == "public" { "public".to_owned() } else { format!("domains.{instance}") };
        // `stages.expert[py].with.tokens` → `domains.py.with.expert.tokens`.
        let rest: Vec<&str> = steps.iter().skip(3).map(|step| step.value.as_str()).collect();
        let rest = if rest.is_empty() { "PARAM".to_owned() } else { rest.join(".") };
        Err(vec![
            Diagnostic::new("recipe::set", format!("`{base}` is one stage here, with all its instances"))
                .at(second.span, "an instance")
                .help(format!("a param of one instance is set by `--set {member}.with.{base}.{rest}=VALUE`")),
        ])
    } else {
        Err(fail(second, what, there.iter().map(String::as_str).collect()))
    }
}

/// `expert[py]` in its two parts.
fn instance(step: &str) -> Option<(&str, &str)> {
    step.strip_suffix(']')?.split_once('[')
}

fn place(root: &mut Node, steps: &[Spanned<String>], node: Node) -> Result<(), Diagnostic> {
    let Some((step, rest)) = steps.split_first() else {
        *root = node;
        return Ok(());
    };
    let is_var = step.value == "vars" && rest.len() == 1;
    match &mut root.value {
        Value::Map(entries) => {
            let at = entries.iter().position(|entry| entry.key.value == step.value);
            match at {
                // A variable that is null stays a variable.
                Some(at) if is_var => set_entry(&mut entries[at].value, &rest[0], node),
                Some(at) if rest.is_empty() && node.is_null() => {
                    entries.remove(at);
                }
                Some(at) => return place(&mut entries[at].value, rest, node),
                None if rest.is_empty() && node.is_null() => {}
                None => {
                    let mut value = Node::empty_map(step.span);
                    place(&mut value, rest, node)?;
                    entries.push(Entry { key: step.clone(), value });
                }
            }
            Ok(())
        }
        Value::List(items) => {
            let length = items.len();
            let item = step.value.parse::<usize>().ok().and_then(|at| items.get_mut(at));
            let item = item.ok_or_else(|| {
                Diagnostic::new("recipe::set", format!("`{}` is no place in a list of {length}", step.value))
                    .at(step.span, "not in the list")
                    .help("items count from 0; to change the length, set the whole list")
            })?;
            place(item, rest, node)
        }
        // `with:` with nothing below it is a map to be.
        Value::Null => {
            *root = Node::empty_map(root.span);
            place(root, steps, node)
        }
        _ => Err(Diagnostic::new("recipe::set", format!("`{}` is not in {}", step.value, root.describe()))
            .at(step.span, "nothing can be set below a single value")
            .also(root.span, "the value")),
    }
}

fn set_entry(map: &mut Node, key: &Spanned<String>, node: Node) {
    if let Value::Map(entries) = &mut map.value {
        match entries.iter_mut().find(|entry| entry.key.value == key.value) {
            Some(entry) => entry.value = node,
            None => entries.push(Entry { key: key.clone(), value: node }),
        }
    }
}
