//! Taking away what nobody can need any more: ghosts and slack of records whose writer has settled. The
//! only thing that does (T9, T20), by a redo-only record that names its slots, so that redo asks nobody
//! who has settled.
use super::codec::Sound;
use super::descend::{corrupt, node, unmet};
use super::node::{LeafRecord, Node, SLOT};
use super::ops::code;
use super::ops::leaf::encode_purge;
use super::write::record_bytes;
use super::{Btree, Tree};
use crate::BTREE_RM;
use hamal_buffer::PageEdit;
use hamal_error::{ErrorKind, Result};
use hamal_log::Whole;
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::{TreeId, TxnId};
use hamal_sync::atomic::Ordering::Relaxed;
use hamal_txn::Status;

/// Ghosts remembered for background tidying; beyond it they wait for a writer that needs the room, or for a sweep.
const MOST_GHOSTS: usize = 1 << 16;

/// No more than this many are queued by scans.
const MOST_HINTS: usize = 1 << 12;

/// A ghost, and whose it is.
#[derive(Debug)]
pub(crate) struct QueuedGhost {
    tree: Tree,
    key: Box<[u8]>,
    writer: TxnId,
}

impl Btree {
    /// Purges the leaf of a key; returns the bytes that can be used now, or 0 if there was nothing to purge.
    pub(crate) fn purge_leaf(&self, tree: Tree, key: &[u8]) -> Result<usize> {
        if self.undo_only.load(Relaxed) {
            return Ok(0);
        }
        // A slot number takes at most three bytes, and a slot and its record at least twenty of the page.
        let size = self.pool().page_size();
        let mut credit = self.pool().credit(record_bytes(size / 2, 1), 0, 1, false)?;
        let mut page = self.paged(|| self.exclusive_leaf(tree, key)).map_err(unmet)?;
        let leaf = node(tree, page.id(), &page)?;
        let (mut trims, mut ghosts, mut freed) = (Vec::new(), Vec::new(), 0);
        for slot in 0..leaf.count() {
            let broken = |b| corrupt(page.id(), b);
            let record = leaf.leaf(slot).map_err(broken)?;
            if !self.can_purge(&record) {
                continue;
            }
            if record.word.ghost() {
                freed += SLOT + leaf.record(leaf.slot(slot).map_err(broken)?).map_err(broken)?.len();
                ghosts.push(slot);
            } else {
                freed += record.allot - record.value.len();
                trims.push(slot);
            }
        }
        if freed == 0 {
            return Ok(0);
        }
        let free = leaf.free() + freed;
        let payload = encode_purge(&trims, &ghosts);
        let edit = PageEdit { page: &mut page, op: code::PURGE, whole: Whole::No, payload: &payload };
        self.txns().structure(None, BTREE_RM, &mut [edit], &mut credit)?;
        Ok(free)
    }

    /// Whether a record is a ghost, or has slack, that nobody needs any more.
    fn can_purge(&self, record: &LeafRecord<'_>) -> bool {
        let (ghost, writer) = (record.word.ghost(), record.word.writer());
        let early = ghost && mutants::is(Mutant::GhostPurgedEarly);
        let early = early && matches!(self.txns().status(writer), Status::Committed(_));
        (ghost || record.allot > record.value.len()) && (self.settled(writer) || early)
    }

    /// Whether a purge of the leaf would give anything.
    pub(crate) fn has_waste(&self, leaf: &Node<'_>) -> Sound<bool> {
        for slot in 0..leaf.count() {
            if self.can_purge(&leaf.leaf(slot)?) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Remembers a ghost for [`Btree::tidy_queued`].
    pub(crate) fn queue_ghost(&self, tree: Tree, key: &[u8], writer: TxnId) {
        if self.undo_only.load(Relaxed) {
            return;
        }
        let mut queue = self.ghosts.lock();
        if queue.len() < MOST_GHOSTS {
            queue.push_back(QueuedGhost { tree, key: key.into(), writer });
        } else {
            self.ghosts_lost.store(true, Relaxed);
        }
    }

    /// Remembers a ghost that somebody met by the way, if few are waiting: it will be met again.
    pub(crate) fn hint_ghost(&self, tree: Tree, key: &[u8], writer: TxnId) {
        if self.ghosts.lock().len() < MOST_HINTS {
            self.queue_ghost(tree, key, writer);
        }
    }

    /// Whether ghosts were not remembered since this was asked last, and there is room in the queue again.
    pub fn ghosts_lost(&self) -> bool {
        self.ghosts.lock().is_empty() && self.ghosts_lost.swap(false, Relaxed)
    }

    pub(crate) fn tidy_some(&self, max: usize) -> Result<usize> {
        if self.undo_only.load(Relaxed) {
            return Ok(0);
        }
        let max = max.min(self.ghosts.lock().len());
        for seen in 0..max {
            // A tree is forgotten (and then freed) either before its ghost is taken out here, or after its
            // leaf is tidy.
            let _tidying = self.tidying.read();
            let Some(ghost) = self.ghosts.lock().pop_front() else { return Ok(seen) };
            if !self.settled(ghost.writer) {
                self.ghosts.lock().push_back(ghost);
                continue;
            }
            match self.tidy_leaf(ghost.tree, &ghost.key) {
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) if matches!(e.kind(), ErrorKind::LogFull | ErrorKind::NoSpace | ErrorKind::Limit) => {
                    // Nothing is wrong with the leaf: its turn comes again.
                    self.ghosts.lock().push_back(ghost);
                    return Err(e);
                }
                done => done?,
            }
        }
        Ok(max)
    }

    /// Forgets the queued ghosts of a tree, and waits until none of them is being tidied.
    pub(crate) fn forget_ghosts(&self, tree: TreeId) {
        let _alone = self.tidying.write();
        self.ghosts.lock().retain(|g| g.tree.id != tree);
    }
}
