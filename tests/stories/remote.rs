//! Two machines, each with a store of its own, share one behind them: what one has done, the other finds.
//!
//! Over a folder this always runs. `tests/remote/run` starts an S3 server and runs it over that, and counts what is asked of it.

use std::{
    collections::BTreeSet,
    fs,
    net::TcpListener,
    path::Path,
    time::{Duration, Instant},
};

use super::environment::{TestEnvironment, s3_at};

/// A shared store, with the variables that a program needs to reach it.
struct Shared {
    location: String,
    variables: Vec<(String, String)>,
    /// What the server was asked, a line a request.
    requests: Option<String>,
}

impl Shared {
    fn folder(environment: &TestEnvironment) -> Self {
        let location = environment.path("shared").to_str().unwrap().to_owned();
        Self { location, variables: Vec::new(), requests: None }
    }

    /// A place of its own on the server that `tests/remote/run` started.
    fn server(environment: &TestEnvironment) -> Option<Self> {
        let remote = std::env::var("FLOW_TEST_REMOTE").ok()?;
        let name = environment.path("").file_name().unwrap().to_str().unwrap().to_owned();
        let variables = std::env::vars().filter(|(name, _)| name.starts_with("AWS_")).collect();
        let requests = std::env::var("FLOW_TEST_REMOTE_REQUESTS").ok();
        Some(Self { location: format!("{remote}/{name}"), variables, requests })
    }

    /// `METHOD kind` of the requests so far, such as `GET blobs`.
    fn asked(&self) -> Vec<String> {
        let Some(log) = &self.requests else { return Vec::new() };
        let place = self.location.trim_start_matches("s3:/");
        let text = fs::read_to_string(log).unwrap();
        let asked = text.lines().filter_map(|line| {
            let (method, rest) = line.split_once('"')?.1.split_once(' ')?;
            let (kind, _) = rest.strip_prefix(place)?.strip_prefix("/v1/")?.split_once('/')?;
            Some(format!("{method} {kind}"))
        });
        asked.collect()
    }
}

fn size(folder: &Path) -> u64 {
    let Ok(found) = fs::read_dir(folder) else { return 0 };
    found
        .map(|entry| {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() { size(&entry.path()) } else { entry.metadata().unwrap().len() }
        })
        .sum()
}

/// The second machine has the recipe and its text, and nothing else.
fn two_machines(environment: &TestEnvironment, shared: &Shared) {
    let variables: Vec<(&str, &str)> =
        shared.variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let run = |store: &str, report: &str| {
        environment.flow_with(
            &variables,
            &["run", "recipe.yaml", "--store", store, "--remote", &shared.location, "--report", report],
        )
    };
    let first = run("one", "report-one");
    assert_eq!(first.code, Some(0), "{first:#?}");
    assert!(!first.stderr.contains("not in the shared store yet"), "{first:#?}");
    assert_eq!(fs::read_dir(environment.path("one/v1/pending")).unwrap().count(), 0, "a run that ends has uploaded");
    let asked_before = shared.asked();

    let second = run("two", "report-two");
    assert_eq!(second.code, Some(0), "{second:#?}");
    assert!(!second.stderr.contains("Finished"), "the second machine did something again: {second:#?}");
    let (all, fetched) = (size(&environment.path("one/v1/blobs")), size(&environment.path("two/v1/blobs")));
    println!("{}: {all} bytes made, {fetched} bytes fetched by the second machine", shared.location);
    assert!(fetched * 10 < all, "{fetched} of {all} bytes were fetched; only the report's are needed");

    let read = |report: &str, file: &str| fs::read(environment.path(report).join(file)).unwrap();
    for file in fs::read_dir(environment.path("report-one/tables")).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        assert!(read("report-one/tables", &name) == read("report-two/tables", &name), "{name} differs");
    }
    if shared.requests.is_some() {
        let asked = shared.asked().split_off(asked_before.len());
        let count = |what: &str| asked.iter().filter(|line| *line == what).count();
        println!("the second machine asked: {} requests, {} for bytes of artifacts", asked.len(), count("GET blobs"));
        assert_eq!((count("PUT blobs"), count("PUT records"), count("PUT trees")), (0, 0, 0), "{asked:?}");
        let artifacts = first.stderr.matches("Finished").count();
        let kinds: BTreeSet<&String> = asked.iter().collect();
        assert!(count("GET blobs") < artifacts, "{} of {artifacts}: {kinds:?}", count("GET blobs"));
    }

    // A change on the second machine: what it needs comes from the first, what it makes goes back.
    environment.edit("sea: { title: The sea }", "sea: { title: The sea, with: { corpus: { max_bytes: 30kB } } }");
    let changed = run("two", "report-two");
    assert_eq!(changed.code, Some(0), "{changed:#?}");
    let again = run("one", "report-one");
    assert!(again.code == Some(0) && !again.stderr.contains("Finished"), "{again:#?}");
}

#[test]
fn two_machines_share_a_folder() {
    let environment = TestEnvironment::fresh();
    two_machines(&environment, &Shared::folder(&environment));
}

#[test]
fn two_machines_share_a_bucket() {
    let environment = TestEnvironment::fresh();
    let Some(shared) = Shared::server(&environment) else {
        println!("skipped: FLOW_TEST_REMOTE names no object store; tests/remote/run starts one");
        return;
    };
    two_machines(&environment, &shared);
}

/// It takes every call and says nothing.
#[test]
fn a_silent_store_is_told_while_it_is_waited_for_and_given_up() {
    let environment = TestEnvironment::finished();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let mut held = Vec::new();
        while let Ok((connection, _)) = listener.accept() {
            held.push(connection);
        }
    });
    let variables = s3_at(&endpoint);
    let patience = ["--remote", "s3://bucket/prefix", "--remote-timeout", "4s", "--remote-attempts", "2"];
    let begun = Instant::now();
    let ended = environment.flow_with(&variables, &[&["plan", "recipe.yaml"][..], &patience].concat());
    let time = begun.elapsed();
    assert!(time > Duration::from_secs(8) && time < Duration::from_secs(30), "given up after {time:?}: {ended:#?}");
    assert!(matches!(ended.code, Some(1 | 2)), "{ended:#?}");
    for words in ["Waiting for s3://bucket/prefix: it has given no answer for 3 s", "in s3://bucket/prefix"] {
        assert!(ended.stderr.contains(words), "{words}: {}", ended.stderr);
    }
}
