//! Training instances of one length, cut from the stream of all documents.
//!
//! ```text
//! tokens     d d d d ∎ e e ∎ f f f f f f ∎        (∎ = end of document), seq = 4
//! instance 0 [d d d d ∎]
//! instance 1         [∎ e e ∎ f]
//! instance 2                 [f f f f f]
//! ```
//! Instances are `seq + 1` tokens long and start every `seq` tokens: each token but the first is a target exactly once.
//! What is left at the end, shorter than an instance, is not used. Documents are cut where they fall, as `FlexOlmo`'s
//! own training does; nothing is padded and no loss is masked.

use std::ops::Range;

/// How many instances of `seq + 1` tokens a stream of `tokens` tokens gives.
pub fn instances(tokens: u64, seq: usize) -> u64 {
    match seq as u64 {
        0 => 0,
        seq => tokens.saturating_sub(1) / seq,
    }
}

/// The tokens of instance `index`; `None` when there are not so many.
pub fn instance(tokens: u64, seq: usize, index: u64) -> Option<Range<u64>> {
    if index >= instances(tokens, seq) {
        return None;
    }
    let start = index * seq as u64;
    Some(start..start + seq as u64 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn short_streams_give_nothing() {
        assert_eq!(instances(0, 4), 0);
        assert_eq!(instances(4, 4), 0);
        assert_eq!(instances(5, 4), 1);
        assert_eq!(instances(100, 0), 0);
        assert_eq!(instance(8, 4, 1), None);
        assert_eq!(instance(9, 4, 1), Some(4..9));
        assert_eq!(instances(u64::MAX, 1), u64::MAX - 1);
    }

    proptest! {
        #[test]
        fn each_token_is_a_target_once(tokens in 0u64..500, seq in 1usize..40) {
            let mut next_target = 1;
            for index in 0..instances(tokens, seq) {
                let range = instance(tokens, seq, index).unwrap();
                prop_assert_eq!(range.start + 1, next_target);
                prop_assert!(range.end <= tokens);
                next_target = range.end;
            }
            prop_assert!(tokens.saturating_sub(next_target) < seq as u64);
        }
    }
}
