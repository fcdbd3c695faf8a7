//! Runs of rows that one record inserts (BTREE-14): their undo in parts, and who sees them meanwhile.
mod common;

use common::{Config, Db, Dice, create, rows};
use hamal_btree::Tree;
use hamal_error::ErrorKind;
use hamal_log::RecordKind;
use hamal_page::Lsn;
use hamal_txn::Txn;
use std::collections::BTreeMap;

const INSERT_RUN: u8 = 14;
const REMOVE_RUN: u8 = 15;

fn key(n: u64) -> Vec<u8> {
    format!("key {n:08}").into_bytes()
}

/// Loads rows, all new.
fn load(db: &Db, txn: &Txn, tree: Tree, numbers: impl Iterator<Item = u64>, len: usize) {
    let rows: Vec<(Vec<u8>, Vec<u8>)> = numbers.map(|n| (key(n), vec![n as u8; len])).collect();
    let refs: Vec<(&[u8], &[u8])> = rows.iter().map(|(k, v)| (&**k, &**v)).collect();
    let _op = txn.enter().unwrap();
    db.btree.put_sorted(txn, tree, &refs, &mut |_| panic!("a row was there")).unwrap();
}

/// Operations of the transaction's records that name a page of the tree: from its last record back, CLRs included.
fn ops(db: &Db, from: Lsn, own: u64) -> Vec<(RecordKind, u8, usize)> {
    let log = &db.log;
    let mut all = Vec::new();
    let mut at = from;
    while at < log.tail() {
        let r = log.read(at).unwrap();
        if r.txn.0 == own {
            all.extend(r.blocks.iter().map(|b| (r.kind, b.op, r.undo().len())));
        }
        at = r.end;
    }
    all
}

/// Rows that go to one leaf are one record, whatever lies below and above them in it.
#[test]
fn rows_of_one_leaf_are_one_record() {
    let db = create(&Config::default());
    let tree = db.tree(16);
    let t = db.begin();
    db.put(&t, tree, &key(1000), b"above").unwrap();
    db.put(&t, tree, &key(0), b"below").unwrap();
    let from = db.log.tail();
    load(&db, &t, tree, 1..21, 50);
    assert_eq!(ops(&db, from, t.id().0).iter().filter(|o| o.1 == INSERT_RUN).count(), 1);
    // Beyond the row that is there, and over one: each neighbourhood is a run of its own.
    let from = db.log.tail();
    let rows: Vec<_> = (990..1010).map(|n| (key(n), b"new".to_vec())).collect();
    let refs: Vec<(&[u8], &[u8])> = rows.iter().map(|(k, v)| (&**k, &**v)).collect();
    let mut former = 0;
    {
        let _op = t.enter().unwrap();
        db.btree
            .put_sorted(&t, tree, &refs, &mut |_| {
                former += 1;
                Ok(())
            })
            .unwrap();
    }
    assert_eq!(former, 1);
    let found = ops(&db, from, t.id().0);
    assert_eq!(found.iter().map(|o| o.1).collect::<Vec<_>>(), [INSERT_RUN, 2, INSERT_RUN], "UPDATE between");
    db.commit(&t);
    assert_eq!(db.all(&db.now(), tree).len(), 41);
}

/// An ascending load leaves full leaves behind, and a record of rows for each.
#[test]
fn an_ascending_load_is_a_record_for_each_leaf() {
    let db = create(&Config::default());
    let tree = db.tree(16);
    let t = db.begin();
    let from = db.log.tail();
    for first in (0..2000).step_by(200) {
        load(&db, &t, tree, first..first + 200, 80);
    }
    let records = ops(&db, from, t.id().0).iter().filter(|o| o.0 == RecordKind::Update).count();
    let pages = db.pages_of(tree);
    db.commit(&t);
    // 111 bytes a row and slot: 36 rows a leaf.
    assert!((55..62).contains(&pages), "{pages} pages");
    assert!(records <= pages + 10, "{records} records for {pages} pages");
    assert_eq!(db.all(&db.now(), tree).len(), 2000);
}

/// What somebody unsorted hands over is put all the same.
#[test]
fn rows_that_do_not_ascend_are_put_one_by_one() {
    let db = create(&Config::default());
    let tree = db.tree(16);
    let t = db.begin();
    let numbers = [5u64, 6, 3, 4, 9, 1, 2, 8];
    let rows: Vec<(Vec<u8>, Vec<u8>)> = numbers.iter().map(|n| (key(*n), vec![*n as u8; 9])).collect();
    let refs: Vec<(&[u8], &[u8])> = rows.iter().map(|(k, v)| (&**k, &**v)).collect();
    {
        let _op = t.enter().unwrap();
        db.btree.put_sorted(&t, tree, &refs, &mut |_| Ok(())).unwrap();
    }
    db.commit(&t);
    assert_eq!(db.all(&db.now(), tree).len(), numbers.len());
}

/// Another transaction puts rows between those of a run until they lie in many leaves. The run is undone by one CLR for
/// each neighbourhood, from its end; each but the last says how many rows are left; what the other has put stays.
#[test]
fn a_run_that_others_have_torn_apart_is_undone_in_parts() {
    let db = create(&Config::default());
    let tree = db.tree(16);
    let t = db.begin();
    load(&db, &t, tree, (0..40).map(|n| n * 100), 10);
    let other = db.begin();
    let mut model = BTreeMap::new();
    for (at, n) in [(5u64, 8u64), (12, 30), (13, 1), (30, 12)] {
        for i in 1..=n {
            let (k, v) = (key(at * 100 + i), vec![7; 900]);
            db.put(&other, tree, &k, &v).unwrap();
            model.insert(k, v);
        }
    }
    db.commit(&other);
    let pages = db.pages_of(tree);
    assert!(pages > 12, "{pages}");
    let from = db.log.tail();
    db.rollback(&t);
    let clrs: Vec<_> = ops(&db, from, t.id().0).into_iter().filter(|o| o.0 == RecordKind::Clr).collect();
    // At least where others' rows lie between; at most where leaves end, too.
    assert!((5..=5 + pages).contains(&clrs.len()), "{clrs:?}");
    assert!(clrs.iter().all(|c| c.1 == REMOVE_RUN));
    let (last, parts) = clrs.split_last().unwrap();
    assert!(last.2 == 0 && parts.iter().all(|c| c.2 > 0), "{clrs:?}");
    assert_eq!(db.pages_of(tree), pages, "undo never allocates");
    assert_eq!(db.all(&db.now(), tree), rows(&model));
}

/// TXN-RESERVE: what was reserved for the CLRs of a run is enough, and comes back.
#[test]
fn the_reserve_of_a_run_is_enough_for_a_clr_a_row() {
    let db = create(&Config::default());
    let tree = db.tree(16);
    let reserved = || {
        db.txns.pool().flush_all(hamal_trace::WriteReason::Asked).unwrap();
        db.log.stats().reserved_bytes
    };
    let before = reserved();
    let t = db.begin();
    load(&db, &t, tree, (0..30).map(|n| n * 10), 10);
    let other = db.begin();
    for n in 0..30 {
        db.put(&other, tree, &key(n * 10 + 1), &[1; 700]).unwrap();
    }
    db.commit(&other);
    let held = db.txns.att()[0].undo_reserve;
    let from = db.log.tail();
    db.rollback(&t);
    let mut clr_bytes = 0;
    let mut at = from;
    while at < db.log.tail() {
        let r = db.log.read(at).unwrap();
        clr_bytes += if r.kind == RecordKind::Clr { r.len() as u64 } else { 0 };
        at = r.end;
    }
    let clrs = ops(&db, from, t.id().0).iter().filter(|o| o.0 == RecordKind::Clr).count();
    assert_eq!(clrs, 30, "a row of the other behind each");
    assert!(clr_bytes <= held, "{clr_bytes} of {held}");
    db.txns.collect();
    assert_eq!(reserved(), before);
}

/// A savepoint in the middle of a load, and rows of the load before and after it that others have torn apart.
#[test]
fn a_savepoint_within_a_load() {
    let db = create(&Config::default());
    let tree = db.tree(16);
    let t = db.begin();
    load(&db, &t, tree, (0..20).map(|n| n * 100), 10);
    let sp = db.txns.savepoint(&t);
    load(&db, &t, tree, (20..40).map(|n| n * 100), 10);
    db.put(&t, tree, &key(2500), b"again").unwrap();
    let other = db.begin();
    for at in [1050, 2050, 2950, 2951, 2952] {
        db.put(&other, tree, &key(at), &[7; 900]).unwrap();
    }
    for _ in 0..2 {
        let _op = t.enter().unwrap();
        db.txns.rollback_to(&t, &sp).unwrap();
    }
    assert_eq!(db.all(&db.view(&t), tree).len(), 20);
    load(&db, &t, tree, (20..25).map(|n| n * 100), 5);
    db.commit(&other);
    db.commit(&t);
    let all = db.all(&db.now(), tree);
    assert_eq!(all.len(), 20 + 5 + 5);
}

/// BTREE-6 stays strict: a row of a run that is gone, or another's, stops the engine.
#[test]
fn a_row_of_a_run_that_is_gone_stops_the_engine() {
    for (gone, parts) in [(5u64, 1), (0, 1), (9, 0)] {
        let db = create(&Config::default());
        let tree = db.tree(16);
        let t = db.begin();
        load(&db, &t, tree, 0..10, 10);
        {
            // What no engine logs: a REMOVE of a live transaction's row, by nobody.
            let pool = db.txns.pool();
            let mut credit = pool.credit(500, 0, 1, false).unwrap();
            let mut page = pool.exclusive(tree.root).unwrap();
            let payload = [gone as u8];
            let edit = hamal_buffer::PageEdit {
                page: &mut page,
                op: 4,
                whole: hamal_log::Whole::No,
                payload: &payload,
            };
            db.txns.structure(None, hamal_btree::BTREE_RM, &mut [edit], &mut credit).unwrap();
        }
        let before = db.log.stats().records;
        let _op = t.enter().unwrap();
        let e = db.txns.rollback(&t).unwrap_err();
        assert!(format!("{e:?}").contains("BTREE-6"), "{e:?}");
        assert_eq!(db.txns.begin().unwrap_err().kind(), ErrorKind::Poisoned);
        // Beside the Abort record.
        let clrs = db.log.stats().records - before - 1;
        assert_eq!(clrs, parts, "the rows above it were undone before");
    }
}

/// Snapshots open before, during and after a load show what had committed when they were opened; random histories of loads,
/// puts, removals and savepoints of two transactions against maps.
#[test]
fn loads_among_others_agree_with_maps() {
    for seed in 0..12 {
        let db = create(&Config { check_apply: seed % 2 == 0, ..Config::default() });
        let tree = db.tree(16);
        let mut dice = Dice(seed);
        let mut committed: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for round in 0..14u64 {
            // Each in a lane of its own: no conflicts, and every leaf is everybody's.
            let txns = [db.begin(), db.begin()];
            let mut own: [BTreeMap<Vec<u8>, Option<Vec<u8>>>; 2] = Default::default();
            let mut saved: [Option<_>; 2] = [None, None];
            let old = db.txns.snapshot_after(db.log.durable()).unwrap();
            for _ in 0..16 {
                let lane = dice.roll(2);
                let t = &txns[lane];
                let sees = |own: &BTreeMap<Vec<u8>, Option<Vec<u8>>>, k: &Vec<u8>| match own.get(k) {
                    Some(v) => v.is_some(),
                    None => committed.contains_key(k),
                };
                match dice.roll(8) {
                    0..=3 => {
                        let (first, n) = (dice.roll(400) as u64, 1 + dice.roll(40) as u64);
                        let len = [0, 5, 60, 300][dice.roll(4)];
                        let step = 1 + dice.roll(3) as u64;
                        let rows: Vec<_> = (0..n)
                            .map(|i| (key((first + i * step) * 2 + lane as u64), vec![round as u8; len]))
                            .collect();
                        let refs: Vec<(&[u8], &[u8])> = rows.iter().map(|(k, v)| (&**k, &**v)).collect();
                        let mut former = 0;
                        let _op = t.enter().unwrap();
                        db.btree
                            .put_sorted(t, tree, &refs, &mut |_| {
                                former += 1;
                                Ok(())
                            })
                            .unwrap();
                        let were = rows.iter().filter(|(k, _)| sees(&own[lane], k)).count();
                        assert_eq!(former, were);
                        own[lane].extend(rows.into_iter().map(|(k, v)| (k, Some(v))));
                    }
                    4 | 5 => {
                        let k = key(dice.roll(500) as u64 * 2 + lane as u64);
                        let had = db.remove(t, tree, &k).unwrap().is_some();
                        assert_eq!(had, sees(&own[lane], &k));
                        if had {
                            own[lane].insert(k, None);
                        }
                    }
                    6 if saved[lane].is_none() => {
                        saved[lane] = Some((db.txns.savepoint(t), own[lane].clone()));
                    }
                    _ => {
                        if let Some((sp, was)) = &saved[lane] {
                            let _op = t.enter().unwrap();
                            db.txns.rollback_to(t, sp).unwrap();
                            own[lane] = was.clone();
                        }
                    }
                }
                assert_eq!(db.all(&old.view(), tree), rows(&committed), "seed {seed} round {round}");
            }
            let before = committed.clone();
            for (lane, t) in txns.iter().enumerate() {
                let mut seen = before.clone();
                let apply = |to: &mut BTreeMap<Vec<u8>, Vec<u8>>,
                             own: &BTreeMap<Vec<u8>, Option<Vec<u8>>>| {
                    for (k, v) in own {
                        match v {
                            Some(v) => drop(to.insert(k.clone(), v.clone())),
                            None => drop(to.remove(k)),
                        }
                    }
                };
                apply(&mut seen, &own[lane]);
                assert_eq!(db.all(&db.view(t), tree), rows(&seen), "seed {seed} round {round}");
                if dice.roll(2) == 0 {
                    db.rollback(t);
                } else {
                    db.commit(t);
                    apply(&mut committed, &own[lane]);
                }
            }
            assert_eq!(db.all(&old.view(), tree), rows(&before), "seed {seed} round {round}");
            drop(old);
            db.collect();
            db.btree.tidy_queued(1000).unwrap();
            assert_eq!(db.all(&db.now(), tree), rows(&committed), "seed {seed} round {round}");
        }
    }
}
