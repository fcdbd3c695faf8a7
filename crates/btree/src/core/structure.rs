//! Rows written by redo-only records, together with other pages: how the garbage tree's rows come and go
//! with the pages that they own, in one record.
use super::descend::{Latched, corrupt, node};
use super::node::leaf_cost;
use super::ops::code;
use super::ops::leaf::{Bytes, encode_insert, encode_remove, encode_rewrite, encode_update};
use super::read::find;
use super::write::{Room, record_bytes};
use super::{Btree, ExtraEdit, Tree};
use crate::BTREE_RM;
use hamal_buffer::{ExclusivePage, Need, OpCredit, PageEdit, Stop};
use hamal_error::{Error, ErrorKind, Result};
use hamal_log::Whole;
use hamal_mutants::{self as mutants, Mutant};
use hamal_txn::{Status, Txn};

/// Pages that such a record may dirty beside the leaf.
const EXTRA_PAGES: usize = 8;

/// Prepares the other pages; may run again.
pub(crate) type Prepare<'f, 's> = dyn FnMut() -> Latched<Vec<ExtraEdit<'s>>> + 'f;

impl Btree {
    pub(crate) fn insert_row_structure<'s>(
        &'s self,
        txn: Option<&Txn>,
        tree: Tree,
        key: &[u8],
        value: &[u8],
        extra_bytes: u64,
        prepare: &mut Prepare<'_, 's>,
    ) -> Result<()> {
        self.check_key(key)?;
        let value = Bytes { chain: false, bytes: value };
        self.check_value(&value)?;
        let bytes = record_bytes(key.len() + value.bytes.len() + 32, 1 + EXTRA_PAGES) + extra_bytes;
        loop {
            let mut credit = self.pool().credit(bytes, 0, 1 + EXTRA_PAGES, false)?;
            let mut need = 0;
            let done = self.paged(|| {
                let page = self.exclusive_leaf(tree, key)?;
                let (op, payload) = self.insert_or_revive(txn, tree, key, value, &page, &mut need)?;
                self.log_structure(txn, page, op, &payload, prepare, &mut credit)
            });
            drop(credit);
            match done {
                Ok(()) => return Ok(()),
                Err(Stop::Error(e)) => return Err(e),
                Err(Stop::Need(Need::Room)) => {
                    self.make_room(txn, tree, key, Room { need, waste: true })?;
                }
                Err(Stop::Need(Need::Transaction(holder))) if txn.is_some() => {
                    if let Some(txn) = txn {
                        self.txns().wait_for(txn, holder)?;
                    }
                }
                Err(Stop::Need(need)) => {
                    return Err(Error::internal(format!("a row without a transaction needs {need:?}")));
                }
            }
        }
    }

    /// The operation that makes the row: INSERT, or UPDATE over a ghost (no older version: what a view
    /// that does not see the new row sees is a deleted one either way).
    fn insert_or_revive(
        &self,
        txn: Option<&Txn>,
        tree: Tree,
        key: &[u8],
        value: Bytes<'_>,
        page: &ExclusivePage<'_>,
        room: &mut usize,
    ) -> Latched<(u8, Vec<u8>)> {
        let leaf = node(tree, page.id(), page)?;
        let broken = |b| Stop::Error(corrupt(page.id(), b));
        let len = value.bytes.len();
        let (op, payload, cost) = match leaf.search(key).map_err(broken)? {
            Err(slot) => {
                let suffix = leaf.suffix_of(key).map_err(broken)?;
                (code::INSERT, encode_insert(slot, key, value), leaf_cost(suffix.len(), len))
            }
            Ok(slot) => {
                let record = leaf.leaf(slot).map_err(broken)?;
                let writer = record.word.writer();
                if !record.word.ghost() {
                    let m = "a row that a structure change inserts is there already";
                    return Err(Error::new(ErrorKind::AlreadyExists, m).into());
                }
                if !writer.is_none() && self.txns().status(writer) == Status::Active {
                    if txn.is_some_and(|t| t.id() == writer) {
                        let m = "a structure change over a row that its transaction may have to restore";
                        return Err(Error::internal(m).into());
                    }
                    return Err(Need::Transaction(writer).into());
                }
                (code::UPDATE, encode_update(slot, false, value), len.saturating_sub(record.allot))
            }
        };
        if cost > leaf.free() {
            *room = cost;
            return Err(Need::Room.into());
        }
        Ok((op, payload))
    }

    pub(crate) fn rewrite_row_structure<'s>(
        &'s self,
        tree: Tree,
        key: &[u8],
        value: Option<&[u8]>,
        extra_bytes: u64,
        prepare: &mut Prepare<'_, 's>,
    ) -> Result<()> {
        self.check_key(key)?;
        let value = value.map(|bytes| Bytes { chain: false, bytes });
        let len = value.map_or(0, |v| v.bytes.len());
        let bytes = record_bytes(len + 16, 1 + EXTRA_PAGES) + extra_bytes;
        let mut credit = self.pool().credit(bytes, 0, 1 + EXTRA_PAGES, false)?;
        self.pages_only(|| {
            let page = self.exclusive_leaf(tree, key)?;
            let leaf = node(tree, page.id(), &page)?;
            let found = find(&leaf, key).map_err(|b| corrupt(page.id(), b))?;
            let early = |w| mutants::is(Mutant::GarbageUnsettled) && self.txns().status(w) != Status::Active;
            let settled = |w| self.settled(w) || early(w);
            let there = found.filter(|(_, r)| !r.word.ghost() && settled(r.word.writer()));
            let Some((slot, record)) = there else {
                let m = "the row is gone, or its writer has not settled";
                return Err(Error::new(ErrorKind::NotFound, m).into());
            };
            let (op, payload) = match value {
                None => (code::REMOVE, encode_remove(slot)),
                Some(v) if v.bytes.len() <= record.allot => (code::REWRITE, encode_rewrite(slot, v)),
                Some(_) => {
                    let m = "a row that is rewritten in place must not get longer";
                    return Err(Error::new(ErrorKind::InvalidArgument, m).into());
                }
            };
            self.log_structure(None, page, op, &payload, prepare, &mut credit)
        })
    }

    fn log_structure<'s>(
        &'s self,
        txn: Option<&Txn>,
        mut leaf: ExclusivePage<'s>,
        op: u8,
        payload: &[u8],
        prepare: &mut Prepare<'_, 's>,
        credit: &mut OpCredit<'_>,
    ) -> Latched<()> {
        let mut extra = prepare()?;
        let mut edits = vec![PageEdit { page: &mut leaf, op, whole: Whole::No, payload }];
        edits.extend(extra.iter_mut().map(ExtraEdit::edit));
        self.txns().structure(txn, BTREE_RM, &mut edits, credit)?;
        Ok(())
    }
}
