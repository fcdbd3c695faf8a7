//! What the log says of one record: for `hamal explain --lsn`.

use crate::open::Stop;
use crate::output::{Failure, Result};
use crate::waldump::{End, Records, description};
use hamal::inspect::Inspect;
use hamal::log::{Record, RecordKind, Whole};
use hamal::raw::parts_left;
use hamal_study::{Compensation, InLog};

/// Reads the record, and what follows it to the end of the log.
pub(crate) fn in_log(inspect: &Inspect, lsn: u64, stop: &Stop) -> Result<InLog> {
    let end = End::find(inspect)?;
    let mut records = Records::new(inspect.reader(&end.at)?, inspect, Some(lsn))?;
    let Some(r) = records.next()? else {
        return Err(Failure::Check(format!("no record starts at {lsn:#x}: {}", end.words())));
    };
    if r.lsn.0 != lsn {
        let m = format!("no record starts at {lsn:#x}: the next one that the log holds starts at {}", r.lsn);
        return Err(Failure::Check(m));
    }
    let mut found = InLog {
        lsn,
        kind: r.kind.name().into(),
        txn: if r.txn.is_none() { String::new() } else { r.txn.to_string() },
        prev: r.prev.some().map(|p| p.0),
        what: description(inspect, &r),
        pages: r.blocks.iter().map(|b| (format!("page{}", b.page), None)).collect(),
        checkpoint: inspect.control().checkpoint_begin.0,
        redo_point: inspect.control().redo.0,
        ..InLog::default()
    };
    if r.kind == RecordKind::Clr {
        found.compensates = compensated(inspect, &end, &r)?;
    }
    let mut next = Some(r.clone());
    while let Some(later) = next {
        if stop.asked() {
            return Err(Failure::Interrupted("the answer is not complete".into()));
        }
        for ((_, whole), b) in found.pages.iter_mut().zip(&r.blocks) {
            let last = later.blocks.iter().find(|l| l.page == b.page && l.whole != Whole::No);
            if let Some(last) = last {
                *whole = Some((later.lsn.0, last.whole.name().to_string()));
            }
        }
        if later.txn == r.txn && !r.txn.is_none() {
            follow_up(&mut found, &r, &later);
        }
        next = records.next()?;
    }
    Ok(found)
}

/// What a record of the same transaction, at or behind it, means for it.
fn follow_up(found: &mut InLog, r: &Record, later: &Record) {
    let next = later.prev.some().map(|p| p.0);
    match later.kind {
        RecordKind::Commit => found.committed = Some(later.lsn.0),
        RecordKind::End => found.ended = Some(later.lsn.0),
        // It leads where the record leads back to, and no other record of the transaction does; or to the record itself, if it leaves
        // parts of it.
        RecordKind::Clr if r.kind == RecordKind::Update && later.lsn > r.lsn => {
            let left = parts_left(later.undo()).unwrap_or(0);
            if later.prev == if left == 0 { r.prev } else { r.lsn } {
                found.clrs.push(Compensation { clr: later.lsn.0, next, left });
            }
        }
        RecordKind::DummyClr if later.lsn > r.lsn && later.prev < r.lsn && found.passed_by.is_none() => {
            found.passed_by = Some((later.lsn.0, next));
        }
        _ => {}
    }
}

/// The record that a CLR compensates: of its transaction, below it, and leading back to where the CLR leads.
fn compensated(inspect: &Inspect, end: &End, clr: &Record) -> Result<Option<u64>> {
    if !clr.undo().is_empty() {
        return Ok(Some(clr.prev.0));
    }
    // What the transaction did after `prev`: from there on, or from its first record.
    let from = clr.prev.max(hamal::Lsn(clr.txn.0));
    let mut records = Records::new(inspect.reader(&end.at)?, inspect, Some(from.0))?;
    while let Some(r) = records.next()?.filter(|r| r.lsn < clr.lsn) {
        if r.txn == clr.txn && r.kind == RecordKind::Update && r.prev == clr.prev {
            return Ok(Some(r.lsn.0));
        }
    }
    Ok(None)
}
