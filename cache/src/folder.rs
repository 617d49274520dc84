//! A store's small files in a local folder, by plain calls. `object_store` does the same with two hops to other threads and
//! a dozen calls more for each, which is most of what a quick stage would cost.

use std::{fs, io, path::Path};

use crate::{cache::absent, staged::Staged};

/// Writes a file atomically, replacing what may be there.
pub(crate) fn replace(tmp: &Path, to: &Path, bytes: &[u8]) -> io::Result<()> {
    let staged = Staged::reserve(tmp);
    fs_err::write(staged.path(), bytes)?;
    staged.publish(to)
}

/// Writes a file atomically unless there is one; `false` means that there is one.
pub(crate) fn create(tmp: &Path, to: &Path, bytes: &[u8]) -> io::Result<bool> {
    let staged = Staged::reserve(tmp);
    fs_err::write(staged.path(), bytes)?;
    // Unlike a rename, a link never replaces.
    let linked = match fs::hard_link(staged.path(), to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs_err::create_dir_all(to.parent().unwrap_or(to))?;
            fs::hard_link(staged.path(), to)
        }
        linked => linked,
    };
    match linked {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes over a file that is there. Not atomic: for what counts as written even if it is torn.
pub(crate) fn overwrite(to: &Path, bytes: &[u8]) -> io::Result<()> {
    io::Write::write_all(&mut fs_err::File::options().write(true).truncate(true).open(to)?, bytes)
}

/// The size of a file, if it is there.
pub(crate) fn size(path: &Path) -> io::Result<Option<u64>> {
    Ok(absent(fs_err::metadata(path))?.filter(fs::Metadata::is_file).map(|meta| meta.len()))
}

/// Removes a file; `false` means that there was none.
pub(crate) fn remove(path: &Path) -> io::Result<bool> {
    Ok(absent(fs_err::remove_file(path))?.is_some())
}

/// The names in a folder, in no order.
pub(crate) fn names(path: &Path) -> io::Result<Vec<String>> {
    let Some(found) = absent(fs_err::read_dir(path))? else { return Ok(Vec::new()) };
    found.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}
