//! A first run makes every artifact and the report; a second one finds everything there; from nothing it is the same again.

use std::{collections::BTreeSet, fs};

use serde_json::Value;

use super::{
    corpus::DOMAINS,
    environment::{TestEnvironment, names, stages},
};

#[test]
fn the_report_is_complete() {
    let environment = TestEnvironment::finished();
    for page in ["report.md", "report.html"] {
        let text = environment.read(&format!("report/tiny/{page}"));
        for name in ["Public model", "Model soup", "BTM", "FlexOlmo"] {
            assert!(text.contains(name), "{page} does not name {name}");
        }
        assert!(!text.contains("NaN"), "{page} shows a number that is none");
    }
    // The page stands alone: whoever gets it by mail sees all of it.
    let page = environment.read("report/tiny/report.html");
    for outside in ["<script src", "<link", "src=\"http"] {
        assert!(!page.contains(outside), "report.html needs another file: {outside}");
    }
    assert!(page.contains("<svg"), "report.html has no drawing");

    let tables = environment.files("report/tiny/tables");
    let of = |ending: &str| -> BTreeSet<String> {
        let files = tables.keys().filter(|file| file.extension().is_some_and(|e| e == ending));
        files.map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    };
    assert_eq!(of("csv"), of("tex"));
    assert_eq!(of("csv"), of("json"));
    assert!(of("csv").is_superset(&names([
        "results-bits-per-byte",
        "results-cloze",
        "opt-out-bits-per-byte",
        "opt-out-cloze",
        "corpora",
        "training"
    ])));
    for (file, content) in &tables {
        assert!(!content.is_empty(), "{} is empty", file.display());
        if file.extension().is_some_and(|e| e == "json") {
            serde_json::from_slice::<Value>(content).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        }
    }
}

#[test]
fn the_tables_have_a_row_for_every_model_and_a_column_for_every_domain() {
    let environment = TestEnvironment::finished();
    let individual = DOMAINS.map(|domain| format!("individual.{domain}"));
    let models = names(["public", "soup", "btm", "flexolmo"]).into_iter().chain(individual).collect::<BTreeSet<_>>();
    for measure in ["bits-per-byte", "cloze"] {
        let rows = rows(&environment, &format!("results-{measure}"));
        assert_eq!(rows.iter().map(|row| row["key"].clone()).collect::<BTreeSet<_>>(), models, "{measure}");
        for row in &rows {
            for column in ["public"].iter().chain(&DOMAINS).chain(&["average"]) {
                let value: f64 = row[*column].parse().unwrap_or_else(|_| panic!("{measure}, {column}: {row:?}"));
                assert!(value.is_finite() && value >= 0.0, "{measure}, {column}: {row:?}");
            }
        }
        let left_out = self::rows(&environment, &format!("opt-out-{measure}"));
        let left_out = left_out.iter().map(|row| row["key"].clone()).collect::<BTreeSet<_>>();
        assert_eq!(left_out, names(DOMAINS.map(|domain| format!("optout.{domain}"))), "{measure}");
    }
    // Each expert learned its domain: what the public model never saw it now reads better.
    let rows = rows(&environment, "results-bits-per-byte");
    let bits = |model: &str, domain: &str| -> f64 {
        rows.iter().find(|row| row["key"] == model).unwrap()[domain].parse().unwrap()
    };
    for domain in DOMAINS {
        for model in [&*format!("individual.{domain}"), "soup", "btm", "flexolmo"] {
            assert!(bits(model, domain) < 0.9 * bits("public", domain), "{model} on {domain}");
        }
    }
}

#[test]
fn the_tables_call_a_domain_by_its_title() {
    let environment = TestEnvironment::finished();
    let rows = rows(&environment, "results-bits-per-byte");
    let row = rows.iter().find(|row| row["key"] == "individual.bread").unwrap();
    assert_eq!(row["title"], "Bread and cakes");
    let page = environment.read("report/tiny/report.md");
    assert!(page.contains("| Model | Public | Bread and cakes | The sea | Stars |"), "{page}");
}

#[test]
fn provenance_names_every_stage_its_artifact_and_what_it_was_made_of() {
    let environment = TestEnvironment::finished();
    let artifacts = environment.artifacts("report/tiny");
    assert_eq!(artifacts.keys().cloned().collect::<BTreeSet<_>>(), stages(&DOMAINS));
    for digest in artifacts.values() {
        assert!(digest.len() == 64 && digest.chars().all(|c| c.is_ascii_hexdigit()), "{digest}");
    }
    let provenance: Value = serde_json::from_str(&environment.read("report/tiny/provenance.json")).unwrap();
    let graph = provenance["@graph"].as_array().unwrap();
    let merge = graph.iter().find(|entity| entity["name"] == "flexolmo" && entity["@type"] == "CreateAction").unwrap();
    let read = merge["object"].as_array().unwrap().iter().map(|object| object["@id"].as_str().unwrap().to_owned());
    let inputs = ["public", "embed[public]", "expert[bread]", "expert[sea]", "expert[stars]"];
    assert_eq!(read.collect::<BTreeSet<_>>(), names(inputs.map(|input| format!("#artifact/{}", artifacts[input]))));
    // And of a source: the digest that is in the key of what read it, under its name in the recipe.
    let listed = environment.flow(&["cache", "ls", "--json"]).succeeded().json();
    let records = listed.as_array().unwrap().iter().map(|listed| &listed["record"]);
    let corpora = records.filter(|record| record["kind"] == "curate");
    let page = environment.read("report/tiny/report.md");
    for corpus in corpora {
        let digest = corpus["parts"]["sources"][0]["digest"].as_str().unwrap();
        let action = graph.iter().find(|entity| entity["name"] == corpus["stage"]).unwrap();
        let source = graph.iter().find(|entity| entity["@id"] == action["object"]["@id"]).unwrap();
        assert_eq!(source["identifier"], format!("blake3:{digest}"));
        let place = format!("text/{}", corpus["parts"]["params"]["domain"].as_str().unwrap());
        assert!(source["name"] == place && page.contains(digest) && page.contains(&place), "{source}");
    }
    for action in graph.iter().filter(|entity| entity["@type"] == "CreateAction") {
        let time = |name: &str| action[name].as_str().unwrap().to_owned();
        assert!(time("startTime") <= time("endTime"), "{action}");
    }
    assert_eq!(environment.read("report/tiny/ro-crate-metadata.json"), environment.read("report/tiny/provenance.json"));
    // What the crate says that it holds is there.
    for part in graph.iter().find(|entity| entity["@id"] == "./").unwrap()["hasPart"].as_array().unwrap() {
        let file = format!("report/tiny/{}", part["@id"].as_str().unwrap());
        assert!(environment.path(&file).is_file(), "{file} is not there");
    }
}

#[test]
fn a_second_run_finds_everything_and_writes_the_same_tables() {
    let environment = TestEnvironment::finished();
    let before = environment.files("report/tiny/tables");
    fs::remove_dir_all(environment.path("report")).unwrap();

    let ended = environment.flow(&["run", "recipe.yaml", "--threads", "2"]).succeeded();
    assert_eq!(ended.stdout, "", "text for people goes to standard error");
    assert!(!ended.stderr.contains("Finished"), "{}", ended.stderr);
    assert_eq!(ended.stderr.matches("Cached").count(), stages(&DOMAINS).len(), "{}", ended.stderr);
    assert!(ended.stderr.contains("Report report/tiny/report.md"), "{}", ended.stderr);
    assert!(before == environment.files("report/tiny/tables"), "the tables differ");

    // `flow report` alone writes them too.
    let _ = environment.flow(&["report", "recipe.yaml", "--report", "elsewhere"]).succeeded();
    assert!(before == environment.files("elsewhere/tables"), "the tables of `flow report` differ");
}

#[test]
fn from_nothing_it_is_the_same_with_one_thread_and_with_two() {
    let environment = TestEnvironment::finished();
    let (artifacts, tables) = (environment.artifacts("report/tiny"), environment.files("report/tiny/tables"));
    for threads in ["1", "2"] {
        fs::remove_dir_all(environment.path(".flow")).unwrap();
        fs::remove_dir_all(environment.path("report")).unwrap();
        let ended = environment.flow(&["run", "recipe.yaml", "--json", "--threads", threads]).succeeded();
        assert_eq!(ended.stages("stage-finished"), stages(&DOMAINS));
        assert_eq!(environment.artifacts("report/tiny"), artifacts, "with {threads} threads");
        assert!(environment.files("report/tiny/tables") == tables, "the tables differ with {threads} threads");
    }
}

#[test]
fn a_recheck_does_a_stage_again_and_compares() {
    let environment = TestEnvironment::finished();
    let before = environment.artifacts("report/tiny")["public"].clone();
    let ended = environment.run(&["public", "--recheck", "public"]).succeeded();
    assert_eq!(ended.stages("stage-started"), names(["public"]));
    assert_eq!(ended.events("stage-finished")[0]["artifact"], Value::from(before));
}

#[test]
fn a_run_that_nobody_listens_to_ends_all_the_same() {
    for output in ["stdout", "stderr"] {
        let environment = TestEnvironment::fresh();
        // As `flow run … | head -1` and `flow run … |& head -1` do: the other end of the pipe is gone.
        let code = environment.unheard(output, &["run", "recipe.yaml", "--json", "--threads", "2", "tokenizer"]);
        assert_eq!(code, Some(0), "without {output}, with --json");
        let code = environment.unheard(output, &["run", "recipe.yaml", "--threads", "2", "tokens[public]"]);
        assert_eq!(code, Some(0), "without {output}");
        assert_eq!(environment.records(".flow"), 3);
    }
}

#[test]
fn a_report_of_what_was_not_run_is_refused() {
    let environment = TestEnvironment::fresh();
    let ended = environment.flow(&["report", "recipe.yaml"]).with_code(2);
    assert!(ended.stderr.contains("`flow run` makes them"), "{}", ended.stderr);
    assert!(!environment.path("report").exists());
}

#[test]
fn status_shows_how_the_last_run_ended() {
    let environment = TestEnvironment::finished();
    let ended = environment.flow(&["status"]).succeeded();
    assert!(ended.stdout.contains("of tiny: done"), "{}", ended.stdout);
    assert_eq!(ended.stdout.matches("\n finished ").count(), stages(&DOMAINS).len(), "{}", ended.stdout);
    let state = environment.flow(&["status", "--json"]).succeeded().json();
    assert_eq!(state["outcome"], "done");
    let ended = environment.flow(&["status", "no-such-run"]).with_code(2);
    assert!(ended.stderr.contains("no run is named `no-such-run`"), "{}", ended.stderr);
}

/// The rows of a table, by the names of its columns.
fn rows(environment: &TestEnvironment, table: &str) -> Vec<std::collections::BTreeMap<String, String>> {
    let text = environment.read(&format!("report/tiny/tables/{table}.csv"));
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap().split(',').collect();
    lines
        .map(|line| {
            let cells: Vec<&str> = line.split(',').collect();
            assert_eq!(cells.len(), header.len(), "{table}: {line}");
            header.iter().zip(cells).map(|(name, cell)| ((*name).to_owned(), cell.to_owned())).collect()
        })
        .collect()
}
