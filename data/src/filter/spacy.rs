//! Words as spaCy's English rules split them (version 3: `Tokenizer.explain`, `lang/punctuation.py`, `lang/en`), since datatrove's
//! verdicts hang on them: white space first, then what stands at the ends of a piece, then what stands inside.
//!
//! Written again as plain matching on characters. Not the same in: emoticons beyond ASCII, addresses whose host is a number,
//! units in scripts other than Latin, and letters outside the blocks that spaCy lists (taken by Unicode's property here).

mod exceptions;

use exceptions::{Exceptions, exceptions};

/// Gives each word to `sink`, in order.
pub(super) fn split<'t>(text: &'t str, sink: &mut dyn FnMut(&'t str)) {
    let exceptions = exceptions();
    let space = |c: char| c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}');
    let mut suffixes = Vec::new();
    for piece in text.split(space).filter(|piece| !piece.is_empty()) {
        split_piece(piece, exceptions, &mut suffixes, sink);
    }
}

fn split_piece<'t>(piece: &'t str, known: &Exceptions, suffixes: &mut Vec<&'t str>, sink: &mut dyn FnMut(&'t str)) {
    let mut rest = piece;
    loop {
        if rest.is_empty() || known.contains(rest) {
            break;
        }
        let before = prefix(rest);
        if before > 0 && known.contains(&rest[before..]) {
            sink(&rest[..before]);
            rest = &rest[before..];
            break;
        }
        let after = suffix(&rest[before..]);
        let end = rest.len() - after;
        if after > 0 && known.contains(&rest[..end]) {
            suffixes.push(&rest[end..]);
            rest = &rest[..end];
            break;
        }
        if before == 0 && after == 0 {
            break;
        }
        if before > 0 {
            sink(&rest[..before]);
        }
        if after > 0 {
            suffixes.push(&rest[end..]);
        }
        rest = &rest[before..end];
    }
    if let Some(ends) = known.get(rest) {
        let mut start = 0;
        for &end in ends {
            sink(&rest[start..end as usize]);
            start = end as usize;
        }
    } else if !rest.is_empty() {
        if rest.bytes().all(|byte| byte.is_ascii_alphanumeric()) || is_address(rest) {
            sink(rest);
        } else {
            split_infixes(rest, sink);
        }
    }
    while let Some(suffix) = suffixes.pop() {
        sink(suffix);
    }
}

/// Bytes of what is split off at the start.
fn prefix(text: &str) -> usize {
    let Some(first) = text.chars().next() else { return 0 };
    let second = || text[first.len_utf8()..].chars().next();
    match first {
        '0'..='9' | 'a'..='z' => 0,
        '§' | '%' | '=' | '—' | '–' => first.len_utf8(),
        '+' => usize::from(!second().is_some_and(|c| c.is_ascii_digit())),
        '.' if second() == Some('.') => text.len() - text.trim_start_matches('.').len(),
        'U' if text.starts_with("US$") => 3,
        'A' | 'C' if second() == Some('$') => 2,
        _ if is_mark(first) || is_quote(first) || is_currency(first) || is_icon(first) => first.len_utf8(),
        _ => 0,
    }
}

/// Bytes of what is split off at the end: the longest that matches.
fn suffix(text: &str) -> usize {
    let Some(last) = text.chars().next_back() else { return 0 };
    let head = &text[..text.len() - last.len_utf8()];
    if last.is_ascii_alphanumeric() || last == '²' || last == '³' || last == 'µ' {
        return ending(text).max(unit(text));
    }
    let before = head.chars().next_back();
    match last {
        '…' if before == Some('…') => 6,
        '.' if before == Some('.') => text.len() - text.trim_end_matches('.').len(),
        '.' => usize::from(ends_sentence(head)),
        '+' => usize::from(before.is_some_and(|c| c.is_ascii_digit())),
        '—' | '–' => 3,
        '%' => usize::from(before.is_some_and(|c| c.is_ascii_digit())),
        _ if is_mark(last) || is_quote(last) || is_icon(last) => last.len_utf8(),
        _ if is_currency(last) && before.is_some_and(|c| c.is_ascii_digit()) => last.len_utf8(),
        '$' => ["US$", "C$", "A$"]
            .into_iter()
            .filter(|end| text.strip_suffix(end).is_some_and(|head| head.ends_with(|c: char| c.is_ascii_digit())))
            .map(str::len)
            .max()
            .unwrap_or(0),
        _ => 0,
    }
}

fn ending(text: &str) -> usize {
    if !text.ends_with(['s', 'S']) {
        return 0;
    }
    ["'s", "'S", "’s", "’S"].into_iter().find(|end| text.ends_with(end)).map_or(0, str::len)
}

const UNITS: [&str; 53] = [
    "km", "km²", "km³", "m", "m²", "m³", "dm", "dm²", "dm³", "cm", "cm²", "cm³", "mm", "mm²", "mm³", "ha", "µm", "nm",
    "yd", "in", "ft", "kg", "g", "mg", "µg", "t", "lb", "oz", "m/s", "km/h", "kmh", "mph", "hPa", "Pa", "mbar", "mb",
    "MB", "kb", "KB", "gb", "GB", "tb", "TB", "T", "G", "M", "K", "%", "м", "км", "кг", "г", "см",
];

fn unit(text: &str) -> usize {
    let letters = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = &text[letters.len()..];
    if !letters.is_empty() && UNITS.contains(&unit) { unit.len() } else { 0 }
}

/// Whether a full stop after `head` is a word of its own.
fn ends_sentence(head: &str) -> bool {
    let mut back = head.chars().rev();
    let (Some(last), before) = (back.next(), back.next()) else { return false };
    last.is_ascii_digit()
        || is_lower(last)
        || matches!(last, '%' | '²' | '-' | '+' | '|')
        || is_mark(last)
        || is_quote(last)
        || (is_upper(last) && before.is_some_and(is_upper))
        || (matches!(last, 'F' | 'C') && before == Some('°'))
}

fn split_infixes<'t>(text: &'t str, sink: &mut dyn FnMut(&'t str)) {
    let mut start = 0;
    let mut at = 0;
    let mut before: Option<char> = None;
    while let Some(c) = text[at..].chars().next() {
        let length = infix(before, &text[at..], c);
        if length > 0 && at > 0 {
            if at > start {
                sink(&text[start..at]);
            }
            sink(&text[at..at + length]);
            start = at + length;
            before = text[..start].chars().next_back();
            at = start;
        } else {
            before = Some(c);
            at += c.len_utf8().max(length);
        }
    }
    if start < text.len() {
        sink(&text[start..]);
    }
}

/// Bytes of the infix at the start of `text`, whose first character is `c`.
fn infix(before: Option<char>, text: &str, c: char) -> usize {
    if c.is_ascii_alphanumeric() || c == '_' {
        return 0;
    }
    let width = c.len_utf8();
    let after = text[width..].chars().next();
    if c == '…' || is_icon(c) {
        return width;
    }
    if c == '.' && after == Some('.') {
        return text.len() - text.trim_start_matches('.').len();
    }
    let (Some(before), Some(after)) = (before, after) else { return 0 };
    let digit = before.is_ascii_digit();
    let letter = is_letter(before);
    match c {
        '+' | '-' | '*' | '^' if digit && (after.is_ascii_digit() || after == '-') => 1,
        '.' if (is_lower(before) || is_quote(before)) && (is_upper(after) || is_quote(after)) => 1,
        ',' if letter && is_letter(after) => 1,
        ':' | '<' | '>' | '=' | '/' if (letter || digit) && is_letter(after) => 1,
        '-' | '–' | '—' | '~' if letter || digit => ["-", "–", "—", "--", "---", "——", "~"]
            .into_iter()
            .find(|dash| text.strip_prefix(dash).is_some_and(|rest| rest.starts_with(is_letter)))
            .map_or(0, str::len),
        _ => 0,
    }
}

/// Whether the whole text is an address of the web or of mail, which stays one word.
fn is_address(text: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    if !text.contains('.') || !text.starts_with(word) || !text.ends_with(|c| word(c) || c == '/') {
        return false;
    }
    let scheme = text.find("://").filter(|&at| at >= 2 && text[..at].chars().all(|c| word(c) || "+-.".contains(c)));
    let user = text.char_indices().filter(|&(at, c)| c == '@' && at > 0).map(|(at, _)| at + 1);
    [0].into_iter().chain(scheme.map(|at| at + 3)).chain(user).any(|start| starts_with_host(&text[start..]))
}

fn starts_with_host(text: &str) -> bool {
    let end = text.find([':', '/', '?', '#']).unwrap_or(text.len());
    let (host, mut rest) = text.split_at(end);
    let Some((labels, top)) = host.rsplit_once('.') else { return false };
    let inside = |c: char| c.is_ascii_alphanumeric() || ('\u{a1}'..='\u{ffff}').contains(&c);
    let label = |label: &str| {
        label.starts_with(inside)
            && label.ends_with(inside)
            && label.chars().all(|c| inside(c) || c == '_' || c == '-')
            && label.len() <= 64
    };
    if !(2..=63).contains(&top.chars().count()) || !top.chars().all(is_lower) || !labels.split('.').all(label) {
        return false;
    }
    if let Some(port) = rest.strip_prefix(':') {
        let digits = port.len() - port.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if !(2..=5).contains(&digits) {
            return false;
        }
        rest = &port[digits..];
    }
    rest.is_empty() || rest.starts_with(['/', '?', '#'])
}

/// spaCy's `PUNCT`.
fn is_mark(c: char) -> bool {
    match c {
        ',' | ':' | ';' | '!' | '?' | '(' | ')' | '[' | ']' | '{' | '}' | '<' | '>' | '_' | '#' | '*' | '&' => true,
        c if c.is_ascii() => false,
        _ => "…¿؟¡。？！，、；：～·।،۔؛٪".contains(c),
    }
}

/// spaCy's quotes and the brackets that it lists with them.
fn is_quote(c: char) -> bool {
    match c {
        '\'' | '"' | '`' | ',' => true,
        c if c.is_ascii() => false,
        _ => "”“‘´’‚„»«「」『』（）〔〕【】《》〈〉〈〉⟦⟧".contains(c),
    }
}

fn is_currency(c: char) -> bool {
    matches!(c, '$' | '£' | '€' | '¥' | '฿' | '﷼' | '\u{20a0}'..='\u{20bf}')
}

/// Unicode's category "symbol, other", by the blocks that hold little else.
fn is_icon(c: char) -> bool {
    // Nearly all text ends here.
    if c < '\u{a6}' {
        return false;
    }
    matches!(
        c,
        '\u{2195}'..='\u{2199}' | '\u{219c}'..='\u{219f}' | '\u{21a1}' | '\u{21a2}' | '\u{21a4}' | '\u{21a5}'
            | '\u{21a7}'..='\u{21ad}' | '\u{21af}'..='\u{21cd}' | '\u{21d0}' | '\u{21d1}' | '\u{21d3}'
            | '\u{21d5}'..='\u{21f3}' | '\u{2300}'..='\u{2307}' | '\u{230c}'..='\u{231f}' | '\u{2322}'..='\u{2328}'
            | '\u{232b}'..='\u{237b}' | '\u{237d}'..='\u{239a}' | '\u{23b4}'..='\u{23db}' | '\u{23e2}'..='\u{2426}'
            | '\u{249c}'..='\u{24e9}' | '\u{2500}'..='\u{25b6}' | '\u{25b8}'..='\u{25c0}' | '\u{25c2}'..='\u{25f7}'
            | '\u{2600}'..='\u{266e}' | '\u{2670}'..='\u{2767}' | '\u{2794}'..='\u{27bf}' | '\u{2800}'..='\u{28ff}'
            | '\u{2b00}'..='\u{2b2f}' | '\u{2b45}'..='\u{2bfe}' | '\u{fffc}' | '\u{fffd}'
            | '\u{1f000}'..='\u{1f0f5}' | '\u{1f110}'..='\u{1f3fa}' | '\u{1f400}'..='\u{1fa6d}'
    )
}

fn is_letter(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_alphabetic();
    }
    // spaCy lists the CJK symbols among the letters and leaves the Japanese syllables out.
    matches!(c, '\u{3000}'..='\u{303f}')
        || (c.is_alphabetic() && !matches!(c, '\u{3040}'..='\u{30ff}' | 'ª' | 'º' | 'µ'))
}

fn is_lower(c: char) -> bool {
    c.is_ascii_lowercase() || (!c.is_ascii() && is_letter(c) && !c.is_uppercase())
}

fn is_upper(c: char) -> bool {
    c.is_ascii_uppercase() || (!c.is_ascii() && is_letter(c) && !c.is_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&str> {
        let mut words = Vec::new();
        split(text, &mut |word| words.push(word));
        words
    }

    #[test]
    fn marks_contractions_and_addresses() {
        assert_eq!(words("\"Don't panic,\" he said..."), ["\"", "Do", "n't", "panic", ",", "\"", "he", "said", "..."]);
        assert_eq!(
            words("e.g. the U.S. (approx. 10km) id"),
            ["e.g.", "the", "U.S.", "(", "approx", ".", "10", "km", ")", "i", "d"]
        );
        assert_eq!(
            words("see https://a-b.example.com/x-y/?q=1, ok"),
            ["see", "https://a-b.example.com/x-y/?q=1", ",", "ok"]
        );
        assert_eq!(
            words("well-known a/b x=y 1-2 a,b"),
            ["well", "-", "known", "a", "/", "b", "x", "=", "y", "1", "-", "2", "a", ",", "b"]
        );
        assert_eq!(
            words("std::fmt #[derive] John's $5 5%"),
            ["std::fmt", "#", "[", "derive", "]", "John", "'s", "$", "5", "5", "%"]
        );
    }

    proptest::proptest! {
        #[test]
        fn nothing_but_space_is_lost(text in "\\PC{0,40}[a-z.,:'$%+~ -]{0,30}") {
            let space = |c: char| c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}');
            let all: String = text.chars().filter(|c| !space(*c)).collect();
            proptest::prop_assert_eq!(words(&text).concat(), all);
        }
    }
}
