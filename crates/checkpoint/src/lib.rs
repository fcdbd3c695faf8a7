//! Fuzzy checkpoints, the control file that names them, and the truncation of the log.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod checkpointer;
mod control;
mod tables;
mod versions;

pub use checkpointer::{Between, CheckpointReport, Checkpointer};
pub use control::{Control, ControlFile, ManagerEntry, SLOT_BYTES};
pub use tables::{CheckpointData, CheckpointEnd, Chunk};
pub use versions::{VERSIONS, VersionsFile, WrittenVersions};
