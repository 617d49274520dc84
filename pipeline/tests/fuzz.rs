//! Recipes, jobs and event logs from strangers: whatever they are, they are read or refused.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

use flow_fuzz::{Meter, Target};
use flow_pipeline::{
    event::{Stamped, log, state::RunState},
    job::{Job, JobResult},
    recipe::{LoadOptions, parse_str, resolved_json},
};

#[global_allocator]
static METER: Meter = Meter;

const SMALL: &str = r#"
flow: 1
name: small
seed: 6198
vars: { steps: 100, lang: [en, de], note: ~ }
defaults: &defaults
  train: { lr: 3e-4, steps: "${steps}" }
public: { title: Everybody }
domains:
  rust: { title: "Rust ${lang}", with: { expert: { lr: 1e-3, schedule: { warmup: 5 } } } }
  news: {}
profiles:
  nano: { vars: { steps: 1_000 } }
stages:
  corpus:
    foreach: [public, domains]
    kind: curate
    with: { name: "${domain}", title: "about ${title}", langs: "${lang}", price: "$${x}", size: 4MiB, time: 72h }
  base: { kind: train, inputs: { tokens: "corpus[public]" }, resources: { cores: 2, memory: 1GiB } }
  expert:
    foreach: domains
    kind: train
    with: { schedule: { kind: cosine, warmup: 10 } }
    inputs: { tokens: "corpus[each]", anchor: base }
  merge: { kind: join, inputs: { anchor: base, experts: "expert[*]" } }
"#;

/// Small, so that there is time for many; mutations make more of it.
const BOMB: &str = "flow: 1\nname: bomb\nvars:\n  a: &a [x, x, x, x, x, x, x, x, x]\n  b: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\n  \
    c: [*b, *b, *b, *b, *b, *b, *b, *b, *b]\nstages:\n  a: { kind: k, with: { x: \"${c}\", y: \"${c}\" } }\n";

#[test]
fn recipes() {
    let target = Target::new("recipe")
        .seed(SMALL)
        .seed(BOMB)
        .seed(include_str!("../../recipes/crates-nano.yaml"))
        .seed(include_str!("../../recipes/flexolmo-7x7b.yaml"))
        .words(&[
            "&a ",
            "*a",
            "<<: ",
            "!include x",
            "!!binary ",
            "? ",
            "--- ",
            "%YAML 1.2",
            "${",
            "${domain}",
            "$${",
            "[*]",
            "[each]",
            "foreach: ",
            "stages:",
            "domains",
            "public",
            "1e400",
            "0x7fffffffffffffffff",
            ".inf",
            "|2\n",
            ">-\n",
            "- - - - - -",
            "{{{{{{{{",
            "[[[[[[[[",
            "profiles:",
            "defaults:",
            "'",
            "\t",
            "50B",
            "4MiB",
            "1_000",
        ])
        // Half a million nodes, aliases unfolded, are what a recipe may be; variables and `foreach` are laid over them.
        .memory(768 << 20, 512);
    target.run(|bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        let read = |profiles: &[&str]| {
            let options = LoadOptions { profiles: profiles.iter().map(ToString::to_string).collect(), set: Vec::new() };
            parse_str("fuzz.yaml", text, &options)
        };
        match read(&[]) {
            Ok(recipe) => {
                let resolved = resolved_json(&recipe);
                assert_eq!(resolved, resolved_json(&read(&[]).unwrap()), "the same text is the same recipe");
            }
            Err(refused) => assert!(!refused.render().is_empty(), "a reason is given"),
        }
        let _ = read(&["nano"]);
    });
}

#[test]
fn jobs() {
    let target = Target::new("job")
        .seed(include_str!("samples/job-1.json"))
        .seed(include_str!("samples/result-1.json"))
        .words(&["\"format\":2", "\"stage\":\"../x\"", "[each]", "null", "{}", "[]", "\"\\u0000\"", "1e400"]);
    target.run(|bytes| {
        if let Ok(job) = serde_json::from_slice::<Job>(bytes) {
            assert_eq!(serde_json::from_slice::<Job>(&serde_json::to_vec(&job).unwrap()).unwrap(), job);
        }
        if let Ok(result) = serde_json::from_slice::<JobResult>(bytes) {
            assert_eq!(serde_json::from_slice::<JobResult>(&serde_json::to_vec(&result).unwrap()).unwrap(), result);
        }
    });
}

#[test]
fn events() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events.jsonl");
    let target = Target::new("events").seed(include_str!("samples/events-1.jsonl")).words(&[
        "stage-finished",
        "run-started",
        "stage-skipped",
        "\"stages\":[]",
        "null",
        "1e400",
        "\n",
    ]);
    target.run(|bytes| {
        fs_err::write(&path, bytes).unwrap();
        let Ok(events) = log::read(&path) else { return };
        let _ = RunState::replay(&events);
        for event in &events {
            let text = serde_json::to_string(event).unwrap();
            assert!(!text.contains('\n'));
            assert_eq!(serde_json::from_str::<Stamped>(&text).unwrap(), *event);
        }
    });
}
