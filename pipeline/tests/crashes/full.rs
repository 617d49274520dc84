//! A disk that is full at one write, for every write of a whole run.

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
        }
        let recorded = world.check(&expected, &order);
        world.goes_on(&expected, &recorded, &order);
    });
}
