//! Reading LSN space from the segment files, through a small cache of chunks.
//!
//! Redo reads record by record in page order, so reads jump about: chunks are kept by least recent use within
//! a budget of bytes.
use crate::codec;
use crate::format::{SEAL_LEN, SECTOR, Seal, Seeds};
use crate::segment::Segment;
use crate::{Record, format};
use hamal_disk::{AlignedBuf, read_exact_at};
use hamal_error::{Error, ErrorKind, Result};
use hamal_page::Lsn;
use std::collections::HashMap;
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

#[derive(Debug)]
struct Chunk {
    bytes: AlignedBuf,
    /// How many bytes of it count.
    valid: usize,
    used: u64,
}

/// The chain of segments, readable at any LSN.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) segments: Vec<Arc<Segment>>,
    seeds: Seeds,
    chunks: HashMap<u64, Chunk>,
    chunk_bytes: u64,
    kept: usize,
    clock: u64,
}

impl Files {
    /// A reader of `segments` (a chain, ascending) with chunks of `chunk_bytes` (a multiple of 4096) and a
    /// cache of at least two of them.
    pub(crate) fn new(segments: Vec<Arc<Segment>>, seeds: Seeds, chunk_bytes: usize, cache: usize) -> Files {
        Files {
            segments,
            seeds,
            chunks: HashMap::new(),
            chunk_bytes: chunk_bytes as u64,
            kept: (cache / chunk_bytes).max(2),
            clock: 0,
        }
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
            let at = lsn + done as u64;
            let Some(segment) = self.segment(at).cloned() else { return Ok(false) };
            let start = (at - segment.first) / self.chunk_bytes * self.chunk_bytes + segment.first;
            let within = (at - start) as usize;
            let want = (out.len() - done).min((self.chunk_bytes as usize) - within);
            let want = want.min((segment.end() - at) as usize);
            self.load(&segment, start, within + want, limit)?;
            self.clock += 1;
            let Some(chunk) = self.chunks.get_mut(&start) else {
                return Err(Error::internal("a chunk of the log was dropped while in use"));
            };
            chunk.used = self.clock;
            out[done..done + want].copy_from_slice(&chunk.bytes[within..within + want]);
            done += want;
        }
        Ok(true)
    }

    /// Makes sure that `need` bytes of the chunk at `start` are cached.
    fn load(&mut self, segment: &Segment, start: u64, need: usize, limit: u64) -> Result<()> {
        if self.chunks.get(&start).is_some_and(|c| c.valid >= need) {
            return Ok(());
        }
        let len = self.chunk_bytes.min(segment.end() - start) as usize;
        let buffer = match self.chunks.remove(&start) {
            Some(old) => Some(old.bytes),
            None if self.chunks.len() >= self.kept => {
                let oldest = self.chunks.iter().min_by_key(|(_, c)| c.used).map(|(k, _)| *k);
                oldest.and_then(|k| self.chunks.remove(&k)).map(|c| c.bytes)
            }
            None => None,
        };
        let mut bytes = buffer.unwrap_or_else(|| AlignedBuf::new(self.chunk_bytes as usize));
        let offset = segment.offset(start);
        read_exact_at(&*segment.file, offset, &mut bytes[..len]).map_err(|e| {
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
        self.chunks.insert(start, Chunk { bytes, valid, used: self.clock });
        Ok(())
    }

    /// Forgets the chunks below `lsn`.
    pub(crate) fn forget_below(&mut self, lsn: u64) {
        self.chunks.retain(|start, _| *start >= lsn);
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
    ///
    /// Where the first byte is zero the seal lies at one of the next few places where a seal can be: at the
    /// very next one with the finest `pad`, at a later one with a coarser `pad` (which need not be known).
    pub(crate) fn at(&mut self, lsn: u64, limit: u64) -> Result<Found> {
        // A record is at least 8 bytes long, so 4 bytes are there; they hold any length that is allowed.
        let mut front = [0; 4];
        if !self.read(lsn, &mut front, limit)? {
            return Ok(Found::Nothing);
        }
        if front[0] == 0 {
            let mut place = format::seal_at(lsn, SECTOR);
            while place < lsn + format::MAX_PAD {
                if let Some(seal) = self.seal(place, limit)? {
                    return Ok(Found::Seal(seal));
                }
                place += SECTOR;
            }
            return Ok(Found::Nothing);
        }
        let Some(len) = codec::peek_len(&front) else { return Ok(Found::Nothing) };
        if lsn.checked_add(len as u64).is_none_or(|e| e > self.end()) {
            return Ok(Found::Nothing);
        }
        let mut bytes = vec![0; len];
        if !self.read(lsn, &mut bytes, limit)? {
            return Ok(Found::Nothing);
        }
        Ok(codec::decode(bytes, lsn, self.seeds).map_or(Found::Nothing, Found::Record))
    }

    /// The checksum of `[start, to)` as a seal carries it; `None` if LSN space ends before.
    pub(crate) fn group_crc(&mut self, start: u64, to: u64, limit: u64) -> Result<Option<u32>> {
        let mut crc = self.seeds.group(start);
        let mut buf = vec![0; (to - start).min(64 << 10) as usize];
        let mut at = start;
        while at < to {
            let n = (to - at).min(buf.len() as u64) as usize;
            if !self.read(at, &mut buf[..n], limit)? {
                return Ok(None);
            }
            crc = crc32c::crc32c_append(crc, &buf[..n]);
            at += n as u64;
        }
        Ok(Some(crc))
    }
}
