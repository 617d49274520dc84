//! What a model costs: parameters, floating-point operations, memory, device-hours. For plans; nothing here runs.
//!
//! Everything is summed over the list of tensors ([`crate::names`]), so a count cannot differ from the model. Conventions:
//! - A matrix product of n weights costs 2n operations a token forward, 2n for the gradient of its input and 2n for the gradient of its
//!   weights: 6n in training (Kaplan et al. 2020, arXiv:2001.08361, §2.1). The embedding table is a look-up and costs nothing.
//! - Attention costs 4·layers·d·sequence a token forward, 12·… in training (Chowdhery et al. 2022, `PaLM`, arXiv:2204.02311, appendix B);
//!   as there, the causal half that a good kernel leaves out is counted.
//! - Norms, `RoPE`, softmax and the optimizer are left out: below 1% at any size of interest.

use crate::config::ModelConfig;
use crate::names::{self, Role, TensorName};

/// Numbers of parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Parameters {
    /// All of them.
    pub total: u64,
    /// Those that one token meets: of the experts, `top_k`.
    pub active: u64,
    /// The embedding table (the output layer, as large, is not in it).
    pub embedding: u64,
    /// The FFN of one expert, over all layers; of a dense model, its FFN.
    pub expert: u64,
}

/// Counts a model's parameters.
pub fn parameters(config: &ModelConfig) -> Parameters {
    let mut counted = Parameters { total: 0, active: 0, embedding: 0, expert: 0 };
    for (name, elements) in sized(config) {
        counted.total += elements;
        match name.role {
            Role::Embedding => counted.embedding += elements,
            Role::Ffn(_) => counted.expert += elements,
            Role::Expert(_) if name.expert == 0 => counted.expert += elements,
            _ => {}
        }
        if is_active(name, config) {
            counted.active += elements;
        }
    }
    counted
}

/// Which tensors a training changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trained {
    /// None: inference.
    Nothing,
    /// All.
    Everything,
    /// The last expert and its router row, beside frozen others (FLEXOLMO §3).
    LastExpert,
    /// The router alone (FLEXOLMO §5, `-RT`).
    Router,
}

impl Trained {
    fn has(self, name: TensorName, config: &ModelConfig) -> bool {
        let experts = config.experts.as_ref().map_or(0, |mixture| mixture.count);
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::LastExpert => match name.role {
                Role::Expert(_) => name.expert + 1 == experts,
                // One of its rows; the whole matrix is counted, which is next to nothing.
                Role::Router => true,
                _ => false,
            },
            Self::Router => name.role == Role::Router,
        }
    }
}

/// Floating-point operations for one token of a sequence of `sequence` tokens.
///
/// A frozen tensor costs no gradient of its own, but the gradient still goes through it, down to the first trained tensor: in expert
/// training through every layer's frozen attention and FFN but the first layer's attention.
pub fn flops_per_token(config: &ModelConfig, sequence: usize, trained: Trained) -> f64 {
    let mut flops = 0.0;
    for (name, elements) in sized(config) {
        if name.role == Role::Embedding || !is_active(name, config) {
            continue;
        }
        let products = match (trained, trained.has(name, config)) {
            (Trained::Nothing, _) => 1.0,
            (_, true) => 3.0,
            (_, false) if below_first_trained(name, trained) => 1.0,
            (_, false) => 2.0,
        };
        flops += 2.0 * products * elements as f64;
    }
    // The scores and the weighted sum have no weights: a backward pass costs twice the forward one, wherever the gradient passes.
    let (layers, once) = (config.num_layers as f64, 4.0 * config.hidden_size as f64 * sequence as f64);
    let backward_layers = match trained {
        Trained::Nothing => 0.0,
        Trained::Everything => layers,
        Trained::LastExpert | Trained::Router => layers - 1.0,
    };
    flops + once * (layers + 2.0 * backward_layers)
}

/// Whether no gradient has to reach the tensor's input: it stands before the first trained tensor, the first layer's FFN or router.
fn below_first_trained(name: TensorName, trained: Trained) -> bool {
    let attention = matches!(
        name.role,
        Role::Query | Role::Key | Role::Value | Role::Output | Role::QueryNorm | Role::KeyNorm | Role::AttentionNorm
    );
    // The frozen experts beside it get the same input as it does, which in the first layer nothing trained made.
    let beside = matches!(name.role, Role::Expert(_) | Role::Router);
    matches!(trained, Trained::LastExpert | Trained::Router) && name.layer == 0 && (attention || beside)
}

fn sized(config: &ModelConfig) -> impl Iterator<Item = (TensorName, u64)> {
    names::typed_tensors(config)
        .into_iter()
        .map(|(name, shape)| (name, shape.iter().map(|side| *side as u64).product()))
}

/// Experts are alike in size: the last `top_k` of them stand for those that a token is sent to, so that the trained one is among them.
fn is_active(name: TensorName, config: &ModelConfig) -> bool {
    match (&config.experts, name.role) {
        (Some(mixture), Role::Expert(_)) => name.expert + mixture.top_k >= mixture.count,
        _ => true,
    }
}

/// How a training is laid out on devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainingLayout {
    /// What is trained.
    pub trained: Trained,
    /// Tokens that go through one device at a time: sequences × length.
    pub tokens_per_device: u64,
    /// Bytes of an element in computation: 4 for f32, 2 for bf16 (then f32 master weights are kept besides).
    pub compute_bytes: u64,
    /// Keep the input of each layer only, and compute the rest again in the backward pass.
    pub recompute: bool,
    /// Devices over which weights, gradients and moments are divided.
    pub devices: u64,
}

/// Memory of a training on one device, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct TrainingMemory {
    /// Weights in the type of the computation, and f32 master weights of what is trained where that type is smaller.
    pub weights: u64,
    /// Gradients of what is trained, f32.
    pub gradients: u64,
    /// The two moments of `AdamW` of what is trained, f32.
    pub moments: u64,
    /// What the backward pass needs of the forward pass.
    pub activations: u64,
    /// All of it.
    pub total: u64,
}

/// Rows of logits that exist at a time: the output layer and its loss are computed over chunks.
const LOGIT_ROWS: u64 = 1024;

/// Estimates the memory of a training on one device.
///
/// Activations of a token in a layer, in elements: the block's input, q, k, v, the normed q and k, attention's result and its
/// projection, the middle of the block, the FFN's result (10·d in all); gate, up and their product in each of the token's experts (3·ffn);
/// one probability an expert. Attention's scores are not kept (tiled). With recomputation: d a layer, and one layer in full. At the
/// end: final norm and its input (2·d) for every token, and two chunks of [`LOGIT_ROWS`] × vocabulary in f32. What an allocator
/// wastes is not in it.
pub fn training_memory(config: &ModelConfig, layout: &TrainingLayout) -> TrainingMemory {
    let TrainingLayout { trained, tokens_per_device, compute_bytes, recompute, devices } = *layout;
    let total: u64 = sized(config).map(|(_, elements)| elements).sum();
    let moving: u64 = sized(config).filter(|(name, _)| trained.has(*name, config)).map(|(_, elements)| elements).sum();
    let devices = devices.max(1);
    let master = if compute_bytes < 4 { 4 * moving } else { 0 };
    let weights = (total * compute_bytes + master).div_ceil(devices);
    let gradients = (4 * moving).div_ceil(devices);
    let moments = (8 * moving).div_ceil(devices);

    let (d, ffn, layers) = (config.hidden_size as u64, config.ffn_hidden as u64, config.num_layers as u64);
    let (experts, top_k) = config.experts.as_ref().map_or((0, 1), |m| (m.count as u64, m.top_k as u64));
    let layer = 10 * d + 3 * ffn * top_k + experts;
    let kept = if recompute { layers * d + layer } else { layers * layer };
    let logits = 2 * 4 * LOGIT_ROWS.min(tokens_per_device) * config.vocab_size as u64;
    let activations = if trained == Trained::Nothing {
        layer * compute_bytes * tokens_per_device
    } else {
        (kept + 2 * d) * compute_bytes * tokens_per_device
    } + logits;
    TrainingMemory { weights, gradients, moments, activations, total: weights + gradients + moments + activations }
}

/// A device as a plan sees it.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Accelerator {
    /// For people.
    pub name: &'static str,
    /// Peak dense operations a second in the type of the computation.
    pub peak_flops: f64,
    /// Memory in bytes.
    pub memory: u64,
    /// The share of the peak that a training reaches (model FLOPs utilisation).
    pub utilisation: f64,
}

/// NVIDIA H100 SXM: 989 TFLOP/s dense bf16, 80 GB (data sheet); 40% of the peak is what large dense trainings reach.
pub const H100: Accelerator =
    Accelerator { name: "H100 SXM, bf16", peak_flops: 989e12, memory: 80_000_000_000, utilisation: 0.4 };

impl Accelerator {
    /// Hours of one such device for so many operations.
    pub fn hours(&self, flops: f64) -> f64 {
        flops / (self.peak_flops * self.utilisation) / 3600.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Mixture;
    use crate::preset::Preset;

    fn mixture(experts: usize, top_k: usize) -> ModelConfig {
        let config = Preset::Olmo27b.config();
        config.with_experts(Mixture::of((1..experts).map(|e| format!("e{e}")), top_k))
    }

    fn close(found: u64, expected: f64) {
        let shown = found as f64 / 1e9;
        assert!((shown - expected).abs() < 0.006 * expected, "{shown} and {expected}");
    }

    /// The paper's numbers, in 10⁹.
    #[test]
    fn the_papers_parameters() {
        let dense = parameters(&Preset::Olmo27b.config());
        assert_eq!(dense.total, 7_298_617_344);
        assert_eq!(dense.expert, 32 * 3 * 4096 * 11008);
        assert_eq!(dense.embedding, 100_352 * 4096);
        close(dense.total, 7.30);
        close(dense.expert, 4.33);
        close(parameters(&mixture(2, 2)).total, 11.6);
        close(parameters(&mixture(7, 4)).total, 33.3);
        let eight = parameters(&mixture(8, 4));
        close(eight.total, 37.6);
        close(eight.active, 20.3);
    }

    /// By hand: d² × 4 + 3·d·f + 4·d (norms) a layer, 2·v·d + d outside.
    #[test]
    fn the_walk_agrees_with_the_formula() {
        for preset in [Preset::Nano, Preset::Pico, Preset::Tiny, Preset::Olmo27b] {
            let c = preset.config();
            let (d, f, v, l) = (c.hidden_size as u64, c.ffn_hidden as u64, c.vocab_size as u64, c.num_layers as u64);
            let counted = parameters(&c);
            assert_eq!(counted.total, l * (4 * d * d + 3 * d * f + 4 * d) + 2 * v * d + d);
            assert_eq!(counted.active, counted.total);
        }
    }

    #[test]
    fn flops_are_six_a_weight_and_attention() {
        let config = Preset::Olmo27b.config();
        let counted = parameters(&config);
        let weights = (counted.total - counted.embedding) as f64;
        let attention = 4.0 * 32.0 * 4096.0 * 4096.0;
        assert_eq!(flops_per_token(&config, 4096, Trained::Nothing), 2.0 * weights + attention);
        assert_eq!(flops_per_token(&config, 4096, Trained::Everything), 6.0 * weights + 3.0 * attention);
    }

    #[test]
    fn frozen_tensors_cost_less() {
        let config = mixture(2, 2);
        let [nothing, expert, everything] = [Trained::Nothing, Trained::LastExpert, Trained::Everything]
            .map(|trained| flops_per_token(&config, 4096, trained));
        assert!(2.0 * nothing < expert && expert < everything);
        // A third product for the trained FFN only (and its row), and no second one before it.
        let counted = parameters(&config);
        let first_attention = 4.0 * 4096.0 * 4096.0;
        let frozen_ffn = counted.expert as f64 / 32.0;
        let trained = counted.expert as f64 + 32.0 * 2.0 * 4096.0;
        let norms = 3.0 * 4096.0;
        // Attention's own backward: twice the forward in 31 layers, of which `2 * nothing` has once in 32.
        let attention = 4.0 * 4096.0 * 4096.0 * (2.0 * 31.0 - 32.0);
        let expected = 2.0 * nothing + 2.0 * trained - 2.0 * (first_attention + frozen_ffn + norms) + attention;
        assert!((expert - expected).abs() < 1e-9 * expert, "{expert} {expected}");
        // Only the tokens' own experts cost: four of eight cost the same as four of four.
        let wide = flops_per_token(&mixture(8, 4), 4096, Trained::Nothing);
        let narrow = flops_per_token(&mixture(4, 4), 4096, Trained::Nothing);
        assert!((wide - narrow).abs() < 1e-4 * wide);
    }

    #[test]
    fn memory_adds_up() {
        let config = Preset::Olmo27b.config();
        let layout = TrainingLayout {
            trained: Trained::Everything,
            tokens_per_device: 8192,
            compute_bytes: 2,
            recompute: true,
            devices: 1,
        };
        let one = training_memory(&config, &layout);
        let total = 7_298_617_344_u64;
        assert_eq!((one.weights, one.gradients, one.moments), (6 * total, 4 * total, 8 * total));
        assert_eq!(one.total, one.weights + one.gradients + one.moments + one.activations);
        assert!(one.total > H100.memory);
        let sharded = training_memory(&config, &TrainingLayout { devices: 64, ..layout });
        assert_eq!(sharded.weights, (6 * total).div_ceil(64));
        assert_eq!(sharded.activations, one.activations);
        assert!(sharded.total < H100.memory);
        let kept = training_memory(&config, &TrainingLayout { recompute: false, ..layout });
        assert!(kept.activations > 5 * one.activations);
        let expert = training_memory(&mixture(2, 2), &TrainingLayout { trained: Trained::LastExpert, ..layout });
        assert!(expert.moments < one.moments * 6 / 10);
    }

    /// 1T tokens of the dense model: 4.8e22 operations, some 34,000 hours of an H100.
    #[test]
    fn the_papers_pretraining_in_hours() {
        let flops = 1e12 * flops_per_token(&Preset::Olmo27b.config(), 4096, Trained::Everything);
        assert!((4.7e22..4.9e22).contains(&flops), "{flops:e}");
        assert!((33e3..35e3).contains(&H100.hours(flops)), "{}", H100.hours(flops));
    }
}
