//! What keeps the house in order (docs/DESIGN.md §2): which crate may look at which, and how files are named and how long they
//! are. Reads what cargo says, not what the manifests seem to say.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// The crates that compute or read columns: the orchestrator must compile without them.
const ENGINES: [&str; 6] = ["burn", "arrow", "parquet", "tokenizers", "cubecl", "candle-core"];
/// Lines that a file may have.
const LINES: usize = 600;
/// Names that name nothing.
const NAMELESS: [&str; 7] = ["utils.rs", "util.rs", "helpers.rs", "helper.rs", "common.rs", "misc.rs", "mod.rs"];

/// Package → the packages that it needs to be built and run: normal dependencies, as they are resolved for this machine.
struct Dependencies(BTreeMap<String, BTreeSet<String>>);

impl Dependencies {
    fn read() -> Self {
        let metadata = metadata();
        let mut names = BTreeMap::new();
        for package in metadata["packages"].as_array().unwrap() {
            names.insert(package["id"].as_str().unwrap(), package["name"].as_str().unwrap());
        }
        let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for node in metadata["resolve"]["nodes"].as_array().unwrap() {
            let normal = node["deps"].as_array().unwrap().iter().filter(|dependency| {
                dependency["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"].is_null())
            });
            let needed = normal.map(|dependency| names[dependency["pkg"].as_str().unwrap()].to_owned());
            all.entry(names[node["id"].as_str().unwrap()].to_owned()).or_default().extend(needed);
        }
        Self(all)
    }

    /// The way from a package to the first of `others` that it needs, however far away; nothing if it needs none.
    fn way(&self, from: &str, others: &[&str]) -> Option<String> {
        let (mut seen, mut open) = (BTreeSet::from([from]), vec![(from, from.to_owned())]);
        while let Some((package, way)) = open.pop() {
            for next in &self.0[package] {
                let way = format!("{way} → {next}");
                if others.iter().any(|other| next == other || next.starts_with(&format!("{other}-"))) {
                    return Some(way);
                }
                if seen.insert(next) {
                    open.push((next, way));
                }
            }
        }
        None
    }

    fn must_not(&self, from: &str, others: &[&str]) {
        assert!(self.0.contains_key(from), "there is no package {from}");
        assert_eq!(self.way(from, others), None, "{from} must do without {}", others.join(", "));
    }
}

/// Only of this machine's platform: packages that only others need are not on the disk.
fn metadata() -> Value {
    let rustc = Command::new("rustc").arg("-vV").output().unwrap();
    let rustc = String::from_utf8(rustc.stdout).unwrap();
    let host = rustc.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--locked", "--format-version", "1", "--filter-platform", host])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn crates_look_one_way() {
    let dependencies = Dependencies::read();
    for orchestrator in ["flow-pipeline", "flow-cache"] {
        dependencies.must_not(orchestrator, &ENGINES);
        dependencies.must_not(orchestrator, &["flow-data", "flow-model", "flow-stages"]);
    }
    dependencies.must_not("flow-cache", &["flow-pipeline"]);
    dependencies.must_not("flow-patience", &["flow-cache", "flow-data", "flow-pipeline"]);
    dependencies.must_not("flow-patience", &ENGINES);
    dependencies.must_not("flow-data", &["burn", "cubecl", "candle-core"]);
    dependencies.must_not("flow-data", &["flow-model"]);
    for engine in ["flow-model", "flow-data"] {
        dependencies.must_not(engine, &["flow-pipeline", "flow-cache", "flow-stages"]);
    }
    // The drawing of DESIGN §2: the command line reaches the engines through `stages` only.
    let direct = &dependencies.0["flow"];
    for engine in ["flow-model", "flow-data", "burn", "arrow", "parquet", "tokenizers"] {
        assert!(!direct.contains(engine), "flow → {engine}");
    }
    // That the walk can find something: the stages do need all of it.
    for engine in ["burn", "arrow", "parquet", "tokenizers", "flow-cache"] {
        assert!(dependencies.way("flow-stages", &[engine]).is_some(), "flow-stages does not need {engine}");
    }
}

/// Who has only built flow has the sources of what it is built of, and of none of the other packages that `Cargo.lock` names: those
/// are for tests, for other features or for other platforms.
#[test]
fn the_sample_corpus_is_of_packages_that_the_build_brings() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--package", "flow", "--edges", "normal,build"])
        .args(["--prefix", "none", "--format", "{p}"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    let brought: BTreeSet<(&str, &str)> =
        tree.lines().filter_map(|line| line.split_once(" v")).map(|(name, rest)| (name, first_word(rest))).collect();
    assert!(brought.len() > 300, "{tree}");
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let lock: Vec<(&str, &str)> = lock
        .split("[[package]]")
        .filter_map(|package| Some((quoted(package, "name = ")?, quoted(package, "version = ")?)))
        .collect();
    for list in ["sample-packages.yaml", "sample-packages-all.yaml"] {
        let text = fs::read_to_string(root().join("recipes").join(list)).unwrap();
        let wanted: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("- ")).collect();
        assert!(wanted.len() > 50, "{list}");
        for package in wanted {
            let (name, version) =
                package.split_once('@').map_or((package, None), |(name, version)| (name, Some(version)));
            let meant: Vec<_> =
                lock.iter().filter(|(n, v)| *n == name && version.is_none_or(|version| version == *v)).collect();
            assert!(!meant.is_empty(), "{list}: Cargo.lock has no {package}");
            for (name, version) in meant {
                assert!(
                    brought.contains(&(*name, *version)),
                    "{list}: `{package}` is {name}@{version} too, which is not built"
                );
            }
        }
    }
}

fn first_word(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or_default()
}

/// What stands between quotes after `key` at the beginning of a line.
fn quoted<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)).map(|value| value.trim_matches('"'))
}

#[test]
fn files_are_short_and_their_names_say_something() {
    let mut files = Vec::new();
    walk(root(), &mut files);
    assert!(files.len() > 100, "only {} files were found", files.len());
    let mut wrong = Vec::new();
    for file in files {
        let name = file.file_name().unwrap().to_str().unwrap();
        if NAMELESS.contains(&name) {
            wrong.push(format!("{}: a name that names nothing", file.display()));
        }
        let lines = fs::read_to_string(&file).unwrap().lines().count();
        if lines >= LINES {
            wrong.push(format!("{}: {lines} lines, {LINES} are too many", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name != "target" && name != "shared" && !name.starts_with('.') {
            walk(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

#[test]
fn the_readme_names_every_kind_of_stage() {
    let Ok(readme) = fs::read_to_string(root().join("README.md")) else {
        println!("skipped: there is no README.md yet");
        return;
    };
    let output = Command::new(env!("CARGO_BIN_EXE_flow")).args(["kinds", "--json"]).output().unwrap();
    let kinds: Value = serde_json::from_slice(&output.stdout).unwrap();
    for kind in kinds.as_array().unwrap() {
        let name = kind["kind"].as_str().unwrap();
        assert!(readme.contains(&format!("`{name}`")), "README.md does not name `{name}`");
    }
}
