//! One command a file.

pub mod accept;
pub mod cache;
pub mod diff;
pub mod exec;
pub mod export;
pub mod generate;
pub mod graph;
pub mod import;
pub mod interrupts;
pub mod kinds;
pub mod logs;
pub mod looking;
pub mod plan;
pub mod planning;
pub mod report;
pub mod run;
pub mod runs;
pub mod schema;
pub mod status;
pub mod why;
