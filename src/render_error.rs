//! Every failure as exit code, words and help: the one place where errors are put before a person.
//!
//! A recipe's complaints show the recipe's own line. 2 means that nothing was tried since the recipe, the command line or the
//! machine does not fit; 1 that something was tried and failed.

use std::{io::Write, path::Path, process::ExitCode};

use flow_pipeline::{
    Error, StageError,
    accept::Unfit,
    chain,
    names::StageId,
    recipe::{Diagnostic, SourceMap, Span},
    run::{Need, Shortfall},
};
use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, MietteDiagnostic, Severity};

use crate::{
    excerpt::Excerpt,
    failure::Failure,
    view::{self, numbers},
};

/// A complaint in the form that is shown and, with `--json`, written.
struct Complaint {
    message: String,
    help: Option<String>,
}

/// Prints a failure on standard error; its exit code.
pub fn print(failure: &Failure, json: bool) -> ExitCode {
    let (code, complaints) = match failure {
        Failure::Recipe(diagnostics, sources) => {
            if json {
                view::json::line(&recipe_json(diagnostics, sources));
            }
            show(diagnostics.iter().map(|diagnostic| render(diagnostic, sources)));
            return ExitCode::from(2);
        }
        Failure::Pipeline(error) => (code(error), complaints(error)),
        Failure::Report(error) => (1, vec![Complaint { message: chain(error), help: disk_help(error) }]),
        Failure::Failed { message, help } => (1, vec![Complaint { message: message.clone(), help: help.clone() }]),
        Failure::Usage { message, help } => (2, vec![Complaint { message: message.clone(), help: help.clone() }]),
    };
    if json {
        let errors: Vec<_> =
            complaints.iter().map(|c| serde_json::json!({ "message": c.message, "help": c.help })).collect();
        view::json::line(&serde_json::json!({ "errors": errors }));
    }
    show(complaints.into_iter().map(plain));
    ExitCode::from(code)
}

/// Prints complaints with an empty line between them. Whoever listened may be gone: the exit code still tells.
fn show(complaints: impl Iterator<Item = String>) {
    let text = complaints.collect::<Vec<_>>().join("\n\n");
    let _ = writeln!(std::io::stderr().lock(), "{}", view::harmless(&text, console::colors_enabled_stderr()));
}

/// Without `..` anywhere: a new kind of error must be given a code here, or this does not compile.
fn code(error: &Error) -> u8 {
    match error {
        Error::Recipe(_)
        | Error::Capacity { .. }
        | Error::NotAccepted(_)
        | Error::NoSuchStage { .. }
        | Error::NoSuchRun { .. }
        | Error::OtherFlow { .. }
        | Error::NoRuns { .. }
        | Error::Cache(flow_cache::Error::Location { .. } | flow_cache::Error::NoCloud { .. }) => 2,
        Error::Cache(_)
        | Error::InputLost { .. }
        | Error::Io { .. }
        | Error::EventLog { .. }
        | Error::Format { .. }
        | Error::Job { .. }
        | Error::NonDeterministic { .. }
        | Error::RecordLost { .. }
        | Error::Spawn { .. } => 1,
    }
}

fn complaints(error: &Error) -> Vec<Complaint> {
    let one = |help: Option<String>| vec![Complaint { message: sentence(error), help }];
    match error {
        Error::Recipe(diagnostics) => diagnostics
            .iter()
            .map(|diagnostic| Complaint { message: diagnostic.message.clone(), help: diagnostic.help.clone() })
            .collect(),
        Error::NotAccepted(stages) => not_accepted(stages),
        Error::Capacity { shortfalls, capacity, profiles } => {
            let list = needs(shortfalls).join("\n  ");
            let message = format!(
                "this machine cannot hold the run, so nothing was done. There are {} cores, {} of memory and {}; needed are:\n  {list}",
                capacity.cores,
                numbers::bytes(capacity.memory),
                accelerators(capacity.gpus),
            );
            let smaller = profiles.iter().map(|name| format!("`--profile {name}`")).collect::<Vec<_>>().join(" or ");
            let help = if profiles.is_empty() {
                "run it where these are, or lower the stages' sizes".to_owned()
            } else {
                format!("run it where these are, or lay a smaller profile over the recipe: {smaller}")
            };
            vec![Complaint { message, help: Some(help) }]
        }
        Error::NoSuchStage { name: _, nearest } => one(Some(match nearest {
            Some(nearest) => format!("did you mean `{nearest}`?"),
            None => "`flow plan RECIPE` lists a recipe's stages, `flow status` those of the last run".to_owned(),
        })),
        Error::NoSuchRun { name: _, nearest } => one(Some(match nearest {
            Some(nearest) => format!("did you mean `{nearest}`? `flow runs` lists them"),
            None => "`flow runs` lists them".to_owned(),
        })),
        Error::OtherFlow { .. } => one(Some(
            "give `flow run RECIPE` again with this flow: what is in the cache is not made again, and that run can be looked at \
             and compared"
                .to_owned(),
        )),
        Error::NoRuns { .. } => one(Some("`flow run RECIPE` makes one; `--store` names another store".to_owned())),
        Error::NonDeterministic { first, .. } if first.accepted.is_some() => {
            one(Some("the change that was accepted was not harmless; what is on record stays".to_owned()))
        }
        Error::NonDeterministic { stage, .. } => one(Some(format!(
            "the first result stays; something that the key does not name decides on the bytes of `{stage}`. If only the \
             machine differs, this is a defect of flow"
        ))),
        Error::Job { .. } => {
            one(Some("`flow exec` reads job files that `flow run` of the same version wrote".to_owned()))
        }
        Error::Format { path, .. } => one(Some(format!("delete {} if another version wrote it", path.display()))),
        Error::Cache(source) => one(cache_help(source)),
        Error::InputLost { source, .. } => one(cache_help(source)),
        Error::Io { source, .. } => one(disk_help(source)),
        Error::EventLog { path, source } => one(log_help(path, source)),
        Error::RecordLost { .. } => one(Some("`flow run` makes the stage again, and says so".to_owned())),
        Error::Spawn { .. } => one(Some("the program must still be where it was started from".to_owned())),
    }
}

/// Why nothing was accepted.
fn not_accepted(stages: &[(StageId, Unfit)]) -> Vec<Complaint> {
    let complaint = |(why, who): (&Unfit, String)| {
        let help = match why {
            Unfit::Cached { .. } => Some("there is nothing to accept; `flow plan` says what would run, and why".to_owned()),
            Unfit::NeverRun | Unfit::Unrecorded | Unfit::OtherKind { .. } => Some("`flow run` makes it".to_owned()),
            Unfit::Waits { .. } => Some(
                "accept that in the same command, or let `flow run` make it first: then `flow plan` says what would still run"
                    .to_owned(),
            ),
            Unfit::Evicted => Some("`flow run` makes them again; `--remote` names a store that may have them".to_owned()),
            Unfit::BytesGone { .. } => {
                Some("`flow run` makes a new one; `--remote` names a store that may have the old one".to_owned())
            }
            Unfit::Blocked(error) => error.help.clone(),
            Unfit::Busy { .. } => Some("wait until it has ended, or stop that run first".to_owned()),
            Unfit::Made { .. } => Some("that result stays; `flow plan` says what would run now".to_owned()),
        };
        Complaint { message: format!("{who} cannot be accepted: {why}"), help }
    };
    grouped(stages).into_iter().map(complaint).collect()
}

/// What is wrong with some stages, each once, and with which.
fn grouped<E: PartialEq>(wrong: &[(StageId, E)]) -> Vec<(&E, String)> {
    let mut groups: Vec<(&E, Vec<&StageId>)> = Vec::new();
    for (stage, error) in wrong {
        match groups.iter_mut().find(|(known, _)| *known == error) {
            Some((_, stages)) => stages.push(stage),
            None => groups.push((error, vec![stage])),
        }
    }
    let named = |(error, stages): (_, Vec<&StageId>)| {
        let names: Vec<String> = stages.iter().take(3).map(ToString::to_string).collect();
        let names = names.join(", ");
        (error, if stages.len() > 3 { format!("{names} and {} more", stages.len() - 3) } else { names })
    };
    groups.into_iter().map(named).collect()
}

/// Turns success into a failure where standard output did not take what was written.
pub fn unless_refused(ended: ExitCode) -> ExitCode {
    let Some(error) = view::refused() else { return ended };
    let complaint = Complaint { message: format!("could not write to standard output: {error}"), help: None };
    show(std::iter::once(plain(complaint)));
    if ended == ExitCode::SUCCESS { ExitCode::FAILURE } else { ended }
}

/// A command line that cannot be read, or a question for help, as clap puts it; with `--json` for programs too.
pub fn usage(error: &clap::Error) -> ExitCode {
    let json = std::env::args_os().take_while(|word| word != "--").any(|word| word == "--json");
    // clap names the option, which nobody gave.
    if std::env::var_os("FLOW_STORE").is_some_and(|store| store.is_empty()) && error.to_string().contains("--store") {
        let message = "`FLOW_STORE` is set to nothing";
        return print(&Failure::usage(message, "give it the folder of the store, or unset it".to_owned()), json);
    }
    if error.use_stderr() && json {
        let text = error.to_string();
        let (message, help) = text.split_once("\n\n").unwrap_or((&text, ""));
        let message = message.trim().trim_start_matches("error: ");
        let help = Some(help.trim()).filter(|help| !help.is_empty());
        view::json::line(&serde_json::json!({ "errors": [{ "message": message, "help": help }] }));
    }
    let text = error.render();
    let shown = |colours| if colours { text.ansi().to_string() } else { text.to_string() };
    if error.use_stderr() {
        let colours = console::colors_enabled_stderr();
        // Whoever listened may be gone: the exit code still tells.
        let _ = write!(std::io::stderr().lock(), "{}", view::harmless(&shown(colours), colours));
    } else {
        view::print(&shown(console::colors_enabled()));
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// The error as a sentence. That the store was used is no news.
fn sentence(error: &Error) -> String {
    match error {
        Error::Cache(source) => StageError::from_error(source).message,
        other => other.sentence(),
    }
}

/// What does not fit, instances of one stage on one line.
fn needs(shortfalls: &[Shortfall]) -> Vec<String> {
    let mut groups: Vec<(String, Need, u32, usize)> = Vec::new();
    for Shortfall { stage, need, nodes } in shortfalls {
        let base = stage.base().to_string();
        match groups.iter_mut().find(|(name, known, _, _)| *name == base && known == need) {
            Some((_, _, _, count)) => *count += 1,
            None => groups.push((base, *need, *nodes, 1)),
        }
    }
    let line = |(name, need, nodes, count): (String, Need, u32, usize)| {
        let each = if count > 1 { format!(" (each of {count})") } else { String::new() };
        if need.gpus == 0 {
            return format!("{name}{each}: {} of memory", numbers::bytes(need.memory));
        }
        let memory = numbers::bytes(need.memory / u64::from(need.gpus));
        let nodes = if nodes > 1 { format!(", on {nodes} machines") } else { String::new() };
        format!("{name}{each}: {} with {memory} of memory each{nodes}", accelerators(need.gpus))
    };
    groups.into_iter().map(line).collect()
}

fn accelerators(count: u32) -> String {
    match count {
        0 => "no accelerator".to_owned(),
        1 => "1 accelerator".to_owned(),
        n => format!("{n} accelerators"),
    }
}

fn cache_help(error: &flow_cache::Error) -> Option<String> {
    match error {
        flow_cache::Error::Location { .. } => {
            Some("a store is a folder, or a URL such as `s3://bucket/prefix`".to_owned())
        }
        // A folder has a path, and needs no word about clouds.
        flow_cache::Error::Store { store, .. } if store.contains("://") => Some(flow_cache::ENVIRONMENT.to_owned()),
        flow_cache::Error::NoCloud { .. } => Some("build flow with `--features cloud`".to_owned()),
        flow_cache::Error::Io { source, .. } | flow_cache::Error::DiskFull { source, .. } => disk_help(source),
        _ => None,
    }
}

/// The log is `STORE/runs/RUN/events.jsonl`.
fn log_help(path: &Path, error: &std::io::Error) -> Option<String> {
    if !matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded) {
        return disk_help(error);
    }
    let store = path.ancestors().nth(3).unwrap_or(path);
    let store = std::path::absolute(store).unwrap_or_else(|_| store.to_owned());
    Some(format!(
        "the disk of {}/ is full: make room there, or name another folder with `--store`, and give the same command again; \
         what was finished is kept",
        store.display()
    ))
}

/// What to do about a disk or a folder that does not take what is written.
pub fn disk_help(error: &std::io::Error) -> Option<String> {
    match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            Some("free some space, or put the store elsewhere with `--store`; what was finished is kept".to_owned())
        }
        std::io::ErrorKind::PermissionDenied => {
            Some("the folder must be writable; `--store` and `--report` can name another".to_owned())
        }
        std::io::ErrorKind::ReadOnlyFilesystem => Some("`--store` can name a folder on another disk".to_owned()),
        _ => None,
    }
}

fn handler() -> GraphicalReportHandler {
    let theme =
        if console::colors_enabled_stderr() { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
    let width = usize::from(console::Term::stderr().size_checked().map_or(110, |(_, columns)| columns)).max(60);
    GraphicalReportHandler::new_themed(theme).with_width(width).with_links(false)
}

fn plain(complaint: Complaint) -> String {
    let mut shown = MietteDiagnostic::new(view::visible(&complaint.message)).with_severity(Severity::Error);
    shown.help = complaint.help.map(|help| view::visible(&help).into_owned());
    draw(&miette::Report::new(shown))
}

/// A recipe's complaint with its line and caret. One diagnostic shows one file: places in others are told in words.
fn render(diagnostic: &Diagnostic, sources: &SourceMap) -> String {
    let mut shown = MietteDiagnostic::new(view::visible(&diagnostic.message)).with_code(diagnostic.code);
    shown.help = diagnostic.help.as_deref().map(|help| view::visible(help).into_owned());
    let Some((span, words)) = &diagnostic.label else { return draw(&miette::Report::new(shown)) };
    let Some(file) = sources.get(span.file) else { return draw(&miette::Report::new(shown)) };
    // A map's span may be a page long: its first line says where. A place of no width has no caret: widen it to a character.
    let range = |span: &Span| {
        let rest = file.text.get(span.start as usize..span.end as usize).unwrap_or_default();
        (span.start as usize, rest.find('\n').unwrap_or(rest.len()).max(1))
    };
    let mut here = vec![(range(span), words)];
    let mut elsewhere = Vec::new();
    for (other, words) in &diagnostic.related {
        if other.file == span.file {
            here.push((range(other), words));
        } else {
            elsewhere.push(format!("{}: {words}", sources.place(*other)));
        }
    }
    if !elsewhere.is_empty() {
        let help = shown.help.take().into_iter().chain(elsewhere).collect::<Vec<_>>().join("\n");
        shown.help = Some(help);
    }
    let excerpt = Excerpt::new(&file.name, &file.text, &here.iter().map(|(range, _)| *range).collect::<Vec<_>>());
    let labels = here.iter().enumerate().map(|(nth, (_, words))| {
        let (start, length) = excerpt.place(nth);
        LabeledSpan::new(Some(view::visible(words).into_owned()).filter(|words| !words.is_empty()), start, length)
    });
    let shown = shown.with_labels(labels);
    draw(&miette::Report::new(shown).with_source_code(excerpt))
}

fn draw(report: &miette::Report) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail; should the handler not like a span, the message is shown alone.
    if handler().render_report(&mut text, report.as_ref()).is_err() {
        text = report.to_string();
        if let Some(help) = report.help() {
            text = format!("{text}\n  help: {help}");
        }
    }
    text.trim_end().to_owned()
}

fn recipe_json(diagnostics: &[Diagnostic], sources: &SourceMap) -> serde_json::Value {
    let errors: Vec<_> = diagnostics
        .iter()
        .map(|d| {
            let place = d.label.as_ref().map(|(span, _)| {
                let file = sources.get(span.file).map(|file| file.name.clone());
                serde_json::json!({ "file": file, "line": span.line, "column": span.col })
            });
            serde_json::json!({ "code": d.code, "message": d.message, "place": place, "help": d.help })
        })
        .collect();
    serde_json::json!({ "errors": errors })
}
