//! The bytes of every kind on a small input do not drift: if a line here changes, the kind's `VERSION` must change with it, or
//! caches that are out there serve what this flow would no longer make.

use std::fmt::Write;

use super::environment::TestEnvironment;

/// The numerics that the recorded digests of what is computed are for.
const NUMERICS: &str = "cpu-x86-64-v4-f32-1";

/// Kinds whose bytes come from text and counts alone, on any machine.
const EXACT: [&str; 3] = ["curate", "train-tokenizer", "tokenize"];

fn digests(take: impl Fn(&str) -> bool) -> String {
    let environment = TestEnvironment::finished();
    let plan = environment.flow(&["plan", "recipe.yaml", "--json"]).succeeded().json();
    let artifacts = environment.artifacts("report/tiny");
    let mut lines: Vec<String> = plan["stages"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|stage| take(stage["kind"].as_str().unwrap()))
        .map(|stage| {
            let name = stage["stage"].as_str().unwrap();
            format!("{} v{} {name} {}", stage["kind"].as_str().unwrap(), stage["kind_version"], artifacts[name])
        })
        .collect();
    lines.sort();
    lines.into_iter().fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "{line}");
        text
    })
}

#[test]
fn what_is_read_and_counted() {
    insta::assert_snapshot!(digests(|kind| EXACT.contains(&kind)));
}

#[test]
fn what_is_computed() {
    let environment = TestEnvironment::finished();
    let plan = environment.flow(&["plan", "recipe.yaml", "--json"]).succeeded().json();
    let numerics = plan["numerics"]["backend"].as_str().unwrap();
    if numerics != NUMERICS {
        println!("skipped: the digests are recorded for {NUMERICS}, this machine computes with {numerics}");
        return;
    }
    insta::assert_snapshot!(digests(|kind| !EXACT.contains(&kind)));
}
