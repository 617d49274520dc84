//! Oracle of the fused kernels: the composition of burn's own operations in f32, and finite differences in f64 sums.

use burn::tensor::{Device, Tensor, TensorData};
use std::cell::Cell;

thread_local! {
    static COMPOSED: Cell<bool> = const { Cell::new(false) };
    static REDUCED: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread asked for the composition where the fused kernel would serve.
pub(crate) fn composed() -> bool {
    COMPOSED.get()
}

/// `f` with the composition in place of the fused kernels: what other devices compute.
pub(crate) fn as_other_devices<T>(f: impl FnOnce() -> T) -> T {
    COMPOSED.set(true);
    let result = f();
    COMPOSED.set(false);
    result
}

/// Whether this thread asked for products of bf16 numbers too.
pub(crate) fn reduced() -> bool {
    REDUCED.get()
}

/// [`as_other_devices`] on one that computes with bf16 numbers.
pub(crate) fn as_reduced_devices<T>(f: impl FnOnce() -> T) -> T {
    REDUCED.set(true);
    let result = as_other_devices(f);
    REDUCED.set(false);
    result
}

/// Inputs of an operation: reproducible, of standard size about 1.
pub(crate) struct Inputs(Vec<(Vec<f32>, [usize; 2])>);

impl Inputs {
    pub fn new(shapes: &[[usize; 2]]) -> Self {
        let mut state = 88_172_645_463_325_252u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            ((state >> 40) as f32 / 8_388_608.0 - 1.0) * 1.7
        };
        Self(shapes.iter().map(|&s| ((0..s[0] * s[1]).map(|_| next()).collect(), s)).collect())
    }

    pub fn tensors(&self, device: &Device) -> Vec<Tensor<2>> {
        self.0.iter().map(|(v, s)| Tensor::from_data(TensorData::new(v.clone(), *s), device)).collect()
    }
}

fn values(t: Tensor<2>) -> Vec<f32> {
    t.into_data().iter::<f32>().collect()
}

/// The output's weighted sum, as a loss whose gradient reaches every element of the output differently.
fn weighted(y: Tensor<2>) -> Tensor<1> {
    let [n, d] = y.dims();
    // A single element is a loss already: it is taken as it is, since some operations allow only a plain backward.
    if n * d == 1 {
        return y.reshape([1]);
    }
    let w: Vec<f32> = (0..n * d).map(|i| ((i as f32 * 0.731).sin() + 0.3) * 0.7).collect();
    let w = Tensor::from_data(TensorData::new(w, [n, d]), &y.device());
    (y * w).sum()
}

/// Output and gradients of every input.
fn run(inputs: &Inputs, f: &impl Fn(&[Tensor<2>]) -> Tensor<2>) -> Vec<Vec<f32>> {
    let x: Vec<Tensor<2>> = inputs.tensors(&Device::flex().autodiff()).into_iter().map(Tensor::require_grad).collect();
    let y = f(&x);
    let mut out = vec![values(y.clone().inner())];
    let grads = weighted(y).backward();
    out.extend(x.iter().map(|x| x.grad(&grads).map(values).unwrap_or_default()));
    out
}

/// The fused operation's output and gradients agree with the composition's, to `tolerance` of each tensor's norm, and its
/// gradients with finite differences along a random direction; the bits are the same with 1, 2 and 3 threads; the
/// output without recording is the same; and a frozen input changes no bit of the other inputs' gradients.
pub(crate) fn gradients_agree(inputs: &Inputs, tolerance: f64, f: impl Fn(&[Tensor<2>]) -> Tensor<2> + Sync) {
    let fused = run(inputs, &f);
    let composed = as_other_devices(|| run(inputs, &f));
    for (i, (a, b)) in fused.iter().zip(&composed).enumerate() {
        assert_eq!(a.len(), b.len(), "tensor {i}");
        let difference: f64 = a.iter().zip(b).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>().sqrt();
        let norm: f64 = b.iter().map(|y| f64::from(*y).powi(2)).sum::<f64>().sqrt();
        assert!(difference <= tolerance * (norm + 1e-3), "tensor {i} (0 is the output): {difference:e} of {norm:e}");
    }
    finite_differences(inputs, &f, &fused[1..]);
    for threads in 1..=3 {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert!(same_bits(&pool.install(|| run(inputs, &f)), &fused), "{threads} threads");
    }
    assert!(same_bits(&[values(f(&inputs.tensors(&Device::flex())))], &fused[..1]), "without recording");
    for frozen in 0..inputs.0.len() {
        let device = Device::flex().autodiff();
        let x = inputs.tensors(&device).into_iter().enumerate();
        let x: Vec<_> = x.map(|(i, x)| if i == frozen { x } else { x.require_grad() }).collect();
        if x.len() == 1 {
            continue;
        }
        let grads = weighted(f(&x)).backward();
        for (i, x) in x.iter().enumerate().filter(|&(i, _)| i != frozen) {
            assert!(same_bits(&[values(x.grad(&grads).unwrap())], &fused[1 + i..2 + i]), "{i} beside frozen {frozen}");
        }
    }
}

fn same_bits(a: &[Vec<f32>], b: &[Vec<f32>]) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x.to_bits() == y.to_bits()))
}

/// d loss / d direction by central differences against the gradients' products with the direction, one input at a time.
fn finite_differences(inputs: &Inputs, f: &impl Fn(&[Tensor<2>]) -> Tensor<2>, gradients: &[Vec<f32>]) {
    let loss = |moved: usize, direction: &[f32], step: f32| -> f64 {
        let device = Device::flex();
        let mut x = inputs.tensors(&device);
        let (v, shape) = &inputs.0[moved];
        let v: Vec<f32> = v.iter().zip(direction).map(|(x, d)| x + step * d).collect();
        x[moved] = Tensor::from_data(TensorData::new(v, *shape), &device);
        let y = f(&x);
        let y = values(y);
        if y.len() == 1 {
            return f64::from(y[0]);
        }
        y.iter().enumerate().map(|(i, y)| f64::from(*y) * f64::from(((i as f32 * 0.731).sin() + 0.3) * 0.7)).sum()
    };
    for (i, gradient) in gradients.iter().enumerate() {
        let direction: Vec<f32> = (0..gradient.len()).map(|j| (j as f32 * 1.93 + 0.4).cos()).collect();
        let slope: f64 = gradient.iter().zip(&direction).map(|(g, d)| f64::from(*g) * f64::from(*d)).sum();
        let step = 2e-3f32;
        let measured = (loss(i, &direction, step) - loss(i, &direction, -step)) / (2.0 * f64::from(step));
        let size: f64 = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        assert!((slope - measured).abs() <= 2e-2 * (size + slope.abs()), "input {i}: {slope} against {measured}");
    }
}
