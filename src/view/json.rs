//! JSON on standard output, one value a line.

use serde::Serialize;

/// Prints one value as one line.
pub fn line(value: &impl Serialize) {
    if let Ok(text) = serde_json::to_string(value) {
        super::print(&(text + "\n"));
    }
}

/// Prints one value over several lines.
pub fn pretty(value: &impl Serialize) {
    if let Ok(text) = serde_json::to_string_pretty(value) {
        super::print(&(text + "\n"));
    }
}
