//! The durability promise, by random histories and power failures at any input/output operation.
//!
//! A disk in memory is cut at the n-th change: what a power failure may leave at that moment is kept aside, and the run goes on
//! unaware. Beside it runs a model: the states of the database after each commit. What is found after recovery must be one of
//! the states from the last acknowledged to the last begun. Recovery itself is cut too.
mod common;

use common::{Contents, bytes, contents, small, verify};
use hamal::disk::{CrashModel, Disk, DiskFile, DiskLock, MemDisk, OpenMode};
use hamal::{Database, Durability, Error, ErrorKind, Savepoint, WriteTxn};
use proptest::prelude::*;
use std::io;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

/// What a cut left, and which states were allowed then.
struct Cut {
    disk: MemDisk,
    acknowledged: u64,
    begun: u64,
}

/// A disk that is cut once. The atomics say how far the model was.
#[derive(Clone)]
struct CutDisk {
    inner: MemDisk,
    plan: Arc<Plan>,
}

struct Plan {
    countdown: AtomicI64,
    model: CrashModel,
    acknowledged: AtomicU64,
    begun: AtomicU64,
    cut: Mutex<Option<Cut>>,
}

impl std::fmt::Debug for CutDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CutDisk")
    }
}

impl CutDisk {
    fn new(inner: MemDisk, after: i64, model: CrashModel, state: u64) -> CutDisk {
        let plan = Plan {
            countdown: AtomicI64::new(after),
            model,
            acknowledged: AtomicU64::new(state),
            begun: AtomicU64::new(state),
            cut: Mutex::new(None),
        };
        CutDisk { inner, plan: Arc::new(plan) }
    }
    fn tick(&self) {
        if self.plan.countdown.fetch_sub(1, SeqCst) == 0 {
            self.cut();
        }
    }
    fn cut(&self) {
        let disk = self.inner.crash(self.plan.model);
        let (acknowledged, begun) = (self.plan.acknowledged.load(SeqCst), self.plan.begun.load(SeqCst));
        *self.plan.cut.lock().unwrap() = Some(Cut { disk, acknowledged, begun });
    }
    /// The cut, made now if it has not come.
    fn take(&self) -> Cut {
        if self.plan.countdown.swap(-1, SeqCst) >= 0 {
            self.cut();
        }
        self.plan.cut.lock().unwrap().take().expect("cut")
    }
}

#[derive(Debug)]
struct CutFile {
    inner: Arc<dyn DiskFile>,
    disk: CutDisk,
}

impl DiskFile for CutFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read_at(offset, buf)
    }
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.disk.tick();
        self.inner.write_at(offset, buf)
    }
    fn sync(&self) -> io::Result<()> {
        self.disk.tick();
        self.inner.sync()
    }
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.disk.tick();
        self.inner.set_len(len)
    }
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.disk.tick();
        self.inner.allocate(offset, len)
    }
    fn bypasses_cache(&self) -> bool {
        self.inner.bypasses_cache()
    }
}

impl Disk for CutDisk {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        self.tick();
        Ok(Arc::new(CutFile { inner: self.inner.open(name, mode)?, disk: self.clone() }))
    }
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.inner.list(dir)
    }
    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.tick();
        self.inner.create_dir(dir)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.tick();
        self.inner.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.tick();
        self.inner.remove(name)
    }
    fn exists(&self, name: &str) -> io::Result<bool> {
        self.inner.exists(name)
    }
    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.tick();
        self.inner.sync_dir(dir)
    }
    fn lock(&self, name: &str) -> io::Result<Box<dyn DiskLock>> {
        self.inner.lock(name)
    }
    fn describe(&self) -> String {
        "a disk that is cut".into()
    }
}

#[derive(Clone, Debug)]
enum Op {
    Put { tree: u8, key: u8, seed: u64, len: usize },
    Remove { tree: u8, key: u8 },
    Load { tree: u8, key: u8, step: u8, rows: u8, seed: u64, len: usize },
    Create(u8),
    Drop(u8),
    Rename(u8, u8),
    Savepoint,
    RollbackTo,
}

#[derive(Clone, Debug)]
enum End {
    Commit,
    CommitAsync,
    RollBack,
    /// Left in flight: it becomes a loser.
    Leave,
}

#[derive(Clone, Debug)]
enum Step {
    Transaction(Vec<Op>, End),
    Maintain,
    Checkpoint,
    Flush,
}

fn ops() -> impl Strategy<Value = Op> {
    let (tree, key) = (0..3u8, any::<u8>());
    let len = prop_oneof![8 => 0..200usize, 2 => 200..1100usize, 1 => 1100..20_000usize];
    prop_oneof![
        12 => (tree.clone(), key, any::<u64>(), len)
            .prop_map(|(tree, key, seed, len)| Op::Put { tree, key, seed, len }),
        4 => (tree.clone(), any::<u8>()).prop_map(|(tree, key)| Op::Remove { tree, key }),
        3 => (tree.clone(), any::<u8>(), 1..9u8, 1..40u8, any::<u64>(), 0..300usize)
            .prop_map(|(tree, key, step, rows, seed, len)| Op::Load { tree, key, step, rows, seed, len }),
        2 => tree.clone().prop_map(Op::Create),
        1 => tree.clone().prop_map(Op::Drop),
        1 => (tree.clone(), tree).prop_map(|(a, b)| Op::Rename(a, b)),
        2 => Just(Op::Savepoint),
        2 => Just(Op::RollbackTo),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let end = prop_oneof![6 => Just(End::Commit), 2 => Just(End::CommitAsync), 2 => Just(End::RollBack),
                          1 => Just(End::Leave)];
    let step = prop_oneof![
        8 => (prop::collection::vec(ops(), 1..20), end).prop_map(|(o, e)| Step::Transaction(o, e)),
        2 => Just(Step::Maintain),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Flush),
    ];
    prop::collection::vec(step, 1..25)
}

fn models() -> impl Strategy<Value = CrashModel> {
    prop_oneof![
        1 => Just(CrashModel::LoseUnsynced),
        1 => Just(CrashModel::KeepAll),
        4 => (any::<u64>(), prop_oneof![Just(512usize), Just(4096)])
            .prop_map(|(seed, unit)| CrashModel::Random { seed, torn_sector_bytes: unit }),
    ]
}

fn tree_name(tree: u8) -> String {
    format!("tree{tree}")
}

/// Applies the operations to a transaction and to the model of what it sees. An error that a user has to expect ends it.
fn apply(tx: &WriteTxn, ops: &[Op], model: &mut Contents) -> Result<(), Error> {
    let mut savepoint: Option<(Savepoint, Contents)> = None;
    for op in ops {
        match op {
            Op::Put { tree, key, seed, len } => {
                let t = tx.open_or_create_tree(&tree_name(*tree))?;
                t.put([*key; 3], bytes(*seed, *len))?;
                model.entry(tree_name(*tree)).or_default().insert(vec![*key; 3], bytes(*seed, *len));
            }
            Op::Load { tree, key, step, rows, seed, len } => {
                let t = tx.open_or_create_tree(&tree_name(*tree))?;
                let keys = (0..*rows).map_while(|i| i.checked_mul(*step)?.checked_add(*key));
                let all: Vec<_> = keys.map(|k| ([k; 3], bytes(*seed ^ u64::from(k), *len))).collect();
                t.bulk_load(all.iter().map(|(k, v)| (k, v)))?;
                let rows = model.entry(tree_name(*tree)).or_default();
                rows.extend(all.into_iter().map(|(k, v)| (k.to_vec(), v)));
            }
            Op::Remove { tree, key } => {
                if let Some(rows) = model.get_mut(&tree_name(*tree)) {
                    let old = tx.tree(&tree_name(*tree))?.remove([*key; 3])?;
                    assert_eq!(old.map(Vec::from), rows.remove(&vec![*key; 3]));
                }
            }
            Op::Create(tree) => match tx.create_tree(&tree_name(*tree)) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {
                    assert!(model.contains_key(&tree_name(*tree)))
                }
                other => {
                    other?;
                    assert!(model.insert(tree_name(*tree), Default::default()).is_none());
                }
            },
            Op::Drop(tree) => match tx.drop_tree(&tree_name(*tree)) {
                Err(e) if e.kind() == ErrorKind::NotFound => assert!(!model.contains_key(&tree_name(*tree))),
                other => {
                    other?;
                    assert!(model.remove(&tree_name(*tree)).is_some());
                }
            },
            Op::Rename(a, b) if a != b => match tx.rename_tree(&tree_name(*a), &tree_name(*b)) {
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists) => {}
                other => {
                    other?;
                    let rows = model.remove(&tree_name(*a)).expect("renamed");
                    assert!(model.insert(tree_name(*b), rows).is_none());
                }
            },
            Op::Rename(..) => {}
            Op::Savepoint => savepoint = Some((tx.savepoint()?, model.clone())),
            Op::RollbackTo => {
                if let Some((point, then)) = &savepoint {
                    tx.rollback_to(point)?;
                    *model = then.clone();
                }
            }
        }
    }
    Ok(())
}

/// Errors that say "roll back and try again later".
fn expected(e: &Error) -> bool {
    e.is_retryable() || matches!(e.kind(), ErrorKind::LogFull | ErrorKind::VersionBudget)
}

/// Runs the steps; `states[i]` is the database after commit i.
fn run(db: &Database, disk: &CutDisk, steps: &[Step], states: &mut Vec<Contents>) {
    let mut left = Vec::new();
    let mut waiting = Vec::new();
    for step in steps {
        match step {
            Step::Maintain => {
                db.maintenance_step().unwrap();
            }
            Step::Checkpoint => {
                db.checkpoint().unwrap();
            }
            Step::Flush => db.flush().unwrap(),
            Step::Transaction(ops, end) => {
                let tx = db.begin_write().unwrap();
                let mut model = states.last().unwrap().clone();
                match apply(&tx, ops, &mut model) {
                    Err(e) if expected(&e) => {
                        tx.rollback().unwrap();
                        continue;
                    }
                    other => other.unwrap(),
                }
                match end {
                    End::RollBack => tx.rollback().unwrap(),
                    End::Leave if left.len() < 2 => left.push(tx),
                    End::Leave => drop(tx),
                    End::Commit | End::CommitAsync => {
                        states.push(model);
                        let n = states.len() as u64 - 1;
                        disk.plan.begun.store(n, SeqCst);
                        if matches!(end, End::Commit) {
                            tx.commit().unwrap();
                            disk.plan.acknowledged.store(n, SeqCst);
                        } else {
                            waiting.push((n, tx.commit_with(Durability::Async).unwrap()));
                        }
                    }
                }
            }
        }
        for (n, ticket) in &waiting {
            if ticket.is_durable() {
                disk.plan.acknowledged.fetch_max(*n, SeqCst);
            }
        }
    }
    // Still in flight at the cut, if it has not come yet.
    if disk.plan.countdown.load(SeqCst) >= 0 {
        let cut = disk.take();
        *disk.plan.cut.lock().unwrap() = Some(cut);
    }
    drop(left);
}

/// Opens what a cut left; which of the allowed states it is.
fn check(cut: &Cut, disk: MemDisk, states: &[Contents]) -> (Database, u64) {
    let db = small().check_apply(true).open_on(Arc::new(disk)).unwrap();
    let found = contents(&db).unwrap();
    let allowed = cut.acknowledged..=cut.begun;
    let state = allowed.clone().find(|i| states[*i as usize] == found);
    let Some(state) = state else {
        let elsewhere: Vec<usize> = (0..states.len()).filter(|i| states[*i] == found).collect();
        panic!("not one of the states {allowed:?}; it is {elsewhere:?}\n{}", db.recovery_report());
    };
    verify(&db);
    (db, state)
}

/// How many histories: 60, or as many as `PROPTEST_CASES` says.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(60)
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 400, ..ProptestConfig::with_cases(cases()) })]

    #[test]
    fn what_was_acknowledged_survives(
        rounds in prop::collection::vec((steps(), 0..1500i64, models(), 0..120i64, models()), 1..4)
    ) {
        let mut disk = MemDisk::new();
        drop(small().create_on(Arc::new(disk.clone())).unwrap());
        let mut states = vec![Contents::new()];
        for (steps, after, model, again_after, again_model) in rounds {
            let cut_disk = CutDisk::new(disk, after, model, states.len() as u64 - 1);
            // Every cut counts from here: opening (recovering) and working.
            let db = small().check_apply(true).open_on(Arc::new(cut_disk.clone())).unwrap();
            run(&db, &cut_disk, &steps, &mut states);
            drop(db);
            let cut = cut_disk.take_kept();
            // Recovered once, undisturbed.
            let (db, state) = check(&cut, cut.disk.crash(CrashModel::KeepAll), &states);
            drop(db);
            // Recovery cut at some point, and once more: the same state.
            let decided = Cut { disk: cut.disk.clone(), acknowledged: state, begun: state };
            let during = CutDisk::new(cut.disk.crash(CrashModel::KeepAll), again_after, again_model, state);
            drop(small().open_on(Arc::new(during.clone())).unwrap());
            let left = during.take();
            let (db, _) = check(&decided, left.disk.clone(), &states);
            drop(db);
            states.truncate(state as usize + 1);
            disk = left.disk;
        }
        let db = small().open_on(Arc::new(disk)).unwrap();
        prop_assert_eq!(contents(&db).unwrap(), states.last().unwrap().clone());
        while db.maintenance_step().unwrap() {}
        verify(&db);
    }

    /// Making a database, cut anywhere: it is not there, or empty and whole; making it (again) works.
    #[test]
    fn creation_is_all_or_nothing(after in 0..200i64, model in models()) {
        let disk = CutDisk::new(MemDisk::new(), after, model, 0);
        drop(small().create_on(Arc::new(disk.clone())).unwrap());
        let left = disk.take().disk;
        match small().open_on(Arc::new(left.crash(CrashModel::KeepAll))) {
            Ok(db) => prop_assert!(contents(&db).unwrap().is_empty()),
            Err(e) => prop_assert_eq!(e.kind(), ErrorKind::NotADatabase),
        }
        let db = small().open_or_create_on(Arc::new(left)).unwrap();
        prop_assert!(contents(&db).unwrap().is_empty());
        verify(&db);
    }
}

impl CutDisk {
    /// The cut that came, or that `run` made.
    fn take_kept(&self) -> Cut {
        match self.plan.cut.lock().unwrap().take() {
            Some(cut) => cut,
            None => unreachable!("a run ends with a cut"),
        }
    }
}
