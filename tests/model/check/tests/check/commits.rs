//! Three writers, a flusher, checkpoints, and crashes at random moments: schedule and crash come from one seed.
use hamal::{Database, Durability};
use hamal_check::engine::*;
use hamal_check::*;
use hamal_disk::{CrashModel, MemDisk};
use hamal_mutants::Mutant;
use hamal_sync::thread::{spawn, yield_now};
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex};

static IMAGE: LazyLock<Mutex<Option<MemDisk>>> = LazyLock::new(Mutex::default);

/// A database with rows for three writers; made once, inside an execution, as locks can be.
fn image() -> MemDisk {
    let mut made = IMAGE.lock().unwrap();
    let image = made.get_or_insert_with(|| {
        let rows = [("0a", "0"), ("0b", "0"), ("1a", "0"), ("1b", "0"), ("2a", "0"), ("2b", "0"), ("s", "0")];
        prepared(&rows)
    });
    image.crash(CrashModel::KeepAll)
}

/// What each writer has been told is durable, and what it has asked for.
#[derive(Clone, Debug, Default)]
struct Told {
    acked: BTreeMap<u64, u64>,
    asked: BTreeMap<u64, u64>,
}

fn number(rows: &Rows, key: &str) -> u64 {
    std::str::from_utf8(&rows[key.as_bytes()]).unwrap().parse().unwrap()
}

/// Sets both of a writer's rows in one transaction; now and then the shared row as well; now and then rolls back.
fn write(db: &Database, w: u64, n: u64, told: &Mutex<Told>) {
    let tx = db.begin_write().unwrap();
    let tree = tx.tree("t").unwrap();
    let roll_back = pick(4) == 0;
    let value = if roll_back { "999".into() } else { n.to_string() };
    let shared = pick(3) == 0;
    let put = || {
        tree.put(format!("{w}a"), &value)?;
        if shared {
            tree.put("s", &value)?;
        }
        tree.put(format!("{w}b"), &value)
    };
    match put() {
        Ok(()) if roll_back => tx.rollback().unwrap(),
        Ok(()) => {
            told.lock().unwrap().asked.insert(w, n);
            match pick(3) {
                0 => {
                    tx.commit_with(Durability::Async).unwrap();
                }
                _ => {
                    tx.commit().unwrap();
                    told.lock().unwrap().acked.insert(w, n);
                }
            }
        }
        Err(e) if e.is_retryable() => tx.rollback().unwrap(),
        Err(e) => panic!("{e}"),
    }
}

fn check(disk: &MemDisk, told: &Told) {
    let rows = recovered(disk);
    for w in 0..3 {
        let (a, b) = (number(&rows, &format!("{w}a")), number(&rows, &format!("{w}b")));
        let acked = told.acked.get(&w).copied().unwrap_or(0);
        let asked = told.asked.get(&w).copied().unwrap_or(0);
        assert!(a == b, "half a transaction of writer {w}: {a} and {b}");
        assert!(a >= acked, "writer {w} was told {acked} and finds {a}");
        assert!(a <= asked, "writer {w} asked for {asked} and finds {a}");
    }
}

fn commits() {
    let (db, disk) = opened(&image());
    let told = Arc::new(Mutex::new(Told::default()));
    let crashes = Arc::new(Mutex::new(Vec::new()));
    let mut threads: Vec<_> = (0..3)
        .map(|w| {
            let (db, told) = (db.clone(), told.clone());
            spawn(move || (1..3).for_each(|n| write(&db, w, n, &told)))
        })
        .collect();
    let cleaner = db.clone();
    threads.push(spawn(move || (0..2).for_each(|_| cleaner.flush().unwrap())));
    let checkpointer = db.clone();
    threads.push(spawn(move || {
        let mut redo = hamal::Lsn(0);
        for _ in 0..2 {
            let report = checkpointer.checkpoint().unwrap();
            assert!(report.redo >= redo, "the redo point went back from {redo} to {}", report.redo);
            redo = report.redo;
        }
    }));
    let (power, known, images) = (disk.clone(), told.clone(), crashes.clone());
    threads.push(spawn(move || {
        for _ in 0..3 {
            (0..pick(60)).for_each(|_| yield_now());
            let torn_sector_bytes = 512;
            let model = match pick(4) {
                0 => CrashModel::LoseUnsynced,
                _ => CrashModel::Random { seed: pick(1 << 32), torn_sector_bytes },
            };
            images.lock().unwrap().push((power.crash(model), known.lock().unwrap().clone()));
        }
    }));
    threads.into_iter().for_each(|t| t.join().unwrap());
    let last = told.lock().unwrap().clone();
    crashes.lock().unwrap().push((disk.crash(CrashModel::LoseUnsynced), last));
    let images = std::mem::take(&mut *crashes.lock().unwrap());
    images.iter().for_each(|(disk, told)| check(disk, told));
}

#[test]
fn commits_survive_crashes_under_every_schedule() {
    accepts(400, commits);
}

#[test]
fn a_transaction_that_is_listed_late_is_caught() {
    rejects(Mutant::ListedLate, 20_000, commits);
}

#[test]
fn an_ended_transaction_that_comes_back_is_caught() {
    rejects(Mutant::EndedRevived, 20_000, commits);
}

/// One seed decides schedule, crash and everything that is written.
#[test]
fn a_seed_is_one_history() {
    let run = || {
        let traces = Arc::new(Mutex::new(Vec::new()));
        let notes = traces.clone();
        accepts(12, move || {
            let (db, disk) = opened(&image());
            let told = Arc::new(Mutex::new(Told::default()));
            let threads: Vec<_> = (0..3)
                .map(|w| {
                    let (db, told) = (db.clone(), told.clone());
                    spawn(move || {
                        write(&db, w, 1, &told);
                        db.maintenance_step().unwrap();
                    })
                })
                .collect();
            threads.into_iter().for_each(|t| t.join().unwrap());
            notes.lock().unwrap().push(disk.trace());
        });
        Arc::into_inner(traces).unwrap().into_inner().unwrap()
    };
    let (once, twice) = (run(), run());
    assert_eq!(once, twice);
    assert!(once.iter().collect::<std::collections::BTreeSet<_>>().len() > 3, "{once:?}");
}
