//! Which names, modes and transfers are refused, and the errors for it; as on every disk of `hamal::disk`.
use hamal::disk::OpenMode;
use std::io::{Error, ErrorKind, Result};

/// No file is longer: beyond it is surely a bug of the caller, and would cost memory.
const LONGEST: u64 = 1 << 40;

const EIO: i32 = 5;
const EBADF: i32 = 9;
const EFBIG: i32 = 27;
const ENOSPC: i32 = 28;

fn is_component(part: &str) -> bool {
    !part.is_empty() && part != "." && part != ".." && !part.contains(['/', '\0'])
}

pub(super) fn check_dir(dir: &str) -> Result<()> {
    if dir.is_empty() || is_component(dir) { Ok(()) } else { Err(invalid("not a directory name", dir)) }
}

pub(super) fn check_file(name: &str) -> Result<()> {
    let good = match name.split_once('/') {
        Some((dir, file)) => is_component(dir) && is_component(file),
        None => is_component(name),
    };
    if good { Ok(()) } else { Err(invalid("not a file name", name)) }
}

pub(super) fn check_mode(name: &str, mode: OpenMode) -> Result<()> {
    if mode.read_only && (mode.create || mode.create_new) {
        return Err(invalid("a file opened for reading only cannot be created", name));
    }
    Ok(())
}

/// Refuses what a real disk refuses past the cache.
pub(super) fn check_direct(offset: u64, buf: &[u8]) -> Result<()> {
    let addresses = [offset, buf.len() as u64, buf.as_ptr().addr() as u64];
    if addresses.iter().all(|n| n.is_multiple_of(super::content::SECTOR)) {
        return Ok(());
    }
    let what = "offset, length and memory of a direct transfer must be multiples of 512";
    Err(Error::new(ErrorKind::InvalidInput, what))
}

pub(super) fn end_of(offset: u64, len: u64) -> Result<u64> {
    offset.checked_add(len).filter(|end| *end <= LONGEST).ok_or_else(|| Error::from_raw_os_error(EFBIG))
}

fn invalid(what: &str, name: &str) -> Error {
    Error::new(ErrorKind::InvalidInput, format!("{what}: {name:?}"))
}
pub(super) fn not_found(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("no such file or directory: {name:?}"))
}
pub(super) fn already_exists(name: &str) -> Error {
    Error::new(ErrorKind::AlreadyExists, format!("file exists: {name:?}"))
}
pub(super) fn is_a_directory(name: &str) -> Error {
    Error::new(ErrorKind::IsADirectory, format!("is a directory: {name:?}"))
}
pub(super) fn locked(name: &str) -> Error {
    Error::new(ErrorKind::WouldBlock, format!("{name:?} is locked by another handle"))
}
pub(super) fn read_only() -> Error {
    Error::from_raw_os_error(EBADF)
}
pub(super) fn eio() -> Error {
    Error::from_raw_os_error(EIO)
}
pub(super) fn no_space() -> Error {
    Error::from_raw_os_error(ENOSPC)
}
