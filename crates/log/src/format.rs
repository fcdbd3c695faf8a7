//! The bytes of a seal and of a segment header, and how checksums are seeded. Records are in `codec.rs`; the
//! whole is described in `docs/formats/log.md`.
use crate::LogIdentity;
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::DbId;

/// Bytes of a segment header: one block, outside LSN space.
pub(crate) const HEADER_BLOCK: usize = 4096;
/// Groups start and end on multiples of this, whatever `pad` says (a coarser `pad` is a multiple of it).
pub(crate) const SECTOR: u64 = 512;
/// The coarsest `pad`.
pub(crate) const MAX_PAD: u64 = 4096;
/// Bytes of a seal.
pub(crate) const SEAL_LEN: u64 = 48;

/// Begins with a zero byte, as the padding before it does: a reader that meets zero where a record would
/// start looks for the seal (a record never starts with zero).
const SEAL_MAGIC: [u8; 8] = *b"\0hamSEAL";
const HEADER_MAGIC: [u8; 8] = *b"hamalWAL";
/// The version of everything in the log.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// Seeds of the checksums of one log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seeds {
    record: u32,
    seal: u32,
}

impl Seeds {
    pub(crate) fn new(id: LogIdentity) -> Seeds {
        let record = crc32c::crc32c(&id.db.0);
        Seeds { record, seal: crc32c::crc32c_append(record, &id.timeline.to_le_bytes()) }
    }
    /// The state of a record's checksum before its bytes: database and own LSN went in.
    pub(crate) fn record(self, lsn: u64) -> u32 {
        if mutants::is(Mutant::CrcWithoutLsn) { self.record } else { self.at(self.record, lsn) }
    }
    /// The state of a group's checksum before its bytes: database, timeline and the group's start went in.
    pub(crate) fn group(self, start: u64) -> u32 {
        if mutants::is(Mutant::CrcWithoutLsn) { self.seal } else { self.at(self.seal, start) }
    }
    fn at(self, seed: u32, lsn: u64) -> u32 {
        crc32c::crc32c_append(seed, &lsn.to_le_bytes())
    }
}

/// The last bytes of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seal {
    /// Its own LSN.
    pub(crate) lsn: u64,
    /// Where its group starts.
    pub(crate) start: u64,
    /// [`Seal::crc`] of the seal before; 0 in the first of a log.
    pub(crate) previous: u32,
    /// Checksum of `[start, lsn)`.
    pub(crate) group: u32,
    /// Its own checksum, which the next seal names. Never 0.
    pub(crate) crc: u32,
}

/// The place of the seal of a group whose last record ends at `end`: the last [`SEAL_LEN`] bytes before a
/// multiple of `pad`, the first such place that is not below `end`.
pub(crate) fn seal_at(end: u64, pad: u64) -> u64 {
    (end + SEAL_LEN).next_multiple_of(pad) - SEAL_LEN
}

impl Seal {
    /// A seal with its checksum.
    pub(crate) fn new(seeds: Seeds, lsn: u64, start: u64, previous: u32, group: u32) -> Seal {
        let mut seal = Seal { lsn, start, previous, group, crc: 0 };
        seal.crc = Self::checksum(seeds, &seal.encode());
        seal
    }

    fn checksum(seeds: Seeds, bytes: &[u8; SEAL_LEN as usize]) -> u32 {
        match crc32c::crc32c_append(seeds.seal, &bytes[..44]) {
            0 => 1,
            c => c,
        }
    }

    pub(crate) fn encode(&self) -> [u8; SEAL_LEN as usize] {
        let mut b = [0; SEAL_LEN as usize];
        b[..8].copy_from_slice(&SEAL_MAGIC);
        b[8..16].copy_from_slice(&self.lsn.to_le_bytes());
        b[16..24].copy_from_slice(&self.start.to_le_bytes());
        b[24..28].copy_from_slice(&self.previous.to_le_bytes());
        b[28..32].copy_from_slice(&self.group.to_le_bytes());
        b[44..].copy_from_slice(&self.crc.to_le_bytes());
        b
    }

    /// The seal in `bytes`, if it is one of this log that lies at `lsn` (its own checksum holds; nothing is
    /// known about its group).
    pub(crate) fn decode(seeds: Seeds, lsn: u64, bytes: &[u8]) -> Option<Seal> {
        Self::decode_misplaced(seeds, lsn, bytes).filter(|seal| seal.lsn == lsn)
    }

    /// The same for a seal that need not lie where it belongs; `lsn` is where it was found.
    pub(crate) fn decode_misplaced(seeds: Seeds, lsn: u64, bytes: &[u8]) -> Option<Seal> {
        let b: &[u8; SEAL_LEN as usize] = bytes.try_into().ok()?;
        if b[..8] != SEAL_MAGIC {
            return None;
        }
        let mut seal = Seal {
            lsn: u64_at(b, 8),
            start: u64_at(b, 16),
            previous: u32_at(b, 24),
            group: u32_at(b, 28),
            crc: u32_at(b, 44),
        };
        if mutants::is(Mutant::CrcWithoutLsn) {
            (seal.start, seal.lsn) = (seal.start.wrapping_add(lsn).wrapping_sub(seal.lsn), lsn);
        }
        let sound = seal.crc == Self::checksum(seeds, b)
            && seal.start < seal.lsn
            && seal.start.is_multiple_of(SECTOR);
        sound.then_some(seal)
    }
}

/// The first block of a segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) version: u32,
    pub(crate) db: DbId,
    pub(crate) timeline: u32,
    /// First LSN of the segment.
    pub(crate) first: u64,
    /// Bytes of the file, header included.
    pub(crate) bytes: u64,
    /// Checksum of the last seal that was known when the segment was made ready; 0 in the first of a log.
    pub(crate) seal_before: u32,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; HEADER_BLOCK] {
        let mut b = [0; HEADER_BLOCK];
        b[..8].copy_from_slice(&HEADER_MAGIC);
        b[8..12].copy_from_slice(&self.version.to_le_bytes());
        b[12..28].copy_from_slice(&self.db.0);
        b[28..32].copy_from_slice(&self.timeline.to_le_bytes());
        b[32..40].copy_from_slice(&self.first.to_le_bytes());
        b[40..48].copy_from_slice(&self.bytes.to_le_bytes());
        b[48..52].copy_from_slice(&self.seal_before.to_le_bytes());
        let crc = crc32c::crc32c(&b[..HEADER_BLOCK - 4]);
        b[HEADER_BLOCK - 4..].copy_from_slice(&crc.to_le_bytes());
        b
    }

    /// `None` if the block is no segment header, or a damaged one. Whose it is, is the caller's question.
    pub(crate) fn decode(b: &[u8]) -> Option<SegmentHeader> {
        if b.len() != HEADER_BLOCK
            || b[..8] != HEADER_MAGIC
            || u32_at(b, HEADER_BLOCK - 4) != crc32c::crc32c(&b[..HEADER_BLOCK - 4])
        {
            return None;
        }
        let mut db = [0; 16];
        db.copy_from_slice(&b[12..28]);
        Some(SegmentHeader {
            version: u32_at(b, 8),
            db: DbId(db),
            timeline: u32_at(b, 28),
            first: u64_at(b, 32),
            bytes: u64_at(b, 40),
            seal_before: u32_at(b, 48),
        })
    }
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    let mut w = [0; 4];
    w.copy_from_slice(&b[at..at + 4]);
    u32::from_le_bytes(w)
}

fn u64_at(b: &[u8], at: usize) -> u64 {
    let mut w = [0; 8];
    w.copy_from_slice(&b[at..at + 8]);
    u64::from_le_bytes(w)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: LogIdentity = LogIdentity { db: DbId([3; 16]), timeline: 1 };

    #[test]
    fn place_of_the_seal() {
        for pad in [512, 1024, 4096] {
            for end in 4097..3 * 4096 {
                let at = seal_at(end, pad);
                assert!(at >= end && at - end < pad);
                assert_eq!((at + SEAL_LEN) % pad, 0);
            }
        }
        assert_eq!(seal_at(4096 + 464, 512), 4096 + 464, "no padding when it fits exactly");
        assert_eq!(seal_at(4096 + 465, 512), 4096 + 464 + 512);
        assert_eq!(seal_at(4096 + 512, 512), 4096 + 464 + 512, "a record that ends on a boundary");
    }

    #[test]
    fn seal_knows_its_place_and_its_log() {
        let seeds = Seeds::new(ID);
        let seal = Seal::new(seeds, 8192 - 48, 4096, 7, 9);
        let b = seal.encode();
        assert_eq!(Seal::decode(seeds, 8192 - 48, &b), Some(seal));
        assert_eq!(Seal::decode(seeds, 8192 + 512 - 48, &b), None);
        let other = Seeds::new(LogIdentity { timeline: 2, ..ID });
        assert_eq!(Seal::decode(other, 8192 - 48, &b), None);
        for bit in 0..b.len() * 8 {
            let mut c = b;
            c[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Seal::decode(seeds, 8192 - 48, &c), None, "bit {bit}");
        }
        assert_eq!(Seal::decode(seeds, 0, &b[..47]), None);
    }

    #[test]
    fn header_round_trip() {
        let h =
            SegmentHeader { version: 1, db: ID.db, timeline: 1, first: 4096, bytes: 65536, seal_before: 0 };
        let mut b = h.encode();
        assert_eq!(SegmentHeader::decode(&b), Some(h));
        b[60] = 1;
        assert_eq!(SegmentHeader::decode(&b), None);
        assert_eq!(SegmentHeader::decode(&b[1..]), None);
        // Right checksums over what is no header of a segment.
        for (at, len) in [(0, HEADER_BLOCK), (7, HEADER_BLOCK), (60, HEADER_BLOCK + 4096)] {
            let mut b = h.encode().to_vec();
            b.resize(len, 0);
            b[at] ^= u8::from(at < 8);
            let crc = crc32c::crc32c(&b[..HEADER_BLOCK - 4]);
            b[HEADER_BLOCK - 4..HEADER_BLOCK].copy_from_slice(&crc.to_le_bytes());
            assert_eq!(SegmentHeader::decode(&b), None, "{at}, {len}");
        }
    }
}
