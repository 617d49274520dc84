//! The model against a second, independent one: scalar loops in f64, written from FLEXOLMO §1 and §2 and sharing no code
//! with the first.
#![allow(clippy::unwrap_used, reason = "tests")]

use flow_model::config::{Mixture, ModelConfig};
use flow_model::init::initial_weights;
use flow_model::mask::Sequences;
use flow_model::numerics::device;
use flow_model::olmo2::Model;
use flow_model::weights::{Weight, Weights};

const VOCAB: usize = 37;

fn config(layers: usize, experts: Option<(usize, usize)>) -> ModelConfig {
    let dense = ModelConfig {
        vocab_size: VOCAB,
        hidden_size: 24,
        num_layers: layers,
        num_heads: 3,
        head_dim: 8,
        ffn_hidden: 20,
        rope_theta: 500_000.0,
        norm_eps: 1e-6,
        max_positions: 64,
        eos_token_id: 0,
        pad_token_id: None,
        experts: None,
    };
    match experts {
        None => dense,
        Some((count, top_k)) => dense.with_experts(Mixture::of((1..count).map(|e| format!("e{e}")), top_k)),
    }
}

/// Weights far from their initial values: nothing is uniform, no norm is 1.
fn weights(config: &ModelConfig) -> Weights {
    let mut weights = initial_weights(config, 11);
    for (i, weight) in weights.values_mut().enumerate() {
        for (j, x) in weight.data.iter_mut().enumerate() {
            *x = if weight.shape.len() == 1 { 1.0 + 0.3 * ((i + j) as f32 * 0.7).sin() } else { *x * 15.0 };
        }
    }
    if let Some(mixture) = &config.experts {
        for l in 0..config.num_layers {
            let data = (0..mixture.count).map(|e| [0.0, -0.8, 0.5, -0.1][e % 4]).collect();
            weights.insert(format!("model.layers.{l}.mlp.gate.bias"), Weight { shape: vec![mixture.count], data });
        }
    }
    weights
}

type Row = Vec<f64>;

struct Scalar<'a> {
    config: &'a ModelConfig,
    weights: &'a Weights,
}

impl Scalar<'_> {
    fn weight(&self, name: &str) -> Row {
        self.weights[name].data.iter().map(|x| f64::from(*x)).collect()
    }

    /// W x for W [out, in].
    fn matrix(&self, name: &str, x: &[f64]) -> Row {
        self.weight(name).chunks(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
    }

    fn norm(&self, name: &str, x: &[f64]) -> Row {
        let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        let scale = 1.0 / (mean + self.config.norm_eps).sqrt();
        x.iter().zip(self.weight(name)).map(|(x, w)| x * scale * w).collect()
    }

    /// Each head's halves turned by the position's angles.
    fn rotate(&self, x: &[f64], position: usize) -> Row {
        let half = self.config.head_dim / 2;
        let mut out = x.to_vec();
        for head in out.chunks_mut(2 * half) {
            for i in 0..half {
                let angle = position as f64 * self.config.rope_theta.powf(-(i as f64) / half as f64);
                let (a, b) = (head[i], head[i + half]);
                head[i] = a * angle.cos() - b * angle.sin();
                head[i + half] = b * angle.cos() + a * angle.sin();
            }
        }
        out
    }

    fn attention(&self, l: usize, rows: &[Row]) -> Vec<Row> {
        let name = |part: &str| format!("model.layers.{l}.self_attn.{part}.weight");
        let turned = |x: &Row, t: usize, projection: &str, norm: &str| {
            self.rotate(&self.norm(&name(norm), &self.matrix(&name(projection), x)), t)
        };
        let each = rows.iter().enumerate();
        let q: Vec<Row> = each.clone().map(|(t, x)| turned(x, t, "q_proj", "q_norm")).collect();
        let k: Vec<Row> = each.map(|(t, x)| turned(x, t, "k_proj", "k_norm")).collect();
        let v: Vec<Row> = rows.iter().map(|x| self.matrix(&name("v_proj"), x)).collect();
        let h = self.config.head_dim;
        let one = |t: usize| {
            let mut out = vec![0.0; self.config.hidden_size];
            for head in 0..self.config.num_heads {
                let part = head * h..(head + 1) * h;
                let dot = |s: usize| -> f64 { part.clone().map(|i| q[t][i] * k[s][i]).sum() };
                let scores: Row = (0..=t).map(|s| dot(s) / (h as f64).sqrt()).collect();
                let p = softmax(&scores);
                for i in part.clone() {
                    out[i] = (0..=t).map(|s| p[s] * v[s][i]).sum();
                }
            }
            self.matrix(&name("o_proj"), &out)
        };
        (0..rows.len()).map(one).collect()
    }

    fn swiglu(&self, prefix: &str, x: &[f64]) -> Row {
        let gate = self.matrix(&format!("{prefix}.gate_proj.weight"), x);
        let up = self.matrix(&format!("{prefix}.up_proj.weight"), x);
        let inner: Row = gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
        self.matrix(&format!("{prefix}.down_proj.weight"), &inner)
    }

    fn feed_forward(&self, l: usize, x: &[f64]) -> Row {
        let prefix = format!("model.layers.{l}.mlp");
        let Some(mixture) = &self.config.experts else { return self.swiglu(&prefix, x) };
        let bias = self.weight(&format!("{prefix}.gate.bias"));
        let logits = self.matrix(&format!("{prefix}.gate.weight"), x);
        let logits: Row = logits.iter().zip(bias).map(|(x, b)| x + b.min(0.0)).collect();
        let p = softmax(&logits);
        let mut order: Vec<usize> = (0..p.len()).collect();
        order.sort_by(|a, b| p[*b].total_cmp(&p[*a]));
        let mut out = vec![0.0; x.len()];
        for e in &order[..mixture.top_k] {
            let y = self.swiglu(&format!("{prefix}.experts.{e}"), x);
            out.iter_mut().zip(y).for_each(|(out, y)| *out += p[*e] * y);
        }
        out
    }

    fn logits(&self, tokens: &[u32]) -> Row {
        let d = self.config.hidden_size;
        let embedding = self.weight("model.embed_tokens.weight");
        let mut rows: Vec<Row> = tokens.iter().map(|t| embedding[*t as usize * d..][..d].to_vec()).collect();
        let add = |x: &Row, y: Row| -> Row { x.iter().zip(y).map(|(x, y)| x + y).collect() };
        for l in 0..self.config.num_layers {
            let name = |part: &str| format!("model.layers.{l}.{part}.weight");
            let attended = self.attention(l, &rows);
            for (row, a) in rows.iter_mut().zip(attended) {
                *row = add(row, self.norm(&name("post_attention_layernorm"), &a));
                let y = self.feed_forward(l, row);
                *row = add(row, self.norm(&name("post_feedforward_layernorm"), &y));
            }
        }
        rows.iter().flat_map(|x| self.matrix("lm_head.weight", &self.norm("model.norm.weight", x))).collect()
    }
}

fn softmax(x: &[f64]) -> Row {
    let top = x.iter().copied().fold(f64::MIN, f64::max);
    let exp: Row = x.iter().map(|x| (x - top).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.iter().map(|x| x / sum).collect()
}

fn agrees(config: &ModelConfig) {
    let weights = weights(config);
    let tokens: Vec<u32> = (0..19u32).map(|i| (i * i * 7 + 3) % VOCAB as u32).collect();
    let model = Model::new(config, &weights, &device("cpu").unwrap()).unwrap();
    let got = model.logits(&tokens, &Sequences::causal(1, tokens.len())).unwrap();
    let want = Scalar { config, weights: &weights }.logits(&tokens);
    let size = want.iter().map(|x| x.abs()).fold(0.0, f64::max);
    let worst = got.iter().zip(&want).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
    assert!(size > 1.0, "{size}: too small to tell anything");
    assert!(worst < 2e-5 * size, "{worst:e} of {size}");
}

#[test]
fn one_dense_block_is_what_the_formulas_say() {
    agrees(&config(1, None));
}

#[test]
fn blocks_stand_on_each_other() {
    agrees(&config(3, None));
}

#[test]
fn one_block_of_experts_is_what_the_formulas_say() {
    for top_k in 1..=4 {
        agrees(&config(1, Some((4, top_k))));
    }
}

#[test]
fn all_experts_chosen_is_the_dense_mixture() {
    // Without a choice the layer is Σ_e p_e · ffn_e(h), which is one SwiGLU of all experts' inner units side by side, each
    // weighted with its expert's probability; where the experts are equal it is the dense layer itself.
    let (dense, mixture) = (config(2, None), config(2, Some((3, 3))));
    let of_dense = weights(&dense);
    let mut of_mixture = weights(&mixture);
    for (name, weight) in &mut of_mixture {
        let plain = match name.split_once(".experts.") {
            Some((prefix, rest)) => format!("{prefix}.{}", rest.split_once('.').unwrap().1),
            None => name.clone(),
        };
        if let Some(shared) = of_dense.get(&plain) {
            weight.clone_from(shared);
        }
    }
    let tokens: Vec<u32> = (0..30u32).map(|i| (i * 11 + 5) % VOCAB as u32).collect();
    let logits = |config: &ModelConfig, weights: &Weights| {
        let model = Model::new(config, weights, &device("cpu").unwrap()).unwrap();
        model.logits(&tokens, &Sequences::causal(1, tokens.len())).unwrap()
    };
    let (a, b) = (logits(&dense, &of_dense), logits(&mixture, &of_mixture));
    let size = a.iter().map(|x| x.abs()).fold(0f32, f32::max);
    let worst = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
    assert!(worst < 2e-5 * size, "{worst:e} of {size}");
}
