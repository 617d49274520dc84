//! One file's content under a second name, by the cheapest way that the disk offers.

use std::{
    io,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

/// May the second name be the same inode?
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    /// Both names belong to the store: clone, else hard link, else copy.
    Inode,
    /// The first belongs to somebody who may write to it later: clone, else copy.
    Content,
}

/// Remembers what the disk refused, so that thousands of files do not each try it again.
#[derive(Debug)]
pub(crate) struct Linker {
    clones: AtomicBool,
    links: AtomicBool,
}

impl Linker {
    pub(crate) fn new() -> Self {
        Self { clones: AtomicBool::new(true), links: AtomicBool::new(true) }
    }

    #[cfg(test)]
    fn copying() -> Self {
        Self { clones: AtomicBool::new(false), links: AtomicBool::new(false) }
    }

    /// Makes `to`, which must not exist, a read-only file with the content of `from`.
    pub(crate) fn place(&self, from: &Path, to: &Path, share: Share) -> io::Result<()> {
        if self.clones.load(Ordering::Relaxed) {
            match reflink_copy::reflink(from, to) {
                Ok(()) => return read_only(to),
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::StorageFull) => return Err(e),
                // Not on this file system, or not between these two.
                Err(_) => self.clones.store(false, Ordering::Relaxed),
            }
        }
        if share == Share::Inode && self.links.load(Ordering::Relaxed) {
            match link(from, to) {
                Ok(()) => return read_only(to),
                // This one file has all the names that it can have; the next has not.
                Err(e) if e.kind() == io::ErrorKind::TooManyLinks => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists) => return Err(e),
                Err(_) => self.links.store(false, Ordering::Relaxed),
            }
        }
        let mut source = fs_err::File::open(from)?;
        let mut target = fs_err::File::create_new(to)?;
        io::copy(&mut source, &mut target)?;
        read_only(to)
    }
}

/// While another file is renamed over `from`, the system finds its name and then nothing to link: the file that the name stood for
/// has lost its last one. Two stages that publish the same bytes do that.
fn link(from: &Path, to: &Path) -> io::Result<()> {
    let mut linked = fs_err::hard_link(from, to);
    for _ in 0..1000 {
        match &linked {
            Err(e) if e.kind() == io::ErrorKind::NotFound && from.exists() => linked = fs_err::hard_link(from, to),
            _ => break,
        }
    }
    linked
}

fn read_only(path: &Path) -> io::Result<()> {
    fs_err::set_permissions(path, PermissionsExt::from_mode(0o444))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn every_way_gives_a_read_only_file_with_the_content() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        fs_err::write(&from, "content").unwrap();
        for (i, (linker, share)) in
            [(Linker::new(), Share::Inode), (Linker::new(), Share::Content), (Linker::copying(), Share::Inode)]
                .into_iter()
                .enumerate()
        {
            let to = dir.path().join(i.to_string());
            linker.place(&from, &to, share).unwrap();
            assert_eq!(fs_err::read_to_string(&to).unwrap(), "content");
            assert_eq!(fs_err::metadata(&to).unwrap().mode() & 0o777, 0o444);
            assert!(linker.place(&from, &to, share).is_err(), "an existing name is never replaced");
        }
    }

    #[test]
    fn a_file_that_is_replaced_all_the_time_is_always_there() {
        let dir = tempfile::tempdir().unwrap();
        let (from, next) = (dir.path().join("from"), dir.path().join("next"));
        fs_err::write(&from, "content").unwrap();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    fs_err::write(&next, "content").unwrap();
                    fs_err::rename(&next, &from).unwrap();
                }
            });
            let linker = Linker { clones: AtomicBool::new(false), links: AtomicBool::new(true) };
            let placed = (0..5000).try_for_each(|i| linker.place(&from, &dir.path().join(i.to_string()), Share::Inode));
            over.store(true, Ordering::Relaxed);
            placed.unwrap();
        });
        assert!(Linker::new().place(&dir.path().join("nothing"), &next, Share::Inode).is_err());
        assert!(Linker::new().place(&from, &dir.path().join("no/folder"), Share::Inode).is_err());
    }

    #[test]
    fn a_file_of_somebody_else_never_shares_its_inode() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs_err::write(&from, "before").unwrap();
        Linker::new().place(&from, &to, Share::Content).unwrap();
        fs_err::write(&from, "after!").unwrap();
        assert_eq!(fs_err::read_to_string(&to).unwrap(), "before");
    }
}
