//! Texts that the store keeps for itself and believes without another look: their last line is the BLAKE3 of what stands before it, since
//! a flipped bit may leave a digest that reads well and is wrong.

use crate::digest::BlobDigest;

const WORD: &str = "check ";

/// `text`, whose last line is ended, with its check.
pub(crate) fn seal(mut text: String) -> String {
    let check = BlobDigest::of(text.as_bytes());
    text.extend([WORD, &check.to_string(), "\n"]);
    text
}

/// What was sealed; nothing where it is not what it was.
pub(crate) fn unseal(bytes: &[u8]) -> Option<&str> {
    let line = WORD.len() + 2 * blake3::OUT_LEN + 1;
    let (text, check) = bytes.split_at_checked(bytes.len().checked_sub(line)?)?;
    let whole = *check == *format!("{WORD}{}\n", BlobDigest::of(text)).as_bytes();
    whole.then(|| std::str::from_utf8(text).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flipped_bit_is_believed() {
        let text = "head\na line\n";
        let sealed = seal(text.to_owned());
        assert_eq!(unseal(sealed.as_bytes()), Some(text));
        for bit in 0..8 * sealed.len() {
            let mut flipped = sealed.clone().into_bytes();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(unseal(&flipped), None, "bit {bit}");
        }
        assert!((0..sealed.len()).all(|end| unseal(&sealed.as_bytes()[..end]).is_none()));
        assert_eq!(unseal(seal(String::new()).as_bytes()), Some(""));
    }
}
