//! Pages that are reserved, made, freed and made again, and frames that are few.
use hamal::{Database, Durability};
use hamal_check::engine::*;
use hamal_check::*;
use hamal_disk::CrashModel;
use hamal_mutants::Mutant;
use hamal_sync::thread::spawn;

/// A value of several pages, all of one byte.
fn long(db: &Database, key: &str, byte: u8, pages: usize) {
    let tx = db.begin_write().unwrap();
    match tx.tree("t").unwrap().put(key, vec![byte; pages * 4000]) {
        Ok(()) => {
            tx.commit_with(Durability::Async).unwrap();
        }
        Err(e) if e.is_retryable() => tx.rollback().unwrap(),
        Err(e) => panic!("{e}"),
    }
}

fn check(rows: &Rows) {
    for (key, value) in rows {
        assert!(value.iter().all(|b| *b == value[0]), "the value of {key:?} holds pages of others");
    }
}

/// Long values are written, overwritten and collected by three threads while pages are written back.
fn long_values() {
    let (db, disk) = opened(&prepared(&[("a", "0")]));
    let mut threads: Vec<_> = (0..3u8)
        .map(|t| {
            let db = db.clone();
            spawn(move || {
                let key = ["x", "y", "z"][usize::from(t)];
                for n in 0..2 {
                    long(&db, key, 10 * t + n + 1, 2 + pick(3) as usize);
                }
            })
        })
        .collect();
    let keeper = db.clone();
    threads.push(spawn(move || {
        for _ in 0..3 {
            keeper.maintenance_step().unwrap();
            keeper.flush().unwrap();
        }
    }));
    threads.into_iter().for_each(|t| t.join().unwrap());
    let report = db.verify(&mut |_, _| {}).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    db.flush().unwrap();
    check(&recovered(&disk.crash(CrashModel::KeepAll)));
}

#[test]
fn no_page_has_two_owners() {
    accepts(150, long_values);
}
#[test]
fn a_page_that_is_reserved_twice_is_caught() {
    rejects(Mutant::PageReservedTwice, 10_000, long_values);
}
