//! Which of four continuations belongs to a text: a task that any domain has, without anybody writing questions.
//!
//! ```text
//! document   … [      context      ][ continuation ] …          the right choice
//! others     …                      [ cut the same way ] …      three wrong ones, from other documents of the domain
//! ```
//! Wrong choices are real text of the same domain and of about the same length, so neither length nor style gives the
//! answer away. Answers stand equally often at each place. The same documents in another order give the same items.

use super::{Bootstrap, Interval};
use crate::permute::Permutation;
use crate::random::Stream;
use crate::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How far a cut may move to find whitespace, in bytes. Text without spaces is cut between letters.
const REACH: usize = 64;

/// Draws of a wrong choice for each that is needed, before a place is given up.
const TRIES: u64 = 32;

/// What items look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClozeParams {
    /// Items at most; less text gives fewer.
    pub items: usize,
    /// Bytes of a context, about; a document's beginning has less.
    pub context_bytes: usize,
    /// Bytes of a continuation at most; at least three quarters of it.
    pub continuation_bytes: usize,
    /// Choices of an item, the right one included.
    pub choices: usize,
    /// Chooses places, wrong choices and the order of choices.
    pub seed: u64,
}

impl Default for ClozeParams {
    fn default() -> Self {
        Self { items: 200, context_bytes: 400, continuation_bytes: 80, choices: 4, seed: 0 }
    }
}

/// The most choices of an item: each is read for every item, and a right answer by chance is rare long before.
const MOST_CHOICES: usize = 1000;
/// The most bytes of a context or a continuation: no model sees as many at once.
const MOST_BYTES: usize = 64 << 20;

impl ClozeParams {
    /// Checks the sizes.
    ///
    /// # Errors
    /// [`Error::Parameter`] with the name of the first that is out of its range.
    pub fn validate(&self) -> Result<()> {
        let Self { items, context_bytes, continuation_bytes, choices, seed: _ } = *self;
        let wrong = |name: &str, reason: String| Err(Error::Parameter { name: name.into(), reason });
        for (name, value, least) in
            [("items", items, 1), ("context_bytes", context_bytes, 1), ("continuation_bytes", continuation_bytes, 8)]
        {
            if value < least {
                return wrong(name, format!("is {value}; it must be at least {least}"));
            }
        }
        for (name, value) in [("context_bytes", context_bytes), ("continuation_bytes", continuation_bytes)] {
            if value > MOST_BYTES {
                return wrong(name, format!("is {value}; it must be at most {MOST_BYTES}"));
            }
        }
        if !(2..=MOST_CHOICES).contains(&choices) {
            return wrong("choices", format!("is {choices}; it must be from 2 to {MOST_CHOICES}"));
        }
        Ok(())
    }
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// Place of the right choice.
    pub answer: usize,
    /// Continuations; each begins with the whitespace that parts it from the context, where there is any.
    pub choices: Vec<String>,
    /// The text before.
    pub context: String,
    /// The document's id, `@`, and the byte at which the continuation begins.
    pub id: String,
}

/// The items of a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Items {
    /// The questions.
    pub items: Vec<Item>,
    /// Whether there were too few documents, so that wrong choices may come from far away in the same document: then
    /// they are harder to tell from the right one, and accuracies do not compare with those of other domains.
    pub from_same_documents: bool,
}

/// A place in a document, cut.
struct Cut<'a> {
    at: usize,
    context: &'a str,
    continuation: &'a str,
}

/// Makes items from the (id, text) of held-out documents.
///
/// # Errors
/// [`Error::Parameter`] for params that [`ClozeParams::validate`] refuses; [`Error::Evaluation`] when the text gives no item.
pub fn items<I: AsRef<str>, T: AsRef<str>>(documents: &[(I, T)], params: &ClozeParams) -> Result<Items> {
    let ClozeParams { items: wanted, context_bytes, continuation_bytes, choices, seed } = *params;
    params.validate()?;
    let mut usable: Vec<(&str, &str)> = documents.iter().map(|(id, text)| (id.as_ref(), text.as_ref())).collect();
    usable.retain(|(_, text)| text.len() >= 2 * continuation_bytes);
    usable.sort_unstable();
    let from_same_documents = usable.len() < choices;

    let count = usable.len() as u64;
    let seeds = Stream::new(seed);
    let order = Permutation::from_stream(count, seeds.derive(0));
    // A document gives a second item only when every document was asked for a first.
    let capacity = |text: &str| (text.len() / (context_bytes + continuation_bytes)).max(1) as u64;
    let rounds = usable.iter().map(|(_, text)| capacity(text)).max().unwrap_or(0);
    let places = (0..rounds).flat_map(|round| (0..count).map(move |nth| (round, nth)));
    let mut made = Vec::new();
    for (round, nth) in places {
        if made.len() == wanted {
            break;
        }
        let document = order.at(nth).unwrap_or(nth) as usize;
        let (id, text) = usable[document];
        if round >= capacity(text) {
            continue;
        }
        let draws = seeds.derive(1).derive(document as u64).derive(round);
        let (first, room) = room(text, params);
        let slot = room as u64 / capacity(text);
        let at = first as u64 + round * slot + draws.below(0, slot / 2 + 1);
        let Some(right) = cut(text, at as usize, params) else { continue };
        let Some(wrong) = wrong_choices(&usable, document, &right, from_same_documents, draws, params) else {
            continue;
        };
        // Every block of as many items as choices has the answer at each place once, in an order of its own.
        let block = seeds.derive(2).derive((made.len() / choices) as u64);
        let answer =
            Permutation::from_stream(choices as u64, block).at((made.len() % choices) as u64).unwrap_or(0) as usize;
        let mut choices: Vec<String> = wrong.into_iter().map(String::from).collect();
        choices.insert(answer, right.continuation.to_owned());
        made.push(Item { answer, choices, context: right.context.to_owned(), id: format!("{id}@{}", right.at) });
    }
    if made.is_empty() {
        let reason = format!(
            "{} document{}, {count} of them with at least {} bytes, give no item; give more held-out text, or lower \
             `continuation_bytes` or `choices`",
            documents.len(),
            if documents.len() == 1 { "" } else { "s" },
            2 * continuation_bytes
        );
        return Err(Error::Evaluation { measure: "cloze", reason });
    }
    Ok(Items { items: made, from_same_documents })
}

/// The first byte at which a continuation may begin, and how many bytes there are to choose from. A context is at least
/// as long as a continuation.
fn room(text: &str, params: &ClozeParams) -> (usize, usize) {
    (params.continuation_bytes, text.len().saturating_sub(2 * params.continuation_bytes) + 1)
}

/// Continuations from elsewhere, all different; `None` when there are not enough.
fn wrong_choices<'a>(
    documents: &[(&str, &'a str)],
    own: usize,
    right: &Cut<'a>,
    from_same_documents: bool,
    draws: Stream,
    params: &ClozeParams,
) -> Option<Vec<&'a str>> {
    let needed = params.choices - 1;
    let count = documents.len() as u64;
    let order = Permutation::from_stream(count, draws.derive(1));
    let mut wrong: Vec<&str> = Vec::with_capacity(needed);
    // With enough documents each is used once at most, so that no two choices are alike in what they speak of.
    let tries = if from_same_documents { TRIES * needed as u64 } else { count.min(TRIES * needed as u64) };
    for attempt in 0..tries {
        if wrong.len() == needed {
            break;
        }
        let other = order.at(attempt % count)? as usize;
        if other == own && !from_same_documents {
            continue;
        }
        let text = documents[other].1;
        let (first, room) = room(text, params);
        let Some(cut) = cut(text, first + draws.derive(2).below(attempt, room as u64) as usize, params) else {
            continue;
        };
        let near = other == own && cut.at.abs_diff(right.at) < params.context_bytes + params.continuation_bytes;
        let same = |other: &str| other.split_whitespace().eq(cut.continuation.split_whitespace());
        if !near && !same(right.continuation) && !wrong.iter().any(|other| same(other)) {
            wrong.push(cut.continuation);
        }
    }
    (wrong.len() == needed).then_some(wrong)
}

/// Cuts a text at about byte `at`: between a word and the whitespace after it, within [`REACH`], else between letters.
fn cut<'a>(text: &'a str, at: usize, params: &ClozeParams) -> Option<Cut<'a>> {
    let at = text.floor_char_boundary(at);
    let at = word_ends(text, at..at + REACH).next().unwrap_or(at);
    let limit = at + params.continuation_bytes;
    let least = at + params.continuation_bytes * 3 / 4;
    let end = word_ends(text, least..limit + 1).last().unwrap_or_else(|| text.floor_char_boundary(limit));
    let continuation = text.get(at..end)?.trim_end();
    if continuation.trim_start().len() < params.continuation_bytes / 2 || at + continuation.len() < least {
        return None;
    }
    let from = text.floor_char_boundary(at.saturating_sub(params.context_bytes));
    // A context begins with a whole word.
    let from = match from {
        0 => 0,
        from => word_ends(text, from..(from + REACH).min(at)).next().unwrap_or(from),
    };
    let context = text.get(from..at)?.trim_start();
    (!context.trim_end().is_empty()).then_some(Cut { at, context, continuation })
}

/// Bytes within `range` that follow a word: whitespace stands there, or the text ends, and none stands before.
fn word_ends(text: &str, range: std::ops::Range<usize>) -> impl Iterator<Item = usize> + '_ {
    let from = text.floor_char_boundary(range.start);
    let rest = text.get(from..).unwrap_or_default();
    let before_space = text.get(..from).and_then(|text| text.chars().next_back()).is_none_or(char::is_whitespace);
    let letters = rest.char_indices().map(|(at, letter)| (at, letter.is_whitespace())).chain([(rest.len(), true)]);
    letters
        .scan(before_space, |before_space, (at, space)| Some((at, space && !std::mem::replace(before_space, space))))
        .map(move |(at, ends)| (from + at, ends))
        .take_while(move |&(at, _)| at < range.end)
        .filter(move |&(at, ends)| ends && at >= range.start)
        .map(|(at, _)| at)
}

/// The choice with the highest log-probability a byte; the first of equals. `log_probs` are sums over each choice.
///
/// # Errors
/// [`Error::Evaluation`] unless there is one number, not NaN, for each choice.
pub fn choose(item: &Item, log_probs: &[f64]) -> Result<usize> {
    if log_probs.len() != item.choices.len() || log_probs.iter().any(|log_prob| log_prob.is_nan()) {
        let reason = format!("item `{}` has {} choices and scores {log_probs:?}", item.id, item.choices.len());
        return Err(Error::Evaluation { measure: "cloze", reason });
    }
    let per_byte = log_probs.iter().zip(&item.choices).map(|(log_prob, choice)| log_prob / choice.len().max(1) as f64);
    Ok(first_best(per_byte))
}

/// Index of the largest value, the first of equals; 0 of none.
pub fn first_best(values: impl Iterator<Item = f64>) -> usize {
    let best = values.enumerate().reduce(|best, next| if next.1 > best.1 { next } else { best });
    best.map_or(0, |(index, _)| index)
}

/// 1 for each item that was answered right, else 0.
///
/// # Errors
/// As [`choose`]; also unless there are scores for each item.
pub fn correct(items: &[Item], log_probs: &[Vec<f64>]) -> Result<Vec<f64>> {
    if items.len() != log_probs.len() {
        let reason = format!("{} items have {} scores", items.len(), log_probs.len());
        return Err(Error::Evaluation { measure: "cloze", reason });
    }
    let right =
        |(item, log_probs): (&Item, &Vec<f64>)| Ok(f64::from(u8::from(choose(item, log_probs)? == item.answer)));
    items.iter().zip(log_probs).map(right).collect()
}

/// Share of items that were answered right, with an interval over items.
///
/// # Errors
/// As [`correct`]; also without any item.
pub fn accuracy(items: &[Item], log_probs: &[Vec<f64>], bootstrap: &Bootstrap) -> Result<Interval> {
    bootstrap.mean(&correct(items, log_probs)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Documents of random words.
    fn documents(count: usize, words: usize, seed: u64) -> Vec<(String, String)> {
        let letters = |draws: Stream, word: u64| {
            let length = 2 + draws.below(word, 8);
            (0..length).map(|at| char::from(b'a' + draws.derive(word).below(at, 26) as u8)).collect::<String>()
        };
        (0..count as u64)
            .map(|document| {
                let draws = Stream::new(seed).derive(document);
                let text: Vec<String> = (0..words as u64).map(|word| letters(draws, word)).collect();
                (format!("doc-{document:03}"), text.join(if document % 3 == 0 { "\n" } else { " " }))
            })
            .collect()
    }

    fn check(documents: &[(String, String)], params: &ClozeParams, made: &Items) {
        assert!(!made.items.is_empty() && made.items.len() <= params.items);
        let mut at_place = vec![0usize; params.choices];
        for item in &made.items {
            let (id, at) = item.id.rsplit_once('@').unwrap();
            let text = &documents.iter().find(|(known, _)| known == id).unwrap().1;
            let at: usize = at.parse().unwrap();
            assert_eq!(item.choices.len(), params.choices);
            assert!(text[..at].ends_with(&item.context) && text[at..].starts_with(&item.choices[item.answer]));
            for (index, choice) in item.choices.iter().enumerate() {
                assert!(
                    choice.len() <= params.continuation_bytes && 4 * choice.len() >= 3 * params.continuation_bytes - 4
                );
                assert!(!item.choices[..index].contains(choice));
                assert_eq!(choice.trim_end(), choice);
                let elsewhere = documents.iter().any(|(other, text)| other != id && text.contains(choice.as_str()));
                assert!(index == item.answer || elsewhere || made.from_same_documents);
            }
            at_place[item.answer] += 1;
        }
        let (least, most) = (at_place.iter().min().unwrap(), at_place.iter().max().unwrap());
        assert!(most - least <= 1, "{at_place:?}");
    }

    #[test]
    fn sizes_beyond_all_sense_are_refused_and_not_counted_with() {
        let half = 1 << (usize::BITS - 1);
        for (context_bytes, continuation_bytes) in [(half, half), (usize::MAX, 8), (1, usize::MAX)] {
            let params = ClozeParams { context_bytes, continuation_bytes, ..ClozeParams::default() };
            let error = items(&documents(20, 80, 1), &params).unwrap_err();
            assert!(matches!(error, Error::Parameter { .. }), "{error}");
        }
    }

    #[test]
    fn items_are_as_promised() {
        let params = ClozeParams::default();
        let documents = documents(40, 400, 1);
        let made = items(&documents, &params).unwrap();
        assert_eq!((made.items.len(), made.from_same_documents), (200, false));
        check(&documents, &params, &made);
        let different: std::collections::BTreeSet<_> = made.items.iter().map(|item| &item.id).collect();
        assert_eq!(different.len(), 200);
        let right = &made.items[0].choices[made.items[0].answer];
        assert!(right.starts_with(char::is_whitespace) && !made.items[0].context.ends_with(char::is_whitespace));
    }

    #[test]
    fn neither_the_order_of_documents_nor_of_calls_matters() {
        let params = ClozeParams { seed: 7, ..ClozeParams::default() };
        let mut documents = documents(12, 300, 2);
        let made = items(&documents, &params).unwrap();
        documents.reverse();
        assert_eq!(items(&documents, &params).unwrap(), made);
        assert_ne!(items(&documents, &ClozeParams { seed: 8, ..params }).unwrap(), made);
    }

    #[test]
    fn a_rule_of_length_does_not_answer() {
        let documents = documents(60, 600, 3);
        let made = items(&documents, &ClozeParams { items: 400, ..ClozeParams::default() }).unwrap();
        let longest = made
            .items
            .iter()
            .filter(|item| first_best(item.choices.iter().map(|choice| choice.len() as f64)) == item.answer);
        let shortest = made
            .items
            .iter()
            .filter(|item| first_best(item.choices.iter().map(|choice| -(choice.len() as f64))) == item.answer);
        // A guess is right in 100 of 400, with a standard deviation of 8.7; ties go to the first place in both.
        let (longest, shortest) = (longest.count(), shortest.count());
        assert!((65..=135).contains(&longest) && (65..=135).contains(&shortest), "{longest} {shortest}");
    }

    #[test]
    fn few_documents_ask_far_away() {
        let params = ClozeParams::default();
        for count in 1..4 {
            let documents = documents(count, 2000, 5);
            let made = items(&documents, &params).unwrap();
            assert!(made.from_same_documents);
            check(&documents, &params, &made);
        }
    }

    #[test]
    fn too_little_text_is_said() {
        let short = [("a", "too short"), ("b", "also")];
        assert!(matches!(items(&short, &ClozeParams::default()), Err(Error::Evaluation { .. })));
        assert!(items::<&str, &str>(&[], &ClozeParams::default()).is_err());
        let same = "one and the same text ".repeat(100);
        let same: Vec<_> = (0..8).map(|id| (id.to_string(), same.clone())).collect();
        // Few different continuations exist; no item may have two equal choices.
        if let Ok(made) = items(&same, &ClozeParams::default()) {
            check(&same, &ClozeParams::default(), &made);
        }
        let one = documents(1, 60, 6);
        assert!(items(&one, &ClozeParams { choices: 40, ..ClozeParams::default() }).is_err());
        assert!(matches!(
            items(&one, &ClozeParams { choices: 1, ..ClozeParams::default() }),
            Err(Error::Parameter { .. })
        ));
    }

    #[test]
    fn the_best_a_byte_wins_and_the_first_of_equals() {
        let item = Item {
            answer: 1,
            choices: vec![" four".into(), " eight ten".into(), " nine".into()],
            context: "two".into(),
            id: "d@3".into(),
        };
        assert_eq!(choose(&item, &[-5.0, -8.0, -5.0]).unwrap(), 1);
        assert_eq!(choose(&item, &[-5.0, -10.0, -5.0]).unwrap(), 0);
        assert_eq!(choose(&item, &[f64::NEG_INFINITY, -10.0, f64::NEG_INFINITY]).unwrap(), 1);
        assert!(choose(&item, &[0.0, f64::NAN, 0.0]).is_err() && choose(&item, &[0.0]).is_err());
        let interval =
            accuracy(&[item.clone(), item], &[vec![-5.0, -8.0, -5.0], vec![-5.0, -10.0, -5.0]], &Bootstrap::default());
        let interval = interval.unwrap();
        assert_eq!((interval.low, interval.value, interval.high), (0.0, 0.5, 1.0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn any_text_is_cut_between_letters(
            texts in prop::collection::vec("[ \nab端é🦀]{0,400}", 0..7),
            continuation_bytes in 8usize..60,
            context_bytes in 1usize..100,
            seed in any::<u64>(),
        ) {
            let documents: Vec<_> = texts.into_iter().enumerate().map(|(id, text)| (id.to_string(), text)).collect();
            let params = ClozeParams { items: 20, context_bytes, continuation_bytes, choices: 3, seed };
            if let Ok(made) = items(&documents, &params) {
                check(&documents, &params, &made);
            }
        }
    }
}
