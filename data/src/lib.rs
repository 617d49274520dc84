//! Documents and tokens.
