//! A context and a continuation to score, encoded as lm-evaluation-harness does, so that numbers can be compared.
//!
//! Whitespace at the end of the context moves to the front of the continuation (tokens carry their space in front); the
//! continuation's tokens are those of both together after as many as the context alone has.

use super::windows::Window;
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// Tokens of a context and a continuation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// Tokens of the context alone; eos where it is empty.
    pub context: Vec<u32>,
    /// Tokens to score.
    pub continuation: Vec<u32>,
}

/// Encodes one pair.
///
/// # Errors
/// [`Error::Tokenizer`].
pub fn encode(tokenizer: &Tokenizer, context: &str, continuation: &str) -> Result<Pair> {
    let kept = context.trim_end_matches(is_python_space);
    let whole = tokenizer.encode(&format!("{context}{continuation}"))?;
    let mut context = tokenizer.encode(kept)?;
    // Where the border is merged away the context alone may even have more tokens than both.
    let continuation = whole.get(context.len()..).unwrap_or_default().to_vec();
    if context.is_empty() {
        context.push(tokenizer.eos());
    }
    Ok(Pair { context, continuation })
}

impl Pair {
    /// What to feed a model that sees `max_length` inputs: cut from the left, as lm-evaluation-harness does.
    ///
    /// # Errors
    /// [`Error::Evaluation`] when the continuation is empty or alone longer than `max_length`.
    pub fn window(&self, max_length: usize) -> Result<Window> {
        if self.continuation.is_empty() || self.continuation.len() > max_length {
            let reason = format!("a continuation of {} tokens for {max_length} inputs", self.continuation.len());
            return Err(Error::Evaluation { measure: "a continuation", reason });
        }
        let surplus = (self.context.len() + self.continuation.len()).saturating_sub(max_length + 1);
        let tokens = [&self.context[surplus.min(self.context.len())..], &self.continuation].concat();
        Ok(Window { scored: tokens.len() - self.continuation.len()..tokens.len(), tokens })
    }

    /// Whether [`Pair::window`] cuts anything off.
    pub fn is_truncated(&self, max_length: usize) -> bool {
        self.context.len() + self.continuation.len() > max_length + 1
    }
}

/// What Python's `str.rstrip` takes off: Unicode's `White_Space`, and four separators that it lacks.
fn is_python_space(letter: char) -> bool {
    letter.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&letter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::cloze::first_best;
    use std::path::Path;

    #[test]
    fn windows_are_cut_from_the_left() {
        let pair = Pair { context: vec![1, 2, 3], continuation: vec![4, 5] };
        assert_eq!(pair.window(4).unwrap(), Window { tokens: vec![1, 2, 3, 4, 5], scored: 3..5 });
        assert_eq!(pair.window(3).unwrap(), Window { tokens: vec![2, 3, 4, 5], scored: 2..4 });
        assert_eq!(pair.window(2).unwrap(), Window { tokens: vec![3, 4, 5], scored: 1..3 });
        assert!(pair.window(1).is_err());
        assert!(pair.is_truncated(3) && !pair.is_truncated(4));
        assert!(Pair { context: vec![1], continuation: vec![] }.window(4).is_err());
    }

    /// Every request of the reference case: token counts of contexts and continuations, what is cut, and the choices
    /// that follow from its scores.
    #[test]
    fn pairs_are_those_of_the_reference() {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/reference/evaluation"));
        if !folder.is_dir() {
            println!("skipped: {} is not there", folder.display());
            return;
        }
        let tokenizer = Tokenizer::from_file(folder).unwrap();
        assert_eq!((tokenizer.eos(), tokenizer.pad(), tokenizer.vocab_size()), (0, 0, 1024));
        let lines = |name: &str| -> Vec<serde_json::Value> {
            let text = fs_err::read_to_string(folder.join(name)).unwrap();
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        };
        let (requests, expected) = (lines("requests.jsonl"), lines("expected.jsonl"));
        assert_eq!(requests.len(), expected.len());
        let mut seen = 0;
        for (request, expected) in requests.iter().zip(&expected) {
            let place = format!("{} {}", request["task"], request["doc_id"]);
            let max_length = request["max_length"].as_u64().unwrap() as usize;
            for (index, continuation) in request["continuations"].as_array().unwrap().iter().enumerate() {
                let continuation = continuation.as_str().unwrap();
                let pair = encode(&tokenizer, request["context"].as_str().unwrap(), continuation).unwrap();
                assert_eq!(pair.continuation.len() as u64, expected["num_tokens"][index], "{place}");
                assert_eq!(continuation.chars().count() as u64, expected["num_chars"][index], "{place}");
                assert_eq!(pair.is_truncated(max_length), expected["truncated"][index], "{place}");
                let window = pair.window(max_length).unwrap();
                assert_eq!(window.scored.len(), pair.continuation.len());
                assert_eq!(pair.context.len() as u64, expected["ctx_tokens"][index], "{place}");
                seen += 1;
            }
            let numbers = |name: &str| -> Vec<f64> {
                expected[name].as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
            };
            let (sums, tokens, letters) = (numbers("sum_logits"), numbers("num_tokens"), numbers("num_chars"));
            let per =
                |counts: &[f64]| first_best(sums.iter().zip(counts).map(|(sum, count)| sum / count.max(1.0))) as u64;
            assert_eq!(first_best(sums.iter().copied()) as u64, expected["pred"]["acc_raw"], "{place}");
            assert_eq!(per(&tokens), expected["pred"]["acc_per_token"], "{place}");
            assert_eq!(per(&letters), expected["pred"]["acc_per_char"], "{place}");
        }
        assert!(seen > 1000, "{seen}");
    }
}
