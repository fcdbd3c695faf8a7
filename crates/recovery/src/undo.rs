//! Undo: rolls every loser back, always the largest undoNextLSN first, with one CLR for each record undone.
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
    let mut to_undo: BinaryHeap<(Lsn, usize)> =
        losers.iter().enumerate().map(|(i, (entry, _))| (entry.undo_next, i)).collect();
    let total = losers.len() as u64;
    let mut steps = 0u64;
    while let Some((lsn, i)) = to_undo.pop() {
        let txn = &losers[i].1;
        if steps.is_multiple_of(1024) {
            step(progress, Phase::Undo, total - to_undo.len() as u64 - 1, total)?;
        }
        steps += 1;
        if lsn.is_null() {
            let (id, last) = (txn.id(), ctx.txns.log().tail());
            ctx.txns.end_rolled_back(txn)?;
            ctx.trace.emit(|| Event::UndoEnd { txn: id, lsn: last });
            continue;
        }
        ctx.trace.emit(|| Event::UndoPick { txn: txn.id(), lsn, losers: to_undo.len() + 1 });
        // Everything that is undone lies below the end that was found: the reader reaches it.
        if ctx.reader.read(lsn)?.is_some_and(|r| r.kind == RecordKind::Update) {
            clrs += 1;
        }
        let next = ctx.txns.undo_step(txn)?;
        to_undo.push((next, i));
    }
    step(progress, Phase::Undo, total, total)?;
    Ok(clrs)
}
