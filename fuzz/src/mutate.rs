//! From valid files to others that are nearly so.

/// `SplitMix64`: small, and the same on every machine.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// The numbers of this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 where that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        if end == 0 { 0 } else { (self.number() % end as u64) as usize }
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        from.get(self.below(from.len()))
    }
}

/// Larger inputs only take time.
const LARGEST: usize = 1 << 16;

/// Numbers at which readers go wrong.
const NUMBERS: [u64; 12] =
    [0, 1, 2, 7, 0x7f, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 0x1_0000_0000, i64::MAX as u64, u64::MAX];

/// Text that readers of text take for something else.
const TEXTS: [&str; 16] = [
    "..",
    "../../x",
    "/etc/passwd",
    "-1",
    "1e999",
    "NaN",
    "null",
    "\u{0}",
    "\u{feff}",
    "\n",
    "\"",
    "{",
    "]",
    "99999999999999999999",
    "\\ud800",
    "ﬀ\u{301}",
];

/// One file of `seeds`, changed in one to eight places.
pub(crate) fn mutate(seeds: &[Vec<u8>], words: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = random.pick(seeds).cloned().unwrap_or_default();
    for _ in 0..=random.below(8) {
        once(&mut bytes, seeds, words, random);
    }
    bytes.truncate(LARGEST);
    bytes
}

fn once(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], words: &[Vec<u8>], random: &mut Random) {
    let at = random.below(bytes.len() + 1);
    let part = {
        let length = random.below(64.min(bytes.len() - at) + 1);
        at..at + length
    };
    match random.below(11) {
        // A bit, a byte.
        0 => flip(bytes, at, 1 << random.below(8)),
        1 => flip(bytes, at, random.number() as u8),
        // Cut, taken out, twice, many times.
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(part)),
        4 => {
            let copy = bytes[part].to_vec();
            insert(bytes, at, &copy);
        }
        5 => {
            let times = 1 << random.below(9);
            insert(bytes, at, &bytes[part].repeat(times));
        }
        // A number in the place of a number: as text, or in four or eight bytes.
        6 => digits(bytes, at, random),
        7 => {
            let number = NUMBERS[random.below(NUMBERS.len())].to_le_bytes();
            let width = if random.below(2) == 0 { 4 } else { 8 };
            for (byte, new) in bytes.iter_mut().skip(at).zip(&number[..width]) {
                *byte = *new;
            }
        }
        // A part of another file.
        8 => {
            let other = random.pick(seeds).cloned().unwrap_or_default();
            let from = random.below(other.len() + 1);
            let length = random.below((other.len() - from).min(256) + 1);
            insert(bytes, at, &other[from..from + length]);
        }
        // A word of the format; something that no format expects.
        9 if !words.is_empty() => {
            let word = random.pick(words).cloned().unwrap_or_default();
            replace(bytes, part, &word, random);
        }
        _ => replace(bytes, part, TEXTS[random.below(TEXTS.len())].as_bytes(), random),
    }
}

fn flip(bytes: &mut [u8], at: usize, bits: u8) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= bits;
    }
}

fn insert(bytes: &mut Vec<u8>, at: usize, what: &[u8]) {
    if bytes.len() + what.len() <= LARGEST {
        bytes.splice(at..at, what.iter().copied());
    }
}

fn replace(bytes: &mut Vec<u8>, part: std::ops::Range<usize>, what: &[u8], random: &mut Random) {
    let part = if random.below(2) == 0 { part.start..part.start } else { part };
    bytes.splice(part, what.iter().copied());
}

/// Puts another number where the next digits stand.
fn digits(bytes: &mut Vec<u8>, at: usize, random: &mut Random) {
    let Some(start) = bytes.iter().skip(at).position(u8::is_ascii_digit).map(|skipped| at + skipped) else { return };
    let length = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number = NUMBERS[random.below(NUMBERS.len())].to_string();
    bytes.splice(start..start + length, number.into_bytes());
}
