//! Snapshots and the horizon H.
//!
//! A snapshot is an LSN: it shows every commit whose timestamp (the end of its commit record) is at or below
//! it. Two LSNs serve as "now":
//!
//! * the *durable* LSN, for read snapshots: they show nothing that a crash could take back;
//! * the *visible* LSN, for writers: the larger of the last commit timestamp and the durable LSN.
//!
//! Both are sound (TXN-SNAP): a commit at or below either has its status stored. For the visible LSN because
//! status and visible are stored in this order in the commit section; for the durable LSN because the status
//! is stored before the commit record is published, and the log is not written past what is published.
//!
//! **H = min(registered snapshots, durable LSN).** A status, a version or a ghost is given up only if its
//! transaction committed at or below H. Registering a snapshot and computing H take the same mutex, and a new
//! snapshot is at or above the durable LSN of that moment, so H never passes an open snapshot and never moves
//! back (TXN-H).
//!
//! What lies *between* two snapshots is given up as well: a status or a version matters only to a snapshot S with
//! `low < S < high`, where `low` is the id of whoever wrote the state and `high` the timestamp of whoever replaced it
//! (for a status: its own id and timestamp). If no open snapshot lies there, none ever will, once `high` is durable
//! (TXN-BETWEEN). What an open snapshot does need is kept in a list of that snapshot, and looked at again when it closes.
//!
//! The oldest snapshots can be *ended* while they are in use: everything below `too_old` has ended. The mark is raised
//! before H moves on, and whoever reads tests it after it has read (TXN-TOO-OLD).
use crate::Status;
use crate::View;
use crate::status::StatusTable;
use hamal_error::{Error, ErrorKind};
use hamal_log::Log;
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::{Lsn, TxnId};
use hamal_sync::atomic::{AtomicU64, Ordering, fence};
use hamal_sync::time::Instant;
use hamal_sync::{Mutex, aside};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// What a snapshot is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Now {
    Durable,
    Visible,
}

/// Snapshots in use at one timestamp.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Open {
    /// How many hold it.
    pub(crate) count: u64,
    /// When the first of them took it.
    pub(crate) since: Instant,
}

#[derive(Debug)]
pub(crate) struct Horizon {
    log: Arc<Log>,
    pub(crate) table: StatusTable,
    /// Snapshots in use.
    open: Mutex<BTreeMap<Lsn, Open>>,
    /// Timestamp of the last commit.
    visible: AtomicU64,
    /// H as last published.
    published: AtomicU64,
    /// Snapshots below this LSN have ended, whether or not they are still in use. Only rises.
    too_old: AtomicU64,
    /// How many were ended so.
    ended: aside::AtomicU64,
    /// Committed transactions whose status is still in the table, by timestamp.
    committed: Mutex<VecDeque<(Lsn, TxnId)>>,
    /// Those whose status an open snapshot needs, by that snapshot. Only the collector comes here.
    held: Mutex<BTreeMap<Lsn, Vec<(Lsn, TxnId)>>>,
    /// One collector at a time.
    collecting: Mutex<()>,
}

/// What the collector goes by: read at one moment, under the mutex under which snapshots are registered.
#[derive(Debug)]
pub(crate) struct Needs {
    /// H.
    pub(crate) h: Lsn,
    /// Every snapshot that is registered later is at or above this.
    pub(crate) durable: Lsn,
    /// The open snapshots, ascending.
    open: Vec<Lsn>,
}

impl Needs {
    /// The oldest open snapshot that sees what happened at `low` and not what happened at `high` (TXN-BETWEEN).
    pub(crate) fn between(&self, low: u64, high: Lsn) -> Option<Lsn> {
        if mutants::is(Mutant::PruneForOldestOnly) {
            return self.open.first().copied().filter(|s| s.0 > low && *s < high);
        }
        let at = self.open.partition_point(|s| s.0 <= low);
        self.open.get(at).copied().filter(|s| *s < high)
    }
    /// Whether the snapshot is still open.
    pub(crate) fn is_open(&self, at: Lsn) -> bool {
        self.open.binary_search(&at).is_ok()
    }
}

impl Horizon {
    pub(crate) fn new(log: Arc<Log>) -> Self {
        Horizon {
            log,
            table: StatusTable::new(),
            open: Mutex::default(),
            visible: AtomicU64::new(0),
            published: AtomicU64::new(0),
            too_old: AtomicU64::new(0),
            ended: aside::AtomicU64::new(0),
            committed: Mutex::default(),
            held: Mutex::default(),
            collecting: Mutex::default(),
        }
    }

    /// Registers a snapshot.
    pub(crate) fn open(&self, now: Now) -> Lsn {
        let since = Instant::now();
        let early = mutants::is(Mutant::SnapshotLate).then(|| self.log.durable());
        let mut open = self.open.lock();
        let mut at = early.unwrap_or_else(|| self.log.durable());
        if now == Now::Visible {
            at = at.max(Lsn(self.visible.load(Ordering::Acquire)));
        }
        open.entry(at).or_insert(Open { count: 0, since }).count += 1;
        at
    }

    /// Registers a snapshot once more; it is registered, or was ended.
    pub(crate) fn share(&self, at: Lsn) {
        if let Some(o) = self.open.lock().get_mut(&at) {
            o.count += 1;
        }
    }

    /// Takes a snapshot out again. One that was ended is out already.
    pub(crate) fn close(&self, at: Lsn) {
        let mut open = self.open.lock();
        if let Some(o) = open.get_mut(&at) {
            o.count -= 1;
            if o.count == 0 {
                open.remove(&at);
            }
        }
    }

    /// Whether snapshots at `at` have ended. To be asked *after* something was read through one, before it is believed:
    /// if not, nothing that was read had been given up (TXN-TOO-OLD).
    #[inline]
    pub(crate) fn is_too_old(&self, at: Lsn) -> bool {
        at.0 < self.too_old.load(Ordering::Acquire)
    }

    /// Ends every snapshot below `below`, but none at or above what is durable now: a new one could be there. Returns
    /// how many.
    pub(crate) fn end_below(&self, below: Lsn) -> u64 {
        let mut open = self.open.lock();
        let below = below.min(self.log.durable());
        self.too_old.fetch_max(below.0, Ordering::SeqCst);
        // Whoever computes H does so later, under this mutex, and what is given up then is given up under further locks.
        fence(Ordering::SeqCst);
        let kept = open.split_off(&below);
        let ended = std::mem::replace(&mut *open, kept).values().map(|o| o.count).sum();
        self.ended.fetch_add(ended, Ordering::Relaxed);
        ended
    }

    /// The log can be read from here.
    pub(crate) fn log_oldest(&self) -> Lsn {
        self.log.oldest()
    }

    /// Snapshots that were ended while they were in use.
    pub(crate) fn ended(&self) -> u64 {
        self.ended.load(Ordering::Relaxed)
    }

    /// Notes a commit; inside the commit section, after its record is reserved and its status stored, so the
    /// queue is in timestamp order and `visible` never covers a commit without status.
    pub(crate) fn committed(&self, id: TxnId, ts: Lsn) {
        self.committed.lock().push_back((ts, id));
        self.visible.store(ts.0, Ordering::Release);
    }

    /// The timestamp of the last commit.
    pub(crate) fn last_commit(&self) -> Lsn {
        Lsn(self.visible.load(Ordering::Acquire))
    }

    /// Inside the commit section: what a rolled back transaction has left is visible to writers that begin now.
    pub(crate) fn left_behind(&self, end: Lsn) {
        self.visible.fetch_max(end.0, Ordering::AcqRel);
    }

    /// The published H.
    pub(crate) fn get(&self) -> Lsn {
        Lsn(self.published.load(Ordering::Acquire))
    }

    /// The status of an id, under the latch of a page that carries it.
    ///
    /// An id at or above H that is not in the table has committed, and its timestamp was forgotten because no snapshot
    /// lies between the two. Then `id + 1` stands for it: it is at or below an open snapshot, or H, exactly if the
    /// timestamp is (TXN-BETWEEN).
    pub(crate) fn status(&self, id: TxnId) -> Status {
        match self.table.get(id) {
            Status::Settled if id.0 >= self.published.load(Ordering::Acquire) => {
                Status::Committed(Lsn(id.0 + 1))
            }
            known => known,
        }
    }

    /// After recovery: everything below `lsn` is settled but for what is in the table.
    pub(crate) fn start_at(&self, lsn: Lsn) {
        let _open = self.open.lock();
        self.visible.fetch_max(lsn.0, Ordering::AcqRel);
        let h = lsn.min(self.log.durable());
        self.published.fetch_max(h.0, Ordering::AcqRel);
        self.table.raise_floor(h);
    }

    fn needs(&self) -> Needs {
        let open = self.open.lock();
        let mut durable = self.log.durable();
        if mutants::is(Mutant::HorizonVisible) {
            durable = durable.max(Lsn(self.visible.load(Ordering::Acquire)));
        }
        let ignored = mutants::is(Mutant::HorizonIgnoresSnapshots);
        let at: Vec<Lsn> = open.keys().filter(|_| !ignored).copied().collect();
        drop(open);
        Needs { h: at.first().map_or(durable, |oldest| durable.min(*oldest)), durable, open: at }
    }

    /// Computes a newer H, has `drop_versions` drop the versions that are superfluous now, publishes it,
    /// forgets statuses, raises the floor. Does nothing if another thread is at it and `wait` is
    /// not set.
    ///
    /// TXN-VERSIONS: the versions go before anybody is told that their superseder has settled. Whoever learns
    /// that a ghost has settled may take it away, and whoever then makes the row anew pushes nothing: an entry
    /// that was still in the chain would turn up below the new row's versions and bring the deleted one back.
    /// The other order of the two steps is not needed: a view for which an entry is superfluous finds it or not, whether H
    /// is published or not.
    pub(crate) fn advance(&self, wait: bool, drop_versions: impl FnOnce(&Needs)) {
        let one = if wait { Some(self.collecting.lock()) } else { self.collecting.try_lock() };
        let Some(_one) = one else { return };
        let needs = self.needs();
        drop_versions(&needs);
        self.published.fetch_max(needs.h.0, Ordering::AcqRel);
        self.forget_statuses(&needs);
        self.table.raise_floor(needs.h);
    }

    /// Forgets every status that no snapshot needs; the collector alone.
    fn forget_statuses(&self, needs: &Needs) {
        let mut held = self.held.lock();
        let closed: Vec<Lsn> = held.keys().filter(|s| !needs.is_open(**s)).copied().collect();
        let mut look: Vec<(Lsn, TxnId)> =
            closed.into_iter().filter_map(|s| held.remove(&s)).flatten().collect();
        {
            let mut queue = self.committed.lock();
            let n = queue.partition_point(|(ts, _)| *ts <= needs.durable);
            look.extend(queue.drain(..n));
        }
        for (ts, id) in look {
            match needs.between(id.0, ts) {
                Some(s) => held.entry(s).or_default().push((ts, id)),
                None => self.table.forget(id),
            }
        }
    }

    /// Open snapshots: how many, and the oldest.
    pub(crate) fn snapshots(&self) -> (u64, Option<Lsn>) {
        let open = self.open.lock();
        (open.values().map(|o| o.count).sum(), open.first_key_value().map(|(at, _)| *at))
    }

    /// Open snapshots, the oldest first.
    pub(crate) fn open_now(&self) -> Vec<(Lsn, Open)> {
        self.open.lock().iter().map(|(at, o)| (*at, *o)).collect()
    }
}

/// The error of whoever reads through a snapshot that was ended.
pub(crate) fn too_old(at: Lsn) -> Error {
    Error::new(
        ErrorKind::SnapshotTooOld,
        format!("the snapshot at {at} was ended: the log that holds what it needs was at its limit"),
    )
    .with_help("Begin a new one; keep snapshots short, or raise log_limit_bytes")
}

/// A registered read snapshot: versions it needs are kept until it is dropped. Owned, `Send`.
#[derive(Debug)]
pub struct Snapshot {
    horizon: Arc<Horizon>,
    at: Lsn,
}

impl Snapshot {
    pub(crate) fn take(horizon: &Arc<Horizon>) -> Snapshot {
        Snapshot { at: horizon.open(Now::Durable), horizon: horizon.clone() }
    }
    /// One more at the place of a registered one.
    pub(crate) fn at(horizon: &Arc<Horizon>, at: Lsn) -> Snapshot {
        horizon.share(at);
        Snapshot { at, horizon: horizon.clone() }
    }
    /// Its timestamp.
    pub fn lsn(&self) -> Lsn {
        self.at
    }
    /// Its view.
    pub fn view(&self) -> View {
        View { snapshot: self.at, own: TxnId::NONE }
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        self.horizon.close(self.at);
    }
}
