//! Long texts, cut to what a model can see at once.

use crate::{Error, Result};
use std::ops::Range;

/// Tokens to feed, and which of them to score.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    /// At most `seq + 1`: inputs are all but the last, targets all but the first.
    pub tokens: Vec<u32>,
    /// Places in `tokens` whose log-probability counts, each given all before it; never place 0.
    pub scored: Range<usize>,
}

/// Cuts a text so that each of its tokens is scored exactly once; the first is conditioned on `eos`, as it was in
/// training, where the end of another document stood before it.
///
/// With `stride == seq` (the cheapest) windows do not overlap: the first target of a window sees only the token before
/// it. A smaller stride carries at least `seq - stride` tokens of context into each window, at `seq / stride` times the
/// cost. `tokens` are those of the text alone, without an end token.
///
/// # Errors
/// [`Error::Parameter`] unless `1 <= stride <= seq`.
pub fn windows(tokens: &[u32], eos: u32, seq: usize, stride: usize) -> Result<Vec<Window>> {
    if stride == 0 || stride > seq {
        let reason = format!("is {stride}; it must be from 1 to {seq}, the length of a window");
        return Err(Error::Parameter { name: "stride".into(), reason });
    }
    let stream: Vec<u32> = std::iter::once(eos).chain(tokens.iter().copied()).collect();
    let mut windows = Vec::new();
    let mut scored_to = 1;
    while scored_to < stream.len() {
        let step = if windows.is_empty() { seq } else { stride };
        let end = stream.len().min(scored_to + step);
        let start = end.saturating_sub(seq + 1);
        windows.push(Window { tokens: stream[start..end].to_vec(), scored: scored_to - start..end - start });
        scored_to = end;
    }
    // Only the last window could reach further back than its share; without overlap it must not, or its tokens would
    // see more than those of other windows.
    if stride == seq
        && let Some(last) = windows.last_mut()
    {
        let surplus = last.scored.start - 1;
        last.tokens.drain(..surplus);
        last.scored = 1..last.tokens.len();
    }
    Ok(windows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_text_is_cut_at_seq() {
        let window = |tokens: &[u32]| Window { tokens: tokens.to_vec(), scored: 1..tokens.len() };
        assert_eq!(windows(&[], 0, 4, 4).unwrap(), []);
        assert_eq!(windows(&[1, 2], 0, 4, 4).unwrap(), [window(&[0, 1, 2])]);
        assert_eq!(windows(&[1, 2, 3, 4], 0, 4, 4).unwrap(), [window(&[0, 1, 2, 3, 4])]);
        assert_eq!(windows(&[1, 2, 3, 4, 5], 0, 4, 4).unwrap(), [window(&[0, 1, 2, 3, 4]), window(&[4, 5])]);
        let overlapping = windows(&[1, 2, 3, 4, 5, 6], 0, 4, 1).unwrap();
        assert_eq!(overlapping[1], Window { tokens: vec![1, 2, 3, 4, 5], scored: 4..5 });
        assert!(windows(&[1], 0, 4, 0).is_err() && windows(&[1], 0, 4, 5).is_err());
    }

    proptest! {
        #[test]
        fn each_token_is_scored_once(len in 0u32..200, seq in 1usize..40, stride in 1usize..40) {
            let stride = stride.min(seq);
            let text: Vec<u32> = (1..=len).collect();
            let windows = windows(&text, 0, seq, stride).unwrap();
            let mut scored = Vec::new();
            for (index, window) in windows.iter().enumerate() {
                prop_assert!(window.tokens.len() <= seq + 1 && window.scored.start >= 1);
                prop_assert_eq!(window.scored.end, window.tokens.len());
                prop_assert!(window.tokens.windows(2).all(|two| two[1] == two[0] + 1));
                prop_assert!(index == 0 || stride == seq || window.scored.start > seq - stride);
                scored.extend_from_slice(&window.tokens[window.scored.clone()]);
            }
            prop_assert_eq!(scored, text);
        }
    }
}
