//! Finding the end of the log, and the verdict on it.
//!
//! Groups are valid as a whole or not at all, and a group was written only after the one before was durable.
//! So the log is the longest run of valid groups; what follows it is either what a crash left of the one
//! group that was being written, never acknowledged, or damage to what was acknowledged. A seal that is valid
//! in itself and whose group starts beyond the invalid group tells the two apart (invariants LOG-1, LOG-2,
//! LOG-3).
use crate::files::{Files, Found, Place};
use crate::format::{SEAL_LEN, SECTOR, Seal, Seeds};
use crate::reader::{CHUNK, READ_MODE};
use crate::{LogIdentity, LogOptions, LogReader, Reading, segment};
use hamal_disk::Disk;
use hamal_error::{Error, Result};
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::Lsn;
use std::sync::Arc;

/// Bytes beyond the end that stay in memory until the verdict is found.
const MAX_GLANCE: u64 = 1 << 20;

/// What the end of the log looks like.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The log ends at the end of a group and nothing valid of a later group was found.
    Clean,
    /// A group that was being written when the system stopped is incomplete: it was never acknowledged and is
    /// cut off.
    TornTail {
        /// Bytes of it that were written at least in part.
        bytes: u64,
    },
}

/// The end of a log, found before the log is opened for appending.
#[derive(Clone, Debug)]
pub struct LogEnd {
    /// End of the last valid group: where the next group starts.
    pub end: Lsn,
    /// CRC of the last valid seal: the next seal names it.
    pub last_seal: u32,
    /// The verdict.
    pub verdict: Verdict,
    /// The lowest LSN still in a segment.
    pub oldest: Lsn,
    /// From here on no file is removed as the log is opened, also where the chain of segments does not reach down so far: what is wrong
    /// with the one that ends it may be mended yet (LOG-11). [`find_end`] sets it to [`oldest`](LogEnd::oldest); who knows what is needed
    /// lowers it.
    pub keep_from: Lsn,
}

/// Reads the log from `from` (a record or group boundary known to have been durable) to its end and decides
/// (LOG-3): an invalid group at X is a torn tail, unless a later seal, or `proven` (the durable LSN that
/// the control file proves) shows that the log was durable beyond X, which is corruption.
///
/// Reads past the operating system's cache where the disk can. Changes nothing.
///
/// # Errors
/// [`LogCorrupt`](hamal_error::ErrorKind::LogCorrupt) with LSN, file and offset; a read error is an error,
/// never a tail.
pub fn find_end(
    disk: &Arc<dyn Disk>,
    _options: &LogOptions,
    identity: LogIdentity,
    from: Lsn,
    proven: Lsn,
) -> Result<LogEnd> {
    let segments = segment::open_chain(&**disk, identity, from.0, READ_MODE)?;
    let mut files = Files::new(segments, Seeds::new(identity), CHUNK, 4 * CHUNK);
    find(&mut files, Seeds::new(identity), from, proven)
}

/// [`find_end`], and a reader of everything below the end. What was read to find the end is not read again, as
/// far as it fits the memory that `reading` grants.
///
/// # Errors
/// As [`find_end`].
pub fn find_end_and_read(
    disk: &Arc<dyn Disk>,
    identity: LogIdentity,
    from: Lsn,
    proven: Lsn,
    reading: Reading,
) -> Result<(LogEnd, LogReader)> {
    let segments = segment::open_chain(&**disk, identity, from.0, READ_MODE)?;
    let (mut files, ahead) = reading.files(segments, Seeds::new(identity));
    if ahead {
        files.read_ahead(from.0);
    }
    let end = find(&mut files, Seeds::new(identity), from, proven)?;
    files.stop_ahead();
    let reader = LogReader::over(files, end.end, ahead);
    Ok((end, reader))
}

fn find(files: &mut Files, seeds: Seeds, from: Lsn, proven: Lsn) -> Result<LogEnd> {
    let mut start = from.0;
    let mut before = seal_before(files, start)?;
    let tail = |e: Error| if mutants::is(Mutant::ReadErrorIsTail) { Ok(None) } else { Err(e) };
    while let Some(seal) = group(files, start, before).or_else(tail)? {
        start = seal.lsn + SEAL_LEN;
        before = Some(seal.crc);
    }

    // Nothing valid at `start`. First what does not depend on the bytes there.
    if proven.0 > start && !mutants::is(Mutant::DamageIsTail) && !mutants::is(Mutant::ControlProofIgnored) {
        let m = format!("the log ends here, but the control file proves it durable up to {}", proven.0);
        return Err(files.corrupt(start, m));
    }
    let Some(last_seal) = before else {
        return Err(files.corrupt(start, "the group that holds the starting point is damaged"));
    };
    let newest = files.segments.last().map_or(0, |s| s.first);
    if start >= newest {
        // The segment of the tail and the one after it are durable before the tail enters them (LOG-8).
        let missing = files.end();
        return Err(files
            .corrupt(missing, "the newest log segment is missing: the log ends in the last one there is")
            .with_file(segment::name(missing)));
    }
    let torn = later_seals(files, seeds, start)?;
    let verdict = match torn {
        0 => Verdict::Clean,
        bytes => Verdict::TornTail { bytes },
    };
    let behind = if mutants::is(Mutant::AppendBehindTornTail) { torn } else { 0 };
    let oldest = Lsn(files.oldest());
    Ok(LogEnd { end: Lsn(start + behind), last_seal, verdict, oldest, keep_from: oldest })
}

/// The checksum of the seal before the group at `from`, if it can be known: `from` may lie inside a group.
pub(crate) fn seal_before(files: &mut Files, from: u64) -> Result<Option<u32>> {
    if let Some(s) = files.segment(from)
        && s.first == from
        && s.seal_before == 0
    {
        return Ok(Some(0)); // The first group of the log.
    }
    if !from.is_multiple_of(SECTOR) || from < files.oldest() + SEAL_LEN {
        return Ok(None);
    }
    Ok(files.seal(from - SEAL_LEN, u64::MAX)?.map(|s| s.crc))
}

/// The seal of the group at `start`, if that group is valid: records up to its seal, the seal in its place,
/// naming this start and the seal before, and the checksum over everything. If the seal before is not known,
/// `start` may lie inside the group, and its records and the seal's own checksum have to do.
///
/// With the seal before known the records are passed over by their lengths, and the group's checksum, which covers all of them, says
/// whether these were lengths of records.
pub(crate) fn group(files: &mut Files, start: u64, before: Option<u32>) -> Result<Option<Seal>> {
    let mut at = start;
    let seal = loop {
        match files.place(at, u64::MAX)? {
            Place::Record(len) => {
                let whole = before.is_some()
                    || files.prepare(at, len, u64::MAX)? && files.prepared(at, len).is_some();
                if !whole {
                    return Ok(None);
                }
                at += len as u64;
            }
            Place::Seal(s) => break s,
            Place::Nothing => return Ok(None),
        }
    };
    let fits = match before {
        Some(crc) => seal.start == start && (seal.previous == crc || mutants::is(Mutant::CrcWithoutLsn)),
        None => seal.start <= start,
    };
    if !fits {
        return Ok(None);
    }
    // What lies below the oldest segment cannot be read; `before` is not known then.
    if seal.start >= files.oldest()
        && !mutants::is(Mutant::GroupCrcIgnored)
        && !mutants::is(Mutant::TornTailAccepted)
        && !files.check_group(seal.start, seal.lsn, seal.group)?
    {
        return Ok(None);
    }
    Ok(Some(seal))
}

/// Looks at every place above `x` where a seal can lie, in all segments there are. A seal valid in itself
/// whose group starts beyond `x` proves that the group at `x` was durable: corruption. So does one that belongs elsewhere: a device
/// may have put the last group over the one before. A seal left behind a
/// tail that was cut off earlier names a start at or below `x`. Returns how many bytes of a torn group at `x`
/// can be recognised.
fn later_seals(files: &mut Files, seeds: Seeds, x: u64) -> Result<u64> {
    let mut torn = 0;
    let mut at = x;
    // A chunk at a time. Chunks, like `x` (a place where a group can start), begin on sectors, and end on them.
    while let Some(piece) = files.piece(at, usize::MAX, u64::MAX)? {
        if (piece.len() as u64) < SECTOR {
            break;
        }
        let mut proof = None;
        for sector in piece.chunks_exact(SECTOR as usize) {
            let lsn = at + SECTOR - SEAL_LEN;
            // Where it lies does not matter: when it was written, everything below its group was durable.
            let seal = Seal::decode_misplaced(seeds, lsn, &sector[(SECTOR - SEAL_LEN) as usize..])
                .filter(|s| s.lsn == lsn || !mutants::is(Mutant::MisplacedSealIgnored));
            at += SECTOR;
            match seal {
                Some(s) if s.start > x && !mutants::is(Mutant::DamageIsTail) => {
                    proof = Some((lsn, s));
                    break;
                }
                Some(s) if s.start == x && s.lsn == lsn => torn = at - x,
                _ => {}
            }
        }
        if let Some((lsn, s)) = proof {
            let misplaced =
                if s.lsn == lsn { String::new() } else { format!(", which belongs to {},", s.lsn) };
            let start = s.start;
            let m = format!(
                "the log is damaged here: the seal at {lsn}{misplaced} proves it was durable up to {start}"
            );
            return Err(files.corrupt(x, m));
        }
        // Nothing beyond the end is looked at again, but a record that begins at it: the memory is for the log.
        if at > x + MAX_GLANCE {
            files.forget(at - 1);
        }
    }
    let mut at = x;
    while let Found::Record(r) = files.at(at, u64::MAX)? {
        at = r.end.0;
    }
    Ok(torn.max(at.next_multiple_of(SECTOR) - x))
}
