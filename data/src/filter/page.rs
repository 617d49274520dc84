//! A document as the rules see it: what more than one rule needs is worked out once, when the first asks.

use std::cell::OnceCell;

use unicode_segmentation::UnicodeSegmentation;
use xxhash_rust::xxh3::xxh3_64;

use super::{Flavour, spacy};

/// A text and its shared views.
pub struct Page<'a> {
    /// The text.
    pub text: &'a str,
    ascii: OnceCell<bool>,
    chars: OnceCell<u64>,
    words: [OnceCell<Words>; 3],
}

/// The words of a text in one of the three ways of splitting.
#[derive(Debug, Default)]
pub struct Words {
    /// Byte ranges, ascending, not empty.
    pub spans: Vec<(u32, u32)>,
    /// Hash of each word.
    pub hashes: Vec<u64>,
    /// Characters of each word.
    pub chars: Vec<u32>,
}

impl Words {
    /// The words as text.
    pub fn iter<'w, 't: 'w>(&'w self, text: &'t str) -> impl Iterator<Item = &'t str> + 'w {
        self.spans.iter().map(move |&(start, end)| &text[start as usize..end as usize])
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    fn push(&mut self, text: &str, word: &str, ascii: bool) {
        let start = word.as_ptr() as usize - text.as_ptr() as usize;
        self.spans.push((start as u32, (start + word.len()) as u32));
        self.hashes.push(xxh3_64(word.as_bytes()));
        self.chars.push(if ascii { word.len() } else { word.chars().count() } as u32);
    }
}

impl<'a> Page<'a> {
    /// A page of `text`; only the first 4 GiB of words are told apart.
    pub fn new(text: &'a str) -> Self {
        Page { text, ascii: OnceCell::new(), chars: OnceCell::new(), words: Default::default() }
    }

    /// Whether all is ASCII.
    pub fn ascii(&self) -> bool {
        *self.ascii.get_or_init(|| self.text.is_ascii())
    }

    /// Characters (code points).
    pub fn chars(&self) -> u64 {
        let count = || if self.ascii() { self.text.len() as u64 } else { self.text.chars().count() as u64 };
        *self.chars.get_or_init(count)
    }

    /// Words as the program splits them that `flavour` follows: spaCy's English rules, Unicode words (UAX 29), or at white space.
    pub fn words(&self, flavour: Flavour) -> &Words {
        self.words[flavour as usize].get_or_init(|| {
            let ascii = self.ascii();
            let mut words = Words::default();
            match flavour {
                Flavour::Datatrove => spacy::split(self.text, &mut |word| words.push(self.text, word, ascii)),
                Flavour::Dclm => self.text.unicode_words().for_each(|word| words.push(self.text, word, ascii)),
                Flavour::Dolma if ascii => {
                    self.text.split_ascii_whitespace().for_each(|word| words.push(self.text, word, true));
                }
                Flavour::Dolma => self.text.split_whitespace().for_each(|word| words.push(self.text, word, false)),
            }
            words
        })
    }
}
