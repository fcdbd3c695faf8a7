//! The planted bugs of old versions, of snapshots that are ended, and of ghosts: each makes its scenario fail, and
//! without them all scenarios hold. One test, because a bug is planted in the whole process.
#![cfg(feature = "mutants")]
mod common;

use common::{bytes, rows, small};
use hamal::disk::{CrashModel, MemDisk};
use hamal::mutants::{Mutant, choose};
use hamal::{Builder, Database, ErrorKind, Lsn};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

fn key(n: u64) -> Vec<u8> {
    format!("key {n:06}").into_bytes()
}

fn create(b: &Builder) -> (MemDisk, Database) {
    let disk = MemDisk::new();
    let db = b.create_on(Arc::new(disk.clone())).unwrap();
    let tx = db.begin_write().unwrap();
    tx.create_tree("t").unwrap();
    tx.commit().unwrap();
    (disk, db)
}

fn fill(db: &Database, round: u64, n: u64) -> Rows {
    let tx = db.begin_write().unwrap();
    let t = tx.tree("t").unwrap();
    let all: Rows = (0..n).map(|i| (key(i), bytes(i + round * 100_000, 80))).collect();
    all.iter().for_each(|(k, v)| t.put(k, v).unwrap());
    tx.commit().unwrap();
    all
}

fn two_snapshots() {
    let (_disk, db) = create(&small());
    let a = fill(&db, 1, 10);
    let old = db.begin_read().unwrap();
    fill(&db, 2, 10);
    let b = fill(&db, 3, 10);
    let young = db.begin_read().unwrap();
    // The log is cut: a reader that is sent there in want of a version finds nothing.
    for round in 4..8 {
        fill(&db, round, 2000);
        db.maintenance_step().unwrap();
        db.flush().unwrap();
        db.checkpoint().unwrap();
        db.checkpoint().unwrap();
    }
    assert!(rows(&old.tree("t").unwrap()).unwrap() == a, "the older snapshot");
    assert!(rows(&young.tree("t").unwrap()).unwrap() == b, "the younger snapshot");
}

fn demoted() {
    let (_disk, db) = create(&small().version_budget_bytes(64 << 10).log_limit_bytes(64 << 20));
    let before = fill(&db, 1, 2000);
    let old = db.begin_read().unwrap();
    for round in 2..6 {
        fill(&db, round, 2000);
        db.flush().unwrap();
        db.checkpoint().unwrap();
        db.checkpoint().unwrap();
        assert!(db.stats().version_bytes <= 64 << 10, "the budget is exceeded");
    }
    assert!(rows(&old.tree("t").unwrap()).unwrap() == before, "the snapshot");
}

fn ended() {
    // What a planted bug does depends on a race: it is given more rounds.
    let rounds = if hamal::mutants::current().is_some() { u64::MAX } else { 40 };
    let start = Instant::now();
    for round in 0..rounds {
        let (_disk, db) = create(&small());
        let truth = fill(&db, 1, 300);
        let old = db.begin_read().unwrap();
        let tree = old.tree("t").unwrap();
        fill(&db, 2, 300);
        thread::scope(|s| {
            let reader = s.spawn(|| {
                for n in 0.. {
                    let k = key(n % 300);
                    let shown = tree.get_with(&k, |v| *v == truth[&k][..]);
                    let all = rows(&tree);
                    match (shown, all) {
                        (Ok(shown), all) if shown != Some(true) => return Err(format!("row {n}: {all:?}")),
                        (_, Ok(all)) if all != truth => return Err("a scan".into()),
                        (_, Err(e)) if e.kind() == ErrorKind::SnapshotTooOld => return Ok(()),
                        (_, Err(e)) => return Err(e.to_string()),
                        _ => {}
                    }
                }
                Ok(())
            });
            thread::sleep(Duration::from_micros(200 * (round % 40)));
            db.engine().txns().end_snapshots(Lsn::MAX);
            while !reader.is_finished() {
                fill(&db, 3, 300);
                db.maintenance_step().unwrap();
            }
            let done = reader.join().unwrap();
            assert!(done.is_ok(), "{done:?}");
        });
        if start.elapsed() > Duration::from_secs(300) {
            break;
        }
    }
}

fn old_ghosts() {
    let (disk, db) = create(&small());
    fill(&db, 1, 3000);
    let tx = db.begin_write().unwrap();
    let t = tx.tree("t").unwrap();
    (0..3000).for_each(|n| t.delete(key(n)).map(|_| ()).unwrap());
    tx.commit().unwrap();
    let disk = disk.crash(CrashModel::LoseUnsynced);
    drop(db);
    let db = small().open_on(Arc::new(disk)).unwrap();
    for _ in 0..200 {
        db.maintenance_step().unwrap();
    }
    let text = (0..db.stats().file_pages).filter_map(|n| db.describe_page(n).ok());
    let text = text.filter(|t| t.contains("allocated true"));
    let ghosts: usize = text.map(|t| t.matches(" ghost").count()).sum();
    assert_eq!(ghosts, 0, "ghosts of the run before");
}

#[test]
fn every_planted_bug_is_caught() {
    let cases: [(&str, fn(), &[Mutant]); 4] = [
        ("two snapshots", two_snapshots, &[Mutant::PruneForOldestOnly, Mutant::HorizonIgnoresSnapshots]),
        (
            "demoted",
            demoted,
            &[Mutant::DemotionPinsNoLog, Mutant::DemotedNotLookedFor, Mutant::NoVersionBudget],
        ),
        ("ended", ended, &[Mutant::TooOldTestedFirst]),
        ("old ghosts", old_ghosts, &[Mutant::OldGhostsStay]),
    ];
    for (name, case, bugs) in cases {
        choose(None);
        case();
        for bug in bugs {
            choose(Some(*bug));
            let caught = catch_unwind(AssertUnwindSafe(case)).is_err();
            choose(None);
            assert!(caught, "{name} does not notice {bug}");
        }
    }
}
