//! Who sees what, and what rollback brings back: snapshots, ghosts, savepoints, many threads.
mod common;

use common::{Config, Dice, create};
use hamal_btree::{Bound, Direction};
use hamal_error::ErrorKind;
use std::collections::BTreeMap;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// T9: a value is shortened, another transaction fills the page and commits, the first rolls back.
#[test]
fn a_shortened_value_comes_back_into_a_full_page() {
    let db = create(&Config::default());
    let tree = db.tree(16);
    let t = db.begin();
    db.put(&t, tree, b"k", &[1; 1000]).unwrap();
    db.put(&t, tree, b"m", &[2; 1000]).unwrap();
    db.commit(&t);
    let t1 = db.begin();
    db.put(&t1, tree, b"k", &[9; 10]).unwrap();
    db.remove(&t1, tree, b"m").unwrap();
    db.put(&t1, tree, b"m", b"").unwrap();
    let t2 = db.begin();
    for i in 0..2000u64 {
        db.put(&t2, tree, &[b"k".as_slice(), &i.to_be_bytes()].concat(), &[3; 20]).unwrap();
    }
    db.commit(&t2);
    db.collect();
    db.btree.tidy(tree, b"k").unwrap();
    let pages = db.pages_of(tree);
    db.rollback(&t1);
    assert_eq!(db.pages_of(tree), pages, "undo never allocates");
    assert_eq!(db.get(&db.now(), tree, b"k"), Some(vec![1; 1000]));
    assert_eq!(db.get(&db.now(), tree, b"m"), Some(vec![2; 1000]));
    assert_eq!(db.all(&db.now(), tree).len(), 2002);
}

/// T20: rollback to a savepoint restores the word too: the row stays this transaction's.
#[test]
fn a_savepoint_restores_value_and_writer() {
    let db = create(&Config::default());
    let tree = db.tree(16);
    let t = db.begin();
    db.put(&t, tree, b"k", b"v0").unwrap();
    db.commit(&t);
    let old = db.txns.snapshot().unwrap();
    let t1 = db.begin();
    db.put(&t1, tree, b"k", b"v1").unwrap();
    let sp = db.txns.savepoint(&t1);
    db.put(&t1, tree, b"k", b"v2").unwrap();
    db.remove(&t1, tree, b"k").unwrap();
    db.put(&t1, tree, b"k", b"v3").unwrap();
    {
        let _op = t1.enter().unwrap();
        db.txns.rollback_to(&t1, &sp).unwrap();
    }
    assert_eq!(db.get(&db.view(&t1), tree, b"k"), Some(b"v1".to_vec()));
    assert_eq!(db.get(&old.view(), tree, b"k"), Some(b"v0".to_vec()));
    assert_eq!(db.get(&db.now(), tree, b"k"), Some(b"v0".to_vec()));
    // Still locked: a second writer of this thread would wait for itself.
    let t2 = db.begin();
    assert_eq!(db.put(&t2, tree, b"k", b"x").unwrap_err().kind(), ErrorKind::Deadlock);
    db.rollback(&t1);
    assert_eq!(db.put(&t2, tree, b"k", b"x").unwrap(), Some(b"v0".to_vec()));
    assert_eq!(db.get(&old.view(), tree, b"k"), Some(b"v0".to_vec()));
    db.commit(&t2);
    assert_eq!(db.get(&old.view(), tree, b"k"), Some(b"v0".to_vec()));
    assert_eq!(db.get(&db.now(), tree, b"k"), Some(b"x".to_vec()));
}

/// T20: an insert over a committed ghost is undone to the ghost; an older snapshot still finds the row.
#[test]
fn an_insert_over_a_ghost_is_undone_to_the_ghost() {
    let db = create(&Config::default());
    let tree = db.tree(16);
    let t = db.begin();
    db.put(&t, tree, b"k", b"v0").unwrap();
    db.commit(&t);
    let old = db.txns.snapshot().unwrap();
    let t = db.begin();
    db.remove(&t, tree, b"k").unwrap();
    db.commit(&t);
    let gone = db.txns.snapshot().unwrap();
    for _ in 0..2 {
        let t = db.begin();
        assert_eq!(db.put(&t, tree, b"k", b"again").unwrap(), None);
        db.put(&t, tree, b"k", b"and again").unwrap();
        assert_eq!(db.get(&old.view(), tree, b"k"), Some(b"v0".to_vec()));
        assert_eq!(db.get(&gone.view(), tree, b"k"), None);
        db.rollback(&t);
        db.collect();
        db.btree.tidy(tree, b"k").unwrap();
        db.btree.tidy_queued(100).unwrap();
        assert_eq!(db.get(&old.view(), tree, b"k"), Some(b"v0".to_vec()));
        assert_eq!(db.get(&gone.view(), tree, b"k"), None);
        assert_eq!(db.get(&db.now(), tree, b"k"), None);
    }
    drop((old, gone));
    db.collect();
    db.btree.tidy_queued(100).unwrap();
    assert_eq!(db.get(&db.now(), tree, b"k"), None);
    assert_eq!(db.txns.versions().count(), 0);
}

#[test]
fn the_first_committer_wins() {
    let db = create(&Config::default());
    let tree = db.tree(16);
    let t = db.begin();
    db.put(&t, tree, b"a", b"0").unwrap();
    db.put(&t, tree, b"b", b"0").unwrap();
    db.commit(&t);
    let (t1, t2) = (db.begin(), db.begin());
    db.put(&t1, tree, b"a", b"1").unwrap();
    db.remove(&t1, tree, b"b").unwrap();
    db.put(&t1, tree, b"c", b"1").unwrap();
    db.commit(&t1);
    for key in [b"a", b"b", b"c"] {
        assert_eq!(db.put(&t2, tree, key, b"2").unwrap_err().kind(), ErrorKind::Conflict);
        assert_eq!(db.remove(&t2, tree, key).unwrap_err().kind(), ErrorKind::Conflict);
        assert_eq!(db.btree.check_row(&t2, tree, key).unwrap_err().kind(), ErrorKind::Conflict);
    }
    db.btree.check_row(&t2, tree, b"d").unwrap();
    db.rollback(&t2);
}

/// Readers with a snapshot see a map that does not change, forwards, backwards and by key, while writers
/// split and merge.
#[test]
fn snapshots_are_frozen_while_writers_run() {
    let db = create(&Config { frames: 200, check_apply: false, ..Config::default() });
    let tree = db.tree(16);
    let t = db.begin();
    for i in 0..1500u64 {
        db.put(&t, tree, &i.to_be_bytes(), &[1; 50]).unwrap();
    }
    db.commit(&t);
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        for w in 0..2u64 {
            let (db, stop) = (&db, &stop);
            s.spawn(move || {
                let mut dice = Dice(w + 9);
                while !stop.load(Ordering::Relaxed) {
                    let t = db.begin();
                    let mut failed = false;
                    for _ in 0..40 {
                        let key = (dice.roll(1500) as u64 * 2 + w).to_be_bytes();
                        let done = match dice.roll(3) {
                            0 => db.remove(&t, tree, &key),
                            _ => db.put(&t, tree, &key, &vec![dice.roll(256) as u8; dice.roll(400)]),
                        };
                        if let Err(e) = done {
                            assert!(e.is_retryable(), "{e:?}");
                            failed = true;
                            break;
                        }
                    }
                    if failed || dice.roll(4) == 0 {
                        db.rollback(&t)
                    } else {
                        db.commit(&t)
                    }
                    db.collect();
                    db.btree.tidy_queued(30).unwrap();
                }
            });
        }
        let readers: Vec<_> = (0..2)
            .map(|r| {
                let db = &db;
                s.spawn(move || {
                    for round in 0..6 {
                        let snapshot = db.txns.snapshot().unwrap();
                        let view = snapshot.view();
                        let first: BTreeMap<_, _> = db.all(&view, tree).into_iter().collect();
                        for _ in 0..4 {
                            let way =
                                if (round + r) % 2 == 0 { Direction::Forward } else { Direction::Reverse };
                            let mut again = db.scan(&view, tree, Bound::Unbounded, Bound::Unbounded, way, 13);
                            if way == Direction::Reverse {
                                again.reverse();
                            }
                            assert_eq!(again.len(), first.len());
                            assert!(again.iter().all(|(k, v)| first.get(k) == Some(v)));
                            for i in (0..3000u64).step_by(37) {
                                let key = i.to_be_bytes();
                                assert_eq!(db.get(&view, tree, &key), first.get(&key[..]).cloned());
                            }
                        }
                    }
                })
            })
            .collect();
        for r in readers {
            let done = r.join();
            stop.store(true, Ordering::Relaxed);
            done.unwrap();
        }
    });
}

/// Counters raised by many threads: none of the increments is lost, whether keys are shared or not.
#[test]
fn increments_by_many_threads() {
    let db = create(&Config { frames: 128, check_apply: false, ..Config::default() });
    let tree = db.tree(16);
    let (threads, keys) = (4u64, 20u64);
    let done: Vec<AtomicU64> = (0..keys).map(|_| AtomicU64::new(0)).collect();
    let barrier = Barrier::new(threads as usize);
    std::thread::scope(|s| {
        for w in 0..threads {
            let (db, done, barrier) = (&db, &done, &barrier);
            s.spawn(move || {
                let mut dice = Dice(w);
                barrier.wait();
                for round in 0..150u64 {
                    let t = db.begin();
                    let key = dice.roll(keys as usize);
                    let read = db.get(&db.view(&t), tree, &key.to_be_bytes());
                    let now = read.map_or(0, |v| u64::from_le_bytes(v.try_into().unwrap()));
                    let own = [&[9u8][..], &w.to_be_bytes(), &round.to_be_bytes()].concat();
                    db.put(&t, tree, &own, &[w as u8; 100]).unwrap();
                    match db.put(&t, tree, &key.to_be_bytes(), &(now + 1).to_le_bytes()) {
                        Ok(_) if round % 5 == 0 => db.rollback(&t),
                        Ok(_) => {
                            db.commit(&t);
                            done[key].fetch_add(1, Ordering::Relaxed);
                        }
                        Err(e) => {
                            assert!(e.is_retryable(), "{e:?}");
                            db.rollback(&t);
                        }
                    }
                }
            });
        }
    });
    for (key, n) in done.iter().enumerate() {
        let found = db.get(&db.now(), tree, &key.to_be_bytes());
        let found = found.map_or(0, |v| u64::from_le_bytes(v.try_into().unwrap()));
        assert_eq!(found, n.load(Ordering::Relaxed), "key {key}");
    }
}

/// Rows without a transaction, and rows that outlive the rollback of the transaction that made them.
#[test]
fn structure_rows() {
    let db = create(&Config::default());
    let tree = db.tree(16);
    let mut none = || Ok(Vec::new());
    let value = |k: &[u8]| db.get(&db.now(), tree, k);
    db.btree.insert_structure(None, tree, b"a", b"one", 0, &mut none).unwrap();
    assert_eq!(value(b"a"), Some(b"one".to_vec()));
    let e = db.btree.insert_structure(None, tree, b"a", b"two", 0, &mut none).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::AlreadyExists);
    db.btree.rewrite_structure(tree, b"a", Some(b"tw"), 0, &mut none).unwrap();
    assert_eq!(value(b"a"), Some(b"tw".to_vec()));
    let t = db.begin();
    db.btree.insert_structure(Some(&t), tree, b"b", b"mine", 0, &mut none).unwrap();
    assert_eq!(value(b"b"), None);
    let e = db.btree.rewrite_structure(tree, b"b", None, 0, &mut none).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound);
    // Deleted by the transaction, and there again when it rolls back.
    db.remove(&t, tree, b"b").unwrap();
    db.rollback(&t);
    // A commit makes all of it durable, and so visible to a snapshot.
    let t = db.begin();
    db.put(&t, tree, b"z", b"").unwrap();
    db.commit(&t);
    db.collect();
    assert_eq!(value(b"b"), Some(b"mine".to_vec()));
    for key in [b"a", b"b"] {
        db.btree.rewrite_structure(tree, key, None, 0, &mut none).unwrap();
        assert_eq!(value(key), None);
    }
    let e = db.btree.rewrite_structure(tree, b"a", None, 0, &mut none).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NotFound);
}

/// While recovery undoes, nothing is purged or merged (T11).
#[test]
fn undo_only_keeps_ghosts() {
    let db = create(&Config::default());
    let tree = db.tree(16);
    let t = db.begin();
    for i in 0..500u64 {
        db.put(&t, tree, &i.to_be_bytes(), &[0; 100]).unwrap();
    }
    db.commit(&t);
    let t = db.begin();
    for i in 0..500u64 {
        db.remove(&t, tree, &i.to_be_bytes()).unwrap();
    }
    db.commit(&t);
    db.collect();
    let pages = db.pages_of(tree);
    db.btree.set_undo_only(true);
    db.btree.tidy(tree, &[0; 8]).unwrap();
    assert_eq!(db.btree.tidy_queued(1000).unwrap(), 0);
    assert_eq!(db.pages_of(tree), pages);
    db.btree.set_undo_only(false);
    db.btree.forget_tree(tree.id);
    assert_eq!(db.btree.tidy_queued(1000).unwrap(), 0);
    for i in 0..500u64 {
        db.btree.tidy(tree, &i.to_be_bytes()).unwrap();
    }
    assert_eq!(db.pages_of(tree), 1);
}

/// The queue of ghosts lives in memory; after a restart (here: when it was forgotten) a scan brings them to mind again.
#[test]
fn a_scan_brings_forgotten_ghosts_to_mind() {
    let db = create(&Config::default());
    let tree = db.tree(16);
    let t = db.begin();
    for i in 0..500u64 {
        db.put(&t, tree, &i.to_be_bytes(), &[0; 100]).unwrap();
    }
    db.commit(&t);
    let t = db.begin();
    for i in 0..500u64 {
        db.remove(&t, tree, &i.to_be_bytes()).unwrap();
    }
    db.commit(&t);
    db.collect();
    db.btree.forget_tree(tree.id);
    assert_eq!(db.btree.tidy_queued(1000).unwrap(), 0);
    let pages = db.pages_of(tree);
    assert!(pages > 5);
    // Each round tidies the leaves that are left, merges halve them.
    for _ in 0..20 {
        assert!(db.all(&db.now(), tree).is_empty());
        db.btree.tidy_queued(1000).unwrap();
    }
    assert_eq!(db.pages_of(tree), 1, "of {pages}");
}
