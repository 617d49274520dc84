//! Model folders and bundles from strangers: a coordinator merges what others send.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

use flow_fuzz::{Meter, Target};
use flow_model::{
    bundle::{self, Bundle, Expert, Provenance},
    config::ModelConfig,
    hf::ModelFolder,
    safetensors::{Dtype, SafeTensors},
    weights::Weight,
};
use serde_json::{Value, json};

#[global_allocator]
static METER: Meter = Meter;

const WORDS: &[&str] = &[
    "\"dtype\":\"F32\"",
    "\"dtype\":\"BF16\"",
    "\"shape\":[]",
    "\"shape\":[18446744073709551615,2]",
    "\"data_offsets\":[0,0]",
    "\"data_offsets\":[8,4]",
    "\"__metadata__\":{}",
    "\"num_hidden_layers\":65536",
    "\"num_experts\":65536",
    "\"weight_map\"",
    "\"../../x\"",
    "1e400",
    "null",
    "{}",
    "[]",
];

/// The smallest model that there is, with its tensors' bytes.
fn config() -> Value {
    json!({
        "architectures": ["Olmo2ForCausalLM"], "model_type": "olmo2", "attention_bias": false, "attention_dropout": 0.0,
        "eos_token_id": 1, "pad_token_id": null, "bos_token_id": null, "head_dim": 2, "hidden_act": "silu", "hidden_size": 2,
        "intermediate_size": 2, "max_position_embeddings": 8, "num_attention_heads": 1, "num_hidden_layers": 1,
        "num_key_value_heads": 1, "rms_norm_eps": 1e-6, "rope_theta": 5e5, "tie_word_embeddings": false, "vocab_size": 4,
    })
}

fn safetensors(tensors: &[(&str, &[usize])]) -> Vec<u8> {
    let mut at = 0;
    let mut header = serde_json::Map::new();
    for (name, shape) in tensors {
        let size = 4 * shape.iter().product::<usize>();
        header.insert((*name).to_owned(), json!({ "dtype": "F32", "shape": shape, "data_offsets": [at, at + size] }));
        at += size;
    }
    let mut text = serde_json::to_vec(&header).unwrap();
    text.resize(text.len().next_multiple_of(8), b' ');
    let values = (0..at / 4).flat_map(|i| (i as f32).to_le_bytes());
    (text.len() as u64).to_le_bytes().into_iter().chain(text.iter().copied()).chain(values).collect()
}

fn model() -> Vec<u8> {
    safetensors(&[
        ("lm_head.weight", &[4, 2]),
        ("model.embed_tokens.weight", &[4, 2]),
        ("model.layers.0.mlp.down_proj.weight", &[2, 2]),
        ("model.layers.0.mlp.gate_proj.weight", &[2, 2]),
        ("model.layers.0.mlp.up_proj.weight", &[2, 2]),
        ("model.layers.0.post_attention_layernorm.weight", &[2]),
        ("model.layers.0.post_feedforward_layernorm.weight", &[2]),
        ("model.layers.0.self_attn.k_norm.weight", &[2]),
        ("model.layers.0.self_attn.k_proj.weight", &[2, 2]),
        ("model.layers.0.self_attn.o_proj.weight", &[2, 2]),
        ("model.layers.0.self_attn.q_norm.weight", &[2]),
        ("model.layers.0.self_attn.q_proj.weight", &[2, 2]),
        ("model.layers.0.self_attn.v_proj.weight", &[2, 2]),
        ("model.norm.weight", &[2]),
    ])
}

#[test]
fn tensors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    Target::new("safetensors").seed(model()).seed(safetensors(&[])).words(WORDS).run(|bytes| {
        fs_err::write(&path, bytes).unwrap();
        let Ok(file) = SafeTensors::open(&path) else { return };
        let mut held = 0;
        for view in file.tensors() {
            assert_eq!(Some(view.bytes().len() as u64), view.spec().bytes());
            assert_eq!(view.weight().data.len(), view.spec().shape.iter().product::<usize>());
            let _ = view.checked_digest();
            held += view.bytes().len();
        }
        assert!(held <= bytes.len());
    });
}

#[test]
fn configurations() {
    let mut mixture = config();
    for (name, value) in [
        ("model_type", json!("flex_olmo")),
        ("architectures", json!(["FlexOlmoForCausalLM"])),
        ("num_experts", json!(2)),
        ("num_experts_per_tok", json!(1)),
        ("norm_topk_prob", json!(false)),
        ("flow", json!({ "experts": ["public", "news"] })),
    ] {
        mixture[name] = value;
    }
    let target = Target::new("config").seed(config().to_string()).seed(mixture.to_string()).words(WORDS);
    target.run(|bytes| {
        let Ok(Value::Object(value)) = serde_json::from_slice(bytes) else { return };
        let Ok(config) = ModelConfig::from_hf(&value, "fuzz") else { return };
        let Value::Object(written) = config.to_hf("float32") else { panic!("no object") };
        assert_eq!(ModelConfig::from_hf(&written, "fuzz").unwrap(), config);
        let _ = flow_model::names::tensors(&config);
    });
}

/// `config.json`, an index or nothing, and the tensors: each of them may be what a stranger wrote.
#[test]
fn folders() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs_err::write(folder.join("config.json"), config().to_string()).unwrap();
    fs_err::write(folder.join("model.safetensors"), model()).unwrap();
    ModelFolder::open(folder).unwrap();
    let index = json!({ "metadata": {}, "weight_map": { "model.norm.weight": "model.safetensors" } });
    let target = Target::new("folder")
        .seed(config().to_string())
        .seed(index.to_string())
        .seed(model())
        .words(WORDS)
        .words(&["\"/etc/passwd\"", "\"model.safetensors\"", "\"..\"", "\".\"", "\"\""]);
    target.run(|bytes| {
        let open = || ModelFolder::open(folder).map(|model| (model.files().count(), model.dtype().is_ok()));
        let index = folder.join("model.safetensors.index.json");
        fs_err::write(folder.join("config.json"), bytes).unwrap();
        let _ = open();
        fs_err::write(folder.join("config.json"), config().to_string()).unwrap();
        fs_err::write(&index, bytes).unwrap();
        if let Ok(model) = ModelFolder::open(folder) {
            assert!(model.files().all(|file| file.parent() == Some(folder)), "a file of another folder");
        }
        fs_err::remove_file(&index).unwrap();
        fs_err::write(folder.join("model.safetensors"), bytes).unwrap();
        let _ = open();
        fs_err::write(folder.join("model.safetensors"), model()).unwrap();
    });
}

#[test]
fn bundles() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs_err::write(folder.join("config.json"), config().to_string()).unwrap();
    fs_err::write(folder.join("model.safetensors"), model()).unwrap();
    let public = ModelFolder::open(folder).unwrap();
    let square = || Weight { shape: vec![2, 2], data: vec![1.0; 4] };
    let row = Weight { shape: vec![1, 2], data: vec![0.5; 2] };
    let ffn =
        public.tensors().filter(|view| view.name().contains(".mlp.")).map(|view| (view.name().to_owned(), square()));
    let expert = Expert { ffn: ffn.collect(), row: row.clone(), bias: Weight { shape: vec![1], data: vec![0.0] } };
    let provenance = Provenance {
        name: "news",
        public: &public.identity().unwrap(),
        config: public.config(),
        dtype: Dtype::F32,
        public_row: &row,
        training: json!({ "steps": 1 }),
    };
    bundle::write(folder, &provenance, &expert).unwrap();
    let (record, tensors) = (folder.join("bundle.json"), folder.join("bundle.safetensors"));
    let (whole_record, whole_tensors) = (fs_err::read(&record).unwrap(), fs_err::read(&tensors).unwrap());
    Bundle::open(folder).unwrap().verify().unwrap();
    let read = || {
        let Ok(bundle) = Bundle::open(folder) else { return };
        if bundle.verify().is_ok() {
            bundle.expert().unwrap();
        }
    };
    let target = Target::new("bundle")
        .seed(whole_record.clone())
        .seed(whole_tensors.clone())
        .words(WORDS)
        .words(&["\"format\":2", "\"name\":\"../x\""]);
    target.run(|bytes| {
        fs_err::write(&record, bytes).unwrap();
        read();
        fs_err::write(&record, &whole_record).unwrap();
        fs_err::write(&tensors, bytes).unwrap();
        read();
        fs_err::write(&tensors, &whole_tensors).unwrap();
    });
}
