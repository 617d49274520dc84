//! Every tensor of every model: its name, typed and as Hugging Face spells it, and its shape.
//!
//! One table, [`TABLE`], and it is a bijection: [`TensorName::parse`] undoes `Display`. Linear weights are [out, in]. One name is ours
//! and not Hugging Face's: `model.layers.{l}.mlp.gate.bias`, [experts], the router's bias (FLEXOLMO §2); element 0, the public
//! expert's, is 0; an absent tensor means no bias. `crate::hf::export` takes it out.

use std::collections::BTreeMap;
use std::fmt;

use crate::config::ModelConfig;
use crate::error::{Error, Result};

/// What a tensor does, apart from where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The table of token embeddings.
    Embedding,
    /// The norm before the output layer.
    FinalNorm,
    /// The output layer.
    Head,
    /// Projection to queries.
    Query,
    /// Projection to keys.
    Key,
    /// Projection to values.
    Value,
    /// Projection of what attention gathered.
    Output,
    /// Norm of the queries, over all heads.
    QueryNorm,
    /// Norm of the keys, over all heads.
    KeyNorm,
    /// Norm of the attention branch.
    AttentionNorm,
    /// Norm of the FFN branch.
    FfnNorm,
    /// A part of the FFN of a dense model.
    Ffn(Projection),
    /// A part of one expert's FFN.
    Expert(Projection),
    /// The router: one row for each expert.
    Router,
    /// The router's bias: one number for each expert. Ours.
    RouterBias,
}

/// The three weights of a `SwiGLU` FFN: `down(silu(gate(x)) * up(x))`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Projection {
    /// Into the silu.
    Gate,
    /// What the silu multiplies.
    Up,
    /// Back to the residual stream.
    Down,
}

impl Projection {
    /// All three.
    pub const ALL: [Self; 3] = [Self::Gate, Self::Up, Self::Down];

    /// The last part but one of the name, as in `gate_proj`.
    pub fn hf(self) -> &'static str {
        match self {
            Self::Gate => "gate_proj",
            Self::Up => "up_proj",
            Self::Down => "down_proj",
        }
    }
}

/// The bijection. `{l}` is the layer, `{e}` the expert.
pub const TABLE: [(Role, &str); 19] = [
    (Role::Embedding, "model.embed_tokens.weight"),
    (Role::FinalNorm, "model.norm.weight"),
    (Role::Head, "lm_head.weight"),
    (Role::Query, "model.layers.{l}.self_attn.q_proj.weight"),
    (Role::Key, "model.layers.{l}.self_attn.k_proj.weight"),
    (Role::Value, "model.layers.{l}.self_attn.v_proj.weight"),
    (Role::Output, "model.layers.{l}.self_attn.o_proj.weight"),
    (Role::QueryNorm, "model.layers.{l}.self_attn.q_norm.weight"),
    (Role::KeyNorm, "model.layers.{l}.self_attn.k_norm.weight"),
    (Role::AttentionNorm, "model.layers.{l}.post_attention_layernorm.weight"),
    (Role::FfnNorm, "model.layers.{l}.post_feedforward_layernorm.weight"),
    (Role::Ffn(Projection::Gate), "model.layers.{l}.mlp.gate_proj.weight"),
    (Role::Ffn(Projection::Up), "model.layers.{l}.mlp.up_proj.weight"),
    (Role::Ffn(Projection::Down), "model.layers.{l}.mlp.down_proj.weight"),
    (Role::Expert(Projection::Gate), "model.layers.{l}.mlp.experts.{e}.gate_proj.weight"),
    (Role::Expert(Projection::Up), "model.layers.{l}.mlp.experts.{e}.up_proj.weight"),
    (Role::Expert(Projection::Down), "model.layers.{l}.mlp.experts.{e}.down_proj.weight"),
    (Role::Router, "model.layers.{l}.mlp.gate.weight"),
    (Role::RouterBias, "model.layers.{l}.mlp.gate.bias"),
];

/// One tensor of a model. Fields that its pattern does not use are 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TensorName {
    /// What it does.
    pub role: Role,
    /// Its block.
    pub layer: usize,
    /// Its expert.
    pub expert: usize,
}

impl TensorName {
    /// A tensor that is there once.
    pub fn once(role: Role) -> Self {
        Self { role, layer: 0, expert: 0 }
    }

    /// A tensor of a block.
    pub fn layer(role: Role, layer: usize) -> Self {
        Self { role, layer, expert: 0 }
    }

    /// A tensor of an expert.
    pub fn expert(projection: Projection, layer: usize, expert: usize) -> Self {
        Self { role: Role::Expert(projection), layer, expert }
    }

    /// The typed name of a Hugging Face name.
    pub fn parse(name: &str) -> Option<Self> {
        TABLE.iter().find_map(|(role, pattern)| {
            let (layer, expert) = matches(pattern, name)?;
            Some(Self { role: *role, layer, expert })
        })
    }

    /// Shape in a model of these sizes; `None` where such a model has no such tensor.
    pub fn shape(self, config: &ModelConfig) -> Option<Vec<usize>> {
        let (d, f, v) = (config.hidden_size, config.ffn_hidden, config.vocab_size);
        let experts = config.experts.as_ref().map_or(0, |mixture| mixture.count);
        let shape = match self.role {
            Role::Embedding | Role::Head => vec![v, d],
            Role::Query | Role::Key | Role::Value | Role::Output => vec![d, d],
            Role::FinalNorm | Role::QueryNorm | Role::KeyNorm | Role::AttentionNorm | Role::FfnNorm => vec![d],
            Role::Ffn(_) if experts > 0 => return None,
            Role::Expert(_) if self.expert >= experts => return None,
            Role::Router | Role::RouterBias if experts == 0 => return None,
            Role::Ffn(Projection::Down) | Role::Expert(Projection::Down) => vec![d, f],
            Role::Ffn(_) | Role::Expert(_) => vec![f, d],
            Role::Router => vec![experts, d],
            Role::RouterBias => vec![experts],
        };
        (self.layer < config.num_layers).then_some(shape)
    }
}

impl fmt::Display for TensorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pattern = TABLE.iter().find(|(role, _)| *role == self.role).map_or("", |(_, pattern)| pattern);
        for (i, part) in pattern.split('.').enumerate() {
            if i > 0 {
                f.write_str(".")?;
            }
            match part {
                "{l}" => write!(f, "{}", self.layer)?,
                "{e}" => write!(f, "{}", self.expert)?,
                part => f.write_str(part)?,
            }
        }
        Ok(())
    }
}

/// Layer and expert where `name` follows `pattern`.
fn matches(pattern: &str, name: &str) -> Option<(usize, usize)> {
    let (mut layer, mut expert) = (0, 0);
    let mut parts = name.split('.');
    for expected in pattern.split('.') {
        let part = parts.next()?;
        match expected {
            "{l}" => layer = number(part)?,
            "{e}" => expert = number(part)?,
            expected if expected == part => {}
            _ => return None,
        }
    }
    parts.next().is_none().then_some((layer, expert))
}

/// One spelling for each number: `07` and `+7` are names of nothing.
fn number(text: &str) -> Option<usize> {
    let number: usize = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// Every tensor that a model of these sizes must have, with its shape; the router's bias, which may be absent, is not among them.
pub fn tensors(config: &ModelConfig) -> BTreeMap<String, Vec<usize>> {
    typed_tensors(config).into_iter().map(|(name, shape)| (name.to_string(), shape)).collect()
}

/// As [`tensors`], by typed name.
pub fn typed_tensors(config: &ModelConfig) -> BTreeMap<TensorName, Vec<usize>> {
    let experts = config.experts.as_ref().map_or(0, |mixture| mixture.count);
    let mut all = BTreeMap::new();
    for (role, pattern) in TABLE {
        if role == Role::RouterBias {
            continue;
        }
        let layers = if pattern.contains("{l}") { config.num_layers } else { 1 };
        let copies = if pattern.contains("{e}") { experts } else { 1 };
        for layer in 0..layers {
            for expert in 0..copies {
                let name = TensorName { role, layer, expert };
                if let Some(shape) = name.shape(config) {
                    all.insert(name, shape);
                }
            }
        }
    }
    all
}

/// Checks a model's tensors against its sizes: nothing missing, nothing unexpected, every shape right; the router's bias may be there
/// (in all layers or in none).
///
/// # Errors
/// [`Error::UnknownTensor`], [`Error::TensorShape`], [`Error::MissingTensors`], naming `place`.
pub fn check<'a>(
    config: &ModelConfig,
    found: impl IntoIterator<Item = (&'a str, &'a [usize])>,
    place: &str,
) -> Result<()> {
    let mut missing = tensors(config);
    let mut biased: Vec<usize> = vec![];
    for (name, shape) in found {
        let typed = TensorName::parse(name);
        let Some((typed, expected)) = typed.and_then(|typed| Some((typed, typed.shape(config)?))) else {
            return Err(unknown(config, name, place));
        };
        if shape != expected {
            let (name, place) = (name.to_owned(), place.to_owned());
            return Err(Error::TensorShape { name, place, found: shape.to_vec(), expected });
        }
        if typed.role == Role::RouterBias {
            biased.push(typed.layer);
        }
        missing.remove(name);
    }
    let mut names: Vec<String> = missing.into_keys().collect();
    if !biased.is_empty() {
        let absent = (0..config.num_layers).filter(|layer| !biased.contains(layer));
        names.extend(absent.map(|layer| TensorName::layer(Role::RouterBias, layer).to_string()));
    }
    if names.is_empty() { Ok(()) } else { Err(Error::MissingTensors { place: place.to_owned(), names }) }
}

/// The error for a name that a model of these sizes has not: with the three names that it has and that look most alike.
pub fn unknown(config: &ModelConfig, name: &str, place: &str) -> Error {
    let known = tensors(config);
    Error::UnknownTensor { name: name.to_owned(), place: place.to_owned(), nearest: nearest(name, known.keys()) }
}

/// The three of `names` that look most like `name`, best first; what looks nothing like it is left out.
pub(crate) fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a String>) -> Vec<String> {
    const ALIKE: f64 = 0.4;
    let mut scored: Vec<(f64, &String)> =
        names.into_iter().map(|known| (strsim::normalized_levenshtein(name, known), known)).collect();
    scored.sort_by(|(a, x), (b, y)| b.total_cmp(a).then_with(|| x.cmp(y)));
    scored.into_iter().take_while(|(score, _)| *score >= ALIKE).take(3).map(|(_, name)| name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Mixture;
    use crate::preset::Preset;
    use proptest::prelude::*;

    fn mixture() -> ModelConfig {
        let config = Preset::Tiny.config();
        config.with_experts(Mixture::of(["a".into(), "b".into()], 2))
    }

    fn found(config: &ModelConfig) -> BTreeMap<String, Vec<usize>> {
        tensors(config)
    }

    fn checked(config: &ModelConfig, found: &BTreeMap<String, Vec<usize>>) -> Result<()> {
        check(config, found.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())), "here")
    }

    #[test]
    fn the_table_is_a_bijection() {
        for (i, (role, pattern)) in TABLE.iter().enumerate() {
            assert!(TABLE[..i].iter().all(|(other, text)| other != role && text != pattern));
        }
        for name in typed_tensors(&mixture()).into_keys().chain(typed_tensors(&Preset::Tiny.config()).into_keys()) {
            assert_eq!(TensorName::parse(&name.to_string()), Some(name));
        }
    }

    #[test]
    fn tensors_of_a_mixture() {
        let config = mixture();
        let names = tensors(&config);
        // embedding, norm, head; 8 tensors of attention and norms a layer, the router, 3 × 3 of the experts.
        assert_eq!(names.len(), 3 + config.num_layers * (8 + 1 + 9));
        assert_eq!(names["model.layers.1.mlp.gate.weight"], [3, config.hidden_size]);
        assert_eq!(names["model.layers.0.mlp.experts.2.down_proj.weight"], [config.hidden_size, config.ffn_hidden]);
        assert!(!names.contains_key("model.layers.0.mlp.down_proj.weight"));
    }

    #[test]
    fn missing_unexpected_and_misshapen_tensors_are_errors() {
        let config = mixture();
        assert!(checked(&config, &found(&config)).is_ok());

        let mut tensors = found(&config);
        tensors.remove("model.norm.weight");
        assert!(
            matches!(checked(&config, &tensors), Err(Error::MissingTensors { names, .. }) if names == ["model.norm.weight"])
        );

        let mut tensors = found(&config);
        tensors.insert("model.layers.0.self_attn.qproj.weight".into(), vec![]);
        match checked(&config, &tensors) {
            Err(Error::UnknownTensor { nearest, .. }) => {
                assert_eq!(nearest.len(), 3);
                assert_eq!(nearest[0], "model.layers.0.self_attn.q_proj.weight");
            }
            other => panic!("{other:?}"),
        }
        // A layer or an expert too many, and a dense FFN in a mixture, are unexpected too.
        for name in [
            "model.layers.9.mlp.gate.weight",
            "model.layers.0.mlp.experts.3.up_proj.weight",
            "model.layers.0.mlp.up_proj.weight",
        ] {
            let mut tensors = found(&config);
            tensors.insert(name.into(), vec![1]);
            assert!(matches!(checked(&config, &tensors), Err(Error::UnknownTensor { .. })), "{name}");
        }

        let mut tensors = found(&config);
        tensors.insert("model.norm.weight".into(), vec![3]);
        assert!(matches!(checked(&config, &tensors), Err(Error::TensorShape { .. })));
    }

    #[test]
    fn the_bias_may_be_there_everywhere_or_nowhere() {
        let config = mixture();
        let mut tensors = found(&config);
        tensors.insert("model.layers.0.mlp.gate.bias".into(), vec![3]);
        assert!(
            matches!(checked(&config, &tensors), Err(Error::MissingTensors { names, .. }) if names == ["model.layers.1.mlp.gate.bias"])
        );
        tensors.insert("model.layers.1.mlp.gate.bias".into(), vec![3]);
        assert!(checked(&config, &tensors).is_ok());
    }

    proptest! {
        #[test]
        fn parse_undoes_display(row in 0..TABLE.len(), layer in 0..200usize, expert in 0..200usize) {
            let (role, pattern) = TABLE[row];
            let name = TensorName {
                role,
                layer: if pattern.contains("{l}") { layer } else { 0 },
                expert: if pattern.contains("{e}") { expert } else { 0 },
            };
            prop_assert_eq!(TensorName::parse(&name.to_string()), Some(name));
        }

        #[test]
        fn what_parses_is_spelt_so(name in "(model|lm_head)(\\.(layers|mlp|gate|weight|experts|bias|0|00|7|\\+1|18446744073709551616|up_proj)){0,7}") {
            if let Some(typed) = TensorName::parse(&name) {
                prop_assert_eq!(typed.to_string(), name);
            }
        }
    }
}
