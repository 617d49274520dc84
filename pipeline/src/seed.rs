//! Seeds are handed down: one number in the recipe, a derived one for every use of chance.

use serde::{Deserialize, Serialize};

/// A source of chance that is the same in every run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seed(pub u64);

impl Seed {
    /// The seed for one purpose: `seed.derive(&["expert", "news"])`. Different words give independent seeds.
    pub fn derive(self, words: &[&str]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("flow seed v1");
        hasher.update(&self.0.to_le_bytes());
        for word in words {
            hasher.update(&(word.len() as u64).to_le_bytes());
            hasher.update(word.as_bytes());
        }
        let mut bytes = [0; 8];
        hasher.finalize_xof().fill(&mut bytes);
        Self(u64::from_le_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_not_joined() {
        let seed = Seed(6198);
        assert_ne!(seed.derive(&["a", "bc"]), seed.derive(&["ab", "c"]));
        assert_ne!(seed.derive(&["a"]), Seed(6199).derive(&["a"]));
        assert_eq!(seed.derive(&["expert", "news"]), seed.derive(&["expert", "news"]));
    }

    #[test]
    fn the_derivation_does_not_drift() {
        assert_eq!(Seed(6198).derive(&["expert", "news"]), Seed(0x9129_f719_c8f1_ec8b));
    }
}
