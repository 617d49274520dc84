//! Object stores over a network, asked with patience: the shared store behind a cache, and the stores that sources lie on.
//!
//! ```text
//!  a call ──▶ Patient ──▶ ObjectStore        each attempt has its time
//!                ▲             │
//!                └── pause ◀───┘              again, where the same may go well in a while
//! ```

mod patient;

#[cfg(any(test, feature = "suite"))]
pub mod faults;
#[cfg(test)]
mod tests;

pub use patient::{Patience, may_pass};
