//! What is said about a recipe that is wrong: where, what, and the word that was probably meant. Exit code 2, and nothing is done.
//!
//! Each message is kept in `snapshots/`; look at what changes there as a person who made the mistake would.

use std::collections::BTreeSet;

use insta::assert_snapshot;

use super::environment::{Ended, TestEnvironment};

/// A short recipe, so that a message shows the line that matters.
const SHORT: &str = r#"flow: 1
name: short

vars:
  data: text

public: { title: Public }
domains:
  sea: { title: The sea }

stages:
  corpus:
    foreach: [public, domains]
    kind: curate
    with: { domain: "${domain}", data: "${data}" }
  tokenizer:
    kind: train-tokenizer
    inputs: { corpus: ["corpus[public]"] }
    with: { vocab_size: 384 }
  tokens:
    foreach: [public, domains]
    kind: tokenize
    inputs: { corpus: "corpus[each]", tokenizer: tokenizer }
  public:
    kind: pretrain
    inputs: { tokens: "tokens[public]" }
    with:
      model: tiny
      tokens: 20K
      batch: { sequences: 8, length: 64 }
      schedule: { shape: constant, warmup_steps: 5 }

profiles:
  nano:
    stages: { public: { with: { tokens: 10K } } }
"#;

/// [`SHORT`] with one thing wrong, run; it must be refused before anything is done.
fn refused(old: &str, new: &str, more: &[&str]) -> String {
    let environment = TestEnvironment::empty();
    environment.recipe(SHORT);
    environment.write("text/public/a.txt", "Once upon a time there was a town by a river. ".repeat(9));
    environment.write("text/sea/a.txt", "The anchor was weighed and the sails were set. ".repeat(9));
    if !old.is_empty() {
        environment.edit(old, new);
    }
    refused_in(&environment, more)
}

fn refused_in(environment: &TestEnvironment, more: &[&str]) -> String {
    let args = [&["run", "recipe.yaml", "--threads", "2"], more].concat();
    let ended: Ended = environment.flow(&args);
    assert!(!environment.path(".flow/runs").exists(), "a run was begun: {ended:#?}");
    assert_eq!(environment.records(".flow"), 0);
    let shown = ended.snapshot();
    let _ = ended.with_code(2);
    // Each place is shown once, however many instances of a stage it is wrong for.
    let places: Vec<&str> = shown.lines().filter(|line| line.contains("╭─[")).collect();
    assert_eq!(places.len(), places.iter().collect::<BTreeSet<_>>().len(), "{shown}");
    shown
}

#[test]
fn a_top_level_key_is_misspelt() {
    assert_snapshot!(refused("domains:\n", "domans:\n", &[]));
}

#[test]
fn a_param_is_misspelt() {
    assert_snapshot!(refused("vocab_size:", "vocab_sise:", &[]));
}

#[test]
fn a_params_field_is_misspelt() {
    assert_snapshot!(refused("warmup_steps: 5", "warmup_step: 5", &[]));
}

#[test]
fn a_value_is_no_word_of_the_list() {
    assert_snapshot!(refused("shape: constant", "shape: constnat", &[]));
}

#[test]
fn a_param_of_a_foreach_stage_is_wrong_once() {
    assert_snapshot!(refused("data: \"${data}\" }", "data: \"${data}\", max_bytes: 1M }", &[]));
}

#[test]
fn a_default_is_wrong_once() {
    assert_snapshot!(refused(
        "public: { title",
        "defaults:\n  curate: { heldout: { shares: 0.1 } }\n\npublic: { title",
        &[]
    ));
}

#[test]
fn a_kind_is_unknown() {
    assert_snapshot!(refused("kind: pretrain", "kind: pretrian", &[]));
}

#[test]
fn a_kind_is_missing() {
    assert_snapshot!(refused("    kind: pretrain\n", "", &[]));
}

#[test]
fn a_reference_leads_nowhere() {
    assert_snapshot!(refused("tokenizer: tokenizer }", "tokenizer: tokeniser }", &[]));
}

#[test]
fn a_reference_leads_to_a_domain_that_is_not_there() {
    assert_snapshot!(refused("\"tokens[public]\"", "\"tokens[see]\"", &[]));
}

#[test]
fn stages_wait_for_each_other() {
    assert_snapshot!(refused("corpus: [\"corpus[public]\"] }", "corpus: [\"corpus[public]\", public] }", &[]));
}

#[test]
fn tokens_are_given_in_bytes() {
    assert_snapshot!(refused("tokens: 20K", "tokens: 5MiB", &[]));
}

#[test]
fn a_number_is_text() {
    assert_snapshot!(refused("vocab_size: 384", "vocab_size: many", &[]));
}

#[test]
fn a_map_is_a_list() {
    assert_snapshot!(refused("with: { vocab_size: 384 }", "with: [384]", &[]));
}

#[test]
fn a_param_that_is_needed_is_not_given() {
    assert_snapshot!(refused("      tokens: 20K\n", "", &[]));
}

#[test]
fn a_number_is_out_of_its_range() {
    assert_snapshot!(refused("data: \"${data}\" }", "data: \"${data}\", heldout: { share: 1.5 } }", &[]));
}

#[test]
fn an_included_file_is_missing() {
    assert_snapshot!(refused("sea: { title: The sea }", "sea: !include domains/sea.yaml", &[]));
}

#[test]
fn an_included_file_is_wrong() {
    let environment = TestEnvironment::empty();
    environment.recipe(&SHORT.replace("sea: { title: The sea }", "sea: !include domains/sea.yaml"));
    environment.write("domains/sea.yaml", "title: The sea\nwhit:\n  corpus: { max_bytes: 1MB }\n");
    assert_snapshot!(refused_in(&environment, &[]));
}

#[test]
fn a_profile_is_not_there() {
    assert_snapshot!(refused("", "", &["--profile", "nan"]));
}

#[test]
fn a_set_leads_nowhere() {
    assert_snapshot!(refused("", "", &["--set", "stages.publik.with.tokens=10K"]));
}

#[test]
fn a_set_names_a_param_that_is_not_there() {
    assert_snapshot!(refused("", "", &["--set", "stages.public.with.token=10K"]));
}

#[test]
fn a_set_has_no_value() {
    assert_snapshot!(refused("", "", &["--set", "tokens"]));
}

#[test]
fn a_variable_is_unknown() {
    assert_snapshot!(refused("\"${data}\"", "\"${dta}\"", &[]));
}

#[test]
fn an_input_has_a_role_that_the_kind_does_not() {
    assert_snapshot!(refused("inputs: { tokens: \"tokens[public]\" }", "inputs: { token: \"tokens[public]\" }", &[]));
}

#[test]
fn an_input_that_is_needed_is_missing() {
    assert_snapshot!(refused("corpus: \"corpus[each]\", tokenizer: tokenizer", "corpus: \"corpus[each]\"", &[]));
}

#[test]
fn an_input_takes_one_and_gets_many() {
    assert_snapshot!(refused("\"tokens[public]\"", "\"tokens[*]\"", &[]));
}

#[test]
fn a_stage_on_the_command_line_is_not_there() {
    assert_snapshot!(refused("", "", &["tokenzier"]));
}

#[test]
fn the_recipe_is_not_there() {
    let environment = TestEnvironment::empty();
    assert_snapshot!(refused_in(&environment, &[]));
}

#[test]
fn the_recipe_is_a_folder() {
    let environment = TestEnvironment::empty();
    environment.write("recipe.yaml/a.yaml", "");
    assert_snapshot!(refused_in(&environment, &[]));
}

#[test]
fn the_recipe_is_empty() {
    let environment = TestEnvironment::empty();
    environment.recipe("");
    assert_snapshot!(refused_in(&environment, &[]));
}

#[test]
fn the_recipe_is_no_yaml() {
    assert_snapshot!(refused("{ title: The sea }", "{ title: The sea", &[]));
}

#[test]
fn the_recipe_has_a_tab() {
    assert_snapshot!(refused("    kind: pretrain", "\tkind: pretrain", &[]));
}

#[test]
fn a_key_is_there_twice() {
    assert_snapshot!(refused("    kind: pretrain", "    kind: pretrain\n    kind: curate", &[]));
}

#[test]
fn a_source_folder_is_missing() {
    assert_snapshot!(refused("", "", &["--set", "data=txet"]));
}

#[test]
fn a_package_is_not_locked() {
    let environment = TestEnvironment::empty();
    let cargo = "sources: [{ cargo-sources: { manifest: Cargo.toml, packages: [serd], include: [\"**/*.md\"] } }]";
    environment.recipe(&SHORT.replace("data: \"${data}\"", cargo));
    environment.write("Cargo.toml", "[package]\nname = \"here\"\nversion = \"0.1.0\"\nedition = \"2024\"\n");
    environment.write("src/lib.rs", "");
    environment.write(
        "Cargo.lock",
        "version = 4\n\n[[package]]\nname = \"here\"\nversion = \"0.1.0\"\n\n[[package]]\nname = \"serde\"\nversion = \"1.0.0\"\n\
         source = \"registry+https://github.com/rust-lang/crates.io-index\"\n",
    );
    assert_snapshot!(refused_in(&environment, &[]));
}

#[test]
fn a_device_is_unknown() {
    assert_snapshot!(refused("", "", &["--device", "gpu"]));
}

#[test]
#[cfg(not(any(feature = "cuda", feature = "wgpu")))]
fn a_device_is_not_built_in() {
    assert_snapshot!(refused("", "", &["--device", "cuda"]));
    assert_snapshot!(refused("stages:\n", "device: wgpu\nstages:\n", &[]));
}

#[test]
fn all_that_is_wrong_with_the_graph_is_said_at_once() {
    let environment = TestEnvironment::empty();
    let wrong = SHORT.replace("name: short", "nmae: short").replace("tokenizer: tokenizer", "tokenizer: tokeniser");
    environment.recipe(&wrong.replace("\"${data}\"", "\"${dta}\""));
    assert_snapshot!(refused_in(&environment, &[]));
}

#[test]
fn all_that_is_wrong_with_the_params_is_said_at_once() {
    let environment = TestEnvironment::empty();
    let wrong = SHORT.replace("vocab_size: 384", "vocab_sise: 384").replace("tokens: 20K", "tokens: 20 K sheep");
    environment.recipe(&wrong.replace("kind: tokenize\n", "kind: tokenise\n"));
    assert_snapshot!(refused_in(&environment, &[]));
}
