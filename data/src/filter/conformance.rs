//! What datatrove itself says of the reference documents, against our `flavour: datatrove`.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
};

use super::{Filter, Page, Verdict};

#[derive(serde::Deserialize)]
struct Case {
    id: u64,
    text: String,
    datatrove: BTreeMap<String, Said>,
}

#[derive(serde::Deserialize)]
struct Said {
    reason: Option<String>,
}

fn cases() -> Option<Vec<Case>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/reference/curation/cases.jsonl.gz");
    let Ok(file) = std::fs::File::open(path) else {
        println!("skipped: the reference documents are not at {path}");
        return None;
    };
    let lines = BufReader::new(flate2::read::GzDecoder::new(file)).lines();
    Some(lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect())
}

/// Share of documents with the very same verdict and reason.
fn agreement(name: &str, filter: &str) {
    let Some(cases) = cases() else { return };
    let filter: Filter = serde_json::from_str(filter).unwrap();
    let mut apart = Vec::new();
    for case in &cases {
        let ours = match filter.rule().check(&Page::new(&case.text)) {
            Verdict::Keep | Verdict::Rewrite(_) => None,
            Verdict::Drop(reason) => Some(reason),
        };
        let theirs = case.datatrove[name].reason.as_deref();
        if ours != theirs {
            apart.push(format!("{}: ours {ours:?}, datatrove {theirs:?}", case.id));
        }
    }
    let share = 1.0 - apart.len() as f64 / cases.len() as f64;
    println!("{name}: {share:.4} of {} agree\n{}", cases.len(), apart.join("\n"));
    assert!(share >= 0.99, "{name}: {share:.4} agree\n{}", apart.join("\n"));
}

#[test]
fn gopher_quality_agrees_with_datatrove() {
    agreement("gopher_quality", r#"{"gopher-quality":{"flavour":"datatrove"}}"#);
}

#[test]
fn gopher_repetition_agrees_with_datatrove() {
    agreement("gopher_repetition", r#"{"gopher-repetition":{"flavour":"datatrove"}}"#);
}
