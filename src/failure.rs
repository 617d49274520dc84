//! How a command can fail, before it is put in words.

use flow_pipeline::{
    StageError, lost_sources,
    names::StageId,
    recipe::{Diagnostic, Recipe, SourceMap},
};

/// What a command returns when it did not end well.
#[derive(Debug)]
pub enum Failure {
    /// The recipe is wrong; the diagnostics' places are in these texts.
    Recipe(Vec<Diagnostic>, SourceMap),
    /// The pipeline could not do it.
    Pipeline(flow_pipeline::Error),
    /// The report could not be written.
    Report(std::io::Error),
    /// It was tried, and failed.
    Failed {
        /// What.
        message: String,
        /// What to do.
        help: Option<String>,
    },
    /// The command line asks for what cannot be.
    Usage {
        /// What.
        message: String,
        /// What to do.
        help: Option<String>,
    },
}

/// What a command returns.
pub type Ended = Result<std::process::ExitCode, Failure>;

impl From<flow_pipeline::Error> for Failure {
    fn from(error: flow_pipeline::Error) -> Self {
        Self::Pipeline(error)
    }
}

impl From<flow_cache::Error> for Failure {
    fn from(error: flow_cache::Error) -> Self {
        Self::Pipeline(error.into())
    }
}

impl Failure {
    /// What stages cannot use of what lies outside of flow, at its places in the recipe.
    pub fn lost_sources(recipe: &Recipe, lost: &[(StageId, StageError)]) -> Self {
        Self::Recipe(lost_sources(recipe, lost), recipe.sources.clone())
    }

    /// A complaint about the command line.
    pub fn usage(message: impl Into<String>, help: impl Into<Option<String>>) -> Self {
        Self::Usage { message: message.into(), help: help.into() }
    }
}
