//! Every promise of docs/RELIABILITY.md names its tests, and every test that is named exists.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    fs,
    path::{Path, PathBuf},
};

#[test]
fn every_promise_has_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/RELIABILITY.md")).unwrap();
    let mut sources = String::new();
    for folder in
        ["cache/src", "cache/tests", "patience/src", "data/src", "pipeline/src", "pipeline/tests", "tests/stories"]
    {
        read(&root.join(folder), &mut sources);
    }
    let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| ")).skip(2).collect();
    assert!(rows.len() > 15, "only {} promises", rows.len());
    for row in rows {
        let tests = row.trim_end_matches(" |").rsplit_once(" | ").unwrap().1;
        let names: Vec<&str> = tests.split(", ").map(|name| name.trim_matches('`')).collect();
        assert!(!names.iter().any(|name| name.is_empty()), "a promise without a test: {row}");
        for name in names {
            let is_there = sources.contains(&format!("fn {name}(")) || sources.contains(&format!("(\"{name}\", "));
            assert!(is_there, "no test is named `{name}`: {row}");
        }
    }
}

fn read(folder: &Path, all: &mut String) {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            read(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}
