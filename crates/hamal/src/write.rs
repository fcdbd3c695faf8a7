//! Writing: transactions, savepoints, and the trees of the catalogue.
use crate::database::Shared;
use crate::options::Durability;
use crate::owner::{Owner, no_tree};
use crate::read::{ReadTree, ReadTxn};
use crate::relief::Relief;
use crate::tree::Tree;
use crate::{Error, ErrorKind, Isolation, Lsn, Result, Savepoint, TxnId, WriteOptions};
use hamal_btree::{CATALOGUE_TREE, Catalogue, TreeInfo};
use hamal_log::Ticket;
use hamal_page::TreeId;
use hamal_sync::Mutex;
use hamal_sync::atomic::{
    AtomicBool, AtomicU32,
    Ordering::{Relaxed, SeqCst},
};
use hamal_txn::{OpGuard, Snapshot, Txn, View};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::future::Future;
use std::ops::Bound;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// What a write transaction, its trees and its iterators share.
pub(crate) struct WriteInner {
    pub(crate) txn: Arc<Txn>,
    ended: AtomicBool,
    /// Trees that this transaction made, renamed or dropped: their present names, or none if they are gone.
    changed: Mutex<HashMap<TreeId, Option<Arc<str>>>>,
    any_changed: AtomicBool,
    /// Trees that it may write in: registered, and checked since.
    registered: Mutex<HashSet<TreeId>>,
    /// The one of them that it wrote in last; 0: none.
    last_registered: AtomicU32,
    /// The last retryable error that a statement returned, and whether nothing has succeeded since.
    failed: Mutex<Option<(Error, bool)>>,
    /// Whether there is one.
    any_failed: AtomicBool,
    /// No statement waits.
    no_wait: bool,
    /// Memory for what a serializable transaction has read.
    read_set_bytes: usize,
    // Last, so that the database is closed after everything else is gone.
    pub(crate) shared: Arc<Shared>,
}

/// A statement in progress: the operation lock.
pub(crate) struct Statement<'t> {
    txn: &'t Txn,
    _op: OpGuard<'t>,
}

impl Drop for Statement<'_> {
    fn drop(&mut self) {
        self.txn.set_no_wait(false);
    }
}

impl WriteInner {
    /// Begins a statement: takes the operation lock; under read committed, a new snapshot.
    pub(crate) fn enter(&self) -> Result<Statement<'_>> {
        if self.ended.load(SeqCst) {
            return Err(
                Error::new(ErrorKind::TransactionEnded, "the transaction has ended").with_txn(self.txn.id())
            );
        }
        let op = self.txn.enter()?;
        // What the caller goes on after, it has handled.
        if self.any_failed.load(SeqCst)
            && let Some((_, last)) = &mut *self.failed.lock()
        {
            *last = false;
        }
        self.txn.refresh();
        self.txn.set_no_wait(self.no_wait);
        Ok(Statement { txn: &self.txn, _op: op })
    }
    /// What the transaction sees. Under the operation lock: its id comes with its first change.
    pub(crate) fn view(&self) -> View {
        self.txn.view()
    }

    /// What the transaction sees at a moment, which is now unless it was before.
    pub(crate) fn view_at(&self, moment: &mut Option<Snapshot>) -> View {
        if !self.reads_committed() {
            return self.view();
        }
        let at = moment.get_or_insert_with(|| self.txn.pin()).lsn();
        View { snapshot: at, own: self.txn.id() }
    }

    /// Runs a statement: under the operation lock; undone as a whole if it fails; again if log or device were full and
    /// room could be made. `f` may thus run more than once.
    pub(crate) fn statement<T>(&self, f: impl FnMut(&Txn) -> Result<T>) -> Result<T> {
        self.statement_as(false, f)
    }
    /// [`WriteInner::statement`], which does not wait for other transactions if `no_wait`.
    pub(crate) fn statement_as<T>(&self, no_wait: bool, mut f: impl FnMut(&Txn) -> Result<T>) -> Result<T> {
        let mut f = |txn: &Txn| {
            if no_wait {
                txn.set_no_wait(true);
            }
            f(txn)
        };
        // Under read committed only names of trees conflict: the statement is run again and sees what made it conflict. Each
        // time somebody else has committed.
        let mut attempt = || loop {
            match self.attempt(&mut f) {
                Err(e) if e.kind() == ErrorKind::Conflict && self.reads_committed() => {}
                done => return done,
            }
        };
        let core = &self.shared.core;
        if !no_wait {
            core.slow_down();
        }
        let mut relief = Relief::default();
        loop {
            let full = match attempt() {
                Err(e) if matches!(e.kind(), ErrorKind::LogFull | ErrorKind::NoSpace) => e,
                done => return done,
            };
            match core.make_room(&mut relief, &self.txn) {
                Ok(true) => {}
                Err(e) if e.kind() == ErrorKind::Poisoned => return Err(e),
                Ok(false) | Err(_) => return Err(core.explain_full(full, &self.txn)),
            }
        }
    }

    /// Notes that a statement tells what is, or is not, at a key. Under the operation lock.
    #[inline]
    pub(crate) fn note_key(&self, tree: hamal_btree::Tree, key: &[u8]) {
        self.txn.note_read(self.read_set_bytes, |reads| reads.add_key(tree.id, tree.root, key));
    }
    /// Notes that a statement tells what is between two bounds. Under the operation lock.
    pub(crate) fn note_range(&self, tree: hamal_btree::Tree, low: Bound<&[u8]>, high: Bound<&[u8]>) {
        self.txn.note_read(self.read_set_bytes, |reads| reads.add_range(tree.id, tree.root, low, high));
    }
    /// Notes that a statement tells whether there is a tree of that name, and which.
    fn note_name(&self, name: &str) {
        let (catalogue, key) = Catalogue::row_of(name);
        self.note_key(catalogue, &key);
    }

    /// Whether each statement has a snapshot of its own.
    pub(crate) fn reads_committed(&self) -> bool {
        self.txn.isolation() == Isolation::ReadCommitted
    }

    /// [`WriteInner::statement`] without the second run.
    pub(crate) fn attempt<T>(&self, f: &mut dyn FnMut(&Txn) -> Result<T>) -> Result<T> {
        let _op = self.enter()?;
        let txns = &self.shared.core.txns;
        let before = txns.mark(&self.txn);
        // Whatever kind the error is of: the caller's own statement may hand on one of another transaction, or of another
        // database. Whether this one is at an end is asked there.
        f(&self.txn).map_err(|e| match txns.rollback_to_mark(&self.txn, before) {
            Ok(()) => self.note_failure(self.name_trees(e)),
            Err(worse) => worse,
        })
    }

    /// Remembers an error that others are to blame for.
    pub(crate) fn note_failure(&self, e: Error) -> Error {
        if e.is_retryable() {
            *self.failed.lock() = Some((e.clone(), true));
            self.any_failed.store(true, SeqCst);
        }
        e
    }

    /// An error that speaks of trees names them.
    fn name_trees(&self, e: Error) -> Error {
        if e.tree().is_none() && e.waits().is_empty() {
            return e;
        }
        // As they are called now: those that wait may have seen them under other names, or made them.
        let view = View { snapshot: Lsn::MAX, own: self.txn.id() };
        let trees = self.shared.core.catalogue.list(&view).unwrap_or_default();
        e.name_trees(&|id| match id {
            CATALOGUE_TREE => Some("(names of trees)".to_owned()),
            id => trees.iter().find(|i| i.tree.id == id).map(|i| i.name.to_string()),
        })
    }

    /// What a statement does before it writes in a tree. Under the operation lock.
    pub(crate) fn register(&self, info: &TreeInfo) -> Result<()> {
        let id = info.tree.id;
        if self.last_registered.load(Relaxed) == id.0 && id.0 != 0 {
            return Ok(());
        }
        // Only a registration whose check succeeded counts: a failed one stays in the table until the end.
        if self.registered.lock().contains(&id) {
            self.last_registered.store(id.0, Relaxed);
            return Ok(());
        }
        let catalogue = &self.shared.core.catalogue;
        let renamed = self.changed.lock().get(&info.tree.id).cloned().flatten();
        match renamed {
            Some(name) => catalogue.register(&self.txn, &TreeInfo { name, tree: info.tree })?,
            None => catalogue.register(&self.txn, info)?,
        }
        self.registered.lock().insert(id);
        self.last_registered.store(id.0, Relaxed);
        Ok(())
    }

    /// Whether this transaction dropped the tree, or rolled its creation back.
    pub(crate) fn is_gone(&self, tree: TreeId) -> bool {
        self.any_changed.load(SeqCst) && self.changed.lock().get(&tree).is_some_and(|name| name.is_none())
    }

    fn note(&self, tree: TreeId, name: Option<&str>) {
        self.changed.lock().insert(tree, name.map(Arc::from));
        self.any_changed.store(true, SeqCst);
    }

    /// After a partial rollback: looks again which of the changed trees there are. Under the operation lock.
    fn review(&self) -> Result<()> {
        if !self.any_changed.load(SeqCst) {
            return Ok(());
        }
        let list = self.shared.core.catalogue.list(&self.view())?;
        for (tree, name) in self.changed.lock().iter_mut() {
            *name = list.iter().find(|i| i.tree.id == *tree).map(|i| i.name.clone());
        }
        Ok(())
    }

    /// Ends the transaction by `f`; at most once.
    fn end<T>(&self, f: impl FnOnce(&Txn) -> Result<T>) -> Result<T> {
        if self.ended.swap(true, SeqCst) {
            return Err(Error::new(ErrorKind::TransactionEnded, "the transaction has ended"));
        }
        // A doomed transaction is let through: it still has to be rolled back.
        let op = self.txn.enter_to_end();
        let done = op.and_then(|op| {
            let done = f(&self.txn);
            drop(op);
            done
        });
        self.shared.core.leave_writer();
        done
    }
}

/// A write transaction: sees a snapshot and its own changes; nobody sees those before it commits. Owned, may move between
/// threads; dropping it rolls it back.
///
/// Rows that another transaction is changing are waited for. At the default isolation level, [`Isolation::Snapshot`], a row that
/// another transaction changed and committed after this one's snapshot is a `Conflict`: roll back and try again, or let
/// [`Database::transact`](crate::Database::transact) do that. An error undoes the statement that returned it, not the
/// transaction.
#[must_use = "dropping a transaction rolls it back"]
pub struct WriteTxn(Arc<WriteInner>);

impl WriteTxn {
    pub(crate) fn begin(shared: &Arc<Shared>, options: WriteOptions) -> Result<WriteTxn> {
        shared.core.enter_writer()?;
        match shared.core.txns.begin_with(options.isolation, options.lock_timeout) {
            Ok(txn) => Ok(WriteTxn(Arc::new(WriteInner {
                txn,
                ended: AtomicBool::new(false),
                changed: Mutex::default(),
                any_changed: AtomicBool::new(false),
                registered: Mutex::default(),
                last_registered: AtomicU32::new(0),
                failed: Mutex::default(),
                any_failed: AtomicBool::new(false),
                no_wait: options.no_wait,
                read_set_bytes: options.read_set_bytes,
                shared: shared.clone(),
            }))),
            Err(e) => {
                shared.core.leave_writer();
                Err(e)
            }
        }
    }

    /// The transaction's id: the LSN of its first change; none before that.
    pub fn id(&self) -> TxnId {
        self.0.txn.id()
    }
    /// The retryable error that the caller's error, which lives, was made from, if there is one. See
    /// [`Database::transact`](crate::Database::transact).
    pub(crate) fn cause_of_failure(&self) -> Option<Error> {
        let (e, last) = self.0.failed.lock().take()?;
        // Ours is one of its holders: whether there is another, the caller's error still has it.
        let held = e.holders() > 1;
        (held || (last && e.kind() != ErrorKind::WouldWait)).then_some(e)
    }

    /// Its isolation level.
    pub fn isolation(&self) -> Isolation {
        self.0.txn.isolation()
    }
    /// The timestamp of its snapshot: it sees the commits at or below it, and its own changes. Under
    /// [`Isolation::ReadCommitted`] that of its last statement.
    pub fn snapshot(&self) -> Lsn {
        self.0.txn.snapshot()
    }

    /// A read transaction at this one's snapshot, which may show what is not durable yet: for who writes by this one what
    /// that one reads.
    pub(crate) fn read_snapshot(&self) -> ReadTxn {
        ReadTxn::new(self.0.shared.clone(), self.0.txn.pin())
    }

    fn handle(&self, info: TreeInfo) -> Tree {
        Tree::new(ReadTree { owner: Owner::Write(self.0.clone()), info })
    }
    fn find(&self, name: &str) -> Result<Option<TreeInfo>> {
        let _op = self.0.enter()?;
        self.0.note_name(name);
        self.0.shared.core.catalogue.find(&self.0.view(), name)
    }

    /// The tree of that name.
    ///
    /// # Errors
    /// `NotFound`; `TransactionEnded`, `Io`, `PageCorrupt`, `Poisoned`.
    pub fn tree(&self, name: &str) -> Result<Tree> {
        self.find(name)?.map(|info| self.handle(info)).ok_or_else(|| no_tree(name))
    }
    /// Makes a tree.
    ///
    /// # Errors
    /// `AlreadyExists`; `InvalidArgument` for a name that is empty or longer than 255 bytes; as [`Tree::put`].
    pub fn create_tree(&self, name: &str) -> Result<Tree> {
        // Noted under the operation lock: a partial rollback by another thread comes before all of it, or after.
        let info = self.0.statement(|txn| {
            self.0.note_name(name);
            let info = self.0.shared.core.catalogue.create(txn, name)?;
            self.0.note(info.tree.id, Some(&info.name));
            Ok(info)
        })?;
        Ok(self.handle(info))
    }
    /// The tree of that name, made if there is none.
    ///
    /// # Errors
    /// As [`WriteTxn::create_tree`]; `Conflict` if another transaction made it after this one's snapshot.
    pub fn open_or_create_tree(&self, name: &str) -> Result<Tree> {
        loop {
            if let Some(info) = self.find(name)? {
                return Ok(self.handle(info));
            }
            match self.create_tree(name) {
                // Under read committed another transaction has made it between the two statements: there it is.
                Err(e) if e.kind() == ErrorKind::AlreadyExists && self.0.reads_committed() => {}
                made => return made,
            }
        }
    }
    /// Renames a tree. Handles of it stay good.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists`; as [`WriteTxn::create_tree`].
    pub fn rename_tree(&self, from: &str, to: &str) -> Result<()> {
        self.0.statement(|txn| {
            self.0.note_name(from);
            self.0.note_name(to);
            let catalogue = &self.0.shared.core.catalogue;
            let info = catalogue.find(&self.0.view(), from)?.ok_or_else(|| no_tree(from))?;
            catalogue.rename(txn, from, to)?;
            self.0.note(info.tree.id, Some(to));
            Ok(())
        })
    }
    /// Drops a tree with all its rows; waits for other transactions that have written in it. Its space comes back some time
    /// after the commit.
    ///
    /// # Errors
    /// `NotFound`; as [`Tree::put`].
    pub fn drop_tree(&self, name: &str) -> Result<()> {
        self.0.statement(|txn| {
            self.0.note_name(name);
            let catalogue = &self.0.shared.core.catalogue;
            let info = catalogue.find(&self.0.view(), name)?.ok_or_else(|| no_tree(name))?;
            catalogue.drop_tree(txn, name)?;
            self.0.note(info.tree.id, None);
            Ok(())
        })
    }
    /// The names of all trees, in order.
    ///
    /// # Errors
    /// As [`WriteTxn::tree`].
    pub fn trees(&self) -> Result<Vec<String>> {
        let _op = self.0.enter()?;
        self.0.note_range(Catalogue::row_of("").0, Bound::Unbounded, Bound::Unbounded);
        let list = self.0.shared.core.catalogue.list(&self.0.view())?;
        Ok(list.into_iter().map(|i| i.name.to_string()).collect())
    }

    /// A point to which the transaction can be rolled back.
    ///
    /// # Errors
    /// `TransactionEnded`, `Poisoned`.
    pub fn savepoint(&self) -> Result<Savepoint> {
        let _op = self.0.enter()?;
        Ok(self.0.shared.core.txns.savepoint(&self.0.txn))
    }
    /// Undoes everything since the savepoint, which stays good; savepoints taken later do not. Who waits for a row that is
    /// given up so goes on.
    ///
    /// # Errors
    /// `NotFound` if the savepoint is not of this transaction, or was rolled back past; `TransactionEnded`, `Poisoned`.
    pub fn rollback_to(&self, to: &Savepoint) -> Result<()> {
        let _op = self.0.enter()?;
        self.0.shared.core.txns.rollback_to(&self.0.txn, to)?;
        self.0.review()
    }

    /// Runs one statement of a resource manager of the caller: `f` may log changes by this transaction. It is undone if `f`
    /// fails, and may run twice (if the log was full). See the crate's example `counters`.
    ///
    /// # Errors
    /// Those of `f`; `TransactionEnded`, `Poisoned`.
    pub fn run<T>(&self, f: impl FnMut(&Txn) -> Result<T>) -> Result<T> {
        self.0.statement(f)
    }

    /// Commits; returns the commit's timestamp, when it is durable (or at once, if the database was opened with
    /// [`Durability::Async`]).
    ///
    /// # Errors
    /// `Serialization` if it is serializable and something that it read was changed: it is rolled back, try again.
    /// `TransactionEnded` if the engine has rolled it back; `Poisoned` if nothing was committed; `OutcomeUnknown` if the
    /// storage failed while the commit was in flight: the next open decides.
    pub fn commit(self) -> Result<Lsn> {
        let durability = self.0.shared.core.options.durability;
        self.commit_with(durability).map(|t| t.lsn())
    }
    /// Commits; the ticket tells when it is durable. With [`Durability::Sync`] it is when this returns.
    ///
    /// # Errors
    /// As [`WriteTxn::commit`].
    pub fn commit_with(self, durability: Durability) -> Result<CommitTicket> {
        let core = &self.0.shared.core;
        let outcome = self.0.end(|txn| {
            core.txns.commit_looking(txn, &|v| core.btree.check_reads(v)).map_err(|e| {
                let e = self.0.name_trees(e);
                // Whatever kept it from committing, it must not stay.
                let _ = core.txns.rollback(txn);
                e
            })
        })?;
        let ticket = CommitTicket { ticket: outcome.ticket, timestamp: outcome.timestamp };
        match durability {
            Durability::Sync => ticket.wait()?,
            Durability::Async => core.log.request_flush(ticket.ticket.lsn()),
        }
        Ok(ticket)
    }
    /// Rolls back: nothing of it remains.
    ///
    /// # Errors
    /// `Poisoned`: then the next open rolls it back.
    pub fn rollback(self) -> Result<()> {
        let live = !self.0.ended.load(SeqCst);
        match self.0.end(|txn| self.0.shared.core.txns.rollback(txn)) {
            // The engine was quicker: nothing of it remains.
            Err(e) if live && e.kind() == ErrorKind::TransactionEnded && self.0.txn.is_doomed() => Ok(()),
            done => done,
        }
    }
}

impl Drop for WriteTxn {
    fn drop(&mut self) {
        // An error means that it has ended, or that the next open rolls it back.
        let _ = self.0.end(|txn| self.0.shared.core.txns.rollback(txn));
    }
}

impl fmt::Debug for WriteTxn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteTxn")
            .field("id", &self.id())
            .field("snapshot", &self.snapshot())
            .finish_non_exhaustive()
    }
}

/// A commit that is, or will be, durable: wait for it, poll it, or `.await` it in any runtime.
#[derive(Clone, Debug)]
pub struct CommitTicket {
    ticket: Ticket,
    timestamp: Lsn,
}

impl CommitTicket {
    /// The timestamp of the commit: snapshots at or above it show it.
    pub fn lsn(&self) -> Lsn {
        self.timestamp
    }
    /// Whether it is durable.
    pub fn is_durable(&self) -> bool {
        self.ticket.is_durable()
    }
    /// Waits until it is durable.
    ///
    /// # Errors
    /// `OutcomeUnknown` if the storage failed before.
    pub fn wait(&self) -> Result<()> {
        self.ticket.wait()
    }
}

impl Future for CommitTicket {
    type Output = Result<()>;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.ticket).poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use crate::{Database, Error, ErrorKind};
    use hamal_btree::PutValue;

    /// A statement of the caller's fails with an error that speaks of something else: it is undone all the same.
    #[test]
    fn a_statement_that_hands_on_anothers_error_is_undone() {
        let db = Database::in_memory().unwrap();
        let tx = db.begin_write().unwrap();
        tx.create_tree("t").unwrap().put("a", "1").unwrap();
        let info = tx.find("t").unwrap().unwrap();
        for kind in [ErrorKind::TransactionEnded, ErrorKind::Poisoned, ErrorKind::NotFound] {
            let failed = tx.run(|txn| {
                tx.0.shared.core.btree.put(txn, info.tree, b"b", PutValue::Inline(b"2"))?;
                Err::<(), _>(Error::new(kind, "of another one"))
            });
            assert_eq!(failed.unwrap_err().kind(), kind);
            assert_eq!(tx.tree("t").unwrap().get("b").unwrap(), None, "after {kind:?}");
        }
        tx.commit().unwrap();
        let tree = db.begin_read().unwrap().tree("t").unwrap();
        assert_eq!((tree.get("a").unwrap().is_some(), tree.get("b").unwrap()), (true, None));
    }
}
