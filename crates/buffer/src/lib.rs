//! The buffer pool: frames, translation, replacement, write-back under the WAL rule, the dirty page table.
//!
//! A page of the data file is read into a *frame* and stays there while it is used. The pool is steal and no-force: a page
//! may be written before the transactions that changed it end, and need not be when they do. Three things make that safe,
//! and each has a file:
//!
//! * **One way to change a page** (`change.rs`): the bytes of a page can be borrowed mutably only inside [`Pool::change`],
//!   which marks the page dirty, appends the record, applies it and sets pageLSN. No change lacks a record.
//! * **The WAL rule, and rule W** (`clean.rs`): a page is written only when the log is durable beyond its pageLSN, and
//!   only when an image of it lies where recovery will look should the write be torn.
//! * **The dirty page table** (`checkpoint.rs`): which pages are newer than disk, since when, as a fuzzy scan that stops
//!   nobody.
//!
//! The other files: `region.rs` the memory, `translate.rs` which frame holds a page, `frame.rs` the descriptor of a
//! frame, `fetch.rs` reading and replacement, `guard.rs` the latched pages handed out, `credit.rs` admission before the
//! first latch, `image.rs` the bytes of an image, `redo.rs` what recovery uses, `file.rs` the length of the data file, `versions.rs`
//! which version of a page the disk must hold, `repair.rs` rebuilding a page from the log.
//! `docs/invariants/buffer.md` states and proves what must hold; comments cite its ids.
//!
//! **Order** (`BUF-ORDER`): credit, then room in the file, then frames, then latches; nothing that can wait is asked for
//! under a latch, except a latch that comes later in the order of latches. Whoever holds latches and needs something gets
//! a [`Need`], lets go and starts again.
#![deny(missing_docs)]
#![deny(unsafe_code)]

mod change;
mod checkpoint;
mod clean;
mod credit;
mod fetch;
mod file;
mod frame;
mod guard;
mod image;
mod look;
mod ops;
mod patience;
mod pool;
mod prefetch;
mod redo;
mod region;
mod repair;
mod stop;
#[cfg(test)]
mod tests;
mod translate;
mod versions;

pub use change::{Change, PageEdit, SHARED_RM};
pub use checkpoint::DirtyScan;
pub use clean::CleanReport;
pub use credit::{OpCredit, RingShares};
pub use fetch::FrameTurn;
pub use guard::{ExclusivePage, Glance, LastSeen, Pin, SharedPage};
pub use ops::{ApplyError, Applying, Managers, PageOps};
pub use pool::{MIN_FRAMES, Pool, PoolOptions, PoolStats};
pub use redo::RedoPage;
pub use stop::{Need, Stop};
pub use versions::{PageVersions, TAGS_PER_BLOCK, version_tag};
