//! Text from a model folder, for the command line.

use std::{ops::ControlFlow, path::Path};

use flow_data::tokenizer::Tokenizer;
use flow_model::{
    generate::{self, Generated, Sampling},
    numerics,
    olmo2::Model,
};
use flow_pipeline::StageError;

use crate::{
    engine::{data, model},
    interop::{self, Trouble, tokenizer},
    scoring::left_out,
};

/// A model that is in memory, with what reads and writes its text.
pub struct Writer {
    model: Model,
    tokenizer: Tokenizer,
    without: Vec<usize>,
}

/// A piece of new text.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Piece {
    /// What can be shown by now: a letter may take several tokens, which then stand in the last one's piece.
    pub text: String,
    /// The token.
    pub token: u32,
    /// Its log-probability, in nats.
    pub log_prob: f64,
    /// Expert and share, in the model's order; empty for a dense model.
    pub experts: Vec<(String, f64)>,
}

/// What the text should be like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Request {
    /// New tokens at most.
    pub most: usize,
    /// 0 is greedy.
    pub temperature: f64,
    /// See [`Sampling::top_p`].
    pub top_p: f64,
    /// The same seed gives the same text.
    pub seed: u64,
}

impl Writer {
    /// Opens a model's folder; experts named in `without` are left out.
    ///
    /// # Errors
    /// A folder that holds no model, or no tokenizer; experts that it does not have; a device that is not there.
    pub fn open(folder: &Path, without: &[String], device: &str) -> Result<Self, StageError> {
        let opened = interop::open(folder).map_err(Trouble::into_error)?;
        let tokenizer = tokenizer(&opened)?;
        let without = left_out(opened.config(), without)?;
        let device = numerics::device(device).map_err(model)?;
        let loaded = Model::new(opened.config(), &opened.finite_weights().map_err(model)?, &device).map_err(model)?;
        Ok(Self { model: loaded, tokenizer, without })
    }

    /// Goes on with `prompt`; `each` is given every new token, and ends the text by `Break`.
    ///
    /// # Errors
    /// A prompt that is longer than the model can see, and sampling that is out of range; a model that cannot be computed with.
    pub fn write(
        &self,
        prompt: &str,
        request: Request,
        each: &mut dyn FnMut(Piece) -> ControlFlow<()>,
    ) -> Result<(), Trouble> {
        let tokens = self.tokenizer.encode(prompt).map_err(data)?;
        let Request { most, temperature, top_p, seed } = request;
        let sampling = Sampling { temperature, top_p, seed };
        let limit = self.model.config().max_positions;
        if tokens.len() > limit {
            return Err(StageError::new(format!("the prompt has {} tokens, the model sees {limit}", tokens.len()))
                .with_help("give a shorter prompt")
                .into());
        }
        let names = self.model.config().experts.as_ref().map(|mixture| mixture.names.clone()).unwrap_or_default();
        let (mut text, mut shown) = (Vec::new(), 0);
        let mut undecodable = None;
        let mut sink = |generated: &Generated| {
            let Generated { token, log_prob, experts } = generated;
            if *token != self.tokenizer.eos() {
                text.push(*token);
            }
            let all = match self.tokenizer.decode(&text) {
                Ok(all) => all,
                Err(error) => {
                    undecodable = Some(error);
                    return ControlFlow::Break(());
                }
            };
            // A replacement character at the end is a letter whose last bytes are still to come.
            let whole = all.trim_end_matches(char::REPLACEMENT_CHARACTER).len();
            let new = all.get(shown..whole).unwrap_or_default().to_owned();
            shown = shown.max(whole);
            let experts = names.iter().cloned().zip(experts.iter().copied()).collect();
            each(Piece { text: new, token: *token, log_prob: *log_prob, experts })
        };
        generate::generate(&self.model, &tokens, most, &self.without, sampling, &mut sink)?;
        match undecodable {
            Some(error) => Err(data(error).into()),
            None => Ok(()),
        }
    }
}
