//! A data file that gets smaller while the database is in use (BTREE-15, SPACE-5).
use hamal::disk::{CrashModel, MemDisk};
use hamal::{Database, Durability, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

fn key(n: u64) -> Vec<u8> {
    // Scattered, so that pages in key order lie anywhere in the file.
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes().to_vec()
}

fn value(n: u64) -> Vec<u8> {
    n.to_le_bytes().repeat(12)
}

/// `rows` rows, of which every fourth stays.
fn sparse(rows: u64) -> Database {
    sparse_in(Database::builder().page_size(4096).cache_bytes(4 << 20).in_memory().unwrap(), rows)
}

fn sparse_in(db: Database, rows: u64) -> Database {
    let tx = db.begin_write().unwrap();
    tx.create_tree("t").unwrap();
    tx.commit().unwrap();
    for from in (0..rows).step_by(100) {
        let tx = db.begin_write().unwrap();
        let tree = tx.tree("t").unwrap();
        (from..from + 100).for_each(|n| tree.put(key(n), value(n)).unwrap());
        tx.commit_with(Durability::Async).unwrap();
    }
    for from in (0..rows).step_by(100) {
        let tx = db.begin_write().unwrap();
        let tree = tx.tree("t").unwrap();
        (from..from + 100).filter(|n| n % 4 != 0).for_each(|n| assert!(tree.delete(key(n)).unwrap()));
        tx.commit_with(Durability::Async).unwrap();
    }
    // Snapshots see what is durable.
    db.sync().unwrap();
    db
}

fn check(db: &Database, rows: u64) {
    let read = db.begin_read().unwrap();
    let tree = read.tree("t").unwrap();
    assert_eq!(tree.range::<&[u8]>(..).count() as u64, rows / 4);
    for n in 0..rows {
        let found = tree.get(key(n)).unwrap();
        assert_eq!(found.as_deref(), (n % 4 == 0).then(|| value(n)).as_deref(), "row {n}");
    }
    drop(read);
    let report = db.verify(&mut |_, _| {}).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}

#[test]
fn a_mass_delete_gives_its_space_back() {
    let db = sparse(20_000);
    let mut calls = 0;
    let report = db
        .compact(&mut |_| {
            calls += 1;
            Ok(())
        })
        .unwrap();
    assert!(calls > 0 && report.moved > 0);
    assert!(report.pages_after * 2 < report.pages_before, "{report:?}");
    assert!(report.pages_after <= report.pages_used + report.pages_used / 20 + 8, "{report:?}");
    check(&db, 20_000);
    // There is nothing left to do, and the file grows again where it has to.
    let again = db.compact(&mut |_| Ok(())).unwrap();
    assert_eq!((again.moved, again.pages_after), (0, again.pages_before));
    let tx = db.begin_write().unwrap();
    let tree = tx.tree("t").unwrap();
    (0..20_000).filter(|n| n % 4 != 0).for_each(|n| tree.put(key(n), value(n)).unwrap());
    (0..20_000).filter(|n| n % 4 != 0).for_each(|n| assert!(tree.delete(key(n)).unwrap()));
    tx.commit().unwrap();
    check(&db, 20_000);
}

#[test]
fn a_rollback_and_a_snapshot_find_rows_that_have_moved() {
    let db = sparse(8000);
    let read = db.begin_read().unwrap();
    let tx = db.begin_write().unwrap();
    let tree = tx.tree("t").unwrap();
    for n in (0..8000).step_by(4) {
        tree.put(key(n), b"another").unwrap();
        if n % 40 == 0 {
            tree.put(key(n + 1), b"new").unwrap();
        }
    }
    assert!(db.compact(&mut |_| Ok(())).unwrap().moved > 0);
    let old = read.tree("t").unwrap();
    for n in (0..8000).step_by(4) {
        assert_eq!(old.get(key(n)).unwrap().as_deref(), Some(&value(n)[..]));
        assert_eq!(old.get(key(n + 1)).unwrap(), None);
        assert_eq!(tree.get(key(n + 1)).unwrap().as_deref(), (n % 40 == 0).then_some(&b"new"[..]));
    }
    drop(tree);
    tx.rollback().unwrap();
    drop(read);
    check(&db, 8000);
}

/// With no room for versions in memory they are looked for in the log, through pages that have moved.
#[test]
fn versions_in_the_log_are_found_behind_a_move() {
    let db = Database::builder()
        .page_size(4096)
        .cache_bytes(4 << 20)
        .version_budget_bytes(64 << 10)
        .in_memory()
        .unwrap();
    let tx = db.begin_write().unwrap();
    let tree = tx.create_tree("t").unwrap();
    (0..4000).for_each(|n| tree.put(key(n), value(n)).unwrap());
    drop(tree);
    tx.commit().unwrap();
    let read = db.begin_read().unwrap();
    let tx = db.begin_write().unwrap();
    let tree = tx.tree("t").unwrap();
    for n in 0..4000 {
        if n % 4 == 0 {
            tree.put(key(n), value(n + 1)).unwrap()
        } else {
            assert!(tree.delete(key(n)).unwrap())
        }
    }
    drop(tree);
    tx.commit().unwrap();
    // What the snapshot needs cannot be taken away, so there are free pages only if others made some.
    let tx = db.begin_write().unwrap();
    let other = tx.create_tree("other").unwrap();
    (0..4000).for_each(|n| other.put(key(n), value(n)).unwrap());
    drop(other);
    tx.commit().unwrap();
    let tx = db.begin_write().unwrap();
    tx.drop_tree("other").unwrap();
    tx.commit().unwrap();
    db.compact(&mut |_| Ok(())).unwrap();
    let tree = read.tree("t").unwrap();
    (0..4000).for_each(|n| assert_eq!(tree.get(key(n)).unwrap().as_deref(), Some(&value(n)[..]), "row {n}"));
}

fn large(n: u64) -> Vec<u8> {
    n.to_le_bytes().repeat(4000)
}

/// Rows 70 to 99, all large; those before them, which lie at the front of the file, were deleted.
fn large_values_behind_free_pages(db: &Database) {
    let tx = db.begin_write().unwrap();
    let tree = tx.create_tree("t").unwrap();
    (0..100).for_each(|n| tree.put(key(n), large(n)).unwrap());
    drop(tree);
    tx.commit().unwrap();
    let tx = db.begin_write().unwrap();
    let tree = tx.tree("t").unwrap();
    (0..70).for_each(|n| assert!(tree.delete(key(n)).unwrap()));
    drop(tree);
    tx.commit().unwrap();
}

#[test]
fn large_values_move_too() {
    let db = Database::builder().page_size(4096).in_memory().unwrap();
    large_values_behind_free_pages(&db);
    let report = db.compact(&mut |_| Ok(())).unwrap();
    assert!(report.rewritten >= 25, "{report:?}");
    assert!(report.pages_after * 2 < report.pages_before, "{report:?}");
    let read = db.begin_read().unwrap();
    let tree = read.tree("t").unwrap();
    (70..100).for_each(|n| assert_eq!(tree.get(key(n)).unwrap().as_deref(), Some(&large(n)[..])));
    drop(read);
    assert!(db.verify(&mut |_, _| {}).unwrap().findings.is_empty());
}

/// Others change and delete large values by commits that are visible and not durable yet. What is written anew is what they left.
#[test]
fn what_was_just_committed_is_not_written_over() {
    let db = Database::builder().page_size(4096).background(false).in_memory().unwrap();
    large_values_behind_free_pages(&db);
    let mut changed = false;
    let report = db.compact(&mut |report| {
        if report.rewritten > 0 && !std::mem::replace(&mut changed, true) {
            let tx = db.begin_write()?;
            let tree = tx.tree("t")?;
            for n in 70..100 {
                match n % 3 {
                    0 => tree.put(key(n), large(n + 1000))?,
                    1 => assert!(tree.delete(key(n))?),
                    _ => {}
                }
            }
            drop(tree);
            tx.commit_with(Durability::Async)?;
        }
        Ok(())
    });
    assert!(changed && report.unwrap().rewritten > 10);
    db.sync().unwrap();
    let read = db.begin_read().unwrap();
    let tree = read.tree("t").unwrap();
    for n in 70..100 {
        let left = [Some(large(n + 1000)), None, Some(large(n))][n as usize % 3].clone();
        assert_eq!(tree.get(key(n)).unwrap().as_deref(), left.as_deref(), "row {n}");
    }
    drop(read);
    assert!(db.verify(&mut |_, _| {}).unwrap().findings.is_empty());
}

#[test]
fn others_work_meanwhile() {
    let db = sparse(20_000);
    let stop = AtomicBool::new(false);
    thread::scope(|s| {
        let (db, stop) = (&db, &stop);
        for t in 0..2u64 {
            s.spawn(move || {
                let mut n = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    let tx = db.begin_write().unwrap();
                    let tree = tx.tree("t").unwrap();
                    // Rows of its own, which come and go.
                    let mine = 1_000_000 * (t + 1) + n % 500;
                    if n % 1000 < 500 {
                        tree.put(key(mine), value(mine)).unwrap()
                    } else {
                        _ = tree.delete(key(mine)).unwrap()
                    }
                    drop(tree);
                    tx.commit_with(Durability::Async).unwrap();
                    n += 1;
                }
            });
        }
        s.spawn(move || {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                let read = db.begin_read().unwrap();
                let tree = read.tree("t").unwrap();
                assert_eq!(tree.get(key(n % 20_000)).unwrap().as_deref(), Some(&value(n % 20_000)[..]));
                n += 4;
            }
        });
        s.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                db.checkpoint().unwrap();
                thread::sleep(std::time::Duration::from_millis(5));
            }
        });
        let moved: u64 = (0..5).map(|_| db.compact(&mut |_| Ok(())).unwrap().moved).sum();
        stop.store(true, Ordering::Relaxed);
        assert!(moved > 0);
    });
    let tx = db.begin_write().unwrap();
    let tree = tx.tree("t").unwrap();
    (1_000_000..1_000_500).chain(2_000_000..2_000_500).for_each(|n| {
        let _ = tree.delete(key(n)).unwrap();
    });
    drop(tree);
    tx.commit().unwrap();
    check(&db, 20_000);
}

/// The file is cut after a checkpoint too, without anybody asking, once much of its end is free.
#[test]
fn a_dropped_tree_at_the_end_is_cut_off() {
    let db = Database::builder()
        .page_size(4096)
        .background(false)
        .checkpoint_log_bytes(1 << 20)
        .in_memory()
        .unwrap();
    let tx = db.begin_write().unwrap();
    let tree = tx.create_tree("t").unwrap();
    (0..20_000).for_each(|n| tree.put(key(n), value(n)).unwrap());
    drop(tree);
    tx.commit().unwrap();
    let before = db.stats().file_pages;
    let tx = db.begin_write().unwrap();
    tx.drop_tree("t").unwrap();
    tx.commit().unwrap();
    while db.maintenance_step().unwrap() {}
    // Work of others makes the next checkpoint due.
    for n in 0..3000 {
        let tx = db.begin_write().unwrap();
        tx.open_or_create_tree("u").unwrap().put(b"one", value(n).repeat(5)).unwrap();
        tx.commit().unwrap();
        db.maintenance_step().unwrap();
    }
    assert!(db.stats().file_pages * 4 < before, "{} of {before}", db.stats().file_pages);
}

/// What is moved takes more log than there may be: checkpoints make room.
#[test]
fn a_log_that_is_shorter_than_what_moves() {
    let builder = Database::builder()
        .page_size(4096)
        .cache_bytes(4 << 20)
        .log_segment_bytes(128 << 10)
        .log_limit_bytes(3 << 20);
    let db = sparse_in(builder.background(false).in_memory().unwrap(), 80_000);
    let before = db.stats().log_record_bytes;
    let report = db.compact(&mut |_| Ok(())).unwrap();
    assert!(db.stats().log_record_bytes - before > 3 << 20, "too little to tell");
    assert!(report.pages_after * 2 < report.pages_before, "{report:?}");
    check(&db, 80_000);
}

#[test]
fn an_error_of_the_caller_ends_it_and_nothing_is_lost() {
    let db = sparse(8000);
    let e = db.compact(&mut |_| Err(hamal::Error::new(ErrorKind::Limit, "enough"))).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Limit);
    check(&db, 8000);
    db.close().unwrap();
    assert_eq!(db.compact(&mut |_| Ok(())).unwrap_err().kind(), ErrorKind::InvalidArgument);
}

/// A tree is dropped after it was listed, and its pages are another's by the time that its turn comes.
#[test]
fn a_tree_that_is_dropped_meanwhile_is_passed_by() {
    let db = Database::builder().page_size(4096).background(false).in_memory().unwrap();
    let tx = db.begin_write().unwrap();
    let junk = tx.create_tree("junk").unwrap();
    (0..2000).for_each(|n| junk.put(key(n), value(n)).unwrap());
    for name in ["a", "b"] {
        let tree = tx.create_tree(name).unwrap();
        (0..2000).for_each(|n| tree.put(key(n), value(n)).unwrap());
    }
    drop(junk);
    tx.commit().unwrap();
    let tx = db.begin_write().unwrap();
    tx.drop_tree("junk").unwrap();
    tx.commit().unwrap();
    while db.maintenance_step().unwrap() {}
    let mut dropped = false;
    db.compact(&mut |_| {
        if !std::mem::replace(&mut dropped, true) {
            let tx = db.begin_write()?;
            tx.drop_tree("b")?;
            tx.commit()?;
            while db.maintenance_step()? {}
            // Takes all pages that are free.
            let tx = db.begin_write()?;
            let tree = tx.create_tree("c")?;
            (0..6000).try_for_each(|n| tree.put(key(n), value(n)))?;
            drop(tree);
            tx.commit()?;
        }
        Ok(())
    })
    .unwrap();
    assert!(dropped);
    let read = db.begin_read().unwrap();
    assert_eq!(read.tree("a").unwrap().iter().count(), 2000);
    assert_eq!(read.tree("c").unwrap().iter().count(), 6000);
    drop(read);
    assert!(db.verify(&mut |_, _| {}).unwrap().findings.is_empty());
}

/// The log that recovery reads names pages that were freed, and cut off the file: it needs no room for them.
#[test]
fn recovery_does_not_bring_back_what_was_cut_off() {
    let disk = MemDisk::new();
    let builder = Database::builder()
        .page_size(4096)
        .cache_bytes(16 << 20)
        .log_segment_bytes(256 << 10)
        .background(false);
    let db = builder.create_on(Arc::new(disk.clone())).unwrap();
    let tx = db.begin_write().unwrap();
    tx.create_tree("stays").unwrap().put(b"one", b"row").unwrap();
    let tree = tx.create_tree("t").unwrap();
    (0..30_000).for_each(|n| tree.put(key(n), value(n)).unwrap());
    drop(tree);
    tx.commit().unwrap();
    let tx = db.begin_write().unwrap();
    tx.drop_tree("t").unwrap();
    tx.commit().unwrap();
    let report = db.compact(&mut |_| Ok(())).unwrap();
    assert!(report.pages_after < 16 && report.pages_before > 1000, "{report:?}");
    // The device has been filled by others since.
    let image = disk.crash(CrashModel::KeepAll);
    image.set_capacity(Some(image.used() + (2 << 20)));
    let db = builder.open_on(Arc::new(image)).unwrap();
    assert!(!db.recovery_report().clean);
    assert!(db.stats().file_pages < 600, "{}", db.stats().file_pages);
    assert_eq!(
        db.begin_read().unwrap().tree("stays").unwrap().get(b"one").unwrap().as_deref(),
        Some(&b"row"[..])
    );
    assert!(db.verify(&mut |_, _| {}).unwrap().findings.is_empty());
}

/// Another transaction holds a tree exclusively: it is left as it is.
#[test]
fn a_tree_that_is_being_dropped_is_passed_over() {
    let builder = Database::builder().page_size(4096).lock_timeout(std::time::Duration::from_millis(20));
    let db = sparse_in(builder.in_memory().unwrap(), 4000);
    let tx = db.begin_write().unwrap();
    tx.drop_tree("t").unwrap();
    thread::scope(|s| {
        let moved = s.spawn(|| db.compact(&mut |_| Ok(())).unwrap().moved).join().unwrap();
        assert_eq!(moved, 0);
    });
    // By the thread of the transaction itself, too.
    assert_eq!(db.compact(&mut |_| Ok(())).unwrap().moved, 0);
    tx.rollback().unwrap();
    assert!(db.compact(&mut |_| Ok(())).unwrap().moved > 0);
    check(&db, 4000);
}

/// A tree whose root lies behind the second map page: what lies below is held meanwhile.
fn far_tree(db: &Database, name: &str) {
    let engine = db.engine();
    let held = engine.space().reserve(33_000).unwrap();
    let tx = db.begin_write().unwrap();
    let tree = tx.create_tree(name).unwrap();
    drop(held);
    (0..3000).for_each(|n| tree.put(key(n), value(n)).unwrap());
    drop(tree);
    tx.commit().unwrap();
}

/// A file of 130 MB with two space maps that is emptied keeps neither: whatever of it a crash leaves, and again when it has
/// grown anew.
#[test]
fn an_emptied_database_keeps_no_second_space_map() {
    const SECOND_MAP: u64 = (4096 - 64) * 8;
    let disk = MemDisk::new();
    let builder = Database::builder().page_size(4096).cache_bytes(4 << 20).background(false);
    let mut db = builder.create_on(Arc::new(disk.clone())).unwrap();
    let tx = db.begin_write().unwrap();
    tx.create_tree("stays").unwrap().put(b"one", b"row").unwrap();
    tx.commit().unwrap();
    for round in 0..3u64 {
        far_tree(&db, "far");
        assert!(db.stats().file_pages > SECOND_MAP);
        if round > 0 {
            db.flush().unwrap();
            db.checkpoint().unwrap();
        }
        let tx = db.begin_write().unwrap();
        tx.drop_tree("far").unwrap();
        tx.commit().unwrap();
        let report = db.compact(&mut |_| Ok(())).unwrap();
        assert!(report.pages_before > SECOND_MAP && report.pages_after < 16, "{report:?}");
        // It grows again, in part after the last checkpoint.
        if round == 1 {
            far_tree(&db, "again");
        }
        for seed in 0..6 {
            let model = match seed {
                0 => CrashModel::KeepAll,
                1 => CrashModel::LoseUnsynced,
                _ => CrashModel::Random { seed: seed + 10 * round, torn_sector_bytes: 512 },
            };
            let other = builder.open_on(Arc::new(disk.crash(model))).unwrap();
            let read = other.begin_read().unwrap();
            assert_eq!(read.tree("stays").unwrap().get(b"one").unwrap().as_deref(), Some(&b"row"[..]));
            if let Some(again) =
                read.trees().unwrap().contains(&"again".to_owned()).then(|| read.tree("again"))
            {
                assert_eq!(again.unwrap().iter().count(), 3000);
            }
            drop(read);
            assert!(other.verify(&mut |_, _| {}).unwrap().findings.is_empty());
            far_tree(&other, "another");
            assert!(other.verify(&mut |_, _| {}).unwrap().findings.is_empty());
            other.close().unwrap();
        }
        if round == 1 {
            let tx = db.begin_write().unwrap();
            tx.drop_tree("again").unwrap();
            tx.commit().unwrap();
            while db.maintenance_step().unwrap() {}
        }
        db.close().unwrap();
        db = builder.open_on(Arc::new(disk.clone())).unwrap();
        assert!(db.recovery_report().clean && db.stats().file_pages < 64, "{}", db.stats().file_pages);
    }
}
