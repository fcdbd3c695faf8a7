//! Moving nodes to free pages further down, so that the file can be cut behind the last one (BTREE-15).
//!
//! One node is moved by one redo-only record: the new page is made with the node's content, the old one is freed, the parent
//! names the new one, the map pages follow. To everybody else it is what a split or a merge is: latches on parent and child, and a
//! version that has gone up. A root keeps its page for ever, so it stays.
use super::codec::Broken;
use super::descend::{Latched, Target, apart, arrived, corrupt, node, unmet};
use super::ops::code;
use super::ops::tree::{Shape, encode_init, encode_move_child};
use super::write::record_bytes;
use super::{Btree, Tree};
use crate::BTREE_RM;
use hamal_buffer::{ExclusivePage, OpCredit, PageEdit};
use hamal_error::{Error, Result};
use hamal_log::Whole;
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::PageId;

/// How far the moving of a tree's nodes has come: from the level below the root down to the leaves, by keys.
#[derive(Clone, Debug)]
pub struct Relocation {
    tree: Tree,
    limit: PageId,
    /// Where to look on: the level, and a key; before the first look not known, afterwards `None` if there is nothing left.
    at: Option<(Option<u8>, Vec<u8>)>,
    moved: u64,
}

impl Relocation {
    /// Of the nodes that lie at or above `limit`.
    pub fn new(tree: Tree, limit: PageId) -> Relocation {
        Relocation { tree, limit, at: Some((None, Vec::new())), moved: 0 }
    }
    /// How many nodes were moved.
    pub fn moved(&self) -> u64 {
        self.moved
    }
}

/// Keys of nodes that lie beyond a limit, and where to look on.
type Beyond = (Vec<Vec<u8>>, Option<Vec<u8>>);

impl Btree {
    /// Moves nodes of one more parent to free pages below the limit; others read and write meanwhile. Whether there may be
    /// more to move: not if the tree was gone through, or no free page lies below the limit. No latch and no credit held; the
    /// tree must not be dropped meanwhile.
    ///
    /// # Errors
    /// `LogFull`, `NoSpace`; as a page read. It can be called again then.
    pub fn relocate(&self, r: &mut Relocation) -> Result<bool> {
        let Some((level, key)) = r.at.clone() else { return Ok(false) };
        let level = match level {
            Some(level) => level,
            None => {
                let root = || Ok(node(r.tree, r.tree.root, &self.pool().try_shared(r.tree.root)?)?.level());
                match self.pages_only(root)?.checked_sub(1) {
                    Some(below) => below,
                    None => {
                        r.at = None;
                        return Ok(false);
                    }
                }
            }
        };
        let (keys, next) = self.pages_only(|| self.nodes_beyond(r.tree, &key, level, r.limit))?;
        for key in keys {
            match self.relocate_one(r.tree, &key, level, r.limit)? {
                Some(moved) => r.moved += u64::from(moved),
                None => {
                    r.at = None;
                    return Ok(false);
                }
            }
        }
        r.at = match next {
            Some(key) => Some((Some(level), key)),
            None => level.checked_sub(1).map(|below| (Some(below), Vec::new())),
        };
        Ok(r.at.is_some())
    }

    /// The children beyond the limit of the node that is the parent of the key's node on `level`: a key of each; and where the
    /// next parent begins.
    fn nodes_beyond(&self, tree: Tree, key: &[u8], level: u8, limit: PageId) -> Latched<Beyond> {
        let Some(parent) = self.shared_node(tree, Target::At(key), level + 1)? else {
            return Ok((Vec::new(), None));
        };
        let above = node(tree, parent.id(), &parent)?;
        let broken = |b| corrupt(parent.id(), b);
        let mut keys = Vec::new();
        for i in 0..=above.count() {
            if above.child(i).map_err(broken)? >= limit {
                keys.push(match i.checked_sub(1) {
                    None => above.lower().to_vec(),
                    Some(slot) => above.key(slot).map_err(broken)?,
                });
            }
        }
        Ok((keys, above.upper().map(<[u8]>::to_vec)))
    }

    /// Moves one node, if it still lies beyond the limit: whether it did. `None` if there is no room below.
    fn relocate_one(&self, tree: Tree, key: &[u8], level: u8, limit: PageId) -> Result<Option<bool>> {
        let reservation = self.space().reserve(1)?;
        let id = match reservation.pages() {
            [id] if *id < limit => *id,
            [_] => return Ok(None),
            _ => return Err(Error::internal("a node is to be moved to no page")),
        };
        // The content of one page with its fences; both pages, the parent, two map pages.
        let mut credit = self.pool().credit(record_bytes(2 * self.pool().page_size(), 5), 0, 5, false)?;
        let mut new = self.pool().create(id)?;
        let old = self.paged(|| self.try_relocate(tree, key, level, limit, &mut new, &mut credit));
        drop(new);
        let Some(old) = old.map_err(unmet)? else { return Ok(Some(false)) };
        reservation.allocated(1);
        self.space().freed(&[old]);
        Ok(Some(true))
    }

    /// The page that became free; `None` if the node is no longer there, or no longer beyond the limit.
    fn try_relocate<'p>(
        &'p self,
        tree: Tree,
        key: &[u8],
        level: u8,
        limit: PageId,
        new: &mut ExclusivePage<'p>,
        credit: &mut OpCredit<'_>,
    ) -> Latched<Option<PageId>> {
        let target = Target::At(key);
        let Some(mut parent) = self.exclusive_node(tree, target, level + 1)? else { return Ok(None) };
        let above = node(tree, parent.id(), &parent)?;
        let broken = |b| corrupt(parent.id(), b);
        let place = above.child_of(key).map_err(broken)?;
        let from = above.child(place).map_err(broken)?;
        if from < limit {
            return Ok(None);
        }
        apart(parent.id(), &[from])?;
        let mut old = self.pool().try_exclusive(from)?;
        let here = arrived(tree, from, &old, level, target)?;
        let broken = |b: Broken| corrupt(from, b);
        let left = if here.is_leaf() { None } else { Some(here.child(0).map_err(broken)?) };
        let shape = Shape { level, lower: here.lower(), upper: here.upper(), left };
        let init = encode_init(tree.id, &shape, &here, 0..here.count()).map_err(broken)?;
        let link = encode_move_child(place, new.id());
        let mut maps = self.space().latch_move(from, new.id())?;
        let mut edits = vec![
            PageEdit { page: new, op: code::INIT, whole: Whole::Init, payload: &init },
            PageEdit { page: &mut old, op: code::FREE, whole: Whole::Free, payload: &[] },
            PageEdit { page: &mut parent, op: code::MOVE_CHILD, whole: Whole::No, payload: &link },
        ];
        for (page, op, payload) in &mut maps {
            edits.push(PageEdit { page, op: *op, whole: Whole::No, payload });
        }
        let link = mutants::is(Mutant::MovedInTwoRecords).then(|| edits.remove(2));
        self.txns().structure(None, BTREE_RM, &mut edits, credit)?;
        if let Some(link) = link {
            self.force_between()?;
            self.txns().structure(None, BTREE_RM, &mut [link], credit)?;
        }
        self.txns().page_left(from);
        Ok(Some(from))
    }
}
