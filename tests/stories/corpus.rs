//! Text of a few hundred short documents for each member of the tiny recipe: each speaks of other things than the others, and
//! every machine gets the same bytes.

use std::{fmt::Write as _, fs, path::Path};

/// The domains of the tiny recipe, in the order in which flow sorts them.
pub const DOMAINS: [&str; 3] = ["bread", "sea", "stars"];

/// Documents of each.
pub const DOCUMENTS: usize = 200;

/// What the public and each domain speaks of; `rail` is a domain to add later.
const WORDS: [(&str, &str); 5] = [
    (
        "public",
        "river town house people street garden market morning window letter friend winter road table story walk",
    ),
    ("bread", "flour oven yeast crust dough butter knead baker rye loaf salt rise sugar bowl proof scoring"),
    ("sea", "harbour anchor sail tide captain reef current mast lantern compass storm island gull rope cargo deck"),
    ("stars", "orbit comet nebula telescope galaxy planet eclipse photon cluster dwarf parallax spectrum quasar dust"),
    ("rail", "engine platform signal carriage points guard tunnel whistle sleeper boiler freight junction timetable"),
];

/// The documents of a member.
pub fn documents(member: &str) -> Vec<String> {
    let at = WORDS.iter().position(|(name, _)| *name == member).expect("a member that has words");
    let words: Vec<&str> = WORDS[at].1.split(' ').collect();
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ (at as u64 + 1));
    (0..DOCUMENTS).map(|_| document(&words, &mut dice)).collect()
}

fn document(words: &[&str], dice: &mut Dice) -> String {
    let mut text = String::new();
    for _ in 0..4 + dice.below(6) {
        let count = 6 + dice.below(7);
        for nth in 0..count {
            let word = words[dice.below(words.len())];
            let ending = ["", "", "s", "ing"][dice.below(4)];
            let after = if nth + 1 == count { ". " } else { " " };
            write!(text, "{word}{ending}{after}").unwrap();
        }
    }
    text.trim_end().to_owned()
}

/// Writes a member's documents below `folder`, each member in another of the formats that flow reads.
pub fn write(member: &str, folder: &Path) {
    let folder = folder.join(member);
    fs::create_dir_all(&folder).unwrap();
    let documents = documents(member);
    match member {
        "bread" => {
            for (nth, text) in documents.iter().enumerate() {
                fs::write(folder.join(format!("{nth:03}.txt")), text).unwrap();
            }
        }
        "stars" => {
            fs::write(folder.join("all.jsonl.zst"), zstd::encode_all(lines(&documents).as_bytes(), 3).unwrap())
                .unwrap();
        }
        _ => fs::write(folder.join("all.jsonl"), lines(&documents)).unwrap(),
    }
}

/// Documents as JSON lines.
pub fn lines(documents: &[String]) -> String {
    documents.iter().fold(String::new(), |all, text| all + &serde_json::json!({ "text": text }).to_string() + "\n")
}

/// Xorshift64*: the same numbers on every machine.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end as u64) as usize
    }
}
