//! Laying one tree over another: maps merge, scalars and lists replace, `null` for a map's entry removes it.

use std::collections::BTreeMap;

use super::diagnostic::Diagnostic;
use super::node::{Entry, Node, Value};
use super::raw;

/// Lays `over` over `base`.
pub(super) fn lay(base: &mut Node, over: &Node) {
    match &over.value {
        Value::Map(over_entries) => {
            if !matches!(base.value, Value::Map(_)) {
                *base = Node::empty_map(over.span);
            }
            if let Value::Map(entries) = &mut base.value {
                lay_entries(entries, over_entries);
            }
        }
        _ => *base = over.clone(),
    }
}

fn lay_entries(base: &mut Vec<Entry>, over: &[Entry]) {
    let at: BTreeMap<String, usize> =
        base.iter().enumerate().map(|(at, entry)| (entry.key.value.clone(), at)).collect();
    let mut kept: Vec<Option<Entry>> = std::mem::take(base).into_iter().map(Some).collect();
    for entry in over {
        let old = at.get(&entry.key.value).copied();
        if entry.value.is_null() {
            if let Some(old) = old {
                kept[old] = None;
            }
            continue;
        }
        if let Some(old) = old.and_then(|old| kept[old].as_mut()) {
            lay(&mut old.value, &entry.value);
        } else {
            // Through an empty map, so that a null below removes here too.
            let mut value = Node::empty_map(entry.value.span);
            lay(&mut value, &entry.value);
            kept.push(Some(Entry { key: entry.key.clone(), value }));
        }
    }
    base.extend(kept.into_iter().flatten());
}

/// Takes the profiles out of a recipe and lays the chosen ones over it. Profiles that are not chosen are checked too.
/// Returns the names of all, in the order of the text.
pub(super) fn apply_profiles(root: &mut Node, chosen: &[String], found: &mut Vec<Diagnostic>) -> Vec<String> {
    let Value::Map(entries) = &mut root.value else { return Vec::new() };
    let profiles = match entries.iter().position(|entry| entry.key.value == "profiles") {
        Some(at) => entries.remove(at).value,
        None => Node::empty_map(root.span),
    };
    let Some(profiles) = profiles.as_map() else {
        if !profiles.is_null() {
            found.push(raw::wrong_type("profiles", "a map of profiles", &profiles));
        }
        return Vec::new();
    };
    for profile in profiles {
        check_profile(root, profile, found);
    }
    for name in chosen {
        match profiles.iter().find(|entry| entry.key.value == *name) {
            Some(profile) => lay_profile(root, &profile.value),
            None => found.push(
                Diagnostic::new("recipe::unknown-profile", format!("the recipe has no profile `{name}`"))
                    .nearest(name, profiles.iter().map(|entry| entry.key.value.as_str())),
            ),
        }
    }
    profiles.iter().map(|entry| entry.key.value.clone()).collect()
}

fn lay_profile(root: &mut Node, profile: &Node) {
    let nulls: Vec<Entry> = profile
        .get("vars")
        .and_then(Node::as_map)
        .map(|vars| vars.iter().filter(|var| var.value.is_null()).cloned().collect())
        .unwrap_or_default();
    lay(root, profile);
    // A variable that is null stays a variable: `${x}` is then null, not unknown.
    if !nulls.is_empty()
        && let Value::Map(entries) = &mut root.value
    {
        let at = entries.iter().position(|entry| entry.key.value == "vars").unwrap_or_else(|| {
            entries.extend(
                profile
                    .entry("vars")
                    .map(|vars| Entry { key: vars.key.clone(), value: Node::empty_map(vars.value.span) }),
            );
            entries.len() - 1
        });
        if let Value::Map(vars) = &mut entries[at].value.value {
            vars.extend(nulls);
        }
    }
}

/// What would pass in silence: a misspelt section, or a stage that the recipe does not have and that is no whole stage.
fn check_profile(root: &Node, profile: &Entry, found: &mut Vec<Diagnostic>) {
    let Some(sections) = profile.value.as_map() else {
        found.push(raw::wrong_type(&format!("profiles.{}", profile.key.value), "a map", &profile.value));
        return;
    };
    for section in sections {
        let name = section.key.value.as_str();
        if !raw::SECTIONS.contains(&name) || name == "profiles" || name == "flow" {
            found.push(raw::unknown_key(
                &section.key,
                "a profile",
                raw::SECTIONS.iter().copied().filter(|name| *name != "profiles" && *name != "flow"),
            ));
        }
        if name == "stages"
            && let (Some(stages), Some(base)) = (section.value.as_map(), root.get("stages").and_then(Node::as_map))
        {
            for stage in stages {
                let known = base.iter().any(|entry| entry.key.value == stage.key.value);
                if !known && stage.value.get("kind").is_none() {
                    found.push(
                        Diagnostic::new(
                            "recipe::unknown-stage",
                            format!(
                                "profile `{}` changes a stage `{}` that is not there",
                                profile.key.value, stage.key.value
                            ),
                        )
                        .at(stage.key.span, "no such stage")
                        .nearest(&stage.key.value, base.iter().map(|entry| entry.key.value.as_str())),
                    );
                }
            }
        }
    }
}
