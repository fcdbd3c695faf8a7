//! Segment files: their names, headers, how one is made ready and how the chain of them is opened.
//!
//! A segment gets its final name only when it is whole: filled, header written, synced. So a file with a
//! segment's name is never half made, and whatever is wrong with one is damage (invariant LOG-8).
use crate::LogIdentity;
use crate::format::{FORMAT_VERSION, HEADER_BLOCK, SegmentHeader};
use crate::reader::READ_MODE;
use hamal_disk::{AlignedBuf, Disk, DiskFile, OpenMode, read_exact_at};
use hamal_error::{Error, ErrorKind, Result};
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::Lsn;
use std::sync::Arc;

/// The directory of the log.
pub(crate) const DIR: &str = "wal";
/// A file being made, or copied.
pub(crate) const MAKING: &str = "wal/make";
/// At most so many released segments are kept for recycling.
pub(crate) const FREE_KEPT: usize = 4;
/// Bytes written at once when a segment is filled with zeros or copied.
const FILL: usize = 1 << 20;

/// The name of the segment whose first LSN is `first`.
pub(crate) fn name(first: u64) -> String {
    format!("{DIR}/{first:016x}")
}

/// The name of the `n`th file kept for recycling.
pub(crate) fn free_name(n: usize) -> String {
    format!("{DIR}/free-{n}")
}

/// The first LSN in a segment's name.
pub(crate) fn parse(name: &str) -> Option<u64> {
    let plain = name.len() == 16 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if plain { u64::from_str_radix(name, 16).ok() } else { None }
}

/// An open segment.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) first: u64,
    /// Bytes of LSN space in it.
    pub(crate) capacity: u64,
    pub(crate) seal_before: u32,
    pub(crate) name: String,
    pub(crate) file: Arc<dyn DiskFile>,
}

impl Segment {
    /// Opens the segment once more; its header was checked the first time.
    pub(crate) fn reopen(&self, disk: &dyn Disk, mode: OpenMode) -> Result<Segment> {
        let name = self.name.clone();
        let file = disk.open(&name, mode).map_err(|e| {
            let error = match e.kind() {
                std::io::ErrorKind::NotFound => Error::new(ErrorKind::LogCorrupt, "a log segment is missing"),
                _ => Error::io("opening a log segment", e),
            };
            error.with_file(name.clone()).with_lsn(Lsn(self.first))
        })?;
        Ok(Segment { first: self.first, capacity: self.capacity, seal_before: self.seal_before, name, file })
    }
    /// The first LSN of the next segment.
    pub(crate) fn end(&self) -> u64 {
        self.first + self.capacity
    }
    /// Bytes of the file.
    pub(crate) fn bytes(&self) -> u64 {
        self.capacity + HEADER_BLOCK as u64
    }
    /// Where an LSN of this segment lies in the file.
    pub(crate) fn offset(&self, lsn: u64) -> u64 {
        lsn - self.first + HEADER_BLOCK as u64
    }

    /// Opens the segment that starts at `first` and checks its header and length.
    pub(crate) fn open(disk: &dyn Disk, id: LogIdentity, first: u64, mode: OpenMode) -> Result<Segment> {
        let name = name(first);
        let at = |e: Error| e.with_file(name.clone()).with_lsn(Lsn(first));
        let corrupt = |m: &str| at(Error::new(ErrorKind::LogCorrupt, m)).with_offset(0);
        let io = |what: &str, e| at(Error::io(what, e));
        let file = disk.open(&name, mode).map_err(|e| io("opening a log segment", e))?;
        let length = file.len().map_err(|e| io("asking a log segment's length", e))?;
        if length < HEADER_BLOCK as u64 {
            return Err(corrupt("a log segment is shorter than its header"));
        }
        let mut block = AlignedBuf::new(HEADER_BLOCK);
        read_exact_at(&*file, 0, &mut block).map_err(|e| io("reading a log segment's header", e))?;
        let header =
            SegmentHeader::decode(&block).ok_or_else(|| corrupt("the header of a log segment is damaged"))?;
        if header.version != FORMAT_VERSION {
            let m = format!("a log segment has format version {}, not {FORMAT_VERSION}", header.version);
            return Err(at(Error::new(ErrorKind::UnsupportedVersion, m)));
        }
        let unchecked = mutants::is(Mutant::SegmentHeaderUnchecked);
        if header.db != id.db && !unchecked {
            let m = format!("a log segment belongs to database {}, not {}", header.db, id.db);
            return Err(at(Error::new(ErrorKind::WrongDatabase, m)));
        }
        if header.timeline != id.timeline && !unchecked {
            let m = format!("a log segment is of timeline {}, not {}", header.timeline, id.timeline);
            return Err(at(Error::new(ErrorKind::WrongDatabase, m)));
        }
        if (header.first != first || !first.is_multiple_of(HEADER_BLOCK as u64)) && !unchecked {
            return Err(corrupt("the header of a log segment names another first LSN than the file's name"));
        }
        if length < header.bytes || header.bytes <= HEADER_BLOCK as u64 || !header.bytes.is_multiple_of(4096)
        {
            let m = format!("a log segment of {} bytes has only {length}", header.bytes);
            return Err(corrupt(&m).with_offset(length));
        }
        let capacity = header.bytes - HEADER_BLOCK as u64;
        if first.checked_add(capacity).is_none() {
            return Err(corrupt("a log segment ends beyond the last LSN"));
        }
        Ok(Segment { first, capacity, seal_before: header.seal_before, name, file })
    }
}

/// The segments on a disk, by first LSN, ascending.
pub(crate) fn list(disk: &dyn Disk) -> Result<Vec<u64>> {
    let names = disk.list(DIR).map_err(|e| Error::io("listing the log's directory", e).with_file(DIR))?;
    let mut firsts: Vec<u64> = names.iter().filter_map(|n| parse(n)).collect();
    firsts.sort_unstable();
    Ok(firsts)
}

/// Opens the unbroken chain of segments around `from`: backward as far as it reaches (what lies below a gap
/// was released), forward to the newest. A gap above `from` is damage: a segment is made only after the one
/// before it is durable with its name.
pub(crate) fn open_chain(
    disk: &dyn Disk,
    id: LogIdentity,
    from: u64,
    mode: OpenMode,
) -> Result<Vec<Arc<Segment>>> {
    let firsts = list(disk)?;
    let split = firsts.partition_point(|f| *f <= from);
    let missing =
        |lsn: u64, m: &str| Error::new(ErrorKind::LogCorrupt, m).with_file(name(lsn)).with_lsn(Lsn(lsn));
    if split == 0 {
        // If there is a log of another database instead, that is what is wrong.
        if let Some(other) = firsts.first()
            && let Err(e) = Segment::open(disk, id, *other, mode)
            && e.kind() == ErrorKind::WrongDatabase
        {
            return Err(e);
        }
        return Err(missing(from, "the log segment that holds the starting point is missing"));
    }
    let mut chain = vec![Arc::new(Segment::open(disk, id, firsts[split - 1], mode)?)];
    if chain[0].end() <= from {
        return Err(missing(chain[0].end(), "a log segment is missing"));
    }
    for first in &firsts[split..] {
        let end = chain[chain.len() - 1].end();
        if *first != end {
            return Err(missing(end, "a log segment is missing before later ones"));
        }
        chain.push(Arc::new(Segment::open(disk, id, *first, mode)?));
    }
    for first in firsts[..split - 1].iter().rev() {
        // Below the starting point nothing is needed; a file that is damaged or does not join ends the chain.
        match Segment::open(disk, id, *first, mode) {
            Ok(s) if s.end() == chain[0].first => chain.insert(0, Arc::new(s)),
            Ok(_) => break,
            Err(e) if e.kind() == ErrorKind::Io => return Err(e),
            Err(_) => break,
        }
    }
    Ok(chain)
}

/// What is wrong with the segment in front of `oldest`, where the chain of segments ends: that of another database, damage. `None` if
/// there is none, or nothing is wrong with it. Below the oldest LSN that is needed any file may lie; who needs more asks here why
/// it is not there.
pub fn missing_below(disk: &Arc<dyn Disk>, identity: LogIdentity, oldest: Lsn) -> Option<Error> {
    let firsts = list(&**disk).ok()?;
    let below = firsts.into_iter().rfind(|first| *first < oldest.0)?;
    Segment::open(&**disk, identity, below, READ_MODE).err()
}

/// A segment to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) id: LogIdentity,
    pub(crate) first: u64,
    pub(crate) bytes: u64,
    pub(crate) seal_before: u32,
    pub(crate) mode: OpenMode,
    /// Whether a new file is written once before it is used. Its space is there in any case; but the first write of a block that
    /// never was written has the file system note that, and the sync of it takes longer.
    pub(crate) written: bool,
}

/// Makes a segment: from `free`, a released file of the same length, or from nothing.
///
/// The order: body filled and header written, file synced, renamed to its final name, directory synced.
/// Before the rename a crash leaves a file that is no segment; after it the file is whole. On an error before
/// the rename nothing has changed but that file. The directory's sync is the caller's (its failure is not
/// like the others).
pub(crate) fn make(disk: &dyn Disk, plan: Plan, free: Option<&str>) -> Result<Segment> {
    let name = name(plan.first);
    let source = free.unwrap_or(MAKING);
    let io = |what: &str, e| Error::io(what, e).with_file(name.clone()).with_lsn(Lsn(plan.first));
    let made = fill(disk, plan, source, free.is_none()).and_then(|()| disk.rename(source, &name));
    if let Err(e) = made {
        // Give the space back; if that fails too, the next attempt or the next open does it.
        let _ = disk.remove(source);
        return Err(io("making a log segment", e));
    }
    let file = disk.open(&name, plan.mode).map_err(|e| io("opening a new log segment", e))?;
    Ok(Segment {
        first: plan.first,
        capacity: plan.bytes - HEADER_BLOCK as u64,
        seal_before: plan.seal_before,
        name,
        file,
    })
}

fn fill(disk: &dyn Disk, plan: Plan, source: &str, zero: bool) -> std::io::Result<()> {
    let file = disk.open(source, OpenMode { create: zero, ..OpenMode::default() })?;
    if zero {
        file.set_len(0)?;
        file.allocate(0, plan.bytes)?;
        let fill = if plan.written { plan.bytes } else { 0 };
        let zeros = AlignedBuf::new(FILL.min(fill as usize).max(1));
        let mut at = 0;
        while at < fill {
            let n = (fill - at).min(zeros.len() as u64);
            file.write_at(at, &zeros[..n as usize])?;
            at += n;
        }
    }
    let header = SegmentHeader {
        version: FORMAT_VERSION,
        db: plan.id.db,
        timeline: plan.id.timeline,
        first: plan.first,
        bytes: plan.bytes,
        seal_before: plan.seal_before,
    };
    file.write_at(0, &header.encode())?;
    if !mutants::is(Mutant::SegmentNotSynced) {
        file.sync()?;
    }
    if plan.mode.direct {
        let _ = file.drop_cache();
    }
    Ok(())
}

/// Writes every segment from the one that holds `from` on to a new file, synced and renamed over the old one,
/// unless the disk can read past the operating system's cache. Returns the bytes copied.
///
/// After an unclean end a cache may hold log bytes that the device does not, and a sync does not write pages
/// that the cache believes clean. Where the cache cannot be bypassed, what recovery is about to
/// rely on is made true this way first. A crash in the middle leaves old and new copies of equal content. Not
/// needed on disks without such a cache.
///
/// # Errors
/// I/O errors; [`LogCorrupt`](ErrorKind::LogCorrupt) if the segment of `from` is missing.
pub fn rewrite_segments(disk: &Arc<dyn Disk>, from: Lsn) -> Result<u64> {
    let firsts = list(&**disk)?;
    let split = firsts.partition_point(|f| *f <= from.0);
    if split == 0 {
        return Err(Error::new(ErrorKind::LogCorrupt, "the log segment of the starting point is missing")
            .with_file(name(from.0))
            .with_lsn(from));
    }
    let mut copied = 0;
    for first in &firsts[split - 1..] {
        let name = name(*first);
        let io = |e| Error::io("rewriting a log segment", e).with_file(name.clone());
        let direct = OpenMode { read_only: true, direct: true, ..OpenMode::default() };
        if disk.open(&name, direct).map_err(io)?.bypasses_cache() {
            continue;
        }
        copied += copy(&**disk, &name).map_err(io)?;
    }
    if copied != 0 {
        disk.sync_dir(DIR).map_err(|e| Error::io("syncing the log's directory", e).with_file(DIR))?;
    }
    Ok(copied)
}

fn copy(disk: &dyn Disk, name: &str) -> std::io::Result<u64> {
    let old = disk.open(name, OpenMode { read_only: true, ..OpenMode::default() })?;
    let new = disk.open(MAKING, OpenMode { create: true, ..OpenMode::default() })?;
    new.set_len(0)?;
    let len = old.len()?;
    let mut buf = AlignedBuf::new(len.min(FILL as u64) as usize);
    let mut at = 0;
    while at < len {
        let n = (len - at).min(buf.len() as u64) as usize;
        read_exact_at(&*old, at, &mut buf[..n])?;
        new.write_at(at, &buf[..n])?;
        at += n as u64;
    }
    new.sync()?;
    disk.rename(MAKING, name)?;
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(parse("00000000000010ff"), Some(0x10ff));
        for bad in ["free-0", "make", "00000000000010FF", "+0000000000010ff", "0000000000010ff", ""] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(name(4096), "wal/0000000000001000");
    }

    /// Headers with a right checksum that no segment has.
    #[test]
    fn forged_lengths_are_refused() {
        let disk = hamal_disk::MemDisk::new();
        disk.create_dir(DIR).unwrap();
        let id = LogIdentity { db: hamal_page::DbId([1; 16]), timeline: 1 };
        let open_version = |first: u64, bytes: u64, version| {
            let file = disk.open(&name(first), OpenMode { create: true, ..OpenMode::default() }).unwrap();
            let head = SegmentHeader { version, db: id.db, timeline: 1, first, bytes, seal_before: 0 };
            file.set_len(16384).unwrap();
            file.write_at(0, &head.encode()).unwrap();
            Segment::open(&disk, id, first, OpenMode::default()).map(|s| s.capacity).map_err(|e| e.kind())
        };
        let open = |first, bytes| open_version(first, bytes, FORMAT_VERSION);
        let bad = Err(ErrorKind::LogCorrupt);
        assert_eq!(open_version(4096, 16384, FORMAT_VERSION + 1), Err(ErrorKind::UnsupportedVersion));
        assert_eq!(open(4096, 16384), Ok(12288));
        assert_eq!(open(4096, 8192), Ok(4096));
        for bytes in [0, 4096, 5000, 8192 + 512, 16384 + 4096, u64::MAX] {
            assert_eq!(open(4096, bytes), bad, "{bytes}");
        }
        assert_eq!(open(4096 + 512, 8192), bad);
        assert_eq!(open(u64::MAX - 4095, 8192), bad);
        assert_eq!(open(u64::MAX - 8191, 8192), Ok(4096));
    }
}
