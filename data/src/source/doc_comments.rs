//! The prose of Rust documentation comments.
//!
//! Works on lines, not on syntax: a line that starts with `///`, `//!`, or lies inside `/** … */` or `/*! … */`. Code fences are
//! left out, since the code has a domain of its own. A string literal whose line starts with `///` is taken for a comment.

/// The comments of a file, blocks separated by an empty line; empty when there are none.
pub(super) fn extract(code: &str) -> String {
    let mut prose = Prose::default();
    let mut inside_block = false;
    for line in code.lines() {
        let line = line.trim();
        if inside_block {
            let (content, ends) = line.split_once("*/").map_or((line, false), |(content, _)| (content, true));
            let content = content.strip_prefix('*').unwrap_or(content);
            if !(ends && content.trim().is_empty()) {
                prose.line(content);
            }
            if ends {
                inside_block = false;
                prose.end_block();
            }
        } else if let Some(content) = line_comment(line) {
            prose.line(content);
        } else if let Some(content) = block_comment(line) {
            if let Some((content, _)) = content.split_once("*/") {
                prose.line(content);
                prose.end_block();
            } else {
                inside_block = true;
                if !content.trim().is_empty() {
                    prose.line(content);
                }
            }
        } else {
            prose.end_block();
        }
    }
    prose.end_block();
    prose.text
}

fn line_comment(line: &str) -> Option<&str> {
    if let Some(rest) = line.strip_prefix("///") {
        return (!rest.starts_with('/')).then_some(rest);
    }
    line.strip_prefix("//!")
}

fn block_comment(line: &str) -> Option<&str> {
    if let Some(rest) = line.strip_prefix("/**") {
        // `/***` and `/**/` are plain comments.
        return (!rest.starts_with('*') && !rest.starts_with('/')).then_some(rest);
    }
    line.strip_prefix("/*!")
}

#[derive(Default)]
struct Prose {
    text: String,
    /// Where the current block starts, once it holds a line.
    block: Option<usize>,
    fence: Option<char>,
}

impl Prose {
    fn line(&mut self, content: &str) {
        let content = content.strip_prefix(' ').unwrap_or(content).trim_end();
        let mark = content.trim_start();
        let opens = ["```", "~~~"].iter().any(|fence| mark.starts_with(fence));
        if opens {
            let mark = mark.chars().next();
            self.fence = if self.fence == mark { None } else { self.fence.or(mark) };
            return;
        }
        if self.fence.is_some() {
            return;
        }
        if self.block.is_none() {
            if content.is_empty() {
                return;
            }
            if !self.text.is_empty() {
                self.text.push('\n');
            }
            self.block = Some(self.text.len());
        }
        self.text.push_str(content);
        self.text.push('\n');
    }

    fn end_block(&mut self) {
        self.fence = None;
        if self.block.take().is_some() {
            let end = self.text.trim_end().len();
            self.text.truncate(end);
            self.text.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_stays_and_code_goes() {
        let code = "//! A crate.\n//!\n//! ```\n//! let x = 1;\n//! ```\n//! After.\nuse x;\n\n    /// Adds.\n    fn add() {} // plain\n//// no\n/** one line */\n/*!\n * two\n * lines\n */\nlet s = \"\";\n";
        assert_eq!(extract(code), "A crate.\n\nAfter.\n\nAdds.\n\none line\n\ntwo\nlines\n");
        assert_eq!(extract("fn main() {}\n"), "");
    }

    #[test]
    fn a_fence_that_never_closes_ends_with_its_block() {
        assert_eq!(extract("/// a\n/// ```\n/// code\nfn f() {}\n/// b\n"), "a\n\nb\n");
    }
}
