//! The recipes that ship are right: every profile of each loads, every stage's params are its kind's, every reference stands.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use flow_pipeline::{
    plan::{self, prepare::Surroundings},
    recipe::{self, LoadOptions, Recipe},
};

fn load(name: &str, profiles: &[&str]) -> Recipe {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../recipes").join(name);
    let options = LoadOptions { profiles: profiles.iter().map(ToString::to_string).collect(), set: Vec::new() };
    recipe::load(&path, &options).unwrap_or_else(|invalid| panic!("{}", invalid.render()))
}

/// Prepares without hashing a byte: sources that are not there are the user's business.
fn prepare(recipe: &Recipe) -> plan::Prepared {
    let memo = tempfile::tempdir().unwrap();
    let hash = |_: &Path| Ok(String::new());
    let surroundings = Surroundings { memo: memo.path(), hash: &hash };
    match plan::prepare(recipe, &flow_stages::registry(), &surroundings, &[]) {
        Ok(prepared) => prepared,
        Err(flow_pipeline::Error::Recipe(found)) => {
            let text: Vec<String> = found.iter().map(|diagnostic| diagnostic.render(&recipe.sources)).collect();
            panic!("{}", text.join("\n"))
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn the_quick_start_is_right() {
    let recipe = load("crates-nano.yaml", &[]);
    assert_eq!(recipe.members.len(), 6);
    let prepared = prepare(&recipe);
    assert_eq!(prepared.stages.iter().filter(|stage| stage.kind == "train-expert").count(), 5);
    assert!(prepared.stages.iter().all(|stage| stage.resources.devices() == 0), "it is for a CPU");
}

#[test]
fn the_papers_run_has_the_papers_numbers() {
    let prepared = prepare(&load("flexolmo-7x7b.yaml", &[]));
    let estimate = |name: &str| {
        let stage = prepared.stages.iter().find(|stage| stage.id.to_string() == name).unwrap();
        stage.forecast.estimate.clone()
    };
    // FLEXOLMO §2, §3: 7.30e9 dense; 2x7B = 11.6e9, 4.33e9 of them trained; 11921 updates of 1024 × 4096 tokens.
    let (public, expert) = (estimate("pretrain"), estimate("expert[news]"));
    assert_eq!(public.parameters.unwrap() / 10_000_000, 729);
    assert_eq!(expert.parameters.unwrap() / 100_000_000, 116);
    assert_eq!(expert.trained_parameters.unwrap(), 32 * 3 * 4096 * 11008);
    assert_eq!(expert.tokens.unwrap(), 11_921 * 1024 * 4096);
    // 7x7B = 33.3e9.
    assert_eq!(estimate("flexolmo").parameters.unwrap() / 100_000_000, 332);
    for stage in ["pretrain", "public", "expert[code]", "eval-flexolmo"] {
        let estimate = estimate(stage);
        assert!(estimate.flops.is_some() && estimate.memory.is_some() && estimate.device_hours.is_some(), "{stage}");
    }
}

#[test]
fn every_profile_is_the_same_graph() {
    let full = load("flexolmo-7x7b.yaml", &[]);
    assert_eq!(full.profiles, ["nano"]);
    let nano = load("flexolmo-7x7b.yaml", &["nano"]);
    let ids = |recipe: &Recipe| recipe.stages.iter().map(|stage| stage.id.to_string()).collect::<Vec<_>>();
    assert_eq!(ids(&full), ids(&nano));
    let prepared = prepare(&nano);
    assert!(prepared.stages.iter().all(|stage| stage.resources.devices() == 0), "it is for a CPU");
}
