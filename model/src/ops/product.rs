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

    fn matrix(rows: usize, columns: usize) -> Tensor<2> {
        let numbers: Vec<f32> = (0..rows * columns).map(|i| (i as f32 * 0.37).sin()).collect();
        Tensor::from_data(TensorData::new(numbers, [rows, columns]), &Device::flex().autodiff()).require_grad()
    }

    /// Product, gradient of a, gradient of b.
    fn run() -> [Vec<f32>; 3] {
        let (a, b) = (matrix(5, 70), matrix(70, 6));
        let y = product(a.clone(), b.clone());
        let weights = matrix(5, 6).inner();
        let grads = (y.clone() * Tensor::from_inner(weights)).sum().backward();
        let numbers = |t: Tensor<2>| {
            let data = t.inner().into_data();
            assert_eq!(data.dtype(), burn::tensor::DType::F32);
            data.iter::<f32>().collect::<Vec<f32>>()
        };
        [numbers(y), numbers(a.grad(&grads).unwrap()), numbers(b.grad(&grads).unwrap())]
    }

    #[test]
    fn bf16_is_near_and_not_the_same_both_ways() {
        let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| x * x).sum::<f32>().sqrt();
        for (full, reduced) in as_other_devices(run).iter().zip(&as_reduced_devices(run)) {
            let apart = norm(&mut full.iter().zip(reduced).map(|(a, b)| a - b)) / norm(&mut full.iter().copied());
            // bf16 has 8 bits: each number is off by up to 2⁻⁹ of itself.
            assert!(apart > 1e-5 && apart < 8e-3, "{apart}");
        }
    }

    #[test]
    fn the_cpu_computes_in_f32() {
        assert!(!reduced_on(&Device::flex()) && !reduced_on(&Device::flex().autodiff()));
    }
}
