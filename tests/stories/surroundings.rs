//! What surrounds flow is not always kind: a disk behind standard output that is full, a terminal that draws nothing, names with
//! control characters, files that never end, names that were mistyped.

use std::{
    fs,
    process::{Command, Stdio},
};

use super::environment::{TestEnvironment, walk};

fn mkfifo(path: &std::path::Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn output_that_cannot_be_written_is_no_success() {
    let environment = TestEnvironment::finished();
    let _ = environment.flow(&["export", "recipe.yaml", "flexolmo", "--out", "all"]).succeeded();
    environment.write("lines", "{\"tokens\": [1, 2]}\n");
    for arguments in [
        "--help",
        "run --help",
        "--version",
        "schema",
        "kinds",
        "completions bash",
        "plan recipe.yaml",
        "graph recipe.yaml",
        "runs",
        "status --json",
        "cache verify",
        "cache ls --json",
        "run recipe.yaml --json",
        "import all --score lines",
        "generate all --prompt the --max-tokens 2",
    ] {
        let run = |out: Stdio| {
            let flow = env!("CARGO_BIN_EXE_flow");
            Command::new(flow)
                .args(arguments.split(' '))
                .current_dir(environment.path(""))
                .stdout(out)
                .output()
                .unwrap()
        };
        let full = run(fs::OpenOptions::new().write(true).open("/dev/full").unwrap().into());
        let said = String::from_utf8(full.stderr).unwrap();
        assert_eq!(full.status.code(), Some(1), "{arguments}: {said}");
        assert!(said.contains("could not write to standard output: No space left"), "{arguments}: {said}");
        // A reader that goes away wants no more, which is no error.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let gone = run(writer.into());
        assert_eq!(gone.status.code(), Some(0), "{arguments}: {}", String::from_utf8_lossy(&gone.stderr));
    }
}

#[test]
fn a_terminal_that_draws_nothing_gets_lines() {
    if Command::new("script").arg("--version").output().is_err() {
        println!("skipped: there is no `script` to make a terminal with");
        return;
    }
    let environment = TestEnvironment::finished();
    for surroundings in ["env TERM=dumb", "env -u TERM"] {
        let command = format!("{surroundings} {} run recipe.yaml --threads 2", env!("CARGO_BIN_EXE_flow"));
        let mut shell = Command::new("script");
        shell.args(["-qec", &command, "/dev/null"]).current_dir(environment.path("")).stdin(Stdio::null());
        let shown = String::from_utf8(shell.output().unwrap().stdout).unwrap();
        assert!(shown.contains("Cached") && shown.contains("31 cached in"), "{surroundings}: {shown:?}");
    }
    // A run that goes on, as far as can be seen: its process is on another machine, and its end is not told yet.
    let run = fs::read_dir(environment.path(".flow/runs")).unwrap().map(|run| run.unwrap().path()).max().unwrap();
    let events = fs::read_to_string(run.join("events.jsonl")).unwrap();
    let told: Vec<&str> = events.lines().filter(|line| !line.contains("run-finished")).collect();
    fs::write(run.join("events.jsonl"), told.join("\n") + "\n").unwrap();
    let process = fs::read_to_string(run.join("process.json")).unwrap();
    let mut process: serde_json::Value = serde_json::from_str(&process).unwrap();
    process["host"] = "elsewhere".into();
    fs::write(run.join("process.json"), process.to_string()).unwrap();
    let command = format!("env TERM=dumb timeout 3 {} status -f", env!("CARGO_BIN_EXE_flow"));
    let mut shell = Command::new("script");
    shell.args(["-qec", &command, "/dev/null"]).current_dir(environment.path("")).stdin(Stdio::null());
    let shown = String::from_utf8(shell.output().unwrap().stdout).unwrap();
    assert!(!shown.contains('\u{1b}'), "{shown:?}");
}

#[test]
fn colours_are_decided_for_all_commands_and_their_help_alike() {
    let environment = TestEnvironment::finished();
    for (variables, coloured) in [
        (&[("NO_COLOR", ""), ("CLICOLOR_FORCE", "1")][..], true),
        (&[("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")], false),
        (&[("NO_COLOR", ""), ("CLICOLOR_FORCE", "0")], false),
        (&[("NO_COLOR", "")], false),
    ] {
        for arguments in [&["--help"][..], &["rnu"], &["status"], &["plan", "absent.yaml"], &["cache", "verify"]] {
            let ended = environment.flow_with(variables, arguments);
            let has = ended.stdout.contains('\u{1b}') || ended.stderr.contains('\u{1b}');
            // Not all have something to colour.
            assert!(has == coloured || !has && arguments == ["cache", "verify"], "{variables:?}: {ended:#?}");
        }
    }
}

#[test]
fn a_command_line_that_is_wrong_is_told_to_programs_too() {
    let environment = TestEnvironment::empty();
    for arguments in [&["--json", "run"][..], &["plan", "--json", "--nonsense"], &["--json", "rnu"]] {
        let ended = environment.flow(arguments).with_code(2);
        let errors = ended.json()["errors"].clone();
        assert!(!errors[0]["message"].as_str().unwrap().is_empty() && errors[0]["help"].is_string(), "{ended:#?}");
        assert!(ended.stderr.contains("error: "), "{ended:#?}");
    }
    assert!(environment.flow(&["--json", "--help"]).succeeded().stdout.contains("Usage"));
}

#[test]
fn names_of_others_move_no_cursor() {
    let environment = TestEnvironment::fresh();
    environment.write("text/sea/\u{1b}]0;title\u{7}.txt", b"\xff");
    environment.write("text/sea/\u{1b}[31mred.txt", b"\xff");
    environment.write("odd.yaml", "flow: 1\nname: x\nvars: { \"\\e]0;title\\a\\e[2J\": 1 }\nstages: {}\n");
    environment.write("red.yaml", "flow: 1\nname: x\nvars: { \"\\e[31mred\\e[8mhidden\": 1 }\nstages: {}\n");
    for arguments in [
        &["plan", "odd.yaml"][..],
        &["plan", "red.yaml"],
        &["plan", "\u{1b}[31mred.yaml"],
        &["status", "\u{1b}[31mred"],
        &["run", "recipe.yaml", "corpus[sea]"],
        &["plan", "\u{1b}[2J.yaml"],
        &["logs", "corpus[sea]"],
    ] {
        let ended = environment.flow(arguments);
        let shown = format!("{}{}", ended.stdout, ended.stderr);
        assert!(!shown.contains('\u{1b}') && !shown.contains('\u{7}'), "{arguments:?}: {shown:?}");
    }
}

#[test]
fn files_that_never_end_are_not_begun() {
    let environment = TestEnvironment::finished();
    mkfifo(&environment.path("pipe"));
    for job in ["pipe", "/dev/zero"] {
        let ended = environment.flow(&["exec", job]).with_code(1);
        assert!(ended.stderr.contains("it is no file"), "{ended:#?}");
    }
    for (file, target) in [("config.json", "/dev/zero"), ("tokenizer.json", "/dev/zero"), ("model.safetensors", "pipe")]
    {
        let folder = format!("with-{file}");
        let _ = environment.flow(&["export", "recipe.yaml", "public", "--out", &folder]).succeeded();
        let broken = environment.path(&folder).join(file);
        fs::remove_file(&broken).unwrap();
        if target == "pipe" {
            mkfifo(&broken);
        } else {
            std::os::unix::fs::symlink(target, &broken).unwrap();
        }
        for command in ["import", "generate"] {
            let ended = environment.flow(&[command, &folder, "--threads", "2"]).with_code(2);
            assert!(ended.stderr.contains(file), "{ended:#?}");
        }
    }
    let _ = environment.flow(&["export", "recipe.yaml", "public", "--out", "model"]).succeeded();
    let tensors = environment.path("model/model.safetensors");
    let whole = fs::read(&tensors).unwrap();
    let mut bytes = whole.clone();
    let end = bytes.len();
    bytes[end - 64..].fill(0xff);
    fs::write(&tensors, bytes).unwrap();
    for command in ["import", "generate"] {
        let ended = environment.flow(&[command, "model"]).with_code(2);
        assert!(ended.stderr.contains("`model.norm.weight`"), "{ended:#?}");
    }
    fs::write(&tensors, whole).unwrap();
    environment.write("lines", b"{\"text\": \"\xff\"}\n");
    let ended = environment.flow(&["import", "model", "--score", "lines"]).with_code(2);
    assert!(ended.stderr.contains("line 1 of lines"), "{ended:#?}");
    for text in ["{}", ""] {
        environment.write("model/tokenizer.json", text);
        let ended = environment.flow(&["import", "model"]).with_code(2);
        assert!(ended.stderr.contains("tokenizer.json"), "{ended:#?}");
    }
}

#[test]
fn killed_exports_leave_nothing_for_ever() {
    let environment = TestEnvironment::finished();
    let run = fs::read_dir(environment.path(".flow/runs")).unwrap().next().unwrap().unwrap();
    // The process of a run that has ended: one that is gone, and known to be.
    let dead = fs::read_to_string(run.path().join("process.json")).unwrap();
    environment.write(".all.4000000.partial/process.json", &dead);
    environment.write(".all.4000000.partial/model/half", "half");
    environment.write(".all.4000001.partial/model/whose", "of nobody knows whom");
    environment.write(".flow/v1/tmp/laid-out-4000000/artifact/half", "half");
    let du = environment.flow(&["cache", "du", "--json"]).succeeded().json();
    assert_eq!(du["temporary_bytes"], 4);
    let _ = environment.flow(&["export", "recipe.yaml", "public", "--out", "all"]).succeeded();
    assert!(!environment.path(".all.4000000.partial").exists());
    assert!(environment.path(".all.4000001.partial").exists());
    assert!(!environment.path("all/process.json").exists());
    let _ = environment.flow(&["cache", "gc", "--grace", "0s", "--yes"]).succeeded();
    assert_eq!(walk(&environment.path(".flow/v1/tmp")), Vec::<std::path::PathBuf>::new());
    assert!(!environment.path(".flow/exports").exists());
}

#[test]
fn a_store_of_a_mistyped_name_is_not_made() {
    let environment = TestEnvironment::finished();
    let pulled = environment.flow(&["cache", "pull", "--remote", "typo"]).with_code(2);
    assert!(pulled.stderr.contains("there is no store in typo"), "{pulled:#?}");
    let pushed = environment.flow(&["cache", "push", "--store", "typo", "--remote", "shared"]).with_code(2);
    assert!(pushed.stderr.contains("there is no store in typo"), "{pushed:#?}");
    assert!(!environment.path("typo").exists());
}

#[test]
fn a_shared_store_gets_what_was_cached_before_it_was_named() {
    let environment = TestEnvironment::finished();
    let _ = environment.run(&["--remote", "shared"]).succeeded();
    assert_eq!(environment.records("shared"), environment.records(".flow"));
    let other = environment.flow(&["plan", "recipe.yaml", "--store", "other", "--remote", "shared", "--json"]);
    let stages = other.succeeded().json()["stages"].clone();
    assert!(stages.as_array().unwrap().iter().all(|stage| stage["verdict"]["verdict"] == "cached"), "{stages:#}");
}

#[test]
fn a_record_can_be_taken_away() {
    let environment = TestEnvironment::finished();
    let _ = environment.flow(&["cache", "pin", "tokens[sea]", "--as", "mine"]).succeeded();
    let pinned = environment.flow(&["cache", "forget", "tokens[sea]"]).with_code(2);
    assert!(pinned.stderr.contains("is pinned as `mine`"), "{pinned:#?}");
    let _ = environment.flow(&["cache", "forget", "tokens[stars]"]).succeeded();
    let _ = environment.flow(&["cache", "forget", "nobody"]).with_code(2);
    assert_eq!(environment.runs_again(), super::environment::names(["tokens[stars]"]));
}
