//! What people and programs see: folds of events and plans, nothing else.

pub mod accept;
pub mod cache;
pub mod diff;
pub mod json;
pub mod numbers;
pub mod plan;
pub mod progress;
pub mod runs;
pub mod screen;
pub mod status;
pub mod table;
pub mod tensorboard;
pub mod terminal;
pub mod waits;
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
    write(harmless(text, console::colors_enabled()).as_bytes());
}

/// Prints what may be meant for a program or a file: as it is, but on a terminal like [`print`]. `false` if nothing more can be
/// written.
pub fn print_as_it_is(text: &str) -> bool {
    let text = if console::user_attended() { harmless(text, console::colors_enabled()) } else { Cow::Borrowed(text) };
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

/// The text with control characters spelled out, but for line ends, tabs and, where the output has `colours`, those that flow
/// itself writes with. What others wrote may have these too: nothing of it is hidden, and none goes beyond its line.
pub fn harmless(text: &str, colours: bool) -> Cow<'_, str> {
    if !text.contains(|c: char| c.is_control() && !matches!(c, '\n' | '\t')) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut open = false;
    while let Some(c) = rest.chars().next() {
        let own = if colours { colour(rest) } else { None };
        if let Some((length, ends)) = own {
            open = !ends;
            out.push_str(&rest[..length]);
            rest = &rest[length..];
            continue;
        }
        if c == '\n' && std::mem::take(&mut open) {
            out.push_str(RESET);
        }
        if c.is_control() && !matches!(c, '\n' | '\t') {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
        rest = &rest[c.len_utf8()..];
    }
    if open {
        out.push_str(RESET);
    }
    Cow::Owned(out)
}

/// A text of others, with all its control characters spelled out but for line ends and tabs.
pub fn visible(text: &str) -> Cow<'_, str> {
    harmless(text, false)
}

/// Every line but the first begins below the first one's text.
pub fn indented(text: &str, columns: usize) -> Cow<'_, str> {
    let text = text.trim_end_matches('\n');
    if text.contains('\n') { text.replace('\n', &format!("\n{}", " ".repeat(columns))).into() } else { text.into() }
}

const RESET: &str = "\u{1b}[0m";

/// The length of the colour that the text begins with, such as `ESC [ 1;31 m`, and whether it is the end of all colours. Bold, dim,
/// italic, underlined, the colours of letters and the ends of these: neither what hides letters nor what is behind them.
fn colour(text: &str) -> Option<(usize, bool)> {
    let inner = text.strip_prefix("\u{1b}[")?;
    let end = inner.find(|c: char| !c.is_ascii_digit() && c != ';')?;
    let codes = &inner[..end];
    let is_own = |code: &str| matches!(code.parse(), Ok(0..=4 | 22..=24 | 31..=37 | 39 | 90..=97));
    let known = inner[end..].starts_with('m') && codes.split(';').all(is_own);
    known.then_some((end + 3, codes == "0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_move_no_cursor_and_set_no_title() {
        for (text, shown) in [
            ("plain\n\tté", "plain\n\tté"),
            ("\u{1b}]0;title\u{7}", r"\u{1b}]0;title\u{7}"),
            ("\u{1b}[2Jx\u{1b}[", r"\u{1b}[2Jx\u{1b}["),
            ("a\0b\rc\u{9b}m\u{7f}", r"a\u{0}b\rc\u{9b}m\u{7f}"),
        ] {
            assert_eq!(harmless(text, true), shown);
            assert_eq!(harmless(text, false), shown);
        }
    }

    #[test]
    fn colours_end_with_their_line_and_hide_nothing() {
        for (text, shown) in [
            ("\u{1b}[1;31mred\u{1b}[0m", "\u{1b}[1;31mred\u{1b}[0m"),
            ("\u{1b}[31mred\nplain", "\u{1b}[31mred\u{1b}[0m\nplain"),
            ("\u{1b}[31mred", "\u{1b}[31mred\u{1b}[0m"),
            ("\u{1b}[8mhidden", r"\u{1b}[8mhidden"),
            ("\u{1b}[30;40mhidden", r"\u{1b}[30;40mhidden"),
            ("\u{1b}[38;5;0mhidden", r"\u{1b}[38;5;0mhidden"),
            ("\u{1b}[1;7mback", r"\u{1b}[1;7mback"),
            ("\u{1b}[m", r"\u{1b}[m"),
        ] {
            assert_eq!(harmless(text, true), shown);
        }
        let plain = harmless("\u{1b}[1;31mred\u{1b}[0m", false);
        assert_eq!(plain, r"\u{1b}[1;31mred\u{1b}[0m", "without colours none is flow's own");
    }

    #[test]
    fn further_lines_stand_below_the_first() {
        assert_eq!(indented("one\ntwo\nthree\n", 3), "one\n   two\n   three");
        assert_eq!(indented("one", 3), "one");
    }
}
