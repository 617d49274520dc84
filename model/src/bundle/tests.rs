//! Bundles there and back, and bundles that are wrong.

use serde_json::json;

use super::*;
use crate::config::Mixture;
use crate::hf::tests::{contents, small_config, weights_of, write_folder};

/// A public model on disk with its router row.
pub(crate) struct Public {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) model: ModelFolder,
    pub(crate) row: Weight,
}

pub(crate) fn public(seed: u32, dtype: Dtype) -> Public {
    let folder = tempfile::tempdir().unwrap();
    let config = small_config();
    let layout = Layout { dtype, ..Layout::default() };
    let model = write_folder(&folder.path().join("public"), &config, &weights_of(&config, seed), layout);
    let row = Weight::new(vec![config.hidden_size], (0..config.hidden_size).map(|i| i as f32 * 0.1).collect()).unwrap();
    Public { folder, model, row }
}

pub(crate) fn expert(config: &ModelConfig, seed: u32, bias: f32) -> Expert {
    let mut ffn = weights_of(config, seed);
    ffn.retain(|name, _| name.contains(".mlp."));
    let (layers, d) = (config.num_layers, config.hidden_size);
    let row = (0..layers * d).map(|i| (i as f32 + seed as f32).sin()).collect();
    Expert {
        ffn,
        row: Weight::new(vec![layers, d], row).unwrap(),
        bias: Weight::new(vec![layers], vec![bias; layers]).unwrap(),
    }
}

pub(crate) fn write_bundle(public: &Public, name: &str, seed: u32, bias: f32) -> Bundle {
    let path = public.folder.path().join(name);
    fs_err::create_dir(&path).unwrap();
    let identity = public.model.identity().unwrap();
    let provenance = Provenance {
        name,
        public: &identity,
        config: public.model.config(),
        dtype: public.model.dtype().unwrap(),
        public_row: &public.row,
        training: json!({ "steps": 7 }),
    };
    write(&path, &provenance, &expert(public.model.config(), seed, bias)).unwrap();
    Bundle::open(&path).unwrap()
}

#[test]
fn there_and_back() {
    let public = public(1, Dtype::F32);
    let bundle = write_bundle(&public, "news", 2, -0.5);
    bundle.verify().unwrap();
    bundle.check_public(&public.model, &public.model.identity().unwrap()).unwrap();
    assert_eq!(bundle.expert().unwrap(), expert(public.model.config(), 2, -0.5));
    assert_eq!(bundle.name(), "news");
    assert_eq!(bundle.info().training, json!({ "steps": 7 }));
    assert!(bundle.file.tensor("layers.1.mlp.down_proj.weight").is_some());
}

#[test]
fn an_expert_is_taken_from_a_mixture() {
    let config = small_config().with_experts(Mixture::of(["a".into(), "b".into()], 2));
    let mut weights = weights_of(&config, 4);
    for layer in 0..config.num_layers {
        let bias = Weight::new(vec![3], vec![0.0, -1.0, -2.0 - layer as f32]).unwrap();
        weights.insert(TensorName::layer(Role::RouterBias, layer).to_string(), bias);
    }
    let expert = Expert::from_mixture(&config, &weights, 2).unwrap();
    assert_eq!(expert.bias.data, [-2.0, -3.0]);
    let d = config.hidden_size;
    assert_eq!(expert.row.data[d..], weights["model.layers.1.mlp.gate.weight"].data[2 * d..]);
    assert_eq!(expert.ffn["model.layers.1.mlp.up_proj.weight"], weights["model.layers.1.mlp.experts.2.up_proj.weight"]);
    assert!(Expert::from_mixture(&config, &weights, 3).is_err());
}

#[test]
fn a_changed_byte_is_found() {
    let public = public(1, Dtype::F32);
    let bundle = write_bundle(&public, "news", 2, 0.0);
    let path = bundle.path().join("bundle.safetensors");
    let mut bytes = fs_err::read(&path).unwrap();
    let last = bytes.len() - 3;
    bytes[last] ^= 1;
    fs_err::write(&path, bytes).unwrap();
    assert!(matches!(Bundle::open(bundle.path()).unwrap().verify(), Err(Error::Corrupt { .. })));
}

#[test]
fn a_record_that_lies_is_refused() {
    let public = public(1, Dtype::F32);
    let bundle = write_bundle(&public, "news", 2, 0.0);
    let path = bundle.path().join("bundle.json");
    let good: Value = json::read(&path).unwrap();
    let open = |edit: &dyn Fn(&mut Value)| {
        let mut value = good.clone();
        edit(&mut value);
        json::write(&path, &value).unwrap();
        Bundle::open(bundle.path()).map(|_| ()).unwrap_err()
    };
    assert!(matches!(open(&|v| v["format"] = json!(2)), Error::Format { found: 2, .. }));
    assert!(matches!(open(&|v| v["extra"] = json!(2)), Error::Json { .. }));
    assert!(matches!(open(&|v| v["public_digest"] = json!("00")), Error::Json { .. }));
    assert!(matches!(open(&|v| v["public_digest"] = v["public_row"].clone()), Error::Corrupt { .. }));
    assert!(matches!(open(&|v| v["name"] = json!("../x")), Error::Expert { .. }));
    assert!(matches!(open(&|v| v["config"]["num_hidden_layers"] = json!(3)), Error::TensorShape { .. }));
    assert!(matches!(open(&|v| v["config"]["intermediate_size"] = json!(13)), Error::TensorShape { .. }));
    json::write(&path, &good).unwrap();
    // A tensor more or less than the record names.
    let mut value = good.clone();
    value["tensors"].as_object_mut().unwrap().remove("row");
    json::write(&path, &value).unwrap();
    assert!(matches!(Bundle::open(bundle.path()).unwrap().verify(), Err(Error::UnknownTensor { .. })));
}

#[test]
fn another_public_model_is_named_with_its_tensors() {
    let (public, bundle) = {
        let public = public(1, Dtype::F32);
        let bundle = write_bundle(&public, "news", 2, 0.0);
        (public, bundle)
    };
    let config = small_config();
    let mut weights = weights_of(&config, 1);
    weights.get_mut("model.norm.weight").unwrap().data[0] += 1e-6;
    let other = write_folder(&public.folder.path().join("other"), &config, &weights, Layout::default());
    match bundle.check_public(&other, &other.identity().unwrap()) {
        Err(Error::OtherPublicModel { expert, names, .. }) => {
            assert_eq!((expert.as_str(), names), ("news", vec!["model.norm.weight".to_owned()]));
        }
        other => panic!("{other:?}"),
    }
    // Same tensors with another tokenizer, or another epsilon, are another model too.
    fs_err::write(public.model.path().join("tokenizer.json"), "{}").unwrap();
    let again = ModelFolder::open(public.model.path()).unwrap();
    let error = bundle.check_public(&again, &again.identity().unwrap()).unwrap_err();
    assert!(error.to_string().contains("tokenizers differ"), "{error}");
}

#[test]
fn experts_that_are_no_experts_are_not_written() {
    let public = public(1, Dtype::F32);
    let identity = public.model.identity().unwrap();
    let good = expert(public.model.config(), 2, 0.0);
    let write_as = |name: &str, expert: &Expert| {
        let provenance = Provenance {
            name,
            public: &identity,
            config: public.model.config(),
            dtype: Dtype::F32,
            public_row: &public.row,
            training: Value::Null,
        };
        let folder = tempfile::tempdir().unwrap();
        let error = write(folder.path(), &provenance, expert).unwrap_err();
        assert!(!folder.path().join("bundle.json").exists());
        error
    };
    assert!(matches!(write_as("public", &good), Error::Expert { .. }));
    assert!(matches!(write_as("A", &good), Error::Expert { .. }));
    let mut bad = good.clone();
    bad.row.data[3] = f32::NAN;
    assert!(matches!(write_as("a", &bad), Error::NotFinite { index: 3, .. }));
    let mut bad = good.clone();
    bad.ffn.remove("model.layers.1.mlp.up_proj.weight");
    assert!(matches!(write_as("a", &bad), Error::MissingTensors { .. }));
    let mut bad = good.clone();
    bad.bias = Weight::zeros(vec![3]);
    assert!(matches!(write_as("a", &bad), Error::TensorShape { .. }));
    let mut bad = good;
    bad.ffn.insert("lm_head.weight".into(), Weight::zeros(vec![1]));
    assert!(matches!(write_as("a", &bad), Error::UnknownTensor { .. }));
}

#[test]
fn the_dense_model_has_the_experts_ffn_and_nothing_else_new() {
    let public = public(1, Dtype::F32);
    let bundle = write_bundle(&public, "news", 2, 0.0);
    let out = public.folder.path().join("dense");
    fs_err::create_dir(&out).unwrap();
    densify(&public.model, &bundle, &out, u64::MAX).unwrap();
    let dense = ModelFolder::open(&out).unwrap().weights();
    let (before, own) = (public.model.weights(), bundle.expert().unwrap().ffn);
    for (name, weight) in &dense {
        assert_eq!(Some(weight), if name.contains(".mlp.") { own.get(name) } else { before.get(name) });
    }
    assert_eq!(Dense::Expert(&public.model, &bundle).weights().unwrap(), dense);
    let kept = ["tokenizer.json", "config.json", "generation_config.json"];
    assert!(kept.iter().all(|file| contents(&out)[*file] == contents(public.model.path())[*file]));
}

#[test]
fn rows_for_all_layers_or_for_each() {
    let config = small_config();
    let (layers, d) = (config.num_layers, config.hidden_size);
    let one = Weight::new(vec![d], (0..d).map(|i| i as f32).collect()).unwrap();
    let all = rows_by_layer(&config, &one).unwrap();
    assert_eq!(all.data[d..2 * d], one.data);
    assert_eq!(rows_by_layer(&config, &all).unwrap(), all);
    assert!(rows_by_layer(&config, &Weight::zeros(vec![layers])).is_err());
    assert!(rows_by_layer(&config, &Weight { data: vec![f32::NAN; d], ..one }).is_err());
}
