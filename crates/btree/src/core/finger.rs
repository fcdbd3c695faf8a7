//! Fingers: the leaf in which a thread has written last, so that a write next to it needs no descent (BTREE-13).
//!
//! A finger remembers the leaf as its exclusive latch was given back: frame and version. The latch is taken again only
//! if the version still stands; then the page is the leaf that it was, with the fences that it had, and still in the tree: whatever
//! splits, merges, empties, frees or moves it holds its latch exclusively. Whether the key belongs there its fences say.
//!
//! The first eight bytes of the fences are kept too: a key that they exclude costs no look at the page.
use super::descend::{Latched, node};
use super::node::Node;
use super::{Btree, Tree};
use hamal_buffer::{ExclusivePage, LastSeen};
use std::cell::Cell;

/// Fingers of a thread: trees that are written in turns, as tables and their indexes are, keep one each.
const FINGERS: usize = 4;

#[derive(Clone, Copy)]
struct Finger {
    /// Which [`Btree`], among all that there are.
    btree: u64,
    tree: Tree,
    seen: LastSeen,
    low: u64,
    high: u64,
}

hamal_sync::thread_local! {
    static MINE: [Cell<Option<Finger>>; FINGERS] = const { [const { Cell::new(None) }; FINGERS] };
}

/// The first eight bytes as a number; zeros behind the end.
fn front(key: &[u8]) -> u64 {
    let mut b = [0; 8];
    let n = key.len().min(8);
    b[..n].copy_from_slice(&key[..n]);
    u64::from_be_bytes(b)
}

fn cell<R>(tree: Tree, f: impl FnOnce(&Cell<Option<Finger>>) -> R) -> Option<R> {
    // A thread that is ending has no fingers any more.
    MINE.try_with(|mine| f(&mine[tree.id.0 as usize % FINGERS])).ok()
}

impl Btree {
    /// The leaf of the key under the exclusive latch, if this thread has written there last and nobody since.
    #[inline]
    pub(crate) fn finger_leaf(&self, tree: Tree, key: &[u8]) -> Latched<Option<ExclusivePage<'_>>> {
        let Some(Some(finger)) = cell(tree, Cell::get) else { return Ok(None) };
        let here = front(key);
        if finger.tree != tree || finger.btree != self.number || here < finger.low || here > finger.high {
            return Ok(None);
        }
        let Some(page) = self.pool().try_exclusive_again(&finger.seen)? else { return Ok(None) };
        // Strictly between the fronts is between the fences.
        if (here > finger.low && here < finger.high) || node(tree, page.id(), &page)?.contains(key) {
            return Ok(Some(page));
        }
        Ok(None)
    }

    /// The thread has written in this leaf.
    #[inline]
    pub(crate) fn point_at(&self, tree: Tree, page: &ExclusivePage<'_>, leaf: &Node<'_>) {
        let (low, high) = (front(leaf.lower()), leaf.upper().map_or(u64::MAX, front));
        let finger = Finger { btree: self.number, tree, seen: page.last_seen(), low, high };
        cell(tree, |c| c.set(Some(finger)));
    }
}
