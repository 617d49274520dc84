//! Killed: at each place in turn, and at random moments.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use flow_pipeline::seed::Seed;

use super::{
    tree,
    world::{Artifacts, World},
};

/// Worlds at once.
const HANDS: u64 = 4;

/// Every place that a whole run passes → how often one process passes it at most.
pub fn places() -> BTreeMap<String, u64> {
    let world = World::new();
    let trace = world.path("trace");
    World::end(world.start(&[("FLOW_FAILPOINT_TRACE", trace.to_str().unwrap())]));
    let mut passed: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for line in fs_err::read_to_string(trace).unwrap().lines() {
        let (place, process) = line.split_once(' ').unwrap();
        *passed.entry(place.to_owned()).or_default().entry(process.to_owned()).or_default() += 1;
    }
    passed.into_iter().map(|(place, by)| (place, by.into_values().max().unwrap())).collect()
}

/// Does each of these in a world of its own, several at once.
pub fn each<T: Send>(cases: Vec<T>, act: impl Fn(T) + Sync) {
    let cases = Mutex::new(cases);
    thread::scope(|scope| {
        for _ in 0..HANDS {
            scope.spawn(|| {
                loop {
                    let Some(case) = cases.lock().unwrap().pop() else { return };
                    act(case);
                }
            });
        }
    });
}

pub fn at_every_place() {
    let expected = World::undisturbed();
    let places = places();
    assert!(places.len() > 45, "only {} places: {places:#?}", places.len());
    let cases: Vec<(String, bool)> = places
        .iter()
        .flat_map(|(place, &times)| {
            // The whole tree at the first and at the last time; the one process alone in between.
            let orders = [(1, true), (times, true), (times.div_ceil(2), false)];
            let orders: BTreeSet<(u64, bool)> = orders.into_iter().collect();
            orders.into_iter().map(move |(at, all)| (format!("{place}#{at}"), all))
        })
        .collect();
    println!("{} places, {} kills", places.len(), cases.len());
    let reached = AtomicU64::new(0);
    let all_cases = cases.len() as u64;
    each(cases, |(place, all)| {
        let world = World::new();
        let mark = world.path("mark");
        let order = format!("{place}={}", if all { "stall" } else { "kill" });
        let mut run = world.start(&[("FLOW_FAILPOINT", &order), ("FLOW_FAILPOINT_MARK", mark.to_str().unwrap())]);
        tree::wait(&order, || (mark.exists() || run.try_wait().unwrap().is_some()).then_some(()));
        reached.fetch_add(u64::from(mark.exists()), Ordering::SeqCst);
        if all {
            tree::kill(&mut run);
        } else {
            run.wait().unwrap();
        }
        let recorded = world.check(&expected, &order);
        world.goes_on(&expected, &recorded, &order);
    });
    // How often a place is passed depends a little on who is faster; the first time is always there.
    let reached = reached.into_inner();
    assert!(reached * 10 >= all_cases * 9, "{reached} of {all_cases} places were reached");
}

pub fn at_random_moments() {
    let variable = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (seed, kills) = (variable("FLOW_TEST_SEED", 7), variable("FLOW_TEST_KILLS", 200));
    println!("FLOW_TEST_SEED={seed} FLOW_TEST_KILLS={kills}");
    let expected = World::undisturbed();
    let clock = Instant::now();
    World::undisturbed();
    let whole = clock.elapsed();
    let (next, killed) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..HANDS {
            scope.spawn(|| {
                while killed.load(Ordering::SeqCst) < kills {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    assert!(number < 4 * kills, "runs end before they are killed");
                    let hit = one(&expected, Seed(seed).derive(&["kill", &number.to_string()]).0, whole);
                    killed.fetch_add(u64::from(hit), Ordering::SeqCst);
                }
            });
        }
    });
    println!("{} kills of {} runs", killed.into_inner(), next.into_inner());
}

/// Kills one run at a moment, maybe the next one on its store too, and lets the last one end; whether the first was hit.
fn one(expected: &Artifacts, dice: u64, whole: Duration) -> bool {
    let world = World::new();
    let mut hit = false;
    for again in 0..=dice % 2 {
        let dice = Seed(dice).derive(&["again", &again.to_string()]).0;
        // Some share of twice the time of a run alone: others run beside this one.
        let moment = whole.mul_f64((dice >> 32) as f64 / f64::from(u32::MAX) * 2.0);
        let mut run = world.start(&[]);
        thread::sleep(moment);
        let alive = run.try_wait().unwrap().is_none();
        match dice % 10 {
            0 => tree::kill_stages(&mut run),
            1 | 2 => tree::kill_root(&mut run),
            _ => tree::kill(&mut run),
        }
        let after = format!("killed after {moment:?}, dice {dice}");
        hit |= alive;
        if again == dice % 2 || !alive {
            let recorded = world.check(expected, &after);
            world.goes_on(expected, &recorded, &after);
            return hit;
        }
        world.check(expected, &after);
    }
    let recorded = world.check(expected, "the last kill");
    world.goes_on(expected, &recorded, "the last kill");
    hit
}
