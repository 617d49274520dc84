//! Router rows from sample documents (FLEXOLMO §4): the mean final hidden state of the public model over a domain's
//! documents, made comparable between domains.

use crate::error::{Error, Result};
use crate::init::Normal;
use crate::mask::Sequences;
use crate::olmo2::{Model, Routing};
use std::sync::Arc;

/// Tokens, padding included, that go through the model together.
const BATCH: usize = 4096;

/// The mean of a domain's documents.
#[derive(Clone, Debug, PartialEq)]
pub struct Embedding {
    /// One number a dimension of the hidden state.
    pub row: Vec<f32>,
    /// Documents that it is the mean of.
    pub documents: usize,
    /// Documents that were left out: empty, or with a mean that is no number.
    pub dropped: usize,
}

/// The mean over `documents` (token ids, each cut to `max_tokens`) of the mean over their tokens of the model's final,
/// normalised hidden state. Sums are in f64 and in the order of tokens and documents.
///
/// # Errors
/// [`Error::Input`] where no document is left, and for tokens that the model does not have.
pub fn embed(model: &Model, documents: &[Vec<u32>], max_tokens: usize) -> Result<Embedding> {
    let d = model.config().hidden_size;
    let cut = |i: usize| &documents[i][..documents[i].len().min(max_tokens)];
    let mut order: Vec<usize> = (0..documents.len()).filter(|&i| !cut(i).is_empty()).collect();
    order.sort_by_key(|&i| cut(i).len());
    let mut means: Vec<Option<Vec<f64>>> = vec![None; documents.len()];
    let mut rest = &order[..];
    while let Some(&longest) = rest.last() {
        let length = cut(longest).len();
        let (before, group) = rest.split_at(rest.len() - (BATCH / length).clamp(1, rest.len()));
        rest = before;
        // Padding stands behind a document, where causal attention does not look.
        let padded = |&i: &usize| cut(i).iter().copied().chain(std::iter::repeat_n(0, length - cut(i).len()));
        let tokens: Vec<u32> = group.iter().flat_map(padded).collect();
        let sequences = Sequences::causal(group.len(), length);
        let hidden = model.hidden(&Arc::from(tokens), &sequences, &mut Routing::default())?;
        let hidden: Vec<f32> = hidden.inner().into_data().iter::<f32>().collect();
        for (&i, rows) in group.iter().zip(hidden.chunks_exact(length * d)) {
            let n = cut(i).len();
            let mean = mean(d, rows.chunks_exact(d).take(n).map(|row| row.iter().map(|&x| f64::from(x))), n);
            means[i] = Some(mean).filter(|m| m.iter().all(|x| x.is_finite()));
        }
    }
    let kept: Vec<&Vec<f64>> = means.iter().flatten().collect();
    if kept.is_empty() {
        let reason = format!("none of the {} sample documents can be used", documents.len());
        return Err(Error::Input { what: "the sample documents".to_owned(), reason });
    }
    let row = mean(d, kept.iter().map(|m| m.iter().copied()), kept.len());
    Ok(Embedding {
        row: row.into_iter().map(|x| x as f32).collect(),
        documents: kept.len(),
        dropped: documents.len() - kept.len(),
    })
}

fn mean(d: usize, rows: impl Iterator<Item = impl Iterator<Item = f64>>, count: usize) -> Vec<f64> {
    let mut sum = vec![0f64; d];
    for row in rows {
        for (sum, x) in sum.iter_mut().zip(row) {
            *sum += x;
        }
    }
    sum.into_iter().map(|x| x / count as f64).collect()
}

/// A domain's router row: its embedding minus the public one, so that it says what is particular to the domain (raw means
/// are nearly parallel, NOTES), with norm `norm`. Where nothing is particular, as for the public domain itself, it is 0.
///
/// # Errors
/// [`Error::Input`] where the widths differ.
pub fn router_row(own: &[f32], public: &[f32], norm: f64) -> Result<Vec<f32>> {
    if own.len() != public.len() {
        let reason = format!("the row has {} dimensions, the public one {}", own.len(), public.len());
        return Err(Error::Input { what: "an embedding".to_owned(), reason });
    }
    let difference: Vec<f64> = own.iter().zip(public).map(|(a, b)| f64::from(*a) - f64::from(*b)).collect();
    Ok(scaled(&difference, norm))
}

/// A row scaled to norm `norm`; zeros stay zeros.
pub fn scaled_row(row: &[f32], norm: f64) -> Vec<f32> {
    scaled(&row.iter().map(|&x| f64::from(x)).collect::<Vec<_>>(), norm)
}

fn scaled(row: &[f64], norm: f64) -> Vec<f32> {
    let own = row.iter().map(|x| x * x).sum::<f64>().sqrt();
    let factor = if own > 0.0 { norm / own } else { 0.0 };
    row.iter().map(|x| (x * factor) as f32).collect()
}

/// `row` in `width` dimensions, by the orthonormal matrix of `seed` (Gaussian, orthogonalised): all who share the seed and
/// the widths project alike. A row that has the width already is returned as it is.
pub fn project(row: &[f32], width: usize, seed: u64) -> Vec<f32> {
    if row.len() == width {
        return row.to_vec();
    }
    let (long, short) = (row.len().max(width), row.len().min(width));
    let normal = Normal::new(seed, &format!("projection {long} {short}"));
    let mut basis: Vec<Vec<f64>> = Vec::with_capacity(short);
    for i in 0..short {
        let mut v: Vec<f64> = (0..long).map(|j| normal.at((i * long + j) as u64)).collect();
        // Twice: once leaves rounding errors that grow with the number of vectors.
        for _ in 0..2 {
            for b in &basis {
                let along: f64 = b.iter().zip(&v).map(|(x, y)| x * y).sum();
                for (v, b) in v.iter_mut().zip(b) {
                    *v -= along * b;
                }
            }
        }
        let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        for x in &mut v {
            *x /= norm;
        }
        basis.push(v);
    }
    let product = |i: usize| -> f64 {
        if width < row.len() {
            basis[i].iter().zip(row).map(|(b, &x)| b * f64::from(x)).sum()
        } else {
            basis.iter().zip(row).map(|(b, &x)| b[i] * f64::from(x)).sum()
        }
    };
    (0..width).map(|i| product(i) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn norm(row: &[f32]) -> f64 {
        row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt()
    }

    #[test]
    fn rows_say_what_differs_from_the_public_one() {
        let row = router_row(&[3.0, 1.0, 0.0], &[3.0, 0.0, 0.0], 0.3).unwrap();
        assert_eq!(row, [0.0, 0.3, 0.0]);
        assert_eq!(router_row(&[3.0], &[3.0], 1.0).unwrap(), [0.0]);
        assert!(router_row(&[3.0], &[3.0, 1.0], 1.0).is_err());
        assert!((norm(&scaled_row(&[3.0, 4.0], 2.0)) - 2.0).abs() < 1e-6);
    }

    #[test]
    fn a_wider_space_keeps_lengths_and_angles() {
        let (a, b) = ([1.0, 2.0, -1.0], [0.5, 0.0, 2.0]);
        let (p, q) = (project(&a, 16, 5), project(&b, 16, 5));
        let dot = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        assert!((dot(&p, &q) - dot(&a, &b)).abs() < 1e-6);
        assert!((norm(&p) - norm(&a)).abs() < 1e-6);
        // Down again by the same matrix: what was there comes back.
        let back = project(&p, 3, 5);
        assert!(back.iter().zip(a).all(|(x, y)| (x - y).abs() < 1e-6), "{back:?}");
        assert_ne!(project(&a, 16, 6), p);
    }
}
