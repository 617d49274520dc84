//! A made-up run for the tests: four domains, every kind of model, numbers by a rule.

use std::collections::BTreeMap;

use serde_json::json;

use super::*;

const DOMAINS: [(&str, &str); 4] = [("legal", "Legal"), ("public", "Public"), ("c", "C"), ("rust", "Rust")];

fn estimate(value: f64, half: f64) -> Estimate {
    Estimate { value, low: value - half, high: value + 1.1 * half }
}

/// `bits` and the share of right answers by domain, in the order c, legal, public, rust.
fn evaluation(bits: [f64; 4], right: [f64; 4]) -> Evaluation {
    let mut domains = BTreeMap::new();
    for (at, name) in ["c", "legal", "public", "rust"].into_iter().enumerate() {
        let result = DomainResult {
            bits_per_byte: Some(estimate(bits[at], 0.021)),
            bytes: 100_000 + 321 * at as u64,
            cloze: Some(estimate(right[at], 0.04)),
            documents: 120 + at as u64,
            items: 200,
            tokens: 30_000 + at as u64,
        };
        domains.insert(name.to_owned(), result);
    }
    let mean = |values: [f64; 4]| Some(values.iter().sum::<f64>() / 4.0);
    Evaluation { average: Average { bits_per_byte: mean(bits), cloze: mean(right) }, domains, format: 1 }
}

fn model(label: &str, title: &str, group: ModelGroup, bits: [f64; 4], right: [f64; 4]) -> ModelResult {
    let left_out = label.strip_prefix("optout.").map(str::to_owned);
    ModelResult {
        label: label.into(),
        group,
        title: title.into(),
        left_out,
        evaluation: evaluation(bits, right),
        scores: BTreeMap::new(),
    }
}

pub(super) fn input() -> ReportInput {
    use ModelGroup::{Combined, Individual, OptOut};
    let results = vec![
        model("individual.rust", "Rust", Individual, [2.401, 2.322, 2.298, 1.512], [0.41, 0.38, 0.44, 0.615]),
        model("public", "Public", Individual, [2.105, 2.013, 1.811, 2.072], [0.47, 0.44, 0.565, 0.46]),
        model("individual.legal", "Legal", Individual, [2.733, 0.931, 2.214, 2.604], [0.38, 0.72, 0.43, 0.36]),
        model("individual.c", "C", Individual, [1.604, 2.411, 2.302, 2.119], [0.605, 0.37, 0.42, 0.47]),
        model("soup", "Model soup", Combined, [1.99, 1.61, 1.905, 1.93], [0.5, 0.52, 0.535, 0.495]),
        model("btm", "BTM (top-2)", Combined, [1.6, 0.9312, 1.81, 1.503], [0.6, 0.735, 0.56, 0.62]),
        model("flexolmo", "FlexOlmo", Combined, [1.588, 0.94, 1.799, 1.501], [0.61, 0.715, 0.57, 0.635]),
        model("optout.rust", "FlexOlmo without Rust", OptOut, [1.591, 0.941, 1.8, 1.998], [0.605, 0.715, 0.57, 0.475]),
        model("optout.c", "FlexOlmo without C", OptOut, [2.041, 0.94, 1.801, 1.509], [0.49, 0.715, 0.565, 0.63]),
        model(
            "optout.legal",
            "FlexOlmo without Legal",
            OptOut,
            [1.59, 1.973, 1.795, 1.503],
            [0.61, 0.46, 0.575, 0.635],
        ),
    ];
    let members = DOMAINS.iter().map(|(name, title)| Member { name: (*name).into(), title: (*title).into() }).collect();
    let corpora = DOMAINS
        .iter()
        .enumerate()
        .map(|(at, (name, _))| {
            let at = at as u64;
            let statistics = json!({
                "format": 1, "domain": name, "read": {"documents": 1510 + 10 * at, "bytes": 5_000_000 + at},
                "kept": {"documents": 1200 + 10 * at, "bytes": 4_400_000 + at},
                "dropped": {
                    "too-short": {"documents": 110, "bytes": 1900, "examples": []},
                    "exact-duplicate": {"documents": 150, "bytes": 500_000, "examples": []},
                    "near-duplicate": {"documents": 50, "bytes": 98_100, "examples": []}
                },
                "splits": {
                    "train": {"documents": 1080 + 10 * at, "rows": 1090 + 10 * at, "bytes": 4_000_000 + at, "shards": 1},
                    "heldout": {"documents": 120, "rows": 120, "bytes": 400_000, "shards": 1}
                }
            });
            ((*name).to_owned(), statistics)
        })
        .collect();
    let run = |label: &str, from: f64, to: f64, steps: u64| TrainingRun {
        label: label.to_owned(),
        metrics: (1..=steps)
            .map(|step| {
                // Noise without a random number: the low bits of a product.
                let noise = f64::from((step * 7919 % 101) as u32) / 101.0 - 0.5;
                let done = step as f64 / steps as f64;
                let loss = to + (from - to) * (-8.0 * done).exp() + 0.12 * noise;
                StepMetrics {
                    step,
                    tokens: 8192 * step,
                    loss,
                    lr: Some(0.003 * (1.0 - done)),
                    grad_norm: Some(1.0 + noise),
                    validation_loss: (label == "public" && step % 80 == 0).then_some(loss + 0.25),
                }
            })
            .collect(),
    };
    let training = vec![
        run("public", 7.6, 3.3, 160),
        run("individual.c", 4.4, 2.6, 80),
        run("individual.legal", 4.1, 1.6, 80),
        run("individual.rust", 4.6, 2.4, 80),
    ];
    ReportInput { members, results, corpora, training }
}

/// As many letters as a digest has.
fn digest(seed: u64) -> String {
    let part = |part: u64| format!("{:016x}", (seed + part).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    [part(1), part(2), part(3), part(4)].concat()
}

pub(super) fn lineage() -> Lineage {
    let source = || SourceLine { digest: digest(300), place: "data/rust".into(), identity: "{\"files\":3}".into() };
    let stage = |at: u64, name: &str, kind: &str, inputs: &[(&str, u64)]| StageLine {
        name: name.into(),
        kind: kind.into(),
        kind_version: 1,
        key: digest(100 + at),
        artifact: digest(at),
        bytes: 1500 * at * at * at,
        seconds: 7.4 * at as f64 * at as f64,
        started: Some(format!("2025-01-01T12:00:{at:02}Z")),
        ended: Some(format!("2025-01-01T13:00:{at:02}Z")),
        host: Some("host".into()),
        inputs: inputs.iter().map(|(role, at)| ((*role).to_owned(), digest(*at))).collect(),
        sources: (kind == "curate").then(source).into_iter().collect(),
        params: json!({"steps": 80, "lr": 0.003, "about": "a < b"}),
        cached: at < 3,
        accepted: (at == 2).then(|| AcceptedLine {
            reason: "only a log line was changed".into(),
            made_for: Some(digest(400)),
            changes: vec!["seed: 1 → 2".into()],
        }),
    };
    Lineage {
        recipe: "crates-nano".into(),
        seed: 6198,
        profile: Some("nano".into()),
        flow_version: "0.1.0".into(),
        numerics: Numerics {
            device: "cpu".into(),
            dtype: "f32".into(),
            promise: "The same recipe gives the same bytes, with any number of threads, on any machine of this instruction set."
                .into(),
        },
        svg: "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"1\" height=\"1\"></svg>\n".into(),
        mermaid: "flowchart LR\n  n0[\"corpus\"] --> n1[\"report\"]\n".into(),
        stages: vec![
            stage(1, "corpus[rust]", "curate", &[]),
            stage(2, "tokens[rust]", "tokenize", &[("corpus", 1), ("tokenizer", 77)]),
            stage(3, "public", "pretrain", &[("tokens", 2)]),
            stage(4, "expert[rust]", "train-expert", &[("anchor", 3), ("tokens", 2)]),
        ],
        recipe_text: "{\n  \"flow\": 1,\n  \"name\": \"crates-nano\",\n  \"seed\": 6198\n}".into(),
        recipe_digest: digest(500),
    }
}
