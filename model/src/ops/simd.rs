//! Vector loops with one result on every CPU: run-time choice of instruction set, and reductions in a fixed order.
//!
//! A reduction runs over [`LANES`] partial sums that are folded pairwise at the end, and every product-sum is a fused
//! multiply-add. Both are part of the result: AVX-512, AVX2 and the portable path give the same bits, only not at the
//! same speed (the portable path calls the C library's `fmaf` where the compiler has no instruction for it).

/// Partial sums of a reduction: two AVX-512 registers, four AVX2 registers.
pub(crate) const LANES: usize = 32;

/// Defines a function that is compiled for AVX-512, for AVX2 with FMA and for the target's baseline, and chooses at run
/// time. The body is an `#[inline(always)]` function so that LLVM vectorises it with the caller's features; a closure
/// handed to a generic `#[target_feature]` function would stay at the baseline.
macro_rules! simd {
    ($(#[$meta:meta])* $v:vis fn $name:ident($($a:ident: $t:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments, clippy::inline_always, reason = "one body, three instruction sets")]
        $v fn $name($($a: $t),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($a: $t),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma,bmi2")]
                fn v4($($a: $t),*) $(-> $ret)? { body($($a),*) }
                #[target_feature(enable = "avx2,fma,bmi2")]
                fn v3($($a: $t),*) $(-> $ret)? { body($($a),*) }
                match $crate::ops::simd::level() {
                    // SAFETY: `level` has just asked this CPU for every feature that the function is compiled with.
                    $crate::ops::simd::Level::V4 => return unsafe { v4($($a),*) },
                    // SAFETY: as above.
                    $crate::ops::simd::Level::V3 => return unsafe { v3($($a),*) },
                    $crate::ops::simd::Level::Portable => {}
                }
            }
            body($($a),*)
        }
    };
}
pub(crate) use simd;

/// Instruction sets that the kernels are compiled for.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// AVX-512 F, VL, BW, DQ.
    V4,
    /// AVX2 with FMA.
    V3,
    /// The target's baseline.
    Portable,
}

/// The best instruction set of this CPU. `std` caches the answer: one relaxed load.
#[cfg(target_arch = "x86_64")]
pub(crate) fn level() -> Level {
    let v3 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("bmi2");
    let v4 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq");
    match (v3, v4) {
        (true, true) => Level::V4,
        (true, false) => Level::V3,
        _ => Level::Portable,
    }
}

/// `exp(x)` within 2 units in the last place, clamped to [-87, 88]: never zero, never infinite. Vectorises.
#[inline(always)]
#[allow(clippy::inline_always, reason = "must take on its caller's instruction set")]
pub(crate) fn exp(x: f32) -> f32 {
    // Cephes' expf: x = n ln 2 + r with ln 2 in two parts, then a polynomial in r.
    let x = x.clamp(-87.0, 88.0);
    let n = (x * std::f32::consts::LOG2_E).round_ties_even();
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4f32;
    p = p.mul_add(r, 1.398_199_9e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 1.666_666_5e-1);
    p = p.mul_add(r, 0.5);
    let y = p.mul_add(r * r, r) + 1.0;
    // n + 1.5·2²³ holds n in its low bits: |n| ≤ 127. Of NaN the product is NaN whatever the bits are.
    let i = (n + 12_582_912.0).to_bits().wrapping_sub(0x4b40_0000).wrapping_add(127);
    y * f32::from_bits(i << 23)
}

/// Partial results → one, pairwise.
macro_rules! fold {
    ($acc:ident, |$x:ident, $y:ident| $body:expr) => {{
        let mut width = LANES / 2;
        while width > 0 {
            for l in 0..width {
                let ($x, $y) = ($acc[l], $acc[l + width]);
                $acc[l] = $body;
            }
            width /= 2;
        }
        $acc[0]
    }};
}

/// Σ a·b.
#[inline(always)]
#[allow(clippy::inline_always, reason = "must take on its caller's instruction set")]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    // Whole arrays of lanes: without bounds checks inside, the loops become vector instructions.
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut acc = [0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for l in 0..LANES {
            acc[l] = a[l].mul_add(b[l], acc[l]);
        }
    }
    for ((a, b), acc) in a_rest.iter().zip(b_rest).zip(&mut acc) {
        *acc = a.mul_add(*b, *acc);
    }
    fold!(acc, |x, y| x + y)
}

/// Σ (a·b)·c.
#[inline(always)]
#[allow(clippy::inline_always, reason = "must take on its caller's instruction set")]
pub(crate) fn dot_three(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let (c, c_rest) = c.as_chunks::<LANES>();
    let mut acc = [0f32; LANES];
    for ((a, b), c) in a.iter().zip(b).zip(c) {
        for l in 0..LANES {
            acc[l] = (a[l] * b[l]).mul_add(c[l], acc[l]);
        }
    }
    for (((a, b), c), acc) in a_rest.iter().zip(b_rest).zip(c_rest).zip(&mut acc) {
        *acc = (a * b).mul_add(*c, *acc);
    }
    fold!(acc, |x, y| x + y)
}

/// Largest element; `NEG_INFINITY` of nothing.
#[inline(always)]
#[allow(clippy::inline_always, reason = "must take on its caller's instruction set")]
pub(crate) fn max(a: &[f32]) -> f32 {
    let larger = |x: f32, y: f32| if x > y { x } else { y };
    let (a, rest) = a.as_chunks::<LANES>();
    let mut acc = [f32::NEG_INFINITY; LANES];
    for a in a {
        for l in 0..LANES {
            acc[l] = larger(a[l], acc[l]);
        }
    }
    for (a, acc) in rest.iter().zip(&mut acc) {
        *acc = larger(*a, *acc);
    }
    fold!(acc, |x, y| larger(x, y))
}

/// `a[j] = exp(a[j] - m)`; the sum.
#[inline(always)]
#[allow(clippy::inline_always, reason = "must take on its caller's instruction set")]
pub(crate) fn exp_sub_sum(a: &mut [f32], m: f32) -> f32 {
    let (a, rest) = a.as_chunks_mut::<LANES>();
    let mut acc = [0f32; LANES];
    for a in a {
        for l in 0..LANES {
            a[l] = exp(a[l] - m);
            acc[l] += a[l];
        }
    }
    for (a, acc) in rest.iter_mut().zip(&mut acc) {
        *a = exp(*a - m);
        *acc += *a;
    }
    fold!(acc, |x, y| x + y)
}

/// Σ exp(a[j] - m), `a` left as it is.
#[inline(always)]
#[allow(clippy::inline_always, reason = "must take on its caller's instruction set")]
pub(crate) fn sum_exp(a: &[f32], m: f32) -> f32 {
    let (a, rest) = a.as_chunks::<LANES>();
    let mut acc = [0f32; LANES];
    for a in a {
        for l in 0..LANES {
            acc[l] += exp(a[l] - m);
        }
    }
    for (a, acc) in rest.iter().zip(&mut acc) {
        *acc += exp(*a - m);
    }
    fold!(acc, |x, y| x + y)
}

simd! {
    /// `out += Σ rows of part`, in row order.
    pub(crate) fn add_rows(part: &[f32], out: &mut [f32]) {
        for row in part.chunks_exact(out.len()) {
            for j in 0..out.len() {
                out[j] += row[j];
            }
        }
    }
}

simd! {
    /// Σ x², in f64: the order is the slice's, so callers choose the chunks.
    pub(crate) fn sum_squares(x: &[f32]) -> f64 {
        let (x, rest) = x.as_chunks::<LANES>();
        let mut acc = [0f64; LANES];
        for x in x {
            for l in 0..LANES {
                let v = f64::from(x[l]);
                acc[l] = v.mul_add(v, acc[l]);
            }
        }
        for (x, acc) in rest.iter().zip(&mut acc) {
            let v = f64::from(*x);
            *acc = v.mul_add(v, *acc);
        }
        fold!(acc, |x, y| x + y)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        for i in -8700..8800 {
            let x = i as f32 / 100.0;
            let (got, want) = (f64::from(exp(x)), f64::from(x).exp());
            assert!(((got - want) / want).abs() < 2.4e-7, "exp({x}) = {got}, not {want}");
        }
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn reductions_are_those_of_f64() {
        for n in [0, 1, 31, 32, 33, 64, 100] {
            let a: Vec<f32> = (0..n).map(|i| (i as f32 * 0.37).sin()).collect();
            let want: f64 = a.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
            assert!((f64::from(dot(&a, &a)) - want).abs() < 1e-5);
            assert!((sum_squares(&a) - want).abs() < 1e-9);
            assert_eq!(max(&a), a.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
