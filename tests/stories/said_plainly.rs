//! What a person is told, in words that help: where in the recipe, which variable, how far, and what to do.

use std::fs;

use super::{
    corpus::DOMAINS,
    environment::{TINY, TestEnvironment, names},
};

#[test]
fn a_recheck_names_stages_of_this_run_or_is_refused() {
    let environment = TestEnvironment::finished();
    let refused = environment.run(&["--recheck", "flexolm"]).with_code(2);
    assert!(refused.stderr.contains("did you mean `flexolmo`?"), "{refused:#?}");
    let refused = environment.run(&["tokenizer", "--recheck", "soup"]).with_code(2);
    assert!(refused.stderr.contains("`--recheck soup`") && refused.stderr.contains("beside them"), "{refused:#?}");
    assert!(!refused.stdout.contains("run-started"), "{refused:#?}");
}

#[test]
fn a_recheck_of_a_foreach_does_all_of_it_and_says_that_the_bytes_are_the_same() {
    let environment = TestEnvironment::finished();
    let ended = environment.run(&["--recheck", "tokens"]).succeeded();
    let all = ["public"].iter().chain(&DOMAINS).map(|member| format!("tokens[{member}]"));
    assert_eq!(ended.stages("stage-started"), names(all));
    assert!(ended.events("stage-started").iter().all(|event| event["reason"]["why"] == "recheck"), "{ended:#?}");
    let shown = environment.flow(&["run", "recipe.yaml", "--threads", "2", "--recheck", "tokenizer"]).succeeded();
    let line = shown.stderr.lines().find(|line| line.contains("Finished tokenizer")).unwrap();
    assert!(line.ends_with(": the same bytes as before"), "{shown:#?}");
    let status = environment.flow(&["status"]).succeeded().stdout;
    assert_eq!(status.matches("the same bytes as before").count(), 1, "{status}");
}

#[test]
fn a_source_that_is_not_there_has_its_place_in_the_recipe() {
    let environment = TestEnvironment::fresh();
    let refused = environment.run(&["--set", "data=no-such"]).with_code(2).json();
    let errors = refused["errors"].as_array().unwrap();
    // One place is shown once, however many instances look there.
    assert_eq!(errors.len(), 1, "{errors:#?}");
    let line = TINY.lines().position(|line| line.contains("domain: \"${domain}\"")).unwrap() + 1;
    assert_eq!((&errors[0]["code"], &errors[0]["place"]["line"]), (&"recipe::source".into(), &line.into()));
    let message = errors[0]["message"].as_str().unwrap();
    assert!(message.contains("corpus[bread] cannot run: failed to use `data`: find"), "{message}");
    assert!(message.ends_with("; nor can corpus[public], corpus[sea], corpus[stars]"), "{message}");
    environment.edit(", data: \"${data}\"", "");
    let refused = environment.run(&[]).with_code(2).json();
    // What is not there has no place of its own: it is the stage's.
    let stage = TINY.lines().position(|line| line == "  corpus:").unwrap() + 1;
    assert_eq!(refused["errors"][0]["place"]["line"], stage, "{refused}");
    assert!(refused["errors"][0]["message"].as_str().unwrap().contains("no sources are named"), "{refused}");
    assert!(!environment.path(".flow/runs").exists());
}

#[test]
fn a_device_that_is_none_is_said_where_it_was_chosen() {
    let environment = TestEnvironment::fresh();
    let refused = environment.run(&["--set", "device=gpu"]).with_code(2).json();
    assert_eq!(refused["errors"][0]["place"]["column"], 8, "{refused}");
    assert!(
        refused["errors"][0]["message"].as_str().unwrap().starts_with("failed to use the device `gpu`"),
        "{refused}"
    );
    let plan: &[&str] = &["plan", "recipe.yaml", "--json"];
    let of_variable = environment.flow_with(&[("FLOW_DEVICE", "tpu")], plan).with_code(2).json();
    let message = of_variable["errors"][0]["message"].as_str().unwrap();
    assert!(message.starts_with("`FLOW_DEVICE`: failed to use the device `tpu`"), "{message}");
    let of_option = environment.flow_with(&[("FLOW_DEVICE", "tpu")], &[plan, &["--device", "tpu"]].concat());
    assert!(!of_option.with_code(2).stdout.contains("FLOW_DEVICE"));
    let empty = environment.flow_with(&[("FLOW_STORE", "")], plan).with_code(2).json();
    assert_eq!(empty["errors"][0]["message"], "`FLOW_STORE` is set to nothing");
    let generate = environment.flow(&["generate", "/nope"]).with_code(2);
    assert!(generate.stderr.contains("failed to read a model from /nope"), "{generate:#?}");
}

#[test]
fn a_bucket_without_its_scheme_makes_no_folder_of_a_plan() {
    let environment = TestEnvironment::fresh();
    let plan = environment.flow(&["plan", "recipe.yaml", "tokenizer", "--remote", "bucket/x"]).succeeded();
    assert!(plan.stderr.contains("write `s3://bucket/x`"), "{plan:#?}");
    assert!(!environment.path("bucket").exists());
    let ran = environment.run(&["corpus[public]", "--remote", "bucket/x"]).succeeded();
    assert!(ran.stderr.contains("a new folder, bucket/x") && ran.stderr.contains("write `s3://bucket/x`"), "{ran:#?}");
    let again = environment.run(&["corpus[public]", "--remote", "bucket/x"]).succeeded();
    assert_eq!(again.stderr, "");
}

#[test]
fn a_log_that_lies_in_the_shared_store_is_fetched_from_it_or_said_to_lie_there() {
    let environment = TestEnvironment::fresh();
    let shared: &[&str] = &["tokenizer", "--remote", "./shared"];
    let _ = environment.run(shared).succeeded();
    let printed = environment.flow(&["logs", "tokenizer"]).succeeded().stdout;
    assert!(!printed.is_empty());
    fs::remove_dir_all(environment.path(".flow")).unwrap();
    let again = environment.run(shared).succeeded();
    assert_eq!(again.stages("stage-started"), names::<String>([]));
    let elsewhere = environment.flow(&["logs", "tokenizer"]).succeeded();
    assert!(elsewhere.stderr.contains("is not in this store; `--remote` names"), "{elsewhere:#?}");
    let fetched = environment.flow(&["logs", "tokenizer", "--remote", "./shared"]).succeeded();
    assert_eq!(fetched.stdout, printed, "{fetched:#?}");
}

#[test]
fn what_a_recipe_hides_with_colours_is_shown() {
    let environment = TestEnvironment::empty();
    environment.recipe("flow: 1\nname: short\nstages:\n  a: { kind: \"no\\e[8msuch\" }\n");
    let refused = environment.flow(&["plan", "recipe.yaml"]).with_code(2);
    assert!(refused.stderr.contains(r"`no\u{1b}[8msuch`") && !refused.stderr.contains('\u{1b}'), "{refused:#?}");
}

#[test]
fn a_line_that_nobody_can_read_whole_is_cut_around_the_place() {
    let environment = TestEnvironment::empty();
    let title = "x".repeat(100_000);
    environment.recipe(&format!("{{flow: 1, name: short, public: {{title: {title}, wiht: {{}}}}}}\n"));
    let refused = environment.flow(&["plan", "recipe.yaml", "--json"]).with_code(2);
    assert!(refused.stderr.contains("wiht") && refused.stderr.len() < 4000, "{} bytes", refused.stderr.len());
    let column = &refused.json()["errors"][0]["place"]["column"];
    assert!(refused.stderr.contains(&format!("recipe.yaml:1:{column}]")), "{refused:#?}");
}

#[test]
fn what_is_missing_is_missing_in_the_stage_and_not_in_the_defaults() {
    let environment = TestEnvironment::fresh();
    let text = environment.read("recipe.yaml");
    assert!(text.contains("  pretrain:"), "the recipe has no defaults of its training");
    let stage = text.lines().position(|line| line.trim() == "kind: pretrain").unwrap() + 1;
    let with = text.lines().skip(stage).position(|line| line.trim().starts_with("with:")).unwrap() + stage + 1;
    let refused = environment.run(&["--set", "stages.public.with.tokens=null"]).with_code(2).json();
    assert!(refused["errors"][0]["message"].as_str().unwrap().contains("missing key `tokens`"), "{refused}");
    let line = refused["errors"][0]["place"]["line"].as_u64().unwrap() as usize;
    assert!((with..=with + 1).contains(&line), "line {line}, the stage's `with` is in {with}: {refused}");
}

#[test]
fn one_instance_is_named_as_the_recipe_names_it() {
    let environment = TestEnvironment::fresh();
    let domain = DOMAINS[0];
    let set = format!("stages.expert[{domain}].with.tokens=3K");
    let refused = environment.run(&["--set", &set]).with_code(2);
    assert!(refused.stderr.contains(&format!("domains.{domain}.with.expert.tokens=VALUE")), "{refused:#?}");
    for (stage, help) in
        [("expert[*]", "`expert` alone stands for all"), ("tokens[public", "its bracket is not closed")]
    {
        let refused = environment.run(&[stage]).with_code(2);
        assert!(refused.stderr.contains(help), "{refused:#?}");
    }
    let refused = environment.flow(&["why", "recipe.yaml"]).with_code(2);
    assert!(refused.stderr.contains("`flow why recipe.yaml STAGE`"), "{refused:#?}");
}

#[test]
fn a_number_below_zero_is_refused_for_what_it_is() {
    let environment = TestEnvironment::finished();
    for (arguments, words) in [
        (&["run", "recipe.yaml", "--threads", "-1"][..], "-1 is not in 1.."),
        (&["generate", "all", "--temperature", "-1"], "failed"),
        (&["generate", "all", "--seed", "-1"], "invalid value '-1' for '--seed <N>'"),
        (&["cache", "gc", "--keep-runs", "-1"], "invalid value '-1' for '--keep-runs <N>'"),
        (&["export", "recipe.yaml", "public", "--out", "all", "--shard-bytes", "0"], "no file is as small as that"),
    ] {
        let refused = environment.flow(arguments).with_code(2);
        assert!(refused.stderr.contains(words) && !refused.stderr.contains("-- -1"), "{refused:#?}");
    }
}

#[test]
fn a_text_that_is_broken_has_its_place() {
    let environment = TestEnvironment::empty();
    environment.write("recipe.yaml", b"flow: 1\nname: \xc3\xa4\xff\n");
    let refused = environment.flow(&["plan", "recipe.yaml", "--json"]).with_code(2);
    let error = refused.json()["errors"][0].clone();
    let place = (&error["place"]["file"], &error["place"]["line"], &error["place"]["column"]);
    assert_eq!((&error["code"], place), (&"recipe::read".into(), (&"recipe.yaml".into(), &2.into(), &8.into())));
    // What is not there has no place.
    let absent = environment.flow(&["plan", "absent.yaml", "--json"]).with_code(2).json();
    assert!(absent["errors"][0]["place"].is_null(), "{absent:#}");
}

#[test]
fn a_recipe_that_does_nothing_is_refused() {
    let environment = TestEnvironment::empty();
    environment.recipe("flow: 1\nname: nothing\nstages: {}\n");
    for command in ["run", "plan"] {
        let refused = environment.flow(&[command, "recipe.yaml", "--json"]).with_code(2).json();
        assert_eq!(
            (&refused["errors"][0]["code"], &refused["errors"][0]["place"]["line"]),
            (&"recipe::no-stage".into(), &3.into())
        );
    }
}
