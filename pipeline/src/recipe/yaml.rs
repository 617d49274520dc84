//! From YAML text to [`Node`]s: the only module that knows the YAML crate.
//!
//! The crate is `saphyr-parser`, the event layer of saphyr: YAML 1.2 complete by the official test suite, kept up, one
//! small dependency, and each event carries its place, which is all that a tree with spans needs. (`serde-saphyr` reads
//! straight into Rust types and gives places only to fields that ask for them; a recipe is overlaid and expanded before
//! any type is known, so it would have to be an untyped tree first all the same.)
//!
//! What is refused here: other bytes than UTF-8, more than [`MAX_FILE`] bytes, nesting beyond [`MAX_DEPTH`], aliases
//! that unfold beyond [`MAX_WEIGHT`], a key twice in a map, unknown tags, more than one document, `.inf` and `.nan`.
//!
//! Scalars follow the core schema of YAML 1.2 (`yes` is text), with one liberty: digits may be grouped by `_`. Whole
//! numbers are whole however they are spelt: `1000`, `1_000`, `1e3` and `1000.0` are one value.

use std::borrow::Cow;
use std::collections::BTreeMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use super::diagnostic::{Diagnostic, FileId, Span, Spanned};
use super::node::{Entry, Node, Value, shorten};
use super::scalar::resolve;
use super::syntax::syntax;

/// The largest recipe file, in bytes.
pub(super) const MAX_FILE: usize = 4 << 20;
/// The deepest nesting of lists and maps, aliases unfolded.
pub(super) const MAX_DEPTH: usize = 64;
/// The largest tree of one recipe with all that it includes, aliases unfolded, in [`Node::weight`].
pub(super) const MAX_WEIGHT: usize = 500_000;

/// What an `!include` becomes, given the path and its place.
pub(super) type Include<'a> = dyn FnMut(&str, Span, &mut Budget) -> Result<Node, Vec<Diagnostic>> + 'a;

/// How much of [`MAX_WEIGHT`] is left; one for a recipe with all that it includes.
pub(super) struct Budget {
    left: usize,
}

impl Budget {
    pub(super) fn new(weight: usize) -> Self {
        Budget { left: weight }
    }

    /// Takes a weight away; false when there is not so much left.
    pub(super) fn take(&mut self, weight: usize) -> bool {
        self.left.checked_sub(weight).map(|left| self.left = left).is_some()
    }
}

/// Checks bytes before they become a text of the source map.
pub(super) fn text_of(bytes: &[u8]) -> Result<&str, NoText> {
    if bytes.len() > MAX_FILE {
        return Err(NoText { why: format!("the file is larger than {} MiB", MAX_FILE >> 20), valid: None });
    }
    std::str::from_utf8(bytes).map_err(|error| {
        if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
            return NoText { why: "it is UTF-16; save it as UTF-8".to_owned(), valid: None };
        }
        let valid = error.valid_up_to();
        let line = bytes[..valid].split(|byte| *byte == b'\n').count();
        NoText { why: format!("invalid UTF-8 at byte {valid} (line {line}); save it as UTF-8"), valid: Some(valid) }
    })
}

/// Why bytes are no text.
pub(super) struct NoText {
    pub(super) why: String,
    /// Bytes that are text before the first that is none, where there is such a place.
    pub(super) valid: Option<usize>,
}

/// Reads the document that begins at byte `from` of a text. An empty one is null.
pub(super) fn parse(
    file: FileId,
    text: &str,
    from: usize,
    budget: &mut Budget,
    include: &mut Include<'_>,
) -> Result<Node, Vec<Diagnostic>> {
    let places = Places::new(file, text, from);
    let body = &text[from..];
    if body.len() > MAX_FILE {
        return Err(vec![Diagnostic::new("recipe::too-large", "the text is too large")]);
    }
    let mut build =
        Build { places, budget, include, open: Vec::new(), anchors: BTreeMap::new(), root: None, found: Vec::new() };
    for event in Parser::new_from_str(body) {
        let (event, span) = match event {
            Ok(event) => event,
            Err(error) => {
                let span = build.places.point(error.marker());
                build.found.push(syntax(
                    body,
                    error.info(),
                    marker_line(error.marker()),
                    build.places.byte(error.marker()) - from,
                    span,
                ));
                return Err(build.found);
            }
        };
        if let Err(fatal) = build.event(event, span) {
            build.found.extend(fatal);
            return Err(build.found);
        }
    }
    let root = build.root.take().unwrap_or(Node { value: Value::Null, span: build.places.start() });
    if build.found.is_empty() { Ok(root) } else { Err(build.found) }
}

/// Turns the parser's character counts into byte offsets.
struct Places {
    file: FileId,
    from: usize,
    /// Column of `from`, from 0.
    col: usize,
    line: usize,
    /// Byte offset of every character, where some character is longer than a byte.
    offsets: Option<Vec<u32>>,
    end: usize,
}

impl Places {
    fn new(file: FileId, text: &str, from: usize) -> Self {
        let (before, body) = text.split_at(from);
        let line = before.matches('\n').count();
        let col = before.rsplit('\n').next().unwrap_or("").chars().count();
        let offsets = (!body.is_ascii()).then(|| body.char_indices().map(|(at, _)| at as u32).collect());
        Places { file, from, col, line, offsets, end: text.len() }
    }

    fn byte(&self, marker: &Marker) -> usize {
        let at = match &self.offsets {
            Some(offsets) => offsets.get(marker.index()).map_or(usize::MAX, |at| *at as usize),
            None => marker.index(),
        };
        self.from.saturating_add(at).min(self.end)
    }

    fn span(&self, start: &Marker, end: &Marker) -> Span {
        let first = self.byte(start);
        let line = marker_line(start);
        Span {
            file: self.file,
            start: first as u32,
            end: self.byte(end).max(first) as u32,
            line: (self.line + line) as u32,
            col: (start.col() + 1 + if line == 1 { self.col } else { 0 }) as u32,
        }
    }

    fn point(&self, at: &Marker) -> Span {
        self.span(at, at)
    }

    fn start(&self) -> Span {
        Span {
            file: self.file,
            start: self.from as u32,
            end: self.from as u32,
            line: (self.line + 1) as u32,
            col: (self.col + 1) as u32,
        }
    }
}

fn marker_line(marker: &Marker) -> usize {
    marker.line().max(1)
}

/// A list or map that is not closed yet.
struct Open {
    kind: OpenKind,
    span: Span,
    anchor: usize,
}

enum OpenKind {
    List(Vec<Node>),
    Map { entries: Vec<Entry>, at: BTreeMap<String, usize>, merges: Vec<Node>, key: Option<Key> },
}

/// A key whose value is still to come.
enum Key {
    Name(Spanned<String>),
    Merge,
    /// Refused already; its value is read and dropped.
    Refused,
}

struct Build<'b, 'i> {
    places: Places,
    budget: &'b mut Budget,
    include: &'b mut Include<'i>,
    open: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    root: Option<Node>,
    /// What is wrong but does not keep the rest from being read.
    found: Vec<Diagnostic>,
}

type Fatal = Vec<Diagnostic>;

fn fatal<T>(diagnostic: Diagnostic) -> Result<T, Fatal> {
    Err(vec![diagnostic])
}

impl Build<'_, '_> {
    fn event(&mut self, event: Event<'_>, span: saphyr_parser::Span) -> Result<(), Fatal> {
        let span = self.places.span(&span.start, &span.end);
        match event {
            Event::DocumentStart(_) if self.root.is_some() => fatal(
                Diagnostic::new("recipe::yaml", "a second YAML document begins here")
                    .at(span, "")
                    .help("a recipe is one document: remove the `---`"),
            ),
            Event::Alias(id) => {
                let Some(node) = self.anchors.get(&id) else {
                    return fatal(
                        Diagnostic::new("recipe::yaml", "an alias stands inside of its own anchor").at(span, ""),
                    );
                };
                if self.open.len() + node.depth() > MAX_DEPTH {
                    return fatal(too_deep(span));
                }
                if !self.budget.take(node.weight()) {
                    return fatal(too_large(span));
                }
                let node = node.clone();
                self.add(node, span, false)
            }
            Event::Scalar(text, style, anchor, tag) => {
                if !self.budget.take(1 + text.len() / 64) {
                    return fatal(too_large(span));
                }
                let as_key = matches!(self.open.last(), Some(Open { kind: OpenKind::Map { key: None, .. }, .. }));
                if as_key {
                    // A key is its text, whatever it would be as a value.
                    let merge = style == ScalarStyle::Plain && text == "<<";
                    if anchor > 0 {
                        let node = Node { value: Value::Str(text.clone().into_owned()), span };
                        self.anchors.insert(anchor, node);
                    }
                    return self.key(text, span, merge);
                }
                let node = self.scalar(text, style, tag.as_deref(), span)?;
                if anchor > 0 {
                    self.anchors.insert(anchor, node.clone());
                }
                self.add(node, span, false)
            }
            Event::SequenceStart(anchor, tag) => {
                self.collection_tag(tag.as_deref(), "seq", span);
                self.begin(OpenKind::List(Vec::new()), anchor, span)
            }
            Event::MappingStart(anchor, tag) => {
                self.collection_tag(tag.as_deref(), "map", span);
                let kind = OpenKind::Map { entries: Vec::new(), at: BTreeMap::new(), merges: Vec::new(), key: None };
                self.begin(kind, anchor, span)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(span),
            _ => Ok(()),
        }
    }

    fn begin(&mut self, kind: OpenKind, anchor: usize, span: Span) -> Result<(), Fatal> {
        if matches!(self.open.last(), Some(Open { kind: OpenKind::Map { key: None, .. }, .. })) {
            return fatal(
                Diagnostic::new("recipe::yaml", "a list or a map cannot be a key").at(span, "").help("keys are words"),
            );
        }
        if self.open.len() >= MAX_DEPTH {
            return fatal(too_deep(span));
        }
        if !self.budget.take(1) {
            return fatal(too_large(span));
        }
        self.open.push(Open { kind, span, anchor });
        Ok(())
    }

    fn end(&mut self, end: Span) -> Result<(), Fatal> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let last = match &open.kind {
            OpenKind::List(items) => items.last().map(|node| node.span),
            OpenKind::Map { entries, .. } => entries.last().map(|entry| entry.key.span.to(entry.value.span)),
        };
        // A block ends where the next token begins, which may be lines further on: the last value says it better.
        let flow = end.end > end.start;
        let span = if flow { open.span.to(end) } else { last.map_or(open.span, |last| open.span.to(last)) };
        let value = match open.kind {
            OpenKind::List(items) => Value::List(items),
            OpenKind::Map { entries, at, merges, .. } => Value::Map(self.merge(entries, at, &merges)?),
        };
        let node = Node { value, span };
        if open.anchor > 0 {
            self.anchors.insert(open.anchor, node.clone());
        }
        self.add(node, span, true)
    }

    /// Adds what `<<` names: keys that are there already win, then the earlier map.
    fn merge(
        &mut self,
        mut entries: Vec<Entry>,
        mut at: BTreeMap<String, usize>,
        merges: &[Node],
    ) -> Result<Vec<Entry>, Fatal> {
        let wrong = |node: &Node| {
            let message = format!("`<<` takes a map or a list of maps, not {}", node.describe());
            vec![Diagnostic::new("recipe::yaml", message).at(node.span, "")]
        };
        for merge in merges {
            let maps = match &merge.value {
                Value::Map(_) => std::slice::from_ref(merge),
                Value::List(maps) => maps.as_slice(),
                _ => return Err(wrong(merge)),
            };
            for map in maps {
                for entry in map.as_map().ok_or_else(|| wrong(map))? {
                    if !at.contains_key(&entry.key.value) {
                        if !self.budget.take(1) {
                            return Err(vec![too_large(merge.span)]);
                        }
                        at.insert(entry.key.value.clone(), entries.len());
                        entries.push(entry.clone());
                    }
                }
            }
        }
        Ok(entries)
    }

    fn key(&mut self, text: Cow<'_, str>, span: Span, merge: bool) -> Result<(), Fatal> {
        let Some(Open { kind: OpenKind::Map { entries, at, key, .. }, .. }) = self.open.last_mut() else {
            return Ok(());
        };
        if merge {
            *key = Some(Key::Merge);
        } else if text.is_empty() {
            return fatal(Diagnostic::new("recipe::yaml", "a key is missing before `:`").at(span, ""));
        } else if let Some(first) = at.get(text.as_ref()) {
            self.found.push(
                Diagnostic::new("recipe::duplicate-key", format!("the key `{}` is there twice", shorten(&text)))
                    .at(span, "again here")
                    .also(entries[*first].key.span, "first here")
                    .help("remove or rename one of them"),
            );
            *key = Some(Key::Refused);
        } else {
            *key = Some(Key::Name(Spanned::new(text.into_owned(), span)));
        }
        Ok(())
    }

    /// Puts a whole node where it belongs: into the open list or map, or as the root. `span` is that of its use.
    fn add(&mut self, node: Node, span: Span, collection: bool) -> Result<(), Fatal> {
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open { kind: OpenKind::List(items), .. }) => items.push(node),
            Some(Open { kind: OpenKind::Map { entries, at, merges, key }, .. }) => match key.take() {
                Some(Key::Name(name)) => {
                    at.insert(name.value.clone(), entries.len());
                    entries.push(Entry { key: name, value: node });
                }
                Some(Key::Merge) => merges.push(node),
                Some(Key::Refused) => {}
                // An alias in the place of a key.
                None => match (collection, node.value) {
                    (false, Value::Str(text)) => return self.key(text.into(), span, false),
                    _ => {
                        return fatal(
                            Diagnostic::new("recipe::yaml", "a key must be a word").at(span, "").help("keys are words"),
                        );
                    }
                },
            },
        }
        Ok(())
    }

    fn collection_tag(&mut self, tag: Option<&Tag>, fine: &str, span: Span) {
        if let Some(tag) = tag
            && !(tag.is_yaml_core_schema() && tag.suffix == fine)
        {
            self.found.push(unknown_tag(tag, span));
        }
    }

    fn scalar(&mut self, text: Cow<'_, str>, style: ScalarStyle, tag: Option<&Tag>, span: Span) -> Result<Node, Fatal> {
        let value = match tag {
            Some(tag) if tag.handle == "!" && tag.suffix == "include" => {
                if !self.budget.take(1) {
                    return fatal(too_large(span));
                }
                return match (self.include)(&text, span, self.budget) {
                    Ok(node) if self.open.len() + node.depth() > MAX_DEPTH => fatal(too_deep(span)),
                    Ok(node) => Ok(node),
                    Err(found) => {
                        self.found.extend(found);
                        Ok(Node { value: Value::Null, span })
                    }
                };
            }
            Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => Value::Str(text.into_owned()),
            Some(tag) => {
                self.found.push(unknown_tag(tag, span));
                Value::Null
            }
            None if style == ScalarStyle::Plain => resolve(&text).unwrap_or_else(|| {
                self.found.push(
                    Diagnostic::new("recipe::number", format!("`{}` is no finite number", shorten(&text)))
                        .at(span, "")
                        .help("put it in quotes if text was meant"),
                );
                Value::Null
            }),
            None => Value::Str(text.into_owned()),
        };
        Ok(Node { value, span })
    }
}

fn too_deep(span: Span) -> Diagnostic {
    Diagnostic::new("recipe::too-deep", format!("lists and maps are nested more than {MAX_DEPTH} deep")).at(span, "")
}

fn too_large(span: Span) -> Diagnostic {
    Diagnostic::new("recipe::too-large", "the recipe is too large once its aliases and includes are unfolded")
        .at(span, "")
        .help("an alias inside of an aliased list multiplies; write such lists out, or make them a file of data")
}

fn unknown_tag(tag: &Tag, span: Span) -> Diagnostic {
    Diagnostic::new("recipe::yaml", format!("unknown tag `{}`", shorten(&tag.to_string())))
        .at(span, "")
        .help("the only tags are `!include path` and `!!str`")
}
