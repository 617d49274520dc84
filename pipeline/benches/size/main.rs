//! flow at size: recipes of thousands of quick stages, beside ninja over the same graph.
//!
//! `cargo bench -p flow-pipeline --bench size -- [STAGES…]` prints the table; `ninja` on PATH adds its column. Each phase is a
//! process of its own, so that its peak of memory is its own. `exec JOB` is a stage's process, `phase …` one line of the table.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a benchmark: whatever goes wrong ends it"
)]

mod graphs;
mod line;

use std::{
    path::Path,
    process::{Command, ExitCode, Stdio},
    sync::Arc,
    time::Instant,
};

use flow_cache::Cache;
use flow_pipeline::{
    event::state::{Phase, RunState},
    exec,
    executor::{
        Executor,
        local::{GRACE, Local},
    },
    key::Numerics,
    plan::{self, CacheProbe, Plan, Verdict, prepare::Surroundings},
    recipe::{self, LoadOptions, Recipe},
    run::{self, Asked, Capacity, RunFolder, RunOptions, Unchanged},
};
use graphs::{Graph, Shape};
use line::{InProcess, registry};
use serde::{Deserialize, Serialize};

const DEVICE: &str = "cpu";

/// What one phase cost.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Cost {
    seconds: f64,
    /// The peak of memory.
    mib: f64,
    /// Stages that ran, or, in a plan, would run.
    ran: usize,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["exec", "--watch-stdin", job] => {
            let result = exec::exec(Path::new(job), &registry(), exec::stop_flag(true).unwrap()).unwrap();
            return ExitCode::from(u8::from(result.error.is_some()));
        }
        ["phase", what, recipe, store] => {
            println!("{}", serde_json::to_string(&phase(what, Path::new(recipe), Path::new(store))).unwrap());
        }
        _ if words.iter().any(|word| word == "--bench") => {
            let mut counts: Vec<usize> = words.iter().filter_map(|word| word.parse().ok()).collect();
            if counts.is_empty() {
                counts = vec![1_000, 10_000];
            }
            table(&counts);
        }
        // `cargo test --benches` only wants to see that it builds.
        _ => {}
    }
    ExitCode::SUCCESS
}

fn table(counts: &[usize]) {
    println!("| graph | phase | flow, s | peak MiB | stages | ms a stage | ninja, s | flow ÷ ninja |");
    println!("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    // Removed when all is measured: an ext4 without a journal does not use an inode again for minutes, and looks at each such one
    // whenever it makes a file. What one graph leaves behind must not be the next one's.
    let all = tempfile::tempdir().unwrap();
    let folder = |graph: &Graph, what: &str| {
        let folder = all.path().join(format!("{}-{}{what}", graph.shape.name(), graph.count));
        fs_err::create_dir(&folder).unwrap();
        folder
    };
    let mut left = Vec::new();
    for shape in Shape::ALL {
        for &count in counts {
            let graph = Graph { shape, count, edited: None };
            left.push((shape, count, measure(&graph, &folder(&graph, ""))));
        }
    }
    for &count in counts.iter().filter(|count| **count <= 1_000) {
        let graph = Graph { shape: Shape::Layered, count, edited: None };
        let folder = folder(&graph, "-processes");
        fs_err::write(folder.join("recipe.yaml"), graph.recipe()).unwrap();
        let cost = spawn("processes", &folder, "recipe.yaml");
        let ninja = ninja(&graph, &folder.join("ninja"), false);
        row(&graph, "cold, a process a stage", &cost, ninja);
    }
    println!("\n| graph, after its first run | log, bytes a stage | store, files a stage | store, bytes a stage |");
    println!("| --- | ---: | ---: | ---: |");
    for (shape, count, Left { log, files, bytes }) in &left {
        println!("| {} {count} | {log:.0} | {files:.2} | {bytes:.0} |", shape.name());
    }
    // Linear: a stage among more stages leaves no more.
    for (shape, count, here) in &left {
        for (_, _, there) in left.iter().filter(|(other, fewer, _)| other == shape && fewer < count) {
            let grown = |more: f64, less: f64| more > 1.1 * less;
            let any = grown(here.log, there.log) || grown(here.files, there.files) || grown(here.bytes, there.bytes);
            assert!(!any, "{here:?} where fewer stages leave {there:?} each");
        }
    }
}

/// What a run leaves on the disk for each of its stages.
#[derive(Debug, Default)]
struct Left {
    log: f64,
    files: f64,
    bytes: f64,
}

impl Left {
    fn of(store: &Path, stages: usize) -> Self {
        let (mut left, mut folders) = (Self::default(), vec![store.to_owned()]);
        while let Some(folder) = folders.pop() {
            for entry in fs_err::read_dir(folder).unwrap().map(Result::unwrap) {
                let (path, meta) = (entry.path(), entry.metadata().unwrap());
                if meta.is_dir() {
                    folders.push(path);
                } else {
                    left.files += 1.0;
                    left.bytes += meta.len() as f64;
                    if path.ends_with("events.jsonl") {
                        left.log += meta.len() as f64;
                    }
                }
            }
        }
        let each = stages as f64;
        Self { log: left.log / each, files: left.files / each, bytes: left.bytes / each }
    }
}

fn measure(graph: &Graph, folder: &Path) -> Left {
    let edited = Graph { edited: Some(graph.count / 2), ..*graph };
    fs_err::write(folder.join("recipe.yaml"), graph.recipe()).unwrap();
    fs_err::write(folder.join("edited.yaml"), edited.recipe()).unwrap();
    row(graph, "plan, nothing cached", &spawn("plan", folder, "recipe.yaml"), None);
    let cold = spawn("run", folder, "recipe.yaml");
    assert_eq!(cold.ran, graph.count);
    row(graph, "cold, in process", &cold, None);
    let left = Left::of(&folder.join("store"), graph.count);
    // The first run after a cold one still meets what the disk has not written.
    let again: Vec<Cost> = (0..3).map(|_| spawn("run", folder, "recipe.yaml")).collect();
    let again = again.into_iter().min_by(|a, b| a.seconds.total_cmp(&b.seconds)).unwrap();
    assert_eq!(again.ran, 0, "a cached stage ran again");
    let ninja = ninja(graph, &folder.join("ninja"), true);
    row(graph, "again, nothing to do", &again, ninja);
    row(graph, "plan, one stage edited", &spawn("plan", folder, "edited.yaml"), None);
    let cost = spawn("run", folder, "edited.yaml");
    assert_eq!(cost.ran, graph.reached_from(graph.count / 2), "just what depends on the edited stage runs");
    row(graph, "run, one stage edited", &cost, None);
    left
}

fn row(graph: &Graph, phase: &str, cost: &Cost, ninja: Option<f64>) {
    let Cost { seconds, mib, ran } = cost;
    let each = seconds * 1000.0 / (if *ran == 0 { graph.count } else { *ran }) as f64;
    let (peer, ratio) =
        ninja.map_or_else(Default::default, |peer| (format!("{peer:.3}"), format!("{:.2}", seconds / peer)));
    let name = format!("{} {}", graph.shape.name(), graph.count);
    println!("| {name} | {phase} | {seconds:.3} | {mib:.0} | {ran} | {each:.3} | {peer} | {ratio} |");
}

/// Runs a phase in a process of its own.
fn spawn(what: &str, folder: &Path, recipe: &str) -> Cost {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(program);
    command.arg("phase").arg(what).arg(folder.join(recipe)).arg(folder.join("store"));
    let clock = Instant::now();
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    let seconds = clock.elapsed().as_secs_f64();
    assert!(output.status.success(), "{what} failed");
    // From the start of the process to its end, as with ninja.
    Cost { seconds, ..serde_json::from_slice(&output.stdout).unwrap() }
}

/// Seconds that ninja takes over the same graph: from nothing, or with all of it up to date (the best of three).
fn ninja(graph: &Graph, folder: &Path, up_to_date: bool) -> Option<f64> {
    fs_err::create_dir_all(folder).unwrap();
    fs_err::write(folder.join("build.ninja"), graph.ninja()).unwrap();
    let run = || {
        let clock = Instant::now();
        let output = Command::new("ninja").arg("-C").arg(folder).arg("--quiet").output().ok()?;
        output.status.success().then(|| clock.elapsed().as_secs_f64())
    };
    let cold = run()?;
    if up_to_date { (0..3).filter_map(|_| run()).min_by(f64::total_cmp) } else { Some(cold) }
}

fn phase(what: &str, recipe: &Path, store: &Path) -> Cost {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let ran = runtime.block_on(async {
        let cache = Cache::open(store, None).await.unwrap();
        let (program, options) = (std::env::current_exe().unwrap(), LoadOptions::default());
        let asked = Asked { program: &program, recipe, options: &options, stages: &[], device: None };
        if what == "run" && nothing_changed(&asked, &cache).await {
            return 0;
        }
        let (plan, recipe) = planned(recipe, &cache).await;
        match what {
            "plan" => plan.verdicts.iter().filter(|verdict| !matches!(verdict, Verdict::Cached { .. })).count(),
            "run" => {
                let (folder, ran) = started(&plan, &recipe, &cache, Arc::new(InProcess(Arc::new(registry())))).await;
                Unchanged::remember(&asked, &cache, &recipe, &plan, DEVICE, &folder);
                ran
            }
            "processes" => {
                let program = std::env::current_exe().unwrap();
                started(&plan, &recipe, &cache, Arc::new(Local { program, grace: GRACE })).await.1
            }
            other => panic!("no phase {other}"),
        }
    });
    let status = fs_err::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
    Cost { seconds: 0.0, mib: peak.unwrap_or(f64::NAN) / 1024.0, ran }
}

/// As `flow plan` does.
async fn planned(path: &Path, cache: &Cache) -> (Plan, Recipe) {
    let recipe = recipe::load(path, &LoadOptions::default()).unwrap();
    let prepared = looked(cache, |surroundings| plan::prepare(&recipe, &registry(), surroundings, &[])).unwrap();
    let probe = CacheProbe::new(cache, recipe.name.as_str());
    let plan = flow_cache::in_place(plan::plan(prepared, numerics(), &probe, &[])).await.unwrap();
    (plan, recipe)
}

fn numerics() -> Numerics {
    Numerics { backend: "cpu".into(), dtype: "f32".into() }
}

fn looked<T>(cache: &Cache, then: impl FnOnce(&Surroundings<'_>) -> T) -> T {
    let hash = |path: &Path| cache.hash_memo().digest(path).map(|digest| digest.to_string());
    then(&Surroundings { memo: cache.root(), hash: &hash })
}

/// As `flow run` does first, without a terminal.
async fn nothing_changed(asked: &Asked<'_>, cache: &Cache) -> bool {
    let known =
        looked(cache, |surroundings| Unchanged::recall(asked, cache, &registry(), surroundings, &|_| Some(numerics())));
    let Some(known) = known else { return false };
    if !known.is_all_there(cache).await.unwrap() {
        return false;
    }
    let state = known.run(cache, &cache.root().join("runs"), 2, &mut |_, _| {}).unwrap();
    state.is_some_and(|state| state.count(Phase::Cached) == state.stages.len())
}

/// As `flow run` does then; the run, and the stages that ran.
async fn started(plan: &Plan, recipe: &Recipe, cache: &Cache, executor: Arc<dyn Executor>) -> (RunFolder, usize) {
    let folder = RunFolder::create(&cache.root().join("runs")).unwrap();
    folder.freeze(&recipe::resolved_json(recipe), &plan::WrittenPlan::of(plan)).unwrap();
    let options = RunOptions {
        capacity: Capacity { cores: 2, memory: 1 << 30, gpus: 0 },
        device: DEVICE.into(),
        keep_going: true,
        version: "0.0.0".into(),
        recheck: Vec::new(),
    };
    let (_ask, interrupts) = tokio::sync::mpsc::channel(1);
    let mut watcher = |_: &_, _: &RunState| {};
    let state = run::run(plan, cache, executor, &options, &folder, interrupts, &mut watcher).await.unwrap();
    assert_eq!(state.count(Phase::Finished) + state.count(Phase::Cached), plan.stages().len());
    (folder, state.count(Phase::Finished))
}
