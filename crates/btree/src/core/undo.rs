//! Undo of a row's change: logical. The row is looked for by its key, wherever splits and merges have
//! brought it, and made what it was, word and all (T20), by one CLR; a run of rows by one for each leaf. It never needs room: what it removes
//! was inserted, what it restores still has its allotment (BTREE-5), so undo neither splits nor allocates.
use super::codec::{Broken, Sound};
use super::descend::{corrupt, node, unmet};
use super::node::Word;
use super::ops::code;
use super::ops::leaf::{encode_remove, encode_restore};
use super::ops::run::{Run, encode_remove_run};
use super::ops::undo::{decode, decode_run};
use super::read::find;
use super::write::{PART_BYTES, clr_bytes};
use super::{Btree, Tree};
use crate::BTREE_RM;
use hamal_buffer::{ExclusivePage, PageEdit};
use hamal_error::{Error, ErrorKind, Result};
use hamal_log::{Record, Whole};
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::TxnId;
use hamal_txn::{Compensated, UndoCtx};
use std::cmp::Ordering;

/// How often a rollback asks again for a frame, when all of its patience was in vain.
const FRAME_TRIES: u32 = 8;

impl Btree {
    pub(crate) fn undo(&self, record: &Record, ctx: UndoCtx<'_>) -> Result<Compensated> {
        let (own, manager, txn) = (record.txn, ctx.manager(), ctx.txn());
        let name = |e: Error| e.with_lsn(record.lsn).with_txn(own);
        let [block] = &record.blocks[..] else {
            let m = "an undoable B-tree record that does not change exactly one page";
            return Err(name(Error::new(ErrorKind::LogCorrupt, m)));
        };
        if block.op == code::INSERT_RUN {
            return self.undo_run(record, ctx);
        }
        if ctx.left().is_some() {
            let m = "a part of a B-tree record that changes one row";
            return Err(name(Error::new(ErrorKind::LogCorrupt, m)));
        }
        let undo = decode(own, block.op, record.payload(0), record.undo()).map_err(|Broken(why)| {
            name(Error::new(ErrorKind::LogCorrupt, format!("undo bytes of a B-tree record: {why}")))
        })?;
        let (tree, key) = (undo.tree, undo.key);
        let replaced = undo.former.and_then(|f| f.value).map_or(0, |v| v.bytes.len());
        let mut credit = ctx.credit(clr_bytes(replaced), 1)?;
        if mutants::is(Mutant::LoserCleansLeaf) {
            self.purge_leaf(tree, key)?;
        }
        let mut page = self.leaf_to_undo(tree, key).map_err(name)?;
        let leaf = node(tree, page.id(), &page)?;
        let found = find(&leaf, key).map_err(|b| corrupt(page.id(), b))?;
        let Some((slot, now)) = found.filter(|(_, now)| now.word.writer() == own) else {
            let m = "BTREE-6: the row to undo is gone, or was last written by another transaction";
            return Err(name(Error::internal(m)).with_page(page.id()));
        };
        let (op, payload) = match &undo.former {
            None => (code::REMOVE, encode_remove(slot)),
            Some(f) if f.word.ghost() && mutants::is(Mutant::GhostRemovedByUndo) => {
                (code::REMOVE, encode_remove(slot))
            }
            Some(f) if mutants::is(Mutant::UndoWithoutWriter) => {
                let word = Word::new(TxnId::NONE, f.word.ghost(), f.word.older()).unwrap_or(f.word);
                (code::RESTORE, encode_restore(slot, word, f.value))
            }
            Some(former) => (code::RESTORE, encode_restore(slot, former.word, former.value)),
        };
        let pushed = now.word.older();
        let edit = PageEdit { page: &mut page, op, whole: Whole::No, payload: &payload };
        let done = ctx.compensate(&mut [edit], &mut credit)?;

        // First the page, then the version, both under the latch (T18). What this transaction wrote before
        // goes on needing the version that it pushed then.
        let foreign = undo.former.filter(|f| f.word.writer() != own);
        if pushed && foreign.is_some() {
            manager.versions().pop(txn, BTREE_RM, tree.id.0, key);
        }
        drop(page);
        if let Some(former) = foreign.filter(|f| f.word.ghost()) {
            self.queue_ghost(tree, key, former.word.writer());
        }
        Ok(done)
    }

    /// The leaf of the key, exclusively.
    fn leaf_to_undo(&self, tree: Tree, key: &[u8]) -> Result<ExclusivePage<'_>> {
        let mut tries = 0;
        loop {
            match self.paged(|| self.exclusive_leaf(tree, key)).map_err(unmet) {
                // A rollback must not fail because other threads hold all frames: they fail, and let go, before it does.
                Err(e) if e.kind() == ErrorKind::Limit && tries < FRAME_TRIES => tries += 1,
                done => return done,
            }
        }
    }

    /// Undoes a run in parts, from its end: each CLR takes the rows that are neighbours in one leaf, back from the last one that
    /// is left, and leaves the others (BTREE-14).
    fn undo_run(&self, record: &Record, ctx: UndoCtx<'_>) -> Result<Compensated> {
        let own = record.txn;
        let name = |e: Error| e.with_lsn(record.lsn).with_txn(own);
        let damaged = |Broken(why): Broken| {
            name(Error::new(ErrorKind::LogCorrupt, format!("undo of a run of rows: {why}")))
        };
        let tree = decode_run(record.undo()).map_err(damaged)?;
        let mut keys = Run::read(record.payload(0))
            .and_then(|run| run.keys().collect::<Sound<Vec<_>>>())
            .map_err(damaged)?;
        if let Some(left) = ctx.left() {
            let left = usize::try_from(left).ok().filter(|left| *left < keys.len());
            keys.truncate(left.ok_or_else(|| damaged(Broken("more rows are left than there were")))?);
        }
        let Some(last) = keys.last() else { return Err(damaged(Broken("no rows"))) };
        let mut credit = ctx.credit(PART_BYTES, 1)?;
        if mutants::is(Mutant::LoserCleansLeaf) {
            self.purge_leaf(tree, last)?;
        }
        let mut page = self.leaf_to_undo(tree, last).map_err(name)?;
        let leaf = node(tree, page.id(), &page)?;
        let broken = |b| corrupt(page.id(), b);
        let found = find(&leaf, last).map_err(broken)?;
        let Some((end, _)) = found.filter(|(_, now)| now.word.writer() == own) else {
            let m = "BTREE-6: the row to undo is gone, or was last written by another transaction";
            return Err(name(Error::internal(m)).with_page(page.id()));
        };
        // Whether the row before is another one's, or in another leaf, or gone, the next part finds out.
        let mut first = end;
        for key in keys.iter().rev().skip(1) {
            let Some(before) = first.checked_sub(1) else { break };
            let same = key
                .strip_prefix(leaf.prefix())
                .map_or(Ok(false), |suffix| leaf.compare_suffix(before, suffix).map(Ordering::is_eq))
                .map_err(broken)?;
            if !same || leaf.leaf(before).map_err(broken)?.word.writer() != own {
                break;
            }
            first = before;
        }
        let rows = end + 1 - first;
        let left = (keys.len() - rows) as u64;
        let payload = encode_remove_run(first, rows);
        let edit = PageEdit { page: &mut page, op: code::REMOVE_RUN, whole: Whole::No, payload: &payload };
        match left {
            0 => ctx.compensate(&mut [edit], &mut credit),
            left => ctx.compensate_part(left, &mut [edit], &mut credit),
        }
    }
}
