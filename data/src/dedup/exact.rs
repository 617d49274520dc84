//! The same text twice, told by 128 bits of its hash: among 10^12 documents a false pair has a chance below 10^-14.

#[expect(
    clippy::disallowed_types,
    reason = "asked and never iterated; a tree costs three times the memory and time"
)]
use std::collections::HashSet;

use xxhash_rust::xxh3::xxh3_128;

/// 128-bit hash of a text (XXH3).
pub fn fingerprint(text: &str) -> u128 {
    xxh3_128(text.as_bytes())
}

/// Texts that have been seen.
#[derive(Debug, Default)]
pub struct Seen {
    #[expect(clippy::disallowed_types, reason = "asked and never iterated")]
    fingerprints: HashSet<u128>,
}

impl Seen {
    /// Whether it is new; from now on it is not.
    pub fn insert(&mut self, fingerprint: u128) -> bool {
        self.fingerprints.insert(fingerprint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_pinned_since_the_heldout_split_hangs_on_it() {
        assert_eq!(format!("{:032x}", fingerprint("flow")), "2588f704c51cd35c53b70bb03f0b35d7");
        let mut seen = Seen::default();
        assert!(seen.insert(1) && seen.insert(2) && !seen.insert(1));
    }
}
