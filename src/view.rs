//! What people and programs see: folds of events and plans, nothing else.

pub mod cache;
pub mod diff;
pub mod json;
pub mod numbers;
pub mod plan;
pub mod runs;
pub mod status;
pub mod table;
pub mod tensorboard;
pub mod terminal;
pub mod why;

/// Prints text for people on standard output. A reader that went away wants no more.
pub fn print(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}
