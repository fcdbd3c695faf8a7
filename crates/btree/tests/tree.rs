//! The tree against a map: transactions, savepoints, rollback, scans, every page size, tiny pools.
mod common;

use common::{Config, Db, Dice, create, rows};
use hamal_btree::{Bound, Direction, Tree};
use hamal_error::ErrorKind;
use proptest::prelude::*;
use std::collections::BTreeMap;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Clone, Debug)]
enum Op {
    Put(u16, u16),
    Remove(u16),
    Savepoint,
    RollbackTo,
    Commit,
    Rollback,
    Tidy(u16),
    Scan(u16, u16, bool, u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        20 => (0u16..400, 0u16..900).prop_map(|(k, n)| Op::Put(k, n)),
        10 => (0u16..400).prop_map(Op::Remove),
        1 => Just(Op::Savepoint),
        1 => Just(Op::RollbackTo),
        1 => Just(Op::Commit),
        1 => Just(Op::Rollback),
        2 => (0u16..400).prop_map(Op::Tidy),
        1 => (0u16..400, 0u16..400, any::<bool>(), 1u8..40).prop_map(|(a, b, r, n)| Op::Scan(a, b, r, n)),
    ]
}

fn key(k: u16) -> Vec<u8> {
    // Lengths from 1 to about 100, neighbours with long common prefixes.
    let mut out = vec![b'a' + (k % 3) as u8; 1 + usize::from(k % 90)];
    out.extend(k.to_be_bytes());
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn agrees_with_a_map(ops in prop::collection::vec(op(), 50..700)) {
        let db = create(&Config { frames: 256, ..Config::default() });
        let tree = db.tree(16);
        let (mut committed, mut model) = (Model::new(), Model::new());
        let mut saved: Vec<(hamal_txn::Savepoint, Model)> = Vec::new();
        let mut txn = db.begin();
        for (n, op) in ops.into_iter().enumerate() {
            match op {
                Op::Put(k, len) => {
                    let value = vec![n as u8; usize::from(len)];
                    let old = db.put(&txn, tree, &key(k), &value).unwrap();
                    prop_assert_eq!(old, model.insert(key(k), value));
                }
                Op::Remove(k) => {
                    prop_assert_eq!(db.remove(&txn, tree, &key(k)).unwrap(), model.remove(&key(k)));
                }
                Op::Savepoint => saved.push((db.txns.savepoint(&txn), model.clone())),
                Op::RollbackTo => {
                    if let Some((to, then)) = saved.last() {
                        let _op = txn.enter().unwrap();
                        db.txns.rollback_to(&txn, to).unwrap();
                        model = then.clone();
                    }
                }
                Op::Commit => {
                    db.commit(&txn);
                    committed = model.clone();
                    saved.clear();
                    txn = db.begin();
                    db.collect();
                }
                Op::Rollback => {
                    db.rollback(&txn);
                    model = committed.clone();
                    saved.clear();
                    txn = db.begin();
                    prop_assert_eq!(db.all(&db.view(&txn), tree), rows(&model));
                }
                Op::Tidy(k) => {
                    db.btree.tidy(tree, &key(k)).unwrap();
                    db.btree.tidy_queued(16).unwrap();
                }
                Op::Scan(a, b, reverse, limit) => {
                    let (a, b) = (key(a), key(b));
                    let (low, high) = if a <= b { (a, b) } else { (b, a) };
                    let (from, to) = (low.clone(), high.clone());
                    let bounds = (std::ops::Bound::Excluded(from), std::ops::Bound::Included(to));
                    let mut want: Vec<_> = if low < high {
                        model.range(bounds).map(|(k, v)| (k.clone(), v.clone())).collect()
                    } else {
                        Vec::new()
                    };
                    let direction = if reverse { Direction::Reverse } else { Direction::Forward };
                    if reverse {
                        want.reverse();
                    }
                    let (low, high) = (Bound::Excluded(&low[..]), Bound::Included(&high[..]));
                    let limit = usize::from(limit);
                    let got = db.scan(&db.view(&txn), tree, low, high, direction, limit);
                    prop_assert_eq!(got, want);
                }
            }
            prop_assert_eq!(db.get(&db.view(&txn), tree, &key(7)), model.get(&key(7)).cloned());
        }
        prop_assert_eq!(db.all(&db.view(&txn), tree), rows(&model));
        db.rollback(&txn);
        prop_assert_eq!(db.all(&db.now(), tree), rows(&committed));
    }
}

fn load(db: &Db, tree: Tree, n: u64, key: impl Fn(u64) -> Vec<u8>, len: usize) {
    let txn = db.begin();
    for i in 0..n {
        db.put(&txn, tree, &key(i), &vec![i as u8; len]).unwrap();
    }
    db.commit(&txn);
}

/// Share of the tree's pages that the payload takes.
fn fill(db: &Db, tree: Tree, payload: u64, page: usize) -> f64 {
    payload as f64 / (db.pages_of(tree) * page) as f64
}

#[test]
fn ascending_loads_fill_pages() {
    let db = create(&Config::default());
    let tree = db.tree(16);
    load(&db, tree, 20_000, |i| i.to_be_bytes().to_vec(), 100);
    // 8 bytes of key, of which the slot holds 4; 100 of value; 20 beside. (When the fence comes, the
    // prefix takes the other 4 as well: space that an ascending load does not get back.)
    let fill = fill(&db, tree, 20_000 * 124, 4096);
    assert!(fill > 0.95, "{fill}");
    let rows = db.all(&db.now(), tree);
    assert_eq!(rows.len(), 20_000);
    assert!(rows.is_sorted());
    // Ascending in the middle of others as well.
    let tree = db.tree(17);
    load(&db, tree, 2, |i| vec![i as u8 * 255], 100);
    load(&db, tree, 20_000, |i| [&[7][..], &i.to_be_bytes()].concat(), 100);
    let fill = self::fill(&db, tree, 20_000 * 125, 4096);
    assert!(fill > 0.93, "{fill}");
}

#[test]
fn every_page_size_and_long_keys() {
    for page_size in [4096, 8192, 16384, 32768, 65536] {
        let db = create(&Config { page_size, frames: 128, check_apply: true });
        let tree = db.tree(16);
        let limits = db.btree.limits();
        let mut dice = Dice(page_size as u64);
        let mut model = Model::new();
        let txn = db.begin();
        for i in 0..300u64 {
            let mut key = vec![dice.roll(256) as u8; 1 + dice.roll(limits.max_key)];
            key[0] = dice.roll(256) as u8;
            let value = vec![i as u8; if dice.roll(4) == 0 { limits.max_inline } else { dice.roll(200) }];
            db.put(&txn, tree, &key, &value).unwrap();
            model.insert(key, value);
        }
        db.commit(&txn);
        assert_eq!(db.all(&db.now(), tree), rows(&model));
        let mut back = db.scan(&db.now(), tree, Bound::Unbounded, Bound::Unbounded, Direction::Reverse, 7);
        back.reverse();
        assert_eq!(back, rows(&model));
        let long = vec![1; limits.max_key + 1];
        let txn = db.begin();
        assert_eq!(db.put(&txn, tree, &long, b"").unwrap_err().kind(), ErrorKind::InvalidArgument);
        let e = db.put(&txn, tree, b"k", &vec![0; limits.max_inline + 1]).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidArgument);
        assert_eq!(db.get(&db.now(), tree, &long), None);
        db.put(&txn, tree, b"", b"empty key").unwrap();
        assert_eq!(db.get(&db.view(&txn), tree, b""), Some(b"empty key".to_vec()));
        db.rollback(&txn);
    }
}

#[test]
fn removing_everything_gives_the_pages_back() {
    let db = create(&Config { frames: 64, ..Config::default() });
    let tree = db.tree(16);
    let (before, _) = db.btree.space().usage().unwrap();
    load(&db, tree, 5000, |i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes().to_vec(), 60);
    assert!(db.pages_of(tree) > 100);
    let txn = db.begin();
    for (key, _) in db.all(&db.view(&txn), tree) {
        db.remove(&txn, tree, &key).unwrap().unwrap();
    }
    // As long as the remover may roll back, nothing goes.
    db.btree.tidy_queued(usize::MAX).unwrap();
    assert!(db.pages_of(tree) > 100);
    db.commit(&txn);
    db.collect();
    while db.btree.tidy_queued(1000).unwrap() > 0 {}
    assert_eq!(db.pages_of(tree), 1);
    assert_eq!(db.btree.space().usage().unwrap().0, before);
    assert!(db.all(&db.now(), tree).is_empty());
    load(&db, tree, 3000, |i| i.to_be_bytes().to_vec(), 60);
    assert_eq!(db.all(&db.now(), tree).len(), 3000);
}

#[test]
fn a_pool_of_64_frames() {
    let db = create(&Config { frames: 64, ..Config::default() });
    let tree = db.tree(16);
    let mut dice = Dice(5);
    let mut model = Model::new();
    for _ in 0..20 {
        let txn = db.begin();
        for _ in 0..300 {
            let key = dice.roll(6000).to_be_bytes().to_vec();
            if dice.roll(5) == 0 {
                assert_eq!(db.remove(&txn, tree, &key).unwrap(), model.remove(&key));
            } else {
                let value = vec![dice.roll(256) as u8; dice.roll(300)];
                assert_eq!(db.put(&txn, tree, &key, &value).unwrap(), model.insert(key, value));
            }
        }
        db.commit(&txn);
        db.collect();
        db.btree.tidy_queued(100).unwrap();
    }
    assert_eq!(db.all(&db.now(), tree), rows(&model));
}

#[test]
fn a_root_takes_the_place_of_its_only_child() {
    let db = create(&Config::default());
    let tree = db.tree(16);
    let (before, _) = db.btree.space().usage().unwrap();
    // Two leaves, of which the first loses most of its rows: together they are more than 40% full.
    load(&db, tree, 45, |i| i.to_be_bytes().to_vec(), 100);
    assert_eq!(db.pages_of(tree), 3);
    let txn = db.begin();
    for i in 1..31u64 {
        db.remove(&txn, tree, &i.to_be_bytes()).unwrap();
    }
    db.commit(&txn);
    db.collect();
    db.btree.tidy_queued(1000).unwrap();
    assert_eq!(db.pages_of(tree), 1);
    assert_eq!(db.btree.space().usage().unwrap().0, before);
    assert_eq!(db.all(&db.now(), tree).len(), 15);
}
