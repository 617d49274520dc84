//! The text of a recipe as it is shown around a place: control characters spelled out, and of a line that nobody could read whole
//! only what is around the place. Line and column stay those of the text.

use miette::{MietteError, MietteSpanContents, SourceCode, SourceSpan, SpanContents};

/// A longer line is cut.
const LINE: usize = 240;
/// Characters that are kept on each side of a place in it.
const AROUND: usize = 80;

/// A text that is shown, with places in it.
pub struct Excerpt {
    name: String,
    text: String,
    /// Places in the shown text: first byte, length, column in the whole text from 0.
    places: Vec<(usize, usize, usize)>,
}

impl Excerpt {
    /// Takes a text and ranges of its bytes, each within a line.
    pub fn new(name: &str, whole: &str, ranges: &[(usize, usize)]) -> Self {
        let mut excerpt = Self { name: name.to_owned(), text: String::new(), places: vec![(0, 0, 0); ranges.len()] };
        let mut start = 0;
        for line in whole.split_inclusive('\n') {
            let end = start + line.len();
            let last = end == whole.len();
            let here: Vec<usize> = (0..ranges.len())
                .filter(|&nth| start <= ranges[nth].0 && (ranges[nth].0 < end || (last && ranges[nth].0 == end)))
                .collect();
            excerpt.line(line, start, ranges, &here);
            start = end;
        }
        excerpt
    }

    /// Where a range that was given is now: first byte and length.
    pub fn place(&self, nth: usize) -> (usize, usize) {
        self.places.get(nth).map_or((0, 0), |&(start, length, _)| (start, length))
    }

    fn line(&mut self, line: &str, start: usize, ranges: &[(usize, usize)], here: &[usize]) {
        let (body, ending) = line.strip_suffix('\n').map_or((line, ""), |body| (body, "\n"));
        let at = |byte: usize| body.floor_char_boundary(byte.saturating_sub(start).min(body.len()));
        // Places are few and in one line near each other, or else the first one counts.
        let (from, to) = match here.first() {
            _ if body.len() <= LINE => (0, body.len()),
            Some(&first) => (back(body, at(ranges[first].0)), ahead(body, at(ranges[first].0))),
            None => (0, ahead(body, 0)),
        };
        if from > 0 {
            self.text.push('…');
        }
        let mut marks = vec![(self.text.len(), from)];
        for (byte, letter) in body[from..to].char_indices() {
            if letter.is_control() && letter != '\t' {
                self.text.extend(letter.escape_default());
            } else {
                self.text.push(letter);
            }
            marks.push((self.text.len(), from + byte + letter.len_utf8()));
        }
        if to < body.len() {
            self.text.push('…');
        }
        // The shown byte of one of the line.
        let shown = |byte: usize| {
            let nth = marks.partition_point(|&(_, known)| known < byte).min(marks.len() - 1);
            marks[nth].0
        };
        for &nth in here {
            let (first, end) = (at(ranges[nth].0), at(ranges[nth].0 + ranges[nth].1));
            let place = shown(first);
            let column = body[..first].chars().count();
            self.places[nth] = (place, shown(end).saturating_sub(place).max(1), column);
        }
        self.text.push_str(ending);
    }
}

fn back(body: &str, at: usize) -> usize {
    body[..at].char_indices().rev().nth(AROUND - 1).map_or(0, |(byte, _)| byte)
}

fn ahead(body: &str, at: usize) -> usize {
    body[at..].char_indices().nth(AROUND).map_or(body.len(), |(byte, _)| at + byte)
}

impl SourceCode for Excerpt {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        before: usize,
        after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let read = self.text.read_span(span, before, after)?;
        // Without lines around it this is asked for the heading.
        let whole = self.places.iter().find(|(start, ..)| before == 0 && after == 0 && *start == span.offset());
        let column = whole.map_or(read.column(), |&(.., column)| column);
        Ok(Box::new(MietteSpanContents::new_named(
            self.name.clone(),
            read.data(),
            *read.span(),
            read.line(),
            column,
            read.line_count(),
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(whole: &str, start: usize, length: usize) -> (String, String, usize) {
        let excerpt = Excerpt::new("a.yaml", whole, &[(start, length)]);
        let (start, length) = excerpt.place(0);
        let column = excerpt.read_span(&(start, length).into(), 0, 0).unwrap().column();
        (excerpt.text.clone(), excerpt.text[start..start + length].to_owned(), column)
    }

    #[test]
    fn short_lines_stay() {
        assert_eq!(shown("a: é\nb: 2\n", 9, 1), ("a: é\nb: 2\n".into(), "2".into(), 3));
    }

    #[test]
    fn a_long_line_is_cut_around_the_place_and_keeps_its_column() {
        let line = format!("first: 1\nkey: {}WRONG{}\nlast: 1\n", "é".repeat(5000), "x".repeat(5000));
        let at = line.find("WRONG").unwrap();
        let (text, word, column) = shown(&line, at, 5);
        assert_eq!((word.as_str(), column), ("WRONG", 5005));
        assert!(text.len() < 500 && text.starts_with("first: 1\n…é") && text.ends_with("x…\nlast: 1\n"), "{text}");
        let (text, ..) = shown(&line, 0, 5);
        assert!(text.len() < 500 && text.contains("\nkey: é"), "{text}");
    }

    #[test]
    fn what_moves_a_cursor_is_spelled_out_and_the_place_stays() {
        let (text, word, column) = shown("k: \u{1b}[8m\u{1b}[2Jbad\n", 11, 3);
        assert_eq!((text.as_str(), word.as_str(), column), ("k: \\u{1b}[8m\\u{1b}[2Jbad\n", "bad", 11));
    }

    #[test]
    fn a_place_at_the_end_of_the_text_is_one() {
        for whole in ["", "a: 1", "a: 1\n"] {
            let excerpt = Excerpt::new("a.yaml", whole, &[(whole.len(), 1)]);
            assert!(excerpt.place(0).0 <= whole.len(), "{whole:?}");
        }
    }
}
