//! `${name}` in the text of a recipe.
//!
//! A scalar that is nothing but `${name}` becomes the variable's value with its type, so a list stays a list and null
//! stays null; inside of a longer text the value is spelt out. `$${` is a plain `${`. Keys are never touched.

use std::collections::BTreeMap;

use super::diagnostic::{Diagnostic, Span};
use super::node::{Entry, Node, Value, shorten};
use super::raw::BUILTIN;
use super::yaml::Budget;

/// What `${…}` may name at some place of a recipe.
pub(super) struct Scope<'a> {
    pub(super) vars: &'a BTreeMap<String, Node>,
    /// Name and title of the instance, inside of a `foreach` stage.
    pub(super) instance: Option<(&'a str, &'a str)>,
}

/// The same tree with its variables filled in. What cannot be filled in is noted and becomes null.
pub(super) fn fill(node: &Node, scope: &Scope<'_>, budget: &mut Budget, found: &mut Vec<Diagnostic>) -> Node {
    let value = match &node.value {
        Value::Str(text) if text.contains('$') => {
            return fill_text(text, node.span, scope, budget).unwrap_or_else(|diagnostic| {
                found.push(diagnostic);
                Node { value: Value::Null, span: node.span }
            });
        }
        Value::List(items) => Value::List(items.iter().map(|item| fill(item, scope, budget, found)).collect()),
        Value::Map(entries) => Value::Map(
            entries
                .iter()
                .map(|entry| Entry { key: entry.key.clone(), value: fill(&entry.value, scope, budget, found) })
                .collect(),
        ),
        other => other.clone(),
    };
    Node { value, span: node.span }
}

fn fill_text(text: &str, span: Span, scope: &Scope<'_>, budget: &mut Budget) -> Result<Node, Diagnostic> {
    if let Some(name) = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'))
        && !name.contains('}')
    {
        let value = look_up(name, span, scope)?;
        return if budget.take(value.weight()) { Ok(Node { value: value.value, span }) } else { Err(too_large(span)) };
    }
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, after) = (&rest[..at], &rest[at + 2..]);
        if let Some(escaped) = before.strip_suffix('$') {
            out.push_str(escaped);
            out.push_str("${");
            rest = after;
            continue;
        }
        out.push_str(before);
        let Some((name, after)) = after.split_once('}') else {
            return Err(Diagnostic::new("recipe::variable", "a `${` is not closed")
                .at(span, "")
                .help("write `${name}`, or `$${` for a plain `${`"));
        };
        let node = look_up(name, span, scope)?;
        if !budget.take(1 + node.weight()) {
            return Err(too_large(span));
        }
        match node.value {
            Value::Str(text) => out.push_str(&text),
            Value::Int(value) => out.push_str(&value.to_string()),
            Value::Float(value) => out.push_str(&value.to_string()),
            Value::Bool(value) => out.push_str(&value.to_string()),
            Value::Null => {
                return Err(Diagnostic::new(
                    "recipe::variable",
                    format!("`${{{name}}}` is null and cannot be part of a text"),
                )
                .at(span, "")
                .help(format!("give it a value: `--set {name}=VALUE`")));
            }
            Value::List(_) | Value::Map(_) => {
                let message = format!("`${{{name}}}` is {} and cannot be part of a text", node.describe());
                return Err(Diagnostic::new("recipe::variable", message).at(span, ""));
            }
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(Node { value: Value::Str(out), span })
}

fn look_up(name: &str, span: Span, scope: &Scope<'_>) -> Result<Node, Diagnostic> {
    let text = |text: &str| Ok(Node { value: Value::Str(text.to_owned()), span });
    match (name, scope.instance) {
        ("domain", Some((domain, _))) => return text(domain),
        ("title", Some((_, title))) => return text(title),
        _ => {}
    }
    if let Some(node) = scope.vars.get(name) {
        return Ok(node.clone());
    }
    if BUILTIN.contains(&name) {
        return Err(Diagnostic::new("recipe::variable", format!("`${{{name}}}` has no value here"))
            .at(span, "")
            .help("only a stage with `foreach` has instances"));
    }
    let builtin = BUILTIN.iter().copied().filter(|_| scope.instance.is_some());
    Err(Diagnostic::new("recipe::unknown-variable", format!("unknown variable `{}`", shorten(name)))
        .at(span, "not known here")
        .nearest(name, scope.vars.keys().map(String::as_str).chain(builtin)))
}

pub(super) fn too_large(span: Span) -> Diagnostic {
    Diagnostic::new("recipe::too-large", "the recipe is too large once it is expanded").at(span, "")
}
