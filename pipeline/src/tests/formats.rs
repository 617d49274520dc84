//! Files that flow writes and reads again: an old sample of each must go on to read, and today's form must not drift.

use std::path::Path;

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    event::{Event, Outcome, log, state::RunState},
    job::{Job, JobResult, read_json},
};

fn sample(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples").join(name)
}

fn reads_and_writes<T: Serialize + DeserializeOwned>(name: &str) {
    let value: T = read_json(&sample(name), "sample").unwrap();
    let text = serde_json::to_string_pretty(&value).unwrap() + "\n";
    assert_eq!(text, fs_err::read_to_string(sample(name)).unwrap());
}

#[test]
fn jobs_and_results() {
    reads_and_writes::<Job>("job-1.json");
    reads_and_writes::<JobResult>("result-1.json");
}

#[test]
fn events() {
    let events = log::read(&sample("events-1.jsonl")).unwrap();
    let lines: String = events.iter().map(|event| serde_json::to_string(event).unwrap() + "\n").collect();
    assert_eq!(lines, fs_err::read_to_string(sample("events-1.jsonl")).unwrap());
    let state = RunState::replay(&events);
    let shown: String = state
        .stages
        .iter()
        .map(|(id, stage)| {
            let set = serde_json::to_value(stage).unwrap();
            let set = set.as_object().unwrap().iter().filter(|(name, value)| {
                !value.is_null() && **value != serde_json::json!([]) && *name != "key" && *name != "artifact"
            });
            format!("{id}: {}\n", set.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" "))
        })
        .collect();
    let want = [
        r#"a: phase="cached""#,
        r#"b[x]: bytes=12 metrics={"loss":2.5} notes=["slow"] pace={"at":"2026-01-01T00:00:03Z","from":3,"since":"2026-01-01T00:00:03Z"} phase="finished" progress=[3,null,"steps"] reason={"changes":[{"new":null,"old":"0.1","path":"params.lr"}],"why":"changed"} seconds=2.001 started="2026-01-01T00:00:02Z""#,
        r#"c: error={"cancelled":false,"help":"yes","message":"no"} log_tail=["line"] phase="failed" reason={"stages":["b[x]"],"why":"upstream"} started="2026-01-01T00:00:05Z""#,
        r#"d: blocked_by="c" phase="skipped""#,
        r#"e: phase="stopped" reason={"why":"never-run"} started="2026-01-01T00:00:07Z""#,
        r#"f: phase="pending""#,
    ];
    assert_eq!(shown.lines().collect::<Vec<_>>(), want);
    assert_eq!((state.outcome, state.seconds), (Some(Outcome::Interrupted), Some(9.0)));
}

#[test]
fn what_is_no_such_file_is_an_error_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("job.json");
    for text in ["", "{", "[]", r#"{"format":1}"#, "\u{0}"] {
        fs_err::write(&path, text).unwrap();
        let error = read_json::<Job>(&path, "job").unwrap_err().to_string();
        assert!(error.contains("job.json: it is no job that this version of flow wrote"), "{error}");
    }
    fs_err::write(&path, "{}\n").unwrap();
    assert!(log::read(&path).unwrap_err().to_string().contains("it is no log of events"));
}

/// What serde says when it meets a name that it does not know lists those that it does: `expected one of …`.
fn expected(line: &str) -> Vec<String> {
    let error = serde_json::from_str::<Event>(line).unwrap_err().to_string();
    let names: Vec<String> = error.split('`').skip(1).step_by(2).skip(1).map(str::to_owned).collect();
    assert!(!names.is_empty(), "{error}");
    names
}

#[test]
fn the_page_on_events_names_each_event_and_field() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/events.md");
    let page = fs_err::read_to_string(path).unwrap();
    let events = expected(r#"{"event":"no-such-event"}"#);
    assert!(events.len() >= 12, "{events:?}");
    for event in events {
        let heading = format!("| `{event}` |");
        let row = page.lines().find(|line| line.starts_with(&heading));
        let row = row.unwrap_or_else(|| panic!("docs/events.md has no row for `{event}`"));
        for field in expected(&format!(r#"{{"event":"{event}","no-such-field":0}}"#)) {
            assert!(row.contains(&format!("`{field}`")), "docs/events.md does not say what `{field}` of `{event}` is");
        }
    }
}
