//! Isolation levels, waiting, and locks, call by call. `hermitage.rs` has the published anomalies.
mod common;

use common::{PROMPT, bytes, small, verify};
use hamal::{Database, ErrorKind, Isolation, Tree, Value, WriteOptions, WriteTxn};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

fn db() -> Database {
    let db = small().in_memory().unwrap();
    let tx = db.begin_write().unwrap();
    let t = tx.create_tree("t").unwrap();
    t.put("a", "1").unwrap();
    t.put("b", "2").unwrap();
    tx.commit().unwrap();
    db
}

fn at(db: &Database, isolation: Isolation) -> WriteTxn {
    db.begin_write_with(WriteOptions::new().isolation(isolation)).unwrap()
}

fn t(tx: &WriteTxn) -> Tree {
    tx.tree("t").unwrap()
}

fn put(db: &Database, key: &str, value: impl AsRef<[u8]>) {
    let tx = db.begin_write().unwrap();
    t(&tx).put(key, value).unwrap();
    tx.commit().unwrap();
}

fn text(v: Option<Value>) -> String {
    v.map_or("-".into(), |v| String::from_utf8(v.into_vec()).unwrap())
}

/// Waits until another thread has begun to wait for a transaction.
fn until_waiting(db: &Database, waits: u64) {
    let start = Instant::now();
    while db.stats().lock_waits < waits {
        assert!(start.elapsed() < PROMPT, "nobody waits");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn the_default_is_snapshot() {
    let db = db();
    let tx = db.begin_write().unwrap();
    assert_eq!((tx.isolation(), Isolation::default()), (Isolation::Snapshot, Isolation::Snapshot));
    let too_long = WriteOptions::new().lock_timeout(Duration::from_secs(90_000));
    assert_eq!(db.begin_write_with(too_long).unwrap_err().kind(), ErrorKind::InvalidOption);
}

#[test]
fn read_committed_sees_each_statement_anew_and_never_conflicts() {
    let db = db();
    let tx = at(&db, Isolation::ReadCommitted);
    assert_eq!(text(t(&tx).get("a").unwrap()), "1");
    let before = tx.snapshot();
    put(&db, "a", "10");
    assert_eq!(text(t(&tx).get("a").unwrap()), "10");
    assert!(tx.snapshot() > before);
    put(&db, "a", "11");
    // Its last statement saw 10: it overwrites 11 all the same, and says so.
    assert_eq!(text(t(&tx).insert("a", "12").unwrap()), "11");
    assert_eq!(text(t(&tx).get("a").unwrap()), "12");
    tx.commit().unwrap();
    assert_eq!(text(db.begin_read().unwrap().tree("t").unwrap().get("a").unwrap()), "12");
    verify(&db);
}

#[test]
fn read_committed_builds_on_what_it_waited_for() {
    let db = db();
    let holder = db.begin_write().unwrap();
    t(&holder).put("a", "5").unwrap();
    thread::scope(|s| {
        let waiter = s.spawn(|| {
            let tx = at(&db, Isolation::ReadCommitted);
            let former = text(t(&tx).insert("a", "6").unwrap());
            tx.commit().unwrap();
            former
        });
        until_waiting(&db, 1);
        holder.commit().unwrap();
        assert_eq!(waiter.join().unwrap(), "5");
    });
}

#[test]
fn read_committed_reads_a_range_as_of_one_moment() {
    let db = db();
    let tx = db.begin_write().unwrap();
    let many = tx.create_tree("many").unwrap();
    for i in 0..1000u32 {
        many.put(i.to_be_bytes(), b"old").unwrap();
    }
    tx.commit().unwrap();

    let tx = at(&db, Isolation::ReadCommitted);
    let many = tx.tree("many").unwrap();
    let mut rows = many.iter();
    assert_eq!(rows.next().unwrap().unwrap().1, b"old");
    // Commits between the batches: the range goes on as of its first batch, a new statement sees them.
    let other = db.begin_write().unwrap();
    for i in 0..1000u32 {
        other.tree("many").unwrap().put(i.to_be_bytes(), b"new").unwrap();
    }
    other.tree("many").unwrap().put(5000u32.to_be_bytes(), b"new").unwrap();
    other.commit().unwrap();
    assert_eq!(many.get(900u32.to_be_bytes()).unwrap().unwrap(), b"new");
    let rest: Vec<_> = rows.map(|r| r.unwrap().1).collect();
    assert_eq!(rest.len(), 999);
    assert!(rest.iter().all(|v| *v == b"old"));
    assert_eq!(many.len().unwrap(), 1001);
    // The horizon is held by live statements only, not by the transaction's age.
    tx.commit().unwrap();
    while db.maintenance_step().unwrap() {}
    assert_eq!(db.stats().versions, 0);
    verify(&db);
}

#[test]
fn a_long_read_committed_transaction_keeps_no_old_versions() {
    let db = db();
    let tx = at(&db, Isolation::ReadCommitted);
    t(&tx).put("mine", "x").unwrap();
    for i in 0..50 {
        put(&db, "a", i.to_string());
        t(&tx).get("a").unwrap();
    }
    while db.maintenance_step().unwrap() {}
    assert!(db.stats().versions <= 1, "{}", db.stats().versions);
    tx.commit().unwrap();
}

#[test]
fn read_committed_reads_long_values_to_their_end() {
    let db = db();
    let long = bytes(3, 100_000);
    put(&db, "long", &long);
    let tx = at(&db, Isolation::ReadCommitted);
    let mut reader = t(&tx).reader("long").unwrap().unwrap();
    let mut head = [0; 10];
    std::io::Read::read_exact(&mut reader, &mut head).unwrap();
    put(&db, "long", "short");
    for _ in 0..20 {
        t(&tx).get("a").unwrap();
        db.maintenance_step().unwrap();
    }
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut reader, &mut rest).unwrap();
    assert_eq!([&head[..], &rest].concat(), long);
    assert_eq!(text(t(&tx).get("long").unwrap()), "short");
    drop(reader);
    tx.rollback().unwrap();
    while db.maintenance_step().unwrap() {}
    verify(&db);
}

#[test]
fn read_committed_gives_a_name_to_one_tree_only() {
    let db = db();
    let holder = db.begin_write().unwrap();
    holder.create_tree("new").unwrap().put("k", "holder").unwrap();
    thread::scope(|s| {
        let waiter = s.spawn(|| {
            let tx = at(&db, Isolation::ReadCommitted);
            let made = tx.create_tree("new").map(|_| ()).unwrap_err().kind();
            let opened = tx.open_or_create_tree("new").unwrap();
            opened.put("k2", "waiter").unwrap();
            tx.commit().unwrap();
            made
        });
        until_waiting(&db, 1);
        holder.commit().unwrap();
        assert_eq!(waiter.join().unwrap(), ErrorKind::AlreadyExists);
    });
    assert_eq!(db.begin_read().unwrap().tree("new").unwrap().len().unwrap(), 2);
    verify(&db);
}

/// A tree that another transaction has made, or has given this name, between the look for the name and the row: it is there, and
/// never replaced by a new one.
#[test]
fn read_committed_makes_no_tree_in_the_place_of_another() {
    // Room in the log for all that the others do while one thread does not run.
    let db = small().log_limit_bytes(1 << 30).in_memory().unwrap();
    thread::scope(|s| {
        for n in 0..4u64 {
            let db = &db;
            s.spawn(move || {
                for i in 0..1200u64 {
                    let tx = at(db, Isolation::ReadCommitted);
                    let names = ["x", "y", "z"].map(str::to_owned);
                    let (a, b) = (&names[((i + n) % 3) as usize], &names[((i * 7 + n) / 2 % 3) as usize]);
                    let done = match (i / 2 + n) % 3 {
                        0 => tx.drop_tree(a),
                        1 => tx.rename_tree(a, b),
                        _ => tx.open_or_create_tree(a).and_then(|t| t.put(i.to_be_bytes(), "row")),
                    };
                    match done {
                        Ok(()) => tx.commit().map(|_| ()).unwrap(),
                        Err(e) => {
                            let kinds = [ErrorKind::NotFound, ErrorKind::AlreadyExists, ErrorKind::Deadlock];
                            assert!(kinds.contains(&e.kind()), "{e:?}");
                        }
                    }
                }
            });
        }
    });
    // A tree that nothing reaches would be a finding.
    verify(&db);
}

/// And one that was made between two statements is opened.
#[test]
fn read_committed_opens_the_tree_that_was_made_meanwhile() {
    let db = db();
    let holder = db.begin_write().unwrap();
    holder.create_tree("new").unwrap().put("k", "holder").unwrap();
    thread::scope(|s| {
        let waiter = s.spawn(|| {
            let tx = at(&db, Isolation::ReadCommitted);
            text(tx.open_or_create_tree("new").unwrap().get("k").unwrap())
        });
        until_waiting(&db, 1);
        holder.commit().unwrap();
        assert_eq!(waiter.join().unwrap(), "holder");
    });
}

#[test]
fn read_committed_does_not_write_into_a_tree_that_was_dropped_meanwhile() {
    let db = db();
    let tx = at(&db, Isolation::ReadCommitted);
    let tree = t(&tx);
    let holder = db.begin_write().unwrap();
    holder.drop_tree("t").unwrap();
    thread::scope(|s| {
        let waiter = s.spawn(|| tree.put("k", "v").unwrap_err().kind());
        until_waiting(&db, 1);
        holder.commit().unwrap();
        assert_eq!(waiter.join().unwrap(), ErrorKind::NotFound);
    });
    tx.commit().unwrap();
    while db.maintenance_step().unwrap() {}
    verify(&db);
}

#[test]
fn read_committed_pops_the_end_that_is_there() {
    let db = db();
    let holder = db.begin_write().unwrap();
    t(&holder).remove("a").unwrap();
    thread::scope(|s| {
        let waiter = s.spawn(|| {
            let tx = at(&db, Isolation::ReadCommitted);
            let row = t(&tx).pop_first().unwrap().unwrap();
            tx.commit().unwrap();
            row.0.into_vec()
        });
        until_waiting(&db, 1);
        holder.commit().unwrap();
        assert_eq!(waiter.join().unwrap(), b"b");
    });
}

#[test]
fn who_does_not_wait_is_told_who_holds_the_row() {
    let db = db();
    let holder = db.begin_write().unwrap();
    t(&holder).put("a", "held").unwrap();
    let tx = db.begin_write().unwrap();
    let start = Instant::now();
    let e = t(&tx).no_wait().put("a", "x").unwrap_err();
    assert!(start.elapsed() < PROMPT);
    assert_eq!((e.kind(), e.is_retryable()), (ErrorKind::WouldWait, true));
    assert_eq!((e.txn(), e.tree_name(), e.key()), (Some(holder.id()), Some("t"), Some(&b"a"[..])));
    assert!(e.to_string().contains("key b\"a\" of tree \"t\""), "{e}");
    // The statement failed, the transaction goes on; the handle that waits still waits.
    t(&tx).no_wait().put("b", "mine").unwrap();
    assert_eq!(t(&tx).no_wait().insert_from("a", &mut &b"x"[..]).unwrap_err().kind(), ErrorKind::WouldWait);
    tx.commit().unwrap();

    let tx = db.begin_write_with(WriteOptions::new().no_wait()).unwrap();
    assert_eq!(t(&tx).delete("a").unwrap_err().kind(), ErrorKind::WouldWait);
    assert_eq!(tx.drop_tree("t").unwrap_err().kind(), ErrorKind::WouldWait);
    tx.rollback().unwrap();
    assert_eq!(db.stats().lock_waits, 0);
    holder.rollback().unwrap();
}

#[test]
fn a_wait_ends_at_the_transactions_own_time_out() {
    let db = db();
    let holder = db.begin_write().unwrap();
    t(&holder).put("a", "held").unwrap();
    let id = holder.id();
    thread::scope(|s| {
        s.spawn(|| {
            let time = Duration::from_millis(60);
            let tx = db.begin_write_with(WriteOptions::new().lock_timeout(time)).unwrap();
            let start = Instant::now();
            let e = t(&tx).put("a", "x").unwrap_err();
            assert!(start.elapsed() >= time && start.elapsed() < PROMPT);
            assert_eq!(e.kind(), ErrorKind::LockTimeout);
            assert_eq!((e.txn(), e.tree_name(), e.key()), (Some(id), Some("t"), Some(&b"a"[..])));
            assert!(e.waited().unwrap() >= time);
        });
    });
    holder.rollback().unwrap();
}

#[test]
fn a_deadlock_names_its_transactions_and_keys() {
    let db = db();
    let one = db.begin_write().unwrap();
    t(&one).put("a", "one").unwrap();
    let (ready, is_ready) = mpsc::channel();
    thread::scope(|s| {
        let other = s.spawn(|| {
            let two = db.begin_write().unwrap();
            t(&two).put("b", "two").unwrap();
            ready.send(two.id()).unwrap();
            // Waits, until the victim gives up.
            t(&two).put("a", "two").unwrap();
            two.commit().unwrap();
        });
        let two = is_ready.recv().unwrap();
        until_waiting(&db, 1);
        let start = Instant::now();
        let e = t(&one).put("b", "one").unwrap_err();
        assert!(start.elapsed() < PROMPT, "the victim is chosen at once");
        assert_eq!(e.kind(), ErrorKind::Deadlock);
        let cycle: Vec<_> = e
            .waits()
            .iter()
            .map(|w| (w.waiter_id, w.holder_id, w.tree_name.as_deref(), w.key.as_deref()))
            .collect();
        let expected =
            [(one.id(), two, Some("t"), Some(&b"b"[..])), (two, one.id(), Some("t"), Some(&b"a"[..]))];
        assert_eq!(cycle, expected);
        let text = e.to_string();
        assert!(text.contains("waits for key b\"b\" of tree \"t\", held by transaction #"), "{text}");
        one.rollback().unwrap();
        other.join().unwrap();
    });
    assert_eq!(db.stats().deadlocks, 1);
}

#[test]
fn a_woken_waiter_goes_on_at_once() {
    let db = db();
    let mut times = Vec::new();
    for _ in 0..20 {
        let waits = db.stats().lock_waits;
        let holder = db.begin_write().unwrap();
        t(&holder).put("a", "held").unwrap();
        thread::scope(|s| {
            let waiter = s.spawn(|| {
                let tx = at(&db, Isolation::ReadCommitted);
                t(&tx).put("a", "x").unwrap();
                Instant::now()
            });
            until_waiting(&db, waits + 1);
            let start = Instant::now();
            holder.commit().unwrap();
            times.push(waiter.join().unwrap().saturating_duration_since(start));
        });
    }
    // On a loaded machine some take their time; waiters that look now and then would all.
    times.sort();
    assert!(times[5] < Duration::from_secs(1), "{times:?}");
}
