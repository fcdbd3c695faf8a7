//! Scenarios from a seed.
use crate::engine::Config;
use crate::model::Contents;
use crate::op::Op;

/// A family of scenarios: one for each seed.
pub trait Workload: Send + Sync {
    /// Its name, for the command line and reports.
    fn name(&self) -> &str;
    /// The set-up that scenario `seed` wants.
    fn config(&self, seed: u64) -> Config;
    /// The operations of scenario `seed`, about `length` of them. A transaction whose operation is refused is rolled back by
    /// the runner at once, and the rest of its operations are left out, so generators need not know what is refused.
    fn operations(&self, seed: u64, length: usize) -> Vec<Op>;
    /// What must hold of every state, beside what the model says: the sum of all accounts, say. `Some` is a sentence that
    /// says what is wrong.
    fn invariant(&self, contents: &Contents) -> Option<String> {
        let _ = contents;
        None
    }
}
