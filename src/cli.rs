//! The command line, and nothing else.

mod explain;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use flow_pipeline::units::{Bytes, Duration};

pub use explain::{AcceptArgs, CacheCommand, DiffArgs, GcArgs, LogsArgs, RunsArgs, StatusArgs, TransferArgs, WhyArgs};

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
    /// List the runs of a store, newest first.
    Runs(RunsArgs),
    /// Show how a run stands or ended.
    Status(StatusArgs),
    /// Print what a stage wrote to its log.
    Logs(LogsArgs),
    /// Say all that a stage's result depends on, whether it is there, and why it would run.
    Why(WhyArgs),
    /// Compare two runs: recipe, stages, artifacts, figures.
    Diff(DiffArgs),
    /// Keep the artifact that a stage has although it would run: a change is harmless, says a person, and why.
    Accept(AcceptArgs),
    /// Look after the store: list, measure, check, free, keep and share what it holds.
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Write the report of a recipe whose stages are all in the cache.
    Report(ReportArgs),
    /// Write the model of a stage that is in the cache as a folder that transformers reads.
    Export(ExportArgs),
    /// Write text with a model folder, such as an exported one.
    Generate(GenerateArgs),
    /// Check a model folder from outside of flow and say what it holds, or score tokens with it.
    Import(ImportArgs),
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
    /// The longest that one call to that store may take before it is made again; one that moves few bytes or none has a twelfth, or 10s.
    #[arg(long, value_name = "TIME", default_value = "2m", allow_negative_numbers = true, value_parser = positive_time)]
    pub remote_timeout: Duration,
    /// How often a call to that store is made before what needs it fails; pauses between them double from one second.
    #[arg(long, value_name = "N", default_value_t = 5, allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..))]
    pub remote_attempts: u32,
}

fn positive_time(text: &str) -> Result<Duration, String> {
    match text.parse::<Duration>() {
        Ok(Duration(0)) => Err("no call takes no time".to_owned()),
        Ok(time) => Ok(time),
        Err(error) => Err(error.to_string()),
    }
}

fn positive_size(text: &str) -> Result<Bytes, String> {
    match text.parse::<Bytes>() {
        Ok(Bytes(0)) => Err("no file is as small as that".to_owned()),
        Ok(size) => Ok(size),
        Err(error) => Err(error.to_string()),
    }
}

/// What computes.
#[derive(Debug, Args)]
pub struct DeviceArgs {
    /// The compute device: `cpu`, `wgpu` or `cuda` [default: the recipe's `device`, else `cpu`].
    #[arg(long, value_name = "DEVICE", env = "FLOW_DEVICE")]
    pub device: Option<String>,
    /// Cores that stages may use together [default: all].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..))]
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
    /// Do this stage again although it is cached, and compare the results; the name of a `foreach` stands for all of it. May be
    /// given more than once.
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
    /// Instead, say what would differ from this run.
    #[arg(long, value_name = "RUN")]
    pub diff: Option<String>,
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

/// What reads an exported folder.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ExportFormat {
    /// Hugging Face transformers, and all that reads its folders.
    Hf,
}

/// Element types of an exported model.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ExportDtype {
    /// Single precision.
    F32,
    /// The upper half of a single.
    Bf16,
}

/// `flow export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// The stage: of the kind `pretrain`, `import-model`, `merge` or `soup`; or `train-expert`, for the dense model with that expert.
    #[arg(value_name = "STAGE")]
    pub stage: String,
    /// The folder to write; where it exists it must be empty.
    #[arg(long, short, value_name = "FOLDER")]
    pub out: PathBuf,
    /// What will read the folder.
    #[arg(long, value_enum, default_value = "hf")]
    pub format: ExportFormat,
    /// Element type [default: the model's own].
    #[arg(long, value_enum)]
    pub dtype: Option<ExportDtype>,
    /// End a file of tensors before it grows beyond this.
    #[arg(long, value_name = "SIZE", default_value = "5GB", allow_negative_numbers = true, value_parser = positive_size)]
    pub shard_bytes: Bytes,
    /// Leave out a router bias that is in use: the format has none.
    #[arg(long)]
    pub drop_bias: bool,
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// `flow generate`.
#[derive(Debug, Args)]
pub struct GenerateArgs {
    /// The folder of a model with its tokenizer.
    pub folder: PathBuf,
    /// The text to go on with; `-` for standard input.
    #[arg(long, short, value_name = "TEXT", default_value = "")]
    pub prompt: String,
    /// New tokens at most.
    #[arg(long, value_name = "N", default_value_t = 128, allow_negative_numbers = true)]
    pub max_tokens: usize,
    /// 0 takes the most probable token each time; above, tokens are drawn.
    #[arg(long, value_name = "T", default_value_t = 0.0, allow_negative_numbers = true)]
    pub temperature: f64,
    /// Draw from the most probable tokens that together reach this probability.
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true)]
    pub top_p: f64,
    /// The same seed gives the same text.
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    pub seed: u64,
    /// Leave this expert out, as if it had never been merged. May be given more than once.
    #[arg(long, value_name = "EXPERT")]
    pub without: Vec<String>,
    /// After the text, print each token with the share that every expert had in it.
    #[arg(long)]
    pub attribute: bool,
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// `flow import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The folder: `config.json`, safetensors files (one, or several with an index), `tokenizer.json`.
    pub folder: PathBuf,
    /// Instead, score these JSON lines, `{"tokens": [5, 9]}` or `{"text": "…"}`; `-` for standard input. Each gives a line with the
    /// log-probability of every token but the first.
    #[arg(long, value_name = "FILE")]
    pub score: Option<PathBuf>,
    #[command(flatten)]
    pub device: DeviceArgs,
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((path, value)) if !path.trim().is_empty() => Ok((path.trim().to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not of the form PATH=VALUE, such as `stages.expert.with.steps=10`")),
    }
}
