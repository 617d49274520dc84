//! Batches for training. The batch of a step is a pure function of the step: nothing is kept between steps, so a run
//! resumes with a number, and two processes that ask for the same step get the same tokens.
//!
//! ```text
//! step, place in batch ─ mix ─▶ source, nth ─▶ epoch, index ─ permute ─▶ instance ─ pack ─▶ tokens
//! ```

use crate::mix::Schedule;
use crate::permute::Permutation;
use crate::random::Stream;
use crate::shard::TokenShards;
use crate::{Error, Result, pack};
use std::collections::BTreeSet;

/// Bits of a document's number within its source; the source's index stands above them.
const DOCUMENT_BITS: u32 = 48;

/// One step's tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenBatch {
    /// Instances.
    pub batch: usize,
    /// Inputs of one instance.
    pub seq: usize,
    /// Row-major `[batch, seq + 1]`: inputs are `[.., ..seq]`, targets are `[.., 1..]`.
    pub tokens: Vec<u32>,
    /// The documents that the batch touches, rising: index of the source × 2^48 + number of the document in its split.
    pub documents: Vec<u64>,
}

/// Something that has a batch for each step.
pub trait Batches: Send + Sync {
    /// The batch of a step; the same step always gives the same batch.
    ///
    /// # Errors
    /// Those of reading tokens.
    fn batch(&self, step: u64) -> Result<TokenBatch>;
}

/// Shape and order of batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoaderParams {
    /// Instances of a batch.
    pub batch: usize,
    /// Inputs of an instance.
    pub seq: usize,
    /// Chooses the order of instances.
    pub seed: u64,
}

/// Mixed, shuffled, packed batches from token shards.
#[derive(Debug)]
pub struct Loader {
    sources: Vec<TokenShards>,
    schedule: Schedule,
    params: LoaderParams,
}

impl Loader {
    /// Mixes sources by their shares (of any scale). A source that is used up begins again in another order.
    ///
    /// # Errors
    /// [`Error::Parameter`] for shapes of 0, shares that cannot be or sources with different vocabularies;
    /// [`Error::TooFewTokens`] for a source shorter than one instance.
    pub fn new(sources: Vec<(TokenShards, f64)>, params: LoaderParams) -> Result<Self> {
        for (name, value) in [("batch", params.batch), ("seq", params.seq)] {
            if value == 0 || value > u32::MAX as usize {
                return Err(Error::Parameter {
                    name: name.into(),
                    reason: format!("is {value}; it must be from 1 to 2^32 - 1"),
                });
            }
        }
        let (sources, shares): (Vec<TokenShards>, Vec<f64>) = sources.into_iter().unzip();
        let schedule = Schedule::new(&shares)?;
        for (source, share) in sources.iter().zip(&shares) {
            let (ours, first) = (source.manifest(), sources[0].manifest());
            if (&ours.tokenizer, ours.vocab_size) != (&first.tokenizer, first.vocab_size) {
                let reason = format!(
                    "are `{}` and `{}`, made with different tokenizers",
                    sources[0].folder().display(),
                    source.folder().display()
                );
                return Err(Error::Parameter { name: "sources".into(), reason });
            }
            if *share > 0.0 && pack::instances(source.len_tokens(), params.seq) == 0 {
                let (folder, tokens) = (source.folder().to_path_buf(), source.len_tokens());
                return Err(Error::TooFewTokens { folder, seq: params.seq, tokens });
            }
        }
        Ok(Self { sources, schedule, params })
    }

    /// The share of each source that is kept to, adding up to 1.
    pub fn shares(&self) -> Vec<f64> {
        self.schedule.shares()
    }

    /// Instances that each source has in one epoch.
    pub fn instances(&self) -> Vec<u64> {
        self.sources.iter().map(|source| pack::instances(source.len_tokens(), self.params.seq)).collect()
    }

    /// The source, and the instance of it, that stands at place `index` of the whole run.
    fn place(&self, index: u64) -> (usize, u64) {
        let pick = self.schedule.pick(index);
        let instances = pack::instances(self.sources[pick.source].len_tokens(), self.params.seq).max(1);
        let (epoch, nth) = (pick.nth / instances, pick.nth % instances);
        let order = Stream::new(self.params.seed).derive(pick.source as u64).derive(epoch);
        (pick.source, Permutation::from_stream(instances, order).at(nth).unwrap_or(nth))
    }
}

impl Batches for Loader {
    fn batch(&self, step: u64) -> Result<TokenBatch> {
        let LoaderParams { batch, seq, seed: _ } = self.params;
        let too_far = || Error::Parameter { name: "step".into(), reason: format!("is {step}, beyond 2^64 instances") };
        let first = step.checked_mul(batch as u64).ok_or_else(too_far)?;
        first.checked_add(batch as u64).ok_or_else(too_far)?;
        let mut tokens = Vec::with_capacity(batch * (seq + 1));
        let mut documents = BTreeSet::new();
        for index in first..first + batch as u64 {
            let (source, instance) = self.place(index);
            let shards = &self.sources[source];
            let range = pack::instance(shards.len_tokens(), seq, instance).unwrap_or_default();
            if let (Some(from), Some(to)) = (shards.document_of(range.start), shards.document_of(range.end - 1)) {
                documents.extend((from..=to).map(|document| ((source as u64) << DOCUMENT_BITS) | document));
            }
            shards.read(range, &mut tokens)?;
        }
        Ok(TokenBatch { batch, seq, tokens, documents: documents.into_iter().collect() })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::shard::{FORMAT, Manifest, SplitWriter};
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::Path;

    /// Tokens `first, first + 1, …` in documents of 1 to 9 tokens.
    fn shards(folder: &Path, first: u32, tokens: u32, tokenizer: &str) -> TokenShards {
        fs_err::create_dir_all(folder).unwrap();
        let mut writer = SplitWriter::create(folder, "train", 20).unwrap();
        let (mut next, end) = (first, first + tokens);
        while next < end {
            let document: Vec<u32> = (next..end.min(next + 1 + next % 9)).collect();
            next += document.len() as u32;
            writer.push(&document, 1).unwrap();
        }
        let splits = BTreeMap::from([("train".to_owned(), writer.finish().unwrap())]);
        let tokenizer = tokenizer.to_owned();
        Manifest { eos: 0, format: FORMAT, splits, tokenizer, vocab_size: 100_000 }.write(folder).unwrap();
        TokenShards::open(folder, "train").unwrap()
    }

    /// Source 0 holds tokens 0..103, source 1 tokens 1000..1050.
    pub(crate) fn loader(folder: &Path, batch: usize, seq: usize, seed: u64) -> Loader {
        let sources =
            vec![(shards(&folder.join("a"), 0, 103, "t"), 3.0), (shards(&folder.join("b"), 1000, 50, "t"), 1.0)];
        Loader::new(sources, LoaderParams { batch, seq, seed }).unwrap()
    }

    #[test]
    fn an_epoch_has_every_instance_once_and_the_next_another_order() {
        let folder = tempfile::tempdir().unwrap();
        let loader = loader(folder.path(), 4, 5, 1);
        assert_eq!((loader.instances(), loader.shares()), (vec![20, 9], vec![0.75, 0.25]));
        let first_tokens = |steps: std::ops::Range<u64>| -> Vec<u32> {
            let batches = steps.map(|step| loader.batch(step).unwrap().tokens);
            batches.flat_map(|tokens| tokens.chunks(6).map(|row| row[0]).collect::<Vec<_>>()).collect()
        };
        let of_first: Vec<u32> = first_tokens(0..14).into_iter().filter(|&token| token < 1000).collect();
        let (one, two) = (&of_first[..20], &of_first[20..40]);
        let all: BTreeSet<u32> = (0..20).map(|instance| instance * 5).collect();
        assert_eq!(one.iter().copied().collect::<BTreeSet<_>>(), all);
        assert_eq!(two.iter().copied().collect::<BTreeSet<_>>(), all);
        assert_ne!(one, two);
        assert_eq!(of_first.len(), 42);
    }

    #[test]
    fn rows_are_cut_from_the_stream_and_documents_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let loader = loader(folder.path(), 8, 5, 2);
        for step in 0..5 {
            let batch = loader.batch(step).unwrap();
            assert_eq!((batch.batch, batch.seq, batch.tokens.len()), (8, 5, 48));
            let mut documents = BTreeSet::new();
            for row in batch.tokens.chunks(6) {
                assert!(row.windows(2).all(|two| two[1] == two[0] + 1));
                let source = u64::from(row[0] >= 1000);
                let shards = &loader.sources[source as usize];
                for token in row {
                    let document = shards.document_of(u64::from(*token) - source * 1000).unwrap();
                    documents.insert(source << DOCUMENT_BITS | document);
                }
            }
            assert_eq!(batch.documents, documents.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_step_always_has_the_same_batch() {
        let folder = tempfile::tempdir().unwrap();
        let run: Vec<TokenBatch> = {
            let loader = loader(folder.path(), 3, 4, 6198);
            (0..30).map(|step| loader.batch(step).unwrap()).collect()
        };
        // A new process that begins at step 17, and goes backwards.
        let folder = tempfile::tempdir().unwrap();
        let resumed = loader(folder.path(), 3, 4, 6198);
        for step in (17..30).rev() {
            assert_eq!(resumed.batch(step).unwrap(), run[step as usize]);
        }
        let rows: Vec<u32> = run[0].tokens.chunks(5).map(|row| row[0]).collect();
        assert_eq!(rows, GOLDEN_ROWS);
    }

    /// If this changes, every training run changes.
    const GOLDEN_ROWS: [u32; 3] = [88, 8, 1036];

    #[test]
    fn sources_that_do_not_fit_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str, tokens, tokenizer| shards(&folder.path().join(name), 0, tokens, tokenizer);
        let params = LoaderParams { batch: 1, seq: 8, seed: 0 };
        let short = Loader::new(vec![(open("a", 8, "t"), 1.0)], params);
        assert!(matches!(short, Err(Error::TooFewTokens { tokens: 8, .. })));
        // A source without a share is not read, so it may be short.
        assert!(Loader::new(vec![(open("b", 8, "t"), 0.0), (open("c", 9, "t"), 1.0)], params).is_ok());
        let mixed = vec![(open("d", 20, "t"), 1.0), (open("e", 20, "other"), 1.0)];
        assert!(matches!(Loader::new(mixed, params), Err(Error::Parameter { .. })));
        assert!(Loader::new(vec![], params).is_err());
        let none = LoaderParams { batch: 0, ..params };
        assert!(Loader::new(vec![(open("f", 20, "t"), 1.0)], none).is_err());
        let loader = Loader::new(vec![(open("g", 20, "t"), 1.0)], params).unwrap();
        assert!(loader.batch(u64::MAX - 1).is_ok());
        assert!(matches!(loader.batch(u64::MAX), Err(Error::Parameter { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]
        #[test]
        fn any_shape_gives_batches(batch in 1usize..6, seq in 1usize..49, seed in any::<u64>(), step in 0u64..1 << 40) {
            let folder = tempfile::tempdir().unwrap();
            let loader = loader(folder.path(), batch, seq, seed);
            let one = loader.batch(step).unwrap();
            prop_assert_eq!(one.tokens.len(), batch * (seq + 1));
            prop_assert_eq!(loader.batch(step).unwrap(), one);
        }
    }
}
