//! The control file: two checksummed slots, written in turn, that name the last complete checkpoint.
//!
//! A slot is 4 KiB in a block of its own. All integers are little-endian; `docs/formats/control.md` has the table.
//! The slot with the higher sequence number counts; if its checksum fails (a torn write), the other one does, and the
//! log still reaches back to *its* redo point, because truncation respects both (invariant CKP-5).

use hamal_disk::{Disk, DiskFile, OpenMode, read_exact_at};
use hamal_error::{Error, ErrorKind, Result};
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::{DbId, Lsn, PageId, valid_page_size};
use std::sync::Arc;

/// Bytes of one slot.
pub const SLOT_BYTES: usize = 4096;
/// The digest of the table of page versions has a fixed place before the checksum: slots of a time before it have zeros there.
const VERSIONS_AT: usize = SLOT_BYTES - 12;
const MAGIC: [u8; 8] = *b"hamalctl";
/// Raised when a format changes so that older code cannot read it.
const FORMAT: u32 = 1;
const NAME: &str = "control";

/// A resource manager registered with the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagerEntry {
    /// Its number.
    pub id: u8,
    /// Its version.
    pub version: u32,
    /// Its name, at most 63 bytes.
    pub name: String,
}

/// What a slot says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Raised by one with each write; decides which slot counts.
    pub sequence: u64,
    /// Identity of the database.
    pub db: DbId,
    /// Timeline of the log.
    pub timeline: u32,
    /// Page size in bytes.
    pub page_size: u32,
    /// Bytes at the end of each page that are reserved (for encryption later; zero now).
    pub reserved_per_page: u16,
    /// LSN of the begin record of the last complete checkpoint.
    pub checkpoint_begin: Lsn,
    /// LSN after its end record: the log was durable up to here (a proof for the verdict).
    pub checkpoint_end: Lsn,
    /// The redo point R.
    pub redo: Lsn,
    /// The log is needed from here on: min(R, first LSN of every transaction in the end record's table) (T41).
    pub keep_from: Lsn,
    /// Pages that the data file had room for.
    pub data_pages: u64,
    /// A page of the data file, and the pageLSN that it had reached when this checkpoint synced the file: a lower one proves that
    /// the data file is older than this control file. Null: none.
    pub witness_page: PageId,
    /// See `witness_page`.
    pub witness_lsn: Lsn,
    /// Digest of the table of page versions that belongs to this checkpoint; 0: there is none yet.
    pub versions: u64,
    /// The resource managers.
    pub managers: Vec<ManagerEntry>,
}

impl Control {
    fn encode(&self) -> Result<Vec<u8>> {
        let mut b = Vec::with_capacity(SLOT_BYTES);
        b.extend_from_slice(&MAGIC);
        b.extend_from_slice(&FORMAT.to_le_bytes());
        b.extend_from_slice(&self.timeline.to_le_bytes());
        b.extend_from_slice(&self.sequence.to_le_bytes());
        b.extend_from_slice(&self.db.0);
        b.extend_from_slice(&self.page_size.to_le_bytes());
        b.extend_from_slice(&self.reserved_per_page.to_le_bytes());
        b.extend_from_slice(&(self.managers.len() as u16).to_le_bytes());
        for lsn in [self.checkpoint_begin, self.checkpoint_end, self.redo, self.keep_from] {
            b.extend_from_slice(&lsn.0.to_le_bytes());
        }
        b.extend_from_slice(&self.data_pages.to_le_bytes());
        b.extend_from_slice(&self.witness_page.0.to_le_bytes());
        b.extend_from_slice(&self.witness_lsn.0.to_le_bytes());
        for m in &self.managers {
            if m.name.is_empty() || m.name.len() > 63 {
                return Err(Error::new(
                    ErrorKind::InvalidOption,
                    format!("a resource manager's name has {} bytes; it may have 1 to 63", m.name.len()),
                ));
            }
            b.push(m.id);
            b.extend_from_slice(&m.version.to_le_bytes());
            b.push(m.name.len() as u8);
            b.extend_from_slice(m.name.as_bytes());
        }
        if b.len() > VERSIONS_AT {
            return Err(Error::new(ErrorKind::Limit, "too many resource managers for the control file"));
        }
        b.resize(VERSIONS_AT, 0);
        b.extend_from_slice(&self.versions.to_le_bytes());
        let crc = crc32c::crc32c(&b);
        b.extend_from_slice(&crc.to_le_bytes());
        Ok(b)
    }

    /// Decodes a slot.
    ///
    /// # Errors
    /// `NotADatabase`, `UnsupportedVersion` or `ControlCorrupt`.
    fn decode(b: &[u8]) -> Result<Control> {
        let bad = |kind, what: &str| Err(Error::new(kind, what.to_string()).with_file(NAME));
        if b.len() != SLOT_BYTES {
            return bad(ErrorKind::ControlCorrupt, "the slot is cut short");
        }
        let crc =
            u32::from_le_bytes([b[SLOT_BYTES - 4], b[SLOT_BYTES - 3], b[SLOT_BYTES - 2], b[SLOT_BYTES - 1]]);
        let valid = crc == crc32c::crc32c(&b[..SLOT_BYTES - 4]);
        if b[..8] != MAGIC {
            // A foreign file, unless the checksum says that it is ours with a hole in the magic.
            return bad(ErrorKind::NotADatabase, "the file does not begin with hamal's magic number");
        }
        let mut r = Reader { b, at: 8 };
        let format = r.u32();
        if !valid {
            return bad(ErrorKind::ControlCorrupt, "the slot's checksum differs");
        }
        if format != FORMAT {
            return Err(Error::new(
                ErrorKind::UnsupportedVersion,
                format!("the database has format {format}; this version of hamal reads format {FORMAT}"),
            )
            .with_file(NAME)
            .with_help("Open it with the version of hamal that wrote it"));
        }
        let timeline = r.u32();
        let sequence = r.u64();
        let mut db = [0; 16];
        db.copy_from_slice(&b[r.at..r.at + 16]);
        r.at += 16;
        let page_size = r.u32();
        let reserved_per_page = r.u16();
        let count = r.u16();
        let (begin, end, redo, keep) = (Lsn(r.u64()), Lsn(r.u64()), Lsn(r.u64()), Lsn(r.u64()));
        let data_pages = r.u64();
        let (witness_page, witness_lsn) = (PageId(r.u64()), Lsn(r.u64()));
        let versions = Reader { b, at: VERSIONS_AT }.u64();
        let mut managers = Vec::new();
        for _ in 0..count {
            let short =
                || Error::new(ErrorKind::ControlCorrupt, "the list of managers is cut short").with_file(NAME);
            let head = b.get(r.at..r.at + 6).filter(|_| r.at + 6 <= VERSIONS_AT).ok_or_else(short)?;
            let (id, version, len) =
                (head[0], u32::from_le_bytes([head[1], head[2], head[3], head[4]]), usize::from(head[5]));
            let name = b[..VERSIONS_AT].get(r.at + 6..r.at + 6 + len).ok_or_else(short)?;
            let name = std::str::from_utf8(name).map_err(|_| short())?.to_string();
            r.at += 6 + len;
            managers.push(ManagerEntry { id, version, name });
        }
        // Nobody has counted that far, and the next numbers must be numbers.
        let last = sequence > u64::MAX / 2;
        if !valid_page_size(page_size as usize) || redo > begin || keep > redo || begin > end || last {
            return bad(ErrorKind::ControlCorrupt, "the slot's fields contradict each other");
        }
        Ok(Control {
            sequence,
            db: DbId(db),
            timeline,
            page_size,
            reserved_per_page,
            checkpoint_begin: begin,
            checkpoint_end: end,
            redo,
            keep_from: keep,
            data_pages,
            witness_page,
            witness_lsn,
            versions,
            managers,
        })
    }
}

struct Reader<'a> {
    b: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&self.b[self.at..self.at + N]);
        self.at += N;
        out
    }
    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take())
    }
    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }
    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

/// The control file, open.
#[derive(Debug)]
pub struct ControlFile {
    file: Arc<dyn DiskFile>,
    /// What the slot that counts says.
    current: Control,
    /// `keep_from` of the other slot: the log is kept for it too (CKP-5).
    other_keep: Lsn,
    /// The slot that counts.
    slot: u8,
}

impl ControlFile {
    /// Writes the control file of a new database, both slots alike, under a temporary name, synced, then renamed and
    /// the directory synced: its name is what makes the directory a database (T38).
    ///
    /// # Errors
    /// I/O errors.
    pub fn create(disk: &Arc<dyn Disk>, control: Control) -> Result<ControlFile> {
        let io = |e| Error::io("cannot write the control file", e).with_file(NAME);
        let temporary = "control.new";
        if disk.exists(temporary).map_err(io)? {
            disk.remove(temporary).map_err(io)?;
        }
        let file = disk.open(temporary, OpenMode { create_new: true, ..OpenMode::default() }).map_err(io)?;
        let mut both = control.encode()?;
        both.extend_from_within(..);
        file.write_at(0, &both).map_err(io)?;
        if !mutants::is(Mutant::ControlNamedBeforeSync) {
            file.sync().map_err(io)?;
        }
        disk.rename(temporary, NAME).map_err(io)?;
        disk.sync_dir("").map_err(io)?;
        let other_keep = control.keep_from;
        Ok(ControlFile { file, current: control, other_keep, slot: 0 })
    }

    /// Whether the directory holds a control file.
    ///
    /// # Errors
    /// I/O errors.
    pub fn exists(disk: &Arc<dyn Disk>) -> Result<bool> {
        disk.exists(NAME).map_err(|e| Error::io("cannot look for the control file", e).with_file(NAME))
    }

    /// Reads the control file (past the operating system's cache where possible, T4; else what was read is written again) and
    /// syncs it before anything relies on it (T44), unless `read_only`.
    ///
    /// # Errors
    /// `NotADatabase`, `UnsupportedVersion`, `ControlCorrupt` (both slots), `Io`.
    pub fn open(disk: &Arc<dyn Disk>, read_only: bool) -> Result<ControlFile> {
        let io = |e| Error::io("cannot read the control file", e).with_file(NAME);
        let direct = disk
            .open(NAME, OpenMode { read_only: true, direct: true, ..OpenMode::default() })
            .map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound => Error::new(
                    ErrorKind::NotADatabase,
                    format!("{} holds no hamal database", disk.describe()),
                )
                .with_file(NAME)
                .with_help("The control file is missing; create a database with a new directory"),
                _ => io(e),
            })?;
        let mut bytes = hamal_disk::AlignedBuf::new(2 * SLOT_BYTES);
        let slots = if direct.len().map_err(io)? < 2 * SLOT_BYTES as u64 {
            let have = direct.len().map_err(io)? as usize;
            let mut part = hamal_disk::AlignedBuf::new(SLOT_BYTES);
            if have >= SLOT_BYTES {
                read_exact_at(&*direct, 0, &mut part).map_err(io)?;
            }
            bytes[..SLOT_BYTES].copy_from_slice(&part);
            let cut = Error::new(ErrorKind::ControlCorrupt, format!("the file has {have} bytes, not 8192"));
            [if have >= SLOT_BYTES { Control::decode(&part) } else { Err(cut.clone()) }, Err(cut)]
        } else {
            read_exact_at(&*direct, 0, &mut bytes).map_err(io)?;
            [Control::decode(&bytes[..SLOT_BYTES]), Control::decode(&bytes[SLOT_BYTES..])]
        };
        let believed = !direct.bypasses_cache();
        drop(direct);
        let file = disk.open(NAME, OpenMode { read_only, ..OpenMode::default() }).map_err(io)?;
        if let ([Ok(a), Ok(b)], true, false) = (&slots, believed, read_only) {
            // What was read may be in the cache alone, and count as written there: a sync that failed does that, and no later
            // one makes up for it. So the slot that counts is written again. The other one is durable, for only then was
            // this one written, and survives if this write is torn. Where one slot alone is whole, it is durable: a process
            // writes the other one first.
            let at = if a.sequence >= b.sequence { 0 } else { SLOT_BYTES };
            file.write_at(at as u64, &bytes[at..at + SLOT_BYTES]).map_err(io)?;
        }
        if !read_only && !mutants::is(Mutant::ControlOpenNotSynced) {
            file.sync().map_err(io)?;
        }
        let (slot, current, other_keep) = match slots {
            [Ok(a), Ok(b)] => {
                if a.db != b.db {
                    return Err(Error::new(
                        ErrorKind::WrongDatabase,
                        "the two slots are of different databases",
                    )
                    .with_file(NAME));
                }
                let first = (a.sequence >= b.sequence) != mutants::is(Mutant::LowerSequence);
                let keep = if first { b.keep_from } else { a.keep_from };
                if first { (0, a, keep) } else { (1, b, keep) }
            }
            [Ok(a), Err(_)] => (0, a.clone(), a.keep_from),
            [Err(_), Ok(b)] => (1, b.clone(), b.keep_from),
            [Err(a), Err(b)] => {
                // A newer version says so in either slot; else both are damaged.
                let first = if b.kind() == ErrorKind::UnsupportedVersion { b } else { a };
                return Err(match first.kind() {
                    ErrorKind::UnsupportedVersion | ErrorKind::NotADatabase => first,
                    _ => Error::new(ErrorKind::ControlCorrupt, "both slots of the control file are damaged")
                        .with_file(NAME)
                        .with_cause(first)
                        .with_help("Restore the directory from a backup"),
                });
            }
        };
        Ok(ControlFile { file, current, other_keep, slot })
    }

    /// What the slot that counts says.
    pub fn current(&self) -> &Control {
        &self.current
    }
    /// The lowest LSN that either slot needs: the log may be truncated below it (CKP-5).
    pub fn keep_from(&self) -> Lsn {
        if mutants::is(Mutant::KeepForNewerSlot) {
            return self.current.keep_from;
        }
        self.current.keep_from.min(self.other_keep)
    }

    /// Writes the next state into the slot that does not count, and syncs; only then does it count. Returns the slot.
    ///
    /// # Errors
    /// I/O errors: the caller poisons the engine.
    pub fn write(&mut self, mut next: Control) -> Result<u8> {
        let io = |e| Error::io("cannot write the control file", e).with_file(NAME);
        next.sequence = self.current.sequence + 1;
        let slot = if mutants::is(Mutant::OneControlSlot) { self.slot } else { 1 - self.slot };
        self.file.write_at(u64::from(slot) * SLOT_BYTES as u64, &next.encode()?).map_err(io)?;
        if !mutants::is(Mutant::ControlNotSynced) {
            self.file.sync().map_err(io)?;
        }
        self.other_keep = self.current.keep_from;
        self.current = next;
        self.slot = slot;
        Ok(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hamal_disk::MemDisk;

    fn control(sequence: u64, keep: u64) -> Control {
        Control {
            sequence,
            db: DbId([7; 16]),
            timeline: 1,
            page_size: 4096,
            reserved_per_page: 0,
            checkpoint_begin: Lsn(keep + 20),
            checkpoint_end: Lsn(keep + 30),
            redo: Lsn(keep + 10),
            keep_from: Lsn(keep),
            data_pages: 9,
            witness_page: PageId(4),
            witness_lsn: Lsn(keep),
            versions: keep ^ 0x55,
            managers: vec![ManagerEntry { id: 1, version: 3, name: "space".into() }],
        }
    }

    #[test]
    fn slots_alternate_and_either_suffices() {
        let disk: Arc<dyn Disk> = Arc::new(MemDisk::new());
        let mut f = ControlFile::create(&disk, control(1, 100)).unwrap();
        assert_eq!(f.write(control(0, 200)).unwrap(), 1);
        assert_eq!(f.keep_from(), Lsn(100), "the other slot still needs the log from 100");
        assert_eq!(f.write(control(0, 300)).unwrap(), 0);
        assert_eq!(f.keep_from(), Lsn(200));
        let g = ControlFile::open(&disk, false).unwrap();
        assert_eq!(g.current(), &Control { sequence: 3, ..control(3, 300) });
        assert_eq!(g.keep_from(), Lsn(200));
        // A torn write of the newer slot falls back to the older one.
        f.file.write_at(100, b"torn").unwrap();
        let g = ControlFile::open(&disk, false).unwrap();
        assert_eq!(g.current().sequence, 2);
        f.file.write_at(4096 + 100, b"torn").unwrap();
        assert_eq!(ControlFile::open(&disk, false).unwrap_err().kind(), ErrorKind::ControlCorrupt);
    }

    #[test]
    fn every_byte_of_a_slot_is_guarded() {
        let disk: Arc<dyn Disk> = Arc::new(MemDisk::new());
        let mut f = ControlFile::create(&disk, control(1, 100)).unwrap();
        f.write(control(0, 200)).unwrap();
        let mut slot = vec![0; SLOT_BYTES];
        f.file.read_at(4096, &mut slot).unwrap();
        for i in 0..SLOT_BYTES {
            let mut b = slot.clone();
            b[i] ^= 0x41;
            assert!(Control::decode(&b).is_err(), "byte {i}");
            f.file.write_at(4096, &b).unwrap();
            assert_eq!(ControlFile::open(&disk, false).unwrap().current().sequence, 1, "byte {i}");
        }
    }

    #[test]
    fn newer_and_foreign_files_are_named() {
        let disk: Arc<dyn Disk> = Arc::new(MemDisk::new());
        assert_eq!(ControlFile::open(&disk, false).unwrap_err().kind(), ErrorKind::NotADatabase);
        let f = ControlFile::create(&disk, control(1, 100)).unwrap();
        let mut slot = control(1, 100).encode().unwrap();
        slot[8..12].copy_from_slice(&99u32.to_le_bytes());
        let crc = crc32c::crc32c(&slot[..SLOT_BYTES - 4]);
        slot[SLOT_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        slot.extend_from_within(..);
        f.file.write_at(0, &slot).unwrap();
        assert_eq!(ControlFile::open(&disk, false).unwrap_err().kind(), ErrorKind::UnsupportedVersion);
        f.file.write_at(0, &[0x55; 8192]).unwrap();
        assert_eq!(ControlFile::open(&disk, false).unwrap_err().kind(), ErrorKind::NotADatabase);
        f.file.set_len(100).unwrap();
        assert_eq!(ControlFile::open(&disk, false).unwrap_err().kind(), ErrorKind::ControlCorrupt);
    }

    /// The managers fill the slot to the last byte before the digest; names may have 1 to 63 bytes.
    #[test]
    fn managers_fill_the_slot_to_its_last_byte() {
        let named = |len: usize| ManagerEntry { id: len as u8, version: 0x0102_0304, name: "n".repeat(len) };
        let with = |managers| Control { managers, ..control(1, 100) };
        let room = VERSIONS_AT - 104;
        let mut managers: Vec<_> = (0..room / 69).map(|_| named(63)).collect();
        managers.push(named(room % 69 - 6));
        let full = with(managers.clone());
        assert_eq!(Control::decode(&full.encode().unwrap()).unwrap(), full);
        managers.last_mut().unwrap().name.push('n');
        assert_eq!(with(managers.clone()).encode().unwrap_err().kind(), ErrorKind::Limit);
        managers.extend([named(63), named(63)]);
        assert_eq!(with(managers).encode().unwrap_err().kind(), ErrorKind::Limit);
        let short = with(vec![named(1), named(2), named(63)]);
        assert_eq!(Control::decode(&short.encode().unwrap()).unwrap(), short);
        for len in [0, 64, 200] {
            assert_eq!(
                with(vec![named(len)]).encode().unwrap_err().kind(),
                ErrorKind::InvalidOption,
                "{len}"
            );
        }
    }

    /// Fields that a right checksum covers and that cannot be: each by itself, and the last value that can.
    #[test]
    fn fields_that_contradict_each_other_are_refused() {
        let ok = |c: &Control| Control::decode(&c.encode().unwrap()).map(|_| ()).map_err(|e| e.kind());
        let at = |begin, end, redo, keep| Control {
            checkpoint_begin: Lsn(begin),
            checkpoint_end: Lsn(end),
            redo: Lsn(redo),
            keep_from: Lsn(keep),
            ..control(1, 100)
        };
        let corrupt = Err(ErrorKind::ControlCorrupt);
        assert_eq!(ok(&at(500, 500, 500, 500)), Ok(()));
        assert_eq!(ok(&at(500, 499, 400, 300)), corrupt, "it ends before it begins");
        assert_eq!(ok(&at(500, 600, 501, 300)), corrupt, "redo starts above the checkpoint");
        assert_eq!(ok(&at(500, 600, 400, 401)), corrupt, "the log is kept from above redo");
        for (sequence, result) in [(u64::MAX / 2, Ok(())), (u64::MAX / 2 + 1, corrupt), (u64::MAX, corrupt)] {
            assert_eq!(ok(&Control { sequence, ..control(1, 100) }), result, "{sequence}");
        }
        assert_eq!(ok(&Control { page_size: 5000, ..control(1, 100) }), corrupt);
    }

    #[test]
    fn one_slot_is_enough_whatever_the_other_one_is() {
        let disk: Arc<dyn Disk> = Arc::new(MemDisk::new());
        let f = ControlFile::create(&disk, control(1, 100)).unwrap();
        let sound = control(1, 100).encode().unwrap();
        let mut newer = sound.clone();
        newer[8..12].copy_from_slice(&99u32.to_le_bytes());
        let crc = crc32c::crc32c(&newer[..SLOT_BYTES - 4]);
        newer[SLOT_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        let damaged: Vec<u8> = sound.iter().map(|b| b ^ u8::from(*b == 100)).collect();
        let foreign = vec![0x55; SLOT_BYTES];
        let kind = |a: &[u8], b: &[u8]| {
            f.file.write_at(0, &[a, b].concat()).unwrap();
            ControlFile::open(&disk, false).map_err(|e| e.kind())
        };
        // A newer version is named, in whichever slot it is.
        assert_eq!(kind(&newer, &damaged).unwrap_err(), ErrorKind::UnsupportedVersion);
        assert_eq!(kind(&damaged, &newer).unwrap_err(), ErrorKind::UnsupportedVersion);
        assert_eq!(kind(&foreign, &newer).unwrap_err(), ErrorKind::UnsupportedVersion);
        assert_eq!(kind(&damaged, &foreign).unwrap_err(), ErrorKind::ControlCorrupt);
        assert_eq!(kind(&foreign, &damaged).unwrap_err(), ErrorKind::NotADatabase);
        let other = Control { db: DbId([8; 16]), ..control(2, 100) }.encode().unwrap();
        assert_eq!(kind(&sound, &other).unwrap_err(), ErrorKind::WrongDatabase);
        assert!(kind(&sound, &damaged).is_ok() && kind(&damaged, &sound).is_ok());
        // A file that is cut in the second slot still has the first.
        for len in [SLOT_BYTES as u64, 2 * SLOT_BYTES as u64 - 1] {
            f.file.set_len(len).unwrap();
            assert_eq!(
                ControlFile::open(&disk, false).unwrap_err().kind(),
                ErrorKind::ControlCorrupt,
                "{len}"
            );
            f.file.write_at(0, &sound).unwrap();
            assert_eq!(ControlFile::open(&disk, false).unwrap().current(), &control(1, 100), "{len}");
            f.file.write_at(0, &damaged).unwrap();
        }
        f.file.set_len(SLOT_BYTES as u64 - 1).unwrap();
        assert_eq!(ControlFile::open(&disk, false).unwrap_err().kind(), ErrorKind::ControlCorrupt);
        assert!(ControlFile::exists(&disk).unwrap());
        disk.remove(NAME).unwrap();
        assert!(!ControlFile::exists(&disk).unwrap());
    }

    /// What an open relied on is durable afterwards (T44); an open for reading changes nothing.
    #[test]
    fn an_open_makes_what_it_read_durable() {
        let mem = MemDisk::new();
        let disk: Arc<dyn Disk> = Arc::new(mem.clone());
        let f = ControlFile::create(&disk, control(1, 100)).unwrap();
        let next = Control { sequence: 2, ..control(2, 200) };
        // Written and not synced: in a cache that outlived the process.
        f.file.write_at(SLOT_BYTES as u64, &next.encode().unwrap()).unwrap();
        let sequence = || {
            let after: Arc<dyn Disk> = Arc::new(mem.crash(hamal_disk::CrashModel::LoseUnsynced));
            ControlFile::open(&after, true).unwrap().current().sequence
        };
        assert_eq!(ControlFile::open(&disk, true).unwrap().current(), &next);
        assert_eq!(sequence(), 1);
        assert_eq!(ControlFile::open(&disk, false).unwrap().current(), &next);
        assert_eq!(sequence(), 2);
    }
}
