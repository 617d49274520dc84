//! `OLMo` 2 (FLEXOLMO §1): the dense model, and with a mixture in place of its feed-forward layers `FlexOlmo`.
//!
//! ```text
//!   x_nd = embedding(tokens)                                  n: tokens of the batch, flat; d: hidden size
//!   h_nd = x_nd + norm_attention( W_o · attention(norm_q(W_q x), norm_k(W_k x), W_v x) )        norms on the outputs:
//!   x_nd = h_nd + norm_ffn( ffn(h_nd) )                                                        "reordered norm"
//!   logits_nv = W_head · norm(x_nd)
//! ```

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::flexolmo::{Mixture, Present};
use crate::kv_cache::KvCache;
use crate::mask::Sequences;
use crate::names;
use crate::ops::attention::{Heads, attention};
use crate::ops::embedding::embedding;
use crate::ops::feed_forward::feed_forward;
use crate::ops::linear::{linear, linear_three};
use crate::ops::rms_norm::{add_rms_norm, rms_norm};
use crate::rope::Rope;
use crate::weights::{Weight, Weights};
use burn::tensor::{Device, Tensor, TensorData};
use std::sync::Arc;

/// Gate, up [f, d] and down [d, f] of one `SwiGLU` layer.
#[derive(Clone, Debug)]
pub(crate) struct SwiGlu {
    pub gate: Tensor<2>,
    pub up: Tensor<2>,
    pub down: Tensor<2>,
}

impl SwiGlu {
    pub(crate) fn take(weights: &mut Taken<'_>, prefix: &str) -> Result<Self> {
        let (d, f) = (weights.config.hidden_size, weights.config.ffn_hidden);
        Ok(Self {
            gate: weights.matrix(&format!("{prefix}.gate_proj.weight"), f, d)?,
            up: weights.matrix(&format!("{prefix}.up_proj.weight"), f, d)?,
            down: weights.matrix(&format!("{prefix}.down_proj.weight"), d, f)?,
        })
    }

    pub(crate) fn matrices(&self) -> [Tensor<2>; 3] {
        [self.gate.clone(), self.up.clone(), self.down.clone()]
    }

    pub(crate) fn parameters<'a>(&'a mut self, prefix: &str, out: &mut Vec<Parameter<'a>>) {
        out.push(Parameter::matrix(format!("{prefix}.gate_proj.weight"), &mut self.gate));
        out.push(Parameter::matrix(format!("{prefix}.up_proj.weight"), &mut self.up));
        out.push(Parameter::matrix(format!("{prefix}.down_proj.weight"), &mut self.down));
    }
}

#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "one a layer, and never moved while computing")]
enum FeedForward {
    Dense(SwiGlu),
    Mixture(Mixture),
}

#[derive(Clone, Debug)]
struct Block {
    q: Tensor<2>,
    k: Tensor<2>,
    v: Tensor<2>,
    o: Tensor<2>,
    q_norm: Tensor<2>,
    k_norm: Tensor<2>,
    attention_norm: Tensor<2>,
    feed_forward: FeedForward,
    feed_forward_norm: Tensor<2>,
}

/// A dense `OLMo` 2 or a `FlexOlmo` mixture on a device.
#[derive(Clone, Debug)]
pub struct Model {
    config: ModelConfig,
    device: Device,
    embedding: Tensor<2>,
    blocks: Vec<Block>,
    norm: Tensor<2>,
    head: Tensor<2>,
    rope: Arc<Rope>,
}

/// What a pass through the model leaves beside the hidden state.
#[derive(Default)]
pub(crate) struct Routing {
    /// Which experts take part; all where absent.
    pub present: Option<Present>,
    /// Of every layer of a mixture: weights of the present experts, then logsumexp of the router's logits, [n, e + 1].
    pub layers: Vec<Tensor<2>>,
    /// The same before the choice of the top k, where asked for.
    pub probabilities: Option<Vec<Tensor<2>>>,
}

/// A parameter as the optimizer and the checkpoint see it.
pub(crate) struct Parameter<'a> {
    /// Its own name: Hugging Face's, with `[e]` behind it for the part of expert e of a tensor that all experts share.
    pub name: String,
    /// A vector stands as [1, d].
    pub vector: bool,
    pub value: &'a mut Tensor<2>,
}

impl<'a> Parameter<'a> {
    pub(crate) fn matrix(name: String, value: &'a mut Tensor<2>) -> Self {
        Self { name, vector: false, value }
    }

    pub(crate) fn vector(name: String, value: &'a mut Tensor<2>) -> Self {
        Self { name, vector: true, value }
    }

    /// Its numbers, with the shape that the format has.
    pub(crate) fn weight(&self) -> Weight {
        weight(self.value.clone(), self.vector)
    }
}

pub(crate) fn weight(value: Tensor<2>, vector: bool) -> Weight {
    let [rows, columns] = value.dims();
    let shape = if vector { vec![columns] } else { vec![rows, columns] };
    Weight { shape, data: value.inner().into_data().iter::<f32>().collect() }
}

/// Parameters by their own names → tensors by Hugging Face's: the parts of a tensor that all experts share, which come in
/// the experts' order, become one.
pub(crate) fn whole_tensors(parts: impl Iterator<Item = (String, Weight)>) -> Weights {
    let mut weights = Weights::new();
    for (name, part) in parts {
        match name.split_once('[') {
            None => {
                weights.insert(name, part);
            }
            Some((tensor, _)) => {
                let shape =
                    if part.shape == [1] && tensor.contains(".bias") { vec![0] } else { vec![0, part.data.len()] };
                let whole = weights.entry(tensor.to_owned()).or_insert_with(|| Weight { shape, data: Vec::new() });
                whole.shape[0] += 1;
                whole.data.extend(part.data);
            }
        }
    }
    weights
}

/// Weights that a model is built from, each taken once.
pub(crate) struct Taken<'a> {
    pub config: &'a ModelConfig,
    weights: &'a Weights,
    used: usize,
    device: &'a Device,
}

impl Taken<'_> {
    fn find(&mut self, name: &str, shape: &[usize]) -> Result<&Weight> {
        let place = || "the weights".to_owned();
        let weight = self
            .weights
            .get(name)
            .ok_or_else(|| Error::MissingTensors { place: place(), names: vec![name.to_owned()] })?;
        if weight.shape != shape || weight.data.len() != shape.iter().product::<usize>() {
            return Err(Error::TensorShape {
                name: name.to_owned(),
                place: place(),
                found: weight.shape.clone(),
                expected: shape.to_vec(),
            });
        }
        self.used += 1;
        Ok(weight)
    }

    pub(crate) fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<Tensor<2>> {
        let device = self.device.clone();
        let data = self.find(name, &[rows, columns])?.data.clone();
        Ok(Tensor::from_data(TensorData::new(data, [rows, columns]), &device))
    }

    pub(crate) fn vector(&mut self, name: &str, length: usize) -> Result<Tensor<2>> {
        let device = self.device.clone();
        let data = self.find(name, &[length])?.data.clone();
        Ok(Tensor::from_data(TensorData::new(data, [1, length]), &device))
    }

    /// Each row of a matrix by itself, [1, columns].
    pub(crate) fn rows(&mut self, name: &str, rows: usize, columns: usize) -> Result<Vec<Tensor<2>>> {
        let device = self.device.clone();
        let data = &self.find(name, &[rows, columns])?.data;
        let row = |r: &[f32]| Tensor::from_data(TensorData::new(r.to_vec(), [1, columns]), &device);
        Ok(data.chunks_exact(columns).map(row).collect())
    }

    /// The elements of a vector one by one, [1, 1]; absent where the tensor is.
    pub(crate) fn elements(&mut self, name: &str, length: usize) -> Result<Option<Vec<Tensor<2>>>> {
        if !self.weights.contains_key(name) {
            return Ok(None);
        }
        let device = self.device.clone();
        let data = &self.find(name, &[length])?.data;
        Ok(Some(data.iter().map(|&x| Tensor::from_data(TensorData::new(vec![x], [1, 1]), &device)).collect()))
    }
}

impl Model {
    /// A model of `weights`, by their Hugging Face names, on `device`. A mixture has a router bias if
    /// `model.layers.{l}.mlp.gate.bias` [experts] is there.
    ///
    /// # Errors
    /// [`Error::Config`], [`Error::MissingTensors`], [`Error::TensorShape`], and [`Error::UnknownTensor`] for a tensor
    /// that the model has no place for.
    pub fn new(config: &ModelConfig, weights: &Weights, device: &Device) -> Result<Self> {
        config.validate("the model")?;
        let device = device.clone().inner();
        let mut taken = Taken { config, weights, used: 0, device: &device };
        let d = config.hidden_size;
        let embedding = taken.matrix("model.embed_tokens.weight", config.vocab_size, d)?;
        let blocks = (0..config.num_layers).map(|l| Block::take(&mut taken, l)).collect::<Result<Vec<_>>>()?;
        let norm = taken.vector("model.norm.weight", d)?;
        let head = taken.matrix("lm_head.weight", config.vocab_size, d)?;
        let used = taken.used;
        let rope = Arc::new(Rope::new(config.head_dim, config.rope_theta));
        let mut model = Self { config: config.clone(), device: device.clone(), embedding, blocks, norm, head, rope };
        if used != weights.len() {
            let known = model.weights();
            let name = weights.keys().find(|name| !known.contains_key(*name)).map_or("", String::as_str);
            return Err(names::unknown(config, name, "the weights"));
        }
        model.train_only(&|_| false);
        Ok(model)
    }

    /// Its sizes.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where it computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// All its tensors by their Hugging Face names.
    pub fn weights(&self) -> Weights {
        let mut copy = self.clone();
        whole_tensors(copy.parameters().into_iter().map(|p| (p.name.clone(), p.weight())))
    }

    /// Every parameter, in a fixed order.
    pub(crate) fn parameters(&mut self) -> Vec<Parameter<'_>> {
        let mut out = vec![Parameter::matrix("model.embed_tokens.weight".to_owned(), &mut self.embedding)];
        for (l, block) in self.blocks.iter_mut().enumerate() {
            block.parameters(&format!("model.layers.{l}"), &mut out);
        }
        out.push(Parameter::vector("model.norm.weight".to_owned(), &mut self.norm));
        out.push(Parameter::matrix("lm_head.weight".to_owned(), &mut self.head));
        out
    }

    /// Records gradients of the parameters that are named so, and of no other.
    pub(crate) fn train_only(&mut self, trained: &dyn Fn(&str) -> bool) {
        let device = self.device.clone();
        for parameter in self.parameters() {
            let nothing = Tensor::from_data(TensorData::new(vec![0f32], [1, 1]), &device);
            let value = std::mem::replace(parameter.value, nothing).inner();
            *parameter.value = if trained(&parameter.name) { value.autodiff().require_grad() } else { value };
        }
    }

    /// The same model, of which no gradient is recorded; the numbers are shared.
    pub(crate) fn without_gradients(&self) -> Self {
        let mut still = self.clone();
        still.train_only(&|_| false);
        still
    }

    /// The output layer, [v, d].
    pub(crate) fn head(&self) -> Tensor<2> {
        self.head.clone()
    }

    /// The final, normalised hidden state [n, d] of the batch's tokens.
    pub(crate) fn hidden(
        &self,
        tokens: &Arc<[u32]>,
        sequences: &Sequences,
        routing: &mut Routing,
    ) -> Result<Tensor<2>> {
        let heads = self.heads_of(tokens, sequences)?;
        let mut x_nd = self.embed(tokens);
        for layer in 0..self.layers() {
            x_nd = self.block(layer, x_nd, &heads, routing);
        }
        Ok(self.end(x_nd))
    }

    /// What attention needs to know of a batch, once it is clear that the model can take it.
    pub(crate) fn heads_of(&self, tokens: &Arc<[u32]>, sequences: &Sequences) -> Result<Heads> {
        let end = sequences.positions_end();
        self.check(tokens, sequences, end)?;
        Ok(self.heads(sequences.clone(), end))
    }

    pub(crate) fn embed(&self, tokens: &Arc<[u32]>) -> Tensor<2> {
        embedding(self.embedding.clone(), tokens)
    }

    pub(crate) fn layers(&self) -> usize {
        self.blocks.len()
    }

    /// What leaves block `layer` [n, d].
    pub(crate) fn block(&self, layer: usize, x_nd: Tensor<2>, heads: &Heads, routing: &mut Routing) -> Tensor<2> {
        self.blocks[layer].forward(x_nd, heads, self.config.norm_eps as f32, routing)
    }

    /// The final norm, after the last block.
    pub(crate) fn end(&self, x_nd: Tensor<2>) -> Tensor<2> {
        rms_norm(x_nd, self.norm.clone(), self.config.norm_eps as f32)
    }

    /// Logits [v] after the last of `tokens`, which follow those that `cache` holds; they join it.
    ///
    /// # Errors
    /// [`Error::Input`] for tokens or positions that the model does not have.
    pub(crate) fn decode(&self, tokens: &[u32], cache: &mut KvCache, routing: &mut Routing) -> Result<Vec<f32>> {
        let sequences = Sequences::causal(1, tokens.len());
        let end = cache.len() + tokens.len();
        self.check(tokens, &sequences, end)?;
        let eps = self.config.norm_eps as f32;
        let heads = self.heads(sequences, end);
        let mut x_nd = embedding(self.embedding.clone(), &Arc::from(tokens));
        for (layer, block) in self.blocks.iter().enumerate() {
            x_nd = block.decode(x_nd, layer, cache, &heads, eps, routing);
        }
        cache.advance(tokens.len());
        let last_1d = x_nd.narrow(0, tokens.len() - 1, 1);
        let hidden_1d = rms_norm(last_1d, self.norm.clone(), eps);
        Ok(numbers(linear(hidden_1d, self.head())))
    }

    fn check(&self, tokens: &[u32], sequences: &Sequences, end: usize) -> Result<()> {
        let input = |reason: String| Error::Input { what: "tokens".to_owned(), reason };
        if tokens.len() != sequences.tokens() || tokens.is_empty() {
            return Err(input(format!("there are {}, the batch has {}", tokens.len(), sequences.tokens())));
        }
        if let Some(token) = tokens.iter().find(|&&t| t as usize >= self.config.vocab_size) {
            return Err(input(format!("token {token} is not in the vocabulary of {}", self.config.vocab_size)));
        }
        if end > self.config.max_positions {
            return Err(input(format!("position {} is beyond the model's {}", end - 1, self.config.max_positions)));
        }
        Ok(())
    }

    fn heads(&self, sequences: Sequences, end: usize) -> Heads {
        Heads {
            sequences,
            heads: self.config.num_heads,
            head_dim: self.config.head_dim,
            eps: self.config.norm_eps as f32,
            angles: self.rope.angles(end),
        }
    }

    /// Logits [n, v], row-major, of a batch; all of them, so for small batches.
    ///
    /// # Errors
    /// [`Error::Input`] for tokens or positions that the model does not have.
    pub fn logits(&self, tokens: &[u32], sequences: &Sequences) -> Result<Vec<f32>> {
        self.logits_without(tokens, sequences, &[])
    }

    /// [`Model::logits`] of a mixture without some of its experts, by number.
    ///
    /// # Errors
    /// As [`Model::logits`], and [`Error::Expert`] for experts that cannot be left out.
    pub fn logits_without(&self, tokens: &[u32], sequences: &Sequences, without: &[usize]) -> Result<Vec<f32>> {
        let mut routing = Routing { present: Present::without(&self.config, without)?, ..Routing::default() };
        let hidden = self.hidden(&Arc::from(tokens), sequences, &mut routing)?;
        Ok(numbers(linear(hidden, self.head())))
    }

    /// What share of each token went to each expert: `[layer][token][expert]`, 0 where it was not chosen.
    ///
    /// # Errors
    /// As [`Model::logits_without`]. A dense model has no layers of this kind: the answer is empty.
    pub fn routing(&self, tokens: &[u32], sequences: &Sequences, without: &[usize]) -> Result<Vec<Vec<Vec<f32>>>> {
        let mut routing = Routing { present: Present::without(&self.config, without)?, ..Routing::default() };
        self.hidden(&Arc::from(tokens), sequences, &mut routing)?;
        Ok(routing.layers.into_iter().map(by_token).collect())
    }

    /// Each layer's router probabilities before the choice of the top k: `[layer][token][expert]`.
    ///
    /// # Errors
    /// As [`Model::logits`].
    pub fn router_probabilities(&self, tokens: &[u32], sequences: &Sequences) -> Result<Vec<Vec<Vec<f32>>>> {
        let mut routing = Routing { probabilities: Some(Vec::new()), ..Routing::default() };
        self.hidden(&Arc::from(tokens), sequences, &mut routing)?;
        Ok(routing.probabilities.into_iter().flatten().map(by_token).collect())
    }
}

/// A tensor's numbers, row-major, in host memory.
fn numbers(tensor: Tensor<2>) -> Vec<f32> {
    tensor.inner().into_data().iter::<f32>().collect()
}

/// Rows of a layer's routing without the last column, which is not an expert.
fn by_token(layer: Tensor<2>) -> Vec<Vec<f32>> {
    let width = layer.dims()[1];
    let all: Vec<f32> = layer.inner().into_data().iter::<f32>().collect();
    all.chunks_exact(width).map(|row| row[..width - 1].to_vec()).collect()
}

impl Block {
    fn take(weights: &mut Taken<'_>, l: usize) -> Result<Self> {
        let (d, mixture) = (weights.config.hidden_size, weights.config.experts.clone());
        let name = |s: &str| format!("model.layers.{l}.{s}.weight");
        Ok(Self {
            q: weights.matrix(&name("self_attn.q_proj"), d, d)?,
            k: weights.matrix(&name("self_attn.k_proj"), d, d)?,
            v: weights.matrix(&name("self_attn.v_proj"), d, d)?,
            o: weights.matrix(&name("self_attn.o_proj"), d, d)?,
            q_norm: weights.vector(&name("self_attn.q_norm"), d)?,
            k_norm: weights.vector(&name("self_attn.k_norm"), d)?,
            attention_norm: weights.vector(&name("post_attention_layernorm"), d)?,
            feed_forward: match mixture {
                None => FeedForward::Dense(SwiGlu::take(weights, &format!("model.layers.{l}.mlp"))?),
                Some(m) => FeedForward::Mixture(Mixture::take(weights, &format!("model.layers.{l}.mlp"), &m)?),
            },
            feed_forward_norm: weights.vector(&name("post_feedforward_layernorm"), d)?,
        })
    }

    fn parameters<'a>(&'a mut self, prefix: &str, out: &mut Vec<Parameter<'a>>) {
        let name = |s: &str| format!("{prefix}.{s}.weight");
        out.push(Parameter::matrix(name("self_attn.q_proj"), &mut self.q));
        out.push(Parameter::matrix(name("self_attn.k_proj"), &mut self.k));
        out.push(Parameter::matrix(name("self_attn.v_proj"), &mut self.v));
        out.push(Parameter::matrix(name("self_attn.o_proj"), &mut self.o));
        out.push(Parameter::vector(name("self_attn.q_norm"), &mut self.q_norm));
        out.push(Parameter::vector(name("self_attn.k_norm"), &mut self.k_norm));
        out.push(Parameter::vector(name("post_attention_layernorm"), &mut self.attention_norm));
        match &mut self.feed_forward {
            FeedForward::Dense(dense) => dense.parameters(&format!("{prefix}.mlp"), out),
            FeedForward::Mixture(mixture) => mixture.parameters(&format!("{prefix}.mlp"), out),
        }
        out.push(Parameter::vector(name("post_feedforward_layernorm"), &mut self.feed_forward_norm));
    }

    fn forward(&self, x_nd: Tensor<2>, heads: &Heads, eps: f32, routing: &mut Routing) -> Tensor<2> {
        let qkv_n3d = linear_three(x_nd.clone(), [self.q.clone(), self.k.clone(), self.v.clone()]);
        let a_nd = attention(qkv_n3d, self.q_norm.clone(), self.k_norm.clone(), heads.clone());
        self.after_attention(a_nd, x_nd, eps, routing)
    }

    /// [`Block::forward`] of new tokens, behind those that the cache holds.
    fn decode(
        &self,
        x_nd: Tensor<2>,
        layer: usize,
        cache: &mut KvCache,
        heads: &Heads,
        eps: f32,
        routing: &mut Routing,
    ) -> Tensor<2> {
        let qkv_n3d = linear_three(x_nd.clone(), [self.q.clone(), self.k.clone(), self.v.clone()]);
        let (wq, wk) = (numbers(self.q_norm.clone()), numbers(self.k_norm.clone()));
        let a_nd = cache.attend(layer, &numbers(qkv_n3d), &wq, &wk, heads);
        let a_nd = Tensor::from_data(TensorData::new(a_nd, x_nd.dims()), &x_nd.device());
        self.after_attention(a_nd, x_nd, eps, routing)
    }

    fn after_attention(&self, a_nd: Tensor<2>, x_nd: Tensor<2>, eps: f32, routing: &mut Routing) -> Tensor<2> {
        let h_nd = add_rms_norm(linear(a_nd, self.o.clone()), self.attention_norm.clone(), x_nd, eps);
        let y_nd = match &self.feed_forward {
            FeedForward::Dense(dense) => feed_forward(h_nd.clone(), dense.matrices()),
            FeedForward::Mixture(mixture) => mixture.forward(&h_nd, routing),
        };
        add_rms_norm(y_nd, self.feed_forward_norm.clone(), h_nd, eps)
    }
}
