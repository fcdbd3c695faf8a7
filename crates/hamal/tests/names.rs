//! Names that are kept in memory: what a transaction finds under a name is what its snapshot shows, whatever others do
//! with the catalogue (CATALOGUE-2).
use hamal::{Database, ErrorKind, Isolation, Result, WriteOptions};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

fn value(db: &Database, name: &str) -> Option<Vec<u8>> {
    match db.begin_read().unwrap().tree(name) {
        Ok(tree) => tree.get("k").unwrap().map(|v| v.to_vec()),
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        Err(e) => panic!("{e}"),
    }
}

fn make(db: &Database, name: &str, v: &str) {
    let tx = db.begin_write().unwrap();
    tx.create_tree(name).unwrap().put("k", v).unwrap();
    tx.commit().unwrap();
}

/// Looks a name up until it is known, by readers and by writers.
fn learn(db: &Database, name: &str) {
    for _ in 0..3 {
        value(db, name);
        let tx = db.begin_write().unwrap();
        tx.tree(name).unwrap().put("other", "x").unwrap();
        tx.commit().unwrap();
    }
}

#[test]
fn a_name_that_is_dropped_is_gone_and_made_anew_is_another_tree() {
    let db = Database::in_memory().unwrap();
    make(&db, "t", "1");
    learn(&db, "t");
    let before = db.begin_read().unwrap();
    let tx = db.begin_write().unwrap();
    tx.drop_tree("t").unwrap();
    assert_eq!(tx.tree("t").unwrap_err().kind(), ErrorKind::NotFound);
    // Not committed: everybody else has it still.
    assert_eq!(value(&db, "t").as_deref(), Some(&b"1"[..]));
    tx.commit().unwrap();
    assert_eq!(value(&db, "t"), None);
    assert_eq!(db.begin_write().unwrap().tree("t").unwrap_err().kind(), ErrorKind::NotFound);
    make(&db, "t", "2");
    learn(&db, "t");
    assert_eq!(value(&db, "t").as_deref(), Some(&b"2"[..]));
    assert_eq!(before.tree("t").unwrap().get("k").unwrap().unwrap().as_ref(), b"1");
}

#[test]
fn names_change_places() {
    let db = Database::in_memory().unwrap();
    make(&db, "a", "1");
    make(&db, "b", "2");
    learn(&db, "a");
    learn(&db, "b");
    let before = db.begin_read().unwrap();
    let tx = db.begin_write().unwrap();
    for (from, to) in [("a", "c"), ("b", "a"), ("c", "b")] {
        tx.rename_tree(from, to).unwrap();
    }
    // Its own changes count for itself, and for nobody else before the commit.
    let own = |name: &str| tx.tree(name).unwrap().get("k").unwrap().unwrap().to_vec();
    assert_eq!((own("a"), own("b")), (b"2".to_vec(), b"1".to_vec()));
    assert_eq!((value(&db, "a").unwrap(), value(&db, "b").unwrap()), (b"1".to_vec(), b"2".to_vec()));
    tx.tree("a").unwrap().put("own", "x").unwrap();
    tx.commit().unwrap();
    learn(&db, "a");
    learn(&db, "b");
    assert_eq!((value(&db, "a").unwrap(), value(&db, "b").unwrap()), (b"2".to_vec(), b"1".to_vec()));
    let then = |name: &str| before.tree(name).unwrap().get("k").unwrap().unwrap().to_vec();
    assert_eq!((then("a"), then("b")), (b"1".to_vec(), b"2".to_vec()));
}

#[test]
fn what_is_rolled_back_never_was() {
    let db = Database::in_memory().unwrap();
    make(&db, "a", "1");
    learn(&db, "a");
    let tx = db.begin_write().unwrap();
    let point = tx.savepoint().unwrap();
    tx.rename_tree("a", "b").unwrap();
    assert_eq!(tx.tree("a").unwrap_err().kind(), ErrorKind::NotFound);
    tx.rollback_to(&point).unwrap();
    assert_eq!(tx.tree("a").unwrap().get("k").unwrap().unwrap().as_ref(), b"1");
    assert_eq!(tx.tree("b").unwrap_err().kind(), ErrorKind::NotFound);
    tx.drop_tree("a").unwrap();
    tx.rollback().unwrap();
    learn(&db, "a");
    assert_eq!(value(&db, "a").as_deref(), Some(&b"1"[..]));
}

/// A transaction that began before a tree was dropped, or given another name, must not write in it by what is known since.
#[test]
fn an_older_snapshot_does_not_write_in_a_renamed_tree() {
    let db = Database::in_memory().unwrap();
    make(&db, "a", "1");
    learn(&db, "a");
    let old = db.begin_write().unwrap();
    let tx = db.begin_write().unwrap();
    tx.rename_tree("a", "b").unwrap();
    tx.commit().unwrap();
    make(&db, "a", "2");
    learn(&db, "a");
    learn(&db, "b");
    let e = old.tree("a").unwrap().put("k", "lost").unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Conflict);
    old.rollback().unwrap();
    assert_eq!((value(&db, "a").unwrap(), value(&db, "b").unwrap()), (b"2".to_vec(), b"1".to_vec()));
}

/// One thread gives the name to a fresh tree again and again, in one transaction each; the others find it, and
/// what they find holds the number that was there when their snapshot was taken, or a later one, never an earlier one.
#[test]
fn readers_and_writers_beside_a_thread_that_changes_the_name() {
    let db = Database::in_memory().unwrap();
    make(&db, "t", "0");
    let (done, committed) = (AtomicBool::new(false), AtomicU64::new(0));
    let number = |v: Vec<u8>| String::from_utf8(v).unwrap().parse::<u64>().unwrap();
    let swap = |i: u64| -> Result<()> {
        let tx = db.begin_write()?;
        tx.drop_tree("t")?;
        tx.create_tree("t")?.put("k", i.to_string())?;
        if i.is_multiple_of(3) {
            return tx.rollback();
        }
        tx.commit()?;
        committed.store(i, Relaxed);
        Ok(())
    };
    let look = || {
        let mut found = 0;
        while !done.load(Relaxed) {
            let at_least = committed.load(Relaxed);
            let v = number(value(&db, "t").expect("the name is always there"));
            assert!(v >= at_least, "found {v} after {at_least} was committed");
            found += 1;
        }
        found
    };
    let write = || {
        let mut written = 0;
        while !done.load(Relaxed) {
            let options = WriteOptions::new().isolation(match written % 2 {
                0 => Isolation::Snapshot,
                _ => Isolation::ReadCommitted,
            });
            let at_least = committed.load(Relaxed);
            let tx = db.begin_write_with(options).unwrap();
            let wrote = || -> Result<()> {
                let tree = tx.tree("t")?;
                let v = number(tree.get("k")?.expect("its row").to_vec());
                assert!(v >= at_least, "found {v} after {at_least} was committed");
                tree.put("other", "x")
            };
            match wrote() {
                Ok(()) => {
                    written += 1;
                    tx.commit().map(|_| ()).unwrap();
                }
                // The name was given to another tree in between.
                Err(e) if e.is_retryable() || e.kind() == ErrorKind::NotFound => tx.rollback().unwrap(),
                Err(e) => panic!("{e}"),
            }
        }
        written
    };
    std::thread::scope(|s| {
        let readers = [s.spawn(look), s.spawn(look)];
        let writers = [s.spawn(write), s.spawn(write)];
        let started = Instant::now();
        let mut i = 0;
        while i < 400 || started.elapsed() < Duration::from_millis(300) {
            i += 1;
            match swap(i) {
                Ok(()) => {}
                Err(e) if e.is_retryable() => {}
                Err(e) => panic!("{e}"),
            }
        }
        done.store(true, Relaxed);
        readers.into_iter().for_each(|r| assert!(r.join().unwrap() > 0));
        let _written: u64 = writers.into_iter().map(|w| w.join().unwrap()).sum();
    });
    let report = db.verify(&mut |_, _| {}).unwrap();
    assert!(report.findings.is_empty(), "{report:?}");
}
