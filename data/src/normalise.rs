//! One spelling for texts that look the same: newlines, control characters, trailing spaces, Unicode NFC.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// Which differences are removed. Applying it twice changes nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Normalise {
    /// Unicode normal form C.
    pub nfc: bool,
    /// `\r\n`, `\r`, NEL and the Unicode line and paragraph separators become `\n`.
    pub newlines: bool,
    /// Byte-order marks, NUL and other control characters go; tab and newline stay.
    pub control: bool,
    /// Spaces and tabs before a line's end go.
    pub trailing_spaces: bool,
}

impl Default for Normalise {
    fn default() -> Self {
        Normalise { nfc: true, newlines: true, control: true, trailing_spaces: true }
    }
}

impl Normalise {
    /// The text in its one spelling; given back as it is, without a copy, when it has it already.
    pub fn apply(self, text: String) -> String {
        let ascii = text.is_ascii();
        let text = if is_clean(&text, ascii) { text } else { self.clean(&text) };
        if self.nfc && !ascii && is_nfc_quick(text.chars()) != IsNormalized::Yes { text.nfc().collect() } else { text }
    }

    fn clean(self, text: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            let c = if self.newlines && is_break(c) {
                if c == '\r' && chars.peek() == Some(&'\n') {
                    continue;
                }
                '\n'
            } else {
                c
            };
            // A carriage return that is kept is no control character to remove.
            if self.control && is_control(c) && !is_break(c) {
                continue;
            }
            if c == '\n' {
                self.trim_line(&mut out);
            }
            out.push(c);
        }
        self.trim_line(&mut out);
        out
    }

    fn trim_line(self, out: &mut String) {
        if self.trailing_spaces {
            out.truncate(out.trim_end_matches([' ', '\t']).len());
        }
    }
}

/// Whether no difference that could be removed is there; asked for all of them, whatever the parameters.
fn is_clean(text: &str, ascii: bool) -> bool {
    let bytes = text.as_bytes();
    // Bits of what is present, gathered without branches: the common text is clean.
    let mut suspicious = false;
    let mut before = 0u8;
    for &byte in bytes {
        suspicious |= byte < 0x20 && byte != b'\n' && byte != b'\t';
        suspicious |= byte == 0x7f;
        suspicious |= byte == b'\n' && (before == b' ' || before == b'\t');
        before = byte;
    }
    suspicious |= before == b' ' || before == b'\t';
    // C1 controls start with C2, the separators with E2 80, the mark with EF BB BF.
    !suspicious && (ascii || !text.chars().any(|c| is_break(c) || is_control(c)))
}

fn is_break(c: char) -> bool {
    matches!(c, '\r' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn is_control(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t') || c == '\u{feff}'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_spelling() {
        let all = Normalise::default();
        let apply = |text: &str| all.apply(text.to_string());
        assert_eq!(apply("\u{feff}a \r\nb\t\rc\0d\u{2028}e\u{301} "), "a\nb\ncd\né");
        assert_eq!(apply("a\u{85}b\u{7f}\u{9d}c"), "a\nbc");
        assert_eq!(apply("  a\tb\n"), "  a\tb\n");
        let none = Normalise { nfc: false, newlines: false, control: false, trailing_spaces: false };
        assert_eq!(none.apply("a \r\n\0e\u{301}".into()), "a \r\n\0e\u{301}");
        let controls = Normalise { newlines: false, ..all };
        assert_eq!(controls.apply("a\r\nb\u{1}".into()), "a\r\nb");
    }

    proptest! {
        #[test]
        fn twice_is_once(text in "[ \\t\\r\\na-c\u{0}\u{85}\u{feff}\u{e9}\u{301}\u{2028}\u{1100}\u{1161}]{0,40}") {
            for bits in 0..16u8 {
                let some = Normalise { nfc: bits & 1 > 0, newlines: bits & 2 > 0, control: bits & 4 > 0, trailing_spaces: bits & 8 > 0 };
                let once = some.apply(text.clone());
                prop_assert_eq!(some.apply(once.clone()), once);
            }
        }
    }
}
