//! The rules of write order, checked on the disk while the engine runs.
//!
//! A crash shows a broken order only if it falls into the right moment and loses the right sectors. This watch sees every write,
//! sync and rename before it is done, and objects to the order itself. It takes what the engine writes to the log apart, so
//! that it knows which group holds which record and which pages a record names; what lies on the disk from before is taken as
//! found, durable and right.
//!
//! | rule | objection if |
//! |---|---|
//! | `W-3` | a page is written before the group that holds the record at its pageLSN, or its image, is synced |
//! | `W-1` | with images: a page is written whose imgLSN lies below the redo point of the newest durable checkpoint, or is no image |
//! | `T2` | with images: before its first checkpoint a process logs an image of a page whose durable version has one at or above the redo point |
//! | `LOG-1` | a group is written before the one before it is synced |
//! | `LOG-2` | a group does not start where the one before ends: a sector of a durable record would be written again, or never |
//! | `LOG-8` | the log enters a segment whose name or header is not durable, a live segment's header is written, or the segment goes that follows that of the tail |
//! | `CKP-2` | a redo point passes a change that the durable version of its page lacks, and no whole-page record from there on has it |
//! | `CKP-3` | a slot of the control file is written while a page write waits for its sync |
//! | `CKP-4` | ... before the log that it calls durable is |
//! | `CKP-5` | a log segment goes that a durable slot needs; a slot gives up the first record of a live transaction |
//! | `CKP-6` | the control file gets its name before it, the data file and the log are durable |
//! | `CKP-5` | a slot is written while the other one is not durable, or is not its predecessor |
//! | `CKP-7` | the table of page versions is written before the log reaches beyond its moment, or a slot before the table is durable |
//! | `VER-4` | a copy of a block of that table is written over though no other copy counts for the durable checkpoint |
//! | `T44` | after a process died, the log goes on, or what was found is shown, before each log segment and the control file that the dead one left not synced is synced |
//! | `D1` | a commit is acknowledged while something that was written to the log is not synced |
//!
//! `CKP-3` is stricter than what correctness demands of an engine with many threads; with one thread no page is
//! written between a checkpoint's sync of the data file and its control file. With a disk that lies about syncs the watch
//! objects to an innocent engine: do not use it there.
use super::formats::{self, Control, Fields, HEADER, SLOT, Whole, kind, page_header, segment_of, u64_at};
use crate::engine::Config;
use crate::sim::{Act, Durable, IoEvent, Watch};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// A group of log records, and where it was written.
#[derive(Debug)]
struct Group {
    start: u64,
    end: u64,
    parts: Vec<(String, Range<u64>)>,
    synced: bool,
}

/// What the log says about a page since the watch began.
#[derive(Debug, Default)]
struct PageLog {
    /// Its newest whole-page record.
    whole: u64,
    /// Its changes since it was made or freed: LSNs, ascending.
    changes: Vec<u64>,
}

/// A slot of the control file.
#[derive(Debug, Default)]
struct Slot {
    durable: Option<Control>,
    /// What was written and may not be durable yet.
    written: Option<Control>,
}

/// The rules of hamal.
#[derive(Debug)]
pub struct HamalWatch {
    page_size: u64,
    images: bool,
    groups: Vec<Group>,
    /// Groups before this one are synced.
    synced: usize,
    /// The group that is being written: its first LSN, what there is of it, where that lies.
    current: Vec<u8>,
    current_at: u64,
    current_parts: Vec<(String, Range<u64>)>,
    /// The end of the last byte written to the log.
    written_end: Option<u64>,
    pages: BTreeMap<u64, PageLog>,
    /// Transactions with a record in the log and no end.
    live: BTreeSet<u64>,
    /// Writes to the data file that may wait for a sync.
    data: Vec<Range<u64>>,
    /// The same of the table of page versions.
    versions: Vec<Range<u64>>,
    slots: Option<[Slot; 2]>,
    /// Segments whose name and header were found durable.
    entered: BTreeSet<u64>,
    /// The segments that had a name before a rename that may have taken one: the event names only where a file goes.
    named: Option<Vec<u64>>,
    /// Whether a checkpoint has begun in this process.
    begun: bool,
    /// Log segments and control file that the process before left in the cache, and this one has not synced yet.
    inherited: BTreeSet<String>,
}

impl HamalWatch {
    /// A watch for a database of this set-up that is about to be made or opened.
    #[expect(clippy::new_ret_no_self, reason = "a watch is only ever used behind the trait")]
    pub fn new(config: &Config) -> Box<dyn Watch> {
        Box::new(HamalWatch::of(u64::from(config.page_size), config.images))
    }

    fn of(page_size: u64, images: bool) -> HamalWatch {
        HamalWatch {
            page_size,
            images,
            groups: Vec::new(),
            synced: 0,
            current: Vec::new(),
            current_at: 0,
            current_parts: Vec::new(),
            written_end: None,
            pages: BTreeMap::new(),
            live: BTreeSet::new(),
            data: Vec::new(),
            versions: Vec::new(),
            slots: None,
            entered: BTreeSet::new(),
            named: None,
            begun: false,
            inherited: BTreeSet::new(),
        }
    }
}

/// The name of the control file: it is made under another one.
fn control_name(disk: &Durable<'_>) -> &'static str {
    if disk.names().iter().any(|n| n == "control") { "control" } else { "control.new" }
}

fn segments(disk: &Durable<'_>) -> Vec<u64> {
    let names = disk.names();
    let mut all: Vec<u64> =
        names.iter().filter_map(|n| n.strip_prefix("wal/").and_then(segment_of)).collect();
    all.sort_unstable();
    all
}

impl Watch for HamalWatch {
    fn before(&mut self, event: &IoEvent, data: &[u8], disk: &Durable<'_>) -> Option<String> {
        let renamed = self.renamed(disk);
        let name = &*event.name;
        let segment = name.strip_prefix("wal/").and_then(segment_of);
        let objection = match (event.site.act, segment, name) {
            (Act::Write, Some(first), _) => {
                let relied = self.relied("the log goes on", disk);
                relied.or(self.log_write(first, event, data, disk))
            }
            (Act::Sync, ..) => {
                self.inherited.remove(name);
                None
            }
            (Act::Remove, Some(first), _) => self.release(first, &segments(disk), disk),
            (Act::Rename, None, _) if name.starts_with("wal/") => {
                self.named = Some(segments(disk));
                None
            }
            (Act::Write, None, "data") => self.data_write(event.range.start, data, disk),
            (Act::SetLen, None, "data") => {
                // What is cut off need not become durable any more.
                self.data.iter_mut().for_each(|w| w.end = w.end.min(event.range.end));
                self.data.retain(|w| !w.is_empty());
                None
            }
            (Act::Write, None, "versions") => self.versions_write(event.range.start, data, disk),
            (Act::Write, None, "control" | "control.new") => {
                self.control_write(event.range.start, data, disk)
            }
            (Act::Rename, None, "control") => self.birth(disk),
            _ => None,
        };
        renamed.or(objection)
    }

    /// What lies on the disk is taken as found, but for what the log says of pages and transactions, which stays true. A page
    /// that the dead process wrote and did not sync may wait longer than until the next checkpoint (CKP-3 is for the writes of
    /// one process): the new one has it as dirty, and CKP-2 sees to it that the log keeps what the durable version lacks.
    fn restarted(&mut self, disk: &Durable<'_>) {
        let fresh = HamalWatch::of(self.page_size, self.images);
        let HamalWatch { pages, live, .. } = std::mem::replace(self, fresh);
        (self.pages, self.live) = (pages, live);
        let relied = |n: &String| n == "control" || n.strip_prefix("wal/").and_then(segment_of).is_some();
        let names = disk.names().into_iter();
        self.inherited = names.filter(|n| relied(n) && !disk.is_settled(n)).collect();
    }

    fn acknowledged(&mut self, disk: &Durable<'_>) -> Option<String> {
        let relied = self.relied("what was found is shown", disk);
        relied.or_else(|| {
            let lsn = self.unsynced(u64::MAX, disk)?;
            Some(format!("D1: a commit is acknowledged, and the log from {lsn} on is not synced"))
        })
    }
}

impl HamalWatch {
    /// Something relies on what was found: it must not be in the cache alone.
    fn relied(&mut self, what: &str, disk: &Durable<'_>) -> Option<String> {
        let names = disk.names();
        let name = std::mem::take(&mut self.inherited).into_iter().find(|n| names.contains(n))?;
        Some(format!("T44: {what}, and {name}, which a dead process wrote, has not been synced since"))
    }

    /// The start of the first group below `to` that is not synced.
    fn unsynced(&mut self, to: u64, disk: &Durable<'_>) -> Option<u64> {
        while let Some(g) = self.groups.get_mut(self.synced) {
            g.synced = g.parts.iter().all(|(name, range)| disk.is_synced(name, range.clone()));
            if !g.synced {
                return (g.start < to).then_some(g.start);
            }
            self.synced += 1;
        }
        (!self.current.is_empty() && self.current_at < to).then_some(self.current_at)
    }

    // ---- the log ----

    fn log_write(&mut self, first: u64, event: &IoEvent, data: &[u8], disk: &Durable<'_>) -> Option<String> {
        let Some(offset) = event.range.start.checked_sub(HEADER) else {
            return Some(format!("LOG-8: the header of the live segment {} is written", event.name));
        };
        let at = first + offset;
        if let Some(end) = self.written_end
            && at != end
        {
            return Some(format!("LOG-2: the log was written up to {end}, and is now written from {at} on"));
        }
        if self.written_end.is_none()
            && let Some(proven) = self.newest(disk).map(|c| c.end).filter(|end| at < *end)
        {
            return Some(format!(
                "LOG-2: the log is durable up to {proven}, and is now written from {at} on"
            ));
        }
        if self.current.is_empty() {
            if let Some(lsn) = self.unsynced(u64::MAX, disk) {
                return Some(format!(
                    "LOG-1: a group is written at {at}, and the one at {lsn} is not synced"
                ));
            }
            self.current_at = at;
        }
        let mut objection = None;
        if self.entered.insert(first) {
            let header = disk.read(&event.name, 0..48);
            if header.is_none_or(|h| h.len() < 48 || u64_at(&h, 32) != first) {
                objection = Some(format!(
                    "LOG-8: the log enters {}, whose name or header is not durable",
                    event.name
                ));
            }
        }
        self.written_end = Some(at + data.len() as u64);
        self.current.extend_from_slice(data);
        self.current_parts.push((event.name.to_string(), event.range.clone()));
        objection.or(self.end_group(disk))
    }

    /// If the group that is being written has its seal, takes it apart.
    fn end_group(&mut self, disk: &Durable<'_>) -> Option<String> {
        let bytes = &self.current;
        let seal = bytes.len().checked_sub(48).map(|i| &bytes[i..])?;
        let end = self.current_at + bytes.len() as u64;
        if &seal[..8] != b"\0hamSEAL" || u64_at(seal, 8) + 48 != end || u64_at(seal, 16) != self.current_at {
            return None;
        }
        let bytes = std::mem::take(&mut self.current);
        let mut at = 0;
        let mut blocks = Vec::new();
        let mut images = Vec::new();
        while bytes[at] != 0 {
            let mut length = Fields(&bytes[at..]);
            let Some(n) = length.size().filter(|n| *n >= 8 && at + n < bytes.len()) else { break };
            let body = bytes.len() - at - length.0.len() + 4;
            let lsn = self.current_at + at as u64;
            blocks.clear();
            if let Some(record) = formats::parse(&bytes[at..at + n], body, lsn, at, &mut blocks) {
                match record.kind {
                    kind::CHECKPOINT_BEGIN => self.begun = true,
                    kind::COMMIT | kind::END => drop(self.live.remove(&record.txn)),
                    _ if record.txn != 0 => drop(self.live.insert(record.txn)),
                    _ => {}
                }
                for b in &blocks {
                    if b.whole == Whole::Image && !self.begun {
                        images.push((b.page, lsn));
                    }
                    let page = self.pages.entry(b.page).or_default();
                    if matches!(b.whole, Whole::Init | Whole::Free) {
                        page.changes.clear();
                    }
                    if b.whole != Whole::No {
                        page.whole = lsn;
                    }
                    if matches!(b.whole, Whole::No | Whole::Init) {
                        page.changes.push(lsn);
                    }
                }
            }
            at += n;
        }
        let parts = std::mem::take(&mut self.current_parts);
        self.groups.push(Group { start: self.current_at, end, parts, synced: false });
        images.into_iter().find_map(|(page, lsn)| self.imaged_again(page, lsn, disk))
    }

    /// Until the first checkpoint of a process the one before it counts. Recovery cut off, and begun anew however often, logs one
    /// image of each page for that, or the log grows without bound.
    fn imaged_again(&mut self, page: u64, lsn: u64, disk: &Durable<'_>) -> Option<String> {
        let newest = self.newest(disk)?;
        let (redo, db) = (newest.redo, newest.db);
        let bytes = disk.read("data", page * self.page_size..(page + 1) * self.page_size)?;
        let sound = bytes.len() as u64 == self.page_size && formats::page_is_sound(&bytes, &db, page);
        let img = page_header(&bytes).img;
        (sound && img >= redo).then(|| {
            format!("T2: an image of page {page} is logged at {lsn}, and that at {img} is not below the redo point {redo}")
        })
    }

    /// After a rename: whether it took a segment's name.
    fn renamed(&mut self, disk: &Durable<'_>) -> Option<String> {
        let before = self.named.take()?;
        let now = segments(disk);
        let gone = before.iter().find(|s| now.binary_search(s).is_err())?;
        self.release(*gone, &before, disk)
    }

    /// A segment loses its name. (There was no gap behind it, or what was in the gap has been released before.)
    fn release(&mut self, first: u64, segments: &[u64], disk: &Durable<'_>) -> Option<String> {
        // The newest may go as long as it is not the one after that of the tail.
        if let [.., before, newest] = segments
            && *newest == first
        {
            let ends = self.controls(disk).iter().filter_map(|s| s.durable.as_ref()).map(|c| c.end).max();
            let tail = self.groups.last().map(|g| g.end).max(ends)?;
            return (*before <= tail).then(|| {
                format!("LOG-8: the segment at {first} is removed, which follows that of the tail at {tail}")
            });
        }
        let keep =
            self.controls(disk).iter().filter_map(|s| s.durable.as_ref()).map(|c| c.keep_from).min()?;
        match segments.get(segments.partition_point(|s| *s <= first)) {
            Some(end) if *end <= keep => None,
            _ => Some(format!(
                "CKP-5: the segment at {first} is released, and a durable slot of the control file needs the log from {keep} on"
            )),
        }
    }

    // ---- pages ----

    fn data_write(&mut self, offset: u64, data: &[u8], disk: &Durable<'_>) -> Option<String> {
        self.data.push(offset..offset + data.len() as u64);
        let redo = if self.images { self.newest(disk).map(|c| c.redo) } else { None };
        let seen_from = self.groups.first().map_or(u64::MAX, |g| g.start);
        let mut objection = None;
        for (i, page) in data.chunks_exact(self.page_size as usize).enumerate() {
            let header = page_header(page);
            let id = offset / self.page_size + i as u64;
            let newest = header.lsn.max(header.img);
            let what = if header.id != id {
                format!("BUF-XLAT: page {} is written to the place of page {id}", header.id)
            } else if self.groups.last().is_some_and(|g| newest >= g.end)
                || (newest >= seen_from && self.unsynced(newest + 1, disk).is_some())
            {
                format!("W-3: page {id} has seen LSN {newest}, and the log is not synced so far")
            } else if redo.is_some_and(|r| header.img < r) {
                let redo = redo.unwrap_or_default();
                format!(
                    "W-1: page {id} is written, and its newest image, at {}, lies below the redo point {redo}",
                    header.img
                )
            } else if self.images
                && header.img >= seen_from
                && self.pages.get(&id).is_none_or(|p| p.whole != header.img)
            {
                format!("W-1: page {id} names {} as its newest image, which it is not", header.img)
            } else {
                continue;
            };
            objection.get_or_insert(what);
        }
        objection
    }

    /// Whether every page write is durable.
    fn data_synced(&mut self, disk: &Durable<'_>) -> bool {
        self.data.retain(|range| !disk.is_synced("data", range.clone()));
        self.data.is_empty()
    }

    // ---- the table of page versions ----

    fn versions_write(&mut self, offset: u64, data: &[u8], disk: &Durable<'_>) -> Option<String> {
        self.versions.push(offset..offset + data.len() as u64);
        let (begin, pages) = self.newest(disk).map(|c| (c.begin, c.data_pages))?;
        // Blocks behind these are left from a time when the data file was longer: none of their copies counts.
        let blocks = pages.div_ceil(formats::BLOCK_PAGES);
        for (i, block) in data.chunks_exact(SLOT).enumerate() {
            let Some(new) = formats::block_moment(block) else { continue };
            if self.written_end.is_some_and(|end| new >= end) || self.unsynced(new + 1, disk).is_some() {
                return Some(format!(
                    "CKP-7: the table of page versions is written at moment {new}, to which the log is not synced"
                ));
            }
            let at = offset + (i * SLOT) as u64;
            if at / (2 * SLOT as u64) >= blocks {
                continue;
            }
            let copy = |at: u64| disk.read("versions", at..at + SLOT as u64).unwrap_or_default();
            let counts = |b: &[u8]| formats::block_moment(b).filter(|m| *m <= begin);
            let (here, other) = (copy(at), copy(at ^ SLOT as u64));
            // A damaged copy explains a digest that differs: then the sound one is written over.
            let damaged = formats::block_moment(&other).is_none() && other.iter().any(|b| *b != 0);
            if counts(&here).is_some() && counts(&here) > counts(&other) && !damaged {
                return Some(format!(
                    "VER-4: the copy at {at} of the table of page versions counts, and is written over"
                ));
            }
        }
        None
    }

    // ---- the control file ----

    /// The slots, brought up to date.
    fn controls(&mut self, disk: &Durable<'_>) -> &mut [Slot; 2] {
        let slots = self.slots.get_or_insert_with(|| {
            let bytes = disk.read("control", 0..2 * SLOT as u64).unwrap_or_default();
            let slot = |i: usize| bytes.get(i * SLOT..(i + 1) * SLOT).and_then(Control::decode);
            [0, 1].map(|i| Slot { durable: slot(i), written: None })
        });
        for (i, slot) in slots.iter_mut().enumerate() {
            let range = (i * SLOT) as u64..((i + 1) * SLOT) as u64;
            if slot.written.is_some() && disk.is_synced(control_name(disk), range) {
                slot.durable = slot.written.take();
            }
        }
        slots
    }
    /// The newest durable slot.
    fn newest(&mut self, disk: &Durable<'_>) -> Option<&Control> {
        self.controls(disk).iter().filter_map(|s| s.durable.as_ref()).max_by_key(|c| c.sequence)
    }

    fn control_write(&mut self, offset: u64, data: &[u8], disk: &Durable<'_>) -> Option<String> {
        let mut objection = None;
        let (first, both) = (offset as usize / SLOT, data.len() == 2 * SLOT);
        if !(offset as usize).is_multiple_of(SLOT)
            || !data.len().is_multiple_of(SLOT)
            || first + data.len() / SLOT > 2
        {
            return Some("CKP-5: the control file is written beside its slots".into());
        }
        for (i, bytes) in data.chunks_exact(SLOT).enumerate() {
            let Some(new) = Control::decode(bytes) else {
                return Some("CKP-5: a slot of the control file is written that is no slot".into());
            };
            if !both {
                let what = self.check_slot(first + i, &new, disk);
                objection = objection.or(what);
            }
            self.controls(disk)[first + i].written = Some(new);
        }
        objection
    }

    fn check_slot(&mut self, slot: usize, new: &Control, disk: &Durable<'_>) -> Option<String> {
        let other = &self.controls(disk)[1 - slot];
        match (&other.durable, &other.written) {
            (Some(c), None) if c.sequence + 1 == new.sequence => {}
            _ => {
                let n = new.sequence;
                return Some(format!(
                    "CKP-5: slot {slot} gets sequence {n}, and the other one does not hold {} durably",
                    n - 1
                ));
            }
        }
        let written = self.written_end.is_none_or(|end| new.end <= end);
        if !written || self.unsynced(new.end, disk).is_some() {
            return Some(format!(
                "CKP-4: the control file calls the log durable up to {}, and it is not",
                new.end
            ));
        }
        if !self.data_synced(disk) {
            return Some(format!(
                "CKP-3: the control file gets the redo point {}, and page writes wait for a sync",
                new.redo
            ));
        }
        self.versions.retain(|range| !disk.is_synced("versions", range.clone()));
        if !self.versions.is_empty() {
            return Some(
                "CKP-7: the control file is written, and the table of page versions waits for a sync".into(),
            );
        }
        if new.keep_from > new.redo || new.redo > new.begin {
            return Some(format!(
                "CKP-2: redo point {}, kept from {}, begun at {}",
                new.redo, new.keep_from, new.begin
            ));
        }
        if let Some(txn) = self.live.first().filter(|txn| **txn < new.keep_from) {
            return Some(format!(
                "CKP-5: the log is kept from {} on, and transaction {txn} has not ended",
                new.keep_from
            ));
        }
        self.check_redo_point(new.redo, disk)
    }

    /// The lemma of rule W: the pages that redo does not start at a whole-page record hold everything below the redo point.
    fn check_redo_point(&mut self, redo: u64, disk: &Durable<'_>) -> Option<String> {
        for (id, page) in &mut self.pages {
            let below = page.changes.partition_point(|lsn| *lsn < redo);
            let Some(last) = below.checked_sub(1).map(|i| page.changes[i]) else { continue };
            if page.whole >= redo {
                continue;
            }
            let offset = id * self.page_size;
            let front = disk.read("data", offset..offset + 40).unwrap_or_default();
            let stored = u64_at(&front, 16);
            if stored < last {
                let what =
                    format!("page {id} is durable with pageLSN {stored}, and lacks the record at {last}");
                return Some(format!("CKP-2: the redo point becomes {redo}, but {what}"));
            }
            // What is durable stays so.
            page.changes.drain(..below);
        }
        None
    }

    /// The control file gets its name.
    fn birth(&mut self, disk: &Durable<'_>) -> Option<String> {
        let control = disk.is_synced("control.new", 0..2 * SLOT as u64);
        if control && self.data_synced(disk) && self.unsynced(u64::MAX, disk).is_none() {
            return None;
        }
        Some("CKP-6: the control file gets its name before it, the data file and the log are durable".into())
    }
}
