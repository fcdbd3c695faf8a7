//! Redo: repeats history, page by page.
//!
//! Each page is redone with its whole list of records at once (REC-2): it may be imaged or written by the pool only when
//! all of them are applied, so a crash in redo never leaves an image that hides a record (T2). Which page comes first
//! does not matter: every record is redone on each of its pages separately (REC-3). So threads share the pages out among
//! themselves (`workers.rs`), in ascending order, which reads the data file forward.
//!
//! The test of the paper, in the order in which it is cheap:
//! 1. the page is not in the dirty page table: skip, the page is not read;
//! 2. a later whole-page record holds it: skip;
//! 3. LSN < recLSN (and no whole-page record): skip, the page is not read for it;
//! 4. pageLSN >= LSN: skip;
//! 5. apply.

use crate::records::Records;
use crate::restart::step;
use crate::workers::{Crew, stored_beyond};
use crate::{Analysis, PageRedo, ProgressFn, RecoveryReport, RestartContext, Skipped};
use hamal_buffer::{Pool, RedoPage};
use hamal_error::{Error, ErrorKind, Result};
use hamal_log::{BlockView, LogReader, RecordView, Whole};
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::{Lsn, PageId};
use hamal_trace::{Event, Phase, SkipReason, Trace};

/// A page and what redo has to do for it.
#[derive(Clone, Copy)]
pub(crate) struct Todo<'a> {
    pub(crate) page: PageId,
    pub(crate) redo: &'a PageRedo,
    /// Its records.
    pub(crate) records: &'a [Lsn],
}

impl Analysis {
    /// The pages and what redo has to do for each, ascending.
    fn todo(&self) -> impl Iterator<Item = Todo<'_>> {
        self.pages.iter().map(|(page, redo)| Todo { page: *page, redo, records: self.records(redo) })
    }
}

/// Redoes every page of the analysis.
///
/// # Errors
/// `PageCorrupt`, `StalePage` or `PageUnreadable` for a page that the disk does not give as it was written last, if the log has
/// no whole-page record of it (in [R, end] it has, if a crash tore the page: the lemma of rule W); `LogBehindPages` for a page newer than the log, `LogCorrupt`, I/O errors, `Cancelled`.
pub fn redo(
    ctx: &mut RestartContext<'_>,
    analysis: &Analysis,
    report: &mut RecoveryReport,
    progress: &mut ProgressFn<'_>,
) -> Result<()> {
    let pool = ctx.txns.pool().clone();
    pool.begin_redo(ctx.control.redo);
    // Pages that are free at the end may have been cut off the file: for them it need not grow, and there may be no room (SPACE-5).
    let freed = |p: &PageRedo| matches!(p.whole, Some((_, Whole::Free)));
    if let Some((&last, _)) = analysis.pages.iter().rev().find(|(_, p)| !freed(p)) {
        pool.grow_to(last.0.saturating_add(1))?;
    }
    let rules = Rules { pool: &pool, trace: &ctx.trace, end: ctx.end.end, bypass: ctx.bypass };
    prove_log_not_behind(rules, ctx.redo_threads(), analysis)?;
    let todo: Vec<Todo<'_>> = analysis.todo().collect();
    let report_every = if ctx.every(1, REPORT) { 1 } else { REPORT };
    let mut crew = Crew::new(rules, ctx.redo_threads(), report_every as usize, todo.len());
    let log_bytes = ctx.end.end.0.saturating_sub(ctx.control.redo.0);
    let memory = Some(&ctx.reader).filter(|_| log_bytes <= ctx.redo_memory);
    let done = match memory.and_then(|reader| reader.memory(ctx.control.redo)) {
        Some(memory) => crew.redo(&todo, &Records::Memory(memory), progress),
        None => in_batches(&mut ctx.reader, ctx.redo_memory, &mut crew, &todo, progress),
    };
    let tally = crew.tally();
    report.redo_threads = crew.threads();
    report.redo_batches = crew.batches();
    report.redone = tally.redone;
    report.skipped = tally.skipped;
    report.pages_read = tally.pages_read;
    report.pages_rebuilt = tally.pages_rebuilt;
    done?;
    ctx.reader.jump_about();
    pool.end_redo()?;
    step(progress, Phase::Redo, todo.len() as u64, todo.len() as u64)
}

/// Pages between two calls of the progress function, about.
const REPORT: u64 = 256;

/// Memory that a record takes beside its bytes, about.
const RECORD_MEMORY: u64 = 64;

/// The log does not fit the memory for it: pages whose records fit are redone together, and for each such batch the log
/// is passed once.
fn in_batches(
    reader: &mut LogReader,
    memory: u64,
    crew: &mut Crew<'_>,
    todo: &[Todo<'_>],
    progress: &mut ProgressFn<'_>,
) -> Result<()> {
    reader.jump_about();
    let rules = crew.rules();
    let mut rest = todo;
    while !rest.is_empty() {
        // One page alone may be larger than the memory; it is a batch of its own.
        let mut bytes = 0;
        let mut fits = |todo: &Todo<'_>| {
            if rules.reads_records(todo) {
                bytes += todo.redo.bytes + RECORD_MEMORY * todo.records.len() as u64;
            }
            bytes <= memory
        };
        let n = rest.iter().take_while(|t| fits(t)).count().max(1);
        let (batch, later) = rest.split_at(n);
        let wanted = batch.iter().filter(|todo| rules.reads_records(todo));
        let wanted = wanted.flat_map(|todo| todo.records.iter().copied()).collect();
        let records = Records::collect(reader, wanted)?;
        crew.redo(batch, &records, progress)?;
        rest = later;
    }
    Ok(())
}

/// Records of a page that are fetched from memory at once.
const WARM: usize = 64;

/// What redo counts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) redone: u64,
    pub(crate) skipped: Skipped,
    pub(crate) pages_read: u64,
    pub(crate) pages_rebuilt: u64,
}

impl Tally {
    /// Adds what another thread counted.
    pub(crate) fn add(&mut self, other: &Tally) {
        self.redone += other.redone;
        self.skipped.merge(&other.skipped);
        self.pages_read += other.pages_read;
        self.pages_rebuilt += other.pages_rebuilt;
    }
}

/// What the decisions on every page depend on.
#[derive(Clone, Copy)]
pub(crate) struct Rules<'a> {
    pub(crate) pool: &'a Pool,
    trace: &'a Trace,
    /// The end of the log.
    end: Lsn,
    bypass: bool,
}

impl Rules<'_> {
    /// Whether redo of the page looks at any record.
    fn reads_records(&self, todo: &Todo<'_>) -> bool {
        !(todo.redo.rec.is_null() && self.bypass || matches!(todo.redo.whole, Some((_, Whole::Free))))
    }

    /// Whether redo of the page begins with the version on disk.
    pub(crate) fn reads_page(&self, todo: &Todo<'_>) -> bool {
        todo.redo.whole.is_none() && !self.late(todo).is_empty()
    }

    /// The recLSN that counts. Without a way past the operating system's cache, what was read may not be on the device:
    /// everything named is treated as dirty whatever its pageLSN says, so that it is written and synced again (T4).
    fn rec(&self, todo: &Todo<'_>) -> Lsn {
        if self.bypass { todo.redo.rec } else { todo.records.first().copied().unwrap_or(todo.redo.rec) }
    }

    /// The page's records from recLSN on; none if it is in no table.
    fn late<'t>(&self, todo: &Todo<'t>) -> &'t [Lsn] {
        let rec = self.rec(todo);
        if rec.is_null() {
            return &[];
        }
        &todo.records[todo.records.partition_point(|lsn| *lsn < rec)..]
    }
}

/// One thread's redo.
pub(crate) struct Redoer<'a> {
    rules: Rules<'a>,
    records: &'a Records,
    /// A record that does not lie in one piece.
    scratch: Vec<u8>,
    pub(crate) tally: Tally,
}

impl<'a> Redoer<'a> {
    pub(crate) fn new(rules: Rules<'a>, records: &'a Records) -> Redoer<'a> {
        Redoer { rules, records, scratch: Vec::new(), tally: Tally::default() }
    }

    /// Redoes one page.
    pub(crate) fn redo_page(&mut self, todo: &Todo<'_>) -> Result<()> {
        let Rules { pool, trace, bypass, .. } = self.rules;
        let page = todo.page;
        self.tally.skipped.add(SkipReason::OlderThanImage, todo.redo.superseded);
        if todo.redo.rec.is_null() && bypass {
            self.skip_all(todo, SkipReason::PageNotInDpt);
            return Ok(());
        }
        match todo.redo.whole {
            Some((_, Whole::Free)) => self.skip_all(todo, SkipReason::PageFreed),
            Some((lsn, _)) => {
                let mut target = pool.redo_page(page, false)?;
                self.tally.pages_rebuilt += 1;
                trace.emit(|| Event::RedoImage { page, lsn, torn: false });
                for some in todo.records.chunks(WARM) {
                    self.records.warm(some);
                    for &lsn in some {
                        let found = find(self.records, page, lsn, &mut self.scratch)?;
                        apply(&mut target, found, trace)?;
                    }
                    self.tally.redone += some.len() as u64;
                }
                let next = todo.records.get(1).copied().filter(|_| mutants::is(Mutant::RebuiltPageDirtyLate));
                // T42: the page's own version on disk may be torn, so the log is needed from the whole-page record on.
                target.set_dirty(next.unwrap_or(lsn));
            }
            None => self.redo_onto_disk_version(todo)?,
        }
        if !todo.records.is_empty() {
            // What is in memory now, or what the disk must hold if nothing had to be done (VER-3).
            pool.versions().set(page, todo.redo.last);
        }
        Ok(())
    }

    /// Redo of a page without a whole-page record in the log: onto the version on disk.
    fn redo_onto_disk_version(&mut self, todo: &Todo<'_>) -> Result<()> {
        let (page, last) = (todo.page, todo.redo.last);
        let (rec, late) = (self.rules.rec(todo), self.rules.late(todo));
        for &lsn in &todo.records[..todo.records.len() - late.len()] {
            self.note_skip(lsn, page, SkipReason::LsnBelowRecLsn, rec, Lsn::NULL);
        }
        if late.is_empty() {
            return Ok(()); // in the table, but nothing in the log is newer than recLSN
        }
        let mut target = self.rules.pool.redo_page(page, true)?;
        self.tally.pages_read += 1;
        let mut first_applied = None;
        for (i, &lsn) in late.iter().enumerate() {
            if i % WARM == 0 {
                self.records.warm(&late[i..late.len().min(i + WARM)]);
            }
            let page_lsn = target.page_lsn();
            if page_lsn >= lsn && !(page_lsn == lsn && mutants::is(Mutant::RedoAppliesEqual)) {
                self.note_skip(lsn, page, SkipReason::PageLsnNotBelowLsn, rec, page_lsn);
                continue;
            }
            // The record says which version of the page it was made on. Another one means that a write was lost (T32): the
            // log may reach back to a whole-page record before the redo point.
            let found = find(self.records, page, lsn, &mut self.scratch)?;
            let former = found.1.former;
            if former != page_lsn && !mutants::is(Mutant::LostWriteUnnoticed) {
                target.rebuild(last, &format!("the log goes on from {former} at {lsn}"))?;
                self.tally.pages_rebuilt += 1;
                return Ok(());
            }
            apply(&mut target, found, self.rules.trace)?;
            self.tally.redone += 1;
            first_applied.get_or_insert(lsn);
        }
        let page_lsn = target.page_lsn();
        if page_lsn != last && page_lsn < self.rules.end && !mutants::is(Mutant::LostWriteUnnoticed) {
            target.rebuild(last, &format!("its last record is {last}"))?;
            self.tally.pages_rebuilt += 1;
            return Ok(());
        }
        match first_applied {
            Some(lsn) => target.set_dirty(lsn),
            None if !self.rules.bypass => target.set_dirty(rec),
            None => {}
        }
        Ok(())
    }

    fn skip_all(&mut self, todo: &Todo<'_>, why: SkipReason) {
        for &lsn in todo.records {
            self.note_skip(lsn, todo.page, why, todo.redo.rec, Lsn::NULL);
        }
    }

    fn note_skip(&mut self, lsn: Lsn, page: PageId, why: SkipReason, rec_lsn: Lsn, page_lsn: Lsn) {
        self.tally.skipped.add(why, 1);
        self.rules.trace.emit(|| Event::RedoSkip { lsn, page, why, rec_lsn, page_lsn });
    }
}

/// A record and the block of it that names the page in hand.
type Found<'r> = (RecordView<'r>, BlockView<'r>);

/// Applies a record to its page.
fn apply(target: &mut RedoPage<'_>, (r, b): Found<'_>, trace: &Trace) -> Result<()> {
    let (lsn, before) = (r.lsn, target.page_lsn());
    target.apply(lsn, r.txn, r.rm, b.op, b.whole, b.payload)?;
    trace.emit(|| Event::RedoApply { lsn, page: b.page, page_lsn_before: before });
    Ok(())
}

/// The record at `lsn`, and the block of it that names the page.
fn find<'r>(records: &'r Records, page: PageId, lsn: Lsn, scratch: &'r mut Vec<u8>) -> Result<Found<'r>> {
    let wrong = |m: &str| Error::internal(format!("REC-3: {m}")).with_lsn(lsn).with_page(page);
    let record = records.get(lsn, scratch).ok_or_else(|| wrong("a record was not collected for its page"))?;
    let block = record.blocks().flatten().find(|b| b.page == page);
    let block = block.ok_or_else(|| wrong("a record listed for a page does not name it"))?;
    Ok((record, block))
}

/// Nothing may be appended before every page has been looked at that is dirty, or that redo reads: a pageLSN at or beyond the end
/// proves that the log was longer (T7). With a pool that holds all of them, redo itself reads them before anything is
/// evicted; otherwise their stored versions are looked at before. Pages that are rebuilt from the log need no version on disk, and
/// are written over: so theirs is looked at before in any case (REC-15). Else a data file put back beside an older log and
/// control file could go unnoticed.
fn prove_log_not_behind(rules: Rules<'_>, threads: usize, analysis: &Analysis) -> Result<()> {
    let frames = rules.pool.options().frames;
    let all_fit = analysis.pages.len() <= frames - frames / 8;
    let dirty = |t: &Todo<'_>| !t.redo.rec.is_null() || rules.reads_page(t);
    let asked = analysis.todo().filter(|t| t.redo.whole.is_some() || !all_fit && dirty(t));
    let ids: Vec<PageId> = asked.map(|t| t.page).collect();
    match stored_beyond(rules, threads, &ids, rules.end)? {
        Some((page, lsn)) if !mutants::is(Mutant::LogBehindUnnoticed) => Err(behind(page, lsn)),
        _ => Ok(()),
    }
}

fn behind(page: PageId, lsn: Lsn) -> Error {
    Error::new(ErrorKind::LogBehindPages, "the page is newer than the end of the log")
        .with_file("data")
        .with_page(page)
        .with_lsn(lsn)
}
