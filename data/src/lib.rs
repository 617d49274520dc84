//! Documents and tokens.

pub mod error;

// curation
pub mod document;
pub mod source;
pub mod normalise;
pub mod filter;
pub mod dedup;
pub mod curate;
pub mod tally;
pub mod corpus;
// end of curation

// tokens
pub mod random;
pub mod tokenizer;
pub mod shard;
pub mod tokenize;
pub mod pack;
pub mod permute;
pub mod mix;
pub mod loader;
pub mod prefetch;
pub mod evaluation;
// end of tokens

pub use error::{Error, Result};
