//! Files of strangers that are read whole: only what is a file and of a size that fits, so that a pipe keeps nobody waiting and a
//! device takes no memory.

use std::{
    io::{self, Read},
    path::Path,
};

/// Reads all of a file of at most `most` bytes.
///
/// # Errors
/// What the disk says; what is no file or is longer, with its path.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let size = size_of_file(path)?;
    let too_long = || refuse(path, &format!("it is longer than the {most} bytes that such a file may have"));
    if size > most {
        return Err(too_long());
    }
    let mut bytes = Vec::with_capacity(size as usize);
    // A file may grow, and some systems know no size of theirs.
    fs_err::File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(too_long()) } else { Ok(bytes) }
}

/// The size of what must be a file. Asked before it is opened: a pipe would wait for who writes.
///
/// # Errors
/// What the disk says; what is no file.
pub fn size_of_file(path: &Path) -> io::Result<u64> {
    let found = fs_err::metadata(path)?;
    if found.is_file() { Ok(found.len()) } else { Err(refuse(path, "it is no file")) }
}

fn refuse(path: &Path, why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{}: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_end_is_not_begun() {
        let folder = tempfile::tempdir().unwrap();
        let (file, pipe, link) = (folder.path().join("a"), folder.path().join("pipe"), folder.path().join("zero"));
        fs_err::write(&file, "1234").unwrap();
        assert_eq!(read(&file, 4).unwrap(), b"1234");
        assert!(read(&file, 3).unwrap_err().to_string().contains("longer than the 3 bytes"));
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        for path in [&pipe, &link, &folder.path().to_owned()] {
            let error = read(path, 4).unwrap_err().to_string();
            assert!(error.contains("it is no file") && error.contains(&path.display().to_string()), "{error}");
        }
        assert_eq!(read(&folder.path().join("none"), 4).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
