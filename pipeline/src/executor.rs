//! Where a stage's process runs. Whatever the executor, the process is `flow exec JOB` and answers in the job's files.

pub mod local;
pub mod signal;

use std::{path::PathBuf, time::Duration};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::{error::Result, event::Report, names::StageId};

/// How urgently running stages should end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// They may run.
    No,
    /// They should save their state and end.
    Gently,
    /// They are killed.
    Now,
}

/// One process to run.
#[derive(Debug, Clone)]
pub struct Task {
    /// The stage, for messages.
    pub stage: StageId,
    /// The job file.
    pub job: PathBuf,
    /// Where the process's own output goes.
    pub log: PathBuf,
    /// Where its reports are appended.
    pub events: PathBuf,
    /// The longest that it may run.
    pub time: Option<Duration>,
}

/// How the process ended. What the stage itself says is in the job's result file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself.
    Code(i32),
    /// By a signal, such as 9 when memory ran out.
    Signal(i32),
    /// It ran longer than it might.
    TimedOut,
}

/// A place where stages run.
#[async_trait]
pub trait Executor: Send + Sync {
    /// Runs a task to its end. `report` gets what the stage says while it runs. When this returns, no process of the task
    /// is left.
    async fn execute(
        &self,
        task: &Task,
        stop: watch::Receiver<Stop>,
        report: &mut (dyn FnMut(Report) + Send),
    ) -> Result<Exit>;
}
