//! Histories of concurrent transactions, and what judges them: is this snapshot isolation, is it serializable?
//!
//! A [workload] runs random transactions on an [`Engine`](engine::Engine) with real threads, also over crashes, and
//! [records](record) what each of them was told. Two checkers that share nothing but the record judge it:
//!
//! * [graph] builds the graph of dependencies (Adya: *Weak Consistency*, MIT 1999) and looks for the cycles that the levels of the
//!   transactions forbid. It needs nothing but what was read and written if rows are lists (as Elle does: Kingsbury and Alvaro,
//!   VLDB 2020); rows that are overwritten need the timestamps of commits for the order of their versions.
//! * [timestamps] believes the engine's own snapshots and commit timestamps and holds each single read to them.
//!
//! [elle] writes a history for other checkers.
//!
//! ```
//! use hamal_fault_injection::history::{Level, engine::HamalEngine, judge::judge, workload::Plan};
//!
//! let engine = HamalEngine::new(1).unwrap();
//! let plan = Plan { levels: vec![Level::Serializable], transactions: 40, ..Plan::default() };
//! let history = plan.run(Box::new(engine), 1, &|| false).unwrap();
//! let report = judge(&history, None);
//! assert!(report.violations.is_empty(), "{report}");
//! ```
pub mod elle;
pub mod engine;
pub mod graph;
pub mod judge;
pub mod record;
pub mod timestamps;
mod versions;
pub mod workload;

pub use record::{History, Kind, Level, Op, Outcome, State, Transaction};
