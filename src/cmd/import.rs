//! `flow import`: what a model folder from outside of flow holds, checked to the last byte; or, with `--score`, what the model makes
//! of given tokens. In a recipe the kind `import-model` takes the same folder.

use std::{
    fmt::Write as _,
    io::{self, BufRead},
    path::Path,
    process::ExitCode,
};

use flow_pipeline::Error;
use flow_stages::interop::{self, Description, Trouble};
use fs_err as fs;

use super::planning;
use crate::{
    cli::ImportArgs,
    failure::{Ended, Failure},
    machine,
    view::{
        self,
        numbers::{bytes, count},
    },
};

/// Runs the command.
pub fn import(args: &ImportArgs, json: bool) -> Ended {
    planning::check_device(&args.device)?;
    let cores = machine::capacity(args.device.threads, 0).cores;
    interop::start(cores as usize).map_err(|trouble| failure(trouble, "start"))?;
    if let Some(file) = &args.score {
        return score(args, file);
    }
    let found = interop::describe(&args.folder).map_err(|trouble| failure(trouble, "import"))?;
    if json {
        view::json::pretty(&found);
    } else {
        show("found", &found);
    }
    Ok(ExitCode::SUCCESS)
}

fn score(args: &ImportArgs, file: &Path) -> Ended {
    let (lines, name): (Box<dyn BufRead>, String) = if file == Path::new("-") {
        (Box::new(io::stdin().lock()), "standard input".to_owned())
    } else {
        let opened = fs::File::open(file).map_err(|error| {
            Failure::usage(error.to_string(), "name a file of JSON lines, or `-` for standard input".to_owned())
        })?;
        (Box::new(io::BufReader::new(opened)), file.display().to_string())
    };
    let device = args.device.device.as_deref().unwrap_or("cpu");
    interop::score(&args.folder, lines, &name, device, |scores| {
        view::json::line(scores);
    })
    .map_err(|trouble| failure(trouble, "score"))?;
    Ok(ExitCode::SUCCESS)
}

/// A refusal is the command line's fault: another folder, file or flag is needed. What failed all the same is not.
pub fn failure(trouble: Trouble, doing: &str) -> Failure {
    match trouble {
        Trouble::Refused(error) => Failure::usage(error.message, error.help),
        Trouble::Failed(error) => Failure::Failed { message: error.message, help: error.help },
        Trouble::Disk(source) => {
            let doing = match doing {
                "export" => "write the model",
                _ => "read the model",
            };
            Error::Io { doing, source }.into()
        }
    }
}

/// Prints a description for people.
pub fn show(verb: &str, found: &Description) {
    view::print(&text(verb, found));
}

fn text(verb: &str, found: &Description) -> String {
    let Description {
        path,
        architecture,
        layers,
        hidden_size,
        ffn_hidden,
        heads,
        vocab_size,
        max_positions,
        parameters,
        active_parameters,
        experts,
        top_k,
        router_bias,
        dtype,
        files,
        bytes: size,
        digest,
        tokenizer,
        tokenizer_problem,
    } = found;
    let name = if experts.is_empty() { "a dense OLMo 2" } else { "a FlexOlmo" };
    let mut out = String::new();
    let mut line = |title: &str, rest: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  {title:<10} {rest}");
    };
    line(
        "model",
        format!(
            "{architecture}, {layers} layers, {hidden_size} wide, {heads} heads, FFN {ffn_hidden}, {vocab_size} entries, \
             {max_positions} positions"
        ),
    );
    let active = Some(format!(", {} for a token", count(*active_parameters as f64))).filter(|_| top_k.is_some());
    line("parameters", count(*parameters as f64) + &active.unwrap_or_default());
    if let Some(top_k) = top_k {
        let bias = if *router_bias { "; the router has a bias" } else { "" };
        line("experts", format!("{}; a token is sent to {top_k}{bias}", experts.join(", ")));
    }
    let plural = if *files == 1 { "file" } else { "files" };
    line("tensors", format!("{}, {} in {files} {plural}", dtype.torch(), bytes(*size)));
    line("digest", digest.clone());
    match (tokenizer, tokenizer_problem) {
        (Some(found), _) => {
            line("tokenizer", format!("{} entries, documents end with token {}", found.entries, found.eos));
        }
        (None, Some(problem)) => line("tokenizer", format!("none that flow can use; failed to {problem}")),
        (None, None) => line("tokenizer", "none".to_owned()),
    }
    format!("{verb} {name} in {}\n{out}", path.display())
}
