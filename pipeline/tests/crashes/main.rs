//! A run of quick stages that is killed at every place and at random moments, that meets a full disk at every write, and that
//! shares its store with fifteen others: nothing is lost, nothing is wrong, nothing is done twice.
//!
//! This program is all of it: `exec --watch-stdin JOB` is a stage's process as `flow exec` is, `run STORE RECIPE` a run as
//! `flow run` is, and without either it is the tests. `FLOW_TEST_SEED` and `FLOW_TEST_KILLS` change what is random.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a test")]

mod full;
mod killed;
mod make;
mod program;
mod together;
mod tree;
mod world;

use std::{path::Path, process::ExitCode, thread, time::Instant};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["exec", "--watch-stdin", job] => program::exec(Path::new(job)),
        ["run", store, recipe] => program::run(Path::new(store), recipe),
        // What `cargo test -- --list` and its kin ask for.
        [.., "--list"] | ["--list", ..] => ExitCode::SUCCESS,
        _ => tests(words.iter().find(|word| !word.starts_with('-')).map(String::as_str)),
    }
}

fn tests(filter: Option<&str>) -> ExitCode {
    let tests: [(&str, fn()); 6] = [
        ("killed_at_every_place", killed::at_every_place),
        ("killed_at_random_moments", killed::at_random_moments),
        ("full_at_every_write", full::at_every_write),
        ("full_at_every_line_of_the_log", full::at_every_line_of_the_log),
        ("sixteen_runs_do_each_stage_once", together::sixteen_runs_do_each_stage_once),
        ("a_killed_holder_is_replaced", together::a_killed_holder_is_replaced),
    ];
    let mut failed = 0;
    for (name, test) in tests.into_iter().filter(|(name, _)| filter.is_none_or(|filter| name.contains(filter))) {
        let begun = Instant::now();
        let ended = thread::spawn(test).join();
        let word = if ended.is_ok() { "ok" } else { "FAILED" };
        println!("test {name} ... {word} in {:.1} s", begun.elapsed().as_secs_f64());
        failed += u32::from(ended.is_err());
    }
    println!("\ntest result: {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
