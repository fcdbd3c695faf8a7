//! Families of scenarios. Everything follows from the seed, in the same way for ever: a seed in a report is a scenario.
pub mod bank;
pub mod btree;
pub mod counters;
pub mod situations;
mod wide;

pub use bank::Bank;
pub use btree::{BTree, Small};
pub use counters::Counters;
pub use situations::Situations;

use crate::op::{Ack, Op, Txn};
use crate::random::Random;

/// A scenario that is being written.
pub(crate) struct Script {
    pub(crate) ops: Vec<Op>,
    pub(crate) random: Random,
}

impl Script {
    /// `family` keeps the numbers of one workload apart from those of another.
    pub(crate) fn new(seed: u64, family: u64) -> Script {
        // The generator's own step, so that neighbouring seeds have nothing in common.
        let mut random = Random::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ family);
        random.next();
        Script { ops: Vec::new(), random }
    }
    pub(crate) fn push(&mut self, op: Op) {
        self.ops.push(op);
    }
    pub(crate) fn begin(&mut self, txn: Txn) {
        self.push(Op::Begin { txn });
    }
    pub(crate) fn commit(&mut self, txn: Txn) {
        self.push(Op::Commit { txn, ack: Ack::Durable });
    }
    pub(crate) fn commit_early(&mut self, txn: Txn) {
        self.push(Op::Commit { txn, ack: Ack::Early });
    }
    /// True in so many of a hundred cases.
    pub(crate) fn percent(&mut self, n: u64) -> bool {
        self.random.below(100) < n
    }
    /// A number from `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u32, high: u32) -> u32 {
        low + self.random.below(u64::from(high.saturating_sub(low)) + 1) as u32
    }
    /// Ends a transaction: seven times in ten durably, else early, or not at all.
    pub(crate) fn end(&mut self, txn: Txn) {
        match self.random.below(10) {
            0..=6 => self.commit(txn),
            7 | 8 => self.commit_early(txn),
            _ => self.push(Op::Rollback { txn }),
        }
    }
    /// Something that concerns the whole database.
    pub(crate) fn maintenance(&mut self) {
        let op = match self.random.below(20) {
            0..=7 => Op::Checkpoint,
            8..=10 => Op::Flush,
            11..=17 => Op::Step,
            18 => Op::Compact,
            _ => Op::Reopen,
        };
        self.push(op);
    }
}
