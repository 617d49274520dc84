//! Tests that need more than one module: the language from text to message, keys from text to hash, whole runs.
#![expect(clippy::format_push_string, clippy::format_collect, reason = "short texts, made once")]

mod accepted;
mod causes;
mod damage;
mod evicted;
mod formats;
mod keys;
mod language;
mod oracle;
mod refused;
mod runs;
mod toys;
mod unanswered;
mod unchanged;
pub mod world;
