//! `flow schema`: the JSON Schema of recipes.

use std::process::ExitCode;

use flow_pipeline::recipe::{KindSchema, recipe_schema};

use crate::view;

/// Runs the command.
pub fn schema() -> ExitCode {
    let registry = flow_stages::registry();
    let kinds = registry
        .iter()
        .map(|kind| {
            let (params, places) = kind.schemas();
            (kind.name().to_owned(), KindSchema { params, places, roles: kind.roles(), doc: kind.about().to_owned() })
        })
        .collect();
    view::json::pretty(&recipe_schema(&kinds));
    ExitCode::SUCCESS
}
