//! The write-ahead log: append, group commit, read, truncate. Payloads are opaque: this crate knows which
//! pages a record names, but no data structure.
//!
//! There is one log and one LSN space; an LSN is a byte position. The life of a record, in the order of the
//! files: an operation takes *credit* (`space`), *appends* (`log`, `codec`) into the *ring* (`ring`,
//! `slots`), a *group* of records is sealed, written and synced by whoever waits first (`commit`), into
//! *segments* (`segment`); after a crash the *end* is found (`end`) and records are *read* (`reader`,
//! `files`). Formats: `docs/formats/log.md`; the invariants LOG-1 to LOG-9: `docs/invariants/log.md`.
#![deny(missing_docs)]

mod ahead;
mod codec;
mod commit;
mod end;
mod files;
mod follow;
mod format;
mod log;
mod memory;
mod options;
mod reader;
mod record;
#[allow(unsafe_code)]
mod ring;
mod scan;
mod segment;
mod slots;
mod space;
mod ticket;
mod varint;

pub use end::{LogEnd, Verdict, find_end, find_end_and_read};
pub use follow::LogFollower;
pub use log::{Appended, Log, LogStats};
pub use memory::LogMemory;
pub use options::{LogIdentity, LogOptions, SyncMethod};
pub use reader::{LogReader, Reading};
pub use record::{Block, BlockRef, BlockView, Record, RecordKind, RecordSpec, RecordView, TxnRef, Whole};
pub use segment::{missing_below, rewrite_segments};
pub use space::Credit;
pub use ticket::Ticket;
