//! `flow kinds`: what stages a recipe can have.

use std::{collections::BTreeMap, fmt::Write as _, process::ExitCode};

use flow_pipeline::{
    plan::either,
    stage::{Arity, fields},
};
use serde_json::json;

use crate::view;

/// Runs the command.
pub fn kinds(as_json: bool) -> ExitCode {
    let registry = flow_stages::registry();
    if as_json {
        let kinds: Vec<_> = registry
            .iter()
            .map(|kind| {
                let (params, places) = kind.schemas();
                let takes: BTreeMap<_, _> = kind.roles().iter().map(|role| (role.name, role.takes)).collect();
                json!({ "kind": kind.name(), "version": kind.version(), "about": kind.about(), "makes": kind.makes(),
                    "inputs": kind.roles().iter().map(|role| role.name).collect::<Vec<_>>(), "takes": takes,
                    "params": params, "places": places })
            })
            .collect();
        view::json::pretty(&kinds);
        return ExitCode::SUCCESS;
    }
    let mut out = String::new();
    for kind in registry.iter() {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{} (version {})\n  {}", kind.name(), kind.version(), kind.about());
        for role in kind.roles() {
            let many = match role.arity {
                Arity::One => "",
                Arity::Optional => ", optional",
                Arity::Many => ", one or more",
                Arity::Any => ", any number",
            };
            let _ = writeln!(out, "  input {} ({}{many}): {}", role.name, either(role.takes), role.about);
        }
        let (params, places) = kind.schemas();
        let names: Vec<String> = fields(&params).into_iter().chain(fields(&places)).collect();
        let _ = writeln!(out, "  with {}\n  makes {}\n", names.join(", "), kind.makes());
    }
    view::print(&out);
    ExitCode::SUCCESS
}
