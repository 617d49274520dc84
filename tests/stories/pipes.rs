//! Pipes where files belong: to open one would wait for somebody at its other end, for ever. In the store each is damage like any
//! other, elsewhere it is told, and nothing hangs.

use std::{fs, path::Path, process::Command};

use super::environment::{TestEnvironment, walk};

fn mkfifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// Every file below a folder becomes a pipe; what is no folder is one then.
fn become_pipes(path: &Path) {
    if !path.is_dir() {
        let _ = fs::remove_file(path);
        return mkfifo(path);
    }
    let files = walk(path);
    assert!(!files.is_empty(), "{}", path.display());
    for file in files {
        fs::remove_file(&file).unwrap();
        mkfifo(&file);
    }
}

#[test]
fn a_store_whose_files_became_pipes_is_used_and_mended() {
    for part in ["v1/latest", "v1/hits", "v1/memo", "v1/records", "v1/trees", "v1/blobs", "v1/leases", "memo"] {
        let environment = TestEnvironment::finished();
        let _ = environment.run(&["corpus"]).succeeded();
        become_pipes(&environment.path(".flow").join(part));
        for _ in 0..2 {
            let code = environment.soon(&["run", "recipe.yaml", "corpus", "--threads", "2"]);
            assert_eq!(code, Some(0), "{part}: {}", environment.read("stderr"));
        }
        let shown = environment.read("stderr");
        assert_eq!(shown.matches("Cached").count(), 4, "{part} is mended by the first run: {shown}");
        assert_eq!(environment.soon(&["plan", "recipe.yaml"]), Some(0), "{part}: {}", environment.read("stderr"));
        for command in [&["cache", "verify"][..], &["cache", "ls"], &["cache", "du"], &["cache", "gc", "--yes"]] {
            let code = environment.soon(command);
            assert!(matches!(code, Some(0 | 1)), "{part}, {command:?}: {code:?} {}", environment.read("stderr"));
        }
    }
}

#[test]
fn a_run_whose_files_became_pipes_is_told_and_blocks_no_other() {
    let environment = TestEnvironment::finished();
    let run = fs::read_dir(environment.path(".flow/runs")).unwrap().next().unwrap().unwrap();
    for part in ["logs", "process.json", "plan.json", "events.jsonl"] {
        become_pipes(&run.path().join(part));
        for command in [
            &["logs", "corpus[sea]"][..],
            &["status"],
            &["runs"],
            &["why", "corpus[sea]"],
            &["cache", "gc"],
            &["run", "recipe.yaml", "corpus", "--threads", "2"],
        ] {
            let ended = environment.soon(command);
            let told = environment.read("stderr");
            assert!(matches!(ended, Some(0..=2)), "{part}, {command:?}: {ended:?} {told}");
            if part == "logs" && command[0] == "logs" {
                assert!(
                    ended == Some(1) && told.contains("corpus.sea.log: it is no file but a pipe"),
                    "{ended:?} {told}"
                );
            }
            if command[0] == "run" {
                assert_eq!(ended, Some(0), "{part}: {told}");
            }
        }
    }
}

#[test]
fn pins_and_marks_that_became_pipes() {
    let environment = TestEnvironment::finished();
    let _ = environment.flow(&["cache", "pin", "tokens[sea]", "--as", "mine"]).succeeded();
    become_pipes(&environment.path(".flow/v1/pins"));
    assert_eq!(environment.soon(&["cache", "gc", "--yes"]), Some(1));
    let told = environment.read("stderr");
    assert!(told.contains("pins/mine") && told.contains("it is no file but a pipe"), "{told}");
    fs::create_dir_all(environment.path(".flow/v1/unsynced")).unwrap();
    mkfifo(&environment.path(".flow/v1/unsynced/0123456789abcdef"));
    let code = environment.soon(&["run", "recipe.yaml", "corpus", "--threads", "2"]);
    assert_eq!(code, Some(0), "{}", environment.read("stderr"));
    assert!(!environment.path(".flow/v1/unsynced/0123456789abcdef").exists());
}

#[test]
fn the_lock_of_a_work_dir_that_is_a_pipe_fails_its_stage() {
    let environment = TestEnvironment::finished();
    let key = environment.planned("corpus[sea]", &[])["verdict"]["key"].as_str().unwrap().to_owned();
    let _ = environment.flow(&["cache", "forget", "corpus[sea]"]).succeeded();
    fs::create_dir_all(environment.path(".flow/v1/work").join(&key)).unwrap();
    let lock = environment.path(".flow/v1/work").join(&key).join("lock");
    mkfifo(&lock);
    assert_eq!(environment.soon(&["run", "recipe.yaml", "corpus[sea]"]), Some(1));
    let told = environment.read("stderr");
    assert!(told.contains("lock: it is no file but a pipe; move it away"), "{told}");
    fs::remove_file(lock).unwrap();
    assert_eq!(environment.soon(&["run", "recipe.yaml", "corpus[sea]"]), Some(0), "{}", environment.read("stderr"));
}

/// A recipe is read again and again: by the plan, by the report, by the next run.
#[test]
fn a_recipe_that_is_a_pipe_is_refused() {
    let environment = TestEnvironment::fresh();
    mkfifo(&environment.path("pipe.yaml"));
    environment.write("with-pipe.yaml", "flow: 1\nname: x\nstages: !include pipe.yaml\n");
    for recipe in ["pipe.yaml", "with-pipe.yaml"] {
        assert_eq!(environment.soon(&["plan", recipe]), Some(2));
        assert!(environment.read("stderr").contains("it is not a file"), "{}", environment.read("stderr"));
    }
}
