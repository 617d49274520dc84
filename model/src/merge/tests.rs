//! What a merge is, what it refuses, and that taking out undoes it.

use proptest::prelude::*;

use super::*;
use crate::bundle::tests::{Public, public, write_bundle};
use crate::hf::tests::contents;

/// Merges into a new folder beside the public model.
fn merged(public: &Public, name: &str, names: &[(&str, u32, f32)], top_k: usize) -> ModelFolder {
    let bundles: Vec<Bundle> = names
        .iter()
        .map(|(name, seed, bias)| match Bundle::open(&public.folder.path().join(name)) {
            Ok(bundle) => bundle,
            Err(_) => write_bundle(public, name, *seed, *bias),
        })
        .collect();
    let out = public.folder.path().join(name);
    fs_err::create_dir(&out).unwrap();
    merge(&public.model, &public.row, &bundles, top_k, &out, 2000).unwrap();
    ModelFolder::open(&out).unwrap()
}

const A: (&str, u32, f32) = ("a", 11, 0.0);
const B: (&str, u32, f32) = ("b", 12, -0.75);
const C: (&str, u32, f32) = ("c", 13, 0.0);

#[test]
fn every_tensor_comes_from_where_it_should() {
    let public = public(1, Dtype::F32);
    let model = merged(&public, "out", &[A, B, C], 2);
    let mixture = model.config().experts.clone().unwrap();
    assert_eq!((mixture.count, mixture.top_k, mixture.names.join(" ")), (4, 2, "public a b c".to_owned()));
    let (weights, before) = (model.weights(), public.model.weights());
    let experts: Vec<_> = ["a", "b", "c"]
        .iter()
        .map(|name| Bundle::open(&public.folder.path().join(name)).unwrap().expert().unwrap())
        .collect();
    let d = model.config().hidden_size;
    for (name, weight) in &weights {
        let typed = TensorName::parse(name).unwrap();
        let layer = typed.layer;
        match typed.role {
            Role::Expert(projection) => {
                let dense = TensorName::layer(Role::Ffn(projection), layer).to_string();
                let from = if typed.expert == 0 { &before } else { &experts[typed.expert - 1].ffn };
                assert_eq!(weight, &from[&dense]);
            }
            Role::Router => {
                let rows = experts.iter().flat_map(|expert| expert.row.data[layer * d..(layer + 1) * d].to_vec());
                let expected: Vec<f32> = public.row.data.iter().copied().chain(rows).collect();
                assert_eq!(weight.data, expected);
            }
            Role::RouterBias => assert_eq!(weight.data, [0.0, 0.0, -0.75, 0.0]),
            _ => assert_eq!(weight, &before[name]),
        }
    }
    let record: MergeRecord = json::read(&model.path().join("merge.json")).unwrap();
    assert_eq!(record.experts, ["a", "b", "c"]);
    assert_eq!(record.public_digest, public.model.identity().unwrap().digest);
    assert_eq!(model.tokenizer(), public.model.tokenizer());
}

/// For every expert, in both types: merged and taken out is never merged, byte for byte, over every file.
#[test]
fn taking_out_is_never_having_merged() {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let public = public(1, dtype);
        let all = merged(&public, "all", &[A, B, C], 4);
        let cases: [(&[&str], Vec<_>); 5] = [
            (&["a"], vec![B, C]),
            (&["b"], vec![A, C]),
            (&["c"], vec![A, B]),
            (&["c", "a"], vec![B]),
            (&["a", "b", "c"], vec![]),
        ];
        for (i, (gone, rest)) in cases.into_iter().enumerate() {
            let without = merged(&public, &format!("without-{i}"), &rest, 4);
            let out = public.folder.path().join(format!("out-{i}"));
            fs_err::create_dir(&out).unwrap();
            take_out(&all, gone, &out, 2000).unwrap();
            assert_eq!(contents(&out), contents(without.path()), "{gone:?} {dtype}");
        }
    }
}

#[test]
fn the_bias_is_there_only_where_it_does_something() {
    let public = public(1, Dtype::F32);
    let name = "model.layers.0.mlp.gate.bias";
    assert!(merged(&public, "with", &[A, B], 2).tensor(name).is_some());
    assert!(merged(&public, "none", &[A, C], 2).tensor(name).is_none());
    assert!(merged(&public, "positive", &[A, ("up", 3, 0.5)], 2).tensor(name).is_none());
}

fn refused(public: &Public, bundles: &[Bundle], row: &Weight) -> Error {
    let out = tempfile::tempdir().unwrap();
    let error = merge(&public.model, row, bundles, 2, out.path(), u64::MAX).unwrap_err();
    assert_eq!(fs_err::read_dir(out.path()).unwrap().count(), 0, "something was written before: {error}");
    error
}

#[test]
fn what_does_not_belong_together_is_refused_before_a_byte_is_written() {
    let ours = public(1, Dtype::F32);
    let good = || write_or_open(&ours, "a", 11);

    let other = public(2, Dtype::F32);
    let stranger = write_bundle(&other, "x", 5, 0.0);
    match refused(&ours, &[good(), stranger], &ours.row) {
        Error::OtherPublicModel { expert, names, .. } => {
            assert_eq!(expert, "x");
            assert_eq!(names.len(), ours.model.tensors().count());
        }
        error => panic!("{error}"),
    }
    assert!(matches!(refused(&ours, &[good(), good()], &ours.row), Error::Expert { .. }));

    let mut row = ours.row.clone();
    row.data[0] += 1.0;
    let error = refused(&ours, &[good()], &row);
    assert!(error.to_string().contains("router row"), "{error}");
    row.data[0] = f32::INFINITY;
    assert!(matches!(refused(&ours, &[good()], &row), Error::NotFinite { .. }));
    assert!(matches!(refused(&ours, &[good()], &Weight::zeros(vec![3])), Error::TensorShape { .. }));

    // One flipped bit in the middle of an expert.
    let bundle = good();
    let path = bundle.path().join("bundle.safetensors");
    let bytes = fs_err::read(&path).unwrap();
    let mut flipped = bytes.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 2;
    fs_err::write(&path, flipped).unwrap();
    assert!(matches!(refused(&ours, &[good()], &ours.row), Error::Corrupt { .. }));
    fs_err::write(&path, bytes).unwrap();

    // NaN in the public model: then no bundle can agree with it, and with none it is refused for what it is.
    let file = ours.model.path().join("model.safetensors");
    let mut bytes = fs_err::read(&file).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs_err::write(&file, bytes).unwrap();
    let broken = Public { model: ModelFolder::open(ours.model.path()).unwrap(), ..ours };
    assert!(matches!(refused(&broken, &[], &broken.row), Error::NotFinite { .. }));
}

fn write_or_open(public: &Public, name: &str, seed: u32) -> Bundle {
    Bundle::open(&public.folder.path().join(name)).unwrap_or_else(|_| write_bundle(public, name, seed, 0.0))
}

#[test]
fn only_experts_of_the_model_are_taken_out() {
    let public = public(1, Dtype::F32);
    let model = merged(&public, "m", &[A, C], 2);
    let out = tempfile::tempdir().unwrap();
    for names in [&["z"][..], &["public"], &["a", "a"]] {
        assert!(matches!(take_out(&model, names, out.path(), u64::MAX), Err(Error::Expert { .. })), "{names:?}");
    }
    assert!(matches!(take_out(&public.model, &["a"], out.path(), u64::MAX), Err(Error::Config { .. })));
    assert!(matches!(merge(&model, &public.row, &[], 2, out.path(), u64::MAX), Err(Error::Config { .. })));
    assert!(contents(out.path()).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Any experts, any subset, any order of taking out: one after the other is the same as all at once.
    #[test]
    fn taking_out_one_by_one_is_taking_out_at_once(
        biases in prop::collection::vec(prop_oneof![Just(0.0f32), -2.0..2.0f32], 1..5),
        gone in prop::collection::vec(any::<bool>(), 5),
        top_k in 1..6usize,
    ) {
        let public = public(7, Dtype::F32);
        let names = ["e0", "e1", "e2", "e3", "e4"];
        let given: Vec<_> = biases.iter().enumerate().map(|(i, bias)| (names[i], 20 + i as u32, *bias)).collect();
        let all = merged(&public, "all", &given, top_k);
        let chosen: Vec<&str> = given.iter().enumerate().filter(|(i, _)| gone[*i]).map(|(_, e)| e.0).collect();
        let rest: Vec<_> = given.iter().enumerate().filter(|(i, _)| !gone[*i]).map(|(_, e)| *e).collect();
        let direct = merged(&public, "direct", &rest, top_k);
        let mut model = all;
        for name in chosen.iter().rev() {
            let out = public.folder.path().join(format!("without-{name}"));
            fs_err::create_dir(&out).unwrap();
            take_out(&model, &[*name], &out, 2000).unwrap();
            model = ModelFolder::open(&out).unwrap();
        }
        prop_assert_eq!(contents(model.path()), contents(direct.path()));
    }
}
