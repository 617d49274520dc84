//! The stage kinds of a `FlexOlmo` model's life: each a thin adapter between an engine (`flow-data`, `flow-model`) and the
//! pipeline. One file a kind: its params, its inputs, its version, its cost, its run, and nothing else.
//!
//! ```text
//! curate ─▶ train-tokenizer ─▶ tokenize ─▶ pretrain ─▶ embed ─▶ train-expert ─┬─▶ merge ────┐
//!    │      import-tokenizer         import-model                            ├─▶ soup ─────┼─▶ evaluate ─▶ report
//!    └───────────── held-out documents ──────────────────────────────────────└─▶ ensemble ─┴───────┘
//! ```
//!
//! What several kinds share: [`engine`] (threads, errors), [`artifact`] (what is made and taken), [`misfit`] (what cannot work), [`facts`] (what a plan knows of artifacts that are not made yet),
//! [`training`] (params, checkpoints and metrics of a training run), [`rows`] (router rows), [`scoring`] (any model as a
//! scorer). [`report`] also makes the pages; [`interop`] is the way of models in and out.

mod artifact;
pub mod device;
mod engine;
mod facts;
mod misfit;
mod registry;

mod curate;
mod import_tokenizer;
mod tokenize;
mod train_tokenizer;

mod import_model;
mod pretrain;
mod rows;
mod train_expert;
mod training;

mod embed;

mod ensemble;
mod merge;
mod soup;

mod evaluate;
mod scoring;

pub mod generation;

pub mod interop;
pub mod report;

pub use registry::registry;
