//! A run that is cut off goes on from where it was, whoever ended it and how, and ends with the bytes of one that was not.

use std::{fs, sync::OnceLock, thread, time::Duration};

use serde_json::Value;

use super::{
    environment::{Ended, TestEnvironment, walk},
    process::{Running, is_alive, wait_until},
};

/// The tiny recipe with a training long enough to be cut off in the middle, and a checkpoint every 20 steps.
fn long_training() -> TestEnvironment {
    let environment = TestEnvironment::fresh();
    environment.edit("tokens: 20K }", "tokens: 200K, checkpoint_every: 20 }");
    environment
}

/// Steps of that training.
const STEPS: u64 = 200_000 / (8 * 64) + 1;

/// The digest of the model of a run that was not cut off, elsewhere; it is the same for all tests.
fn in_one_go() -> &'static Value {
    static ONCE: OnceLock<Value> = OnceLock::new();
    ONCE.get_or_init(|| {
        let ended = long_training().run(&["public"]).succeeded();
        assert_eq!(notes(&ended), Vec::<String>::new());
        artifact(&ended)
    })
}

/// Starts the training and waits until it has passed a checkpoint, as `flow status` sees it.
fn in_the_middle(environment: &TestEnvironment) -> Running {
    let mut running = environment.start(&["public"]);
    running.wait_until("the training is past its second checkpoint", || step(environment) > 40);
    running
}

fn step(environment: &TestEnvironment) -> u64 {
    let ended = environment.flow(&["status", "--json"]);
    // Until the first event is written there is no run to show.
    if ended.code != Some(0) {
        return 0;
    }
    ended.json()["stages"]["public"]["progress"][0].as_u64().unwrap_or(0)
}

fn notes(ended: &Ended) -> Vec<String> {
    ended.events("stage-note").iter().map(|note| note["text"].as_str().unwrap().to_owned()).collect()
}

/// The artifact that a run ended with, made by it or, where a run before it was killed after the record, found.
fn artifact(ended: &Ended) -> Value {
    let ends = [ended.events("stage-finished"), ended.events("stage-cached")].concat();
    ends.iter().find(|event| event["stage"] == "public").unwrap()["artifact"].clone()
}

/// The same command once more: it must go on from a checkpoint and give the bytes of a run in one go.
fn goes_on(environment: &TestEnvironment) {
    let ended = environment.run(&["public"]).succeeded();
    let cached = ended.stages("stage-cached");
    assert!(
        ["corpus[public]", "tokenizer", "tokens[public]"].iter().all(|stage| cached.contains(*stage)),
        "{cached:?}"
    );
    let notes = notes(&ended);
    let from =
        notes.iter().find_map(|note| note.strip_prefix("goes on from step ")?.split(' ').next()?.parse::<u64>().ok());
    // Checkpoints are written behind the training: the last but one is on the disk, of the last one that is not promised.
    assert!(from.is_some_and(|step| (20..STEPS).contains(&step)), "{notes:?}");
    assert_eq!(&artifact(&ended), in_one_go());
    assert_eq!(walk(&environment.path(".flow/v1/work")), Vec::<std::path::PathBuf>::new(), "work dirs are left");
    assert_eq!(walk(&environment.path(".flow/v1/tmp")), Vec::<std::path::PathBuf>::new(), "staged files are left");
}

#[test]
fn everything_is_killed_at_once() {
    let environment = long_training();
    let mut running = in_the_middle(&environment);
    assert_eq!(running.stages().len(), 1, "one stage trains");
    running.kill_tree();

    let records = environment.records(".flow");
    assert_eq!(records, 3, "the corpus, the tokenizer and the tokens are on record; the model is not");
    let ended = environment.flow(&["status"]).succeeded();
    assert!(ended.stdout.contains("cut off; the same command goes on from here"), "{}", ended.stdout);
    assert!(ended.stdout.contains("1 cut off, 3 finished") && !ended.stdout.contains(" left"), "{}", ended.stdout);
    assert!(!ended.stdout.contains("running") && !ended.stdout.contains(" left"), "{}", ended.stdout);
    let state = environment.flow(&["status", "--json"]).succeeded().json();
    assert_eq!(state["stages"]["public"]["phase"], "stopped");
    let _ = environment.flow(&["logs", "public"]).succeeded();
    let plan = environment.flow(&["plan", "recipe.yaml", "public"]).succeeded().stdout;
    let public = plan.lines().find(|line| line.contains("will run public ")).unwrap();
    assert!(public.ends_with(" begun and not finished; goes on from what it saved"), "{plan}");
    goes_on(&environment);
}

/// Killed again and again, at moments that nobody chose, it comes to the same bytes.
#[test]
fn twelve_kills_at_random_moments() {
    let (mut dice, mut kills) = (7_u64, 0);
    println!("seed {dice}");
    let mut environment = long_training();
    while kills < 12 {
        // Knuth's generator: any will do that is the same everywhere.
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut running = environment.start(&["public"]);
        thread::sleep(Duration::from_millis(100 + (dice >> 33) % 1500));
        if running.has_ended() {
            assert_eq!(&artifact(&environment.run(&["public"]).succeeded()), in_one_go());
            environment = long_training();
            continue;
        }
        running.kill_tree();
        kills += 1;
    }
    let ended = environment.run(&["public"]).succeeded();
    assert_eq!(&artifact(&ended), in_one_go());
}

#[test]
fn only_the_parent_is_killed() {
    let environment = long_training();
    let mut running = in_the_middle(&environment);
    let stages = running.stages();
    assert_eq!(stages.len(), 1, "one stage trains");
    running.signal("KILL");
    assert_eq!(running.wait(), None);
    wait_until("the stage without a parent has ended", || !stages.iter().any(|stage| is_alive(*stage)));
    goes_on(&environment);
}

#[test]
fn only_the_stage_is_killed() {
    let environment = long_training();
    let mut running = in_the_middle(&environment);
    for stage in running.stages() {
        assert!(std::process::Command::new("kill").args(["-9", &stage.to_string()]).status().unwrap().success());
    }
    assert_eq!(running.wait(), Some(1), "a stage that is killed is a stage that failed");
    let events = fs::read_to_string(environment.path("stdout")).unwrap();
    let failed = events.lines().find(|line| line.contains("stage-failed")).unwrap_or_else(|| panic!("{events}"));
    assert!(failed.contains("signal 9") || failed.contains("SIGKILL"), "{failed}");
    goes_on(&environment);
}

/// Where the recipe allows it, the run itself tries a killed stage again, from its checkpoint.
#[test]
fn a_killed_stage_is_tried_again_where_the_recipe_says_so() {
    let environment = long_training();
    environment.edit(
        "tokens: 200K, checkpoint_every: 20 }",
        "tokens: 200K, checkpoint_every: 20 }\n    resources: { timeout: 1h, retries: { attempts: 2, backoff: 100ms } }",
    );
    let mut running = in_the_middle(&environment);
    for stage in running.stages() {
        assert!(std::process::Command::new("kill").args(["-9", &stage.to_string()]).status().unwrap().success());
    }
    assert_eq!(running.wait(), Some(0), "{}", environment.read("stderr"));
    let events = environment.read("stdout");
    let retry = events.lines().find(|line| line.contains("stage-retrying")).unwrap_or_else(|| panic!("{events}"));
    assert!(retry.contains(r#""attempt":2,"of":2,"wait":0.1"#), "{retry}");
    assert!(events.contains("goes on from step "), "{events}");
    // Timeout and retries are no part of the key.
    let cached =
        environment.run(&["public", "-s", "stages.public.resources.timeout=2h"]).succeeded().events("stage-cached");
    assert_eq!(&cached.iter().find(|event| event["stage"] == "public").unwrap()["artifact"], in_one_go());
}

/// What a person sees of it: one line that says why, which attempt comes and when, and then the stage as any other.
#[test]
fn a_person_sees_that_a_stage_is_tried_again() {
    let environment = long_training();
    environment.edit(
        "tokens: 200K, checkpoint_every: 20 }",
        "tokens: 200K, checkpoint_every: 20 }\n    resources: { retries: { attempts: 3, backoff: 1500ms } }",
    );
    let mut running = environment.start_shown(&["public"]);
    running.wait_until("the training is past its second checkpoint", || step(&environment) > 40);
    for stage in running.stages() {
        assert!(std::process::Command::new("kill").args(["-9", &stage.to_string()]).status().unwrap().success());
    }
    assert_eq!(running.wait(), Some(0), "{}", environment.read("stderr"));
    let shown = environment.read("stderr");
    let lines: Vec<&str> = shown.lines().map(str::trim_start).collect();
    let told: Vec<&&str> = lines.iter().filter(|line| line.starts_with("Retrying")).collect();
    assert_eq!(told, [&"Retrying public: its process was killed (signal 9); attempt 2 of 3 in 1.5 s"], "{shown}");
    let at = |start: &str| lines.iter().position(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{shown}"));
    assert!(at("Retrying public") < at("Finished public"), "{shown}");
    assert!(!shown.contains("Failed"), "{shown}");
}

#[test]
fn a_person_presses_ctrl_c() {
    // What is started under `nohup` ignores this one, and so does all that it starts.
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap().trim();
    let hangup_is_ignored = u64::from_str_radix(ignored, 16).unwrap() & 1 == 1;
    for signal in ["INT", "TERM", "HUP"].iter().filter(|signal| **signal != "HUP" || !hangup_is_ignored) {
        let environment = long_training();
        let mut running = in_the_middle(&environment);
        let stages = running.stages();
        running.signal(signal);
        assert_eq!(running.wait(), Some(130), "SIG{signal}");
        assert!(!stages.iter().any(|stage| is_alive(*stage)), "a stage outlived the run");
        let state = environment.flow(&["status", "--json"]).succeeded().json();
        assert_eq!(
            (&state["outcome"], &state["stages"]["public"]["phase"]),
            (&"interrupted".into(), &"stopped".into())
        );
        goes_on(&environment);
    }
}

/// A stage that hears nothing has a minute to save its state; who presses Ctrl-C again does not wait for that.
#[test]
fn a_person_presses_ctrl_c_twice() {
    let environment = long_training();
    let mut running = in_the_middle(&environment);
    let stages = running.stages();
    for stage in &stages {
        assert!(std::process::Command::new("kill").args(["-STOP", &stage.to_string()]).status().unwrap().success());
    }
    running.signal("INT");
    thread::sleep(Duration::from_secs(1));
    assert!(!running.has_ended(), "it did not wait for its stage");
    running.signal("INT");
    assert_eq!(running.wait_at_most(Duration::from_secs(10)), Some(130));
    assert!(!stages.iter().any(|stage| is_alive(*stage)), "a stage outlived the run");
    goes_on(&environment);
}

#[test]
fn a_run_beside_it_waits_and_takes_what_the_first_one_makes() {
    let environment = long_training();
    let mut first = in_the_middle(&environment);
    let second = environment.run(&["public"]).succeeded();
    assert_eq!(first.wait(), Some(0));
    assert!(!second.stages("stage-started").contains("public"), "both trained: {second:#?}");
    assert_eq!(second.stages("stage-waiting"), super::environment::names(["public"]));
}
