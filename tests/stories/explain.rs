//! What a person asks when coming back to a run: which were there, how one stands, what a stage said, why it runs, what is
//! different now.

use std::{
    fs,
    process::{Command, Stdio},
};

use insta::assert_snapshot;
use serde_json::Value;

use super::environment::{Ended, TestEnvironment};

/// The ids of the runs, newest first.
fn runs(environment: &TestEnvironment) -> Vec<String> {
    let runs = environment.flow(&["runs", "--json"]).succeeded().json();
    runs.as_array().unwrap().iter().map(|run| run["run"].as_str().unwrap().to_owned()).collect()
}

/// The line that begins with these words.
fn line<'a>(text: &'a str, words: &str) -> &'a str {
    let begins = |line: &&str| line.split_whitespace().collect::<Vec<_>>().join(" ").starts_with(words);
    text.lines().find(begins).unwrap_or_else(|| panic!("no line begins with `{words}`:\n{text}"))
}

/// How long, where and by which run something was made is another each time.
fn without_making(ended: &Ended) -> String {
    let text = ended.snapshot();
    let lines =
        text.lines().map(|line| if line.starts_with("     made ") { "     made [when, where, how]" } else { line });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn runs_are_listed_newest_first() {
    let environment = TestEnvironment::finished();
    let _ = environment.run(&[]).succeeded();
    environment.write("text/sea/all.jsonl", "no JSON\n");
    let _ = environment.run(&["tokens[sea]"]).with_code(1);

    let listed = environment.flow(&["runs", "--json"]).succeeded().json();
    let fields = ["recipe", "outcome", "stages", "finished", "cached", "failed"];
    let shown: Vec<Vec<String>> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|run| fields.iter().map(|field| run[field].to_string().trim_matches('"').to_owned()).collect())
        .collect();
    let want = [
        ["tiny", "failed", "4", "0", "2", "1"],
        ["tiny", "done", "31", "0", "31", "0"],
        ["tiny", "done", "31", "31", "0", "0"],
    ];
    assert_eq!(shown, want);
    let text = environment.flow(&["runs"]).succeeded().stdout;
    assert_eq!(text.lines().count(), 4, "{text}");
    for (line, id) in text.lines().skip(1).zip(runs(&environment)) {
        assert!(
            line.split_whitespace().eq([id.as_str(), "tiny"].into_iter().chain(line.split_whitespace().skip(2))),
            "{text}"
        );
    }
}

#[test]
fn a_store_in_which_nothing_ran_says_so() {
    let environment = TestEnvironment::fresh();
    let ended = environment.flow(&["runs"]).succeeded();
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("", "there is no run in .flow/runs yet\n"));
    assert_eq!(environment.flow(&["runs", "--json"]).succeeded().json(), Value::Array(Vec::new()));
    for command in [&["status"][..], &["logs", "public"], &["why", "public"], &["diff", "a", "b"]] {
        let ended = environment.flow(command).with_code(2);
        assert!(ended.stderr.contains("there is no run in .flow/runs"), "{ended:#?}");
        assert!(ended.stderr.contains("`flow run RECIPE` makes one"), "{ended:#?}");
    }
    let ended = environment.flow(&["cache", "ls"]).with_code(2);
    assert!(ended.stderr.contains("there is no store in .flow"), "{ended:#?}");
    assert!(!environment.path(".flow").exists(), "who only looks makes no store");
}

#[test]
fn what_is_misspelt_is_set_right() {
    let environment = TestEnvironment::finished();
    let [run] = &runs(&environment)[..] else { panic!("one run") };
    let wrong = format!("{run}-1");
    for (command, message, help) in [
        (&["logs", "corpsu[sea]"][..], "no stage is named `corpsu[sea]`", "did you mean `corpus[sea]`?".to_owned()),
        (&["why", "flexolom"], "no stage is named `flexolom`", "did you mean `flexolmo`?".to_owned()),
        (&["why", "recipe.yaml", "flexolom"], "no stage is named `flexolom`", "did you mean `flexolmo`?".to_owned()),
        (&["cache", "pin", "flexolom"], "no stage is named `flexolom`", "did you mean `flexolmo`?".to_owned()),
        (&["why", "expert"], "`expert` stands for 3 stages", "expert[bread], expert[sea], expert[stars]".to_owned()),
        (&["status", &wrong], &format!("no run is named `{wrong}`"), format!("did you mean `{run}`?")),
        (
            &["plan", "recipe.yaml", "--diff", &wrong],
            &format!("no run is named `{wrong}`"),
            format!("did you mean `{run}`?"),
        ),
        (&["status", "../runs"], "no run is named `../runs`", "`flow runs` lists them".to_owned()),
    ] {
        let ended = environment.flow(command).with_code(2);
        assert!(ended.stderr.contains(message) && ended.stderr.contains(&help), "{ended:#?}");
    }
}

#[test]
fn status_is_live_in_another_terminal_and_true_afterwards() {
    let environment = TestEnvironment::fresh();
    environment.edit("tokens: 20K }", "tokens: 400K, checkpoint_every: 20 }");
    let mut running = environment.start(&["public"]);
    let mut seen = String::new();
    running.wait_until("the status shows the pace of the training", || {
        let ended = environment.flow(&["status"]);
        seen.clone_from(&ended.stdout);
        ended.code == Some(0) && seen.contains(" left")
    });
    assert!(seen.contains("of tiny: running"), "{seen}");
    let training = line(&seen, "running public");
    for words in ["/782 steps (", " %), about ", " left, ", "loss "] {
        assert!(training.contains(words), "`{words}`: {seen}");
    }
    assert!(seen.contains("finished corpus[public]"), "{seen}");
    assert!(seen.contains("1 running, 3 finished"), "{seen}");
    let listed = environment.flow(&["runs", "--json"]).succeeded().json();
    assert_eq!(listed[0]["outcome"], "running");
    let status = environment.flow(&["status", "--json"]).succeeded().json();
    assert_eq!(status["standing"], "running");
    assert!(status["stages"]["public"]["seconds_left"].as_f64().is_some(), "{status:#}");

    running.kill_tree();
    let seen = environment.flow(&["status"]).succeeded().stdout;
    assert!(seen.contains("of tiny: cut off; the same command goes on from here"), "{seen}");
    line(&seen, "cut off public");
    assert_eq!(environment.flow(&["runs", "--json"]).succeeded().json()[0]["outcome"], "cut-off");
}

#[test]
fn status_shows_why_a_stage_failed() {
    let environment = TestEnvironment::fresh();
    environment.write("text/sea/all.jsonl", "no JSON\n");
    let _ = environment.run(&["tokens[sea]", "tokens[bread]"]).with_code(1);
    let seen = environment.flow(&["status"]).succeeded().stdout;
    assert!(seen.contains("of tiny: failed"), "{seen}");
    assert!(line(&seen, "failed corpus[sea]").contains("no document is left"), "{seen}");
    assert!(line(&seen, "help").contains("loosen those filters"), "{seen}");
    assert!(line(&seen, "skipped tokens[sea]").ends_with("because of corpus[sea]"), "{seen}");
    line(&seen, "finished tokens[bread]");
}

#[test]
fn the_log_of_a_stage_is_kept_with_its_result() {
    let environment = TestEnvironment::fresh();
    let _ = environment.run(&["tokens[sea]"]).succeeded();
    let first = environment.flow(&["logs", "corpus[sea]"]).succeeded();
    assert!(first.stdout.contains(" INFO ") && first.stderr.is_empty(), "{first:#?}");
    assert!(!first.stdout.contains('\u{1b}'), "{first:#?}");
    assert_eq!(environment.flow(&["logs", "corpus[sea]", "-f"]).succeeded().stdout, first.stdout);

    // In the next run it is cached: what is shown is what the first one kept.
    let _ = environment.run(&["tokens[sea]"]).succeeded();
    let second = environment.flow(&["logs", "corpus[sea]"]).succeeded();
    assert_eq!(second.stdout, first.stdout);
    let [_, made] = &runs(&environment)[..] else { panic!("two runs") };
    assert!(second.stderr.contains(&format!("was cached; this is what it printed in run {made}")), "{second:#?}");
    let log = environment.flow(&["logs", "corpus[sea]", "--json"]).succeeded().json();
    assert_eq!((log["run"].as_str(), log["phase"].as_str()), (Some(made.as_str()), Some("cached")));

    // One that was not reached has none, and one that failed early may have said nothing but its error.
    environment.edit("vocab_size: 384", "vocab_size: 384, max_bytes: 0");
    let _ = environment.run(&["tokens[sea]"]).with_code(1);
    let ended = environment.flow(&["logs", "tokens[sea]"]).succeeded();
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), ("", "tokens[sea] (skipped) printed nothing\n"));
    assert_eq!(environment.flow(&["logs", "tokens[sea]", "--json"]).succeeded().json()["run"], Value::Null);
    let ended = environment.flow(&["logs", "tokenizer"]).succeeded();
    assert!(
        ended
            .stderr
            .contains("tokenizer (failed) printed nothing; it failed: failed to train a tokenizer of 384 tokens"),
        "{ended:#?}"
    );

    // Neither of them ran as if all were well.
    let skipped = environment.flow(&["why", "tokens[sea]"]).succeeded().stdout;
    assert!(line(&skipped, "not run").ends_with("it was not reached, because of tokenizer"), "{skipped}");
    assert!(line(&skipped, "reason").ends_with("waits for tokenizer"), "{skipped}");
    let failed = environment.flow(&["why", "tokenizer"]).succeeded().stdout;
    assert!(line(&failed, "failed").contains("train a tokenizer of 384 tokens"), "{failed}");
    assert!(line(&failed, "it ran").contains("max_bytes: "), "{failed}");
}

#[test]
fn a_log_is_followed_until_its_stage_ends() {
    let environment = TestEnvironment::fresh();
    environment.edit("tokens: 20K }", "tokens: 100K }");
    let mut running = environment.start(&["public"]);
    running.wait_until("the run has begun", || environment.flow(&["status"]).code == Some(0));
    let followed = environment.flow(&["logs", "public", "--follow"]).succeeded();
    // Whether it had begun by then is chance.
    let said = followed.stderr.strip_prefix("public has not begun yet\n").unwrap_or(&followed.stderr);
    assert_eq!(said, "public: finished\n");
    assert!(followed.stdout.contains(" of 196 steps"), "{followed:#?}");
    let status = environment.flow(&["status", "--json"]).succeeded().json();
    assert_eq!(status["stages"]["public"]["phase"], "finished", "it did not end before the stage");
    assert_eq!(running.wait(), Some(0));
}

#[test]
fn a_stage_that_was_not_asked_for_is_not_removed() {
    let environment = TestEnvironment::finished();
    let _ = environment.run(&["flexolmo"]).succeeded();
    let [part, whole] = &runs(&environment)[..] else { panic!("two runs") };
    for (command, name) in [
        (&["diff", whole, part][..], format!("run {part}")),
        (&["diff", part, whole], format!("run {part}")),
        (&["plan", "recipe.yaml", "flexolmo", "--diff", whole], "this plan".to_owned()),
        (&["plan", "recipe.yaml", "--diff", part], format!("run {part}")),
    ] {
        let text = environment.flow(command).succeeded().stdout;
        assert!(text.contains("stages: 13 not asked for, 18 unchanged\n"), "{text}");
        assert!(line(&text, "not asked report").ends_with(&format!("{name} was not asked for it")), "{text}");
    }
    let found = environment.flow(&["diff", whole, part, "--json"]).succeeded().json();
    let how = &found["stages"]["stages"][0]["how"];
    assert_eq!((&how["difference"], &how["plan"]), (&"not-asked".into(), &"second".into()), "{found:#}");
    // What the recipe no longer has is removed, whatever was asked for.
    environment.edit("  btm:\n", "  blend:\n");
    environment.edit("model: btm,", "model: blend,");
    let text = environment.flow(&["plan", "recipe.yaml", "flexolmo", "--diff", whole]).succeeded().stdout;
    assert!(text.contains("stages: 1 removed, 12 not asked for, 18 unchanged\n"), "{text}");
}

#[test]
fn why_shows_all_that_a_result_depends_on() {
    let environment = TestEnvironment::finished();
    assert_snapshot!("why_cached", without_making(&environment.flow(&["why", "recipe.yaml", "flexolmo"]).succeeded()));
    // The last run says the same of the stage, and how it came about.
    let of_run = environment.flow(&["why", "flexolmo"]).succeeded().stdout;
    assert!(line(&of_run, "it ran").ends_with("never run"), "{of_run}");
    let planned = environment.flow(&["why", "recipe.yaml", "flexolmo", "--json"]).succeeded().json();
    let ran = environment.flow(&["why", "flexolmo", "--json"]).succeeded().json();
    for part in ["parts", "key", "record", "inputs", "state"] {
        assert_eq!(planned[part], ran[part], "{part}");
    }
    // Options may stand anywhere.
    let set = environment.flow(&["why", "recipe.yaml", "--set", "data=text", "soup", "--json"]).succeeded().json();
    assert_eq!((&set["planned"]["stage"], &set["state"]), (&"soup".into(), &"cached".into()));
    for (command, message) in [
        (&["why", "recipe.yaml", "soup", "--run", "x"][..], "a recipe and a run are two things to ask about"),
        (&["why", "soup", "--set", "data=text"], "what is laid over a recipe needs the recipe"),
    ] {
        let ended = environment.flow(command).with_code(2);
        assert!(ended.stderr.contains(message) && ended.stderr.contains("`flow why RECIPE STAGE` asks"), "{ended:#?}");
    }
    assert_eq!(planned["state"], "cached");
    assert_eq!(planned["record"]["artifact"], environment.artifacts("report/tiny")["flexolmo"].as_str());
}

#[test]
fn why_and_plan_follow_a_change_to_where_it_began() {
    let environment = TestEnvironment::finished();
    environment.edit("sea: { title: The sea }", "sea: { title: The sea, with: { corpus: { max_bytes: 30kB } } }");
    let plan = environment.flow(&["plan", "recipe.yaml"]).succeeded().stdout;
    assert!(line(&plan, "will run corpus[sea]").ends_with("max_bytes: 1000000 → 30000"), "{plan}");
    for (stage, waits) in
        [("tokens[sea]", "corpus[sea]"), ("expert[sea]", "embed[sea], tokens[sea]"), ("flexolmo", "expert[sea]")]
    {
        let why = format!("waits for {waits}, since corpus[sea] has max_bytes: 1000000 → 30000");
        assert!(line(&plan, &format!("will run {stage}")).ends_with(&why), "{why}: {plan}");
    }
    assert!(line(&plan, "cached tokens[bread]").len() > 20, "{plan}");
    assert_snapshot!(
        "why_it_would_run",
        without_making(&environment.flow(&["why", "recipe.yaml", "flexolmo"]).succeeded())
    );

    // Once it has run, the run itself tells it, digest by digest.
    let _ = environment.run(&["flexolmo"]).succeeded();
    let ran = environment.flow(&["why", "flexolmo"]).succeeded().stdout;
    assert!(line(&ran, "it ran").contains("input experts[sea]: "), "{ran}");
    assert!(line(&ran, "since").contains("corpus[sea] has max_bytes: 1000000 → 30000"), "{ran}");
    assert!(line(&ran, "since").ends_with("corpus[sea] → tokens[sea] → expert[sea] → flexolmo"), "{ran}");

    // Soup was not made in that run. Its input is there, and is another than it was.
    let plan = environment.flow(&["plan", "recipe.yaml"]).succeeded().stdout;
    let soup = line(&plan, "will run soup");
    assert!(
        soup.contains("input experts[sea]: ") && soup.ends_with(", since corpus[sea] has max_bytes: 1000000 → 30000"),
        "{plan}"
    );
}

#[test]
fn a_plan_is_compared_with_a_run() {
    let environment = TestEnvironment::finished();
    let run = runs(&environment).remove(0);
    let same = environment.flow(&["plan", "recipe.yaml", "--diff", &run]).succeeded();
    assert_eq!(same.stdout, "stages: 31 unchanged\n");
    environment.edit("with: { top_k: 2, row: { norm: 0.3 } }", "with: { top_k: 1, row: { norm: 0.3 } }");
    environment.edit("  soup:\n    kind: soup", "  blend:\n    kind: soup");
    environment.edit("model: soup,", "model: blend,");
    assert_snapshot!(
        "plan_diff",
        environment.flow(&["plan", "recipe.yaml", "--diff", &run]).succeeded().snapshot().replace(&run, "[run]")
    );
}

#[test]
fn two_runs_are_compared_from_the_recipe_to_the_figures() {
    let environment = TestEnvironment::finished();
    environment.edit("with: { top_k: 2, row: { norm: 0.3 } }", "with: { top_k: 1, row: { norm: 0.3 } }");
    let _ = environment.run(&[]).succeeded();
    let [second, first] = &runs(&environment)[..] else { panic!("two runs") };
    let found = environment.flow(&["diff", first, second, "--json"]).succeeded().json();
    assert_eq!(found["recipe"], serde_json::json!([{ "path": "stages.flexolmo.with.top_k", "old": "2", "new": "1" }]));
    let changed: Vec<&str> =
        found["stages"]["stages"].as_array().unwrap().iter().map(|s| s["stage"].as_str().unwrap()).collect();
    assert_eq!(changed, ["flexolmo", "eval-flexolmo", "optout[bread]", "optout[sea]", "optout[stars]", "report"]);
    assert_eq!(found["stages"]["unchanged"], 25);
    let figures = found["figures"].as_array().unwrap();
    let bits =
        figures.iter().find(|figure| figure["name"].as_str().unwrap().starts_with("eval-flexolmo.bits_per_byte"));
    let bits = bits.unwrap_or_else(|| panic!("{found:#}"));
    assert_ne!(bits["first"], bits["second"]);
    assert!(found["same_figures"].as_u64().unwrap() > 0);

    let text = environment.flow(&["diff", first, second]).succeeded().stdout;
    assert!(text.contains("recipe: 1 value not the same\n  stages.flexolmo.with.top_k: 2 → 1\n"), "{text}");
    assert!(text.contains("stages: 6 changed, 25 unchanged"), "{text}");
    line(&text, "changed flexolmo top_k: 2 → 1");
    // What a recipe has is called as the recipe calls it.
    let _ = environment.run(&["--set", "domains.sea=null", "--set", "stages.eval-soup.resources.cores=1"]).succeeded();
    let third = &runs(&environment)[0];
    let found = environment.flow(&["diff", second, third, "--json"]).succeeded().json();
    let changes = found["recipe"].as_array().unwrap();
    let change = |path: &str| changes.iter().find(|change| change["path"] == path);
    for (path, old) in [
        ("domains.sea.title", "\"The sea\""),
        ("stages.tokens[sea].inputs.tokenizer", "\"tokenizer\""),
        ("stages.tokens[sea].kind", "\"tokenize\""),
    ] {
        assert_eq!(change(path).map(|change| &change["old"]), Some(&old.into()), "{path}: {changes:#?}");
    }
    assert_eq!(change("stages.eval-soup.resources.cores").unwrap()["new"], "1");
    let internal = |path: &str| {
        path.contains(".refs") || path.contains(".many") || path.contains("retries") || path.starts_with("members")
    };
    assert!(!changes.iter().any(|change| internal(change["path"].as_str().unwrap())), "{changes:#?}");
    let again = environment.flow(&["diff", first, first]).succeeded().stdout;
    assert!(again.contains("recipe: the same\n\nstages: 31 unchanged\n\nartifacts: 0 differ\n"), "{again}");
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let environment = TestEnvironment::finished();
    let flow = env!("CARGO_BIN_EXE_flow");
    let run = |command: &str, no_color: bool| -> String {
        let mut shell = Command::new("script");
        shell.args(["-qec", command, "/dev/null"]).current_dir(environment.path("")).stdin(Stdio::null());
        shell.env_remove("NO_COLOR").env("TERM", "xterm-256color");
        if no_color {
            shell.env("NO_COLOR", "1");
        }
        String::from_utf8(shell.output().unwrap().stdout).unwrap()
    };
    let is_styled = |text: &str| {
        text.split("\u{1b}[")
            .skip(1)
            .any(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').starts_with('m'))
    };
    if Command::new("script").arg("--version").output().is_err() {
        println!("skipped: there is no `script` to make a terminal with");
        return;
    }
    for arguments in ["status", "plan recipe.yaml", "why public", "run recipe.yaml --threads 2"] {
        let command = format!("{flow} {arguments}");
        assert!(is_styled(&run(&command, false)), "{arguments}: a terminal has colours");
        assert!(!is_styled(&run(&command, true)), "{arguments}: NO_COLOR is respected");
        let piped = run(&format!("{command} 2>&1 | cat"), false);
        assert!(!piped.is_empty() && !piped.contains('\u{1b}'), "{arguments}: no colours in a pipe: {piped}");
    }
}

/// A run of which one file is as another flow left it: what needs that file says so in one complaint, and the rest goes on.
#[test]
fn a_run_of_another_flow_is_named_where_it_is_needed() {
    let environment = TestEnvironment::finished();
    let _ = environment.run(&["tokens[sea]"]).succeeded();
    let [newer, older] = &runs(&environment)[..] else { panic!("two runs") };
    let file = |name: &str| environment.path(&format!(".flow/runs/{older}/{name}"));
    let complains = |command: &[&str], why: &str| {
        let ended = environment.flow(command).with_code(2);
        let errors = environment.flow(&[command, &["--json"]].concat()).json()["errors"].clone();
        let message = format!("run {older} is damaged, or was made by another version of flow: {why}");
        let said = errors[0]["message"].as_str().unwrap();
        assert!(said.starts_with(&message) && errors.as_array().unwrap().len() == 1, "{message}: {errors:#}");
        assert!(errors[0]["help"].as_str().unwrap().contains("`flow run RECIPE`"), "{errors:#}");
        assert!(ended.stderr.contains("another version of flow"), "{ended:#?}");
    };
    let commands: [&[&str]; 4] = [
        &["plan", "recipe.yaml", "--diff", older],
        &["diff", older, newer],
        &["diff", newer, older],
        &["why", "tokens[sea]", "--run", older],
    ];
    let plan = environment.read(&format!(".flow/runs/{older}/plan.json"));
    for (text, why) in [
        (None, "it has no plan.json"),
        (Some("{\"recipe\": \"tiny\"}".to_owned()), "its plan.json does not say which format it has"),
        (Some(plan.replacen("\"format\": 1", "\"format\": 9", 1)), "its plan.json has format 9, and this flow reads 1"),
        (Some("{\"format\": 1}".to_owned()), "its plan.json cannot be read (missing field"),
        (Some(plan[..plan.len() / 2].to_owned()), "its plan.json cannot be read ("),
    ] {
        match &text {
            Some(text) => fs::write(file("plan.json"), text).unwrap(),
            None => fs::remove_file(file("plan.json")).unwrap(),
        }
        for command in commands {
            complains(command, why);
        }
        for command in [&["status", older][..], &["logs", "tokens[sea]", "--run", older], &["runs"], &["cache", "gc"]] {
            let _ = environment.flow(command).succeeded();
        }
    }
    fs::write(file("plan.json"), &plan).unwrap();
    fs::remove_file(file("recipe.json")).unwrap();
    complains(&["diff", older, newer], "it has no recipe.json");

    // Events that it does not read: the run is listed all the same, and what the rest of it names is kept.
    let events = environment.read(&format!(".flow/runs/{older}/events.jsonl"));
    fs::write(file("events.jsonl"), events.replace("stage-cached", "stage-found").replace("stage-started", "begun"))
        .unwrap();
    for command in [&["status", older][..], &["why", "public", "--run", older], &["logs", "public", "--run", older]] {
        complains(command, "its events.jsonl cannot be read (unknown variant `");
    }
    let listed = environment.flow(&["runs", "--json"]).succeeded().json();
    assert_eq!((&listed[0]["outcome"], &listed[1]["outcome"]), (&"done".into(), &"unreadable".into()));
    let is_listed = || {
        let text = environment.flow(&["runs"]).succeeded().stdout;
        assert!(text.lines().any(|line| line.starts_with(older) && line.contains(" unreadable ")), "{text}");
    };
    is_listed();
    let freed = environment.flow(&["cache", "gc", "--grace", "0s", "--yes"]).succeeded();
    assert!(freed.stderr.contains(older) && freed.stderr.contains("kept is what the rest of it names"), "{freed:#?}");
    assert!(environment.runs_again().is_empty());

    // Nothing of it can be read: nothing that it may need is freed.
    fs::write(file("events.jsonl"), [&b"\xff\n"[..], events.replace("\"event\"", "\"what\"").as_bytes()].concat())
        .unwrap();
    fs::write(file("plan.json"), "{}").unwrap();
    is_listed();
    let refused = environment.flow(&["cache", "gc", "--grace", "0s", "--yes"]).with_code(2);
    assert!(refused.stderr.contains("what it needs cannot be told: delete"), "{refused:#?}");
    let _ = environment.flow(&["cache", "gc", "--keep-runs", "1"]).succeeded();
}

#[test]
fn who_follows_a_run_sees_its_end() {
    let environment = TestEnvironment::fresh();
    environment.edit("tokens: 20K }", "tokens: 100K }");
    let mut running = environment.start(&["public"]);
    running.wait_until("the run has begun", || environment.flow(&["status"]).code == Some(0));
    // A stage that is not reached yet is waited for, and that is said.
    let followed = environment.flow(&["status", "--follow"]).succeeded();
    assert!(followed.stdout.starts_with("run ") && followed.stdout.contains(" of tiny: done\n"), "{followed:#?}");
    assert_eq!(followed.stdout.matches("of tiny").count(), 1, "a pipe gets the end alone: {followed:#?}");
    line(&followed.stdout, "finished public");
    assert_eq!(running.wait(), Some(0));
    let again = environment.flow(&["status", "-f"]).succeeded();
    assert_eq!(again.stdout, followed.stdout, "a run that has ended is not waited for");
}
