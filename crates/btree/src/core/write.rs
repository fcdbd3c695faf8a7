//! Writing rows: put, remove, and the check of the conflict rule.
//!
//! The order is always the same (T25): room for older versions, credit, latches, the log. Whatever is
//! missing ends the latched section with a need; everything is let go, the credit included, the need is
//! met, and the write begins anew. Each round meets a need that somebody had to meet anyway, so there is
//! progress, if not for this writer, then for the one it lost against.
use super::descend::{Latched, Target, corrupt, leaf_at, node};
use super::node::{LeafRecord, SLOTS, leaf_cost};
use super::ops::code;
use super::ops::leaf::{self, Bytes};
use super::ops::run::{ROW_LENGTHS, put_insert_run};
use super::ops::undo::{Former, put_absent, put_former};
use super::read::{find, raw, value_of, version_of};
use super::{Btree, RawValue, Tree};
use crate::{BTREE_RM, CATALOGUE_TREE};
use hamal_buffer::{Need, OpCredit, PageEdit, Stop};
use hamal_error::{Error, ErrorKind, Result};
use hamal_log::Whole;
use hamal_page::TxnId;
use hamal_txn::{Txn, Version};
use std::cell::RefCell;

/// What is written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Write<'a> {
    /// The row gets this value.
    Put(Bytes<'a>),
    /// The row becomes a ghost.
    Remove,
    /// The row stays, and is this transaction's. One that is not there becomes a ghost of this transaction's.
    Lock,
}

/// An upper bound of the log bytes of a record, from the bytes of its payloads and undo and its number of
/// pages.
pub(crate) const fn record_bytes(payload: usize, pages: usize) -> u64 {
    (96 + 48 * pages + payload) as u64
}

/// An upper bound of the log bytes of the CLR that undoes a change which replaced `former` bytes of value.
pub(crate) const fn clr_bytes(former: usize) -> u64 {
    record_bytes(16 + former, 1)
}

/// An upper bound of the log bytes of the CLR that undoes a part of a run; at worst each row is a part.
pub(crate) const PART_BYTES: u64 = 96;

/// Undo reserve of a change: its CLR and a little, so that a rollback that finds the device full has what
/// it needs.
const fn undo_reserve(former: usize) -> u64 {
    clr_bytes(former) + 64
}

/// A conflict names its row.
fn named(e: Error, tree: Tree, key: &[u8]) -> Error {
    if e.kind() == ErrorKind::Conflict { e.with_tree(tree.id).with_key(key) } else { e }
}

/// Where a thread puts payload and undo of its changes together.
#[derive(Debug, Default)]
struct Buffers {
    payload: Vec<u8>,
    undo: Vec<u8>,
}

hamal_sync::thread_local! {
    static BUFFERS: RefCell<Buffers> = const { RefCell::new(Buffers { payload: Vec::new(), undo: Vec::new() }) };
}

/// What a leaf has no room for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Room {
    /// Bytes.
    pub(crate) need: usize,
    /// A purge would give some.
    pub(crate) waste: bool,
}

/// A logged change of a row, put together under the latch: payload and undo are in the buffers.
struct RowChange {
    op: u8,
    reserve: u64,
    /// The older version to push.
    version: Option<Version>,
    /// What the row was.
    former: Option<RawValue>,
}

impl Btree {
    pub(crate) fn check_key(&self, key: &[u8]) -> Result<()> {
        let max = self.limits().max_key;
        if key.len() > max {
            let m = format!("a key of {} bytes; the longest with this page size has {max}", key.len());
            return Err(Error::new(ErrorKind::InvalidArgument, m));
        }
        Ok(())
    }

    pub(crate) fn check_value(&self, value: &Bytes<'_>) -> Result<()> {
        let max = self.limits().max_inline;
        if value.bytes.len() > max {
            let m = format!("an inline value of {} bytes; the longest has {max}", value.bytes.len());
            return Err(Error::new(ErrorKind::InvalidArgument, m));
        }
        Ok(())
    }

    pub(crate) fn write_row(
        &self,
        txn: &Txn,
        tree: Tree,
        key: &[u8],
        write: Write<'_>,
    ) -> Result<Option<RawValue>> {
        self.check_key(key)?;
        let mut len = 0;
        if let Write::Put(value) = &write {
            self.check_value(value)?;
            len = value.bytes.len();
        }
        let worst = self.limits().max_inline;
        let bytes = record_bytes(2 * key.len() + len + worst + 64, 1);
        self.txns().thin_versions();
        // A thread that is ending has none any more; then fresh ones do.
        let mut buffers = BUFFERS.try_with(RefCell::take).unwrap_or_default();
        let done = self.write_row_with(txn, tree, key, write, bytes, undo_reserve(worst), &mut buffers);
        let _ = BUFFERS.try_with(|b| b.replace(buffers));
        done
    }

    #[allow(clippy::too_many_arguments, reason = "a write, what it may take, and where it is put together")]
    fn write_row_with(
        &self,
        txn: &Txn,
        tree: Tree,
        key: &[u8],
        write: Write<'_>,
        bytes: u64,
        undo_bytes: u64,
        buffers: &mut Buffers,
    ) -> Result<Option<RawValue>> {
        loop {
            let mut credit = self.pool().credit(bytes, undo_bytes, 1, false)?;
            let mut room = Room::default();
            let done = self.paged(|| self.try_write(txn, tree, key, &write, &mut room, &mut credit, buffers));
            drop(credit);
            match done {
                Ok(former) => {
                    if matches!(write, Write::Remove) && former.is_some() {
                        self.queue_ghost(tree, key, txn.id());
                    }
                    return Ok(former);
                }
                Err(Stop::Error(e)) => return Err(named(e, tree, key)),
                Err(Stop::Need(Need::Transaction(holder))) => {
                    self.txns().wait_for_row(txn, holder, tree.id, key)?;
                }
                Err(Stop::Need(Need::Room)) => self.make_room(Some(txn), tree, key, room)?,
                Err(Stop::Need(need)) => {
                    return Err(Error::internal(format!("a write of a row needs {need:?}")));
                }
            }
        }
    }

    /// Inserts rows from the front of `rows`, whose keys ascend, as far as they are new and go to one leaf that has room: by one
    /// record (BTREE-14). Makes room for the first. Returns how many; none if the first has to be written by itself.
    pub(crate) fn insert_run(&self, txn: &Txn, tree: Tree, rows: &[(&[u8], &[u8])]) -> Result<usize> {
        // No more than an empty leaf takes, and in the log no more than a split: every ring has room for that.
        let size = self.pool().page_size();
        let (mut cost, mut bytes, mut n) = (SLOTS, 0, 0);
        let mut before: Option<&[u8]> = None;
        for (key, value) in rows {
            cost += leaf_cost(0, value.len());
            let more = key.len() + value.len() + ROW_LENGTHS;
            let ascends = before.is_none_or(|before| before < *key);
            if cost > size || bytes + more > size + size / 2 || !ascends {
                break;
            }
            self.check_key(key)?;
            self.check_value(&Bytes { chain: false, bytes: value })?;
            before = Some(key);
            (bytes, n) = (bytes + more, n + 1);
        }
        if n < 2 {
            return Ok(0);
        }
        let rows = &rows[..n];
        // The prefix is in the payload too, and in no row then.
        let bytes = record_bytes(bytes + self.limits().max_key + 64, 1);
        loop {
            let mut buffers = BUFFERS.try_with(RefCell::take).unwrap_or_default();
            let mut credit = self.pool().credit_run(bytes, PART_BYTES, n)?;
            let mut room = Room::default();
            let done = self.paged(|| self.try_run(txn, tree, rows, &mut room, &mut credit, &mut buffers));
            drop(credit);
            let _ = BUFFERS.try_with(|b| b.replace(buffers));
            match done {
                Ok(n) => return Ok(n),
                Err(Stop::Error(e)) => return Err(e),
                Err(Stop::Need(Need::Room)) => self.make_room(Some(txn), tree, rows[0].0, room)?,
                Err(Stop::Need(need)) => {
                    return Err(Error::internal(format!("a run of new rows needs {need:?}")));
                }
            }
        }
    }

    fn try_run(
        &self,
        txn: &Txn,
        tree: Tree,
        rows: &[(&[u8], &[u8])],
        room: &mut Room,
        credit: &mut OpCredit<'_>,
        buffers: &mut Buffers,
    ) -> Latched<usize> {
        let Some((first, _)) = rows.first() else { return Ok(0) };
        let mut page = match self.finger_leaf(tree, first)? {
            Some(page) => page,
            None => self.exclusive_leaf(tree, first)?,
        };
        let leaf = node(tree, page.id(), &page)?;
        let broken = |b| Stop::Error(corrupt(page.id(), b));
        let Err(slot) = leaf.search_run(first).map_err(broken)? else { return Ok(0) };
        // As many as lie below what is there already, and as there is room for.
        let above = if slot < leaf.count() { Some(leaf.key(slot).map_err(broken)?) } else { None };
        let bound = above.as_deref().or(leaf.upper());
        let most = bound.map_or(rows.len(), |bound| rows.partition_point(|(key, _)| *key < bound));
        let (prefix, mut free) = (leaf.prefix(), leaf.free());
        let mut n = 0;
        for (key, value) in &rows[..most] {
            let cost = leaf_cost(key.len().saturating_sub(prefix.len()), value.len());
            let Some(left) = free.checked_sub(cost) else {
                if n == 0 {
                    *room = Room { need: cost, waste: self.has_waste(&leaf).map_err(broken)? };
                    return Err(Need::Room.into());
                }
                break;
            };
            (free, n) = (left, n + 1);
        }
        self.point_at(tree, &page, &leaf);
        let rows = &rows[..n];
        buffers.payload.clear();
        buffers.undo.clear();
        put_insert_run(&mut buffers.payload, slot, prefix, rows).map_err(broken)?;
        put_absent(&mut buffers.undo, tree);
        rows.iter().for_each(|(key, _)| self.txns().note_write(txn, tree.id, key));
        let edit =
            PageEdit { page: &mut page, op: code::INSERT_RUN, whole: Whole::No, payload: &buffers.payload };
        credit.limit_undo(n);
        let undo = n as u64 * PART_BYTES;
        self.txns().update(txn, BTREE_RM, &mut [edit], &buffers.undo, undo, credit)?;
        Ok(n)
    }

    #[allow(clippy::too_many_arguments, reason = "a latched section gets all that was taken before it")]
    fn try_write(
        &self,
        txn: &Txn,
        tree: Tree,
        key: &[u8],
        write: &Write<'_>,
        room: &mut Room,
        credit: &mut OpCredit<'_>,
        buffers: &mut Buffers,
    ) -> Latched<Option<RawValue>> {
        let near = self.finger_leaf(tree, key)?;
        let again = near.is_some();
        let mut page = match near {
            Some(page) => page,
            None => self.exclusive_leaf(tree, key)?,
        };
        let leaf = node(tree, page.id(), &page)?;
        let broken = |b| Stop::Error(corrupt(page.id(), b));
        let found = if again { leaf.search_run(key) } else { leaf.search(key) }.map_err(broken)?;
        buffers.payload.clear();
        buffers.undo.clear();
        let change = match (found, write) {
            (Err(_), Write::Remove) => {
                // Its ghost may have been taken away under an ended snapshot (TXN-TOO-OLD).
                txn.check_age()?;
                return Ok(None);
            }
            (Err(slot), Write::Put(_) | Write::Lock) => {
                // A key that is not there is locked by an empty row that the next round takes away (BTREE-11).
                let empty = Bytes { chain: false, bytes: &[] };
                let value = if let Write::Put(value) = write { value } else { &empty };
                let suffix = leaf.suffix_of(key).map_err(broken)?;
                let cost = leaf_cost(suffix.len(), value.bytes.len());
                if cost > leaf.free() {
                    *room = Room { need: cost, waste: self.has_waste(&leaf).map_err(broken)? };
                    return Err(Need::Room.into());
                }
                leaf::put_insert(&mut buffers.payload, slot, key, *value);
                put_absent(&mut buffers.undo, tree);
                RowChange { op: code::INSERT, reserve: undo_reserve(0), version: None, former: None }
            }
            (Ok(slot), _) => {
                let record = leaf.leaf(slot).map_err(broken)?;
                let writer = record.word.writer();
                if tree.id == CATALOGUE_TREE {
                    // A name is given, or taken away, because of what was read of it (TXN-RC).
                    self.txns().check_write_since_snapshot(txn, writer)?;
                } else {
                    self.txns().check_write(txn, writer)?;
                }
                // What the rule went by may have been forgotten under an ended snapshot (TXN-TOO-OLD).
                txn.check_age()?;
                if matches!(write, Write::Remove) && record.word.ghost() {
                    return Ok(None);
                }
                if matches!(write, Write::Lock) && !writer.is_none() && writer == txn.id() {
                    return Ok((!record.word.ghost()).then(|| raw(value_of(&record))));
                }
                if let Write::Put(value) = write {
                    let more = value.bytes.len().saturating_sub(record.allot);
                    if more > leaf.free() {
                        *room = Room { need: more, waste: self.has_waste(&leaf).map_err(broken)? };
                        return Err(Need::Room.into());
                    }
                }
                self.change_of(txn, tree, key, slot, &record, write, buffers)
            }
        };
        self.point_at(tree, &page, &leaf);
        let edit = PageEdit { page: &mut page, op: change.op, whole: Whole::No, payload: &buffers.payload };
        self.txns().note_write(txn, tree.id, key);
        self.txns().update(txn, BTREE_RM, &mut [edit], &buffers.undo, change.reserve, credit)?;
        if let Some(version) = change.version {
            self.txns().versions().push_logged(txn, BTREE_RM, tree.id.0, key, version);
        }
        Ok(change.former)
    }

    /// The change of a record that is there. V goes on as long as the writer is the same; a new writer
    /// pushes what it replaces, unless that is a ghost that everybody sees (BTREE-7).
    #[allow(clippy::too_many_arguments, reason = "as `try_write`")]
    fn change_of(
        &self,
        txn: &Txn,
        tree: Tree,
        key: &[u8],
        slot: usize,
        record: &LeafRecord<'_>,
        write: &Write<'_>,
        buffers: &mut Buffers,
    ) -> RowChange {
        let (word, own) = (record.word, txn.id());
        let foreign = own.is_none() || word.writer() != own;
        let push = foreign && !(word.ghost() && self.settled(word.writer()));
        let older = if foreign { push } else { word.older() };
        let former = Bytes { chain: record.chain, bytes: record.value };
        let payload = &mut buffers.payload;
        let (op, kept, reserve) = match write {
            Write::Put(value) => {
                leaf::put_update(payload, slot, older, *value);
                (code::UPDATE, Some(former), undo_reserve(former.bytes.len()))
            }
            Write::Remove => {
                leaf::put_mark_ghost(payload, slot, older);
                (code::MARK_GHOST, None, undo_reserve(0))
            }
            Write::Lock => {
                leaf::put_lock(payload, slot, older);
                (code::LOCK, None, undo_reserve(0))
            }
        };
        put_former(&mut buffers.undo, tree, own, key, &Former { word, value: kept });
        RowChange {
            op,
            reserve,
            version: push.then(|| version_of(record)),
            former: (!word.ghost()).then(|| raw(value_of(record))),
        }
    }

    /// Two records at most: a key without a row gets an empty one, and that becomes a ghost. Both are ordinary changes of
    /// the transaction, so undo, recovery and purge know them (BTREE-11).
    pub(crate) fn lock_row(&self, txn: &Txn, tree: Tree, key: &[u8]) -> Result<Option<RawValue>> {
        let row = self.write_row(txn, tree, key, Write::Lock)?;
        if row.is_none() && self.write_row(txn, tree, key, Write::Remove)?.is_none() {
            // There was a ghost. It has a new writer, and goes when that one has settled.
            self.queue_ghost(tree, key, txn.id());
        }
        Ok(row)
    }

    /// Whether everybody sees what `writer` wrote, for ever.
    pub(crate) fn settled(&self, writer: TxnId) -> bool {
        writer.is_none() || self.txns().settled(writer)
    }

    pub(crate) fn check_row_of(&self, txn: &Txn, tree: Tree, key: &[u8]) -> Result<()> {
        self.check_key(key)?;
        loop {
            let done = self.paged(|| {
                let page = self.shared_leaf(tree, Target::At(key))?;
                let leaf = leaf_at(tree, page.id(), &page, Target::At(key))?;
                match find(&leaf, key).map_err(|b| corrupt(page.id(), b))? {
                    Some((_, record)) => self.txns().check_write_since_snapshot(txn, record.word.writer()),
                    None => Ok(()),
                }
            });
            match done {
                Ok(()) => return Ok(()),
                Err(Stop::Error(e)) => return Err(named(e, tree, key)),
                Err(Stop::Need(Need::Transaction(holder))) => {
                    self.txns().wait_for_row(txn, holder, tree.id, key)?;
                }
                Err(Stop::Need(need)) => {
                    return Err(Error::internal(format!("a check of a row needs {need:?}")));
                }
            }
        }
    }

    /// Room in the leaf of a key: by a purge, if that gives a good deal of it, else by a split. It may take several.
    pub(crate) fn make_room(&self, txn: Option<&Txn>, tree: Tree, key: &[u8], room: Room) -> Result<()> {
        let enough = (self.pool().page_size() / 16).max(room.need);
        if room.waste && self.purge_leaf(tree, key)? >= enough {
            return Ok(());
        }
        self.split(txn, tree, key, room.need)
    }
}
