//! What people and programs see: folds of events and plans, nothing else.

pub mod json;
pub mod numbers;
pub mod plan;
pub mod status;
pub mod tensorboard;
pub mod terminal;
