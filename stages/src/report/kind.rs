//! `report`: the stage that gathers what the tables are made of and writes them. The pages, which also say when and where, are
//! made from its artifact when a run ends.

use std::{collections::BTreeMap, path::Path};

use flow_model::json;
use flow_pipeline::{
    StageError,
    context::Context,
    stage::{Arity, Forecast, Forecasts, InputTree, Kind, NoPlaces, Role},
};
use fs_err as fs;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Evaluation, Member, ModelGroup, ModelResult, ReportInput, StepMetrics, TrainingRun, build,
    input::{BTM, FLEXOLMO, PUBLIC, SOUP},
    write_tables,
};
use crate::{
    artifact,
    engine::{data, io, model},
};

/// The kind.
pub(crate) struct Report;

/// The file in the artifact from which the pages are made.
pub(super) const FILE: &str = "report.json";
/// The file of a stage that trained.
const CURVE: &str = "metrics.jsonl";

/// What is shown.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Params {
    /// What a table calls a domain; a domain that is not here goes by its name.
    pub titles: BTreeMap<String, String>,
    /// What a table calls a model of the role `combined`, by its stage.
    pub models: BTreeMap<String, String>,
}

impl Kind for Report {
    const NAME: &'static str = "report";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Gather results, corpus statistics and curves, and write the tables.";
    const MAKES: &'static str = artifact::REPORT;
    type Params = Params;
    type Places = NoPlaces;

    fn roles() -> &'static [Role] {
        &[
            Role {
                name: "public",
                takes: &[artifact::EVALUATION],
                arity: Arity::Optional,
                about: "the evaluation of the public model",
            },
            Role {
                name: "individual",
                takes: &[artifact::EVALUATION],
                arity: Arity::Any,
                about: "the evaluations of experts as dense models, a domain each",
            },
            Role {
                name: "soup",
                takes: &[artifact::EVALUATION],
                arity: Arity::Optional,
                about: "the evaluation of the model soup",
            },
            Role {
                name: "btm",
                takes: &[artifact::EVALUATION],
                arity: Arity::Optional,
                about: "the evaluation of the Branch-Train-Merge ensemble",
            },
            Role {
                name: "combined",
                takes: &[artifact::EVALUATION],
                arity: Arity::Any,
                about: "evaluations of other combined models",
            },
            Role {
                name: "flexolmo",
                takes: &[artifact::EVALUATION],
                arity: Arity::One,
                about: "the evaluation of the merged model",
            },
            Role {
                name: "optout",
                takes: &[artifact::EVALUATION],
                arity: Arity::Any,
                about: "the evaluations without one domain, by that domain",
            },
            Role {
                name: "corpora",
                takes: &[artifact::CORPUS],
                arity: Arity::Any,
                about: "the corpora, for their statistics",
            },
            Role {
                name: "training",
                takes: &[artifact::MODEL, artifact::EXPERT],
                arity: Arity::Any,
                about: "stages that trained, for their curves",
            },
        ]
    }

    fn forecast(_: &Params, _: &Forecasts) -> Forecast {
        Forecast::default()
    }

    fn run(ctx: &Context, params: Params, _: NoPlaces) -> Result<(), StageError> {
        let input = gather(ctx, &params)?;
        json::write(&ctx.output().join(FILE), &input).map_err(model)?;
        write_tables(&build(&input), ctx.output()).map_err(io)
    }
}

fn gather(ctx: &Context, params: &Params) -> Result<ReportInput, StageError> {
    let title = |domain: &str| params.titles.get(domain).cloned().unwrap_or_else(|| capital(domain));
    let mut results = Vec::new();
    let mut add = |tree: &InputTree, label: String, group, title: String, left_out: Option<String>| {
        let evaluation: Evaluation = json::read(&tree.path.join("results.json")).map_err(model)?;
        let scores = flow_data::evaluation::read_scores(&tree.path).map_err(data)?;
        results.push(ModelResult { label, group, title, left_out, evaluation, scores });
        Ok::<(), StageError>(())
    };
    for tree in ctx.inputs("public") {
        add(tree, PUBLIC.to_owned(), ModelGroup::Individual, "Public model".to_owned(), None)?;
    }
    for tree in ctx.inputs("individual") {
        let domain = instance(tree);
        add(tree, format!("individual.{domain}"), ModelGroup::Individual, title(&domain), None)?;
    }
    for (role, words) in [(SOUP, "Model soup"), (BTM, "BTM")] {
        for tree in ctx.inputs(role) {
            let words = with_top_k(words, &json::read(&tree.path.join("results.json")).map_err(model)?);
            add(tree, role.to_owned(), ModelGroup::Combined, words, None)?;
        }
    }
    for tree in ctx.inputs("combined") {
        let label = tree.label.clone().unwrap_or_default();
        let words = params.models.get(&label).cloned().unwrap_or_else(|| capital(&label));
        add(tree, label, ModelGroup::Combined, words, None)?;
    }
    for tree in ctx.inputs(FLEXOLMO) {
        let words = with_top_k("FlexOlmo", &json::read(&tree.path.join("results.json")).map_err(model)?);
        add(tree, FLEXOLMO.to_owned(), ModelGroup::Combined, words, None)?;
    }
    for tree in ctx.inputs("optout") {
        let domain = instance(tree);
        let words = format!("without {}", title(&domain));
        add(tree, format!("optout.{domain}"), ModelGroup::OptOut, words, Some(domain))?;
    }

    let mut corpora = BTreeMap::new();
    for tree in ctx.inputs("corpora") {
        corpora.insert(instance(tree), json::read(&tree.path.join("statistics.json")).map_err(model)?);
    }
    let training = ctx
        .inputs("training")
        .iter()
        // A model that was imported has no curve.
        .filter(|tree| tree.path.join(CURVE).is_file())
        .map(|tree| Ok(TrainingRun { label: tree.label.clone().unwrap_or_default(), metrics: curve(&tree.path)? }))
        .collect::<Result<_, StageError>>()?;
    let domains = results.iter().flat_map(|result| result.evaluation.domains.keys()).chain(corpora.keys());
    let domains: std::collections::BTreeSet<String> = domains.cloned().collect();
    let members = domains.into_iter().map(|name| Member { title: title(&name), name }).collect();
    Ok(ReportInput { members, results, corpora, training })
}

/// `individual.rust` and `rust` are both about `rust`.
fn instance(tree: &InputTree) -> String {
    let label = tree.label.as_deref().unwrap_or_default();
    label.rsplit('.').next().unwrap_or(label).to_owned()
}

fn capital(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// `results.json`, of which only the model is asked about here.
#[derive(Deserialize)]
struct Measured {
    model: MeasuredModel,
}

#[derive(Deserialize)]
struct MeasuredModel {
    top_k: Option<u32>,
}

fn with_top_k(words: &str, measured: &Measured) -> String {
    measured.model.top_k.map_or_else(|| words.to_owned(), |top_k| format!("{words} (top-{top_k})"))
}

fn curve(folder: &Path) -> Result<Vec<StepMetrics>, StageError> {
    let file = folder.join(CURVE);
    let text = fs::read_to_string(&file).map_err(io)?;
    let line = |(number, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|e| StageError::new(format!("{}, line {}: {e}", file.display(), number + 1)))
    };
    text.lines().enumerate().map(line).collect()
}
