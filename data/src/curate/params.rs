//! What a recipe says about a domain's curation.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Error, Result, dedup::Dedup, filter::Filter, normalise::Normalise};

/// Parameters of a curation. Everything in it is part of the result's identity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CurateParams {
    /// Name of the domain, written into every row.
    pub domain: String,
    /// One spelling for texts that look the same.
    pub normalise: Normalise,
    /// Rules in their order; the first that finds something wrong drops the document.
    pub filters: Vec<Filter>,
    /// Duplicates.
    pub dedup: Dedup,
    /// Documents that training never sees.
    pub heldout: Heldout,
    /// Most bytes of text in `train`. Documents are taken in the order of their hashes, so that a larger limit only adds.
    /// Reason of the others: `over_max_bytes`.
    pub max_bytes: Option<u64>,
    /// Documents longer than this many bytes are long.
    pub max_document_bytes: u64,
    /// What becomes of long documents.
    pub long_documents: LongDocuments,
    /// A shard is closed when it holds this many bytes of text.
    pub shard_bytes: u64,
    /// How much of the sources may be broken.
    pub max_broken: MaxBroken,
}

impl Default for CurateParams {
    fn default() -> Self {
        CurateParams {
            domain: String::new(),
            normalise: Normalise::default(),
            filters: vec![
                Filter::Length(crate::filter::length::Length::default()),
                Filter::Lines(crate::filter::lines::Lines::default()),
                Filter::Characters(crate::filter::characters::Characters::default()),
                Filter::Generated(crate::filter::generated::Generated::default()),
            ],
            dedup: Dedup::default(),
            heldout: Heldout::default(),
            max_bytes: None,
            max_document_bytes: 1 << 20,
            long_documents: LongDocuments::Split,
            shard_bytes: 256 << 20,
            max_broken: MaxBroken::default(),
        }
    }
}

/// What becomes of documents longer than `max_document_bytes`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LongDocuments {
    /// Several rows, cut at ends of lines; all in one split.
    #[default]
    Split,
    /// The first piece only.
    Cut,
    /// Nothing. Reason: `over_max_document_bytes`.
    Drop,
}

/// The held-out split. A document belongs to it because of the hash of its normalised text and of nothing else, so that it stays
/// there when other documents come and go. Near-duplicates are gone before: no copy of a held-out text is trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Heldout {
    /// Share of the documents, 0 for none.
    pub share: f64,
    /// At least so many: if the share gives fewer, those with the next smallest hashes join. Then, and only then, a document's
    /// place may depend on others.
    pub min_documents: u64,
    /// At most so many, those with the smallest hashes. The others are dropped, not trained on. Reason: `over_heldout`.
    pub max_documents: Option<u64>,
    /// At most so many bytes of text, likewise; a document that does not fit makes room for the next.
    pub max_bytes: Option<u64>,
}

impl Default for Heldout {
    fn default() -> Self {
        Heldout { share: 0.05, min_documents: 1, max_documents: None, max_bytes: None }
    }
}

/// Broken records are counted and reported; more of them than both numbers allow, and the curation fails.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MaxBroken {
    /// So many are always allowed.
    pub records: u64,
    /// And this share of all records.
    pub share: f64,
    /// Compressed files that end early or are damaged.
    pub streams: u64,
}

impl Default for MaxBroken {
    fn default() -> Self {
        MaxBroken { records: 10, share: 0.01, streams: 0 }
    }
}

impl MaxBroken {
    pub(super) fn allowed(&self, records: u64) -> u64 {
        self.records.max((self.share * records as f64) as u64)
    }
}

/// Whether a name is that of one folder: it leads nowhere else, and is no pattern.
fn is_plain(name: &str) -> bool {
    let is_odd = |c: char| c.is_control() || r"/\*?[]{}".contains(c);
    !name.is_empty() && name.len() <= 255 && !name.starts_with('.') && !name.contains(is_odd)
}

impl CurateParams {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Parameter`] with the name of the first that is outside of its range.
    pub fn validate(&self) -> Result<()> {
        let wrong = |name: &str, reason: String| Err(Error::Parameter { name: name.into(), reason });
        if self.domain.is_empty() {
            return wrong("domain", "is empty; give the domain a name".into());
        }
        if !is_plain(&self.domain) {
            let reason = format!(
                "is {:?}; a domain is a folder below `data`: at most 255 bytes, no `/`, `\\`, `*`, `?`, `[`, `]`, `{{`, `}}` or \
                 control character, and no dot in front",
                self.domain
            );
            return wrong("domain", reason);
        }
        if !(0.0..1.0).contains(&self.heldout.share) {
            let reason = format!("is {}; it must be at least 0 and below 1", self.heldout.share);
            return wrong("heldout.share", reason);
        }
        if !(0.0..=1.0).contains(&self.max_broken.share) {
            return wrong("max_broken.share", format!("is {}; it must be from 0 to 1", self.max_broken.share));
        }
        if self.max_document_bytes < 4 {
            let reason = format!("is {}; it must be at least 4, the longest character", self.max_document_bytes);
            return wrong("max_document_bytes", reason);
        }
        if self.shard_bytes == 0 {
            return wrong("shard_bytes", "is 0; it must be at least 1".into());
        }
        if let Some(minhash) = &self.dedup.minhash {
            minhash.validate()?;
        }
        Ok(())
    }
}
