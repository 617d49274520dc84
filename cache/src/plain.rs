//! Opens what must be a plain file, and nothing else. To open a pipe would wait for somebody at its other end, and a device has no
//! end: where a hand or a disk has put such a thing in the place of a file, that is an error at once.

use std::{
    fs::Metadata,
    io::{self, ErrorKind, Read},
    os::unix::fs::FileTypeExt,
    path::Path,
};

use fs_err::{self as fs, os::unix::fs::OpenOptionsExt};
use rustix::fs::OFlags;

/// Opens a file to read it.
///
/// # Errors
/// What the system says; [`ErrorKind::InvalidInput`] with the path for what is no file.
pub fn open(path: &Path) -> io::Result<fs::File> {
    opened(path, fs::OpenOptions::new().read(true)).map(|(file, _)| file)
}

/// Opens a file to write at its end; it is made where it is not there.
///
/// # Errors
/// As [`open`].
pub fn append(path: &Path) -> io::Result<fs::File> {
    opened(path, fs::OpenOptions::new().create(true).append(true)).map(|(file, _)| file)
}

/// Opens a file to write over what it holds; it is made where it is not there.
///
/// # Errors
/// As [`open`].
pub fn write(path: &Path) -> io::Result<fs::File> {
    opened(path, fs::OpenOptions::new().create(true).truncate(false).write(true)).map(|(file, _)| file)
}

/// All of a file.
///
/// # Errors
/// As [`open`].
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let (mut file, found) = opened(path, fs::OpenOptions::new().read(true))?;
    let mut bytes = Vec::with_capacity(usize::try_from(found.len()).unwrap_or(0));
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// An error for what is there and is neither a file nor a folder.
pub(crate) fn check(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(found) if !found.is_file() && !found.is_dir() => Err(refused(path)),
        _ => Ok(()),
    }
}

/// Whether the error is that of [`open`] about what is no file.
pub(crate) fn is_no_file(error: &io::Error) -> bool {
    error.kind() == ErrorKind::InvalidInput
}

fn opened(path: &Path, options: &mut fs::OpenOptions) -> io::Result<(fs::File, Metadata)> {
    // With this a pipe is opened at once, or refused at once; of a plain file it changes nothing.
    options.custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    match options.open(path).and_then(|file| file.metadata().map(|found| (file, found))) {
        Ok((file, found)) if found.is_file() => Ok((file, found)),
        Ok(_) => Err(refused(path)),
        // A socket, or a pipe that nobody reads; a folder that was to be written to.
        Err(error) => Err(if fs::metadata(path).is_ok_and(|found| !found.is_file()) { refused(path) } else { error }),
    }
}

fn refused(path: &Path) -> io::Error {
    let kind = fs::metadata(path).map(|found| found.file_type());
    let what = match kind {
        Ok(kind) if kind.is_dir() => "a folder",
        Ok(kind) if kind.is_fifo() => "a pipe",
        Ok(kind) if kind.is_socket() => "a socket",
        _ => "a device",
    };
    let text = format!("{}: it is no file but {what}; move it away", path.display());
    io::Error::new(ErrorKind::InvalidInput, text)
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::net::UnixListener};

    use super::*;

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("folder")).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
        let _socket = UnixListener::bind(at("socket")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", at("device")).unwrap();
        for (name, what) in [("folder", "folder"), ("pipe", "pipe"), ("socket", "socket"), ("device", "device")] {
            for error in [
                open(&at(name)).unwrap_err(),
                append(&at(name)).unwrap_err(),
                read(&at(name)).unwrap_err(),
                write(&at(name)).unwrap_err(),
            ] {
                assert!(is_no_file(&error), "{name}: {error}");
                let text = error.to_string();
                assert!(text.contains(what) && text.contains(&at(name).display().to_string()), "{text}");
            }
        }
        assert_eq!(read(&at("none")).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn files_are_read_and_grow() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        for _ in 0..2 {
            append(&file).unwrap().write_all(b"line\n").unwrap();
        }
        assert_eq!(read(&file).unwrap(), b"line\nline\n");
        write(&file).unwrap().write_all(b"LINE").unwrap();
        assert_eq!(read(&file).unwrap(), b"LINE\nline\n");
    }
}
