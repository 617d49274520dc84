//! A shared store that stays away while stages are looked up and their leases are taken.

use std::{
    io::ErrorKind,
    sync::Arc,
    time::{Duration, Instant},
};

use flow_cache::{Cache, faults::Faults};
use object_store::memory::InMemory;

use super::world::{Manner, Ran, World};
use crate::event::{Event, Outcome};

/// `a` is known to be missing when the run begins: its lease is taken. `b` is looked up in the run.
fn recipe(resources: &str) -> String {
    format!(
        "
  a: {{ kind: write, with: {{ text: one }}{resources} }}
  b: {{ kind: join, inputs: {{ parts: [a] }}{resources} }}
"
    )
}

const RETRIES: &str = ", resources: { retries: { attempts: 4, backoff: 40ms } }";

async fn world(faults: &Arc<Faults>) -> World {
    let World { dir, .. } = World::new();
    let remote = faults.over(Arc::new(InMemory::new()));
    let cache = Cache::open_over(&dir.path().join("store"), remote, "memory".into()).await.unwrap();
    World { dir, cache }
}

fn retries(ran: &Ran) -> Vec<String> {
    let retries = ran.events.iter().filter_map(|event| match &event.what {
        Event::StageRetrying { stage, attempt, of, wait, .. } => Some(format!("{stage} {attempt}/{of} {wait}")),
        _ => None,
    });
    retries.collect()
}

fn errors(ran: &Ran) -> Vec<String> {
    let errors = ran.events.iter().filter_map(|event| match &event.what {
        Event::StageFailed { stage, error, .. } => Some(format!("{stage}: {} {:?}", error.message, error.help)),
        _ => None,
    });
    errors.collect()
}

/// Away from the first call of the run on, for two attempts.
async fn away(kind: ErrorKind, resources: &str) -> Ran {
    let faults = Faults::new(kind);
    let world = world(&faults).await;
    let plan = world.plan(&recipe(resources), &[]).await;
    faults.fail_from(0);
    let heals = Arc::clone(&faults);
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(60)).await;
        heals.heal();
    });
    world.run_plan(&plan, Manner::default()).await.unwrap()
}

#[tokio::test]
async fn a_store_that_comes_back_is_asked_again_where_the_recipe_says_so() {
    let ran = away(ErrorKind::ConnectionReset, RETRIES).await;
    assert_eq!(ran.state.outcome, Some(Outcome::Done), "{:?}", errors(&ran));
    assert_eq!(ran.made, ["a", "b"]);
    assert_eq!(retries(&ran), ["a 2/4 0.04", "a 3/4 0.08"]);

    let ran = away(ErrorKind::ConnectionReset, "").await;
    assert_eq!(ran.state.outcome, Some(Outcome::Failed));
    let [error] = &errors(&ran)[..] else { panic!("{:?}", errors(&ran)) };
    assert!(error.starts_with("a: ") && error.contains("once the store answers again"), "{error}");

    let ran = away(ErrorKind::PermissionDenied, RETRIES).await;
    assert_eq!((ran.state.outcome, retries(&ran).len()), (Some(Outcome::Failed), 0), "what is refused stays so");
}

/// Whatever call of the run is the first that fails, for a moment or for good.
#[tokio::test]
async fn it_comes_to_an_end_wherever_the_store_goes_away() {
    for forever in [false, true] {
        let mut looked_up = false;
        for k in 0.. {
            let faults = Faults::new(ErrorKind::ConnectionReset);
            let world = world(&faults).await;
            let plan = world.plan(&recipe(", resources: { retries: { attempts: 3, backoff: 1ms } }"), &[]).await;
            if forever {
                faults.fail_from(k);
            } else {
                faults.fail_at(k);
            }
            let ran = world.run_plan(&plan, Manner::default()).await.unwrap();
            if faults.calls() <= k {
                assert!(k > 8, "the walk must meet more than {k} calls");
                break;
            }
            looked_up |= retries(&ran).iter().any(|retry| retry.starts_with("b "));
            // What stays away for good ends the run, whatever has been done.
            assert!(ran.state.outcome.is_some());
            if !forever {
                assert_eq!(ran.state.outcome, Some(Outcome::Done), "call {k}: {:?}", errors(&ran));
            }
        }
        assert!(looked_up, "no lookup failed");
    }
}

/// Whatever call is the first that no answer comes to, for ever: asked once to end, the run ends soon, and asked twice at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asked_to_end_it_does_wherever_the_store_is_silent() {
    const FIRST: Duration = Duration::from_millis(300);
    const SECOND: Duration = Duration::from_secs(2);
    let mut deaf = Vec::new();
    for k in 0.. {
        let faults = Faults::new(ErrorKind::TimedOut);
        let world = world(&faults).await;
        let plan = world.plan(&recipe(""), &[]).await;
        faults.stall(true);
        faults.fail_from(k);
        let begun = Instant::now();
        let manner = Manner { interrupts: &[FIRST, SECOND], ..Manner::default() };
        let ran = tokio::time::timeout(FIRST + SECOND * 3, world.run_plan(&plan, manner)).await;
        let ran = ran.unwrap_or_else(|_| panic!("call {k} is waited for for ever")).unwrap();
        if begun.elapsed() > FIRST + SECOND {
            deaf.push(k);
        }
        // A machine that is busy may not have come to its end by the first request.
        if faults.calls() <= k && ran.state.outcome == Some(Outcome::Done) {
            assert!(k > 8, "the walk must meet more than {k} calls");
            // A record that is being written is not given up half-way.
            assert!(
                deaf.len() * 2 < k as usize,
                "the first request was not heard while these were waited for: {deaf:?}"
            );
            return;
        }
        assert!(matches!(ran.state.outcome, Some(Outcome::Interrupted | Outcome::Done)), "{:?}", errors(&ran));
        assert!(k < 200, "there are fewer calls");
        faults.heal();
    }
}
