//! Every document accounted for: in = kept + each reason dropped, by documents and by bytes, checked before anything is handed on.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::{Deserialize, Serialize};

use crate::{
    Error, Result,
    source::{Broken, Fault},
};

/// Reasons that say nothing against a document: the split was full.
const LIMITS: [&str; 2] = [OVER_HELDOUT, OVER_MAX_BYTES];
pub(crate) const OVER_HELDOUT: &str = "over_heldout";
pub(crate) const OVER_MAX_BYTES: &str = "over_max_bytes";
/// How many places are kept of each sort, as examples.
const EXAMPLES: usize = 5;

/// Documents and their bytes as they were read, before normalisation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Count {
    /// Documents.
    pub documents: u64,
    /// Bytes of text as read.
    pub bytes: u64,
}

impl Count {
    fn add(&mut self, bytes: u64) {
        self.documents += 1;
        self.bytes += bytes;
    }
}

/// What was dropped for one reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dropped {
    /// How many.
    pub documents: u64,
    /// Their bytes as read.
    pub bytes: u64,
    /// The first few places.
    pub examples: Vec<String>,
}

/// Records that were no documents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BrokenTally {
    /// Lines and rows.
    pub records: u64,
    /// Compressed streams that end early or are damaged.
    pub streams: u64,
    /// Files of packages that are no text, left out on purpose.
    pub not_text: u64,
    /// The first few, `place: reason`.
    pub samples: Vec<String>,
}

/// One source of the list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceTally {
    /// Files.
    pub files: u64,
    /// What it gave.
    pub read: Count,
    /// What of it was kept.
    pub kept: Count,
    /// Records, streams and files of it that were no documents.
    pub broken: u64,
}

/// One split as it was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitTally {
    /// Documents.
    pub documents: u64,
    /// Rows: more than documents where long ones were split.
    pub rows: u64,
    /// Bytes of text as written.
    pub bytes: u64,
    /// Files.
    pub shards: u64,
}

/// Groups of near-duplicates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupTally {
    /// Groups of two or more.
    pub groups: u64,
    /// Members of the largest.
    pub largest: u64,
}

/// What `statistics.json` of a corpus holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statistics {
    /// Version of this format.
    pub format: u32,
    /// The domain.
    pub domain: String,
    /// Documents that were read; broken records are not among them.
    pub read: Count,
    /// Documents that were kept, in whichever split.
    pub kept: Count,
    /// By reason.
    pub dropped: BTreeMap<String, Dropped>,
    /// What was no document.
    pub broken: BrokenTally,
    /// In the order of the recipe.
    pub sources: Vec<SourceTally>,
    /// Near-duplicates.
    pub near_duplicates: GroupTally,
    /// `train` and `heldout`.
    pub splits: BTreeMap<String, SplitTally>,
}

impl Statistics {
    pub(crate) fn new(domain: &str, files: impl Iterator<Item = usize>) -> Self {
        let sources = files.map(|files| SourceTally { files: files as u64, ..SourceTally::default() }).collect();
        Statistics { format: 1, domain: domain.to_string(), sources, ..Statistics::default() }
    }

    pub(crate) fn read(&mut self, source: usize, bytes: u64) {
        self.read.add(bytes);
        self.sources[source].read.add(bytes);
    }

    pub(crate) fn keep(&mut self, source: usize, bytes: u64) {
        self.kept.add(bytes);
        self.sources[source].kept.add(bytes);
    }

    pub(crate) fn drop(&mut self, reason: &str, bytes: u64, place: &str) {
        let dropped = match self.dropped.get_mut(reason) {
            Some(dropped) => dropped,
            None => self.dropped.entry(reason.to_string()).or_default(),
        };
        dropped.documents += 1;
        dropped.bytes += bytes;
        if dropped.examples.len() < EXAMPLES {
            dropped.examples.push(place.to_string());
        }
    }

    pub(crate) fn broken(&mut self, source: usize, broken: &Broken) {
        let count = match broken.fault {
            Fault::Record => &mut self.broken.records,
            Fault::Stream => &mut self.broken.streams,
            Fault::NotText => &mut self.broken.not_text,
        };
        *count += 1;
        self.sources[source].broken += 1;
        if broken.fault != Fault::NotText && self.broken.samples.len() < EXAMPLES {
            self.broken.samples.push(format!("{}: {}", broken.place, broken.reason));
        }
    }

    /// Compares both sides of every sum.
    pub(crate) fn check(&self) -> Result<()> {
        let dropped = self.dropped.values().fold((0, 0), |sum, d| (sum.0 + d.documents, sum.1 + d.bytes));
        let (read, kept) = (self.read, self.kept);
        let unequal = |reason: String| Err(Error::Unaccounted { domain: self.domain.clone(), reason });
        if (read.documents, read.bytes) != (kept.documents + dropped.0, kept.bytes + dropped.1) {
            return unequal(format!("read {read:?}, kept {kept:?}, dropped {dropped:?}"));
        }
        let written: u64 = self.splits.values().map(|split| split.documents).sum();
        if written != kept.documents {
            return unequal(format!("kept documents: {}, written: {written}", kept.documents));
        }
        let sum = |of: fn(&SourceTally) -> Count| {
            self.sources.iter().map(of).fold((0, 0), |sum, count| (sum.0 + count.documents, sum.1 + count.bytes))
        };
        if sum(|s| s.read) != (read.documents, read.bytes) || sum(|s| s.kept) != (kept.documents, kept.bytes) {
            return unequal("the sources do not add up to the whole".into());
        }
        Ok(())
    }

    /// The reason that dropped the most documents, with their number, where less than a tenth was good enough. What only a
    /// limit of the recipe had no room for was.
    pub fn nearly_all(&self) -> Option<(&str, u64)> {
        let found_wrong = || self.dropped.iter().filter(|(reason, _)| !LIMITS.contains(&reason.as_str()));
        let dropped: u64 = found_wrong().map(|(_, dropped)| dropped.documents).sum();
        let (reason, most) = found_wrong().max_by_key(|(_, dropped)| dropped.documents)?;
        let good = self.read.documents.saturating_sub(dropped);
        (good * 10 < self.read.documents).then_some((reason, most.documents))
    }

    /// Reasons with their counts, the largest first, for a message.
    pub(crate) fn table(&self) -> String {
        let mut rows: Vec<(&str, u64, u64)> =
            self.dropped.iter().map(|(reason, d)| (reason.as_str(), d.documents, d.bytes)).collect();
        rows.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        let mut table = format!("  {:<32} {:>12} {:>16}", "", "documents", "bytes");
        let mut row = |name: &str, documents: u64, bytes: u64| {
            let _ = write!(table, "\n  {name:<32} {documents:>12} {bytes:>16}");
        };
        row("read", self.read.documents, self.read.bytes);
        for (reason, documents, bytes) in rows {
            row(reason, documents, bytes);
        }
        row("kept", self.kept.documents, self.kept.bytes);
        for (split, SplitTally { documents, .. }) in &self.splits {
            let _ = write!(table, "\n    {:<30} {documents:>12}", format!("for {split}"));
        }
        if self.broken.records + self.broken.streams > 0 {
            let _ = write!(table, "\n  broken: {} records, {} streams", self.broken.records, self.broken.streams);
        }
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_document_is_noticed() {
        let mut tally = Statistics::new("x", [1].into_iter());
        tally.read(0, 10);
        tally.read(0, 5);
        tally.keep(0, 10);
        tally.splits.insert("train".into(), SplitTally { documents: 1, ..SplitTally::default() });
        assert!(matches!(tally.check(), Err(Error::Unaccounted { .. })));
        tally.drop("too_short", 5, "f:1");
        tally.check().unwrap();
        tally.splits.insert("heldout".into(), SplitTally { documents: 1, ..SplitTally::default() });
        assert!(tally.check().is_err());
        assert!(tally.table().contains("too_short"));
    }

    #[test]
    fn a_reason_that_drops_nearly_all_stands_out() {
        let of = |good: u64, wrong: u64, over: u64| {
            let mut tally = Statistics::new("x", [1].into_iter());
            (0..good + wrong + over).for_each(|_| tally.read(0, 10));
            (0..good).for_each(|_| tally.keep(0, 10));
            (0..wrong).for_each(|i| tally.drop(if i % 4 == 0 { "too_short" } else { "generated" }, 10, ""));
            (0..over).for_each(|_| tally.drop(OVER_MAX_BYTES, 10, ""));
            tally.nearly_all().map(|(reason, documents)| (reason.to_owned(), documents))
        };
        assert_eq!(of(7, 200, 0), Some(("generated".to_owned(), 150)));
        assert_eq!((of(1, 9, 0), of(1, 0, 999), of(1, 9, 1), of(0, 0, 0)), (None, None, None, None));
    }
}
