//! A shared store that fails, is silent or lies: what a person is told, and that Ctrl-C is heard.

use std::{
    fs,
    time::{Duration, Instant},
};

use super::{
    bucket::{Bucket, Fault},
    environment::{Ended, TestEnvironment, s3_at},
};

const REMOTE: [&str; 2] = ["--remote", "s3://bucket/prefix"];
/// A machine that is busy may need as long; a silent store is waited for much longer.
const SOON: Duration = Duration::from_secs(15);
const ALWAYS: usize = usize::MAX;
/// Each stage's record goes up with its bytes.
const UPLOADS: [(&str, &str, Fault, usize); 3] = [
    ("PUT", "/blobs/", Fault::Silent, ALWAYS),
    ("PUT", "/trees/", Fault::Silent, ALWAYS),
    ("PUT", "/records/", Fault::Silent, ALWAYS),
];

fn run(environment: &TestEnvironment, bucket: &Bucket, more: &[&str]) -> Ended {
    let args = [&["run", "recipe.yaml", "tokenizer", "--threads", "2"], &REMOTE[..], more].concat();
    environment.flow_with(&s3_at(&bucket.endpoint), &args)
}

fn marks(environment: &TestEnvironment) -> usize {
    fs::read_dir(environment.path(".flow/v1/pending")).map_or(0, Iterator::count)
}

#[test]
fn ctrl_c_ends_the_wait_for_uploads_and_nothing_is_lost() {
    let environment = TestEnvironment::fresh();
    let bucket = Bucket::open();
    for (signal, json) in [("INT", false), ("TERM", true)] {
        bucket.fail(&UPLOADS);
        let mode: &[&str] = if json { &["--json"] } else { &[] };
        let args = [&["tokenizer"], &REMOTE[..], mode].concat();
        let mut running = environment.start_with(&s3_at(&bucket.endpoint), &args);
        let output = if json { "stdout" } else { "stderr" };
        let end = if json { "run-finished" } else { "Done" };
        running.wait_until("all stages are done", || environment.read(output).contains(end));
        running.signal(signal);
        assert_eq!(running.wait_at_most(SOON), Some(130), "{}", environment.read("stderr"));
        let said = environment.read("stderr");
        assert!(said.contains("2 records are not in s3://bucket/prefix yet: nothing is lost"), "{said}");
        assert!(said.contains("`flow cache push`"), "{said}");
        assert_eq!(environment.read("stdout").matches("upload_failed").count(), if json { 2 } else { 0 });
        assert_eq!((marks(&environment), bucket.objects("/records/")), (2, 0));
    }
    bucket.fail(&[]);
    let ended = run(&environment, &bucket, &[]).succeeded();
    assert!(!ended.stderr.contains("Finished"), "{ended:#?}");
    assert_eq!((marks(&environment), bucket.objects("/records/")), (0, 2));
}

/// Whoever asked while stages ran gets some seconds of uploads, and a second request ends these at once.
#[test]
fn an_interrupted_run_does_not_wait_for_a_silent_store() {
    let environment = TestEnvironment::fresh();
    let bucket = Bucket::open();
    for requests in [1, 2] {
        // The first stage is done and uploads, the lease of the second is asked for in vain.
        bucket.fail(&[&UPLOADS[..], &[("GET", "leases", Fault::Silent, ALWAYS)]].concat());
        let before = bucket.asked("leases");
        let mut running = environment.start_with(&s3_at(&bucket.endpoint), &[&["tokenizer"], &REMOTE[..]].concat());
        running.wait_until("a lease is asked for", || bucket.asked("leases") > before);
        for _ in 0..requests {
            running.signal("INT");
            std::thread::sleep(Duration::from_millis(300));
        }
        let begun = Instant::now();
        assert_eq!(running.wait_at_most(SOON), Some(130), "{}", environment.read("stderr"));
        println!("{requests} requests: ended after {:?}", begun.elapsed());
    }
    bucket.fail(&[]);
    let _ = run(&environment, &bucket, &[]).succeeded();
    assert_eq!((marks(&environment), bucket.objects("/records/")), (0, 2));
}

#[test]
fn a_removal_that_fails_once_is_asked_for_again() {
    let environment = TestEnvironment::fresh();
    let bucket = Bucket::open();
    bucket.fail(&[("POST", "?delete", Fault::Refused, 1)]);
    let _ = run(&environment, &bucket, &[]).succeeded();
    assert_eq!(bucket.objects("/probe/"), 0);
    // One removal for each of three races, and one of them again.
    assert_eq!(bucket.asked("?delete"), 4);
}

#[test]
fn what_a_probe_cannot_remove_stops_nobody() {
    let environment = TestEnvironment::fresh();
    let bucket = Bucket::open();
    bucket.fail(&[("POST", "?delete", Fault::Refused, ALWAYS)]);
    let ended = run(&environment, &bucket, &["--remote-attempts", "1"]).succeeded();
    assert!(!ended.stderr.contains("put-if-absent"), "{}", ended.stderr);
}

#[test]
fn a_store_whose_answers_get_lost_is_trusted() {
    let environment = TestEnvironment::fresh();
    let bucket = Bucket::open();
    bucket.fail(&[("PUT", "/probe/", Fault::Lost, 2)]);
    let ended = run(&environment, &bucket, &[]).succeeded();
    assert!(!ended.stderr.contains("put-if-absent"), "{}", ended.stderr);
    assert_eq!(fs::read_dir(environment.path(".flow/v1/remotes")).unwrap().count(), 1);
}

#[test]
fn a_store_that_lies_is_told_of_once() {
    let environment = TestEnvironment::fresh();
    let bucket = Bucket::open();
    bucket.lie();
    let ended = run(&environment, &bucket, &[]).succeeded();
    let told = "s3://bucket/prefix does not refuse a second writer";
    assert_eq!(ended.stderr.matches(told).count(), 1, "{}", ended.stderr);
    assert!(ended.stderr.contains("one run at a time"), "{}", ended.stderr);
}
