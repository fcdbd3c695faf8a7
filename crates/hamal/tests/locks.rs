//! `get_for_update` through the public API: waiting, savepoints, crashes, long values.
mod common;

use common::{PROMPT, bytes, small, verify};
use hamal::disk::{CrashModel, MemDisk};
use hamal::{Database, Durability, ErrorKind, Isolation, Tree, WriteOptions, WriteTxn};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

fn start(disk: &MemDisk) -> Database {
    let db = small().create_on(Arc::new(disk.clone())).unwrap();
    let tx = db.begin_write().unwrap();
    let t = tx.create_tree("t").unwrap();
    t.put("k", 0u64.to_be_bytes()).unwrap();
    t.put("long", bytes(5, 50_000)).unwrap();
    tx.commit().unwrap();
    db
}

fn t(tx: &WriteTxn) -> Tree {
    tx.tree("t").unwrap()
}

fn until_waiting(db: &Database, waits: u64) {
    let start = Instant::now();
    while db.stats().lock_waits < waits {
        assert!(start.elapsed() < PROMPT, "nobody waits");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn increments_under_a_lock_are_never_lost_and_never_conflict() {
    let db = small().in_memory().unwrap();
    let tx = db.begin_write().unwrap();
    tx.create_tree("t").unwrap();
    tx.commit().unwrap();
    let options = WriteOptions::new().isolation(Isolation::ReadCommitted);
    thread::scope(|s| {
        for _ in 0..6 {
            s.spawn(|| {
                for _ in 0..50 {
                    let tx = db.begin_write_with(options).unwrap();
                    // The first one finds no row, and locks the key all the same.
                    let n = t(&tx).get_for_update("n").unwrap();
                    let n = n.map_or(0, |v| u64::from_be_bytes(v.as_ref().try_into().unwrap()));
                    t(&tx).put("n", (n + 1).to_be_bytes()).unwrap();
                    tx.commit_with(Durability::Async).unwrap();
                }
            });
        }
    });
    let tx = db.begin_write().unwrap();
    assert_eq!(t(&tx).get("n").unwrap().unwrap(), 300u64.to_be_bytes().to_vec());
    assert_eq!((db.stats().conflicts, db.stats().deadlocks), (0, 0));
}

#[test]
fn a_key_without_a_row_is_locked() {
    let db = start(&MemDisk::new());
    let tx = db.begin_write().unwrap();
    assert_eq!(t(&tx).get_for_update("new").unwrap(), None);
    assert!(!t(&tx).contains_key("new").unwrap());
    assert_eq!(t(&tx).len().unwrap(), 2);
    let other = db.begin_write().unwrap();
    assert_eq!(t(&other).no_wait().put("new", "x").unwrap_err().kind(), ErrorKind::WouldWait);
    assert_eq!(t(&other).get("new").unwrap(), None);
    t(&tx).put("new", "mine").unwrap();
    tx.commit().unwrap();
    assert_eq!(t(&other).put("new", "x").unwrap_err().kind(), ErrorKind::Conflict);
}

#[test]
fn readers_do_not_wait_for_a_lock() {
    let db = start(&MemDisk::new());
    let tx = db.begin_write().unwrap();
    t(&tx).get_for_update("long").unwrap();
    let read = db.begin_read().unwrap();
    assert_eq!(read.tree("t").unwrap().get("long").unwrap().unwrap(), bytes(5, 50_000));
    assert_eq!(read.tree("t").unwrap().len().unwrap(), 2);
    assert_eq!(db.stats().lock_waits, 0);
}

#[test]
fn a_savepoint_gives_locks_back_and_wakes_who_waits() {
    let db = start(&MemDisk::new());
    let tx = db.begin_write().unwrap();
    t(&tx).put("mine", "x").unwrap();
    let savepoint = tx.savepoint().unwrap();
    t(&tx).get_for_update("k").unwrap();
    t(&tx).get_for_update("none").unwrap();
    thread::scope(|s| {
        let waiter = s.spawn(|| {
            let other = db.begin_write().unwrap();
            t(&other).get_for_update("k").unwrap();
            t(&other).put("none", "other").unwrap();
            other.commit().unwrap();
        });
        until_waiting(&db, 1);
        tx.rollback_to(&savepoint).unwrap();
        waiter.join().unwrap();
    });
    tx.commit().unwrap();
    verify(&db);
}

#[test]
fn a_long_value_is_locked_and_replaced() {
    let db = start(&MemDisk::new());
    for round in 0..5 {
        let tx = db.begin_write().unwrap();
        let savepoint = tx.savepoint().unwrap();
        let long = t(&tx).get_for_update("long").unwrap().unwrap();
        assert_eq!(long, bytes(5 + round, 50_000));
        tx.rollback_to(&savepoint).unwrap();
        t(&tx).get_for_update("long").unwrap().unwrap();
        t(&tx).put("long", bytes(6 + round, 50_000)).unwrap();
        tx.commit().unwrap();
    }
    while db.maintenance_step().unwrap() {}
    verify(&db);
}

/// The log is cut at every place that a crash can leave; whoever had locks has none after recovery, committed or not.
#[test]
fn locks_do_not_outlive_a_crash() {
    let disk = MemDisk::new();
    let db = start(&disk);
    let loser = db.begin_write().unwrap();
    let winner = db.begin_write().unwrap();
    t(&loser).get_for_update("k").unwrap();
    t(&loser).get_for_update("none").unwrap();
    t(&loser).get_for_update("long").unwrap();
    t(&winner).get_for_update("mine").unwrap();
    t(&winner).get_for_update("mine too").unwrap();
    t(&winner).put("mine too", "x").unwrap();
    winner.commit().unwrap();
    db.flush().unwrap();
    db.checkpoint().unwrap();
    for seed in 0..20 {
        let copy = disk.crash(CrashModel::Random { seed, torn_sector_bytes: 512 });
        let after = small().open_on(Arc::new(copy)).unwrap();
        assert_eq!(after.recovery_report().losers.len(), 1);
        let tx = after.begin_write_with(WriteOptions::new().no_wait()).unwrap();
        assert_eq!(t(&tx).get_for_update("k").unwrap().unwrap(), 0u64.to_be_bytes().to_vec());
        assert_eq!(t(&tx).get_for_update("long").unwrap().unwrap(), bytes(5, 50_000));
        for key in ["none", "mine"] {
            assert_eq!(t(&tx).get_for_update(key).unwrap(), None);
        }
        assert_eq!(t(&tx).len().unwrap(), 3);
        tx.rollback().unwrap();
        while after.maintenance_step().unwrap() {}
        verify(&after);
    }
    loser.rollback().unwrap();
    verify(&db);
}
