//! Short-term physical latches.
//!
//! A latch protects the bytes of a page for the time of one look or one change: microseconds, never a wait
//! for the disk or for a transaction. It is *hybrid*: readers may share it, a writer takes it alone, and a
//! reader may also take nothing, read, and ask afterwards whether a writer came between
//! ([`Latch::optimistic`], [`Latch::validate`]). The last costs no write to shared memory, which is what
//! makes the upper levels of a tree scale.
//!
//! With `--cfg loom` the atomics and the parking place come from the model checker (`tests/loom.rs`).
#![deny(missing_docs)]
#![deny(unsafe_code)]
mod event;
mod latch;
mod sync;
mod words;
pub use latch::Latch;
pub use words::{Reading, Words, Writing};
