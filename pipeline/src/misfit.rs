//! What does not fit in a stage before anything runs: a param, an input, or two that do not go together.
//!
//! A kind knows params by name and no recipe; [`Misfit::into_diagnostic`] finds the place in the recipe's text.

use crate::{
    error::StageError,
    names::StageId,
    recipe::{Diagnostic, Node, Recipe, Span, StageSpec},
};

/// What a misfit is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The stage as a whole.
    Stage,
    /// A param by its path, such as `batch.length` or `sources[0].files`.
    Param(String),
    /// An input by its role.
    Input(String),
}

/// Something that makes a stage certain to fail, with the words for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// What it is about.
    pub place: Place,
    /// What is wrong, with the value.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
    /// What else decides, each with the words to put there.
    pub also: Vec<(Place, String)>,
}

impl Misfit {
    /// Of a stage as a whole.
    pub fn new(message: impl Into<String>) -> Self {
        Self { place: Place::Stage, message: message.into(), help: None, also: Vec::new() }
    }

    /// Of a param.
    pub fn param(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { place: Place::Param(path.into()), ..Self::new(message) }
    }

    /// Of an input.
    pub fn input(role: impl Into<String>, message: impl Into<String>) -> Self {
        Self { place: Place::Input(role.into()), ..Self::new(message) }
    }

    /// The same with advice.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The same with another param that decides.
    #[must_use]
    pub fn also_param(mut self, path: impl Into<String>, words: impl Into<String>) -> Self {
        self.also.push((Place::Param(path.into()), words.into()));
        self
    }

    /// The misfit with its place in the text.
    pub(crate) fn into_diagnostic(self, stage: &StageSpec) -> Diagnostic {
        let code = if matches!(self.place, Place::Input(_)) { "recipe::inputs" } else { "recipe::params" };
        let (span, words) = match &self.place {
            Place::Stage => (stage.span, "this stage".to_owned()),
            Place::Param(path) => match find(&stage.with, path) {
                Ok(span) => (span, String::new()),
                Err(Some(nearest)) => (nearest, format!("`{path}` is not set here: its default counts")),
                // The `with` of a stage that has none of its own stands at the stage.
                Err(None) => (stage.with.span, format!("`{path}` is not set: its default counts")),
            },
            Place::Input(role) => (input(stage, role).unwrap_or(stage.span), "this input".to_owned()),
        };
        let mut diagnostic = Diagnostic::new(code, format!("{}: {}", stage.id, self.message)).at(span, words);
        diagnostic.help = self.help;
        for (place, words) in self.also {
            let other = match &place {
                Place::Stage => Some(stage.span),
                Place::Param(path) => find(&stage.with, path).ok(),
                Place::Input(role) => input(stage, role),
            };
            // What is a default has no place, and the message names its value.
            if let Some(other) = other.filter(|other| *other != span) {
                diagnostic = diagnostic.also(other, words);
            }
        }
        diagnostic
    }
}

/// Where the stage says what fills a role.
fn input(stage: &StageSpec, role: &str) -> Option<Span> {
    let input = stage.inputs.iter().find(|input| input.role.value == role)?;
    Some(input.refs.first().map_or(input.role.span, |reference| reference.span))
}

/// Complaints about what stages cannot use of what lies outside of flow, one for each place: instances of a stage share it.
pub fn lost_sources(recipe: &Recipe, lost: &[(StageId, StageError)]) -> Vec<Diagnostic> {
    let mut groups: Vec<(&StageError, Span, Vec<&StageId>, Vec<&StageId>)> = Vec::new();
    for (id, error) in lost {
        let Some(stage) = recipe.stages.iter().find(|stage| stage.id == *id) else { continue };
        let span = match error.param.as_deref().map(|param| find(&stage.with, param)) {
            Some(Ok(span) | Err(Some(span))) => span,
            Some(Err(None)) => stage.with.span,
            None => stage.span,
        };
        match groups.iter_mut().find(|(_, at, _, _)| *at == span) {
            Some((known, _, stages, _)) if *known == error => stages.push(id),
            // What it looks for there has another name, and the first tells.
            Some((_, _, _, others)) => others.push(id),
            None => groups.push((error, span, vec![id], Vec::new())),
        }
    }
    let complaint = |(error, span, stages, others): (&StageError, Span, Vec<&StageId>, Vec<&StageId>)| {
        let words = if error.param.is_some() { "" } else { "this stage" };
        let nor = if others.is_empty() { String::new() } else { format!("; nor can {}", few(&others)) };
        let message = format!("{} cannot run: {}{nor}", few(&stages), error.message);
        Diagnostic { help: error.help.clone(), ..Diagnostic::new("recipe::source", message).at(span, words) }
    };
    groups.into_iter().map(complaint).collect()
}

fn few(ids: &[&StageId]) -> String {
    let names: Vec<String> = ids.iter().take(3).map(ToString::to_string).collect();
    let names = names.join(", ");
    if ids.len() > 3 { format!("{names} and {} more", ids.len() - 3) } else { names }
}

/// The place of the value at `path`; where it is not, that of the innermost value on the way to it, if there is one.
fn find(params: &Node, path: &str) -> Result<Span, Option<Span>> {
    let mut here = params;
    let mut nearest = None;
    let path = path.replace('[', ".[");
    for step in path.split('.') {
        let next = match step.strip_prefix('[').and_then(|step| step.strip_suffix(']')) {
            Some(index) => index.parse().ok().and_then(|index: usize| here.as_list()?.get(index)),
            None => here.get(step),
        };
        here = next.ok_or(nearest)?;
        nearest = Some(here.span);
    }
    Ok(here.span)
}
