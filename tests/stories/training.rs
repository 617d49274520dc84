//! What a training shows of itself while it runs and afterwards, and what one can ask of it.

use serde_json::Value;

use super::environment::{Ended, TestEnvironment, walk};

/// Held-out tokens, scored every 10 updates of the public model.
const VALIDATED: [(&str, &str); 2] = [
    (
        "  public:\n    kind: pretrain\n    inputs: { tokens: \"tokens[public]\" }\n",
        "  held-out:\n    kind: tokenize\n    inputs: { corpus: \"corpus[public]\", tokenizer: tokenizer }\n    with: { split: heldout }\n  public:\n    kind: pretrain\n    inputs: { tokens: \"tokens[public]\", validation: held-out }\n",
    ),
    ("tokens: 20K }", "tokens: 20K, validation: { every: 10, tokens: 2K } }"),
];
/// Updates of the tiny recipe's public model.
const STEPS: u64 = 20_000 / (8 * 64) + 1;

fn artifact(ended: &Ended) -> Value {
    let finished = ended.events("stage-finished");
    finished.iter().find(|event| event["stage"] == "public").unwrap()["artifact"].clone()
}

#[test]
fn held_out_text_is_scored_between_updates() {
    let environment = TestEnvironment::fresh();
    for (old, new) in VALIDATED {
        environment.edit(old, new);
    }
    let ended = environment.run(&["public"]).succeeded();
    let scored: Vec<(u64, f64)> = ended
        .events("stage-metrics")
        .iter()
        .filter_map(|event| {
            let metrics = &event["metrics"];
            Some((metrics["step"].as_u64().unwrap(), metrics["validation_loss"].as_f64()?))
        })
        .collect();
    let steps: Vec<u64> = scored.iter().map(|(step, _)| *step).collect();
    assert_eq!(steps, [10, 20, 30, STEPS]);
    assert!(scored[3].1 < scored[0].1, "{scored:?}");

    // A stage whose words do not fit its inputs says so, before anything runs.
    environment.edit(", validation: held-out", "");
    let ended = environment.run(&["public"]).with_code(2);
    let refused = &ended.json()["errors"][0];
    assert_eq!(refused["message"], "public: `validation` is given, and the stage has no input `validation`");
    assert!(refused["help"].as_str().unwrap().contains("split: heldout"), "{refused}");
}

#[test]
fn a_training_with_less_memory_has_the_same_bytes_and_is_the_same_stage() {
    let environment = TestEnvironment::fresh();
    let kept = artifact(&environment.run(&["public"]).succeeded());
    environment.edit("tokens: 20K }", "tokens: 20K, activation_checkpointing: true }");
    assert!(environment.run(&["public"]).succeeded().stages("stage-started").is_empty());
    let again = environment.run(&["public", "--recheck", "public"]).succeeded();
    assert_eq!(artifact(&again), kept);
}

#[test]
fn curves_stand_beside_the_log_for_tensorboard() {
    let environment = TestEnvironment::fresh();
    let ended = environment.run(&["public"]).succeeded();
    let run = ended.events("run-started")[0]["run"].as_str().unwrap().to_owned();
    let files = walk(&environment.path(&format!(".flow/runs/{run}/tensorboard")));
    assert_eq!(files.len(), 1);
    assert!(files[0].ends_with(format!("public/events.out.tfevents.{run}")), "{files:?}");
    // As many whole records as there are updates, and the one that names the format.
    let bytes = std::fs::read(&files[0]).unwrap();
    let (mut at, mut records) = (0, 0);
    while at < bytes.len() {
        let length = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        at += 8 + 4 + usize::try_from(length).unwrap() + 4;
        records += 1;
    }
    assert_eq!((at, records), (bytes.len(), STEPS + 1));
}

#[test]
fn a_spike_ends_the_training_with_its_step_and_documents() {
    let environment = TestEnvironment::fresh();
    // No two updates are alike: with so narrow a band one of the first is a spike.
    environment.edit("tokens: 20K }", "tokens: 20K, on_spike: { deviations: 0.01, window: 4 } }");
    let ended = environment.run(&["public"]).with_code(1);
    let failed = &ended.events("stage-failed")[0]["error"];
    let message = failed["message"].as_str().unwrap();
    let step: u64 = message.split("at step ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    let measured = ended.events("stage-metrics");
    let last = measured.last().unwrap()["metrics"]["step"].as_u64().unwrap();
    assert_eq!(step, last + 1, "the steps before it are those that were measured: {message}");
    assert!(message.contains("at step") && message.contains("to be expected; the step's documents are ["), "{message}");
    assert!(failed["help"].as_str().unwrap().contains("on_spike"), "{failed}");

    environment.edit("window: 4 }", "window: 4, action: skip }");
    let ended = environment.run(&["public"]).succeeded();
    let notes = ended.events("stage-note");
    let left_out = format!("step {step} was left out");
    assert!(notes.iter().any(|note| note["text"].as_str().unwrap().contains(&left_out)), "{notes:?}");

    // However short the training is, the log has its last step.
    let log = environment.flow(&["logs", "public"]).succeeded().stdout;
    assert!(log.contains(&format!("\"step\":{STEPS}")), "{log}");
    assert!(!log.contains("000000"), "{log}");
}
