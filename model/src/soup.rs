//! The mean of dense models' weights (model soup; FLEXOLMO §8): a baseline that costs nothing at run time.
//!
//! Tensor by tensor and chunk by chunk from mapped files; sums in f64, models in the order given, so the bytes do not depend on the
//! number of threads.

use std::path::Path;

use crate::bundle::Dense;
use crate::error::{Error, Result};
use crate::hf::{self, Layout};
use crate::names;
use crate::safetensors::Spec;
use crate::weights::CHUNK;

/// Every model the same weight.
///
/// # Errors
/// [`Error::SoupWeights`] for no model at all.
pub fn uniform_weights(models: usize) -> Result<Vec<f64>> {
    normalised(vec![1.0; models])
}

/// Weights by validation loss: a softmax over `-loss / temperature`. A low temperature gives the best model all of it, a high one
/// the plain mean.
///
/// # Errors
/// [`Error::SoupWeights`].
pub fn softmax_weights(losses: &[f64], temperature: f64) -> Result<Vec<f64>> {
    if !(temperature.is_finite() && temperature > 0.0) {
        return Err(Error::SoupWeights { reason: format!("the temperature is {temperature}; it must be positive") });
    }
    if let Some(loss) = losses.iter().find(|loss| !loss.is_finite()) {
        return Err(Error::SoupWeights { reason: format!("a validation loss is {loss}") });
    }
    let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
    // `libm` and not the system's exponential, so that the bytes do not depend on its version.
    normalised(losses.iter().map(|loss| libm::exp((best - loss) / temperature)).collect())
}

/// Scales weights to the sum 1.
///
/// # Errors
/// [`Error::SoupWeights`] for weights that are negative, not finite, or sum to 0.
pub fn normalised(weights: Vec<f64>) -> Result<Vec<f64>> {
    let fail = |reason: String| Err(Error::SoupWeights { reason });
    if weights.is_empty() {
        return fail("no model is given".into());
    }
    if let Some(weight) = weights.iter().find(|weight| !(weight.is_finite() && **weight >= 0.0)) {
        return fail(format!("a weight is {weight}; weights are 0 or positive"));
    }
    let sum: f64 = weights.iter().sum();
    if !(sum.is_finite() && sum > 0.0) {
        return fail(format!("the weights sum to {sum}"));
    }
    Ok(weights.into_iter().map(|weight| weight / sum).collect())
}

/// Writes the weighted mean of `models` into the existing folder `out`; `weights` are scaled to the sum 1. Settings and tokenizer are the
/// first model's.
///
/// # Errors
/// [`Error::SoupWeights`]; [`Error::Mismatch`] for models of other sizes or another tokenizer; [`Error::NotFinite`]; [`Error::Io`].
pub fn soup(models: &[Dense<'_>], weights: &[f64], out: &Path, layout: Layout) -> Result<()> {
    if models.len() != weights.len() {
        let reason = format!("{} weights are given for {} models", weights.len(), models.len());
        return Err(Error::SoupWeights { reason });
    }
    let weights = normalised(weights.to_vec())?;
    // `normalised` refuses nothing at all.
    let Some((first, others)) = models.split_first() else { return Ok(()) };
    let config = first.folder().config();
    if config.experts.is_some() {
        let reason = "it is a mixture; soups are made of dense models".into();
        return Err(Error::Config { place: first.place(), reason });
    }
    for other in others {
        let mismatch =
            |reason: &str| Err(Error::Mismatch { one: first.place(), other: other.place(), reason: reason.to_owned() });
        if other.folder().config() != config {
            return mismatch("their configurations differ");
        }
        if other.folder().tokenizer() != first.folder().tokenizer() {
            return mismatch("their tokenizers differ");
        }
    }

    let spec = |shape| Spec { dtype: layout.dtype, shape };
    let specs = names::tensors(config).into_iter().map(|(name, shape)| (name, spec(shape))).collect();
    let (mut values, mut sum, mut mean) = (vec![], vec![], vec![]);
    hf::write_tensors(out, &specs, layout.shard_bytes, |name, sink| {
        let views = models.iter().map(|model| model.tensor(name)).collect::<Result<Vec<_>>>()?;
        let elements: usize = views[0].spec().shape.iter().product();
        for begin in (0..elements).step_by(CHUNK) {
            let end = elements.min(begin + CHUNK);
            sum.clear();
            sum.resize(end - begin, 0.0_f64);
            for (view, weight) in views.iter().zip(&weights) {
                let (dtype, width) = (view.spec().dtype, view.spec().dtype.bytes());
                let part = &view.bytes()[begin * width..end * width];
                view.finite(begin * width, part)?;
                values.clear();
                dtype.decode(part, &mut values);
                sum.iter_mut().zip(&values).for_each(|(sum, value)| *sum += weight * f64::from(*value));
                view.forget(begin * width, part.len());
            }
            mean.clear();
            mean.extend(sum.iter().map(|sum| *sum as f32));
            sink.values(&mean)?;
        }
        Ok(())
    })?;
    hf::write_settings(out, config, layout.dtype, first.folder().tokenizer_path().as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::tests::{public, write_bundle};
    use crate::hf::ModelFolder;
    use crate::hf::tests::{small_config, weights_of, write_folder};
    use crate::preset::Preset;
    use crate::safetensors::Dtype;
    use proptest::prelude::*;

    #[test]
    fn the_mean_is_the_mean() {
        let folder = tempfile::tempdir().unwrap();
        let config = small_config();
        let (one, two) = (weights_of(&config, 1), weights_of(&config, 2));
        let a = write_folder(&folder.path().join("a"), &config, &one, Layout::default());
        let b = write_folder(&folder.path().join("b"), &config, &two, Layout::default());
        let out = folder.path().join("out");
        fs_err::create_dir(&out).unwrap();
        soup(&[Dense::Folder(&a), Dense::Folder(&b)], &[1.0, 3.0], &out, Layout::default()).unwrap();
        for (name, weight) in ModelFolder::open(&out).unwrap().weights() {
            for (i, value) in weight.data.iter().enumerate() {
                let exact = 0.25 * f64::from(one[&name].data[i]) + 0.75 * f64::from(two[&name].data[i]);
                assert_eq!(*value, exact as f32);
            }
        }
    }

    #[test]
    fn experts_are_averaged_without_being_written_as_dense_models() {
        let public = public(1, Dtype::F32);
        let (a, b) = (write_bundle(&public, "a", 2, 0.0), write_bundle(&public, "b", 3, 0.0));
        let out = public.folder.path().join("out");
        fs_err::create_dir(&out).unwrap();
        let models = [Dense::Expert(&public.model, &a), Dense::Expert(&public.model, &b)];
        soup(&models, &uniform_weights(2).unwrap(), &out, Layout::default()).unwrap();
        let mean = ModelFolder::open(&out).unwrap().weights();
        assert_eq!(mean["lm_head.weight"], public.model.weights()["lm_head.weight"]);
        let name = "model.layers.1.mlp.up_proj.weight";
        let (a, b) = (&a.expert().unwrap().ffn[name].data, &b.expert().unwrap().ffn[name].data);
        assert_eq!(mean[name].data[5], f32::midpoint(a[5], b[5]));
    }

    #[test]
    fn weights_without_meaning_are_refused() {
        for bad in
            [vec![], vec![0.0, 0.0], vec![1.0, f64::NAN], vec![1.0, -1.0], vec![f64::INFINITY, 1.0], vec![f64::MAX; 3]]
        {
            assert!(matches!(normalised(bad.clone()), Err(Error::SoupWeights { .. })), "{bad:?}");
        }
        assert!(softmax_weights(&[1.0, f64::NAN], 1.0).is_err());
        assert!(softmax_weights(&[1.0], 0.0).is_err());
        assert!(softmax_weights(&[], 1.0).is_err());
    }

    #[test]
    fn models_that_do_not_fit_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let config = small_config();
        let a = write_folder(&folder.path().join("a"), &config, &weights_of(&config, 1), Layout::default());
        let larger = Preset::Tiny.config();
        let b = write_folder(&folder.path().join("b"), &larger, &weights_of(&larger, 1), Layout::default());
        let mut nan = weights_of(&config, 3);
        nan.get_mut("model.layers.0.mlp.up_proj.weight").unwrap().data[7] = f32::NAN;
        let c = write_folder(&folder.path().join("c"), &config, &nan, Layout::default());
        let out = folder.path().join("out");
        fs_err::create_dir(&out).unwrap();
        let models = |other| [Dense::Folder(&a), Dense::Folder(other)];
        let error = soup(&models(&b), &[1.0, 1.0], &out, Layout::default()).unwrap_err();
        assert!(matches!(error, Error::Mismatch { .. }), "{error}");
        let error = soup(&models(&c), &[1.0, 1.0], &out, Layout::default()).unwrap_err();
        assert!(matches!(error, Error::NotFinite { index: 7, .. }), "{error}");
        assert!(soup(&models(&a), &[1.0], &out, Layout::default()).is_err());
        assert_eq!(fs_err::read_dir(&out).unwrap().count(), 0);
    }

    proptest! {
        #[test]
        fn softmax_prefers_the_lower_loss(losses in prop::collection::vec(0.0..20.0f64, 1..8), temperature in 0.01..10.0f64) {
            let weights = softmax_weights(&losses, temperature).unwrap();
            prop_assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
            for (a, x) in losses.iter().zip(&weights) {
                for (b, y) in losses.iter().zip(&weights) {
                    prop_assert!(a > b || x >= y);
                }
            }
        }
    }
}
