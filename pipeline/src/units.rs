//! Quantities that people write with units: `50B` tokens, `4MiB`, `72h`.
//!
//! All arithmetic is exact, in integers: `1.5K` is 1500, and `1.5` tokens is an error, never 1 or 2. Every spelling of
//! a quantity serialises to the one plain integer, so a spelling never changes a stage's key.
//!
//! ```text
//! quantity = digits [ "." digits ] [ ("e" | "E") [ "+" | "-" ] digits ] [ unit ]     digits may hold single "_"
//! ```

mod decimal;

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub(crate) use self::decimal::{Inexact, decimal};

/// Why a text is not a quantity. The text of the error names the units that are accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not of the form number, then unit.
    #[error("`{text}` is not {what}: write a number, then one of {units}")]
    Malformed {
        /// The text.
        text: String,
        /// What was wanted.
        what: &'static str,
        /// The accepted units.
        units: String,
    },
    /// A unit of another quantity, or of none.
    #[error("`{text}` is not {what}: unknown unit `{unit}`, write one of {units}")]
    Unit {
        /// The text.
        text: String,
        /// What was wanted.
        what: &'static str,
        /// The unit that was found.
        unit: String,
        /// The accepted units.
        units: String,
    },
    /// A fraction of what cannot be divided.
    #[error("`{text}` is not {what}: it is not a whole number of {one}")]
    Fraction {
        /// The text.
        text: String,
        /// What was wanted.
        what: &'static str,
        /// The indivisible part.
        one: &'static str,
    },
    /// Negative, or beyond 64 bits.
    #[error("`{text}` is not {what}: it is outside of 0 to {max}")]
    Range {
        /// The text.
        text: String,
        /// What was wanted.
        what: &'static str,
        /// The largest value.
        max: u64,
    },
}

/// A quantity: its words, its units from large to small, what one indivisible part is.
struct Quantity {
    what: &'static str,
    one: &'static str,
    /// What stands for the bare number: the unit's name may be empty.
    units: &'static [(&'static str, u64)],
    /// Other spellings that are read, never shown.
    also: &'static [(&'static str, u64)],
    /// The factor of a number without a unit.
    bare: u64,
}

const KIBI: u64 = 1 << 10;
const MEBI: u64 = 1 << 20;
const GIBI: u64 = 1 << 30;
const TEBI: u64 = 1 << 40;
const KILO: u64 = 1_000;
const MEGA: u64 = 1_000_000;
const GIGA: u64 = 1_000_000_000;
const TERA: u64 = 1_000_000_000_000;

const NUMBERS: &[(&str, u64)] = &[
    ("T", TERA),
    ("B", GIGA),
    ("M", MEGA),
    ("K", KILO),
    ("Ti", TEBI),
    ("Gi", GIBI),
    ("Mi", MEBI),
    ("Ki", KIBI),
    ("", 1),
];

static TOKENS: Quantity =
    Quantity { what: "a number of tokens", one: "tokens", units: NUMBERS, also: &[("k", KILO), ("G", GIGA)], bare: 1 };
static COUNT: Quantity =
    Quantity { what: "a count", one: "things", units: NUMBERS, also: &[("k", KILO), ("G", GIGA)], bare: 1 };
static BYTES: Quantity = Quantity {
    what: "a size in bytes",
    one: "bytes",
    units: &[
        ("TiB", TEBI),
        ("GiB", GIBI),
        ("MiB", MEBI),
        ("KiB", KIBI),
        ("TB", TERA),
        ("GB", GIGA),
        ("MB", MEGA),
        ("kB", KILO),
        ("B", 1),
    ],
    also: &[("KB", KILO)],
    bare: 1,
};
static DURATION: Quantity = Quantity {
    what: "a duration",
    one: "milliseconds",
    units: &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)],
    also: &[],
    bare: 1_000,
};

impl Quantity {
    fn names(&self) -> String {
        let mut names: Vec<&str> = self.units.iter().map(|(name, _)| *name).filter(|name| !name.is_empty()).collect();
        names.reverse();
        names.join(", ")
    }

    fn parse(&self, text: &str) -> Result<u64, UnitError> {
        let shown = || text.chars().take(48).collect::<String>();
        let malformed = || UnitError::Malformed { text: shown(), what: self.what, units: self.names() };
        let number = decimal(text.trim()).ok_or_else(malformed)?;
        let factor = if number.rest.is_empty() {
            self.bare
        } else {
            let known = self.units.iter().chain(self.also).find(|(name, _)| *name == number.rest);
            known.map(|(_, factor)| *factor).ok_or_else(|| {
                let unit: String = number.rest.chars().take(16).collect();
                // `1-2K` or `5K/s` is no unit at all, and "unknown unit" would mislead.
                if unit.chars().all(char::is_alphabetic) {
                    UnitError::Unit { text: shown(), what: self.what, unit, units: self.names() }
                } else {
                    malformed()
                }
            })?
        };
        let range = || UnitError::Range { text: shown(), what: self.what, max: u64::MAX };
        match number.whole(u128::from(factor)) {
            Ok(value) => u64::try_from(value).map_err(|_| range()),
            Err(Inexact::Fraction) => Err(UnitError::Fraction { text: shown(), what: self.what, one: self.one }),
            Err(Inexact::Range) => Err(range()),
        }
    }

    /// The shortest spelling with at most three decimals that reads back as the same value; of equals the first unit.
    fn show(&self, value: u64) -> String {
        let smallest = self.units.last().map_or("", |(name, _)| name);
        if value == 0 {
            return format!("0{smallest}");
        }
        let spelt = self.units.iter().filter(|(_, factor)| *factor <= value).filter_map(|(name, factor)| {
            let thousandths = u128::from(value) * 1000;
            let factor = u128::from(*factor);
            if !thousandths.is_multiple_of(factor) {
                return None;
            }
            let thousandths = thousandths / factor;
            let (whole, part) = (grouped(thousandths / 1000), thousandths % 1000);
            let part = format!(".{part:03}");
            Some(format!("{whole}{}{name}", part.trim_end_matches('0').trim_end_matches('.')))
        });
        // `min_by_key` keeps the first of equals.
        spelt.min_by_key(String::len).unwrap_or_else(|| format!("{}{smallest}", grouped(u128::from(value))))
    }

    fn schema(&self) -> Schema {
        let units: Vec<&str> =
            self.units.iter().chain(self.also).map(|(name, _)| *name).filter(|name| !name.is_empty()).collect();
        let description = format!("{}: a number, or a number with one of {}", capital(self.what), self.names());
        json_schema!({
            "type": ["string", "number"],
            "minimum": 0,
            "pattern": format!(r"^ *[0-9][0-9_]*(\.[0-9][0-9_]*)?([eE][+-]?[0-9]+)? *({})? *$", units.join("|")),
            "description": description,
        })
    }
}

fn capital(text: &str) -> String {
    text[..1].to_uppercase() + &text[1..]
}

/// Digits in groups of three with `_`, from `10_000` on.
fn grouped(value: u128) -> String {
    let plain = value.to_string();
    if plain.len() < 5 {
        return plain;
    }
    let mut out = String::with_capacity(plain.len() * 4 / 3);
    for (at, digit) in plain.chars().enumerate() {
        if at > 0 && (plain.len() - at).is_multiple_of(3) {
            out.push('_');
        }
        out.push(digit);
    }
    out
}

struct Read(&'static Quantity);

impl Visitor<'_> for Read {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (a number with one of {})", self.0.what, self.0.names())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<u64, E> {
        value.checked_mul(self.0.bare).ok_or_else(|| {
            E::custom(UnitError::Range { text: value.to_string(), what: self.0.what, max: u64::MAX / self.0.bare })
        })
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<u64, E> {
        self.visit_str(&value.to_string())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<u64, E> {
        // `{:?}` of a float is its shortest exact spelling, with an exponent where it would be long.
        self.visit_str(&format!("{value:?}"))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
        self.0.parse(text).map_err(E::custom)
    }
}

macro_rules! quantity_type {
    ($(#[$doc:meta])* $name:ident, $quantity:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl FromStr for $name {
            type Err = UnitError;

            fn from_str(text: &str) -> Result<Self, UnitError> {
                $quantity.parse(text).map($name)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&$quantity.show(self.0))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(Read(&$quantity)).map($name)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $quantity.schema()
            }
        }
    };
}

quantity_type!(
    /// A number of tokens: `50B`, `1_000`, `1e6`, `2Mi`.
    Tokens, TOKENS
);
quantity_type!(
    /// A number of anything: documents, steps, bootstrap samples. Written as [`Tokens`].
    Count, COUNT
);
quantity_type!(
    /// A size in bytes: `4MiB`, `2GB`, `512`.
    Bytes, BYTES
);
quantity_type!(
    /// A span of time, held in milliseconds: `72h`, `30m`, `1.5s`, `250ms`. A number without a unit is seconds.
    ///
    /// Serialised as whole seconds, or as text with `ms` where it is not whole seconds.
    Duration, DURATION
);

impl Duration {
    /// The same span of time as the standard library has it.
    pub fn as_std(self) -> std::time::Duration {
        std::time::Duration::from_millis(self.0)
    }

    /// Whole seconds, rounded up.
    pub fn seconds(self) -> u64 {
        self.0.div_ceil(1000)
    }
}

macro_rules! plain_integer {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_u64(self.0)
            }
        }
    )*};
}

plain_integer!(Tokens, Count, Bytes);

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_multiple_of(1000) {
            serializer.serialize_u64(self.0 / 1000)
        } else {
            serializer.collect_str(&format_args!("{}ms", self.0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spellings_of_tokens() {
        for (text, want) in [
            ("0", 0),
            ("1_000", 1000),
            ("1e6", 1_000_000),
            ("1E6", 1_000_000),
            ("1.5K", 1500),
            ("1.5k", 1500),
            ("0.001K", 1),
            ("50B", 50_000_000_000),
            ("50 B", 50_000_000_000),
            ("1T", 1_000_000_000_000),
            ("2Mi", 2 << 20),
            ("1e-3K", 1),
            ("0e99999999999", 0),
            ("1e000", 1),
            ("18446744073709551615", u64::MAX),
            ("+7", 7),
        ] {
            assert_eq!(text.parse::<Tokens>().unwrap(), Tokens(want), "{text}");
            let quoted: Tokens = serde_json::from_value(text.into()).unwrap();
            assert_eq!(serde_json::to_string(&quoted).unwrap(), want.to_string());
        }
    }

    #[test]
    fn what_is_no_quantity_says_why() {
        let show = |error: UnitError| error.to_string();
        assert_eq!(
            show("1.5".parse::<Tokens>().unwrap_err()),
            "`1.5` is not a number of tokens: it is not a whole number of tokens"
        );
        assert_eq!(
            show("4MiB".parse::<Tokens>().unwrap_err()),
            "`4MiB` is not a number of tokens: unknown unit `MiB`, write one of Ki, Mi, Gi, Ti, K, M, B, T"
        );
        assert_eq!(
            show("10K".parse::<Bytes>().unwrap_err()),
            "`10K` is not a size in bytes: unknown unit `K`, write one of B, kB, MB, GB, TB, KiB, MiB, GiB, TiB"
        );
        assert_eq!(
            show("soon".parse::<Duration>().unwrap_err()),
            "`soon` is not a duration: write a number, then one of ms, s, m, h, d"
        );
        assert_eq!(
            show("-5".parse::<Count>().unwrap_err()),
            "`-5` is not a count: it is outside of 0 to 18446744073709551615"
        );
        for bad in [
            "",
            " ",
            "K",
            "1__0",
            "_1",
            "1_",
            "1.",
            ".5",
            "1e",
            "1e+",
            "1K2",
            "1 000",
            "0x10",
            "1e400",
            "99999999T",
            "１",
        ] {
            assert!(bad.parse::<Tokens>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn shown_in_the_nicest_exact_form() {
        for (value, want) in [
            (0, "0"),
            (999, "999"),
            (1000, "1K"),
            (1500, "1.5K"),
            (1234, "1234"),
            (1_048_576, "1Mi"),
            (50_000_000_000, "50B"),
            (123_456_789, "123_456_789"),
            (u64::MAX, "18_446_744_073_709_551_615"),
        ] {
            assert_eq!(Tokens(value).to_string(), want);
        }
        assert_eq!(Bytes(2 << 30).to_string(), "2GiB");
        assert_eq!(Bytes(2_000_000_000).to_string(), "2GB");
        assert_eq!(Duration(5_400_000).to_string(), "90m");
        assert_eq!(Duration(259_200_000).to_string(), "3d");
        assert_eq!(format!("{:>6}", Duration(1500)), "  1.5s");
    }

    #[test]
    fn durations_serialise_as_seconds_where_they_are_whole() {
        assert_eq!(serde_json::to_string(&"1h".parse::<Duration>().unwrap()).unwrap(), "3600");
        assert_eq!(serde_json::to_string(&"1.5s".parse::<Duration>().unwrap()).unwrap(), "\"1500ms\"");
        assert_eq!("1.5s".parse::<Duration>().unwrap().as_std(), std::time::Duration::from_millis(1500));
        assert_eq!("1.5s".parse::<Duration>().unwrap().seconds(), 2);
    }

    #[test]
    fn json_floats_count_only_when_whole() {
        assert_eq!(serde_json::from_str::<Tokens>("1e6").unwrap(), Tokens(1_000_000));
        assert!(serde_json::from_str::<Tokens>("1.5").is_err());
        assert!(serde_json::from_str::<Tokens>("-1").is_err());
        assert!(serde_json::from_str::<Tokens>("true").is_err());
    }

    proptest! {
        #[test]
        fn shown_then_read_is_the_same(value: u64) {
            prop_assert_eq!(Tokens(value).to_string().parse::<Tokens>().unwrap(), Tokens(value));
            prop_assert_eq!(Count(value).to_string().parse::<Count>().unwrap(), Count(value));
            prop_assert_eq!(Bytes(value).to_string().parse::<Bytes>().unwrap(), Bytes(value));
            prop_assert_eq!(Duration(value).to_string().parse::<Duration>().unwrap(), Duration(value));
        }

        #[test]
        fn serialised_then_read_is_the_same(value: u64) {
            let duration = Duration(value);
            let json = serde_json::to_string(&duration).unwrap();
            prop_assert_eq!(serde_json::from_str::<Duration>(&json).unwrap(), duration);
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = text.parse::<Tokens>();
            let _ = text.parse::<Bytes>();
            let _ = text.parse::<Duration>();
        }

        #[test]
        fn equal_spellings_are_equal(whole in 0_u64..1_000_000, places in 0_u32..4) {
            let plain = Tokens(whole * 10_u64.pow(places));
            prop_assert_eq!(format!("{whole}e{places}").parse::<Tokens>().unwrap(), plain);
            prop_assert_eq!(grouped(u128::from(plain.0)).parse::<Tokens>().unwrap(), plain);
            prop_assert_eq!(format!(" {}.000K ", plain.0).parse::<Tokens>().unwrap(), Tokens(plain.0 * 1000));
        }
    }
}
