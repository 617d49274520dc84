//! Nearly the same text twice: `MinHash` signatures, banded (Broder 1997; Leskovec, Rajaraman, Ullman, *Mining of Massive Datasets*,
//! chapter 3). Two documents whose sets of shingles overlap with Jaccard similarity s meet in at least one band with probability
//! 1 − (1 − s^rows)^bands: for 14 × 8 that is .56 at s = .7, .92 at .8, .9996 at .9.
//!
//! ```text
//! text ─words─▶ shingles of n words ─112 permutations─▶ minima ─14 bands─▶ keys ─equal key─▶ groups (union-find)
//! ```
//!
//! The permutations come from a fixed seed, groups keep their smallest index, keys are sorted: nothing depends on the schedule.

use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::{Error, Result};

/// How near-duplicates are told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MinHash {
    /// Words in a shingle. A document with fewer is one shingle; one without any word is never a near-duplicate.
    pub words: usize,
    /// Bands of a signature.
    pub bands: usize,
    /// Hashes in a band.
    pub rows: usize,
    /// If given, the true Jaccard similarity that a pair from one band must reach; `null` trusts the bands, as `FineWeb` does.
    pub verify: Option<f64>,
}

impl Default for MinHash {
    fn default() -> Self {
        MinHash { words: 5, bands: 14, rows: 8, verify: None }
    }
}

impl MinHash {
    pub(crate) fn validate(&self) -> Result<()> {
        let wrong =
            |name: &str, reason: String| Err(Error::Parameter { name: format!("dedup.minhash.{name}"), reason });
        if !(1..=64).contains(&self.words) {
            return wrong("words", format!("is {}; it must be from 1 to 64", self.words));
        }
        if !(1..=256).contains(&self.bands) {
            return wrong("bands", format!("is {}; it must be from 1 to 256", self.bands));
        }
        if !(1..=64).contains(&self.rows) {
            return wrong("rows", format!("is {}; it must be from 1 to 64", self.rows));
        }
        if let Some(least) = self.verify.filter(|least| !(0.0..=1.0).contains(least)) {
            return wrong("verify", format!("is {least}; it must be a similarity from 0 to 1, or null"));
        }
        Ok(())
    }
}

/// Makes the band keys of documents.
#[derive(Debug)]
pub struct Sketcher {
    words: usize,
    rows: usize,
    multiply: Vec<u32>,
    add: Vec<u32>,
}

/// Buffers of one thread.
#[derive(Debug, Default)]
pub struct Scratch {
    lower: String,
    words: Vec<u64>,
    shingles: Vec<u64>,
    minima: Vec<u32>,
}

impl Sketcher {
    /// The permutations of these parameters: always the same.
    pub fn new(params: &MinHash) -> Self {
        let mut state = 0x666c_6f77_6d69_6e68;
        let mut next = || {
            // SplitMix64 (Steele, Lea, Flood 2014).
            state = u64::wrapping_add(state, 0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        };
        let count = params.bands * params.rows;
        // An odd factor makes x → a·x + b a permutation of the 32-bit numbers.
        let multiply = (0..count).map(|_| (next() >> 32) as u32 | 1).collect();
        let add = (0..count).map(|_| (next() >> 32) as u32).collect();
        Sketcher { words: params.words, rows: params.rows, multiply, add }
    }

    /// One key a band; none for a text without words.
    pub fn keys(&self, text: &str, scratch: &mut Scratch) -> Option<Vec<u64>> {
        shingles(text, self.words, scratch);
        if scratch.shingles.is_empty() {
            return None;
        }
        scratch.minima.clear();
        scratch.minima.resize(self.multiply.len(), u32::MAX);
        minima(&scratch.shingles, &self.multiply, &self.add, &mut scratch.minima);
        let mut bytes = Vec::with_capacity(self.rows * 4);
        let keys = scratch.minima.chunks(self.rows).map(|row| {
            bytes.clear();
            for minimum in row {
                bytes.extend_from_slice(&minimum.to_le_bytes());
            }
            xxh3_64(&bytes)
        });
        Some(keys.collect())
    }
}

/// Hashes of all runs of `n` words, into `scratch.shingles`. Words are runs of letters and digits in lower case.
fn shingles(text: &str, n: usize, scratch: &mut Scratch) {
    scratch.words.clear();
    scratch.lower.clear();
    if text.is_ascii() {
        scratch.lower.push_str(text);
        scratch.lower.make_ascii_lowercase();
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric();
        let words = scratch.lower.as_bytes().split(|byte| !is_word(byte)).filter(|word| !word.is_empty());
        scratch.words.extend(words.map(xxh3_64));
    } else {
        scratch.lower.extend(text.chars().flat_map(char::to_lowercase));
        let words = scratch.lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        scratch.words.extend(words.map(|word| xxh3_64(word.as_bytes())));
    }
    scratch.shingles.clear();
    let n = n.min(scratch.words.len());
    if n == 0 {
        return;
    }
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let out = (1..n).fold(1u64, |power, _| power.wrapping_mul(STEP));
    let mut hash = 0u64;
    for (index, word) in scratch.words.iter().enumerate() {
        if index >= n {
            hash = hash.wrapping_sub(scratch.words[index - n].wrapping_mul(out));
        }
        hash = hash.wrapping_mul(STEP).wrapping_add(*word);
        if index + 1 >= n {
            // The polynomial's low bits are weak; the permutations want all of them good.
            let mixed = (hash ^ (hash >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
            scratch.shingles.push(mixed ^ (mixed >> 32));
        }
    }
}

/// The least value that each permutation gives to any shingle.
fn minima(shingles: &[u64], multiply: &[u32], add: &[u32], minima: &mut [u32]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2, the only thing that this function asks for.
        unsafe { minima_avx2(shingles, multiply, add, minima) };
        return;
    }
    minima_plain(shingles, multiply, add, minima);
}

/// The same integer arithmetic, compiled for eight lanes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn minima_avx2(shingles: &[u64], multiply: &[u32], add: &[u32], minima: &mut [u32]) {
    minima_plain(shingles, multiply, add, minima);
}

// Inlined always: it must be compiled again inside the function that enables AVX2.
#[inline(always)]
fn minima_plain(shingles: &[u64], multiply: &[u32], add: &[u32], minima: &mut [u32]) {
    // Lanes outside, shingles inside: a block of minima stays in registers.
    const LANES: usize = 16;
    let blocks = minima.chunks_mut(LANES).zip(multiply.chunks(LANES)).zip(add.chunks(LANES));
    for ((minima, multiply), add) in blocks {
        if let (Ok(minima), Ok(multiply), Ok(add)) = (
            <&mut [u32; LANES]>::try_from(&mut *minima),
            <&[u32; LANES]>::try_from(multiply),
            <&[u32; LANES]>::try_from(add),
        ) {
            let mut least = *minima;
            for shingle in shingles {
                let x = *shingle as u32;
                for lane in 0..LANES {
                    least[lane] = least[lane].min(x.wrapping_mul(multiply[lane]).wrapping_add(add[lane]));
                }
            }
            *minima = least;
        } else {
            for (lane, least) in minima.iter_mut().enumerate() {
                for shingle in shingles {
                    let value = (*shingle as u32).wrapping_mul(multiply[lane]).wrapping_add(add[lane]);
                    *least = (*least).min(value);
                }
            }
        }
    }
}

/// True Jaccard similarity of two texts' sets of shingles; 0 when one has none.
pub fn jaccard(a: &str, b: &str, words: usize) -> f64 {
    let set = |text: &str| {
        let mut scratch = Scratch::default();
        shingles(text, words, &mut scratch);
        let mut set = scratch.shingles;
        set.sort_unstable();
        set.dedup();
        set
    };
    let (a, b) = (set(a), set(b));
    let (mut i, mut j, mut common) = (0, 0, 0usize);
    while i < a.len() && j < b.len() {
        common += usize::from(a[i] == b[j]);
        let (left, right) = (a[i], b[j]);
        i += usize::from(left <= right);
        j += usize::from(right <= left);
    }
    if common == 0 { 0.0 } else { common as f64 / (a.len() + b.len() - common) as f64 }
}

/// Groups documents that share a band key; for each document the smallest index of its group.
///
/// `keys[d]` are a document's keys, one a band. Two documents of one key are joined when `same` says so; in a bucket each document
/// is compared with the first of the bucket and, failing that, with the one before it.
pub fn groups(keys: &[Option<Vec<u64>>], bands: usize, same: &(dyn Fn(u32, u32) -> bool + Sync)) -> Vec<u32> {
    let mut forest = Forest::new(keys.len());
    for band in 0..bands {
        let mut pairs: Vec<(u64, u32)> = keys
            .iter()
            .enumerate()
            .filter_map(|(index, keys)| keys.as_ref().map(|keys| (keys[band], index as u32)))
            .collect();
        pairs.par_sort_unstable();
        for bucket in pairs.chunk_by(|a, b| a.0 == b.0).filter(|bucket| bucket.len() > 1) {
            let first = bucket[0].1;
            for pair in bucket.windows(2) {
                let (before, this) = (pair[0].1, pair[1].1);
                if forest.root(first) == forest.root(this) {
                    continue;
                }
                if same(first, this) {
                    forest.join(first, this);
                } else if before != first && forest.root(before) != forest.root(this) && same(before, this) {
                    forest.join(before, this);
                }
            }
        }
    }
    (0..keys.len() as u32).map(|index| forest.root(index)).collect()
}

/// Union-find whose root is always the smallest member.
struct Forest {
    parents: Vec<u32>,
}

impl Forest {
    fn new(count: usize) -> Self {
        Forest { parents: (0..count as u32).collect() }
    }

    fn root(&mut self, mut node: u32) -> u32 {
        while self.parents[node as usize] != node {
            let grandparent = self.parents[self.parents[node as usize] as usize];
            self.parents[node as usize] = grandparent;
            node = grandparent;
        }
        node
    }

    fn join(&mut self, a: u32, b: u32) {
        let (a, b) = (self.root(a), self.root(b));
        self.parents[a.max(b) as usize] = a.min(b);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sketch(texts: &[String], params: &MinHash) -> Vec<Option<Vec<u64>>> {
        let sketcher = Sketcher::new(params);
        let mut scratch = Scratch::default();
        texts.iter().map(|text| sketcher.keys(text, &mut scratch)).collect()
    }

    /// Words `w0 w1 …`, some replaced by others.
    fn edited(words: usize, seed: u64, edits: &[usize]) -> String {
        let word = |index: usize| {
            let edit = if edits.contains(&index) { 1_000_003 } else { 0 };
            format!("w{}", (index as u64 + 1).wrapping_mul(seed * 2 + 7919).wrapping_add(edit) % 1_000_000_007)
        };
        (0..words).map(word).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn spelling_of_case_and_punctuation_does_not_matter_and_words_do() {
        let texts =
            ["One, two; three four FIVE six", "one two three four five six", "one two three four five seven", "", "--"];
        let keys = sketch(&texts.map(String::from), &MinHash::default());
        assert_eq!(keys[0], keys[1]);
        assert_ne!(keys[0], keys[2]);
        assert_eq!((&keys[3], &keys[4]), (&None, &None));
        assert_eq!(groups(&keys, 14, &|_, _| true), [0, 0, 2, 3, 4]);
    }

    #[test]
    fn lanes_and_plain_arithmetic_agree() {
        let shingles: Vec<u64> = (0..1000u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
        for count in [1, 15, 16, 17, 112] {
            let multiply: Vec<u32> = (0..count).map(|n| n * 77 + 1).collect();
            let add: Vec<u32> = (0..count).map(|n| n.wrapping_mul(0x9e37_79b9)).collect();
            let (mut a, mut b) = (vec![u32::MAX; count as usize], vec![u32::MAX; count as usize]);
            minima(&shingles, &multiply, &add, &mut a);
            minima_plain(&shingles, &multiply, &add, &mut b);
            let naive =
                |i: usize| shingles.iter().map(|s| (*s as u32).wrapping_mul(multiply[i]).wrapping_add(add[i])).min();
            assert_eq!(a, b);
            assert!((0..count as usize).all(|i| naive(i) == Some(a[i])));
        }
    }

    #[test]
    fn the_share_of_found_pairs_is_that_of_the_formula() {
        let params = MinHash::default();
        for (edits, low, high) in [(2, 0.97, 1.0), (6, 0.60, 0.85), (40, 0.0, 0.05)] {
            let (mut found, mut expected) = (0.0, 0.0);
            let trials = 300;
            for seed in 0..trials {
                let places: Vec<usize> = (0..edits).map(|e| (e * 200 / edits + seed as usize) % 200).collect();
                let pair = [edited(200, seed, &[]), edited(200, seed, &places)];
                let likeness = jaccard(&pair[0], &pair[1], 5);
                expected += 1.0 - (1.0 - likeness.powi(8)).powi(14);
                found += f64::from(u8::from(groups(&sketch(&pair, &params), 14, &|_, _| true)[1] == 0));
            }
            let (found, expected) = (found / trials as f64, expected / trials as f64);
            assert!((low..=high).contains(&found), "{edits} edits: {found}");
            assert!((found - expected).abs() < 0.08, "{edits} edits: found {found}, formula {expected}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn agrees_with_all_pairs_by_jaccard(
            plan in proptest::collection::vec((0..6u64, proptest::collection::vec(0..120usize, 0..12)), 2..24),
        ) {
            let texts: Vec<String> = plan.iter().map(|(seed, edits)| edited(120, *seed, edits)).collect();
            let params = MinHash { verify: Some(0.7), ..MinHash::default() };
            let same = |a: u32, b: u32| jaccard(&texts[a as usize], &texts[b as usize], 5) >= 0.7;
            let roots = groups(&sketch(&texts, &params), 14, &same);
            // What all pairs would join: our groups lie within those, and nothing that is almost equal is missed.
            let mut oracle = Forest::new(texts.len());
            for a in 0..texts.len() as u32 {
                for b in 0..a {
                    if same(a, b) {
                        oracle.join(a, b);
                    }
                    if jaccard(&texts[a as usize], &texts[b as usize], 5) > 0.97 {
                        prop_assert_eq!(roots[a as usize], roots[b as usize]);
                    }
                }
            }
            for (index, root) in roots.iter().enumerate() {
                prop_assert!(*root <= index as u32);
                prop_assert_eq!(oracle.root(*root), oracle.root(index as u32));
            }
            let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
            prop_assert_eq!(alone.install(|| groups(&sketch(&texts, &params), 14, &same)), roots);
        }
    }
}
