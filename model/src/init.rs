//! Fresh weights: normal with standard deviation 0.02, cut at 3 deviations; norms 1 (OLMo-core's default, FLEXOLMO §1).
//!
//! Each number is a function of the seed, the tensor's name and the element's index, so no tensor's numbers depend on
//! which others a model has, nor on threads.

use crate::config::ModelConfig;
use crate::names;
use crate::weights::{Weight, Weights};
use rayon::prelude::*;
use std::f64::consts::TAU;

const DEVIATION: f64 = 0.02;
/// In deviations.
const CUT: f64 = 3.0;

/// A reproducible stream of numbers for the tensor `name` of the model of `seed`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Normal(u64);

impl Normal {
    pub(crate) fn new(seed: u64, name: &str) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("flow model initial weights 1");
        hasher.update(&seed.to_le_bytes());
        hasher.update(name.as_bytes());
        let mut key = [0; 8];
        key.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
        Self(u64::from_le_bytes(key))
    }

    /// Number `counter` of the stream, uniform in (0, 1): `SplitMix64` as a counter-based generator.
    fn uniform(self, counter: u64) -> f64 {
        let mut z = self.0.wrapping_add(counter.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64 + 0.5 / (1u64 << 53) as f64
    }

    /// A standard normal number, drawn again while it is beyond the cut.
    pub(crate) fn at(self, index: u64) -> f64 {
        // Attempts lie far apart, so that no two elements share one.
        (0..64u64)
            .map(|attempt| {
                let counter = (attempt << 48) + 2 * index;
                let (u, v) = (self.uniform(counter), self.uniform(counter + 1));
                libm::sqrt(-2.0 * libm::log(u)) * libm::cos(TAU * v)
            })
            .find(|z| z.abs() <= CUT)
            .unwrap_or(0.0)
    }
}

/// Fresh weights of a model.
pub fn initial_weights(config: &ModelConfig, seed: u64) -> Weights {
    let tensor = |(name, shape): (String, Vec<usize>)| {
        let data = if shape.len() == 1 {
            vec![1.0; shape[0]]
        } else {
            let normal = Normal::new(seed, &name);
            let elements = shape.iter().product::<usize>() as u64;
            (0..elements).into_par_iter().map(|i| (DEVIATION * normal.at(i)) as f32).collect()
        };
        (name, Weight { shape, data })
    };
    names::tensors(config).into_iter().map(tensor).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_normal_and_cut() {
        let normal = Normal::new(7, "a");
        let z: Vec<f64> = (0..100_000).map(|i| normal.at(i)).collect();
        let n = z.len() as f64;
        let mean = z.iter().sum::<f64>() / n;
        let variance = z.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
        // A normal cut at 3 deviations has variance 0.973.
        assert!(mean.abs() < 0.01 && (variance - 0.973).abs() < 0.02, "{mean} {variance}");
        assert!(z.iter().all(|x| x.abs() <= 3.0) && z.iter().any(|x| x.abs() > 2.9));
    }

    #[test]
    fn numbers_depend_on_seed_and_name_only() {
        assert_eq!(Normal::new(7, "a").at(3).to_bits(), Normal::new(7, "a").at(3).to_bits());
        assert_ne!(Normal::new(7, "a").at(3), Normal::new(8, "a").at(3));
        assert_ne!(Normal::new(7, "a").at(3), Normal::new(7, "b").at(3));
        // A checkpoint of a run that began before must still be that run's.
        assert_eq!(format!("{:.12}", Normal::new(6198, "lm_head.weight").at(0)), "0.039917013394");
    }
}
