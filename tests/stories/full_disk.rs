//! A disk that is full is told in words that help, nothing half-written is taken for whole, and with more room the same command
//! goes on.

use std::{path::Path, process::Command};

use super::{
    corpus::DOMAINS,
    environment::{TestEnvironment, stages},
};

/// A file system in memory of a few KiB. It takes root to have one.
struct Disk<'a> {
    at: &'a Path,
}

impl<'a> Disk<'a> {
    /// Nothing where none can be mounted, which is said.
    fn mount_or_say(at: &'a Path, kib: u32) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        match mount(&format!("size={kib}k"), at) {
            Ok(()) => Some(Self { at }),
            Err(reason) => {
                println!("skipped: no file system can be mounted here ({reason})");
                None
            }
        }
    }

    fn seal(&self) {
        mount("remount,ro", self.at).unwrap();
    }

    fn resize(&self, kib: u32) {
        mount(&format!("remount,size={kib}k"), self.at).unwrap();
    }
}

fn mount(options: &str, at: &Path) -> Result<(), String> {
    let output = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        // What stays mounted keeps the test's folder, no more.
        let _ = Command::new("umount").arg(self.at).status();
    }
}

#[test]
fn with_more_room_the_same_command_goes_on() {
    let environment = TestEnvironment::fresh();
    let store = environment.path("store");
    let Some(disk) = Disk::mount_or_say(&store, 64) else { return };
    let (mut failures, mut summaries, mut complaints) = (0, 0, Vec::new());
    // It runs full in other places each time: at the corpora, the tokens, the weights, the merged model.
    for kib in [64, 192, 256, 384, 512, 768, 1536, 2560, 3328, 4096] {
        disk.resize(kib);
        let ended = environment.flow(&["run", "recipe.yaml", "--threads", "2", "--store", "store"]);
        if ended.code == Some(0) {
            break;
        }
        failures += 1;
        summaries += u32::from(ended.stderr.contains("they need what failed") && ended.stderr.contains(" not reached"));
        let ended = ended.with_code(1);
        for (is_so, complaint) in [
            (ended.stderr.contains("No space left on device"), "nobody says that the disk is full"),
            (ended.stderr.contains("`--store`"), "nobody says what to do"),
            (ended.stderr.contains("[folder]/store/"), "nobody says which disk"),
            (!ended.stderr.contains("code 101"), "a stage panicked"),
            (!ended.stderr.contains("Running") || ended.stderr.contains(" not "), "nobody says what was not reached"),
        ] {
            if !is_so {
                complaints.push(format!("with {kib} KiB {complaint}: {}", ended.stderr));
            }
        }
    }
    assert!(failures >= 3, "the disk was never full");
    assert!(summaries > 0, "no run said what it did not reach");
    disk.resize(64 * 1024);
    let ended = environment.run(&["--store", "store"]).succeeded();
    assert!(!ended.stages("stage-cached").is_empty(), "nothing was kept of what had been finished");

    // The same bytes as where there was always room.
    let finished = TestEnvironment::finished();
    assert_eq!(environment.artifacts("report/tiny"), finished.artifacts("report/tiny"));
    assert_eq!(environment.records("store"), stages(&DOMAINS).len());
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

/// The disk of the run's log is another one than that of the store, and somebody fills it while the run goes on.
#[test]
fn a_run_that_cannot_write_its_log_ends_with_its_summary() {
    let environment = TestEnvironment::fresh();
    let runs = environment.path("store/runs");
    let Some(_disk) = Disk::mount_or_say(&runs, 4096) else { return };
    let mut running = environment.start_shown(&["--store", "store"]);
    running.wait_until("a stage has ended", || environment.read("stderr").contains("Finished"));
    let filler = runs.join("filler");
    std::fs::write(&filler, vec![0; 8 << 20]).unwrap_err();
    assert_eq!(running.wait(), Some(1), "{}", environment.read("stderr"));
    let shown = environment.read("stderr");
    for words in
        [" finished", " not begun", "the log of the run", "No space left on device", "`--store`", "/store/ is full"]
    {
        assert!(shown.contains(words), "`{words}` is not in {shown}");
    }
    assert!(!shown.contains("panicked") && !shown.contains("Report"), "{shown}");
    let finished = shown.lines().filter(|line| line.trim_start().starts_with("Finished")).count();
    assert_eq!(environment.records("store"), finished, "{shown}");

    std::fs::remove_file(filler).unwrap();
    let ended = environment.run(&["--store", "store"]).succeeded();
    assert_eq!(ended.stages("stage-cached").len(), finished);
}

#[test]
fn a_store_that_cannot_be_written_to_is_told_and_nothing_begins() {
    let environment = TestEnvironment::fresh();
    let store = environment.path("store");
    let Some(disk) = Disk::mount_or_say(&store, 64) else { return };
    disk.seal();
    let ended = environment.flow(&["run", "recipe.yaml", "--store", "store"]).with_code(2);
    assert!(ended.stderr.contains("Read-only file system") && ended.stderr.contains("`--store`"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("Running"), "{}", ended.stderr);
}
