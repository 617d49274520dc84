//! Documents and tokens.

pub mod error;

// curation
pub mod corpus;
pub mod curate;
pub mod dedup;
pub mod document;
pub mod filter;
pub mod normalise;
pub mod source;
pub mod tally;
// end of curation

// tokens
pub mod evaluation;
pub mod loader;
pub mod mix;
pub mod pack;
pub mod permute;
pub mod prefetch;
pub mod random;
pub mod shard;
pub mod tokenize;
pub mod tokenizer;
pub mod whole;
// end of tokens

pub use error::{Error, Result};
