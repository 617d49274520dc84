//! Many runs on one store at once.

use std::{process::Child, time::Instant};

use super::{
    tree,
    world::{STAGES, World, artifacts},
};

/// Some stages that all recipes have, and some that only every fourth has.
fn recipe(variant: usize) -> String {
    let own = format!(
        "
  x: {{ kind: make, inputs: {{ of: [c] }}, with: {{ text: x{variant}, steps: 10, side: SIDE }} }}
  y: {{ kind: make, inputs: {{ of: [x, d] }}, with: {{ text: y{variant}, side: SIDE }} }}
"
    );
    STAGES.trim_end().to_owned() + &own
}

pub fn sixteen_runs_do_each_stage_once() {
    let world = World::new();
    let runs: Vec<Child> = (0..16).map(|run| world.command(&recipe(run % 4), &[]).spawn().unwrap()).collect();
    let ended: Vec<_> = runs.into_iter().map(|run| artifacts(&World::end(run), "one of sixteen")).collect();
    for run in &ended {
        for stage in ["a", "b", "c", "d", "e", "end"] {
            assert_eq!(run[stage], ended[0][stage], "{stage}");
        }
    }
    let side = world.side();
    let once: Vec<&String> = side.iter().filter(|(_, counts)| **counts == (1, 1)).map(|(text, _)| text).collect();
    assert_eq!(once.len(), 6 + 2 * 4, "{side:?}");
    assert_eq!(once.len(), side.len(), "{side:?}");
}

pub fn a_killed_holder_is_replaced() {
    const SLOW: &str = "
  slow: { kind: make, with: { text: slow, steps: 400, side: SIDE } }
  then: { kind: make, inputs: { of: [slow] }, with: { text: then, side: SIDE } }
";
    let world = World::new();
    let mut runs: Vec<Child> = (0..5).map(|_| world.command(SLOW, &[]).spawn().unwrap()).collect();
    let stage: i32 = tree::wait("the slow stage", || world.lines().first()?.rsplit(' ').next()?.parse().ok());
    let holder = tree::status(stage).unwrap();
    let at = runs.iter().position(|run| i32::try_from(run.id()) == Ok(holder)).unwrap();
    let clock = Instant::now();
    let mut killed = runs.remove(at);
    tree::kill(&mut killed);
    for run in runs {
        artifacts(&World::end(run), "one of the four that are left");
    }
    // Well below the time that a lease lasts.
    assert!(clock.elapsed().as_secs() < 20, "{:?}", clock.elapsed());
    let side = world.side();
    assert_eq!((side["slow"], side["then"]), ((2, 1), (1, 1)));
}
