//! Object stores over a network, asked with patience: the shared store behind a cache, and the stores that sources lie on.
//!
//! ```text
//!  a call ──▶ Patient ──▶ ObjectStore        each attempt has its time
//!                ▲             │
//!                └── pause ◀───┘              again, where the same may go well in a while
//! ```
//!
//! Nobody else decides how often a call is made: the clients of the clouds are set up so that they make each once (`cloud.rs`).

#[cfg(feature = "cloud")]
mod cloud;
mod patient;
mod waits;

#[cfg(any(test, feature = "suite"))]
pub mod faults;
#[cfg(test)]
mod tests;

pub use patient::{Patience, may_pass};
pub use waits::WAITS;

/// What a person can do where a store in a cloud refuses, or where nothing answers at its address.
pub const ENVIRONMENT: &str = "address and credentials come from the environment, by the clouds' own names, such as `AWS_ENDPOINT`, \
                               `AWS_REGION` and `AWS_ACCESS_KEY_ID`";
