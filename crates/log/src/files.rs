//! Reading LSN space from the segment files, through a small cache of chunks.
//!
//! Undo and rollback jump about: chunks are kept by least recent use within a budget of bytes. Recovery gives a budget
//! that holds the whole stretch which it will need, so that it is read once.
use crate::ahead::{ReadAhead, pieces};
use crate::codec;
use crate::format::{SEAL_LEN, SECTOR, Seal, Seeds};
use crate::memory::{LogMemory, Piece};
use crate::segment::Segment;
use crate::{Record, RecordView, format};
use hamal_disk::{AlignedBuf, read_exact_at};
use hamal_error::{Error, ErrorKind, Result};
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::Lsn;
use std::ops::Range;
use std::sync::Arc;

/// What lies at a position of LSN space.
#[derive(Debug)]
pub(crate) enum Found {
    /// A record.
    Record(Record),
    /// Padding and then a seal, valid in itself.
    Seal(Seal),
    /// Neither.
    Nothing,
}

/// The same, before the bytes of a record are looked at.
#[derive(Debug)]
pub(crate) enum Place {
    /// What may be a record of so many bytes: its checksum is still to be compared.
    Record(usize),
    /// Padding and then a seal, valid in itself.
    Seal(Seal),
    /// Neither.
    Nothing,
}

#[derive(Debug)]
struct Chunk {
    /// LSN of its first byte.
    start: u64,
    bytes: Arc<AlignedBuf>,
    /// How many bytes of it count.
    valid: usize,
    used: u64,
    /// The clock when it was read: no other chunk has the same.
    read: u64,
    /// LSNs whose bytes, as they are in memory, had the checksum of their group (LOG-3): that of each record needs no look.
    sound: Range<u64>,
}

/// The chain of segments, readable at any LSN.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) segments: Vec<Arc<Segment>>,
    seeds: Seeds,
    /// In no order: there are a few dozen at most.
    chunks: Vec<Chunk>,
    /// Where in `chunks` the one is that was used last, if it is still there.
    last: usize,
    chunk_bytes: u64,
    kept: usize,
    clock: u64,
    ahead: Option<ReadAhead>,
    /// A record that lies in more than one chunk.
    scratch: Vec<u8>,
    /// The chunks that a group was checked in.
    group_chunks: Vec<u64>,
}

impl Files {
    /// A reader of `segments` (a chain, ascending) with chunks of `chunk_bytes` (a multiple of 4096) and a
    /// cache of at least two of them.
    pub(crate) fn new(segments: Vec<Arc<Segment>>, seeds: Seeds, chunk_bytes: usize, cache: usize) -> Files {
        Files {
            segments,
            seeds,
            chunks: Vec::new(),
            last: 0,
            chunk_bytes: chunk_bytes as u64,
            kept: (cache / chunk_bytes).max(2),
            clock: 0,
            ahead: None,
            scratch: Vec::new(),
            group_chunks: Vec::new(),
        }
    }

    /// Has a thread read what lies from `lsn` on, for somebody who is about to go through it.
    pub(crate) fn read_ahead(&mut self, lsn: u64) {
        self.ahead = None;
        self.ahead = ReadAhead::start(&self.segments, lsn, self.chunk_bytes);
    }
    /// Stops that.
    pub(crate) fn stop_ahead(&mut self) {
        self.ahead = None;
    }
    /// Keeps no more than about `bytes` from now on.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        self.kept = (bytes / self.chunk_bytes as usize).max(2);
        self.chunks.sort_unstable_by_key(|c| std::cmp::Reverse(c.used));
        self.chunks.truncate(self.kept);
    }
    /// Forgets the chunk that holds `lsn`.
    pub(crate) fn forget(&mut self, lsn: u64) {
        self.chunks.retain(|c| lsn < c.start || lsn - c.start >= c.bytes.len() as u64);
    }
    /// Forgets the chunks that reach beyond `lsn`: somebody may have written there since.
    pub(crate) fn forget_beyond(&mut self, lsn: u64) {
        self.chunks.retain(|c| c.start + c.bytes.len() as u64 <= lsn);
    }
    /// Everything in `[from, end)`, if all of it is in memory.
    pub(crate) fn memory(&self, from: u64, end: u64) -> Option<LogMemory> {
        let mut have: Vec<&Chunk> = self.chunks.iter().collect();
        have.sort_unstable_by_key(|c| c.start);
        let mut out = Vec::new();
        for (_, start, len) in pieces(&self.segments, from, self.chunk_bytes) {
            if start >= end {
                break;
            }
            let i = have.binary_search_by_key(&start, |c| c.start).ok()?;
            let chunk = Some(have[i]).filter(|c| c.valid >= len.min((end - start) as usize))?;
            out.push(Piece { first: start, end: start + len as u64, bytes: chunk.bytes.clone() });
        }
        Some(LogMemory::new(out, self.chunk_bytes))
    }

    /// The first LSN that a segment holds.
    pub(crate) fn oldest(&self) -> u64 {
        self.segments.first().map_or(0, |s| s.first)
    }
    /// The LSN after the last segment.
    pub(crate) fn end(&self) -> u64 {
        self.segments.last().map_or(0, |s| s.end())
    }
    /// The segment that holds `lsn`.
    pub(crate) fn segment(&self, lsn: u64) -> Option<&Arc<Segment>> {
        let i = self.segments.partition_point(|s| s.first <= lsn).checked_sub(1)?;
        self.segments.get(i).filter(|s| lsn < s.end())
    }
    /// A `LogCorrupt` that says where.
    pub(crate) fn corrupt(&self, lsn: u64, message: impl Into<String>) -> Error {
        let e = Error::new(ErrorKind::LogCorrupt, message).with_lsn(Lsn(lsn));
        match self.segment(lsn) {
            Some(s) => e.with_file(s.name.clone()).with_offset(s.offset(lsn)),
            None => e,
        }
    }

    /// Fills `out` with the bytes from `lsn` on; `false` if LSN space ends before. Bytes at or above `limit`
    /// are not cached beyond this call's needs (they may still change).
    pub(crate) fn read(&mut self, lsn: u64, out: &mut [u8], limit: u64) -> Result<bool> {
        let mut done = 0;
        while done < out.len() {
            let want = out.len() - done;
            let Some(piece) = self.piece(lsn + done as u64, want, limit)? else { return Ok(false) };
            out[done..done + piece.len()].copy_from_slice(piece);
            done += piece.len();
        }
        Ok(true)
    }

    /// Between 1 and `most` bytes from `lsn` on, as many as lie in one chunk; `None` at the end of LSN space. As
    /// [`Files::read`] for `limit`.
    pub(crate) fn piece(&mut self, lsn: u64, most: usize, limit: u64) -> Result<Option<&[u8]>> {
        self.clock += 1;
        let within = |c: &Chunk| lsn.checked_sub(c.start).filter(|at| *at < c.valid as u64);
        if let Some(at) = self.chunks.get(self.last).and_then(within)
            && most <= self.chunks[self.last].valid - at as usize
        {
            self.chunks[self.last].used = self.clock;
            return Ok(Some(&self.chunks[self.last].bytes[at as usize..at as usize + most]));
        }
        let Some(segment) = self.segment(lsn).cloned() else { return Ok(None) };
        let start = (lsn - segment.first) / self.chunk_bytes * self.chunk_bytes + segment.first;
        let at = (lsn - start) as usize;
        let want = most.min(self.chunk_bytes as usize - at).min((segment.end() - lsn) as usize);
        self.last = self.load(&segment, start, at + want, limit)?;
        let chunk = &mut self.chunks[self.last];
        chunk.used = self.clock;
        Ok(Some(&chunk.bytes[at..at + want]))
    }

    /// Makes sure that `need` bytes of the chunk at `start` are cached; where in `chunks` it is.
    fn load(&mut self, segment: &Segment, start: u64, need: usize, limit: u64) -> Result<usize> {
        let cached = self.chunks.iter().position(|c| c.start == start);
        if let Some(i) = cached
            && self.chunks[i].valid >= need
        {
            return Ok(i);
        }
        let len = self.chunk_bytes.min(segment.end() - start) as usize;
        let old = match cached {
            Some(i) => Some(self.chunks.swap_remove(i).bytes),
            None if self.chunks.len() >= self.kept => {
                let oldest = self.chunks.iter().enumerate().min_by_key(|(_, c)| c.used).map(|(i, _)| i);
                oldest.map(|i| self.chunks.swap_remove(i).bytes)
            }
            None => None,
        };
        let offset = segment.offset(start);
        let read = match self.ahead.as_mut().and_then(|a| a.take(start, len)) {
            Some(read) => read.map(Arc::new),
            None => {
                // A small segment needs no more than itself.
                let size = self.chunk_bytes.min(segment.capacity) as usize;
                let old = old.and_then(Arc::into_inner).filter(|b| b.len() >= size);
                let mut bytes = old.unwrap_or_else(|| AlignedBuf::new(size));
                read_exact_at(&*segment.file, offset, &mut bytes[..len]).map(|()| Arc::new(bytes))
            }
        };
        let bytes = read.map_err(|e| {
            let lsn = Lsn(start);
            match e.kind() {
                std::io::ErrorKind::UnexpectedEof => {
                    Error::new(ErrorKind::LogCorrupt, "a log segment ends early")
                }
                _ => Error::io("reading the log", e),
            }
            .with_file(segment.name.clone())
            .with_offset(offset)
            .with_lsn(lsn)
        })?;
        let valid = (limit.saturating_sub(start).min(len as u64) as usize).max(need);
        self.chunks.push(Chunk { start, bytes, valid, used: self.clock, read: self.clock, sound: 0..0 });
        Ok(self.chunks.len() - 1)
    }

    /// Forgets the chunks below `lsn`.
    pub(crate) fn forget_below(&mut self, lsn: u64) {
        self.chunks.retain(|c| c.start >= lsn);
    }

    /// The seal at `lsn`, if a valid one of this log lies there.
    pub(crate) fn seal(&mut self, lsn: u64, limit: u64) -> Result<Option<Seal>> {
        let mut bytes = [0; SEAL_LEN as usize];
        if !self.read(lsn, &mut bytes, limit)? {
            return Ok(None);
        }
        Ok(Seal::decode(self.seeds, lsn, &bytes))
    }

    /// What lies at `lsn`, where a record or the padding before a seal should begin.
    pub(crate) fn at(&mut self, lsn: u64, limit: u64) -> Result<Found> {
        let len = match self.place(lsn, limit)? {
            Place::Record(len) => len,
            Place::Seal(seal) => return Ok(Found::Seal(seal)),
            Place::Nothing => return Ok(Found::Nothing),
        };
        let mut bytes = vec![0; len];
        if !self.read(lsn, &mut bytes, limit)? {
            return Ok(Found::Nothing);
        }
        Ok(codec::decode(bytes, lsn, self.seeds).map_or(Found::Nothing, Found::Record))
    }

    /// Makes sure that `len` bytes at `lsn` lie in one piece of memory, for [`Files::prepared`]; `false` if LSN space ends
    /// before.
    pub(crate) fn prepare(&mut self, lsn: u64, len: usize, limit: u64) -> Result<bool> {
        let Some(piece) = self.piece(lsn, len, limit)? else { return Ok(false) };
        if piece.len() == len {
            return Ok(true);
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.resize(len, 0);
        let whole = self.read(lsn, &mut scratch, limit);
        self.scratch = scratch;
        whole
    }

    /// The record in the bytes that [`Files::prepare`] was called for just now; `None` if they are none.
    pub(crate) fn prepared(&self, lsn: u64, len: usize) -> Option<RecordView<'_>> {
        let chunk = &self.chunks[self.last];
        let at = lsn.checked_sub(chunk.start).map(|at| at as usize);
        let in_one = at.and_then(|at| chunk.bytes.get(at..at + len)).filter(|_| at < Some(chunk.valid));
        let checked = in_one.is_some() && chunk.sound.start <= lsn && lsn + len as u64 <= chunk.sound.end;
        codec::view(in_one.unwrap_or(&self.scratch), lsn, Some(self.seeds).filter(|_| !checked))
    }

    /// What seems to lie at `lsn`, where a record or the padding before a seal should begin.
    ///
    /// Where the first byte is zero the seal lies at one of the next few places where a seal can be: at the
    /// very next one with the finest `pad`, at a later one with a coarser `pad` (which need not be known).
    pub(crate) fn place(&mut self, lsn: u64, limit: u64) -> Result<Place> {
        // A record is at least 8 bytes long, so 4 bytes are there; they hold any length that is allowed.
        let mut front = [0; 4];
        if !self.read(lsn, &mut front, limit)? {
            return Ok(Place::Nothing);
        }
        if front[0] == 0 {
            let mut place = format::seal_at(lsn, SECTOR);
            while place < lsn + format::MAX_PAD {
                // Of this group: if its own seal is damaged, that of the next would hide a whole group (LOG-3).
                if let Some(seal) = self.seal(place, limit)? {
                    return Ok(if seal.start <= lsn { Place::Seal(seal) } else { Place::Nothing });
                }
                place += SECTOR;
            }
            return Ok(Place::Nothing);
        }
        let Some(len) = codec::peek_len(&front) else { return Ok(Place::Nothing) };
        if lsn.checked_add(len as u64).is_none_or(|e| e > self.end()) {
            return Ok(Place::Nothing);
        }
        Ok(Place::Record(len))
    }

    /// Where the next group begins, behind the padding at `at` and the seal that [`Files::place`] found behind it. It is padding
    /// only if the group has its checksum with zeros from `at` on: a lost sector is zeros too, and the records that were in it
    /// would be passed over (LOG-3). What the padding holds does not matter.
    ///
    /// Of a group whose front is in no segment any more the records say that they are whole, each by itself, and nothing says how
    /// many there were.
    pub(crate) fn step_over(&mut self, at: u64, seal: &Seal) -> Result<u64> {
        const ZEROS: [u8; 512] = [0; 512];
        let end = seal.lsn + SEAL_LEN;
        let believed = seal.start < self.oldest()
            || self.is_sound(at, end)
            || mutants::is(Mutant::PaddingBelieved)
            || mutants::is(Mutant::GroupCrcIgnored)
            || mutants::is(Mutant::TornTailAccepted);
        if believed {
            return Ok(end);
        }
        let mut crc = self.seeds.group(seal.start);
        let mut done = seal.start;
        while done < at {
            let Some(piece) = self.piece(done, (at - done) as usize, u64::MAX)? else { break };
            crc = crc32c::crc32c_append(crc, piece);
            done += piece.len() as u64;
        }
        while done < seal.lsn {
            let n = (seal.lsn - done).min(ZEROS.len() as u64);
            crc = crc32c::crc32c_append(crc, &ZEROS[..n as usize]);
            done += n;
        }
        if crc != seal.group {
            let m = format!(
                "no record where one must be: the group of the seal at {} does not end here",
                seal.lsn
            );
            return Err(self.corrupt(at, m));
        }
        Ok(end)
    }

    /// Whether all of `[from, to)` is in memory and had the checksum of its group.
    fn is_sound(&self, from: u64, to: u64) -> bool {
        let one = self.chunks.get(self.last).map_or(0..0, |c| c.sound.clone());
        let mut at = if one.contains(&from) { one.end } else { from };
        while at < to {
            let holds = |c: &&Chunk| c.sound.contains(&at);
            let Some(chunk) = self.chunks.iter().find(holds) else { return false };
            at = chunk.sound.end;
        }
        true
    }

    /// Whether `[start, seal)` has the checksum that the group's seal at `seal`, which is valid in itself, carries. The records of a
    /// group that has are not checked one by one, as long as the chunks stay in memory (LOG-3).
    pub(crate) fn check_group(&mut self, start: u64, seal: u64, sum: u32) -> Result<bool> {
        let mut crc = self.seeds.group(start);
        let mut at = start;
        let mut chunks = std::mem::take(&mut self.group_chunks);
        chunks.clear();
        while at < seal {
            let Some(piece) = self.piece(at, (seal - at) as usize, u64::MAX)? else { return Ok(false) };
            crc = crc32c::crc32c_append(crc, piece);
            at += piece.len() as u64;
            chunks.push(self.chunks[self.last].read);
        }
        let sound = crc == sum;
        if sound {
            let end = seal + SEAL_LEN;
            let in_last = chunks.len() == 1;
            let (one, all) = (self.last..self.last + 1, 0..self.chunks.len());
            for c in &mut self.chunks[if in_last { one } else { all }] {
                if chunks.contains(&c.read) {
                    let (from, to) = (start.max(c.start), end.min(c.start + c.valid as u64));
                    c.sound = if c.sound.end == from { c.sound.start..to } else { from..to };
                }
            }
        }
        self.group_chunks = chunks;
        Ok(sound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Log, LogEnd, LogIdentity, LogOptions, Reading, RecordKind, RecordSpec, TxnRef, find_end,
        find_end_and_read, segment,
    };
    use hamal_disk::{Disk, MemDisk, OpenMode};
    use hamal_page::{DbId, RmId};
    use hamal_trace::Trace;

    /// The cache keeps as many chunks as it may, and no more, whatever is read.
    #[test]
    fn the_cache_keeps_to_its_budget() {
        let disk = MemDisk::new();
        disk.create_dir(segment::DIR).unwrap();
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let id = LogIdentity { db: DbId([1; 16]), timeline: 1 };
        let o = LogOptions { segment_bytes: 256 << 10, ..LogOptions::default() };
        let log =
            Log::create(disk.clone(), o.clone(), id, Log::FIRST, Arc::default(), Trace::silent()).unwrap();
        let spec = RecordSpec {
            kind: RecordKind::Commit,
            rm: RmId(0),
            txn: TxnRef::First,
            prev: Lsn::NULL,
            blocks: &[],
            undo: &[7; 3000],
        };
        let lsns: Vec<u64> = (0..300)
            .map(|_| log.append(&spec, &mut log.credit(4000, false).unwrap()).unwrap().lsn.0)
            .collect();
        log.flush_pending().unwrap();
        let LogEnd { end, .. } = find_end(&disk, &o, id, Log::FIRST, Lsn::NULL).unwrap();
        let chain = segment::open_chain(&*disk, id, Log::FIRST.0, OpenMode::default()).unwrap();
        let chunk = 16 << 10;
        for (cache, kept) in [(0, 2), (5 * chunk, 5)] {
            let mut files = Files::new(chain.clone(), Seeds::new(id), chunk, cache);
            for round in 0..3 {
                for k in 0..lsns.len() {
                    let lsn = lsns[k * 7 % lsns.len()];
                    assert!(matches!(files.at(lsn, u64::MAX).unwrap(), Found::Record(r) if r.lsn.0 == lsn));
                    assert!(files.chunks.len() <= kept, "{} chunks", files.chunks.len());
                }
                assert_eq!(files.chunks.len(), kept, "round {round}");
            }
            files.forget_below(end.0 + 1);
            assert!(files.chunks.is_empty());
            assert!(matches!(files.at(lsns[0], u64::MAX).unwrap(), Found::Record(_)));
            files.forget_below(Log::FIRST.0);
            assert!(!files.chunks.is_empty());
        }
    }

    /// The checksum of a group counts for its records as long as the bytes that it was compared with are in memory, and not
    /// for what is read again.
    #[test]
    fn what_is_read_again_is_checked_again() {
        let disk = MemDisk::new();
        disk.create_dir(segment::DIR).unwrap();
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let id = LogIdentity { db: DbId([1; 16]), timeline: 1 };
        let o = LogOptions::default();
        let log = Log::create(disk.clone(), o, id, Log::FIRST, Arc::default(), Trace::silent()).unwrap();
        let undo = [7; 3000];
        let (kind, rm, txn, prev) = (RecordKind::Commit, RmId(0), TxnRef::First, Lsn::NULL);
        let spec = RecordSpec { kind, rm, txn, prev, blocks: &[], undo: &undo };
        let mut lsns = Vec::new();
        for i in 0..2000 {
            lsns.push(log.append(&spec, &mut log.credit(4000, false).unwrap()).unwrap().lsn);
            if i % 100 == 0 {
                log.flush_pending().unwrap();
            }
        }
        log.flush_pending().unwrap();
        let reading = Reading { memory: 64 << 20, ahead: false };
        let (_, mut reader) = find_end_and_read(&disk, id, Log::FIRST, Lsn::NULL, reading).unwrap();
        let damaged = lsns[3];
        let segment = reader.segments()[0].clone();
        let file = disk.open(&segment.name, OpenMode::default()).unwrap();
        file.write_at(segment.offset(damaged.0) + 1000, &[8]).unwrap();
        assert_eq!(reader.view(damaged).unwrap().unwrap().undo().unwrap(), undo);
        for lsn in &lsns[10..] {
            assert_eq!(reader.view(*lsn).unwrap().unwrap().lsn, *lsn);
        }
        reader.jump_about();
        let e = reader.view(damaged).map(|r| r.map(|r| r.lsn)).unwrap_err();
        assert_eq!((e.kind(), e.lsn()), (ErrorKind::LogCorrupt, Some(damaged)));
    }
}
