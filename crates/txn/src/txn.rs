//! One transaction.
//!
//! Two locks. The *operation lock* is held by the call in progress, so a transaction does one thing at a
//! time. The *small mutex* around [`Core`] is held from before a record of the transaction is reserved until
//! first, last, undoNext and state are stored (TXN-ATT): a checkpoint that takes it sees every
//! record reserved before its begin record.
use crate::horizon::{Horizon, Now, Snapshot, too_old};
use crate::reads::ReadSet;
use crate::versions::VersionKey;
use hamal_buffer::OpCredit;
use hamal_error::{Error, ErrorKind, Poison, Result};
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::{Lsn, PageId, TreeId, TxnId};
use hamal_sync::aside;
use hamal_sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use hamal_sync::time::Instant;
use hamal_sync::{Condvar, Mutex, MutexGuard};
use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How far a transaction has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Live,
    RollingBack,
    Committed,
    RolledBack,
}

/// What the small mutex guards: the transaction's entry in the active transaction table.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) state: State,
    /// LSN of the first record, null before.
    pub(crate) first: Lsn,
    /// lastLSN.
    pub(crate) last: Lsn,
    /// undoNextLSN.
    pub(crate) undo_next: Lsn,
    /// Log space held for the CLRs of a rollback.
    pub(crate) undo_reserve: u64,
    /// Pages that its undoable changes were made on.
    pub(crate) touched: Touched,
    /// Images of such pages that it holds log space for, and those that its undo has used (TXN-ROOM).
    pub(crate) images: u64,
    pub(crate) images_used: u64,
    /// Log space held for the padding and seals of the groups that its rollback makes.
    pub(crate) group_reserve: u64,
    /// Log space held for Commit, or for Abort and End.
    pub(crate) end_reserve: u64,
    /// What the checkpoint said a loser had reserved; not held, recovery ignores the log's limit.
    pub(crate) adopted_reserve: u64,
    /// Nested top actions have left something that stays whatever becomes of the transaction.
    pub(crate) kept: bool,
    /// A resource manager's undo is running: it may not log undoable changes.
    pub(crate) undoing: bool,
    /// Records that it logged, undo aside, and their bytes.
    pub(crate) records: u64,
    pub(crate) record_bytes: u64,
    /// Valid savepoints, ascending, and the number of the next.
    pub(crate) savepoints: Vec<u64>,
    pub(crate) next_savepoint: u64,
}

/// Pages that a transaction has touched.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    /// The one that was asked for last: the next change is often on the same page.
    last: Option<PageId>,
    all: HashSet<PageId, BuildHasherDefault<PageHasher>>,
}

/// Spreads page numbers. Nobody chooses them to collide.
#[derive(Debug, Default)]
pub(crate) struct PageHasher(u64);

impl Hasher for PageHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_u64(self.0 ^ u64::from(*b)));
    }
    fn write_u64(&mut self, n: u64) {
        // The table takes its place from the low bits and compares the high ones.
        let n = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = n ^ n >> 32;
    }
}

impl Core {
    /// Sets an image aside for the undo on a page, unless there is one already (TXN-ROOM).
    #[inline]
    pub(crate) fn touch(&mut self, page: PageId, credit: &mut OpCredit<'_>) {
        if self.touched.last == Some(page) {
            return;
        }
        if self.touched.all.contains(&page) {
            self.touched.last = Some(page);
        } else if credit.take_undo_images(1) == 1 {
            self.touched.all.insert(page);
            self.touched.last = Some(page);
            self.images += 1;
        }
    }

    /// What it changed on a page is on another one now: that one has the image, and the page, should it be made anew and be
    /// changed again, needs another (TXN-ROOM).
    pub(crate) fn untouch(&mut self, page: PageId) {
        if self.touched.all.remove(&page) && self.touched.last == Some(page) {
            self.touched.last = None;
        }
    }
}

/// What a transaction is protected from while others run beside it. `docs/isolation.md` has the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Isolation {
    /// Each statement sees what had committed when it began, and the transaction's own changes. Its writes wait for other
    /// writers of the same rows, and then build on what those committed.
    ReadCommitted,
    /// The transaction sees what had committed when it began, and its own changes. The first to change a row wins: a row that
    /// another transaction changed and committed since is a `Conflict`. Two transactions that each read what the other writes
    /// can both commit (write skew).
    #[default]
    Snapshot,
    /// As [`Isolation::Snapshot`]; and it commits only if nothing that it read, rows that were not there and ranges
    /// included, was changed by a transaction that committed since its snapshot: it is as if all serializable transactions
    /// had run one after another, in the order of their commits. Otherwise the commit fails with `Serialization`.
    Serializable,
}

impl std::fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isolation::ReadCommitted => "read committed",
            Isolation::Snapshot => "snapshot",
            Isolation::Serializable => "serializable",
        })
    }
}

/// A write transaction: its entry in the active transaction table.
pub struct Txn {
    number: u64,
    isolation: Isolation,
    /// Changes only under read committed, and only under the operation lock.
    snapshot: AtomicU64,
    /// How long it waits for another transaction.
    lock_timeout: Duration,
    /// The statement in progress does not wait.
    no_wait: AtomicBool,
    /// Whom it waits for.
    waits_for: Mutex<Option<Arc<Txn>>>,
    loser: bool,
    id: AtomicU64,
    pub(crate) core: Mutex<Core>,
    op: Mutex<()>,
    /// Has committed: set in the commit section.
    committed: AtomicBool,
    /// Committed or rolled back; set before the waiters are woken.
    ended: AtomicBool,
    doomed: AtomicBool,
    /// When it began.
    pub(crate) begun: Instant,
    /// Number of the thread that made the last call.
    owner: AtomicU64,
    /// Raised at the end and at each partial rollback; what waiters wait for.
    turn: AtomicU64,
    turn_mutex: Mutex<()>,
    turned: Condvar,
    /// The live writer that this transaction last met under a latch, and that writer's turn at that moment.
    met: Mutex<Option<(TxnId, u64)>>,
    /// Trees registered with; true means exclusively.
    pub(crate) trees: Mutex<Vec<(TreeId, bool)>>,
    /// What it has read, if it is serializable. Under the operation lock.
    reads: Mutex<Option<Arc<ReadSet>>>,
    /// Keys of the version store that hold an entry of this transaction.
    pub(crate) pushed: Mutex<Vec<VersionKey>>,
    /// Bytes of these entries.
    pub(crate) version_bytes: AtomicUsize,
    /// Some former states that it replaced are in the log alone; so will be all others.
    pub(crate) demoted: AtomicBool,
    snapshot_open: AtomicBool,
    horizon: Arc<Horizon>,
    poison: Arc<Poison>,
    me: Weak<Txn>,
}

/// The operation lock of a transaction, held by the call in progress.
#[derive(Debug)]
pub struct OpGuard<'t> {
    _op: MutexGuard<'t, ()>,
}

/// A point to roll back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Savepoint {
    pub(crate) txn: u64,
    pub(crate) undo_next: Lsn,
    pub(crate) depth: u64,
}

/// A number of the calling thread, never zero.
pub(crate) fn this_thread() -> u64 {
    static NEXT: aside::AtomicU64 = aside::AtomicU64::new(1);
    hamal_sync::thread_local!(static ME: Cell<u64> = const { Cell::new(0) });
    ME.with(|m| {
        if m.get() == 0 {
            m.set(NEXT.fetch_add(1, Ordering::Relaxed));
        }
        m.get()
    })
}

impl Txn {
    /// A transaction that has written nothing, its snapshot registered.
    pub(crate) fn begin(
        number: u64,
        isolation: Isolation,
        lock_timeout: Duration,
        horizon: &Arc<Horizon>,
        poison: &Arc<Poison>,
    ) -> Arc<Txn> {
        let snapshot = horizon.open(Now::Visible);
        let t = Self::new(number, isolation, lock_timeout, snapshot, true, horizon, poison);
        t.owner.store(this_thread(), Ordering::Relaxed);
        t
    }

    /// A transaction without a registered snapshot, and of no thread: a loser of recovery.
    pub(crate) fn loser(number: u64, horizon: &Arc<Horizon>, poison: &Arc<Poison>) -> Arc<Txn> {
        Self::new(number, Isolation::Snapshot, Duration::ZERO, Lsn::NULL, false, horizon, poison)
    }

    fn new(
        number: u64,
        isolation: Isolation,
        lock_timeout: Duration,
        snapshot: Lsn,
        open: bool,
        horizon: &Arc<Horizon>,
        poison: &Arc<Poison>,
    ) -> Arc<Txn> {
        Arc::new_cyclic(|me| Txn {
            number,
            isolation,
            snapshot: AtomicU64::new(snapshot.0),
            lock_timeout,
            no_wait: AtomicBool::new(false),
            waits_for: Mutex::new(None),
            loser: !open,
            id: AtomicU64::new(0),
            core: Mutex::new(Core {
                state: State::Live,
                first: Lsn::NULL,
                last: Lsn::NULL,
                undo_next: Lsn::NULL,
                undo_reserve: 0,
                touched: Touched::default(),
                images: 0,
                images_used: 0,
                group_reserve: 0,
                end_reserve: 0,
                adopted_reserve: 0,
                kept: false,
                undoing: false,
                records: 0,
                record_bytes: 0,
                savepoints: Vec::new(),
                next_savepoint: 0,
            }),
            op: Mutex::new(()),
            committed: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            doomed: AtomicBool::new(false),
            begun: Instant::now(),
            owner: AtomicU64::new(0),
            turn: AtomicU64::new(0),
            turn_mutex: Mutex::new(()),
            turned: Condvar::new(),
            met: Mutex::new(None),
            trees: Mutex::new(Vec::new()),
            reads: Mutex::new(None),
            pushed: Mutex::new(Vec::new()),
            version_bytes: AtomicUsize::new(0),
            demoted: AtomicBool::new(false),
            snapshot_open: AtomicBool::new(open),
            horizon: horizon.clone(),
            poison: poison.clone(),
            me: me.clone(),
        })
    }

    /// Its id; none before its first record.
    pub fn id(&self) -> TxnId {
        TxnId(self.id.load(Ordering::Acquire))
    }
    /// LSN of its newest record; null before the first.
    pub fn last_lsn(&self) -> Lsn {
        self.core.lock().last
    }
    /// A number for messages, given at begin, unique within a run.
    pub fn number(&self) -> u64 {
        self.number
    }
    /// Its isolation level.
    pub fn isolation(&self) -> Isolation {
        self.isolation
    }
    /// Its snapshot: it sees what committed at or below this timestamp, and its own changes. Under read committed, that of the
    /// last statement.
    pub fn snapshot(&self) -> Lsn {
        Lsn(self.snapshot.load(Ordering::Acquire))
    }
    /// What it sees now: its snapshot and its own changes. To be taken anew after its first change.
    pub fn view(&self) -> crate::View {
        crate::View { snapshot: self.snapshot(), own: self.id() }
    }
    /// Under read committed: moves the snapshot to the visible horizon. For the beginning of a statement, under the operation
    /// lock. At the other levels it does nothing (TXN-RC).
    pub fn refresh(&self) {
        if self.isolation != Isolation::ReadCommitted || !self.snapshot_open.load(Ordering::Acquire) {
            return;
        }
        // First the new one, so that the horizon never finds this transaction without a snapshot.
        let now = self.horizon.open(Now::Visible);
        let before = Lsn(self.snapshot.swap(now.0, Ordering::AcqRel));
        self.horizon.close(before);
    }
    /// A snapshot of its own at the transaction's: it stays when the transaction goes on to the next statement. Under the
    /// operation lock.
    pub fn pin(&self) -> Snapshot {
        Snapshot::at(&self.horizon, self.snapshot())
    }
    /// Notes that the transaction reads: `note` adds what. Does nothing unless it is serializable. Under the operation lock, by
    /// whoever tells the caller anything about rows, or about rows that are not there (TXN-READS). `budget` is the
    /// memory in bytes that all of it may take.
    #[inline]
    pub fn note_read(&self, budget: usize, note: impl FnOnce(&mut ReadSet)) {
        if self.isolation == Isolation::Serializable {
            let mut reads = self.reads.lock();
            note(Arc::make_mut(reads.get_or_insert_with(|| Arc::new(ReadSet::new(budget)))));
        }
    }
    pub(crate) fn reads(&self) -> Option<Arc<ReadSet>> {
        self.reads.lock().clone()
    }
    /// Whether it waits for others, and how long.
    pub(crate) fn patience(&self) -> Option<Duration> {
        (!self.no_wait.load(Ordering::Relaxed)).then_some(self.lock_timeout)
    }
    /// From now on until it is called with `false`, what would have to wait for another transaction fails with `WouldWait`.
    /// Under the operation lock.
    pub fn set_no_wait(&self, on: bool) {
        self.no_wait.store(on, Ordering::Relaxed);
    }
    /// Takes the operation lock and checks that the transaction is live: every public call does this first.
    /// Remembers the calling thread (a wait for a transaction of one's own thread is an error, TXN-WAIT). Not
    /// re-entrant.
    ///
    /// # Errors
    /// `TransactionEnded`, `Poisoned`; `SnapshotTooOld` if its snapshot was ended: it can only be rolled back.
    pub fn enter(&self) -> Result<OpGuard<'_>> {
        let guard = self.enter_to_end()?;
        if self.is_doomed() {
            return Err(self.ended_error());
        }
        // Under read committed the next statement takes another.
        if self.isolation != Isolation::ReadCommitted {
            self.check_age()?;
        }
        Ok(guard)
    }
    /// As [`Txn::enter`], but lets a doomed transaction through: for the call that rolls it back.
    ///
    /// # Errors
    /// `TransactionEnded`, `Poisoned`.
    pub fn enter_to_end(&self) -> Result<OpGuard<'_>> {
        let guard = self.op.lock();
        self.entered(guard)
    }
    /// As [`Txn::enter_to_end`], or `None` if a call is in progress: for the thread that rolls back another's
    /// transaction.
    ///
    /// # Errors
    /// `TransactionEnded`, `Poisoned`.
    pub fn try_enter_to_end(&self) -> Result<Option<OpGuard<'_>>> {
        self.op.try_lock().map(|g| self.entered(g)).transpose()
    }
    fn entered<'t>(&self, guard: MutexGuard<'t, ()>) -> Result<OpGuard<'t>> {
        self.poison.check()?;
        if self.is_ended() {
            return Err(self.ended_error());
        }
        self.owner.store(this_thread(), Ordering::Relaxed);
        Ok(OpGuard { _op: guard })
    }
    /// Dooms the transaction: from now on it can only be rolled back.
    pub fn doom(&self) {
        self.doomed.store(true, Ordering::SeqCst);
        let holder = self.waits_for.lock().clone();
        if let Some(holder) = holder {
            holder.rouse();
        }
    }
    /// Whether it is doomed.
    pub fn is_doomed(&self) -> bool {
        self.doomed.load(Ordering::SeqCst)
    }
    /// `Ok` while its snapshot has not been ended. To be asked after what it reads (TXN-TOO-OLD).
    ///
    /// # Errors
    /// `SnapshotTooOld`.
    pub fn check_age(&self) -> Result<()> {
        if self.horizon.is_too_old(self.snapshot()) && !self.loser {
            return Err(too_old(self.snapshot()).with_txn(self.id()));
        }
        Ok(())
    }
    /// Whether it has committed or is rolled back.
    pub fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
    /// Whether this transaction has registered with the tree, in any mode.
    pub fn is_registered(&self, tree: TreeId) -> bool {
        self.trees.lock().iter().any(|(t, _)| *t == tree)
    }

    pub(crate) fn ended_error(&self) -> Error {
        if !self.is_doomed() {
            return Error::new(ErrorKind::TransactionEnded, format!("{} has ended", self.name()));
        }
        Error::new(ErrorKind::TransactionEnded, format!("{} was ended by the engine", self.name()))
            .with_help("It was the oldest writer and kept the log from being released. Run it again")
    }
    /// How messages call it.
    pub(crate) fn name(&self) -> String {
        match self.id() {
            TxnId::NONE => format!("transaction #{}", self.number),
            id => format!("transaction #{} ({id})", self.number),
        }
    }
    /// Whether it is a loser that recovery rolls back: it holds no log space, and whoever opens the database is told at
    /// once that the device is full.
    pub(crate) fn is_loser(&self) -> bool {
        self.loser
    }
    pub(crate) fn arc(&self) -> Option<Arc<Txn>> {
        self.me.upgrade()
    }
    pub(crate) fn owner(&self) -> u64 {
        self.owner.load(Ordering::Relaxed)
    }
    pub(crate) fn set_id(&self, id: TxnId) {
        self.id.store(id.0, Ordering::Release);
    }

    // ---- waiting for this transaction ----

    pub(crate) fn turn(&self) -> u64 {
        self.turn.load(Ordering::SeqCst)
    }
    /// Remembers, under the page's latch, that `holder` has the record. A rollback of the holder past the
    /// record needs that latch, and turns only afterwards: waiting for a turn above this one misses no wake.
    pub(crate) fn meet(&self, holder: &Txn) {
        *self.met.lock() = Some((holder.id(), holder.turn()));
    }
    /// The turn remembered for `holder`.
    pub(crate) fn take_met(&self, holder: TxnId) -> Option<u64> {
        self.met.lock().take().filter(|(id, _)| *id == holder).map(|(_, turn)| turn)
    }
    /// Turns, and wakes who waits.
    pub(crate) fn wake(&self) {
        self.turn.fetch_add(1, Ordering::SeqCst);
        self.rouse();
    }
    /// Has everybody who waits for this transaction look again. The mutex is only passed through: a waiter between its look
    /// and its sleep holds it.
    pub(crate) fn rouse(&self) {
        if !mutants::is(Mutant::WakeWithoutDoor) {
            drop(self.turn_mutex.lock());
        }
        self.turned.notify_all();
    }
    /// Sleeps until the turn is no longer `turn`, or `stop` says so, or the deadline. Whether it has turned. Woken directly:
    /// by a turn, and by [`Txn::rouse`] when something happened that `stop` looks at.
    pub(crate) fn await_turn(&self, turn: u64, deadline: Option<Instant>, stop: &dyn Fn() -> bool) -> bool {
        let mut m = self.turn_mutex.lock();
        while self.turn() == turn && !stop() {
            let late = match deadline {
                Some(at) => self.turned.wait_until(&mut m, at).timed_out(),
                None => {
                    self.turned.wait(&mut m);
                    false
                }
            };
            if late {
                break;
            }
        }
        self.turn() != turn
    }
    /// Says whom it waits for, or that it waits no more.
    pub(crate) fn note_wait(&self, holder: Option<Arc<Txn>>) {
        let before = std::mem::replace(&mut *self.waits_for.lock(), holder);
        drop(before);
    }

    // ---- the end ----

    pub(crate) fn set_committed(&self) {
        self.committed.store(true, Ordering::SeqCst);
    }
    /// Whether it has committed: nothing is between the two for who asks in the commit section.
    pub(crate) fn has_committed(&self) -> bool {
        self.committed.load(Ordering::SeqCst)
    }
    pub(crate) fn set_ended(&self) {
        self.ended.store(true, Ordering::SeqCst);
    }
    pub(crate) fn close_snapshot(&self) {
        if self.snapshot_open.swap(false, Ordering::AcqRel) {
            self.horizon.close(self.snapshot());
        }
    }
}

impl Drop for Txn {
    fn drop(&mut self) {
        // Only a transaction that wrote nothing and was never ended still has it open.
        self.close_snapshot();
    }
}

impl fmt::Debug for Txn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Txn")
            .field("number", &self.number)
            .field("id", &self.id())
            .field("isolation", &self.isolation)
            .field("snapshot", &self.snapshot())
            .field("ended", &self.is_ended())
            .finish_non_exhaustive()
    }
}
