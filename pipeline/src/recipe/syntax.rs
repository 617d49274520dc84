//! What the YAML parser complains of, in words, with help for what people do most.

use super::diagnostic::{Diagnostic, Span, nearest};

/// Puts the parser's complaint into words, with help for what people do most.
pub(super) fn syntax(text: &str, info: &str, line: usize, byte: usize, span: Span) -> Diagnostic {
    let diagnostic = Diagnostic::new("recipe::yaml", format!("invalid YAML: {info}")).at(span, "");
    let line = text.lines().nth(line.saturating_sub(1)).unwrap_or("");
    let before = &text[..text.floor_char_boundary(byte)];
    let here = &before[before.rfind('\n').map_or(0, |at| at + 1)..];
    if info.contains("unknown anchor") {
        let name = name_after(&text[before.len()..], '*').unwrap_or_default();
        let anchors: Vec<&str> = before.match_indices('&').filter_map(|(at, _)| name_after(&text[at..], '&')).collect();
        let diagnostic =
            Diagnostic::new("recipe::yaml", format!("unknown alias `*{name}`")).at(span, "no anchor of this name");
        return match nearest(name, &anchors) {
            Some(near) => diagnostic.help(format!("did you mean `*{near}`?")),
            None => diagnostic.help(format!(
                "an alias repeats what an anchor `&{name}` named further up; text that begins with `*` goes in quotes"
            )),
        };
    }
    if let Some(reference) = unquoted_reference(line) {
        return diagnostic.help(format!("quote references inside {{ }} and [ ]: \"{reference}\""));
    }
    if here.chars().all(char::is_whitespace) && line.trim_start_matches(' ').starts_with('\t') {
        return diagnostic.help("indent with blanks: YAML allows no tabs there");
    }
    if line.contains(": *") || line.contains("- *") || line.contains("[*") {
        return diagnostic.help("`*` begins an alias in YAML: put the text in quotes");
    }
    if line.contains(": @") || line.contains(": `") || line.contains(": %") {
        return diagnostic.help("put text that begins with a sign in quotes");
    }
    diagnostic
}

/// The name of an anchor or an alias at the beginning of a text.
fn name_after(text: &str, sign: char) -> Option<&str> {
    let rest = text.trim_start().strip_prefix(sign)?;
    let end = rest.find(|c: char| c.is_whitespace() || ",[]{}".contains(c)).unwrap_or(rest.len());
    Some(&rest[..end]).filter(|name| !name.is_empty())
}

/// A `name[...]` inside of `{ }` or `[ ]` that YAML would take for a list.
fn unquoted_reference(line: &str) -> Option<&str> {
    let mut quote = None;
    let mut depth = 0_usize;
    for (at, letter) in line.char_indices() {
        match (quote, letter) {
            (Some(open), _) => quote = (letter != open).then_some(open),
            (None, '"' | '\'') => quote = Some(letter),
            (None, '#') => return None,
            (None, '[') if depth > 0 => {
                let of_a_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
                let name = line[..at].trim_end_matches(of_a_name).len();
                if name < at {
                    let end = line[at..].find(']').map_or(line.len(), |end| at + end + 1);
                    return Some(&line[name..end]);
                }
                depth += 1;
            }
            (None, '{' | '[') => depth += 1,
            (None, '}' | ']') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}
