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
use crate::View;
use crate::status::StatusTable;
use hamal_log::Log;
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::{Lsn, TxnId};
use hamal_sync::Mutex;
use hamal_sync::atomic::{AtomicU64, Ordering};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// What a snapshot is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Now {
    Durable,
    Visible,
}

#[derive(Debug)]
pub(crate) struct Horizon {
    log: Arc<Log>,
    pub(crate) table: StatusTable,
    /// Snapshots in use, with how many hold each.
    open: Mutex<BTreeMap<Lsn, u64>>,
    /// Timestamp of the last commit.
    visible: AtomicU64,
    /// H as last published.
    published: AtomicU64,
    /// Committed transactions whose status is still in the table, by timestamp.
    committed: Mutex<VecDeque<(Lsn, TxnId)>>,
    /// One collector at a time.
    collecting: Mutex<()>,
}

impl Horizon {
    pub(crate) fn new(log: Arc<Log>) -> Self {
        Horizon {
            log,
            table: StatusTable::new(),
            open: Mutex::default(),
            visible: AtomicU64::new(0),
            published: AtomicU64::new(0),
            committed: Mutex::default(),
            collecting: Mutex::default(),
        }
    }

    /// Registers a snapshot.
    pub(crate) fn open(&self, now: Now) -> Lsn {
        let early = mutants::is(Mutant::SnapshotLate).then(|| self.log.durable());
        let mut open = self.open.lock();
        let mut at = early.unwrap_or_else(|| self.log.durable());
        if now == Now::Visible {
            at = at.max(Lsn(self.visible.load(Ordering::Acquire)));
        }
        *open.entry(at).or_insert(0) += 1;
        at
    }

    /// Registers a snapshot once more; it is registered.
    pub(crate) fn share(&self, at: Lsn) {
        *self.open.lock().entry(at).or_insert(0) += 1;
    }

    /// Takes a snapshot out again.
    pub(crate) fn close(&self, at: Lsn) {
        let mut open = self.open.lock();
        if let Some(n) = open.get_mut(&at) {
            *n -= 1;
            if *n == 0 {
                open.remove(&at);
            }
        }
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

    /// The published H.
    pub(crate) fn get(&self) -> Lsn {
        Lsn(self.published.load(Ordering::Acquire))
    }

    /// After recovery: everything below `lsn` is settled but for what is in the table.
    pub(crate) fn start_at(&self, lsn: Lsn) {
        let _open = self.open.lock();
        self.visible.fetch_max(lsn.0, Ordering::AcqRel);
        let h = lsn.min(self.log.durable());
        self.published.fetch_max(h.0, Ordering::AcqRel);
        self.table.raise_floor(h);
    }

    /// Computes a newer H, has `drop_versions` drop the versions that it makes superfluous, publishes it,
    /// forgets the statuses below it, raises the floor. Does nothing if another thread is at it and `wait` is
    /// not set.
    ///
    /// TXN-VERSIONS: the versions go before anybody is told that their superseder has settled. Whoever learns
    /// that a ghost has settled may take it away, and whoever then makes the row anew pushes nothing: an entry
    /// that was still in the chain would turn up below the new row's versions and bring the deleted one back.
    /// Dropping them early harms nobody: H is a lower bound of all snapshots, present and future, whether it
    /// is published or not.
    pub(crate) fn advance(&self, wait: bool, drop_versions: impl FnOnce(Lsn)) {
        let one = if wait { Some(self.collecting.lock()) } else { self.collecting.try_lock() };
        let Some(_one) = one else { return };
        let h = {
            let open = self.open.lock();
            let mut h = self.log.durable();
            if mutants::is(Mutant::HorizonVisible) {
                h = h.max(Lsn(self.visible.load(Ordering::Acquire)));
            }
            let ignored = mutants::is(Mutant::HorizonIgnoresSnapshots);
            if let Some((oldest, _)) = open.first_key_value().filter(|_| !ignored) {
                h = h.min(*oldest);
            }
            h
        };
        drop_versions(h);
        self.published.fetch_max(h.0, Ordering::AcqRel);
        loop {
            let next = {
                let mut q = self.committed.lock();
                if q.front().is_some_and(|(ts, _)| *ts <= h) { q.pop_front() } else { None }
            };
            match next {
                Some((_, id)) => self.table.forget(id),
                None => break,
            }
        }
        self.table.raise_floor(h);
    }

    /// Open snapshots: how many, and the oldest.
    pub(crate) fn snapshots(&self) -> (u64, Option<Lsn>) {
        let open = self.open.lock();
        (open.values().sum(), open.first_key_value().map(|(l, _)| *l))
    }
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
