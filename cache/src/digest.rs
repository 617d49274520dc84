//! The names by which things are found: 32 bytes, written as 64 lowercase hexadecimal digits.
//!
//! All come from one macro, so that hex, ordering and serde cannot differ; they are distinct types, so that a key can
//! never be looked up as an artifact.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};

/// By table and not by `{:02x}`: looking for artifacts writes a path for each blob.
fn to_hex(bytes: &[u8; 32]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(64);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

/// The value of a lowercase hexadecimal digit, or [`NO_DIGIT`].
const VALUES: [u8; 256] = {
    let mut values = [NO_DIGIT; 256];
    let mut digit = 0;
    while digit < 16 {
        values[b"0123456789abcdef"[digit as usize] as usize] = digit;
        digit += 1;
    }
    values
};
const NO_DIGIT: u8 = 0xff;

/// Strict: exactly 64 digits, lowercase, so that one id has one spelling and thereby one path.
fn parse_hex(text: &str) -> Option<[u8; 32]> {
    let digits: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let (mut bytes, mut seen) = ([0; 32], 0);
    // By table, and judged once in the end: what is remembered of ten thousand stages is forty thousand of these.
    for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
        let [high, low] = pair.map(|digit| VALUES[usize::from(digit)]);
        seen |= high | low;
        *byte = high << 4 | low;
    }
    (seen <= 15).then_some(bytes)
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// The id with these bytes.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The BLAKE3 of `bytes`.
            pub fn of(bytes: &[u8]) -> Self {
                Self(*blake3::hash(bytes).as_bytes())
            }

            /// Its 32 bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The first 12 hexadecimal digits, for people.
            pub fn short(&self) -> String {
                let mut text = to_hex(&self.0);
                text.truncate(12);
                text
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&to_hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                parse_hex(text).map(Self).ok_or_else(|| Error::Digest { kind: $what, text: text.to_owned() })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id_type! {
    /// The BLAKE3 of the content of one file.
    BlobDigest, "blob digest"
}
id_type! {
    /// The BLAKE3 of the canonical form of a [`Manifest`](crate::Manifest): the name of a tree of files.
    ArtifactDigest, "artifact digest"
}
id_type! {
    /// The hash of all that a stage's result depends on. The store does not know how it is computed.
    StageKey, "stage key"
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn golden() {
        assert_eq!(BlobDigest::of(b"").to_string(), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
        assert_eq!(BlobDigest::of(b"").short(), "af1349b9f5f9");
        assert_eq!(format!("{:?}", StageKey::from_bytes([0xab; 32])), "StageKey(abababababab)");
    }

    #[test]
    fn only_the_canonical_spelling_parses() {
        let good = BlobDigest::of(b"x").to_string();
        for bad in [
            String::new(),
            good.to_uppercase(),
            good[..63].to_owned(),
            format!("{good}0"),
            format!(" {}", &good[1..]),
            format!("+{}", &good[1..]),
            "é".repeat(32),
        ] {
            assert!(bad.parse::<BlobDigest>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn text_and_json_round_trip(bytes: [u8; 32]) {
            let id = StageKey::from_bytes(bytes);
            prop_assert_eq!(id.to_string().parse::<StageKey>().unwrap(), id);
            let json = serde_json::to_string(&id).unwrap();
            prop_assert_eq!(&json, &format!("\"{id}\""));
            prop_assert_eq!(serde_json::from_str::<StageKey>(&json).unwrap(), id);
        }

        #[test]
        fn order_is_that_of_the_text(a: [u8; 32], b: [u8; 32]) {
            let (a, b) = (StageKey::from_bytes(a), StageKey::from_bytes(b));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }
    }
}
