//! Pieces that spaCy's English rules know by heart: contractions, abbreviations, times, emoticons.

use std::{collections::BTreeMap, sync::LazyLock};

/// The pieces and where their words end.
pub(super) struct Exceptions {
    ends: BTreeMap<String, Vec<u8>>,
    /// By first byte, a bit for each length: most words are told off here.
    lengths: [u32; 256],
}

impl Exceptions {
    pub(super) fn get(&self, piece: &str) -> Option<&[u8]> {
        let first = *piece.as_bytes().first()?;
        if piece.len() >= 32 || self.lengths[first as usize] & (1 << piece.len()) == 0 {
            return None;
        }
        self.ends.get(piece).map(Vec::as_slice)
    }

    pub(super) fn contains(&self, piece: &str) -> bool {
        self.get(piece).is_some()
    }

    fn add(&mut self, words: &[&str]) {
        let piece = words.concat();
        if piece.len() >= 32 {
            return;
        }
        let mut end = 0;
        let ends = words.iter().map(|word| {
            end += word.len() as u8;
            end
        });
        self.lengths[piece.as_bytes()[0] as usize] |= 1 << piece.len();
        self.ends.insert(piece.clone(), ends.collect());
        if piece.contains('\'') {
            let curly: Vec<String> = words.iter().map(|word| word.replace('\'', "’")).collect();
            self.add(&curly.iter().map(String::as_str).collect::<Vec<_>>());
        }
    }

    /// With a capital too, unless the whole is a word of its own.
    fn add_both(&mut self, words: &[&str]) {
        let mut capital = words[0].to_string();
        capital[..1].make_ascii_uppercase();
        if NOT_CONTRACTIONS.contains(&words.concat().as_str()) {
            return;
        }
        self.add(words);
        self.add(&[&[capital.as_str()], &words[1..]].concat());
    }
}

const NOT_CONTRACTIONS: [&str; 8] = ["ill", "its", "hell", "shell", "shed", "were", "well", "whore"];

const WHOLE: &str = "' '' \\\") <space> C++ \\t \\n — 'S 's \u{2018}S \u{2018}s and/or w/o 're 'Cause 'cause 'cos 'Cos 'coz 'Coz 'cuz 'Cuz \
    'bout ma'am Ma'am o'clock O'clock lovin' Lovin' havin' Havin' doin' Doin' goin' Goin' nothin' Nothin' nuthin' Nuthin' ol' Ol' \
    somethin' Somethin' 'em 'll 'nuff 'd a.m. p.m. ä. ö. ü. \
    Mt. Ak. Ala. Apr. Ariz. Ark. Aug. Calif. Colo. Conn. Dec. Del. Feb. Fla. Ga. Ia. Id. Ill. Ind. Jan. Jul. Jun. Kan. Kans. Ky. La. \
    Mar. Mass. Mich. Minn. Miss. N.C. N.D. N.H. N.J. N.M. N.Y. Neb. Nebr. Nev. Nov. Oct. Okla. Ore. Pa. S.C. Sep. Sept. Tenn. Va. \
    Wash. Wis. Adm. Bros. co. Co. Corp. D.C. Dr. e.g. E.g. E.G. Gen. Gov. i.e. I.e. I.E. Inc. Jr. Ltd. Md. Messrs. Mo. Mont. Mr. \
    Mrs. Ms. Ph.D. Prof. Rep. Rev. Sen. St. vs. v.s.";

const EMOTICONS: &str = ":) :-) :)) :-)) :))) :-))) (: (-: =) (= \") :] :-] [: [-: :o) (o: :} :-} 8) 8-) (-8 ;) ;-) (; (-; :( :-( \
    :(( :-(( :((( :-((( ): )-: =( >:( :') :'-) :'( :'-( :/ :-/ =/ =| :| :-| :1 :P :-P :p :-p :O :-O :o :-o :0 :-0 :() >:o :* :-* \
    :3 :-3 =3 :> :-> :X :-X :x :-x :D :-D ;D ;-D =D xD XD xDD XDD 8D 8-D ^_^ ^__^ ^___^ >.< >.> <.< ._. ;_; -_- -__- v.v V.V v_v \
    V_V o_o o_O O_o O_O 0_o o_0 0_0 o.O O.o O.O o.o 0.0 o.0 0.o @_@ <3 <33 <333 </3 (^_^) (-_-) (._.) (>_<) (*_*) ><(((*>";

pub(super) fn exceptions() -> &'static Exceptions {
    static ALL: LazyLock<Exceptions> = LazyLock::new(build);
    &ALL
}

fn build() -> Exceptions {
    let mut all = Exceptions { ends: BTreeMap::new(), lengths: [0; 256] };
    for piece in WHOLE.split_whitespace().chain(EMOTICONS.split_whitespace()) {
        all.add(&[piece]);
    }
    for letter in 'a'..='z' {
        all.add(&[&format!("{letter}.")]);
    }
    for hour in 1..=12 {
        for period in ["a.m.", "am", "p.m.", "pm"] {
            all.add(&[&hour.to_string(), period]);
        }
    }
    // Every contraction is known with its apostrophe and without.
    for tail in [&["'m"][..], &["'m", "a"]] {
        contraction(&mut all, "i", tail);
    }
    let will: [&[&str]; 4] = [&["'ll"], &["'ll", "'ve"], &["'d"], &["'d", "'ve"]];
    for pronoun in ["i", "you", "he", "she", "it", "we", "they"] {
        for tail in will {
            contraction(&mut all, pronoun, tail);
        }
    }
    for (pronouns, tail) in [
        (&["i", "you", "we", "they"][..], "'ve"),
        (&["you", "we", "they"], "'re"),
        (&["he", "she", "it"], "'s"),
        (&["could", "might", "must", "should", "would"], "'ve"),
    ] {
        for pronoun in pronouns {
            contraction(&mut all, pronoun, &[tail]);
        }
    }
    for word in ["who", "what", "when", "where", "why", "how", "there", "that"] {
        for tail in will {
            contraction(&mut all, word, tail);
        }
        for tail in ["'s", "'re", "'ve"] {
            contraction(&mut all, word, &[tail]);
        }
    }
    for verb in [
        "ca", "could", "do", "does", "did", "had", "may", "might", "must", "need", "ought", "sha", "should", "wo",
        "would",
    ] {
        contraction(&mut all, verb, &["n't"]);
        contraction(&mut all, verb, &["n't", "'ve"]);
    }
    for verb in ["ai", "are", "is", "was", "were", "have", "has", "dare"] {
        contraction(&mut all, verb, &["n't"]);
    }
    contraction(&mut all, "not", &["'ve"]);
    for words in [["can", "not"], ["gon", "na"], ["got", "ta"], ["let", "'s"]] {
        all.add_both(&words);
    }
    all.add(&["y'", "all"]);
    all.add(&["y", "all"]);
    all.add_both(&["how", "'d", "'y"]);
    all
}

fn contraction(all: &mut Exceptions, head: &str, tail: &[&str]) {
    let words = |tail: &[String]| {
        let mut words = vec![head.to_string()];
        words.extend_from_slice(tail);
        words
    };
    let plain: Vec<String> = tail.iter().map(|word| word.replace('\'', "")).collect();
    let spelt: Vec<String> = tail.iter().map(|word| (*word).to_string()).collect();
    for words in [words(&spelt), words(&plain)] {
        all.add_both(&words.iter().map(String::as_str).collect::<Vec<_>>());
    }
}
