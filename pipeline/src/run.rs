//! Plan → events: runs what is not in the cache, publishes what was made, and tells what happens.

pub mod attempt;
pub mod capacity;
pub mod drive;
pub mod folder;
pub mod history;
pub mod schedule;
mod stopped;
pub mod unchanged;
mod work;

pub use capacity::Shortfall;
pub use drive::{RunOptions, run};
pub use folder::RunFolder;
pub use history::{RunSummary, Standing};
pub use schedule::{Capacity, Need};
pub use unchanged::{Asked, Unchanged};
