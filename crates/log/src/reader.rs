//! Reading records forward from any record boundary.
use crate::files::{Files, Found};
use crate::format::{SEAL_LEN, Seeds};
use crate::segment::{self, Segment};
use crate::{LogEnd, LogIdentity, Record};
use hamal_disk::{Disk, OpenMode};
use hamal_error::Result;
use hamal_page::Lsn;
use std::sync::Arc;

/// Bytes read at once.
pub(crate) const CHUNK: usize = 256 << 10;
/// Bytes that a reader keeps, unless it is told otherwise.
pub(crate) const CACHE: usize = 16 * CHUNK;

/// How files are opened for reading what a crash left: past the cache, where the disk can.
pub(crate) const READ_MODE: OpenMode =
    OpenMode { create: false, create_new: false, read_only: true, direct: true, dsync: false };

/// Reads the log's files (not the ring): for recovery before the log is open, and for tools on a closed
/// database.
///
/// Records may be read in any order; chunks of 256 KiB are kept by least recent use.
#[derive(Debug)]
pub struct LogReader {
    files: Files,
    end: u64,
}

impl LogReader {
    /// A reader of everything below `end`.
    ///
    /// # Errors
    /// A segment that cannot be opened or is not of this log.
    pub fn open(disk: &Arc<dyn Disk>, identity: LogIdentity, end: &LogEnd) -> Result<LogReader> {
        Self::with_cache(disk, identity, end, CACHE)
    }
    /// [`LogReader::open`] with a cache of about `bytes` (at least two chunks).
    ///
    /// # Errors
    /// As there.
    pub fn with_cache(
        disk: &Arc<dyn Disk>,
        identity: LogIdentity,
        end: &LogEnd,
        bytes: usize,
    ) -> Result<LogReader> {
        let segments = segment::open_chain(&**disk, identity, end.oldest.0, READ_MODE)?;
        Ok(LogReader { files: Files::new(segments, Seeds::new(identity), CHUNK, bytes), end: end.end.0 })
    }
    pub(crate) fn over(files: Files, end: Lsn) -> LogReader {
        LogReader { files, end: end.0 }
    }
    pub(crate) fn segments(&self) -> &[Arc<Segment>] {
        &self.files.segments
    }
    /// Whether all that is read comes past the operating system's cache.
    pub fn bypasses_cache(&self) -> bool {
        self.files.segments.iter().all(|s| s.file.bypasses_cache())
    }
    /// The record at `lsn`, or `None` if `lsn` is the end. `lsn` may be a record's start or the position
    /// after a record (padding and seals are stepped over, then the record's own `lsn` says where it was).
    ///
    /// # Errors
    /// [`LogCorrupt`](hamal_error::ErrorKind::LogCorrupt) below the end.
    pub fn read(&mut self, lsn: Lsn) -> Result<Option<Record>> {
        let mut at = lsn.0;
        while at < self.end {
            match self.files.at(at, u64::MAX)? {
                Found::Record(r) if r.end.0 <= self.end => return Ok(Some(r)),
                Found::Seal(s) => at = s.lsn + SEAL_LEN,
                _ => return Err(self.files.corrupt(at, "no valid record where one must be")),
            }
        }
        Ok(None)
    }
    /// The lowest LSN at which a segment starts.
    pub fn oldest(&self) -> Lsn {
        Lsn(self.files.oldest())
    }
    /// The end.
    pub fn end(&self) -> Lsn {
        Lsn(self.end)
    }
}
