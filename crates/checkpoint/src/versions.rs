//! The table of page versions: the tag of what was last written to each page, as of the last checkpoint.
//!
//! The file `versions` has two places for each block of [`TAGS_PER_BLOCK`] tags. A checkpoint writes the blocks that have
//! changed, each over the older of its two copies, with the LSN of its begin record (its *moment*), and syncs; then the
//! control file is written, with a digest of the numbers and moments of all blocks that count. So the copies that the
//! control file speaks of are those with the newest moment at or below its own checkpoint, a crash between the two writes
//! leaves them alone, and a table of another moment has another digest. `docs/formats/versions.md` has the bytes,
//! `docs/invariants/versions.md` the argument (`VER-4` to `VER-6`).
use crate::Control;
use hamal_buffer::{PageVersions, TAGS_PER_BLOCK};
use hamal_disk::{AlignedBuf, Disk, DiskFile, OpenMode};
use hamal_error::{Error, ErrorKind, Result};
use hamal_page::{DbId, Lsn};
use std::sync::Arc;

/// The name of the file.
pub const VERSIONS: &str = "versions";
const BLOCK: usize = 4096;
const HEAD: usize = 48;
const MAGIC: [u8; 8] = *b"hamalver";
const CRC_AT: usize = 44;
/// Bytes read at once: whole pairs of copies.
const CHUNK: usize = 128 * 2 * BLOCK;

const _: () = assert!(HEAD + 2 * TAGS_PER_BLOCK == BLOCK);

/// What a place of the file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copy {
    /// A copy of that moment.
    Valid(Lsn),
    /// Nothing was ever written there.
    Blank,
    /// Damaged, or torn by a crash.
    Damaged,
}

/// The place that a block in doubt counts from: the next checkpoint writes over the other copy, the one that is whole, so
/// that a crash then finds a damaged one still and no proof of anything (VER-6).
fn doubtful(copies: [Copy; 2]) -> Place {
    Place { copy: u8::from(copies[0] != Copy::Damaged), ..NOWHERE }
}

/// A block as the file has it.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Which of the two copies counts (0 or 1).
    copy: u8,
    /// Its moment; null: there is none.
    moment: Lsn,
    /// Has to be written by the next checkpoint, changed or not.
    due: bool,
}

const NOWHERE: Place = Place { copy: 1, moment: Lsn::NULL, due: true };

fn encode(db: DbId, block: u64, moment: Lsn, tags: &[u16; TAGS_PER_BLOCK], b: &mut [u8]) {
    b[..8].copy_from_slice(&MAGIC);
    b[8..24].copy_from_slice(&db.0);
    b[24..32].copy_from_slice(&block.to_le_bytes());
    b[32..40].copy_from_slice(&moment.0.to_le_bytes());
    b[40..HEAD].fill(0);
    for (to, tag) in b[HEAD..BLOCK].chunks_exact_mut(2).zip(tags) {
        to.copy_from_slice(&tag.to_le_bytes());
    }
    let crc = crc32c::crc32c(&b[..BLOCK]);
    b[CRC_AT..HEAD].copy_from_slice(&crc.to_le_bytes());
}

/// Looks at one copy.
///
/// # Errors
/// `WrongDatabase` if it is sound and of another database.
fn decode(db: DbId, block: u64, b: &[u8]) -> Result<Copy> {
    let word = |at: usize| {
        let mut w = [0; 8];
        w.copy_from_slice(&b[at..at + 8]);
        u64::from_le_bytes(w)
    };
    if b[..BLOCK].iter().all(|x| *x == 0) {
        return Ok(Copy::Blank);
    }
    let crc = crc32c::crc32c(&b[..CRC_AT]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    let crc = crc32c::crc32c_append(crc, &b[HEAD..BLOCK]);
    if b[..8] != MAGIC || b[CRC_AT..HEAD] != crc.to_le_bytes() {
        return Ok(Copy::Damaged);
    }
    if b[8..24] != db.0 {
        return Err(Error::new(ErrorKind::WrongDatabase, "the table of page versions is another database's")
            .with_file(VERSIONS));
    }
    // A sound block in another block's place: a misdirected write.
    Ok(if word(24) == block { Copy::Valid(Lsn(word(32))) } else { Copy::Damaged })
}

fn tags_of(b: &[u8]) -> [u16; TAGS_PER_BLOCK] {
    let mut tags = [0; TAGS_PER_BLOCK];
    for (tag, b) in tags.iter_mut().zip(b[HEAD..BLOCK].chunks_exact(2)) {
        *tag = u16::from_le_bytes([b[0], b[1]]);
    }
    tags
}

/// What a block adds to the digest.
fn share(block: u64, moment: Lsn) -> u64 {
    let mut x = block.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ moment.0;
    for _ in 0..2 {
        x = (x ^ (x >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    }
    x ^ (x >> 32)
}

/// The digest of a table: never 0, which says "no table".
fn digest(places: &[Place]) -> u64 {
    let all = places.iter().enumerate().map(|(i, p)| share(i as u64, p.moment));
    all.fold(0x6861_6d61_6c76_6572, |a, x| a ^ x).max(1)
}

fn blocks_of(pages: u64) -> u64 {
    pages.div_ceil(TAGS_PER_BLOCK as u64)
}

/// The table of page versions, open.
#[derive(Debug)]
pub struct VersionsFile {
    file: Arc<dyn DiskFile>,
    db: DbId,
    places: Vec<Place>,
    /// Blocks that the file has room for.
    room: u64,
    /// Blocks whose tags could not be read: nothing is known about their pages until they are written or read.
    damaged: Vec<u64>,
}

/// A table that was written for a checkpoint whose control file is not written yet.
#[derive(Debug)]
pub struct WrittenVersions {
    places: Vec<Place>,
    /// The digest for the control file.
    pub digest: u64,
    /// Blocks written.
    pub blocks: usize,
}

impl VersionsFile {
    /// Makes the table of a new database: no blocks. The caller syncs the directory.
    ///
    /// # Errors
    /// I/O errors.
    pub fn create(disk: &Arc<dyn Disk>, db: DbId) -> Result<VersionsFile> {
        let io = |e| Error::io("cannot make the table of page versions", e).with_file(VERSIONS);
        let file = disk.open(VERSIONS, OpenMode { create: true, ..OpenMode::default() }).map_err(io)?;
        file.set_len(0).map_err(io)?;
        file.sync().map_err(io)?;
        Ok(VersionsFile { file, db, places: Vec::new(), room: 0, damaged: Vec::new() })
    }

    /// The digest of the table as it is now, for the control file of a new database.
    pub fn digest(&self) -> u64 {
        digest(&self.places)
    }

    /// Reads the table that `control` speaks of into `versions` (past the operating system's cache where possible, T4),
    /// synced before anything relies on it (T44). `end` is the end of the log, `present` the number of pages that the data file has room for. A damaged block leaves its pages unknown, and
    /// is in [`VersionsFile::damaged`]. A control file that speaks of no table (of a database made before there was one)
    /// gets an empty one.
    ///
    /// # Errors
    /// `WrongDatabase` if the file is missing, of another database, or of another moment than the control file,
    /// or if it and the data file are both shorter than the control file says; `LogBehindPages` if the log ends before a checkpoint that the file knows; `Io`.
    pub fn open(
        disk: &Arc<dyn Disk>,
        control: &Control,
        end: Lsn,
        present: u64,
        versions: &PageVersions,
    ) -> Result<VersionsFile> {
        let io = |e| Error::io("cannot read the table of page versions", e).with_file(VERSIONS);
        let there = disk.exists(VERSIONS).map_err(io)?;
        if control.versions == 0 {
            let made = Self::create(disk, control.db)?;
            disk.sync_dir("").map_err(io)?;
            return Ok(made);
        }
        if !there {
            return Err(Error::new(ErrorKind::WrongDatabase, "the table of page versions is missing")
                .with_file(VERSIONS)
                .with_help("Restore the whole directory from one backup"));
        }
        let file = disk.open(VERSIONS, OpenMode::default()).map_err(io)?;
        file.sync().map_err(io)?;
        let mode = OpenMode { read_only: true, direct: true, ..OpenMode::default() };
        let source = disk.open(VERSIONS, mode).map_err(io)?;
        let len = source.len().map_err(io)?;
        let room = len / (2 * BLOCK as u64);
        let blocks = blocks_of(control.data_pages);
        if blocks > room && present < control.data_pages {
            // A table that is cut short is one that lost blocks, and the data file says how many there were. If that is shorter
            // too, nothing bounds the number of blocks to be looked for.
            let m = format!(
                "the control file speaks of {} pages, the data file has {present}, and the table of page versions is shorter, too",
                control.data_pages
            );
            return Err(Error::new(ErrorKind::WrongDatabase, m).with_file(VERSIONS).with_help(
                "Files were cut short, or are older copies: restore the whole directory from one backup",
            ));
        }
        let mut table = VersionsFile { file, db: control.db, places: Vec::new(), room, damaged: Vec::new() };
        let in_doubt = table.read((&*source, len), blocks, control.checkpoint_begin, end, versions)?;
        if digest(&table.places) != control.versions {
            // The copy that should count is one that is damaged; if none is, this is a table of another moment (or one that
            // lost a write, which is the same).
            if in_doubt.is_empty() {
                let m = "the table of page versions is not the one that the control file speaks of";
                return Err(Error::new(ErrorKind::WrongDatabase, m).with_file(VERSIONS).with_help(
                    "Files of different moments do not belong together: restore the whole directory from one backup",
                ));
            }
            for (block, place) in in_doubt {
                versions.load_block(block, &[0; TAGS_PER_BLOCK]);
                table.places[block as usize] = place;
                table.damaged.push(block);
            }
        }
        Ok(table)
    }

    /// Reads blocks `[0, blocks)` of a file of `len` bytes; returns those of which a copy is damaged or missing, with their place
    /// if it is that copy that should count.
    fn read(
        &mut self,
        (source, len): (&dyn DiskFile, u64),
        blocks: u64,
        moment: Lsn,
        end: Lsn,
        versions: &PageVersions,
    ) -> Result<Vec<(u64, Place)>> {
        let mut in_doubt = Vec::new();
        let mut buf = AlignedBuf::new(CHUNK.min(blocks.max(1) as usize * 2 * BLOCK));
        for block in 0..blocks {
            let within = (block * 2 * BLOCK as u64) % CHUNK as u64;
            if within == 0 {
                buf.fill(0);
                let offset = block * 2 * BLOCK as u64;
                source.read_at(offset, &mut buf).map_err(|e| {
                    Error::io("cannot read the table of page versions", e)
                        .with_file(VERSIONS)
                        .with_offset(offset)
                })?;
            }
            let pair = &buf[within as usize..within as usize + 2 * BLOCK];
            let mut copies =
                [decode(self.db, block, &pair[..BLOCK])?, decode(self.db, block, &pair[BLOCK..])?];
            // Room is made for both copies before the control file speaks of the block.
            for (i, copy) in copies.iter_mut().enumerate() {
                if *copy == Copy::Blank && (2 * block + i as u64 + 1) * BLOCK as u64 > len {
                    *copy = Copy::Damaged;
                }
            }
            let newest = copies.iter().filter_map(|c| match c {
                Copy::Valid(m) => Some(*m),
                _ => None,
            });
            if let Some(proof) = newest.max().filter(|m| *m >= end) {
                return Err(Error::new(
                    ErrorKind::LogBehindPages,
                    format!(
                        "the table of page versions knows a checkpoint at {proof}, and the log ends at {end}"
                    ),
                )
                .with_file(VERSIONS)
                .with_lsn(proof)
                .with_help(
                    "The log was lost or replaced, or a device lost synced writes: restore a backup",
                ));
            }
            let mut place = NOWHERE;
            for (i, copy) in copies.iter().enumerate() {
                match copy {
                    Copy::Valid(m) if *m <= moment && *m > place.moment => {
                        place = Place { copy: i as u8, moment: *m, due: false };
                    }
                    _ => {}
                }
            }
            if !place.moment.is_null() {
                let at = usize::from(place.copy) * BLOCK;
                versions.load_block(block, &tags_of(&pair[at..at + BLOCK]));
                // The other copy may be one of a checkpoint that was never complete: it must not be taken for one of a
                // later checkpoint (VER-5).
                let other = copies[1 - usize::from(place.copy)];
                place.due = match other {
                    Copy::Valid(m) => m > moment,
                    Copy::Blank => false,
                    Copy::Damaged => true,
                };
            }
            // Every block that the control file speaks of was written: where there is no copy that could count, a blank one
            // was lost.
            let lost = place.moment.is_null() && copies.contains(&Copy::Blank);
            if lost || copies.contains(&Copy::Damaged) {
                in_doubt.push((block, doubtful(copies)));
            }
            self.places.push(place);
        }
        Ok(in_doubt)
    }

    /// Blocks that were damaged when the file was opened: of the [`TAGS_PER_BLOCK`] pages of each nothing was known.
    pub fn damaged(&self) -> &[u64] {
        &self.damaged
    }

    /// Makes room for a table of so many pages, so that writing it meets no full device.
    ///
    /// # Errors
    /// `NoSpace`, `Io`: nothing was changed.
    pub fn reserve(&mut self, pages: u64) -> Result<()> {
        let blocks = blocks_of(pages);
        if blocks <= self.room {
            return Ok(());
        }
        let pair = 2 * BLOCK as u64;
        self.file.allocate(self.room * pair, (blocks - self.room) * pair).map_err(|e| {
            Error::io("growing the table of page versions", e)
                .with_file(VERSIONS)
                .with_offset(self.room * pair)
        })?;
        self.room = blocks;
        Ok(())
    }

    /// Writes what has changed since the last checkpoint, for the one that began at `moment` and speaks of `pages` pages, and
    /// syncs. It counts when the control file has the digest: then call [`VersionsFile::commit`]. Room was made before.
    ///
    /// # Errors
    /// I/O errors: the caller poisons the engine.
    pub fn write(&self, versions: &PageVersions, moment: Lsn, pages: u64) -> Result<WrittenVersions> {
        let mut places = self.places.clone();
        places.resize(blocks_of(pages) as usize, NOWHERE);
        let mut buf = AlignedBuf::new(BLOCK);
        let mut blocks = 0;
        for (i, place) in places.iter_mut().enumerate() {
            // The flag before the tags (VER-2).
            let changed = versions.take_changed(i as u64) || place.due;
            // The first block bears the moment of every checkpoint: an older control file put back beside an older log is
            // known by it, whatever pages were written (VER-6).
            if !changed && i != 0 {
                continue;
            }
            *place = Place { copy: 1 - place.copy, moment, due: false };
            encode(self.db, i as u64, moment, &versions.block(i as u64), &mut buf);
            let offset = (2 * i as u64 + u64::from(place.copy)) * BLOCK as u64;
            self.file.write_at(offset, &buf).map_err(|e| {
                Error::io("writing the table of page versions", e).with_file(VERSIONS).with_offset(offset)
            })?;
            blocks += usize::from(changed);
        }
        if !places.is_empty() {
            self.file
                .sync()
                .map_err(|e| Error::io("syncing the table of page versions", e).with_file(VERSIONS))?;
        }
        let digest = digest(&places);
        Ok(WrittenVersions { places, digest, blocks })
    }

    /// The control file speaks of that table now.
    pub fn commit(&mut self, written: WrittenVersions) {
        self.places = written.places;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hamal_buffer::version_tag;
    use hamal_disk::{MemDisk, read_exact_at};
    use hamal_page::PageId;

    const PAGES: u64 = 3 * TAGS_PER_BLOCK as u64;
    const END: Lsn = Lsn(1 << 40);

    /// A database as far as the table is concerned.
    struct Bench {
        disk: Arc<dyn Disk>,
        versions: PageVersions,
        table: VersionsFile,
        control: Control,
    }

    fn control(moment: u64, versions: u64) -> Control {
        Control {
            sequence: 1,
            db: DbId([3; 16]),
            timeline: 1,
            page_size: 4096,
            reserved_per_page: 0,
            checkpoint_begin: Lsn(moment),
            checkpoint_end: Lsn(moment),
            redo: Lsn(moment),
            keep_from: Lsn(moment),
            data_pages: PAGES,
            witness_page: PageId(0),
            witness_lsn: Lsn::NULL,
            versions,
            managers: Vec::new(),
        }
    }

    impl Bench {
        fn new() -> Bench {
            let disk: Arc<dyn Disk> = Arc::new(MemDisk::new());
            let table = VersionsFile::create(&disk, DbId([3; 16])).unwrap();
            let mut b = Bench { disk, versions: PageVersions::default(), table, control: control(100, 1) };
            b.checkpoint(1000);
            b
        }
        fn set(&self, page: u64, lsn: u64) {
            self.versions.set(PageId(page), Lsn(lsn));
        }
        /// A checkpoint whose control file a crash takes.
        fn attempt(&mut self, moment: u64) -> WrittenVersions {
            self.table.reserve(PAGES).unwrap();
            self.table.write(&self.versions, Lsn(moment), PAGES).unwrap()
        }
        fn checkpoint(&mut self, moment: u64) -> usize {
            let written = self.attempt(moment);
            let blocks = written.blocks;
            self.control = control(moment, written.digest);
            self.table.commit(written);
            blocks
        }
        fn open(&self) -> Result<Bench> {
            let (disk, control) = (self.disk.clone(), self.control.clone());
            let versions = PageVersions::default();
            let table = VersionsFile::open(&disk, &control, END, PAGES, &versions)?;
            Ok(Bench { disk, versions, table, control })
        }
        fn reopen(&mut self) {
            *self = self.open().unwrap();
        }
        fn has(&self, page: u64, lsn: u64) -> bool {
            self.versions.get(PageId(page)) == version_tag(Lsn(lsn))
        }
        /// Damages the copies of a block that hold this moment.
        fn damage(&self, block: u64, moment: u64) {
            let file = self.disk.open(VERSIONS, OpenMode::default()).unwrap();
            let mut hit = 0;
            for copy in 0..2 {
                let at = (2 * block + copy) * BLOCK as u64;
                let mut b = [0; BLOCK];
                read_exact_at(&*file, at, &mut b).unwrap();
                if b[32..40] == moment.to_le_bytes() {
                    file.write_at(at + 1000, &[b[1000] ^ 1]).unwrap();
                    hit += 1;
                }
            }
            assert_eq!(hit, 1);
        }
    }

    #[test]
    fn a_checkpoint_writes_what_has_changed() {
        let mut b = Bench::new();
        assert_eq!(b.checkpoint(1500), 0, "the first one wrote every block");
        b.set(5, 77);
        b.set(PAGES - 1, 78);
        assert_eq!(b.checkpoint(2000), 2);
        assert_eq!(b.checkpoint(3000), 0);
        b.reopen();
        assert!(b.has(5, 77) && b.has(PAGES - 1, 78) && b.has(6, 0));
        assert_eq!(b.checkpoint(4000), 0, "what was read is no change");
        b.set(5, 79);
        assert_eq!(b.checkpoint(5000), 1);
        b.reopen();
        assert!(b.has(5, 79) && b.has(PAGES - 1, 78));
    }

    #[test]
    fn an_attempt_that_was_never_complete_does_not_count_then_or_later() {
        let mut b = Bench::new();
        b.set(5, 77);
        b.checkpoint(2000);
        b.set(5, 88);
        b.set(TAGS_PER_BLOCK as u64, 89);
        b.attempt(3000);
        for _ in 0..3 {
            b.reopen();
            assert!(b.has(5, 77) && b.has(TAGS_PER_BLOCK as u64, 0));
            assert!(b.table.damaged().is_empty());
        }
        // Nothing changes, but the copies of the attempt would be taken for this checkpoint's.
        assert_eq!(b.checkpoint(4000), 2);
        b.reopen();
        assert!(b.has(5, 77) && b.has(TAGS_PER_BLOCK as u64, 0));
        assert_eq!(b.checkpoint(5000), 0);
    }

    #[test]
    fn a_torn_attempt_leaves_the_other_copy() {
        let mut b = Bench::new();
        b.set(5, 77);
        b.checkpoint(2000);
        b.set(5, 88);
        b.attempt(3000);
        b.damage(0, 3000);
        b.reopen();
        assert!(b.has(5, 77) && b.table.damaged().is_empty());
        assert_eq!(b.checkpoint(4000), 1, "the torn copy is replaced");
        b.reopen();
        assert!(b.has(5, 77));
        assert_eq!(b.checkpoint(5000), 0);
    }

    #[test]
    fn a_damaged_block_is_unknown_and_never_the_older_copy() {
        let mut b = Bench::new();
        b.set(5, 77);
        b.set(TAGS_PER_BLOCK as u64, 70);
        b.checkpoint(2000);
        b.set(5, 88);
        b.checkpoint(3000);
        b.damage(0, 3000);
        for n in 0..4 {
            b.reopen();
            assert!(b.has(5, 0) && b.has(TAGS_PER_BLOCK as u64, 70), "{n}");
            assert_eq!(b.table.damaged(), [0]);
            // A crash before the control file, again and again, must leave a table that can be opened.
            b.set(5, 99);
            b.attempt(4000 + n);
        }
        b.reopen();
        b.set(5, 111);
        b.checkpoint(9000);
        b.reopen();
        assert!(b.has(5, 111) && b.table.damaged().is_empty());
    }

    #[test]
    fn tables_of_other_moments_are_refused() {
        let mut b = Bench::new();
        b.set(5, 77);
        b.checkpoint(2000);
        let whole = |b: &Bench| {
            let file = b.disk.open(VERSIONS, OpenMode::default()).unwrap();
            let mut bytes = vec![0; file.len().unwrap() as usize];
            read_exact_at(&*file, 0, &mut bytes).unwrap();
            bytes
        };
        let old = whole(&b);
        b.set(5, 88);
        b.checkpoint(3000);
        let file = b.disk.open(VERSIONS, OpenMode::default()).unwrap();
        let new = whole(&b);
        file.write_at(0, &old).unwrap();
        assert_eq!(b.open().err().unwrap().kind(), ErrorKind::WrongDatabase);
        file.write_at(0, &new).unwrap();
        b.reopen();
        // The same table under a log that ends before it.
        let e = VersionsFile::open(&b.disk, &b.control, Lsn(3000), PAGES, &b.versions).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::LogBehindPages);
        // A newer table under an older control file.
        let control = b.control.clone();
        for moment in [4000, 5000] {
            b.set(5, moment);
            b.checkpoint(moment);
        }
        b.control = control;
        assert_eq!(b.open().err().unwrap().kind(), ErrorKind::WrongDatabase);
        b.disk.remove(VERSIONS).unwrap();
        assert_eq!(b.open().err().unwrap().kind(), ErrorKind::WrongDatabase);
    }

    #[test]
    fn every_byte_of_a_block_is_guarded() {
        let mut b = [0; BLOCK];
        let db = DbId([3; 16]);
        encode(db, 7, Lsn(500), &[9; TAGS_PER_BLOCK], &mut b);
        assert_eq!(decode(db, 7, &b).unwrap(), Copy::Valid(Lsn(500)));
        assert_eq!(decode(db, 8, &b).unwrap(), Copy::Damaged);
        assert!(decode(DbId([4; 16]), 7, &b).is_err());
        for i in 0..BLOCK {
            b[i] ^= 0x20;
            assert_eq!(decode(db, 7, &b).unwrap(), Copy::Damaged, "byte {i}");
            b[i] ^= 0x20;
        }
    }

    #[test]
    fn a_file_that_is_cut_and_grows_again_forgets() {
        let mut b = Bench::new();
        b.set(PAGES - 1, 50);
        b.checkpoint(2000);
        // Cut to one block, as the control file says, and grown again before the next checkpoint.
        let written = b.table.write(&b.versions, Lsn(3000), 10).unwrap();
        b.control = Control { data_pages: 10, ..control(3000, written.digest) };
        b.table.commit(written);
        b.reopen();
        assert!(b.has(PAGES - 1, 0));
        assert_eq!(b.checkpoint(4000), 2);
        b.reopen();
        assert!(b.has(PAGES - 1, 0));
    }

    fn length(disk: &Arc<dyn Disk>) -> u64 {
        disk.open(VERSIONS, OpenMode::default()).unwrap().len().unwrap()
    }

    /// Room is made for whole blocks, once, and what the file has when it is opened counts.
    #[test]
    fn room_is_made_before_it_is_needed() {
        let pair = 2 * BLOCK as u64;
        let mut b = Bench::new();
        assert_eq!(length(&b.disk), 3 * pair);
        let small = MemDisk::new();
        small.set_capacity(Some(3 * pair));
        let disk: Arc<dyn Disk> = Arc::new(small);
        let mut table = VersionsFile::create(&disk, DbId([3; 16])).unwrap();
        table.reserve(PAGES).unwrap();
        table.reserve(PAGES - 1).unwrap();
        assert_eq!(length(&disk), 3 * pair);
        let e = table.reserve(PAGES + 1).unwrap_err();
        assert_eq!((e.kind(), e.offset()), (ErrorKind::NoSpace, Some(3 * pair)));
        for (pages, blocks) in [(PAGES, 3), (PAGES + 1, 4), (2 * PAGES, 6), (1, 6)] {
            b.table.reserve(pages).unwrap();
            assert_eq!(length(&b.disk), blocks * pair, "{pages}");
            b.reopen();
            assert_eq!(b.table.room, blocks);
        }
    }

    /// A table that is shorter than the control file says has lost blocks, if the data file says that there were so many; else
    /// nothing tells how many blocks there should be.
    #[test]
    fn a_table_that_is_cut_short() {
        let mut b = Bench::new();
        b.set(5, 77);
        b.set(PAGES - 1, 78);
        b.checkpoint(2000);
        let file = b.disk.open(VERSIONS, OpenMode::default()).unwrap();
        file.set_len(2 * 2 * BLOCK as u64).unwrap();
        let open = |present| {
            let versions = PageVersions::default();
            VersionsFile::open(&b.disk, &b.control, END, present, &versions)
                .map(|t| t.damaged().to_vec())
                .map_err(|e| e.kind())
        };
        assert_eq!(open(PAGES), Ok(vec![2]));
        assert_eq!(open(PAGES + 1), Ok(vec![2]));
        let refused = open(PAGES - 1);
        assert_eq!(refused, Err(ErrorKind::WrongDatabase));
        // A data file that is shorter than the control file says is somebody else's trouble if the table is whole.
        file.set_len(3 * 2 * BLOCK as u64).unwrap();
        assert_eq!(open(PAGES - 1), Ok(vec![2]));
    }

    /// More blocks than are read at once.
    #[test]
    fn a_table_of_several_chunks() {
        let per = TAGS_PER_BLOCK as u64;
        let pages = 300 * per;
        let mut b = Bench::new();
        let marks = [0, 127, 128, 129, 255, 256, 299];
        for block in marks {
            b.set(block * per + 9, 1000 + block);
        }
        for moment in [2000, 3000] {
            b.set(7, moment);
            b.table.reserve(pages).unwrap();
            let written = b.table.write(&b.versions, Lsn(moment), pages).unwrap();
            b.control = Control { data_pages: pages, ..control(moment, written.digest) };
            b.table.commit(written);
            let versions = PageVersions::default();
            b.table = VersionsFile::open(&b.disk, &b.control, END, pages, &versions).unwrap();
            b.versions = versions;
            assert!(b.table.damaged().is_empty() && b.has(7, moment));
            for block in marks {
                assert!(b.has(block * per + 9, 1000 + block) && b.has(block * per + 10, 0), "{block}");
            }
        }
    }

    /// The digest is part of the format: the same table has the same one for ever.
    #[test]
    fn the_digest_is_as_it_always_was() {
        let places = |moments: &[u64]| -> Vec<Place> {
            moments.iter().map(|m| Place { copy: 0, moment: Lsn(*m), due: false }).collect()
        };
        assert_eq!(digest(&places(&[])), 0x6861_6d61_6c76_6572);
        assert_eq!(digest(&places(&[4096])), 0x7cfb_5c91_6a91_d87d);
        assert_eq!(digest(&places(&[4096, 0, 0x1234_5678_9abc])), 0x4fd6_a895_ae2a_f527);
        let made = VersionsFile::create(&(Arc::new(MemDisk::new()) as Arc<dyn Disk>), DbId([3; 16])).unwrap();
        assert_eq!(made.digest(), 0x6861_6d61_6c76_6572);
    }
}
