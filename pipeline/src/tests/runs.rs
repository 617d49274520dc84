//! Whole runs through the real driver, scheduler and cache.

use std::{
    io,
    time::{Duration, SystemTime},
};

use flow_cache::{Acquired, Cache, Holder, faults::Faults};

use super::world::{Manner, World};
use crate::{
    event::{Event, Outcome, state::Phase},
    names::StageId,
    plan::Verdict,
};

/// a, b → ab → end, and c beside it.
const RECIPE: &str = "
  a: { kind: write, with: { text: one } }
  b: { kind: write, with: { text: two } }
  c: { kind: write, with: { text: three } }
  ab: { kind: join, inputs: { parts: [a, b] } }
  end: { kind: trim, inputs: { text: ab } }
";

fn id(text: &str) -> StageId {
    text.parse().unwrap()
}

fn reasons(plan: &crate::plan::Plan) -> Vec<String> {
    let stages = plan.stages().iter().zip(&plan.verdicts);
    stages
        .map(|(stage, verdict)| match verdict {
            Verdict::Cached { .. } => format!("{}: cached", stage.id),
            Verdict::Run { reason, .. } => format!("{}: {reason}", stage.id),
            Verdict::Blocked { error } => format!("{}: blocked, {error}", stage.id),
        })
        .collect()
}

#[tokio::test]
async fn everything_runs_once_and_then_comes_from_the_cache() {
    let world = World::new();
    assert_eq!(
        reasons(&world.plan(RECIPE, &[]).await),
        ["a: never run", "ab: waits for a, b", "b: never run", "c: never run", "end: waits for ab"]
    );
    let first = world.run(RECIPE).await;
    assert_eq!(first.made, ["a", "ab", "b", "c", "end"]);
    assert_eq!((first.state.outcome, first.state.count(Phase::Finished)), (Some(Outcome::Done), 5));
    let record = world.cache.record(&first.state.stages[&id("a")].key.unwrap()).await.unwrap().unwrap();
    assert_eq!((record.stage.as_str(), record.metrics, record.files), ("a", serde_json::json!({"loss": 0.1}), 1));

    let second = world.run(RECIPE).await;
    assert_eq!(second.made, [""; 0]);
    assert_eq!((second.state.outcome, second.state.count(Phase::Cached)), (Some(Outcome::Done), 5));
    for (id, stage) in &first.state.stages {
        assert_eq!(stage.artifact, second.state.stages[id].artifact);
    }
    let works = fs_err::read_dir(world.cache.root().join("v1/work")).unwrap().count();
    assert_eq!(works, 0, "a work dir goes with its record");
}

#[tokio::test]
async fn a_changed_param_reruns_what_depends_on_it_and_nothing_else() {
    let world = World::new();
    world.run(RECIPE).await;
    let changed = RECIPE.replace("text: two", "text: zwei");
    assert_eq!(
        reasons(&world.plan(&changed, &[]).await),
        ["a: cached", "ab: waits for b", "b: text: two → zwei", "c: cached", "end: waits for ab"]
    );
    let ran = world.run(&changed).await;
    assert_eq!(ran.made, ["ab", "b", "end"]);
    let started = ran.events.iter().find_map(|event| match &event.what {
        Event::StageStarted { stage, reason, .. } if *stage == id("ab") => Some(reason.to_string()),
        _ => None,
    });
    let why = started.unwrap();
    assert!(why.starts_with("input parts[b]: ") && why.contains(" → "), "{why}");
    // Back again: both are known.
    assert_eq!(world.run(RECIPE).await.made, [""; 0]);
}

#[tokio::test]
async fn where_names_places_and_resources_change_nothing_runs() {
    let world = World::new();
    let before = world.run(RECIPE).await;
    let moved = "
  third: { kind: write, resources: { cores: 2, time: 1h }, with: { every: 7, text: three } }
  b: { kind: write, with: { text: two, times: 1e0 } }
  a: { kind: write, with: { text: 'one' } }
  both: { inputs: { parts: [b, a] }, kind: join }
  end: { kind: trim, inputs: { text: both } }
";
    let after = world.run(moved).await;
    assert_eq!(after.made, [""; 0]);
    assert_eq!(after.state.stages[&id("both")].artifact, before.state.stages[&id("ab")].artifact);
}

#[tokio::test]
async fn a_stage_that_is_redone_with_the_same_bytes_stops_the_wave() {
    let world = World::new();
    let recipe = |blanks: &str| {
        format!(
            "
  raw: {{ kind: write, with: {{ text: 'x{blanks}' }} }}
  clean: {{ kind: trim, inputs: {{ text: raw }} }}
  end: {{ kind: join, inputs: {{ parts: [clean] }} }}
"
        )
    };
    world.run(&recipe("")).await;
    let ran = world.run(&recipe("   ")).await;
    assert_eq!(ran.made, ["clean", "raw"]);
    assert_eq!(ran.phases(), ["clean: Finished", "end: Cached", "raw: Finished"]);
}

#[tokio::test]
async fn a_failure_stops_what_depends_on_it_and_nothing_else() {
    let world = World::new();
    let recipe = "
  bad: { kind: odd, with: { how: fail } }
  dizzy: { kind: odd, with: { how: panic } }
  good: { kind: write, with: { text: x } }
  then: { kind: trim, inputs: { text: bad } }
  later: { kind: join, inputs: { parts: [then, good] } }
  fine: { kind: trim, inputs: { text: good } }
";
    let ran = world.run(recipe).await;
    assert_eq!(
        ran.phases(),
        ["bad: Failed", "dizzy: Failed", "fine: Finished", "good: Finished", "later: Skipped", "then: Skipped"]
    );
    assert_eq!(ran.state.outcome, Some(Outcome::Failed));
    let error = |name: &str| ran.state.stages[&id(name)].error.clone().unwrap();
    assert_eq!(
        (error("bad").message.as_str(), error("bad").help.as_deref()),
        ("it did not work", Some("try something else"))
    );
    assert_eq!(error("dizzy").message, "the stage panicked: at the disco");
    assert_eq!(ran.state.stages[&id("later")].blocked_by.as_deref(), Some("bad"));
    assert!(world.cache.record(&ran.state.stages[&id("bad")].key.unwrap()).await.unwrap().is_none());

    let again = world.run(recipe).await;
    assert_eq!(again.made, ["bad", "dizzy"], "what failed is tried again");
}

#[tokio::test]
async fn other_bytes_for_one_key_are_told_and_do_not_replace_the_first() {
    let world = World::new();
    let recipe = "
  dice: { kind: odd, with: { how: dice } }
  calm: { kind: write, with: { text: x } }
";
    let first = world.run(recipe).await;
    let recheck = Manner { recheck: &["dice", "calm"], ..Manner::default() };
    assert_eq!(
        reasons(&world.plan(recipe, recheck.recheck).await),
        ["calm: to compare with what is on record", "dice: to compare with what is on record"]
    );
    let again = world.run_as(recipe, recheck).await.unwrap();
    assert_eq!(again.phases(), ["calm: Finished", "dice: Failed"]);
    let error = again.state.stages[&id("dice")].error.clone().unwrap();
    let artifact = first.state.stages[&id("dice")].artifact.unwrap();
    assert!(error.message.contains(&format!("where {artifact} was recorded for the same key")), "{error}");
    assert!(error.help.unwrap().contains("the artifact on record stays"));
    let works = || fs_err::read_dir(world.cache.root().join("v1/work")).unwrap().count();
    assert_eq!(works(), 0, "the next look begins anew, and not from what led to these bytes");
    let third = world.run(recipe).await;
    assert_eq!(third.state.stages[&id("dice")].artifact, Some(artifact));
}

#[tokio::test]
async fn an_interrupted_run_goes_on_where_it_was() {
    let world = World::new();
    let recipe = "
  slow: { kind: odd, with: { how: wait } }
  end: { kind: trim, inputs: { text: slow } }
";
    let first = world.run_as(recipe, Manner { interrupt: true, ..Manner::default() }).await.unwrap();
    assert_eq!(first.phases(), ["end: Pending", "slow: Stopped"]);
    assert_eq!(first.state.outcome, Some(Outcome::Interrupted));
    let second = world.run(recipe).await;
    assert_eq!(second.made, ["end", "slow"]);
    assert_eq!(second.state.outcome, Some(Outcome::Done));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_runs_on_one_store_each_stage_runs_in_one() {
    let world = World::new();
    let (one, two) = tokio::join!(world.run(RECIPE), world.run(RECIPE));
    let mut ran = [one.made, two.made].concat();
    ran.sort();
    assert_eq!(ran, ["a", "ab", "b", "c", "end"]);
    for (id, stage) in &one.state.stages {
        assert_eq!(stage.artifact, two.state.stages[id].artifact, "{id}");
    }
}

/// `a` needs both cores and is killed at first: while it pauses, others have them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stage_that_pauses_leaves_its_cores_to_others() {
    let world = World::new();
    let recipe = "
  a: { kind: write, with: { text: a }, resources: { cores: 2, retries: { attempts: 2, backoff: 1s } } }
  b: { kind: write, with: { text: b }, resources: { cores: 2 } }
  c: { kind: trim, inputs: { text: b }, resources: { cores: 2 } }
";
    let ran = world.run_as(recipe, Manner { kills: &["a"], ..Manner::default() }).await.unwrap();
    assert_eq!(ran.state.outcome, Some(Outcome::Done));
    let order: Vec<String> = ran
        .events
        .iter()
        .filter_map(|event| match &event.what {
            Event::StageStarted { stage, .. } => Some(format!("start {stage}")),
            Event::StageRetrying { stage, .. } => Some(format!("retry {stage}")),
            Event::StageFinished { stage, .. } => Some(format!("end {stage}")),
            _ => None,
        })
        .collect();
    let at = |what: &str| order.iter().position(|said| said == what).unwrap_or_else(|| panic!("{what}: {order:?}"));
    // `b` may have been looked at first; `c` is known only when `b` has ended.
    assert!(at("retry a") < at("start c") && at("end c") < at("end a"), "{order:?}");
}

/// Asked to end while one pauses, the run waits for it to say so, and gives its lease back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_pause_ends_at_once() {
    let world = World::new();
    let recipe = "
  a: { kind: write, with: { text: a }, resources: { cores: 1, retries: { attempts: 2, backoff: 1h } } }
  slow: { kind: odd, with: { how: wait }, resources: { cores: 1 } }
";
    let how = Manner { kills: &["a"], interrupt: true, ..Manner::default() };
    let ran = world.run_as(recipe, how).await.unwrap();
    assert_eq!(ran.phases(), ["a: Stopped", "slow: Stopped"]);
    assert_eq!(ran.state.outcome, Some(Outcome::Interrupted));
    assert_eq!(world.run(recipe).await.state.outcome, Some(Outcome::Done));
}

/// Every step of the store fails once, as on a full disk: the run says so or does not need it, nothing half-made is ever
/// taken, and the next run makes the rest.
#[tokio::test]
async fn a_full_disk_publishes_nothing_half_made() {
    let recipe = "
  a: { kind: write, with: { text: one } }
  end: { kind: trim, inputs: { text: a } }
";
    let mut failed = 0;
    for k in 0.. {
        let faults = Faults::new(io::ErrorKind::StorageFull);
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open_faulty(&dir.path().join("store"), &faults).unwrap();
        let world = World { dir, cache };
        let plan = world.plan(recipe, &[]).await;
        assert_eq!(plan.stages().len(), 2);
        faults.fail_at(k);
        let ran = world.run_plan(&plan, Manner::default()).await;
        let calls = faults.calls();
        faults.heal();
        if calls <= k {
            assert!(k > 20 && failed > 10, "{failed} of {k} steps failed");
            return;
        }
        if !ran.is_ok_and(|ran| ran.state.outcome == Some(Outcome::Done)) {
            failed += 1;
        }
        let report = world.cache.verify().await.unwrap();
        assert!(report.is_sound() && report.stray.is_empty(), "{k}: {report:?}");
        // A lease that could not be given back is free at once when its process has ended; this process goes on.
        fs_err::remove_dir_all(world.cache.root().join("v1/leases")).unwrap_or_default();
        let again = world.run(recipe).await;
        assert_eq!(again.state.outcome, Some(Outcome::Done), "{k}");
        let text = again.state.stages[&id("end")].artifact.unwrap();
        assert_eq!(&world.cache.read_file(&text, &"text".parse().unwrap()).await.unwrap()[..], b"one");
    }
}

/// As when a clock jumps, or this process was halted for long: the other one's result is right, and this run has not failed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_run_took_over_is_taken_from_it() {
    let world = World::new();
    let recipe = "
  slow: { kind: odd, with: { how: wait } }
  end: { kind: trim, inputs: { text: slow } }
";
    let plan = world.plan(recipe, &[]).await;
    let slow = plan.stages().iter().find(|stage| stage.id == id("slow")).unwrap();
    let key = slow.key_parts(&plan.numerics, |_| None).unwrap().key();
    let rival = async {
        let work = world.cache.root().join("v1/work").join(key.to_string());
        while !work.join("scratch/saved").exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let (minute, holder) =
            (Duration::from_mins(1), Holder { host: "elsewhere".into(), ..Holder::this_process("rival") });
        let mut later = SystemTime::now() + Duration::from_hours(100);
        let lease = loop {
            match world.cache.acquire(&key, &holder, later, minute).await.unwrap() {
                Acquired::Yes(lease) => break lease,
                Acquired::HeldBy { .. } => later += 3 * minute,
            }
        };
        let out = world.dir.path().join("out");
        fs_err::create_dir(&out).unwrap();
        fs_err::write(out.join("text"), "theirs\n").unwrap();
        let artifact = world.cache.publish(&out).await.unwrap().digest;
        world.cache.put_record_under(&flow_cache::suite::record(key, artifact), &lease).await.unwrap();
        world.cache.release(&lease).await.unwrap();
        fs_err::write(work.join("scratch/go"), "").unwrap();
        artifact
    };
    let (ran, theirs) = tokio::join!(world.run_plan(&plan, Manner::default()), rival);
    let ran = ran.unwrap();
    assert_eq!(ran.phases(), ["end: Finished", "slow: Cached"]);
    assert_eq!(ran.state.stages[&id("slow")].artifact, Some(theirs));
    let notes = ran
        .events
        .iter()
        .filter(|event| matches!(&event.what, Event::StageNote { text, .. } if text.contains("took it over")));
    assert_eq!(notes.count(), 1);
}
