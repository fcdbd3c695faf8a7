//! Transactions: the active transaction table, commit, rollback with CLRs, savepoints, nested top actions,
//! snapshots, versions, and the resource manager contract.
//!
//! | module | what it is |
//! |---|---|
//! | `manager` | [`TxnManager`]: begin, change, visibility, the table for checkpoints |
//! | `commit` | the commit section |
//! | `rollback` | undo, CLRs, savepoints, nested top actions |
//! | `txn` | one transaction and its two locks |
//! | `status` | the status of transaction ids |
//! | `horizon` | snapshots, and what nobody needs any more |
//! | `versions` | former states of young records |
//! | `reads`, `validation` | what serializable transactions read, and whether they may commit |
//! | `waits` | waiting for a transaction, deadlock detection |
//! | `activity` | who holds what, at one moment |
//! | `registrations` | who writes in which tree |
//! | `rm` | the contract of resource managers |
//!
//! Locks are taken in this order: a transaction's operation lock; (waits, holding nothing else); credit; page
//! latches; the transaction's small mutex; the commit section; and last, each alone, the short mutexes of the
//! tables.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod activity;
mod commit;
mod horizon;
mod manager;
mod reads;
mod registrations;
mod rm;
mod rollback;
mod room;
mod stats;
mod status;
#[cfg(test)]
mod tests;
mod txn;
mod validation;
mod versions;
mod waits;

pub use activity::{LiveSnapshot, LiveTxn, LiveWait};
pub use commit::CommitOutcome;
pub use horizon::Snapshot;
pub use manager::{AttEntry, Status, TxnManager, TxnOptions, View};
pub use reads::{KeyRange, ReadSet};
pub use rm::{Compensated, Registry, ResourceManager, UndoCtx, parts_left};
pub use stats::TxnStats;
pub use txn::{Isolation, OpGuard, Savepoint, Txn};
pub use validation::Validation;
pub use versions::{FoundVersion, LogHold, Version, VersionStore};
