//! Iterating: both ends of a range, in batches of rows, each batch a consistent read of some leaves.
use crate::read::{ReadTree, read_chain};
use crate::{Error, Key, Result, Value};
use hamal_btree::{Bound, Direction, Entry, RawValue};
use hamal_txn::Snapshot;
use std::collections::VecDeque;
use std::fmt;
use std::ops::Bound as StdBound;

const FIRST_BATCH: usize = 16;
const LARGEST_BATCH: usize = 256;

/// Rows of a tree in the order of their keys, from both ends.
///
/// It owns what it needs: it holds the snapshot, or the write transaction, from which it was made. Over a snapshot it shows
/// that snapshot. Over a write transaction it shows rows as they are when a batch is read: what the transaction itself changes
/// ahead of it may be seen or not; each key is shown at most once, in order. What others committed it shows as of one moment:
/// the transaction's snapshot, or under [`Isolation::ReadCommitted`](crate::Isolation::ReadCommitted) the first batch's.
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
    front: VecDeque<Entry>,
    back: VecDeque<Entry>,
    batch: usize,
    largest: usize,
    failed: Option<Error>,
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

/// Notes what a batch tells of: the keys up to the last row, or, if there is nothing more, up to the bound.
fn note(
    tree: &ReadTree,
    low: &StdBound<Vec<u8>>,
    high: &StdBound<Vec<u8>>,
    direction: Direction,
    last: Option<&Entry>,
) {
    let (low, high) = (low.as_ref().map(Vec::as_slice), high.as_ref().map(Vec::as_slice));
    let last = last.map(|e| StdBound::Included(e.key.as_slice()));
    match direction {
        Direction::Forward => tree.owner.note_range(tree.info.tree, low, last.unwrap_or(high)),
        Direction::Reverse => tree.owner.note_range(tree.info.tree, last.unwrap_or(low), high),
    }
}

impl Range {
    pub(crate) fn new(tree: ReadTree, low: StdBound<Vec<u8>>, high: StdBound<Vec<u8>>) -> Range {
        Range {
            moment: None,
            exhausted: is_void(&low, &high),
            tree,
            low,
            high,
            front: VecDeque::new(),
            back: VecDeque::new(),
            batch: FIRST_BATCH,
            largest: LARGEST_BATCH,
            failed: None,
        }
    }
    pub(crate) fn in_batches_of(mut self, n: usize) -> Range {
        (self.batch, self.largest) = (n, n);
        self
    }

    /// Reads a batch at one end; the bound there moves behind what was read.
    fn fetch(&mut self, direction: Direction) -> Result<()> {
        let mut rows = Vec::with_capacity(self.batch);
        let (tree, limit) = (&self.tree, self.batch);
        let more = tree.owner.with_view_at(&mut self.moment, |view| {
            tree.owner.check_tree(&tree.info)?;
            let (low, high) = (as_bound(&self.low), as_bound(&self.high));
            let more =
                tree.owner.core().btree.scan(view, tree.info.tree, low, high, direction, limit, &mut rows)?;
            note(tree, &self.low, &self.high, direction, rows.last().filter(|_| more));
            Ok(more)
        })?;
        let Some(last) = rows.last() else {
            self.exhausted = true;
            return match more {
                false => Ok(()),
                true => Err(Error::internal("a scan returned no rows and says that there are more")),
            };
        };
        let beyond = StdBound::Excluded(last.key.clone());
        match direction {
            Direction::Forward => {
                self.low = beyond;
                self.front.extend(rows);
            }
            Direction::Reverse => {
                self.high = beyond;
                self.back.extend(rows);
            }
        }
        self.exhausted = !more || is_void(&self.low, &self.high);
        self.batch = (self.batch * 2).min(self.largest);
        Ok(())
    }

    /// The next row at one end, its value not yet read if it is a long one.
    fn advance(&mut self, direction: Direction) -> Result<Option<Entry>> {
        if let Some(e) = &self.failed {
            return Err(e.clone());
        }
        loop {
            let (near, far) = match direction {
                Direction::Forward => (&mut self.front, &mut self.back),
                Direction::Reverse => (&mut self.back, &mut self.front),
            };
            if let Some(row) = near.pop_front() {
                return Ok(Some(row));
            }
            if self.exhausted {
                return Ok(far.pop_back());
            }
            self.fetch(direction).map_err(|e| self.fail(e))?;
        }
    }

    fn fail(&mut self, e: Error) -> Error {
        self.failed = Some(e.clone());
        e
    }

    fn step(&mut self, direction: Direction) -> Option<Result<(Key, Value)>> {
        let row = match self.advance(direction) {
            Ok(row) => row?,
            Err(e) => return Some(Err(e)),
        };
        let value = match row.value {
            RawValue::Inline(bytes) => Ok(bytes),
            RawValue::Chain { len, head } => self
                .tree
                .owner
                .with_view(|_| read_chain(&self.tree.owner, len, head))
                .map_err(|e| self.fail(e)),
        };
        Some(value.map(|v| (Key::new(row.key), Value::new(v))))
    }

    /// Only the keys: long values are not read.
    pub fn keys(self) -> Keys {
        Keys(self)
    }

    pub(crate) fn count_rows(mut self) -> Result<u64> {
        self.batch = LARGEST_BATCH;
        let mut n = 0;
        while self.advance(Direction::Forward)?.is_some() {
            n += 1 + self.front.len() as u64;
            self.front.clear();
        }
        Ok(n)
    }
    pub(crate) fn has_none(mut self) -> Result<bool> {
        Ok(self.advance(Direction::Forward)?.is_none())
    }
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

impl Iterator for Keys {
    type Item = Result<Key>;
    fn next(&mut self) -> Option<Result<Key>> {
        self.0.advance(Direction::Forward).map(|row| row.map(|e| Key::new(e.key))).transpose()
    }
}

impl DoubleEndedIterator for Keys {
    fn next_back(&mut self) -> Option<Result<Key>> {
        self.0.advance(Direction::Reverse).map(|row| row.map(|e| Key::new(e.key))).transpose()
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
