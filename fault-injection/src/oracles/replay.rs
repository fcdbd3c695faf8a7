//! Page replay: every page is rebuilt from a whole-page record and the log, and compared with the page that is stored.
//!
//! The log that is there is read from its oldest segment to its end. For each page that it names, from the page's first
//! whole-page record on (an image or an initialisation), every later record is applied to a copy by the resource manager's
//! own `apply`, which defines what the operation does; all else (order, chain, pageLSN, end of the log) is decided here. On the
//! way
//!
//! * each record must have been made on the pageLSN that the copy has (`former`), so the log has no hole in the page's
//!   history;
//! * each later image must be the copy, byte for byte (`W-IMG`);
//! * when the copy reaches the stored page's pageLSN, it must be the stored page, byte for byte (`BUF-ONE-APPLY`);
//! * the records after that must apply too: the next recovery will need them.
//!
//! Not part of a page are its checksum, its imgLSN (an image is logged after the change that it holds, so it may be newer than
//! pageLSN; it is checked to be the LSN of a whole-page record) and the hole that its manager names.
//!
//! Of the stored page it is checked too that its pageLSN is the LSN of a record of this page and below the log's end,
//! and that a whole-page record from the redo point on covers it, or it is not torn and lacks no record below the redo point
//! (the lemma of rule W, both halves). An allocated page that no record from the redo point on names has the version that
//! the table of page versions notes (`VER-2`).
use super::formats::{self, Block, Control, Judge, Log, PageHeader, Record, Tags, Whole, u64_at};
use crate::engine::{Config, Failure};
use hamal::disk::{Disk, DiskFile};
use hamal::raw::{Applying, ResourceManager, built_in_managers};
use hamal::{Lsn, PageId, TxnId};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// The manager whose pages may be changed by records of others: the space maps.
const SPACE: u8 = 1;
/// First byte of the bits in a map page.
const BITS: usize = 64;

/// Replays every page of the database on `disk`, which nobody has open, and says what is wrong, a sentence each. A disk without
/// a control file has nothing to check.
///
/// # Errors
/// `Damage` if control file or log cannot be read; `Io`.
pub fn audit(disk: Arc<dyn Disk>, config: &Config) -> Result<Vec<String>, Failure> {
    audit_with(disk, config, &[])
}

/// [`audit`] of a database that has access methods of its own. Pages of managers that are not given are not rebuilt.
///
/// # Errors
/// As there.
pub fn audit_with(
    disk: Arc<dyn Disk>,
    config: &Config,
    managers: &[Arc<dyn ResourceManager>],
) -> Result<Vec<String>, Failure> {
    let Some(control) = formats::control(&disk)? else { return Ok(Vec::new()) };
    let log = Log::open(&disk, &control, Judge::Trust)?;
    let Some(data) = formats::open(&disk, "data")? else {
        return Ok(vec!["the data file is missing".into()]);
    };
    let mut ops: Vec<Option<Arc<dyn ResourceManager>>> = vec![None; 256];
    for (id, manager) in built_in_managers() {
        ops[usize::from(id.0)] = Some(manager);
    }
    for (id, name) in &control.managers {
        if let Some(manager) = managers.iter().find(|m| m.name() == name) {
            ops[usize::from(*id)] = Some(manager.clone());
        }
    }
    let tags = Tags::open(&disk, &control)?;
    let mut audit = Audit { images: config.images, control, log, data, tags, ops, findings: Vec::new() };
    audit.run()?;
    Ok(audit.findings)
}

/// A record's block, by their numbers.
type Ref = (usize, usize);

struct Audit {
    images: bool,
    control: Control,
    log: Log,
    data: Arc<dyn DiskFile>,
    tags: Tags,
    ops: Vec<Option<Arc<dyn ResourceManager>>>,
    findings: Vec<String>,
}

/// The stored version of a page.
enum Stored {
    Zero,
    Torn,
    Sound(PageHeader, Vec<u8>),
}

/// The copy of a page while it is rebuilt.
#[derive(Default)]
struct Copy {
    bytes: Vec<u8>,
    /// Whether `bytes` mean anything.
    known: bool,
    /// pageLSN, if any record or image has told it.
    lsn: Option<u64>,
    freed: bool,
    /// Whether it was compared with the stored page.
    compared: bool,
    /// Where it began.
    base: u64,
}

impl Audit {
    fn run(&mut self) -> Result<(), Failure> {
        let mut pages: BTreeMap<u64, Vec<Ref>> = BTreeMap::new();
        for (r, record) in self.log.records.iter().enumerate() {
            for b in record.blocks.clone() {
                pages.entry(self.log.blocks[b].page).or_default().push((r, b));
            }
        }
        let mut maps: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let mut torn = Vec::new();
        for (&page, refs) in &pages {
            let stored = self.stored(page)?;
            if matches!(stored, Stored::Torn) && self.images && !self.is_covered(refs) {
                torn.push(page);
            }
            let is_map = self.is_map(page);
            if let Some(last) = self.replay(page, refs, stored, is_map)
                && is_map
            {
                maps.insert(page, last);
            }
        }
        self.unnamed(&pages, &mut maps, &torn)
    }

    fn page_size(&self) -> u64 {
        self.control.page_size as u64
    }
    /// Pages that one map page speaks of.
    fn map_reach(&self) -> u64 {
        (self.page_size() - BITS as u64) * 8
    }
    fn is_map(&self, page: u64) -> bool {
        page.is_multiple_of(self.map_reach())
    }

    fn stored(&self, page: u64) -> Result<Stored, Failure> {
        let mut bytes = vec![0; self.control.page_size];
        let have = formats::read(&*self.data, "data", page.saturating_mul(self.page_size()), &mut bytes)?;
        Ok(if have < bytes.len() || bytes.iter().all(|b| *b == 0) {
            Stored::Zero
        } else if formats::page_is_sound(&bytes, &self.control.db, page) {
            Stored::Sound(formats::page_header(&bytes), bytes)
        } else {
            Stored::Torn
        })
    }

    fn find(&mut self, page: u64, what: impl std::fmt::Display) {
        self.findings.push(format!("page {page}: {what}"));
    }

    /// Replays one page. Returns its bytes at the end of the log: of map pages also if they can only be had by redoing the
    /// stored version.
    fn replay(&mut self, page: u64, refs: &[Ref], stored: Stored, is_map: bool) -> Option<Vec<u8>> {
        if let Stored::Sound(header, _) = &stored {
            self.check_header(page, refs, header);
        }
        let stored_lsn = match &stored {
            Stored::Zero => Some(0),
            Stored::Torn => None,
            Stored::Sound(header, _) => Some(header.lsn),
        };
        if let Some(lsn) = stored_lsn {
            self.check_lacking(page, refs, lsn);
        }
        let mut copy = Copy::default();
        for &(r, b) in refs {
            let (record, block) = (self.log.records[r].clone(), self.log.blocks[b].clone());
            if is_map
                && !copy.known
                && block.whole == Whole::No
                && let Stored::Sound(header, bytes) = &stored
                && header.lsn == block.former
            {
                // No base, but the allocation bits are wanted: begin with the stored version.
                copy = Copy {
                    bytes: bytes.clone(),
                    known: true,
                    lsn: Some(header.lsn),
                    compared: true,
                    ..Copy::default()
                };
            }
            if let Err(what) = self.step(&record, &block, &mut copy) {
                self.find(page, format_args!("the record at {}: {what}", record.lsn));
                return None;
            }
            if let Stored::Sound(header, bytes) = &stored
                && copy.known
                && !copy.compared
                && copy.lsn == Some(header.lsn)
            {
                copy.compared = true;
                if let Some(at) = self.difference(bytes, &copy.bytes) {
                    let what = format!(
                        "byte {at} is {:#04x}, and {:#04x} as rebuilt from the whole-page record at {} (pageLSN {})",
                        bytes[at], copy.bytes[at], copy.base, header.lsn
                    );
                    self.find(page, what);
                }
            }
        }
        if copy.known {
            return Some(copy.bytes);
        }
        match stored {
            Stored::Sound(header, bytes) if copy.lsn.is_none_or(|l| l == header.lsn) => Some(bytes),
            _ => None,
        }
    }

    /// Carries out one block on the copy.
    fn step(&self, record: &Record, block: &Block, copy: &mut Copy) -> Result<(), String> {
        let payload = self.log.slice(&block.payload);
        if block.whole != Whole::Init && copy.lsn.is_some_and(|l| l != block.former) {
            let lsn = copy.lsn.unwrap_or_default();
            return Err(format!(
                "it was made on pageLSN {}, but the log has brought the page to {lsn}",
                block.former
            ));
        }
        match block.whole {
            Whole::Image => {
                let image = formats::decode_image(payload, self.control.page_size)
                    .ok_or("the image cannot be read")?;
                let header = formats::page_header(&image);
                if header.id != block.page || header.lsn != block.former || header.lsn >= record.lsn {
                    return Err(format!("the image is of page {} at {}", header.id, header.lsn));
                }
                if copy.freed {
                    return Err("an image of a page that is free".into());
                }
                if copy.known {
                    if let Some(at) = self.difference(&image, &copy.bytes) {
                        return Err(format!(
                            "W-IMG: byte {at} of the image is not what the log makes of the page"
                        ));
                    }
                } else {
                    *copy = Copy {
                        bytes: image,
                        known: true,
                        base: record.lsn,
                        compared: copy.compared,
                        ..Copy::default()
                    };
                }
                copy.lsn = Some(header.lsn);
                return Ok(());
            }
            Whole::Free => copy.freed = true,
            Whole::Init => {
                let Some((head, rest)) = payload.split_at_checked(6) else {
                    return Err("the initialisation is too short".into());
                };
                let mut bytes = vec![0; self.control.page_size];
                bytes[4..6].copy_from_slice(&head[..2]);
                bytes[8..16].copy_from_slice(&block.page.to_le_bytes());
                bytes[32..36].copy_from_slice(&head[2..]);
                let known = self.apply(record, block, rest, &mut bytes)?;
                *copy = Copy { bytes, known, base: record.lsn, compared: copy.compared, ..Copy::default() };
            }
            Whole::No if copy.freed => return Err("a change of a page that is free".into()),
            Whole::No if copy.known => copy.known = self.apply(record, block, payload, &mut copy.bytes)?,
            Whole::No => {}
        }
        copy.lsn = Some(record.lsn);
        if copy.known {
            copy.bytes[16..24].copy_from_slice(&record.lsn.to_le_bytes());
        }
        Ok(())
    }

    /// Whether the operation's manager is known; applies it.
    fn apply(&self, record: &Record, block: &Block, payload: &[u8], page: &mut [u8]) -> Result<bool, String> {
        let owner = page[4];
        if owner != record.rm && owner != SPACE {
            return Err(format!("a record of manager {} changes a page of manager {owner}", record.rm));
        }
        let Some(ops) = &self.ops[usize::from(owner)] else { return Ok(false) };
        let at = Applying { lsn: Lsn(record.lsn), txn: TxnId(record.txn), page: PageId(block.page) };
        ops.apply(&at, block.op, payload, page).map_err(|e| format!("it cannot be applied: {}", e.0))?;
        Ok(true)
    }

    fn hole(&self, page: &[u8]) -> Range<usize> {
        let hole = self.ops[usize::from(page[4])].as_ref().map_or(0..0, |ops| ops.hole(page));
        if hole.start >= 40 && hole.start < hole.end && hole.end <= page.len() { hole } else { 40..40 }
    }

    /// The first byte in which two versions of a page differ, apart from what is not part of the page.
    fn difference(&self, a: &[u8], b: &[u8]) -> Option<usize> {
        let hole = self.hole(b);
        for part in [4..24, 32..hole.start, hole.end..b.len()] {
            if a[part.clone()] != b[part.clone()] {
                return part.into_iter().find(|i| a[*i] != b[*i]);
            }
        }
        None
    }

    /// pageLSN and imgLSN of a stored page: LSNs of records of this page, below the end.
    fn check_header(&mut self, page: u64, refs: &[Ref], header: &PageHeader) {
        let (start, end) = (self.log.start, self.log.end);
        if header.lsn.max(header.img) >= end {
            let what =
                format!("pageLSN {} or imgLSN {} is beyond the log's end {end}", header.lsn, header.img);
            return self.find(page, what);
        }
        let log = &self.log;
        let is = |lsn: u64, whole: &dyn Fn(Whole) -> bool| {
            lsn < start || refs.iter().any(|(r, b)| log.records[*r].lsn == lsn && whole(log.blocks[*b].whole))
        };
        let (by_change, by_whole) =
            (is(header.lsn, &|w| w != Whole::Image), is(header.img, &|w| w != Whole::No));
        if !by_change {
            self.find(page, format_args!("pageLSN {} is the LSN of no record of this page", header.lsn));
        }
        if !by_whole {
            self.find(
                page,
                format_args!("imgLSN {} is the LSN of no whole-page record of this page", header.img),
            );
        }
    }

    /// Whether redo starts the page at a whole-page record: what is stored does not matter then.
    fn is_covered(&self, refs: &[Ref]) -> bool {
        let redo = self.control.redo;
        refs.iter().any(|(r, b)| self.log.blocks[*b].whole != Whole::No && self.log.records[*r].lsn >= redo)
    }

    /// The lemma of rule W, second half: what a stored page lacks is in reach of redo, unless the page was freed, or redo
    /// starts it at a whole-page record.
    fn check_lacking(&mut self, page: u64, refs: &[Ref], stored: u64) {
        if self.is_covered(refs) {
            return;
        }
        let (log, redo) = (&self.log, self.control.redo);
        let changes = || refs.iter().map(|(r, b)| (&log.records[*r], &log.blocks[*b]));
        let freed = changes().filter(|(_, b)| b.whole == Whole::Free).map(|(r, _)| r.lsn).max().unwrap_or(0);
        if let Some((r, _)) =
            changes().find(|(r, b)| b.whole != Whole::Image && r.lsn > stored.max(freed) && r.lsn < redo)
        {
            let what = format!(
                "W: pageLSN {stored} lacks the record at {}, which is below the redo point {redo}",
                r.lsn
            );
            return self.find(page, what);
        }
        if let Some((_, first)) = changes().next()
            && freed == 0
            // A page made anew in place names its predecessor, and needs nothing of it.
            && first.whole != Whole::Init
            && stored < first.former
            && first.former < self.log.start.min(redo)
        {
            let what = format!(
                "W: pageLSN {stored} lacks the record at {}, which the log no longer has",
                first.former
            );
            self.find(page, what);
        }
    }

    /// Pages that are allocated and that the log does not name; and of the torn ones, those that are allocated.
    fn unnamed(
        &mut self,
        named: &BTreeMap<u64, Vec<Ref>>,
        maps: &mut BTreeMap<u64, Vec<u8>>,
        torn: &[u64],
    ) -> Result<(), Failure> {
        let reach = self.map_reach();
        let mut number = 0;
        let mut count = 1;
        while number < count {
            let id = number * reach;
            let map = match maps.remove(&id) {
                Some(map) => map,
                None if named.contains_key(&id) => return Ok(()), // it cannot be told what is allocated
                None => match self.stored(id)? {
                    Stored::Sound(_, bytes) => bytes,
                    _ => {
                        self.find(id, "a map page is neither stored whole nor in the log");
                        return Ok(());
                    }
                },
            };
            if number == 0 {
                count = u64_at(&map, 40);
            }
            for (i, byte) in map[BITS..].iter().enumerate().filter(|(_, b)| **b != 0) {
                for bit in (0..8).filter(|bit| byte & (1 << bit) != 0) {
                    self.allocated(id + i as u64 * 8 + bit, named, torn)?;
                }
            }
            number += 1;
        }
        Ok(())
    }

    fn allocated(&mut self, page: u64, named: &BTreeMap<u64, Vec<Ref>>, torn: &[u64]) -> Result<(), Failure> {
        let redo = self.control.redo;
        let refs = named.get(&page);
        if torn.contains(&page) {
            let what = format!("W: it is torn, and the log has no image of it from the redo point {redo} on");
            self.find(page, what);
            return Ok(());
        }
        if refs.is_some_and(|refs| refs.iter().any(|(r, _)| self.log.records[*r].lsn >= redo)) {
            return Ok(());
        }
        let mut front = [0; 40];
        let have = formats::read(&*self.data, "data", page.saturating_mul(self.page_size()), &mut front)?;
        let header = formats::page_header(&front);
        if have < front.len() || header.id != page || header.lsn == 0 {
            self.find(page, "it is allocated, but neither stored nor in reach of redo");
            return Ok(());
        }
        if refs.is_none() {
            self.check_header(page, &[], &header);
        }
        if let Some(tag) = self.tags.of(page)?
            && tag != formats::tag_of(header.lsn)
        {
            let lsn = header.lsn;
            self.find(
                page,
                format_args!("VER-2: pageLSN {lsn} is not what the table of page versions notes"),
            );
        }
        Ok(())
    }
}
