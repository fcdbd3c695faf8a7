//! Bulk loads and power failures: a run of rows is undone in parts, and goes on where it was (TXN-PARTS, BTREE-14).
mod common;

use common::{rows, small, verify};
use hamal::disk::{CrashModel, MemDisk};
use hamal::{Database, Durability};
use hamal_trace::ForceReason;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

fn key(n: u32) -> Vec<u8> {
    format!("key {n:06}").into_bytes()
}

/// A database in which an open transaction has loaded a run, and another one has put rows between its rows until they were in
/// many leaves. `then` gets the open one.
fn torn(then: impl FnOnce(&Database, &MemDisk, hamal::WriteTxn, &BTreeMap<Vec<u8>, Vec<u8>>)) {
    let disk = MemDisk::new();
    let db = small().create_on(Arc::new(disk.clone())).unwrap();
    let tx = db.begin_write().unwrap();
    tx.create_tree("t").unwrap();
    tx.commit().unwrap();
    let open = db.begin_write().unwrap();
    open.tree("t").unwrap().put(key(1), "before").unwrap();
    open.tree("t").unwrap().bulk_load((1..13).map(|n| (key(n * 100), "small"))).unwrap();
    let tx = db.begin_write().unwrap();
    let mut others = BTreeMap::new();
    for at in [2, 3, 7, 8, 9] {
        let more = (1..7).map(|n| (key(at * 100 + n), vec![at as u8; 900]));
        assert_eq!(tx.tree("t").unwrap().bulk_load(more.clone()).unwrap(), 6);
        others.extend(more);
    }
    tx.commit_with(Durability::Sync).unwrap();
    then(&db, &disk, open, &others);
}

/// The power fails after each CLR of a rollback: recovery undoes what is left of the run, and nothing twice; a second recovery, of
/// what the first one has left in the log alone, finds the same.
#[test]
fn a_power_failure_between_the_parts_of_an_undo() {
    let mut all = None;
    for steps in 0.. {
        let mut done = false;
        torn(|db, disk, open, others| {
            let engine = db.engine();
            let mut image = None;
            open.run(|txn| {
                let txns = engine.txns();
                assert!(txns.begin_rollback(txn)?);
                for _ in 0..steps {
                    done = txns.undo_step(txn)?.is_null();
                }
                txns.log().force(txns.log().tail(), ForceReason::Asked)?;
                image = Some(disk.crash(CrashModel::KeepAll));
                Ok(())
            })
            .unwrap();
            let image = image.unwrap();
            // Twice from the same image: all of recovery, and one of which only the log is there.
            for _ in 0..2 {
                let first = image.crash(CrashModel::KeepAll);
                let db = small().open_on(Arc::new(first)).unwrap();
                assert_eq!(rows(&db.begin_read().unwrap().tree("t").unwrap()).unwrap(), *others, "{steps}");
                let clrs = db.recovery_report().clrs;
                // The first change of the transaction, its tree's registration aside, and the run in parts.
                let whole = *all.get_or_insert(clrs);
                assert_eq!(clrs, whole - steps, "after {steps} steps");
                verify(&db);
            }
            drop(open);
            assert_eq!(rows(&db.begin_read().unwrap().tree("t").unwrap()).unwrap(), *others);
        });
        if done {
            assert!(steps > 4, "{steps} steps");
            return;
        }
    }
}

/// Tells the others to stop, however a thread ends.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// Loads commit and roll back, another thread puts rows among theirs, and readers see all of a load or nothing, at any moment.
#[test]
fn snapshots_see_whole_loads() {
    let db = Database::builder().page_size(4096).cache_bytes(2 << 20).in_memory().unwrap();
    let tx = db.begin_write().unwrap();
    tx.create_tree("t").unwrap().put("count", 0u64.to_be_bytes()).unwrap();
    tx.commit().unwrap();
    let row = |n: u64| [b"k", &n.to_be_bytes()[..]].concat();
    const LOADS: u64 = 60;
    let done = AtomicBool::new(false);
    std::thread::scope(|s| {
        let loader = s.spawn(|| {
            let _end = End(&done);
            let mut count = 0u64;
            for load in 0..LOADS {
                let tx = db.begin_write().unwrap();
                let t = tx.tree("t").unwrap();
                // Each in a comb of its own, over the whole range, so that the combs lie within each other.
                let rows = 20 + load % 50;
                let key = |i: u64| row((i * LOADS + load) * 2);
                assert_eq!(t.bulk_load((0..rows).map(|i| (key(i), [1; 40]))).unwrap(), rows);
                if load % 5 == 1 {
                    let point = tx.savepoint().unwrap();
                    t.bulk_load((rows..rows + 30).map(|i| (key(i), [2; 40]))).unwrap();
                    std::thread::yield_now();
                    tx.rollback_to(&point).unwrap();
                }
                std::thread::yield_now();
                if load % 3 == 2 {
                    tx.rollback().unwrap();
                } else {
                    count += rows;
                    t.put("count", count.to_be_bytes()).unwrap();
                    tx.commit().unwrap();
                }
            }
        });
        s.spawn(|| {
            let mut n = 1u64;
            while !done.load(SeqCst) {
                let tx = db.begin_write().unwrap();
                let t = tx.tree("t").unwrap();
                for _ in 0..10 {
                    n = n.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                    t.put(row(((n >> 33) % 12_000) | 1), vec![3; (n >> 20) as usize % 500]).unwrap();
                }
                tx.commit().unwrap();
            }
        });
        for _ in 0..2 {
            s.spawn(|| {
                while !done.load(SeqCst) {
                    let read = db.begin_read().unwrap();
                    let t = read.tree("t").unwrap();
                    for _ in 0..2 {
                        let count =
                            u64::from_be_bytes(t.get("count").unwrap().unwrap()[..].try_into().unwrap());
                        let is_loaded = |k: &[u8]| k[0] == b'k' && k[8].is_multiple_of(2);
                        let loaded = t.iter().filter(|r| is_loaded(&r.as_ref().unwrap().0)).count();
                        assert_eq!(loaded as u64, count);
                    }
                }
            });
        }
        loader.join().unwrap();
    });
    verify(&db);
}
