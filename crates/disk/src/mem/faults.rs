//! What can be set on a disk in memory from outside: a capacity, faults; and what it counts.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

/// A kind of operation that a [`MemFault`] waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemOp {
    /// Reading from a file.
    Read,
    /// Writing to a file, setting its length, or allocating.
    Write,
    /// Syncing a file or a directory.
    Sync,
}

/// A planned input/output error (EIO). The operation that fails changes nothing and makes nothing durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemFault {
    /// Which operation fails, counted from the moment of injection: 1 is the next of its kind (0 counts as
    /// 1).
    pub at: u64,
    /// The kind of operation that is counted and fails.
    pub on: MemOp,
    /// Whether only that one fails, or every later one of its kind as well.
    pub once: bool,
}

/// What a [`MemDisk`](crate::MemDisk) has done since it was made. Failed operations are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemStats {
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
    /// Syncs of files; a write to a file opened with `dsync` counts as a write only.
    pub syncs: u64,
    /// Syncs of directories.
    pub dir_syncs: u64,
}

/// The shared settings and counters of one disk.
#[derive(Debug, Default)]
pub(super) struct Control {
    faults: Mutex<Vec<MemFault>>,
    /// Whether `faults` is worth a look.
    armed: AtomicBool,
    space: Mutex<Space>,
    pub(super) reads: AtomicU64,
    pub(super) writes: AtomicU64,
    pub(super) bytes_read: AtomicU64,
    pub(super) bytes_written: AtomicU64,
    pub(super) syncs: AtomicU64,
    pub(super) dir_syncs: AtomicU64,
}

#[derive(Debug, Default)]
struct Space {
    used: u64,
    capacity: Option<u64>,
}

impl Control {
    pub(super) fn inject(&self, fault: MemFault) {
        self.faults.lock().push(MemFault { at: fault.at.max(1), ..fault });
        self.armed.store(true, Relaxed);
    }

    pub(super) fn clear_faults(&self) {
        self.faults.lock().clear();
        self.armed.store(false, Relaxed);
    }

    /// Counts an operation that is about to happen, and fails it if that was planned.
    pub(super) fn pass(&self, op: MemOp) -> io::Result<()> {
        if !self.armed.load(Relaxed) {
            return Ok(());
        }
        let mut fails = false;
        let mut faults = self.faults.lock();
        faults.retain_mut(|f| {
            if f.on != op {
                return true;
            }
            f.at = f.at.saturating_sub(1);
            fails |= f.at == 0;
            f.at != 0 || !f.once
        });
        self.armed.store(!faults.is_empty(), Relaxed);
        if fails { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
    }

    pub(super) fn set_capacity(&self, bytes: Option<u64>) {
        self.space.lock().capacity = bytes;
    }

    pub(super) fn used(&self) -> u64 {
        self.space.lock().used
    }

    /// Takes the difference between two lengths of a file from the free space, or gives it back.
    pub(super) fn charge(&self, from: u64, to: u64) -> io::Result<()> {
        if from == to {
            return Ok(());
        }
        let mut space = self.space.lock();
        // Shrinking always succeeds, even when the capacity was set below what is in use.
        let used = space.used.saturating_sub(from).saturating_add(to);
        if to > from && space.capacity.is_some_and(|capacity| used > capacity) {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        space.used = used;
        Ok(())
    }

    pub(super) fn stats(&self) -> MemStats {
        MemStats {
            reads: self.reads.load(Relaxed),
            writes: self.writes.load(Relaxed),
            bytes_read: self.bytes_read.load(Relaxed),
            bytes_written: self.bytes_written.load(Relaxed),
            syncs: self.syncs.load(Relaxed),
            dir_syncs: self.dir_syncs.load(Relaxed),
        }
    }
}
