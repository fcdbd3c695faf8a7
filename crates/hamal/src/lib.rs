//! hamal: an embedded, transactional B-tree storage engine with ARIES recovery.
//!
//! Named trees map byte keys to byte values. Many threads write at once, each in a transaction of its own; readers work on
//! snapshots and block nobody; a commit costs one flush of the log, shared with whoever commits at the same time. After a crash
//! the next open repeats history from the log and rolls back what had not committed, and says what it did.
//!
//! ```
//! use hamal::{Database, Durability, ErrorKind};
//!
//! # fn main() -> hamal::Result<()> {
//! # let dir = tempfile::tempdir().unwrap();
//! # let path = dir.path().join("accounts");
//! let db = Database::open_or_create(&path)?;
//!
//! // Write: everything or nothing. Dropping the transaction rolls it back.
//! let tx = db.begin_write()?;
//! let accounts = tx.open_or_create_tree("accounts")?;
//! accounts.put("alice", 100u64.to_be_bytes())?;
//! accounts.put("bob", 50u64.to_be_bytes())?;
//! let before = tx.savepoint()?;
//! accounts.remove("alice")?;
//! tx.rollback_to(&before)?; // alice is back
//! tx.commit()?; // returns when it is durable
//!
//! // Read: a snapshot, owned, on any thread.
//! let snapshot = db.begin_read()?;
//! let accounts = snapshot.tree("accounts")?;
//! assert_eq!(accounts.get("alice")?.unwrap(), 100u64.to_be_bytes().to_vec());
//! for row in accounts.range("a".."c").rev() {
//!     let (name, balance) = row?;
//!     println!("{name:?} has {balance:?}");
//! }
//!
//! // Or let the database begin, commit, and try again when another transaction changed the same row.
//! db.transact(|tx| tx.tree("accounts")?.put("alice", 90u64.to_be_bytes()))?;
//!
//! // By hand: the second of two transactions that change the same row gets a conflict.
//! let tx = db.begin_write()?;
//! match tx.tree("accounts")?.put("bob", 70u64.to_be_bytes()) {
//!     Ok(()) => {
//!         let ticket = tx.commit_with(Durability::Async)?; // returns at once
//!         ticket.wait()?; // or poll it, or .await it
//!     }
//!     Err(e) if e.is_retryable() => tx.rollback()?,
//!     Err(e) => return Err(e),
//! }
//!
//! # drop((accounts, snapshot));
//! db.close()?;
//! assert_eq!(db.begin_write().unwrap_err().kind(), ErrorKind::InvalidArgument);
//! # Ok(()) }
//! ```
//!
//! **What is promised.** A transaction whose [`commit`](WriteTxn::commit) returned `Ok`, or whose [ticket](CommitTicket) is
//! durable, survives any crash, whole; one that was not acknowledged is there whole or not at all. After a failed write or sync
//! every call returns the stored cause until the database is opened again. Damaged files are errors that name the place, not
//! panics.
//!
//! **Isolation** is chosen for each transaction ([`Isolation`], [`WriteOptions`]). By default it is snapshot isolation: a transaction
//! sees what had committed when it began, and its own changes; the first to change a row wins. (Two transactions that each read what
//! the other writes can both commit; serializable ones cannot, and [`Tree::get_for_update`] locks what is read.)
//! [`Database::transact`] runs a transaction again when others got in its way.
//!
//! **Other access methods** than the B-tree take part in transactions and recovery through [`raw::ResourceManager`]; the
//! example `counters` has one.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod activity;
mod background;
mod compact;
mod core;
mod database;
mod inspect_impl;
mod open;
mod options;
mod owner;
mod range;
mod read;
mod relief;
mod rest;
mod stats;
mod sweep;
mod target;
mod transact;
mod tree;
mod value;
mod write;
mod write_options;

pub use crate::core_reexports::*;
pub use activity::{Activity, LogUse, OpenSnapshot, Pin, PinKind, Versions, Waiting, Writer};
pub use compact::CompactReport;
pub use database::{Database, Engine};
pub use options::{Builder, Durability, TornPages};
pub use range::{Keys, Range};
pub use read::{ReadTree, ReadTxn};
pub use stats::Stats;
pub use transact::{TransactOptions, Transacted};
pub use tree::Tree;
pub use value::{Key, Value, ValueReader};
pub use write::{CommitTicket, WriteTxn};
pub use write_options::WriteOptions;

pub(crate) use hamal_disk::Disk;
pub(crate) use owner::Owner;

/// Planted bugs, for tests of tests. Nothing can be turned on unless the feature `mutants` was asked for, which nothing that
/// ships does: without it the wrong code is not compiled in.
#[doc(hidden)]
pub mod mutants {
    pub use hamal_mutants::*;
}

mod core_reexports {
    pub use hamal_btree::{Finding, VerifyReport};
    pub use hamal_checkpoint::{Between, CheckpointReport};
    pub use hamal_error::{Error, ErrorKind, Result, Wait};
    pub use hamal_log::{SyncMethod, Verdict};
    pub use hamal_page::{DbId, Lsn, PageId, RmId, TreeId, TxnId};
    pub use hamal_recovery::{Progress, RecoveryReport, Skipped};
    pub use hamal_trace::{Event, Phase, Tracer};
    pub use hamal_txn::{Isolation, Savepoint};
}

/// The door to the operating system, and what can stand in it: put a simulated disk under a database.
pub mod disk {
    pub use hamal_disk::{
        AlignedBuf, CrashModel, Disk, DiskFile, DiskLock, MemDisk, MemFault, MemOp, MemStats, OpenMode,
        OverlayDisk, PosixDisk, continued, continued_write, read_exact_at,
    };
}

/// Reading the log.
pub mod log {
    pub use hamal_log::{
        BlockRef, LogEnd, LogFollower, LogIdentity, LogReader, Record, RecordKind, SyncMethod, Verdict, Whole,
    };
}

/// Events: what the engine did, and why.
pub mod trace {
    pub use hamal_trace::{
        AttRow, Event, ForceReason, LoggedBlock, Phase, SkipReason, Trace, Tracer, WriteReason,
    };
}

/// Looking at a database from outside.
pub mod inspect {
    pub use crate::inspect_impl::Inspect;
    pub use hamal_checkpoint::{CheckpointEnd, Chunk, Control, ManagerEntry};
}

/// What resource managers (access methods of the caller) are made of.
pub mod raw {
    pub use crate::inspect_impl::built_in_managers;
    pub use hamal_buffer::{
        ApplyError, Applying, ExclusivePage, Need, OpCredit, PageEdit, PageOps, Pin, Pool, SharedPage, Stop,
    };
    pub use hamal_log::{Appended, Log, Record, RecordKind, RecordSpec, TxnRef, Whole};
    pub use hamal_page::{HEADER_LEN, header};
    pub use hamal_space::{OP_CLEAR, OP_SET, Reservation, SPACE_RM, Space};
    pub use hamal_txn::{
        Compensated, ResourceManager, Savepoint, Txn, TxnManager, UndoCtx, View, parts_left,
    };
}
