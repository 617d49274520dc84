//! Text that came from outside, made harmless for the place that it is put in.

use std::fmt::Write;

/// For HTML and SVG, in an element or within double quotes; what XML 1.0 does not allow becomes a space.
pub(super) fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(letter),
            letter if letter.is_control() || matches!(letter, '\u{fffe}' | '\u{ffff}') => out.push(' '),
            letter => out.push(letter),
        }
    }
    out
}

/// For Markdown, on one line, also within a table. Any ASCII punctuation may have a backslash (`CommonMark` §2.4); only what
/// can mean something gets one, so that the source reads well.
pub(super) fn markdown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' => out.push_str("&lt;"),
            '&' => out.push_str("&amp;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' | '$' | '#' | '>' => {
                out.push('\\');
                out.push(letter);
            }
            letter if letter.is_control() => out.push(' '),
            letter => out.push(letter),
        }
    }
    out
}

/// A fence that no run of backticks in the text can close.
pub(super) fn fence(text: &str) -> String {
    let mut longest = 0;
    let mut run = 0;
    for letter in text.chars() {
        run = if letter == '`' { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    "`".repeat((longest + 1).max(3))
}

/// For TeX, in text.
pub(super) fn latex(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\\' => out.push_str("\\textbackslash{}"),
            '{' | '}' | '$' | '&' | '#' | '%' | '_' => {
                out.push('\\');
                out.push(letter);
            }
            '^' => out.push_str("\\textasciicircum{}"),
            '~' => out.push_str("\\textasciitilde{}"),
            '<' => out.push_str("\\textless{}"),
            '>' => out.push_str("\\textgreater{}"),
            super::metric::MINUS => out.push_str("$-$"),
            '–' => out.push_str("--"),
            letter if letter.is_control() => out.push(' '),
            letter => out.push(letter),
        }
    }
    out
}

/// For the part of a URL after `#` (RFC 3986 unreserved characters and `/`).
pub(super) fn url(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "</title><script>\"'&\\`|*$x_1$\n\u{0}";

    #[test]
    fn each_place_has_its_escape() {
        assert_eq!(html(HOSTILE), "&lt;/title&gt;&lt;script&gt;&quot;&#39;&amp;\\`|*$x_1$\n ");
        assert_eq!(markdown(HOSTILE), "&lt;/title\\>&lt;script\\>\"'&amp;\\\\\\`\\|\\*\\$x\\_1\\$  ");
        assert_eq!(
            latex(HOSTILE),
            "\\textless{}/title\\textgreater{}\\textless{}script\\textgreater{}\"'\\&\\textbackslash{}`|*\\$x\\_1\\$  "
        );
        assert_eq!(url("expert[ü]"), "expert%5B%C3%BC%5D");
        assert_eq!((fence("a"), fence("a ```` b")), ("```".to_owned(), "`````".to_owned()));
    }
}
