//! Merges: a node that is less than 40% full goes into a neighbour under the same parent, if both together
//! leave some room. One redo-only record: the left page takes over, the right one is freed, the parent
//! loses the separator, the map page the bit. A root with one child takes its child's place.
//!
//! Latches are taken in the usual order: parent, left, right, map page.
use super::codec::Broken;
use super::descend::{Latched, Target, apart, corrupt, leaf_at, node, unmet};
use super::node::{Node, SLOTS, inner_cost};
use super::ops::code;
use super::ops::tree::{Shape, encode_absorb, encode_init, encode_remove_child};
use super::split::size_of;
use super::write::record_bytes;
use super::{Btree, Tree};
use crate::BTREE_RM;
use hamal_buffer::{ExclusivePage, OpCredit, PageEdit, Stop};
use hamal_error::Result;
use hamal_log::Whole;
use hamal_page::PageId;
use hamal_space::OP_CLEAR;
use hamal_sync::atomic::Ordering::Relaxed;

/// What became of a node that was to be merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Merge {
    /// It is full enough.
    Full,
    /// It stays: no neighbour under its parent has room.
    Alone,
    /// It is merged.
    Done,
}

impl Btree {
    pub(crate) fn tidy_leaf(&self, tree: Tree, key: &[u8]) -> Result<()> {
        if self.undo_only.load(Relaxed) {
            return Ok(());
        }
        // The cheap look first: most leaves were tidied for another ghost, and are full enough.
        let (waste, sparse) = self.pages_only(|| self.look_at_leaf(tree, key))?;
        if waste {
            self.purge_leaf(tree, key)?;
        } else if !sparse {
            return Ok(());
        }
        for level in 0..u8::MAX {
            // A neighbour that was taken over may have left room for the next one.
            let mut merged = false;
            let kept = loop {
                match self.merge_one(tree, key, level)? {
                    Merge::Done => merged = true,
                    kept => break kept,
                }
            };
            if merged {
                continue;
            }
            // A leaf that is nearly empty and stays may have no neighbour under its parent.
            if level > 0 || kept == Merge::Full || !self.pages_only(|| self.is_lonely(tree, key))? {
                break;
            }
        }
        Ok(())
    }

    /// Whether the leaf of the key has something to purge, and whether it is sparse.
    fn look_at_leaf(&self, tree: Tree, key: &[u8]) -> Latched<(bool, bool)> {
        let page = self.shared_leaf(tree, Target::At(key))?;
        let leaf = leaf_at(tree, page.id(), &page, Target::At(key))?;
        let waste = self.has_waste(&leaf).map_err(|b| corrupt(page.id(), b))?;
        Ok((waste, self.is_sparse(&leaf)))
    }

    /// Whether the parent of the key's leaf has no other child: then the level above may help.
    fn is_lonely(&self, tree: Tree, key: &[u8]) -> Latched<bool> {
        match self.shared_node(tree, Target::At(key), 1)? {
            None => Ok(false),
            Some(parent) => Ok(node(tree, parent.id(), &parent)?.count() == 0),
        }
    }

    /// Merges the node of a key on a level with a neighbour, or the root's only child into the root.
    fn merge_one(&self, tree: Tree, key: &[u8], level: u8) -> Result<Merge> {
        // It takes nothing exclusively: routes stay good.
        if !self.pages_only(|| self.is_sparse_at(tree, key, level))? {
            return Ok(Merge::Full);
        }
        let size = self.pool().page_size();
        let mut credit = self.pool().credit(record_bytes(2 * size, 4), 0, 4, false)?;
        let freed = self.paged(|| self.try_merge(tree, key, level, &mut credit)).map_err(unmet)?;
        match freed {
            Some(page) => {
                self.space().freed(&[page]);
                Ok(Merge::Done)
            }
            None => Ok(Merge::Alone),
        }
    }

    fn is_sparse_at(&self, tree: Tree, key: &[u8], level: u8) -> Latched<bool> {
        let target = Target::At(key);
        if level == 0 {
            let page = self.shared_leaf(tree, target)?;
            return Ok(self.is_sparse(&leaf_at(tree, page.id(), &page, target)?));
        }
        match self.shared_node(tree, target, level)? {
            None => Ok(false),
            Some(page) => Ok(self.is_sparse(&node(tree, page.id(), &page)?)),
        }
    }

    fn is_sparse(&self, node: &Node<'_>) -> bool {
        let space = self.pool().page_size() - SLOTS;
        node.used() * 10 < space * 4 || (!node.is_leaf() && node.count() == 0)
    }

    fn try_merge(
        &self,
        tree: Tree,
        key: &[u8],
        level: u8,
        credit: &mut OpCredit<'_>,
    ) -> Latched<Option<PageId>> {
        let Some(mut parent) = self.exclusive_node(tree, Target::At(key), level + 1)? else {
            // The node is the root, which has no neighbours.
            let root = if level > 0 { self.exclusive_node(tree, Target::At(key), level)? } else { None };
            return match root {
                Some(root) if root.id() == tree.root && node(tree, tree.root, &root)?.count() == 0 => {
                    self.collapse(tree, root, credit)
                }
                _ => Ok(None),
            };
        };
        let id = parent.id();
        let above = node(tree, id, &parent)?;
        let broken = |b| Stop::Error(corrupt(id, b));
        if above.count() == 0 {
            return if id == tree.root { self.collapse(tree, parent, credit) } else { Ok(None) };
        }
        let at = above.child_of(key).map_err(broken)?;
        // The left neighbour first, then the right one; in either pair the left page's latch first.
        for slot in [at.checked_sub(1), (at < above.count()).then_some(at)].into_iter().flatten() {
            let (l, r) = (above.child(slot).map_err(broken)?, above.child(slot + 1).map_err(broken)?);
            apart(id, &[l, r])?;
            let mut left = self.pool().try_exclusive(l)?;
            let mut right = self.pool().try_exclusive(r)?;
            let (a, b) = (node(tree, l, &left)?, node(tree, r, &right)?);
            if a.level() != level || b.level() != level || a.upper() != Some(b.lower()) {
                return Err(corrupt(l, Broken("neighbours under one parent do not meet")).into());
            }
            if !self.is_sparse(if slot == at { &a } else { &b }) {
                return Ok(None);
            }
            if !self.go_together(&a, &b).map_err(broken)? {
                continue;
            }
            let absorb = encode_absorb(&a, &b).map_err(broken)?;
            let remove = encode_remove_child(slot);
            let mut maps = self.space().latch_maps(&[r])?;
            let mut edits = vec![
                PageEdit { page: &mut left, op: code::ABSORB, whole: Whole::No, payload: &absorb },
                PageEdit { page: &mut right, op: code::FREE, whole: Whole::Free, payload: &[] },
                PageEdit { page: &mut parent, op: code::REMOVE_CHILD, whole: Whole::No, payload: &remove },
            ];
            for (page, payload) in &mut maps {
                edits.push(PageEdit { page, op: OP_CLEAR, whole: Whole::No, payload });
            }
            self.txns().structure(None, BTREE_RM, &mut edits, credit)?;
            self.txns().page_left(r);
            return Ok(Some(r));
        }
        Ok(None)
    }

    /// Whether two neighbours fit one page and leave a fifth of it free, so that the next inserts do not
    /// split it again.
    fn go_together(&self, left: &Node<'_>, right: &Node<'_>) -> std::result::Result<bool, Broken> {
        let (lower, upper) = (left.lower(), right.upper());
        let mut size = size_of(left, 0..left.count(), lower, upper)?;
        size += size_of(right, 0..right.count(), lower, upper)?;
        if !left.is_leaf() {
            size += inner_cost(right.lower().len());
        }
        let space = self.pool().page_size() - SLOTS;
        // Fences are counted twice above, to be on the safe side.
        Ok(size * 5 <= space * 4)
    }

    /// The root takes the place of its only child.
    fn collapse<'p>(
        &'p self,
        tree: Tree,
        mut root: ExclusivePage<'p>,
        credit: &mut OpCredit<'_>,
    ) -> Latched<Option<PageId>> {
        let id = node(tree, tree.root, &root)?.child(0).map_err(|b| corrupt(tree.root, b))?;
        apart(tree.root, &[id])?;
        let mut child = self.pool().try_exclusive(id)?;
        let only = node(tree, id, &child)?;
        let broken = |b| corrupt(id, b);
        if !only.lower().is_empty() || only.upper().is_some() {
            return Err(broken(Broken("the only child of a root has fences")).into());
        }
        let left = if only.is_leaf() { None } else { Some(only.child(0).map_err(broken)?) };
        let shape = Shape { level: only.level(), lower: &[], upper: None, left };
        let init = encode_init(tree.id, &shape, &only, 0..only.count()).map_err(broken)?;
        let mut maps = self.space().latch_maps(&[id])?;
        let mut edits = vec![
            PageEdit { page: &mut root, op: code::INIT, whole: Whole::Init, payload: &init },
            PageEdit { page: &mut child, op: code::FREE, whole: Whole::Free, payload: &[] },
        ];
        for (page, payload) in &mut maps {
            edits.push(PageEdit { page, op: OP_CLEAR, whole: Whole::No, payload });
        }
        self.txns().structure(None, BTREE_RM, &mut edits, credit)?;
        self.txns().page_left(id);
        Ok(Some(id))
    }
}
