//! Reading a log that somebody else is writing, and going on as it grows (LOG-10).
//!
//! A group is valid as a whole or not at all (LOG-1), so who reads beside the writer sees all of a group or nothing of it: one
//! that is half written has another checksum. Nothing but a later look tells that from a torn tail, and who follows waits for
//! that look anyway. The last group that was handed on may be whole here a moment before it is durable there; all others are.
//!
//! The writer gives segments back that nobody needs, and does not ask who reads. A record that is read all the same is the
//! right one, for its checksum goes over its LSN; a place that was written over is `LogCorrupt`, or has nothing new for
//! ever. Which of the two a gap is, damage or a reader that was too slow, the control file tells, not the log.
use crate::end::{group, seal_before};
use crate::files::{Files, Found};
use crate::format::{SEAL_LEN, Seeds};
use crate::reader::READ_MODE;
use crate::segment::{self, Segment};
use crate::{LogIdentity, Record};
use hamal_disk::Disk;
use hamal_error::Result;
use hamal_page::Lsn;
use std::sync::Arc;

/// Bytes read at once: what is read when nothing has come must cost little.
const CHUNK: usize = 64 << 10;

/// Reads records in the order of the log, and those that are logged meanwhile.
///
/// ```
/// use hamal_log::{Log, LogFollower, LogIdentity, LogOptions, RecordKind, RecordSpec, TxnRef};
/// use hamal_page::{DbId, Lsn, RmId};
/// use std::sync::Arc;
/// # fn main() -> hamal_error::Result<()> {
/// let disk: Arc<dyn hamal_disk::Disk> = Arc::new(hamal_disk::MemDisk::new());
/// # disk.create_dir("wal").unwrap();
/// let id = LogIdentity { db: DbId([1; 16]), timeline: 1 };
/// let options = LogOptions::default();
/// let log = Log::create(disk.clone(), options, id, Log::FIRST, Arc::default(), hamal_trace::Trace::silent())?;
/// let mut follower = LogFollower::open(&disk, id, Log::FIRST)?;
/// assert!(follower.next_record()?.is_none());
/// let (kind, txn, prev) = (RecordKind::Commit, TxnRef::First, Lsn::NULL);
/// let spec = RecordSpec { kind, rm: RmId(0), txn, prev, blocks: &[], undo: b"x" };
/// log.append(&spec, &mut log.credit(100, false)?)?;
/// log.flush_pending()?;
/// assert_eq!(follower.next_record()?.unwrap().undo(), b"x");
/// assert!(follower.next_record()?.is_none());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct LogFollower {
    disk: Arc<dyn Disk>,
    identity: LogIdentity,
    files: Files,
    /// Behind the record that was handed on last.
    at: u64,
    /// Behind the last group that was found whole.
    end: u64,
    /// Checksum of the seal before `end`; `None` if `end` may lie inside a group.
    before: Option<u32>,
}

impl LogFollower {
    /// From `from` on: where a record or a group is known to begin, or to have ended.
    ///
    /// # Errors
    /// A segment that cannot be opened or is not of this log.
    pub fn open(disk: &Arc<dyn Disk>, identity: LogIdentity, from: Lsn) -> Result<LogFollower> {
        let segments = segment::open_chain(&**disk, identity, from.0, READ_MODE)?;
        let mut files = Files::new(segments, Seeds::new(identity), CHUNK, 4 * CHUNK);
        let before = seal_before(&mut files, from.0)?;
        Ok(LogFollower { disk: disk.clone(), identity, files, at: from.0, end: from.0, before })
    }
    /// The next record, or `None` if no further group is whole yet: ask again later.
    ///
    /// # Errors
    /// [`LogCorrupt`](hamal_error::ErrorKind::LogCorrupt): what was read before as a whole group is none any more (its segment was
    /// released and written over, or it was damaged); `Io`.
    pub fn next_record(&mut self) -> Result<Option<Record>> {
        loop {
            while self.at < self.end {
                match self.files.at(self.at, u64::MAX)? {
                    Found::Record(r) => {
                        self.at = r.end.0;
                        return Ok(Some(r));
                    }
                    Found::Seal(s) => self.at = self.files.step_over(self.at, &s)?,
                    Found::Nothing => return Err(self.files.corrupt(self.at, "a record is gone")),
                }
            }
            if !self.grow()? {
                return Ok(None);
            }
        }
    }
    /// Behind the last record that was handed on, or behind the group that it was the last of.
    pub fn position(&self) -> Lsn {
        Lsn(self.at)
    }
    /// Looks for a further whole group.
    fn grow(&mut self) -> Result<bool> {
        // Most groups come with the bytes of the one before. If not, what was read may be older than what is there now.
        for again in [false, true] {
            if again {
                self.files.forget_beyond(self.end);
                self.new_segments()?;
            }
            if let Some(seal) = group(&mut self.files, self.end, self.before)? {
                (self.end, self.before) = (seal.lsn + SEAL_LEN, Some(seal.crc));
                return Ok(true);
            }
        }
        Ok(false)
    }
    /// Opens the segments that were made since, and closes those that were read.
    fn new_segments(&mut self) -> Result<()> {
        // Those ahead of the last group the log may have given back, and made anew since: other files of the same names.
        let reached = self.files.segments.partition_point(|s| s.first <= self.end);
        self.files.segments.truncate(reached.max(1));
        for first in segment::list(&*self.disk)? {
            if first != self.files.end() {
                continue;
            }
            match Segment::open(&*self.disk, self.identity, first, READ_MODE) {
                Ok(segment) => self.files.segments.push(Arc::new(segment)),
                // Given back at this moment: it is not needed yet.
                Err(_) if first > self.end => break,
                Err(e) => return Err(e),
            }
        }
        let read = self.files.segments.partition_point(|s| s.end() <= self.at);
        self.files.segments.drain(..read.min(self.files.segments.len() - 1));
        Ok(())
    }
}
