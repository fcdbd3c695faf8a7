//! Locking rows: what a lock leaves behind, on rows, on ghosts and where there is nothing (BTREE-11).
mod common;

use common::{Config, Db, create};
use hamal_btree::{RawValue, Tree};
use hamal_error::{ErrorKind, Result};
use hamal_txn::Txn;

fn lock(db: &Db, txn: &Txn, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>> {
    let _op = txn.enter()?;
    Ok(db.btree.lock(txn, tree, key)?.map(|v| match v {
        RawValue::Inline(b) => b,
        RawValue::Chain { .. } => panic!("no chains here"),
    }))
}

/// A tree with the row `k` and the ghost `g`, of a settled transaction.
fn start() -> (Db, Tree) {
    let db = create(&Config::default());
    let tree = db.tree(16);
    let t = db.begin();
    db.put(&t, tree, b"k", b"v").unwrap();
    db.put(&t, tree, b"g", b"gone").unwrap();
    db.commit(&t);
    let t = db.begin();
    db.remove(&t, tree, b"g").unwrap();
    db.commit(&t);
    db.collect();
    (db, tree)
}

/// Bytes of the tree's root, a leaf here, behind the page header.
fn leaf(db: &Db, tree: Tree) -> Vec<u8> {
    db.txns.pool().shared(tree.root).unwrap()[hamal_page::HEADER_LEN..].to_vec()
}

#[test]
fn a_lock_shows_the_value_and_changes_it_for_nobody() {
    let (db, tree) = start();
    let before = db.txns.snapshot().unwrap();
    let t = db.begin();
    assert_eq!(lock(&db, &t, tree, b"k").unwrap(), Some(b"v".to_vec()));
    assert_eq!(lock(&db, &t, tree, b"g").unwrap(), None);
    assert_eq!(lock(&db, &t, tree, b"none").unwrap(), None);
    let all = vec![(b"k".to_vec(), b"v".to_vec())];
    for view in [before.view(), db.now(), db.view(&t)] {
        assert_eq!(db.all(&view, tree), all);
    }
    db.commit(&t);
    for view in [before.view(), db.now()] {
        assert_eq!(db.all(&view, tree), all);
        assert_eq!(db.get(&view, tree, b"none"), None);
    }
}

#[test]
fn a_lock_again_costs_nothing() {
    let (db, tree) = start();
    let t = db.begin();
    for key in [&b"k"[..], b"g", b"none"] {
        lock(&db, &t, tree, key).unwrap();
    }
    let tail = db.log.tail();
    for key in [&b"k"[..], b"g", b"none"] {
        lock(&db, &t, tree, key).unwrap();
    }
    db.put(&t, tree, b"k", b"mine").unwrap();
    let after_put = db.log.tail();
    assert_eq!(lock(&db, &t, tree, b"k").unwrap(), Some(b"mine".to_vec()));
    assert_eq!((tail < after_put, db.log.tail()), (true, after_put));
    db.commit(&t);
}

#[test]
fn rollback_restores_every_word() {
    let (db, tree) = start();
    let leaf_before = leaf(&db, tree);
    let t = db.begin();
    for key in [&b"k"[..], b"g"] {
        lock(&db, &t, tree, key).unwrap();
    }
    assert_ne!(leaf(&db, tree), leaf_before);
    db.rollback(&t);
    assert_eq!(leaf(&db, tree), leaf_before, "word for word");
    assert_eq!(db.txns.versions().count(), 0);
    // A key without a row: nothing is left, not even a ghost.
    let rows = db.all(&db.now(), tree);
    let t = db.begin();
    lock(&db, &t, tree, b"none").unwrap();
    db.rollback(&t);
    assert_eq!(db.all(&db.now(), tree), rows);
    let t = db.begin();
    let savepoint = db.txns.savepoint(&t);
    lock(&db, &t, tree, b"k").unwrap();
    lock(&db, &t, tree, b"none").unwrap();
    {
        let _op = t.enter().unwrap();
        db.txns.rollback_to(&t, &savepoint).unwrap();
    }
    // Another takes both at once.
    let other = db.begin();
    db.put(&other, tree, b"k", b"other").unwrap();
    db.put(&other, tree, b"none", b"other").unwrap();
    db.commit(&other);
    db.rollback(&t);
}

#[test]
fn a_committed_lock_is_a_change_for_older_snapshots() {
    let (db, tree) = start();
    let old = db.begin();
    let t = db.begin();
    lock(&db, &t, tree, b"k").unwrap();
    lock(&db, &t, tree, b"none").unwrap();
    db.commit(&t);
    for key in [&b"k"[..], b"none"] {
        assert_eq!(db.put(&old, tree, key, b"x").unwrap_err().kind(), ErrorKind::Conflict);
        assert_eq!(lock(&db, &old, tree, key).unwrap_err().kind(), ErrorKind::Conflict);
    }
    db.rollback(&old);
}

#[test]
fn ghosts_of_locks_are_taken_away() {
    let (db, tree) = start();
    for round in 0..3000u32 {
        let t = db.begin();
        lock(&db, &t, tree, &round.to_be_bytes()).unwrap();
        lock(&db, &t, tree, b"g").unwrap();
        db.commit(&t);
    }
    db.collect();
    while db.btree.tidy_queued(64).unwrap() > 0 {
        db.collect();
    }
    let node = hamal_btree::describe_page(&db.txns.pool().shared(tree.root).unwrap()).unwrap();
    assert!(!node.contains("ghost"), "{node}");
    assert_eq!(db.pages_of(tree), 1);
    assert_eq!(db.txns.versions().count(), 0);
}
