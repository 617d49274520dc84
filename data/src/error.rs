//! What can go wrong with documents and tokens. Advice to the reader of a recipe is given at the edge, from these fields.

use std::path::PathBuf;

/// Every failure of this crate. Texts are fragments that fit after "failed to"; a cause is kept as the source and not repeated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written. `fs_err` puts the path into the cause.
    #[error("use a file")]
    Io(#[from] std::io::Error),

    // ---- curation: sources, filters, dedup, corpus ----
    /// The caller asked to stop.
    #[error("finish: stopped on request")]
    Cancelled,
    /// A folder, file or pattern of a source names nothing.
    #[error("find the source `{location}`: {reason}")]
    SourceMissing {
        /// As written in the recipe, made absolute.
        location: String,
        /// What was looked for and not found.
        reason: String,
    },
    /// A pattern is not a glob.
    #[error("read the pattern `{pattern}`")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        #[source]
        source: globset::Error,
    },
    /// An address of an object store cannot be used.
    #[error("use the address `{url}`: {reason}")]
    Address {
        /// The address.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The object store refused.
    #[error("read `{url}` from its store")]
    Store {
        /// The address.
        url: String,
        /// The store's own words.
        #[source]
        source: Box<object_store::Error>,
    },
    /// A file's content is not the content that the plan was made with.
    #[error("read `{name}`: its content changed since the plan was made (planned {planned}, found {found}); run again")]
    SourceChanged {
        /// Logical name.
        name: String,
        /// Digest in the plan.
        planned: String,
        /// Digest of what was read.
        found: String,
    },
    /// A Parquet file lacks a column, or the column is no text.
    #[error("read column `{column}` of `{file}`: {reason}")]
    Column {
        /// Logical name of the file.
        file: String,
        /// The column.
        column: String,
        /// What is wrong, and which columns there are.
        reason: String,
    },
    /// A Parquet file is damaged or could not be written.
    #[error("process Parquet `{file}`")]
    Parquet {
        /// The file.
        file: String,
        /// The library's own words.
        #[source]
        source: parquet::errors::ParquetError,
    },
    /// A package that the recipe names is not among the dependencies.
    #[error("find package `{package}` among the dependencies of `{manifest}`{}", nearest_text(.nearest.as_deref()))]
    UnknownPackage {
        /// The package.
        package: String,
        /// The manifest.
        manifest: PathBuf,
        /// The nearest name that is there.
        nearest: Option<String>,
    },
    /// A package is locked, but its sources are not on this machine.
    #[error("find the sources of package `{package}`, which `{manifest}` locks: {reason}")]
    PackageSourcesMissing {
        /// The package.
        package: String,
        /// The manifest.
        manifest: PathBuf,
        /// Where they are not, or what cargo says.
        reason: String,
    },
    /// More of a corpus is broken than the recipe allows.
    #[error(
        "read the sources of domain `{domain}`: {broken} of {records} records are broken, more than `max_broken` allows ({allowed}); the first:\n{samples}"
    )]
    TooManyBroken {
        /// The domain.
        domain: String,
        /// How many are broken.
        broken: u64,
        /// How many were read, the broken ones included.
        records: u64,
        /// How many may be.
        allowed: u64,
        /// One line each: place and reason.
        samples: String,
    },
    /// Compressed files of a corpus end early or are damaged.
    #[error(
        "read the sources of domain `{domain}`: {streams} compressed file{} damaged or cut off, `max_broken.streams` allows {allowed}; bring them again:\n{samples}", if *.streams == 1 { " is" } else { "s are" }
    )]
    BrokenStreams {
        /// The domain.
        domain: String,
        /// How many.
        streams: u64,
        /// How many may be.
        allowed: u64,
        /// One line each: place and reason.
        samples: String,
    },
    /// Nothing is left.
    #[error("curate domain `{domain}`: {what}\n{table}")]
    EmptyDomain {
        /// The domain.
        domain: String,
        /// What is empty.
        what: &'static str,
        /// What to do.
        advice: &'static str,
        /// What was dropped, and why.
        table: String,
    },
    /// A parameter is outside its range.
    #[error("use parameter `{name}`, which {reason}")]
    Parameter {
        /// Its path, such as `dedup.minhash.bands`.
        name: String,
        /// What is wrong with it, to be said after its name: `is 0; it must be at least 1`.
        reason: String,
    },
    /// The documents that came in are not those that went out and were dropped: a bug, never silent.
    #[error("account for every document of domain `{domain}`: {reason}")]
    Unaccounted {
        /// The domain.
        domain: String,
        /// The two sides.
        reason: String,
    },
    /// JSON that flow itself wrote, or options of a plan, cannot be read.
    #[error("read the JSON of `{place}`")]
    Json {
        /// A file or a field.
        place: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    // ---- end of curation ----

    // ---- tokens: tokenizer, shards, loader, evaluation ----
    /// A tokenizer file cannot be read, or a text cannot be encoded or decoded.
    #[error("{action} with the tokenizer `{name}`")]
    Tokenizer {
        /// What was being done: `load`, `encode`, `decode`.
        action: &'static str,
        /// The file, or `(trained)`.
        name: String,
        /// The library's own words.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A tokenizer has no such token.
    #[error("find the token `{token}` in the tokenizer `{name}`")]
    TokenMissing {
        /// The token's text.
        token: String,
        /// The file.
        name: String,
    },
    /// The texts have too few different words for the vocabulary.
    #[error(
        "train a tokenizer of {asked} tokens: the text gives only {reached} with pairs seen at least {min_frequency} times; lower `vocab_size`, lower `min_frequency` or give more text"
    )]
    VocabularyTooLarge {
        /// Size asked for.
        asked: usize,
        /// Size that the text can fill.
        reached: usize,
        /// The limit on pairs.
        min_frequency: u64,
    },
    /// A shard's bytes are not a shard.
    #[error("read the token shard `{}`: {reason}", file.display())]
    Shard {
        /// The file.
        file: PathBuf,
        /// What is wrong, with the sizes that were found.
        reason: String,
    },
    /// There is no such split among the tokens.
    #[error("find the split `{split}` in the tokens `{}`; there is: {known}", folder.display())]
    SplitMissing {
        /// The tokens.
        folder: PathBuf,
        /// The split asked for.
        split: String,
        /// Those that are there, with commas.
        known: String,
    },
    /// A range of tokens ends after the last one.
    #[error("read tokens {start}..{end} of `{}`: there are {tokens}", folder.display())]
    TokenRange {
        /// The tokens.
        folder: PathBuf,
        /// First index.
        start: u64,
        /// One after the last.
        end: u64,
        /// How many there are.
        tokens: u64,
    },
    /// A source is too short for one instance.
    #[error("cut instances of {seq} + 1 tokens from `{}`: it holds {tokens} tokens; give more text or lower `seq`", folder.display())]
    TooFewTokens {
        /// The tokens.
        folder: PathBuf,
        /// Inputs of one instance.
        seq: usize,
        /// Tokens that are there.
        tokens: u64,
    },
    /// Scores or texts do not suffice for a measure.
    #[error("evaluate {measure}: {reason}")]
    Evaluation {
        /// `bits per byte`, `cloze`, ...
        measure: &'static str,
        /// What is missing or wrong.
        reason: String,
    },
    /// The thread that prepares batches ended without a word.
    #[error("prepare the batch of step {step}: the background thread is gone")]
    PrefetchGone {
        /// The step asked for.
        step: u64,
    },
    // ---- end of tokens ----
}

impl Error {
    /// Whether the same may go well in a while: an object store that failed or did not answer.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Store { source, .. } if flow_patience::may_pass(source))
    }
}

fn nearest_text(nearest: Option<&str>) -> String {
    nearest.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default()
}

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
