//! JSON on standard output, one value a line.

use serde::Serialize;

/// Prints one value as one line; `false` if nothing more can be written.
pub fn line(value: &impl Serialize) -> bool {
    serde_json::to_string(value).is_ok_and(|text| super::write((text + "\n").as_bytes()))
}

/// Prints one value over several lines.
pub fn pretty(value: &impl Serialize) {
    if let Ok(text) = serde_json::to_string_pretty(value) {
        super::write((text + "\n").as_bytes());
    }
}
