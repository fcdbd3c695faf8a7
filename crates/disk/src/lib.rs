//! The one door to the operating system: a directory ([`Disk`]) and its files ([`DiskFile`]).
//!
//! Nothing above this crate calls the operating system for storage, so that a test can stand in the door: the
//! in-memory disk here, and every simulated one, implements the same two traits.
//!
//! What an implementation promises (the *persistence contract*):
//! * after [`DiskFile::sync`] returns `Ok`, every byte written to that file before the call, and its length,
//!   survive a power failure;
//! * after [`Disk::sync_dir`] returns `Ok`, every name created, renamed or removed in that directory before
//!   the call does;
//! * nothing else does: writes that were not synced may survive in any subset of their 512-byte sectors, in
//!   any order.
//!
//! Names are relative, with `/` between at most one directory and a file (`"wal/00000000000000001000"`).
#![deny(missing_docs)]
#![deny(unsafe_code)]

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

/// How [`Disk::open`] opens a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenMode {
    /// Create the file if it does not exist.
    pub create: bool,
    /// Fail with `AlreadyExists` if it does (implies `create`).
    pub create_new: bool,
    /// Open for reading only.
    pub read_only: bool,
    /// Read and write past the operating system's cache (O_DIRECT) if the file system takes it; ask
    /// [`DiskFile::bypasses_cache`] whether it did. Offsets, lengths and memory must then be multiples of 512
    /// (memory from [`AlignedBuf`]).
    pub direct: bool,
    /// Every write is durable when it returns (O_DSYNC).
    pub dsync: bool,
}

/// A directory that holds a database. Object safe; shared between threads.
pub trait Disk: Send + Sync + Debug {
    /// Opens a file.
    ///
    /// # Errors
    /// As the operating system says; `NotFound` without `create`.
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;
    /// Names of the files (not directories) directly in `dir` (`""` is the root), in no order. `NotFound` if
    /// the directory does not exist.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// Creates a directory; it is no error if it exists.
    fn create_dir(&self, dir: &str) -> io::Result<()>;
    /// Renames a file, replacing the target. Not durable before [`Disk::sync_dir`] of the directories
    /// concerned.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Whether a file of that name exists.
    fn exists(&self, name: &str) -> io::Result<bool>;
    /// Makes creations, renames and removals in `dir` durable.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;
    /// Takes an exclusive lock on the file `name` (created if missing), held until the returned value is
    /// dropped.
    ///
    /// # Errors
    /// `WouldBlock` if another process, or another handle of this one, holds it.
    fn lock(&self, name: &str) -> io::Result<Box<dyn DiskLock>>;
    /// For messages: the path, or what the disk is.
    fn describe(&self) -> String;
}

/// A lock held on a [`Disk`]; dropping it releases the lock.
pub trait DiskLock: Send + Sync + Debug {}

/// An open file. All methods take `&self`; reads and writes may run at once from many threads.
pub trait DiskFile: Send + Sync + Debug {
    /// Reads up to `buf.len()` bytes at `offset`; fewer only at the end of the file. Returns how many.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// Writes all of `buf` at `offset`, growing the file if need be. A short write is continued, an
    /// interrupted one repeated.
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()>;
    /// Writes several buffers one after another at `offset`. The default writes one by one.
    fn write_vectored_at(&self, offset: u64, bufs: &[&[u8]]) -> io::Result<()> {
        let mut at = offset;
        for b in bufs {
            self.write_at(at, b)?;
            at += b.len() as u64;
        }
        Ok(())
    }
    /// Writes runs of bytes, each with its offset, which do not overlap: in any order, and several at a time where that is faster.
    /// On an error some are written and some are not. The default writes one by one, as they come.
    ///
    /// # Errors
    /// That of one run, with its place in `runs`.
    fn write_runs(&self, runs: &[(u64, &[u8])]) -> Result<(), (usize, io::Error)> {
        runs.iter()
            .enumerate()
            .try_for_each(|(i, (offset, buf))| self.write_at(*offset, buf).map_err(|e| (i, e)))
    }
    /// Makes the file's bytes and length durable (fdatasync).
    fn sync(&self) -> io::Result<()>;
    /// The length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Sets the length; new bytes read as zero.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes sure that space for `[offset, offset + len)` exists and that the file is at least that long; new
    /// bytes read as zero. A full device is an error here and not at a later write.
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Whether reads and writes go past the operating system's cache.
    fn bypasses_cache(&self) -> bool {
        false
    }
    /// Asks the operating system to forget what it caches of this file (after a sync). Advice, not a promise.
    fn drop_cache(&self) -> io::Result<()> {
        Ok(())
    }
}

mod aligned;
mod continued;
mod mem;
mod names;
mod overlay;
mod posix;

pub use aligned::AlignedBuf;
pub use continued::{continued, continued_write};
pub use mem::{CrashModel, MemDisk, MemFault, MemOp, MemStats};
pub use overlay::OverlayDisk;
pub use posix::PosixDisk;

/// Reads exactly `buf.len()` bytes.
///
/// # Errors
/// `UnexpectedEof` if the file ends before.
pub fn read_exact_at(file: &dyn DiskFile, offset: u64, buf: &mut [u8]) -> io::Result<()> {
    let n = file.read_at(offset, buf)?;
    if n == buf.len() { Ok(()) } else { Err(io::Error::new(io::ErrorKind::UnexpectedEof, "file ends early")) }
}
