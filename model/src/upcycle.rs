//! The model that a data owner starts from (FLEXOLMO §3): the public one, and beside its FFN a copy of it that will be
//! trained.

use crate::bundle::rows_by_layer;
use crate::config::{Mixture, ModelConfig};
use crate::error::{Error, Result};
use crate::names::{Projection, Role, TensorName};
use crate::weights::{Weight, Weights};

/// The two-expert model over a dense public one: both FFNs are the public one, the router has the rows `public_row` and
/// `own_row` ([d], or [layers, d]); with `bias` it has biases too, all 0. The new expert is number 1 and named `name`.
///
/// # Errors
/// [`Error::Config`] for a public model that is a mixture; [`Error::TensorShape`] and [`Error::NotFinite`] for rows;
/// [`Error::MissingTensors`]; [`Error::Expert`] for a name that cannot be one.
pub fn beside_public(
    config: &ModelConfig,
    public: &Weights,
    name: &str,
    public_row: &Weight,
    own_row: &Weight,
    bias: bool,
) -> Result<(ModelConfig, Weights)> {
    let place = || "the public model".to_owned();
    if config.experts.is_some() {
        let reason = "it is a mixture; an expert is trained beside a dense model".to_owned();
        return Err(Error::Config { place: place(), reason });
    }
    let mixture = config.with_experts(Mixture::of([name.to_owned()], 2));
    mixture.validate("the expert's model")?;
    let rows = [rows_by_layer(config, public_row)?, rows_by_layer(config, own_row)?];
    let d = config.hidden_size;
    let mut weights = Weights::new();
    for (name, weight) in public {
        match TensorName::parse(name) {
            Some(TensorName { role: Role::Ffn(projection), layer, .. }) => {
                for expert in 0..2 {
                    weights.insert(TensorName::expert(projection, layer, expert).to_string(), weight.clone());
                }
            }
            _ => drop(weights.insert(name.clone(), weight.clone())),
        }
    }
    for layer in 0..config.num_layers {
        for projection in Projection::ALL {
            let name = TensorName::expert(projection, layer, 0).to_string();
            if !weights.contains_key(&name) {
                let name = TensorName::layer(Role::Ffn(projection), layer).to_string();
                return Err(Error::MissingTensors { place: place(), names: vec![name] });
            }
        }
        let both = rows.iter().flat_map(|row| &row.data[layer * d..(layer + 1) * d]).copied().collect();
        weights.insert(TensorName::layer(Role::Router, layer).to_string(), Weight::new(vec![2, d], both)?);
        if bias {
            weights.insert(TensorName::layer(Role::RouterBias, layer).to_string(), Weight::zeros(vec![2]));
        }
    }
    Ok((mixture, weights))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::Expert;
    use crate::init::initial_weights;
    use crate::preset::Preset;

    #[test]
    fn both_experts_are_the_public_ffn() {
        let config = Preset::Tiny.config();
        let public = initial_weights(&config, 1);
        let d = config.hidden_size;
        let row = |value: f32| Weight::new(vec![d], vec![value; d]).unwrap();
        let (mixture, weights) = beside_public(&config, &public, "news", &row(0.0), &row(0.5), true).unwrap();
        assert_eq!(mixture.experts.as_ref().unwrap().names, ["public", "news"]);
        for expert in 0..2 {
            let taken = Expert::from_mixture(&mixture, &weights, expert).unwrap();
            assert!(taken.ffn.iter().all(|(name, weight)| public[name] == *weight));
            assert!(taken.row.data.iter().all(|&x| x == expert as f32 / 2.0));
        }
        assert!(beside_public(&mixture, &weights, "news", &row(0.0), &row(0.5), true).is_err());
        assert!(beside_public(&config, &public, "news", &row(f32::NAN), &row(0.5), false).is_err());
        assert!(beside_public(&config, &Weights::new(), "news", &row(0.0), &row(0.5), true).is_err());
    }
}
