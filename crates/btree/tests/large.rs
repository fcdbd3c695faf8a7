//! Values in overflow chains: written and read back, and freed when nothing owns them any more.
mod chains;
use chains::{CAPACITY, Rng, create};
use hamal_btree::{CATALOGUE_ROOT, LargeReader, LargeWriter, PutValue, RawValue};
use hamal_error::ErrorKind;
use hamal_page::PageId;

#[test]
fn values_of_every_length_come_back() {
    let mut db = create();
    let tree = db.tree("t");
    let mut rng = Rng(7);
    let mut lengths =
        vec![0, 1, CAPACITY - 1, CAPACITY, CAPACITY + 1, 2 * CAPACITY, 3 * CAPACITY + 7, 3 << 20];
    lengths.extend((0..6).map(|_| rng.below(300_000)));
    let mut values = Vec::new();
    for (i, len) in lengths.into_iter().enumerate() {
        let value = rng.bytes(len);
        let txn = db.begin();
        let info = db.catalogue.find(&db.view(&txn), "t").unwrap().unwrap();
        db.catalogue.register(&txn, &info).unwrap();
        let mut w = LargeWriter::new(db.btree.clone());
        let mut rest = &value[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at((1 + rng.below(20_000)).min(rest.len()));
            w.write(&txn, now).unwrap();
            rest = later;
        }
        let (len, head) = w.finish(&txn).unwrap();
        assert_eq!(len, value.len() as u64);
        db.btree.put(&txn, tree, &[i as u8], PutValue::Chain { len, head }).unwrap();
        w.linked(&txn).unwrap();
        db.commit(&txn);
        values.push(value);
    }
    for _ in 0..2 {
        for (i, value) in values.iter().enumerate() {
            let Some(RawValue::Chain { len, head }) = db.raw(&db.now(), tree, &[i as u8]) else { panic!() };
            let mut r = LargeReader::new(db.btree.clone(), len, head);
            let mut got: Vec<u8> = Vec::new();
            loop {
                assert_eq!(r.remaining(), len - got.len() as u64);
                let mut piece = vec![0; 1 + rng.below(30_000)];
                let n = r.read(&mut piece).unwrap();
                got.extend(&piece[..n]);
                if n == 0 {
                    break;
                }
            }
            assert!(got == *value, "value {i}");
        }
        let report = db.sound();
        assert_eq!(report.garbage_rows, 0);
        db = db.reload();
    }
}

#[test]
fn rollback_frees_what_was_written() {
    let db = create();
    db.tree("t");
    let before = db.allocated();
    let mut rng = Rng(1);
    // Linked, not linked, not even finished, and only the head.
    let txn = db.begin();
    db.put(&txn, "t", b"linked", &rng.bytes(100_000)).unwrap();
    let mut unlinked = LargeWriter::new(db.btree.clone());
    unlinked.write(&txn, &rng.bytes(50_000)).unwrap();
    unlinked.finish(&txn).unwrap();
    let mut unfinished = LargeWriter::new(db.btree.clone());
    unfinished.write(&txn, &rng.bytes(30_000)).unwrap();
    let mut head = LargeWriter::new(db.btree.clone());
    head.finish(&txn).unwrap();
    db.sound();
    // Its writer is live: the collector keeps off.
    db.collect();
    assert!(db.allocated() > before + 40);
    db.txns.rollback(&txn).unwrap();
    let report = db.sound();
    assert_eq!(report.garbage_rows, 4);
    db.collect();
    assert_eq!(db.allocated(), before);
    assert_eq!(db.sound().overflow, 0);
}

#[test]
fn overwriting_and_deleting_free_the_former_value() {
    let db = create();
    let tree = db.tree("t");
    let before = db.allocated();
    let mut rng = Rng(2);
    let mut last = Vec::new();
    for len in [90_000, 4_000, 40_000, 10, 70_000] {
        last = rng.bytes(len);
        let txn = db.begin();
        // Twice in one transaction: the first one is never seen by anybody.
        db.put(&txn, "t", b"k", &rng.bytes(20_000)).unwrap();
        db.put(&txn, "t", b"k", &last).unwrap();
        db.commit(&txn);
        assert!(db.get(&db.now(), tree, b"k").unwrap() == last);
        db.collect();
        assert_eq!(db.garbage.waiting().unwrap(), 0);
        let report = db.sound();
        let pages = if len <= db.btree.limits().max_inline { 0 } else { len.div_ceil(CAPACITY) };
        assert_eq!(report.overflow, pages as u64);
    }
    let txn = db.begin();
    let kept = db.txns.savepoint(&txn);
    db.remove(&txn, "t", b"k").unwrap();
    db.put(&txn, "t", b"l", &rng.bytes(33_000)).unwrap();
    db.txns.rollback_to(&txn, &kept).unwrap();
    assert!(db.get(&db.view(&txn), tree, b"k").unwrap() == last);
    db.remove(&txn, "t", b"k").unwrap();
    db.commit(&txn);
    db.collect();
    assert_eq!(db.allocated(), before);
    db.sound();
}

#[test]
fn a_snapshot_keeps_the_former_value() {
    let db = create();
    let tree = db.tree("t");
    let mut rng = Rng(3);
    let old = rng.bytes(60_000);
    let txn = db.begin();
    db.put(&txn, "t", b"k", &old).unwrap();
    db.commit(&txn);
    let snapshot = db.txns.snapshot().unwrap();
    let txn = db.begin();
    db.put(&txn, "t", b"k", &rng.bytes(60_000)).unwrap();
    db.commit(&txn);
    db.collect();
    assert!(db.get(&snapshot.view(), tree, b"k").unwrap() == old);
    let with = db.sound().overflow;
    drop(snapshot);
    db.collect();
    assert_eq!(db.sound().overflow * 2, with);
}

#[test]
fn a_chain_that_is_not_what_it_should_be_is_noticed() {
    let db = create();
    let tree = db.tree("t");
    let txn = db.begin();
    db.put(&txn, "t", b"a", &[1; 20_000]).unwrap();
    db.put(&txn, "t", b"b", &[2; 20_000]).unwrap();
    db.commit(&txn);
    let Some(RawValue::Chain { len, head }) = db.raw(&db.now(), tree, b"a") else { panic!() };
    db.read(len, head).unwrap();
    for (len, head) in [
        (len + 1, head),
        (len - 1, head),
        (3 * CAPACITY as u64, head),
        (0xffff_ffff_ffff, head),
        (len, CATALOGUE_ROOT),
        (len, PageId(0)),
        (len, PageId(head.0 + 1)),
        (len, PageId(1 << 50)),
    ] {
        let mut r = LargeReader::new(db.btree.clone(), len, head);
        let mut buf = vec![0; 30_000];
        let err = loop {
            match r.read(&mut buf) {
                Ok(n) => assert!(n > 0),
                Err(e) => break e,
            }
        };
        assert_eq!(err.kind(), ErrorKind::PageCorrupt, "{len} {head}: {err}");
    }
}

#[test]
fn writers_in_many_threads() {
    let db = create();
    for t in 0..4 {
        db.tree(&format!("t{t}"));
    }
    let before = db.allocated();
    std::thread::scope(|s| {
        for t in 0..4u64 {
            let db = &db;
            s.spawn(move || {
                let mut rng = Rng(t + 10);
                let name = format!("t{t}");
                for _ in 0..12 {
                    let key = [rng.below(4) as u8];
                    let len = rng.below(40_000);
                    let txn = db.begin();
                    let value = rng.bytes(len);
                    db.put(&txn, &name, &key, &value).unwrap();
                    if rng.below(3) == 0 {
                        db.txns.rollback(&txn).unwrap();
                    } else {
                        db.commit(&txn);
                        let tree = db.catalogue.find(&db.now(), &name).unwrap().unwrap().tree;
                        assert!(db.get(&db.now(), tree, &key).unwrap() == value);
                    }
                    if rng.below(4) == 0 {
                        db.txns.collect();
                        db.garbage.collect(5).unwrap();
                    }
                }
                let txn = db.begin();
                for key in 0..4 {
                    db.remove(&txn, &name, &[key]).unwrap();
                }
                db.commit(&txn);
            });
        }
    });
    db.collect();
    let report = db.sound();
    assert_eq!((report.overflow, report.garbage_rows), (0, 0));
    assert_eq!(db.allocated(), before);
}
