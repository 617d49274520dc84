//! `flow graph`: the graph of stages as text or picture.

use std::process::ExitCode;

use flow_pipeline::{
    drawing::{DrawNode, Drawing},
    recipe::Recipe,
};

use super::planning;
use crate::{
    cli::{GraphArgs, GraphFormat},
    failure::Ended,
    view,
};

/// Runs the command.
pub fn graph(args: &GraphArgs, json: bool) -> Ended {
    let recipe = planning::load(&args.recipe)?;
    let drawing = of(&recipe);
    let drawing = if args.collapse { drawing.collapsed() } else { drawing };
    if json {
        let nodes: Vec<_> = drawing
            .nodes
            .iter()
            .map(|n| serde_json::json!({ "stage": n.label, "kind": n.kind, "of": n.group }))
            .collect();
        view::json::pretty(&serde_json::json!({ "stages": nodes, "edges": drawing.edges }));
        return Ok(ExitCode::SUCCESS);
    }
    let text = match args.format {
        GraphFormat::Dot => drawing.dot(),
        GraphFormat::Mermaid => drawing.mermaid(),
        GraphFormat::Svg => drawing.svg(),
    };
    view::print(&format!("{}\n", text.trim_end()));
    Ok(ExitCode::SUCCESS)
}

/// A recipe's stages as a drawing.
pub fn of(recipe: &Recipe) -> Drawing {
    let nodes = recipe.stages.iter().map(|stage| DrawNode {
        id: stage.id.to_string(),
        label: stage.id.to_string(),
        kind: stage.kind.value.clone(),
        group: stage.id.instance().map(|_| stage.id.base().to_string()),
        state: None,
    });
    let edges = recipe.stages.iter().flat_map(|stage| {
        let refs = stage.inputs.iter().flat_map(|input| &input.refs);
        refs.map(|reference| (reference.stage.to_string(), stage.id.to_string()))
    });
    Drawing { nodes: nodes.collect(), edges: edges.collect() }
}
