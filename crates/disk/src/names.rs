//! The rules that every disk shares: which names, modes and direct transfers are allowed.

use std::io;

use crate::OpenMode;

/// The sector: the unit in which a disk may tear a write, and the grain of direct transfers.
pub(crate) const SECTOR: usize = 512;

fn invalid(what: &str, name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{what}: {name:?}"))
}

fn component(part: &str) -> bool {
    !part.is_empty() && part != "." && part != ".." && !part.contains('\0')
}

/// Checks a file's name and splits it into its directory (`""` for the root) and the name therein.
pub(crate) fn split(name: &str) -> io::Result<(&str, &str)> {
    let (dir, file) = name.rsplit_once('/').unwrap_or(("", name));
    // An absolute name shows as an empty first component.
    let dir_is_good = if name.contains('/') { component(dir) && !dir.contains('/') } else { true };
    if dir_is_good && component(file) { Ok((dir, file)) } else { Err(invalid("not a file name", name)) }
}

/// Checks a directory's name; `""` is the root.
pub(crate) fn check_dir(dir: &str) -> io::Result<()> {
    if dir.is_empty() || (component(dir) && !dir.contains('/')) {
        Ok(())
    } else {
        Err(invalid("not a directory name", dir))
    }
}

/// Refuses modes that contradict themselves.
pub(crate) fn check_mode(name: &str, mode: OpenMode) -> io::Result<()> {
    if mode.read_only && (mode.create || mode.create_new) {
        return Err(invalid("a file opened for reading only cannot be created", name));
    }
    Ok(())
}

/// Refuses a transfer that a real disk would refuse past the cache.
pub(crate) fn check_direct(offset: u64, buf: &[u8]) -> io::Result<()> {
    let grain = SECTOR as u64;
    if offset.is_multiple_of(grain)
        && buf.len().is_multiple_of(SECTOR)
        && (buf.as_ptr() as usize).is_multiple_of(SECTOR)
    {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "offset, length and memory of a direct transfer must be multiples of 512",
        ))
    }
}

/// The end of a range, if a file can reach so far.
pub(crate) fn end_of(offset: u64, len: u64) -> io::Result<u64> {
    match offset.checked_add(len) {
        Some(end) if i64::try_from(end).is_ok() => Ok(end),
        _ => Err(io::Error::from_raw_os_error(libc::EFBIG)),
    }
}

/// What a write through a descriptor opened for reading gives.
pub(crate) fn read_only_error() -> io::Error {
    io::Error::from_raw_os_error(libc::EBADF)
}

/// The error of a missing file or directory.
pub(crate) fn not_found(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no such file or directory: {name:?}"))
}

/// The error of a file that exists and must not.
pub(crate) fn already_exists(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::AlreadyExists, format!("file exists: {name:?}"))
}

/// The error of a directory where a file was meant.
pub(crate) fn is_a_directory(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::IsADirectory, format!("is a directory: {name:?}"))
}

/// The error of a second lock.
pub(crate) fn locked(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::WouldBlock, format!("{name:?} is locked by another process or handle"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(split("LOCK").unwrap(), ("", "LOCK"));
        assert_eq!(split("wal/00").unwrap(), ("wal", "00"));
        for bad in [
            "",
            "/",
            "/etc",
            "/etc/passwd",
            "..",
            "../x",
            "a/..",
            "a/../b",
            "a//b",
            "a/b/c",
            "./a",
            "a/",
            "a\0",
        ] {
            assert_eq!(split(bad).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{bad:?}");
        }
        assert!(check_dir("").is_ok() && check_dir("wal").is_ok());
        for bad in ["/", "..", ".", "a/b", "/tmp"] {
            assert!(check_dir(bad).is_err(), "{bad:?}");
        }
    }
}
