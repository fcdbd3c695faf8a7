//! Ways to lose data that need the whole engine to show; `docs/traps.md` lists them all, with the tests of the crates.
mod forgetful;

use forgetful::ForgetfulDisk;
use hamal::disk::{CrashModel, Disk, MemDisk, MemFault, MemOp, OpenMode};
use hamal::inspect::Inspect;
use hamal::trace::{Event, ForceReason, Tracer, WriteReason};
use hamal::{Builder, Database, Durability, ErrorKind, ReadTree, TornPages};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

const PAGE: u64 = 4096;

/// As small as it gets, without threads and clocks.
fn small() -> Builder {
    Database::builder()
        .page_size(PAGE as usize)
        .cache_bytes(64 * PAGE as usize)
        .log_segment_bytes(64 << 10)
        .log_ring_bytes(256 << 10)
        .log_limit_bytes(8 << 20)
        .checkpoint_log_bytes(256 << 10)
        .version_budget_bytes(4 << 20)
        .lock_timeout(Duration::from_secs(120))
        .database_id([7; 16])
        .background(false)
}

fn create(builder: &Builder, disk: &MemDisk) -> Database {
    let db = builder.create_on(Arc::new(disk.clone())).unwrap();
    let tx = db.begin_write().unwrap();
    tx.create_tree("t").unwrap();
    tx.commit().unwrap();
    db
}

fn open(disk: &MemDisk) -> Database {
    small().open_on(Arc::new(disk.clone())).unwrap()
}

fn put(db: &Database, rows: impl IntoIterator<Item = (u32, Vec<u8>)>) {
    let tx = db.begin_write().unwrap();
    let t = tx.tree("t").unwrap();
    for (k, v) in rows {
        t.put(k.to_be_bytes(), v).unwrap();
    }
    tx.commit().unwrap();
}

fn many(n: u32, byte: u8) -> impl Iterator<Item = (u32, Vec<u8>)> {
    (0..n).map(move |i| (i, vec![byte; 60]))
}

fn rows_of(tree: &ReadTree) -> Rows {
    tree.iter().map(|row| row.map(|(k, v)| (k.into_vec(), v.into_vec())).unwrap()).collect()
}

fn rows(db: &Database) -> Rows {
    rows_of(&db.begin_read().unwrap().tree("t").unwrap())
}

fn flush_pages(db: &Database) {
    db.engine().pool().flush_all(WriteReason::Asked).unwrap();
}

/// Work on another tree until the log that is kept begins after all that was logged before.
fn cut_log(db: &Database) {
    let before = db.stats().log_tail;
    for n in 0..200u8 {
        if db.stats().log_oldest > before {
            return;
        }
        let tx = db.begin_write().unwrap();
        let t = tx.open_or_create_tree("elsewhere").unwrap();
        (0..40u32).for_each(|i| t.put(i.to_be_bytes(), [n; 700]).unwrap());
        drop(t);
        tx.commit().unwrap();
        flush_pages(db);
        db.checkpoint().unwrap();
    }
    panic!("the log is not cut");
}

fn settle(db: &Database) {
    while db.maintenance_step().unwrap() {}
}

fn findings(db: &Database) -> Vec<String> {
    let report = db.verify(&mut |_, _| {}).unwrap();
    report.findings.iter().map(|f| format!("{f:?}")).collect()
}

fn file(disk: &MemDisk, name: &str) -> Vec<u8> {
    let f = disk.open(name, OpenMode::default()).unwrap();
    let mut bytes = vec![0; f.len().unwrap() as usize];
    f.read_at(0, &mut bytes).unwrap();
    bytes
}

fn overwrite(disk: &MemDisk, name: &str, at: u64, bytes: &[u8]) {
    disk.open(name, OpenMode { create: true, ..OpenMode::default() }).unwrap().write_at(at, bytes).unwrap();
}

/// The page of the tree `t` that holds most of its rows: of manager 2, kind 1.
fn a_leaf(db: &Database) -> u64 {
    (3..db.stats().file_pages)
        .find(|n| db.describe_page(*n).is_ok_and(|d| d.contains("btree") && d.contains("kind      1")))
        .unwrap()
}

/// T4, T44: the process dies at any write or sync; the next one reads what the dead one left in the cache, works with it
/// (or dies in recovery as well), and then the power fails.
#[test]
fn a_power_failure_after_a_process_crash_takes_nothing_back() {
    let mut crashes = 0;
    let faults = [1, 4, 9].map(|n| (MemOp::Write, n));
    for (on, again) in faults.into_iter().chain((1..=12).map(|n| (MemOp::Sync, n))) {
        for at in 1.. {
            let disk = MemDisk::new();
            let db = create(&small(), &disk);
            let fault = if at % 2 == 0 { MemOp::Sync } else { MemOp::Write };
            disk.inject(MemFault { at: at / 2 + 1, on: fault, once: false });
            let (mut acknowledged, mut begun) = (0u32, 0);
            let mut work = || -> hamal::Result<()> {
                for i in 1..=7u32 {
                    let tx = db.begin_write()?;
                    tx.tree("t")?.put("n", i.to_be_bytes())?;
                    tx.tree("t")?.put(i.to_be_bytes(), [i as u8; 700])?;
                    begun = i;
                    tx.commit()?;
                    acknowledged = i;
                    if i % 3 == 0 {
                        db.engine().pool().flush_all(WriteReason::Asked)?;
                        db.checkpoint()?;
                    }
                }
                Ok(())
            };
            let survived = work().is_ok();
            drop(db);
            disk.clear_faults();
            if survived {
                break;
            }
            crashes += 1;
            let number = |db: &Database| {
                let found =
                    rows(db).get(&b"n"[..]).map_or(0, |v| u32::from_be_bytes(v[..].try_into().unwrap()));
                assert!((acknowledged..=begun).contains(&found), "{acknowledged} <= {found} <= {begun}");
                found
            };
            disk.inject(MemFault { at: again, on, once: false });
            let seen = small().open_on(Arc::new(disk.clone())).map(|db| {
                let seen = number(&db);
                let _ = db.checkpoint();
                seen
            });
            disk.clear_faults();
            let torn = |seed| CrashModel::Random { seed: at * 100 + seed, torn_sector_bytes: 512 };
            for model in (0..6)
                .map(torn)
                .chain([CrashModel::LoseUnsynced, CrashModel::Random { seed: at, torn_sector_bytes: 4096 }])
            {
                let db = open(&disk.crash(model));
                let found = number(&db);
                assert!(
                    seen.as_ref().is_ok_and(|s| *s == found) || seen.is_err(),
                    "{seen:?} was shown, {found} is there"
                );
                assert_eq!(rows(&db).len() as u32, if found == 0 { 0 } else { found + 1 });
                assert_eq!(findings(&db), Vec::<String>::new());
            }
        }
    }
    assert!(crashes > 100, "{crashes}");
}

/// T4: a failed sync of the data file leaves pages that look written. Recovery writes them again.
#[test]
fn pages_whose_sync_failed_are_written_again() {
    for direct in [false, true] {
        for images in [TornPages::AtomicWrites, TornPages::Images { compress: true }] {
            let builder = small().torn_pages(images).direct_io(direct);
            let device = MemDisk::new();
            drop(create(&builder, &device));
            let disk = ForgetfulDisk::new(device);
            let db = builder.open_on(Arc::new(disk.clone())).unwrap();
            put(&db, many(200, 1));
            flush_pages(&db);
            db.checkpoint().unwrap();
            put(&db, many(200, 2));
            flush_pages(&db);
            disk.fail_data_syncs(true);
            assert_eq!(db.checkpoint().unwrap_err().kind(), ErrorKind::Poisoned);
            assert_eq!(db.begin_write().unwrap_err().kind(), ErrorKind::Poisoned);
            drop(db);
            disk.fail_data_syncs(false);
            let db = builder.open_on(Arc::new(disk.clone())).unwrap();
            assert_eq!(rows(&db).len(), 200);
            db.close().unwrap();
            let db = builder.open_on(Arc::new(disk.device())).unwrap();
            assert!(rows(&db).values().all(|v| *v == [2; 60]), "direct {direct}");
            assert_eq!(findings(&db), Vec::<String>::new());
        }
    }
}

/// T5: what a freed page looks like on disk is nobody's business, and it can be used again.
#[test]
fn a_damaged_page_that_is_free_is_no_finding() {
    let disk = MemDisk::new();
    let db = create(&small(), &disk);
    put(&db, many(400, 1));
    let tx = db.begin_write().unwrap();
    // Behind the tree, so that the file is not cut behind its pages.
    tx.create_tree("u").unwrap().put("k", vec![3; 9000]).unwrap();
    tx.commit().unwrap();
    flush_pages(&db);
    let leaf = a_leaf(&db);
    let tx = db.begin_write().unwrap();
    tx.drop_tree("t").unwrap();
    tx.commit().unwrap();
    settle(&db);
    db.close().unwrap();
    overwrite(&disk, "data", leaf * PAGE + 50, &[0xee; 999]);
    let db = open(&disk);
    assert_eq!(findings(&db), Vec::<String>::new());
    let tx = db.begin_write().unwrap();
    tx.create_tree("t").unwrap();
    tx.commit().unwrap();
    put(&db, many(400, 2));
    assert_eq!(rows(&db).len(), 400);
    assert_eq!(findings(&db), Vec::<String>::new());
}

/// T7: pages that are newer than the log reaches prove that the log lost its end, whether all of them fit the cache or not.
#[test]
fn a_log_that_ends_before_its_pages_is_refused() {
    for frames in [64, 512] {
        let builder = small().torn_pages(TornPages::AtomicWrites).cache_bytes(frames * PAGE as usize);
        let disk = MemDisk::new();
        let db = create(&builder, &disk);
        put(&db, many(3000, 1));
        flush_pages(&db);
        db.checkpoint().unwrap();
        put(&db, many(3000, 2));
        let log = disk.crash(CrashModel::KeepAll);
        put(&db, many(3000, 3));
        flush_pages(&db);
        let data = disk.crash(CrashModel::KeepAll);
        overwrite(&log, "data", 0, &file(&data, "data"));
        let e = builder.open_on(Arc::new(log)).map(|db| rows(&db).len()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::LogBehindPages, "{e:?}");
        assert!(e.page().is_some(), "{e:?}");
    }
}

/// T7: the same, when recovery has appended images of other pages before it comes to the page that is too new: by then the
/// log has grown past that page's LSN.
#[test]
fn a_log_that_ends_before_its_pages_is_refused_before_it_grows() {
    let large = small().torn_pages(TornPages::Images { compress: false }).cache_bytes(1024 * PAGE as usize);
    let tiny = small().torn_pages(TornPages::Images { compress: false });
    let disk = MemDisk::new();
    let db = create(&large, &disk);
    for from in [0, 3000] {
        put(&db, (from..from + 3000).map(|i| (i, vec![1; 60])));
    }
    flush_pages(&db);
    db.checkpoint().unwrap();
    // One small change in each page, and no page written.
    let images = db.stats().page_images;
    put(&db, (0..6000).step_by(20).chain([5999]).map(|i| (i, vec![2; 60])));
    let log = disk.crash(CrashModel::KeepAll);
    assert_eq!(db.stats().page_images, images);
    // The last leaf once more. (A page that the log does not name at all could not be proved too new.)
    put(&db, [(5999, vec![3; 60])]);
    flush_pages(&db);
    // Of the pages written with the lost end of the log, the one of the last change arrived.
    let later = file(&disk, "data");
    let pages = later.chunks(PAGE as usize).enumerate();
    let (n, page) = pages.max_by_key(|(_, p)| hamal::raw::header::page_lsn(p)).unwrap();
    assert!(n > 100, "many pages come before it");
    overwrite(&log, "data", n as u64 * PAGE, page);
    let before = file(&log, "data");
    let e = tiny.open_on(Arc::new(log.clone())).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::LogBehindPages, "{e:?}");
    assert!(file(&log, "data") == before, "nothing is written before every page was asked");
}

/// T7 and T4: without a way past the cache redo reads pages too that were clean at the checkpoint and have not changed since, so
/// these are asked, too, before the log grows.
#[test]
fn a_page_that_was_clean_is_asked_too_where_the_cache_is_read() {
    let images = TornPages::Images { compress: false };
    let large = small().torn_pages(images).cache_bytes(1024 * PAGE as usize);
    let tiny = small().torn_pages(images).direct_io(false);
    let disk = MemDisk::new();
    let db = create(&large, &disk);
    for from in [0, 3000] {
        put(&db, (from..from + 3000).map(|i| (i, vec![1; 60])));
    }
    flush_pages(&db);
    db.checkpoint().unwrap();
    // The last leaf gets its image, another one becomes dirty and stays so, and the last leaf is written once more: it is clean at
    // the checkpoint, and the log that is read names it without an image.
    put(&db, [(5999, vec![2; 60])]);
    flush_pages(&db);
    let newest = |disk: &MemDisk| {
        let data = file(disk, "data");
        let pages = data.chunks(PAGE as usize).enumerate();
        let (n, page) = pages.max_by_key(|(_, p)| hamal::raw::header::page_lsn(p)).unwrap();
        (n as u64, page.to_vec())
    };
    let (last, _) = newest(&disk);
    assert!(last > 100, "many pages come before it");
    let page_images = db.stats().page_images;
    put(&db, [(0, vec![3; 60])]);
    put(&db, [(5999, vec![3; 60])]);
    db.engine().pool().flush_page(hamal::PageId(last)).unwrap();
    assert_eq!(db.stats().page_images, page_images);
    db.checkpoint().unwrap();
    put(&db, (0..5900).step_by(20).map(|i| (i, vec![4; 60])));
    let log = disk.crash(CrashModel::KeepAll);
    put(&db, [(5999, vec![5; 60])]);
    db.engine().pool().flush_page(hamal::PageId(last)).unwrap();
    let (n, page) = newest(&disk);
    assert_eq!(n, last);
    overwrite(&log, "data", n * PAGE, &page);
    let before = file(&log, "data");
    let e = tiny.open_on(Arc::new(log.clone())).unwrap_err();
    assert_eq!((e.kind(), e.page()), (ErrorKind::LogBehindPages, Some(hamal::PageId(last))), "{e:?}");
    assert!(file(&log, "data") == before, "nothing is written before every page was asked");
}

/// T10: a reader of a dropped tree, and of a replaced long value, reads on; and it pins versions, not the log.
#[test]
fn a_long_reader_keeps_what_it_reads_and_not_the_log() {
    let disk = MemDisk::new();
    let db = create(&small(), &disk);
    put(&db, many(300, 1).chain([(999, vec![4; 30_000])]));
    let before = rows(&db);
    let reader = db.begin_read().unwrap();
    let tree = reader.tree("t").unwrap();
    put(&db, [(999, vec![5; 30_000])]);
    settle(&db);
    assert!(rows_of(&tree) == before, "the long value was replaced");
    let tx = db.begin_write().unwrap();
    tx.drop_tree("t").unwrap();
    tx.create_tree("t").unwrap();
    tx.commit().unwrap();
    let snapshot = reader.snapshot();
    for round in 0..12 {
        put(&db, many(300, round));
        settle(&db);
        flush_pages(&db);
        db.checkpoint().unwrap();
    }
    assert!(rows_of(&tree) == before, "the tree was dropped");
    assert!(db.stats().log_oldest > snapshot.0, "a reader holds the log");
    let full = db.stats().file_pages;
    drop((tree, reader));
    settle(&db);
    assert_eq!(findings(&db), Vec::<String>::new());
    drop(db);
    let db = open(&disk);
    assert!(db.stats().file_pages < full, "the dropped tree was freed in the end");
}

/// T11: two losers side by side in one leaf; what looks settled while the first is undone is the second's.
#[test]
fn losers_in_one_leaf_do_not_take_each_others_rows() {
    let disk = MemDisk::new();
    let db = create(&small(), &disk);
    put(&db, (0..60).map(|i| (i, vec![1; if i % 2 == 0 { 100 } else { 10 }])));
    let before = rows(&db);
    let (a, b) = (db.begin_write().unwrap(), db.begin_write().unwrap());
    for i in 0..60u32 {
        let tx = if i % 4 < 2 { &a } else { &b };
        let t = tx.tree("t").unwrap();
        match i % 2 {
            0 => drop(t.remove(i.to_be_bytes()).unwrap()),
            _ => t.put(i.to_be_bytes(), vec![9; 130]).unwrap(),
        }
        t.put((1000 + i).to_be_bytes(), "new").unwrap();
    }
    db.flush().unwrap();
    flush_pages(&db);
    for model in [CrashModel::KeepAll, CrashModel::LoseUnsynced] {
        let db = open(&disk.crash(model));
        assert_eq!(db.recovery_report().losers.len(), 2);
        assert_eq!(rows(&db), before);
        settle(&db);
        assert_eq!(rows(&db), before);
        assert_eq!(findings(&db), Vec::<String>::new());
    }
}

/// T12: pages of a long value, and of a tree made in the same transaction, whose transaction a crash ends.
#[test]
fn pages_allocated_by_a_loser_are_free_again() {
    let disk = MemDisk::new();
    let db = create(&small(), &disk);
    put(&db, many(10, 1));
    settle(&db);
    let allocated = |db: &Database| db.verify(&mut |_, _| {}).unwrap().pages_allocated;
    let before = allocated(&db);
    let tx = db.begin_write().unwrap();
    tx.tree("t").unwrap().put("long", vec![7; 100_000]).unwrap();
    let u = tx.create_tree("u").unwrap();
    for i in 0..200u32 {
        u.put(i.to_be_bytes(), vec![8; 100]).unwrap();
    }
    db.flush().unwrap();
    let mut now = 0;
    let each = &mut |_| {
        now += 1;
        Ok(())
    };
    db.engine().space().each_allocated(each).unwrap();
    assert!(now > before + 25);
    let db = open(&disk.crash(CrashModel::LoseUnsynced));
    assert_eq!(db.recovery_report().losers.len(), 1);
    put(&db, many(1, 1));
    settle(&db);
    assert_eq!(findings(&db), Vec::<String>::new());
    assert_eq!(allocated(&db), before);
}

/// T13: the newer slot of the control file is damaged; the older one still finds its log, though logs were recycled.
#[test]
fn the_older_control_slot_still_finds_its_log() {
    let disk = MemDisk::new();
    let db = create(&small(), &disk);
    for round in 1..20u8 {
        put(&db, many(150, round));
        flush_pages(&db);
        db.checkpoint().unwrap();
        if round < 8 {
            continue;
        }
        assert!(db.stats().log_segments_recycled > 0 || round < 12);
        let copy = disk.crash(CrashModel::KeepAll);
        let control = file(&copy, "control");
        let sequence = |slot: usize| u64::from_le_bytes(control[slot * 4096 + 16..][..8].try_into().unwrap());
        let newer = usize::from(sequence(1) > sequence(0));
        overwrite(&copy, "control", newer as u64 * 4096 + 60, b"torn");
        let db = open(&copy);
        assert!(rows(&db).values().all(|v| *v == [round; 60]));
        assert_eq!(findings(&db), Vec::<String>::new());
        // The slot that is left must not be the next one to be written over.
        db.checkpoint().unwrap();
        drop(db);
        assert_eq!(rows(&open(&copy)).len(), 150);
    }
}

/// T15: wherever the device is full, a statement fails; rollback and commit do not, and nothing is sticky.
#[test]
fn a_full_device_fails_statements_and_no_ending() {
    let disk = MemDisk::new();
    let db = create(&small(), &disk);
    let (mut refused, mut committed) = (0, 0u32);
    while refused < 12 {
        assert!(committed < 5000, "a full device took {committed} transactions of 7 KiB");
        disk.set_capacity(Some(disk.used() + if committed < 20 { 5000 * u64::from(committed) } else { 0 }));
        let tx = db.begin_write().unwrap();
        let t = tx.tree("t").unwrap();
        let full = (0..8).find_map(|i| t.put((committed * 8 + i).to_be_bytes(), vec![1; 900]).err());
        match full {
            Some(e) => {
                assert!(matches!(e.kind(), ErrorKind::NoSpace | ErrorKind::LogFull), "{e:?}");
                refused += 1;
                if refused % 2 == 0 { tx.rollback().unwrap() } else { drop((t, tx)) }
            }
            None => {
                tx.commit().expect("a commit needs no space that it does not have");
                committed += 1;
            }
        }
        assert!(db.poisoned().is_none());
    }
    assert!(refused > 5 && committed > 5, "{refused} refused, {committed} committed");
    assert_eq!(rows(&db).len() as u32, committed * 8);
    disk.set_capacity(None);
    put(&db, many(50, 9));
    let db = open(&disk.crash(CrashModel::LoseUnsynced));
    assert!(rows(&db).len() >= 50);
    assert_eq!(findings(&db), Vec::<String>::new());
}

/// T17: bytes of the log that were once durable are never written over with others, neither by the next group nor by the
/// first one after a recovery.
#[test]
fn durable_bytes_of_the_log_are_not_written_over() {
    for pad in [512usize, 4096] {
        let builder = small().log_segment_bytes(1 << 20).log_limit_bytes(64 << 20).log_pad(pad);
        let mut disk = MemDisk::new();
        let mut db = create(&builder, &disk);
        let mut former: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for n in 0..30u32 {
            put(&db, [(n, vec![n as u8; (n as usize * 37) % 600])]);
            match n % 6 {
                3 => drop(db.begin_write().map(|tx| tx.tree("t").unwrap().put("loser", "x")).unwrap()),
                5 => {
                    disk = disk.crash(CrashModel::LoseUnsynced);
                    db = builder.open_on(Arc::new(disk.clone())).unwrap();
                }
                _ => {}
            }
            let durable = disk.crash(CrashModel::LoseUnsynced);
            for name in durable.list("wal").unwrap() {
                let bytes = file(&durable, &format!("wal/{name}"));
                let used = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| (last / pad + 1) * pad);
                if let Some(old) = former.get(&name) {
                    let differs = old.iter().zip(&bytes).position(|(a, b)| a != b);
                    assert_eq!(differs, None, "{name} after transaction {n}, pad {pad}");
                }
                former.insert(name, bytes[..used].to_vec());
            }
        }
    }
}

/// T18: what a transaction rolled back was never there, not for a moment and not for a scan.
#[test]
fn nobody_ever_reads_what_was_rolled_back() {
    let disk = MemDisk::new();
    // Room in the log for all that the others do while one thread does not run.
    let db = create(&small().cache_bytes(512 * PAGE as usize).log_limit_bytes(1 << 30), &disk);
    put(&db, many(40, 1));
    let tx = db.begin_write().unwrap();
    tx.create_tree("u").unwrap();
    tx.commit().unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            for round in 0..400u32 {
                let tx = db.begin_write().unwrap();
                let t = tx.tree("t").unwrap();
                for i in 0..10 {
                    t.put(((round + i * 3) % 40).to_be_bytes(), [66; 60]).unwrap();
                    t.put((1000 + i).to_be_bytes(), [66; 60]).unwrap();
                }
                tx.rollback().unwrap();
                // Moves durable and the horizon, so that old ids are forgotten.
                put(&db, [(round % 40, vec![1; 60])]);
                db.maintenance_step().unwrap();
            }
            stop.store(true, SeqCst);
        });
        s.spawn(|| {
            // Commits of others: the durable LSN passes the id of the one that rolls back.
            while !stop.load(SeqCst) {
                let tx = db.begin_write().unwrap();
                tx.tree("u").unwrap().put("k", "v").unwrap();
                tx.commit().unwrap();
            }
        });
        for reader in 0..2 {
            let (db, stop) = (&db, &stop);
            s.spawn(move || {
                while !stop.load(SeqCst) {
                    let tx = db.begin_read().unwrap();
                    let t = tx.tree("t").unwrap();
                    for i in 0..40u32 {
                        let v = t.get(i.to_be_bytes()).unwrap().expect("a row that is always there");
                        assert_eq!(v, vec![1; 60]);
                    }
                    let all = if reader == 0 {
                        rows_of(&t)
                    } else {
                        t.iter()
                            .rev()
                            .map(|r| r.unwrap())
                            .map(|(k, v)| (k.into_vec(), v.into_vec()))
                            .collect()
                    };
                    assert!(all.len() == 40 && all.values().all(|v| *v == [1; 60]), "{} rows", all.len());
                }
            });
        }
    });
}

/// T21: after a failed sync live transactions, those who wait for them, and readers all get an error; nobody hangs, and
/// nothing is shown that a crash would take back.
#[test]
fn after_a_failed_sync_nobody_goes_on() {
    let disk = MemDisk::new();
    let db = create(&small(), &disk);
    put(&db, many(5, 1));
    let live = db.begin_write().unwrap();
    live.tree("t").unwrap().put(0u32.to_be_bytes(), "live").unwrap();
    let waiting = AtomicBool::new(false);
    std::thread::scope(|s| {
        let waiter = s.spawn(|| {
            let tx = db.begin_write().unwrap();
            waiting.store(true, SeqCst);
            tx.tree("t").unwrap().put(0u32.to_be_bytes(), "waiter").unwrap_err().kind()
        });
        while !waiting.load(SeqCst) || db.stats().lock_waits == 0 {
            std::thread::yield_now();
        }
        let tx = db.begin_write().unwrap();
        tx.tree("t").unwrap().put(1u32.to_be_bytes(), "lost").unwrap();
        let ticket = tx.commit_with(Durability::Async).unwrap();
        disk.inject(MemFault { at: 1, on: MemOp::Sync, once: true });
        assert_eq!(ticket.wait().unwrap_err().kind(), ErrorKind::OutcomeUnknown);
        assert!(db.begin_read_after(&ticket).is_err());
        let started = Instant::now();
        assert_eq!(waiter.join().unwrap(), ErrorKind::Poisoned);
        assert!(started.elapsed() < Duration::from_secs(60), "not by its time-out");
    });
    assert_eq!(live.tree("t").and_then(|t| t.put("k", "v")).unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(live.commit().unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(db.begin_read().unwrap_err().kind(), ErrorKind::Poisoned);
    drop(db);
    let db = open(&disk.crash(CrashModel::LoseUnsynced));
    assert!(rows(&db).values().all(|v| *v == [1; 60]));
}

/// T24: an id given after a restart is above every id and pageLSN that a page may carry, and no old row is its own.
#[test]
fn ids_go_on_above_all_that_pages_carry() {
    let disk = MemDisk::new();
    let db = create(&small(), &disk);
    put(&db, many(100, 1));
    let loser = db.begin_write().unwrap();
    loser.tree("t").unwrap().put("loser", "x").unwrap();
    flush_pages(&db);
    for seed in 0..10 {
        let db = open(&disk.crash(CrashModel::Random { seed, torn_sector_bytes: 512 }));
        let highest = (0..db.stats().file_pages)
            .filter_map(|n| db.page(n).ok())
            .map(|p| hamal::raw::header::page_lsn(&p).0)
            .max()
            .unwrap();
        let tx = db.begin_write().unwrap();
        let t = tx.tree("t").unwrap();
        t.put(5u32.to_be_bytes(), "mine").unwrap();
        assert!(tx.id().0 > highest && tx.id().0 > loser.id().0);
        assert_eq!(t.get(6u32.to_be_bytes()).unwrap().unwrap(), vec![1; 60]);
        assert_eq!(
            db.begin_read().unwrap().tree("t").unwrap().get(5u32.to_be_bytes()).unwrap().unwrap(),
            vec![1; 60]
        );
        tx.rollback().unwrap();
        assert!(rows(&db).values().all(|v| *v == [1; 60]));
    }
}

/// T27: log that a live transaction holds is not waited for: the others are told at once, and its end frees it.
#[test]
fn an_idle_writer_that_holds_the_log_hangs_nobody() {
    let disk = MemDisk::new();
    let db = create(&small().lock_timeout(Duration::from_secs(600)), &disk);
    let idle = db.begin_write().unwrap();
    idle.tree("t").unwrap().put("idle", "x").unwrap();
    let started = Instant::now();
    let mut n = 0;
    let e = loop {
        let tx = db.begin_write().unwrap();
        let done = tx.tree("t").unwrap().put((n % 50u32).to_be_bytes(), vec![2; 900]);
        n += 1;
        match done {
            Ok(()) => tx.commit().map(drop).unwrap(),
            Err(e) => break e,
        }
    };
    assert_eq!(e.kind(), ErrorKind::LogFull);
    assert!(n > 1000 && started.elapsed() < Duration::from_secs(300), "{n}");
    idle.rollback().unwrap();
    // The older slot of the control file needs the log for one more checkpoint.
    let again = (0..3).find_map(|_| {
        let tx = db.begin_write().unwrap();
        tx.tree("t").unwrap().put("again", "y").and_then(|()| tx.commit()).ok()
    });
    assert!(again.is_some(), "its end frees the log");
    let db = open(&disk.crash(CrashModel::LoseUnsynced));
    assert!(rows(&db).len() == 51 && !rows(&db).contains_key(&b"idle"[..]));
}

/// T29: a checkpoint's tables may be longer than the longest record.
#[test]
fn a_checkpoint_of_many_dirty_pages_is_cut_into_records() {
    let builder = small().cache_bytes(3000 * PAGE as usize).log_limit_bytes(64 << 20);
    let disk = MemDisk::new();
    let db = create(&builder, &disk);
    for round in 0..8u32 {
        put(&db, (0..1000).map(|i| (round * 1000 + i, vec![1; 900])));
    }
    let idle: Vec<_> = (0..200u32)
        .map(|i| {
            let tx = db.begin_write().unwrap();
            tx.tree("t").unwrap().put((900_000 + i).to_be_bytes(), "x").unwrap();
            tx
        })
        .collect();
    let report = db.checkpoint().unwrap();
    assert!(report.dirty_pages > 1500 && report.active == 200, "{report:?}");
    let copy = disk.crash(CrashModel::LoseUnsynced);
    let inspect = Inspect::open_on(Arc::new(copy.clone())).unwrap();
    let mut reader = inspect.reader(&inspect.log_end().unwrap()).unwrap();
    let (mut at, mut chunks) = (report.begin, 0);
    while let Some(r) = reader.read(at).unwrap() {
        chunks += u32::from(r.kind == hamal::log::RecordKind::CheckpointChunk);
        at = r.end;
    }
    assert!(chunks > 3, "{chunks}");
    let db = builder.open_on(Arc::new(copy)).unwrap();
    assert_eq!(db.recovery_report().losers.len(), 200);
    assert_eq!(rows(&db).len(), 8000);
    drop(idle);
}

/// T32: a page of an older checkpoint under a log that goes on from a newer one: the write was lost, and is named.
#[test]
fn a_lost_write_is_noticed_by_the_next_record() {
    let builder = small().torn_pages(TornPages::AtomicWrites);
    for cut in [false, true] {
        let disk = MemDisk::new();
        let db = create(&builder, &disk);
        put(&db, many(20, 1));
        flush_pages(&db);
        db.checkpoint().unwrap();
        let leaf = a_leaf(&db);
        let old = disk.crash(CrashModel::KeepAll);
        put(&db, many(20, 2));
        // Another page is the newest, so that the leaf is not the witness that the checkpoint names (which opening looks at).
        let tx = db.begin_write().unwrap();
        tx.create_tree("newest").unwrap().put("k", "v").unwrap();
        tx.commit().unwrap();
        flush_pages(&db);
        db.checkpoint().unwrap();
        if cut {
            cut_log(&db);
        }
        put(&db, [(3, vec![3; 60])]);
        let expected = rows(&db);
        let lost = disk.crash(CrashModel::KeepAll);
        assert_eq!(rows(&builder.open_on(Arc::new(lost.crash(CrashModel::KeepAll))).unwrap()), expected);
        let page = &file(&old, "data")[(leaf * PAGE) as usize..][..PAGE as usize];
        overwrite(&lost, "data", leaf * PAGE, page);
        match builder.open_on(Arc::new(lost)) {
            // The log still has the page's initialisation.
            Ok(db) => assert!(!cut && rows(&db) == expected && db.stats().pages_repaired == 1),
            Err(e) => {
                assert!(cut, "{e:?}");
                assert_eq!((e.kind(), e.page().map(|p| p.0)), (ErrorKind::StalePage, Some(leaf)), "{e:?}");
            }
        }
    }
}

/// T33: a whole and sound page is refused in another place of the file, and in another database.
#[test]
fn a_page_is_good_in_its_place_and_its_database_only() {
    let (disk, other) = (MemDisk::new(), MemDisk::new());
    let db = create(&small(), &disk);
    let twin = create(&small().database_id([8; 16]), &other);
    for db in [&db, &twin] {
        put(db, many(400, 1));
        cut_log(db);
    }
    let leaf = a_leaf(&db);
    db.close().unwrap();
    twin.close().unwrap();
    let page = |disk: &MemDisk, n: u64| file(disk, "data")[(n * PAGE) as usize..][..PAGE as usize].to_vec();
    for foreign in [page(&other, leaf), page(&disk, leaf + 1)] {
        let copy = disk.crash(CrashModel::KeepAll);
        assert_eq!(rows(&open(&copy)).len(), 400);
        overwrite(&copy, "data", leaf * PAGE, &foreign);
        let e = open(&copy).page(leaf).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::PageCorrupt, "{e:?}");
    }
}

/// T41: a transaction in the tables of a checkpoint commits; a crash takes the commit record, and its first records are
/// needed for the undo, though nobody was live when the log was cut.
#[test]
fn the_log_is_kept_for_those_whose_commit_may_be_lost() {
    let disk = MemDisk::new();
    let db = create(&small(), &disk);
    put(&db, many(40, 1));
    let tx = db.begin_write().unwrap();
    for i in 0..40u32 {
        tx.tree("t").unwrap().put(i.to_be_bytes(), "undone").unwrap();
    }
    let mut n = 0;
    for _ in 0..4 {
        for _ in 0..100 {
            put(&db, [(5000 + n % 50, vec![2; 900])]);
            n += 1;
        }
        flush_pages(&db);
        let report = db.checkpoint().unwrap();
        assert!(report.keep_from.0 <= tx.id().0 && report.redo.0 > tx.id().0, "{report:?}");
        assert!(db.stats().log_oldest <= tx.id().0);
    }
    tx.commit_with(Durability::Async).unwrap();
    let db = open(&disk.crash(CrashModel::LoseUnsynced));
    assert_eq!(db.recovery_report().losers.len(), 1);
    let found = rows(&db);
    assert!((0..40u32).all(|i| found[&i.to_be_bytes()[..]] == [1; 60]));
    assert_eq!(findings(&db), Vec::<String>::new());
}

/// T45: a page written between the sync of a checkpoint and anything after it is not taken for durable.
#[test]
fn a_page_written_behind_the_sync_does_not_count_as_durable() {
    let device = MemDisk::new();
    drop(create(&small(), &device));
    let disk = ForgetfulDisk::new(device);
    let db = small().open_on(Arc::new(disk.clone())).unwrap();
    put(&db, many(200, 1));
    flush_pages(&db);
    db.checkpoint().unwrap();
    put(&db, many(200, 2));
    let inner = db.clone();
    disk.behind_the_next_data_sync(move || flush_pages(&inner));
    let report = db.checkpoint().unwrap();
    assert!(report.redo < report.begin && report.dirty_pages > 0);
    let db = small().open_on(Arc::new(disk.device())).unwrap();
    assert!(rows(&db).values().all(|v| *v == [2; 60]));
    assert_eq!(findings(&db), Vec::<String>::new());
}

/// Takes a snapshot at every commit record as soon as that is in the log, and at every step of a rollback, and makes the log
/// durable first.
#[derive(Default)]
struct Spy {
    db: Mutex<Option<Database>>,
    seen: Mutex<Vec<(ReadTree, Option<Vec<u8>>)>>,
}

impl Tracer for Spy {
    fn event(&self, e: &Event<'_>) {
        let db = self.db.lock().unwrap().clone();
        let moment = matches!(e, Event::LogAppend { kind: "commit", .. } | Event::UndoClr { .. });
        if let (true, Some(db)) = (moment, db) {
            let log = db.engine().txns().log().clone();
            log.force(log.tail(), ForceReason::Asked).unwrap();
            let tree = db.begin_read().unwrap().tree("t").unwrap();
            let value = tree.get("k").unwrap().map(|v| v.into_vec());
            self.seen.lock().unwrap().push((tree, value));
        }
    }
}

/// T45: the status of a commit is there before its record can be durable: a snapshot sees it always or never.
#[test]
fn a_commit_is_one_moment_for_every_snapshot() {
    let spy = Arc::new(Spy::default());
    let disk = MemDisk::new();
    let db = create(&small().tracer(spy.clone()), &disk);
    *spy.db.lock().unwrap() = Some(db.clone());
    for n in 0..20u8 {
        let tx = db.begin_write().unwrap();
        tx.tree("t").unwrap().put("k", [n]).unwrap();
        tx.commit().unwrap();
    }
    *spy.db.lock().unwrap() = None;
    let seen = std::mem::take(&mut *spy.seen.lock().unwrap());
    assert_eq!(seen.len(), 20);
    for (n, (tree, value)) in seen.iter().enumerate() {
        assert_eq!(*value, Some(vec![n as u8]), "durable, and not shown");
        assert_eq!(tree.get("k").unwrap().map(|v| v.into_vec()), *value, "one snapshot, two states");
    }
}

/// T18: between two steps of a rollback the rows that are not restored yet are their writer's still, though its id lies
/// below the durable LSN: the status goes last.
#[test]
fn rows_not_restored_yet_are_not_shown() {
    let spy = Arc::new(Spy::default());
    let disk = MemDisk::new();
    let db = create(&small().tracer(spy.clone()), &disk);
    let tx = db.begin_write().unwrap();
    tx.tree("t").unwrap().put("k", "before").unwrap();
    tx.commit().unwrap();
    let tx = db.begin_write().unwrap();
    // Undone last.
    tx.tree("t").unwrap().put("k", "never").unwrap();
    for i in 0..5u32 {
        tx.tree("t").unwrap().put(i.to_be_bytes(), "never").unwrap();
    }
    *spy.db.lock().unwrap() = Some(db.clone());
    tx.rollback().unwrap();
    *spy.db.lock().unwrap() = None;
    let seen = std::mem::take(&mut *spy.seen.lock().unwrap());
    assert_eq!(seen.len(), 6, "a compensation for each change");
    for (tree, value) in seen {
        assert_eq!(value.as_deref(), Some(&b"before"[..]));
        assert_eq!(rows_of(&tree).len(), 1);
    }
}

/// `docs/traps.md` has every trap, and names only tests that there are.
#[test]
fn the_page_of_traps_names_tests_that_exist() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let page = std::fs::read_to_string(root.join("docs/traps.md")).unwrap();
    for n in 1..=45 {
        assert!(page.contains(&format!("\n| T{n} |")), "T{n} is missing");
    }
    let mut named = 0;
    for (file, test) in page.split('`').filter_map(|word| word.split_once("::")) {
        let path = match file {
            "traps" => root.join("tests/tests/traps.rs"),
            "rule_w" => root.join("crates/buffer/src/tests/rule_w.rs"),
            "histories" => root.join("crates/hamal/tests/durability_memdisk.rs"),
            _ if !file.ends_with(".rs") => continue,
            _ if file.starts_with("fault-injection/") => root.join(file),
            _ => root.join("crates").join(file),
        };
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(text.contains(&format!("fn {test}(")), "{} has no test {test}", path.display());
        named += 1;
    }
    assert!(named > 100, "{named}");
}
