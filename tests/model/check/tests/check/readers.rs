//! Snapshots against commits, rollbacks and the horizon.
use hamal::{Database, Durability};
use hamal_check::bench::Bench;
use hamal_check::engine::*;
use hamal_check::*;
use hamal_mutants::Mutant;
use hamal_sync::thread::spawn;
use std::sync::Arc;

fn value(tree: &hamal::ReadTree, key: &str) -> Option<u64> {
    tree.get(key).unwrap().map(|v| std::str::from_utf8(&v).unwrap().parse().unwrap())
}

/// A snapshot shows both rows of a transaction or none, twice the same, and never a value that was rolled back.
fn look(db: &Database) {
    let tx = db.begin_read().unwrap();
    let tree = tx.tree("t").unwrap();
    let first = (value(&tree, "a"), value(&tree, "b"));
    assert!(first.0.is_some() && first.0 == first.1, "two rows of one transaction: {first:?}");
    assert!(first.0 < Some(900), "a value that was rolled back: {first:?}");
    let again = (value(&tree, "a"), value(&tree, "b"));
    assert_eq!(first, again, "one snapshot shows two states");
    let horizon = db.engine().txns().horizon();
    assert!(horizon <= tx.snapshot(), "the horizon {horizon} passed the snapshot {}", tx.snapshot());
}

fn write(db: &Database, n: u64, commit: bool) {
    let tx = db.begin_write().unwrap();
    let tree = tx.tree("t").unwrap();
    for key in ["a", "b"] {
        tree.put(key, n.to_string()).unwrap();
    }
    if commit {
        tx.commit_with(Durability::Async).unwrap();
    } else {
        tx.rollback().unwrap();
    }
}

/// One writes, one makes the log durable, one collects, two look.
fn snapshots(commit: bool) {
    let (db, _disk) = opened(&prepared(&[("a", "0"), ("b", "0")]));
    let mut threads = Vec::new();
    let each: [fn(&Database, bool); 4] = [
        |db, commit| {
            for n in 1..4 {
                write(db, if commit { n } else { 900 + n }, commit);
            }
        },
        |db, _| {
            for _ in 0..3 {
                let log = db.engine().txns().log().clone();
                log.force(log.tail(), hamal_trace::ForceReason::Asked).unwrap();
            }
        },
        |db, _| (0..4).for_each(|_| db.engine().txns().collect()),
        |db, _| (0..2).for_each(|_| look(db)),
    ];
    for f in each {
        let db: Arc<Database> = db.clone();
        threads.push(spawn(move || f(&db, commit)));
    }
    threads.into_iter().for_each(|t| t.join().unwrap());
    db.engine().txns().collect();
    look(&db);
}

fn committing() {
    snapshots(true);
}
fn rolling_back() {
    snapshots(false);
}

#[test]
fn snapshots_are_whole_and_stand_still() {
    accepts(500, committing);
    accepts(500, rolling_back);
}
#[test]
fn a_status_forgotten_before_the_rows_is_caught() {
    rejects(Mutant::StatusForgottenFirst, 20_000, rolling_back);
}
#[test]
fn a_horizon_beyond_the_durable_log_is_caught() {
    rejects(Mutant::HorizonVisible, 30_000, committing);
}
#[test]
fn a_horizon_beyond_a_snapshot_is_caught() {
    rejects(Mutant::HorizonIgnoresSnapshots, 30_000, cells);
}

/// The same without a tree: cells of one page, and a reader that looks again and again.
fn cells() {
    let b = Bench::new(1);
    let writer = b.clone();
    let write = spawn(move || {
        for n in 1..3 {
            let t = writer.txns.begin().unwrap();
            let _op = t.enter().unwrap();
            writer.write(&t, 0, 0, n);
            writer.write(&t, 0, 1, n);
            writer.txns.commit(&t).unwrap();
        }
    });
    let forcer = b.clone();
    let force = spawn(move || {
        for _ in 0..3 {
            forcer.force();
            forcer.txns.collect();
        }
    });
    let reader = b.clone();
    let read = spawn(move || {
        for _ in 0..2 {
            let snapshot = reader.txns.snapshot().unwrap();
            let look = || (reader.get(&snapshot.view(), 0, 0), reader.get(&snapshot.view(), 0, 1));
            let first = look();
            assert!(first.0.is_some() && first.0 == first.1, "two cells of one transaction: {first:?}");
            for _ in 0..4 {
                assert_eq!(look(), first, "one snapshot shows two states");
            }
            let horizon = reader.txns.horizon();
            assert!(
                horizon <= snapshot.lsn(),
                "the horizon {horizon} passed the snapshot {}",
                snapshot.lsn()
            );
        }
    });
    [write, force, read].into_iter().for_each(|t| t.join().unwrap());
}

#[test]
fn statuses_come_before_records_and_snapshots_before_horizons() {
    accepts(2000, cells);
}
/// One commit, others who make the log durable, and a reader that looks again and again.
fn one_commit() {
    let b = Bench::new(1);
    let t = b.txns.begin().unwrap();
    (0..2).for_each(|n| b.write(&t, 0, n, 1));
    let writer = b.clone();
    let commit = spawn(move || {
        let _op = t.enter().unwrap();
        writer.txns.commit(&t).unwrap();
    });
    let forcer = b.clone();
    let force = spawn(move || (0..3).for_each(|_| forcer.force()));
    for _ in 0..3 {
        let snapshot = b.txns.snapshot().unwrap();
        let look = || (b.get(&snapshot.view(), 0, 0), b.get(&snapshot.view(), 0, 1));
        let first = look();
        assert!(first.0 == first.1, "two cells of one transaction: {first:?}");
        for _ in 0..6 {
            assert_eq!(look(), first, "one snapshot shows two states");
        }
    }
    [commit, force].into_iter().for_each(|t| t.join().unwrap());
}

#[test]
fn a_commit_shows_whole_or_not_at_all() {
    accepts(1000, one_commit);
}
#[test]
fn a_status_stored_after_its_record_is_caught() {
    let text = rejects(Mutant::StatusAfterRecord, 200_000, one_commit);
    assert!(text.contains("two"), "{text}");
}
#[test]
fn a_snapshot_that_is_registered_late_is_caught() {
    rejects(Mutant::SnapshotLate, 30_000, cells);
}

/// A snapshot is ended while somebody reads through it: what it shows is right, or an error.
fn ended() {
    let (db, _disk) = opened(&prepared(&[("a", "0"), ("b", "0")]));
    let tx = db.begin_read().unwrap();
    let tree = tx.tree("t").unwrap();
    let writer = db.clone();
    let other = spawn(move || {
        write(&writer, 1, true);
        let txns = writer.engine().txns().clone();
        txns.log().force(txns.log().tail(), hamal_trace::ForceReason::Asked).unwrap();
        txns.end_snapshots(hamal::Lsn(u64::MAX));
        txns.collect();
    });
    for _ in 0..4 {
        match tree.get("a") {
            Ok(found) => assert_eq!(found.as_deref(), Some(&b"0"[..]), "not the snapshot's state"),
            Err(e) => assert_eq!(e.kind(), hamal::ErrorKind::SnapshotTooOld, "{e}"),
        }
    }
    other.join().unwrap();
}

#[test]
fn a_snapshot_that_is_ended_shows_nothing_wrong() {
    accepts(300, ended);
}
#[test]
fn a_snapshot_tested_before_the_read_is_caught() {
    rejects(Mutant::TooOldTestedFirst, 30_000, ended);
}
