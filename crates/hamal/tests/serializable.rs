//! Serializable transactions: what they read is validated, through every way of reading; and nothing else is.
mod common;

use common::{bytes, small, verify};
use hamal::{Database, ErrorKind, Isolation, Result, Tree, WriteOptions, WriteTxn};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;

fn db() -> Database {
    let db = small().in_memory().unwrap();
    let tx = db.begin_write().unwrap();
    let t = tx.create_tree("t").unwrap();
    for k in ["b", "d", "f", "h"] {
        t.put(k, "0").unwrap();
    }
    t.put("long", bytes(1, 30_000)).unwrap();
    tx.create_tree("out").unwrap();
    tx.create_tree("empty").unwrap();
    tx.commit().unwrap();
    db
}

fn serializable(db: &Database) -> WriteTxn {
    db.begin_write_with(WriteOptions::new().isolation(Isolation::Serializable)).unwrap()
}

fn t(tx: &WriteTxn) -> Tree {
    tx.tree("t").unwrap()
}

/// A way of reading, by name, and for each change by another whether it touches what was read.
struct Case {
    name: &'static str,
    read: fn(&WriteTxn),
    seen: &'static [&'static str],
    unseen: &'static [&'static str],
}

fn first_key(rows: impl Iterator<Item = Result<(hamal::Key, hamal::Value)>>, n: usize) {
    assert_eq!(rows.take(n).collect::<Result<Vec<_>>>().unwrap().len(), n);
}

const CASES: &[Case] = &[
    Case {
        name: "get",
        read: |tx| assert!(t(tx).get("d").unwrap().is_some()),
        seen: &["put d", "del d", "lock d"],
        unseen: &["put b", "put c", "put d0", "del f", "tree other"],
    },
    Case {
        name: "get of an absent key",
        read: |tx| assert!(t(tx).get("c").unwrap().is_none()),
        seen: &["put c", "lock c", "putdel c"],
        unseen: &["put b", "put cc", "del d"],
    },
    Case {
        name: "get_with",
        read: |tx| _ = t(tx).get_with("d", |v| v.len()).unwrap(),
        seen: &["put d"],
        unseen: &["put f"],
    },
    Case {
        name: "contains_key",
        read: |tx| assert!(!t(tx).contains_key("c").unwrap()),
        seen: &["put c"],
        unseen: &["put d"],
    },
    Case {
        name: "get of a long value",
        read: |tx| assert_eq!(t(tx).get("long").unwrap().unwrap().len(), 30_000),
        seen: &["put long", "del long", "big long"],
        unseen: &["put lon", "put long0"],
    },
    Case {
        name: "reader",
        read: |tx| assert_eq!(t(tx).reader("long").unwrap().unwrap().remaining(), 30_000),
        seen: &["big long"],
        unseen: &["put h"],
    },
    Case {
        name: "range",
        read: |tx| first_key(t(tx).range("c".."g"), 2),
        seen: &["put c", "put d", "put e", "del f", "put fff"],
        unseen: &["put b", "put bbb", "put g", "del h"],
    },
    Case {
        name: "range with other bounds",
        read: |tx| {
            use std::ops::Bound::*;
            first_key(t(tx).range::<&str>((Excluded("b"), Included("f"))), 2);
        },
        seen: &["put c", "put f", "put b0"],
        unseen: &["put b", "put f0"],
    },
    Case {
        name: "range in reverse",
        read: |tx| first_key(t(tx).range("c".."g").rev(), 2),
        seen: &["put c", "del d", "put e", "put fff"],
        unseen: &["put bbb", "put g"],
    },
    Case {
        name: "range from both ends",
        read: |tx| {
            let mut rows = t(tx).range("a".."z");
            rows.next().unwrap().unwrap();
            rows.next_back().unwrap().unwrap();
            assert_eq!(rows.count(), 3);
        },
        seen: &["put a", "put e", "put y"],
        unseen: &["put zz", "put A"],
    },
    Case {
        name: "a range without rows",
        read: |tx| assert!(t(tx).range("bb".."c").next().is_none()),
        seen: &["put bb", "put bzz"],
        unseen: &["put ba", "put c"],
    },
    Case {
        name: "keys",
        read: |tx| assert_eq!(t(tx).range("c".."g").keys().count(), 2),
        seen: &["put e", "put d"],
        unseen: &["put g"],
    },
    Case {
        name: "prefix",
        read: |tx| assert_eq!(t(tx).prefix("l").count(), 1),
        seen: &["put l", "put lzz", "del long"],
        unseen: &["put m", "put kz"],
    },
    Case {
        name: "first",
        read: |tx| assert_eq!(t(tx).first().unwrap().unwrap().0, b"b"),
        seen: &["put a", "del b", "put b"],
        unseen: &["put c", "del d"],
    },
    Case {
        name: "last",
        read: |tx| assert_eq!(t(tx).last().unwrap().unwrap().0, b"long"),
        seen: &["put z", "del long"],
        unseen: &["put c", "put lon"],
    },
    Case {
        name: "len",
        read: |tx| assert_eq!(t(tx).len().unwrap(), 5),
        seen: &["put a", "put e", "put zz", "del b", "put b"],
        unseen: &["tree other"],
    },
    Case {
        name: "is_empty",
        read: |tx| assert!(!t(tx).is_empty().unwrap()),
        seen: &["put a", "del b"],
        unseen: &["put c"],
    },
    Case {
        name: "is_empty of nothing",
        read: |tx| assert!(tx.tree("empty").unwrap().is_empty().unwrap()),
        seen: &["in empty"],
        unseen: &["put c"],
    },
    Case {
        name: "what insert returns, given back by a savepoint",
        read: |tx| {
            let s = tx.savepoint().unwrap();
            assert!(t(tx).insert("d", "1").unwrap().is_some());
            tx.rollback_to(&s).unwrap();
        },
        seen: &["put d"],
        unseen: &["put f"],
    },
    Case {
        name: "remove of an absent key",
        read: |tx| assert!(t(tx).remove("c").unwrap().is_none()),
        seen: &["put c"],
        unseen: &["put d"],
    },
    Case {
        name: "delete of an absent key",
        read: |tx| assert!(!t(tx).delete("c").unwrap()),
        seen: &["put c"],
        unseen: &["put d"],
    },
    Case {
        name: "a lock, given back by a savepoint",
        read: |tx| {
            let s = tx.savepoint().unwrap();
            assert!(t(tx).get_for_update("d").unwrap().is_some());
            tx.rollback_to(&s).unwrap();
        },
        seen: &["put d"],
        unseen: &["put f"],
    },
    Case {
        name: "pop_first, given back by a savepoint",
        read: |tx| {
            let s = tx.savepoint().unwrap();
            assert_eq!(t(tx).pop_first().unwrap().unwrap().0, b"b");
            tx.rollback_to(&s).unwrap();
        },
        seen: &["put a", "put b"],
        unseen: &["put d"],
    },
    Case {
        name: "a tree that is not there",
        read: |tx| assert_eq!(tx.tree("new").unwrap_err().kind(), ErrorKind::NotFound),
        seen: &["tree new"],
        unseen: &["tree other", "put c"],
    },
    Case {
        name: "a tree that is there",
        read: |tx| _ = tx.tree("empty").unwrap(),
        seen: &["drop empty", "rename empty"],
        unseen: &["tree other", "in empty"],
    },
    Case {
        name: "the list of trees",
        read: |tx| assert_eq!(tx.trees().unwrap().len(), 3),
        seen: &["tree other", "drop empty", "rename empty"],
        unseen: &["put c"],
    },
    Case {
        name: "a name that is taken",
        read: |tx| assert_eq!(tx.create_tree("empty").unwrap_err().kind(), ErrorKind::AlreadyExists),
        seen: &["drop empty"],
        unseen: &["tree other"],
    },
    Case {
        name: "dropping and renaming what is not there",
        read: |tx| {
            assert_eq!(tx.drop_tree("new").unwrap_err().kind(), ErrorKind::NotFound);
            assert_eq!(tx.rename_tree("gone", "x").unwrap_err().kind(), ErrorKind::NotFound);
        },
        seen: &["tree new", "tree gone"],
        unseen: &["tree other"],
    },
    Case { name: "nothing", read: |_| {}, seen: &[], unseen: &["put d", "del f", "tree new", "drop empty"] },
];

/// Makes a change in a transaction of its own.
fn change(db: &Database, what: &str) {
    let tx = db.begin_write().unwrap();
    let (verb, name) = what.split_once(' ').unwrap();
    match verb {
        "put" => t(&tx).put(name, "1").unwrap(),
        "big" => t(&tx).put(name, bytes(9, 40_000)).unwrap(),
        "del" => assert!(t(&tx).delete(name).unwrap()),
        "putdel" => {
            t(&tx).put(name, "1").unwrap();
            t(&tx).delete(name).unwrap();
        }
        "lock" => _ = t(&tx).get_for_update(name).unwrap(),
        "in" => tx.tree(name).unwrap().put("k", "1").unwrap(),
        "tree" => _ = tx.create_tree(name).unwrap(),
        "drop" => tx.drop_tree(name).unwrap(),
        "rename" => tx.rename_tree(name, "renamed").unwrap(),
        _ => panic!("{what}"),
    }
    tx.commit().unwrap();
}

/// Reads, has another transaction change something, writes elsewhere, commits.
fn outcome(db: &Database, read: fn(&WriteTxn), what: &str) -> Result<hamal::Lsn> {
    let tx = serializable(db);
    let out = tx.tree("out").unwrap();
    read(&tx);
    change(db, what);
    out.put("result", what).unwrap();
    tx.commit()
}

#[test]
fn every_way_of_reading_is_validated_exactly() {
    for case in CASES {
        for what in case.seen {
            let db = db();
            let e = outcome(&db, case.read, what).expect_err(&format!("{}: {what}", case.name));
            assert_eq!(
                (e.kind(), e.is_retryable()),
                (ErrorKind::Serialization, true),
                "{}: {what}: {e}",
                case.name
            );
            assert!(e.tree_name().is_some() && e.key().is_some() && e.txn().is_some(), "{e:?}");
            assert_eq!(db.stats().serialization_failures, 1);
            let read = db.begin_read().unwrap();
            assert!(read.tree("out").unwrap().is_empty().unwrap(), "{}: {what}", case.name);
            verify(&db);
        }
        for what in case.unseen {
            let db = db();
            outcome(&db, case.read, what).unwrap_or_else(|e| panic!("{}: {what}: {e}", case.name));
        }
    }
}

/// The same while the other transaction is live as this one reads and commits afterwards, before this one's commit.
#[test]
fn a_writer_that_was_live_is_seen_as_well() {
    for (key, conflict) in [("d", true), ("c", true), ("b", false)] {
        let db = db();
        let other = db.begin_write().unwrap();
        t(&other).put(key, "1").unwrap();
        let tx = serializable(&db);
        assert!(t(&tx).get("d").unwrap().is_some() && t(&tx).get("c").unwrap().is_none());
        tx.tree("out").unwrap().put("x", "y").unwrap();
        other.commit().unwrap();
        assert_eq!(tx.commit().is_err(), conflict, "{key}");
    }
}

/// A change that was committed under one that is live: the row's writer alone does not tell.
#[test]
fn a_commit_hidden_below_a_live_writer_is_found() {
    let db = db();
    let tx = serializable(&db);
    assert!(t(&tx).get("d").unwrap().is_some());
    tx.tree("out").unwrap().put("x", "y").unwrap();
    change(&db, "put d");
    let live = db.begin_write().unwrap();
    t(&live).put("d", "2").unwrap();
    assert_eq!(tx.commit().unwrap_err().kind(), ErrorKind::Serialization);
    live.rollback().unwrap();
    // And one that is live over a state that was seen is no conflict, nor is one that was rolled back.
    let tx = serializable(&db);
    assert!(t(&tx).get("d").unwrap().is_some());
    tx.tree("out").unwrap().put("x", "y").unwrap();
    change(&db, "put h");
    let live = db.begin_write().unwrap();
    t(&live).put("d", "2").unwrap();
    tx.commit().unwrap();
    live.rollback().unwrap();
}

#[test]
fn ones_own_changes_are_no_conflicts() {
    let db = db();
    let tx = serializable(&db);
    assert_eq!(t(&tx).iter().count(), 5);
    t(&tx).put("a", "1").unwrap();
    t(&tx).delete("b").unwrap();
    let s = tx.savepoint().unwrap();
    t(&tx).put("d", "1").unwrap();
    tx.rollback_to(&s).unwrap();
    let own = tx.create_tree("own").unwrap();
    own.put("k", "v").unwrap();
    assert_eq!(own.len().unwrap(), 1);
    tx.drop_tree("own").unwrap();
    assert_eq!(tx.trees().unwrap().len(), 3);
    let elsewhere = db.begin_write().unwrap();
    elsewhere.tree("empty").unwrap().put("z", "1").unwrap();
    elsewhere.commit().unwrap();
    tx.commit().unwrap();
    while db.maintenance_step().unwrap() {}
    verify(&db);
}

/// What the memory for reads does not hold exactly is held more widely: commits in the gaps conflict then, nothing is lost.
#[test]
fn a_read_set_over_its_memory_is_widened() {
    let db = db();
    let tx = db.begin_write().unwrap();
    let many = tx.create_tree("many").unwrap();
    for i in 0..2000u32 {
        many.put(i.to_be_bytes(), "0").unwrap();
    }
    tx.commit().unwrap();
    let run = |bytes: usize, change: u32| {
        let options = WriteOptions::new().isolation(Isolation::Serializable).read_set_bytes(bytes);
        let tx = db.begin_write_with(options).unwrap();
        let many = tx.tree("many").unwrap();
        for i in (0..2000u32).step_by(2) {
            many.get(i.to_be_bytes()).unwrap();
        }
        tx.tree("out").unwrap().put("x", "y").unwrap();
        let other = db.begin_write().unwrap();
        other.tree("many").unwrap().put(change.to_be_bytes(), "1").unwrap();
        other.commit().unwrap();
        tx.commit().map_err(|e| e.kind())
    };
    for change in [0, 2, 998, 1998] {
        assert_eq!(run(1 << 20, change), Err(ErrorKind::Serialization), "exact, {change}");
        assert_eq!(run(1 << 10, change), Err(ErrorKind::Serialization), "wide, {change}");
    }
    assert!(run(1 << 20, 999).is_ok());
    assert_eq!(run(1 << 10, 999), Err(ErrorKind::Serialization), "a gap that was joined");
    assert!(run(1 << 10, 5000).is_ok(), "beyond all that was read");
    let bad = WriteOptions::new().read_set_bytes(10);
    assert_eq!(db.begin_write_with(bad).unwrap_err().kind(), ErrorKind::InvalidOption);
}

/// Fekete, O'Neil and O'Neil's anomaly: a read-only transaction sees a state that no order explains, though the two writers alone are
/// serializable. Here the second writer fails, so every snapshot is a prefix of an order.
#[test]
fn a_read_only_transaction_sees_no_impossible_state() {
    let db = db();
    let put = |tx: &WriteTxn, k: &str, v: i64| t(tx).put(k, v.to_string()).unwrap();
    let get = |tx: &WriteTxn, k: &str| -> i64 {
        String::from_utf8(t(tx).get(k).unwrap().unwrap().into_vec()).unwrap().parse().unwrap()
    };
    // b is a checking account, d savings. The withdrawal sees both 0, and charges a penalty.
    let withdraw = serializable(&db);
    let overdrawn = get(&withdraw, "b") + get(&withdraw, "d") - 10 < 0;
    let deposit = serializable(&db);
    put(&deposit, "d", 20);
    deposit.commit().unwrap();
    let report = serializable(&db);
    assert_eq!((get(&report, "b"), get(&report, "d")), (0, 20));
    report.commit().unwrap();
    put(&withdraw, "b", if overdrawn { -11 } else { -10 });
    assert_eq!(withdraw.commit().unwrap_err().kind(), ErrorKind::Serialization);
}

/// Threads keep `sum over each pair >= 0`, which each checks by reading both and writing one: snapshot isolation breaks it.
#[test]
fn write_skew_under_load() {
    let broken = |isolation: Isolation| -> u64 {
        let db = small().background(true).cache_bytes(256 * 4096).in_memory().unwrap();
        let tx = db.begin_write().unwrap();
        let t = tx.create_tree("t").unwrap();
        for k in 0..8u8 {
            t.put([k], 1i64.to_be_bytes()).unwrap();
        }
        tx.commit().unwrap();
        let commits = AtomicU64::new(0);
        thread::scope(|s| {
            for thread in 0..6u64 {
                let (db, commits) = (&db, &commits);
                s.spawn(move || {
                    let mut x = thread + 1;
                    let mut next = || {
                        x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                        (x >> 33) as u8
                    };
                    while commits.load(SeqCst) < 1500 {
                        let tx = db.begin_write_with(WriteOptions::new().isolation(isolation)).unwrap();
                        let pair = next() % 4 * 2;
                        let mine = pair + next() % 2;
                        let t = tx.tree("t").unwrap();
                        let rows: BTreeMap<u8, i64> = t
                            .range([pair]..[pair + 2])
                            .map(|r| {
                                r.map(|(k, v)| (k[0], i64::from_be_bytes(v.as_ref().try_into().unwrap())))
                            })
                            .collect::<Result<_>>()
                            .unwrap();
                        let sum: i64 = rows.values().sum();
                        let new = if sum > 0 { rows[&mine] - 1 } else { rows[&mine] + 1 };
                        thread::yield_now();
                        let done = t
                            .put([mine], new.to_be_bytes())
                            .and_then(|()| tx.commit_with(hamal::Durability::Async).map(|_| ()));
                        match done {
                            Ok(()) => _ = commits.fetch_add(1, SeqCst),
                            Err(e) => assert!(e.is_retryable(), "{e}"),
                        }
                        // The pair as one snapshot shows it.
                    }
                });
            }
        });
        let read = db.begin_write().unwrap();
        let t = read.tree("t").unwrap();
        let value = |k: u8| i64::from_be_bytes(t.get([k]).unwrap().unwrap().as_ref().try_into().unwrap());
        // Serial runs leave each sum at 0, 1 or 2.
        (0..4).filter(|p| !(0..=2).contains(&(value(p * 2) + value(p * 2 + 1)))).count() as u64
    };
    assert_eq!(broken(Isolation::Serializable), 0);
}

#[test]
fn a_serializable_transaction_that_only_reads_always_commits() {
    let db = db();
    let tx = serializable(&db);
    assert_eq!(t(&tx).len().unwrap(), 5);
    change(&db, "put a");
    assert_eq!(t(&tx).len().unwrap(), 5);
    let snapshot = tx.snapshot();
    assert_eq!(tx.commit().unwrap(), snapshot);
}
