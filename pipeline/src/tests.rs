//! Tests that need more than one module: the language from text to message, keys from text to hash, whole runs.
mod formats;
mod keys;
mod language;
mod oracle;
mod refused;
mod runs;
mod toys;
