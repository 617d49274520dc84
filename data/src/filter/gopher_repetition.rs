//! Gopher's repetition rules (Rae et al. 2021, arXiv:2112.11446, table A1).
//!
//! Words are hashed once; the hash of an n-gram rolls from them for every n, so that no n-gram is ever spelt out. The order of the
//! rules is datatrove's, and the first that drops ends the work.

use std::cell::RefCell;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::{Flavour, Page, Rule, Verdict, Words};

/// Drops documents that repeat themselves. Reasons: `empty`, `dup_para_frac`, `dup_para_char_frac`, `dup_line_frac`,
/// `dup_line_char_frac`, `top_2_gram` to `top_4_gram`, `duplicated_5_n_grams` to `duplicated_10_n_grams`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GopherRepetition {
    /// Which program's definitions.
    pub flavour: Flavour,
    /// Most share of lines that are repeated.
    pub max_duplicate_lines: f64,
    /// Most share of paragraphs that are repeated (not for `dolma`).
    pub max_duplicate_paragraphs: f64,
    /// Most share of characters in repeated lines.
    pub max_duplicate_line_chars: f64,
    /// Most share of characters in repeated paragraphs (not for `dolma`).
    pub max_duplicate_paragraph_chars: f64,
    /// Most share of characters in the most frequent n-gram of n = 2, 3, 4 words.
    pub max_top_ngram: [f64; 3],
    /// Most share of characters in repeated n-grams of n = 5 to 10 words.
    pub max_duplicate_ngrams: [f64; 6],
}

impl Default for GopherRepetition {
    fn default() -> Self {
        GopherRepetition {
            flavour: Flavour::Datatrove,
            max_duplicate_lines: 0.3,
            max_duplicate_paragraphs: 0.3,
            max_duplicate_line_chars: 0.2,
            max_duplicate_paragraph_chars: 0.2,
            max_top_ngram: [0.20, 0.18, 0.16],
            max_duplicate_ngrams: [0.15, 0.14, 0.13, 0.12, 0.11, 0.10],
        }
    }
}

const TOP: [&str; 3] = ["top_2_gram", "top_3_gram", "top_4_gram"];
const REPEATED: [&str; 6] = [
    "duplicated_5_n_grams",
    "duplicated_6_n_grams",
    "duplicated_7_n_grams",
    "duplicated_8_n_grams",
    "duplicated_9_n_grams",
    "duplicated_10_n_grams",
];

impl Rule for GopherRepetition {
    fn check(&self, page: &Page<'_>) -> Verdict {
        if page.text.is_empty() {
            return Verdict::Drop("empty");
        }
        WORK.with_borrow_mut(|work| match self.first_reason(page, work) {
            Some(reason) => Verdict::Drop(reason),
            None => Verdict::Keep,
        })
    }
}

impl GopherRepetition {
    fn first_reason(&self, page: &Page<'_>, work: &mut Work) -> Option<&'static str> {
        let text = page.text;
        let paragraphs = match self.flavour {
            Flavour::Datatrove => work.parts(self, page, paragraphs(text.trim())),
            Flavour::Dclm => work.parts(self, page, text.split("\n\n").filter(|part| !part.is_empty())),
            Flavour::Dolma => Shares::default(),
        };
        if paragraphs.elements > self.max_duplicate_paragraphs {
            return Some("dup_para_frac");
        }
        if paragraphs.chars > self.max_duplicate_paragraph_chars {
            return Some("dup_para_char_frac");
        }
        let lines = match self.flavour {
            Flavour::Datatrove => work.parts(self, page, newline_runs(text)),
            Flavour::Dclm | Flavour::Dolma => work.parts(self, page, text.split('\n').filter(|part| !part.is_empty())),
        };
        if lines.elements > self.max_duplicate_lines {
            return Some("dup_line_frac");
        }
        if lines.chars > self.max_duplicate_line_chars {
            return Some("dup_line_char_frac");
        }
        let words = page.words(self.flavour);
        let sizes: Vec<u32> = match self.flavour {
            Flavour::Dclm => words.spans.iter().map(|(start, end)| end - start).collect(),
            Flavour::Datatrove | Flavour::Dolma => words.chars.clone(),
        };
        let whole = match self.flavour {
            Flavour::Datatrove => page.chars() as f64,
            Flavour::Dclm | Flavour::Dolma => sizes.iter().map(|size| f64::from(*size)).sum(),
        };
        for (index, limit) in self.max_top_ngram.iter().enumerate() {
            if words.len() >= index + 2 && work.top(self.flavour, words, &sizes, index + 2) as f64 > limit * whole {
                return Some(TOP[index]);
            }
        }
        for (index, limit) in self.max_duplicate_ngrams.iter().enumerate() {
            let n = index + 5;
            if words.len() < n {
                break;
            }
            let whole = if self.flavour == Flavour::Dolma { all_ngrams(&sizes, n) } else { whole };
            if work.repeated(self.flavour, words, &sizes, n) as f64 > limit * whole {
                return Some(REPEATED[index]);
            }
        }
        None
    }
}

/// `re.split(r"\n{2,}", text)`.
fn paragraphs(text: &str) -> impl Iterator<Item = &str> {
    split_runs(text, 2)
}

/// `re.split(r"\n+", text)`: empty parts only at the ends.
fn newline_runs(text: &str) -> impl Iterator<Item = &str> {
    split_runs(text, 1)
}

fn split_runs(text: &str, least: usize) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let part = rest?;
        let mut from = 0;
        while let Some(at) = part[from..].find('\n') {
            let start = from + at;
            let end = start + part[start..].bytes().take_while(|&byte| byte == b'\n').count();
            if end - start >= least {
                rest = Some(&part[end..]);
                return Some(&part[..start]);
            }
            from = end;
        }
        rest = None;
        Some(part)
    })
}

/// Shares of what is repeated.
#[derive(Default)]
struct Shares {
    elements: f64,
    chars: f64,
}

thread_local! {
    static WORK: RefCell<Work> = RefCell::default();
}

/// Buffers that live as long as the thread.
#[derive(Default)]
struct Work {
    table: Table,
    grams: Vec<u64>,
    covered: Vec<bool>,
}

/// Odd multiplier of the rolling hash (2^64 divided by the golden ratio).
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl Work {
    fn parts<'t>(&mut self, rule: &GopherRepetition, page: &Page<'_>, parts: impl Iterator<Item = &'t str>) -> Shares {
        let bytes = rule.flavour == Flavour::Dclm || page.ascii();
        let size = |part: &str| if bytes { part.len() as u64 } else { part.chars().count() as u64 };
        self.table.clear(page.text.bytes().filter(|&byte| byte == b'\n').count() + 1);
        let (mut count, mut again, mut again_chars, mut all_chars) = (0u64, 0u64, 0u64, 0u64);
        for part in parts {
            count += 1;
            let size = size(part);
            all_chars += size;
            let seen = self.table.add(xxh3_64(part.as_bytes()));
            // The second one brings the first with it where every occurrence counts.
            let times = match (rule.flavour, seen) {
                (_, 0) => 0,
                (Flavour::Dclm | Flavour::Dolma, 1) => 2,
                _ => 1,
            };
            again += times;
            again_chars += times * size;
        }
        let whole = match rule.flavour {
            Flavour::Datatrove => page.chars(),
            Flavour::Dclm => all_chars,
            Flavour::Dolma => page.words(Flavour::Dolma).chars.iter().map(|chars| u64::from(*chars)).sum(),
        };
        Shares { elements: again as f64 / count.max(1) as f64, chars: again_chars as f64 / whole.max(1) as f64 }
    }

    /// Hashes of all n-grams, each from the one before.
    fn roll(&mut self, words: &Words, n: usize) {
        let out = (1..n).fold(1u64, |power, _| power.wrapping_mul(STEP));
        let mut hash = 0u64;
        self.grams.clear();
        for (index, word) in words.hashes.iter().enumerate() {
            if index >= n {
                hash = hash.wrapping_sub(words.hashes[index - n].wrapping_mul(out));
            }
            hash = hash.wrapping_mul(STEP).wrapping_add(*word);
            if index + 1 >= n {
                self.grams.push(hash);
            }
        }
    }

    /// Characters in the most frequent n-gram.
    fn top(&mut self, flavour: Flavour, words: &Words, sizes: &[u32], n: usize) -> u64 {
        self.roll(words, n);
        self.table.clear(self.grams.len());
        let spaces = if flavour == Flavour::Datatrove { n as u64 - 1 } else { 0 };
        let size = |start: usize| sizes[start..start + n].iter().map(|size| u64::from(*size)).sum::<u64>() + spaces;
        for gram in &self.grams {
            self.table.add(*gram);
        }
        let most = self.table.most();
        if flavour != Flavour::Datatrove && most < 2 {
            return 0;
        }
        match flavour {
            Flavour::Datatrove | Flavour::Dolma => {
                // Python's counter keeps the order of first sight, so that the first of the most frequent wins.
                let first = self.grams.iter().position(|gram| self.table.count(*gram) == most).unwrap_or(0);
                size(first) * u64::from(most)
            }
            Flavour::Dclm => {
                let best = (0..self.grams.len())
                    .filter(|&start| self.table.count(self.grams[start]) == most)
                    .max_by_key(|&start| (size(start), std::cmp::Reverse(start)));
                let best = best.map(|start| self.grams[start]);
                self.cover(sizes, n, |_, gram| Some(gram) == best)
            }
        }
    }

    /// Characters in n-grams that occur more than once.
    fn repeated(&mut self, flavour: Flavour, words: &Words, sizes: &[u32], n: usize) -> u64 {
        self.roll(words, n);
        self.table.clear(self.grams.len());
        if flavour == Flavour::Datatrove {
            let (mut again, mut index) = (0, 0);
            while index < self.grams.len() {
                if self.table.add(self.grams[index]) > 0 {
                    again += sizes[index..index + n].iter().map(|size| u64::from(*size)).sum::<u64>();
                    index += n;
                } else {
                    index += 1;
                }
            }
            return again;
        }
        for gram in &self.grams {
            self.table.add(*gram);
        }
        if flavour == Flavour::Dclm {
            return self.cover(sizes, n, |table, gram| table.count(gram) > 1);
        }
        let size = |start: usize| sizes[start..start + n].iter().map(|size| u64::from(*size)).sum::<u64>();
        (0..self.grams.len()).filter(|&start| self.table.count(self.grams[start]) > 1).map(size).sum()
    }

    /// Size of all words that lie in a chosen n-gram, each counted once.
    fn cover(&mut self, sizes: &[u32], n: usize, chosen: impl Fn(&Table, u64) -> bool) -> u64 {
        self.covered.clear();
        self.covered.resize(sizes.len(), false);
        for (start, gram) in self.grams.iter().enumerate() {
            if chosen(&self.table, *gram) {
                self.covered[start..start + n].fill(true);
            }
        }
        self.covered.iter().zip(sizes).filter(|(covered, _)| **covered).map(|(_, size)| u64::from(*size)).sum()
    }
}

/// Dolma's denominator: the characters of all n-grams, overlaps counted again.
fn all_ngrams(sizes: &[u32], n: usize) -> f64 {
    sizes.windows(n).map(|window| window.iter().map(|size| f64::from(*size)).sum::<f64>()).sum()
}

/// Counts of 64-bit hashes: open addressing, emptied by a generation number, grown but never given back.
#[derive(Default)]
struct Table {
    slots: Vec<Slot>,
    mask: usize,
    generation: u32,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    hash: u64,
    count: u32,
    generation: u32,
}

impl Table {
    fn clear(&mut self, expected: usize) {
        let wanted = (expected.max(8) * 2).next_power_of_two();
        if self.slots.len() < wanted || self.generation == u32::MAX {
            self.slots = vec![Slot::default(); wanted.max(self.slots.len())];
            self.generation = 0;
        }
        // A small document in a table grown by a big one stays within a cache's reach.
        self.mask = wanted - 1;
        self.generation += 1;
    }

    fn slot(&self, hash: u64) -> usize {
        let mut at = (hash ^ (hash >> 32)) as usize & self.mask;
        while self.slots[at].generation == self.generation && self.slots[at].hash != hash {
            at = (at + 1) & self.mask;
        }
        at
    }

    /// Counts `hash` once more; how often it had been seen before.
    fn add(&mut self, hash: u64) -> u32 {
        let at = self.slot(hash);
        let slot = &mut self.slots[at];
        if slot.generation != self.generation {
            *slot = Slot { hash, count: 0, generation: self.generation };
        }
        slot.count += 1;
        slot.count - 1
    }

    fn count(&self, hash: u64) -> u32 {
        let slot = self.slots[self.slot(hash)];
        if slot.generation == self.generation { slot.count } else { 0 }
    }

    fn most(&self) -> u32 {
        let live = self.slots[..=self.mask].iter().filter(|slot| slot.generation == self.generation);
        live.map(|slot| slot.count).max().unwrap_or(0)
    }
}
