//! Gopher's quality rules (Rae et al. 2021, arXiv:2112.11446, table A1 and section A.1.1).
//!
//! The programs that people follow differ in what a word is, in what is counted and in denominators; `flavour` chooses.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Flavour, Page, Rule, Verdict, Words};

/// Drops documents that do not look like prose. Reasons: `gopher_short_doc`, `gopher_long_doc`, `gopher_below_avg_threshold`,
/// `gopher_above_avg_threshold`, `gopher_too_many_hashes`, `gopher_too_many_ellipsis`, `gopher_too_many_bullets`,
/// `gopher_too_many_end_ellipsis`, `gopher_below_alpha_threshold`, `gopher_enough_stop_words` (too few of them).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GopherQuality {
    /// Which program's definitions.
    pub flavour: Flavour,
    /// Fewest words.
    pub min_words: u64,
    /// Most words.
    pub max_words: u64,
    /// Least length of a word in characters: the mean, for `dolma` the median.
    pub min_word_length: f64,
    /// Most length of a word, likewise.
    pub max_word_length: f64,
    /// Most `#` and most ellipses a word.
    pub max_symbol_ratio: f64,
    /// Most share of lines that start with a bullet.
    pub max_bullet_lines: f64,
    /// Most share of lines that end with an ellipsis.
    pub max_ellipsis_lines: f64,
    /// Least share of words with a letter.
    pub min_alphabetic_words: f64,
    /// Fewest stop words: distinct ones for `datatrove`, occurrences else.
    pub min_stop_words: u64,
}

impl Default for GopherQuality {
    fn default() -> Self {
        GopherQuality {
            flavour: Flavour::Datatrove,
            min_words: 50,
            max_words: 100_000,
            min_word_length: 3.0,
            max_word_length: 10.0,
            max_symbol_ratio: 0.1,
            max_bullet_lines: 0.9,
            max_ellipsis_lines: 0.3,
            min_alphabetic_words: 0.8,
            min_stop_words: 2,
        }
    }
}

const STOP_WORDS: [&str; 8] = ["the", "be", "to", "of", "and", "that", "have", "with"];

impl Rule for GopherQuality {
    fn check(&self, page: &Page<'_>) -> Verdict {
        let words = page.words(self.flavour);
        let text = page.text;
        let (counted, length) = self.words_that_count(text, words);
        if counted < self.min_words {
            return Verdict::Drop("gopher_short_doc");
        }
        if counted > self.max_words {
            return Verdict::Drop("gopher_long_doc");
        }
        if length < self.min_word_length {
            return Verdict::Drop("gopher_below_avg_threshold");
        }
        if length > self.max_word_length {
            return Verdict::Drop("gopher_above_avg_threshold");
        }
        let all = words.len() as f64;
        let (hashes, ellipses) = self.symbols(text, words);
        if hashes as f64 > self.max_symbol_ratio * all {
            return Verdict::Drop("gopher_too_many_hashes");
        }
        if ellipses as f64 > self.max_symbol_ratio * all {
            return Verdict::Drop("gopher_too_many_ellipsis");
        }
        let (mut lines, mut bullets, mut ends) = (0u64, 0u64, 0u64);
        let mut count = |line: &str| {
            lines += 1;
            bullets += u64::from(line.trim_start().starts_with(self.bullets()));
            let end = line.trim_end();
            ends += u64::from(end.ends_with('…') || (self.flavour != Flavour::Dolma && end.ends_with("...")));
        };
        match self.flavour {
            Flavour::Datatrove => split_lines(text).for_each(&mut count),
            Flavour::Dclm | Flavour::Dolma => text.split('\n').for_each(&mut count),
        }
        if bullets as f64 > self.max_bullet_lines * lines as f64 {
            return Verdict::Drop("gopher_too_many_bullets");
        }
        if ends as f64 > self.max_ellipsis_lines * lines as f64 {
            return Verdict::Drop("gopher_too_many_end_ellipsis");
        }
        if self.lacks_letters(page, words) {
            return Verdict::Drop("gopher_below_alpha_threshold");
        }
        if self.stop_words(page, words) < self.min_stop_words {
            return Verdict::Drop("gopher_enough_stop_words");
        }
        Verdict::Keep
    }
}

impl GopherQuality {
    /// How many words count for the length of a document, and how long they are.
    fn words_that_count(&self, text: &str, words: &Words) -> (u64, f64) {
        match self.flavour {
            Flavour::Datatrove => {
                let (mut count, mut sum) = (0u64, 0u64);
                for (word, chars) in words.iter(text).zip(&words.chars) {
                    if !word.chars().all(is_punctuation) {
                        count += 1;
                        sum += u64::from(*chars);
                    }
                }
                (count, sum as f64 / count.max(1) as f64)
            }
            Flavour::Dclm => {
                let sum: u64 = words.chars.iter().map(|chars| u64::from(*chars)).sum();
                (words.len() as u64, sum as f64 / words.len().max(1) as f64)
            }
            Flavour::Dolma => {
                let mut lengths = words.chars.clone();
                lengths.sort_unstable();
                let middle = lengths.len() / 2;
                let median = match lengths.len() {
                    0 => 0.0,
                    n if n % 2 == 1 => f64::from(lengths[middle]),
                    _ => f64::midpoint(f64::from(lengths[middle - 1]), f64::from(lengths[middle])),
                };
                (words.len() as u64, median)
            }
        }
    }

    /// Hashes and ellipses; Dolma counts words that hold one of either, told as hashes.
    fn symbols(&self, text: &str, words: &Words) -> (u64, u64) {
        if self.flavour == Flavour::Dolma {
            let holds = words.iter(text).filter(|word| word.contains('#') || word.contains('…')).count();
            return (holds as u64, 0);
        }
        let hashes = text.bytes().filter(|&byte| byte == b'#').count() as u64;
        // Not overlapping, as Python counts: "....." holds one.
        let ellipses = if text.contains("..") || !text.is_ascii() {
            text.matches("...").count() + text.matches('…').count()
        } else {
            0
        };
        (hashes, ellipses as u64)
    }

    fn bullets(&self) -> &'static [char] {
        match self.flavour {
            Flavour::Datatrove | Flavour::Dclm => &['•', '-'],
            Flavour::Dolma => &['*', '-'],
        }
    }

    fn lacks_letters(&self, page: &Page<'_>, words: &Words) -> bool {
        let flavour = if self.flavour == Flavour::Dclm { Flavour::Dolma } else { self.flavour };
        let words = if flavour == self.flavour { words } else { page.words(flavour) };
        // DCLM's program drops a document of one word whatever it is.
        if self.flavour == Flavour::Dclm && words.len() == 1 {
            return true;
        }
        let letters =
            |word: &&str| word.bytes().any(|b| b.is_ascii_alphabetic()) || word.chars().any(char::is_alphabetic);
        let with = words.iter(page.text).filter(letters).count();
        (with as f64) < self.min_alphabetic_words * words.len() as f64
    }

    fn stop_words(&self, page: &Page<'_>, words: &Words) -> u64 {
        let place = |word: &str| STOP_WORDS.iter().position(|stop| *stop == word);
        match self.flavour {
            Flavour::Datatrove => {
                let mut seen = 0u8;
                for word in words.iter(page.text).filter(|word| word.len() <= 4) {
                    seen |= place(word).map_or(0, |place| 1 << place);
                }
                u64::from(seen.count_ones())
            }
            Flavour::Dclm => {
                let words = page.words(Flavour::Dolma);
                words
                    .iter(page.text)
                    .filter(|word| STOP_WORDS.iter().any(|stop| word.eq_ignore_ascii_case(stop)))
                    .count() as u64
            }
            Flavour::Dolma => words.iter(page.text).filter(|word| place(word).is_some()).count() as u64,
        }
    }
}

/// Lines as Python's `splitlines` has them: a break at the end opens no further line.
pub(super) fn split_lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let is_break = |c: char| {
            matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
        };
        let end = rest.find(is_break).unwrap_or(rest.len());
        let line = &rest[..end];
        let after = &rest[end..];
        let skip = if after.starts_with("\r\n") { 2 } else { after.chars().next().map_or(0, char::len_utf8) };
        rest = &after[skip..];
        Some(line)
    })
}

/// ASCII punctuation, and what Unicode calls punctuation or symbols among the blocks that texts use.
pub(super) fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation()
        || matches!(c, '¡'..='©' | '«'..='±' | '´' | '¶'..='¸' | '»' | '¿' | '×' | '÷' | '\u{2010}'..='\u{2027}' | '\u{2030}'..='\u{205e}'
            | '\u{3001}'..='\u{3003}' | '\u{3008}'..='\u{301f}' | '\u{ff01}'..='\u{ff0f}' | '\u{ff1a}'..='\u{ff20}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(flavour: Flavour, text: &str) -> Verdict {
        GopherQuality { flavour, min_words: 5, ..GopherQuality::default() }.check(&Page::new(text))
    }

    #[test]
    fn each_reason_can_be_met() {
        let prose = "We have all that the rules demand of prose and nothing more";
        for flavour in [Flavour::Datatrove, Flavour::Dclm, Flavour::Dolma] {
            assert_eq!(check(flavour, prose), Verdict::Keep, "{flavour:?}");
            assert_eq!(check(flavour, ""), Verdict::Drop("gopher_short_doc"));
            assert_eq!(check(flavour, "a b c d e f g h"), Verdict::Drop("gopher_below_avg_threshold"));
            assert_eq!(check(flavour, &"characteristics ".repeat(9)), Verdict::Drop("gopher_above_avg_threshold"));
            assert_eq!(check(flavour, &"#word ".repeat(9)), Verdict::Drop("gopher_too_many_hashes"));
            let bullets = "- have the word\n".repeat(9);
            assert_eq!(check(flavour, bullets.trim()), Verdict::Drop("gopher_too_many_bullets"));
            assert_eq!(check(flavour, &"word 12345 ".repeat(9)), Verdict::Drop("gopher_below_alpha_threshold"));
            assert_eq!(check(flavour, &"word ".repeat(9)), Verdict::Drop("gopher_enough_stop_words"));
        }
        let ends = "many many words before the end of lines…\n".repeat(3);
        assert_eq!(check(Flavour::Datatrove, ends.trim()), Verdict::Drop("gopher_too_many_ellipsis"));
    }

    #[test]
    fn stop_words_count_as_the_flavour_says() {
        let twice = "Some words here; the other words, the others";
        assert_eq!(check(Flavour::Datatrove, twice), Verdict::Drop("gopher_enough_stop_words"));
        assert_eq!(check(Flavour::Dolma, twice), Verdict::Keep);
        let capital = "Words come here; The other words, The others";
        assert_eq!(check(Flavour::Dolma, capital), Verdict::Drop("gopher_enough_stop_words"));
        assert_eq!(check(Flavour::Dclm, capital), Verdict::Keep);
    }

    #[test]
    fn lines_end_as_in_python() {
        let lines = |text| split_lines(text).collect::<Vec<_>>();
        assert_eq!(lines("a\r\nb\n\nc\u{2028}"), ["a", "b", "", "c"]);
        assert!(lines("").is_empty());
    }
}
