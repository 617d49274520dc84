//! Lengths of lines, after the filters of `StarCoder` (Li et al. 2023, arXiv:2305.06161, section 3.1): minified code, embedded data
//! and tables are a few endless lines. `StarCoder`'s own limits (1000 the longest, 100 the mean) are for code; prose has a paragraph
//! a line, so that the defaults are wider.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Page, Rule, Verdict};

/// Drops documents with endless lines. Reasons: `long_line`, `long_mean_line`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Lines {
    /// Most bytes of a line.
    pub max_line_bytes: u64,
    /// Most bytes of the lines that are not empty, in the mean.
    pub max_mean_line_bytes: f64,
}

impl Default for Lines {
    fn default() -> Self {
        Lines { max_line_bytes: 20_000, max_mean_line_bytes: 2_000.0 }
    }
}

impl Rule for Lines {
    fn check(&self, page: &Page<'_>) -> Verdict {
        let (mut longest, mut sum, mut count) = (0, 0, 0u64);
        for line in page.text.split('\n').filter(|line| !line.is_empty()) {
            longest = longest.max(line.len() as u64);
            sum += line.len() as u64;
            count += 1;
        }
        if longest > self.max_line_bytes {
            return Verdict::Drop("long_line");
        }
        let mean = sum as f64 / count.max(1) as f64;
        if mean > self.max_mean_line_bytes { Verdict::Drop("long_mean_line") } else { Verdict::Keep }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        let rule = Lines { max_line_bytes: 10, max_mean_line_bytes: 6.0 };
        let check = |text: &str| rule.check(&Page::new(text));
        assert_eq!(check("12345678901"), Verdict::Drop("long_line"));
        assert_eq!(check("1234567890\n\n\n1234"), Verdict::Drop("long_mean_line"));
        assert_eq!(check("1234567890\n12"), Verdict::Keep);
        assert_eq!(check(""), Verdict::Keep);
    }
}
