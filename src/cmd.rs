//! One command a file.

pub mod exec;
pub mod export;
pub mod generate;
pub mod graph;
pub mod import;
pub mod kinds;
pub mod plan;
pub mod planning;
pub mod report;
pub mod run;
pub mod schema;
pub mod status;
