//! Sizes by name, and what a recipe may say of a model: a name, or a name with fields that differ.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::config::ModelConfig;
use crate::error::Result;

/// Sizes that have a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Preset {
    /// `OLMo` 2 7B (FLEXOLMO §1): the paper's public model.
    #[serde(rename = "olmo2-7b")]
    Olmo27b,
    /// 256 wide, 8 layers: 11 million parameters with 8192 tokens.
    #[serde(rename = "nano")]
    Nano,
    /// 128 wide, 4 layers: 1.3 million parameters with 2048 tokens; what the quick start trains.
    #[serde(rename = "pico")]
    Pico,
    /// 64 wide, 2 layers: for tests.
    #[serde(rename = "tiny")]
    Tiny,
}

impl Preset {
    /// The sizes, without experts.
    pub fn config(self) -> ModelConfig {
        // Vocabulary, width, layers, heads, FFN, positions, end of document, padding.
        let (vocab_size, hidden_size, num_layers, num_heads, ffn_hidden, max_positions, eos_token_id, pad_token_id) =
            match self {
                // The tokenizer has 100278 entries; the table is padded to a multiple of 128.
                Self::Olmo27b => (100_352, 4096, 32, 32, 11_008, 4096, 100_257, Some(100_277)),
                Self::Nano => (8192, 256, 8, 8, 768, 2048, 0, None),
                Self::Pico => (2048, 128, 4, 4, 384, 2048, 0, None),
                Self::Tiny => (256, 64, 2, 4, 160, 512, 0, None),
            };
        ModelConfig {
            vocab_size,
            hidden_size,
            num_layers,
            num_heads,
            head_dim: hidden_size / num_heads,
            ffn_hidden,
            rope_theta: 500_000.0,
            norm_eps: 1e-6,
            max_positions,
            eos_token_id,
            pad_token_id,
            experts: None,
        }
    }
}

/// A model in a recipe: `model: nano`, or `model: { preset: nano, num_layers: 6 }`.
///
/// Every field but `preset` replaces the preset's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelParams {
    /// Where the sizes come from that are not given.
    pub preset: Preset,
    /// Rows of the embedding table.
    pub vocab_size: Option<usize>,
    /// Width of the residual stream.
    pub hidden_size: Option<usize>,
    /// Number of blocks.
    pub num_layers: Option<usize>,
    /// Attention heads; their width follows.
    pub num_heads: Option<usize>,
    /// Width inside of an FFN.
    pub ffn_hidden: Option<usize>,
    /// Base of the rotary embedding.
    pub rope_theta: Option<f64>,
    /// Epsilon of the norms.
    pub norm_eps: Option<f64>,
    /// Longest sequence, in tokens.
    pub max_positions: Option<usize>,
}

/// The vocabulary of the tokenizer that a model is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vocabulary {
    /// Entries of the tokenizer.
    pub entries: usize,
    /// The token that ends a document.
    pub eos: u32,
    /// The padding token, where there is one.
    pub pad: Option<u32>,
}

/// Embedding tables are padded to a multiple of this, which matrix products like.
const VOCABULARY_MULTIPLE: usize = 128;

impl ModelParams {
    /// The preset as it is.
    pub fn preset(preset: Preset) -> Self {
        let none = None;
        Self {
            preset,
            vocab_size: none,
            hidden_size: none,
            num_layers: none,
            num_heads: none,
            ffn_hidden: none,
            rope_theta: None,
            norm_eps: None,
            max_positions: none,
        }
    }

    /// The sizes; `vocabulary` is of the tokenizer, if one is known: it sets the special tokens, and the table's rows (padded to a
    /// multiple of 128) where the recipe does not say them.
    ///
    /// # Errors
    /// [`crate::Error::Config`] where the sizes do not fit together, or the table is smaller than the vocabulary.
    pub fn resolve(&self, vocabulary: Option<Vocabulary>) -> Result<ModelConfig> {
        let Self {
            preset,
            vocab_size,
            hidden_size,
            num_layers,
            num_heads,
            ffn_hidden,
            rope_theta,
            norm_eps,
            max_positions,
        } = self;
        let mut config = preset.config();
        if let Some(Vocabulary { entries, eos, pad }) = vocabulary {
            // A preset's own table is kept where it fits as it is: OLMo 2's is such a one.
            let padded = entries.checked_next_multiple_of(VOCABULARY_MULTIPLE).unwrap_or(entries);
            config.vocab_size = vocab_size.unwrap_or(padded);
            config.eos_token_id = eos;
            config.pad_token_id = pad;
            if config.vocab_size < entries {
                let reason = format!("`vocab_size` is {}, the tokenizer has {entries} entries", config.vocab_size);
                return Err(crate::Error::Config { place: "the recipe".into(), reason });
            }
        }
        config.vocab_size = vocab_size.unwrap_or(config.vocab_size);
        config.hidden_size = hidden_size.unwrap_or(config.hidden_size);
        config.num_layers = num_layers.unwrap_or(config.num_layers);
        config.num_heads = num_heads.unwrap_or(config.num_heads);
        config.ffn_hidden = ffn_hidden.unwrap_or(config.ffn_hidden);
        config.rope_theta = rope_theta.unwrap_or(config.rope_theta);
        config.norm_eps = norm_eps.unwrap_or(config.norm_eps);
        config.max_positions = max_positions.unwrap_or(config.max_positions);
        config.head_dim = config.hidden_size.checked_div(config.num_heads).unwrap_or(0);
        config.validate("the recipe")?;
        Ok(config)
    }
}

// Its own type, so that derived code reads it with its messages: an `untagged` enum of both forms would answer a misspelt field with
// "did not match any variant".
/// A preset with the sizes that differ.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ModelFields")]
struct Fields {
    /// Where the sizes come from that are not given.
    preset: Preset,
    /// Rows of the embedding table; absent: the tokenizer's entries, padded to a multiple of 128.
    #[serde(default)]
    vocab_size: Option<usize>,
    /// Width of the residual stream.
    #[serde(default)]
    hidden_size: Option<usize>,
    /// Number of blocks.
    #[serde(default)]
    num_layers: Option<usize>,
    /// Attention heads; their width follows.
    #[serde(default)]
    num_heads: Option<usize>,
    /// Width inside of an FFN.
    #[serde(default)]
    ffn_hidden: Option<usize>,
    /// Base of the rotary embedding.
    #[serde(default)]
    rope_theta: Option<f64>,
    /// Epsilon of the norms.
    #[serde(default)]
    norm_eps: Option<f64>,
    /// Longest sequence, in tokens.
    #[serde(default)]
    max_positions: Option<usize>,
}

impl<'de> Deserialize<'de> for ModelParams {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> serde::de::Visitor<'de> for Either {
            type Value = ModelParams;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("the name of a model preset, or a map with `preset` and the sizes that differ")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<ModelParams, E> {
                Preset::deserialize(serde::de::value::StrDeserializer::new(name)).map(ModelParams::preset)
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<ModelParams, A::Error> {
                let Fields {
                    preset,
                    vocab_size,
                    hidden_size,
                    num_layers,
                    num_heads,
                    ffn_hidden,
                    rope_theta,
                    norm_eps,
                    max_positions,
                } = Fields::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                Ok(ModelParams {
                    preset,
                    vocab_size,
                    hidden_size,
                    num_layers,
                    num_heads,
                    ffn_hidden,
                    rope_theta,
                    norm_eps,
                    max_positions,
                })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for ModelParams {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ModelParams".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let (name, fields) = (generator.subschema_for::<Preset>(), generator.subschema_for::<Fields>());
        schemars::json_schema!({
            "description": "A model: the name of a preset, or a preset with the sizes that differ.",
            "anyOf": [name, fields],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ModelParams, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn both_forms_are_read_and_faults_keep_their_words() {
        assert_eq!(read(r#""nano""#).unwrap(), ModelParams::preset(Preset::Nano));
        let params = read(r#"{"preset":"nano","num_layers":6}"#).unwrap();
        assert_eq!(params, ModelParams { num_layers: Some(6), ..ModelParams::preset(Preset::Nano) });
        assert!(read(r#"{"preset":"nano","layers":6}"#).unwrap_err().to_string().contains("`layers`"));
        assert!(read(r#"{"num_layers":6}"#).unwrap_err().to_string().contains("`preset`"));
        assert!(read(r#""olmo2""#).unwrap_err().to_string().contains("olmo2-7b"));
        assert!(read("7").unwrap_err().to_string().contains("preset"));
    }

    #[test]
    fn what_is_written_is_read() {
        let params =
            ModelParams { vocab_size: Some(640), norm_eps: Some(1e-5), ..ModelParams::preset(Preset::Olmo27b) };
        let text = serde_json::to_string(&params).unwrap();
        assert_eq!(read(&text).unwrap(), params);
    }

    #[test]
    fn presets_are_valid_and_take_a_vocabulary() {
        for preset in [Preset::Olmo27b, Preset::Nano, Preset::Pico, Preset::Tiny] {
            assert_eq!(ModelParams::preset(preset).resolve(None).unwrap(), preset.config());
        }
        let dolma2 = Vocabulary { entries: 100_278, eos: 100_257, pad: Some(100_277) };
        assert_eq!(ModelParams::preset(Preset::Olmo27b).resolve(Some(dolma2)).unwrap(), Preset::Olmo27b.config());
        let own = Vocabulary { entries: 1000, eos: 3, pad: None };
        let config = ModelParams::preset(Preset::Tiny).resolve(Some(own)).unwrap();
        assert_eq!((config.vocab_size, config.eos_token_id, config.pad_token_id), (1024, 3, None));
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let tiny = ModelParams::preset(Preset::Tiny);
        for (bad, words) in [
            (ModelParams { num_heads: Some(3), ..tiny.clone() }, "3 heads"),
            (ModelParams { num_heads: Some(0), ..tiny.clone() }, "heads"),
            (ModelParams { vocab_size: Some(999), ..tiny }, "1000 entries"),
        ] {
            let vocabulary = Vocabulary { entries: 1000, eos: 0, pad: None };
            let error = bad.resolve(Some(vocabulary)).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn the_schema_has_both_forms() {
        let schema = serde_json::to_string(&schemars::schema_for!(ModelParams)).unwrap();
        assert!(schema.contains("olmo2-7b") && schema.contains("ModelFields"), "{schema}");
    }
}
