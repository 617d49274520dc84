//! One command a file.

pub mod exec;
pub mod graph;
pub mod kinds;
pub mod plan;
pub mod planning;
pub mod report;
pub mod run;
pub mod schema;
pub mod status;
