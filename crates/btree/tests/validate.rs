//! Validation, stepped: others write and commit while a serializable transaction is between its look at the pages and the section
//! that decides (TXN-VALID).
mod common;

use common::{Config, Db, create};
use hamal_btree::{Direction, Tree};
use hamal_error::{ErrorKind, Result};
use hamal_page::Lsn;
use hamal_txn::{Isolation, Txn};
use std::ops::Bound;
use std::sync::Arc;

fn start() -> (Db, Tree) {
    let db = create(&Config::default());
    let tree = db.tree(16);
    let t = db.begin();
    for k in [b"b", b"d", b"f"] {
        db.put(&t, tree, k, b"0").unwrap();
    }
    db.commit(&t);
    (db, tree)
}

/// Reads [b, f) and writes `z`.
fn reader(db: &Db, tree: Tree) -> Arc<Txn> {
    let tx = db.txns.begin_with(Isolation::Serializable, None).unwrap();
    tx.note_read(1 << 20, |r| r.add_range(tree.id, tree.root, Bound::Included(b"b"), Bound::Excluded(b"f")));
    let (low, high) = (hamal_btree::Bound::Included(&b"b"[..]), hamal_btree::Bound::Excluded(&b"f"[..]));
    assert_eq!(db.scan(&db.view(&tx), tree, low, high, Direction::Forward, 10).len(), 2);
    db.put(&tx, tree, b"z", b"1").unwrap();
    tx
}

/// Somebody else commits something, so that nothing is left out.
fn somebody(db: &Db, tree: Tree) {
    let t = db.begin();
    db.put(&t, tree, b"q", b"1").unwrap();
    db.commit(&t);
}

/// Commits; `between` runs after the look at the pages, outside of the section.
fn commit(db: &Db, tx: &Txn, between: impl Fn()) -> Result<Lsn> {
    let _op = tx.enter()?;
    let looked = std::cell::Cell::new(false);
    let done = db.txns.commit_looking(tx, &|v| {
        looked.set(true);
        db.btree.check_reads(v)?;
        between();
        Ok(())
    });
    assert!(looked.get());
    done.map(|o| o.timestamp)
}

#[test]
fn a_write_and_commit_between_look_and_section() {
    // Of a row, of a row that was not there, of a row that is removed; and outside of what was read.
    for (key, conflict) in [(&b"b"[..], true), (b"c", true), (b"d", true), (b"f", false), (b"a", false)] {
        let (db, tree) = start();
        let tx = reader(&db, tree);
        somebody(&db, tree);
        let done = commit(&db, &tx, || {
            let other = db.begin();
            if key == b"d" {
                db.remove(&other, tree, key).unwrap();
            } else {
                db.put(&other, tree, key, b"1").unwrap();
            }
            db.commit(&other);
        });
        assert_eq!(done.as_ref().is_err_and(|e| e.kind() == ErrorKind::Serialization), conflict, "{key:?}");
        if conflict {
            // As it was: it can be rolled back, and a second commit finds the same.
            assert_eq!(commit(&db, &tx, || {}).unwrap_err().kind(), ErrorKind::Serialization);
            db.rollback(&tx);
            assert_eq!(db.get(&db.now(), tree, b"z"), None);
        }
        assert_eq!(db.txns.stats().serialization_failures, u64::from(conflict) * 2);
    }
}

#[test]
fn a_commit_between_of_a_writer_that_the_look_met() {
    for rolls_back in [false, true] {
        let (db, tree) = start();
        let other = db.begin();
        db.put(&other, tree, b"c", b"1").unwrap();
        let tx = reader(&db, tree);
        somebody(&db, tree);
        let done = commit(&db, &tx, || if rolls_back { db.rollback(&other) } else { db.commit(&other) });
        assert_eq!(done.is_ok(), rolls_back);
        if done.is_err() {
            db.rollback(&tx);
        }
    }
}

#[test]
fn a_write_between_that_commits_later_is_later_in_the_order() {
    let (db, tree) = start();
    let tx = reader(&db, tree);
    let other = db.begin();
    somebody(&db, tree);
    let at = commit(&db, &tx, || _ = db.put(&other, tree, b"b", b"1").unwrap()).unwrap();
    let _op = other.enter().unwrap();
    assert!(db.txns.commit(&other).unwrap().timestamp > at);
}

/// Whoever commits first of two that validate at the same time makes the other one fail.
#[test]
fn two_that_validate_at_once() {
    let (db, tree) = start();
    let (one, two) = (reader(&db, tree), db.txns.begin_with(Isolation::Serializable, None).unwrap());
    two.note_read(1 << 20, |r| r.add_key(tree.id, tree.root, b"z"));
    db.put(&two, tree, b"b", b"2").unwrap();
    somebody(&db, tree);
    let done = commit(&db, &one, || {
        commit(&db, &two, || {}).unwrap();
    });
    assert_eq!(done.unwrap_err().kind(), ErrorKind::Serialization);
    db.rollback(&one);
}

/// The look finds its way when leaves split and merge while it goes on: every key is looked at.
#[test]
fn many_leaves() {
    let (db, tree) = start();
    let t = db.begin();
    for i in 0..3000u32 {
        db.put(&t, tree, &[b"c", &i.to_be_bytes()[..]].concat(), &[7; 40]).unwrap();
    }
    db.commit(&t);
    for i in (0..3000u32).step_by(311) {
        let tx = db.txns.begin_with(Isolation::Serializable, None).unwrap();
        tx.note_read(1 << 20, |r| r.add_range(tree.id, tree.root, Bound::Unbounded, Bound::Excluded(b"d")));
        db.put(&tx, tree, b"z", b"1").unwrap();
        let other = db.begin();
        let key = [b"c", &i.to_be_bytes()[..]].concat();
        if i % 2 == 0 {
            _ = db.remove(&other, tree, &key).unwrap()
        } else {
            _ = db.put(&other, tree, &key, b"").unwrap()
        }
        db.commit(&other);
        assert_eq!(commit(&db, &tx, || {}).unwrap_err().key(), Some(&key[..]));
        db.rollback(&tx);
    }
}
