//! A store's small files in a local folder, by plain calls. `object_store` does the same with two hops to other threads and
//! a dozen calls more for each, which is most of what a quick stage would cost.

use std::{
    fs,
    io::{self, Seek, SeekFrom, Write},
    path::Path,
};

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
    let named = match name(staged.path(), to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs_err::create_dir_all(to.parent().unwrap_or(to))?;
            name(staged.path(), to)
        }
        named => named,
    };
    match named {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

/// Gives a staged file its name, unless that is taken.
fn name(staged: &Path, to: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        match renameat_with(CWD, staged, CWD, to, RenameFlags::NOREPLACE).map_err(io::Error::from) {
            // Not every file system can.
            Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists) => {}
            named => return named,
        }
    }
    // Unlike a plain rename, a link never replaces.
    fs::hard_link(staged, to)
}

/// Writes over a file that is there. Not atomic: for what counts as written even if it is torn.
pub(crate) fn overwrite(to: &Path, bytes: &[u8]) -> io::Result<()> {
    write_over(&mut fs_err::File::options().write(true).open(to)?, bytes)
}

/// Makes `bytes` all that an open file holds. It is not emptied first: ext4 takes that for the beginning of a replacement,
/// gives the disk what the file held before, and the blocks back, in milliseconds.
pub fn write_over(file: &mut fs_err::File, bytes: &[u8]) -> io::Result<()> {
    file.seek(SeekFrom::Start(0))?;
    file.write_all(bytes)?;
    if file.metadata()?.len() > bytes.len() as u64 { file.set_len(bytes.len() as u64) } else { Ok(()) }
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
