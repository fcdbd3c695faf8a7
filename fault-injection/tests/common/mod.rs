//! Scenarios that fit every key-value engine, and the search of all their crashes.
use hamal_fault_injection::engine::{Config, Engine};
use hamal_fault_injection::explore::check::{Oracles, Subject};
use hamal_fault_injection::explore::replay::{Scenario, search};
use hamal_fault_injection::explore::{Finding, Search, Tally};
use hamal_fault_injection::op::Op;
use hamal_fault_injection::run::newborn;
use hamal_fault_injection::sim::Persistence;
use hamal_fault_injection::workload::Workload;
use hamal_fault_injection::workloads::BTree;

pub(crate) const MODELS: [Persistence; 3] = [Persistence::Ordered, Persistence::Posix, Persistence::Hostile];

/// A scenario with a name.
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) ops: Vec<Op>,
    /// Whether it starts with the creation of the database.
    pub(crate) creates: bool,
}

/// What is done after a recovery: as little as fits on a short log, so that what stood there before can be seen.
pub(crate) fn afterwards() -> Vec<Op> {
    parse("begin 200; create 200 200; put 200 200 1 30 1; commit 200")
}

/// Operations from text.
pub(crate) fn parse(text: &str) -> Vec<Op> {
    text.split([';', '\n']).filter(|l| !l.trim().is_empty()).map(|l| l.parse().unwrap()).collect()
}

/// Five scenarios, each with a thought.
pub(crate) fn hand_written() -> Vec<Named> {
    let named = |name: &str, text: &str| Named { name: name.to_string(), ops: parse(text), creates: false };
    let mut all = vec![
        named(
            "commits of many sizes, one after another",
            "begin 1; create 1 0; put 1 0 1 40 1; commit 1
             begin 1; put 1 0 2 1900 2; put 1 0 3 10 3; commit 1
             begin 1; put 1 0 1 600 4; delete 1 0 3; commit 1
             begin 1; put 1 0 9 9 9; rollback 1
             begin 1; savepoint 1 1; put 1 0 8 8 8; rollback-to 1 1; put 1 0 7 700 7; commit 1
             reopen
             begin 1; put 1 0 1 5 5; commit 1",
        ),
        named(
            "early commits, of which some wait",
            "begin 1; create 1 0; put 1 0 1 30 1; commit-early 1
             begin 1; create 1 1; put 1 1 1 30 1; commit-early 1
             begin 1; create 1 2; put 1 2 1 30 1; commit-early 1
             step
             begin 1; put 1 0 2 1200 2; commit-early 1
             begin 1; put 1 0 3 30 3; commit 1
             begin 1; put 1 0 4 30 4; commit-early 1",
        ),
        named(
            "checkpoints between commits",
            "begin 1; create 1 0; put 1 0 1 900 1; put 1 0 2 900 2; commit 1
             checkpoint
             begin 1; put 1 0 3 30 3; commit 1
             begin 1; delete 1 0 1; put 1 0 4 1500 4; commit 1
             checkpoint
             begin 1; put 1 0 5 30 5; commit 1",
        ),
        named(
            "two transactions that add to one row",
            "begin 1; create 1 0; add 1 0 1 5; commit 1
             begin 1; begin 2; add 1 0 1 3; add 2 0 1 4; put 2 0 2 20 2; commit 1; commit 2
             begin 1; begin 2; add 1 0 1 7; add 2 0 9 1; commit 2; commit 1",
        ),
        named("a creation, and a commit", "begin 1; create 1 0; put 1 0 1 700 1; commit 1; checkpoint"),
    ];
    all[4].creates = true;
    all
}

/// Scenarios of the B-tree workload.
pub(crate) fn generated(seeds: std::ops::Range<u64>) -> Vec<Named> {
    let one =
        |seed| Named { name: format!("btree seed {seed}"), ops: BTree.operations(seed, 16), creates: false };
    seeds.map(one).collect()
}

/// Searches a scenario.
pub(crate) fn hunt(
    engine: &dyn Engine,
    model: Persistence,
    named: &Named,
    how: Search,
    oracles: Oracles,
) -> (Tally, Option<Finding>) {
    let config = Config::default();
    let start = (!named.creates).then(|| newborn(engine, &config, model).unwrap());
    let subject = Subject { engine, config: &config, workload: None, oracles };
    let after = afterwards();
    let scenario = Scenario { model, start: start.as_ref(), ops: &named.ops, faults: &[], after: &after };
    search(subject, scenario, how, &mut |_| true)
}
