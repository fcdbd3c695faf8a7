//! The transaction manager: beginning, changing, visibility and conflicts, the active transaction table.
use crate::horizon::{Horizon, Snapshot, too_old};
use crate::registrations::Registrations;
use crate::room::UndoRoom;
use crate::stats::{Counters, TxnStats};
use crate::txn::{Isolation, State, Txn};
use crate::validation::Validations;
use crate::waits::{WaitGraph, Waiting, What};
use crate::{LiveWait, Registry, ResourceManager, VersionStore};
use hamal_buffer::{Change, Need, OpCredit, PageEdit, Pool, Stop};
use hamal_error::{Error, ErrorKind, Poison, Result};
use hamal_log::{Appended, Log, RecordKind, TxnRef};
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::{Lsn, RmId, TreeId, TxnId};
use hamal_sync::aside;
use hamal_sync::atomic::Ordering;
use hamal_sync::{Condvar, Mutex};
use hamal_trace::{Event, ForceReason, Trace};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Options of the transaction manager; validated by the facade.
#[derive(Clone, Debug)]
pub struct TxnOptions {
    /// How long a writer waits for another transaction before `LockTimeout`.
    pub lock_timeout: Duration,
    /// Memory budget of the version store, in bytes.
    pub version_budget: usize,
}

/// The state of a transaction id, as readers need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Running, or being rolled back.
    Active,
    /// Committed; the timestamp is the end of its commit record.
    Committed(Lsn),
    /// Not in the table: it committed below the horizon, and everybody may see it.
    Settled,
}

/// What a reader sees: everything committed at or below `snapshot`, and the changes of `own`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Timestamp.
    pub snapshot: Lsn,
    /// The reader's own transaction, or none.
    pub own: TxnId,
}

/// An entry of the active transaction table, as a checkpoint writes it and analysis rebuilds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttEntry {
    /// The transaction (its first LSN).
    pub txn: TxnId,
    /// lastLSN: its newest record.
    pub last: Lsn,
    /// undoNextLSN: the next record to undo.
    pub undo_next: Lsn,
    /// Log space that its rollback may need.
    pub undo_reserve: u64,
}

/// Where rollbacks wait for space on the device.
#[derive(Debug, Default)]
pub(crate) struct Space {
    mutex: Mutex<()>,
    returned: Condvar,
}

impl Space {
    pub(crate) fn wait(&self, time: Duration) {
        self.returned.wait_for(&mut self.mutex.lock(), time);
    }
}

/// The transaction manager.
pub struct TxnManager {
    pool: Arc<Pool>,
    pub(crate) poison: Arc<Poison>,
    registry: Registry,
    options: TxnOptions,
    pub(crate) trace: Trace,
    pub(crate) horizon: Arc<Horizon>,
    pub(crate) versions: VersionStore,
    /// Transactions that have, or are about to have, a first record, by number.
    listed: Mutex<HashMap<u64, Arc<Txn>>>,
    pub(crate) commit_section: Mutex<()>,
    pub(crate) registrations: Registrations,
    waits: WaitGraph,
    pub(crate) validations: Validations,
    pub(crate) space: Space,
    pub(crate) room: UndoRoom,
    pub(crate) counters: Counters,
    pub(crate) active: aside::AtomicU64,
    next_number: aside::AtomicU64,
}

impl fmt::Debug for TxnManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TxnManager").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Drop for TxnManager {
    fn drop(&mut self) {
        // A transaction that could not end, because the engine was stopped, is still in the table, and holds what the table is
        // in: neither would ever be freed, nor the log's ring.
        self.horizon.table.clear();
    }
}

impl TxnManager {
    /// A manager without transactions.
    pub fn new(pool: Arc<Pool>, registry: Registry, options: TxnOptions, trace: Trace) -> Arc<TxnManager> {
        let horizon = Arc::new(Horizon::new(pool.log().clone()));
        let manager = Arc::new(TxnManager {
            poison: pool.log().poisoned().clone(),
            versions: VersionStore::new(options.version_budget, horizon.clone()),
            pool,
            registry,
            options,
            trace,
            horizon,
            listed: Mutex::default(),
            commit_section: Mutex::new(()),
            registrations: Registrations::default(),
            waits: WaitGraph::default(),
            validations: Validations::default(),
            space: Space::default(),
            room: UndoRoom::default(),
            counters: Counters::default(),
            active: aside::AtomicU64::new(0),
            next_number: aside::AtomicU64::new(1),
        });
        let me = Arc::downgrade(&manager);
        manager.poison.on_set(move || {
            if let Some(m) = me.upgrade() {
                m.waits.rouse();
            }
        });
        manager
    }
    /// The buffer pool.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }
    /// The log.
    pub fn log(&self) -> &Arc<Log> {
        self.pool.log()
    }
    /// The resource managers.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }
    /// The version store.
    pub fn versions(&self) -> &VersionStore {
        &self.versions
    }

    // ---- beginning ----

    /// Begins a write transaction; its snapshot is the visible horizon. It must be committed or rolled back,
    /// by the owner: dropping the handle does neither.
    ///
    /// # Errors
    /// `Poisoned`.
    pub fn begin(self: &Arc<Self>) -> Result<Arc<Txn>> {
        self.begin_with(Isolation::Snapshot, None)
    }
    /// As [`TxnManager::begin`], at an isolation level, and with a time that it waits for others (none: that of the options).
    ///
    /// # Errors
    /// `Poisoned`.
    pub fn begin_with(
        self: &Arc<Self>,
        isolation: Isolation,
        lock_timeout: Option<Duration>,
    ) -> Result<Arc<Txn>> {
        self.poison.check()?;
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        self.counters.begun.fetch_add(1, Ordering::Relaxed);
        self.active.fetch_add(1, Ordering::Relaxed);
        let lock_timeout = lock_timeout.unwrap_or(self.options.lock_timeout);
        Ok(Txn::begin(number, isolation, lock_timeout, &self.horizon, &self.poison))
    }
    /// Takes a read snapshot at the durable horizon.
    ///
    /// # Errors
    /// `Poisoned`.
    pub fn snapshot(self: &Arc<Self>) -> Result<Snapshot> {
        self.poison.check()?;
        Ok(Snapshot::take(&self.horizon))
    }
    /// Takes a read snapshot that shows everything committed at or below `at`; waits until that is durable.
    ///
    /// # Errors
    /// `Poisoned`.
    pub fn snapshot_after(self: &Arc<Self>, at: Lsn) -> Result<Snapshot> {
        if self.log().durable() < at {
            self.log().force(at, ForceReason::Asked)?;
        }
        self.snapshot()
    }

    // ---- changing ----

    /// An undoable change by a transaction: one record. Under the transaction's mutex from before the
    /// reservation until first, last and undoNext are stored (TXN-ATT). Takes `undo_bytes` as undo reserve
    /// out of the credit. The caller holds the operation lock and the latches. After it returns, `txn.id()`
    /// is set.
    ///
    /// # Errors
    /// `Poisoned`; `TransactionEnded`; `Internal` from inside an undo.
    pub fn update(
        &self,
        txn: &Txn,
        rm: RmId,
        edits: &mut [PageEdit<'_, '_>],
        undo: &[u8],
        undo_bytes: u64,
        credit: &mut OpCredit<'_>,
    ) -> Result<Appended> {
        let change = Change { kind: RecordKind::Update, rm, txn: TxnRef::None, prev: Lsn::NULL, undo };
        self.change(txn, change, edits, undo_bytes, credit)
    }
    /// A redo-only change, never undone. With `txn` it carries the transaction's id and is in its chain (it
    /// may be its first record); without, it belongs to nobody.
    ///
    /// # Errors
    /// `Poisoned`; `TransactionEnded`.
    pub fn structure(
        &self,
        txn: Option<&Txn>,
        rm: RmId,
        edits: &mut [PageEdit<'_, '_>],
        credit: &mut OpCredit<'_>,
    ) -> Result<Appended> {
        let change =
            Change { kind: RecordKind::Structure, rm, txn: TxnRef::None, prev: Lsn::NULL, undo: &[] };
        match txn {
            Some(txn) => self.change(txn, change, edits, 0, credit),
            None => self.pool.change(&change, edits, credit, |_| {}),
        }
    }

    fn change(
        &self,
        txn: &Txn,
        mut change: Change<'_>,
        edits: &mut [PageEdit<'_, '_>],
        undo_bytes: u64,
        credit: &mut OpCredit<'_>,
    ) -> Result<Appended> {
        let mut core = txn.core.lock();
        let core = &mut *core;
        match core.state {
            State::Live | State::RollingBack => {}
            _ => return Err(txn.ended_error()),
        }
        if change.kind == RecordKind::Update && (core.undoing || core.state == State::RollingBack) {
            let m =
                "an undo may log structure changes and one CLR, but no change that would have to be undone";
            return Err(Error::internal(m).with_txn(txn.id()));
        }
        let first = core.first.is_null();
        let late = first && mutants::is(Mutant::ListedLate);
        let mut me = None;
        if first {
            let me = me.insert(txn.arc().ok_or_else(|| txn.ended_error())?);
            // Listed before the reservation: a checkpoint whose begin record comes after it finds the
            // transaction in the list and waits for the mutex (TXN-ATT).
            if !late {
                self.listed.lock().insert(txn.number(), me.clone());
            }
            change.txn = TxnRef::First;
        } else {
            change.txn = TxnRef::Id(txn.id());
        }
        change.prev = core.last;
        let done = self.pool.change(&change, edits, credit, |a| {
            if let Some(me) = me {
                let id = TxnId(a.lsn.0);
                core.first = a.lsn;
                txn.set_id(id);
                self.horizon.table.enter(id, me);
            }
            core.last = a.lsn;
            core.undo_next = a.lsn;
        })?;
        core.records += 1;
        core.record_bytes += done.end.0 - done.lsn.0;
        if late {
            self.listed.lock().insert(txn.number(), txn.arc().ok_or_else(|| txn.ended_error())?);
        }
        if undo_bytes != 0 {
            core.undo_reserve += credit.take_undo(undo_bytes);
        }
        if change.kind == RecordKind::Update {
            // TXN-ROOM.
            for page in edits.iter().map(|e| e.page.id()) {
                core.touch(page, credit);
            }
            core.group_reserve += credit.take_undo_group();
        }
        if first {
            self.trace.emit(|| Event::TxnBegin { txn: txn.id() });
        }
        Ok(done)
    }

    pub(crate) fn nobody_listed(&self) -> bool {
        self.listed.lock().is_empty()
    }
    /// Whether a transaction other than `txn` is listed.
    pub(crate) fn others_listed(&self, txn: Option<&Txn>) -> bool {
        let listed = self.listed.lock();
        listed.keys().any(|n| txn.is_none_or(|t| t.number() != *n))
    }
    pub(crate) fn unlist(&self, txn: &Txn) {
        let former = self.listed.lock().remove(&txn.number());
        drop(former);
    }

    // ---- visibility and conflicts ----

    /// The status of a writer id. Only to be relied on under the latch of the page that carries the id
    /// (TXN-SETTLED).
    pub fn status(&self, id: TxnId) -> Status {
        self.horizon.status(id)
    }
    /// Whether what `writer` wrote is visible to the view; under the page's latch. The view is of a live
    /// transaction or an open [`Snapshot`].
    #[inline]
    pub fn visible(&self, writer: TxnId, view: &View) -> bool {
        // Zero is below every floor once one was published; nobody wrote it.
        if writer.is_none() || writer.0 < self.horizon.table.floor().0 || writer == view.own {
            return true;
        }
        // The id is the writer's first LSN, its commit timestamp is above: no look-up.
        if writer.0 >= view.snapshot.0 {
            return false;
        }
        match self.status(writer) {
            Status::Active => false,
            Status::Committed(ts) => ts <= view.snapshot,
            Status::Settled => true,
        }
    }
    /// The conflict rule for a record last written by `writer`: `Ok` if the transaction may overwrite it,
    /// [`Need::Transaction`] if the writer is live, `Conflict` if it committed after the snapshot (but not under read
    /// committed, TXN-RC). Under the page's latch.
    ///
    /// # Errors
    /// See above.
    pub fn check_write(&self, txn: &Txn, writer: TxnId) -> std::result::Result<(), Stop> {
        // Asked once: a writer that commits in between would have become a conflict, which there is none under read committed.
        match self.status(writer) {
            Status::Committed(_) if txn.isolation() == Isolation::ReadCommitted => Ok(()),
            status => self.by_status(txn, writer, status),
        }
    }
    /// As [`TxnManager::check_write`], at every isolation level by the rule of snapshots: for a record whose overwriting rests
    /// on what the transaction has read (a catalogue's).
    ///
    /// # Errors
    /// As [`TxnManager::check_write`].
    pub fn check_write_since_snapshot(&self, txn: &Txn, writer: TxnId) -> std::result::Result<(), Stop> {
        self.by_status(txn, writer, self.status(writer))
    }

    /// The rule of snapshots for a writer of that status.
    fn by_status(&self, txn: &Txn, writer: TxnId, status: Status) -> std::result::Result<(), Stop> {
        if writer.is_none() || writer == txn.id() {
            return Ok(());
        }
        match status {
            Status::Settled => Ok(()),
            Status::Committed(_) if mutants::is(Mutant::ConflictIgnored) => Ok(()),
            Status::Active if mutants::is(Mutant::LockIgnored) => Ok(()),
            Status::Committed(ts) if ts <= txn.snapshot() => Ok(()),
            Status::Committed(ts) => {
                self.counters.conflicts.fetch_add(1, Ordering::Relaxed);
                let m = format!(
                    "{} committed a change to this row at {ts}, after the snapshot {} of {}",
                    writer,
                    txn.snapshot(),
                    txn.name()
                );
                Err(Error::new(ErrorKind::Conflict, m)
                    .with_txn(writer)
                    .with_help("Roll back and run the transaction again")
                    .into())
            }
            Status::Active => {
                if let Some(holder) = self.horizon.table.active(writer) {
                    txn.meet(&holder);
                }
                Err(Need::Transaction(writer).into())
            }
        }
    }
    /// Waits until `holder` has ended or rolled back to a savepoint since [`TxnManager::check_write`] met it;
    /// with time-out and deadlock detection. No latch and no credit held. Returns at once if it is not live.
    /// The caller then looks at the row again.
    ///
    /// # Errors
    /// `Deadlock` naming the cycle, `LockTimeout`, `WouldWait`, `Poisoned`; `Deadlock` as well for a transaction of one's
    /// own thread;
    /// `TransactionEnded` if the waiter is doomed meanwhile.
    pub fn wait_for(&self, txn: &Txn, holder: TxnId) -> Result<()> {
        self.wait_for_holder(txn, holder, What::default())
    }
    /// As [`TxnManager::wait_for`]; the errors name the row.
    ///
    /// # Errors
    /// As [`TxnManager::wait_for`].
    pub fn wait_for_row(&self, txn: &Txn, holder: TxnId, tree: TreeId, key: &[u8]) -> Result<()> {
        self.wait_for_holder(txn, holder, What { tree: Some(tree), key: Some(key.to_vec()) })
    }
    fn wait_for_holder(&self, txn: &Txn, holder: TxnId, what: What) -> Result<()> {
        let met = txn.take_met(holder);
        match self.horizon.table.active(holder) {
            Some(h) => self.wait(txn, &h, met.unwrap_or_else(|| h.turn()), what),
            None => self.poison.check(),
        }
    }
    pub(crate) fn wait(&self, txn: &Txn, holder: &Arc<Txn>, turn: u64, what: What) -> Result<()> {
        let with = Waiting { poison: &self.poison, counters: &self.counters, trace: &self.trace };
        self.waits.wait(txn, holder, turn, what, &with)
    }
    /// The horizon H as last published: below it every writer has ended and no snapshot cares.
    pub fn horizon(&self) -> Lsn {
        self.horizon.get()
    }
    /// Whether everything that `writer` wrote is settled: it has ended and committed below the horizon,
    /// durably. What purge and the garbage collector ask, under the latch of the page that carries the id.
    /// Always false for ids of losers while recovery undoes (TXN-SETTLED).
    pub fn settled(&self, writer: TxnId) -> bool {
        match self.status(writer) {
            Status::Settled => true,
            Status::Committed(ts) => ts <= self.horizon(),
            Status::Active => false,
        }
    }
    /// Moves the horizon and forgets statuses and versions below it.
    pub fn collect(&self) {
        self.forget_spread();
        self.horizon.advance(true, |needs| self.versions.collect(needs));
    }
    pub(crate) fn try_collect(&self) {
        self.forget_spread();
        self.horizon.advance(false, |needs| self.versions.collect(needs));
    }
    /// Who waits for whom now.
    pub fn live_waits(&self) -> Vec<LiveWait> {
        self.waits.live()
    }
    /// Makes room in the version store if little is left: what is superfluous goes, then what the greediest hold is left to
    /// the log. Writers whose records hold former states call it before a change. No latch held.
    pub fn thin_versions(&self) {
        if !self.versions.is_crowded() {
            return;
        }
        self.try_collect();
        if self.versions.is_crowded() {
            self.versions.thin(&self.listed());
        }
    }
    /// Cuts the log below `before`, but keeps what former states need that are in it alone (TXN-DEMOTED).
    ///
    /// # Errors
    /// As [`Log::truncate`].
    pub fn cut_log(&self, before: Lsn) -> Result<()> {
        self.versions.while_cutting(|pin| self.log().truncate(pin.map_or(before, |p| before.min(p))))
    }
    /// Whether a snapshot was ended. To be asked after something was read through it, before that, or an error met on the
    /// way, is believed (TXN-TOO-OLD).
    #[inline]
    pub fn is_too_old(&self, view: &View) -> bool {
        self.horizon.is_too_old(view.snapshot)
    }
    /// The error of whoever reads through a view that is too old.
    pub fn too_old(&self, view: &View) -> Error {
        too_old(view.snapshot)
    }
    /// Ends every snapshot below `below`, readers' and writers', whether or not it is in use: who reads through it gets
    /// `SnapshotTooOld`. Snapshots at or above the durable LSN stay. Returns how many were ended.
    pub fn end_snapshots(&self, below: Lsn) -> u64 {
        let ended = self.horizon.end_below(below);
        self.collect();
        ended
    }
    /// Space on the device may have returned: rollbacks that wait for it try again at once.
    pub fn space_returned(&self) {
        self.space.returned.notify_all();
    }

    // ---- checkpoint and recovery ----

    pub(crate) fn listed(&self) -> Vec<Arc<Txn>> {
        self.listed.lock().values().cloned().collect()
    }
    /// The active transaction table for a checkpoint, by id: takes each transaction's mutex, one at a time,
    /// after begin is published (TXN-ATT). It holds every transaction with a record below the begin record
    /// that has not ended there.
    pub fn att(&self) -> Vec<AttEntry> {
        let mut att: Vec<AttEntry> = Vec::new();
        for txn in self.listed() {
            let core = txn.core.lock();
            let live = matches!(core.state, State::Live | State::RollingBack)
                && !(core.state == State::RollingBack && mutants::is(Mutant::AttMissesRollingBack));
            if live && !core.first.is_null() {
                att.push(AttEntry {
                    txn: txn.id(),
                    last: core.last,
                    undo_next: if mutants::is(Mutant::AttUndoNextNull) { Lsn::NULL } else { core.undo_next },
                    undo_reserve: core.undo_reserve
                        + core.group_reserve
                        + core.end_reserve
                        + core.adopted_reserve,
                });
            }
        }
        att.sort_by_key(|e| e.txn);
        att
    }
    /// The live transaction with the smallest first LSN.
    pub fn oldest_writer(&self) -> Option<Arc<Txn>> {
        self.listed()
            .into_iter()
            .filter_map(|t| {
                let first = t.core.lock().first;
                first.some().filter(|_| !t.is_ended()).map(|f| (f, t))
            })
            .min_by_key(|(f, _)| *f)
            .map(|(_, t)| t)
    }
    /// The transactions that were doomed and have not ended.
    pub fn doomed(&self) -> Vec<Arc<Txn>> {
        self.listed().into_iter().filter(|t| t.is_doomed() && !t.is_ended()).collect()
    }
    /// The first LSN of the oldest live transaction.
    pub fn oldest_first_lsn(&self) -> Option<Lsn> {
        self.oldest_writer().map(|t| Lsn(t.id().0))
    }
    /// Enters a loser found by analysis, as active.
    pub fn adopt(self: &Arc<Self>, entry: AttEntry) -> Arc<Txn> {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let txn = Txn::loser(number, &self.horizon, &self.poison);
        {
            let mut core = txn.core.lock();
            core.state = State::RollingBack;
            core.first = Lsn(entry.txn.0);
            core.last = entry.last;
            core.undo_next = entry.undo_next;
            core.adopted_reserve = entry.undo_reserve;
        }
        txn.set_id(entry.txn);
        self.active.fetch_add(1, Ordering::Relaxed);
        self.listed.lock().insert(number, txn.clone());
        if !mutants::is(Mutant::LoserCleansLeaf) {
            self.horizon.table.adopt(entry.txn, txn.clone());
        }
        txn
    }
    /// Sets the horizons after recovery: everything below `lsn` is settled (but for adopted losers).
    pub fn start_at(&self, lsn: Lsn) {
        self.horizon.start_at(lsn);
    }
    /// Counters.
    pub fn stats(&self) -> TxnStats {
        let n = |c: &aside::AtomicU64| c.load(Ordering::Relaxed);
        let c = &self.counters;
        let (snapshots, oldest_snapshot) = self.horizon.snapshots();
        TxnStats {
            active: n(&self.active),
            begun: n(&c.begun),
            committed: n(&c.committed),
            rolled_back: n(&c.rolled_back),
            conflicts: n(&c.conflicts),
            deadlocks: n(&c.deadlocks),
            timeouts: n(&c.timeouts),
            serialization_failures: n(&c.serialization_failures),
            waits: n(&c.waits),
            snapshots,
            oldest_snapshot,
            oldest_writer: self.oldest_first_lsn(),
            horizon: self.horizon(),
            snapshots_ended: self.horizon.ended(),
            versions: self.versions.count() as u64,
            versions_demoted: self.versions.demotions(),
            version_bytes: self.versions.bytes() as u64,
            rollbacks_waiting_for_space: n(&c.rollbacks_waiting_for_space),
            statuses: self.horizon.table.len() as u64,
        }
    }
    /// The manager with that name.
    pub fn manager_named(&self, name: &str) -> Option<(RmId, Arc<dyn ResourceManager>)> {
        self.registry().iter().find(|(_, m)| m.name() == name).map(|(i, m)| (i, m.clone()))
    }
}
