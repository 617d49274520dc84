//! Matrix products in f32, the one place that knows the machine's kernels.
//!
//! The order of an element's sum over k depends on k alone, not on the number of rows, columns or threads: a row's bits do
//! not depend on the batch that it stands in (a test holds that, scoring relies on it).

use super::buffer::Shared;
use rayon::prelude::*;

/// A strided matrix in memory: element (i, j) lies at `i * row + j * column` elements from `at`.
#[derive(Clone, Copy)]
pub(crate) struct Mat {
    at: *const f32,
    row: isize,
    column: isize,
}

// SAFETY: a read-only view; `product` states who keeps it alive.
unsafe impl Send for Mat {}
// SAFETY: as above.
unsafe impl Sync for Mat {}

impl Mat {
    /// Rows of `x` of length `width`, from element `start` on.
    pub(crate) fn rows(x: &[f32], start: usize, width: usize) -> Self {
        Self { at: x[start..].as_ptr(), row: width as isize, column: 1 }
    }

    /// As [`Mat::rows`] from a pointer.
    pub(crate) fn raw(at: *const f32, width: usize) -> Self {
        Self { at, row: width as isize, column: 1 }
    }

    /// The transposed view.
    pub(crate) fn t(self) -> Self {
        Self { at: self.at, row: self.column, column: self.row }
    }

    /// The view without its first `rows` rows.
    fn below(self, rows: usize) -> Self {
        Self { at: self.at.wrapping_offset(rows as isize * self.row), ..self }
    }

    /// The view without its first `columns` columns.
    fn right(self, columns: usize) -> Self {
        Self { at: self.at.wrapping_offset(columns as isize * self.column), ..self }
    }
}

/// Rows, columns and depth of a product.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub m: usize,
    pub n: usize,
    pub k: usize,
}

/// What becomes of the destination's old value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Old {
    /// It is overwritten, and may be unwritten memory.
    Replace,
    /// The product is added to it.
    Add,
}

/// `dst[m, n] = (old) + scale · a[m, k] · b[k, n]` on this thread; rows of `dst` lie `stride` apart.
///
/// # Safety
/// `a`, `b` and `dst` must reach over the given sizes, `dst` must not overlap them, and nobody else may use `dst`.
pub(crate) unsafe fn product(size: Size, dst: *mut f32, stride: usize, old: Old, a: Mat, b: Mat, scale: f32) {
    let Size { m, n, k } = size;
    if m == 0 || n == 0 {
        return;
    }
    #[cfg(target_arch = "x86_64")]
    {
        use super::simd::{Level, level};
        use private_gemm_x86 as x86;
        let set = match level() {
            Level::V4 => Some(x86::InstrSet::Avx512),
            Level::V3 => Some(x86::InstrSet::Avx256),
            Level::Portable => None,
        };
        if let Some(set) = set {
            let none = std::ptr::null();
            let beta = if old == Old::Add { x86::Accum::Add } else { x86::Accum::Replace };
            // SAFETY: sizes and strides are the caller's promise; the instruction set was detected; the null pointers
            // are the documented "no index, no diagonal".
            return unsafe {
                x86::gemm(
                    x86::DType::F32,
                    x86::IType::U64,
                    set,
                    m,
                    n,
                    k,
                    dst.cast(),
                    stride as isize,
                    1,
                    none,
                    none,
                    x86::DstKind::Full,
                    beta,
                    a.at.cast(),
                    a.row,
                    a.column,
                    false,
                    none,
                    0,
                    b.at.cast(),
                    b.row,
                    b.column,
                    false,
                    (&raw const scale).cast(),
                    1,
                );
            };
        }
        // SAFETY: the caller's promise.
        unsafe { portable(size, dst, stride, old, a, b, scale) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    // SAFETY: the caller's promise.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            dst,
            1,
            stride as isize,
            old == Old::Add,
            a.at,
            a.column,
            a.row,
            b.at,
            b.column,
            b.row,
            1.0f32,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Depth of a block: short sums lose less to rounding.
#[cfg(any(target_arch = "x86_64", test))]
const DEPTH: usize = 512;

/// The same without vector instructions, for CPUs without AVX2. It sums in its own order: its bits are its own.
///
/// # Safety
/// As [`product`].
#[cfg(any(target_arch = "x86_64", test))]
unsafe fn portable(size: Size, dst: *mut f32, stride: usize, old: Old, a: Mat, b: Mat, scale: f32) {
    let Size { m, n, k } = size;
    for i in 0..m {
        for j in 0..n {
            // SAFETY: (i, j) lies within dst, (i, l) within a, (l, j) within b.
            unsafe {
                let cell = dst.add(i * stride + j);
                let mut fresh = old == Old::Replace;
                let mut from = 0;
                while from < k || fresh {
                    let to = k.min(from + DEPTH);
                    let mut sum = 0f32;
                    for l in from as isize..to as isize {
                        let x = *a.at.offset(i as isize * a.row + l * a.column);
                        let y = *b.at.offset(l * b.row + j as isize * b.column);
                        sum = x.mul_add(y, sum);
                    }
                    *cell = if fresh { scale * sum } else { scale.mul_add(sum, *cell) };
                    fresh = false;
                    from = to;
                }
            }
        }
    }
}

/// Below this number of multiplications a product stays on the calling thread.
const WORTH_SHARING: usize = 1 << 18;

/// [`product`] over all threads: the longer side of `dst` is cut, the sums are not.
///
/// # Safety
/// As [`product`].
pub(crate) unsafe fn shared_product(size: Size, dst: *mut f32, stride: usize, old: Old, a: Mat, b: Mat, scale: f32) {
    let Size { m, n, k } = size;
    let threads = rayon::current_num_threads();
    if threads == 1 || m * n * k < WORTH_SHARING {
        // SAFETY: the caller's promise.
        return unsafe { product(size, dst, stride, old, a, b, scale) };
    }
    // SAFETY: only an address is made; the parts below are disjoint.
    let dst = Shared::of(unsafe { std::slice::from_raw_parts_mut(dst, 0) });
    // Columns go to the kernel's long side in registers (96), rows to its short one.
    let (length, grain) = if n > m { (n, 96) } else { (m, 16) };
    let step = length.div_ceil(threads).next_multiple_of(grain);
    (0..length.div_ceil(step)).into_par_iter().for_each(|i| {
        let (start, count) = (i * step, step.min(length - i * step));
        // SAFETY: part i is the rows (or columns) start..start + count of dst, which no other part touches.
        unsafe {
            if n > m {
                product(Size { m, n: count, k }, dst.at(start), stride, old, a, b.right(start), scale);
            } else {
                product(Size { m: count, n, k }, dst.at(start * stride), stride, old, a.below(start), b, scale);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize, seed: u32) -> Vec<f32> {
        (0..n as u32)
            .map(|i| ((i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 9) as f32 / 4_194_304.0) - 1.0)
            .collect()
    }

    fn multiply(size: Size, a: &[f32], b: &[f32], b_transposed: bool, old: Old, start: f32, scale: f32) -> Vec<f32> {
        let mut c = vec![start; size.m * size.n];
        let b = if b_transposed { Mat::rows(b, 0, size.k).t() } else { Mat::rows(b, 0, size.n) };
        // SAFETY: c has m·n elements, a m·k and b k·n.
        unsafe { product(size, c.as_mut_ptr(), size.n, old, Mat::rows(a, 0, size.k), b, scale) };
        c
    }

    #[test]
    fn agrees_with_the_portable_sums() {
        for (m, n, k) in [(1, 1, 1), (3, 5, 7), (17, 33, 65), (64, 40, 700), (5, 130, 1100)] {
            let size = Size { m, n, k };
            let (a, b) = (values(m * k, 1), values(k * n, 2));
            for old in [Old::Replace, Old::Add] {
                let fast = multiply(size, &a, &b, false, old, 0.5, 0.3);
                let mut slow = vec![0.5f32; m * n];
                // SAFETY: sizes as above.
                unsafe { portable(size, slow.as_mut_ptr(), n, old, Mat::rows(&a, 0, k), Mat::rows(&b, 0, n), 0.3) };
                for (x, y) in fast.iter().zip(&slow) {
                    assert!((x - y).abs() < 1e-5 * (1.0 + k as f32).sqrt(), "{m}x{n}x{k}: {x} {y}");
                }
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_the_rows_beside_it() {
        let (n, k) = (200, 600);
        let (a, b) = (values(100 * k, 3), values(k * n, 4));
        for transposed in [false, true] {
            let whole = multiply(Size { m: 100, n, k }, &a, &b, transposed, Old::Replace, 0.0, 1.0);
            for m in [1, 2, 3, 5, 31, 64] {
                let part = multiply(Size { m, n, k }, &a, &b, transposed, Old::Replace, 0.0, 1.0);
                assert!(part.iter().zip(&whole).all(|(x, y)| x.to_bits() == y.to_bits()), "{m} rows");
            }
        }
    }

    #[test]
    fn threads_do_not_change_bits() {
        let (m, n, k) = (130, 300, 520);
        let (a, b) = (values(m * k, 5), values(k * n, 6));
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let mut c = vec![0f32; m * n];
            pool.install(|| {
                let (a, b) = (Mat::rows(&a, 0, k), Mat::rows(&b, 0, n));
                // SAFETY: sizes as above.
                unsafe { shared_product(Size { m, n, k }, c.as_mut_ptr(), n, Old::Replace, a, b, 1.0) };
            });
            c
        };
        let one = run(1);
        for threads in 2..=3 {
            assert!(run(threads).iter().zip(&one).all(|(x, y)| x.to_bits() == y.to_bits()), "{threads} threads");
        }
    }
}
