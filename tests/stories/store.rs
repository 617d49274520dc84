//! Looking after a store: what is in it, what is damaged, what can go, what must stay, and bringing it elsewhere.

use std::fs;

use insta::assert_snapshot;
use serde_json::Value;

use super::{
    damage::{blob, overwrite},
    environment::{Ended, TestEnvironment, names, walk},
};

/// How large and how old something is is for a test of its own: here the words must not drift.
fn words(ended: &Ended) -> String {
    let number = |word: &str| word.chars().all(|c| c.is_ascii_digit() || c == '.');
    let line = |line: &str| {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        for at in 0..words.len() {
            let unit = words.get(at + 1).is_some_and(|next| ["B", "KiB", "MiB", "s", "min"].contains(next));
            if number(words[at]) && unit {
                words[at] = "[n]";
            }
        }
        let words =
            words.join(" ").replace("[n] B", "[size]").replace("[n] KiB", "[size]").replace("[n] MiB", "[size]");
        let words = words.replace("[n] s", "[age]").replace("[n] min", "[age]");
        if line.starts_with("blobs") { "blobs [n] [size]".to_owned() } else { words }
    };
    ended.snapshot().lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_store_is_listed_and_measured() {
    let environment = TestEnvironment::finished();
    let listed = environment.flow(&["cache", "ls", "--json"]).succeeded().json();
    let listed = listed.as_array().unwrap();
    assert_eq!(listed.len(), 31);
    let started: Vec<&str> = listed.iter().map(|row| row["record"]["started"].as_str().unwrap()).collect();
    assert!(started.is_sorted_by(|a, b| a >= b), "newest first: {started:?}");
    assert!(listed.iter().all(|row| row["here"] == true && row["pinned"] == Value::Array(Vec::new())));

    assert_snapshot!("ls_of_a_stage", words(&environment.flow(&["cache", "ls", "expert[sea]"]).succeeded()));
    for (filter, count) in [("expert", 3), ("evaluate", 10), ("curate", 4)] {
        let rows = environment.flow(&["cache", "ls", filter, "--json"]).succeeded().json();
        assert_eq!(rows.as_array().unwrap().len(), count, "{filter}");
    }
    for (name, help) in [
        ("exprt", "did you mean `expert`?"),
        ("expert[see]", "did you mean `expert[sea]`"),
        ("train-xpert", "did you mean `train-expert`"),
        ("zzz", "name a stage, or one of the kinds curate, embed, ensemble, evaluate, "),
    ] {
        let none = environment.flow(&["cache", "ls", name, "--json"]).with_code(2).json()["errors"][0].clone();
        assert_eq!(none["message"], format!("no stage or kind on record is named `{name}`"));
        assert!(none["help"].as_str().unwrap().starts_with(help), "{none:#}");
    }
    let empty = TestEnvironment::empty();
    fs::create_dir(empty.path(".flow")).unwrap();
    let nothing = empty.flow(&["cache", "ls", "exprt"]).succeeded();
    assert_eq!(nothing.stderr, "the store in .flow is empty: nothing is on record\n");

    let used = environment.flow(&["cache", "du", "--json"]).succeeded().json();
    let on_disk: u64 =
        walk(&environment.path(".flow/v1/blobs")).iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    assert_eq!(used["blob_bytes"], on_disk);
    let kinds = used["kinds"].as_object().unwrap();
    assert_eq!(kinds.values().map(|kind| kind["records"].as_u64().unwrap()).sum::<u64>(), 31);
    assert!(kinds["pretrain"]["bytes"].as_u64().unwrap() > 0);
    let text = environment.flow(&["cache", "du"]).succeeded().stdout;
    for word in ["train-expert", "blobs", "work", "temporaries", "quarantine"] {
        assert!(text.lines().any(|line| line.starts_with(word)), "{word}: {text}");
    }
}

#[test]
fn damage_is_found_named_and_mended() {
    let environment = TestEnvironment::finished();
    let sound = environment.flow(&["cache", "verify"]).succeeded();
    assert!(sound.stdout.contains("sound: nothing is damaged"), "{sound:#?}");

    let artifacts = environment.artifacts("report/tiny");
    overwrite(&blob(&environment, &artifacts["expert[sea]"], ".safetensors"), b"rot");
    let tree = environment.path(&format!(".flow/v1/trees/{}/{}", &artifacts["soup"][..2], artifacts["soup"]));
    overwrite(&tree, b"flow-manifest 1\n");
    let found = environment.flow(&["cache", "verify"]).with_code(1);
    assert!(found.stdout.contains(".flow/v1/quarantine: 1 blob, 1 manifest"), "{found:#?}");
    for stage in ["expert[sea]", "soup"] {
        assert!(found.stdout.contains(&format!("  {stage} (key ")), "{found:#?}");
    }
    assert!(found.stdout.contains("`flow run RECIPE` makes again what it needs of it"), "{found:#?}");
    let quarantined = walk(&environment.path(".flow/v1/quarantine"));
    assert_eq!(quarantined.len(), 2);

    // It was set aside once: what is left is sound, and what is missing is made again, to the same bytes.
    let _ = environment.flow(&["cache", "verify"]).succeeded();
    let why = environment.flow(&["why", "recipe.yaml", "expert[sea]", "--json"]).succeeded().json();
    assert_eq!(why["state"], "evicted");
    let plan = environment.flow(&["plan", "recipe.yaml", "flexolmo"]).succeeded().stdout;
    let lost = plan.lines().find(|line| line.contains("cached expert[sea]")).unwrap();
    assert!(lost.ends_with(", by its record: its bytes are gone, and nothing needs them"), "{plan}");
    assert!(plan.contains("cached flexolmo") && plan.ends_with("0 will run\n"), "{plan}");
    let started = environment.run(&[]).succeeded().stages("stage-started");
    assert!(started.is_empty(), "nothing needs what is gone: {started:?}");
    assert_eq!(environment.artifacts("report/tiny"), artifacts);
    // An export wants bytes, and so does who asks for the stage.
    let bare = environment.flow(&["export", "recipe.yaml", "soup", "--out", "model"]).with_code(2);
    assert!(bare.stderr.contains("`soup` is not in the cache with these params"), "{bare:#?}");
    let sent = environment.flow(&["cache", "push", "recipe.yaml", "--remote", "shared", "--json"]).succeeded();
    // The ensemble has the expert's blob too.
    let last = sent.lines().pop().unwrap();
    assert_eq!((&last["records"], &last["absent"], sent.stderr.as_str()), (&Value::from(31), &Value::from(3), ""));
    let started = environment.run(&["expert[sea]", "soup"]).succeeded().stages("stage-started");
    assert_eq!(started, names(["expert[sea]", "soup"]));

    let json = environment.flow(&["cache", "verify", "--json"]).succeeded().json();
    assert_eq!((&json["sound"], &json["corrupt_blobs"]), (&Value::Bool(true), &Value::Array(Vec::new())));
}

/// After a collection the records of the corpora are all that is left of them, and all that others need to use what was made.
#[test]
fn what_is_shared_after_a_collection_is_found_without_its_corpora() {
    let environment = TestEnvironment::finished();
    let _ = environment.flow(&["cache", "pin", "flexolmo"]).succeeded();
    let _ = environment.flow(&["cache", "gc", "--keep-runs", "0", "--grace", "0s", "--yes"]).succeeded();
    let sent = environment.flow(&["cache", "push", "recipe.yaml", "--remote", "shared", "--json"]).succeeded();
    let last = sent.lines().pop().unwrap();
    assert_eq!(last["records"], 31);
    assert!(last["absent"].as_u64().unwrap() > 10, "{last}");

    fs::remove_dir_all(environment.path(".flow")).unwrap();
    let got = environment.flow(&["cache", "pull", "recipe.yaml", "flexolmo", "--remote", "shared"]).succeeded();
    assert!(got.stderr.contains(": its record, as bytes of it are gone"), "{got:#?}");
    assert!(!got.stderr.contains("neither store"), "{got:#?}");
    let plan = environment.flow(&["plan", "recipe.yaml", "flexolmo"]).succeeded().stdout;
    assert!(plan.ends_with("0 will run\n"), "{plan}");
    let made = environment.flow(&["export", "recipe.yaml", "flexolmo", "--out", "model"]).succeeded();
    assert!(environment.path("model/config.json").exists(), "{made:#?}");
}

/// Only the writing of the pages reads a report that is cached.
#[test]
fn a_damaged_report_is_made_again_in_the_run_that_meets_it() {
    let environment = TestEnvironment::finished();
    let report = environment.artifacts("report/tiny")["report"].clone();
    let tables =
        || walk(&environment.path("report/tiny/tables")).iter().map(|file| fs::read(file).unwrap()).collect::<Vec<_>>();
    let before = tables();
    let blob = blob(&environment, &report, ".json");
    let mut bytes = fs::read(&blob).unwrap();
    bytes[0] ^= 1;
    overwrite(&blob, &bytes);
    fs::remove_dir_all(environment.path("report")).unwrap();
    let ran = environment.run(&[]).succeeded();
    assert_eq!(ran.stages("stage-started"), names(["report"]));
    let note = &ran.events("stage-note")[0];
    assert_eq!(note["text"], "its bytes are no longer in the store: it is made again");
    assert_eq!(tables(), before);
    assert!(environment.flow(&["cache", "verify"]).succeeded().stdout.contains("sound"));
}

/// The tiny recipe run twice: with another expert of the sea the second time.
fn two_runs() -> TestEnvironment {
    let environment = TestEnvironment::finished();
    environment.edit("with: { name: \"${domain}\", tokens: 8K,", "with: { name: \"${domain}\", tokens: 9K,");
    let _ = environment.run(&["expert[sea]"]).succeeded();
    environment
}

fn gc(environment: &TestEnvironment, more: &[&str]) -> Ended {
    environment.flow(&[&["cache", "gc", "--grace", "0s"], more].concat()).succeeded()
}

#[test]
fn nothing_goes_before_a_person_says_yes_and_nothing_that_a_run_or_a_pin_needs() {
    let environment = two_runs();
    let files = walk(&environment.path(".flow/v1/blobs")).len();
    // Both runs are among the last ten.
    let nothing = gc(&environment, &[]);
    assert!(nothing.stdout.ends_with("kept: all of 2 runs, 0 pins\nthere is nothing to free\n"), "{nothing:#?}");

    let pinned = environment.flow(&["cache", "ls", "soup", "--json"]).succeeded().json();
    let artifact = pinned[0]["record"]["artifact"].as_str().unwrap().to_owned();
    let said = environment.flow(&["cache", "pin", &artifact[..12], "--as", "the best soup"]).succeeded();
    assert_eq!(said.stderr, format!("the best soup keeps {} of soup\n", &artifact[..12]));
    assert_snapshot!("gc_dry", words(&gc(&environment, &["--keep-runs", "1"])));
    assert_eq!(walk(&environment.path(".flow/v1/blobs")).len(), files, "a plan frees nothing");
    let recipe =
        gc(&environment, &["recipe.yaml", "-s", "stages.expert.with.tokens=8K", "--keep-runs", "0", "--json"]).json();
    let stages: Vec<&str> = recipe["stages"].as_array().unwrap().iter().map(|s| s["stage"].as_str().unwrap()).collect();
    assert_eq!((stages, &recipe["freed"]), (vec!["expert[sea]"], &Value::Null), "only what the second run made");

    let before: u64 = gc(&environment, &["--keep-runs", "1", "--json"]).json()["bytes"].as_u64().unwrap();
    let freed = gc(&environment, &["--keep-runs", "1", "--yes", "--json"]).json();
    assert!(before > 0 && freed["freed"]["bytes"].as_u64() == Some(before), "{freed:#}");
    let left = environment.flow(&["cache", "ls", "--json"]).succeeded().json();
    let here = |stage: &str| -> Vec<bool> {
        let rows = left.as_array().unwrap().iter().filter(|row| row["record"]["stage"] == stage);
        rows.map(|row| row["here"].as_bool().unwrap()).collect()
    };
    assert_eq!((here("soup"), here("flexolmo"), here("public")), (vec![true], vec![false], vec![true]));
    assert_eq!(here("expert[sea]"), [true, false], "the newer one");
    let _ = environment.flow(&["cache", "verify"]).succeeded();
    // What the kept run reached is still there.
    assert_eq!(environment.run(&["expert[sea]"]).succeeded().stages("stage-started").len(), 0);

    let _ = environment.flow(&["cache", "unpin", "the best soup"]).succeeded();
    let more = gc(&environment, &["--keep-runs", "1", "--json"]).json();
    assert_eq!(more["stages"].as_array().unwrap().iter().filter(|s| s["artifact"] == artifact.as_str()).count(), 1);
}

/// What goes must not change what a plan says of the rest: that is the digests' work, which stay on record.
#[test]
fn bytes_that_went_leave_a_plan_that_is_true() {
    let environment = TestEnvironment::finished();
    let _ = gc(&environment, &["--keep-runs", "0", "--yes"]);
    let said = |more: &[&str]| {
        let plan = environment.flow(&[&["plan", "recipe.yaml"], more].concat()).succeeded().stdout;
        plan.lines().last().unwrap().split(',').take(2).collect::<Vec<_>>().join(",")
    };
    // The report is what is asked for, and all that it is made of went with it.
    let plan = environment.flow(&["plan", "recipe.yaml", "--json"]).succeeded().json();
    let stages = plan["stages"].as_array().unwrap();
    let of = |word: &str| -> Vec<&str> {
        let these = stages.iter().filter(|stage| stage["verdict"]["verdict"] == word);
        these.map(|stage| stage["stage"].as_str().unwrap()).collect()
    };
    assert!(stages.iter().all(|stage| stage["verdict"]["key"].is_string()), "each key is known: {plan:#}");
    let will_run: std::collections::BTreeSet<String> = names(of("run"));
    assert!(will_run.contains("report") && will_run.contains("eval-public"), "{will_run:?}");
    let text = environment.flow(&["plan", "recipe.yaml"]).succeeded().stdout;
    let lost = text.lines().find(|line| line.contains("will run eval-soup")).unwrap();
    assert!(lost.ends_with("its bytes are no longer in the store, and report needs them"), "{text}");
    assert_eq!(said(&[]), format!("{} cached, {} will run", 31 - will_run.len(), will_run.len()));
    // And a run does what the plan says, to the same bytes.
    let before = environment.artifacts("report/tiny");
    assert_eq!(environment.runs_again(), will_run);
    assert_eq!(environment.artifacts("report/tiny"), before);
}

#[test]
fn a_store_that_serves_several_recipes_keeps_all_of_them() {
    let environment = TestEnvironment::finished();
    let other =
        environment.read("recipe.yaml").replace("name: tiny\n", "name: other\n").replace("tokens: 8K,", "tokens: 9K,");
    environment.write("other.yaml", other);
    let _ = environment.flow(&["run", "other.yaml", "expert[sea]", "--json"]).succeeded();
    let would_go = |recipes: &[&str]| -> Vec<String> {
        let all = [recipes, &["--keep-runs", "0", "--json"]].concat();
        let plan = gc(&environment, &all).json();
        plan["stages"].as_array().unwrap().iter().map(|stage| stage["stage"].as_str().unwrap().to_owned()).collect()
    };
    assert!(would_go(&["recipe.yaml"]).contains(&"expert[sea]".to_owned()), "what the other recipe made");
    assert!(would_go(&["other.yaml"]).len() > 10, "what follows on the first one's experts");
    assert_eq!(would_go(&["recipe.yaml", "other.yaml"]), [""; 0]);
    let text = gc(&environment, &["recipe.yaml", "other.yaml", "--keep-runs", "0", "--yes"]).stdout;
    assert!(text.contains("kept: all of 0 runs, all of recipes tiny and other, 0 pins"), "{text}");
    let kept = gc(&environment, &["recipe.yaml", "other.yaml", "--json"]).json()["kept"]["recipes"].clone();
    assert_eq!(kept, serde_json::json!(["tiny", "other"]));
    // What is set is set in each of them; one that does not read frees nothing.
    let _ = gc(&environment, &["recipe.yaml", "other.yaml", "-s", "stages.expert.with.tokens=9K"]);
    let blobs = walk(&environment.path(".flow/v1/blobs")).len();
    let refused = environment
        .flow(&["cache", "gc", "recipe.yaml", "another.yaml", "--grace", "0s", "--keep-runs", "0", "--yes"])
        .with_code(2);
    assert!(refused.stderr.contains("another.yaml"), "{refused:#?}");
    assert_eq!(walk(&environment.path(".flow/v1/blobs")).len(), blobs);
}

#[test]
fn pins_are_given_moved_and_taken_away() {
    let environment = two_runs();
    let said = environment.flow(&["cache", "pin", "expert[sea]", "--as", "sea"]).succeeded();
    assert!(said.stderr.starts_with("sea keeps "), "{said:#?}");
    let first = environment.flow(&["runs", "--json"]).succeeded().json()[1]["run"].as_str().unwrap().to_owned();
    let said = environment.flow(&["cache", "pin", "expert[sea]", "--as", "sea", "--run", &first]).succeeded();
    assert!(said.stderr.contains("; it was "), "{said:#?}");
    let listed = environment.flow(&["cache", "ls", "expert[sea]"]).succeeded().stdout;
    assert_eq!(listed.lines().filter(|line| line.ends_with("  sea")).count(), 1, "{listed}");
    for (command, message) in [
        (&["cache", "pin", "flexolmo"][..], "no stage is named `flexolmo`"),
        (&["cache", "pin", "abcdef012345"], "no key or artifact begins with `abcdef012345`"),
        (&["cache", "unpin", "see"], "pinned are sea"),
    ] {
        let ended = environment.flow(command).with_code(2);
        assert!(ended.stderr.contains(message), "{ended:#?}");
    }
    let _ = environment.flow(&["cache", "unpin", "sea"]).succeeded();
    let ended = environment.flow(&["cache", "unpin", "sea"]).with_code(2);
    assert!(ended.stderr.contains("nothing is pinned"), "{ended:#?}");
}

#[test]
fn a_shared_store_is_filled_and_read_and_only_what_is_missing_moves() {
    let environment = TestEnvironment::finished();
    let ended = environment.flow(&["cache", "push"]).with_code(2);
    assert!(ended.stderr.contains("no store is named") && ended.stderr.contains("FLOW_REMOTE"), "{ended:#?}");
    let last = |ended: &Ended| ended.lines().pop().unwrap();
    let flow = |command: &str, more: &[&str]| {
        environment.flow(&[&["cache", command, "--remote", "shared", "--json"], more].concat()).succeeded()
    };

    let some = last(&flow("push", &["recipe.yaml", "tokens[sea]"]));
    assert_eq!((&some["records"], &some["failed"]), (&4.into(), &0.into()), "{some}");
    assert!(some["bytes"].as_u64().unwrap() > 0);
    let all = last(&flow("push", &[]));
    assert_eq!(all["records"], 31);
    assert!(all["already"].as_u64().unwrap() >= some["blobs"].as_u64().unwrap(), "{all}");
    let again = last(&flow("push", &[]));
    assert_eq!((&again["blobs"], &again["bytes"]), (&0.into(), &0.into()), "{again}");

    // A colleague takes the tokens of the sea, then all of it; then nothing is left to be run.
    let pulled = last(&flow("pull", &["recipe.yaml", "tokens[sea]", "--store", "other"]));
    assert_eq!((&pulled["records"], &pulled["bytes"]), (&4.into(), &some["bytes"]), "{pulled}");
    let text = environment.flow(&["cache", "pull", "--remote", "shared", "--store", "other"]).succeeded();
    assert!(text.stderr.contains("Pulled flexolmo: ") && text.stderr.contains("Pulled 31 records, "), "{text:#?}");
    let plan = environment.flow(&["plan", "recipe.yaml", "--store", "other"]).succeeded().stdout;
    assert!(plan.contains("31 cached, 0 will run"), "{plan}");
    let _ = environment.flow(&["cache", "verify", "--store", "other"]).succeeded();

    // One blob that rotted there and one that is gone there do not stop the rest.
    let file =
        walk(&environment.path("shared/v1/blobs")).into_iter().max_by_key(|file| fs::metadata(file).unwrap().len());
    overwrite(&file.unwrap(), b"rot");
    let broken = environment.flow(&["cache", "pull", "--remote", "shared", "--store", "third", "--json"]).with_code(1);
    let end = last(&broken);
    assert!(end["failed"].as_u64().unwrap() >= 1 && end["records"].as_u64().unwrap() >= 20, "{end}");
    let mended = last(&flow("push", &[]));
    assert!(mended["blobs"].as_u64().unwrap() >= 1, "{mended}");
    let whole = last(&flow("pull", &["--store", "third"]));
    assert_eq!((&whole["records"], &whole["failed"]), (&31.into(), &0.into()), "{whole}");
}

#[test]
fn a_log_outlives_the_collection_of_what_it_was_kept_with() {
    let environment = TestEnvironment::fresh();
    let made = || environment.run(&["tokens[sea]"]).succeeded().stages("stage-started").len();
    assert!(made() > 0);
    let printed = environment.flow(&["logs", "tokens[sea]"]).succeeded().stdout;
    assert!(!gc(&environment, &["--keep-runs", "0", "--yes"]).stdout.contains("just touched"));
    assert!(made() > 0, "what was collected is made again");
    assert_eq!(made(), 0);
    let logs = environment.flow(&["logs", "tokens[sea]"]).succeeded();
    assert_eq!(logs.stdout.lines().count(), printed.lines().count(), "{logs:#?}");
    assert!(logs.stderr.contains("was cached; this is what it printed in run"), "{logs:#?}");
    let json = environment.flow(&["logs", "tokens[sea]", "--json"]).succeeded().json();
    assert!(json["log"].is_string() && json["run"].is_string(), "{json:#}");

    // Without the folders of the runs there is no log, and no shared store was ever named.
    let runs = environment.path(".flow/runs");
    for run in fs::read_dir(&runs).unwrap().map(|run| run.unwrap().path()) {
        let _ = fs::remove_file(run.join("logs/tokens.sea.log"));
    }
    let gone = environment.flow(&["logs", "tokens[sea]"]).succeeded();
    assert!(gone.stderr.contains("is not in this store any more\n"), "{gone:#?}");
}

#[test]
fn all_records_of_an_artifact_are_forgotten_together() {
    let environment = TestEnvironment::finished();
    // The same tokens by another key.
    environment.edit("  tokens:\n", "  again:\n    kind: train-tokenizer\n    inputs: { corpus: [\"corpus[public]\"] }\n    with: { vocab_size: 384, max_bytes: 1GiB }\n  tokens:\n");
    let _ = environment.run(&["again"]).succeeded();
    let rows = environment.flow(&["cache", "ls", "train-tokenizer", "--json"]).succeeded().json();
    let field = |row: usize, name: &str| rows[row]["record"][name].as_str().unwrap().to_owned();
    let artifact = field(0, "artifact");
    assert_eq!((rows.as_array().unwrap().len(), &artifact), (2, &field(1, "artifact")), "{rows:#}");
    let short = environment.flow(&["cache", "forget", &artifact[..4]]).with_code(2);
    assert!(short.stderr.contains("give at least 6 digits"), "{short:#?}");
    let forgotten = environment.flow(&["cache", "forget", &artifact[..12], "--json"]).succeeded().json();
    assert_eq!(forgotten["forgotten"].as_array().unwrap().len(), 2, "{forgotten:#}");
    let _ = environment.flow(&["cache", "ls", "train-tokenizer"]).with_code(2);
}
