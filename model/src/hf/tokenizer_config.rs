//! `tokenizer_config.json`: by it transformers' `AutoTokenizer` knows what reads `tokenizer.json`, and which tokens end and fill a text.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::config::ModelConfig;
use crate::error::Result;
use crate::json;

/// The file.
pub(super) const FILE: &str = "tokenizer_config.json";

/// Writes the settings of `tokenizer`, a `tokenizer.json`, into `folder`.
///
/// # Errors
/// [`crate::Error::Io`] and [`crate::Error::Json`].
pub(super) fn write(folder: &Path, config: &ModelConfig, tokenizer: &Path) -> Result<()> {
    json::write(&folder.join(FILE), &settings(config, &json::read(tokenizer)?))
}

fn settings(config: &ModelConfig, tokenizer: &Value) -> Value {
    let mut settings = Map::new();
    // The class that takes `tokenizer.json` as it is; the one of the architecture would build its own from parts of it.
    settings.insert("tokenizer_class".into(), json!("PreTrainedTokenizerFast"));
    // To decode is to get the text back, space for space.
    settings.insert("clean_up_tokenization_spaces".into(), json!(false));
    settings.insert("model_max_length".into(), json!(config.max_positions));
    for (key, id) in [("eos_token", Some(config.eos_token_id)), ("pad_token", config.pad_token_id)] {
        if let Some(text) = id.and_then(|id| text_of(tokenizer, id)) {
            settings.insert(key.into(), json!(text));
        }
    }
    Value::Object(settings)
}

/// The text of a token: of an added one, or of the vocabulary.
fn text_of(tokenizer: &Value, id: u32) -> Option<&str> {
    let is = |found: Option<&Value>| found.and_then(Value::as_u64) == Some(u64::from(id));
    let added = tokenizer.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
    let mut added = added.filter(|token| is(token.get("id"))).filter_map(|token| token.get("content")?.as_str());
    let vocabulary = || tokenizer.get("model")?.get("vocab")?.as_object();
    added.next().or_else(|| vocabulary()?.iter().find(|(_, found)| is(Some(found))).map(|(text, _)| text.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preset::Preset;

    #[test]
    fn special_tokens_are_found_by_their_number() {
        let tokenizer = json!({
            "added_tokens": [{ "id": 0, "content": "<|endoftext|>" }],
            "model": { "vocab": { "a": 5, "<|pad|>": 1 } },
        });
        let config = ModelConfig { pad_token_id: Some(1), ..Preset::Tiny.config() };
        let found = settings(&config, &tokenizer);
        assert_eq!(found["tokenizer_class"], "PreTrainedTokenizerFast");
        assert_eq!((&found["eos_token"], &found["pad_token"]), (&json!("<|endoftext|>"), &json!("<|pad|>")));
        // One that is not there is not invented.
        let config = ModelConfig { eos_token_id: 9, pad_token_id: None, ..config };
        let found = settings(&config, &tokenizer);
        assert!(found.get("eos_token").is_none() && found.get("pad_token").is_none(), "{found}");
    }
}
