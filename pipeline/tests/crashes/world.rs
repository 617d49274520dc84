//! A store, a recipe of quick stages, and what must be true of the store at any moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use flow_cache::Cache;
use serde_json::Value;

/// a, b → c; a → d; e saves its state; all of it → end.
pub const STAGES: &str = "
  a: { kind: make, with: { text: a, files: 3, side: SIDE } }
  b: { kind: make, with: { text: b, files: 2, side: SIDE } }
  c: { kind: make, inputs: { of: [a, b] }, with: { text: c, side: SIDE } }
  d: { kind: make, inputs: { of: [a] }, with: { text: d, side: SIDE } }
  e: { kind: make, with: { text: e, steps: 15, side: SIDE } }
  end: { kind: make, inputs: { of: [c, d, e] }, with: { text: end, files: 2, side: SIDE } }
";

pub struct World {
    dir: tempfile::TempDir,
}

/// Stage → artifact.
pub type Artifacts = BTreeMap<String, String>;

impl World {
    /// In memory where that can be had: what is killed here is processes, and not the machine.
    pub fn new() -> Self {
        let memory = PathBuf::from("/dev/shm");
        let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
        Self { dir: tempfile::Builder::new().prefix("flow-crash-").tempdir_in(folder).unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn store(&self) -> PathBuf {
        self.path("store")
    }

    /// A run of these stages, with these variables.
    pub fn command(&self, stages: &str, variables: &[(&str, &str)]) -> Command {
        let stages = stages.replace("SIDE", &self.path("side").display().to_string());
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("run").arg(self.store()).arg(format!("flow: 1\nname: toy\nstages:\n{stages}"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).envs(variables.iter().copied());
        command
    }

    pub fn start(&self, variables: &[(&str, &str)]) -> Child {
        self.command(STAGES, variables).spawn().unwrap()
    }

    /// The state that a run ends with, and whether it ended as it should.
    pub fn end(run: Child) -> Value {
        let output = run.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}, {:?}", output.status))
    }

    /// Text of a stage → how often it began and how often it came to its end.
    pub fn side(&self) -> BTreeMap<String, (u32, u32)> {
        let mut counts = BTreeMap::new();
        for line in self.lines() {
            let mut words = line.split(' ');
            let (word, text) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
            let (begun, ended) = counts.entry(text).or_insert((0, 0));
            *(if word == "begin" { begun } else { ended }) += 1;
        }
        counts
    }

    pub fn lines(&self) -> Vec<String> {
        let text = fs_err::read_to_string(self.path("side")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// What must be true whatever happened: what is on record is whole and is what it should be. The stages on record.
    pub fn check(&self, expected: &Artifacts, after: &str) -> BTreeSet<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let cache = Cache::open_local(&self.store()).unwrap();
            let report = cache.verify().await.unwrap();
            assert!(report.is_sound() && report.incomplete.is_empty(), "{after}: {report:?}");
            let records = cache.records().await.unwrap();
            for record in &records {
                assert_eq!(expected[&record.stage], record.artifact.to_string(), "{after}: {}", record.stage);
            }
            records.into_iter().map(|record| record.stage).collect()
        })
    }

    /// The same command once more: it must come to the expected artifacts and must not do again what was finished.
    pub fn goes_on(&self, expected: &Artifacts, recorded: &BTreeSet<String>, after: &str) {
        let before = self.side();
        let state = Self::end(self.start(&[]));
        assert_eq!(&artifacts(&state, after), expected, "{after}");
        let now = self.side();
        for stage in recorded {
            assert_eq!(state["stages"][stage]["phase"], "cached", "{after}: {stage} was done again");
            assert_eq!(before.get(stage), now.get(stage), "{after}: {stage} was done again");
        }
        assert_eq!(self.check(expected, after).len(), expected.len());
    }

    /// A run that nobody disturbs.
    pub fn undisturbed() -> Artifacts {
        artifacts(&Self::end(Self::new().start(&[])), "an undisturbed run")
    }
}

/// The artifacts of a run that must have ended well.
pub fn artifacts(state: &Value, after: &str) -> Artifacts {
    assert_eq!(state["outcome"], "done", "{after}: {state:#}");
    let stages = state["stages"].as_object().unwrap().iter();
    stages.map(|(id, stage)| (id.clone(), stage["artifact"].as_str().unwrap().to_owned())).collect()
}
