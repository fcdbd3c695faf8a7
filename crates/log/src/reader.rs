//! Reading records forward from any record boundary.
use crate::files::{Files, Found, Place};
use crate::format::Seeds;
use crate::segment::{self, Segment};
use crate::{LogEnd, LogIdentity, LogMemory, Record, RecordView};
use hamal_disk::{Disk, OpenMode};
use hamal_error::{Error, Result};
use hamal_page::Lsn;
use std::sync::Arc;

/// Bytes read at once.
pub(crate) const CHUNK: usize = 256 << 10;
/// Bytes that a reader keeps, unless it is told otherwise.
pub(crate) const CACHE: usize = 16 * CHUNK;

/// Bytes read at once by who reads ahead.
const LARGE_CHUNK: usize = 2 << 20;
/// A log with less than so many bytes in its segments is not read ahead: a thread would cost more than it saves.
const WORTH_A_THREAD: u64 = 4 << 20;

/// How recovery reads the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Bytes of the log that may be kept in memory.
    pub memory: u64,
    /// Whether a thread reads ahead.
    pub ahead: bool,
}

impl Reading {
    pub(crate) fn files(self, segments: Vec<Arc<Segment>>, seeds: Seeds) -> (Files, bool) {
        let bytes = segments.iter().map(|s| s.capacity).sum::<u64>();
        let ahead = self.ahead && bytes >= WORTH_A_THREAD;
        let chunk = if ahead { LARGE_CHUNK } else { CHUNK };
        // The chunks at both ends may be used in part only, and what follows the end is looked at.
        let memory = (self.memory as usize).saturating_add(4 * LARGE_CHUNK).max(CACHE);
        (Files::new(segments, seeds, chunk, memory), ahead)
    }
}

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
    /// Whether what is read in one go is read ahead.
    ahead: bool,
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
        Ok(Self::over(Files::new(segments, Seeds::new(identity), CHUNK, bytes), end.end, false))
    }
    /// [`LogReader::open`] that keeps and reads ahead what `reading` says.
    ///
    /// # Errors
    /// As there.
    pub fn reading(
        disk: &Arc<dyn Disk>,
        identity: LogIdentity,
        end: &LogEnd,
        reading: Reading,
    ) -> Result<LogReader> {
        let segments = segment::open_chain(&**disk, identity, end.oldest.0, READ_MODE)?;
        let (files, ahead) = reading.files(segments, Seeds::new(identity));
        Ok(Self::over(files, end.end, ahead))
    }
    pub(crate) fn over(files: Files, end: Lsn, ahead: bool) -> LogReader {
        LogReader { files, end: end.0, ahead }
    }
    /// Says that everything from `from` on is about to be read in order, once.
    pub fn go_through(&mut self, from: Lsn) {
        if self.ahead && self.files.memory(from.0, self.end).is_none() {
            self.files.read_ahead(from.0);
        }
    }
    /// Says that reads jump about from now on, and that a small cache will do.
    pub fn jump_about(&mut self) {
        self.files.stop_ahead();
        self.files.shrink(CACHE);
    }
    /// Everything from `from` to the end, if all of it is in memory.
    pub fn memory(&self, from: Lsn) -> Option<LogMemory> {
        self.files.memory(from.0, self.end)
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
                Found::Seal(s) => at = self.files.step_over(at, &s)?,
                _ => return Err(self.no_record(at)),
            }
        }
        Ok(None)
    }
    /// As [`LogReader::read`], but the record is not copied.
    ///
    /// # Errors
    /// As there.
    pub fn view(&mut self, lsn: Lsn) -> Result<Option<RecordView<'_>>> {
        let mut at = lsn.0;
        let len = loop {
            if at >= self.end {
                return Ok(None);
            }
            match self.files.place(at, u64::MAX)? {
                Place::Record(len) if at + len as u64 <= self.end => break len,
                Place::Seal(s) => at = self.files.step_over(at, &s)?,
                _ => return Err(self.no_record(at)),
            }
        };
        let there = self.files.prepare(at, len, u64::MAX)?;
        match self.files.prepared(at, len).filter(|_| there) {
            Some(record) => Ok(Some(record)),
            None => Err(self.no_record(at)),
        }
    }
    fn no_record(&self, at: u64) -> Error {
        self.files.corrupt(at, "no valid record where one must be")
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
