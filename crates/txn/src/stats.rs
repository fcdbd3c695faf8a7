//! Counters.
use hamal_page::Lsn;
use hamal_sync::aside::AtomicU64;

/// Counters.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "plain counters, named for what they count")]
pub struct TxnStats {
    pub active: u64,
    pub begun: u64,
    pub committed: u64,
    pub rolled_back: u64,
    pub conflicts: u64,
    pub deadlocks: u64,
    pub timeouts: u64,
    pub serialization_failures: u64,
    pub waits: u64,
    pub snapshots: u64,
    pub oldest_snapshot: Option<Lsn>,
    pub oldest_writer: Option<Lsn>,
    pub horizon: Lsn,
    pub versions: u64,
    pub version_bytes: u64,
    pub versions_demoted: u64,
    pub snapshots_ended: u64,
    pub rollbacks_waiting_for_space: u64,
    /// Transaction ids whose status is remembered.
    pub statuses: u64,
}

/// The counters that are counted, not looked up.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) begun: AtomicU64,
    pub(crate) committed: AtomicU64,
    pub(crate) rolled_back: AtomicU64,
    pub(crate) conflicts: AtomicU64,
    pub(crate) deadlocks: AtomicU64,
    pub(crate) timeouts: AtomicU64,
    pub(crate) serialization_failures: AtomicU64,
    pub(crate) waits: AtomicU64,
    pub(crate) rollbacks_waiting_for_space: AtomicU64,
}
