//! `flow generate`: text from a model folder, shown as it comes.

use std::{fmt::Write as _, io::Read, ops::ControlFlow, process::ExitCode};

use flow_pipeline::{Error, StageError};
use flow_stages::{
    generation::{Piece, Request, Writer},
    interop::{self, Trouble},
};

use super::{import, planning};
use crate::{
    cli::GenerateArgs,
    failure::{Ended, Failure},
    machine, view,
};

/// Runs the command.
pub fn generate(args: &GenerateArgs, json: bool) -> Ended {
    planning::check_device(&args.device)?;
    let cores = machine::capacity(args.device.threads, 0).cores;
    interop::start(cores as usize).map_err(|trouble| import::failure(trouble, "start"))?;
    let device = args.device.device.as_deref().unwrap_or("cpu");
    let writer = Writer::open(&args.folder, &args.without, device).map_err(refused)?;
    let prompt = if args.prompt == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map_err(Error::io("read the prompt"))?;
        text
    } else {
        args.prompt.clone()
    };
    let request = Request { most: args.max_tokens, temperature: args.temperature, top_p: args.top_p, seed: args.seed };
    let mut pieces = Vec::new();
    let mut each = |piece: Piece| {
        if json {
            let taken = view::json::line(&piece);
            return if taken { ControlFlow::Continue(()) } else { ControlFlow::Break(()) };
        }
        if !view::print_as_it_is(&piece.text) {
            return ControlFlow::Break(());
        }
        if args.attribute {
            pieces.push(piece);
        }
        ControlFlow::Continue(())
    };
    writer.write(&prompt, request, &mut each).map_err(|trouble| match trouble {
        Trouble::Refused(error) => refused(error),
        other => import::failure(other, "generate"),
    })?;
    if !json {
        view::print(&format!("\n{}", attribution(&pieces)));
    }
    Ok(ExitCode::SUCCESS)
}

/// A table: the token's text, and each expert's share in per cent.
fn attribution(pieces: &[Piece]) -> String {
    let Some(first) = pieces.first() else { return String::new() };
    if first.experts.is_empty() {
        return "\na dense model: every token comes from its one FFN\n".to_owned();
    }
    let names: Vec<String> = first.experts.iter().map(|(name, _)| format!("{name:>10}")).collect();
    let mut text = format!("\n{:<24}{}\n", "token", names.join(""));
    for piece in pieces {
        let shares: Vec<String> = piece.experts.iter().map(|(_, share)| format!("{:>9.1}%", 100.0 * share)).collect();
        let token: String = format!("{:?}", piece.text).chars().take(22).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{token:<24}{}", shares.join(""));
    }
    text
}

fn refused(error: StageError) -> Failure {
    let StageError { message, help, cancelled: _, may_pass: _, param: _ } = error;
    Failure::usage(message, help)
}
