//! Many threads, with the background threads running.
mod common;

use common::{PROMPT, contents, small, verify};
use hamal::disk::{CrashModel, MemDisk};
use hamal::{Builder, Database, Result, Value};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

const THREADS: u32 = 8;
const ACCOUNTS: u32 = 20;
const OPENING: u64 = 1000;

fn number(v: Option<Value>) -> u64 {
    v.map_or(0, |v| u64::from_be_bytes(v.as_ref().try_into().unwrap()))
}

fn next(x: &mut u64) -> u64 {
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    *x >> 11
}

fn transfer(db: &Database, random: &mut u64) -> Result<()> {
    let tx = db.begin_write()?;
    let t = tx.tree("accounts")?;
    let from = (next(random) as u32 % ACCOUNTS).to_be_bytes();
    let to = (next(random) as u32 % ACCOUNTS).to_be_bytes();
    let amount = number(t.get(from)?).min(next(random) % 100);
    let here = tx.savepoint()?;
    t.put(from, 0u64.to_be_bytes())?;
    tx.rollback_to(&here)?;
    t.put(from, (number(t.get(from)?) - amount).to_be_bytes())?;
    t.put(to, (number(t.get(to)?) + amount).to_be_bytes())?;
    if next(random).is_multiple_of(8) { tx.rollback() } else { tx.commit().map(drop) }
}

fn total(db: &Database) -> Result<u64> {
    db.begin_read()?.tree("accounts")?.iter().map(|r| r.map(|(_, v)| number(Some(v)))).sum()
}

/// With room in the log for all that the others do while a thread does not run: it is not the limit that is looked at here.
fn builder() -> Builder {
    small().background(true).cache_bytes(256 * 4096).log_limit_bytes(1 << 30)
}

fn bank(disk: &MemDisk) -> Database {
    let db =
        builder().checkpoint_interval(Duration::from_millis(50)).create_on(Arc::new(disk.clone())).unwrap();
    let tx = db.begin_write().unwrap();
    let t = tx.create_tree("accounts").unwrap();
    t.bulk_load((0..ACCOUNTS).map(|a| (a.to_be_bytes(), OPENING.to_be_bytes()))).unwrap();
    tx.commit().unwrap();
    db
}

#[test]
fn contended_writers_and_readers_keep_the_sum() {
    let disk = MemDisk::new();
    let db = bank(&disk);
    let (stop, commits) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut crashed = Vec::new();
    std::thread::scope(|s| {
        for thread in 0..THREADS {
            let (db, stop, commits) = (&db, &stop, &commits);
            s.spawn(move || {
                let mut random = u64::from(thread) * 77 + 1;
                while !stop.load(SeqCst) {
                    match transfer(db, &mut random) {
                        Ok(()) => _ = commits.fetch_add(1, SeqCst),
                        Err(e) if e.is_retryable() => {}
                        Err(e) => panic!("{e}"),
                    }
                }
            });
        }
        for _ in 0..2 {
            s.spawn(|| {
                while !stop.load(SeqCst) {
                    assert_eq!(total(&db).unwrap(), u64::from(ACCOUNTS) * OPENING);
                }
            });
        }
        let start = Instant::now();
        for seed in 1..=10 {
            std::thread::sleep(Duration::from_millis(300));
            crashed.push(disk.crash(CrashModel::Random { seed, torn_sector_bytes: 512 }));
        }
        while commits.load(SeqCst) <= 50 && start.elapsed() < PROMPT {
            std::thread::sleep(Duration::from_millis(20));
        }
        stop.store(true, SeqCst);
    });
    assert!(commits.load(SeqCst) > 50);
    assert_eq!(db.stats().background_error, None);
    db.close().unwrap();
    let (db, report) = small().open_on_with_report(Arc::new(disk)).unwrap();
    assert!(report.clean);
    assert_eq!(total(&db).unwrap(), u64::from(ACCOUNTS) * OPENING);
    verify(&db);
    // The power failures on the way: whole transactions each.
    for disk in crashed {
        let db = small().open_on(Arc::new(disk)).unwrap();
        assert_eq!(total(&db).unwrap(), u64::from(ACCOUNTS) * OPENING);
        verify(&db);
    }
}

#[test]
fn disjoint_writers() {
    let disk = MemDisk::new();
    let db = builder().create_on(Arc::new(disk.clone())).unwrap();
    let tx = db.begin_write().unwrap();
    tx.create_tree("shared").unwrap();
    tx.commit().unwrap();
    std::thread::scope(|s| {
        for thread in 0..THREADS {
            let db = &db;
            s.spawn(move || {
                let name = format!("own{thread}");
                for i in 0..60u32 {
                    loop {
                        let done = (|| {
                            let tx = db.begin_write()?;
                            let key = |j: u32| format!("{:05}/{thread}", i * 10 + j);
                            let shared = tx.tree("shared")?;
                            for j in 0..10 {
                                shared.put(key(j), vec![thread as u8; 30 + (i % 200) as usize])?;
                            }
                            tx.open_or_create_tree(&name)?.put(i.to_be_bytes(), vec![7; 3000])?;
                            if i % 3 == 0 {
                                shared.delete(key(0))?;
                            }
                            tx.commit()
                        })();
                        match done {
                            Ok(_) => break,
                            Err(e) if e.is_retryable() => {}
                            Err(e) => panic!("{e}"),
                        }
                    }
                }
            });
        }
    });
    let all = contents(&db).unwrap();
    assert_eq!(all["shared"].len(), (THREADS * (600 - 20)) as usize);
    assert_eq!(all.len(), THREADS as usize + 1);
    db.close().unwrap();
    let db = small().open_on(Arc::new(disk)).unwrap();
    assert_eq!(contents(&db).unwrap(), all);
    verify(&db);
}

/// Verification and the collector take turns: pages that are freed while it walks would look like findings.
#[test]
fn verify_while_the_collector_works() {
    let db = hamal::Database::builder().page_size(4096).in_memory().expect("create");
    for round in 0..30u8 {
        let tx = db.begin_write().expect("begin");
        let t = tx.open_or_create_tree("t").expect("tree");
        for k in 0..20u8 {
            t.put([k], vec![round; 9000]).expect("put");
        }
        tx.commit().expect("commit");
        let report = db.verify(&mut |_, _| {}).expect("verify");
        assert!(report.findings.is_empty(), "round {round}: {:?}", report.findings);
    }
    let live = db.begin_write().expect("begin");
    assert_eq!(db.verify(&mut |_, _| {}).unwrap_err().kind(), hamal::ErrorKind::InvalidArgument);
    live.rollback().expect("rollback");
    db.verify(&mut |_, _| {}).expect("verify");
}
