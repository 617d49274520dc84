//! Shares of characters, after `StarCoder` (arXiv:2305.06161, section 3.1: at least a quarter alphanumeric) and the usual test for
//! tables of numbers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Page, Rule, Verdict};

/// Drops drawings, tables of numbers and encoded bytes. Reasons: `few_alphanumeric`, `many_digits`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Characters {
    /// Least share of letters and digits among the characters that are no spaces.
    pub min_alphanumeric: f64,
    /// Most digits (ASCII) among letters and digits.
    pub max_digits: f64,
}

impl Default for Characters {
    fn default() -> Self {
        Characters { min_alphanumeric: 0.4, max_digits: 0.5 }
    }
}

impl Rule for Characters {
    fn check(&self, page: &Page<'_>) -> Verdict {
        let (mut visible, mut alphanumeric, mut digits) = (0u64, 0u64, 0u64);
        if page.ascii() {
            for byte in page.text.bytes() {
                visible += u64::from(byte > b' ');
                alphanumeric += u64::from(byte.is_ascii_alphanumeric());
                digits += u64::from(byte.is_ascii_digit());
            }
        } else {
            for c in page.text.chars() {
                visible += u64::from(!c.is_whitespace());
                alphanumeric += u64::from(c.is_alphanumeric());
                digits += u64::from(c.is_ascii_digit());
            }
        }
        if (alphanumeric as f64) < self.min_alphanumeric * visible as f64 {
            return Verdict::Drop("few_alphanumeric");
        }
        if digits as f64 > self.max_digits * alphanumeric as f64 { Verdict::Drop("many_digits") } else { Verdict::Keep }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        let check = |text: &str| Characters::default().check(&Page::new(text));
        assert_eq!(check("+--+--+ ab"), Verdict::Drop("few_alphanumeric"));
        assert_eq!(check("12 34 56 x"), Verdict::Drop("many_digits"));
        assert_eq!(check("żółw … 12"), Verdict::Keep);
        assert_eq!(check(""), Verdict::Keep);
    }
}
