//! A change that a person knows to be harmless: the artifact stays, what is made of it stays, and wherever it is shown the reason
//! is.

use std::collections::BTreeSet;

use insta::assert_snapshot;
use serde_json::Value;

use super::environment::{TestEnvironment, names};

const REASON: &str = "the last thousand tokens change nothing that we measure";

/// The tiny recipe run, and then with more tokens for each expert.
fn changed() -> TestEnvironment {
    let environment = TestEnvironment::finished();
    environment.edit("with: { name: \"${domain}\", tokens: 8K,", "with: { name: \"${domain}\", tokens: 9K,");
    environment
}

fn experts() -> BTreeSet<String> {
    names(["expert[bread]", "expert[sea]", "expert[stars]"])
}

/// The stages of which the plan says that somebody accepted them.
fn planned_as_accepted(environment: &TestEnvironment, more: &[&str]) -> BTreeSet<String> {
    let plan = environment.flow(&[&["plan", "recipe.yaml", "--json"], more].concat()).succeeded().json();
    let stages = plan["stages"].as_array().unwrap();
    names(stages.iter().filter(|stage| stage["accepted"] == REASON).map(|stage| stage["stage"].as_str().unwrap()))
}

#[test]
fn a_harmless_change_keeps_what_there_is_and_the_report_says_so() {
    let environment = changed();
    let before = environment.artifacts("report/tiny");
    let plan = environment.flow(&["plan", "recipe.yaml"]).succeeded().stdout;
    assert!(plan.contains("will run expert[sea]        tokens: 8000 → 9000\n"), "{plan}");
    assert!(plan.contains("will run report") && plan.contains("15 cached, 16 will run"), "{plan}");

    assert_snapshot!("accept", environment.flow(&["accept", "recipe.yaml", "expert", "--reason", REASON]).snapshot());
    let plan = environment.flow(&["plan", "recipe.yaml"]).succeeded().stdout;
    assert!(plan.contains("31 cached, 0 will run"), "{plan}");
    assert_eq!(plan.matches(&format!(", accepted: {REASON}\n")).count(), 3, "{plan}");
    assert_eq!(planned_as_accepted(&environment, &[]), experts());

    // The run does nothing, and its report shows each of them.
    assert_eq!(environment.runs_again(), BTreeSet::new());
    assert_eq!(environment.artifacts("report/tiny"), before);
    let (markdown, html) = (environment.read("report/tiny/report.md"), environment.read("report/tiny/report.html"));
    for expert in experts() {
        assert!(
            markdown.contains(&format!(
                "- **{}**: {REASON}\n  - tokens: 8000 → 9000\n",
                expert.replace('[', "\\[").replace(']', "\\]")
            )),
            "{expert}: {markdown}"
        );
        assert!(
            html.contains(&format!(
                "<li><strong>{expert}</strong>: {REASON}<ul><li>tokens: 8000 → 9000</li></ul></li>"
            )),
            "{expert}"
        );
    }
    for file in ["provenance.json", "ro-crate-metadata.json"] {
        let told: Value = serde_json::from_str(&environment.read(&format!("report/tiny/{file}"))).unwrap();
        let graph = told["@graph"].as_array().unwrap();
        let accepted = graph.iter().filter(|entity| entity["name"] == "accepted" && entity["value"] == REASON);
        assert_eq!(accepted.count(), 3, "{file}");
        // What it was made of, and not what the recipe says now.
        let fact = |name: &str| graph.iter().find(|entity| entity["@id"] == format!("#stage/expert%5Bsea%5D/{name}"));
        let value = |name: &str| fact(name).unwrap_or_else(|| panic!("{name}: {graph:#?}"))["value"].as_str().unwrap();
        assert_eq!(value("accepted_changes"), "tokens: 8000 → 9000");
        assert!(value("params").contains("\"tokens\":8000"), "{}", value("params"));
        assert_ne!(value("made_for"), value("key"));
    }
    // So does a run that looks at nothing but what it remembers.
    assert_eq!(environment.runs_again(), BTreeSet::new());

    let why = environment.flow(&["why", "recipe.yaml", "expert[sea]"]).succeeded().stdout;
    assert!(why.contains(&format!(" accepted {REASON}\n")), "{why}");
    assert!(why.contains(" made for ") && why.contains(" tokens: 8000 → 9000\n"), "{why}");
    let listed = environment.flow(&["cache", "ls", "expert[sea]"]).succeeded().stdout;
    assert!(listed.lines().any(|line| line.ends_with(REASON)), "{listed}");
    let _ = environment.flow(&["cache", "verify"]).succeeded();
    let _ = environment.flow(&["cache", "gc", "recipe.yaml", "--grace", "0s", "--keep-runs", "0", "--yes"]).succeeded();
    assert_eq!(planned_as_accepted(&environment, &[]), experts());
}

#[test]
fn an_acceptance_travels_to_the_shared_store_and_from_there() {
    let environment = changed();
    let remote = ["--remote", "shared"];
    let accept = ["accept", "recipe.yaml", "expert", "--reason", REASON, "--json"];
    let told = environment.flow(&[&accept[..], &remote].concat()).succeeded().json();
    assert_eq!(
        (&told["reason"], &told["plan"]["cached"], &told["plan"]["run"]),
        (&REASON.into(), &31.into(), &0.into())
    );
    let stages = told["accepted"].as_array().unwrap();
    assert_eq!(names(stages.iter().map(|stage| stage["stage"].as_str().unwrap())), experts());
    assert_eq!(stages[0]["changes"][0]["path"], "params.tokens");
    assert_ne!(stages[0]["key"], stages[0]["was"]);

    let _ = environment.flow(&[&["cache", "push", "recipe.yaml"][..], &remote].concat()).succeeded();
    let there = ["--store", "elsewhere"];
    let _ = environment.flow(&[&["cache", "pull", "recipe.yaml"][..], &remote, &there].concat()).succeeded();
    assert_eq!(planned_as_accepted(&environment, &there), experts());
}

#[test]
fn a_recheck_tells_an_accepted_artifact_from_one_that_was_made() {
    let environment = changed();
    let _ = environment.flow(&["accept", "recipe.yaml", "expert[sea]", "--reason", REASON]).succeeded();
    let ended = environment.run(&["expert[sea]", "--recheck", "expert[sea]"]).with_code(1);
    let error = &ended.events("stage-failed")[0]["error"];
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(&format!(" was accepted (reason: {REASON}) for the same key ")), "{error:#}");

    // What the help says: the acceptance is taken back, and the stage made.
    assert!(error["help"].as_str().unwrap().contains("`flow cache forget STAGE`"), "{error:#}");
    let _ = environment.flow(&["cache", "forget", "expert[sea]"]).succeeded();
    let ended = environment.run(&["expert[sea]"]).succeeded();
    assert_eq!(ended.stages("stage-finished"), names(["expert[sea]"]));
    assert!(environment.planned("expert[sea]", &[])["accepted"].is_null());
}

#[test]
fn what_cannot_be_accepted_is_refused() {
    let environment = changed();
    let records = environment.records(".flow");
    let refused = |stage: &str, reason: &str| {
        environment.flow(&["accept", "recipe.yaml", stage, "--reason", reason]).with_code(2).snapshot()
    };
    assert_snapshot!("accept_without_a_reason", refused("expert", " "));
    assert_snapshot!("accept_what_is_cached", refused("corpus", REASON));
    assert_snapshot!("accept_what_waits", refused("flexolmo", REASON));
    assert_snapshot!("accept_a_misspelt_stage", refused("exprt[sea]", REASON));
    environment.edit("stars: { title: Stars }", "stars: { title: Stars }\n  seas: { title: The seas }");
    environment.write("text/seas/all.txt", "One document, of few words.\n");
    assert_snapshot!("accept_what_never_ran", refused("corpus[seas]", REASON));
    let said_nothing = environment.flow(&["accept", "recipe.yaml", "expert"]).with_code(2);
    assert!(said_nothing.stderr.contains("--reason <TEXT>"), "{said_nothing:#?}");
    assert_eq!(environment.records(".flow"), records);
}

#[test]
fn a_stage_that_runs_is_not_accepted_beside_it() {
    let environment = TestEnvironment::finished();
    environment.edit("tokens: 20K }", "tokens: 400K, checkpoint_every: 20 }");
    let mut running = environment.start(&["public"]);
    running.wait_until("the training runs", || environment.flow(&["status"]).stdout.contains("running public"));
    let refused =
        environment.flow(&["accept", "recipe.yaml", "public", "--reason", REASON, "--json"]).with_code(2).json();
    let message = refused["errors"][0]["message"].as_str().unwrap();
    assert!(
        message.starts_with("public cannot be accepted: run ") && message.ends_with(" is making it now"),
        "{message}"
    );
    running.kill_tree();
}
