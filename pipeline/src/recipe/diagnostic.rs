//! Where something stands in a recipe, and what is wrong with it.
//!
//! Data only: a [`Diagnostic`] knows spans and words, never colours or terminals. Whoever prints it looks the text up in
//! the [`SourceMap`] that came with it. [`Diagnostic::render`] is the one plain form, for logs and tests.

use std::fmt;
use std::sync::Arc;

use crate::names;

/// Names one text of a [`SourceMap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(u32);

/// A range of bytes in one text, with the place of its start as an editor shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// The text that the range is in.
    pub file: FileId,
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
    /// Line of `start`, from 1.
    pub line: u32,
    /// Column of `start` in characters, from 1.
    pub col: u32,
}

impl Span {
    /// A span of nothing, for nodes that no text holds. [`SourceMap::get`] finds no text for it.
    pub const NOWHERE: Span = Span { file: FileId(u32::MAX), start: 0, end: 0, line: 0, col: 0 };

    /// The same start, reaching to the end of `other` where both are in one text.
    #[must_use]
    pub fn to(self, other: Span) -> Span {
        if self.file == other.file { Span { end: self.end.max(other.end), ..self } } else { self }
    }
}

/// A value and the place that it was read from. Equality and order look at the value only.
#[derive(Clone, Debug)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub span: Span,
}

impl<T> Spanned<T> {
    /// Puts a value and its place together.
    pub fn new(value: T, span: Span) -> Self {
        Spanned { value, span }
    }
}

impl<T: PartialEq> PartialEq for Spanned<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for Spanned<T> {}

impl<T: fmt::Display> fmt::Display for Spanned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

/// One text that a recipe was read from.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// Name for people: the path as given, or the `--set` path.
    pub name: String,
    /// The whole text.
    pub text: Arc<str>,
}

/// All texts that a recipe was read from: the file, what it includes, each `--set`.
#[derive(Clone, Debug, Default)]
pub struct SourceMap {
    files: Vec<SourceFile>,
}

impl SourceMap {
    /// Adds a text and names it.
    pub fn add(&mut self, name: impl Into<String>, text: impl Into<Arc<str>>) -> FileId {
        let id = FileId(u32::try_from(self.files.len()).unwrap_or(u32::MAX - 1));
        self.files.push(SourceFile { name: name.into(), text: text.into() });
        id
    }

    /// The text of an id, or none for [`Span::NOWHERE`] and for ids of another map.
    pub fn get(&self, id: FileId) -> Option<&SourceFile> {
        self.files.get(id.0 as usize)
    }

    /// All texts in the order in which they were read; the recipe itself is the first.
    pub fn files(&self) -> &[SourceFile] {
        &self.files
    }

    /// `file:line:col`, or the empty string for [`Span::NOWHERE`].
    pub fn place(&self, span: Span) -> String {
        self.get(span.file).map(|file| format!("{}:{}:{}", file.name, span.line, span.col)).unwrap_or_default()
    }
}

/// One thing that is wrong in a recipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// What is wrong, as a fragment.
    pub message: String,
    /// Stable name of the rule, such as `recipe::unknown-key`.
    pub code: &'static str,
    /// The place, and the words to put under it (may be empty).
    pub label: Option<(Span, String)>,
    /// Other places that matter, each with its words.
    pub related: Vec<(Span, String)>,
    /// What to do.
    pub help: Option<String>,
}

impl Diagnostic {
    /// A diagnostic without a place.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Diagnostic { message: message.into(), code, label: None, related: Vec::new(), help: None }
    }

    /// Sets the place and the words under it.
    #[must_use]
    pub fn at(mut self, span: Span, words: impl Into<String>) -> Self {
        self.label = Some((span, words.into()));
        self
    }

    /// Adds another place.
    #[must_use]
    pub fn also(mut self, span: Span, words: impl Into<String>) -> Self {
        self.related.push((span, words.into()));
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Proposes the candidate nearest to `word`, then lists all of them.
    #[must_use]
    pub(crate) fn nearest<'a>(self, word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Self {
        let candidates: Vec<&str> = candidates.into_iter().collect();
        match nearest_help(word, &candidates) {
            Some(help) => self.help(help),
            None => self,
        }
    }

    /// The plain form: `file:line:col: message (help)`, then one indented line for each related place.
    pub fn render(&self, sources: &SourceMap) -> String {
        let mut out = String::new();
        if let Some((span, _)) = &self.label {
            let place = sources.place(*span);
            if !place.is_empty() {
                out.push_str(&place);
                out.push_str(": ");
            }
        }
        out.push_str(&self.message);
        if let Some(help) = &self.help {
            out.push_str(" (");
            out.push_str(help);
            out.push(')');
        }
        for (span, words) in &self.related {
            out.push_str("\n  ");
            out.push_str(&sources.place(*span));
            out.push_str(": ");
            out.push_str(words);
        }
        out
    }
}

/// The candidate that `word` was probably meant to be.
pub fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    names::nearest(word, candidates.iter().copied(), 1).pop()
}

/// "did you mean `x`? one of: …" for a word that is none of the candidates; none where there is nothing to choose from.
pub(crate) fn nearest_help(word: &str, candidates: &[&str]) -> Option<String> {
    const LISTED: usize = 24;
    let mut sorted: Vec<&str> = candidates.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.is_empty() {
        return None;
    }
    let more = if sorted.len() > LISTED { format!(", … ({} in all)", sorted.len()) } else { String::new() };
    let list = sorted.iter().take(LISTED).map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
    Some(match nearest(word, &sorted) {
        Some(near) if sorted.len() == 1 => format!("did you mean `{near}`?"),
        Some(near) => format!("did you mean `{near}`? one of: {list}{more}"),
        None => format!("one of: {list}{more}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_takes_typing_mistakes_and_nothing_else() {
        let names = ["tokens", "corpus", "expert", "lr"];
        for (word, want) in [
            ("token", Some("tokens")),
            ("corpsu", Some("corpus")),
            ("exprt", Some("expert")),
            ("rl", Some("lr")),
            ("r", None),
            ("zebra", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, &names), want, "{word}");
        }
        assert_eq!(nearest(&"a".repeat(100_000), &names), None);
    }

    #[test]
    fn render_names_every_place() {
        let mut sources = SourceMap::default();
        let file = sources.add("a.yaml", "x: 1\nx: 2\n");
        let first = Span { file, start: 0, end: 1, line: 1, col: 1 };
        let second = Span { file, start: 5, end: 6, line: 2, col: 1 };
        let shown = Diagnostic::new("recipe::duplicate-key", "`x` twice")
            .at(second, "here")
            .also(first, "first here")
            .help("remove one")
            .render(&sources);
        assert_eq!(shown, "a.yaml:2:1: `x` twice (remove one)\n  a.yaml:1:1: first here");
        assert_eq!(sources.place(Span::NOWHERE), "");
    }
}
