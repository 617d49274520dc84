//! What people and programs see: folds of events and plans, nothing else.

pub mod accept;
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

use std::{
    borrow::Cow,
    io::{self, Write},
    sync::Mutex,
};

/// Why standard output took something not, the first time.
static REFUSED: Mutex<Option<io::Error>> = Mutex::new(None);

/// Prints text for people on standard output. What others chose to call their things moves no cursor and sets no title.
pub fn print(text: &str) {
    write(harmless(text).as_bytes());
}

/// Prints what may be meant for a program or a file: as it is, but on a terminal like [`print`]. `false` if nothing more can be
/// written.
pub fn print_as_it_is(text: &str) -> bool {
    let text = if console::user_attended() { harmless(text) } else { Cow::Borrowed(text) };
    write(text.as_bytes())
}

/// Writes to standard output; `false` if nothing more can be written. A reader that went away wants no more; any other reason is
/// told by [`refused`].
pub fn write(bytes: &[u8]) -> bool {
    let mut out = io::stdout().lock();
    let Err(error) = out.write_all(bytes).and_then(|()| out.flush()) else { return true };
    if error.kind() != io::ErrorKind::BrokenPipe {
        // A poisoned lock is that of a thread which had nothing to say.
        if let Ok(mut refused) = REFUSED.lock() {
            refused.get_or_insert(error);
        }
    }
    false
}

/// Why standard output did not take all that was written: a disk that is full, an error of it.
pub fn refused() -> Option<io::Error> {
    REFUSED.lock().ok()?.take()
}

/// The text with control characters spelled out, but for line ends, tabs and colours.
pub fn harmless(text: &str) -> Cow<'_, str> {
    if !text.contains(|c: char| c.is_control() && !matches!(c, '\n' | '\t')) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        rest = if let Some(end) = colour(rest) {
            out.push_str(&rest[..end]);
            &rest[end..]
        } else {
            if c.is_control() && !matches!(c, '\n' | '\t') {
                out.extend(c.escape_default());
            } else {
                out.push(c);
            }
            after
        };
    }
    Cow::Owned(out)
}

/// The length of the colour that the text begins with: `ESC [ 1;31 m`.
fn colour(text: &str) -> Option<usize> {
    let inner = text.strip_prefix("\u{1b}[")?;
    let end = inner.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    inner[end..].starts_with('m').then_some(end + 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_move_no_cursor_and_set_no_title() {
        for (text, shown) in [
            ("plain\n\tté", "plain\n\tté"),
            ("\u{1b}[1;31mred\u{1b}[0m", "\u{1b}[1;31mred\u{1b}[0m"),
            ("\u{1b}]0;title\u{7}", r"\u{1b}]0;title\u{7}"),
            ("\u{1b}[2Jx\u{1b}[", r"\u{1b}[2Jx\u{1b}["),
            ("a\0b\rc\u{9b}m\u{7f}", r"a\u{0}b\rc\u{9b}m\u{7f}"),
        ] {
            assert_eq!(harmless(text), shown);
        }
    }
}
