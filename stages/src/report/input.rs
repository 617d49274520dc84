//! The facts that a report is made of, as they come out of artifacts. `Evaluation` reads the `results.json` of the evaluate
//! stage; fields that the report has no use for are passed over.

use std::collections::BTreeMap;

use flow_data::evaluation::Scores;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Labels that the report knows a model's part by.
pub(super) const PUBLIC: &str = "public";
pub(super) const SOUP: &str = "soup";
pub(super) const BTM: &str = "btm";
pub(super) const FLEXOLMO: &str = "flexolmo";

/// All that a report is made of.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReportInput {
    /// Domains and what to call them. Shown with `public` first and the others by name.
    pub members: Vec<Member>,
    /// One entry a model.
    pub results: Vec<ModelResult>,
    /// Domain → the corpus stage's `statistics.json`, whose numbers are shown as they are.
    #[serde(default)]
    pub corpora: BTreeMap<String, Value>,
    /// One entry a training stage.
    #[serde(default)]
    pub training: Vec<TrainingRun>,
}

/// A domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// As in the recipe.
    pub name: String,
    /// As in a table's header.
    pub title: String,
}

/// One model and how it did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelResult {
    /// `public`, `individual.DOMAIN`, `soup`, `btm`, `flexolmo`, `optout.DOMAIN`; others are shown, but no headline is about
    /// them.
    pub label: String,
    /// Which part of the table it stands in.
    pub group: ModelGroup,
    /// As in a table's first column.
    pub title: String,
    /// The domain that an opt-out model does without.
    #[serde(default)]
    pub left_out: Option<String>,
    /// Its `results.json`.
    pub evaluation: Evaluation,
    /// Its `scores.json`, by domain: two models are compared on the same documents. May be absent.
    #[serde(default)]
    pub scores: BTreeMap<String, Scores>,
}

/// The parts of the paper's table 2, and the models without one domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ModelGroup {
    /// One dense model.
    Individual,
    /// Made of several.
    Combined,
    /// The full one without one domain.
    OptOut,
}

impl ModelGroup {
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Individual => "Individual",
            Self::Combined => "Combined",
            Self::OptOut => "One domain left out",
        }
    }
}

/// `results.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Plain means over the domains.
    pub average: Average,
    /// Each domain's measures.
    pub domains: BTreeMap<String, DomainResult>,
    /// 1.
    pub format: u32,
}

/// Plain means over domains, each counted once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Average {
    /// Of bits per byte.
    #[serde(default)]
    pub bits_per_byte: Option<f64>,
    /// Of the share of right cloze answers.
    #[serde(default)]
    pub cloze: Option<f64>,
}

/// One domain's measures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct DomainResult {
    /// Bits for a byte of text.
    #[serde(default)]
    pub bits_per_byte: Option<Estimate>,
    /// Bytes that were scored.
    pub bytes: u64,
    /// Share of cloze items answered right, 0 to 1.
    #[serde(default)]
    pub cloze: Option<Estimate>,
    /// Documents that were scored.
    pub documents: u64,
    /// Cloze items.
    pub items: u64,
    /// Tokens that were scored.
    pub tokens: u64,
}

/// A value with its 95% interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Upper end.
    pub high: f64,
    /// Lower end.
    pub low: f64,
    /// The measure itself.
    pub value: f64,
}

/// One training stage's `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingRun {
    /// As for [`ModelResult::label`]: `public` gets a figure of its own, the others share one.
    pub label: String,
    /// Its lines, by step.
    pub metrics: Vec<StepMetrics>,
}

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Optimizer steps so far.
    pub step: u64,
    /// Tokens so far.
    pub tokens: u64,
    /// Mean cross-entropy of the step, in nats a token.
    pub loss: f64,
    /// Learning rate.
    #[serde(default)]
    pub lr: Option<f64>,
    /// Norm of the gradient before clipping.
    #[serde(default)]
    pub grad_norm: Option<f64>,
    /// Mean cross-entropy of held-out text, in nats a token, where it was scored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation_loss: Option<f64>,
}

impl ReportInput {
    /// Domains that any model was measured on or any corpus stands for, `public` first, then by name, with titles.
    pub(super) fn domains<'a>(&'a self, names: impl Iterator<Item = &'a String>) -> Vec<(&'a str, &'a str)> {
        let mut names: Vec<&str> = names.map(String::as_str).collect();
        names.sort_unstable_by_key(|name| (*name != PUBLIC, *name));
        names.dedup();
        names.into_iter().map(|name| (name, self.title(name))).collect()
    }

    pub(super) fn title<'a>(&'a self, domain: &'a str) -> &'a str {
        self.members.iter().find(|member| member.name == domain).map_or(domain, |member| &member.title)
    }

    pub(super) fn model(&self, label: &str) -> Option<&ModelResult> {
        self.results.iter().find(|model| model.label == label)
    }

    /// Models of a group; `public` first, those of a domain by domain, the others as they came.
    pub(super) fn group(&self, group: ModelGroup) -> Vec<&ModelResult> {
        let mut models: Vec<&ModelResult> = self.results.iter().filter(|model| model.group == group).collect();
        models.sort_by_key(|model| {
            let domain = model.left_out.as_deref().or(model.label.split_once('.').map(|(_, domain)| domain));
            (model.label != PUBLIC, domain.is_some(), domain)
        });
        models
    }
}
