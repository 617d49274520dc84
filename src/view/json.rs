//! JSON on standard output, one value a line.

use std::io::Write;

use serde::Serialize;

/// Prints one value as one line.
pub fn line(value: &impl Serialize) {
    if let Ok(text) = serde_json::to_string(value) {
        // A reader that went away wants no more lines.
        let _ = writeln!(std::io::stdout().lock(), "{text}");
    }
}

/// Prints one value over several lines.
pub fn pretty(value: &impl Serialize) {
    if let Ok(text) = serde_json::to_string_pretty(value) {
        let _ = writeln!(std::io::stdout().lock(), "{text}");
    }
}
