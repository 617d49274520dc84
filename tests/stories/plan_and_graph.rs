//! What a person asks before running something: what would run and why, what it costs, what it looks like.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;

use super::{
    corpus::DOMAINS,
    environment::{TestEnvironment, stages},
};

/// A recipe that ships.
fn shipped(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes").join(name).display().to_string()
}

#[test]
fn a_plan_says_never_run_and_then_cached() {
    let environment = TestEnvironment::fresh();
    let plan = environment.flow(&["plan", "recipe.yaml"]).succeeded().stdout;
    let will_run = |stage: &str, why: &str| {
        let line = plan.lines().find(|line| line.contains(&format!("will run {stage} ")));
        assert!(line.is_some_and(|line| line.ends_with(why)), "{stage}, {why}: {plan}");
    };
    will_run("corpus[sea]", "never run");
    will_run("tokenizer", "waits for corpus[public]");
    will_run("flexolmo", "waits for expert[bread], expert[sea], expert[stars], public and 1 more");
    assert!(plan.contains("0 cached, 31 will run"), "{plan}");
    assert_eq!(environment.records(".flow"), 0, "a plan runs nothing");

    let plan = TestEnvironment::finished().flow(&["plan", "recipe.yaml"]).succeeded().stdout;
    assert!(plan.contains("31 cached, 0 will run"), "{plan}");
}

#[test]
fn a_plan_names_what_changed_from_what_to_what() {
    let environment = TestEnvironment::finished();
    environment.edit("tokens: 20K }", "tokens: 24K }");
    environment.edit("vocab_size: 384", "vocab_size: 400");
    let planned = environment.planned("tokenizer", &[]);
    assert_eq!(planned["reason"], "vocab_size: 384 → 400");
    let planned = environment.planned("public", &["--set", "stages.tokenizer.with.vocab_size=384"]);
    assert_eq!(planned["reason"], "tokens: 20000 → 24000");

    environment.recipe(super::environment::TINY);
    environment
        .write("text/sea/more.txt", "A lugger beat to windward past the breakwater in a rising gale. ".repeat(3));
    let reason = environment.planned("corpus[sea]", &[])["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("1 → 2"), "the sea has a file more: {reason}");
    assert_eq!(environment.planned("tokens[sea]", &[])["reason"], "waits for corpus[sea]");
    assert_eq!(environment.planned("tokens[bread]", &[])["verdict"]["verdict"], "cached");
}

#[test]
fn the_papers_recipe_is_costed_stage_by_stage() {
    let environment = TestEnvironment::empty();
    let recipe = shipped("flexolmo-7x7b.yaml");
    // Its sources are not here: the plan is made all the same, and the exit code says that a run would not begin.
    let plan = environment.flow(&["plan", &recipe]).with_code(2).stdout;
    assert!(plan.contains("H100"), "{plan}");
    let planned = environment.flow(&["plan", &recipe, "--json"]).with_code(2).json();
    let all = planned["stages"].as_array().unwrap();
    let find = |name: &str| all.iter().find(|stage| stage["stage"] == name).unwrap_or_else(|| panic!("no {name}"));
    assert_eq!(all.len(), 57, "the paper's graph, and the held-out tokens of its seven corpora");

    let domains = ["academic", "code", "creative", "math", "news", "reddit"];
    let experts: BTreeSet<&str> = all
        .iter()
        .filter(|stage| stage["kind"] == "train-expert")
        .filter_map(|stage| stage["stage"].as_str())
        .collect();
    assert_eq!(experts, domains.map(|domain| format!("expert[{domain}]")).iter().map(String::as_str).collect());

    // Of what trains or reads a model every figure is known, and the text shows it.
    for stage in all {
        let name = stage["stage"].as_str().unwrap();
        let line = plan.lines().position(|line| line.split_whitespace().any(|word| word == name));
        let line = line.unwrap_or_else(|| panic!("the text leaves {name} out: {plan}"));
        if !matches!(stage["kind"].as_str().unwrap(), "pretrain" | "train-expert" | "embed" | "evaluate") {
            continue;
        }
        for figure in ["tokens", "parameters", "flops", "memory", "device_hours"] {
            assert!(stage["estimate"][figure].as_f64().is_some_and(|n| n > 0.0), "{name} has no {figure}: {stage:#}");
        }
        assert!(stage["estimate"]["accelerator"].as_str().is_some_and(|name| name.starts_with("H100")), "{name}");
        let cost = plan.lines().nth(line + 1).unwrap();
        for word in [" tokens", " parameters", " FLOPs", " of memory"] {
            assert!(cost.contains(word), "{name}: {cost}");
        }
    }

    // The numbers of the paper: 7.3B parameters, 6·N·D; 33B in the merged model.
    let near = |value: &Value, expected: f64, by: f64| {
        let value = value.as_f64().unwrap();
        assert!((value / expected - 1.0).abs() < by, "{value:e} is not near {expected:e}");
    };
    near(&find("pretrain")["estimate"]["parameters"], 7.3e9, 0.01);
    near(&find("pretrain")["estimate"]["tokens"], 1e12, 0.001);
    near(&find("pretrain")["estimate"]["flops"], 6.0 * 7.3e9 * 1e12, 0.15);
    near(&find("expert[math]")["estimate"]["tokens"], 50e9, 0.001);
    near(&find("eval-flexolmo")["estimate"]["parameters"], 33e9, 0.02);
}

/// Half as many tokens, half the time.
#[test]
fn a_stage_that_ran_once_says_how_long_it_may_take() {
    let environment = TestEnvironment::finished();
    assert!(environment.planned("public", &[])["expected"].is_null(), "what is cached takes no time");
    let estimate = |planned: &Value| planned["estimate"]["flops"].as_f64().unwrap();
    let was = estimate(&environment.planned("public", &[]));
    environment.edit("tokens: 20K }", "tokens: 10K }");
    let planned = environment.planned("public", &[]);
    let Value::Object(expected) = &planned["expected"] else { panic!("{planned:#}") };
    let seconds = |name: &str| expected[name].as_f64().unwrap();
    let ratio = seconds("seconds") / seconds("then");
    assert!((ratio - estimate(&planned) / was).abs() < 1e-9 && (0.4..0.6).contains(&ratio), "{planned:#}");
    let run = expected["run"].as_str().unwrap();
    let shown = environment.flow(&["plan", "recipe.yaml"]).succeeded().stdout;
    assert!(shown.contains(&format!("of run {run}")), "{shown}");
}

#[test]
fn the_papers_recipe_is_not_begun_on_a_machine_that_cannot_hold_it() {
    let environment = TestEnvironment::empty();
    let ended = environment.flow(&["run", &shipped("flexolmo-7x7b.yaml")]).with_code(2);
    for words in [
        "nothing was done",
        "pretrain: 256 accelerators",
        "expert (each of 6): 32 accelerators",
        ", on 4 machines",
        "`--profile nano`",
    ] {
        assert!(ended.stderr.contains(words), "`{words}` is missing: {}", ended.stderr);
    }
    assert_eq!(environment.records(".flow"), 0);
    assert!(!environment.path(".flow/runs").exists(), "a run was begun");
}

#[test]
fn the_recipes_that_ship_can_be_planned_here() {
    let environment = TestEnvironment::empty();
    for args in [&["crates-nano.yaml"][..], &["flexolmo-7x7b.yaml", "--profile", "nano"]] {
        let recipe = shipped(args[0]);
        let plan = environment.flow(&[&["plan", &recipe, "--json"], &args[1..]].concat()).succeeded().json();
        for stage in plan["stages"].as_array().unwrap() {
            assert_eq!(stage["verdict"]["verdict"], "run", "{args:?}: {stage:#}");
        }
    }
}

#[test]
fn a_graph_is_drawn_in_each_format() {
    let environment = TestEnvironment::fresh();
    let draw = |format: &str| environment.flow(&["graph", "recipe.yaml", "--format", format]).succeeded().stdout;
    let (dot, mermaid, svg) = (draw("dot"), draw("mermaid"), draw("svg"));
    assert!(dot.starts_with("digraph") && dot.trim_end().ends_with('}'), "{dot}");
    assert_eq!(dot.matches('{').count(), dot.matches('}').count(), "{dot}");
    assert!(mermaid.starts_with("flowchart") || mermaid.starts_with("graph"), "{mermaid}");
    assert!(svg.contains("<svg") && svg.trim_end().ends_with("</svg>"), "{svg}");
    for stage in stages(&DOMAINS) {
        for (name, text) in [("dot", &dot), ("svg", &svg), ("mermaid", &mermaid)] {
            let escaped = stage.replace('[', "#91;").replace(']', "#93;");
            assert!(text.contains(&stage) || text.contains(&escaped), "{stage} is not in {name}: {text}");
        }
    }
    let collapsed = environment.flow(&["graph", "recipe.yaml", "--collapse"]).succeeded().stdout;
    assert!(!collapsed.contains("expert[sea]") && collapsed.contains("expert"), "{collapsed}");
    assert_eq!(environment.flow(&["graph", "recipe.yaml"]).succeeded().stdout, dot, "dot is the default");
}

#[test]
fn the_schema_names_every_kind() {
    let environment = TestEnvironment::empty();
    let schema = environment.flow(&["schema"]).succeeded().json();
    assert!(schema["$schema"].is_string());
    let text = schema.to_string();
    let kinds = environment.flow(&["kinds", "--json"]).succeeded().json();
    let kinds = kinds.as_array().unwrap();
    assert!(kinds.len() >= 11, "{kinds:#?}");
    let listed = environment.flow(&["kinds"]).succeeded().stdout;
    for kind in kinds {
        let name = kind["kind"].as_str().unwrap();
        assert!(text.contains(&format!("\"const\":\"{name}\"")), "the schema does not know {name}");
        assert!(listed.contains(name), "{listed}");
        for role in kind["inputs"].as_array().unwrap() {
            assert!(listed.contains(role.as_str().unwrap()), "{name} has {role}: {listed}");
        }
    }
}

#[test]
fn completions_are_printed_for_each_shell() {
    let environment = TestEnvironment::empty();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ended = environment.flow(&["completions", shell]).succeeded();
        assert!(ended.stdout.contains("flow") && ended.stdout.contains("profile"), "{shell}: {}", ended.stdout);
    }
}

#[test]
fn json_output_reads_line_by_line() {
    let environment = TestEnvironment::finished();
    let ended = environment.run(&[]).succeeded();
    assert_eq!(ended.stderr, "", "with --json everything is on standard output");
    let lines = ended.lines();
    assert_eq!(lines.first().unwrap()["what"]["event"], "run-started");
    assert!(lines.last().unwrap()["report"].is_string());
    environment.flow(&["report", "recipe.yaml", "--json"]).succeeded().lines();

    let ended =
        environment.flow(&["plan", "recipe.yaml", "--json", "--set", "stages.public.wiht.tokens=1K"]).with_code(2);
    let errors = ended.json()["errors"].clone();
    assert!(errors[0]["message"].as_str().unwrap().contains("wiht"), "{errors:#}");
}

#[test]
fn help_and_version_are_short_and_complete() {
    let environment = TestEnvironment::empty();
    let help = environment.flow(&["--help"]).succeeded().stdout;
    for command in [
        "run",
        "plan",
        "graph",
        "runs",
        "status",
        "logs",
        "why",
        "diff",
        "cache",
        "report",
        "schema",
        "kinds",
        "completions",
    ] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(command)), "{command}: {help}");
    }
    assert!(!help.contains("exec"), "{help}");
    let version = environment.flow(&["--version"]).succeeded().stdout;
    assert_eq!(version.trim(), format!("flow {}", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_changed_file_and_a_missing_one_are_said_in_words() {
    let environment = TestEnvironment::finished();
    environment.write("text/sea/more.jsonl", "{\"text\": \"The petrel followed the schooner from dusk to dawn.\"}\n");
    let plan = environment.flow(&["plan", "recipe.yaml", "corpus[sea]"]).succeeded().stdout;
    let changed = plan.lines().find(|line| line.contains("will run corpus[sea]")).unwrap();
    assert!(changed.contains("content of sources[0]: ") && changed.contains("files of sources[0]: 1 → 2"), "{plan}");

    fs::remove_dir_all(environment.path("text/bread")).unwrap();
    // The plan is shown, and the exit code says that a run would not begin; where in the recipe, standard error says.
    let ended = environment.flow(&["plan", "recipe.yaml", "tokens"]).with_code(2);
    assert!(ended.stderr.contains("recipe.yaml:") && ended.stderr.contains("corpus[bread] cannot run"), "{ended:#?}");
    let plan = ended.stdout;
    let blocked = plan.lines().position(|line| line.trim_start().starts_with("blocked corpus[bread] "));
    let blocked = blocked.unwrap_or_else(|| panic!("nothing is blocked: {plan}"));
    let lines: Vec<&str> = plan.lines().collect();
    assert!(lines[blocked].ends_with("find the source `text/bread`: there is no such file or folder"), "{plan}");
    assert!(lines[blocked + 1].contains("`--set` can give another place"), "{plan}");
    assert!(plan.trim_end().ends_with("1 blocked, so that a run does not begin"), "{plan}");
    let refused = environment.run(&["tokens"]).with_code(2);
    assert!(refused.stderr.contains("corpus[bread] cannot run"), "{refused:#?}");
}
