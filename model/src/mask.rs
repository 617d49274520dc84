//! Which token sees which: a batch of equally long sequences, each a shared prefix followed by segments.
//!
//! ```text
//!   segment  0 0 0 0 1 1 1 2 2        token t sees token s  ⇔  s ≤ t  and  (segment[s] = segment[t] or segment[s] = 0)
//!            context  A     B         plain causal attention is one segment; documents of a packed instance are 1, 2, 3;
//!                                     several continuations of one context are 1, 2 behind a prefix of 0
//! ```

use crate::error::Error;
use burn::tensor::{Bool, Device, Tensor, TensorData};
use std::sync::Arc;

/// The shape of a batch and, where it is not plain causal, its segments and positions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequences {
    /// Number of sequences.
    pub batch: usize,
    /// Tokens of each.
    pub length: usize,
    /// Position of each token for `RoPE`, row-major [batch, length]; its index in the sequence where absent.
    positions: Option<Arc<[u32]>>,
    spans: Option<Arc<Spans>>,
}

/// What each token sees: the sequence's shared prefix, and from `start` to itself.
#[derive(Debug, PartialEq, Eq)]
struct Spans {
    /// Length of the prefix that all see, one a sequence.
    shared: Vec<u32>,
    /// First token of the own segment, one a token.
    start: Vec<u32>,
}

impl Sequences {
    /// `batch` sequences of `length` tokens, each token seeing all before it.
    pub fn causal(batch: usize, length: usize) -> Self {
        Self { batch, length, positions: None, spans: None }
    }

    /// The same with a segment number for each token, row-major [batch, length]: a run of 0 at the beginning of a
    /// sequence is seen by all its tokens, every other run of equal numbers sees itself.
    ///
    /// # Errors
    /// [`Error::Input`] where there are not batch · length numbers, and where one comes back after another.
    pub fn segmented(batch: usize, length: usize, segments: &[u32]) -> Result<Self, Error> {
        if segments.len() != batch * length {
            return Err(wrong_count("segments", batch * length, segments.len()));
        }
        let mut spans = Spans { shared: Vec::with_capacity(batch), start: Vec::with_capacity(segments.len()) };
        for (row, segments) in segments.chunks_exact(length.max(1)).enumerate() {
            let shared = segments.iter().take_while(|&&s| s == 0).count();
            spans.shared.push(shared as u32);
            let mut seen = std::collections::BTreeSet::from([0]);
            let mut start = 0;
            for (t, &segment) in segments.iter().enumerate() {
                if t > 0 && segment != segments[t - 1] {
                    start = t;
                }
                if t >= shared && start == t && !seen.insert(segment) {
                    let reason = format!("in sequence {row} segment {segment} begins a second time, at token {t}");
                    return Err(Error::Input { what: "segments".to_owned(), reason });
                }
                spans.start.push(start as u32);
            }
        }
        Ok(Self { batch, length, positions: None, spans: Some(Arc::new(spans)) })
    }

    /// The same with explicit positions, row-major [batch, length].
    ///
    /// # Errors
    /// [`Error::Input`] where there are not batch · length of them.
    pub fn with_positions(mut self, positions: &[u32]) -> Result<Self, Error> {
        if positions.len() != self.tokens() {
            return Err(wrong_count("positions", self.tokens(), positions.len()));
        }
        self.positions = Some(Arc::from(positions));
        Ok(self)
    }

    /// Tokens of the whole batch.
    pub fn tokens(&self) -> usize {
        self.batch * self.length
    }

    /// `RoPE` position of token `index` of the flat batch.
    pub fn position(&self, index: usize) -> usize {
        self.positions.as_ref().map_or_else(|| index % self.length, |p| p[index] as usize)
    }

    /// One more than the highest position.
    pub fn positions_end(&self) -> usize {
        self.positions.as_ref().map_or(self.length, |p| p.iter().max().map_or(0, |&m| m as usize + 1))
    }

    /// Length of the prefix of sequence `row` that all its tokens see.
    pub(crate) fn shared(&self, row: usize) -> usize {
        self.spans.as_ref().map_or(0, |s| s.shared[row] as usize)
    }

    /// First token of token `t`'s own segment in sequence `row`.
    pub(crate) fn start(&self, row: usize, t: usize) -> usize {
        self.spans.as_ref().map_or(0, |s| s.start[row * self.length + t] as usize)
    }

    /// [batch, 1, length, length], true where the query may not look at the key.
    pub(crate) fn hidden(&self, device: &Device) -> Tensor<4, Bool> {
        let l = self.length;
        let mut hidden = vec![true; self.batch * l * l];
        for row in 0..self.batch {
            for t in 0..l {
                let line = &mut hidden[(row * l + t) * l..][..l];
                line[..self.shared(row).min(t + 1)].fill(false);
                line[self.start(row, t)..=t].fill(false);
            }
        }
        Tensor::from_data(TensorData::new(hidden, [self.batch, 1, l, l]), device)
    }
}

fn wrong_count(what: &str, expected: usize, found: usize) -> Error {
    Error::Input { what: what.to_owned(), reason: format!("there are {found}, the batch has {expected} tokens") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_sees_the_prefix_and_its_own_segment() {
        let segments = [0, 0, 1, 1, 2, 5, 5, 5, 6, 6];
        let s = Sequences::segmented(2, 5, &segments).unwrap();
        let hidden: Vec<bool> = s.hidden(&Device::flex()).into_data().iter::<bool>().collect();
        for row in 0..2 {
            for t in 0..5 {
                for k in 0..5 {
                    let (a, b) = (segments[row * 5 + k], segments[row * 5 + t]);
                    let seen = k <= t && (a == b || a == 0);
                    assert_eq!(hidden[(row * 5 + t) * 5 + k], !seen, "row {row}, token {t}, key {k}");
                }
            }
        }
    }

    #[test]
    fn a_segment_that_comes_back_is_refused() {
        let reason = |segments: &[u32]| match Sequences::segmented(1, 3, segments) {
            Err(Error::Input { reason, .. }) => reason,
            other => panic!("{other:?}"),
        };
        assert_eq!(reason(&[1, 2, 1]), "in sequence 0 segment 1 begins a second time, at token 2");
        assert_eq!(reason(&[1, 0, 0]), "in sequence 0 segment 0 begins a second time, at token 1");
        assert_eq!(reason(&[1, 2]), "there are 2, the batch has 3 tokens");
    }
}
