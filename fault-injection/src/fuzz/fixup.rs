//! Makes checksums right, and writes pieces of the formats from their parts: by `docs/formats`, not by the engine's code.
use super::patient::Files;
use crate::oracles::formats::{HEADER, SLOT, segment_of};
pub(super) use crate::oracles::formats::{u32_at, u64_at};

pub(super) type Db = [u8; 16];

pub(super) const SECTOR: u64 = 512;
pub(super) const SEAL: u64 = 48;

fn put(b: &mut [u8], at: usize, v: &[u8]) {
    if let Some(place) = b.get_mut(at..at + v.len()) {
        place.copy_from_slice(v);
    }
}

/// A page in its place: magic fields that the checksum covers stay as they are.
pub(super) fn page(b: &mut [u8], db: &Db, id: u64) {
    let crc = crc32c::crc32c_append(crc32c::crc32c(db), &id.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &b[4..]);
    put(b, 0, &crc.to_le_bytes());
}

/// A slot of the control file, or the header of a segment: the checksum is in the last four bytes.
pub(super) fn block(b: &mut [u8]) {
    if b.len() == SLOT {
        let crc = crc32c::crc32c(&b[..SLOT - 4]);
        put(b, SLOT - 4, &crc.to_le_bytes());
    }
}

/// A block of the table of page versions.
pub(super) fn versions(b: &mut [u8]) {
    if b.len() == SLOT {
        put(b, 44, &[0; 4]);
        let crc = crc32c::crc32c(b);
        put(b, 44, &crc.to_le_bytes());
    }
}

/// The digest of the blocks of these moments.
pub(super) fn digest(moments: impl Iterator<Item = u64>) -> u64 {
    let share = |i: u64, moment: u64| {
        let mut x = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ moment;
        for _ in 0..2 {
            x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        }
        x ^ (x >> 32)
    };
    (0..).zip(moments).fold(0x6861_6d61_6c76_6572, |a, (i, m)| a ^ share(i, m)).max(1)
}

/// A number of seven bits a byte.
pub(super) fn varint(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

fn varint_at(b: &[u8]) -> Option<(u64, usize)> {
    let mut v = 0;
    for (i, byte) in b.iter().take(10).enumerate() {
        v |= u64::from(byte & 0x7f).checked_shl(7 * i as u32)?;
        if byte & 0x80 == 0 {
            return Some((v, i + 1));
        }
    }
    None
}

/// The checksum of the record `b` at `lsn`, whose own checksum lies at `crc_at`.
fn record_crc(b: &[u8], crc_at: usize, db: &Db, lsn: u64) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(db), &lsn.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(crc, &b[..crc_at]), &b[crc_at + 4..])
}

/// LSN space over consecutive segments.
pub(super) struct Space {
    /// The first LSN.
    pub(super) base: u64,
    pub(super) bytes: Vec<u8>,
    db: Db,
    timeline: u32,
    /// The checksum that the first seal names, if it is known.
    before: Option<u32>,
    /// Names and lengths of the segments.
    segments: Vec<(String, usize)>,
}

impl Space {
    /// The segments whose names follow each other by their lengths, from the first on.
    pub(super) fn of(files: &Files) -> Option<Space> {
        let control = files.get("control")?;
        let db: Db = control.get(24..40)?.try_into().ok()?;
        let mut space: Option<Space> = None;
        for (name, b) in files {
            let Some(first) = name.strip_prefix("wal/").and_then(segment_of) else { continue };
            let Some(body) = b.get(HEADER as usize..) else { continue };
            let s = space.get_or_insert_with(|| Space {
                base: first,
                bytes: Vec::new(),
                db,
                timeline: u32_at(b, 28),
                before: (u32_at(b, 48) == 0).then_some(0),
                segments: Vec::new(),
            });
            if s.end() == first {
                s.bytes.extend_from_slice(body);
                s.segments.push((name.clone(), body.len()));
            }
        }
        space
    }
    /// An empty one.
    pub(super) fn new(base: u64, db: Db, timeline: u32, before: Option<u32>) -> Space {
        Space { base, bytes: Vec::new(), db, timeline, before, segments: Vec::new() }
    }
    pub(super) fn end(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }
    /// Writes the bytes back.
    pub(super) fn store(&self, files: &mut Files) {
        let mut at = 0;
        for (name, len) in &self.segments {
            if let Some(place) = files.get_mut(name).and_then(|f| f.get_mut(HEADER as usize..)) {
                place.copy_from_slice(&self.bytes[at..at + len]);
            }
            at += len;
        }
    }

    fn seal_crc(&self, seal: &[u8]) -> u32 {
        let crc = crc32c::crc32c_append(crc32c::crc32c(&self.db), &self.timeline.to_le_bytes());
        crc32c::crc32c_append(crc, &seal[..44]).max(1)
    }
    /// The state of the checksum of a group before its bytes, and after them.
    fn group_crc(&self, start: u64, bytes: &[u8]) -> u32 {
        let crc = crc32c::crc32c_append(crc32c::crc32c(&self.db), &self.timeline.to_le_bytes());
        crc32c::crc32c_append(crc32c::crc32c_append(crc, &start.to_le_bytes()), bytes)
    }
    /// A seal for the group from `start` to its place.
    pub(super) fn seal(&self, place: u64, start: u64, before: u32) -> [u8; SEAL as usize] {
        let mut b = [0; SEAL as usize];
        b[..8].copy_from_slice(b"\0hamSEAL");
        put(&mut b, 8, &place.to_le_bytes());
        put(&mut b, 16, &start.to_le_bytes());
        put(&mut b, 24, &before.to_le_bytes());
        let group = start
            .checked_sub(self.base)
            .and_then(|from| self.bytes.get(from as usize..(place - self.base) as usize))
            .map_or(0, |b| self.group_crc(start, b));
        put(&mut b, 28, &group.to_le_bytes());
        let crc = self.seal_crc(&b);
        put(&mut b, 44, &crc.to_le_bytes());
        b
    }
    /// Where the next seal's magic is, from `at` on, in a place where one can be.
    fn next_seal(&self, at: u64) -> Option<u64> {
        let mut place = (at + SEAL).next_multiple_of(SECTOR) - SEAL;
        loop {
            let b = self.bytes.get((place - self.base) as usize..)?;
            if b.len() < SEAL as usize {
                return None;
            }
            if b.starts_with(b"\0hamSEAL") && u64_at(b, 8) == place {
                return Some(place);
            }
            place += SECTOR;
        }
    }
    /// The first place where a group may start, and the checksum of the seal before.
    fn first(&self) -> Option<(u64, u32)> {
        if let Some(before) = self.before {
            return Some((self.base, before));
        }
        let place = self.next_seal(self.base)?;
        Some((place + SEAL, u32_at(&self.bytes, (place - self.base) as usize + 44)))
    }
    /// The end of the last group, and the checksum of its seal.
    pub(super) fn last(&self) -> Option<(u64, u32)> {
        let mut last = self.first()?;
        while let Some(place) = self.next_seal(last.0) {
            last = (place + SEAL, u32_at(&self.bytes, (place - self.base) as usize + 44));
        }
        Some(last)
    }
    /// Makes every checksum of whole groups right: records as their lengths have them, seals in their places.
    pub(super) fn fix(&mut self) {
        let Some((mut start, mut before)) = self.first() else { return };
        while let Some(place) = self.next_seal(start) {
            let mut at = start;
            while at < place {
                let from = (at - self.base) as usize;
                let rest = &self.bytes[from..(place - self.base) as usize];
                let Some((len, crc_at)) = varint_at(rest).filter(|(n, _)| *n >= 8) else { break };
                let Some(record) = usize::try_from(len).ok().and_then(|n| rest.get(..n)) else { break };
                if crc_at + 4 > record.len() {
                    break;
                }
                let crc = record_crc(record, crc_at, &self.db, at);
                put(&mut self.bytes, from + crc_at, &crc.to_le_bytes());
                at += len;
            }
            let seal = self.seal(place, start, before);
            put(&mut self.bytes, (place - self.base) as usize, &seal);
            (start, before) = (place + SEAL, u32_at(&seal, 44));
        }
    }

    /// Appends a record with this body (all that follows the checksum) at `at`, its checksum right; returns its end, or `None` if
    /// there is no room.
    pub(super) fn record(&mut self, at: u64, body: &[u8]) -> Option<u64> {
        let mut b = Vec::with_capacity(body.len() + 9);
        // The length counts itself.
        let len = (1..4).map(|n| n + 4 + body.len()).find(|n| {
            b.clear();
            varint(&mut b, *n as u64);
            b.len() + 4 + body.len() == *n
        })?;
        let crc_at = b.len();
        b.extend_from_slice(&[0; 4]);
        b.extend_from_slice(body);
        let crc = record_crc(&b, crc_at, &self.db, at);
        put(&mut b, crc_at, &crc.to_le_bytes());
        let from = (at - self.base) as usize;
        self.bytes.get_mut(from..from + len)?.copy_from_slice(&b);
        Some(at + len as u64)
    }
    /// Closes the group that started at `start`, whose records end at `at`; returns the end of it and the seal's checksum.
    pub(super) fn close(&mut self, start: u64, at: u64, before: u32, pad: u64) -> Option<(u64, u32)> {
        let place = (at + SEAL).next_multiple_of(pad) - SEAL;
        let from = (place - self.base) as usize;
        if from + SEAL as usize > self.bytes.len() {
            return None;
        }
        self.bytes[(at - self.base) as usize..from].fill(0);
        let seal = self.seal(place, start, before);
        put(&mut self.bytes, from, &seal);
        Some((place + SEAL, u32_at(&seal, 44)))
    }
}

/// The header of a segment.
pub(super) fn segment_header(db: &Db, timeline: u32, first: u64, bytes: u64, before: u32) -> Vec<u8> {
    let mut b = vec![0; HEADER as usize];
    b[..8].copy_from_slice(b"hamalWAL");
    put(&mut b, 8, &1u32.to_le_bytes());
    put(&mut b, 12, db);
    put(&mut b, 28, &timeline.to_le_bytes());
    put(&mut b, 32, &first.to_le_bytes());
    put(&mut b, 40, &bytes.to_le_bytes());
    put(&mut b, 48, &before.to_le_bytes());
    block(&mut b);
    b
}

/// Makes all checksums of a database right: both slots, every page, every block of the table of versions, segment headers, the
/// log. The digest in the control file stays as it is.
pub(super) fn all(files: &mut Files, page_size: usize) {
    let Some(db) = files.get("control").and_then(|c| c.get(24..40)?.try_into().ok()) else { return };
    let db: Db = db;
    for (name, b) in files.iter_mut() {
        match name.as_str() {
            "control" => b.chunks_mut(SLOT).for_each(block),
            "versions" => b.chunks_mut(SLOT).filter(|b| b.iter().any(|x| *x != 0)).for_each(versions),
            "data" => {
                for (id, p) in (0..).zip(b.chunks_exact_mut(page_size)) {
                    if p.iter().any(|x| *x != 0) {
                        page(p, &db, id);
                    }
                }
            }
            _ if name.strip_prefix("wal/").and_then(segment_of).is_some() => {
                if let Some(head) = b.get_mut(..HEADER as usize) {
                    block(head);
                }
            }
            _ => {}
        }
    }
    if let Some(mut space) = Space::of(files) {
        space.fix();
        space.store(files);
    }
}

#[cfg(test)]
mod tests {
    use super::super::patient::Patient;
    use super::*;

    #[test]
    fn what_is_right_stays_as_it_is() {
        for n in 0..4 {
            let p = Patient::pick(n);
            let mut files = p.files.clone();
            all(&mut files, p.config.page_size as usize);
            for (name, b) in &files {
                let old = &p.files[name];
                let at = b.iter().zip(old).position(|(x, y)| x != y);
                assert_eq!(at, None, "{name} of patient {n} differs");
            }
        }
    }
}
