//! Trees made and dropped, the collector, the catalogue, and verification of it all.
mod chains;
use chains::{Db, IDENTITY, PAGE, Rng, create, open};
use hamal_btree::{GARBAGE_ROOT, PutValue};
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
    let names =
        |view: &_| -> Vec<String> { db.catalogue.list(view).unwrap().into_iter().map(|i| i.name).collect() };
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
        let report = open(db.disk.clone(), db.log.clone()).verify();
        assert!(!report.findings.is_empty(), "page {id}");
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
