//! The checkers of histories: what they must find, what they must let pass, and what they say of hamal.
use hamal_fault_injection::history::engine::HamalEngine;
use hamal_fault_injection::history::judge::{Anomaly, Counts, Report, judge};
use hamal_fault_injection::history::workload::Plan;
use hamal_fault_injection::history::{History, Kind, Level, Op, Outcome, Transaction, elle};
use std::collections::HashMap;

const NEVER: &(dyn Fn() -> bool + Sync) = &|| false;

// ---- histories written by hand ----

/// Reads key as these elements; none is no row.
fn r(key: u64, elements: &[u64]) -> Op {
    let state = (!elements.is_empty()).then(|| elements.to_vec());
    Op::Read { key, state, locked: false, at: None }
}
fn locked(key: u64, elements: &[u64]) -> Op {
    let state = (!elements.is_empty()).then(|| elements.to_vec());
    Op::Read { key, state, locked: true, at: None }
}
/// Writes these elements, of which the last is new; none is a deletion.
fn w(key: u64, elements: &[u64]) -> Op {
    Op::Write { key, state: (!elements.is_empty()).then(|| elements.to_vec()) }
}
fn range(low: u64, high: u64, rows: &[(u64, &[u64])]) -> Op {
    Op::Range { low, high, rows: rows.iter().map(|(k, row)| (*k, row.to_vec())).collect(), at: None }
}

/// A history that is made step by step.
struct Script(History);

impl Script {
    fn new(kind: Kind) -> Script {
        Script(History { kind, keys: 10, transactions: Vec::new() })
    }
    fn lists() -> Script {
        Script::new(Kind::Lists)
    }
    fn txn(mut self, level: Level, ops: &[Op], outcome: Outcome, snapshot: Option<u64>) -> Script {
        let n = self.0.transactions.len() as u64 + 1;
        self.0.transactions.push(Transaction {
            id: n,
            process: n,
            epoch: 0,
            level,
            // All at the same time, unless a test says otherwise.
            begin: n,
            end: 1000 + n,
            snapshot,
            outcome,
            ops: ops.to_vec(),
        });
        self
    }
    /// One that committed, without timestamps.
    fn ok(self, level: Level, ops: &[Op]) -> Script {
        self.txn(level, ops, Outcome::Committed { at: None }, None)
    }
    fn aborted(self, level: Level, ops: &[Op]) -> Script {
        self.txn(level, ops, Outcome::Aborted, None)
    }
    /// One with timestamps.
    fn at(self, level: Level, snapshot: u64, at: u64, ops: &[Op]) -> Script {
        self.txn(level, ops, Outcome::Committed { at: Some(at) }, Some(snapshot))
    }
    fn last(mut self, f: impl FnOnce(&mut Transaction)) -> Script {
        f(self.0.transactions.last_mut().unwrap());
        self
    }
    fn finds(&self, anomaly: Anomaly) {
        let report = judge(&self.0, None);
        assert!(report.has(anomaly), "{anomaly} was not found: {report}");
    }
    fn finds_only(&self, anomaly: Anomaly) {
        self.finds(anomaly);
        let report = judge(&self.0, None);
        assert!(report.violations.iter().all(|v| v.anomaly == anomaly), "more than {anomaly}: {report}");
    }
    fn passes(&self) {
        let report = judge(&self.0, None);
        assert!(report.violations.is_empty(), "{report}");
    }
}

use Level::{ReadCommitted as Rc, ReadOnly, Serializable as Ser, Snapshot as Si};

#[test]
fn g0_is_found_at_every_level() {
    for level in [Rc, Si, Ser] {
        let s =
            Script::lists().ok(level, &[w(1, &[1]), w(2, &[3, 2])]).ok(level, &[w(1, &[1, 4]), w(2, &[3])]);
        s.ok(ReadOnly, &[r(1, &[1, 4]), r(2, &[3, 2])]).finds_only(Anomaly::G0);
        // The same order in both rows.
        let s =
            Script::lists().ok(level, &[w(1, &[1]), w(2, &[2])]).ok(level, &[w(1, &[1, 4]), w(2, &[2, 3])]);
        s.ok(ReadOnly, &[r(1, &[1, 4]), r(2, &[2, 3])]).passes();
    }
}

#[test]
fn g1a_is_found() {
    for level in [Rc, Si, Ser] {
        Script::lists().aborted(level, &[w(1, &[1])]).ok(level, &[r(1, &[1])]).finds_only(Anomaly::G1a);
        // Who reads it and does not commit proves nothing.
        Script::lists().aborted(level, &[w(1, &[1])]).aborted(level, &[r(1, &[1])]).passes();
        // An element below another: the abort was overwritten, and not undone.
        let s = Script::lists().aborted(level, &[w(1, &[1])]).ok(level, &[w(1, &[1, 2])]);
        s.ok(ReadOnly, &[r(1, &[1, 2])]).finds_only(Anomaly::G1a);
        // By a savepoint.
        let undone = [Op::Savepoint, w(1, &[1]), Op::RollbackTo { savepoint: 0 }, w(2, &[2])];
        Script::lists().ok(level, &undone).ok(level, &[r(1, &[1])]).finds_only(Anomaly::G1a);
        Script::lists().ok(level, &undone).ok(level, &[r(1, &[]), r(2, &[2])]).passes();
        // By a crash.
        let lost = Outcome::Lost { at: None, acknowledged: false };
        Script::lists()
            .txn(level, &[w(1, &[1])], lost, None)
            .ok(level, &[r(1, &[1])])
            .finds_only(Anomaly::G1a);
    }
}

#[test]
fn g1b_is_found() {
    for level in [Rc, Si, Ser] {
        let writer = [w(1, &[1]), w(1, &[1, 2])];
        Script::lists().ok(level, &writer).ok(level, &[r(1, &[1])]).finds(Anomaly::G1b);
        Script::lists().ok(level, &writer).ok(level, &[r(1, &[1, 2])]).passes();
        let writer = [w(1, &[1]), w(1, &[2])];
        let s = || Script::new(Kind::Registers).at(level, 0, 10, &writer);
        s().at(level, 10, 20, &[locked(1, &[1]), w(1, &[3])]).finds(Anomaly::G1b);
        s().at(level, 10, 20, &[locked(1, &[2]), w(1, &[3])]).passes();
        // What is undone is not what the writer leaves behind.
        let back = [w(1, &[1]), Op::Savepoint, w(1, &[1, 2]), Op::RollbackTo { savepoint: 1 }];
        Script::lists().ok(level, &back).ok(level, &[r(1, &[1])]).passes();
    }
}

#[test]
fn g1c_is_found() {
    for level in [Rc, Si, Ser] {
        let s = Script::lists().ok(level, &[w(1, &[1]), r(2, &[2])]).ok(level, &[w(2, &[2]), r(1, &[1])]);
        s.finds_only(Anomaly::G1c);
        let s = Script::lists().ok(level, &[w(1, &[1]), r(2, &[])]).ok(level, &[w(2, &[2]), r(1, &[1])]);
        s.passes();
    }
}

#[test]
fn g_single_is_found_except_under_read_committed() {
    let skew = |level| {
        let s = Script::lists().ok(level, &[w(1, &[1]), w(2, &[2])]);
        s.ok(level, &[r(1, &[]), r(2, &[2])])
    };
    skew(Rc).passes();
    skew(Si).finds_only(Anomaly::GSingle);
    skew(Ser).finds_only(Anomaly::GSingle);
    // A reader between its writers.
    let s = Script::lists().ok(Si, &[w(1, &[1])]).ok(Si, &[w(2, &[2])]);
    s.ok(Si, &[r(1, &[1]), r(2, &[])]).passes();
    // Lost update: both read nothing, and both write.
    let lost = |level| {
        let s = Script::new(Kind::Registers).at(level, 5, 10, &[r(1, &[]), w(1, &[1])]);
        s.at(level, 5, 20, &[r(1, &[]), w(1, &[2])])
    };
    lost(Rc).passes();
    lost(Si).finds(Anomaly::GSingle);
    lost(Si).finds(Anomaly::FirstCommitterWins);
    lost(Ser).finds(Anomaly::GSingle);
    // A read-only snapshot that sees half of a transaction.
    let s = Script::lists().ok(Rc, &[w(1, &[1]), w(2, &[2])]);
    s.ok(ReadOnly, &[r(1, &[1]), r(2, &[])]).finds_only(Anomaly::GSingle);
}

#[test]
fn g_nonadjacent_is_found_except_under_read_committed() {
    // Two writers that do not meet, and two readers that see them in different orders.
    let fork = |level| {
        let s = Script::lists().ok(level, &[w(1, &[1])]).ok(level, &[w(2, &[2])]);
        s.ok(level, &[r(1, &[1]), r(2, &[])]).ok(level, &[r(1, &[]), r(2, &[2])])
    };
    fork(Rc).passes();
    fork(Si).finds_only(Anomaly::GNonadjacent);
    fork(Ser).finds_only(Anomaly::GNonadjacent);
    fork(ReadOnly).finds_only(Anomaly::GNonadjacent);
}

#[test]
fn g2_item_is_found_under_serializable_alone() {
    let skew = |level| {
        let s = Script::lists().ok(level, &[r(1, &[]), r(2, &[]), w(1, &[1])]);
        s.ok(level, &[r(1, &[]), r(2, &[]), w(2, &[2])])
    };
    skew(Rc).passes();
    skew(Si).passes();
    skew(Ser).finds_only(Anomaly::G2Item);
    assert!(judge(&skew(Si).0, Some(Ser)).has(Anomaly::G2Item));
    // One of the two at a lower level: it alone went back in time.
    let mixed = Script::lists().ok(Ser, &[r(1, &[]), r(2, &[]), w(1, &[1])]);
    mixed.ok(Si, &[r(1, &[]), r(2, &[]), w(2, &[2])]).passes();
    let s = Script::lists().ok(Ser, &[r(1, &[]), r(2, &[]), w(1, &[1])]);
    s.ok(Ser, &[r(1, &[1]), r(2, &[]), w(2, &[2])]).passes();
    // The reader that makes write skew worse (Fekete, O'Neil and O'Neil 2004): it sees the second writer and not the first.
    let fekete = |level| {
        let s = Script::lists()
            .ok(level, &[r(1, &[]), r(2, &[]), w(1, &[1])])
            .ok(level, &[r(2, &[]), w(2, &[2])]);
        s.ok(ReadOnly, &[r(1, &[]), r(2, &[2])])
    };
    fekete(Si).passes();
    fekete(Ser).finds_only(Anomaly::G2Item);
}

#[test]
fn g2_is_found_under_serializable_alone() {
    let phantoms = |level| {
        let s = Script::lists().ok(level, &[range(0, 5, &[]), w(1, &[1])]);
        s.ok(level, &[range(0, 5, &[]), w(2, &[2])])
    };
    phantoms(Rc).passes();
    phantoms(Si).passes();
    phantoms(Ser).finds_only(Anomaly::G2);
    // One of them sees the other.
    let s = Script::lists().ok(Ser, &[range(0, 5, &[]), w(1, &[1])]);
    s.ok(Ser, &[range(0, 5, &[(1, &[1])]), w(2, &[2])]).passes();
    // Ranges that do not meet what the other writes.
    let s = Script::lists().ok(Ser, &[range(0, 2, &[]), w(1, &[1])]);
    s.ok(Ser, &[range(2, 5, &[]), w(2, &[2])]).passes();
    // Deletions count, and which of them a reader did not find the row after.
    let first = Script::new(Kind::Registers).at(Ser, 0, 10, &[w(1, &[1])]).at(Ser, 10, 20, &[w(1, &[])]);
    let s = first.at(Ser, 20, 40, &[range(0, 5, &[]), w(6, &[2])]);
    s.at(Ser, 20, 50, &[r(6, &[]), w(1, &[3])]).finds(Anomaly::G2);
    let first = Script::new(Kind::Registers).at(Ser, 0, 10, &[w(1, &[1])]).at(Ser, 10, 20, &[w(1, &[])]);
    let s = first.at(Ser, 20, 40, &[range(0, 5, &[]), w(6, &[2])]);
    s.at(Ser, 40, 50, &[r(6, &[2]), w(1, &[3])]).passes();
}

#[test]
fn what_nobody_wrote_and_orders_that_do_not_fit_are_found() {
    Script::lists().ok(Rc, &[r(1, &[7])]).finds_only(Anomaly::Garbage);
    // An element of another row.
    Script::lists().ok(Rc, &[w(1, &[1])]).ok(Rc, &[r(2, &[1])]).finds(Anomaly::Garbage);
    let s = || Script::lists().ok(Rc, &[w(1, &[1])]).ok(Rc, &[w(1, &[1, 2])]);
    s().ok(Rc, &[r(1, &[1, 2])]).ok(Rc, &[r(1, &[2])]).finds_only(Anomaly::IncompatibleOrder);
    s().ok(Rc, &[r(1, &[1, 2])]).ok(Rc, &[r(1, &[1])]).passes();
    s().ok(Rc, &[r(1, &[1, 2, 2])]).finds(Anomaly::IncompatibleOrder);
    Script::lists().ok(Si, &[w(1, &[1]), r(1, &[])]).finds(Anomaly::Internal);
    Script::lists().ok(Si, &[w(1, &[1]), range(0, 3, &[])]).finds(Anomaly::Internal);
    let back = [Op::Savepoint, w(1, &[1]), Op::RollbackTo { savepoint: 0 }];
    let and = |op| back.iter().cloned().chain([op]).collect::<Vec<_>>();
    Script::lists().ok(Si, &and(r(1, &[1]))).finds(Anomaly::G1a);
    Script::lists().ok(Si, &and(r(1, &[]))).passes();
}

#[test]
fn one_of_which_nobody_knows_has_committed_if_it_was_seen() {
    let s = || Script::lists().txn(Ser, &[r(2, &[]), w(1, &[1])], Outcome::Unknown, None);
    s().ok(Ser, &[r(1, &[]), w(2, &[2])]).passes();
    s().ok(Ser, &[r(1, &[]), w(2, &[2])]).ok(ReadOnly, &[r(1, &[1])]).finds(Anomaly::G2Item);
}

#[test]
fn reads_are_held_to_their_snapshot() {
    let first = || Script::new(Kind::Registers).at(Si, 0, 10, &[w(1, &[1])]).at(Si, 10, 20, &[w(1, &[2])]);
    let two = || first().at(Si, 10, 30, &[r(1, &[1]), w(2, &[3])]);
    two().passes();
    // A newer version, an older one, none: all of them in some order, and yet not what the snapshot shows.
    first().at(Si, 10, 30, &[r(1, &[2]), w(2, &[3])]).finds_only(Anomaly::NotTheSnapshot);
    first().at(Si, 20, 30, &[r(1, &[1]), w(2, &[3])]).finds_only(Anomaly::NotTheSnapshot);
    first().at(Si, 20, 30, &[r(1, &[]), w(2, &[3])]).finds(Anomaly::NotTheSnapshot);
    first()
        .txn(ReadOnly, &[range(0, 3, &[])], Outcome::Committed { at: None }, Some(10))
        .finds(Anomaly::NotTheSnapshot);
    // Also of one that does not commit.
    first().txn(Si, &[r(1, &[2])], Outcome::Aborted, Some(10)).finds_only(Anomaly::NotTheSnapshot);
    first().txn(Si, &[r(1, &[1])], Outcome::Aborted, Some(10)).passes();
}

#[test]
fn statements_of_read_committed_are_held_to_one_moment() {
    let s = || Script::lists().at(Rc, 0, 10, &[w(1, &[1]), w(2, &[2])]);
    let read = |rows: &[(u64, &[u64])], at| {
        let Op::Range { low, high, rows, .. } = range(1, 3, rows) else { unreachable!() };
        [Op::Range { low, high, rows, at: Some(at) }]
    };
    let done = Outcome::Committed { at: None };
    let both: &[(u64, &[u64])] = &[(1, &[1]), (2, &[2])];
    s().txn(Rc, &read(both, (5, 15)), done, Some(5)).passes();
    s().txn(Rc, &read(&[], (5, 15)), done, Some(5)).passes();
    s().txn(Rc, &read(&both[..1], (5, 15)), done, Some(5)).finds_only(Anomaly::NotTheSnapshot);
    s().txn(Rc, &read(&[], (10, 15)), done, Some(5)).finds_only(Anomaly::NotTheSnapshot);
    s().txn(Rc, &read(both, (5, 9)), done, Some(5)).finds_only(Anomaly::NotTheSnapshot);
    // What it has locked it sees as it was then, though that commit is not in the next statement's snapshot yet; the others it does not.
    let lock =
        |state: &[u64]| Op::Read { key: 1, state: Some(state.to_vec()), locked: true, at: Some((5, 5)) };
    let then = |rows: &[(u64, &[u64])]| [lock(&[1]), read(rows, (5, 5))[0].clone()];
    s().txn(Rc, &then(&both[..1]), done, Some(5)).passes();
    s().txn(Rc, &then(both), done, Some(5)).finds_only(Anomaly::NotTheSnapshot);
}

#[test]
fn writes_and_locks_are_held_to_the_commit() {
    let first = || Script::lists().at(Si, 0, 20, &[w(1, &[1])]);
    first().at(Si, 20, 30, &[r(1, &[1]), w(1, &[1, 2])]).passes();
    first().at(Si, 10, 30, &[w(1, &[1, 2])]).finds_only(Anomaly::FirstCommitterWins);
    first().at(Rc, 10, 30, &[w(1, &[1, 2])]).passes();
    // Locked, and changed all the same.
    first().at(Rc, 10, 30, &[locked(1, &[]), w(2, &[2])]).finds(Anomaly::LockIgnored);
    first().at(Rc, 10, 30, &[locked(1, &[1]), w(2, &[2])]).passes();
    first().at(Rc, 10, 15, &[locked(1, &[]), w(2, &[2])]).passes();
    let gone = [Op::Savepoint, locked(1, &[]), Op::RollbackTo { savepoint: 0 }, w(2, &[2])];
    first().at(Rc, 10, 30, &gone).passes();
    // A stale read of a serializable transaction that writes; of one that does not.
    first().at(Ser, 10, 30, &[r(1, &[]), w(2, &[2])]).finds_only(Anomaly::NotAtCommit);
    first().at(Ser, 10, 30, &[r(1, &[])]).passes();
    first().at(Si, 10, 30, &[r(1, &[]), w(2, &[2])]).passes();
    first().at(Ser, 10, 30, &[range(0, 3, &[]), w(5, &[2])]).finds_only(Anomaly::NotAtCommit);
    // Timestamps.
    first().at(Si, 0, 20, &[w(2, &[2])]).finds(Anomaly::Timestamps);
    Script::lists().at(Si, 20, 20, &[w(1, &[1])]).finds(Anomaly::Timestamps);
}

#[test]
fn what_was_acknowledged_is_seen_and_survives() {
    let first = || Script::lists().at(Si, 0, 20, &[w(1, &[1])]).last(|t| t.end = 2);
    let reader = |s: Script, snapshot| {
        let s = s.txn(ReadOnly, &[], Outcome::Committed { at: None }, Some(snapshot));
        s.last(|t| t.begin = 3)
    };
    reader(first(), 20).passes();
    reader(first(), 10).finds_only(Anomaly::StaleSnapshot);
    let lost = |at, acknowledged| {
        let s = Script::lists().at(Si, 0, 20, &[w(1, &[1])]);
        s.txn(Si, &[w(2, &[2])], Outcome::Lost { at: Some(at), acknowledged }, Some(0))
    };
    lost(30, false).passes();
    lost(30, true).finds_only(Anomaly::LostCommit);
    // The log survives as a first part of it.
    lost(10, false).finds_only(Anomaly::LostCommit);
    // Another run may use the numbers of what was lost again, and sees nothing of it.
    let next = |ops: &[Op]| lost(30, false).at(Si, 20, 30, ops).last(|t| t.epoch = 1);
    next(&[r(2, &[]), w(2, &[3])]).passes();
    next(&[r(2, &[2]), w(2, &[2, 3])]).finds(Anomaly::G1a);
}

#[test]
fn the_shortest_cycle_is_named_with_its_transactions_and_keys() {
    // Write skew of two, within one of four.
    let mut s = Script::lists();
    for n in 0..4 {
        s = s.ok(Ser, &[r(n, &[]), w((n + 1) % 4, &[n + 1])]);
    }
    let report = judge(&s.0, None);
    assert_eq!(report.violations[0].cycle.len(), 4, "{report}");
    s = s.ok(Ser, &[r(0, &[]), w(5, &[10])]).ok(Ser, &[r(5, &[]), w(0, &[4, 11])]);
    s = s.ok(ReadOnly, &[r(0, &[4, 11])]);
    let report = judge(&s.0, None);
    let v = &report.violations[0];
    // T4 wrote the first version of key 0, T6 the next one: T5 -> T4 -> T6 -> T5.
    assert_eq!((v.anomaly, v.cycle.len()), (Anomaly::G2Item, 3), "{report}");
    let text = report.to_string();
    for part in ["T5 -rw-> T4: key 0", "T4 -ww-> T6: key 0", "T6 -rw-> T5: key 5"] {
        assert!(text.contains(part), "{text}");
    }
}

// ---- the engine ----

fn engine(seed: u64) -> Box<HamalEngine> {
    Box::new(HamalEngine::new(seed).unwrap())
}

fn history(plan: &Plan, seed: u64) -> History {
    plan.run(engine(seed), seed, NEVER).unwrap_or_else(|e| panic!("seed {seed}, {plan:?}: {e}"))
}

/// What Elle's rules say: whether the history is as good as a model.
fn adya(h: &History, model: &str) -> adya::Report {
    let mut text = Vec::new();
    let ids = elle::write(h, &mut text).unwrap();
    let parsed = adya::History::from_json(std::str::from_utf8(&text).unwrap()).unwrap();
    let mut options = adya::Opts { models: vec![model.into()], ..adya::Opts::default() };
    options.timeout = std::time::Duration::from_secs(600);
    let by_id: HashMap<u64, &Transaction> = h.transactions.iter().map(|t| (t.id, t)).collect();
    let workload = match h.kind {
        Kind::Lists => adya::Workload::ListAppend,
        Kind::Registers => {
            // Registers do not tell the order of their versions; the commits do.
            let order = ids.iter().enumerate().filter_map(|(i, id)| Some((i as u64, by_id[id].at()? as i64)));
            options.transaction_order = Some(order.collect());
            adya::Workload::RwRegister
        }
    };
    adya::check(&parsed, workload, &options)
}

fn assert_good(h: &History, plan: &Plan, seed: u64) -> Report {
    let report = judge(h, None);
    if !report.violations.is_empty() {
        let path = std::env::temp_dir().join(format!("history-{seed}.jsonl"));
        h.write(&mut std::fs::File::create(&path).unwrap()).unwrap();
        panic!("seed {seed}, {plan:?}, written to {}: {report}", path.display());
    }
    report
}

/// Runs random plans of a level, and says what was looked at.
fn many(seeds: std::ops::Range<u64>, level: Option<Level>) -> Counts {
    let mut counts = Counts::default();
    for seed in seeds {
        let plan = Plan::random(seed, level);
        let h = history(&plan, seed);
        counts.add(&assert_good(&h, &plan, seed).counts);
    }
    counts
}

#[test]
fn read_committed_histories_are_read_committed() {
    let c = many(0..400, Some(Rc));
    assert!(c.committed > 15_000 && c.edges > c.committed && c.held > c.reads / 2, "{c:?}");
}

#[test]
fn snapshot_histories_are_snapshot_isolated() {
    let c = many(1000..1400, Some(Si));
    assert!(c.committed > 15_000 && c.edges > c.committed && c.held > c.reads, "{c:?}");
}

#[test]
fn serializable_histories_are_serializable() {
    let c = many(2000..2400, Some(Ser));
    assert!(c.committed > 10_000 && c.edges > c.committed && c.held > c.reads, "{c:?}");
}

#[test]
fn mixed_histories_are_as_good_as_their_levels() {
    let c = many(3000..3400, None);
    assert!(c.committed > 15_000, "{c:?}");
}

/// Crashes at random moments, in all ways that the disk has: what was acknowledged is there, and history goes on.
#[test]
fn histories_go_on_over_crashes() {
    let (mut lost, mut counts) = (0, Counts::default());
    for seed in 4000..4400 {
        let plan = Plan { crashes: 3, threads: 6, ..Plan::random(seed, None) };
        let h = history(&plan, seed);
        assert_eq!(h.transactions.iter().map(|t| t.epoch).max(), Some(3));
        lost += h.transactions.iter().filter(|t| matches!(t.outcome, Outcome::Lost { .. })).count();
        counts.add(&assert_good(&h, &plan, seed).counts);
    }
    assert!(lost > 150, "only {lost} were lost: the crashes are at quiet moments");
    assert!(counts.committed > 12_000, "{counts:?}");
}

/// Ours and Elle's rules agree, on what is good and on what is not: snapshot isolation is not serializable.
#[test]
fn adya_agrees() {
    let mut not_serializable = 0;
    for seed in 5000..5160 {
        let (level, model) = match seed % 3 {
            0 => (Rc, "read-committed"),
            1 => (Si, "strong-snapshot-isolation"),
            _ => (Ser, "strict-serializable"),
        };
        let kind = if seed % 4 == 3 { Kind::Registers } else { Kind::Lists };
        let plan = Plan { deletes: false, kind, threads: 6, keys: 5, ..Plan::random(seed, Some(level)) };
        let h = history(&plan, seed);
        assert_good(&h, &plan, seed);
        let theirs = adya(&h, model);
        assert_eq!(theirs.valid, adya::Valid::True, "seed {seed}, {plan:?}: {:?}", theirs.anomalies);
        // The reads and writes of lists alone say whether a history is serializable; timestamps may forbid more.
        if kind == Kind::Lists && level == Si {
            let ours = hamal_fault_injection::history::graph::judge(&as_if(&h, Ser));
            let theirs = adya(&h, "serializable");
            let good = ours.violations.is_empty();
            assert_eq!(good, theirs.valid == adya::Valid::True, "seed {seed}: {ours} {:?}", theirs.anomalies);
            not_serializable += usize::from(!good);
        }
    }
    assert!(not_serializable > 2, "write skew does not happen: the histories say little");
}

fn as_if(h: &History, level: Level) -> History {
    let mut h = h.clone();
    h.transactions.iter_mut().filter(|t| t.level != ReadOnly).for_each(|t| t.level = level);
    h
}

#[test]
fn a_history_is_the_same_after_it_was_written_and_read() {
    let plan = Plan { crashes: 1, ..Plan::random(6, None) };
    let h = history(&plan, 6);
    let mut text = Vec::new();
    h.write(&mut text).unwrap();
    assert_eq!(History::read(&mut text.as_slice()).unwrap(), h);
    let message = |text: &str| History::read(&mut text.as_bytes()).unwrap_err().to_string();
    assert!(message("").contains("line 1"));
    assert!(message("{\"hamal_history\":2,\"kind\":\"lists\",\"keys\":1}").contains("format 2"));
    let text = String::from_utf8(text).unwrap();
    assert!(message(&text.replacen("\"keys\":", "\"keys\":0,\"was\":", 1)).contains("is not below 0"));
    assert!(message(&format!("{text}{{}}\n")).contains(&format!("line {}", text.lines().count() + 1)));
}
