//! Damage that leaves a file where it was and as long as it was: nothing of it is believed, and the run that meets it mends it.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use serde_json::Value;

use super::environment::{TestEnvironment, names};

/// The blob of an artifact's file of which the path ends so.
pub fn blob(environment: &TestEnvironment, artifact: &str, ending: &str) -> PathBuf {
    let tree = environment.read(&format!(".flow/v1/trees/{}/{artifact}", &artifact[..2]));
    let line = tree.lines().find(|line| line.ends_with(ending)).unwrap();
    let digest = &line[..64];
    environment.path(&format!(".flow/v1/blobs/{}/{digest}", &digest[..2]))
}

/// Another file takes the place of one, as after a repair of the disk.
pub fn overwrite(file: &Path, content: &[u8]) {
    fs::remove_file(file).unwrap();
    fs::write(file, content).unwrap();
}

/// The record of a stage as it is planned.
fn record(environment: &TestEnvironment, stage: &str) -> PathBuf {
    let planned = environment.planned(stage, &[]);
    let key = planned["verdict"]["key"].as_str().unwrap();
    environment.path(&format!(".flow/v1/records/{}/{key}.json", &key[..2]))
}

/// One digit of `text` after `word` becomes another one.
fn flipped(text: &str, word: &str) -> String {
    let at = text.find(word).unwrap() + word.len();
    let digit = if &text[at..=at] == "1" { "0" } else { "1" };
    format!("{}{digit}{}", &text[..at], &text[at + 1..])
}

/// The stages that a run does, which ends with the artifacts of before.
fn mended(environment: &TestEnvironment, before: &std::collections::BTreeMap<String, String>) -> Vec<String> {
    let done = environment.run(&[]).succeeded().stages("stage-started");
    assert_eq!(environment.artifacts("report/tiny"), *before);
    let _ = environment.flow(&["cache", "verify"]).succeeded();
    done.into_iter().collect()
}

#[test]
fn a_flipped_digit_in_a_record_makes_no_other_record() {
    let environment = TestEnvironment::finished();
    let artifacts = environment.artifacts("report/tiny");
    for word in ["\"artifact\": \"", "\"seconds\": ", "\"vocab_size\": "] {
        let file = record(&environment, "tokenizer");
        let text = fs::read_to_string(&file).unwrap();
        overwrite(&file, flipped(&text, word).as_bytes());
        let found = environment.flow(&["cache", "verify"]).with_code(1);
        assert!(found.stdout.contains("1 record"), "{word}: {found:#?}");
        let plan = environment.flow(&["plan", "recipe.yaml"]).succeeded().stdout;
        assert!(plan.contains("will run tokenizer") && plan.contains("its record is gone"), "{word}: {plan}");
        assert_eq!(mended(&environment, &artifacts), ["tokenizer"], "{word}");
    }
}

/// What was looked up before is believed while nothing in the folder comes or goes: the report reads the record itself.
#[test]
fn a_record_that_was_emptied_in_place_is_met_by_the_run() {
    let environment = TestEnvironment::finished();
    let artifacts = environment.artifacts("report/tiny");
    // Long enough for what is looked up now to be remembered.
    thread::sleep(Duration::from_millis(200));
    assert!(environment.runs_again().is_empty());
    let file = record(&environment, "tokenizer");
    fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    fs::write(&file, "").unwrap();
    assert_eq!(mended(&environment, &artifacts), ["tokenizer"]);
}

#[test]
fn a_flipped_digit_in_the_memo_is_no_digest() {
    let environment = TestEnvironment::finished();
    // Files that were just written are not remembered.
    thread::sleep(Duration::from_millis(2200));
    assert!(environment.flow(&["plan", "recipe.yaml"]).succeeded().stdout.contains("31 cached"));
    let memo = environment.path(".flow/v1/memo");
    let memo = if memo.is_dir() { memo.join("digests") } else { memo };
    let text = fs::read_to_string(&memo).unwrap();
    let line = text.lines().nth(1).unwrap();
    assert!(line.split(' ').count() == 8, "{line}");
    let (stamp, digest) = line.rsplit_once(' ').unwrap();
    fs::write(&memo, text.replace(line, &flipped(line, &format!("{stamp} {}", &digest[..60])))).unwrap();
    assert!(environment.runs_again().is_empty());
}

/// The key of the report is known once the tokenizer has been made again: only then is it found in the cache.
#[test]
fn a_damaged_report_that_only_the_run_finds_is_made_again() {
    let environment = TestEnvironment::finished();
    let artifacts = environment.artifacts("report/tiny");
    let tables = environment.files("report/tiny/tables");
    let _ = environment.flow(&["cache", "forget", "tokenizer"]).succeeded();
    let file = blob(&environment, &artifacts["report"], ".json");
    let mut bytes = fs::read(&file).unwrap();
    bytes[0] ^= 1;
    overwrite(&file, &bytes);
    let ended = environment.run(&[]).succeeded();
    assert_eq!(ended.stages("stage-finished"), names(["tokenizer", "report"]), "{ended:#?}");
    assert!(ended.stderr.contains("what is in the cache of the report is damaged: it is made again"), "{ended:#?}");
    assert_eq!(environment.files("report/tiny/tables"), tables);
    assert_eq!(environment.artifacts("report/tiny"), artifacts);
    let report: Vec<Value> = ended.lines().into_iter().filter(|line| !line["report"].is_null()).collect();
    assert_eq!(report.len(), 1, "{report:?}");
}
