//! The verbs that write a tree.
use crate::owner::Owner;
use crate::read::{ReadTree, read_chain};
use crate::write::WriteInner;
use crate::{Error, ErrorKind, Key, Keys, Result, Value};
use hamal_btree::{LargeWriter, PutValue, RawValue};
use hamal_txn::Txn;
use std::io::Read;
use std::ops::Deref;
use std::sync::Arc;

/// Bytes that are taken from a reader at once.
const CHUNK: usize = 64 << 10;
/// Rows of a bulk load that are put at once: some leaves full.
const LOAD_ROWS: usize = 256;
/// The longest value: 4 GiB less one byte.
const LONGEST_VALUE: u64 = u32::MAX as u64;

/// A tree of a write transaction: the verbs that write, and by dereference those of [`ReadTree`]. Owned, cheap to clone; of no
/// use after the transaction's end.
#[derive(Clone, Debug)]
pub struct Tree(ReadTree, Waits);

/// Whether a handle's statements wait for other transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    Yes,
    No,
}

impl Deref for Tree {
    type Target = ReadTree;
    fn deref(&self) -> &ReadTree {
        &self.0
    }
}

impl Tree {
    pub(crate) fn new(tree: ReadTree) -> Tree {
        Tree(tree, Waits::Yes)
    }

    /// The same tree, through a handle whose statements never wait for another transaction: where they would have to they
    /// fail with `WouldWait`, which names the holder. The statement is undone, the transaction goes on: so workers can take
    /// rows that nobody else is at.
    ///
    /// ```
    /// # use hamal::{Database, ErrorKind};
    /// # fn main() -> hamal::Result<()> {
    /// # let db = Database::in_memory()?;
    /// # let tx = db.begin_write()?;
    /// # tx.create_tree("jobs")?.put("1", "paint the fence")?;
    /// # tx.commit()?;
    /// let (one, two) = (db.begin_write()?, db.begin_write()?);
    /// one.tree("jobs")?.remove("1")?;
    /// let taken = two.tree("jobs")?.no_wait().remove("1").unwrap_err();
    /// assert_eq!(taken.kind(), ErrorKind::WouldWait);
    /// assert_eq!(taken.txn(), Some(one.id()));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn no_wait(&self) -> Tree {
        Tree(self.0.clone(), Waits::No)
    }

    fn inner(&self) -> Result<&Arc<WriteInner>> {
        match &self.0.owner {
            Owner::Write(w) => Ok(w),
            Owner::Read(_) => Err(Error::internal("a tree to write in belongs to a snapshot")),
        }
    }

    /// A statement on this tree: checked and registered, under the operation lock, undone if it fails.
    fn statement<T>(&self, mut f: impl FnMut(&Txn) -> Result<T>) -> Result<T> {
        let inner = self.inner()?;
        inner.statement_as(self.1 == Waits::No, |txn| self.prepared(inner, txn, &mut f))
    }
    fn prepared<T>(&self, inner: &WriteInner, txn: &Txn, f: &mut dyn FnMut(&Txn) -> Result<T>) -> Result<T> {
        self.0.owner.check_tree(&self.0.info)?;
        inner.register(&self.0.info)?;
        f(txn)
    }

    /// Sets the value of `key` and returns the former one.
    ///
    /// # Errors
    /// `Conflict`, `Deadlock`, `LockTimeout`: roll back, try again. `InvalidArgument` for a key longer than an eighth of a
    /// page, or a value of 4 GiB or more. `NotFound` if the tree was dropped. `LogFull`, `NoSpace`, `SnapshotTooOld`;
    /// `TransactionEnded`, `PageCorrupt`, `Io`, `Poisoned`. The statement is undone as a whole.
    pub fn insert(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Option<Value>> {
        let (key, value) = (key.as_ref(), value.as_ref());
        self.statement(|txn| {
            // What it returns is read, and stays so if a savepoint gives the row back.
            self.0.owner.note_key(self.0.info.tree, key);
            let old = self.put_value(txn, key, value)?;
            self.take(txn, old)
        })
    }

    /// Sets the value of `key`. Unlike [`Tree::insert`] it does not read a long former value.
    ///
    /// # Errors
    /// As [`Tree::insert`].
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        let (key, value) = (key.as_ref(), value.as_ref());
        self.statement(|txn| {
            let old = self.put_value(txn, key, value)?;
            self.discard(txn, old)
        })
    }

    /// Removes `key` and returns its value.
    ///
    /// # Errors
    /// As [`Tree::insert`].
    pub fn remove(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        let key = key.as_ref();
        self.statement(|txn| {
            self.0.owner.note_key(self.0.info.tree, key);
            let old = self.0.owner.core().btree.remove(txn, self.0.info.tree, key)?;
            self.take(txn, old)
        })
    }

    /// Removes `key` and says whether it had a value, which is not read.
    ///
    /// # Errors
    /// As [`Tree::insert`].
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        let key = key.as_ref();
        self.statement(|txn| {
            self.0.owner.note_key(self.0.info.tree, key);
            let old = self.0.owner.core().btree.remove(txn, self.0.info.tree, key)?;
            let had = old.is_some();
            self.discard(txn, old)?;
            Ok(had)
        })
    }

    /// The value of `key`, and from now on the row is this transaction's as if it had written it: others that want to write
    /// or lock it wait until this transaction ends, or is rolled back to a savepoint before. Readers do not wait.
    ///
    /// A `key` without a value is locked as well: nobody else can insert it meanwhile.
    ///
    /// A lock counts as a change: it is logged, and for a transaction at snapshot isolation that wants to write or lock the row
    /// later a lock that was committed after its snapshot is a `Conflict`. So what was read with this, and not with
    /// [`ReadTree::get`], cannot change before the commit, at any isolation level: no lost update, no write skew over these
    /// rows. Under read committed it returns the newest committed value. With [`Tree::no_wait`] it tries.
    ///
    /// ```
    /// # use hamal::{Database, Isolation, WriteOptions};
    /// # fn main() -> hamal::Result<()> {
    /// # let db = Database::in_memory()?;
    /// # let tx = db.begin_write()?;
    /// # tx.create_tree("stock")?.put("apples", [7])?;
    /// # tx.commit()?;
    /// let tx = db.begin_write_with(WriteOptions::new().isolation(Isolation::ReadCommitted))?;
    /// let stock = tx.tree("stock")?;
    /// let apples = stock.get_for_update("apples")?.map_or(0, |v| v[0]);
    /// if apples > 0 {
    ///     stock.put("apples", [apples - 1])?; // nobody has taken one in between
    /// }
    /// tx.commit()?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`Tree::insert`].
    pub fn get_for_update(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        let key = key.as_ref();
        self.statement(|txn| {
            self.0.owner.note_key(self.0.info.tree, key);
            Ok(match self.0.owner.core().btree.lock(txn, self.0.info.tree, key)? {
                None => None,
                Some(RawValue::Inline(bytes)) => Some(Value::new(bytes)),
                Some(RawValue::Chain { len, head }) => {
                    Some(Value::new(read_chain(&self.0.owner, len, head)?))
                }
            })
        })
    }

    /// Removes the first row and returns it.
    ///
    /// # Errors
    /// As [`Tree::insert`].
    pub fn pop_first(&self) -> Result<Option<(Key, Value)>> {
        self.pop(|rows| rows.next())
    }
    /// Removes the last row and returns it.
    ///
    /// # Errors
    /// As [`Tree::insert`].
    pub fn pop_last(&self) -> Result<Option<(Key, Value)>> {
        self.pop(|rows| rows.next_back())
    }
    fn pop(&self, end: impl Fn(&mut Keys) -> Option<Result<Key>>) -> Result<Option<(Key, Value)>> {
        loop {
            let mut rows = self.iter().one_by_one().keys();
            let Some(key) = end(&mut rows).transpose()? else { return Ok(None) };
            drop(rows);
            if let Some(value) = self.remove(&key)? {
                return Ok(Some((key, value)));
            }
            // Under read committed another transaction has taken it between the two statements: there is another end now.
        }
    }

    /// Removes every row, one by one; returns how many there were. (To drop many rows faster, drop the tree and make it anew.)
    ///
    /// # Errors
    /// As [`Tree::insert`]; the rows removed before the error stay removed: take a savepoint first.
    pub fn clear(&self) -> Result<u64> {
        let mut n = 0;
        for key in self.iter().keys() {
            n += u64::from(self.delete(key?)?);
        }
        Ok(n)
    }

    /// Sets the value of `key` to what `from` yields until its end, piece by piece; returns its length. If it fails, what
    /// was read from `from` is lost.
    ///
    /// # Errors
    /// As [`Tree::insert`]; `Io` if `from` fails. A full log is not relieved and tried again.
    pub fn insert_from(&self, key: impl AsRef<[u8]>, from: &mut dyn Read) -> Result<u64> {
        let (key, inner) = (key.as_ref(), self.inner()?);
        // The first piece is read before any lock is taken; a short value ends with it.
        let mut piece = vec![0; CHUNK.max(self.0.owner.core().btree.limits().max_inline + 1)];
        inner.attempt(&mut |txn| {
            if self.1 == Waits::No {
                txn.set_no_wait(true);
            }
            self.prepared(inner, txn, &mut |txn| {
                let n = fill(from, &mut piece)?;
                let core = self.0.owner.core();
                if n <= core.btree.limits().max_inline {
                    let old = core.btree.put(txn, self.0.info.tree, key, PutValue::Inline(&piece[..n]))?;
                    self.discard(txn, old)?;
                    return Ok(n as u64);
                }
                let mut chain = LargeWriter::new(core.btree.clone());
                let (mut n, mut total) = (n, 0);
                while n > 0 {
                    total += n as u64;
                    check_length(total)?;
                    chain.write(txn, &piece[..n])?;
                    n = fill(from, &mut piece)?;
                }
                let old = self.link(txn, key, chain)?;
                self.discard(txn, old)?;
                Ok(total)
            })
        })
    }

    /// Puts rows whose keys ascend; returns how many. Ascending rows fill pages fully, and a leaf takes all that go to it at
    /// once: this costs less than [`Tree::put`] for each. They are put some hundred at a time, so what `rows` itself looks up in the
    /// tree may lack the last ones.
    ///
    /// # Errors
    /// `InvalidArgument` if a key is not above the one before; as [`Tree::insert`]. The rows before the error stay: take a
    /// savepoint first.
    pub fn bulk_load<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        rows: impl IntoIterator<Item = (K, V)>,
    ) -> Result<u64> {
        let most = self.0.owner.core().btree.limits().max_inline;
        let mut waiting: Vec<(K, V)> = Vec::with_capacity(LOAD_ROWS);
        let mut before = Vec::new();
        let mut n = 0;
        for (key, value) in rows {
            if n > 0 && before.as_slice() >= key.as_ref() {
                self.put_waiting(&mut waiting)?;
                let key = key.as_ref().escape_ascii();
                let m = format!("the keys of a bulk load must ascend: b\"{key}\" does not");
                return Err(Error::new(ErrorKind::InvalidArgument, m));
            }
            before.clear();
            before.extend_from_slice(key.as_ref());
            n += 1;
            if value.as_ref().len() > most {
                self.put_waiting(&mut waiting)?;
                self.put(key, value)?;
                continue;
            }
            waiting.push((key, value));
            if waiting.len() == LOAD_ROWS {
                self.put_waiting(&mut waiting)?;
            }
        }
        self.put_waiting(&mut waiting)?;
        Ok(n)
    }

    /// Puts what waits in one statement; if that fails, and is undone, one by one, so that the rows before the error stay.
    fn put_waiting<K: AsRef<[u8]>, V: AsRef<[u8]>>(&self, waiting: &mut Vec<(K, V)>) -> Result<()> {
        let rows: Vec<(&[u8], &[u8])> = waiting.iter().map(|(k, v)| (k.as_ref(), v.as_ref())).collect();
        let (btree, tree) = (&self.0.owner.core().btree, self.0.info.tree);
        let all =
            self.statement(|txn| btree.put_sorted(txn, tree, &rows, &mut |old| self.discard(txn, Some(old))));
        if all.is_err() {
            rows.iter().try_for_each(|(key, value)| self.put(key, value))?;
        }
        drop(rows);
        waiting.clear();
        Ok(())
    }

    // ---- inside a statement ----

    fn put_value(&self, txn: &Txn, key: &[u8], value: &[u8]) -> Result<Option<RawValue>> {
        let btree = &self.0.owner.core().btree;
        if value.len() <= btree.limits().max_inline {
            return btree.put(txn, self.0.info.tree, key, PutValue::Inline(value));
        }
        check_length(value.len() as u64)?;
        self.check_key(key)?;
        let mut chain = LargeWriter::new(btree.clone());
        chain.write(txn, value)?;
        self.link(txn, key, chain)
    }

    /// Before a long value is written for nothing.
    fn check_key(&self, key: &[u8]) -> Result<()> {
        let most = self.0.owner.core().btree.limits().max_key;
        if key.len() <= most {
            return Ok(());
        }
        let m = format!("a key of {} bytes; with this page size it may have {most}", key.len());
        Err(Error::new(ErrorKind::InvalidArgument, m))
    }

    /// Makes a chain the value of `key`.
    fn link(&self, txn: &Txn, key: &[u8], mut chain: LargeWriter) -> Result<Option<RawValue>> {
        let (len, head) = chain.finish(txn)?;
        let btree = &self.0.owner.core().btree;
        let old = btree.put(txn, self.0.info.tree, key, PutValue::Chain { len, head })?;
        chain.linked(txn)?;
        Ok(old)
    }

    /// A former value: a chain is nobody's now, and is freed after the commit, when no snapshot wants it.
    fn discard(&self, txn: &Txn, old: Option<RawValue>) -> Result<()> {
        match old {
            Some(RawValue::Chain { head, .. }) => self.0.owner.core().garbage.discard_chain(txn, head),
            _ => Ok(()),
        }
    }

    /// [`Tree::discard`], and the bytes.
    fn take(&self, txn: &Txn, old: Option<RawValue>) -> Result<Option<Value>> {
        let bytes = match old {
            None => return Ok(None),
            Some(RawValue::Inline(bytes)) => bytes,
            Some(RawValue::Chain { len, head }) => {
                let bytes = read_chain(&self.0.owner, len, head)?;
                self.discard(txn, Some(RawValue::Chain { len, head }))?;
                bytes
            }
        };
        Ok(Some(Value::new(bytes)))
    }
}

fn check_length(len: u64) -> Result<()> {
    if len <= LONGEST_VALUE {
        return Ok(());
    }
    let m = format!("a value of {len} bytes; the longest has {LONGEST_VALUE}");
    Err(Error::new(ErrorKind::InvalidArgument, m))
}

/// Reads until `buf` is full or the source ends.
fn fill(from: &mut dyn Read, buf: &mut [u8]) -> Result<usize> {
    let mut n = 0;
    while n < buf.len() {
        match from.read(&mut buf[n..]) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io("reading a value to store", e)),
        }
    }
    Ok(n)
}
