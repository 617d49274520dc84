//! Recipe to plan to run.
