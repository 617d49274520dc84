//! Which parameters a run trains. What is frozen costs no gradient and no optimizer state.

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// The parameters that a run trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trainable {
    /// Everything.
    All,
    /// The feed-forward layers, router rows and router biases of one expert; all else is frozen (FLEXOLMO §3).
    Expert(usize),
    /// The router rows alone: router tuning after a merge (FLEXOLMO §5).
    Router,
}

impl Trainable {
    /// Checks that the model has what is to be trained.
    ///
    /// # Errors
    /// [`Error::Expert`] for an expert that the model does not have, and for expert 0, the anchor that all others rely on;
    /// [`Error::Param`] where a router is asked for and there is none.
    pub fn check(self, config: &ModelConfig) -> Result<()> {
        let count = config.experts.as_ref().map_or(0, |m| m.count);
        match self {
            Self::Expert(0) if count > 0 => {
                let reason = "the public expert is the frozen anchor of all others".to_owned();
                Err(Error::Expert { name: "0".to_owned(), reason })
            }
            Self::Expert(e) if e >= count => {
                Err(Error::Expert { name: e.to_string(), reason: format!("the model has {count} experts") })
            }
            Self::Router if count == 0 => {
                Err(Error::Param { param: "trainable", reason: "a dense model has no router".to_owned() })
            }
            _ => Ok(()),
        }
    }

    /// Whether the parameter of this name is trained.
    pub(crate) fn includes(self, name: &str) -> bool {
        match self {
            // Expert 0's bias is 0 by definition.
            Self::All => !is_bias(name) || !name.ends_with("[0]"),
            Self::Expert(e) => {
                name.contains(&format!(".mlp.experts.{e}."))
                    || (name.contains(".mlp.gate.") && name.ends_with(&format!("[{e}]")))
            }
            Self::Router => is_row(name),
        }
    }
}

/// Whether the parameter is a row of a router.
pub(crate) fn is_row(name: &str) -> bool {
    name.contains(".mlp.gate.weight[")
}

fn is_bias(name: &str) -> bool {
    name.contains(".mlp.gate.bias[")
}

/// Whether weight decay applies: to all but the embedding table (FLEXOLMO §1) and router biases, which are bounded anyhow.
pub(crate) fn decays(name: &str) -> bool {
    name != "model.embed_tokens.weight" && !is_bias(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expert_is_its_layers_its_row_and_its_bias() {
        let expert = Trainable::Expert(1);
        let layer = "model.layers.11.mlp.";
        for (name, trained) in [
            ("experts.1.up_proj.weight", true),
            ("experts.11.up_proj.weight", false),
            ("experts.0.up_proj.weight", false),
            ("gate.weight[1]", true),
            ("gate.weight[11]", false),
            ("gate.bias[1]", true),
            ("gate.bias[0]", false),
        ] {
            assert_eq!(expert.includes(&format!("{layer}{name}")), trained, "{name}");
        }
        assert!(!expert.includes("model.layers.1.self_attn.q_proj.weight"));
        assert!(Trainable::All.includes("lm_head.weight"));
        assert!(!Trainable::All.includes("model.layers.0.mlp.gate.bias[0]"));
    }
}
