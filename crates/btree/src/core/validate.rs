//! Looking again at what a serializable transaction has read.
//!
//! For each interval the leaves that hold it are visited as a scan visits them, from fence to fence (BTREE-9), and every record,
//! ghosts too, is brought to `TxnManager::check_read` under the leaf's latch. Nothing is copied. A row that was deleted since the
//! snapshot is a ghost that cannot be purged yet, as the snapshot holds the horizon; a row that was not there is a
//! record with a younger writer: so absence is validated like presence (TXN-VALID).
use super::codec::Sound;
use super::descend::{Target, corrupt, leaf_at};
use super::node::Node;
use super::{Bound, Btree, Tree, scan};
use crate::BTREE_RM;
use hamal_error::Result;
use hamal_txn::{KeyRange, Validation};

impl Btree {
    /// Brings every record within what was read to the transaction manager.
    ///
    /// # Errors
    /// `Serialization` if one of them was changed by a transaction that committed after the snapshot; as a page read.
    pub fn check_reads(&self, v: &Validation) -> Result<()> {
        v.reads().ranges().try_for_each(|range| self.check_range(v, &range))
    }

    fn check_range(&self, v: &Validation, range: &KeyRange<'_>) -> Result<()> {
        let tree = Tree { id: range.tree, root: range.root };
        let max = self.limits().max_key;
        // No key is longer than the longest: what a longer bound is cut to lies just below it.
        let mut from = range.low[..range.low.len().min(max)].to_vec();
        loop {
            let next = self.pages_only(|| {
                let page = self.shared_leaf(tree, Target::At(&from))?;
                let leaf = leaf_at(tree, page.id(), &page, Target::At(&from))?;
                let seen = self.check_leaf(v, range, &leaf).map_err(|b| corrupt(page.id(), b))?;
                seen?;
                // Whatever lies below the upper fence of this leaf is in it now, or will be written by somebody who sees
                // that this transaction validates.
                Ok(leaf.upper().filter(|u| range.high.is_none_or(|h| *u < h)).map(<[u8]>::to_vec))
            })?;
            match next {
                Some(fence) => from = fence,
                None => return Ok(()),
            }
        }
    }

    fn check_leaf(&self, v: &Validation, range: &KeyRange<'_>, leaf: &Node<'_>) -> Sound<Result<()>> {
        let high = range.high.map_or(Bound::Unbounded, Bound::Excluded);
        for slot in scan::slots(leaf, Bound::Included(range.low), high)? {
            let (key, word) = (leaf.key(slot)?, leaf.leaf(slot)?.word);
            let checked = self.txns().check_read(v, BTREE_RM, range.tree, &key, word.writer(), word.older());
            if checked.is_err() {
                return Ok(checked);
            }
        }
        Ok(Ok(()))
    }
}
