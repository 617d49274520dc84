//! Between burn's CPU tensors and slices.

use burn::backend::TensorMetadata;
use burn::tensor::{Bytes, DType, Shape};
use burn_flex::{FlexTensor, Layout};
use std::mem::MaybeUninit;

/// An element that a kernel has still to write.
pub(crate) type Unwritten = MaybeUninit<f32>;

/// A vector of `n` elements that `write` fills. Burn zeroes every output first, which costs more than many kernels.
///
/// # Safety
/// `write` must write every element.
pub(crate) unsafe fn written_by(n: usize, write: impl FnOnce(&mut [Unwritten])) -> Vec<f32> {
    let mut v: Vec<f32> = Vec::with_capacity(n);
    write(&mut v.spare_capacity_mut()[..n]);
    // SAFETY: the capacity is at least n, and the caller promises that all n elements are written.
    unsafe { v.set_len(n) };
    v
}

/// The tensor with its elements in row-major order; copies only a strided view.
pub(crate) fn contiguous(t: FlexTensor) -> FlexTensor {
    if t.as_slice::<f32>().is_some() { t } else { t.to_contiguous() }
}

/// The elements of a [`contiguous`] f32 tensor. The model makes no other float type on this backend.
pub(crate) fn slice(t: &FlexTensor) -> &[f32] {
    t.as_slice::<f32>().unwrap_or_else(|| unreachable!("a contiguous f32 tensor, not {:?}", t.dtype()))
}

/// A tensor around a vector; no copy.
pub(crate) fn tensor(v: Vec<f32>, shape: &[usize]) -> FlexTensor {
    debug_assert_eq!(v.len(), shape.iter().product::<usize>());
    FlexTensor::new(Bytes::from_elems(v), Layout::contiguous(Shape::from(shape.to_vec())), DType::F32)
}

/// Rows and columns of a matrix.
pub(crate) fn dims(t: &FlexTensor) -> [usize; 2] {
    let shape = t.shape();
    [shape[0], shape[1]]
}

/// A pointer into a buffer of which each thread writes its own part.
#[derive(Clone, Copy)]
pub(crate) struct Shared(*mut f32);

// SAFETY: a plain address; whoever writes through it shows at that place that the parts do not overlap.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub(crate) fn new(buffer: &mut [Unwritten]) -> Self {
        Self(buffer.as_mut_ptr().cast())
    }

    pub(crate) fn of(buffer: &mut [f32]) -> Self {
        Self(buffer.as_mut_ptr())
    }

    /// The address of element `i`.
    ///
    /// # Safety
    /// `i` must lie within the buffer.
    pub(crate) unsafe fn at(self, i: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(i) }
    }
}
