//! The status of transaction ids: who is active, who has committed when.
//!
//! A record in a page carries the id of its writer, and the id is the LSN of the writer's first log record.
//! The table holds an entry for every id whose state still matters: running transactions, losers that
//! recovery has not undone yet, and those committed above the horizon. An id that is not in the table is
//! *settled*: whatever page still carries it was written by a transaction that committed so long ago that
//! every view sees it (TXN-SETTLED).
//!
//! An entry is made after the id (an LSN) is reserved and before its record is published in the log's ring,
//! so the durable LSN cannot pass an id that is missing here (TXN-ENTER); and the exclusive latch of the
//! changed page is held meanwhile, so whoever reads the id from a page finds the entry.
use crate::{Status, Txn};
use hamal_page::{Lsn, TxnId};
use hamal_sync::RwLock;
use hamal_sync::atomic::{AtomicU64, Ordering};
use std::collections::BTreeMap;
use std::sync::Arc;

const SHARDS: usize = if cfg!(feature = "checked") { 2 } else { 64 };

/// An entry of the table.
#[derive(Debug)]
enum Entry {
    Active(Arc<Txn>),
    Committed(Lsn),
}

/// Ordered, so that the lowest id is found without a scan: a long snapshot keeps many entries alive.
type Shard = RwLock<BTreeMap<u64, Entry>>;

#[derive(Debug)]
pub(crate) struct StatusTable {
    shards: Box<[Shard]>,
    /// Every id below is settled: the fast path of every visibility check.
    floor: AtomicU64,
}

impl StatusTable {
    pub(crate) fn new() -> Self {
        StatusTable { shards: (0..SHARDS).map(|_| Shard::default()).collect(), floor: AtomicU64::new(0) }
    }

    fn shard(&self, id: TxnId) -> &Shard {
        // Ids are byte positions some dozen bytes apart; a multiplication spreads them (Fibonacci hashing).
        let i = id.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SHARDS.trailing_zeros());
        &self.shards[i as usize]
    }

    pub(crate) fn floor(&self) -> Lsn {
        Lsn(self.floor.load(Ordering::Acquire))
    }

    /// Enters a running transaction; in the `reserved` hook of its first record.
    pub(crate) fn enter(&self, id: TxnId, txn: Arc<Txn>) {
        self.shard(id).write().insert(id.0, Entry::Active(txn));
    }

    /// Enters a loser of recovery, whose id may be below the floor; while nobody else reads.
    pub(crate) fn adopt(&self, id: TxnId, txn: Arc<Txn>) {
        self.enter(id, txn);
        self.floor.fetch_min(id.0, Ordering::AcqRel);
    }

    /// Turns an active entry into a committed one; in the `reserved` hook of the commit record.
    pub(crate) fn commit(&self, id: TxnId, ts: Lsn) {
        let former = self.shard(id).write().insert(id.0, Entry::Committed(ts));
        drop(former);
    }

    /// Removes an id: rolled back (nothing carries it any more) or committed below the horizon.
    pub(crate) fn forget(&self, id: TxnId) {
        let former = self.shard(id).write().remove(&id.0);
        drop(former);
    }

    /// Raises the floor to the lowest id in the table, at most `horizon`.
    ///
    /// TXN-FLOOR: `horizon` was read before this scan and is at most the durable LSN of that moment. An id
    /// below it had its record published by then, hence (TXN-ENTER) its entry made; if the scan does not see
    /// the entry, it was removed, and the id is settled.
    pub(crate) fn raise_floor(&self, horizon: Lsn) {
        let mut floor = horizon.0;
        for s in &self.shards {
            if let Some((id, _)) = s.read().first_key_value() {
                floor = floor.min(*id);
            }
        }
        self.floor.fetch_max(floor, Ordering::AcqRel);
    }

    pub(crate) fn get(&self, id: TxnId) -> Status {
        if id.0 < self.floor.load(Ordering::Acquire) {
            return Status::Settled;
        }
        match self.shard(id).read().get(&id.0) {
            Some(Entry::Active(_)) => Status::Active,
            Some(Entry::Committed(ts)) => Status::Committed(*ts),
            None => Status::Settled,
        }
    }

    /// The running transaction with that id.
    pub(crate) fn active(&self, id: TxnId) -> Option<Arc<Txn>> {
        match self.shard(id).read().get(&id.0) {
            Some(Entry::Active(t)) => Some(t.clone()),
            _ => None,
        }
    }

    /// Removes all entries: the engine is gone.
    pub(crate) fn clear(&self) {
        for s in &self.shards {
            let all = std::mem::take(&mut *s.write());
            drop(all);
        }
    }

    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|s| s.read().len()).sum()
    }
}
