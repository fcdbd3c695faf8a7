//! The workloads on a disk in memory: the engine agrees with the model, also after a crash, and a seed is a scenario.
use hamal::disk::{CrashModel, Disk, MemDisk, MemFault, MemOp, OpenMode};
use hamal::inspect::Inspect;
use hamal::log::{RecordKind, Whole};
use hamal::{Event, Lsn};
use hamal_fault_injection::engine::{Applied, Config, Engine, FailureKind, Session};
use hamal_fault_injection::engines::{Hamal, Pages};
use hamal_fault_injection::model::Model;
use hamal_fault_injection::op::{Op, Txn};
use hamal_fault_injection::random::Random;
use hamal_fault_injection::sim::{Fates, Persistence, Question, SimDisk};
use hamal_fault_injection::workload::Workload;
use hamal_fault_injection::workloads::{BTree, Bank, Counters};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// What a family of scenarios came to, by name.
type Census = BTreeMap<&'static str, u64>;

/// Runs scenarios as the harness does: a refused transaction is rolled back and left out.
struct Runner {
    session: Box<dyn Session>,
    model: Model,
    /// Refused: what they still ask for is left out, until they begin anew.
    out: BTreeSet<Txn>,
    refused: u64,
}

impl Runner {
    fn new(session: Box<dyn Session>) -> Runner {
        Runner { session, model: Model::default(), out: BTreeSet::new(), refused: 0 }
    }

    fn apply(&mut self, op: &Op, place: &str) {
        if let Some(txn) = op.txn() {
            if matches!(op, Op::Begin { .. }) {
                self.out.remove(&txn);
            }
            if self.out.contains(&txn) {
                return;
            }
        }
        let change = &*op.change();
        self.model.begin(change);
        match self.session.apply(op) {
            Ok(applied) => self.model.end(change, applied == Applied::AllDurable),
            Err(e) if matches!(e.kind, FailureKind::Refused | FailureKind::NoSpace) => {
                self.refused += 1;
                self.model.refused(change);
                // It needs log, and may have made some of the file smaller: nobody has to be rolled back.
                if matches!(op, Op::Compact) {
                    return;
                }
                let txn = op.txn().unwrap_or_else(|| panic!("{place}: {op}: {e}"));
                self.out.insert(txn);
                let back = Op::Rollback { txn };
                self.model.begin(&back);
                self.session.apply(&back).unwrap_or_else(|e| panic!("{place}: rollback after {op}: {e}"));
                self.model.end(&back, false);
            }
            Err(e) => panic!("{place}: {op}: {e}"),
        }
    }

    /// What is there must be one of the states that may be.
    fn judge(&mut self, place: &str) {
        let found = self.session.contents().unwrap_or_else(|e| panic!("{place}: {e}"));
        if let Err((_, what)) = self.model.allowed().judge(&found) {
            panic!("{place}: {what}");
        }
    }
}

fn verified(session: &mut dyn Session, place: &str) {
    let wrong = session.verify().unwrap_or_else(|e| panic!("{place}: {e}"));
    assert!(wrong.is_empty(), "{place}: {wrong:#?}");
}

fn dump(disk: &MemDisk) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for dir in ["", "wal"] {
        for name in disk.list(dir).unwrap_or_default() {
            let name = if dir.is_empty() { name } else { format!("{dir}/{name}") };
            let file = disk.open(&name, OpenMode { read_only: true, ..OpenMode::default() }).unwrap();
            let mut bytes = vec![0; file.len().unwrap() as usize];
            assert_eq!(file.read_at(0, &mut bytes).unwrap(), bytes.len());
            files.insert(name, bytes);
        }
    }
    files
}

/// Counts what the log says was done to trees and pages.
#[derive(Default)]
struct LogCensus {
    seen: Lsn,
    census: Census,
}

impl LogCensus {
    fn look(&mut self, disk: &MemDisk) {
        let inspect = Inspect::open_on(Arc::new(disk.clone())).unwrap();
        let end = inspect.log_end().unwrap();
        let mut reader = inspect.reader(&end).unwrap();
        let mut at = self.seen.max(end.oldest);
        if at.is_null() {
            at = end.oldest;
        }
        while let Ok(Some(record)) = reader.read(at) {
            at = record.end;
            let ops: Vec<(u8, u8, Whole)> =
                record.blocks.iter().map(|b| (record.rm.0, b.op, b.whole)).collect();
            let has = |rm: u8, op: u8| ops.iter().any(|(r, o, w)| (*r, *o) == (rm, op) && *w != Whole::Free);
            let inits = ops.iter().filter(|(r, o, w)| (*r, *o, *w) == (2, 7, Whole::Init)).count();
            let frees = ops.iter().any(|(_, _, w)| *w == Whole::Free);
            let mut count = |what, is: bool| *self.census.entry(what).or_default() += u64::from(is);
            if record.kind == RecordKind::Structure {
                count("splits", has(2, 8));
                count("root splits", inits >= 2 && !frees);
                count("merges", has(2, 9));
                count("root collapses", inits == 1 && frees);
                count("purges", has(2, 6));
                count("overflow pages", has(2, 64));
                count("detached roots", has(2, 66));
                count("counter pages", has(16, 2));
                count("counter pages freed by undo", has(16, 4));
            }
            count("directories", record.kind == RecordKind::Update && has(16, 1));
            count("CLRs", record.kind == RecordKind::Clr);
        }
        self.seen = at;
    }
}

/// Counts events.
#[derive(Default)]
struct Events {
    segments: AtomicU64,
    recycled: AtomicU64,
    checkpoints: AtomicU64,
    with_transactions: AtomicU64,
    images: AtomicU64,
    evictions: AtomicU64,
    records: AtomicU64,
}

impl Events {
    fn tracer(self: &Arc<Events>) -> Arc<dyn hamal::Tracer> {
        let e = self.clone();
        Arc::new(move |event: &Event<'_>| {
            match event {
                Event::LogSegment { recycled: true, .. } => &e.recycled,
                Event::LogSegment { .. } => &e.segments,
                Event::CheckpointEnd { att, .. } => {
                    if *att > 0 {
                        e.with_transactions.fetch_add(1, Relaxed);
                    }
                    &e.checkpoints
                }
                Event::PageImage { .. } => &e.images,
                Event::PageEvict { .. } => &e.evictions,
                Event::LogAppend { .. } => &e.records,
                _ => return,
            }
            .fetch_add(1, Relaxed);
        })
    }
    fn add_to(&self, census: &mut Census) {
        for (name, n) in [
            ("segments made", &self.segments),
            ("segments used again", &self.recycled),
            ("checkpoints", &self.checkpoints),
            ("checkpoints with open transactions", &self.with_transactions),
            ("images", &self.images),
            ("evictions", &self.evictions),
            ("log records", &self.records),
        ] {
            *census.entry(name).or_default() += n.load(Relaxed);
        }
    }
}

/// Runs a scenario against the model and counts what happened.
fn against_the_model(
    engine: &dyn Engine,
    workload: &dyn Workload,
    seed: u64,
    length: usize,
    census: &mut Census,
) {
    let (disk, config) = (MemDisk::new(), workload.config(seed));
    let session = engine.create(Arc::new(disk.clone()), &config).unwrap();
    let mut runner = Runner::new(session);
    let mut log = LogCensus::default();
    for (i, op) in workload.operations(seed, length).iter().enumerate() {
        assert_eq!(op.to_string().parse::<Op>().as_ref(), Ok(op), "the text form");
        let place = format!("{} on {}, seed {seed}, operation {i}", workload.name(), engine.name());
        runner.apply(op, &place);
        *census.entry("operations").or_default() += 1;
        if matches!(op, Op::Commit { .. } | Op::Rollback { .. } | Op::RollbackTo { .. } | Op::Reopen) {
            runner.judge(&place);
        }
        if matches!(op, Op::Commit { .. } | Op::Checkpoint | Op::Step | Op::Flush | Op::Reopen) {
            log.look(&disk);
        }
        if runner.model.allowed().high() == runner.model.allowed().low() {
            let state = runner.model.allowed();
            let state = state.state(state.high());
            assert_eq!(workload.invariant(state), None, "{place}");
        }
    }
    let place = format!("{} on {}, seed {seed}, at the end", workload.name(), engine.name());
    runner.judge(&place);
    runner.apply(&Op::Reopen, &place);
    let found = runner.session.contents().unwrap();
    let high = runner.model.allowed().high();
    assert_eq!(runner.model.allowed().state(high).difference(&found), None, "{place}");
    assert!(runner.session.opened().clean, "{place}");
    verified(&mut *runner.session, &place);
    log.look(&disk);
    for (name, n) in log.census {
        *census.entry(name).or_default() += n;
    }
    *census.entry("refused").or_default() += runner.refused;
}

fn family(
    name: &str,
    make: impl Fn(Arc<dyn hamal::Tracer>) -> Box<dyn Engine>,
    workload: &dyn Workload,
    length: usize,
) -> Census {
    let mut census = Census::new();
    for seed in 0..30 {
        let events = Arc::new(Events::default());
        let engine = make(events.tracer());
        against_the_model(&*engine, workload, seed, length, &mut census);
        events.add_to(&mut census);
    }
    println!("{name}, length {length}: {census:#?}");
    census
}

fn hamal(tracer: Arc<dyn hamal::Tracer>) -> Box<dyn Engine> {
    Box::new(Hamal::new().with_tracer(tracer))
}
fn pages(tracer: Arc<dyn hamal::Tracer>) -> Box<dyn Engine> {
    Box::new(Pages::new().with_tracer(tracer))
}

#[track_caller]
fn reached(census: &Census, names: &[&str]) {
    for name in names {
        assert!(census.get(name).is_some_and(|n| *n > 0), "no {name} in {census:#?}");
    }
}

#[test]
fn btree_agrees_with_the_model_and_meets_every_mechanism() {
    let census = family("btree", hamal, &BTree, 120);
    reached(
        &census,
        &[
            "splits",
            "root splits",
            "merges",
            "root collapses",
            "purges",
            "overflow pages",
            "detached roots",
            "CLRs",
            "segments made",
            "segments used again",
            "checkpoints with open transactions",
            "images",
            "refused",
        ],
    );
    let census = family("btree", hamal, &BTree, 10);
    reached(&census, &["checkpoints", "overflow pages", "CLRs"]);
}

#[test]
fn bank_agrees_with_the_model() {
    let census = family("bank", hamal, &Bank, 100);
    reached(&census, &["CLRs", "checkpoints with open transactions", "refused"]);
    family("bank", hamal, &Bank, 12);
}

#[test]
fn counters_agree_with_the_model() {
    let census = family("counters", pages, &Counters, 100);
    reached(
        &census,
        &[
            "directories",
            "counter pages",
            "counter pages freed by undo",
            "CLRs",
            "checkpoints with open transactions",
        ],
    );
    family("counters", pages, &Counters, 12);
    // The same scenarios on rows.
    family("counters", hamal, &Counters, 60);
}

/// Crashes between operations: recovery finds an allowed state, twice the same, and the engine works on.
#[test]
fn crashes_between_operations_leave_an_allowed_state() {
    let cases: [(&dyn Engine, &dyn Workload); 3] =
        [(&Hamal::new(), &BTree), (&Hamal::new(), &Bank), (&Pages::new(), &Counters)];
    for (engine, workload) in cases {
        let (mut crashes, mut losers) = (0, 0);
        for seed in 0..30 {
            let (disk, config) = (MemDisk::new(), workload.config(seed));
            let session = engine.create(Arc::new(disk.clone()), &config).unwrap();
            let mut runner = Runner::new(session);
            let mut random = Random::new(seed);
            for (i, op) in workload.operations(seed, 80).iter().enumerate() {
                let place = format!(
                    "{} on {}, seed {seed}, crash after operation {i}",
                    workload.name(),
                    engine.name()
                );
                runner.apply(op, &place);
                if !random.one_in(5) {
                    continue;
                }
                let torn = *random.pick(&[512, 4096]);
                let model = match random.below(6) {
                    0 => CrashModel::LoseUnsynced,
                    1 => CrashModel::KeepAll,
                    _ => CrashModel::Random { seed: random.next(), torn_sector_bytes: torn },
                };
                let crashed = disk.crash(model);
                let mut after = engine
                    .open(Arc::new(crashed.clone()), &config)
                    .unwrap_or_else(|e| panic!("{place}: {e}"));
                let found = after.contents().unwrap_or_else(|e| panic!("{place}: {e}"));
                let allowed = runner.model.allowed();
                let state = allowed.judge(&found).unwrap_or_else(|(_, what)| panic!("{place}: {what}"));
                assert_eq!(workload.invariant(&found), None, "{place}");
                verified(&mut *after, &place);
                crashes += 1;
                losers += after.opened().losers;
                drop(after);
                // Properly closed: nothing to do, the same rows.
                let mut again =
                    engine.open(Arc::new(crashed), &config).unwrap_or_else(|e| panic!("{place}: {e}"));
                assert!(again.opened().clean, "{place}");
                assert_eq!(allowed.exactly(state).judge(&again.contents().unwrap()), Ok(state), "{place}");
            }
        }
        println!("{} on {}: {crashes} crashes, {losers} losers", workload.name(), engine.name());
        assert!(crashes > 100 && losers > 10);
    }
}

/// Answers every question: as the newest write left it.
struct Newest;

impl Fates for Newest {
    fn decide(&mut self, _: Question, options: u8) -> u8 {
        options - 1
    }
}

/// On the simulated disk: the watch has nothing to say, nor have the audit and the reference after a killed process.
#[test]
fn on_the_simulated_disk_nobody_objects() {
    let cases: [(&dyn Engine, &dyn Workload); 3] =
        [(&Hamal::new(), &BTree), (&Hamal::new(), &Bank), (&Pages::new(), &Counters)];
    for (engine, workload) in cases {
        for seed in 0..30 {
            let place = format!("{} on {}, seed {seed}", workload.name(), engine.name());
            let (disk, config) = (SimDisk::new(Persistence::Posix), workload.config(seed));
            disk.set_watch(engine.watch(&config).unwrap());
            let session = engine.create(Arc::new(disk.clone()), &config).unwrap();
            let mut runner = Runner::new(session);
            for op in workload.operations(seed, 80) {
                runner.apply(&op, &place);
            }
            assert_eq!(disk.objections(), Vec::<String>::new(), "{place}");
            let image = disk.kept();
            disk.power_off();
            drop(runner.session);
            let disk = SimDisk::boot(&image, Box::new(Newest));
            disk.set_watch(engine.watch(&config).unwrap());
            let reference = engine.reference(&disk, &config);
            let mut session = engine.open(Arc::new(disk.clone()), &config).unwrap();
            let found = session.contents().unwrap();
            let judged = runner.model.allowed().judge(&found);
            assert!(judged.is_ok(), "{place}: {judged:?}");
            if let Some(reference) = reference {
                let (reference, _) = reference.unwrap_or_else(|e| panic!("{place}: {e}"));
                assert_eq!(found.difference(&reference), None, "{place}: the reference");
            }
            assert_eq!(disk.objections(), Vec::<String>::new(), "{place}: recovery");
            let image = disk.kept();
            disk.power_off();
            drop(session);
            let disk = SimDisk::boot(&image, Box::new(Newest));
            let wrong = engine.audit(&disk, &config).unwrap_or_else(|e| panic!("{place}: {e}"));
            assert!(wrong.is_empty(), "{place}: {wrong:#?}");
        }
    }
}

#[test]
fn a_seed_is_a_scenario_to_the_byte() {
    let cases: [(&dyn Engine, &dyn Workload); 3] =
        [(&Hamal::new(), &BTree), (&Hamal::new(), &Bank), (&Pages::new(), &Counters)];
    for (engine, workload) in cases {
        for seed in 0..24 {
            let run = || {
                let disk = MemDisk::new();
                let session = engine.create(Arc::new(disk.clone()), &workload.config(seed)).unwrap();
                let mut runner = Runner::new(session);
                let ops = workload.operations(seed, 100);
                for op in &ops {
                    runner.apply(op, "a run");
                }
                let before = (disk.stats(), dump(&disk));
                drop(runner);
                (ops, before, disk.stats(), dump(&disk))
            };
            let (one, two) = (run(), run());
            assert_eq!(one.0, two.0);
            assert_eq!(one.1.0, two.1.0, "{} seed {seed}", workload.name());
            assert_eq!(one.2, two.2, "{} seed {seed}, when dropped", workload.name());
            assert!(
                one.1.1 == two.1.1 && one.3 == two.3,
                "{} seed {seed}: the files differ",
                workload.name()
            );
        }
    }
}

/// Short scenarios: all sequences of one and of two actions are there.
#[test]
fn tiny_scenarios_are_all_different() {
    let all: BTreeSet<Vec<String>> = (0..342)
        .map(|seed| {
            let ops = BTree.operations(seed, 8);
            let begin = ops.iter().position(|op| matches!(op, Op::Commit { .. })).unwrap() + 1;
            ops[begin..].iter().filter(|op| **op != Op::Checkpoint).map(|op| op.to_string()).collect()
        })
        .collect();
    assert!(all.len() > 290, "{}", all.len());
}

/// After a power failure every call fails: a session that is dropped then neither waits nor writes.
#[test]
fn dropping_a_session_without_power_is_quick() {
    let cases: [(&dyn Engine, &dyn Workload); 2] = [(&Hamal::new(), &BTree), (&Pages::new(), &Counters)];
    for (engine, workload) in cases {
        let mut micros: Vec<u128> = Vec::new();
        for seed in 0..120 {
            let (disk, config) = (MemDisk::new(), workload.config(seed));
            let session = engine.create(Arc::new(disk.clone()), &config).unwrap();
            let mut runner = Runner::new(session);
            for op in workload.operations(seed, 20 + seed as usize) {
                runner.apply(&op, "a run");
            }
            for on in [MemOp::Read, MemOp::Write, MemOp::Sync] {
                disk.inject(MemFault { at: 1, on, once: false });
            }
            let before = disk.stats();
            let start = Instant::now();
            drop(runner.session);
            micros.push(start.elapsed().as_micros());
            assert_eq!(disk.stats(), before);
        }
        micros.sort_unstable();
        let (median, worst) = (micros[micros.len() / 2], micros[micros.len() - 1]);
        println!("dropping {} without power: {median} us, at worst {worst} us", engine.name());
        assert!(median < 10_000, "{micros:?}");
    }
}

#[test]
fn refusals_change_nothing_and_are_named() {
    let config = Config::default();
    let run = |engine: &dyn Engine, lines: &[(&str, Option<&str>)]| {
        let mut session = engine.create(Arc::new(MemDisk::new()), &config).unwrap();
        for (line, refused) in lines {
            let op: Op = line.parse().unwrap();
            match (session.apply(&op), refused) {
                (Ok(_), None) => {}
                (Err(e), Some(name)) if e.kind == FailureKind::Refused && e.text.starts_with(name) => {}
                (got, _) => panic!("{line}: {got:?}"),
            }
        }
        verified(&mut *session, "afterwards");
        session.contents().unwrap()
    };
    let rows = run(
        &Hamal::new(),
        &[
            ("commit 1", Some("TransactionEnded")),
            ("rollback 1", None),
            ("begin 1", None),
            ("begin 1", Some("Open")),
            ("rollback-to 1 3", Some("NotFound")),
            ("put 1 0 1 1 1", Some("NotFound")),
            ("create 1 0", None),
            ("create 1 0", Some("AlreadyExists")),
            ("add 1 0 1 5", None),
            ("commit 1", None),
            ("begin 1", None),
            ("begin 2", None),
            ("add 1 0 1 5", None),
            ("add 2 0 1 5", Some("Deadlock")),
            ("delete 2 0 77", None),
            ("rollback 2", None),
            ("begin 2", None),
            ("commit-early 1", None),
            ("add 2 0 1 5", Some("Conflict")),
            ("rollback 2", None),
            ("step", None),
        ],
    );
    assert_eq!(rows.trees[&0].values().next().unwrap(), &10i64.to_le_bytes());
    let counters = run(
        &Pages::new(),
        &[
            ("begin 1", None),
            ("begin 2", None),
            ("add 1 0 1 5", Some("NotFound")),
            ("create 1 1", Some("InvalidArgument")),
            ("create 1 0", None),
            ("create 2 0", Some("Deadlock")),
            ("add 2 0 1 5", Some("NotFound")),
            ("rollback 2", None),
            ("add 1 0 512 5", Some("InvalidArgument")),
            ("put 1 0 1 1 1", Some("InvalidArgument")),
            ("add 1 0 511 5", None),
            ("commit 1", None),
            ("begin 1", None),
            ("begin 2", None),
            ("add 1 0 511 1", None),
            ("add 2 0 511 -5", None),
            ("add 2 0 40 9", None),
            ("commit 2", None),
            ("rollback 1", None),
        ],
    );
    let rows: Vec<_> =
        counters.trees[&0].values().map(|v| i64::from_le_bytes(v[..].try_into().unwrap())).collect();
    assert_eq!(rows, [9, 0]);
}
