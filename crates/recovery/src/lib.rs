//! Restart: analysis, redo, undo: three modules that read like Mohan et al., "ARIES" (TODS 17(1), 1992), sections 6
//! to 8 and 10. Knows no data structure by name.
//!
//! ```text
//!        keep      R (redo point)   B (begin checkpoint)      last loser change     end of the log
//! ────────┼────────────┼────────────────────┼───────────────────────────┼─────────────────────┤
//!                                           │ analysis ──────────────────────────────────────▶│
//!                      │ redo, page by page ─────────────────────────────────────────────────▶│
//!         ◀──────────────────────────────────────────────────────────────────── undo of losers │
//! ```
//!
//! Every step may be interrupted by another crash: redo is idempotent by pageLSN, undo writes CLRs, and nothing is
//! decided here that is not in the log.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod analysis;
mod records;
mod redo;
mod report;
mod restart;
mod table;
mod undo;
mod workers;

pub use analysis::{Analysis, PageRedo, analyse};
pub use redo::redo;
pub use report::{Progress, ProgressFn, RecoveryReport, Skipped};
pub use restart::{Pause, RestartContext, restart};
pub use undo::undo;
pub use workers::processors;
