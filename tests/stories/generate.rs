//! Text from a merged model, and from the same model without an expert: as if that one had never been merged.

use serde_json::Value;

use super::environment::TestEnvironment;

/// Each new token with its log-probability, exactly.
fn tokens(environment: &TestEnvironment, model: &str, more: &[&str]) -> Vec<(u64, f64)> {
    let mut args = vec!["generate", model, "--prompt", "the", "--max-tokens", "20", "--json"];
    args.extend(more);
    let pair = |line: Value| (line["token"].as_u64().unwrap(), line["log_prob"].as_f64().unwrap());
    environment.flow(&args).succeeded().lines().into_iter().map(pair).collect()
}

#[test]
fn leaving_an_expert_out_is_exact() {
    let environment = TestEnvironment::finished();
    let _ = environment.flow(&["export", "recipe.yaml", "flexolmo", "--out", "all"]).succeeded();
    for left_out in ["bread", "sea", "stars"] {
        let others: Vec<String> = ["bread", "sea", "stars"]
            .iter()
            .filter(|name| **name != left_out)
            .map(|name| format!("\"expert[{name}]\""))
            .collect();
        let set = format!("stages.flexolmo.inputs.experts=[{}]", others.join(", "));
        let _ = environment.flow(&["run", "recipe.yaml", "flexolmo", "--set", &set]).succeeded();
        let _ = environment.flow(&["export", "recipe.yaml", "flexolmo", "--set", &set, "--out", left_out]).succeeded();
        for sampling in [&[][..], &["--temperature", "0.9", "--top-p", "0.9", "--seed", "5"]] {
            let without: Vec<&str> = ["--without", left_out].into_iter().chain(sampling.iter().copied()).collect();
            let never_merged = tokens(&environment, left_out, sampling);
            assert_eq!(tokens(&environment, "all", &without), never_merged, "without {left_out}");
            assert!(!never_merged.is_empty());
        }
    }
}

/// Weights that are numbers, and so large that nothing computed with them is one.
#[test]
fn a_model_that_overflows_says_so() {
    let environment = TestEnvironment::finished();
    let _ = environment.flow(&["export", "recipe.yaml", "public", "--out", "huge"]).succeeded();
    let file = environment.path("huge/model.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    let header = 8 + usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    for number in bytes[header..].chunks_exact_mut(4) {
        number.copy_from_slice(&3e38f32.to_le_bytes());
    }
    std::fs::write(&file, bytes).unwrap();
    environment.write("lines.jsonl", "{\"tokens\": [1, 2, 3]}\n");
    for args in [
        &["generate", "huge", "--prompt", "the", "--json"][..],
        &["import", "huge", "--score", "lines.jsonl", "--json"],
    ] {
        let ended = environment.flow(args).with_code(1);
        assert!(ended.stderr.contains("its logits are infinite or no numbers"), "{ended:#?}");
        assert!(!ended.stdout.contains("null,"), "{ended:#?}");
    }
}

#[test]
fn text_says_which_experts_it_came_from() {
    let environment = TestEnvironment::finished();
    let _ = environment.flow(&["export", "recipe.yaml", "flexolmo", "--out", "all"]).succeeded();
    let ended =
        environment.flow(&["generate", "all", "--prompt", "the", "--max-tokens", "3", "--attribute"]).succeeded();
    let table: Vec<&str> = ended.stdout.lines().skip_while(|line| !line.starts_with("token")).collect();
    let names: Vec<&str> = table[0].split_whitespace().skip(1).collect();
    assert_eq!(names, ["public", "bread", "sea", "stars"]);
    assert!(table.len() > 1 && table[1..].iter().all(|line| line.matches('%').count() == 4), "{table:?}");
    let _ = environment.flow(&["generate", "all", "--without", "nobody"]).with_code(2);
    let _ = environment.flow(&["generate", "text"]).with_code(2);
}

#[test]
fn a_text_of_no_expert_is_refused_by_their_names() {
    let environment = TestEnvironment::finished();
    let _ = environment.flow(&["export", "recipe.yaml", "flexolmo", "--out", "all"]).succeeded();
    let all = ["public", "bread", "sea", "stars"].map(|name| ["--without", name]).concat();
    let refused = environment.flow(&[&["generate", "all"], &all[..]].concat()).with_code(2);
    assert!(refused.stderr.contains("leave one of them: public, bread, sea, stars"), "{refused:#?}");
}
