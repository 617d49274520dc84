//! Reads a recipe file and what it includes. The only module of the language that touches the disk, and only to read.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::diagnostic::{Diagnostic, SourceMap, Span};
use super::node::{Node, shorten};
use super::yaml::{self, Budget, MAX_FILE, MAX_WEIGHT, NoText};

/// The longest chain of files that include each other.
const MAX_CHAIN: usize = 16;
/// The most files of one recipe.
const MAX_FILES: usize = 256;
/// The most text of one recipe, in bytes.
const MAX_TEXT: usize = 16 << 20;

/// A file that is being read, for the chain in a message.
struct Link {
    /// Without symbolic links, so that no spelling hides a cycle.
    canonical: PathBuf,
    name: String,
}

/// Reads files into a source map.
pub(super) struct Loader {
    pub(super) sources: SourceMap,
    text: usize,
    chain: Vec<Link>,
}

impl Loader {
    pub(super) fn new() -> Self {
        Loader { sources: SourceMap::default(), text: 0, chain: Vec::new() }
    }

    /// Reads the recipe's own file.
    pub(super) fn read(&mut self, path: &Path) -> Result<Node, Vec<Diagnostic>> {
        let name = path.display().to_string();
        self.file(path, name.clone(), &mut Budget::new(MAX_WEIGHT)).map_err(|failed| match failed {
            Failed::Inside(found) => found,
            Failed::File { why, help, at } => {
                let message = format!("cannot read the recipe `{name}`: {why}");
                let label = at.map(|span| (span, String::new()));
                vec![Diagnostic { label, help, ..Diagnostic::new("recipe::read", message) }]
            }
        })
    }

    /// Reads a recipe from memory.
    pub(super) fn read_text(&mut self, name: &str, text: &str) -> Result<Node, Vec<Diagnostic>> {
        if text.len() > MAX_FILE {
            return Err(vec![Diagnostic::new("recipe::too-large", too_long(name))]);
        }
        let file = self.sources.add(name, text);
        yaml::parse(file, text, 0, &mut Budget::new(MAX_WEIGHT), &mut |_, span, _| {
            Err(vec![Diagnostic::new("recipe::include", "a recipe that is no file cannot include one").at(span, "")])
        })
    }

    fn file(&mut self, path: &Path, name: String, budget: &mut Budget) -> Result<Node, Failed> {
        let failed = |why: String| Failed::File { why, help: None, at: None };
        let io = |error: &std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => failed("there is no such file".into()),
            kind => failed(kind.to_string()),
        };
        let found = fs_err::metadata(path).map_err(|error| io(&error))?;
        // Asked before opening: a pipe would block.
        if !found.is_file() {
            return Err(failed("it is not a file".into()));
        }
        if found.len() > MAX_FILE as u64 || self.text + found.len() as usize > MAX_TEXT {
            return Err(failed(too_long("it")));
        }
        if self.sources.files().len() >= MAX_FILES {
            return Err(failed(format!("the recipe includes more than {MAX_FILES} files")));
        }
        let canonical = fs_err::canonicalize(path).map_err(|error| io(&error))?;
        if let Some(first) = self.chain.iter().position(|link| link.canonical == canonical) {
            let mut names: Vec<&str> = self.chain[first..].iter().map(|link| link.name.as_str()).collect();
            names.push(&name);
            return Err(Failed::File {
                why: format!("the files include each other: {}", names.join(" → ")),
                help: Some("break the cycle by moving what both need into a third file".into()),
                at: None,
            });
        }
        if self.chain.len() >= MAX_CHAIN {
            return Err(failed(format!("files are included more than {MAX_CHAIN} deep")));
        }
        let mut bytes = Vec::new();
        let opened = fs_err::File::open(path).map_err(|error| io(&error))?;
        opened.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes).map_err(|error| io(&error))?;
        let text = yaml::text_of(&bytes).map_err(|NoText { why, valid }| Failed::File {
            why,
            help: None,
            at: valid.map(|valid| self.first_broken(&name, &bytes, valid)),
        })?;
        self.text += text.len();
        let file = self.sources.add(name.clone(), text);
        self.chain.push(Link { canonical, name });
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let node =
            yaml::parse(file, text, 0, budget, &mut |target, span, budget| self.include(&folder, target, span, budget));
        self.chain.pop();
        node.map_err(Failed::Inside)
    }

    /// The place where the bytes of a file are text no more, after so many that are.
    fn first_broken(&mut self, name: &str, bytes: &[u8], valid: usize) -> Span {
        // With a sign for what is none, so that the line can be shown.
        let text = String::from_utf8_lossy(bytes);
        let before = text.get(..valid).unwrap_or_default();
        let (line, start) = (before.matches('\n').count() + 1, before.rfind('\n').map_or(0, |end| end + 1));
        let col = before[start..].chars().count() + 1;
        let end = valid + char::REPLACEMENT_CHARACTER.len_utf8();
        let file = self.sources.add(name, text.as_ref());
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Span { file, start: number(valid), end: number(end), line: number(line), col: number(col) }
    }

    fn include(
        &mut self,
        folder: &Path,
        target: &str,
        span: Span,
        budget: &mut Budget,
    ) -> Result<Node, Vec<Diagnostic>> {
        if target.is_empty() || target.contains('\0') {
            return Err(vec![
                Diagnostic::new("recipe::include", "`!include` needs a path")
                    .at(span, "")
                    .help("write `!include folder/file.yaml`"),
            ]);
        }
        let path = folder.join(target);
        let name = path.display().to_string();
        self.file(&path, name.clone(), budget).map_err(|failed| match failed {
            Failed::Inside(found) => found,
            Failed::File { why, help, at: _ } => {
                let message = format!("cannot include `{}`: {why}", shorten(target));
                let help = help.unwrap_or_else(|| format!("the path is relative to this file: `{name}`"));
                vec![Diagnostic::new("recipe::include", message).at(span, "included here").help(help)]
            }
        })
    }
}

/// The text of a file of a recipe, where it can be read as one.
pub fn text_of_file(path: &Path) -> Option<String> {
    // Asked before opening: a pipe would block.
    let found = fs_err::metadata(path).ok().filter(|found| found.is_file() && found.len() <= MAX_FILE as u64)?;
    let mut bytes = Vec::with_capacity(found.len() as usize);
    fs_err::File::open(path).ok()?.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes).ok()?;
    yaml::text_of(&bytes).ok().map(str::to_owned)
}

/// Why a file gave no tree.
enum Failed {
    /// Its text is wrong.
    Inside(Vec<Diagnostic>),
    /// It cannot be read at all; the place where that was found, if it is one in the file.
    File { why: String, help: Option<String>, at: Option<Span> },
}

fn too_long(name: &str) -> String {
    format!("{name} is larger than {} MiB", MAX_FILE >> 20)
}
