//! One document: what every source gives and every later step takes.

/// A text with where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The id that the source gives, else [`Document::derived_id`].
    pub id: String,
    /// UTF-8 text.
    pub text: String,
    /// What it belongs to: a package (`serde-1.0.228`) or a file's logical name.
    pub source: String,
    /// Domain that it was curated for; empty until then.
    pub domain: String,
    /// Where in the source: `file` or `file:line`. Logical names only, never a path of this machine.
    pub provenance: String,
}

impl Document {
    /// The id of a document whose source gives none: 128 bits of BLAKE3 over the provenance's file and the text, in hex.
    pub fn derived_id(source: &str, text: &str) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(source.len() as u64).to_le_bytes());
        hasher.update(source.as_bytes());
        hasher.update(text.as_bytes());
        hasher.finalize().to_hex()[..32].to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_depend_on_both_parts_and_on_where_they_meet() {
        let id = Document::derived_id("a", "bc");
        assert_eq!(id.len(), 32);
        assert_ne!(id, Document::derived_id("ab", "c"));
        assert_ne!(id, Document::derived_id("a", "bd"));
        assert_eq!(id, Document::derived_id("a", "bc"));
    }
}
