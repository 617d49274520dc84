//! What is certain to fail is refused when the recipe is planned, and not when everything upstream has run: inputs of another sort,
//! and params that cannot be, alone, beside each other or with the stages upstream.

use std::fmt::Write as _;

use insta::assert_snapshot;

use super::environment::TestEnvironment;

/// All sorts of stages, to which one more is added.
const BASE: &str = r"flow: 1
name: certain
stages:
  c: { kind: curate, with: { domain: a, data: text } }
  d: { kind: curate, with: { domain: a, data: text, heldout: { share: 0 } } }
  t: { kind: train-tokenizer, inputs: { corpus: [c] }, with: { vocab_size: 400 } }
  k: { kind: tokenize, inputs: { corpus: c, tokenizer: t } }
  h: { kind: tokenize, inputs: { corpus: c, tokenizer: t }, with: { split: heldout } }
  p: { kind: pretrain, inputs: { tokens: k }, with: { model: { preset: tiny, max_positions: 64 }, tokens: 2K, batch: { sequences: 2, length: 64 }, schedule: { warmup_steps: 2 } } }
  o: { kind: pretrain, inputs: { tokens: k }, with: { model: { preset: tiny, max_positions: 64 }, tokens: 4K, batch: { sequences: 2, length: 64 }, schedule: { warmup_steps: 2 } } }
  m: { kind: embed, inputs: { model: p, tokens: k } }
  e: { kind: train-expert, inputs: { anchor: p, tokens: k, embedding: m, public_embedding: m }, with: { name: sea, tokens: 2K, batch: { sequences: 2, length: 64 }, schedule: { warmup_steps: 2 } } }
  f: { kind: merge, inputs: { public: p, public_embedding: m, experts: [e] } }
  b: { kind: ensemble, inputs: { public: p, experts: [e] } }
";

/// A snapshot without the cases' text in its head: they stand in it.
macro_rules! shown {
    ($told:expr) => {
        insta::with_settings!({ omit_expression => true }, { assert_snapshot!($told) })
    };
}

/// What `flow plan` says of [`BASE`] with the stages of `more`, a line each: place, message and help of every error.
fn told(cases: &[&str]) -> String {
    let environment = TestEnvironment::empty();
    environment.write("text/a/a.txt", "Once upon a time there was a town by a river. ".repeat(9));
    let mut out = String::new();
    for more in cases {
        environment.recipe(&format!("{BASE}  {more}\n"));
        let ended = environment.flow(&["plan", "recipe.yaml", "--json"]);
        let errors = ended.json()["errors"].as_array().cloned().unwrap_or_default();
        assert!(ended.code == Some(2) && !errors.is_empty(), "{more} is planned: {ended:#?}");
        writeln!(out, "{more}").unwrap();
        for error in errors {
            let place = (error["place"]["line"].as_u64().unwrap(), error["place"]["column"].as_u64().unwrap());
            // The added stage stands last, indented by two.
            let line = format!("  {more}");
            let last = (BASE.lines().count() + 1) as u64;
            let at: String = line.chars().skip(place.1 as usize - 1).take(18).collect();
            assert_eq!(place.0, last, "{error}");
            writeln!(out, "  at `{at}`: {}", error["message"].as_str().unwrap()).unwrap();
            if let Some(help) = error["help"].as_str() {
                writeln!(out, "    help: {help}").unwrap();
            }
        }
    }
    out
}

#[test]
fn what_upstream_makes_is_of_another_sort() {
    shown!(told(&[
        "x: { kind: tokenize, inputs: { corpus: c, tokenizer: c } }",
        "x: { kind: train-tokenizer, inputs: { corpus: [c, k] } }",
        "x: { kind: evaluate, inputs: { model: t, corpora: [c] } }",
        "x: { kind: merge, inputs: { public: f, public_embedding: m, experts: [p] } }",
        "x: { kind: embed, inputs: { model: p, tokens: c } }",
        "x: { kind: pretrain, inputs: { tokens: c }, with: { tokens: 20B } }",
        "x: { kind: report, inputs: { flexolmo: f } }",
    ]));
}

#[test]
fn params_cannot_be() {
    shown!(told(&[
        "x: { kind: curate, with: { domain: a, data: text, heldout: { share: -1 } } }",
        "x: { kind: curate, with: { domain: a, data: text, dedup: { minhash: { bands: 0 } } } }",
        "x: { kind: train-tokenizer, inputs: { corpus: [c] }, with: { vocab_size: 0 } }",
        "x: { kind: train-tokenizer, inputs: { corpus: [c] }, with: { vocab_size: 1B } }",
        "x: { kind: tokenize, inputs: { corpus: c, tokenizer: t }, with: { shard_tokens: 0 } }",
        "x: { kind: pretrain, inputs: { tokens: k }, with: { tokens: 2M } }",
        "x: { kind: pretrain, inputs: { tokens: k }, with: { tokens: 30K, model: tiny, batch: { sequences: 2, length: 64, accumulate: 0 } } }",
        "x: { kind: pretrain, inputs: { tokens: k }, with: { tokens: 30K, model: tiny, batch: { sequences: 2, length: 64 } } }",
        "x: { kind: evaluate, inputs: { model: p, corpora: [c] }, with: { cloze: { choices: 1000000 } } }",
        "x: { kind: evaluate, inputs: { model: p, corpora: [c] }, with: { bits_per_byte: { length: 64, stride: 65 } } }",
        "x: { kind: evaluate, inputs: { model: p, corpora: [c] }, with: { bootstrap: { confidence: 1 } } }",
        "x: { kind: evaluate, inputs: { model: p, corpora: [c] }, with: { bootstrap: { resamples: 4000000000 } } }",
        "x: { kind: evaluate, inputs: { model: p, corpora: [c] }, with: { cloze: { context_bytes: 9223372036854775808, continuation_bytes: 9223372036854775808 } } }",
        "x: { kind: curate, with: { domain: a, data: text }, resources: { timeout: 0s } }",
        "x: { kind: curate, with: { domain: '', data: text } }",
        "x: { kind: curate, with: { domain: .., data: text } }",
        "x: { kind: curate, with: { domain: /etc, data: text } }",
        "x: { kind: curate, with: { domain: a/../../b, data: text } }",
        "x: { kind: curate, with: { domain: '*', data: text } }",
        "x: { kind: train-expert, inputs: { anchor: p, tokens: k, embedding: m, public_embedding: m }, with: { name: ../x, tokens: 2K, batch: { length: 64 }, schedule: { warmup_steps: 0 } } }",
    ]));
}

#[test]
fn params_do_not_go_with_what_is_upstream() {
    shown!(told(&[
        "x: { kind: pretrain, inputs: { tokens: k }, with: { tokens: 2K, schedule: { warmup_steps: 0 }, model: { preset: pico, hidden_size: 32, num_heads: 3 } } }",
        "x: { kind: pretrain, inputs: { tokens: k }, with: { tokens: 2K, schedule: { warmup_steps: 0 }, model: { preset: pico, ffn_hidden: 99999999 } } }",
        "x: { kind: pretrain, inputs: { tokens: k }, with: { tokens: 2K, schedule: { warmup_steps: 0 }, model: { preset: pico, vocab_size: 399 } } }",
        "x: { kind: pretrain, inputs: { tokens: k }, with: { tokens: 2K, schedule: { warmup_steps: 0 }, model: { preset: pico, max_positions: 32 }, batch: { length: 64 } } }",
        "x: { kind: pretrain, inputs: { tokens: k, init: p }, with: { tokens: 2K, schedule: { warmup_steps: 0 }, batch: { length: 65 } } }",
        "x: { kind: train-expert, inputs: { anchor: p, tokens: k, embedding: m, public_embedding: m }, with: { name: a, tokens: 2K, schedule: { warmup_steps: 0 } } }",
        "x: { kind: pretrain, inputs: { tokens: k, init: p }, with: { tokens: 2K, batch: { length: 64 }, schedule: { warmup_steps: 0 }, validation: { every: 9 } } }",
        "x: { kind: pretrain, inputs: { tokens: k, init: p, validation: h }, with: { tokens: 2K, batch: { length: 64 }, schedule: { warmup_steps: 0 } } }",
        "x: { kind: pretrain, inputs: { tokens: k, init: p, validation: k }, with: { tokens: 2K, batch: { length: 64 }, schedule: { warmup_steps: 0 }, validation: {} } }",
        "x: { kind: embed, inputs: { model: p, tokens: h } }",
        "x: { kind: train-expert, inputs: { anchor: p, tokens: k, embedding: m, public_embedding: m }, with: { name: a, tokens: 2K, batch: { length: 64 }, schedule: { warmup_steps: 0 }, public_share: 0.5 } }",
        "x: { kind: evaluate, inputs: { model: p, corpora: [c] }, with: { without: [zz] } }",
        "x: { kind: evaluate, inputs: { model: f, corpora: [c] }, with: { without: [sea, zz] } }",
        "x: { kind: evaluate, inputs: { model: f, corpora: [c] }, with: { without: [public, sea] } }",
        "x: { kind: evaluate, inputs: { model: b, corpora: [c] }, with: { without: [sea] } }",
        "x: { kind: evaluate, inputs: { model: f, expert: e, corpora: [c] } }",
        "x: { kind: evaluate, inputs: { model: f, corpora: [c, d] } }",
        "x: { kind: tokenize, inputs: { corpus: d, tokenizer: t }, with: { split: heldout } }",
        "x: { kind: merge, inputs: { public: o, public_embedding: m, experts: [e] } }",
        "x: { kind: soup, inputs: { public: o, experts: [e] } }",
        "x: { kind: ensemble, inputs: { public: o, experts: [e] } }",
        "x: { kind: evaluate, inputs: { model: o, expert: e, corpora: [c] } }",
        "x: { kind: soup, inputs: { public: p, experts: [e] }, with: { weights: softmax, include_public: false } }",
    ]));
}

/// What can work, though it looks odd, is planned.
#[test]
fn what_may_work_is_not_refused() {
    let environment = TestEnvironment::empty();
    environment.write("text/a/a.txt", "Once upon a time there was a town by a river. ".repeat(9));
    environment.recipe(&format!(
        "{BASE}{}",
        r"  i: { kind: import-tokenizer, with: { path: absent.json } }
  j: { kind: tokenize, inputs: { corpus: c, tokenizer: i } }
  q: { kind: pretrain, inputs: { tokens: j, init: f }, with: { tokens: 2K, batch: { length: 64 }, schedule: { warmup_steps: 0 } } }
  v: { kind: pretrain, inputs: { tokens: j, validation: h }, with: { model: tiny, tokens: 2K, batch: { length: 512 }, schedule: { warmup_steps: 0 }, validation: {} } }
  x: { kind: evaluate, inputs: { model: f, corpora: [c] }, with: { without: [sea], bits_per_byte: { length: 1000000000, stride: 1 } } }
  y: { kind: evaluate, inputs: { model: p, expert: e, corpora: [c] } }
  z: { kind: evaluate, inputs: { model: b, corpora: [c] } }
  w: { kind: pretrain, inputs: { tokens: k, validation: h }, with: { model: { preset: tiny, max_positions: 64 }, tokens: 2K, batch: { sequences: 2, length: 64 }, schedule: { warmup_steps: 2 }, validation: {} } }
  u: { kind: merge, inputs: { public: w, public_embedding: m, experts: [e] } }
"
    ));
    let planned = environment.flow(&["plan", "recipe.yaml", "--json"]);
    assert!(planned.json()["errors"].is_null(), "{planned:#?}");
}

#[test]
fn a_list_stands_where_fields_belong() {
    shown!(told(&[
        "x: { kind: curate, with: { domain: a, data: text, heldout: [0.1] } }",
        "x: { kind: curate, with: { domain: a, sources: [{ files: [text] }] } }",
        "x: { kind: curate, with: { domain: a, data: text }, resources: [1] }",
        "x: { kind: evaluate, inputs: { model: p, corpora: [c] }, with: { cloze: [20] } }",
        "x: { kind: pretrain, inputs: { tokens: k }, with: { tokens: 2K, batch: [4, 64] } }",
        "x: { kind: pretrain, inputs: { tokens: k }, with: { tokens: 2K, schedule: [cosine] } }",
        "x: { kind: pretrain, inputs: { tokens: k }, with: { tokens: 1e30 } }",
    ]));
}
