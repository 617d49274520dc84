//! The orchestrator: a recipe becomes a plan, a plan becomes a run, a run becomes a report's facts. It knows nothing of
//! tensors, documents or tables, and could run any pipeline.
//!
//! ```text
//! recipe text ─ recipe::load ─▶ Recipe ─ plan::prepare, plan::plan ─▶ Plan ─ run::run ─▶ events ─ event::state ─▶ RunState
//!                                 │                   │                     │
//!                               names              key, graph           executor ── flow exec JOB ──▶ exec, context
//!                               units              stage, registry      (local)                        stage::Kind::run
//! ```
//!
//! Data flows one way; no later step reaches back into an earlier one.

#![expect(
    clippy::result_large_err,
    reason = "a diagnostic is a few bytes above clippy's limit; it is made once, on the way out"
)]

pub mod names;
pub mod units;

pub mod recipe;

pub mod registry;
pub mod seed;
pub mod stage;

pub mod graph;
pub mod key;
pub mod plan;

pub mod accept;
pub mod event;
pub mod executor;
pub mod run;

pub mod context;
pub mod exec;
pub mod job;

pub mod drawing;
pub mod provenance;

mod error;
mod misfit;

#[cfg(test)]
mod tests;

pub use error::{Error, Result, StageError, chain};
pub use misfit::{Misfit, Place, lost_sources};
