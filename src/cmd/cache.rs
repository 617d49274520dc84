//! `flow cache`: looking after a store. What keeps, frees and moves is the store's own idea (`flow-cache`); here is which of it
//! a person means.

mod collect;
mod list;
mod pins;
mod transfer;

use crate::{cli::CacheCommand, failure::Ended};

/// Runs the command.
pub fn cache(command: &CacheCommand, json: bool) -> Ended {
    let runtime = super::planning::runtime()?;
    runtime.block_on(async {
        match command {
            CacheCommand::Ls { stage, folder } => list::ls(&folder.store, stage.as_deref(), json).await,
            CacheCommand::Du { folder } => list::du(&folder.store, json).await,
            CacheCommand::Verify { folder } => list::verify(&folder.store, json).await,
            CacheCommand::Gc(args) => collect::gc(args, json).await,
            CacheCommand::Pin { target, name, run, folder } => {
                pins::pin(&folder.store, target, name.as_deref(), run.as_deref(), json).await
            }
            CacheCommand::Unpin { name, folder } => pins::unpin(&folder.store, name, json).await,
            CacheCommand::Forget { target, run, store } => pins::forget(store, target, run.as_deref(), json).await,
            CacheCommand::Push(args) => transfer::push(args, json).await,
            CacheCommand::Pull(args) => transfer::pull(args, json).await,
        }
    })
}
