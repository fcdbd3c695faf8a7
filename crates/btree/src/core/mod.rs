//! The tree itself: search, insert, remove, scan, split, merge, purge, undo. Rows are opaque bytes with a
//! record word.
//!
//! * `node.rs` the layout of a node and searching it; `edit.rs` changing its bytes; `codec.rs` small
//!   encodings.
//! * `ops/` the operations that records hold: payload, apply, undo bytes and description of a kind side by
//!   side.
//! * `descend.rs` from the root to a node by latch coupling; `routes.rs` copies of inner nodes that are read without
//!   latches; `finger.rs` the leaf that was written last; `read.rs`, `scan.rs` what a view sees; `batch.rs` rows copied out of a leaf.
//! * `history.rs` former states of rows, from the log.
//! * `write.rs` put and remove; `undo.rs` their undo, by key; `structure.rs` rows by redo-only records.
//! * `split.rs`, `merge.rs`, `purge.rs` the shape of the tree; `manager.rs` the resource manager.
//!
//! `docs/formats/btree.md` has the bytes, `docs/invariants/btree.md` what must hold; comments cite its ids.
mod batch;
pub(crate) mod codec;
mod descend;
pub(crate) mod edit;
mod finger;
mod history;
mod manager;
mod merge;
pub(crate) mod node;
pub(crate) mod ops;
mod purge;
pub(crate) mod read;
mod relocate;
mod routes;
mod scan;
mod split;
mod structure;
#[cfg(test)]
mod tests;
mod undo;
mod validate;
mod write;

pub use batch::Batch;
pub use manager::BtreeManager;
pub use relocate::Relocation;

use crate::BTREE_RM;
use hamal_buffer::{ExclusivePage, PageEdit, Pool};
use hamal_error::Result;
use hamal_page::{PageId, TreeId};
use hamal_space::Space;
use hamal_sync::atomic::{AtomicBool, Ordering::Relaxed};
use hamal_sync::{Mutex, RwLock, aside};
use hamal_txn::{Txn, TxnManager, View};
use ops::leaf::{Bytes, chain_bytes};
use purge::QueuedGhost;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use write::Write;

/// A tree, as the core needs it: its id and its root page, which never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tree {
    /// Id.
    pub id: TreeId,
    /// Root page.
    pub root: PageId,
}

/// Limits that follow from the page size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest key, in bytes: an eighth of a page (T30).
    pub max_key: usize,
    /// Longest value kept in the leaf, in bytes: a quarter of a page; longer ones go to overflow pages.
    pub max_inline: usize,
}

/// Where a scan begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound<'a> {
    /// At the key.
    Included(&'a [u8]),
    /// Beyond the key.
    Excluded(&'a [u8]),
    /// At the tree's end.
    Unbounded,
}

/// Which way a scan goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Ascending.
    Forward,
    /// Descending.
    Reverse,
}

/// A value as it lies in the leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RawValue {
    /// The bytes.
    Inline(Vec<u8>),
    /// A chain of overflow pages: total length in bytes and head page.
    Chain {
        /// Length of the value in bytes.
        len: u64,
        /// First page of the chain.
        head: PageId,
    },
}

/// A row of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Key.
    pub key: Vec<u8>,
    /// Value.
    pub value: RawValue,
}

/// The B+-tree code over a pool, transactions and free space. Registered as a resource manager under
/// [`crate::BTREE_RM`] through [`Btree::manager`].
pub struct Btree {
    /// No other has it in this process.
    number: u64,
    txns: Arc<TxnManager>,
    space: Arc<Space>,
    /// Recovery undoes: no purge, no merge, no ghosts remembered (T11).
    undo_only: AtomicBool,
    ghosts: Mutex<VecDeque<QueuedGhost>>,
    /// There were more than the queue takes.
    ghosts_lost: AtomicBool,
    /// Held shared while a queued ghost is tidied, exclusively while a tree is forgotten.
    tidying: RwLock<()>,
    routes: routes::Routes,
}

impl fmt::Debug for Btree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Btree").field("undo_only", &self.undo_only).finish_non_exhaustive()
    }
}

impl Btree {
    /// The resource manager to register before the pool exists; [`Btree::new`] connects it (its undo needs
    /// the tree code).
    pub fn manager() -> Arc<BtreeManager> {
        Arc::new(BtreeManager::default())
    }
    /// The tree code. Connects `manager`.
    pub fn new(manager: &Arc<BtreeManager>, txns: Arc<TxnManager>, space: Arc<Space>) -> Arc<Btree> {
        static NEXT: aside::AtomicU64 = aside::AtomicU64::new(0);
        let btree = Arc::new(Btree {
            number: NEXT.fetch_add(1, Relaxed),
            routes: routes::Routes::new(txns.pool()),
            txns,
            space,
            undo_only: AtomicBool::new(false),
            ghosts: Mutex::new(VecDeque::new()),
            ghosts_lost: AtomicBool::new(false),
            tidying: RwLock::new(()),
        });
        // A second tree over one manager would be a second engine: the first stays connected.
        let _ = manager.btree.set(Arc::downgrade(&btree));
        btree
    }
    /// Transactions.
    pub fn txns(&self) -> &Arc<TxnManager> {
        &self.txns
    }
    /// Free space.
    pub fn space(&self) -> &Arc<Space> {
        &self.space
    }
    /// Limits.
    pub fn limits(&self) -> Limits {
        let size = self.pool().page_size();
        Limits { max_key: node::max_key(size), max_inline: node::max_inline(size) }
    }
    /// Logs (redo-only, for nobody) an empty root at `tree.root`, whose map bit is already set (bootstrap).
    ///
    /// # Errors
    /// As a logged change.
    pub fn make_root(&self, tree: Tree) -> Result<()> {
        let payload = ops::tree::encode_empty(tree.id);
        self.pool().grow_to(tree.root.0 + 1)?;
        let mut credit = self.pool().credit(write::record_bytes(payload.len(), 1), 0, 1, false)?;
        let mut page = self.pool().create(tree.root)?;
        let edit = PageEdit {
            page: &mut page,
            op: ops::code::INIT,
            whole: hamal_log::Whole::Init,
            payload: &payload,
        };
        self.txns.structure(None, BTREE_RM, &mut [edit], &mut credit)?;
        Ok(())
    }

    /// Looks a key up and hands the value to `f` under the leaf's latch (version bytes otherwise). `f`
    /// must be short and must not call the engine.
    ///
    /// # Errors
    /// As a page read.
    pub fn get<R>(
        &self,
        view: &View,
        tree: Tree,
        key: &[u8],
        f: impl FnOnce(ValueRef<'_>) -> R,
    ) -> Result<Option<R>> {
        self.get_row(view, tree, key, f)
    }
    /// Collects up to `limit` rows (at least one leaf's worth if there are any) visible to the view within
    /// the bounds, in the direction, appended to `out`. Returns whether the scan may have more: continue
    /// from the last key (Excluded). Visibility is resolved before the leaf is left (T18).
    ///
    /// # Errors
    /// As a page read.
    #[allow(clippy::too_many_arguments, reason = "the bounds of a scan are what they are")]
    pub fn scan(
        &self,
        view: &View,
        tree: Tree,
        low: Bound<'_>,
        high: Bound<'_>,
        direction: Direction,
        limit: usize,
        out: &mut Vec<Entry>,
    ) -> Result<bool> {
        self.scan_rows(view, tree, low, high, direction, limit, out)
    }
    /// The next rows visible to the view within the bounds, in the direction, instead of what `batch` holds: at most
    /// `limit`, all of one leaf, at least one if there are any. Returns whether there may be more: continue from
    /// [`Batch::beyond`]. Visibility is resolved before the leaf is left (T18).
    ///
    /// # Errors
    /// As a page read.
    #[allow(clippy::too_many_arguments, reason = "the bounds of a scan are what they are")]
    pub fn scan_batch(
        &self,
        view: &View,
        tree: Tree,
        low: Bound<'_>,
        high: Bound<'_>,
        direction: Direction,
        limit: usize,
        batch: &mut Batch,
    ) -> Result<bool> {
        self.next_batch(view, tree, low, high, direction, limit, batch)
    }

    /// Inserts or replaces a row; waits for a live writer of it. Returns the former value, if any. The
    /// caller holds the transaction's operation lock, has registered with the tree, and takes care of the
    /// former value's chain.
    ///
    /// # Errors
    /// `Conflict`, `Deadlock`, `LockTimeout`, `InvalidArgument` (key empty allowed; too long not),
    /// `LogFull`, `NoSpace`, `SnapshotTooOld`, `Poisoned`.
    pub fn put(&self, txn: &Txn, tree: Tree, key: &[u8], value: PutValue<'_>) -> Result<Option<RawValue>> {
        let chain = chain_bytes(&value);
        let value = match value {
            PutValue::Inline(bytes) => Bytes { chain: false, bytes },
            PutValue::Chain { .. } => Bytes { chain: true, bytes: &chain },
        };
        self.write_row(txn, tree, key, Write::Put(value))
    }
    /// Puts rows whose keys ascend, all with inline values, as [`Btree::put`] would one by one; `former` gets each former
    /// value. Those that are new and go to the same leaf are inserted under one hold of its latch.
    ///
    /// # Errors
    /// As [`Btree::put`], and those of `former`: some rows may have been put then.
    pub fn put_sorted(
        &self,
        txn: &Txn,
        tree: Tree,
        rows: &[(&[u8], &[u8])],
        former: &mut dyn FnMut(RawValue) -> Result<()>,
    ) -> Result<()> {
        let mut left = rows;
        while let Some(((key, value), others)) = left.split_first() {
            let done = self.insert_run(txn, tree, left)?;
            if done > 0 {
                left = &left[done..];
                continue;
            }
            if let Some(old) = self.put(txn, tree, key, PutValue::Inline(value))? {
                former(old)?;
            }
            left = others;
        }
        Ok(())
    }
    /// Removes a row (it becomes a ghost); waits for a live writer of it. Returns the former value, if any.
    ///
    /// # Errors
    /// As [`Btree::put`].
    pub fn remove(&self, txn: &Txn, tree: Tree, key: &[u8]) -> Result<Option<RawValue>> {
        self.write_row(txn, tree, key, Write::Remove)
    }
    /// Makes a row the transaction's without changing it, and returns its value; waits for a live writer of it. A key
    /// that has no row is locked as well: nobody else can insert it before the transaction's end (BTREE-11). The
    /// caller does what it does for [`Btree::put`], within one statement.
    ///
    /// # Errors
    /// As [`Btree::put`].
    pub fn lock(&self, txn: &Txn, tree: Tree, key: &[u8]) -> Result<Option<RawValue>> {
        self.lock_row(txn, tree, key)
    }
    /// Checks the conflict rule for a row without changing it (registration's check of the catalogue row,
    /// T8): waits for a live writer.
    ///
    /// # Errors
    /// `Conflict` if another transaction committed a change of it after the snapshot; as [`Btree::put`].
    pub fn check_row(&self, txn: &Txn, tree: Tree, key: &[u8]) -> Result<()> {
        self.check_row_of(txn, tree, key)
    }
    /// Inserts a row by a redo-only record that carries the transaction's id as writer (garbage rows of
    /// pages under construction), together with `extra` edits of pages that the caller prepared: all in
    /// one record. `prepare` runs with the leaf latched and returns the guards to edit (created pages,
    /// then map pages); it may be run again.
    ///
    /// # Errors
    /// As [`Btree::put`].
    pub fn insert_structure<'s>(
        &'s self,
        txn: Option<&Txn>,
        tree: Tree,
        key: &[u8],
        value: &[u8],
        extra_bytes: u64,
        prepare: &mut dyn FnMut() -> std::result::Result<Vec<ExtraEdit<'s>>, hamal_buffer::Stop>,
    ) -> Result<()> {
        self.insert_row_structure(txn, tree, key, value, extra_bytes, prepare)
    }
    /// Replaces the value of a *settled* row in place (`Some`, same or shorter length) or takes the row
    /// away (`None`) by a redo-only record for nobody, together with extra edits. The garbage collector's
    /// steps.
    ///
    /// # Errors
    /// `NotFound` if the row is gone or not settled.
    pub fn rewrite_structure<'s>(
        &'s self,
        tree: Tree,
        key: &[u8],
        value: Option<&[u8]>,
        extra_bytes: u64,
        prepare: &mut dyn FnMut() -> std::result::Result<Vec<ExtraEdit<'s>>, hamal_buffer::Stop>,
    ) -> Result<()> {
        self.rewrite_row_structure(tree, key, value, extra_bytes, prepare)
    }
    /// Takes ghosts and slack of settled records out of the leaf that holds `key`, and merges it with a
    /// neighbour if it is less than 40% full. Background work and tests call it; writers do it themselves
    /// when a leaf needs room.
    ///
    /// # Errors
    /// As a logged change.
    pub fn tidy(&self, tree: Tree, key: &[u8]) -> Result<()> {
        self.tidy_leaf(tree, key)
    }
    /// Takes queued ghosts (of transactions that have settled) and tidies their leaves, at most `max`.
    /// Returns how many were looked at.
    ///
    /// # Errors
    /// As a logged change.
    pub fn tidy_queued(&self, max: usize) -> Result<usize> {
        self.tidy_some(max)
    }

    /// Switches purge, merges and the queue of ghosts off (`true`) while recovery undoes, and on again:
    /// until the last loser has ended, what looks settled may be a loser's (T11).
    pub fn set_undo_only(&self, on: bool) {
        self.undo_only.store(on, Relaxed);
    }

    /// Forgets the queued ghosts of a tree that is about to be freed; when it returns none of them is
    /// being tidied. The caller holds no latch.
    pub fn forget_tree(&self, tree: TreeId) {
        self.forget_ghosts(tree);
    }

    pub(crate) fn pool(&self) -> &Pool {
        self.txns.pool()
    }
}

/// A value as [`Btree::get`] shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueRef<'a> {
    /// The bytes.
    Inline(&'a [u8]),
    /// A chain of overflow pages.
    Chain {
        /// Length of the value in bytes.
        len: u64,
        /// First page of the chain.
        head: PageId,
    },
}

/// A value to put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutValue<'a> {
    /// At most [`Limits::max_inline`] bytes.
    Inline(&'a [u8]),
    /// A chain that was built before.
    Chain {
        /// Length of the value in bytes.
        len: u64,
        /// First page of the chain.
        head: PageId,
    },
}

/// A page that a structure change edits beside the leaf.
#[derive(Debug)]
pub struct ExtraEdit<'s> {
    /// The page, latched.
    pub page: ExclusivePage<'s>,
    /// Resource manager: must be the B-tree's for all pages of a record but map pages.
    pub op: u8,
    /// Whether the page is made anew or freed.
    pub whole: hamal_log::Whole,
    /// Payload.
    pub payload: Vec<u8>,
}

impl<'s> ExtraEdit<'s> {
    /// As the pool wants it.
    pub fn edit(&mut self) -> PageEdit<'_, 's> {
        PageEdit { page: &mut self.page, op: self.op, whole: self.whole, payload: &self.payload }
    }
}
