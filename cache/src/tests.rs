//! Tests of the crate as a whole. What one file does is tested in that file.

mod collect;
mod conformance;
mod failures;
mod layouts;
mod patience;
mod speed;
