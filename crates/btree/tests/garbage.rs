//! Trees made and dropped, the collector, the catalogue, and verification of it all.
mod chains;
use chains::{Db, IDENTITY, PAGE, Rng, create, open};
use hamal_btree::{Bound, Direction, GARBAGE_ROOT, GARBAGE_TREE, PutValue, Tree};
use hamal_disk::{Disk, OpenMode};
use hamal_error::ErrorKind;
use hamal_page::PageId;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Fills a committed tree with rows, some of them long.
fn fill(db: &Db, name: &str, rows: u32, long_every: u32) {
    let mut rng = Rng(u64::from(rows));
    let txn = db.begin();
    for i in 0..rows {
        let key = (i.wrapping_mul(2_654_435_761)).to_be_bytes();
        let long = i % long_every == long_every - 1;
        let len = if long { 5_000 + rng.below(90_000) } else { rng.below(120) };
        db.put(&txn, name, &key, &rng.bytes(len)).unwrap();
    }
    db.commit(&txn);
}

#[test]
fn dropping_a_tree_frees_everything() {
    let db = create();
    let before = db.allocated();
    db.tree("t");
    fill(&db, "t", 3_000, 200);
    let report = db.sound();
    assert!(report.inner >= 1 && report.overflow > 100, "{report:?}");
    let txn = db.begin();
    db.catalogue.drop_tree(&txn, "t").unwrap();
    assert_eq!(db.catalogue.find(&db.view(&txn), "t").unwrap(), None);
    // Not before the drop has settled.
    db.collect();
    assert_eq!(db.allocated(), report.pages_allocated);
    db.commit(&txn);
    assert_eq!(db.sound().trees, 2);
    db.collect();
    assert_eq!(db.allocated(), before);
    assert_eq!(db.garbage.waiting().unwrap(), 0);
    db.sound();
}

#[test]
fn a_dropped_tree_comes_back_with_rollback() {
    let db = create();
    let tree = db.tree("t");
    fill(&db, "t", 300, 100);
    let before = db.allocated();
    let txn = db.begin();
    db.catalogue.drop_tree(&txn, "t").unwrap();
    db.txns.rollback(&txn).unwrap();
    db.collect();
    assert_eq!(db.allocated(), before);
    assert_eq!(db.catalogue.find(&db.now(), "t").unwrap().unwrap().tree, tree);
    let txn = db.begin();
    db.put(&txn, "t", b"again", b"yes").unwrap();
    db.commit(&txn);
    db.sound();
}

#[test]
fn a_created_tree_goes_with_rollback() {
    let db = create();
    let before = db.allocated();
    let txn = db.begin();
    db.catalogue.create(&txn, "t").unwrap();
    for i in 0..400u32 {
        db.put(&txn, "t", &i.to_be_bytes(), &vec![1; if i % 50 == 0 { 9_000 } else { 60 }]).unwrap();
    }
    db.sound();
    db.txns.rollback(&txn).unwrap();
    assert!(db.catalogue.list(&db.now()).unwrap().is_empty());
    db.sound();
    db.collect();
    assert_eq!(db.allocated(), before);
    db.sound();
}

#[test]
fn stopping_after_any_batch_loses_nothing() {
    let mut db = create();
    let before = db.allocated();
    db.tree("t");
    fill(&db, "t", 700, 60);
    let txn = db.begin();
    db.catalogue.drop_tree(&txn, "t").unwrap();
    db.commit(&txn);
    let txn = db.begin();
    db.catalogue.create(&txn, "u").unwrap();
    db.put(&txn, "u", b"k", &[5; 200_000]).unwrap();
    db.txns.rollback(&txn).unwrap();
    let mut batches = 0;
    let mut last = u64::MAX;
    loop {
        db.txns.collect();
        let more = db.garbage.collect(1).unwrap();
        batches += 1;
        let now = db.sound().pages_allocated;
        assert!(now <= last);
        last = now;
        if !more {
            break;
        }
        // What the collector knew is gone; and another tree takes the pages that it freed.
        if batches % 7 == 0 {
            db = db.reload();
        }
    }
    assert!(batches > 30, "{batches}");
    assert_eq!(db.allocated(), before);
    assert_eq!(db.garbage.waiting().unwrap(), 0);
}

#[test]
fn ids_are_never_used_again() {
    let mut db = create();
    let mut ids = BTreeSet::new();
    for round in 0..12 {
        let txn = db.begin();
        let info = db.catalogue.create(&txn, "t").unwrap();
        assert!(ids.insert(info.tree.id), "{ids:?}");
        match round % 3 {
            0 => db.txns.rollback(&txn).unwrap(),
            1 => {
                db.catalogue.drop_tree(&txn, "t").unwrap();
                db.commit(&txn);
            }
            _ => {
                db.commit(&txn);
                let txn = db.begin();
                db.catalogue.drop_tree(&txn, "t").unwrap();
                db.commit(&txn);
                db.collect();
                db = db.reload();
            }
        }
    }
    db.collect();
    db.sound();
}

#[test]
fn names() {
    let db = create();
    let txn = db.begin();
    for name in ["b", "a", "c"] {
        db.catalogue.create(&txn, name).unwrap();
    }
    let names = |view: &_| -> Vec<String> {
        db.catalogue.list(view).unwrap().into_iter().map(|i| i.name.to_string()).collect()
    };
    assert_eq!(names(&db.view(&txn)), ["a", "b", "c"]);
    assert!(names(&db.now()).is_empty());
    let again = db.catalogue.create(&txn, "a").unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    assert_eq!(db.catalogue.create(&txn, "").unwrap_err().kind(), ErrorKind::InvalidArgument);
    db.commit(&txn);

    let txn = db.begin();
    assert_eq!(db.catalogue.rename(&txn, "x", "y").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(db.catalogue.rename(&txn, "a", "b").unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(db.catalogue.drop_tree(&txn, "x").unwrap_err().kind(), ErrorKind::NotFound);
    let old = db.catalogue.find(&db.view(&txn), "a").unwrap().unwrap();
    db.catalogue.rename(&txn, "a", "a").unwrap();
    db.catalogue.rename(&txn, "a", "z").unwrap();
    assert_eq!(names(&db.view(&txn)), ["b", "c", "z"]);
    assert_eq!(names(&db.now()), ["a", "b", "c"]);
    // The handle is still good, under its old name.
    db.catalogue.register(&txn, &old).unwrap();
    db.btree.put(&txn, old.tree, b"k", PutValue::Inline(b"v")).unwrap();
    db.commit(&txn);
    let found = db.catalogue.find(&db.now(), "z").unwrap().unwrap();
    assert_eq!(found.tree, old.tree);
    assert_eq!(db.get(&db.now(), found.tree, b"k").unwrap(), b"v");
    db.sound();
}

#[test]
fn many_trees() {
    let db = create();
    let before = db.allocated();
    let name = |i: usize| format!("tree number {i:05}");
    for chunk in 0..6 {
        let txn = db.begin();
        for i in 0..50 {
            db.catalogue.create(&txn, &name(chunk * 50 + i)).unwrap();
        }
        db.commit(&txn);
    }
    assert_eq!(db.catalogue.list(&db.now()).unwrap().len(), 300);
    assert_eq!(db.sound().trees, 302);
    let txn = db.begin();
    for i in 0..300 {
        db.catalogue.drop_tree(&txn, &name(i)).unwrap();
    }
    db.commit(&txn);
    db.collect();
    let report = db.sound();
    assert_eq!((report.trees, report.garbage_rows), (2, 0));
    // The two system trees may have grown.
    assert!(db.allocated() <= before + 20);
}

#[test]
fn writers_and_drops_exclude_each_other() {
    let db = create();
    db.tree("t");
    // Dropped since the snapshot: a conflict.
    let late = db.begin();
    let info = db.catalogue.find(&db.view(&late), "t").unwrap().unwrap();
    let dropper = db.begin();
    db.catalogue.drop_tree(&dropper, "t").unwrap();
    db.commit(&dropper);
    assert_eq!(db.catalogue.register(&late, &info).unwrap_err().kind(), ErrorKind::Conflict);
    db.txns.rollback(&late).unwrap();
    // A handle from before the drop: not found.
    let txn = db.begin();
    assert_eq!(db.catalogue.register(&txn, &info).unwrap_err().kind(), ErrorKind::NotFound);
    db.txns.rollback(&txn).unwrap();
    // The same name, another tree.
    db.tree("t");
    let txn = db.begin();
    assert_eq!(db.catalogue.register(&txn, &info).unwrap_err().kind(), ErrorKind::NotFound);
    db.txns.rollback(&txn).unwrap();

    // A drop waits for the writer, whose changes come first.
    let writer = db.begin();
    db.put(&writer, "t", b"k", b"v").unwrap();
    std::thread::scope(|s| {
        let dropper = s.spawn(|| {
            let txn = db.begin();
            db.catalogue.drop_tree(&txn, "t").unwrap();
            db.commit(&txn);
        });
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(!dropper.is_finished());
        db.txns.rollback(&writer).unwrap();
        dropper.join().unwrap();
    });
    db.collect();
    db.sound();
}

#[test]
fn trees_come_and_go_while_others_collect_and_tidy() {
    let db = create();
    let before = db.allocated();
    let working = AtomicUsize::new(3);
    std::thread::scope(|s| {
        for t in 0..3u64 {
            let (db, working) = (&db, &working);
            s.spawn(move || {
                let mut rng = Rng(t + 77);
                for round in 0..8 {
                    let name = format!("t{t}-{round}");
                    let txn = db.begin();
                    db.catalogue.create(&txn, &name).unwrap();
                    for _ in 0..rng.below(150) {
                        let len = if rng.below(30) == 0 { 20_000 } else { 100 };
                        db.put(&txn, &name, &[rng.below(90) as u8], &rng.bytes(len)).unwrap();
                    }
                    if rng.below(4) == 0 {
                        db.txns.rollback(&txn).unwrap();
                        continue;
                    }
                    db.commit(&txn);
                    let txn = db.begin();
                    for _ in 0..rng.below(60) {
                        db.remove(&txn, &name, &[rng.below(90) as u8]).unwrap();
                    }
                    if rng.below(2) == 0 {
                        db.commit(&txn);
                    } else {
                        db.txns.rollback(&txn).unwrap();
                    }
                    let txn = db.begin();
                    db.catalogue.drop_tree(&txn, &name).unwrap();
                    db.commit(&txn);
                }
                working.fetch_sub(1, Ordering::SeqCst);
            });
        }
        s.spawn(|| {
            while working.load(Ordering::SeqCst) > 0 {
                db.garbage.collect(3).unwrap();
                std::thread::yield_now();
            }
        });
        s.spawn(|| {
            while working.load(Ordering::SeqCst) > 0 {
                db.btree.tidy_queued(20).unwrap();
                std::thread::yield_now();
            }
        });
    });
    db.sound();
    db.collect();
    let report = db.sound();
    assert_eq!((report.trees, report.garbage_rows), (2, 0));
    // The two system trees may have grown.
    assert!(db.allocated() <= before + 4, "{}", db.allocated());
}

/// A small database with something of everything, written back.
fn sample() -> Db {
    let db = create();
    db.tree("t");
    fill(&db, "t", 400, 50);
    db.tree("dropped");
    fill(&db, "dropped", 200, 50);
    let txn = db.begin();
    db.catalogue.drop_tree(&txn, "dropped").unwrap();
    db.remove(&txn, "t", &49u32.wrapping_mul(2_654_435_761).to_be_bytes()).unwrap();
    db.commit(&txn);
    db.txns.collect();
    db.garbage.collect(3).unwrap();
    db.sound();
    db.flush();
    db
}

#[test]
fn every_damaged_page_is_found() {
    let db = sample();
    let data = db.disk.open("data", OpenMode::default()).unwrap();
    let mut pages = Vec::new();
    db.btree
        .space()
        .each_allocated(&mut |p| {
            pages.push(p);
            Ok(())
        })
        .unwrap();
    for id in pages {
        let at = id.0 * PAGE as u64 + 2_000;
        let mut byte = [0];
        data.read_at(at, &mut byte).unwrap();
        data.write_at(at, &[byte[0] ^ 0x10]).unwrap();
        // Found, or (map page and all were made in this log) rebuilt.
        let damaged = open(db.disk.clone(), db.log.clone());
        let report = damaged.verify();
        let repaired = damaged.txns.pool().stats().repaired;
        assert!(!report.findings.is_empty() || repaired == 1, "page {id}");
        data.write_at(at, &byte).unwrap();
    }
    open(db.disk.clone(), db.log.clone()).sound();
}

#[test]
fn damage_under_a_valid_checksum_is_survived() {
    let db = sample();
    let data = db.disk.open("data", OpenMode::default()).unwrap();
    let mut rng = Rng(99);
    let high = db.btree.space().high_water().unwrap().0 as usize;
    let mut found = 0;
    for round in 0..400 {
        let id = PageId(match round % 4 {
            0 => GARBAGE_ROOT.0 - rng.below(3) as u64,
            _ => rng.below(high) as u64,
        });
        if !db.btree.space().is_allocated(id).unwrap() {
            continue;
        }
        let mut page = vec![0; PAGE];
        data.read_at(id.0 * PAGE as u64, &mut page).unwrap();
        let kept = page.clone();
        for _ in 0..1 + rng.below(4) {
            // Headers and slots are where it hurts.
            let at = 32 + if rng.below(3) == 0 { rng.below(PAGE - 32) } else { rng.below(120) };
            page[at] = [0, 1, 0xff, page[at] ^ 1, page[at].wrapping_add(1), rng.next() as u8][rng.below(6)];
        }
        hamal_page::stamp(&mut page, IDENTITY.db);
        data.write_at(id.0 * PAGE as u64, &page).unwrap();
        let report = open(db.disk.clone(), db.log.clone()).verify();
        found += usize::from(!report.findings.is_empty());
        data.write_at(id.0 * PAGE as u64, &kept).unwrap();
    }
    assert!(found > 50, "{found}");
    open(db.disk.clone(), db.log.clone()).sound();
}

/// A row that cannot be read, or that names a page that is no chain, stays; those behind it have their turn,
/// however few batches there are.
#[test]
fn damaged_rows_do_not_block_the_collector() {
    let db = create();
    let before = db.allocated();
    db.tree("t");
    fill(&db, "t", 500, 50);
    let garbage = Tree { id: GARBAGE_TREE, root: GARBAGE_ROOT };
    let txn = db.begin();
    for i in 0..70u64 {
        // Page 1 is the catalogue's root; the others are not even rows.
        let (key, value) = match i {
            0 => (1u64.to_be_bytes(), [&[1][..], &1u64.to_le_bytes(), &[0; 8]].concat()),
            _ => ((1 << 40 | i).to_be_bytes(), b"no row".to_vec()),
        };
        db.btree.put(&txn, garbage, &key, PutValue::Inline(&value)).unwrap();
    }
    db.catalogue.drop_tree(&txn, "t").unwrap();
    db.commit(&txn);
    db.txns.collect();
    let mut rounds = 0;
    while db.garbage.waiting().unwrap() > 70 {
        assert_eq!(db.garbage.collect(2).unwrap_err().kind(), ErrorKind::PageCorrupt);
        rounds += 1;
        assert!(rounds < 1000);
    }
    assert_eq!(db.garbage.collect(100).unwrap_err().kind(), ErrorKind::PageCorrupt);
    assert_eq!(db.garbage.waiting().unwrap(), 70);
    assert!(db.allocated() <= before + 3, "what could be freed is free: {} of {before}", db.allocated());
}

/// The database that reads `data` after one page was changed under a valid checksum.
fn changed(db: &Db, id: PageId, f: impl Fn(&mut [u8])) -> Db {
    let data = db.disk.open("data", OpenMode::default()).unwrap();
    let mut page = vec![0; PAGE];
    data.read_at(id.0 * PAGE as u64, &mut page).unwrap();
    f(&mut page);
    hamal_page::stamp(&mut page, IDENTITY.db);
    data.write_at(id.0 * PAGE as u64, &page).unwrap();
    open(db.disk.clone(), db.log.clone())
}

fn scan(db: &Db, tree: Tree, low: &[u8], high: &[u8], way: Direction) -> hamal_error::Result<usize> {
    let mut rows = Vec::new();
    let (low, high) = (Bound::Included(low), Bound::Excluded(high));
    db.btree.scan(&db.now(), tree, low, high, way, usize::MAX, &mut rows)?;
    Ok(rows.len())
}

/// BTREE-9: a scan of a leaf whose keys are not in order finds slots that are not in its bounds: that is an
/// error, and neither a panic nor a row.
#[test]
fn a_scan_of_a_leaf_out_of_order_is_an_error() {
    let db = create();
    let tree = db.tree("t");
    let txn = db.begin();
    for i in 0..32u8 {
        db.put(&txn, "t", &[i], b"value").unwrap();
    }
    db.commit(&txn);
    db.flush();
    // Slots of 8 bytes from 80 on: 16 and 17 change places with 3 and 4.
    let db = changed(&db, tree.root, |page| {
        let (at, slots) = (80, page[80..80 + 32 * 8].to_vec());
        for (a, b) in [(16, 3), (17, 4), (3, 16), (4, 17)] {
            page[at + a * 8..at + a * 8 + 8].copy_from_slice(&slots[b * 8..b * 8 + 8]);
        }
    });
    for way in [Direction::Forward, Direction::Reverse] {
        let mut failed = 0;
        for low in 0..32u8 {
            for high in low..32 {
                match scan(&db, tree, &[low], &[high], way) {
                    Ok(n) => assert!(n <= 32),
                    Err(e) => {
                        assert_eq!((e.kind(), e.page()), (ErrorKind::PageCorrupt, Some(tree.root)));
                        failed += 1;
                    }
                }
            }
        }
        assert!(failed > 20, "{failed}");
    }
}

/// BTREE-8: a descent that arrives at another leaf than its parent's separators say, or at another level or
/// tree, is an error, and never takes that leaf's rows for the ones it looks for.
#[test]
fn a_descent_that_arrives_elsewhere_is_an_error() {
    let db = create();
    let tree = db.tree("t");
    db.tree("other");
    let txn = db.begin();
    for i in 0..1000u32 {
        db.put(&txn, "t", &i.to_be_bytes(), &[7; 40]).unwrap();
    }
    db.commit(&txn);
    db.flush();
    let all = 1000u32.to_be_bytes();
    assert_eq!(scan(&db, tree, b"", &all, Direction::Forward).unwrap(), 1000);
    let data = db.disk.open("data", OpenMode::default()).unwrap();
    let mut kept = vec![0; PAGE];
    data.read_at(tree.root.0 * PAGE as u64, &mut kept).unwrap();
    let child = |i: usize| {
        // The first child stands in the node header, the others at the front of the separators' records.
        let word = |at: usize| u64::from_le_bytes(kept[at..at + 8].try_into().unwrap());
        if i == 0 { 72 } else { usize::from((word(80 + 8 * (i - 1)) >> 16) as u16) }
    };
    // Two children exchanged; the root as its own child; a page of another tree, and of another manager.
    let (a, b) = (kept[child(0)..][..8].to_vec(), kept[child(1)..][..8].to_vec());
    let root = tree.root.0.to_le_bytes().to_vec();
    for (first, second) in [(&b, &a), (&root, &b), (&2u64.to_le_bytes().to_vec(), &b), (&vec![0; 8], &b)] {
        let db = changed(&db, tree.root, |page| {
            page[child(0)..][..8].copy_from_slice(first);
            page[child(1)..][..8].copy_from_slice(second);
        });
        for way in [Direction::Forward, Direction::Reverse] {
            let e = scan(&db, tree, b"", &all, way).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::PageCorrupt, "{e}");
        }
        let key = 0u32.to_be_bytes();
        let e = db.btree.get(&db.now(), tree, &key, |_| ()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::PageCorrupt);
        let txn = db.begin();
        assert_eq!(db.put(&txn, "t", &key, b"x").unwrap_err().kind(), ErrorKind::PageCorrupt);
        db.txns.rollback(&txn).unwrap();
        data.write_at(tree.root.0 * PAGE as u64, &kept).unwrap();
    }
    assert_eq!(scan(&db, tree, b"", &all, Direction::Forward).unwrap(), 1000);
}
