//! What the model checks share: schedules that one seed decides, a disk whose calls are steps, and databases to crash.
//!
//! `docs/model-checking.md` says what is checked, with what tool, how deep, and by which command.
#![forbid(unsafe_code)]
#![allow(missing_docs, reason = "a package of tests: its documents are docs/model-checking.md")]

pub mod bench;
pub mod disk;
pub mod engine;
pub mod explore;

pub use disk::StepDisk;
pub use explore::{accepts, depth, pick, rejects};
