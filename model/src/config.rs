//! The sizes of a model, and their Hugging Face form, `config.json`.
//!
//! Two architectures: `olmo2` (dense) and `flex_olmo` (a mixture in every FFN). Multi-head attention, no biases, untied output layer,
//! no scaling of `RoPE` (FLEXOLMO §1, §2). A `config.json` that asks for anything else is refused with the field's name: a field that is
//! read by nobody would change the numbers silently. What is knowingly not read stands in [`IGNORED`], each with the reason.
//!
//! What Hugging Face has no field for stands under the key `flow`, which transformers carries along unread: the experts' names.

use std::{collections::BTreeSet, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::json;

/// The name of expert 0 in every mixture.
pub const PUBLIC: &str = "public";

/// The sizes of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// Rows of the embedding table and of the output layer; at least the tokenizer's entries.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Number of blocks.
    pub num_layers: usize,
    /// Attention heads, of queries, keys and values alike.
    pub num_heads: usize,
    /// Width of one head: `hidden_size / num_heads`, even.
    pub head_dim: usize,
    /// Width inside of one FFN.
    pub ffn_hidden: usize,
    /// Base of the rotary embedding's wavelengths.
    pub rope_theta: f64,
    /// What is added to the mean square in `RMSNorm`.
    pub norm_eps: f64,
    /// The longest sequence that the model was made for, in tokens.
    pub max_positions: usize,
    /// The token that ends a document.
    pub eos_token_id: u32,
    /// The token that fills a batch, where there is one.
    pub pad_token_id: Option<u32>,
    /// The mixture in every FFN; absent in a dense model.
    pub experts: Option<Mixture>,
}

/// The experts of a mixture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mixture {
    /// Experts in every layer, the public one (number 0) included.
    pub count: usize,
    /// Experts that a token is sent to.
    pub top_k: usize,
    /// One name for each expert; the first is [`PUBLIC`].
    pub names: Vec<String>,
}

impl Mixture {
    /// The public expert and `others`, a token sent to `top_k` of them, or to all where there are fewer.
    pub fn of(others: impl IntoIterator<Item = String>, top_k: usize) -> Self {
        let names: Vec<String> = std::iter::once(PUBLIC.to_owned()).chain(others).collect();
        Self { count: names.len(), top_k: top_k.min(names.len()), names }
    }

    /// The number of the expert of this name.
    pub fn index(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|found| found == name)
    }
}

/// Fields of `config.json` that do not change what the model computes here.
pub const IGNORED: &[(&str, &str)] = &[
    ("_name_or_path", "where somebody once loaded it from"),
    ("architectures", "says again what model_type says"),
    ("bos_token_id", "OLMo 2 puts no token before a document"),
    ("dtype", "the tensors carry their own types"),
    ("initializer_range", "the weights are there already"),
    ("output_attentions", "what transformers returns besides logits"),
    ("output_hidden_states", "what transformers returns besides logits"),
    ("output_router_logits", "what transformers returns besides logits"),
    ("return_dict", "how transformers returns it"),
    ("router_aux_loss_coef", "a setting of training; flow's own is in the recipe"),
    ("torch_dtype", "the tensors carry their own types"),
    ("transformers_version", "who wrote the file"),
    ("use_cache", "a setting of generation"),
];

/// Tensors that a model may have: the largest mixtures that are published have some fifty thousand.
const TENSORS: usize = 1 << 17;
/// The most tensors of a layer beside those of its FFN or FFNs.
const TENSORS_OF_A_LAYER: usize = 10;

impl ModelConfig {
    /// Checks that the sizes fit together.
    ///
    /// # Errors
    /// [`Error::Config`] with `place` and the first thing that does not fit.
    pub fn validate(&self, place: &str) -> Result<()> {
        // Without `..`: a field that is added must be thought of here.
        let Self {
            vocab_size,
            hidden_size,
            num_layers,
            num_heads,
            head_dim,
            ffn_hidden,
            rope_theta,
            norm_eps,
            max_positions,
            eos_token_id,
            pad_token_id,
            experts,
        } = self;
        let fail = |reason: String| Err(Error::Config { place: place.to_owned(), reason });
        let sizes = [
            ("vocabulary", *vocab_size, 1 << 31),
            ("hidden size", *hidden_size, 1 << 24),
            ("number of layers", *num_layers, 1 << 16),
            ("number of heads", *num_heads, 1 << 16),
            ("head width", *head_dim, 1 << 24),
            ("FFN width", *ffn_hidden, 1 << 24),
            ("number of positions", *max_positions, 1 << 40),
        ];
        for (what, size, limit) in sizes {
            // The upper limits keep every product of two sides within 64 bits.
            if size == 0 || size > limit {
                return fail(format!("the {what} is {size}; 1 to {limit} can be used"));
            }
        }
        if num_heads.checked_mul(*head_dim) != Some(*hidden_size) {
            return fail(format!(
                "{num_heads} heads of width {head_dim} do not make up the hidden size of {hidden_size}"
            ));
        }
        if head_dim % 2 != 0 {
            return fail(format!("the head width is {head_dim}; RoPE turns pairs, so it must be even"));
        }
        if !(rope_theta.is_finite() && *rope_theta > 0.0) {
            return fail(format!("the RoPE base is {rope_theta}; it must be positive"));
        }
        if !(norm_eps.is_finite() && *norm_eps > 0.0) {
            return fail(format!("the epsilon of the norms is {norm_eps}; it must be positive"));
        }
        for (what, token) in [("end-of-document", Some(*eos_token_id)), ("padding", *pad_token_id)] {
            if let Some(token) = token.filter(|token| *token as usize >= *vocab_size) {
                return fail(format!("the {what} token is {token}, the vocabulary has {vocab_size} entries"));
            }
        }
        if let Some(mixture) = experts {
            mixture.validate(place)?;
        }
        // A few bytes of configuration must not become gigabytes of names.
        let experts = experts.as_ref().map_or(1, |mixture| mixture.count);
        let tensors = num_layers.saturating_mul(experts.saturating_mul(3) + TENSORS_OF_A_LAYER);
        if tensors > TENSORS {
            return fail(format!(
                "{num_layers} layers of {experts} experts would be {tensors} tensors; up to {TENSORS} can be used"
            ));
        }
        Ok(())
    }

    /// The same model without its mixture: the shape of the public model, and of each expert as a dense model.
    pub fn dense(&self) -> Self {
        Self { experts: None, ..self.clone() }
    }

    /// The same model with a mixture.
    pub fn with_experts(&self, mixture: Mixture) -> Self {
        Self { experts: Some(mixture), ..self.clone() }
    }

    /// Reads a `config.json`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Json`], [`Error::Config`].
    pub fn read(path: &Path) -> Result<Self> {
        let value: Map<String, Value> = json::read(path)?;
        Self::from_hf(&value, &path.display().to_string())
    }

    /// Reads the content of a `config.json`; `place` is named in errors.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn from_hf(value: &Map<String, Value>, place: &str) -> Result<Self> {
        let mut fields = Fields { place, value, seen: vec![] };
        let config = fields.model()?;
        fields.nothing_left()?;
        config.validate(place)?;
        Ok(config)
    }

    /// The content of `config.json` for tensors of type `dtype` (`float32`, `bfloat16`).
    pub fn to_hf(&self, dtype: &str) -> Value {
        let Self {
            vocab_size,
            hidden_size,
            num_layers,
            num_heads,
            head_dim,
            ffn_hidden,
            rope_theta,
            norm_eps,
            max_positions,
            eos_token_id,
            pad_token_id,
            experts,
        } = self;
        let mut value = json!({
            "architectures": ["Olmo2ForCausalLM"],
            "attention_bias": false,
            "attention_dropout": 0.0,
            "bos_token_id": null,
            // Newer transformers read `dtype`, older ones `torch_dtype`; the same for RoPE's base.
            "dtype": dtype,
            "torch_dtype": dtype,
            "eos_token_id": eos_token_id,
            "head_dim": head_dim,
            "hidden_act": "silu",
            "hidden_size": hidden_size,
            "initializer_range": 0.02,
            "intermediate_size": ffn_hidden,
            "max_position_embeddings": max_positions,
            "model_type": "olmo2",
            "num_attention_heads": num_heads,
            "num_hidden_layers": num_layers,
            "num_key_value_heads": num_heads,
            "pad_token_id": pad_token_id,
            "rms_norm_eps": norm_eps,
            "rope_parameters": { "rope_theta": rope_theta, "rope_type": "default" },
            "rope_theta": rope_theta,
            "tie_word_embeddings": false,
            "use_cache": true,
            "vocab_size": vocab_size,
        });
        if let Some(Mixture { count, top_k, names }) = experts {
            value["architectures"] = json!(["FlexOlmoForCausalLM"]);
            value["model_type"] = json!("flex_olmo");
            value["norm_topk_prob"] = json!(false);
            value["num_experts"] = json!(count);
            value["num_experts_per_tok"] = json!(top_k);
            value["output_router_logits"] = json!(false);
            value["router_aux_loss_coef"] = json!(0.0);
            value["flow"] = json!({ "experts": names });
        }
        value
    }
}

impl Mixture {
    fn validate(&self, place: &str) -> Result<()> {
        let Self { count, top_k, names } = self;
        let fail = |reason: String| Err(Error::Config { place: place.to_owned(), reason });
        if *count == 0 || *count > 1 << 16 {
            return fail(format!("the mixture has {count} experts; 1 to {} can be used", 1 << 16));
        }
        if *top_k == 0 || top_k > count {
            return fail(format!("a token cannot be sent to {top_k} of {count} experts"));
        }
        if names.len() != *count {
            return fail(format!("{} names are given for {count} experts", names.len()));
        }
        if names[0] != PUBLIC {
            return fail(format!("the first expert is `{}`; it must be `{PUBLIC}`", names[0]));
        }
        let mut seen = BTreeSet::new();
        for name in names {
            check_expert_name(name)?;
            if !seen.insert(name) {
                return fail(format!("two experts are named `{name}`"));
            }
        }
        Ok(())
    }
}

/// Names of experts become names of folders and words of a command line: lower-case letters, digits, `-` and `_`.
///
/// # Errors
/// [`Error::Expert`].
pub fn check_expert_name(name: &str) -> Result<()> {
    let fits = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
    let begins = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if fits && begins && name.len() <= 64 {
        return Ok(());
    }
    let reason =
        "a name has 1 to 64 lower-case letters, digits, `-` and `_`, and begins with a letter or a digit".into();
    Err(Error::Expert { name: name.to_owned(), reason })
}

/// One pass over a `config.json` that remembers what was read.
struct Fields<'a> {
    place: &'a str,
    value: &'a Map<String, Value>,
    seen: Vec<&'static str>,
}

impl Fields<'_> {
    fn model(&mut self) -> Result<ModelConfig> {
        let kind = self.get("model_type").and_then(Value::as_str).unwrap_or_default().to_owned();
        let mixture = match kind.as_str() {
            "olmo2" => false,
            "flex_olmo" => true,
            other => return self.fail(format!("`model_type` is `{other}`; `olmo2` and `flex_olmo` are read")),
        };
        self.only("hidden_act", &json!("silu"), true)?;
        self.only("tie_word_embeddings", &json!(false), false)?;
        self.only("attention_bias", &json!(false), false)?;
        self.only("attention_dropout", &json!(0.0), false)?;
        self.only("rope_scaling", &Value::Null, false)?;

        let hidden_size = self.size("hidden_size")?;
        let num_heads = self.size("num_attention_heads")?;
        if let Some(found) = self.optional_size("num_key_value_heads")?.filter(|found| *found != num_heads) {
            return self.fail(format!(
                "`num_key_value_heads` is {found} beside {num_heads} attention heads; grouped-query attention is not read"
            ));
        }
        let head_dim = match self.optional_size("head_dim")? {
            Some(head_dim) => head_dim,
            None if num_heads > 0 => hidden_size / num_heads,
            None => 0,
        };
        let experts = if mixture { Some(self.mixture()?) } else { None };
        Ok(ModelConfig {
            vocab_size: self.size("vocab_size")?,
            hidden_size,
            num_layers: self.size("num_hidden_layers")?,
            num_heads,
            head_dim,
            ffn_hidden: self.size("intermediate_size")?,
            rope_theta: self.rope_theta()?,
            norm_eps: self.number("rms_norm_eps")?,
            max_positions: self.size("max_position_embeddings")?,
            eos_token_id: match self.token("eos_token_id")? {
                Some(token) => token,
                None => return self.fail("`eos_token_id` is not given; documents end with it".into()),
            },
            pad_token_id: self.token("pad_token_id")?,
            experts,
        })
    }

    fn mixture(&mut self) -> Result<Mixture> {
        self.only("norm_topk_prob", &json!(false), true)?;
        let count = self.size("num_experts")?;
        let top_k = self.size("num_experts_per_tok")?;
        let names = match self.get("flow") {
            None => {
                (0..count.min(1 << 16)).map(|e| if e == 0 { PUBLIC.into() } else { format!("expert-{e}") }).collect()
            }
            Some(flow) => {
                #[derive(Deserialize)]
                #[serde(deny_unknown_fields)]
                struct Flow {
                    experts: Vec<String>,
                }
                match Flow::deserialize(flow) {
                    Ok(flow) => flow.experts,
                    Err(error) => return self.fail(format!("`flow`: {error}")),
                }
            }
        };
        Ok(Mixture { count, top_k, names })
    }

    /// Both spellings are read; where both are there they must say the same.
    fn rope_theta(&mut self) -> Result<f64> {
        let older = match self.get("rope_theta") {
            Some(_) => Some(self.number("rope_theta")?),
            None => None,
        };
        let newer = match self.get("rope_parameters").cloned() {
            None => None,
            Some(Value::Object(inner)) => {
                for (key, value) in &inner {
                    let fits = match key.as_str() {
                        "rope_theta" => true,
                        "rope_type" | "type" => value == "default",
                        "partial_rotary_factor" => value.as_f64() == Some(1.0),
                        _ => false,
                    };
                    if !fits {
                        return self.fail(format!("`rope_parameters.{key}` is {value}; only unscaled RoPE is read"));
                    }
                }
                match inner.get("rope_theta").map(Value::as_f64) {
                    Some(Some(theta)) => Some(theta),
                    Some(None) => return self.fail("`rope_parameters.rope_theta` is not a number".into()),
                    None => None,
                }
            }
            Some(other) => return self.fail(format!("`rope_parameters` is {other}; it must be an object")),
        };
        match (older, newer) {
            (Some(older), Some(newer)) if older != newer => {
                self.fail(format!("`rope_theta` is {older} and `rope_parameters.rope_theta` is {newer}"))
            }
            (_, Some(theta)) | (Some(theta), None) => Ok(theta),
            (None, None) => self.fail("neither `rope_theta` nor `rope_parameters.rope_theta` is given".into()),
        }
    }

    /// Null counts as absent, as in Python.
    fn get(&mut self, key: &'static str) -> Option<&Value> {
        self.seen.push(key);
        self.value.get(key).filter(|value| !value.is_null())
    }

    /// A field that has one value here; absent means that value unless `required`.
    fn only(&mut self, key: &'static str, value: &Value, required: bool) -> Result<()> {
        let found = self.get(key).cloned();
        let same = match &found {
            None => !required,
            Some(found) => found == value || (found.is_number() && found.as_f64() == value.as_f64()),
        };
        if same {
            return Ok(());
        }
        let found = found.map_or("not given".to_owned(), |found| format!("{found}"));
        self.fail(format!("`{key}` is {found}; only {value} is read"))
    }

    fn size(&mut self, key: &'static str) -> Result<usize> {
        match self.optional_size(key)? {
            Some(size) => Ok(size),
            None => self.fail(format!("`{key}` is not given")),
        }
    }

    fn optional_size(&mut self, key: &'static str) -> Result<Option<usize>> {
        let Some(found) = self.get(key).cloned() else { return Ok(None) };
        match found.as_u64().and_then(|found| usize::try_from(found).ok()) {
            Some(size) => Ok(Some(size)),
            None => self.fail(format!("`{key}` is {found}; it must be a whole number")),
        }
    }

    fn number(&mut self, key: &'static str) -> Result<f64> {
        let found = self.get(key).cloned();
        match found.as_ref().map(Value::as_f64) {
            Some(Some(number)) => Ok(number),
            _ => self.fail(format!("`{key}` is {}; it must be a number", found.unwrap_or_default())),
        }
    }

    fn token(&mut self, key: &'static str) -> Result<Option<u32>> {
        let Some(found) = self.get(key).cloned() else { return Ok(None) };
        // Padding of -1 is how some write "none".
        if key == "pad_token_id" && found.as_i64() == Some(-1) {
            return Ok(None);
        }
        match found.as_u64().and_then(|token| u32::try_from(token).ok()) {
            Some(token) => Ok(Some(token)),
            None => self.fail(format!("`{key}` is {found}; it must be one token's number")),
        }
    }

    fn nothing_left(&self) -> Result<()> {
        let known = |key: &str| self.seen.contains(&key) || IGNORED.iter().any(|(name, _)| *name == key);
        match self.value.keys().find(|key| !known(key)) {
            None => Ok(()),
            Some(key) => self.fail(format!(
                "`{key}` is a field that flow does not know; if it does not change what the model computes, take it out"
            )),
        }
    }

    fn fail<T>(&self, reason: String) -> Result<T> {
        Err(Error::Config { place: self.place.to_owned(), reason })
    }
}

#[cfg(test)]
mod tests;
