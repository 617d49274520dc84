//! A hostile input for each error, the public crate as an oracle, and the reference files.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::weights::Weights;

fn file(header: &str, tensors: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(tensors);
    bytes
}

fn entry(dtype: &str, shape: Value, begin: u64, end: u64) -> Value {
    json!({ "dtype": dtype, "shape": shape, "data_offsets": [begin, end] })
}

fn fault(header: &Value, tensors: usize) -> Malformed {
    parse(&file(&header.to_string(), &vec![0; tensors])).map(|_| ()).expect_err(&header.to_string())
}

#[test]
fn every_fault_has_its_error() {
    assert_eq!(parse(&[0; 7]).unwrap_err(), Malformed::TooShort { bytes: 7 });
    let claim = |bytes: u64| parse(&bytes.to_le_bytes()).unwrap_err();
    assert_eq!(claim(u64::MAX), Malformed::HeaderTooLarge { bytes: u64::MAX, limit: HEADER_LIMIT });
    assert_eq!(claim(3), Malformed::HeaderTruncated { bytes: 3, available: 0 });
    for header in ["", "[]", "{", "{\"a\":1}", "{\"__metadata__\":{\"a\":1}}", "\u{0}", "{\"a\":{\"dtype\":\"F32\"}}"] {
        assert!(matches!(parse(&file(header, &[])), Err(Malformed::Header { .. })), "{header}");
    }
    assert!(matches!(parse(&[1, 0, 0, 0, 0, 0, 0, 0, 0xff]), Err(Malformed::Header { .. })));

    let one = entry("F32", json!([1]), 0, 4).to_string();
    let twice = parse(&file(&format!("{{\"a\":{one},\"a\":{one}}}"), &[0; 4])).unwrap_err();
    assert_eq!(twice, Malformed::Duplicate { name: "a".into() });
    assert!(matches!(fault(&json!({ "a": entry("I64", json!([1]), 0, 8) }), 8), Malformed::Dtype { .. }));
    assert!(matches!(fault(&json!({ "a": entry("f32", json!([1]), 0, 4) }), 4), Malformed::Dtype { .. }));
    for shape in [json!([u64::MAX, 2]), json!([u64::MAX]), json!([1_u64 << 33, 1_u64 << 33])] {
        assert!(matches!(fault(&json!({ "a": entry("F32", shape, 0, 4) }), 4), Malformed::Overflow { .. }));
    }
    for (begin, end) in [(0, 8), (4, 0), (u64::MAX - 3, 0), (0, 0)] {
        assert!(matches!(fault(&json!({ "a": entry("F32", json!([1]), begin, end) }), 4), Malformed::Size { .. }));
    }
    let two =
        |begin: u64| json!({ "a": entry("F32", json!([2]), 0, 8), "b": entry("F32", json!([2]), begin, begin + 8) });
    assert_eq!(fault(&two(4), 12), Malformed::Overlap { first: "a".into(), second: "b".into() });
    assert_eq!(fault(&two(0), 8), Malformed::Overlap { first: "a".into(), second: "b".into() });
    assert_eq!(fault(&two(12), 20), Malformed::Hole { name: "b".into(), bytes: 4 });
    assert_eq!(fault(&two(8), 15), Malformed::Truncated { needed: 16, available: 15 });
    assert_eq!(fault(&two(8), 17), Malformed::Trailing { bytes: 1 });
    assert!(parse(&file(&two(8).to_string(), &[0; 16])).is_ok());
    let far = json!({ "a": entry("F32", json!([1_u64 << 60]), 0, 1_u64 << 62) });
    assert!(matches!(fault(&far, 4), Malformed::Truncated { .. }));
}

#[test]
fn an_open_file_that_is_no_safetensors_says_which() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    assert!(matches!(SafeTensors::open(&path), Err(Error::Io(_))));
    std::fs::write(&path, "").unwrap();
    let error = SafeTensors::open(&path).unwrap_err();
    assert!(error.to_string().contains("x.safetensors"), "{error}");
}

fn some_weights() -> Weights {
    let weight = |shape: Vec<usize>, first: f32| {
        let n = shape.iter().product();
        Weight::new(shape, (0..n).map(|i| first + i as f32 * 0.37).collect()).unwrap()
    };
    Weights::from([
        ("b.weight".to_owned(), weight(vec![3, 5], 1.0)),
        ("a.weight".to_owned(), weight(vec![7], -2.0)),
        ("empty".to_owned(), weight(vec![0, 4], 0.0)),
        ("scalar".to_owned(), weight(vec![], 9.0)),
    ])
}

fn saved(folder: &Path, dtype: Dtype, weights: &Weights) -> PathBuf {
    let path = folder.join("w.safetensors");
    save(&path, dtype, weights.iter().map(|(name, weight)| (name.as_str(), weight))).unwrap();
    path
}

#[test]
fn the_written_bytes_are_golden_and_sorted() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(saved(folder.path(), Dtype::F32, &some_weights())).unwrap();
    assert_eq!(Digest::of(&bytes).to_string(), "07d59cbb9a4b825baedf30833eb11b1fcc031fa7fac087040ca4d11f0fa44ff0");
    assert_eq!(bytes.len() % 4, 0);
    let header = String::from_utf8_lossy(&bytes[8..]).into_owned();
    assert!(header.starts_with(
        r#"{"__metadata__":{"format":"pt"},"a.weight":{"data_offsets":[0,28],"dtype":"F32","shape":[7]},"b"#
    ));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// The public crate reads what is written here, with the same values; and the other way round.
#[test]
fn agrees_with_the_public_crate() {
    let folder = tempfile::tempdir().unwrap();
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        let path = saved(folder.path(), dtype, &some_weights());
        let bytes = std::fs::read(&path).unwrap();
        let theirs = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let ours = SafeTensors::open(&path).unwrap();
        assert_eq!(theirs.len(), ours.tensors().count());
        for view in ours.tensors() {
            let other = theirs.tensor(view.name()).unwrap();
            assert_eq!((other.shape(), other.data()), (view.spec().shape.as_slice(), view.bytes()));
        }
        let again = ::safetensors::serialize(theirs.tensors(), None).unwrap();
        std::fs::write(&path, again).unwrap();
        let reread = SafeTensors::open(&path).unwrap();
        for view in ours.tensors() {
            assert_eq!(reread.tensor(view.name()).unwrap().weight().shape, view.spec().shape);
        }
    }
}

#[test]
fn a_tensor_that_is_not_as_announced_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.safetensors");
    let specs = BTreeMap::from([("a".to_owned(), Spec { dtype: Dtype::F32, shape: vec![2] })]);
    for values in [vec![0.0; 1], vec![0.0; 3]] {
        let mut writer = Writer::create(&path, &specs).unwrap();
        assert_eq!(writer.next().unwrap().0, "a");
        assert!(matches!(writer.tensor("a", |sink| sink.values(&values)), Err(Error::WriterMisused { .. })));
    }
    let mut writer = Writer::create(&path, &specs).unwrap();
    assert!(matches!(writer.tensor("b", |_| Ok(())), Err(Error::WriterMisused { .. })));
    assert!(matches!(Writer::create(&path, &specs).unwrap().finish(), Err(Error::WriterMisused { .. })));
    drop(writer);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn what_is_not_finite_is_found_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        for (bad, index) in [(f32::NAN, 0), (f32::INFINITY, CHUNK * 2 + 5), (f32::NEG_INFINITY, CHUNK * 3 - 1)] {
            let mut weight = Weight::zeros(vec![3, CHUNK]);
            weight.data[1] = -1.5;
            let path = saved(folder.path(), dtype, &Weights::from([("w".to_owned(), weight.clone())]));
            assert!(SafeTensors::open(&path).unwrap().tensor("w").unwrap().checked_digest().is_ok());
            weight.data[index] = bad;
            let path = saved(folder.path(), dtype, &Weights::from([("w".to_owned(), weight)]));
            let error = SafeTensors::open(&path).unwrap().tensor("w").unwrap().checked_digest().unwrap_err();
            assert!(matches!(error, Error::NotFinite { index: found, .. } if found == index), "{error}");
        }
    }
}

#[test]
fn digests_of_files_and_of_memory_agree() {
    let folder = tempfile::tempdir().unwrap();
    let weights = some_weights();
    let file = SafeTensors::open(&saved(folder.path(), Dtype::F32, &weights)).unwrap();
    for (name, weight) in &weights {
        assert_eq!(file.tensor(name).unwrap().checked_digest().unwrap(), weight.digest());
    }
}

#[test]
fn reads_the_reference_files() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/reference");
    for case in ["olmo2-dense", "flexolmo-3-top2"] {
        let path = folder.join(case).join("model.safetensors");
        if !path.exists() {
            println!("skipped: {} is not there", path.display());
            return;
        }
        let ours = SafeTensors::open(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let theirs = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(theirs.len(), ours.tensors().count());
        for view in ours.tensors() {
            assert_eq!(theirs.tensor(view.name()).unwrap().data(), view.bytes());
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        dtype in prop_oneof![Just(Dtype::F32), Just(Dtype::Bf16), Just(Dtype::F16)],
        tensors in prop::collection::btree_map("[a-z.\"\\\\é]{0,12}", prop::collection::vec(-100i8..100, 0..40), 0..6),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let weights: Weights = tensors.into_iter().filter(|(name, _)| name != "__metadata__").map(|(name, values)| {
            let data: Vec<f32> = values.iter().map(|v| f32::from(*v)).collect();
            (name, Weight::new(vec![data.len(), 1], data).unwrap())
        }).collect();
        let file = SafeTensors::open(&saved(folder.path(), dtype, &weights)).unwrap();
        let read: Weights = file.tensors().map(|view| (view.name().to_owned(), view.weight())).collect();
        prop_assert_eq!(read, weights);
    }

    /// Whatever one byte of a file becomes: an error or other numbers, never a panic.
    #[test]
    fn a_changed_byte_never_panics(at in 0..400usize, to in any::<u8>(), cut in 0..400usize) {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = std::fs::read(saved(folder.path(), Dtype::F32, &some_weights())).unwrap();
        let at = at % bytes.len();
        bytes[at] = to;
        let _ = parse(&bytes);
        bytes.truncate(cut);
        let _ = parse(&bytes);
    }
}
