//! There and back, and every field that is refused.

use super::*;
use proptest::prelude::*;

pub(crate) fn small() -> ModelConfig {
    ModelConfig {
        vocab_size: 64,
        hidden_size: 16,
        num_layers: 2,
        num_heads: 2,
        head_dim: 8,
        ffn_hidden: 24,
        rope_theta: 500_000.0,
        norm_eps: 1e-6,
        max_positions: 128,
        eos_token_id: 0,
        pad_token_id: Some(1),
        experts: None,
    }
}

fn mixture() -> ModelConfig {
    small().with_experts(Mixture::of(["news".into(), "math".into()], 2))
}

fn edited(config: &ModelConfig, key: &str, value: Value) -> Result<ModelConfig> {
    let mut map = config.to_hf("float32").as_object().unwrap().clone();
    if value == json!("ABSENT") {
        map.remove(key);
    } else {
        map.insert(key.into(), value);
    }
    ModelConfig::from_hf(&map, "config.json")
}

#[test]
fn hugging_face_and_back() {
    for config in [small(), mixture(), ModelConfig { pad_token_id: None, ..small() }] {
        let value = config.to_hf("bfloat16");
        assert_eq!(ModelConfig::from_hf(value.as_object().unwrap(), "x").unwrap(), config);
    }
}

#[test]
fn the_written_form_is_golden() {
    let digest = crate::weights::Digest::of(json::text(&mixture().to_hf("float32")).as_bytes());
    assert_eq!(digest.to_string(), "966b216785fd82d5e6f7ace278c51b7c13a58085e3b42428bdc73fb30a6dcc7b");
}

#[test]
fn rope_is_read_in_both_spellings() {
    let newer = json!({ "rope_theta": 1e4, "rope_type": "default" });
    assert!(edited(&small(), "rope_theta", json!(1e4)).unwrap_err().to_string().contains("rope_parameters"));
    assert_eq!(edited(&small(), "rope_theta", json!("ABSENT")).unwrap(), small());
    assert_eq!(edited(&small(), "rope_parameters", json!("ABSENT")).unwrap(), small());
    assert!(edited(&small(), "rope_parameters", newer).is_err());
    let scaled = json!({ "rope_theta": 5e5, "rope_type": "yarn", "factor": 8.0 });
    assert!(edited(&small(), "rope_parameters", scaled).unwrap_err().to_string().contains("unscaled"));
}

#[test]
fn what_would_change_the_numbers_is_refused() {
    for (key, value, words) in [
        ("model_type", json!("llama"), "`llama`"),
        ("hidden_act", json!("gelu"), "silu"),
        ("hidden_act", json!("ABSENT"), "not given"),
        ("tie_word_embeddings", json!(true), "tie_word_embeddings"),
        ("attention_bias", json!(true), "attention_bias"),
        ("attention_dropout", json!(0.1), "attention_dropout"),
        ("num_key_value_heads", json!(1), "grouped-query"),
        ("norm_topk_prob", json!(true), "norm_topk_prob"),
        ("rope_scaling", json!({ "factor": 2 }), "rope_scaling"),
        ("quantization_config", json!({}), "quantization_config"),
        ("clip_qkv", json!(8), "clip_qkv"),
        ("hidden_size", json!(17), "heads"),
        ("hidden_size", json!(-1), "whole number"),
        ("hidden_size", json!("ABSENT"), "not given"),
        ("head_dim", json!(7), "heads"),
        ("vocab_size", json!(0), "vocabulary"),
        ("vocab_size", json!(u64::MAX), "vocabulary"),
        ("num_attention_heads", json!(0), "heads"),
        ("num_hidden_layers", json!(1e30), "whole number"),
        ("rms_norm_eps", json!(0.0), "epsilon"),
        ("rms_norm_eps", json!("1e-6"), "number"),
        ("rope_theta", json!(true), "number"),
        ("eos_token_id", json!([1, 2]), "one token"),
        ("eos_token_id", json!(null), "eos_token_id"),
        ("eos_token_id", json!(64), "64 entries"),
        ("pad_token_id", json!(64), "64 entries"),
        ("num_experts", json!(0), "0 experts"),
        ("num_experts", json!(4), "names"),
        ("num_experts_per_tok", json!(4), "4 of 3"),
        ("flow", json!({ "experts": ["public", "a", "a"] }), "two experts"),
        ("flow", json!({ "experts": ["a", "public", "b"] }), "first expert"),
        ("flow", json!({ "experts": ["public", "../a", "b"] }), "../a"),
        ("flow", json!({ "expert": [] }), "unknown field"),
    ] {
        let error = edited(&mixture(), key, value.clone()).expect_err(&format!("{key}: {value}")).to_string();
        assert!(error.contains(words), "{key}: {value} gives: {error}");
    }
}

#[test]
fn a_foreign_mixture_gets_names() {
    let read = edited(&mixture(), "flow", json!("ABSENT")).unwrap();
    assert_eq!(read.experts.unwrap().names, ["public", "expert-1", "expert-2"]);
}

#[test]
fn the_reference_configurations_are_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/reference");
    for (case, experts) in [("olmo2-dense", None), ("flexolmo-3-top2", Some((3, 2))), ("flexolmo-4-top4", Some((4, 4)))]
    {
        let path = folder.join(case).join("config.json");
        if !path.exists() {
            println!("skipped: {} is not there", path.display());
            return;
        }
        let config = ModelConfig::read(&path).unwrap();
        assert_eq!((config.hidden_size, config.rope_theta), (64, 5e5));
        assert_eq!(config.experts.map(|mixture| (mixture.count, mixture.top_k)), experts);
    }
}

proptest! {
    #[test]
    fn no_json_panics(key in "[a-z_]{1,24}", number in any::<f64>(), which in 0..4u8) {
        let keys: Vec<String> = mixture().to_hf("float32").as_object().unwrap().keys().cloned().collect();
        let key = if which > 0 { keys[key.len() * 7 % keys.len()].clone() } else { key };
        let value = if which == 3 { json!([number]) } else { json!(number) };
        let _ = edited(&mixture(), &key, value);
    }
}
