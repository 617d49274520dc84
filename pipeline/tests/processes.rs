//! Real processes: a run that is killed, its stages, and the next run on the same store.
//!
//! This program is all three: `exec --watch-stdin JOB` is a stage's process as `flow exec` is, `run STORE RECIPE` a run as
//! `flow run` is, and without either it is the tests.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a test")]

use std::{
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use flow_cache::Cache;
use flow_pipeline::{
    StageError,
    context::Context,
    event::{
        Event, Stamped,
        state::{Phase, RunState},
    },
    exec,
    executor::local::Local,
    key::Numerics,
    plan::{self, CacheProbe, prepare::Surroundings},
    recipe::{self, LoadOptions},
    registry::Registry,
    run::{self, Capacity, RunFolder, RunOptions},
    stage::{Forecast, Forecasts, Kind, NoPlaces, Role},
};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How long a stage has here to save its state.
const GRACE: Duration = Duration::from_secs(2);

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct CountParams {
    to: u64,
    how: How,
}

#[derive(PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum How {
    /// Saves each step and stops when it is asked to.
    Politely,
    /// Hears nothing, and has a child of its own.
    Deaf,
    /// Kills itself at the third step, the first time that it is there.
    Suicidal,
    /// Fails by itself at the third step.
    Wrong,
    /// Fails at the third step as who reads a store that does not answer, the first time that it is there.
    Unlucky,
    /// Leaves a child behind that would go on for long.
    Leaving,
}

/// Counts, a step every ten milliseconds, and goes on from the last step that it saved.
struct Count;

impl Kind for Count {
    const NAME: &'static str = "count";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "counts";
    const MAKES: &'static str = "count";
    type Params = CountParams;
    type Places = NoPlaces;

    fn roles() -> &'static [Role] {
        &[]
    }

    fn forecast(_: &CountParams, _: &Forecasts) -> Forecast {
        Forecast::default()
    }

    #[expect(clippy::zombie_processes, reason = "who ends this child is what is tested")]
    fn run(ctx: &Context, params: CountParams, _: NoPlaces) -> Result<(), StageError> {
        let saved = ctx.scratch().join("at");
        let from: u64 = fs_err::read_to_string(&saved).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        let again = ctx.scratch().join("pids").exists();
        let mut pids = vec![std::process::id().to_string()];
        if params.how == How::Leaving || params.how == How::Deaf && !again {
            let child = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
            pids.push(child.id().to_string());
        }
        fs_err::write(ctx.scratch().join("pids"), pids.join("\n")).unwrap();
        ctx.note(format!("from {from}"));
        for at in from..params.to {
            if params.how != How::Deaf {
                ctx.check_cancelled()?;
            }
            fs_err::write(ctx.scratch().join("part"), (at + 1).to_string()).unwrap();
            fs_err::rename(ctx.scratch().join("part"), &saved).unwrap();
            ctx.progress(at + 1, Some(params.to), "steps");
            println!("step {}", at + 1);
            if at == 2 {
                match params.how {
                    How::Suicidal => kill_process(rustix::process::getpid(), Signal::KILL).unwrap(),
                    How::Wrong => return Err(StageError::new("it cannot go well")),
                    How::Unlucky => {
                        return Err(StageError { may_pass: true, ..StageError::new("the store did not answer") });
                    }
                    How::Politely | How::Deaf | How::Leaving => {}
                }
            }
            if !(params.how == How::Deaf && again) {
                thread::sleep(Duration::from_millis(10));
            }
        }
        fs_err::write(ctx.output().join("count"), params.to.to_string()).unwrap();
        Ok(())
    }
}

fn registry() -> Registry {
    Registry::new().with::<Count>()
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["exec", "--watch-stdin", job] => {
            let cancelled = exec::stop_flag(true).unwrap();
            let result = exec::exec(Path::new(job), &registry(), cancelled).unwrap();
            ExitCode::from(u8::from(result.error.is_some()))
        }
        ["run", store, recipe] => {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            let state = runtime.block_on(run(Path::new(store), recipe));
            println!("{}", serde_json::to_string(&state).unwrap());
            ExitCode::SUCCESS
        }
        // What `cargo test -- --list` and its kin ask for.
        [.., "--list"] | ["--list", ..] => ExitCode::SUCCESS,
        _ => tests(words.iter().find(|word| !word.starts_with('-')).map(String::as_str)),
    }
}

/// As `flow run` does, without a terminal.
async fn run(store: &Path, recipe: &str) -> RunState {
    let cache = Cache::open(store, None).await.unwrap();
    let recipe = recipe::parse_str("r.yaml", recipe, &LoadOptions::default()).unwrap();
    let hash = |path: &Path| cache.hash_memo().digest(path).map(|digest| digest.to_string());
    let prepared = plan::prepare(&recipe, &registry(), &Surroundings { memo: cache.root(), hash: &hash }, &[]).unwrap();
    let probe = CacheProbe::new(&cache, recipe.name.as_str());
    let numerics = Numerics { backend: "cpu".into(), dtype: "f32".into() };
    let plan = plan::plan(prepared, numerics, &probe, &[]).await.unwrap();
    let folder = RunFolder::create(&cache.root().join("runs")).unwrap();
    let options = RunOptions {
        capacity: Capacity { cores: 2, memory: 1 << 30, gpus: 0 },
        device: "cpu".into(),
        keep_going: true,
        version: "0.0.0".into(),
        recheck: Vec::new(),
    };
    let (ask, interrupts) = tokio::sync::mpsc::channel(1);
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
    tokio::spawn(async move { while terminate.recv().await.is_some() && ask.send(()).await.is_ok() {} });
    let executor = Arc::new(Local { program: std::env::current_exe().unwrap(), grace: GRACE });
    let (mut steps, mut watcher_ended) = (0, false);
    let mut watcher = |event: &Stamped, _: &RunState| match event.what {
        Event::StageProgress { .. } => steps += u32::from(!watcher_ended),
        Event::StageFinished { .. } => watcher_ended = true,
        _ => {}
    };
    let state = run::run(&plan, &cache, executor, &options, &folder, interrupts, &mut watcher).await.unwrap();
    assert!(
        steps > 0 || state.count(Phase::Cached) + state.count(Phase::Failed) > 0,
        "progress is heard while it runs"
    );
    state
}

/// A store, and one recipe of one stage `it`.
struct World {
    dir: tempfile::TempDir,
    recipe: String,
}

impl World {
    fn new(how: &str, to: u64, more: &str) -> Self {
        let recipe =
            format!("flow: 1\nname: toy\nstages:\n  it: {{ kind: count, with: {{ how: {how}, to: {to} }}{more} }}\n");
        World { dir: tempfile::tempdir().unwrap(), recipe }
    }

    fn start(&self) -> Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("run").arg(self.dir.path()).arg(&self.recipe).stdin(Stdio::null()).stdout(Stdio::piped());
        command.spawn().unwrap()
    }

    /// The state of the one stage once the run has ended.
    fn end(child: Child) -> Value {
        let output = child.wait_with_output().unwrap();
        let state: Value = serde_json::from_slice(&output.stdout).unwrap();
        state["stages"]["it"].clone()
    }

    fn scratch(&self, name: &str) -> Option<String> {
        let work = fs_err::read_dir(self.dir.path().join("v1/work")).ok()?.next()?.unwrap().path();
        fs_err::read_to_string(work.join("scratch").join(name)).ok()
    }

    fn wait_for_step(&self, step: u64) -> u64 {
        wait("a step", || self.scratch("at")?.parse().ok().filter(|at| *at >= step))
    }

    /// The stage's process and what it started.
    fn pids(&self) -> Vec<Pid> {
        self.scratch("pids").unwrap().lines().map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap()).collect()
    }

    /// Of every retry of the last run: which attempt, of how many, after how many seconds.
    fn retries(&self) -> Vec<(u32, u32, f64)> {
        let log = flow_pipeline::event::log::read(&self.last_run().events()).unwrap();
        let retries = log.into_iter().filter_map(|event| match event.what {
            Event::StageRetrying { attempt, of, wait, .. } => Some((attempt, of, wait)),
            _ => None,
        });
        retries.collect()
    }

    fn last_run(&self) -> RunFolder {
        RunFolder::open(&self.dir.path().join("runs"), None).unwrap()
    }
}

fn wait<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(since.elapsed() < Duration::from_secs(30), "waited for {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A zombie has ended, though nobody has asked for its code yet.
fn is_gone(pid: Pid) -> bool {
    let stat = fs_err::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    test_kill_process(pid).is_err() || stat.is_ok_and(|stat| stat.contains(") Z "))
}

fn kill_9(run: &mut Child) {
    run.kill().unwrap();
    run.wait().unwrap();
}

fn noted(stage: &Value) -> u64 {
    stage["notes"][0].as_str().unwrap().strip_prefix("from ").unwrap().parse().unwrap()
}

/// `kill -9` of the run, then at once the same command: the stage's process ends, and the next one goes on from its step.
fn after_kill_9_the_same_command_goes_on() {
    let world = World::new("politely", 100, "");
    let mut first = world.start();
    let at = world.wait_for_step(5);
    let pids = world.pids();
    assert!(world.last_run().is_alive());
    let clock = Instant::now();
    kill_9(&mut first);
    assert!(!world.last_run().is_alive());
    let second = World::end(world.start());
    assert!(clock.elapsed() < Duration::from_secs(10), "a lease was waited for: {:?}", clock.elapsed());
    assert_eq!(second["phase"], "finished");
    assert!(noted(&second) >= at, "{second}");
    assert!(pids.into_iter().all(is_gone));
    assert_eq!(World::end(world.start())["phase"], "cached");
}

/// A stage that hears nothing is killed with all that it started, and the next run waits for that and no longer.
fn a_deaf_orphan_is_killed_with_its_children() {
    let world = World::new("deaf", 3000, "");
    let mut first = world.start();
    let at = world.wait_for_step(3);
    let pids = world.pids();
    assert_eq!(pids.len(), 2);
    let clock = Instant::now();
    kill_9(&mut first);
    let second = world.start();
    let stage = World::end(second);
    let took = clock.elapsed();
    assert!(took * 5 >= exec::ORPHAN_GRACE * 4 && took < exec::ORPHAN_GRACE * 3, "{took:?}");
    assert_eq!(stage["phase"], "finished");
    assert!(noted(&stage) >= at);
    wait("the end of the orphan and its child", || pids.iter().all(|pid| is_gone(*pid)).then_some(()));
}

/// A stage that was halted cannot end itself: the next run says which process it is, and goes on once that is gone.
fn an_orphan_that_was_halted_is_named() {
    let world = World::new("deaf", 3000, "");
    let mut first = world.start();
    world.wait_for_step(3);
    let pids = world.pids();
    let pid = pids[0];
    kill_9(&mut first);
    // Not before: the system wakes what is halted when its parent ends.
    kill_process(pid, Signal::STOP).unwrap();
    let stage = World::end(world.start());
    assert!(stage["error"]["message"].as_str().unwrap().starts_with("another process still works in "), "{stage}");
    let help = stage["error"]["help"].as_str().unwrap();
    assert!(help.contains(&format!("kill -9 {}`", pid.as_raw_nonzero())), "{help}");
    for pid in pids {
        kill_process(pid, Signal::KILL).unwrap();
    }
    assert_eq!(World::end(world.start())["phase"], "finished");
}

/// Asked politely, a run saves its state and says that it was interrupted.
fn an_interrupted_run_saves_its_state() {
    let world = World::new("politely", 100, "");
    let run = world.start();
    let at = world.wait_for_step(3);
    kill_process(Pid::from_child(&run), Signal::TERM).unwrap();
    assert_eq!(World::end(run)["phase"], "stopped");
    let second = World::end(world.start());
    assert!(second["phase"] == "finished" && noted(&second) >= at, "{second}");
}

/// What ends a stage's process from outside is one failed stage with a message and the end of its log.
fn a_killed_stage_is_a_failed_stage() {
    let world = World::new("suicidal", 100, "");
    let stage = World::end(world.start());
    assert_eq!(stage["phase"], "failed");
    assert_eq!(stage["error"]["message"], "its process was killed (signal 9)");
    let help = stage["error"]["help"].as_str().unwrap();
    assert!(help.contains("out of memory") && help.contains("`resources.memory`"), "{help}");
    assert_eq!(stage["log_tail"], serde_json::json!(["step 1", "step 2", "step 3"]));
    assert_eq!(world.scratch("at").as_deref(), Some("3"));

    let world = World::new("politely", 100, "");
    let run = world.start();
    world.wait_for_step(3);
    kill_process(world.pids()[0], Signal::TERM).unwrap();
    let stage = World::end(run);
    assert_eq!(stage["error"]["message"], "its process was asked to stop, and not by this run");
}

fn a_stage_that_takes_too_long_saves_its_state() {
    let world = World::new("politely", 100, ", resources: { time: 300ms }");
    let stage = World::end(world.start());
    assert_eq!(stage["error"]["message"], "it ran longer than its `resources.time` of 300ms allows");
    let at: u64 = world.scratch("at").unwrap().parse().unwrap();
    let second = World::end(world.start());
    assert_eq!(noted(&second), at);
}

/// Of two runs at once one counts; the other waits for it and takes its result.
fn two_runs_do_not_do_the_same_work() {
    let world = World::new("politely", 40, "");
    let first = world.start();
    world.wait_for_step(1);
    let second = World::end(world.start());
    assert_eq!(World::end(first)["phase"], "finished");
    assert_eq!(second["phase"], "cached");
    let log = flow_pipeline::event::log::read(&world.last_run().events()).unwrap();
    let waited = log.iter().any(|event| match &event.what {
        Event::StageWaiting { holder, .. } => holder.starts_with("run "),
        _ => false,
    });
    assert!(waited, "{log:?}");
}

/// A stage that hangs and hears nothing is asked, then killed with its children, and told apart from one that was killed.
fn a_stage_that_hangs_is_killed_at_its_timeout() {
    let world = World::new("deaf", 100_000, ", resources: { timeout: 300ms, time: 1h, retries: { attempts: 3 } }");
    let clock = Instant::now();
    let stage = World::end(world.start());
    let took = clock.elapsed();
    assert!(took > GRACE && took < GRACE * 4, "{took:?}");
    assert_eq!(stage["error"]["message"], "it ran longer than its `resources.timeout` of 300ms allows");
    assert!(stage["error"]["help"].as_str().unwrap().contains("raise the limit"), "{stage}");
    wait("the end of the stage and its child", || world.pids().iter().all(|pid| is_gone(*pid)).then_some(()));
}

/// Ctrl-C once asks, twice ends at once what does not hear.
fn the_second_interrupt_ends_it_at_once() {
    let world = World::new("deaf", 100_000, "");
    let run = world.start();
    world.wait_for_step(3);
    let pids = world.pids();
    kill_process(Pid::from_child(&run), Signal::TERM).unwrap();
    thread::sleep(Duration::from_millis(200));
    assert!(!is_gone(pids[0]), "it has time to save its state");
    let clock = Instant::now();
    kill_process(Pid::from_child(&run), Signal::TERM).unwrap();
    assert_eq!(World::end(run)["phase"], "stopped");
    assert!(clock.elapsed() < GRACE / 2, "{:?}", clock.elapsed());
    wait("the end of the stage and its child", || pids.iter().all(|pid| is_gone(*pid)).then_some(()));
}

fn what_a_stage_leaves_behind_ends_with_it() {
    let world = World::new("leaving", 5, "");
    let run = world.start();
    let pids = wait("both processes", || world.scratch("pids").filter(|text| text.lines().count() == 2));
    assert_eq!(World::end(run)["phase"], "finished");
    for pid in pids.lines() {
        let pid = Pid::from_raw(pid.parse().unwrap()).unwrap();
        wait("the end of what was left behind", || is_gone(pid).then_some(()));
    }
}

/// What a stage says of its store decides, and only where the recipe has `retries`.
fn a_stage_whose_store_stayed_away_is_tried_again() {
    let world = World::new("unlucky", 6, ", resources: { retries: { attempts: 2, backoff: 20ms } }");
    assert_eq!(World::end(world.start())["phase"], "finished");
    assert_eq!(world.retries(), [(2, 2, 0.02)]);
    let world = World::new("unlucky", 6, "");
    let stage = World::end(world.start());
    assert_eq!((&stage["phase"], &stage["error"]["message"]), (&"failed".into(), &"the store did not answer".into()));
    assert_eq!(world.retries(), []);
}

/// A killed stage is tried again and goes on from what it had saved; one that fails by itself is not.
fn what_may_go_well_is_tried_again() {
    const RETRIES: &str = ", resources: { retries: { attempts: 3, backoff: 20ms } }";
    let world = World::new("suicidal", 6, RETRIES);
    let stage = World::end(world.start());
    assert_eq!(stage["phase"], "finished");
    let notes: Vec<&str> = stage["notes"].as_array().unwrap().iter().map(|note| note.as_str().unwrap()).collect();
    assert_eq!(notes, ["from 0", "attempt 2 of 3, since its process was killed (signal 9)", "from 3"]);
    assert_eq!(world.retries(), [(2, 3, 0.02)]);
    // The retries are no part of the key.
    assert_eq!(World::end(World { recipe: World::new("suicidal", 6, "").recipe, ..world }.start())["phase"], "cached");

    let world = World::new("wrong", 6, RETRIES);
    let stage = World::end(world.start());
    assert_eq!(stage["error"]["message"], "it cannot go well");
    assert_eq!(world.retries(), []);
}

fn tests(filter: Option<&str>) -> ExitCode {
    let tests: [(&str, fn()); 12] = [
        ("after_kill_9_the_same_command_goes_on", after_kill_9_the_same_command_goes_on),
        ("a_deaf_orphan_is_killed_with_its_children", a_deaf_orphan_is_killed_with_its_children),
        ("an_orphan_that_was_halted_is_named", an_orphan_that_was_halted_is_named),
        ("an_interrupted_run_saves_its_state", an_interrupted_run_saves_its_state),
        ("a_killed_stage_is_a_failed_stage", a_killed_stage_is_a_failed_stage),
        ("a_stage_that_takes_too_long_saves_its_state", a_stage_that_takes_too_long_saves_its_state),
        ("two_runs_do_not_do_the_same_work", two_runs_do_not_do_the_same_work),
        ("a_stage_that_hangs_is_killed_at_its_timeout", a_stage_that_hangs_is_killed_at_its_timeout),
        ("the_second_interrupt_ends_it_at_once", the_second_interrupt_ends_it_at_once),
        ("what_a_stage_leaves_behind_ends_with_it", what_a_stage_leaves_behind_ends_with_it),
        ("a_stage_whose_store_stayed_away_is_tried_again", a_stage_whose_store_stayed_away_is_tried_again),
        ("what_may_go_well_is_tried_again", what_may_go_well_is_tried_again),
    ];
    // At once: they mostly wait.
    let running: Vec<_> = tests
        .into_iter()
        .filter(|(name, _)| filter.is_none_or(|filter| name.contains(filter)))
        .map(|(name, test)| (name, thread::spawn(test)))
        .collect();
    let mut failed = 0;
    for (name, test) in running {
        let ended = test.join();
        println!("test {name} ... {}", if ended.is_ok() { "ok" } else { "FAILED" });
        failed += u32::from(ended.is_err());
    }
    println!("\ntest result: {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
