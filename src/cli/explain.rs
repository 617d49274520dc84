//! The arguments of the commands that look at what was done: runs, stages, the store.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use flow_pipeline::units::Duration;

use super::{DeviceArgs, RecipeArgs, StoreArgs};
use crate::failure::Failure;

/// The store, where no other behind it matters.
#[derive(Debug, Args)]
pub struct FolderArgs {
    /// The folder of the cache and of the runs.
    #[arg(long, value_name = "FOLDER", env = "FLOW_STORE", default_value = ".flow")]
    pub store: PathBuf,
}

/// A recipe that need not be given.
#[derive(Debug, Args)]
pub struct MaybeRecipeArgs {
    /// The recipe.
    pub recipe: Option<PathBuf>,
    /// Lay a profile of the recipe over it. May be given more than once.
    #[arg(long, short, value_name = "NAME", requires = "recipe")]
    pub profile: Vec<String>,
    /// Set one value: `stages.expert.with.steps=10`, or a variable's name. May be given more than once.
    #[arg(long, short, value_name = "PATH=VALUE", value_parser = super::assignment, requires = "recipe")]
    pub set: Vec<(String, String)>,
}

impl MaybeRecipeArgs {
    /// The recipe, if one was given.
    pub fn given(&self) -> Option<RecipeArgs> {
        let recipe = self.recipe.clone()?;
        Some(RecipeArgs { recipe, profile: self.profile.clone(), set: self.set.clone() })
    }
}

impl WhyArgs {
    /// The stage, and the recipe if one was given.
    pub fn asked(&self) -> Result<(String, Option<RecipeArgs>), Failure> {
        let with = |recipe: &String| RecipeArgs {
            recipe: PathBuf::from(recipe),
            profile: self.profile.clone(),
            set: self.set.clone(),
        };
        let help = "`flow why RECIPE STAGE` asks about now, `flow why STAGE --run RUN` about a run".to_owned();
        match self.named.as_slice() {
            [recipe, stage] if self.run.is_none() => Ok((stage.clone(), Some(with(recipe)))),
            [_, _] => Err(Failure::usage("a recipe and a run are two things to ask about", help)),
            [recipe] if recipe.contains(['.', '/']) => {
                let help = format!("`flow plan {recipe}` lists the stages; `flow why {recipe} STAGE` asks about one");
                Err(Failure::usage(format!("`{recipe}` is a recipe, and no stage of it is named"), help))
            }
            [stage] if self.profile.is_empty() && self.set.is_empty() => Ok((stage.clone(), None)),
            _ => Err(Failure::usage("what is laid over a recipe needs the recipe", help)),
        }
    }
}

impl GcArgs {
    /// The recipes, each with what is laid over all of them.
    pub fn recipes(&self) -> impl Iterator<Item = RecipeArgs> + '_ {
        let with = |recipe: &PathBuf| RecipeArgs {
            recipe: recipe.clone(),
            profile: self.profile.clone(),
            set: self.set.clone(),
        };
        self.recipes.iter().map(with)
    }
}

/// `flow runs`.
#[derive(Debug, Args)]
pub struct RunsArgs {
    #[command(flatten)]
    pub folder: FolderArgs,
}

/// `flow status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The run [default: the last one].
    pub run: Option<String>,
    /// Show what runs until the run has ended, then all of it.
    #[arg(long, short)]
    pub follow: bool,
    #[command(flatten)]
    pub folder: FolderArgs,
}

/// `flow logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// The stage.
    pub stage: String,
    /// Go on until the stage has ended.
    #[arg(long, short)]
    pub follow: bool,
    /// The run [default: the last one].
    #[arg(long, value_name = "RUN")]
    pub run: Option<String>,
    #[command(flatten)]
    pub store: StoreArgs,
}

/// `flow why`.
#[derive(Debug, Args)]
#[command(override_usage = "flow why [OPTIONS] [RECIPE] <STAGE>")]
pub struct WhyArgs {
    /// The stage: of a recipe that stands before it or, where none does, of the last run.
    // One list, since options may stand between the two.
    #[arg(value_name = "STAGE", required = true, num_args = 1..=2)]
    pub named: Vec<String>,
    /// Lay a profile of the recipe over it. May be given more than once.
    #[arg(long, short, value_name = "NAME")]
    pub profile: Vec<String>,
    /// Set one value: `stages.expert.with.steps=10`, or a variable's name. May be given more than once.
    #[arg(long, short, value_name = "PATH=VALUE", value_parser = super::assignment)]
    pub set: Vec<(String, String)>,
    /// The run [default: the last one].
    #[arg(long, value_name = "RUN")]
    pub run: Option<String>,
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// `flow diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The earlier run.
    #[arg(value_name = "RUN1")]
    pub first: String,
    /// The later run.
    #[arg(value_name = "RUN2")]
    pub second: String,
    #[command(flatten)]
    pub folder: FolderArgs,
}

/// `flow accept`.
#[derive(Debug, Args)]
pub struct AcceptArgs {
    #[command(flatten)]
    pub recipe: RecipeArgs,
    /// The stage, which would run since a param, an input or its kind's version changed. The name of a `foreach` stands for those
    /// of its stages that would. May be given more than once.
    #[arg(value_name = "STAGE", required = true)]
    pub stages: Vec<String>,
    /// Why the change is harmless: the record, and each report that needs it, shows it.
    #[arg(long, value_name = "TEXT")]
    pub reason: String,
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// `flow cache`.
#[derive(Debug, Subcommand)]
pub enum CacheCommand {
    /// List what is on record, newest first.
    Ls {
        /// Only stages of this name, base name or kind.
        stage: Option<String>,
        #[command(flatten)]
        folder: FolderArgs,
    },
    /// Say what takes how much of the disk.
    Du {
        #[command(flatten)]
        folder: FolderArgs,
    },
    /// Read everything again and set aside what is damaged; exit code 1 if something was.
    Verify {
        #[command(flatten)]
        folder: FolderArgs,
    },
    /// Say what can be freed, and with `--yes` free it. Pins and the last runs stay.
    Gc(GcArgs),
    /// Keep an artifact whatever is collected.
    Pin {
        /// A stage of the last run, or the first digits of a key or of an artifact, at least 6.
        target: String,
        /// What the pin is called [default: as TARGET is written].
        #[arg(long = "as", value_name = "NAME")]
        name: Option<String>,
        /// The run in which TARGET is a stage [default: the last one].
        #[arg(long, value_name = "RUN")]
        run: Option<String>,
        #[command(flatten)]
        folder: FolderArgs,
    },
    /// Take a pin away.
    Unpin {
        /// Its name.
        name: String,
        #[command(flatten)]
        folder: FolderArgs,
    },
    /// Take a record away, so that its stage is done again: for one whose artifact is damaged or was never right.
    Forget {
        /// A stage of the last run, or the first digits, at least 6, of a key or of an artifact: then all records of it go.
        target: String,
        /// The run in which TARGET is a stage [default: the last one].
        #[arg(long, value_name = "RUN")]
        run: Option<String>,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Upload what is on record here to the store behind this one.
    Push(TransferArgs),
    /// Fetch what is on record in the store behind this one.
    Pull(TransferArgs),
}

/// `flow cache gc`.
#[derive(Debug, Args)]
pub struct GcArgs {
    /// Keep all that these recipes need: name every recipe that shares the store.
    #[arg(value_name = "RECIPE")]
    pub recipes: Vec<PathBuf>,
    /// Lay a profile over each of the recipes. May be given more than once.
    #[arg(long, short, value_name = "NAME", requires = "recipes")]
    pub profile: Vec<String>,
    /// Set one value in each of the recipes: `stages.expert.with.steps=10`, or a variable's name. May be given more than once.
    #[arg(long, short, value_name = "PATH=VALUE", value_parser = super::assignment, requires = "recipes")]
    pub set: Vec<(String, String)>,
    /// Keep what this many of the last runs reach.
    #[arg(long, value_name = "N", default_value_t = 10, allow_negative_numbers = true)]
    pub keep_runs: usize,
    /// Keep what was touched less long ago: another process may be about to use it.
    #[arg(long, value_name = "TIME", default_value = "1h", allow_negative_numbers = true)]
    pub grace: Duration,
    /// Free it.
    #[arg(long)]
    pub yes: bool,
    #[command(flatten)]
    pub folder: FolderArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// `flow cache push` and `flow cache pull`.
#[derive(Debug, Args)]
pub struct TransferArgs {
    #[command(flatten)]
    pub recipe: MaybeRecipeArgs,
    /// Only these stages and what they need.
    #[arg(value_name = "STAGE")]
    pub stages: Vec<String>,
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
}
