//! Scans: leaf by leaf, from fence to fence. All rows of a leaf are resolved under one hold of its shared
//! latch (T18); the next leaf is found from the root, by the fence that was left through, so splits and
//! merges in between neither hide a row nor show one twice (BTREE-9).
use super::codec::{Broken, Sound};
use super::descend::{Target, corrupt, node};
use super::history::Demoted;
use super::node::Node;
use super::read::{Resolved, raw};
use super::{Bound, Btree, Direction, Entry, RawValue, Tree};
use hamal_error::Result;
use hamal_page::{Lsn, PageId, header};
use hamal_txn::View;
use std::cell::{Cell, RefCell};

/// Where a scan stands between two leaves.
enum Place {
    /// Forward: at or above the key.
    From(Vec<u8>),
    /// Reverse: at or below the key.
    Down(Vec<u8>),
    /// Reverse: strictly below the key.
    Below(Vec<u8>),
    /// Reverse: at the end.
    Last,
}

impl Place {
    fn target(&self) -> Target<'_> {
        match self {
            Place::From(k) | Place::Down(k) => Target::At(k),
            Place::Below(k) => Target::Below(k),
            Place::Last => Target::Last,
        }
    }
}

/// What is asked for.
struct Want<'a> {
    view: &'a View,
    tree: Tree,
    /// Whether a settled ghost was met in this leaf.
    stale: Cell<bool>,
    /// Rows of this leaf that the log has to be asked for, and where among the rows they belong.
    demoted: RefCell<Vec<(usize, Demoted)>>,
    low: Bound<'a>,
    high: Bound<'a>,
    limit: usize,
}

fn above(key: &[u8], low: Bound<'_>) -> bool {
    match low {
        Bound::Included(l) => key >= l,
        Bound::Excluded(l) => key > l,
        Bound::Unbounded => true,
    }
}
fn below(key: &[u8], high: Bound<'_>) -> bool {
    match high {
        Bound::Included(h) => key <= h,
        Bound::Excluded(h) => key < h,
        Bound::Unbounded => true,
    }
}

/// The slots of a leaf that lie within the bounds.
pub(crate) fn slots(leaf: &Node<'_>, low: Bound<'_>, high: Bound<'_>) -> Sound<std::ops::Range<usize>> {
    let at = |key: &[u8], behind: bool| -> Sound<usize> {
        // A bound outside the fences takes in, or leaves out, all slots.
        if key < leaf.lower() {
            return Ok(0);
        }
        if !leaf.contains(key) {
            return Ok(leaf.count());
        }
        Ok(match leaf.search(key)? {
            Ok(i) => i + usize::from(behind),
            Err(i) => i,
        })
    };
    let from = match low {
        Bound::Included(k) => at(k, false)?,
        Bound::Excluded(k) => at(k, true)?,
        Bound::Unbounded => 0,
    };
    let to = match high {
        Bound::Included(k) => at(k, true)?,
        Bound::Excluded(k) => at(k, false)?,
        Bound::Unbounded => leaf.count(),
    };
    Ok(from..to.max(from))
}

impl Btree {
    #[allow(clippy::too_many_arguments, reason = "the bounds of a scan are what they are")]
    pub(crate) fn scan_rows(
        &self,
        view: &View,
        tree: Tree,
        low: Bound<'_>,
        high: Bound<'_>,
        direction: Direction,
        limit: usize,
        out: &mut Vec<Entry>,
    ) -> Result<bool> {
        let before = out.len();
        let done = self.if_not_too_old(view, self.scan_leaves(view, tree, low, high, direction, limit, out));
        if done.is_err() {
            out.truncate(before);
        }
        done
    }

    #[allow(clippy::too_many_arguments, reason = "the bounds of a scan are what they are")]
    fn scan_leaves(
        &self,
        view: &View,
        tree: Tree,
        low: Bound<'_>,
        high: Bound<'_>,
        direction: Direction,
        limit: usize,
        out: &mut Vec<Entry>,
    ) -> Result<bool> {
        let limit = out.len().saturating_add(limit.max(1));
        // No key is longer than the longest: a longer bound is cut, and what is left of it lies just below
        // it.
        let max = self.limits().max_key;
        let cut = |k: &[u8]| k[..k.len().min(max)].to_vec();
        let mut place = match (direction, low, high) {
            (Direction::Forward, Bound::Included(k) | Bound::Excluded(k), _) => Place::From(cut(k)),
            (Direction::Forward, Bound::Unbounded, _) => Place::From(Vec::new()),
            (Direction::Reverse, _, Bound::Excluded(k)) if k.len() <= max => {
                if k.is_empty() {
                    return Ok(false);
                }
                Place::Below(k.to_vec())
            }
            (Direction::Reverse, _, Bound::Included(k) | Bound::Excluded(k)) => Place::Down(cut(k)),
            (Direction::Reverse, _, Bound::Unbounded) => Place::Last,
        };
        let mut moved = false;
        // The last key looked at, if the leaf that it was in is not done.
        let mut beyond: Option<Vec<u8>> = None;
        loop {
            // Between two leaves a merge may have brought rows that were seen already into the next one:
            // from the second leaf on the fence is the bound (BTREE-9).
            let mut want =
                Want { view, tree, stale: Cell::new(false), demoted: RefCell::default(), low, high, limit };
            match &place {
                Place::From(fence) if moved => want.low = Bound::Included(fence),
                Place::Below(fence) if moved => want.high = Bound::Excluded(fence),
                _ => {}
            }
            match (&beyond, direction) {
                (Some(key), Direction::Forward) => want.low = Bound::Excluded(key),
                (Some(key), Direction::Reverse) => want.high = Bound::Excluded(key),
                (None, _) => {}
            }
            let (next, leaf) = self.pages_only(|| {
                let page = self.shared_leaf(tree, place.target())?;
                let leaf = node(tree, page.id(), &page)?;
                let before = out.len();
                let next = match direction {
                    Direction::Forward => self.leaf_forward(&want, &leaf, out),
                    Direction::Reverse => self.leaf_reverse(&want, &leaf, out),
                };
                let next = next.map_err(|b| {
                    out.truncate(before);
                    corrupt(page.id(), b)
                })?;
                Ok((next, (page.id(), header::page_lsn(&page))))
            })?;
            let rows = want.demoted.take();
            if !rows.is_empty() {
                let last = out.last().map(|row| row.key.clone());
                self.fill_in(view, leaf, rows, out)?;
                if matches!(next, Step::Full) && out.len() < limit {
                    // Some were not there after all: on with the same leaf.
                    place = match (direction, last.clone().unwrap_or_default()) {
                        (Direction::Forward, key) => Place::From(key),
                        (Direction::Reverse, key) => Place::Below(key),
                    };
                    beyond = last;
                    continue;
                }
            }
            beyond = None;
            match next {
                Step::End => return Ok(false),
                Step::Full => return Ok(true),
                Step::Go(next) => place = next,
            }
            moved = true;
        }
    }

    /// Puts rows that the log tells of into their places, and takes those out that were not there.
    fn fill_in(
        &self,
        view: &View,
        leaf: (PageId, Lsn),
        rows: Vec<(usize, Demoted)>,
        out: &mut Vec<Entry>,
    ) -> Result<()> {
        let (at, mut rows): (Vec<usize>, Vec<Demoted>) = rows.into_iter().unzip();
        self.recall(view, leaf, &mut rows)?;
        let mut gone = Vec::new();
        for (i, row) in at.into_iter().zip(rows) {
            match row.seen() {
                Some(value) => out[i].value = value,
                None => gone.push(i),
            }
        }
        for i in gone.into_iter().rev() {
            out.remove(i);
        }
        Ok(())
    }

    fn leaf_forward(&self, want: &Want<'_>, leaf: &Node<'_>, out: &mut Vec<Entry>) -> Sound<Step> {
        for slot in slots(leaf, want.low, want.high)? {
            if out.len() >= want.limit {
                return Ok(Step::Full);
            }
            self.take_row(want, leaf, slot, out)?;
        }
        match leaf.upper() {
            Some(upper) if below(upper, want.high) => {
                if out.len() >= want.limit {
                    Ok(Step::Full)
                } else {
                    Ok(Step::Go(Place::From(upper.to_vec())))
                }
            }
            _ => Ok(Step::End),
        }
    }

    fn leaf_reverse(&self, want: &Want<'_>, leaf: &Node<'_>, out: &mut Vec<Entry>) -> Sound<Step> {
        for slot in slots(leaf, want.low, want.high)?.rev() {
            if out.len() >= want.limit {
                return Ok(Step::Full);
            }
            self.take_row(want, leaf, slot, out)?;
        }
        // Keys of the next leaf are below the lower fence, strictly: it is done unless one of them can be
        // above the bound.
        let lower = leaf.lower();
        let more = match want.low {
            Bound::Included(k) | Bound::Excluded(k) => k < lower,
            Bound::Unbounded => !lower.is_empty(),
        };
        match more {
            false => Ok(Step::End),
            true if out.len() >= want.limit => Ok(Step::Full),
            true => Ok(Step::Go(Place::Below(lower.to_vec()))),
        }
    }

    fn take_row(&self, want: &Want<'_>, leaf: &Node<'_>, slot: usize, out: &mut Vec<Entry>) -> Sound<()> {
        let (key, record) = (leaf.key(slot)?, leaf.leaf(slot)?);
        // The slots were found by binary search: on a page whose keys are not in order they can be any.
        if !above(&key, want.low) || !below(&key, want.high) {
            return Err(Broken("its keys are not in order (BTREE-9)"));
        }
        match self.resolve(want.view, want.tree, &key, &record, raw) {
            Resolved::Row(value) => out.push(Entry { key, value }),
            Resolved::Demoted(row) => {
                want.demoted.borrow_mut().push((out.len(), row));
                out.push(Entry { key, value: RawValue::Inline(Vec::new()) });
            }
            Resolved::Nothing => {
                let writer = record.word.writer();
                if record.word.ghost() && !want.stale.get() && self.settled(writer) {
                    // Ghosts are remembered in memory only. One that a scan meets after a restart is remembered again:
                    // one for each leaf suffices to have it tidied.
                    want.stale.set(true);
                    self.hint_ghost(want.tree, &key, writer);
                }
            }
        }
        Ok(())
    }
}

/// How a scan goes on after a leaf.
enum Step {
    /// There is nothing more.
    End,
    /// There may be more, but enough was collected.
    Full,
    /// On to the next leaf.
    Go(Place),
}
