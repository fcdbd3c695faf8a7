//! Undo: rolls every loser back, always the largest undoNextLSN first, with one CLR for each record undone, or for each part
//! of one (TXN-PARTS).
//!
//! Two losers never share a key (docs/invariants/recovery.md), so any order between them would do; one descending pass
//! is the paper's, and reads the log backwards once.

use crate::restart::step;
use crate::{ProgressFn, RestartContext};
use hamal_error::Result;
use hamal_log::RecordKind;
use hamal_page::Lsn;
use hamal_trace::{Event, Phase};
use hamal_txn::{AttEntry, Txn};
use std::collections::BinaryHeap;
use std::sync::Arc;

/// Undoes the losers; returns how many CLRs were written.
///
/// # Errors
/// Whatever stops an undo step: recovery stops, and the next open starts it again.
pub fn undo(
    ctx: &mut RestartContext<'_>,
    losers: &[(AttEntry, Arc<Txn>)],
    progress: &mut ProgressFn<'_>,
) -> Result<u64> {
    let mut clrs = 0;
    // Who has nothing left to undo comes first: its End is written at once.
    let due = |next: Lsn| next.some().unwrap_or(Lsn::MAX);
    let mut to_undo: BinaryHeap<(Lsn, usize)> =
        losers.iter().enumerate().map(|(i, (entry, _))| (due(entry.undo_next), i)).collect();
    let total = losers.len() as u64;
    let mut steps = 0u64;
    while let Some((lsn, i)) = to_undo.pop() {
        let txn = &losers[i].1;
        if ctx.every(steps, 1024) {
            step(progress, Phase::Undo, total - to_undo.len() as u64 - 1, total)?;
        }
        steps += 1;
        if lsn == Lsn::MAX {
            let (id, last) = (txn.id(), ctx.txns.log().tail());
            ctx.txns.end_rolled_back(txn)?;
            ctx.trace.emit(|| Event::UndoEnd { txn: id, lsn: last });
            continue;
        }
        if ctx.trace.is_on() {
            trace_pick(ctx, losers, &to_undo, (lsn, i));
        }
        // What is undone lies below the end that was found: if it is damaged, the reader says so. A CLR that leaves parts of its
        // record is one of this restart, and beyond that end, or leads to a record that has not been read yet.
        if let Some(r) = ctx.reader.read(lsn)?
            && r.kind == RecordKind::Clr
            && !r.undo().is_empty()
        {
            ctx.reader.read(r.prev)?;
        }
        let last = txn.last_lsn();
        let next = ctx.txns.undo_step(txn)?;
        // A step that only follows the chain logs nothing.
        clrs += u64::from(txn.last_lsn() != last);
        to_undo.push((due(next), i));
    }
    step(progress, Phase::Undo, total, total)?;
    Ok(clrs)
}

/// The whole choice, if it is not too long to be looked at.
#[cold]
fn trace_pick(
    ctx: &RestartContext<'_>,
    losers: &[(AttEntry, Arc<Txn>)],
    others: &BinaryHeap<(Lsn, usize)>,
    picked: (Lsn, usize),
) {
    const MOST: usize = 256;
    let mut to_undo = Vec::new();
    if others.len() < MOST {
        to_undo.push(picked);
        to_undo.extend(others.iter().copied());
        to_undo.sort_unstable_by(|a, b| b.cmp(a));
    }
    let to_undo: Vec<_> = to_undo.into_iter().map(|(lsn, i)| (losers[i].1.id(), lsn)).collect();
    let (txn, lsn) = (losers[picked.1].1.id(), picked.0);
    ctx.trace.emit(|| Event::UndoPick { txn, lsn, losers: others.len() + 1, to_undo: &to_undo });
}
