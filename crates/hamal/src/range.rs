//! Iterating: both ends of a range, in batches of rows, each batch a consistent read of some leaves.
use crate::read::{ReadTree, read_chain};
use crate::{Error, Key, Result, Value};
use hamal_btree::{Batch, Bound, Direction, ValueRef};
use hamal_page::PageId;
use hamal_txn::Snapshot;
use std::fmt;
use std::ops::{Bound as StdBound, ControlFlow};
use std::sync::Arc;

/// Most rows of the first batch, for those who want few; later batches are what is left of a leaf.
const FIRST_BATCH: usize = 32;

/// Rows of a tree in the order of their keys, from both ends.
///
/// It owns what it needs: it holds the snapshot, or the write transaction, from which it was made. Over a snapshot it shows
/// that snapshot. Over a write transaction it shows rows as they are when a batch is read: what the transaction itself changes
/// ahead of it may be seen or not; each key is shown at most once, in order. What others committed it shows as of one moment:
/// the transaction's snapshot, or under [`Isolation::ReadCommitted`](crate::Isolation::ReadCommitted) the first batch's.
///
/// As an iterator it hands out rows that live on their own. [`Range::next_ref`] and [`Range::visit`] lend them instead, which
/// costs less.
///
/// After an error every further call returns that error: an end is always the end of the rows.
pub struct Range {
    /// Under read committed: the snapshot of the first batch.
    moment: Option<Snapshot>,
    tree: ReadTree,
    /// What has not been read: between these bounds.
    low: StdBound<Vec<u8>>,
    high: StdBound<Vec<u8>>,
    exhausted: bool,
    /// Rows read at the low end, ascending, and at the high end, descending.
    front: Rows,
    back: Rows,
    batch: usize,
    failed: Option<Error>,
    /// A long value that was lent.
    lent: Vec<u8>,
}

/// Rows that were read and not yet handed out.
#[derive(Default)]
struct Rows {
    batch: Arc<Batch>,
    left: std::ops::Range<usize>,
}

impl Rows {
    /// Its batch, to be filled anew: the same memory, unless a row that was handed out shares it.
    fn refill(&mut self) -> &mut Batch {
        self.left = 0..0;
        if Arc::get_mut(&mut self.batch).is_none() {
            self.batch = Arc::default();
        }
        Arc::make_mut(&mut self.batch)
    }
}

/// Which row of which end.
#[derive(Clone, Copy)]
struct At {
    direction: Direction,
    row: usize,
}

/// The bounds of all keys that begin with `prefix`.
pub(crate) fn prefix_bounds(prefix: &[u8]) -> (StdBound<Vec<u8>>, StdBound<Vec<u8>>) {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return (StdBound::Included(prefix.to_vec()), StdBound::Excluded(end));
        }
    }
    (StdBound::Included(prefix.to_vec()), StdBound::Unbounded)
}

/// Whether no key can lie between the bounds.
fn is_void(low: &StdBound<Vec<u8>>, high: &StdBound<Vec<u8>>) -> bool {
    use StdBound::*;
    match (low, high) {
        (Unbounded, _) | (_, Unbounded) => false,
        (Included(a), Included(b)) => a > b,
        (Included(a) | Excluded(a), Excluded(b)) | (Excluded(a), Included(b)) => a >= b,
    }
}

fn as_bound(b: &StdBound<Vec<u8>>) -> Bound<'_> {
    match b {
        StdBound::Included(k) => Bound::Included(k),
        StdBound::Excluded(k) => Bound::Excluded(k),
        StdBound::Unbounded => Bound::Unbounded,
    }
}

/// Notes what a batch tells of: the keys up to where the scan goes on, or, if there is nothing more, up to the bound.
fn note(
    tree: &ReadTree,
    low: &StdBound<Vec<u8>>,
    high: &StdBound<Vec<u8>>,
    direction: Direction,
    beyond: Option<Bound<'_>>,
) {
    let (low, high) = (low.as_ref().map(Vec::as_slice), high.as_ref().map(Vec::as_slice));
    // What the next batch begins with this one does not tell of.
    let end = beyond.map(|b| match b {
        Bound::Included(k) => StdBound::Excluded(k),
        Bound::Excluded(k) => StdBound::Included(k),
        Bound::Unbounded => StdBound::Unbounded,
    });
    match direction {
        Direction::Forward => tree.owner.note_range(tree.info.tree, low, end.unwrap_or(high)),
        Direction::Reverse => tree.owner.note_range(tree.info.tree, end.unwrap_or(low), high),
    }
}

/// Moves a bound, whose memory is used again.
fn move_bound(bound: &mut StdBound<Vec<u8>>, to: Bound<'_>) {
    let mut key = match std::mem::replace(bound, StdBound::Unbounded) {
        StdBound::Included(k) | StdBound::Excluded(k) => k,
        StdBound::Unbounded => Vec::new(),
    };
    key.clear();
    *bound = match to {
        Bound::Unbounded => return,
        Bound::Included(k) => {
            key.extend_from_slice(k);
            StdBound::Included(key)
        }
        Bound::Excluded(k) => {
            key.extend_from_slice(k);
            StdBound::Excluded(key)
        }
    };
}

impl Range {
    pub(crate) fn new(tree: ReadTree, low: StdBound<Vec<u8>>, high: StdBound<Vec<u8>>) -> Range {
        Range {
            moment: None,
            exhausted: is_void(&low, &high),
            tree,
            low,
            high,
            front: Rows::default(),
            back: Rows::default(),
            batch: FIRST_BATCH,
            failed: None,
            lent: Vec::new(),
        }
    }
    /// For those who want the first row only.
    pub(crate) fn one_by_one(mut self) -> Range {
        self.batch = 1;
        self
    }

    /// Reads a batch at one end; the bound there moves behind what was read.
    fn fetch(&mut self, direction: Direction) -> Result<()> {
        let (tree, limit) = (&self.tree, self.batch);
        let near = match direction {
            Direction::Forward => &mut self.front,
            Direction::Reverse => &mut self.back,
        };
        let batch = near.refill();
        let (low, high) = (as_bound(&self.low), as_bound(&self.high));
        let more = tree.owner.with_view_at(&mut self.moment, |view| {
            tree.owner.check_tree(&tree.info)?;
            let btree = &tree.owner.core().btree;
            let more = btree.scan_batch(view, tree.info.tree, low, high, direction, limit, batch)?;
            note(tree, &self.low, &self.high, direction, more.then(|| batch.beyond()));
            Ok(more)
        })?;
        if more {
            if batch.is_empty() {
                return Err(Error::internal("a scan returned no rows and says that there are more"));
            }
            let bound = match direction {
                Direction::Forward => &mut self.low,
                Direction::Reverse => &mut self.high,
            };
            move_bound(bound, batch.beyond());
        }
        near.left = 0..batch.len();
        self.exhausted = !more || is_void(&self.low, &self.high);
        self.batch = usize::MAX;
        Ok(())
    }

    /// The next row at one end.
    #[inline]
    fn advance(&mut self, direction: Direction) -> Result<Option<At>> {
        loop {
            let (near, far, other) = match direction {
                Direction::Forward => (&mut self.front, &mut self.back, Direction::Reverse),
                Direction::Reverse => (&mut self.back, &mut self.front, Direction::Forward),
            };
            if let Some(row) = near.left.next() {
                return Ok(Some(At { direction, row }));
            }
            if self.failed.is_none() && self.exhausted {
                return Ok(far.left.next_back().map(|row| At { direction: other, row }));
            }
            self.fetch_or_fail(direction)?;
        }
    }

    #[cold]
    fn fetch_or_fail(&mut self, direction: Direction) -> Result<()> {
        if let Some(e) = &self.failed {
            return Err(e.clone());
        }
        self.fetch(direction).map_err(|e| self.fail(e))
    }

    fn fail(&mut self, e: Error) -> Error {
        self.failed = Some(e.clone());
        // What was read at the ends is not handed out any more.
        (self.front.left, self.back.left) = (0..0, 0..0);
        e
    }

    fn batch_of(&self, at: At) -> &Arc<Batch> {
        match at.direction {
            Direction::Forward => &self.front.batch,
            Direction::Reverse => &self.back.batch,
        }
    }

    fn chain(&mut self, len: u64, head: PageId) -> Result<Vec<u8>> {
        let owner = &self.tree.owner;
        let read = owner.with_view_at(&mut self.moment, |_| read_chain(owner, len, head));
        read.map_err(|e| self.fail(e))
    }

    fn step(&mut self, direction: Direction) -> Option<Result<(Key, Value)>> {
        let at = match self.advance(direction) {
            Ok(row) => row?,
            Err(e) => return Some(Err(e)),
        };
        let batch = self.batch_of(at);
        let key = key_of(batch, at.row);
        let value = match batch.value(at.row) {
            ValueRef::Inline(bytes) => Value::part(batch, batch.value_at(at.row), bytes),
            ValueRef::Chain { len, head } => match self.chain(len, head) {
                Ok(bytes) => Value::new(bytes),
                Err(e) => return Some(Err(e)),
            },
        };
        Some(Ok((key, value)))
    }

    /// The next row at the low end, lent: as the iterator's `next`, without making a key and a value that live on their own.
    ///
    /// ```
    /// # fn main() -> hamal::Result<()> {
    /// # let db = hamal::Database::in_memory()?;
    /// # let tx = db.begin_write()?;
    /// # let t = tx.create_tree("t")?;
    /// t.put("a", "1")?;
    /// t.put("b", "22")?;
    /// let (mut rows, mut bytes) = (t.iter(), 0);
    /// while let Some((key, value)) = rows.next_ref()? {
    ///     bytes += key.len() + value.len();
    /// }
    /// assert_eq!(bytes, 5);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`ReadTree::get`].
    pub fn next_ref(&mut self) -> Result<Option<(&[u8], &[u8])>> {
        let Some(at) = self.advance(Direction::Forward)? else { return Ok(None) };
        if let ValueRef::Chain { len, head } = self.batch_of(at).value(at.row) {
            self.lent = self.chain(len, head)?;
        }
        let batch = self.batch_of(at);
        let value = match batch.value(at.row) {
            ValueRef::Inline(bytes) => bytes,
            ValueRef::Chain { .. } => &self.lent,
        };
        Ok(Some((batch.key(at.row), value)))
    }

    /// Shows all rows that are left to `each`, in the order of their keys, until it breaks off. It runs under no latch and may
    /// call the database.
    ///
    /// ```
    /// # use std::ops::ControlFlow;
    /// # fn main() -> hamal::Result<()> {
    /// # let db = hamal::Database::in_memory()?;
    /// # let tx = db.begin_write()?;
    /// # let t = tx.create_tree("t")?;
    /// # for k in ["a", "b", "c"] { t.put(k, k)?; }
    /// let found = t.iter().visit(|key, _| match key {
    ///     b"b" => ControlFlow::Break("here it is"),
    ///     _ => ControlFlow::Continue(()),
    /// })?;
    /// assert_eq!(found, ControlFlow::Break("here it is"));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`ReadTree::get`].
    pub fn visit<B>(
        mut self,
        mut each: impl FnMut(&[u8], &[u8]) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>> {
        while let Some((key, value)) = self.next_ref()? {
            if let ControlFlow::Break(b) = each(key, value) {
                return Ok(ControlFlow::Break(b));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Only the keys: long values are not read.
    pub fn keys(self) -> Keys {
        Keys(self)
    }

    pub(crate) fn count_rows(mut self) -> Result<u64> {
        self.batch = usize::MAX;
        let mut n = 0;
        while self.advance(Direction::Forward)?.is_some() {
            n += 1 + self.front.left.len() as u64;
            self.front.left = 0..0;
        }
        Ok(n)
    }
    pub(crate) fn has_none(mut self) -> Result<bool> {
        Ok(self.advance(Direction::Forward)?.is_none())
    }
}

fn key_of(batch: &Arc<Batch>, row: usize) -> Key {
    let key = batch.key(row);
    Key::part(batch, batch.value_at(row) - key.len(), key)
}

impl Iterator for Range {
    type Item = Result<(Key, Value)>;
    fn next(&mut self) -> Option<Self::Item> {
        self.step(Direction::Forward)
    }
}

impl DoubleEndedIterator for Range {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(Direction::Reverse)
    }
}

impl fmt::Debug for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Range")
            .field("tree", &self.tree)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

/// The keys of a [`Range`].
#[derive(Debug)]
pub struct Keys(Range);

impl Keys {
    fn step(&mut self, direction: Direction) -> Option<Result<Key>> {
        let at = self.0.advance(direction).transpose()?;
        Some(at.map(|at| key_of(self.0.batch_of(at), at.row)))
    }
}

impl Iterator for Keys {
    type Item = Result<Key>;
    fn next(&mut self) -> Option<Result<Key>> {
        self.step(Direction::Forward)
    }
}

impl DoubleEndedIterator for Keys {
    fn next_back(&mut self) -> Option<Result<Key>> {
        self.step(Direction::Reverse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_of_prefixes() {
        use StdBound::*;
        assert_eq!(prefix_bounds(b"ab"), (Included(b"ab".to_vec()), Excluded(b"ac".to_vec())));
        assert_eq!(prefix_bounds(b"a\xff"), (Included(b"a\xff".to_vec()), Excluded(b"b".to_vec())));
        assert_eq!(prefix_bounds(b"\xff\xff"), (Included(b"\xff\xff".to_vec()), Unbounded));
        assert_eq!(prefix_bounds(b""), (Included(vec![]), Unbounded));
    }

    #[test]
    fn void_bounds() {
        use StdBound::*;
        let k = |s: &str| s.as_bytes().to_vec();
        assert!(!is_void(&Included(k("a")), &Included(k("a"))));
        assert!(is_void(&Included(k("a")), &Excluded(k("a"))));
        assert!(is_void(&Excluded(k("a")), &Included(k("a"))));
        assert!(is_void(&Included(k("b")), &Included(k("a"))));
        assert!(!is_void(&Excluded(k("a")), &Unbounded));
    }
}
