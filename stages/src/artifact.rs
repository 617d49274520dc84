//! What the kinds make, in the words that roles take: a recipe in which they do not meet is refused when it is planned.

/// Documents of one domain in splits, with their statistics.
pub(crate) const CORPUS: &str = "corpus";
/// A `tokenizer.json`.
pub(crate) const TOKENIZER: &str = "tokenizer";
/// Token shards, with their tokenizer beside them.
pub(crate) const TOKENS: &str = "tokens";
/// A model in one folder. One that was imported may be a mixture, which only its files tell.
pub(crate) const MODEL: &str = "model";
/// A model with several experts in every FFN.
pub(crate) const MIXTURE: &str = "mixture";
/// Several dense models that are asked together.
pub(crate) const ENSEMBLE: &str = "ensemble";
/// A domain as the public model sees it.
pub(crate) const EMBEDDING: &str = "embedding";
/// A bundle: one expert and its router row.
pub(crate) const EXPERT: &str = "expert";
/// What a model reached on the domains.
pub(crate) const EVALUATION: &str = "evaluation";
/// Tables, and what pages are made from.
pub(crate) const REPORT: &str = "report";
