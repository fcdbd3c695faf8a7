//! Scans: leaf by leaf, from fence to fence. All rows of a leaf are resolved under one hold of its shared
//! latch (T18), and copied into a [`Batch`]; the next leaf is found from the root, by the fence that was left
//! through, so splits and merges in between neither hide a row nor show one twice (BTREE-9).
use super::codec::{Broken, Sound};
use super::descend::{Target, corrupt, leaf_at};
use super::history::Demoted;
use super::node::{HEAD, Node, Slot};
use super::read::{Resolved, of_raw};
use super::{Batch, Bound, Btree, Direction, Entry, Tree};
use hamal_buffer::Pool;
use hamal_error::Result;
use hamal_page::{Lsn, PageId, header};
use hamal_txn::View;
use std::cell::RefCell;

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

impl Place {
    /// The place behind what was looked at.
    fn behind(bound: Bound<'_>, direction: Direction) -> Place {
        match (direction, bound) {
            (Direction::Forward, Bound::Included(k) | Bound::Excluded(k)) => Place::From(k.to_vec()),
            (Direction::Reverse, Bound::Included(k) | Bound::Excluded(k)) => Place::Below(k.to_vec()),
            (Direction::Forward, Bound::Unbounded) => Place::From(Vec::new()),
            (Direction::Reverse, Bound::Unbounded) => Place::Last,
        }
    }
}

/// What is asked for.
struct Want<'a> {
    view: &'a View,
    tree: Tree,
    /// Rows of this leaf that the log has to be asked for, and where among the rows they belong.
    demoted: RefCell<Vec<(usize, Demoted)>>,
    low: Bound<'a>,
    high: Bound<'a>,
    direction: Direction,
    limit: usize,
    /// The frame of the leaf.
    here: Option<u32>,
    /// The frame of the leaf that comes next, if that is known.
    next: Option<u32>,
}

pub(crate) fn above(key: &[u8], low: Bound<'_>) -> bool {
    match low {
        Bound::Included(l) => key >= l,
        Bound::Excluded(l) => key > l,
        Bound::Unbounded => true,
    }
}
pub(crate) fn below(key: &[u8], high: Bound<'_>) -> bool {
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
        let started = out.len();
        let limit = started.saturating_add(limit.max(1));
        let mut batch = Batch::default();
        let mut before = Batch::default();
        for first in std::iter::once(true).chain(std::iter::repeat(false)) {
            std::mem::swap(&mut batch, &mut before);
            let (low, high) = match direction {
                _ if first => (low, high),
                Direction::Forward => (before.beyond(), high),
                Direction::Reverse => (low, before.beyond()),
            };
            let want = limit - out.len();
            let more = match self.scan_batch(view, tree, low, high, direction, want, &mut batch) {
                Ok(more) => more,
                Err(e) => {
                    out.truncate(started);
                    return Err(e);
                }
            };
            out.extend(batch.entries());
            if !more || out.len() >= limit {
                return Ok(more);
            }
        }
        Ok(false)
    }

    /// The next rows within the bounds that the view sees: at least one if there are any, at most `limit`, all of one leaf.
    /// Whether there may be more, from [`Batch::beyond`] on.
    #[allow(clippy::too_many_arguments, reason = "the bounds of a scan are what they are")]
    pub(crate) fn next_batch(
        &self,
        view: &View,
        tree: Tree,
        low: Bound<'_>,
        high: Bound<'_>,
        direction: Direction,
        limit: usize,
        batch: &mut Batch,
    ) -> Result<bool> {
        let done = self.if_not_too_old(view, self.read_batch(view, tree, low, high, direction, limit, batch));
        if done.is_err() {
            batch.clear();
        }
        done
    }

    #[allow(clippy::too_many_arguments, reason = "the bounds of a scan are what they are")]
    fn read_batch(
        &self,
        view: &View,
        tree: Tree,
        low: Bound<'_>,
        high: Bound<'_>,
        direction: Direction,
        limit: usize,
        batch: &mut Batch,
    ) -> Result<bool> {
        batch.clear();
        let Some(mut place) = self.begin(low, high, direction) else { return Ok(false) };
        // Where it goes on, if there was nothing so far: behind the last key looked at, or at the next leaf's fence.
        let mut near = Batch::default();
        let mut moved = false;
        loop {
            let (here, next) = (None, None);
            let limit = limit.max(1);
            let mut want =
                Want { view, tree, demoted: RefCell::default(), low, high, direction, limit, here, next };
            // Between two leaves a merge may have brought rows that were seen already into the next one:
            // from the second leaf on the fence is the bound (BTREE-9).
            match direction {
                _ if !moved => {}
                Direction::Forward => want.low = near.beyond(),
                Direction::Reverse => want.high = near.beyond(),
            }
            let (step, leaf) = self.pages_only(|| {
                let (page, next) = self.shared_leaf_and_next(tree, place.target())?;
                let leaf = leaf_at(tree, page.id(), &page, place.target())?;
                want.here = page.glance().map(|g| g.frame());
                want.next = next.filter(|_| matches!(direction, Direction::Forward));
                let step = self.take_rows(&want, &leaf, batch).map_err(|b| corrupt(page.id(), b))?;
                Ok((step, (page.id(), header::page_lsn(&page))))
            })?;
            if matches!(step, Step::Stay) {
                batch.go_on_behind_last();
            }
            let rows = want.demoted.take();
            if !rows.is_empty() {
                self.fill_in(view, leaf, rows, batch)?;
            }
            match step {
                Step::End => return Ok(false),
                Step::Go | Step::Stay if !batch.is_empty() => return Ok(true),
                Step::Go | Step::Stay => {
                    place = Place::behind(batch.beyond(), direction);
                    near.go_on_as(batch);
                    moved = true;
                }
            }
        }
    }

    /// Puts rows that the log tells of into their places, and takes those out that were not there.
    fn fill_in(
        &self,
        view: &View,
        leaf: (PageId, Lsn),
        rows: Vec<(usize, Demoted)>,
        batch: &mut Batch,
    ) -> Result<()> {
        let (at, mut rows): (Vec<usize>, Vec<Demoted>) = rows.into_iter().unzip();
        self.recall(view, leaf, &mut rows)?;
        for (i, row) in at.into_iter().zip(rows).rev() {
            let put = match row.seen() {
                Some(value) => batch.replace(i, of_raw(&value)),
                None => {
                    batch.remove(i);
                    Ok(())
                }
            };
            put.map_err(|b| corrupt(leaf.0, b))?;
        }
        Ok(())
    }

    /// Where a scan begins; none if there is nothing to find.
    fn begin(&self, low: Bound<'_>, high: Bound<'_>, direction: Direction) -> Option<Place> {
        // No key is longer than the longest: a longer bound is cut, and what is left of it lies just below
        // it.
        let max = self.limits().max_key;
        let cut = |k: &[u8]| k[..k.len().min(max)].to_vec();
        Some(match (direction, low, high) {
            (Direction::Forward, Bound::Included(k) | Bound::Excluded(k), _) => Place::From(cut(k)),
            (Direction::Forward, Bound::Unbounded, _) => Place::From(Vec::new()),
            (Direction::Reverse, _, Bound::Excluded([])) => return None,
            (Direction::Reverse, _, Bound::Excluded(k)) if k.len() <= max => Place::Below(k.to_vec()),
            (Direction::Reverse, _, Bound::Included(k) | Bound::Excluded(k)) => Place::Down(cut(k)),
            (Direction::Reverse, _, Bound::Unbounded) => Place::Last,
        })
    }

    /// Takes what is wanted out of a leaf, and says how to go on.
    fn take_rows(&self, want: &Want<'_>, leaf: &Node<'_>, batch: &mut Batch) -> Sound<Step> {
        let within = slots(leaf, want.low, want.high)?;
        let done = match want.direction {
            Direction::Forward => self.take_slots(want, leaf, within, batch)?,
            Direction::Reverse => self.take_slots(want, leaf, within.rev(), batch)?,
        };
        batch.check(want.low, want.high, want.direction)?;
        if !done {
            return Ok(Step::Stay);
        }
        match want.direction {
            Direction::Forward => match leaf.upper() {
                Some(upper) if below(upper, want.high) => batch.go_on(upper, true),
                _ => return Ok(Step::End),
            },
            Direction::Reverse => {
                // Keys of the next leaf are below the lower fence, strictly: it is done unless one of them can be
                // above the bound.
                let more = match want.low {
                    Bound::Included(k) | Bound::Excluded(k) => k < leaf.lower(),
                    Bound::Unbounded => !leaf.lower().is_empty(),
                };
                if !more {
                    return Ok(Step::End);
                }
                batch.go_on(leaf.lower(), false);
            }
        }
        Ok(Step::Go)
    }

    /// Takes the visible rows of the slots; whether that were all.
    fn take_slots(
        &self,
        want: &Want<'_>,
        leaf: &Node<'_>,
        slots: impl ExactSizeIterator<Item = usize>,
        batch: &mut Batch,
    ) -> Sound<bool> {
        let mut stale = false;
        let mut order = Order::new(want.direction);
        let (rows, bytes) = leaf.load();
        let wanted = want.limit.min(slots.len());
        let each = bytes.checked_div(rows).unwrap_or(0) + leaf.prefix().len() + HEAD;
        batch.reserve(wanted, each * wanted);
        let mut ahead = Ahead::new(want, leaf, self.pool());
        for i in slots {
            if batch.len() >= want.limit {
                return Ok(false);
            }
            ahead.of(i);
            let row = leaf.row(i)?;
            order.check(leaf, i, row.slot)?;
            let (word, writer) = (row.record.word, row.record.word.writer());
            if self.sees(writer, want.view) {
                if !word.ghost() {
                    batch.push(leaf.prefix(), &row)?;
                } else if !stale && self.settled(writer) {
                    // Ghosts are remembered in memory only. One that a scan meets after a restart is remembered
                    // again: one for each leaf suffices to have it tidied.
                    stale = true;
                    self.hint_ghost(want.tree, &leaf.key(i)?, writer);
                }
            } else {
                let key = leaf.key(i)?;
                let put = |v: super::ValueRef<'_>| batch.push_version(&key, v);
                match self.resolve(want.view, want.tree, &key, &row.record, put) {
                    Resolved::Row(done) => done?,
                    Resolved::Nothing => {}
                    Resolved::Demoted(old) => {
                        want.demoted.borrow_mut().push((batch.len(), old));
                        batch.push_version(&key, super::ValueRef::Inline(&[]))?;
                    }
                }
            }
        }
        Ok(true)
    }
}

/// Has the processor fetch what a scan of a leaf will look at: the records of the rows to come, which lie in no order, and
/// the leaf that comes next, a few lines with each row.
struct Ahead<'a> {
    want: &'a Want<'a>,
    leaf: &'a Node<'a>,
    pool: &'a Pool,
    /// Lines of the next leaf with each row, and how many have been asked for.
    each: usize,
    line: usize,
}

impl<'a> Ahead<'a> {
    /// How many rows ahead.
    const ROWS: usize = 6;
    /// Lines of a record.
    const LINES: usize = 3;

    fn new(want: &'a Want<'a>, leaf: &'a Node<'a>, pool: &'a Pool) -> Ahead<'a> {
        let each = (pool.page_size() / 64).div_ceil(leaf.count().max(1));
        Ahead { want, leaf, pool, each, line: 0 }
    }
    /// Slot `i` is about to be looked at.
    #[inline]
    fn of(&mut self, i: usize) {
        let slot = match self.want.direction {
            Direction::Forward => i + Self::ROWS,
            Direction::Reverse => i.wrapping_sub(Self::ROWS),
        };
        if let (Some(frame), Ok(slot)) = (self.want.here, self.leaf.slot(slot)) {
            self.pool.prefetch_lines(frame, slot.offset() / 64, Self::LINES);
        }
        if let Some(frame) = self.want.next {
            self.pool.prefetch_lines(frame, self.line, self.each);
            self.line += self.each;
        }
    }
}

/// Watches the order of the slots of a scan: with it, first and last row being within the bounds says that all are.
struct Order {
    direction: Direction,
    before: Option<(usize, Slot)>,
}

impl Order {
    fn new(direction: Direction) -> Order {
        Order { direction, before: None }
    }
    #[inline]
    fn check(&mut self, leaf: &Node<'_>, i: usize, slot: Slot) -> Sound<()> {
        let Some((j, before)) = self.before.replace((i, slot)) else { return Ok(()) };
        let (low, high) = match self.direction {
            Direction::Forward => ((j, before), (i, slot)),
            Direction::Reverse => ((i, slot), (j, before)),
        };
        if low.1.head() < high.1.head() || leaf.in_order(low.1, high.1)? {
            return Ok(());
        }
        Err(Broken("its keys are not in order (BTREE-9)"))
    }
}

/// How a scan goes on after a leaf.
enum Step {
    /// There is nothing more.
    End,
    /// There may be more in this leaf, but enough was collected.
    Stay,
    /// On to the next leaf, from [`Batch::beyond`].
    Go,
}
