//! Content-addressed store of artifacts, and of the records that say how each was made.
//!
//! ```text
//!  folder ──hash──▶ Manifest ──publish──▶ blobs + tree            (immutable, found by digest)
//!                      │                                │
//!              ArtifactDigest ◀── Record ◀── StageKey   │         (written once, last)
//!                      │                                │
//!                      └────────materialize─────────────┴──▶ read-only folder
//!
//!  Lease: who works on a StageKey now.   WorkDir: where it works.   Tiered: a local folder before a shared store.
//! ```
//!
//! A [`Record`] is a hit only if the artifact that it names is complete ([`Cache::hit`]). Whatever a crash, a full disk
//! or a torn write leaves behind is either invisible (a temporary file) or set aside when it is met; it is never used.

mod error;
pub mod failpoint;

mod digest;
mod location;
mod manifest;

mod folder;
mod layout;
pub mod plain;
mod plain_folder;
mod staged;
mod store;

mod durable;

mod cache;
mod tiered;

mod blobs;
mod link;
mod trees;

mod accepted;
mod holder;
mod known;
mod laid;
mod latest;
mod leases;
mod memo;
mod pins;
mod records;
mod sealed;
mod spare;
mod transfer;
mod workdir;

mod gc;
mod usage;
mod verify;

#[cfg(any(test, feature = "suite"))]
mod faulty;
#[cfg(any(test, feature = "suite"))]
pub mod suite;
#[cfg(test)]
mod tests;

pub use cache::{Cache, in_place};
pub use digest::{ArtifactDigest, BlobDigest, StageKey};
pub use error::{Error, Result};
#[cfg(any(test, feature = "suite"))]
pub use flow_patience::faults;
pub use flow_patience::{ENVIRONMENT, Patience, WAITS};
pub use folder::write_over;
pub use gc::{GcDone, GcPlan, Keep};
pub use holder::Holder;
pub use laid::Laid;
pub use leases::{Acquired, Lease};
pub use location::Location;
pub use manifest::{Entry, Manifest, RelPath};
pub use memo::HashMemo;
pub use pins::Pin;
pub use records::{MadeFor, PutRecord, RECORD_FORMAT, Record};
pub use sealed::Seal;
pub use tiered::FlushReport;
pub use transfer::Moved;
pub use trees::{Published, hash_folder, hash_folder_with};
pub use usage::{KindUsage, Usage};
pub use verify::VerifyReport;
pub use workdir::{WorkDir, WorkLock};
