//! Random numbers without state: a number is a pure function of a key and a counter.
//!
//! Whatever is drawn can be drawn again alone and in any order, so that a resumed run, a second thread and a test
//! see the same values. Not for secrets.

/// 2^64 divided by the golden ratio, odd: steps of it visit every 64-bit number once.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finaliser of `splitmix64` (Steele, Lea and Flood 2014, constants of Stafford's mix 13): a bijection of 64 bits.
pub const fn mix64(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A stream of numbers that is addressed by a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    key: u64,
}

impl Stream {
    /// The stream of a seed.
    pub const fn new(seed: u64) -> Self {
        Self { key: mix64(seed.wrapping_add(GOLDEN)) }
    }

    /// An independent stream for a part of the work: a source, an epoch, a document.
    pub const fn derive(self, part: u64) -> Self {
        // A second finaliser keeps `derive(a).derive(b)` apart from `derive(b).derive(a)` and from plain counters.
        Self { key: mix64(mix64(self.key ^ GOLDEN).wrapping_add(part.wrapping_mul(GOLDEN))) }
    }

    /// The number at `counter`, as `splitmix64` would give it after `counter + 1` calls from this stream's key.
    pub const fn at(self, counter: u64) -> u64 {
        mix64(self.key.wrapping_add(counter.wrapping_add(1).wrapping_mul(GOLDEN)))
    }

    /// A number in `0..bound` (0 when `bound` is 0); its bias is below `bound / 2^64`.
    pub const fn below(self, counter: u64, bound: u64) -> u64 {
        ((self.at(counter) as u128 * bound as u128) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_same_on_every_machine() {
        // The first outputs of splitmix64 from state 0, as published with the generator.
        assert_eq!(mix64(GOLDEN), 0xe220_a839_7b1d_cdaf);
        assert_eq!(mix64(GOLDEN.wrapping_mul(2)), 0x6e78_9e6a_a1b9_65f4);
        let stream = Stream::new(6198);
        assert_eq!(stream.at(3), stream.at(3));
        assert_ne!(stream.at(3), stream.at(4));
        assert_ne!(stream.derive(1).derive(2), stream.derive(2).derive(1));
    }

    #[test]
    fn below_is_even() {
        let stream = Stream::new(1);
        let mut seen = [0u32; 7];
        for counter in 0..70_000 {
            seen[stream.below(counter, 7) as usize] += 1;
        }
        // Standard deviation is 93: five of them.
        assert!(seen.iter().all(|&count| count.abs_diff(10_000) < 465), "{seen:?}");
        assert_eq!(stream.below(5, 0), 0);
    }
}
