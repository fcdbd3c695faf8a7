//! Analysis: one forward pass that rebuilds the two tables as they were at the end of the log.
//!
//! From the redo point R on it notes, page by page, which records name the page (redo needs them, and looks for
//! whole-page records from R on, whatever recLSN says: T42). From the begin-checkpoint record B on it follows the
//! transactions and the dirty pages; the checkpoint's own tables, which speak of a moment after B, are merged in at its
//! end record, and never override what was seen after B (T6: ended stays ended, the newer lastLSN wins).

use crate::ProgressFn;
use crate::restart::step;
use crate::table::{IdMap, Numbers};
use hamal_checkpoint::{CheckpointData, CheckpointEnd, Chunk, Control};
use hamal_error::{Error, ErrorKind, Result};
use hamal_log::{BlockView, LogReader, RecordKind, RecordView, Whole};
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::{Lsn, PageId, TxnId};
use hamal_trace::{Event, Phase, SkipReason, Trace};
use hamal_txn::AttEntry;
use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

/// What redo has to do for one page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageRedo {
    /// recLSN: from the checkpoint's dirty page table, or the first record after B; null if the page is in no table.
    pub rec: Lsn,
    /// The newest whole-page record in [R, end], and what it is.
    pub whole: Option<(Lsn, Whole)>,
    /// Where [`Analysis::records`] has the records that name the page in [R, end], from the newest whole-page record on.
    records: Range<usize>,
    /// Bytes of these records in the log: what redo will have in memory at once.
    pub bytes: u64,
    /// The pageLSN that the page has after all of them; null if it is free then.
    pub last: Lsn,
    /// Records before the newest whole-page record: only counted.
    pub superseded: u64,
}

/// The result of analysis.
#[derive(Clone, Debug, Default)]
pub struct Analysis {
    /// Every page named in [R, end].
    pub pages: BTreeMap<PageId, PageRedo>,
    /// The records of all of them: page by page, and of each page in the order of the log.
    lsns: Vec<Lsn>,
    /// Transactions that had not ended, as of the end of the log.
    pub losers: Vec<AttEntry>,
    /// Records read.
    pub records: u64,
    /// Whether anything but its own records follows the begin of the checkpoint that analysis started from.
    pub needs_checkpoint: bool,
}

impl Analysis {
    /// The records that name the page in [R, end], from the newest whole-page record on.
    pub fn records(&self, page: &PageRedo) -> &[Lsn] {
        &self.lsns[page.records.clone()]
    }
    /// Pages that redo has to look at.
    pub fn dirty_pages(&self) -> u64 {
        self.pages.values().filter(|p| !p.rec.is_null()).count() as u64
    }
    /// Whether the log ends with a checkpoint whose tables are empty.
    pub fn is_clean(&self) -> bool {
        !self.needs_checkpoint && self.losers.is_empty() && self.dirty_pages() == 0
    }
}

/// The active transaction table while it is rebuilt.
#[derive(Default)]
struct TransactionTable {
    live: IdMap<TxnId, AttEntry>,
    /// Ended after B: an entry of the checkpoint's table does not revive them. Kept until that table has been merged.
    ended: HashSet<TxnId>,
    merged: bool,
}

impl TransactionTable {
    fn see(&mut self, r: &RecordView<'_>, trace: &Trace) {
        let end = |t: &mut Self, why| {
            t.live.remove(&r.txn);
            if !t.merged {
                t.ended.insert(r.txn);
            }
            trace.emit(|| Event::AttDelete { txn: r.txn, why });
        };
        match r.kind {
            RecordKind::Commit if mutants::is(Mutant::CommitLeavesLoser) => {}
            RecordKind::Commit => end(self, "commit"),
            RecordKind::End => end(self, "end"),
            _ => {
                let e = self.live.entry(r.txn).or_insert(AttEntry {
                    txn: r.txn,
                    last: r.lsn,
                    undo_next: r.lsn,
                    undo_reserve: 0,
                });
                e.last = r.lsn;
                if r.kind == RecordKind::Clr && mutants::is(Mutant::ClrRepeated) {
                    return;
                }
                // A CLR's prev is undoNextLSN: what it compensates is not undone again. One that leaves parts of its record says
                // how many, so undo has to come by it (TXN-PARTS).
                e.undo_next = match r.kind {
                    RecordKind::Clr if r.undo().is_some_and(|left| !left.is_empty()) => r.lsn,
                    RecordKind::Clr | RecordKind::DummyClr => r.prev,
                    _ => r.lsn,
                };
                let e = *e;
                trace.emit(|| Event::AttSet { txn: e.txn, last: e.last, undo_next: e.undo_next });
            }
        }
    }

    fn merge(&mut self, entry: AttEntry, trace: &Trace) {
        let txn = entry.txn;
        if self.ended.contains(&txn) && !mutants::is(Mutant::EndedRevived) {
            trace.emit(|| Event::AttKept { txn, why: "already ended, not revived" });
            return;
        }
        if self.live.get(&txn).is_some_and(|seen| seen.last >= entry.last) {
            trace.emit(|| Event::AttKept { txn, why: "newer seen" });
            return;
        }
        self.live.insert(txn, entry);
        trace.emit(|| Event::AttSet { txn, last: entry.last, undo_next: entry.undo_next });
    }
}

/// Reads the log from R to `end`.
///
/// # Errors
/// `LogCorrupt` if a record cannot be read, or if the checkpoint that the control file names is not whole.
pub fn analyse(
    reader: &mut LogReader,
    control: &Control,
    end: Lsn,
    trace: &Trace,
    progress: &mut ProgressFn<'_>,
) -> Result<Analysis> {
    let (from, begin) = (control.redo, control.checkpoint_begin);
    reader.go_through(from);
    let mut pass = Pass { from, begin, ..Pass::new(trace) };
    let mut at = if mutants::is(Mutant::RedoFromBegin) { begin } else { from };
    let mut next_report = from.0;
    while at < end {
        if mutants::is(Mutant::LogEndCutShort) && pass.complete.is_some() && is_last(reader, at, end)? {
            break;
        }
        let Some(r) = reader.view(at)? else { break };
        at = r.end;
        if r.lsn.0 >= next_report {
            step(progress, Phase::Analysis, r.lsn.0 - from.0, end.0 - from.0)?;
            next_report = r.lsn.0 + (4 << 20);
        }
        pass.see(&r)?;
    }
    pass.finish()
}

/// Whether no record follows the one at `at`.
fn is_last(reader: &mut LogReader, at: Lsn, end: Lsn) -> Result<bool> {
    let Some(r) = reader.read(at)? else { return Ok(false) };
    Ok(reader.read(r.end)?.is_none_or(|next| next.lsn >= end))
}

/// Of a page, what every record that names it changes: small, because they come in any order of pages.
#[derive(Clone, Copy, Default)]
struct SoFar {
    rec: Lsn,
    last: Lsn,
    bytes: u64,
    /// Entries of the list before this one are superseded.
    from: usize,
    /// Entries from there on.
    count: usize,
}

/// The rest.
struct Seldom {
    page: PageId,
    whole: Option<(Lsn, Whole)>,
    superseded: u64,
}

/// The pages that were named, and by which records: one list in the order of the log, which is sorted by page at the end. (A
/// list of its own for each page would be made longer again and again, all over the memory.)
#[derive(Default)]
struct Pages {
    numbers: Numbers,
    so_far: Vec<SoFar>,
    seldom: Vec<Seldom>,
    /// For each naming of a page by a record: the page's number, and the record.
    named: Vec<u32>,
    by: Vec<Lsn>,
}

impl Pages {
    fn number(&mut self, page: PageId) -> u32 {
        let number = self.numbers.slot(page);
        if *number == 0 {
            self.seldom.push(Seldom { page, whole: None, superseded: 0 });
            self.so_far.push(SoFar::default());
            *number = self.so_far.len() as u32;
        }
        *number - 1
    }

    /// Notes that a record names a page.
    fn note(&mut self, r: &RecordView<'_>, b: &BlockView<'_>, begin: Lsn, trace: &Trace) {
        let (page, whole) = (b.page, b.whole);
        let number = self.number(page);
        let p = &mut self.so_far[number as usize];
        if whole != Whole::No {
            // Whole-page records supersede what came before, wherever recLSN points (T42).
            if trace.is_on() {
                let before = self.named.iter().zip(&self.by).skip(p.from).filter(|(n, _)| **n == number);
                for (_, lsn) in before {
                    let (lsn, why) = (*lsn, SkipReason::OlderThanImage);
                    trace.emit(|| Event::RedoSkip { lsn, page, why, rec_lsn: p.rec, page_lsn: Lsn::NULL });
                }
            }
            let seldom = &mut self.seldom[number as usize];
            seldom.superseded += p.count as u64;
            seldom.whole = Some((r.lsn, whole));
            (p.from, p.count, p.bytes) = (self.named.len(), 0, 0);
        }
        self.named.push(number);
        self.by.push(r.lsn);
        p.count += 1;
        p.last = match whole {
            Whole::No | Whole::Init => r.lsn,
            Whole::Image => b.former,
            Whole::Free => Lsn::NULL,
        };
        p.bytes += r.len() as u64;
        if r.lsn >= begin && p.rec.is_null() {
            p.rec = r.lsn;
            trace.emit(|| Event::DptAdd { page, rec_lsn: r.lsn, lowered: false });
        }
    }

    /// The pages by id, and the records of all of them, page by page.
    fn sorted(self) -> (BTreeMap<PageId, PageRedo>, Vec<Lsn>) {
        let mut order: Vec<usize> = (0..self.seldom.len()).collect();
        order.sort_unstable_by_key(|n| self.seldom[*n].page);
        // For each page: which of its entries count, and where the next of them goes.
        let mut places = vec![(0, 0); order.len()];
        let mut total = 0;
        let page = |n: usize| {
            let (Seldom { page, whole, superseded }, SoFar { rec, last, bytes, from, count }) =
                (&self.seldom[n], self.so_far[n]);
            let records = total..total + count;
            places[n] = (from, total);
            total += count;
            (*page, PageRedo { rec, whole: *whole, records, bytes, last, superseded: *superseded })
        };
        let pages = order.into_iter().map(page).collect();
        let mut lsns = vec![Lsn::NULL; total];
        for (i, (number, lsn)) in self.named.iter().zip(&self.by).enumerate() {
            let (from, next) = &mut places[*number as usize];
            if i >= *from {
                lsns[*next] = *lsn;
                *next += 1;
            }
        }
        (pages, lsns)
    }
}

/// The pass forward: what is known so far.
struct Pass<'a> {
    from: Lsn,
    begin: Lsn,
    trace: &'a Trace,
    pages: Pages,
    table: TransactionTable,
    /// The checkpoint's tables, as far as they were read.
    tables: CheckpointData,
    /// Where the checkpoint's end record is.
    complete: Option<Lsn>,
    records: u64,
    needs_checkpoint: bool,
}

impl<'a> Pass<'a> {
    fn new(trace: &'a Trace) -> Self {
        Pass {
            from: Lsn::NULL,
            begin: Lsn::NULL,
            trace,
            pages: Pages::default(),
            table: TransactionTable::default(),
            tables: CheckpointData::default(),
            complete: None,
            records: 0,
            needs_checkpoint: false,
        }
    }

    fn see(&mut self, r: &RecordView<'_>) -> Result<()> {
        self.records += 1;
        if self.trace.is_on() {
            trace_record(r, self.trace);
        }
        for b in r.blocks() {
            let b = b.ok_or_else(|| forged(r.lsn))?;
            let unseen =
                r.lsn < self.begin && b.whole == Whole::Image && mutants::is(Mutant::ImagesFromBegin)
                    || b.whole == Whole::Free && mutants::is(Mutant::FreedPageRedone);
            if !unseen {
                self.pages.note(r, &b, self.begin, self.trace);
            }
        }
        if r.lsn < self.begin {
            return Ok(());
        }
        match r.kind {
            // Of one that was not complete: the log does not end with the checkpoint that the control file names, and the file
            // may have been cut since (SPACE-5).
            RecordKind::CheckpointBegin => self.needs_checkpoint |= r.lsn > self.begin,
            RecordKind::CheckpointChunk => self.chunk(r)?,
            RecordKind::CheckpointEnd => self.checkpoint_end(r)?,
            _ => self.needs_checkpoint = true,
        }
        if !r.txn.is_none() {
            self.table.see(r, self.trace);
        }
        Ok(())
    }

    /// A piece of a checkpoint's tables.
    fn chunk(&mut self, r: &RecordView<'_>) -> Result<()> {
        let data = r.undo().ok_or_else(|| forged(r.lsn))?;
        match Chunk::decode(data).map_err(|e| e.with_lsn(r.lsn))? {
            (of, Chunk::Dpt(d)) if of == self.begin => self.tables.dpt.extend(d),
            (of, Chunk::Att(t)) if of == self.begin => self.tables.att.extend(t),
            _ => {} // of a later checkpoint that is not complete as far as the control file knows
        }
        Ok(())
    }

    /// The end of the checkpoint: its tables are merged now, not at B: whatever was seen since B is newer.
    fn checkpoint_end(&mut self, r: &RecordView<'_>) -> Result<()> {
        let data = r.undo().ok_or_else(|| forged(r.lsn))?;
        let e = CheckpointEnd::decode(data).map_err(|e| e.with_lsn(r.lsn))?;
        if e.begin != self.begin {
            return Ok(());
        }
        let read = (self.tables.dpt.len() as u64, self.tables.att.len() as u64);
        if read != (e.dpt, e.att) || e.redo != self.from {
            return Err(incomplete(r.lsn));
        }
        self.complete = Some(r.lsn);
        for entry in std::mem::take(&mut self.tables.att) {
            self.table.merge(entry, self.trace);
        }
        self.table.merged = true;
        self.table.ended.clear();
        for (page, rec) in std::mem::take(&mut self.tables.dpt) {
            let number = self.pages.number(page);
            let p = &mut self.pages.so_far[number as usize];
            let lowered = !p.rec.is_null();
            if !lowered || rec < p.rec && !mutants::is(Mutant::DptEntryIgnored) {
                p.rec = rec;
                self.trace.emit(|| Event::DptAdd { page, rec_lsn: rec, lowered });
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Analysis> {
        if self.complete.is_none() {
            return Err(incomplete(self.begin));
        }
        if mutants::is(Mutant::YoungLoserForgotten) {
            self.table.live.retain(|id, _| id.0 < self.begin.0);
        }
        let mut losers: Vec<AttEntry> = self.table.live.into_values().collect();
        losers.sort_by_key(|e| e.txn);
        let (pages, lsns) = self.pages.sorted();
        let (records, needs_checkpoint) = (self.records, self.needs_checkpoint);
        let a = Analysis { pages, lsns, losers, records, needs_checkpoint };
        let losers: Vec<TxnId> = a.losers.iter().map(|e| e.txn).collect();
        let (trace, redo) = (self.trace, self.from);
        let recs = || a.pages.values().map(|p| p.rec).filter(|rec| !rec.is_null());
        trace.emit(|| Event::AnalysisEnd {
            losers: &losers,
            dirty: recs().count(),
            redo,
            smallest: recs().min().unwrap_or_default(),
        });
        Ok(a)
    }
}

fn forged(lsn: Lsn) -> Error {
    Error::new(ErrorKind::LogCorrupt, "a record with a good checksum cannot be parsed")
        .with_file("wal")
        .with_lsn(lsn)
}

#[cold]
fn trace_record(r: &RecordView<'_>, trace: &Trace) {
    let pages: Vec<PageId> = r.blocks().flatten().map(|b| b.page).collect();
    let (lsn, end, kind, txn, prev) = (r.lsn, r.end, r.kind.name(), r.txn, r.prev);
    trace.emit(|| Event::AnalysisRecord { lsn, end, kind, txn, prev, pages: &pages });
}

fn incomplete(lsn: Lsn) -> Error {
    Error::new(ErrorKind::LogCorrupt, "the checkpoint that the control file names is not whole in the log")
        .with_file("wal")
        .with_lsn(lsn)
        .with_help("Restore from a backup; the log and the control file do not belong together")
}
