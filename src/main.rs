//! The `flow` command: reads the command line, calls one command, turns its end into an exit code.
//!
//! Exit codes: 0 done, 1 a stage or a store failed, 2 the recipe, the command line or the machine does not fit, 130 interrupted.

mod cli;
mod cmd;
mod excerpt;
mod failure;
mod machine;
mod render_error;
mod view;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use cli::{Cli, Command};
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

fn main() -> ExitCode {
    view::screen::decide();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return render_error::unless_refused(render_error::usage(&error)),
    };
    // A stage's process writes to a log that is kept: what it says of its work belongs there.
    let usual = if matches!(cli.command, Command::Exec { .. }) { "error,flow_pipeline::context=info" } else { "error" };
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(console::colors_enabled_stderr())
        // The log may lie on a full disk: what it cannot hold is no reason to end.
        .log_internal_errors(false)
        .with_writer(std::io::stderr)
        .with_filter(EnvFilter::try_from_env("FLOW_LOG").unwrap_or_else(|_| EnvFilter::new(usual)));
    tracing_subscriber::registry().with(lines).with(view::waits::layer()).init();
    let json = cli.json;
    let ended = match cli.command {
        Command::Run(args) => cmd::run::run(&args, json),
        Command::Plan(args) => cmd::plan::plan(&args, json),
        Command::Graph(args) => cmd::graph::graph(&args, json),
        Command::Runs(args) => cmd::runs::runs(&args, json),
        Command::Status(args) => cmd::status::status(&args, json),
        Command::Logs(args) => cmd::logs::logs(&args, json),
        Command::Why(args) => cmd::why::why(&args, json),
        Command::Diff(args) => cmd::diff::diff(&args, json),
        Command::Accept(args) => cmd::accept::accept(&args, json),
        Command::Cache(command) => cmd::cache::cache(&command, json),
        Command::Report(args) => cmd::report::report(&args, json),
        Command::Export(args) => cmd::export::export(&args, json),
        Command::Generate(args) => cmd::generate::generate(&args, json),
        Command::Import(args) => cmd::import::import(&args, json),
        Command::Schema => Ok(cmd::schema::schema()),
        Command::Kinds => Ok(cmd::kinds::kinds(json)),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "flow", &mut script);
            view::write(&script);
            Ok(ExitCode::SUCCESS)
        }
        Command::Exec { job, watch_stdin } => cmd::exec::exec(&job, watch_stdin),
    };
    render_error::unless_refused(ended.unwrap_or_else(|failure| render_error::print(&failure, json)))
}
