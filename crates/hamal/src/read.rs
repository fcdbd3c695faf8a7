//! Reading: snapshots, and the verbs that read a tree.
use crate::database::Shared;
use crate::owner::{Owner, ReadInner, no_tree};
use crate::range::{self, Range};
use crate::{Key, Lsn, Result, Value, ValueReader};
use hamal_btree::{LargeReader, RawValue, TreeInfo, ValueRef};
use hamal_page::{PageId, TreeId};
use hamal_txn::{Snapshot, View};
use std::fmt;
use std::ops::RangeBounds;
use std::sync::Arc;

/// A read transaction: a snapshot. Owned, cheap to clone, may move between threads; it takes no locks and writes nothing. It
/// keeps old versions of rows alive: drop it when you are done.
#[derive(Clone)]
pub struct ReadTxn(Arc<ReadInner>);

impl ReadTxn {
    pub(crate) fn new(shared: Arc<Shared>, snapshot: Snapshot) -> ReadTxn {
        ReadTxn(Arc::new(ReadInner { shared, snapshot }))
    }
    /// The tree of that name.
    ///
    /// # Errors
    /// `NotFound`; `Io`, `PageCorrupt`, `Poisoned`.
    pub fn tree(&self, name: &str) -> Result<ReadTree> {
        let owner = Owner::Read(self.0.clone());
        let found = owner.with_view(|view| owner.core().catalogue.find(view, name))?;
        let info = found.ok_or_else(|| no_tree(name))?;
        Ok(ReadTree { owner, info })
    }
    /// The names of all trees, in order.
    ///
    /// # Errors
    /// As [`ReadTxn::tree`].
    pub fn trees(&self) -> Result<Vec<String>> {
        let owner = Owner::Read(self.0.clone());
        let list = owner.with_view(|view| owner.core().catalogue.list(view))?;
        Ok(list.into_iter().map(|i| i.name.to_string()).collect())
    }
    /// The timestamp of the snapshot: it shows the commits at or below it.
    pub fn snapshot(&self) -> Lsn {
        self.0.snapshot.lsn()
    }
}

impl fmt::Debug for ReadTxn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadTxn").field("snapshot", &self.snapshot()).finish_non_exhaustive()
    }
}

/// A tree as a transaction sees it: the verbs that read. Owned, cheap to clone. A [`Tree`](crate::Tree) of a write
/// transaction has them too.
#[derive(Clone)]
pub struct ReadTree {
    pub(crate) owner: Owner,
    pub(crate) info: TreeInfo,
}

impl fmt::Debug for ReadTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tree")
            .field("name", &self.info.name)
            .field("id", &self.info.tree.id)
            .finish_non_exhaustive()
    }
}

/// What a look-up under the leaf's latch brought.
enum Got<R> {
    Done(R),
    Chain { len: u64, head: PageId },
    Bytes(Vec<u8>),
}

impl ReadTree {
    /// The name by which the tree was opened.
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// The tree's number, as its pages carry it.
    pub fn id(&self) -> TreeId {
        self.info.tree.id
    }

    /// The value of `key`.
    ///
    /// # Errors
    /// `TransactionEnded`, `NotFound` if this transaction dropped the tree; `PageCorrupt`, `Io`,
    /// `Poisoned`.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.get_with(key, |v| Value::new(v.to_vec()))
    }

    /// Shows the value of `key` to `f`, without a copy if it is not a long one. `f` may run under the latch of a page: it
    /// must be short, and must not call the database.
    ///
    /// # Errors
    /// As [`ReadTree::get`].
    pub fn get_with<R>(&self, key: impl AsRef<[u8]>, f: impl FnOnce(&[u8]) -> R) -> Result<Option<R>> {
        let mut f = Some(f);
        // What `f` is shown under the latch, or the bytes of a long value, read before the statement ends.
        let got = self.owner.with_view(|view| {
            let got = self.look_up_in(view, key.as_ref(), |v| match (v, f.take()) {
                (ValueRef::Inline(bytes), Some(f)) => Got::Done(f(bytes)),
                (ValueRef::Chain { len, head }, back) => {
                    f = back;
                    Got::Chain { len, head }
                }
                // `look_up_in` calls this once.
                (ValueRef::Inline(_), None) => Got::Chain { len: 0, head: PageId(0) },
            })?;
            Ok(match got {
                Some(Got::Chain { len, head }) => Some(Got::Bytes(read_chain(&self.owner, len, head)?)),
                got => got,
            })
        })?;
        Ok(match (got, f) {
            (Some(Got::Done(r)), _) => Some(r),
            (Some(Got::Bytes(bytes)), Some(f)) => Some(f(&bytes)),
            _ => None,
        })
    }

    fn look_up<R>(&self, key: &[u8], f: impl FnOnce(ValueRef<'_>) -> R) -> Result<Option<R>> {
        self.owner.with_view(|view| self.look_up_in(view, key, f))
    }
    /// Within a statement.
    fn look_up_in<R>(&self, view: &View, key: &[u8], f: impl FnOnce(ValueRef<'_>) -> R) -> Result<Option<R>> {
        self.owner.check_tree(&self.info)?;
        self.owner.note_key(self.info.tree, key);
        self.owner.core().btree.get(view, self.info.tree, key, f)
    }

    /// Whether `key` has a value.
    ///
    /// # Errors
    /// As [`ReadTree::get`].
    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.look_up(key.as_ref(), |_| ())?.is_some())
    }

    /// A reader of the value of `key`, for values that should not be in memory as a whole.
    ///
    /// # Errors
    /// As [`ReadTree::get`].
    pub fn reader(&self, key: impl AsRef<[u8]>) -> Result<Option<ValueReader>> {
        let mut moment = None;
        let raw = self.owner.with_view_at(&mut moment, |view| {
            self.look_up_in(view, key.as_ref(), |v| match v {
                ValueRef::Inline(b) => RawValue::Inline(b.to_vec()),
                ValueRef::Chain { len, head } => RawValue::Chain { len, head },
            })
        })?;
        Ok(raw.map(|raw| match raw {
            RawValue::Inline(b) => ValueReader::inline(self.owner.clone(), b),
            RawValue::Chain { len, head } => {
                let chain = LargeReader::new(self.owner.core().btree.clone(), len, head);
                ValueReader::chain(self.owner.clone(), chain, moment)
            }
        }))
    }

    /// The first row.
    ///
    /// # Errors
    /// As [`ReadTree::get`].
    pub fn first(&self) -> Result<Option<(Key, Value)>> {
        self.iter().one_by_one().next().transpose()
    }
    /// The last row.
    ///
    /// # Errors
    /// As [`ReadTree::get`].
    pub fn last(&self) -> Result<Option<(Key, Value)>> {
        self.iter().one_by_one().next_back().transpose()
    }
    /// All rows, in the order of their keys.
    pub fn iter(&self) -> Range {
        Range::new(self.clone(), std::ops::Bound::Unbounded, std::ops::Bound::Unbounded)
    }
    /// The rows with keys in `range`, in the order of their keys; empty if the bounds contradict each other.
    ///
    /// ```
    /// # fn main() -> hamal::Result<()> {
    /// # let db = hamal::Database::in_memory()?;
    /// # let tx = db.begin_write()?;
    /// let t = tx.create_tree("t")?;
    /// for k in ["a", "b", "c"] {
    ///     t.put(k, k)?;
    /// }
    /// let keys: Vec<_> = t.range("a".."c").rev().map(|row| row.map(|(k, _)| k)).collect::<Result<_, _>>()?;
    /// assert_eq!(keys, [b"b", b"a"]);
    /// # Ok(()) }
    /// ```
    pub fn range<K: AsRef<[u8]>>(&self, range: impl RangeBounds<K>) -> Range {
        let own = |b: std::ops::Bound<&K>| b.map(|k| k.as_ref().to_vec());
        Range::new(self.clone(), own(range.start_bound()), own(range.end_bound()))
    }
    /// The rows whose keys begin with `prefix`.
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Range {
        let (low, high) = range::prefix_bounds(prefix.as_ref());
        Range::new(self.clone(), low, high)
    }
    /// The number of rows. Counts them.
    ///
    /// # Errors
    /// As [`ReadTree::get`].
    pub fn len(&self) -> Result<u64> {
        self.iter().count_rows()
    }
    /// Whether there is no row.
    ///
    /// # Errors
    /// As [`ReadTree::get`].
    pub fn is_empty(&self) -> Result<bool> {
        self.iter().one_by_one().has_none()
    }
}

/// Reads a whole chain. The caller is inside [`Owner::with_view`], or holds the operation lock.
pub(crate) fn read_chain(owner: &Owner, len: u64, head: PageId) -> Result<Vec<u8>> {
    let mut chain = LargeReader::new(owner.core().btree.clone(), len, head);
    let mut out = Vec::new();
    // The length comes from a page: memory is taken as bytes come, and not on its word.
    let mut at = 0;
    loop {
        let room = usize::try_from(chain.remaining()).unwrap_or(usize::MAX).min(1 << 20);
        out.resize(at + room.max(1), 0);
        match chain.read(&mut out[at..])? {
            0 => break,
            n => at += n,
        }
    }
    out.truncate(at);
    Ok(out)
}
