//! Redo: repeats history, page by page.
//!
//! Each page is redone with its whole list of records at once (REC-2): it may be imaged or written by the pool only when
//! all of them are applied, so a crash in redo never leaves an image that hides a record (T2). Which page comes first
//! does not matter: every record is redone on each of its pages separately. Ascending order reads the data file
//! forward.
//!
//! The test of the paper, in the order in which it is cheap:
//! 1. the page is not in the dirty page table: skip, the page is not read;
//! 2. a later whole-page record holds it: skip;
//! 3. LSN < recLSN (and no whole-page record): skip, the page is not read for it;
//! 4. pageLSN >= LSN: skip;
//! 5. apply.

use crate::restart::step;
use crate::{Analysis, PageRedo, ProgressFn, RecoveryReport, RestartContext};
use hamal_buffer::RedoPage;
use hamal_error::{Error, ErrorKind, Result};
use hamal_log::{BlockRef, LogReader, Record, Whole};
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::{Lsn, PageId, header};
use hamal_trace::{Event, Phase, SkipReason};
use std::collections::HashMap;

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
    let total = analysis.pages.len() as u64;
    pool.begin_redo(ctx.control.redo);
    if let Some((&last, _)) = analysis.pages.last_key_value() {
        pool.grow_to(last.0.saturating_add(1))?;
    }
    prove_log_not_behind(ctx, analysis)?;
    let mut done = 0;
    let mut pages = analysis.pages.iter().peekable();
    while pages.peek().is_some() {
        // A batch: pages whose records fit. One page alone may be larger than the memory; it is a batch of its own.
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(&(&page, todo)) = pages.peek() {
            let more = if reads_records(ctx, todo) {
                todo.bytes + RECORD_MEMORY * todo.records.len() as u64
            } else {
                0
            };
            if bytes + more > ctx.redo_memory && !batch.is_empty() {
                break;
            }
            bytes += more;
            batch.push((page, todo));
            pages.next();
        }
        let records = collect(ctx, &batch)?;
        for (page, todo) in batch {
            if ctx.every(done, 256) {
                step(progress, Phase::Redo, done, total)?;
            }
            done += 1;
            redo_one(ctx, report, &records, page, todo)?;
        }
    }
    pool.end_redo()?;
    step(progress, Phase::Redo, total, total)
}

/// Memory that a record takes beside its bytes, about.
const RECORD_MEMORY: u64 = 192;

/// The records of a batch of pages, by LSN.
type Records = HashMap<Lsn, Record>;

/// Whether redo of the page looks at any record.
fn reads_records(ctx: &RestartContext<'_>, todo: &PageRedo) -> bool {
    !(todo.rec.is_null() && ctx.bypass || matches!(todo.whole, Some((_, Whole::Free))))
}

/// One pass over the log: the records that the batch needs.
fn collect(ctx: &mut RestartContext<'_>, batch: &[(PageId, &PageRedo)]) -> Result<Records> {
    let mut wanted: Vec<Lsn> = batch
        .iter()
        .filter(|(_, todo)| reads_records(ctx, todo))
        .flat_map(|(_, todo)| todo.records.iter().copied())
        .collect();
    wanted.sort_unstable();
    wanted.dedup();
    let mut records = Records::with_capacity(wanted.len());
    for lsn in wanted {
        records.insert(lsn, read(&mut ctx.reader, lsn)?);
    }
    Ok(records)
}

/// Redoes one page.
fn redo_one(
    ctx: &mut RestartContext<'_>,
    report: &mut RecoveryReport,
    records: &Records,
    page: PageId,
    todo: &PageRedo,
) -> Result<()> {
    report.skipped.add(SkipReason::OlderThanImage, todo.superseded);
    if todo.rec.is_null() && ctx.bypass {
        skip_all(ctx, report, page, todo, SkipReason::PageNotInDpt);
        return Ok(());
    }
    match todo.whole {
        Some((_, Whole::Free)) => skip_all(ctx, report, page, todo, SkipReason::PageFreed),
        Some((lsn, _)) => {
            let pool = ctx.txns.pool().clone();
            let mut target = pool.redo_page(page, false)?;
            report.pages_rebuilt += 1;
            ctx.trace.emit(|| Event::RedoImage { page, lsn, torn: false });
            for &lsn in &todo.records {
                apply(ctx, report, records, &mut target, page, lsn)?;
            }
            let next = todo.records.get(1).copied().filter(|_| mutants::is(Mutant::RebuiltPageDirtyLate));
            // T42: the page's own version on disk may be torn, so the log is needed from the whole-page record on.
            target.set_dirty(next.unwrap_or(lsn));
        }
        None => redo_onto_disk_version(ctx, report, records, page, todo)?,
    }
    if !todo.records.is_empty() {
        // What is in memory now, or what the disk must hold if nothing had to be done (VER-3).
        ctx.txns.pool().versions().set(page, todo.last);
    }
    Ok(())
}

/// Redo of a page without a whole-page record in the log: onto the version on disk.
fn redo_onto_disk_version(
    ctx: &mut RestartContext<'_>,
    report: &mut RecoveryReport,
    records: &Records,
    page: PageId,
    todo: &PageRedo,
) -> Result<()> {
    // Without a way past the operating system's cache, what was read may not be on the device: everything named is
    // treated as dirty whatever its pageLSN says, so that it is written and synced again (T4).
    let rec = if ctx.bypass { todo.rec } else { todo.records.first().copied().unwrap_or(todo.rec) };
    let (early, late) = todo.records.split_at(todo.records.partition_point(|lsn| *lsn < rec));
    for &lsn in early {
        note_skip(ctx, report, lsn, page, SkipReason::LsnBelowRecLsn, rec, Lsn::NULL);
    }
    if late.is_empty() {
        return Ok(()); // in the table, but nothing in the log is newer than recLSN
    }
    let pool = ctx.txns.pool().clone();
    let mut target = pool.redo_page(page, true)?;
    report.pages_read += 1;
    let mut first_applied = None;
    for &lsn in late {
        let page_lsn = target.page_lsn();
        if page_lsn >= lsn && !(page_lsn == lsn && mutants::is(Mutant::RedoAppliesEqual)) {
            note_skip(ctx, report, lsn, page, SkipReason::PageLsnNotBelowLsn, rec, page_lsn);
            continue;
        }
        // The record says which version of the page it was made on. Another one means that a write was lost (T32): the
        // log may reach back to a whole-page record before the redo point.
        let former = find(records, page, lsn)?.0.former;
        if former != page_lsn && !mutants::is(Mutant::LostWriteUnnoticed) {
            target.rebuild(todo.last, &format!("the log goes on from {former} at {lsn}"))?;
            report.pages_rebuilt += 1;
            return Ok(());
        }
        apply(ctx, report, records, &mut target, page, lsn)?;
        first_applied.get_or_insert(lsn);
    }
    let page_lsn = target.page_lsn();
    if page_lsn != todo.last && page_lsn < ctx.end.end && !mutants::is(Mutant::LostWriteUnnoticed) {
        target.rebuild(todo.last, &format!("its last record is {}", todo.last))?;
        report.pages_rebuilt += 1;
        return Ok(());
    }
    match first_applied {
        Some(lsn) => target.set_dirty(lsn),
        None if !ctx.bypass => target.set_dirty(rec),
        None => {}
    }
    Ok(())
}

/// The block of the record at `lsn` that names the page, its number, and the record.
fn find(records: &Records, page: PageId, lsn: Lsn) -> Result<(&BlockRef, usize, &Record)> {
    let gone =
        || Error::internal("REC-3: a record was not collected for its page").with_lsn(lsn).with_page(page);
    let record = records.get(&lsn).ok_or_else(gone)?;
    let i = record.blocks.iter().position(|b| b.page == page).ok_or_else(|| {
        Error::internal("REC-3: a record listed for a page does not name it").with_lsn(lsn).with_page(page)
    })?;
    Ok((&record.blocks[i], i, record))
}

/// Applies the record at `lsn` to the page.
fn apply(
    ctx: &RestartContext<'_>,
    report: &mut RecoveryReport,
    records: &Records,
    target: &mut RedoPage<'_>,
    page: PageId,
    lsn: Lsn,
) -> Result<()> {
    let (b, i, record) = find(records, page, lsn)?;
    let before = target.page_lsn();
    target.apply(record.lsn, record.txn, record.rm, b.op, b.whole, record.payload(i))?;
    report.redone += 1;
    ctx.trace.emit(|| Event::RedoApply { lsn, page, page_lsn_before: before });
    Ok(())
}

fn read(reader: &mut LogReader, lsn: Lsn) -> Result<Record> {
    match reader.read(lsn)? {
        Some(r) if r.lsn == lsn => Ok(r),
        _ => Err(Error::new(ErrorKind::LogCorrupt, "a record that analysis read is gone").with_lsn(lsn)),
    }
}

fn skip_all(
    ctx: &RestartContext<'_>,
    report: &mut RecoveryReport,
    page: PageId,
    todo: &PageRedo,
    why: SkipReason,
) {
    for &lsn in &todo.records {
        note_skip(ctx, report, lsn, page, why, todo.rec, Lsn::NULL);
    }
}

#[allow(clippy::too_many_arguments, reason = "the operands of one decision")]
fn note_skip(
    ctx: &RestartContext<'_>,
    report: &mut RecoveryReport,
    lsn: Lsn,
    page: PageId,
    why: SkipReason,
    rec_lsn: Lsn,
    page_lsn: Lsn,
) {
    report.skipped.add(why, 1);
    ctx.trace.emit(|| Event::RedoSkip { lsn, page, why, rec_lsn, page_lsn });
}

/// Nothing may be appended before every page named in [R, end] has been looked at: a pageLSN at or beyond the end
/// proves that the log was longer (T7). With a pool that holds all of them, redo itself reads them before anything is
/// evicted; otherwise they are read once before.
fn prove_log_not_behind(ctx: &RestartContext<'_>, analysis: &Analysis) -> Result<()> {
    let pool = ctx.txns.pool();
    if analysis.pages.len() <= pool.options().frames / 2 || mutants::is(Mutant::LogBehindUnnoticed) {
        return Ok(());
    }
    for (&page, todo) in &analysis.pages {
        if todo.whole.is_some() || todo.rec.is_null() {
            continue;
        }
        let p = pool.redo_page(page, true)?;
        let page_lsn = header::page_lsn(&p);
        drop(p);
        if page_lsn >= ctx.end.end {
            return Err(Error::new(ErrorKind::LogBehindPages, "the page is newer than the end of the log")
                .with_file("data")
                .with_page(page)
                .with_lsn(page_lsn));
        }
    }
    Ok(())
}
