//! The store for commands that only look: they make none, neither here nor behind it.

use std::{ops::Deref, path::PathBuf, time::SystemTime};

use flow_cache::{Cache, Location};

use super::planning;
use crate::{cli::StoreArgs, failure::Failure, view};

/// A store that is looked at.
pub struct Looked {
    cache: Cache,
    /// What stands for the store where there is none.
    _empty: Option<Empty>,
}

impl Deref for Looked {
    type Target = Cache;

    fn deref(&self) -> &Cache {
        &self.cache
    }
}

/// Opens the stores for a command that says what is there. Where there is no store nothing was ever run, and none is made: its
/// folder may be mistyped.
pub async fn open(args: &StoreArgs) -> Result<Looked, Failure> {
    let empty = if args.store.exists() { None } else { Empty::make() };
    let remote = remote(args)?;
    let store = empty.as_ref().map_or(&args.store, |empty| &empty.0);
    Ok(Looked { cache: planning::open_in(store, args, remote.as_ref()).await?, _empty: empty })
}

/// Opens the stores for a command that takes artifacts out. What it fetches from a shared store stays in this one.
pub async fn open_to_take(args: &StoreArgs) -> Result<Looked, Failure> {
    match remote(args)? {
        None => open(args).await,
        remote => Ok(Looked { cache: planning::open_in(&args.store, args, remote.as_ref()).await?, _empty: None }),
    }
}

/// The store behind this one, unless it is a folder that is not there.
fn remote(args: &StoreArgs) -> Result<Option<Location>, Failure> {
    let remote = planning::location(args)?;
    if let Some(Location::Folder(folder)) = &remote
        && !folder.is_dir()
    {
        let note = planning::like_a_bucket(folder).unwrap_or_else(|| "`flow run` makes it".to_owned());
        view::terminal::warning(&format!("there is no shared store in {}: {note}", folder.display()));
        return Ok(None);
    }
    Ok(remote)
}

/// A folder without anything that is there as long as this value.
struct Empty(PathBuf);

impl Empty {
    /// Nothing where there is no room for temporary files: then the store itself is made.
    fn make() -> Option<Self> {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let name = format!("flow-no-store-{}-{}", std::process::id(), since.as_nanos());
        let folder = std::env::temp_dir().join(name);
        fs_err::create_dir(&folder).ok().map(|()| Self(folder))
    }
}

impl Drop for Empty {
    fn drop(&mut self) {
        // What cannot be removed is a temporary file like others.
        let _ = fs_err::remove_dir_all(&self.0);
    }
}
