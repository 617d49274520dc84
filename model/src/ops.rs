//! The model's operations. On the CPU each is one fused kernel with its own backward pass; on every other device the same
//! function composes burn's own operations, so the model is written once.
//!
//! On the CPU every result is the same to the bit for any number of threads: work is cut into parts of constant size,
//! parts are summed in their order, and no sum is divided between threads.
//!
//! ```text
//!   embedding → linear_three → attention → linear → add_rms_norm → feed_forward ────────────→ add_rms_norm → …
//!                                                                 └ route → expert → expert ┘
//!   … → rms_norm → cross_entropy (training) | log_probabilities (scoring)
//! ```

use burn::backend::{Autodiff, DispatchDevice, Flex, tensor::FloatTensor};
use burn::tensor::Tensor;
use burn_flex::FlexTensor;

pub(crate) mod attention;
mod buffer;
pub(crate) mod cross_entropy;
pub(crate) mod embedding;
pub(crate) mod feed_forward;
mod gemm;
pub(crate) mod linear;
pub(crate) mod product;
pub(crate) mod rms_norm;
pub(crate) mod router;
pub(crate) mod simd;

#[cfg(test)]
pub(crate) mod check;

/// Rows of a part of row-wise work: a constant, since parts are summed part by part.
const ROWS: usize = 64;

/// A tensor that is recorded for the backward pass.
type Tape<C> = FloatTensor<Autodiff<Flex, C>>;

/// Whether the fused kernels serve this tensor.
fn fused(x: &Tensor<2>) -> bool {
    fused_on(&x.device())
}

/// Whether the fused kernels serve this device.
pub(crate) fn fused_on(device: &burn::tensor::Device) -> bool {
    #[cfg(test)]
    if check::composed() {
        return false;
    }
    matches!(device.clone().inner().as_dispatch(), DispatchDevice::Flex(_))
}

/// The CPU's own tensor, row-major.
pub(crate) fn flex(x: Tensor<2>) -> FlexTensor {
    match x.inner().try_into_primitive::<Flex>() {
        Ok(x) => buffer::contiguous(x),
        Err(_) => unreachable!("asked only where `fused` holds"),
    }
}

/// The elements of a tensor that [`flex`] returned.
pub(crate) fn elements(x: &FlexTensor) -> &[f32] {
    buffer::slice(x)
}

/// The same to be changed: in place where the tensor has no other owner, else in a copy.
pub(crate) fn elements_mut(x: &mut FlexTensor) -> &mut [f32] {
    if x.layout().start_offset() != 0 {
        *x = x.to_contiguous();
    }
    let n = buffer::dims(x).iter().product::<usize>();
    &mut x.storage_mut::<f32>()[..n]
}

/// Back from the CPU's own tensor.
pub(crate) fn from_flex(x: FlexTensor) -> Tensor<2> {
    Tensor::from_primitive::<Flex>(x)
}

/// The instruction set that decides the bits of matrix products.
pub(crate) fn kernels() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        match simd::level() {
            simd::Level::V4 => "cpu-x86-64-v4-f32-1",
            simd::Level::V3 => "cpu-x86-64-v3-f32-1",
            simd::Level::Portable => "cpu-x86-64-f32-1",
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        "cpu-aarch64-f32-1"
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        "cpu-f32-1"
    }
}
