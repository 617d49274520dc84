//! Sources that are not what they should be: counted where that is harmless, told with file and line where it is not, and
//! never the end of what does not read them.

use std::{
    fs,
    time::{Duration, Instant},
};

use super::{
    corpus::{self, DOMAINS},
    environment::{Ended, TestEnvironment, names, s3_at, stages, walk},
};

/// Only the corpora and the tokens: what a broken source can break, and what it must not.
fn run(environment: &TestEnvironment) -> Ended {
    environment.run(&["tokens"])
}

/// `corpus[sea]` must have failed with a message, everything else must have been done, and nothing of it may be on record.
fn only_sea_fails(environment: &TestEnvironment, message: &[&str]) {
    let ended = run(environment).with_code(1);
    assert_eq!(ended.stages("stage-failed"), names(["corpus[sea]"]));
    let error = &ended.events("stage-failed")[0]["error"];
    for words in message {
        assert!(error["message"].as_str().unwrap().contains(words), "`{words}` is not in {error:#}");
    }
    assert!(error["help"].is_string(), "nobody says what to do: {error:#}");

    let done = [
        "corpus[public]",
        "corpus[bread]",
        "corpus[stars]",
        "tokenizer",
        "tokens[public]",
        "tokens[bread]",
        "tokens[stars]",
    ];
    assert_eq!(ended.stages("stage-finished"), names(done));
    assert_eq!(ended.stages("stage-skipped"), names(["tokens[sea]"]));
    assert_eq!(environment.records(".flow"), done.len());
    assert_eq!(environment.planned("corpus[sea]", &[])["verdict"]["verdict"], "run");
    assert_eq!(
        walk(&environment.path(".flow/v1/tmp")),
        Vec::<std::path::PathBuf>::new(),
        "half-written files are left"
    );

    // What a person sees says the same.
    let shown = environment.flow(&["run", "recipe.yaml", "tokens", "--threads", "2"]).with_code(1);
    assert!(shown.stderr.contains("Failed corpus[sea]: "), "{}", shown.stderr);
    assert_eq!(shown.stderr.matches("Cached").count(), done.len(), "{}", shown.stderr);

    // Mended, it goes on.
    fs::remove_dir_all(environment.path("text/sea")).unwrap();
    corpus::write("sea", &environment.path("text"));
    assert_eq!(run(environment).succeeded().stages("stage-started"), names(["corpus[sea]", "tokens[sea]"]));
}

/// `sea` with some lines that are no documents.
fn with_broken_lines(environment: &TestEnvironment, broken: impl Fn(usize) -> Option<Vec<u8>>) {
    let mut content = Vec::new();
    for (nth, line) in corpus::lines(&corpus::documents("sea")).lines().enumerate() {
        content.extend(broken(nth + 1).unwrap_or_else(|| line.into()));
        content.push(b'\n');
    }
    environment.write("text/sea/all.jsonl", content);
}

#[test]
fn one_broken_line_is_counted_and_told() {
    let environment = TestEnvironment::finished();
    with_broken_lines(&environment, |line| (line == 3).then(|| b"{ \"text\": \"cut o".to_vec()));
    let ended = environment.run(&[]).succeeded();
    let notes = ended.events("stage-note");
    let note = notes.iter().find(|note| note["stage"] == "corpus[sea]").expect("a note about the broken line");
    assert!(note["text"].as_str().unwrap().contains("all.jsonl:3"), "{note}");

    let table = environment.read("report/tiny/tables/corpora.csv");
    let row = table.lines().find(|line| line.contains("broken.records")).unwrap();
    assert!(row.ends_with(",0,0,1,0,1"), "public, bread, sea, stars, total: {row}");
    let read = table.lines().find(|line| line.contains("read.documents")).unwrap();
    assert!(read.ends_with(",200,200,199,200,799"), "{read}");
    assert_eq!(environment.artifacts("report/tiny").len(), stages(&DOMAINS).len());
}

#[test]
fn more_broken_lines_than_allowed_name_file_and_line() {
    let environment = TestEnvironment::fresh();
    with_broken_lines(&environment, |line| (line > 9 && line < 30).then(|| b"<!DOCTYPE html>".to_vec()));
    only_sea_fails(&environment, &["`sea`", "20 of 200", "all.jsonl:10", "all.jsonl:11"]);
}

#[test]
fn how_many_are_allowed_is_for_the_recipe_to_say() {
    let environment = TestEnvironment::fresh();
    with_broken_lines(&environment, |line| (line == 7).then(|| b"[]".to_vec()));
    let set = ["--set", "stages.corpus.with.max_broken={ records: 0, share: 0.0 }"];
    let ended = environment.run(&[&["corpus"], &set[..]].concat()).with_code(1);
    assert_eq!(ended.stages("stage-failed"), names(["corpus[sea]"]));
    assert!(ended.events("stage-failed")[0]["error"]["message"].as_str().unwrap().contains("all.jsonl:7"));
}

#[test]
fn a_compressed_file_that_ends_early() {
    let environment = TestEnvironment::fresh();
    let whole = zstd::encode_all(corpus::lines(&corpus::documents("sea")).as_bytes(), 3).unwrap();
    fs::remove_file(environment.path("text/sea/all.jsonl")).unwrap();
    environment.write("text/sea/all.jsonl.zst", &whole[..whole.len() * 2 / 3]);
    only_sea_fails(&environment, &["`sea`", "all.jsonl.zst", "cut off"]);
}

#[test]
fn a_compressed_file_that_is_none() {
    let environment = TestEnvironment::fresh();
    environment.write("text/sea/more.jsonl.zst", "this is no zstd frame");
    only_sea_fails(&environment, &["`sea`", "more.jsonl.zst"]);
}

#[test]
fn bytes_that_are_no_utf8() {
    let environment = TestEnvironment::fresh();
    for nth in 0..12 {
        environment
            .write(&format!("text/sea/{nth}.txt"), b"caf\xe9 in Latin-1 and then some more text to read ".repeat(4));
    }
    only_sea_fails(&environment, &["`sea`", "0.txt", "UTF-8"]);
}

#[test]
fn a_few_bytes_that_are_no_utf8_are_left_out() {
    let environment = TestEnvironment::fresh();
    with_broken_lines(&environment, |line| (line == 5).then(|| b"{ \"text\": \"caf\xe9\" }".to_vec()));
    let ended = run(&environment).succeeded();
    assert!(ended.events("stage-note").iter().any(|note| note["text"].as_str().unwrap().contains("all.jsonl:5")));
}

#[test]
fn a_domain_without_a_single_document() {
    let environment = TestEnvironment::fresh();
    environment.write("text/sea/all.jsonl", "\n\n");
    only_sea_fails(&environment, &["`sea`"]);
}

#[test]
fn a_parquet_file_that_is_none() {
    let environment = TestEnvironment::fresh();
    environment.write("text/sea/more.parquet", "PAR1, it says, and is none");
    only_sea_fails(&environment, &["more.parquet"]);
}

#[test]
fn a_folder_with_nothing_in_it_stops_the_run_before_it_begins() {
    let environment = TestEnvironment::fresh();
    fs::remove_file(environment.path("text/sea/all.jsonl")).unwrap();
    let ended = environment.flow(&["run", "recipe.yaml", "--threads", "2"]).with_code(2);
    assert!(ended.stderr.contains("corpus[sea]") && ended.stderr.contains("text/sea"), "{}", ended.stderr);
    assert_eq!(environment.records(".flow"), 0);
}

#[test]
fn a_pipe_among_the_files_does_not_hang_the_run() {
    let environment = TestEnvironment::fresh();
    fs::remove_file(environment.path("text/sea/all.jsonl")).unwrap();
    let pipe = environment.path("text/sea/all.jsonl");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut running = environment.start(&["tokens"]);
    assert!(matches!(running.wait_at_most(Duration::from_secs(10)), Some(1 | 2)));
}

#[test]
fn links_in_a_circle_are_passed_over_with_a_note() {
    let environment = TestEnvironment::finished();
    std::os::unix::fs::symlink("..", environment.path("text/sea/again")).unwrap();
    std::os::unix::fs::symlink("itself", environment.path("text/sea/itself")).unwrap();
    let link = environment.path("text/sea/more");
    std::os::unix::fs::symlink(".", &link).unwrap();
    // `again` leads out of the folder, to all that the others have; what leads back from there ends.
    let ended = environment.run(&["corpus[sea]"]).succeeded();
    let notes: Vec<String> =
        ended.events("stage-note").iter().map(|note| note["text"].as_str().unwrap().to_owned()).collect();
    for link in ["text/sea/again/sea/again is a link back to ", "text/sea/more is a link back to "] {
        assert!(notes.iter().any(|note| note.contains(link)), "{link}: {notes:?}");
    }
    // Without the way out the corpus is the one of before.
    fs::remove_file(environment.path("text/sea/again")).unwrap();
    assert_eq!(environment.run(&["corpus[sea]"]).succeeded().stages("stage-cached"), names(["corpus[sea]"]));
}

#[test]
fn an_object_store_that_does_not_answer() {
    let environment = TestEnvironment::fresh();
    environment.edit("data: text", "data: s3://bucket/text");
    // A port that nobody listens at.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let variables = s3_at(&endpoint);
    let begun = Instant::now();
    let ended = environment.flow_with(&variables, &["run", "recipe.yaml", "corpus[sea]"]).with_code(2);
    assert!(begun.elapsed() < Duration::from_secs(40), "told after {:?}", begun.elapsed());
    for words in ["Waiting for s3://bucket/text/sea: ", "attempt 2 of 5", "Connection refused", "AWS_ENDPOINT"] {
        assert!(ended.stderr.contains(words), "{words}: {}", ended.stderr);
    }
}

/// It is no failure that most of a corpus is dropped, but nobody should learn of it three stages later.
#[test]
fn a_filter_that_drops_nearly_all_is_named() {
    let environment = TestEnvironment::empty();
    for nth in 0..40 {
        let text = format!("Page {nth} of a book that has more than one word on it, and ends with its number {nth}.");
        environment.write(&format!("text/a/{nth:02}.txt"), if nth < 3 { text.repeat(5) } else { text });
    }
    let recipe = |least: u32| {
        environment.recipe(&format!(
            "flow: 1\nname: few\nstages:\n  c: {{ kind: curate, with: {{ domain: a, data: text, dedup: {{ minhash: null }}, \
             heldout: {{ share: 0 }}, filters: [{{ length: {{ min_bytes: {least} }} }}] }} }}\n"
        ));
    };
    recipe(200);
    let ended = environment.run(&[]).succeeded();
    let notes = ended.events("stage-note");
    let said = notes[0]["text"].as_str().unwrap();
    assert!(said.contains("of 40 documents 37 for `too_short`, 3 are kept"), "{said}");
    assert!(environment.flow(&["status"]).succeeded().stdout.contains(said));
    recipe(20);
    assert_eq!(environment.run(&[]).succeeded().events("stage-note"), Vec::<serde_json::Value>::new());
}
