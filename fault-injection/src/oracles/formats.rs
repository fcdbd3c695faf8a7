//! The files of a hamal database, read by code that shares nothing with the engine's: control file, log and page header, as
//! `docs/formats` has them. The oracles judge the engine with it, so the engine's own decoders are not used here, and
//! the end of the log is decided anew.
use crate::engine::{Failure, FailureKind};
use hamal::disk::{Disk, DiskFile, OpenMode};
use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// The block before LSN space in a segment file.
pub(crate) const HEADER: u64 = 4096;
const SECTOR: u64 = 512;
const SEAL: u64 = 48;
/// Bytes of a slot of the control file.
pub(crate) const SLOT: usize = 4096;

/// Kinds of records.
pub(crate) mod kind {
    pub(crate) const UPDATE: u8 = 1;
    pub(crate) const STRUCTURE: u8 = 2;
    pub(crate) const CLR: u8 = 3;
    pub(crate) const DUMMY_CLR: u8 = 4;
    pub(crate) const COMMIT: u8 = 5;
    pub(crate) const ABORT: u8 = 6;
    pub(crate) const END: u8 = 7;
    pub(crate) const CHECKPOINT_BEGIN: u8 = 8;
    pub(crate) const WRITE_NOTE: u8 = 12;
}

/// What a block does with its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whole {
    No,
    Image,
    Init,
    Free,
}

pub(crate) fn damage(text: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Damage, text)
}
fn io_failure(name: &str, e: &io::Error) -> Failure {
    Failure::new(FailureKind::Io, format!("{name}: {e}"))
}

pub(crate) fn u16_at(b: &[u8], at: usize) -> usize {
    b.get(at..at + 2).map_or(0, |b| usize::from(u16::from_le_bytes([b[0], b[1]])))
}
pub(crate) fn u32_at(b: &[u8], at: usize) -> u32 {
    b.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}
pub(crate) fn u64_at(b: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    if let Some(found) = b.get(at..at + 8) {
        word.copy_from_slice(found);
    }
    u64::from_le_bytes(word)
}

/// Takes fields off the front of a payload.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(front)
    }
    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }
    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.take(8).map(|b| u64_at(b, 0))
    }
    pub(crate) fn varint(&mut self) -> Option<u64> {
        let mut v = 0;
        for shift in (0..70).step_by(7) {
            let b = self.u8()?;
            if shift == 63 && b > 1 {
                return None;
            }
            v |= u64::from(b & 0x7f) << shift;
            if b & 0x80 == 0 {
                return Some(v);
            }
        }
        None
    }
    pub(crate) fn size(&mut self) -> Option<usize> {
        usize::try_from(self.varint()?).ok()
    }
    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let n = self.size()?;
        self.take(n)
    }
}

// ---- files ----

/// Opens a file for reading; `None` if there is none.
pub(crate) fn open(disk: &Arc<dyn Disk>, name: &str) -> Result<Option<Arc<dyn DiskFile>>, Failure> {
    match disk.open(name, OpenMode { read_only: true, ..OpenMode::default() }) {
        Ok(f) => Ok(Some(f)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(io_failure(name, &e)),
    }
}

/// Reads up to `buf.len()` bytes; returns how many there were.
pub(crate) fn read(file: &dyn DiskFile, name: &str, offset: u64, buf: &mut [u8]) -> Result<usize, Failure> {
    file.read_at(offset, buf).map_err(|e| io_failure(name, &e))
}

// ---- the control file ----

/// What a slot of the control file says, as far as the oracles ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Control {
    pub(crate) sequence: u64,
    pub(crate) db: [u8; 16],
    pub(crate) timeline: u32,
    pub(crate) page_size: usize,
    /// Begin record of the last complete checkpoint.
    pub(crate) begin: u64,
    /// The log was durable up to here.
    pub(crate) end: u64,
    pub(crate) redo: u64,
    pub(crate) keep_from: u64,
    /// Pages that the data file had room for; the table of page versions speaks of these.
    pub(crate) data_pages: u64,
    /// Numbers and names of the resource managers.
    pub(crate) managers: Vec<(u8, String)>,
}

impl Control {
    /// The slot in `b`, if its checksum holds.
    pub(crate) fn decode(b: &[u8]) -> Option<Control> {
        if b.len() != SLOT
            || &b[..8] != b"hamalctl"
            || u32_at(b, 4092) != crc32c::crc32c(&b[..4092])
            || u32_at(b, 8) != 1
        {
            return None;
        }
        let mut managers = Vec::new();
        let mut rest = Fields(&b[104..4092]);
        for _ in 0..u16_at(b, 46) {
            let id = rest.u8()?;
            rest.take(4)?;
            let len = rest.u8()?;
            managers.push((id, String::from_utf8_lossy(rest.take(usize::from(len))?).into_owned()));
        }
        let page_size = u32_at(b, 40) as usize;
        let mut db = [0; 16];
        db.copy_from_slice(&b[24..40]);
        let control = Control {
            sequence: u64_at(b, 16),
            db,
            timeline: u32_at(b, 12),
            page_size,
            begin: u64_at(b, 48),
            end: u64_at(b, 56),
            redo: u64_at(b, 64),
            keep_from: u64_at(b, 72),
            data_pages: u64_at(b, 80),
            managers,
        };
        (page_size.is_power_of_two() && (4096..=65536).contains(&page_size)).then_some(control)
    }
}

/// The slot that counts; `None` if there is no control file.
pub(crate) fn control(disk: &Arc<dyn Disk>) -> Result<Option<Control>, Failure> {
    let Some(file) = open(disk, "control")? else { return Ok(None) };
    let mut bytes = [0; 2 * SLOT];
    let have = read(&*file, "control", 0, &mut bytes)?;
    let slots = bytes[..have].chunks_exact(SLOT).filter_map(Control::decode);
    match slots.max_by_key(|c| c.sequence) {
        Some(c) => Ok(Some(c)),
        None => Err(damage("both slots of the control file are damaged")),
    }
}

// ---- pages ----

/// The common header of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageHeader {
    pub(crate) rm: u8,
    pub(crate) kind: u8,
    pub(crate) id: u64,
    pub(crate) lsn: u64,
    pub(crate) img: u64,
    pub(crate) tree: u32,
}

pub(crate) fn page_header(b: &[u8]) -> PageHeader {
    PageHeader {
        rm: b[4],
        kind: b[5],
        id: u64_at(b, 8),
        lsn: u64_at(b, 16),
        img: u64_at(b, 24),
        tree: u32_at(b, 32),
    }
}

/// Whether the bytes are page `id` of the database, whole.
pub(crate) fn page_is_sound(b: &[u8], db: &[u8; 16], id: u64) -> bool {
    let crc = crc32c::crc32c_append(crc32c::crc32c(db), &id.to_le_bytes());
    u64_at(b, 8) == id && u32_at(b, 0) == crc32c::crc32c_append(crc, &b[4..])
}

/// The page in the payload of an image record; its imgLSN is of no meaning.
pub(crate) fn decode_image(payload: &[u8], page_size: usize) -> Option<Vec<u8>> {
    let mut head = Fields(payload);
    let flags = head.u8()?;
    let (from, len) = (u16_at(head.take(2)?, 0), u16_at(head.take(2)?, 0));
    let rest = page_size.checked_sub(len)?;
    let whole = match flags {
        0 => head.0.to_vec(),
        1 => lz4_flex::block::decompress(head.0, rest).ok()?,
        _ => return None,
    };
    if whole.len() != rest || from > rest || (len > 0 && from < 40) {
        return None;
    }
    let mut page = Vec::with_capacity(page_size);
    page.extend_from_slice(&whole[..from]);
    page.resize(from + len, 0);
    page.extend_from_slice(&whole[from..]);
    Some(page)
}

// ---- the table of page versions ----

/// Pages that a block of the table speaks of.
pub(crate) const BLOCK_PAGES: u64 = 2024;

/// The moment of a copy of a block, if its checksum holds.
pub(crate) fn block_moment(b: &[u8]) -> Option<u64> {
    if b.len() != SLOT || &b[..8] != b"hamalver" {
        return None;
    }
    let crc = crc32c::crc32c_append(crc32c::crc32c(&b[..44]), &[0; 4]);
    (u32_at(b, 44) == crc32c::crc32c_append(crc, &b[48..])).then(|| u64_at(b, 32))
}

/// The tags of page versions that belong to the checkpoint of a control slot.
pub(crate) struct Tags {
    file: Option<Arc<dyn DiskFile>>,
    begin: u64,
    pages: u64,
    blocks: HashMap<u64, Option<Vec<u8>>>,
}

impl Tags {
    pub(crate) fn open(disk: &Arc<dyn Disk>, control: &Control) -> Result<Tags, Failure> {
        let (begin, pages) = (control.begin, control.data_pages);
        Ok(Tags { file: open(disk, "versions")?, begin, pages, blocks: HashMap::new() })
    }
    /// The tag of the page's version as of the checkpoint; `None` if it is not known.
    pub(crate) fn of(&mut self, page: u64) -> Result<Option<u16>, Failure> {
        // What lies behind is left from a time when the data file was longer.
        let Some(file) = self.file.as_ref().filter(|_| page < self.pages) else { return Ok(None) };
        let number = page / BLOCK_PAGES;
        if let std::collections::hash_map::Entry::Vacant(place) = self.blocks.entry(number) {
            let mut both = vec![0; 2 * SLOT];
            read(&**file, "versions", number * 2 * SLOT as u64, &mut both)?;
            let copies = both.chunks_exact(SLOT).filter_map(|b| Some((block_moment(b)?, b)));
            let counts = copies.filter(|(moment, _)| *moment <= self.begin).max_by_key(|(moment, _)| *moment);
            // With a damaged copy it may be the older one that is left.
            let damaged =
                both.chunks_exact(SLOT).any(|b| block_moment(b).is_none() && b.iter().any(|b| *b != 0));
            place.insert(counts.filter(|_| !damaged).map(|(_, b)| b.to_vec()));
        }
        let block = self.blocks.get(&number).and_then(Option::as_ref);
        let tag = block.map_or(0, |b| u16_at(b, 48 + 2 * (page % BLOCK_PAGES) as usize) as u16);
        Ok((tag != 0).then_some(tag))
    }
}

/// The tag of a version with this pageLSN.
pub(crate) fn tag_of(lsn: u64) -> u16 {
    let h = (lsn ^ (lsn >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    if lsn == 0 { 0 } else { 1 + ((h >> 32) % 65535) as u16 }
}

// ---- the log ----

/// A block of a record; the payload lies in the log's bytes.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) page: u64,
    pub(crate) former: u64,
    pub(crate) op: u8,
    pub(crate) whole: Whole,
    pub(crate) payload: Range<usize>,
}

/// A record. Blocks are a range of [`Log::blocks`]: one list for all records is quicker than one each.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) lsn: u64,
    pub(crate) kind: u8,
    pub(crate) rm: u8,
    pub(crate) txn: u64,
    pub(crate) prev: u64,
    pub(crate) blocks: Range<usize>,
    pub(crate) undo: Range<usize>,
}

/// The checksum states that the database's identity begins.
#[derive(Clone, Copy, Debug)]
struct Seeds {
    record: u32,
    seal: u32,
}

#[derive(Clone, Copy, Debug)]
struct Seal {
    start: u64,
    before: u32,
    group: u32,
    crc: u32,
}

impl Seeds {
    /// The seal that lies where it belongs.
    fn seal(self, b: &[u8], lsn: u64) -> Option<Seal> {
        self.any_seal(b).filter(|(place, _)| *place == lsn).map(|(_, seal)| seal)
    }

    /// A seal, and where it belongs.
    fn any_seal(self, b: &[u8]) -> Option<(u64, Seal)> {
        if b.len() < 48 || &b[..8] != b"\0hamSEAL" {
            return None;
        }
        let lsn = u64_at(b, 8);
        let crc = crc32c::crc32c_append(self.seal, &b[..44]).max(1);
        let seal = Seal { start: u64_at(b, 16), before: u32_at(b, 24), group: u32_at(b, 28), crc };
        let sound = u32_at(b, 44) == crc && seal.start < lsn && seal.start.is_multiple_of(SECTOR);
        sound.then_some((lsn, seal))
    }
}

/// A segment file.
struct Segment {
    first: u64,
    capacity: u64,
    /// The first segment of a log.
    begins_log: bool,
    file: Arc<dyn DiskFile>,
}

/// How thoroughly the end of the log is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judge {
    /// The last valid group is the end.
    Trust,
    /// Corruption is told from a torn tail, by the rules of `docs/formats/log.md`.
    Verdict,
}

/// All records of the log that is there.
pub(crate) struct Log {
    /// LSN space from the first byte of the oldest segment.
    bytes: Vec<u8>,
    base: u64,
    segments: Vec<Segment>,
    seeds: Seeds,
    /// Where the first group that is there whole starts.
    pub(crate) start: u64,
    /// The end of the last valid group.
    pub(crate) end: u64,
    /// Whether bytes of an incomplete group follow.
    pub(crate) torn: bool,
    pub(crate) records: Vec<Record>,
    pub(crate) blocks: Vec<Block>,
}

fn wal_name(first: u64) -> String {
    format!("wal/{first:016x}")
}

/// The first LSN of the segment with that name (without the directory).
pub(crate) fn segment_of(plain: &str) -> Option<u64> {
    let hex = plain.len() == 16 && plain.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    hex.then(|| u64::from_str_radix(plain, 16).ok()).flatten()
}

impl Segment {
    fn open(disk: &Arc<dyn Disk>, control: &Control, first: u64) -> Result<Segment, Failure> {
        let name = wal_name(first);
        let file = open(disk, &name)?.ok_or_else(|| damage(format!("{name} is missing")))?;
        let mut b = [0; HEADER as usize];
        let have = read(&*file, &name, 0, &mut b)?;
        let length = u64_at(&b, 40);
        let sound = have == b.len()
            && &b[..8] == b"hamalWAL"
            && u32_at(&b, 4092) == crc32c::crc32c(&b[..4092])
            && u32_at(&b, 8) == 1
            && b[12..28] == control.db
            && u32_at(&b, 28) == control.timeline
            && u64_at(&b, 32) == first
            && length > HEADER
            && length.is_multiple_of(4096)
            && file.len().map_err(|e| io_failure(&name, &e))? >= length;
        if !sound {
            return Err(damage(format!("{name}: the header is damaged, or the file is short")));
        }
        Ok(Segment { first, capacity: length - HEADER, begins_log: u32_at(&b, 48) == 0, file })
    }
    fn end(&self) -> u64 {
        self.first + self.capacity
    }
}

/// The unbroken chain of segments around `begin`.
fn chain(disk: &Arc<dyn Disk>, control: &Control) -> Result<Vec<Segment>, Failure> {
    let names = disk.list("wal").map_err(|e| io_failure("wal", &e))?;
    let mut firsts: Vec<u64> = names.iter().filter_map(|n| segment_of(n)).collect();
    firsts.sort_unstable();
    let above = firsts.partition_point(|f| *f <= control.begin);
    let (below, above) = firsts.split_at(above);
    let Some((holder, below)) = below.split_last() else {
        return Err(damage("the segment that holds the checkpoint is missing"));
    };
    let mut chain = vec![Segment::open(disk, control, *holder)?];
    for first in above {
        if chain[chain.len() - 1].end() != *first {
            return Err(damage(format!("there is a gap in the log before {first}")));
        }
        chain.push(Segment::open(disk, control, *first)?);
    }
    for first in below.iter().rev() {
        match Segment::open(disk, control, *first) {
            Ok(s) if s.end() == chain[0].first => chain.insert(0, s),
            // What lies below a gap was released.
            _ => break,
        }
    }
    Ok(chain)
}

impl Log {
    /// Reads the log from the oldest segment on.
    pub(crate) fn open(disk: &Arc<dyn Disk>, control: &Control, judge: Judge) -> Result<Log, Failure> {
        let segments = chain(disk, control)?;
        let record = crc32c::crc32c(&control.db);
        let seeds = Seeds { record, seal: crc32c::crc32c_append(record, &control.timeline.to_le_bytes()) };
        let base = segments[0].first;
        let mut log = Log {
            bytes: Vec::new(),
            base,
            segments,
            seeds,
            start: base,
            end: base,
            torn: false,
            records: Vec::with_capacity(256),
            blocks: Vec::with_capacity(512),
        };
        let mut before = log.find_start(control.keep_from)?;
        log.end = log.start;
        while let Some(seal) = log.group(log.end, before)? {
            before = Some(seal);
        }
        if log.end < control.end {
            let m = format!(
                "the log ends at {}, but the control file proves it durable up to {}",
                log.end, control.end
            );
            return Err(damage(m));
        }
        if judge == Judge::Verdict {
            log.verdict()?;
        }
        Ok(log)
    }

    fn last(&self) -> u64 {
        self.segments.last().map_or(self.base, Segment::end)
    }

    /// The bytes `[from, to)` of LSN space; `None` if it ends before.
    fn span(&mut self, from: u64, to: u64) -> Result<Option<&[u8]>, Failure> {
        if to > self.last() {
            return Ok(None);
        }
        const AHEAD: u64 = 16 << 10;
        while self.base + (self.bytes.len() as u64) < to {
            let at = self.base + self.bytes.len() as u64;
            let i = self.segments.partition_point(|s| s.end() <= at);
            let s = &self.segments[i];
            let n = AHEAD.min(s.end() - at) as usize;
            let old = self.bytes.len();
            self.bytes.resize(old + n, 0);
            let name = wal_name(s.first);
            if read(&*s.file, &name, at - s.first + HEADER, &mut self.bytes[old..])? != n {
                return Err(damage(format!("{name} ends early")));
            }
        }
        Ok(Some(&self.bytes[(from - self.base) as usize..(to - self.base) as usize]))
    }

    /// Finds the first group that is whole: at the start of a log, or behind the first seal that is there; returns the
    /// checksum of the seal before. (Below the end of the log every byte was written by the newest write of that place, so a
    /// seal that is found there is genuine.) A group that begins in a segment that was released may still be needed from a
    /// record in its middle on: from `needed`, the only record boundary that is known then.
    fn find_start(&mut self, needed: u64) -> Result<Option<u32>, Failure> {
        if self.segments[0].begins_log {
            return Ok(Some(0));
        }
        let seeds = self.seeds;
        let mut place = self.base + SECTOR - SEAL;
        while let Some(b) = self.span(place, place + SEAL)? {
            if let Some(seal) = seeds.seal(b, place) {
                let begins_inside = (self.base..place).contains(&needed);
                self.start = if begins_inside { needed } else { place + SEAL };
                return Ok((!begins_inside).then_some(seal.crc));
            }
            place += SECTOR;
        }
        Err(damage("there is no seal in the log"))
    }

    /// Reads the group at `start`, whose predecessor's seal has the checksum `before`, if it is valid as a whole. With an
    /// unknown predecessor `start` lies inside of the group. What is no record in a valid group is damage: a torn group does not
    /// have its checksum.
    fn group(&mut self, start: u64, before: Option<u32>) -> Result<Option<u32>, Failure> {
        let (records, blocks) = (self.records.len(), self.blocks.len());
        let mut at = start;
        let mut broken = None;
        let found = loop {
            match self.span(at, at + 4)?.map(|b| b[0]) {
                None => break None,
                Some(0) => break self.seal_behind(at)?,
                Some(_) => match (self.record(at)?, self.record_end(at)?) {
                    (Some(end), _) => at = end,
                    (None, Some(end)) if before.is_some() => {
                        broken = broken.or(Some(at));
                        at = end;
                    }
                    (None, _) => break None,
                },
            }
        };
        if let Some((seal, lsn)) = found
            && before.map_or(seal.start <= start, |b| seal.start == start && seal.before == b)
        {
            let seed = crc32c::crc32c_append(self.seeds.seal, &seal.start.to_le_bytes());
            let out_of_reach = seal.start < self.base;
            let bytes = if out_of_reach { None } else { self.span(seal.start, lsn)? };
            if bytes.is_none_or(|b| crc32c::crc32c_append(seed, b) == seal.group) {
                if let Some(at) = broken {
                    return Err(damage(format!(
                        "the group at {start} is whole, but there is no record at {at}"
                    )));
                }
                self.end = lsn + SEAL;
                return Ok(Some(seal.crc));
            }
        }
        self.torn |= self.records.len() > records && broken != Some(start);
        self.records.truncate(records);
        self.blocks.truncate(blocks);
        Ok(None)
    }

    /// The seal behind the padding that begins at `at`.
    fn seal_behind(&mut self, at: u64) -> Result<Option<(Seal, u64)>, Failure> {
        let seeds = self.seeds;
        let mut place = (at + SEAL).next_multiple_of(SECTOR) - SEAL;
        while place < at + 4096 {
            let Some(b) = self.span(place, place + SEAL)? else { return Ok(None) };
            if let Some(seal) = seeds.seal(b, place) {
                return Ok(Some((seal, place)));
            }
            place += SECTOR;
        }
        Ok(None)
    }

    /// Where a record at `lsn` ends by its length field, whatever else is wrong with it.
    fn record_end(&mut self, lsn: u64) -> Result<Option<u64>, Failure> {
        let last = self.last();
        let len = self.span(lsn, lsn + 4)?.and_then(|front| Fields(front).varint());
        let end = len.filter(|n| (8..=16 << 20).contains(n)).map(|n| lsn + n);
        Ok(end.filter(|end| *end <= last))
    }

    /// Reads the record at `lsn`; returns its end.
    fn record(&mut self, lsn: u64) -> Result<Option<u64>, Failure> {
        let Some(front) = self.span(lsn, lsn + 4)? else { return Ok(None) };
        let mut fields = Fields(front);
        let Some(len) = fields.varint().filter(|n| (8..=16 << 20).contains(n)) else { return Ok(None) };
        let crc_at = 4 - fields.0.len();
        let seeds = self.seeds;
        let Some(b) = self.span(lsn, lsn + len)? else { return Ok(None) };
        let crc = crc32c::crc32c_append(seeds.record, &lsn.to_le_bytes());
        let crc = crc32c::crc32c_append(crc, &b[..crc_at]);
        if u32_at(b, crc_at) != crc32c::crc32c_append(crc, &b[crc_at + 4..]) {
            return Ok(None);
        }
        let offset = (lsn - self.base) as usize;
        let first = self.blocks.len();
        let parsed =
            parse(&self.bytes[offset..offset + len as usize], crc_at + 4, lsn, offset, &mut self.blocks);
        match parsed {
            Some(mut record) => {
                record.blocks = first..self.blocks.len();
                self.records.push(record);
                Ok(Some(lsn + len))
            }
            None => {
                self.blocks.truncate(first);
                Ok(None)
            }
        }
    }

    /// Whether what follows the end is a torn tail, or damage.
    fn verdict(&mut self) -> Result<(), Failure> {
        let (x, seeds) = (self.end, self.seeds);
        if self.segments.last().is_none_or(|s| x >= s.first) {
            return Err(damage("the log ends in the newest segment there is: its successor is missing"));
        }
        let mut place = x + SECTOR - SEAL;
        while let Some(b) = self.span(place, place + SEAL)? {
            if let Some((lsn, seal)) = seeds.any_seal(b) {
                if seal.start > x {
                    return Err(damage(format!(
                        "the log is damaged at {x}: the seal of {lsn} at {place} proves that it went on"
                    )));
                }
                self.torn |= seal.start == x && lsn == place;
            }
            place += SECTOR;
        }
        Ok(())
    }

    pub(crate) fn blocks_of(&self, record: &Record) -> &[Block] {
        &self.blocks[record.blocks.clone()]
    }
    pub(crate) fn slice(&self, range: &Range<usize>) -> &[u8] {
        &self.bytes[range.clone()]
    }
    /// The record at `lsn`.
    pub(crate) fn at(&self, lsn: u64) -> Option<&Record> {
        self.records.binary_search_by_key(&lsn, |r| r.lsn).ok().map(|i| &self.records[i])
    }
}

/// Takes a record apart, from behind its length and checksum. `offset`: where it lies in the log's bytes.
pub(crate) fn parse(
    b: &[u8],
    from: usize,
    lsn: u64,
    offset: usize,
    blocks: &mut Vec<Block>,
) -> Option<Record> {
    let mut f = Fields(b.get(from..)?);
    let flags = f.u8()?;
    let kind = flags & 0x1f;
    if !(kind::UPDATE..=kind::WRITE_NOTE).contains(&kind) {
        return None;
    }
    let rm = f.u8()?;
    let back = |n: u64| lsn.checked_sub(n).filter(|l| *l != 0 && n != 0);
    let txn = match flags >> 5 & 3 {
        0 => 0,
        1 => lsn,
        2 => back(f.varint()?)?,
        _ => return None,
    };
    let prev = if flags & 0x80 != 0 { back(f.varint()?)? } else { 0 };
    let count = f.u8()?;
    let mut page = 0u64;
    for _ in 0..count & 0x7f {
        let delta = f.varint()?;
        page = page.wrapping_add((delta >> 1) ^ 0u64.wrapping_sub(delta & 1));
        let former = match f.varint()? {
            0 => 0,
            n => back(n)?,
        };
        let op = f.u8()?;
        let whole = match if count & 0x80 != 0 { f.u8()? } else { 0 } {
            0 => Whole::No,
            1 => Whole::Image,
            2 => Whole::Init,
            3 => Whole::Free,
            _ => return None,
        };
        let len = f.bytes()?.len();
        let end = offset + b.len() - f.0.len();
        blocks.push(Block { page, former, op, whole, payload: end - len..end });
    }
    let end = offset + b.len();
    Some(Record { lsn, kind, rm, txn, prev, blocks: 0..0, undo: end - f.0.len()..end })
}
