//! Models go out to other programs and come in from them, and stay what they are. `tests/interop/run` does the same with
//! transformers itself.

use std::fs;

use serde_json::{Value, json};

use super::{
    corpus::{self, DOMAINS},
    environment::{Ended, TestEnvironment, walk},
};

/// `flow export recipe.yaml STAGE --out FOLDER --json` and more.
fn export(environment: &TestEnvironment, stage: &str, out: &str, more: &[&str]) -> Ended {
    environment.flow(&[&["export", "recipe.yaml", stage, "--out", out, "--json"], more].concat())
}

/// What a folder holds.
fn import(environment: &TestEnvironment, folder: &str) -> Value {
    environment.flow(&["import", folder, "--json"]).succeeded().json()
}

/// The complaint of a command that was refused: message and help.
fn refused(ended: Ended) -> String {
    let errors = ended.with_code(2).json();
    let error = &errors["errors"][0];
    format!("{} | {}", error["message"].as_str().unwrap(), error["help"].as_str().unwrap_or_default())
}

/// Nothing half-written lies about.
fn is_tidy(environment: &TestEnvironment) -> bool {
    let mut names = fs::read_dir(environment.path("")).unwrap().map(|entry| entry.unwrap().file_name());
    let exports = fs::read_dir(environment.path(".flow/exports")).map_or(0, Iterator::count);
    exports == 0 && !names.any(|name| name.to_string_lossy().contains("partial"))
}

/// The log-probabilities of lines.
fn scores(environment: &TestEnvironment, folder: &str, lines: &[Value]) -> Vec<Value> {
    let text = lines.iter().fold(String::new(), |all, line| all + &line.to_string() + "\n");
    environment.write("lines.jsonl", text);
    environment.flow(&["import", folder, "--score", "lines.jsonl"]).succeeded().lines()
}

fn sum(scores: &Value) -> f64 {
    scores["log_probs"].as_array().unwrap().iter().map(|log_p| log_p.as_f64().unwrap()).sum()
}

#[test]
fn an_export_is_the_artifact_tensor_for_tensor() {
    let environment = TestEnvironment::finished();
    let exported = export(&environment, "public", "deep/public", &[]).succeeded().json();
    let found = import(&environment, "deep/public");
    assert_eq!(exported, found);
    assert_eq!((&found["architecture"], &found["dtype"], &found["files"]), (&json!("olmo2"), &json!("f32"), &json!(1)));
    assert_eq!(found["tokenizer"]["entries"], 384);

    // The digest that the merge has recorded of the public model, before a byte of it was exported.
    let blobs = walk(&environment.path(".flow/v1/blobs"));
    let records = blobs.iter().filter_map(|blob| serde_json::from_slice::<Value>(&fs::read(blob).unwrap()).ok());
    let merge = records.into_iter().find(|record| record.get("bundles").is_some()).expect("a merge.json");
    assert_eq!(found["digest"], merge["public_digest"]);

    // And the mixture is the stage's own file, byte for byte.
    let found = export(&environment, "flexolmo", "flexolmo", &["--dtype", "f32"]).succeeded().json();
    assert_eq!((&found["architecture"], &found["top_k"]), (&json!("flex_olmo"), &json!(2)));
    assert_eq!(found["experts"], json!(["public", "bread", "sea", "stars"]));
    let tensors = fs::read(environment.path("flexolmo/model.safetensors")).unwrap();
    assert!(blobs.iter().any(|blob| fs::read(blob).unwrap() == tensors));
    for beside in ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"] {
        let content: Value = serde_json::from_str(&environment.read(&format!("flexolmo/{beside}"))).unwrap();
        assert!(content.is_object(), "{beside}");
    }
    let config: Value = serde_json::from_str(&environment.read("flexolmo/config.json")).unwrap();
    assert_eq!(config["rope_theta"], config["rope_parameters"]["rope_theta"], "older and newer versions read it");
    assert!(config["rope_theta"].is_number());
    assert!(is_tidy(&environment));

    // For people: one screen.
    let text = environment.flow(&["import", "flexolmo"]).succeeded().stdout;
    assert!(text.contains("a FlexOlmo in flexolmo") && text.contains("public, bread, sea, stars"), "{text}");
}

#[test]
fn shards_and_types_are_a_matter_of_files() {
    let environment = TestEnvironment::finished();
    let mut digests = Vec::new();
    for size in ["100kB", "1MB", "5GB"] {
        let found =
            export(&environment, "flexolmo", size, &["--dtype", "bf16", "--shard-bytes", size]).succeeded().json();
        assert_eq!(found["dtype"], "bf16");
        let sharded = environment.path(size).join("model.safetensors.index.json").exists();
        assert_eq!(sharded, found["files"].as_u64().unwrap() > 1, "{found}");
        digests.push((found["digest"].clone(), sharded));
    }
    assert!(digests.iter().all(|(digest, _)| *digest == digests[0].0), "{digests:?}");
    assert!(digests[0].1 && !digests[2].1, "{digests:?}");
}

#[test]
fn what_is_not_in_the_cache_is_not_exported() {
    let environment = TestEnvironment::finished();
    let said = refused(export(&environment, "flexolmo", "out", &["--set", "stages.flexolmo.with.top_k=1"]));
    assert!(said.contains("`flexolmo` is not in the cache"), "{said}");
    assert!(said.contains("`flow run recipe.yaml flexolmo --set stages.flexolmo.with.top_k=1`"), "{said}");
    let fresh = TestEnvironment::fresh();
    let said = refused(export(&fresh, "expert[sea]", "out", &[]));
    assert!(said.contains("`flow run recipe.yaml 'expert[sea]'`"), "{said}");
    assert!(!environment.path("out").exists() && !fresh.path("out").exists());
    assert!(is_tidy(&environment) && is_tidy(&fresh));
}

#[test]
fn what_is_no_model_is_not_exported() {
    let environment = TestEnvironment::finished();
    for (stage, words) in [
        ("corpus[sea]", "kind `curate`, whose artifact is no model"),
        ("btm", "kind `ensemble`"),
        ("expert", "name one of them: expert[bread], expert[sea], expert[stars]"),
        ("flexlmo", "did you mean `flexolmo`?"),
    ] {
        let said = refused(export(&environment, stage, "out", &[]));
        assert!(said.contains(words), "{stage}: {said}");
    }
    assert!(!environment.path("out").exists());
}

#[test]
fn no_folder_is_written_twice() {
    let environment = TestEnvironment::finished();
    fs::create_dir(environment.path("out")).unwrap();
    let _ = export(&environment, "public", "out", &[]).succeeded();
    let before = environment.files("out");
    let said = refused(export(&environment, "soup", "out", &[]));
    assert!(said.contains("out is not empty"), "{said}");
    assert_eq!(environment.files("out"), before);
    let said = refused(export(&environment, "soup", "recipe.yaml", &[]));
    assert!(said.contains("recipe.yaml is no folder"), "{said}");
}

#[test]
fn a_router_bias_is_dropped_only_on_request() {
    let environment = TestEnvironment::finished();
    let plain = export(&environment, "flexolmo", "plain", &[]).succeeded().json();
    for (path, content) in environment.files("plain") {
        let name = path.file_name().unwrap().to_str().unwrap();
        let content = if name == "model.safetensors" { biased(&content) } else { content };
        environment.write(&format!("biased/{name}"), content);
    }
    let found = import(&environment, "biased");
    assert_eq!((&found["router_bias"], &plain["router_bias"]), (&json!(true), &json!(false)));
    assert_ne!(found["digest"], plain["digest"]);

    // A recipe may take such a model over; other programs would run another model than this one.
    environment.recipe(
        "flow: 1\nname: biased\nseed: 1\nstages: { mixture: { kind: import-model, with: { path: biased } } }\n",
    );
    let _ = environment.run(&[]).succeeded();
    let said = refused(export(&environment, "mixture", "out", &[]));
    assert!(said.contains("the router bias of `sea` is -0.5 in layer 0") && said.contains("--drop-bias"), "{said}");
    assert!(!environment.path("out").exists() && is_tidy(&environment));
    let dropped = export(&environment, "mixture", "out", &["--drop-bias"]).succeeded().json();
    assert_eq!((&dropped["router_bias"], &dropped["digest"]), (&json!(false), &plain["digest"]));
}

/// A safetensors file of the tiny mixture with a bias for the expert `sea` in both layers.
fn biased(file: &[u8]) -> Vec<u8> {
    let (length, rest) = file.split_first_chunk::<8>().unwrap();
    let (header, tensors) = rest.split_at(usize::try_from(u64::from_le_bytes(*length)).unwrap());
    let (mut header, mut tensors): (Value, Vec<u8>) = (serde_json::from_slice(header).unwrap(), tensors.to_vec());
    for layer in 0..2 {
        let begin = tensors.len();
        tensors.extend([0f32, 0.0, -0.5, 0.25].iter().flat_map(|bias| bias.to_le_bytes()));
        header[format!("model.layers.{layer}.mlp.gate.bias")] =
            json!({ "dtype": "F32", "shape": [4], "data_offsets": [begin, tensors.len()] });
    }
    let header = header.to_string();
    [&header.len().to_le_bytes()[..], header.as_bytes(), &tensors].concat()
}

#[test]
fn an_exported_expert_knows_its_domain() {
    let environment = TestEnvironment::finished();
    let dense = export(&environment, "expert[sea]", "sea", &[]).succeeded().json();
    let _ = export(&environment, "public", "public", &[]).succeeded();
    assert_eq!(dense["architecture"], "olmo2");
    let lines: Vec<Value> = corpus::documents("sea").iter().take(8).map(|text| json!({ "text": text })).collect();
    let total = |folder: &str| scores(&environment, folder, &lines).iter().map(sum).sum::<f64>();
    let (expert, public) = (total("sea"), total("public"));
    assert!(expert > 0.9 * public && expert < 0.0, "expert {expert}, public {public}");

    // Tokens are scored as their text was, together or alone.
    let by_text = scores(&environment, "sea", &lines);
    let tokens: Vec<Value> = by_text.iter().map(|line| json!({ "tokens": line["tokens"] })).collect();
    assert_eq!(scores(&environment, "sea", &tokens), by_text);
    assert_eq!(scores(&environment, "sea", &tokens[3..4]), by_text[3..4]);
    assert_eq!(by_text[0]["log_probs"].as_array().unwrap().len() + 1, by_text[0]["tokens"].as_array().unwrap().len());
}

/// Changes the recipe: the public model comes from a folder.
fn import_public(environment: &TestEnvironment, folder: &str) {
    environment.edit(
        "kind: pretrain\n    inputs: { tokens: \"tokens[public]\" }\n    with: { model: tiny, tokens: 20K }",
        &format!("kind: import-model\n    with: {{ path: {folder} }}"),
    );
    // Its defaults are for a kind that is no longer there.
    environment.edit("  pretrain: &training\n", "  train-expert:\n");
    environment.edit("  train-expert:\n    <<: *training\n", "");
}

#[test]
fn a_model_that_came_back_is_the_same_public_model() {
    let environment = TestEnvironment::finished();
    let before = environment.artifacts("report/tiny");
    let _ = export(&environment, "public", "exported", &["--shard-bytes", "100kB"]).succeeded();
    import_public(&environment, "exported, model: { preset: tiny, vocab_size: 384 }");
    environment.edit("training: [public, \"expert[*]\"]", "training: [\"expert[*]\"]");
    // The plan knows its size from the recipe.
    assert!(environment.planned("public", &[])["estimate"]["parameters"].as_u64().is_some());
    let _ = environment.run(&[]).succeeded();
    let after = environment.artifacts("report/tiny");
    assert_ne!(before["public"], after["public"], "there is no training curve in it");
    for stage in ["embed", "expert", "individual"].iter().flat_map(|stage| DOMAINS.map(|d| format!("{stage}[{d}]"))) {
        assert_eq!(before[&stage], after[&stage], "{stage}");
    }
    assert_eq!(before["eval-public"], after["eval-public"]);
    // Brought again in other files it is the same, and nothing else is done again.
    let _ = export(&environment, "public", "again", &[]).succeeded();
    environment.edit("path: exported,", "path: again,");
    assert_eq!(environment.runs_again(), super::environment::names(["public"]));
}

#[test]
fn a_folder_that_is_no_model_is_refused_with_what_is_wrong() {
    let environment = TestEnvironment::finished();
    let _ = export(&environment, "public", "good", &[]).succeeded();
    let import = |folder: &str| refused(environment.flow(&["import", folder, "--json"]));
    assert!(import("nowhere").contains("there is no such folder"));
    assert!(import("recipe.yaml").contains("it is no folder"));
    assert!(import("text").contains("it has no `config.json`"));

    let broken = |name: &str, file: &str, change: &dyn Fn(Vec<u8>) -> Vec<u8>| {
        for (path, content) in environment.files("good") {
            let path = path.file_name().unwrap().to_str().unwrap().to_owned();
            let content = if path == file { change(content) } else { content };
            environment.write(&format!("{name}/{path}"), content);
        }
        import(name)
    };
    let said =
        broken("renamed", "model.safetensors", &|bytes| replaced(&bytes, "model.norm.weight", "model.nrom.weight"));
    assert!(said.contains("no such tensor") && said.contains("`model.norm.weight`"), "{said}");
    let said = broken("cut", "model.safetensors", &|bytes| bytes[..bytes.len() / 2].to_vec());
    assert!(said.contains("cut off"), "{said}");
    let said = broken("other", "config.json", &|bytes| replaced(&bytes, "\"olmo2\"", "\"llama\""));
    assert!(said.contains("`model_type` is `llama`"), "{said}");
    let said = broken("scaled", "config.json", &|bytes| replaced(&bytes, "\"default\"", "\"yarn\""));
    assert!(said.contains("only unscaled RoPE is read"), "{said}");
    let said = broken("nan", "model.safetensors", &|mut bytes| {
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
        bytes
    });
    assert!(said.contains("not a finite number"), "{said}");

    // A recipe says it before anything runs.
    import_public(&environment, "other");
    let said = refused(environment.run(&[]));
    assert!(said.contains("public cannot run") && said.contains("llama"), "{said}");
    environment.edit("path: other", "path: good, model: tiny");
    let said = refused(environment.run(&[]));
    assert!(said.contains("its `vocab_size` is 384, not 256"), "{said}");
}

#[test]
fn a_line_that_cannot_be_scored_is_named() {
    let environment = TestEnvironment::finished();
    let _ = export(&environment, "public", "public", &[]).succeeded();
    for (lines, words) in [
        ("{\"tokens\": [1, 2]}\n{\"tokens\": [1, 999]}\n", "line 2 of lines.jsonl: the token 999"),
        ("{\"words\": 3}\n", "line 1 of lines.jsonl: unknown field `words`"),
        ("{\"tokens\": [1], \"text\": \"a\"}\n", "either `tokens` or `text`"),
        (&format!("{}\n", json!({ "tokens": vec![5; 513] })), "513 tokens are more than the model's 512"),
    ] {
        environment.write("lines.jsonl", lines);
        let said = refused(environment.flow(&["import", "public", "--score", "lines.jsonl", "--json"]));
        assert!(said.contains(words), "{said}");
    }
    let said = refused(environment.flow(&["import", "public", "--score", "nowhere.jsonl", "--json"]));
    assert!(said.contains("nowhere.jsonl"), "{said}");
    let said =
        refused(environment.flow(&["import", "public", "--score", "lines.jsonl", "--device", "abacus", "--json"]));
    assert!(said.contains("abacus"), "{said}");
}

/// Bytes with the first of two texts of one length, or in JSON of any, by the other.
fn replaced(bytes: &[u8], old: &str, new: &str) -> Vec<u8> {
    let at = bytes.windows(old.len()).position(|window| window == old.as_bytes()).expect("it is there");
    [&bytes[..at], new.as_bytes(), &bytes[at + old.len()..]].concat()
}
