//! Former versions of rows: memory that is bounded, what is left to the log, and snapshots that are ended
//! (TXN-BETWEEN, TXN-DEMOTED, TXN-TOO-OLD).
mod common;

use common::{bytes, rows, small, verify};
use hamal::disk::MemDisk;
use hamal::{Builder, Database, Durability, ReadTxn};
use std::collections::BTreeMap;
use std::sync::Arc;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

fn key(n: u64) -> Vec<u8> {
    format!("key {n:06}").into_bytes()
}

fn create(b: &Builder) -> (MemDisk, Database) {
    let disk = MemDisk::new();
    let db = b.create_on(Arc::new(disk.clone())).unwrap();
    let tx = db.begin_write().unwrap();
    tx.create_tree("t").unwrap();
    tx.commit_with(Durability::Sync).unwrap();
    (disk, db)
}

fn put(db: &Database, changes: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) {
    let tx = db.begin_write().unwrap();
    let t = tx.tree("t").unwrap();
    for (k, v) in changes {
        t.put(k, v).unwrap();
    }
    tx.commit().unwrap();
}

fn seen(tx: &ReadTxn) -> Rows {
    rows(&tx.tree("t").unwrap()).unwrap()
}

/// One old snapshot and very many changes of one row by as many transactions: the row has one version for it and no
/// more, and the statuses of the transactions are forgotten as well.
#[test]
fn versions_between_snapshots_are_pruned() {
    let b = small().durability(Durability::Async);
    let (_disk, db) = create(&b);
    put(&db, [(key(1), b"old".to_vec())]);
    db.flush().unwrap();
    let old = db.begin_read().unwrap();
    let mut most = 0;
    let mut middle = None;
    for n in 0..3000u64 {
        put(&db, [(key(1), n.to_be_bytes().to_vec())]);
        if n % 100 == 99 {
            db.flush().unwrap();
            db.maintenance_step().unwrap();
            most = most.max(db.stats().versions);
        }
        if n == 1499 {
            middle = Some(db.begin_read().unwrap());
        }
    }
    assert!(most <= 3, "{most} versions of one row for one or two snapshots");
    let stats = db.stats();
    assert!(stats.transaction_statuses < 10, "{} statuses", stats.transaction_statuses);
    assert!(stats.version_bytes < 2000, "{} bytes", stats.version_bytes);
    assert_eq!(old.tree("t").unwrap().get(key(1)).unwrap().unwrap(), b"old");
    let middle = middle.unwrap();
    assert_eq!(middle.tree("t").unwrap().get(key(1)).unwrap().unwrap()[..], 1499u64.to_be_bytes());
    drop(old);
    db.maintenance_step().unwrap();
    assert_eq!(middle.tree("t").unwrap().get(key(1)).unwrap().unwrap()[..], 1499u64.to_be_bytes());
    drop(middle);
    db.maintenance_step().unwrap();
    let stats = db.stats();
    assert_eq!((stats.versions, stats.version_bytes, stats.transaction_statuses), (0, 0, 0));
}

/// Many snapshots at random moments of a random history; each shows its moment, whatever is pruned in between, and when
/// the last has gone nothing is left. With a budget that holds everything, and with the smallest there is.
#[test]
fn every_snapshot_shows_its_moment() {
    for (seed, budget) in [(1u64, 64 << 10), (2, 64 << 10), (3, 64 << 10), (4, 8 << 20), (5, 64 << 10)] {
        let b = small().version_budget_bytes(budget).log_limit_bytes(64 << 20);
        let (_disk, db) = create(&b);
        let mut x = seed;
        let mut random = |n: u64| {
            x = x.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (x >> 33) % n
        };
        let mut now = Rows::new();
        let mut open: Vec<(ReadTxn, Rows)> = Vec::new();
        for step in 0..200 {
            let tx = db.begin_write().unwrap();
            let t = tx.tree("t").unwrap();
            let mut next = now.clone();
            let many = [1, 10, 60, 400][random(4) as usize];
            for _ in 0..many {
                let k = key(random(800));
                match random(5) {
                    0 => {
                        t.delete(&k).unwrap();
                        next.remove(&k);
                    }
                    1 => {
                        let locked = t.get_for_update(&k).unwrap().map(|v| v.into_vec());
                        assert_eq!(locked, next.get(&k).cloned());
                    }
                    _ => {
                        let v = bytes(step * 1000 + random(1000), random(300) as usize);
                        t.put(&k, &v).unwrap();
                        next.insert(k, v);
                    }
                }
                if random(40) == 0 {
                    // A run of rows by one record, where there are none.
                    let (from, len) = (random(800), random(100) as usize);
                    let rows: Vec<_> =
                        (from..from + 1 + random(30)).map(|n| (key(n), bytes(step + n, len))).collect();
                    t.bulk_load(rows.iter().map(|(k, v)| (k, v))).unwrap();
                    next.extend(rows);
                }
                if random(50) == 0 {
                    // Undone, with versions of its own.
                    let (point, k) = (tx.savepoint().unwrap(), key(random(800)));
                    t.put(&k, b"not this").unwrap();
                    t.delete(key(random(800))).unwrap();
                    tx.rollback_to(&point).unwrap();
                }
            }
            if random(3) > 0 {
                tx.commit().unwrap();
                now = next;
            } else {
                tx.rollback().unwrap();
            }
            assert!(db.stats().version_bytes <= budget as u64);
            match random(6) {
                0 | 1 if open.len() < 6 => open.push((db.begin_read().unwrap(), now.clone())),
                2 if !open.is_empty() => drop(open.remove(random(open.len() as u64) as usize)),
                3 => {
                    db.maintenance_step().unwrap();
                }
                4 => {
                    // What nobody needs of the log is cut.
                    db.flush().unwrap();
                    db.checkpoint().unwrap();
                    db.checkpoint().unwrap();
                }
                _ => {}
            }
            if step % 10 == 0 {
                for (tx, rows) in &open {
                    assert!(seen(tx) == *rows, "seed {seed}, step {step}: a snapshot shows another moment");
                    let t = tx.tree("t").unwrap();
                    let down: Vec<_> = t.iter().rev().map(|r| r.unwrap().0.into_vec()).collect();
                    assert!(down.iter().eq(rows.keys().rev()), "seed {seed}, step {step}: backwards");
                    let k = key(random(800));
                    assert_eq!(t.get(&k).unwrap().map(|v| v.into_vec()), rows.get(&k).cloned());
                }
            }
        }
        assert_eq!(seen(&db.begin_read().unwrap()), now);
        if budget < 1 << 20 {
            assert!(db.stats().versions_demoted > 1000, "the log was never asked");
        }
        drop(open);
        for _ in 0..3 {
            db.maintenance_step().unwrap();
        }
        let stats = db.stats();
        assert_eq!((stats.versions, stats.version_bytes, stats.transaction_statuses), (0, 0, 0));
        verify(&db);
    }
}

/// Checkpoints do not cut the log below what an open snapshot needs and only the log has; when the snapshot goes, they do.
#[test]
fn the_log_is_kept_for_demoted_versions() {
    let b = small().version_budget_bytes(64 << 10).log_limit_bytes(64 << 20);
    let (_disk, db) = create(&b);
    let before: Rows = (0..2000).map(|n| (key(n), bytes(n, 80))).collect();
    put(&db, before.clone());
    let old = db.begin_read().unwrap();
    for round in 0..4u64 {
        put(&db, (0..2000).map(|n| (key(n), bytes(n + 10_000 * (round + 1), 90))));
        db.flush().unwrap();
        db.checkpoint().unwrap();
        db.checkpoint().unwrap();
    }
    assert!(db.stats().version_bytes <= 64 << 10);
    assert!(db.stats().log_tail - db.stats().log_oldest > 1 << 20, "the log is kept");
    assert!(seen(&old) == before);
    drop(old);
    db.maintenance_step().unwrap();
    db.flush().unwrap();
    db.checkpoint().unwrap();
    db.checkpoint().unwrap();
    assert!(db.stats().log_tail - db.stats().log_oldest < 1 << 20, "the log is released");
}

/// Ghosts in the pages of trees, by the text of `describe_page`.
fn ghosts(db: &Database) -> usize {
    let pages = db.stats().file_pages;
    let text = (0..pages).filter_map(|n| db.describe_page(n).ok()).filter(|t| t.contains("allocated true"));
    text.map(|t| t.matches(" ghost").count()).sum()
}

#[test]
fn ghosts_of_a_crashed_run_are_found() {
    let b = small();
    let (disk, db) = create(&b);
    put(&db, (0..3000).map(|n| (key(n), bytes(n, 40))));
    let tx = db.begin_write().unwrap();
    let t = tx.tree("t").unwrap();
    for n in (0..3000).filter(|n| n % 3 != 0) {
        t.delete(key(n)).unwrap();
    }
    tx.commit().unwrap();
    let disk = disk.crash(hamal::disk::CrashModel::LoseUnsynced);
    drop(db);
    let db = b.open_on(Arc::new(disk)).unwrap();
    assert!(ghosts(&db) > 1000, "{} ghosts", ghosts(&db));
    for _ in 0..200 {
        db.maintenance_step().unwrap();
    }
    assert_eq!(ghosts(&db), 0);
    assert_eq!(db.begin_read().unwrap().tree("t").unwrap().len().unwrap(), 1000);
    verify(&db);
}

#[test]
fn a_clean_close_leaves_no_ghosts() {
    let b = small();
    let (disk, db) = create(&b);
    put(&db, (0..1000).map(|n| (key(n), bytes(n, 40))));
    let tx = db.begin_write().unwrap();
    let t = tx.tree("t").unwrap();
    for n in 0..900 {
        t.delete(key(n)).unwrap();
    }
    tx.commit().unwrap();
    drop(t);
    db.close().unwrap();
    drop(db);
    let db = b.open_on(Arc::new(disk)).unwrap();
    assert!(db.recovery_report().clean);
    assert_eq!(ghosts(&db), 0);
    assert_eq!(db.begin_read().unwrap().tree("t").unwrap().len().unwrap(), 100);
}

/// What an open snapshot does not need is pruned, and the log that held it is cut, while another transaction's former states
/// are in the log: a row made and changed after the snapshot is still just not there.
#[test]
fn what_was_pruned_is_not_looked_for_in_the_log() {
    let b = small().version_budget_bytes(64 << 10).log_limit_bytes(64 << 20);
    let (_disk, db) = create(&b);
    let tx = db.begin_write().unwrap();
    tx.create_tree("young").unwrap();
    tx.create_tree("other").unwrap();
    tx.commit().unwrap();
    let before: Rows = (0..2000).map(|n| (key(n), bytes(n, 80))).collect();
    put(&db, before.clone());
    let old = db.begin_read().unwrap();
    let young = |value: &str| {
        let tx = db.begin_write().unwrap();
        for n in 0..20 {
            tx.tree("young").unwrap().put(key(n), value).unwrap();
        }
        tx.commit().unwrap();
    };
    young("one");
    young("two");
    db.maintenance_step().unwrap();
    assert_eq!(db.stats().versions, 0, "no snapshot lies between them");
    let tail = db.stats().log_tail;
    for n in 0u64.. {
        if db.stats().log_oldest > tail {
            break;
        }
        assert!(n < 1000);
        let tx = db.begin_write().unwrap();
        tx.tree("other").unwrap().put(key(n % 10), bytes(n, 700)).unwrap();
        tx.commit().unwrap();
        db.flush().unwrap();
        db.checkpoint().unwrap();
    }
    // Beyond the budget.
    put(&db, (0..2000).map(|n| (key(n), bytes(n + 10_000, 90))));
    assert!(db.stats().versions_demoted > 0);
    let t = old.tree("young").unwrap();
    assert_eq!(t.get(key(1)).unwrap(), None);
    assert_eq!(t.len().unwrap(), 0);
    assert!(t.last().unwrap().is_none());
    assert!(seen(&old) == before);
}
