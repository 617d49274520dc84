//! Folders there and back, and folders that are wrong.

use super::*;
use crate::config::Mixture;
use crate::preset::Preset;
use crate::weights::Weight;

/// Numbers from a seed that fit a configuration: not random enough for training, different enough for files.
pub(crate) fn weights_of(config: &ModelConfig, seed: u32) -> Weights {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    let tensors = names::tensors(config).into_iter();
    tensors
        .map(|(name, shape)| {
            let data = (0..shape.iter().product::<usize>()).map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 24) as f32 - 0.5
            });
            let data = data.collect();
            (name, Weight::new(shape, data).unwrap())
        })
        .collect()
}

/// A dense model of two layers with a tokenizer beside it.
pub(crate) fn small_config() -> ModelConfig {
    ModelConfig { vocab_size: 32, hidden_size: 8, num_heads: 2, head_dim: 4, ffn_hidden: 12, ..Preset::Tiny.config() }
}

/// Writes a model folder.
pub(crate) fn write_folder(folder: &Path, config: &ModelConfig, weights: &Weights, layout: Layout) -> ModelFolder {
    fs_err::create_dir_all(folder).unwrap();
    let tokenizer = folder.with_extension("tokenizer.json");
    fs_err::write(&tokenizer, "{\"a\": \"tokenizer\"}").unwrap();
    write(folder, config, weights, Some(&tokenizer), layout).unwrap();
    ModelFolder::open(folder).unwrap()
}

/// Every file of a folder with its content.
pub(crate) fn contents(folder: &Path) -> BTreeMap<String, Digest> {
    let files = fs_err::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), Digest::of_file(&path).unwrap()))
        .collect()
}

fn mixture() -> ModelConfig {
    small_config().with_experts(Mixture::of(["news".into(), "math".into()], 2))
}

#[test]
fn there_and_back_in_one_file_and_in_many() {
    let folder = tempfile::tempdir().unwrap();
    for (i, config) in [small_config(), mixture()].into_iter().enumerate() {
        let weights = weights_of(&config, 3);
        for shard_bytes in [1, 2000, u64::MAX] {
            let path = folder.path().join(format!("{i}-{shard_bytes}"));
            let model = write_folder(&path, &config, &weights, Layout { shard_bytes, ..Layout::default() });
            assert_eq!(model.config(), &config);
            assert_eq!(model.weights(), weights);
            assert!(model.tokenizer().is_some());
            assert_eq!(path.join("model.safetensors.index.json").exists(), shard_bytes < u64::MAX);
            if shard_bytes == 1 {
                assert_eq!(model.files.len(), weights.len());
            }
        }
    }
}

#[test]
fn the_identity_does_not_depend_on_the_shards() {
    let folder = tempfile::tempdir().unwrap();
    let config = small_config();
    let weights = weights_of(&config, 3);
    let one = write_folder(&folder.path().join("one"), &config, &weights, Layout::default()).identity().unwrap();
    let layout = Layout { shard_bytes: 3000, ..Layout::default() };
    let two = write_folder(&folder.path().join("two"), &config, &weights, layout).identity().unwrap();
    assert_eq!(one, two);
    let digests = weights.iter().map(|(name, weight)| (name.clone(), weight.digest())).collect();
    assert_eq!(one.digest, frozen_digest(&digests));
}

#[test]
fn half_precision_rounds_once() {
    let folder = tempfile::tempdir().unwrap();
    let config = small_config();
    let weights = weights_of(&config, 5);
    let layout = Layout { dtype: Dtype::Bf16, ..Layout::default() };
    let model = write_folder(&folder.path().join("bf16"), &config, &weights, layout);
    assert_eq!(model.dtype().unwrap(), Dtype::Bf16);
    let rounded = model.weights();
    for (name, weight) in &weights {
        for (a, b) in weight.data.iter().zip(&rounded[name].data) {
            assert_eq!(half::bf16::from_f32(*a).to_f32(), *b);
        }
    }
    let again = folder.path().join("again");
    fs_err::create_dir(&again).unwrap();
    export(&model, &again, layout, RouterBias::Refuse).unwrap();
    let mut exported = contents(&again);
    assert!(exported.remove("tokenizer_config.json").is_some(), "what transformers wants besides");
    assert_eq!(exported, contents(model.path()));
}

#[test]
fn weights_that_do_not_fit_are_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let config = small_config();
    let mut weights = weights_of(&config, 1);
    weights.remove("lm_head.weight");
    let error = write(folder.path(), &config, &weights, None, Layout::default()).unwrap_err();
    assert!(matches!(error, Error::MissingTensors { .. }));
    assert!(contents(folder.path()).is_empty());
}

#[test]
fn an_index_that_lies_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m");
    let config = small_config();
    write_folder(&path, &config, &weights_of(&config, 1), Layout { shard_bytes: 3000, ..Layout::default() });
    let index = path.join("model.safetensors.index.json");
    let good: Value = json::read(&index).unwrap();
    let first = good["weight_map"]["lm_head.weight"].clone();
    for (name, file) in [("lm_head.weight", json!("../x")), ("model.norm.weight", first.clone()), ("new", first)] {
        let mut bad = good.clone();
        bad["weight_map"][name] = file;
        json::write(&index, &bad).unwrap();
        let error = ModelFolder::open(&path).unwrap_err();
        assert!(matches!(error, Error::Config { .. } | Error::Mismatch { .. }), "{error}");
    }
    let shard =
        fs_err::read_dir(&path).unwrap().map(|e| e.unwrap().path()).find(|p| p.to_string_lossy().contains("-of-"));
    json::write(&index, &good).unwrap();
    fs_err::remove_file(shard.unwrap()).unwrap();
    assert!(matches!(ModelFolder::open(&path), Err(Error::Io(_))));
}

#[test]
fn a_bias_in_use_is_not_exported_silently() {
    let folder = tempfile::tempdir().unwrap();
    let config = mixture();
    let mut weights = weights_of(&config, 1);
    for layer in 0..config.num_layers {
        let bias = Weight::new(vec![3], vec![0.0, 0.5, if layer == 1 { -0.25 } else { 0.0 }]).unwrap();
        weights.insert(TensorName::layer(Role::RouterBias, layer).to_string(), bias);
    }
    let model = write_folder(&folder.path().join("m"), &config, &weights, Layout::default());
    let out = folder.path().join("out");
    fs_err::create_dir(&out).unwrap();
    match export(&model, &out, Layout::default(), RouterBias::Refuse) {
        Err(Error::BiasNotExportable { expert, layer, .. }) => assert_eq!((expert.as_str(), layer), ("math", 1)),
        other => panic!("{other:?}"),
    }
    assert!(contents(&out).is_empty());
    export(&model, &out, Layout::default(), RouterBias::Drop).unwrap();
    let exported = ModelFolder::open(&out).unwrap();
    weights.retain(|name, _| !name.ends_with("gate.bias"));
    assert_eq!(exported.weights(), weights);
}

#[test]
fn reads_the_reference_models() {
    let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/reference");
    for case in ["olmo2-dense", "flexolmo-3-top2", "flexolmo-4-top4", "flexolmo-2-expert-training"] {
        let path = reference.join(case);
        if !path.exists() {
            println!("skipped: {} is not there", path.display());
            return;
        }
        let model = ModelFolder::open(&path).unwrap();
        // Written again, every tensor keeps its digest.
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), model.config(), &model.weights(), None, Layout::default()).unwrap();
        let again = ModelFolder::open(folder.path()).unwrap();
        assert_eq!(again.config(), model.config());
        assert_eq!(again.identity().unwrap(), model.identity().unwrap());
    }
}
