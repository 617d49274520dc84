//! Where flow reads and writes: stores and report folders that cannot be, that are mistyped, or that hold what is another's. What
//! does not fit is said before anything runs.

use std::fs;

use super::environment::{Ended, TestEnvironment, names};

/// Nothing was begun.
fn refused(ended: Ended, words: &str) {
    let ended = ended.with_code(2);
    assert!(ended.stderr.contains(words), "{ended:#?}");
    assert!(!ended.stdout.contains("run-started"), "{ended:#?}");
}

#[test]
fn a_store_that_cannot_be_is_a_wrong_command_line() {
    let environment = TestEnvironment::fresh();
    environment.write("file", "");
    let shared: &[&str] = &["run", "recipe.yaml", "--remote"];
    refused(environment.flow(&["plan", "recipe.yaml", "--store", "file"]), "the folder of the store");
    refused(environment.flow(&["run", "recipe.yaml", "--json", "--store", "/proc/flow"]), "/proc/flow");
    refused(environment.flow(&[shared, &["file:///proc/flow"]].concat()), "/proc/flow");
    refused(environment.flow(&[shared, &["file"]].concat()), "the folder of a store");
    let finished = TestEnvironment::finished();
    refused(finished.flow(&["cache", "push", "--remote", "file:///proc/flow"]), "/proc/flow");
}

#[test]
fn who_only_looks_makes_no_store() {
    let environment = TestEnvironment::fresh();
    let typo: &[&str] = &["--store", "typo"];
    let plan = environment.flow(&[&["plan", "recipe.yaml", "--json"], typo].concat()).succeeded().json();
    let corpus = plan["stages"].as_array().unwrap().iter().find(|stage| stage["stage"] == "corpus[sea]").unwrap();
    assert_eq!(corpus["reason"], "never run", "{corpus:#}");
    let why = environment.flow(&[&["why", "recipe.yaml", "soup"], typo].concat()).succeeded();
    assert!(why.stdout.contains("would run"), "{why:#?}");
    refused(environment.flow(&[&["report", "recipe.yaml"], typo].concat()), "not in the cache");
    refused(
        environment.flow(&[&["export", "recipe.yaml", "public", "--out", "model"], typo].concat()),
        "not in the cache",
    );
    let accept = ["accept", "recipe.yaml", "soup", "--reason", "none"];
    refused(environment.flow(&[&accept, typo].concat()), "there is no store in typo");
    assert!(!environment.path("typo").exists());
    let _ = environment.flow(&["plan", "recipe.yaml"]).succeeded();
    assert!(!environment.path(".flow").exists());
}

#[test]
fn a_report_that_cannot_be_written_is_said_before_anything_runs() {
    let environment = TestEnvironment::fresh();
    environment.write("file", "");
    for place in ["file", "file/below", "/proc/flow/report"] {
        refused(environment.run(&["--report", place]), "the report cannot be written to");
    }
    assert!(!environment.path(".flow/runs").exists());
    // Stages of which none is a report need no place for one.
    let _ = environment.run(&["corpus[sea]", "--report", "file"]).succeeded();
    let finished = TestEnvironment::finished();
    finished.write("file", "");
    refused(finished.flow(&["report", "recipe.yaml", "--report", "file"]), "the report cannot be written to");
}

#[test]
fn a_page_that_is_not_a_report_of_flow_is_not_written_over() {
    let environment = TestEnvironment::finished();
    environment.write("mine/report.md", "a year of work");
    let report: &[&str] = &["report", "recipe.yaml", "--report", "mine"];
    refused(environment.flow(report), "would be written over");
    refused(environment.run(&["--report", "mine"]), "would be written over");
    assert_eq!(environment.read("mine/report.md"), "a year of work");
    assert_eq!(environment.files("mine").len(), 1);
    fs::remove_file(environment.path("mine/report.md")).unwrap();
    for _ in 0..2 {
        let _ = environment.flow(report).succeeded();
    }
    assert_eq!(environment.run(&["--report", "mine"]).succeeded().stages("stage-started"), names::<String>([]));
    assert!(!environment.path("mine/.artifact").exists());
}
