//! Fuzzing on stable Rust: valid files are mutated for as long as there is time, and what reads them must neither panic nor
//! take memory that the file does not pay for.
//!
//! ```text
//! seeds: valid files, and every file that once failed (tests/fuzz/NAME/) ─ mutate ─▶ input ─ kept aside ─▶ the reader
//! ```
//!
//! `FLOW_FUZZ_SECONDS` is the time of each target (1), `FLOW_FUZZ_SEED` repeats a session. The input that is being read lies in
//! a file, so that even one that kills the process is there afterwards; one that fails is cut down and kept beside it.
//! Coverage-guided fuzzers find more, but need a nightly compiler; a file format's own words among the mutations make up for a
//! part of that.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a part of tests: whatever goes wrong here ends the test"
)]

mod meter;
mod mutate;

use std::{
    os::unix::fs::FileExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

pub use meter::Meter;
pub use mutate::Random;

/// A reader under test.
pub struct Target<'a> {
    name: &'a str,
    seeds: Vec<Vec<u8>>,
    words: Vec<Vec<u8>>,
    /// Bytes of memory that a reader may take beside what the input pays for.
    free: usize,
    /// Bytes of memory for each byte of input.
    each: usize,
}

impl<'a> Target<'a> {
    /// A target of this name, which is also the name of its folder in `tests/fuzz/` of its crate.
    pub fn new(name: &'a str) -> Self {
        Self { name, seeds: Vec::new(), words: Vec::new(), free: 16 << 20, each: 256 }
    }

    /// A valid file.
    #[must_use]
    pub fn seed(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.seeds.push(bytes.into());
        self
    }

    /// Words of the format, to be put where they do not belong.
    #[must_use]
    pub fn words(mut self, words: &[&str]) -> Self {
        self.words.extend(words.iter().map(|word| word.as_bytes().to_vec()));
        self
    }

    /// How much memory a reader may take: `free` bytes, and `each` for each byte of input.
    #[must_use]
    pub fn memory(self, free: usize, each: usize) -> Self {
        Self { free, each, ..self }
    }

    /// Reads mutated files for the time that there is. `read` panics if what it found is not as it should be.
    ///
    /// # Panics
    /// At the first input that fails, with the place where it was kept.
    pub fn run(mut self, read: impl Fn(&[u8])) {
        let seconds = std::env::var("FLOW_FUZZ_SECONDS").map_or(1.0, |text| text.parse().expect("FLOW_FUZZ_SECONDS"));
        let seed: u64 = std::env::var("FLOW_FUZZ_SEED").map_or_else(
            |_| std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos() as u64),
            |text| text.parse().expect("FLOW_FUZZ_SEED"),
        );
        let failed = failures(self.name);
        self.seeds.extend(failed.iter().map(|path| std::fs::read(path).unwrap()));
        assert!(!self.seeds.is_empty(), "{}: no valid file to begin with", self.name);
        let kept = Kept::new(self.name);
        let mut random = Random::new(seed);
        let until = Instant::now() + Duration::from_secs_f64(seconds);
        let mut runs: u64 = 0;
        let seeds = self.seeds.clone();
        for input in &seeds {
            self.once(input, seed, &kept, &read);
        }
        while Instant::now() < until {
            let input = mutate::mutate(&seeds, &self.words, &mut random);
            self.once(&input, seed, &kept, &read);
            runs += 1;
        }
        kept.forget();
        assert!(runs > 0 || seconds == 0.0, "{}: not one input in {seconds} s", self.name);
        eprintln!("{}: {runs} inputs in {seconds} s, seed {seed}, {} files to begin with", self.name, seeds.len());
    }

    fn once(&self, input: &[u8], seed: u64, kept: &Kept, read: &impl Fn(&[u8])) {
        kept.current(input);
        let Some(why) = self.fails(input, read) else { return };
        let mut small = input.to_vec();
        let until = Instant::now() + Duration::from_secs(10);
        let mut step = small.len() / 2;
        while step > 0 && Instant::now() < until {
            let mut at = 0;
            while at < small.len() && Instant::now() < until {
                let mut less = small.clone();
                less.drain(at..(at + step).min(small.len()));
                if self.fails(&less, read).is_some() {
                    small = less;
                } else {
                    at += step;
                }
            }
            step /= 2;
        }
        let place = kept.failed(&small);
        panic!(
            "{}: {why}\n  seed {seed}; the input is in {}: put it into tests/fuzz/{}/",
            self.name,
            place.display(),
            self.name
        );
    }

    /// What is wrong with how this input was read.
    fn fails(&self, input: &[u8], read: &impl Fn(&[u8])) -> Option<String> {
        let limit = self.free + self.each * input.len();
        let mut peak = 0;
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let meter = meter::start(limit);
            read(input);
            peak = meter.peak();
        }));
        match outcome {
            Err(panic) => Some(
                panic
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
                    .unwrap_or_default(),
            ),
            Ok(()) if peak > limit => Some(format!("{} bytes took {peak} bytes of memory", input.len())),
            Ok(()) => None,
        }
    }
}

/// Inputs that failed once, of the crate whose tests run.
fn failures(name: &str) -> Vec<PathBuf> {
    let Ok(found) = std::fs::read_dir(Path::new("tests/fuzz").join(name)) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = found.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// Where inputs lie while they are read, and after they failed.
struct Kept {
    current: PathBuf,
    file: std::fs::File,
    folder: PathBuf,
    name: String,
}

impl Kept {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join("flow-fuzz");
        std::fs::create_dir_all(&folder).unwrap();
        let current = folder.join(format!("{name}.{}.reading", std::process::id()));
        let file = std::fs::File::create(&current).unwrap();
        Self { current, file, folder, name: name.to_owned() }
    }

    fn current(&self, input: &[u8]) {
        // Not cut to nothing and written anew: ext4 would wait for the disk each time.
        self.file.write_all_at(input, 0).unwrap();
        self.file.set_len(input.len() as u64).unwrap();
    }

    fn failed(&self, input: &[u8]) -> PathBuf {
        let sum = input
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
        let place = self.folder.join(format!("{}-{sum:016x}", self.name));
        std::fs::write(&place, input).unwrap();
        self.forget();
        place
    }

    fn forget(&self) {
        let _ = std::fs::remove_file(&self.current);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[global_allocator]
    static METER: Meter = Meter;

    /// A reader with a defect: it believes a length field. (Not so large that the allocator refuses, which ends the process.)
    fn believes_a_length(bytes: &[u8]) {
        if let Some((length, _)) = bytes.split_first_chunk::<4>() {
            std::hint::black_box(Vec::<u8>::with_capacity(u32::from_le_bytes(*length) as usize % (8 << 20)));
        }
    }

    fn message(target: Target<'_>, read: impl Fn(&[u8])) -> String {
        let panic = catch_unwind(AssertUnwindSafe(|| target.run(read))).unwrap_err();
        panic.downcast_ref::<String>().unwrap().clone()
    }

    fn small(name: &'static str) -> Target<'static> {
        Target::new(name).seed(b"\x03\0\0\0abc".to_vec()).memory(1 << 20, 1)
    }

    #[test]
    fn a_length_that_is_believed_is_found() {
        assert!(message(small("length"), believes_a_length).contains("bytes of memory"));
    }

    #[test]
    fn a_panic_is_found_cut_down_and_kept() {
        let found = message(small("panic"), |bytes| assert!(!bytes.contains(&0xff), "an ff"));
        let place = found.split("the input is in ").nth(1).unwrap().split(": put").next().unwrap();
        assert_eq!(std::fs::read(place).unwrap(), [0xff], "cut down to what matters");
        std::fs::remove_file(place).unwrap();
    }

    #[test]
    fn a_reader_without_a_defect_passes() {
        small("good").run(|bytes| drop(std::hint::black_box(bytes.to_vec())));
    }

    #[test]
    fn a_seed_repeats_a_session() {
        let all = || -> Vec<Vec<u8>> {
            let mut random = Random::new(7);
            (0..200).map(|_| mutate::mutate(&[b"flow: 1".to_vec()], &[b"&a".to_vec()], &mut random)).collect()
        };
        assert_eq!(all(), all());
    }
}
