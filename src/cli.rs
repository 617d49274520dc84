//! The command line, and nothing else.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Carry a FlexOlmo model from raw text to the paper's tables with one recipe.
#[derive(Debug, Parser)]
#[command(name = "flow", version, about, max_term_width = 110)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Write JSON to standard output instead of text for people.
    #[arg(long, global = true)]
    pub json: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run what is not in the cache yet, then write the report.
    Run(RunArgs),
    /// Say for every stage whether it would run, why, and what it would cost.
    Plan(PlanArgs),
    /// Draw the graph of stages.
    Graph(GraphArgs),
    /// Show how a run stands or ended.
    Status(StatusArgs),
    /// Write the report of a recipe whose stages are all in the cache.
    Report(ReportArgs),
    /// Print the JSON Schema of recipes, for editors.
    Schema,
    /// List the kinds of stages with their params and inputs.
    Kinds,
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Run one stage's job file (flow calls this itself).
    #[command(hide = true)]
    Exec {
        /// The job file.
        job: PathBuf,
        /// Stop when standard input ends: the process that started this one is gone.
        #[arg(long)]
        watch_stdin: bool,
    },
}

/// Which recipe, and what is laid over it.
#[derive(Debug, Args)]
pub struct RecipeArgs {
    /// The recipe.
    pub recipe: PathBuf,
    /// Lay a profile of the recipe over it. May be given more than once.
    #[arg(long, short, value_name = "NAME")]
    pub profile: Vec<String>,
    /// Set one value: `stages.expert.with.steps=10`, or a variable's name. May be given more than once.
    #[arg(long, short, value_name = "PATH=VALUE", value_parser = assignment)]
    pub set: Vec<(String, String)>,
}

/// Where artifacts are kept.
#[derive(Debug, Args)]
pub struct StoreArgs {
    /// The folder of the cache and of the runs.
    #[arg(long, value_name = "FOLDER", env = "FLOW_STORE", default_value = ".flow")]
    pub store: PathBuf,
    /// A store behind it that others share, such as `s3://bucket/prefix`.
    #[arg(long, value_name = "URL", env = "FLOW_REMOTE")]
    pub remote: Option<String>,
}

/// What computes.
#[derive(Debug, Args)]
pub struct DeviceArgs {
    /// The compute device: `cpu`, `wgpu` or `cuda` [default: the recipe's `device`, else `cpu`].
    #[arg(long, value_name = "DEVICE", env = "FLOW_DEVICE")]
    pub device: Option<String>,
    /// Cores that stages may use together [default: all].
    #[arg(long, value_name = "N")]
    pub threads: Option<u32>,
}

impl DeviceArgs {
    /// The device to compute on.
    pub fn device<'a>(&'a self, recipe: &'a flow_pipeline::recipe::Recipe) -> &'a str {
        self.device.as_deref().or(recipe.device.as_deref()).unwrap_or("cpu")
    }
}

/// `flow run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// Only these stages and what they need; the name of a `foreach` stands for all of it.
    #[arg(value_name = "STAGE")]
    pub stages: Vec<String>,
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Start nothing more after the first failure.
    #[arg(long)]
    pub fail_fast: bool,
    /// Do this stage again although it is cached, and compare the results. May be given more than once.
    #[arg(long, value_name = "STAGE")]
    pub recheck: Vec<String>,
    /// Where the report goes [default: report/RECIPE].
    #[arg(long, value_name = "FOLDER")]
    pub report: Option<PathBuf>,
}

/// `flow plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// Only these stages and what they need.
    #[arg(value_name = "STAGE")]
    pub stages: Vec<String>,
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// How a graph is written.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum GraphFormat {
    /// For Graphviz.
    Dot,
    /// For Markdown.
    Mermaid,
    /// A picture.
    Svg,
}

/// `flow graph`.
#[derive(Debug, Args)]
pub struct GraphArgs {
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// How it is written.
    #[arg(long, short, value_enum, default_value = "dot")]
    pub format: GraphFormat,
    /// One node for all instances of a `foreach`.
    #[arg(long)]
    pub collapse: bool,
}

/// `flow status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The run [default: the last one].
    pub run: Option<String>,
    /// The folder of the cache and of the runs.
    #[arg(long, value_name = "FOLDER", env = "FLOW_STORE", default_value = ".flow")]
    pub store: PathBuf,
}

/// `flow report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    #[command(flatten)]
    pub recipe: RecipeArgs,
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
    /// Where the report goes [default: report/RECIPE].
    #[arg(long, value_name = "FOLDER")]
    pub report: Option<PathBuf>,
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((path, value)) if !path.trim().is_empty() => Ok((path.trim().to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not of the form PATH=VALUE, such as `stages.expert.with.steps=10`")),
    }
}
