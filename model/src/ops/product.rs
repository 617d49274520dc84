//! Matrix products of other devices than the CPU: of bf16 numbers where the device computes with those, in f32 else. What
//! goes in and what comes out, forward and backward, is f32, and so are the weights and the optimizer's means: bf16 has
//! f32's range, so a loss needs no scale.

use burn::tensor::{Device, FloatDType, Tensor};

/// Whether products on `device` are of bf16 numbers. On the CPU they are not: its kernels are in f32.
pub(crate) fn reduced_on(device: &Device) -> bool {
    #[cfg(test)]
    if super::check::composed() {
        return super::check::reduced();
    }
    !super::fused_on(device) && device.clone().inner().supports_dtype(FloatDType::BF16)
}

/// `a·b` of the last two axes.
pub(super) fn product<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    if reduced_on(&a.device()) {
        return a.cast(FloatDType::BF16).matmul(b.cast(FloatDType::BF16)).cast(FloatDType::F32);
    }
    a.matmul(b)
}

#[cfg(test)]
mod tests {
    use super::super::check::{as_other_devices, as_reduced_devices};
    use super::*;
    use burn::tensor::TensorData;

    const SIZES: [usize; 3] = [5, 70, 6];

    fn numbers(rows: usize, columns: usize, from: f32) -> Vec<f32> {
        (0..rows * columns).map(|i| (i as f32 * 0.37 + from).sin()).collect()
    }

    fn matrix(rows: usize, columns: usize, from: f32) -> Tensor<2> {
        let data = TensorData::new(numbers(rows, columns, from), [rows, columns]);
        Tensor::from_data(data, &Device::flex().autodiff())
    }

    /// a·b, and the gradients of a and b where that of a·b is g.
    fn run() -> [Vec<f32>; 3] {
        let [m, k, n] = SIZES;
        let (a, b) = (matrix(m, k, 0.0).require_grad(), matrix(k, n, 1.0).require_grad());
        let y = product(a.clone(), b.clone());
        let grads = (y.clone() * matrix(m, n, 2.0)).sum().backward();
        let numbers = |t: Tensor<2>| {
            let data = t.inner().into_data();
            assert_eq!(data.dtype(), burn::tensor::DType::F32);
            data.iter::<f32>().collect::<Vec<f32>>()
        };
        [numbers(y), numbers(a.grad(&grads).unwrap()), numbers(b.grad(&grads).unwrap())]
    }

    /// Σ |x·y| of every element of the three products: what their roundings are relative to.
    fn magnitudes() -> [Vec<f32>; 3] {
        let [m, k, n] = SIZES;
        let (a, b, g) = (numbers(m, k, 0.0), numbers(k, n, 1.0), numbers(m, n, 2.0));
        let sums = |rows: usize, columns: usize, inner: usize, term: &dyn Fn(usize, usize, usize) -> f32| {
            let at = |i: usize| (0..inner).map(|l| term(i / columns, i % columns, l).abs()).sum::<f32>();
            (0..rows * columns).map(at).collect::<Vec<f32>>()
        };
        [
            sums(m, n, k, &|i, j, l| a[i * k + l] * b[l * n + j]),
            sums(m, k, n, &|i, j, l| g[i * n + l] * b[j * n + l]),
            sums(k, n, m, &|i, j, l| a[l * k + i] * g[l * n + j]),
        ]
    }

    #[test]
    fn bf16_rounds_each_factor_and_the_sum_both_ways() {
        let (full, reduced) = (as_other_devices(run), as_reduced_devices(run));
        for ((full, reduced), magnitude) in full.iter().zip(&reduced).zip(&magnitudes()) {
            assert_ne!(full, reduced, "nothing was rounded");
            for ((x, y), m) in full.iter().zip(reduced).zip(magnitude) {
                // Each of two factors and the sum by up to 2⁻⁹ of itself.
                assert!((x - y).abs() <= 3.1 / 512.0 * m, "{x} {y} {m}");
            }
        }
    }

    #[test]
    fn the_cpu_computes_in_f32() {
        assert!(!reduced_on(&Device::flex()) && !reduced_on(&Device::flex().autodiff()));
    }
}
