//! Undo of a row's change: logical. The row is looked for by its key, wherever splits and merges have
//! brought it, and made what it was, word and all (T20), by one CLR. It never needs room: what it removes
//! was inserted, what it restores still has its allotment (BTREE-5), so undo neither splits nor allocates.
use super::Btree;
use super::codec::Broken;
use super::descend::{corrupt, node, unmet};
use super::node::Word;
use super::ops::code;
use super::ops::leaf::{encode_remove, encode_restore};
use super::ops::undo::decode;
use super::read::find;
use super::write::clr_bytes;
use crate::BTREE_RM;
use hamal_buffer::PageEdit;
use hamal_error::{Error, ErrorKind, Result};
use hamal_log::{Record, Whole};
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::TxnId;
use hamal_txn::{Compensated, UndoCtx};

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
        let undo = decode(own, block.op, record.payload(0), record.undo()).map_err(|Broken(why)| {
            name(Error::new(ErrorKind::LogCorrupt, format!("undo bytes of a B-tree record: {why}")))
        })?;
        let (tree, key) = (undo.tree, undo.key);
        let replaced = undo.former.and_then(|f| f.value).map_or(0, |v| v.bytes.len());
        let mut credit = ctx.credit(clr_bytes(replaced), 1)?;
        if mutants::is(Mutant::LoserCleansLeaf) {
            self.purge_leaf(tree, key)?;
        }
        let mut tries = 0;
        let mut page = loop {
            match self.paged(|| self.exclusive_leaf(tree, key)).map_err(unmet) {
                // A rollback must not fail because other threads hold all frames: they fail, and let go, before it does.
                Err(e) if e.kind() == ErrorKind::Limit && tries < FRAME_TRIES => tries += 1,
                done => break done.map_err(name)?,
            }
        };

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
}
