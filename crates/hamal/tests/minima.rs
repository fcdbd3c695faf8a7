//! The smallest settings there are: everything works in them, only slower.
mod common;

use common::{bytes, rows};
use hamal::disk::{CrashModel, MemDisk};
use hamal::{Builder, Database, ErrorKind, WriteTxn};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

fn smallest(page_size: usize, ring: usize, pad: usize) -> Builder {
    Database::builder()
        .page_size(page_size)
        .cache_bytes(24 * page_size)
        .log_segment_bytes(8 << 10)
        .log_ring_bytes(ring)
        .log_pad(pad)
        .log_limit_bytes((4 * ring as u64).max(64 * page_size as u64))
        .checkpoint_log_bytes(16 << 10)
        .version_budget_bytes(64 << 10)
        .lock_timeout(Duration::from_millis(200))
        .check_apply(true)
        .background(false)
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// What a transaction may run into in a log, a cache and a version store of this size, and be rolled back for.
fn harmless(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::LogFull
            | ErrorKind::VersionBudget
            | ErrorKind::Conflict
            | ErrorKind::Deadlock
            | ErrorKind::LockTimeout
            | ErrorKind::TransactionEnded
            // The log at its limit ends the snapshots that hold it, a writer's too.
            | ErrorKind::SnapshotTooOld
    )
}

/// Rows of one thread among those of the others: keys of all lengths that lie close together, now and then a value of
/// some pages.
fn step(tx: &WriteTxn, r: &mut Random, me: u64, max_key: u64, model: &mut Rows) -> hamal::Result<()> {
    let tree = tx.tree("t")?;
    let n = r.below(160);
    let mut key = format!("{n:04}-{me:03}").into_bytes();
    key.resize(key.len() + (n * 37 % (max_key - 16)) as usize, b'x');
    match r.below(10) {
        0..=2 => {
            tree.delete(&key)?;
            model.remove(&key);
        }
        3 => {
            let value = bytes(r.next(), 5_000 + r.below(20_000) as usize);
            tree.put(&key, &value)?;
            model.insert(key, value);
        }
        _ => {
            let value = bytes(r.next(), r.below(900) as usize);
            tree.put(&key, &value)?;
            model.insert(key, value);
        }
    }
    Ok(())
}

/// One transaction of random operations, some of them rolled back to a savepoint; whether it committed.
fn transaction(db: &Database, r: &mut Random, me: u64, model: &mut Rows) -> hamal::Result<bool> {
    let max_key = (db.page_size() / 8).min(512) as u64;
    let mut mine = model.clone();
    let tx = db.begin_write()?;
    let work = || -> hamal::Result<()> {
        for _ in 0..1 + r.below(6) {
            step(&tx, r, me, max_key, &mut mine)?;
        }
        if r.below(3) == 0 {
            let before = mine.clone();
            let point = tx.savepoint()?;
            for _ in 0..1 + r.below(3) {
                step(&tx, r, me, max_key, &mut mine)?;
            }
            tx.rollback_to(&point)?;
            mine = before;
        }
        Ok(())
    };
    let mut work = work;
    match work() {
        Ok(()) => {}
        Err(e) if harmless(e.kind()) => {
            tx.rollback()?;
            return Ok(false);
        }
        Err(e) => return Err(e),
    }
    if r.below(4) == 0 {
        tx.rollback()?;
        return Ok(false);
    }
    match tx.commit() {
        Ok(_) => {}
        // Ended for its log between its last statement and its commit: nothing of it is there.
        Err(e) if harmless(e.kind()) => return Ok(false),
        Err(e) => return Err(e),
    }
    *model = mine;
    Ok(true)
}

fn check(db: &Database, models: &[Rows]) {
    let report = db.verify(&mut |_, _| {}).unwrap();
    assert!(report.findings.is_empty(), "{report:?}");
    let tx = db.begin_read().unwrap();
    let found = rows(&tx.tree("t").unwrap()).unwrap();
    let all: Rows = models.iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
    assert!(found == all, "{} rows, and {} expected", found.len(), all.len());
}

fn create(b: &Builder, disk: &MemDisk) -> Database {
    let db = b.create_on(Arc::new(disk.clone())).unwrap();
    let tx = db.begin_write().unwrap();
    tx.create_tree("t").unwrap();
    tx.commit().unwrap();
    db
}

/// Who has not got on by then never will, however slow the machine.
const HANG: Duration = Duration::from_secs(300);

fn many_threads(b: Builder, threads: u64, rounds: u64) {
    let disk = MemDisk::new();
    let db = create(&b, &disk);
    let (committed, enough, start) = (AtomicU64::new(0), threads * rounds / 8, Instant::now());
    let mut models = Vec::new();
    std::thread::scope(|s| {
        let handles: Vec<_> = (0..threads)
            .map(|me| {
                let (db, committed) = (&db, &committed);
                s.spawn(move || {
                    let (mut r, mut model) = (Random(me), Rows::new());
                    // More rounds if too few were committed: one thread may keep the log, and not run.
                    let too_few = || committed.load(Relaxed) <= enough && start.elapsed() < HANG;
                    let mut round = 0;
                    while round < rounds || too_few() {
                        round += 1;
                        let done = transaction(db, &mut r, me, &mut model);
                        committed.fetch_add(u64::from(done.unwrap()), Relaxed);
                        db.maintenance_step().unwrap();
                    }
                    model
                })
            })
            .collect();
        models = handles.into_iter().map(|h| h.join().unwrap()).collect();
    });
    assert!(committed.load(Relaxed) > enough, "{} transactions", committed.load(Relaxed));
    check(&db, &models);
    // After a power failure, and after a close.
    let crashed = disk.crash(CrashModel::LoseUnsynced);
    check(&b.open_on(Arc::new(crashed)).unwrap(), &models);
    db.close().unwrap();
    check(&b.open_on(Arc::new(disk)).unwrap(), &models);
}

#[test]
fn four_threads() {
    // Each live transaction holds log for the image of every page that it changed (TXN-ROOM): four at once need more than the
    // least, or most of them meet a full log.
    let b = smallest(4096, 32 << 10, 512).log_limit_bytes(1u64 << 20);
    many_threads(b.clone(), 4, 120);
    many_threads(b.background(true), 4, 120);
}

#[test]
fn four_threads_with_other_pages_and_pads() {
    many_threads(smallest(8192, 64 << 10, 512), 4, 30);
    many_threads(smallest(16_384, 128 << 10, 1024), 4, 30);
    many_threads(smallest(4096, 64 << 10, 4096), 4, 30);
}

/// More threads than frames: they wait for each other, and none for ever.
#[test]
fn more_threads_than_frames() {
    let start = Instant::now();
    // Room in the log for all of them: it is the frames that are short here.
    many_threads(smallest(4096, 32 << 10, 512).log_limit_bytes(8 << 20), 40, 12);
    assert!(start.elapsed() < HANG, "{:?}", start.elapsed());
}

/// A crash after each of some transactions of one thread: losers are rolled back in the smallest cache.
#[test]
fn crashes() {
    let b = smallest(4096, 32 << 10, 512);
    let disk = MemDisk::new();
    let db = create(&b, &disk);
    let (mut r, mut model) = (Random(99), Rows::new());
    for round in 0..150 {
        transaction(&db, &mut r, 0, &mut model).unwrap();
        db.maintenance_step().unwrap();
        let open = db.begin_write().unwrap();
        let mut lost = model.clone();
        for _ in 0..3 {
            match step(&open, &mut r, 0, 512, &mut lost) {
                Err(e) if !harmless(e.kind()) => panic!("{e}"),
                _ => {}
            }
        }
        if round % 3 == 0 {
            db.flush().unwrap();
        }
        let crashed = disk.crash(CrashModel::Random { seed: round, torn_sector_bytes: 512 });
        check(&b.open_on(Arc::new(crashed)).unwrap(), std::slice::from_ref(&model));
        open.rollback().unwrap();
    }
}
