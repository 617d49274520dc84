//! A folder of its own for a test, and flow run in it with nothing of the surroundings: no variable that flow reads, no colour,
//! no terminal.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use super::{
    corpus::{self, DOMAINS},
    process::Running,
};

/// The recipe of most stories: all kinds of stages, three domains.
pub const TINY: &str = include_str!("tiny.yaml");

/// Stages of [`TINY`] that there is one of for the public text and for each domain.
const FOR_MEMBERS: [&str; 3] = ["corpus", "tokens", "embed"];
/// Stages of [`TINY`] that there is one of for each domain.
const FOR_DOMAINS: [&str; 3] = ["expert", "individual", "optout"];
/// The others.
const SINGLE: [&str; 10] = [
    "tokenizer",
    "public",
    "flexolmo",
    "soup",
    "btm",
    "eval-public",
    "eval-soup",
    "eval-btm",
    "eval-flexolmo",
    "report",
];

/// All stages of [`TINY`] with these domains.
pub fn stages(domains: &[&str]) -> BTreeSet<String> {
    let for_domains = domains.iter().flat_map(|domain| FOR_DOMAINS.map(|stage| format!("{stage}[{domain}]")));
    let members = ["public"].iter().chain(domains);
    let for_members = members.flat_map(|member| FOR_MEMBERS.map(|stage| format!("{stage}[{member}]")));
    for_domains.chain(for_members).chain(SINGLE.map(str::to_owned)).collect()
}

/// Names, to compare with what ran.
pub fn names<S: Into<String>>(names: impl IntoIterator<Item = S>) -> BTreeSet<String> {
    names.into_iter().map(Into::into).collect()
}

/// A folder in which flow runs.
pub struct TestEnvironment {
    folder: TempDir,
}

impl TestEnvironment {
    /// An empty folder.
    pub fn empty() -> Self {
        Self { folder: tempfile::Builder::new().prefix("flow-story-").tempdir().unwrap() }
    }

    /// A folder with the tiny recipe and its text.
    pub fn fresh() -> Self {
        let environment = Self::empty();
        environment.recipe(TINY);
        for member in ["public"].iter().chain(&DOMAINS) {
            corpus::write(member, &environment.path("text"));
        }
        environment
    }

    /// The same after one run, which is done once for all tests: its store and report are copied to here.
    pub fn finished() -> Self {
        let environment = Self::fresh();
        copy(finished_once(), environment.folder.path());
        environment
    }

    /// A path in the folder.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.folder.path().join(relative)
    }

    /// Writes a file, and the folders that it is in.
    pub fn write(&self, relative: &str, content: impl AsRef<[u8]>) {
        let file = self.path(relative);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
    }

    /// Reads a file.
    pub fn read(&self, relative: &str) -> String {
        let file = self.path(relative);
        fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    }

    /// Writes the recipe.
    pub fn recipe(&self, text: &str) {
        self.write("recipe.yaml", text);
    }

    /// Changes the recipe: `old`, which is there once, becomes `new`.
    pub fn edit(&self, old: &str, new: &str) {
        let text = self.read("recipe.yaml");
        assert_eq!(text.matches(old).count(), 1, "`{old}` is not once in the recipe");
        self.recipe(&text.replace(old, new));
    }

    /// The program with its surroundings cleared; two threads, so that tests side by side do not wait for each other for long.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flow"));
        command.args(args).current_dir(self.folder.path()).stdin(Stdio::null()).env_clear().env("NO_COLOR", "1");
        for name in ["PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        command
    }

    /// Runs flow to its end.
    pub fn flow(&self, args: &[&str]) -> Ended {
        self.flow_with(&[], args)
    }

    /// Runs flow to its end, with these variables in its environment.
    pub fn flow_with(&self, variables: &[(&str, &str)], args: &[&str]) -> Ended {
        let output = self.command(args).envs(variables.iter().copied()).output().unwrap();
        let folder = self.folder.path().display().to_string();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("flow writes UTF-8").replace(&folder, "[folder]");
        let ended = Ended {
            args: args.join(" "),
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        };
        assert!(!ended.stderr.contains("panicked"), "{ended:#?}");
        ended
    }

    /// Runs flow, which must end soon; its exit code.
    pub fn soon(&self, args: &[&str]) -> Option<i32> {
        let output = |name: &str| fs::File::create(self.path(name)).unwrap();
        let mut running = Running::spawn(self.command(args).stdout(output("stdout")).stderr(output("stderr")));
        let code = running.wait_at_most(Duration::from_mins(1));
        assert!(!self.read("stderr").contains("panicked"), "{args:?}: {}", self.read("stderr"));
        code
    }

    /// Runs flow to its end with an output that nobody reads; its exit code.
    pub fn unheard(&self, output: &str, args: &[&str]) -> Option<i32> {
        let mut command = self.command(args);
        match output {
            "stdout" => command.stdout(Stdio::piped()).stderr(Stdio::null()),
            _ => command.stdout(Stdio::null()).stderr(Stdio::piped()),
        };
        let mut child = command.spawn().unwrap();
        drop((child.stdout.take(), child.stderr.take()));
        child.wait().unwrap().code()
    }

    /// `flow run recipe.yaml --json` and more.
    pub fn run(&self, more: &[&str]) -> Ended {
        self.flow(&[&["run", "recipe.yaml", "--json", "--threads", "2"], more].concat())
    }

    /// Starts `flow run recipe.yaml --json` and more.
    pub fn start(&self, more: &[&str]) -> Running {
        self.start_shown(&[&["--json"], more].concat())
    }

    /// Starts `flow run recipe.yaml` and more, as a person sees it: in the files `stdout` and `stderr`.
    pub fn start_shown(&self, more: &[&str]) -> Running {
        self.start_with(&[], more)
    }

    /// The same, with these variables in its environment.
    pub fn start_with(&self, variables: &[(&str, &str)], more: &[&str]) -> Running {
        let output = |name: &str| fs::File::create(self.path(name)).unwrap();
        let mut command = self.command(&[&["run", "recipe.yaml", "--threads", "2"], more].concat());
        command.envs(variables.iter().copied());
        Running::spawn(command.stdout(output("stdout")).stderr(output("stderr")))
    }

    /// What is not made again after a change: `flow run` must end well, and the stages that it started are returned.
    pub fn runs_again(&self) -> BTreeSet<String> {
        let ended = self.run(&[]).succeeded();
        let (started, cached) = (ended.stages("stage-started"), ended.stages("stage-cached"));
        assert!(started.is_disjoint(&cached), "{ended:#?}");
        assert_eq!(started, ended.stages("stage-finished"));
        started
    }

    /// The last key-to-artifact verdict of `flow plan` about a stage.
    pub fn planned(&self, stage: &str, more: &[&str]) -> Value {
        let plan = self.flow(&[&["plan", "recipe.yaml", "--json"], more].concat()).succeeded().json();
        let stages = plan["stages"].as_array().unwrap();
        stages
            .iter()
            .find(|planned| planned["stage"] == stage)
            .unwrap_or_else(|| panic!("{stage} is not planned"))
            .clone()
    }

    /// Stage → digest of its artifact, from the provenance of a report.
    pub fn artifacts(&self, report: &str) -> BTreeMap<String, String> {
        let provenance: Value = serde_json::from_str(&self.read(&format!("{report}/provenance.json"))).unwrap();
        let graph = provenance["@graph"].as_array().unwrap();
        let made = graph.iter().filter(|entity| entity["@type"] == "CreateAction");
        made.filter_map(|action| {
            let (name, artifact) = (action["name"].as_str()?, action["result"]["@id"].as_str()?);
            Some((name.to_owned(), artifact.strip_prefix("#artifact/")?.to_owned()))
        })
        .collect()
    }

    /// File → content, of a folder.
    pub fn files(&self, relative: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        let folder = self.path(relative);
        let found = walk(&folder).into_iter();
        found.map(|file| (file.strip_prefix(&folder).unwrap().to_owned(), fs::read(&file).unwrap())).collect()
    }

    /// Records of a store: one for each stage that ended well, ever.
    pub fn records(&self, store: &str) -> usize {
        walk(&self.path(store).join("v1/records")).len()
    }
}

/// How a run of the program ended.
#[derive(Debug)]
#[must_use]
pub struct Ended {
    args: String,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// It must have ended with this code.
    pub fn with_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// It must have ended well.
    pub fn succeeded(self) -> Self {
        self.with_code(0)
    }

    /// Command line, code and output, with what differs from run to run and from machine to machine taken out.
    pub fn snapshot(&self) -> String {
        let Self { args, code, stdout, stderr } = self;
        let mut text = format!("flow {args}\nexit {}\n", code.unwrap_or(-1));
        for (name, output) in [("stdout", stdout), ("stderr", stderr)] {
            if !output.is_empty() {
                let output = normalised(output.trim_end());
                writeln!(text, "--- {name}\n{output}").unwrap();
            }
        }
        text
    }

    /// Standard output as one JSON value.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }

    /// Standard output as JSON, one value a line.
    pub fn lines(&self) -> Vec<Value> {
        let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        self.stdout.lines().map(parse).collect()
    }

    /// The events of one name.
    pub fn events(&self, name: &str) -> Vec<Value> {
        self.lines().into_iter().map(|line| line["what"].clone()).filter(|what| what["event"] == name).collect()
    }

    /// The stages that an event of this name is about.
    pub fn stages(&self, event: &str) -> BTreeSet<String> {
        names(self.events(event).iter().map(|event| event["stage"].as_str().unwrap()))
    }
}

/// Digests, times and ids of runs by their names.
fn normalised(text: &str) -> String {
    let mut out = String::new();
    for part in text.split_inclusive(|c: char| !(c.is_ascii_alphanumeric() || "-:.".contains(c))) {
        let word = part.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
        let hex = word.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
        let digits = word.chars().filter(char::is_ascii_digit).count();
        let name = match word.len() {
            12 | 64 if hex => "[digest]",
            15 if digits == 14 => "[run]",
            20.. if digits >= 14 && word.ends_with('Z') => "[time]",
            _ => word,
        };
        out += name;
        out += &part[word.len()..];
    }
    out
}

/// One run of the tiny recipe for all tests of this process, below cargo's folder for such things; what processes that are gone
/// left there is removed.
fn finished_once() -> &'static Path {
    static ONCE: OnceLock<PathBuf> = OnceLock::new();
    ONCE.get_or_init(|| {
        let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("finished");
        fs::create_dir_all(&all).unwrap();
        for old in fs::read_dir(&all).unwrap().map(|entry| entry.unwrap()) {
            if !Path::new("/proc").join(old.file_name()).exists() {
                // Another process may be doing the same.
                let _ = fs::remove_dir_all(old.path());
            }
        }
        let folder = all.join(std::process::id().to_string());
        let environment = TestEnvironment::fresh();
        let started = environment.run(&[]).succeeded().stages("stage-finished");
        assert_eq!(started, stages(&DOMAINS));
        for part in [".flow", "report"] {
            copy(&environment.path(part), &folder.join(part));
        }
        folder
    })
}

/// Copies what is in a folder.
fn copy(from: &Path, to: &Path) {
    for file in walk(from) {
        let copied = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(copied.parent().unwrap()).unwrap();
        fs::copy(&file, &copied).unwrap();
    }
}

/// The variables with which a program takes what answers at `endpoint` for S3.
pub fn s3_at(endpoint: &str) -> [(&str, &str); 5] {
    [
        ("AWS_ENDPOINT", endpoint),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_ACCESS_KEY_ID", "a"),
        ("AWS_SECRET_ACCESS_KEY", "b"),
        ("AWS_REGION", "us-east-1"),
    ]
}

/// All files below a folder; none where there is no folder.
pub fn walk(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}
