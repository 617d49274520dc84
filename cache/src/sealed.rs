//! What the store believes without another look ends with the BLAKE3 of what stands before it: a flipped bit may leave a digest that
//! reads well and is wrong.

use crate::digest::BlobDigest;

/// How a kind of file carries its check: what stands before it and after it.
#[derive(Clone, Copy, Debug)]
pub struct Seal {
    before: &'static str,
    after: &'static str,
}

impl Seal {
    /// The last line.
    pub const LINE: Self = Self { before: "check ", after: "\n" };
    /// The last member of a JSON object, which it closes.
    pub(crate) const MEMBER: Self = Self { before: ",\n  \"check\": \"", after: "\"\n}\n" };

    /// `text` with its check.
    pub fn seal(self, mut text: String) -> String {
        text += &self.end_of(text.as_bytes());
        text
    }

    /// What was sealed; nothing where it is not what it was.
    pub fn unseal(self, bytes: &[u8]) -> Option<&str> {
        let end = self.before.len() + 2 * blake3::OUT_LEN + self.after.len();
        let (text, check) = bytes.split_at_checked(bytes.len().checked_sub(end)?)?;
        (*check == *self.end_of(text).as_bytes()).then(|| std::str::from_utf8(text).ok()).flatten()
    }

    fn end_of(self, text: &[u8]) -> String {
        format!("{}{}{}", self.before, BlobDigest::of(text), self.after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flipped_bit_is_believed() {
        let text = "head\na line\n";
        let (seal, unseal) = (|text| Seal::LINE.seal(text), |bytes: &[u8]| Seal::LINE.unseal(bytes).map(str::to_owned));
        let sealed = seal(text.to_owned());
        assert_eq!(unseal(sealed.as_bytes()).as_deref(), Some(text));
        for bit in 0..8 * sealed.len() {
            let mut flipped = sealed.clone().into_bytes();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(unseal(&flipped), None, "bit {bit}");
        }
        assert!((0..sealed.len()).all(|end| unseal(&sealed.as_bytes()[..end]).is_none()));
        assert_eq!(unseal(seal(String::new()).as_bytes()), Some(String::new()));
    }
}
