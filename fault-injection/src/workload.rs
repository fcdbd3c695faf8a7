//! Scenarios from a seed.
use crate::engine::Config;
use crate::model::Contents;
use crate::op::Op;
use crate::sim::IoFault;

/// A family of scenarios: one for each seed.
pub trait Workload: Send + Sync {
    /// Its name, for the command line and reports.
    fn name(&self) -> &str;
    /// The set-up that scenario `seed` wants.
    fn config(&self, seed: u64) -> Config;
    /// The operations of scenario `seed`, about `length` of them. A transaction whose operation is refused is rolled back by
    /// the runner at once, and the rest of its operations are left out, so generators need not know what is refused.
    fn operations(&self, seed: u64, length: usize) -> Vec<Op>;
    /// Errors that scenario `seed` is about: it is always run with them. None by default.
    fn faults(&self, seed: u64) -> Vec<IoFault> {
        let _ = seed;
        Vec::new()
    }
    /// Whether a campaign takes its scenarios in turn, by seeds 0, 1, 2 .., and not at random: there are only so many.
    fn in_turn(&self) -> bool {
        false
    }
    /// Work that is done after a recovery, to see that the engine is alive. The default fits every key-value engine.
    fn afterwards(&self) -> Vec<Op> {
        use crate::op::Ack;
        vec![
            Op::Begin { txn: 200 },
            Op::CreateTree { txn: 200, tree: 200 },
            Op::Put { txn: 200, tree: 200, key: 1, len: 30, fill: 1 },
            Op::Put { txn: 200, tree: 200, key: 2, len: 900, fill: 2 },
            Op::Commit { txn: 200, ack: Ack::Durable },
            Op::Begin { txn: 201 },
            Op::Put { txn: 201, tree: 200, key: 3, len: 20, fill: 3 },
            Op::Delete { txn: 201, tree: 200, key: 1 },
            Op::Rollback { txn: 201 },
            Op::Checkpoint,
            Op::Begin { txn: 202 },
            Op::Delete { txn: 202, tree: 200, key: 1 },
            Op::Commit { txn: 202, ack: Ack::Durable },
        ]
    }
    /// What must hold of every state, beside what the model says: the sum of all accounts, say. `Some` is a sentence that
    /// says what is wrong.
    fn invariant(&self, contents: &Contents) -> Option<String> {
        let _ = contents;
        None
    }
}
