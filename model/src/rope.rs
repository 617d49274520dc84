//! Rotary position embedding in the half-rotation layout: `[x₁, x₂] → [x₁ cos − x₂ sin, x₂ cos + x₁ sin]`, halves, not
//! pairs, over the whole head dimension (Hugging Face's `OLMo` 2).

use std::sync::{Arc, Mutex, PoisonError};

/// cos and sin of every angle, `[positions, head_dim / 2]` each, computed in f64 and not by the C library, whose last bit differs from version to version.
#[derive(Debug, Default)]
pub(crate) struct Angles {
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
    /// Angles of one position.
    pub half: usize,
}

impl Angles {
    fn new(positions: usize, head_dim: usize, theta: f64) -> Self {
        let half = head_dim / 2;
        let angle = |p: usize, i: usize| p as f64 / libm::pow(theta, 2.0 * i as f64 / head_dim as f64);
        let table = |f: fn(f64) -> f64| {
            (0..positions * half).map(|at| f(angle(at / half, at % half)) as f32).collect::<Vec<f32>>()
        };
        Self { cos: table(libm::cos), sin: table(libm::sin), half }
    }

    /// cos and sin of position `p`.
    #[inline]
    pub fn at(&self, p: usize) -> (&[f32], &[f32]) {
        (&self.cos[p * self.half..][..self.half], &self.sin[p * self.half..][..self.half])
    }
}

/// The angles of a model, made when first asked for and longer when a longer sequence comes.
#[derive(Debug)]
pub(crate) struct Rope {
    head_dim: usize,
    theta: f64,
    table: Mutex<(usize, Arc<Angles>)>,
}

impl Rope {
    pub fn new(head_dim: usize, theta: f64) -> Self {
        Self { head_dim, theta, table: Mutex::new((0, Arc::default())) }
    }

    /// Angles of at least the positions `0..end`.
    pub fn angles(&self, end: usize) -> Arc<Angles> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.0 < end {
            let end = end.next_power_of_two();
            *table = (end, Arc::new(Angles::new(end, self.head_dim, self.theta)));
        }
        table.1.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn angles_do_not_depend_on_the_length_of_the_table() {
        let rope = Rope::new(8, 500_000.0);
        let short: Vec<f32> = rope.angles(3).at(2).1.to_vec();
        assert_eq!(rope.angles(100).at(2).1, short);
        assert_eq!(short[0], 2f64.sin() as f32);
    }
}
