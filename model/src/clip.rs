//! Clipping by the global norm: one norm over all gradients together, summed in f64 in a fixed order.

use crate::ops::simd::sum_squares;
use crate::ops::{elements, flex, fused_on};
use burn::tensor::Tensor;
use rayon::prelude::*;

/// Elements of a partial sum: part of the result.
const PART: usize = 1 << 14;

/// √Σ g² over all gradients, in the order that they come in.
pub(crate) fn global_norm<'a>(gradients: impl Iterator<Item = &'a Tensor<2>>) -> f64 {
    gradients.map(squares).sum::<f64>().sqrt()
}

fn squares(gradient: &Tensor<2>) -> f64 {
    if fused_on(&gradient.device()) {
        let gradient = flex(gradient.clone());
        let parts: Vec<f64> = elements(&gradient).par_chunks(PART).map(sum_squares).collect();
        return parts.iter().sum();
    }
    let sum = gradient.clone().inner().square().sum().into_data();
    f64::from(sum.iter::<f32>().next().unwrap_or(f32::NAN))
}

/// What gradients of norm `norm` are multiplied with so that it becomes at most `limit` (torch's `clip_grad_norm_`).
pub(crate) fn factor(norm: f64, limit: Option<f64>) -> f64 {
    limit.map_or(1.0, |limit| (limit / (norm + 1e-6)).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};

    #[test]
    fn the_norm_is_global_and_has_the_same_bits_on_any_number_of_threads() {
        let device = Device::flex();
        let v: Vec<f32> = (0..100_000).map(|i| (i as f32 * 0.17).sin()).collect();
        let want = 2f64.sqrt() * v.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
        let t = Tensor::<2>::from_data(TensorData::new(v, [100, 1000]), &device);
        let norms: Vec<f64> = (1..=3)
            .map(|threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| global_norm([&t, &t].into_iter()))
            })
            .collect();
        assert!((norms[0] - want).abs() < 1e-9 * want);
        assert!(norms.iter().all(|n| n.to_bits() == norms[0].to_bits()));
        assert_eq!(factor(4.0, None), 1.0);
        assert_eq!(factor(0.5, Some(1.0)), 1.0);
        assert!((factor(4.0, Some(1.0)) - 0.25).abs() < 1e-6);
    }
}
