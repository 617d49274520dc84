//! A model's numbers outside of any device: what checkpoints, bundles, merges and soups pass to each other.
//!
//! Names and orientation are exactly Hugging Face's (linear weights are [out, in]; [`crate::names`] has the table), elements
//! are f32 in row-major order. And the identity of tensors: a [`Digest`] each, and one for a set of them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Tensors by name.
pub type Weights = BTreeMap<String, Weight>;

/// One tensor.
#[derive(Clone, PartialEq)]
pub struct Weight {
    /// Sides, outermost first.
    pub shape: Vec<usize>,
    /// Elements, row-major; as many as the product of the sides.
    pub data: Vec<f32>,
}

impl Weight {
    /// A tensor of `shape` over `data`.
    ///
    /// # Errors
    /// [`Error::Input`] where the two disagree about the number of elements.
    pub fn new(shape: Vec<usize>, data: Vec<f32>) -> Result<Self> {
        let elements = shape.iter().try_fold(1_usize, |n, side| n.checked_mul(*side));
        if elements != Some(data.len()) {
            let reason = format!("the shape {shape:?} does not hold {} elements", data.len());
            return Err(Error::Input { what: "a tensor".into(), reason });
        }
        Ok(Self { shape, data })
    }

    /// A tensor of zeros.
    pub fn zeros(shape: Vec<usize>) -> Self {
        let elements = shape.iter().product();
        Self { shape, data: vec![0.0; elements] }
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.data.len()
    }

    /// The digest of the tensor as f32, as [`tensor_digest`] has it.
    pub fn digest(&self) -> Digest {
        let mut digester = TensorDigester::new("F32", &self.shape);
        let mut bytes = Vec::with_capacity(4 * CHUNK.min(self.data.len()));
        for chunk in self.data.chunks(CHUNK) {
            bytes.clear();
            bytes.extend(chunk.iter().flat_map(|value| value.to_le_bytes()));
            digester.update(&bytes);
        }
        digester.finish()
    }
}

impl fmt::Debug for Weight {
    /// Shape and the first elements: a whole tensor in a failed assertion helps nobody.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.data.get(..4).unwrap_or(&self.data);
        f.debug_struct("Weight").field("shape", &self.shape).field("first", &shown).finish()
    }
}

/// Elements that are converted or hashed at a time: small enough for a cache, large enough for a file.
pub(crate) const CHUNK: usize = 1 << 16;

/// A BLAKE3 digest; 64 lower-case hexadecimal digits wherever it is written.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The digest of a file, read through a buffer.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn of_file(path: &std::path::Path) -> Result<Self> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(fs_err::File::open(path)?)?;
        Ok(Self(*hasher.finalize().as_bytes()))
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // `from_hex` takes upper case too; one spelling only, so that equal digests are equal texts.
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(format!("`{text}` is no digest: 64 lower-case hexadecimal digits are needed"));
        }
        blake3::Hash::from_hex(text)
            .map(|hash| Self(*hash.as_bytes()))
            .map_err(|_| format!("`{text}` is no digest: 64 lower-case hexadecimal digits are needed"))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Digest {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Digest".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^[0-9a-f]{64}$" })
    }
}

/// Hashes one tensor as its bytes come.
pub(crate) struct TensorDigester(blake3::Hasher);

impl TensorDigester {
    pub(crate) fn new(dtype: &str, shape: &[usize]) -> Self {
        let mut hasher = blake3::Hasher::new();
        put_text(&mut hasher, dtype);
        hasher.update(&(shape.len() as u64).to_le_bytes());
        for side in shape {
            hasher.update(&(*side as u64).to_le_bytes());
        }
        Self(hasher)
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> Digest {
        Digest(*self.0.finalize().as_bytes())
    }
}

/// The digest of one tensor: BLAKE3 over the type's name (length first), the number of sides, the sides (u64) and the elements'
/// bytes, all little-endian. The name is not part of it.
pub fn tensor_digest(dtype: &str, shape: &[usize], bytes: &[u8]) -> Digest {
    let mut digester = TensorDigester::new(dtype, shape);
    digester.update(bytes);
    digester.finish()
}

/// The digest of a set of tensors: BLAKE3 over its sorted names (length first), each followed by the tensor's own digest, so over
/// names, types, shapes and bytes. In two levels, because whoever keeps the tensors' digests can then say *which* tensor differs.
pub fn frozen_digest(tensors: &BTreeMap<String, Digest>) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"flow tensors 1\n");
    for (name, digest) in tensors {
        put_text(&mut hasher, name);
        hasher.update(digest.as_bytes());
    }
    Digest(*hasher.finalize().as_bytes())
}

fn put_text(hasher: &mut blake3::Hasher, text: &str) {
    hasher.update(&(text.len() as u64).to_le_bytes());
    hasher.update(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_that_lies_is_refused() {
        assert!(Weight::new(vec![2, 3], vec![0.0; 6]).is_ok());
        assert!(Weight::new(vec![2, 3], vec![0.0; 5]).is_err());
        assert!(Weight::new(vec![usize::MAX, 2], vec![]).is_err());
        assert_eq!(Weight::new(vec![], vec![1.0]).unwrap().elements(), 1);
    }

    #[test]
    fn digests_of_tensors_are_golden() {
        let weight = Weight::new(vec![2, 2], vec![1.0, -2.0, 0.5, 0.0]).unwrap();
        let bytes: Vec<u8> = weight.data.iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(weight.digest(), tensor_digest("F32", &[2, 2], &bytes));
        // What a bundle of an owner recorded long ago must still be found equal.
        assert_eq!(weight.digest().to_string(), "b38276f57ec7e505bfd7014efefadadba531766245e5a2b9b98b319d78745dc3");
        let set = BTreeMap::from([("a".to_owned(), weight.digest()), ("b".to_owned(), Digest::of(b""))]);
        assert_eq!(frozen_digest(&set).to_string(), "b206a209734bb5399a562f9c5c4f9ae583baf1e7e57d30bf30ac38c8873dd86e");
    }

    #[test]
    fn every_part_of_a_tensor_enters_its_digest() {
        let one = tensor_digest("F32", &[2, 1], &[0; 8]);
        let others = [
            tensor_digest("F32", &[1, 2], &[0; 8]),
            tensor_digest("F32", &[2], &[0; 8]),
            tensor_digest("BF16", &[2, 1], &[0; 8]),
            tensor_digest("F32", &[2, 1], &[0, 0, 0, 0, 0, 0, 0, 1]),
        ];
        assert!(others.iter().all(|other| *other != one));
        let set = |name: &str| frozen_digest(&BTreeMap::from([(name.to_owned(), one)]));
        assert_ne!(set("a"), set("b"));
    }

    #[test]
    fn digests_have_one_spelling() {
        let digest = Digest::of(b"x");
        assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
        assert!(digest.to_string().to_uppercase().parse::<Digest>().is_err());
        assert!("12".parse::<Digest>().is_err());
        assert!(serde_json::from_str::<Digest>("\"zz\"").is_err());
    }
}
