//! Tests of the transaction manager over a real pool and log, on a disk in memory.
pub(crate) mod bench;

mod contract;
mod ending;
mod horizon;
mod losers;
mod model;
mod threads;
mod waiting;
