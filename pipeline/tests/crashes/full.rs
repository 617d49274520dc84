//! A disk that is full at one write, for every write of a whole run.

use flow_pipeline::event::{Event, log, state::RunState};

use super::{killed, world::World};

/// Steps that come after a write: a full disk cannot stop them.
const AFTER: [&str; 6] = ["renamed", "written", "created", "removed", "durable", "spawned"];

pub fn at_every_write() {
    let expected = World::undisturbed();
    let places = killed::places();
    let cases: Vec<String> = places
        .iter()
        .filter(|(place, _)| !AFTER.iter().any(|step| place.ends_with(step)))
        .flat_map(|(place, &times)| {
            let first = format!("{place}#1");
            let later = (times > 1).then(|| format!("{place}#{times}"));
            [Some(first), later].into_iter().flatten()
        })
        .collect();
    assert!(cases.len() > 50, "only {} writes", cases.len());
    println!("{} full disks", cases.len());
    killed::each(cases, |place| {
        let world = World::new();
        let (mark, order) = (world.path("mark"), format!("{place}=full"));
        let run = world.start(&[("FLOW_FAILPOINT", &order), ("FLOW_FAILPOINT_MARK", mark.to_str().unwrap())]);
        let state = World::end(run);
        let told = state.to_string();
        // What is only advice may fail in silence; all else says what the matter is.
        if state["outcome"] != "done" {
            assert!(told.contains("No space left on device"), "{order}: {state:#}");
            assert!(!told.contains("panic"), "{order}: {state:#}");
            assert!(!place.starts_with("work.remove"), "{order}: what is on record has failed: {state:#}");
        }
        let recorded = world.check(&expected, &order);
        world.goes_on(&expected, &recorded, &order);
    });
}

/// The log of the run has no room for one line: what runs comes to its end, nothing more begins, and the end is told as ever.
pub fn at_every_line_of_the_log() {
    let expected = World::undisturbed();
    let lines = killed::places()["event.write"];
    assert!(lines > 12, "only {lines} lines");
    killed::each((1..=lines).collect(), |line| {
        let world = World::new();
        let order = format!("event.write#{line}=full");
        let ended = World::end(world.start(&[("FLOW_FAILPOINT", &order)]));
        let (error, seen) = (ended["error"].as_str().unwrap_or_default(), &ended["seen"]);
        let runs = fs_err::read_dir(world.path("store/runs")).unwrap();
        let events = log::read(&runs.last().unwrap().unwrap().path().join("events.jsonl")).unwrap();
        if error.is_empty() {
            // The run took fewer lines than another one: there is progress in them.
            assert_eq!(ended["outcome"], "done", "{order}");
            return;
        }
        assert!(error.contains("the log of the run") && error.contains("No space left on device"), "{order}: {error}");
        let stages = seen["stages"].as_object().unwrap();
        let at = |phase: &str| stages.values().filter(|stage| stage["phase"] == phase).count();
        assert_eq!(at("running") + at("failed"), 0, "{order}: {seen:#}");
        let all = at("finished") == stages.len();
        assert_eq!(seen["outcome"], if all { "done" } else { "failed" }, "{order}");
        let after = events.iter().skip(line as usize);
        assert!(!after.clone().any(|event| matches!(event.what, Event::StageStarted { .. })), "{order}: {events:#?}");
        // With room again, the line was written with the next one; after the last there is none.
        if (events.len() as u64) < line {
            assert!(all, "{order}: {events:#?}");
        } else {
            assert_eq!(&serde_json::to_value(RunState::replay(&events)).unwrap(), seen, "{order}");
        }
        let recorded = world.check(&expected, &order);
        assert_eq!(recorded.len(), at("finished"), "{order}");
        world.goes_on(&expected, &recorded, &order);
    });
}
