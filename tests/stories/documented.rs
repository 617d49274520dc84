//! What commands write for programs is what `docs/events.md` says, field by field.

use std::collections::BTreeSet;

use serde_json::Value;

use super::environment::TestEnvironment;

const PAGE: &str = include_str!("../../docs/events.md");

/// Maps of which the keys are names: of stages or kinds, with documented values.
const NAMED: [&str; 2] = ["stages", "kinds"];
/// What the kinds of stages say, each its own.
const THEIRS: [&str; 5] = ["params", "metrics", "inputs", "sources", "damaged_stages"];

/// All names of fields in a value, but for those of maps from names.
fn fields(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| fields(value, into)),
        Value::Object(map) => {
            for (name, value) in map {
                into.insert(name.clone());
                match value {
                    Value::Object(named) if NAMED.contains(&name.as_str()) => {
                        named.values().for_each(|value| fields(value, into));
                    }
                    Value::Array(_) if name == "sources" => {}
                    Value::Object(_) if THEIRS.contains(&name.as_str()) => {}
                    value => fields(value, into),
                }
            }
        }
        _ => {}
    }
}

/// Each field of these values stands in the page's row of the command, or in a passage to which it leads.
fn documented(command: &str, values: &[Value], leads_to: &[&str]) {
    let row = |start: &str| {
        let found = PAGE.lines().find(|line| line.starts_with(start));
        found.unwrap_or_else(|| panic!("docs/events.md has no line that begins with {start}"))
    };
    let mut text = row(command).to_owned();
    for start in leads_to {
        // A table goes on to its empty line.
        let at = PAGE.find(start).unwrap_or_else(|| panic!("docs/events.md has no passage `{start}`"));
        text += PAGE[at..].split("\n\n").next().unwrap();
    }
    let mut names = BTreeSet::new();
    for value in values {
        fields(value, &mut names);
    }
    assert!(!names.is_empty(), "{command}: {values:?}");
    let said = |name: &String| text.contains(&format!("`{name}`")) || text.contains(&format!("\"{name}\""));
    let missing: Vec<&String> = names.iter().filter(|name| !said(name)).collect();
    assert!(missing.is_empty(), "docs/events.md does not say what {missing:?} of {command} are");
}

#[test]
fn each_field_of_each_command_is_on_the_page() {
    let environment = TestEnvironment::finished();
    let json = |args: &[&str]| environment.flow(&[args, &["--json"]].concat()).succeeded().json();
    let first = json(&["runs"])[0]["run"].as_str().unwrap().to_owned();
    environment.edit("vocab_size: 384", "vocab_size: 300");
    let plan_fields = "| `stage`, `kind`, `kind_version` |";
    let (reason, record) = ("A *reason* has", "A *record* has");
    documented("`format` (1)", &[json(&["plan", "recipe.yaml"])], &[plan_fields, reason]);
    documented("`flow plan --diff RUN --json`", &[json(&["plan", "recipe.yaml", "--diff", &first])], &[reason]);
    let why = [json(&["why", "recipe.yaml", "tokenizer"]), json(&["why", "flexolmo"])];
    documented("| `flow why` |", &why, &["`format` (1)", plan_fields, reason, record, "| `flow status` |"]);
    documented("| `flow cache ls` |", &[json(&["cache", "ls"])], &[record, "| `flow why` |", "`format` (1)"]);

    let accept = ["accept", "recipe.yaml", "tokenizer", "--reason", "the words are the same"];
    documented("| `flow accept` |", &[json(&accept)], &[reason]);

    // A run in which something failed and something was not reached.
    environment.edit("vocab_size: 300", "vocab_size: 100000");
    let _ = environment.run(&["tokens[sea]"]).with_code(1);
    let second = json(&["runs"])[0]["run"].as_str().unwrap().to_owned();
    documented("| `flow status` |", &[json(&["status"]), json(&["status", &first])], &[reason, "| `stage-failed` |"]);
    documented("| `flow runs` |", &[json(&["runs"])], &[]);
    documented("| `flow logs` |", &[json(&["logs", "tokenizer"])], &[]);
    documented("| `flow diff` |", &[json(&["diff", &first, &second])], &["`flow plan --diff RUN --json`", reason]);
    documented("| `flow cache du` |", &[json(&["cache", "du"])], &[]);
    documented("| `flow cache verify` |", &[json(&["cache", "verify"])], &[]);
    documented("| `flow cache gc` |", &[json(&["cache", "gc", "--keep-runs", "0", "--grace", "0s", "--yes"])], &[]);
    documented("| `flow cache pin`, `unpin` |", &[json(&["cache", "pin", "public", "--run", &first])], &[]);
    documented("| `flow cache pin`, `unpin` |", &[json(&["cache", "unpin", "public"])], &[]);
    documented("| `flow graph` |", &[json(&["graph", "recipe.yaml"])], &[]);
    let errors = environment.flow(&["why", "nothing", "--json"]).with_code(2).json();
    documented("Every command takes `--json`", &[errors], &["What failed is"]);
}
