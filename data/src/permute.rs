//! A shuffle that needs no memory: a permutation of `0..n`, chosen by a seed and computed one element at a time.
//!
//! A balanced Feistel network permutes the smallest `0..4^h` that holds `n`; a result outside `0..n` is fed in again
//! until it falls inside ("cycle walking", Black and Rogaway 2002). Both steps are bijections, so the whole is one.
//! The domain is less than four times `n`, so fewer than four rounds of walking are needed on average.

use crate::random::Stream;

/// Four rounds of a random function are indistinguishable from a random permutation (Luby and Rackoff 1988); the halves
/// of a small domain have few bits, so there are more.
const ROUNDS: u64 = 8;

/// A permutation of `0..len`.
#[derive(Debug, Clone, Copy)]
pub struct Permutation {
    len: u64,
    half_bits: u32,
    stream: Stream,
}

impl Permutation {
    /// The permutation of `0..len` that `seed` chooses.
    pub fn new(len: u64, seed: u64) -> Self {
        Self::from_stream(len, Stream::new(seed))
    }

    /// As [`Permutation::new`], for a derived stream.
    pub fn from_stream(len: u64, stream: Stream) -> Self {
        let bits = u64::BITS - len.saturating_sub(1).leading_zeros();
        Self { len, half_bits: bits.div_ceil(2).max(1), stream }
    }

    /// How many elements are permuted.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is nothing to permute.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where `index` goes; `None` when it is not below [`Permutation::len`].
    pub fn at(&self, index: u64) -> Option<u64> {
        if index >= self.len {
            return None;
        }
        let mut walked = self.round_trip(index);
        while walked >= self.len {
            walked = self.round_trip(walked);
        }
        Some(walked)
    }

    fn round_trip(&self, x: u64) -> u64 {
        // `half_bits` is at most 32, so both halves fit.
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (x >> self.half_bits, x & mask);
        for round in 0..ROUNDS {
            // The high bits are the better mixed ones.
            let mixed = self.stream.derive(round).at(right) >> (u64::BITS - self.half_bits);
            (left, right) = (right, left ^ mixed);
        }
        (left << self.half_bits) | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_element_comes_once(len in 0u64..3000, seed in any::<u64>()) {
            let permutation = Permutation::new(len, seed);
            let mut seen = vec![false; len as usize];
            for index in 0..len {
                let to = permutation.at(index).unwrap();
                prop_assert!(to < len);
                prop_assert!(!std::mem::replace(&mut seen[to as usize], true), "{to} came twice");
            }
            prop_assert_eq!(permutation.at(len), None);
        }

        #[test]
        fn the_largest_domains_work(index in any::<u64>(), other in any::<u64>(), seed in any::<u64>()) {
            let permutation = Permutation::new(u64::MAX, seed);
            prop_assume!(index != other && index < u64::MAX && other < u64::MAX);
            prop_assert_ne!(permutation.at(index), permutation.at(other));
        }
    }

    #[test]
    fn a_seed_always_gives_the_same_order() {
        let order: Vec<u64> = (0..10).map(|index| Permutation::new(10, 6198).at(index).unwrap()).collect();
        assert_eq!(order, GOLDEN_ORDER);
    }

    const GOLDEN_ORDER: [u64; 10] = [3, 6, 5, 9, 8, 2, 4, 1, 0, 7];

    #[test]
    fn neighbours_are_torn_apart() {
        // A shuffle has about one fixed point and one pair of kept neighbours, whatever its length.
        let permutation = Permutation::new(10_000, 3);
        let to: Vec<u64> = (0..10_000).map(|index| permutation.at(index).unwrap()).collect();
        let fixed = to.iter().enumerate().filter(|&(from, &to)| from as u64 == to).count();
        let kept = to.windows(2).filter(|pair| pair[0] + 1 == pair[1]).count();
        assert!(fixed < 8 && kept < 8, "{fixed} fixed, {kept} kept");
    }

    #[test]
    fn all_orders_of_three_come_about_equally_often() {
        let mut seen = std::collections::BTreeMap::<Vec<u64>, u32>::new();
        for seed in 0..6000 {
            let permutation = Permutation::new(3, seed);
            *seen.entry((0..3).map(|index| permutation.at(index).unwrap()).collect()).or_default() += 1;
        }
        assert_eq!(seen.len(), 6);
        assert!(seen.values().all(|&count| count.abs_diff(1000) < 200), "{seen:?}");
    }
}
