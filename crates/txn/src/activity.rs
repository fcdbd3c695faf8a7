//! Who holds what: the live transactions and snapshots at one moment.
use crate::TxnManager;
use crate::txn::State;
use hamal_page::{Lsn, TreeId, TxnId};
use hamal_sync::atomic::Ordering;
use std::time::Duration;

/// A live write transaction that has written, or is about to.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "plain facts, named for what they are")]
pub struct LiveTxn {
    pub id: TxnId,
    pub number: u64,
    pub snapshot: Lsn,
    pub age: Duration,
    /// Records that it logged, and their bytes.
    pub records: u64,
    pub record_bytes: u64,
    /// Log space set aside for its rollback.
    pub reserved_bytes: u64,
    /// Former states that it holds in the version store, and their bytes.
    pub versions: u64,
    pub version_bytes: u64,
    /// Others are in the log alone.
    pub demoted: bool,
    pub rolling_back: bool,
    pub doomed: bool,
}

/// Somebody waits for a transaction.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "plain facts, named for what they are")]
pub struct LiveWait {
    /// Number of the transaction that waits.
    pub waiter: u64,
    /// For whom.
    pub holder: TxnId,
    pub holder_number: u64,
    /// For what, where that is known.
    pub tree: Option<TreeId>,
    pub key: Option<Vec<u8>>,
}

/// Snapshots open at one timestamp, writers' included.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "plain facts, named for what they are")]
pub struct LiveSnapshot {
    pub at: Lsn,
    pub holders: u64,
    /// Since the first of them was taken.
    pub age: Duration,
}

impl TxnManager {
    /// The live write transactions that have written, the oldest first.
    pub fn live(&self) -> Vec<LiveTxn> {
        let mut live: Vec<LiveTxn> = self
            .listed()
            .into_iter()
            .filter(|t| !t.is_ended())
            .map(|t| {
                let core = t.core.lock();
                let images = core.images * self.pool().image_bytes();
                LiveTxn {
                    id: t.id(),
                    number: t.number(),
                    snapshot: t.snapshot(),
                    age: t.begun.elapsed(),
                    records: core.records,
                    record_bytes: core.record_bytes,
                    reserved_bytes: images + core.undo_reserve + core.group_reserve + core.end_reserve,
                    versions: t.pushed.lock().len() as u64,
                    version_bytes: t.version_bytes.load(Ordering::Relaxed) as u64,
                    demoted: t.demoted.load(Ordering::Relaxed),
                    rolling_back: core.state == State::RollingBack,
                    doomed: t.is_doomed(),
                }
            })
            .collect();
        live.sort_by_key(|t| (t.id.is_none(), t.id, t.number));
        live
    }
    /// Open snapshots, the oldest first.
    pub fn open_snapshots(&self) -> Vec<LiveSnapshot> {
        let open = self.horizon.open_now().into_iter();
        open.map(|(at, o)| LiveSnapshot { at, holders: o.count, age: o.since.elapsed() }).collect()
    }
}
