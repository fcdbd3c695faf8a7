//! What a database does that nobody writes to, and what closing leaves behind.
mod common;

use common::{bytes, small};
use hamal::disk::{CrashModel, MemDisk};
use hamal::{Builder, Database, Stats};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SEGMENT: u64 = 64 << 10;

/// Much is dirty, and much log is held: the checkpoints of the load lie far apart.
fn options() -> Builder {
    small().cache_bytes(4096 * 4096).log_limit_bytes(64 << 20).checkpoint_log_bytes(16 << 20)
}

fn load(db: &Database, rows: u64) {
    let tx = db.begin_write().unwrap();
    let t = tx.open_or_create_tree("t").unwrap();
    for n in 0..rows {
        t.put((n * 7919 % 100_003).to_be_bytes(), bytes(n, 200)).unwrap();
    }
    tx.commit().unwrap();
}

fn held(s: &Stats) -> u64 {
    s.log_tail - s.log_oldest
}

/// Waits until it is so, or long enough.
fn becomes(db: &Database, so: impl Fn(&Stats) -> bool) -> Result<(), Box<Stats>> {
    let began = Instant::now();
    loop {
        let s = db.stats();
        if so(&s) {
            return Ok(());
        }
        if began.elapsed() > common::PROMPT {
            return Err(Box::new(s));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn at_rest_pages_are_written_and_the_log_is_let_go() {
    let disk = Arc::new(MemDisk::new());
    let db = options().background(true).create_on(disk.clone()).unwrap();
    load(&db, 20_000);
    let s = db.stats();
    assert!(s.cache_dirty > 500 && held(&s) > 40 * SEGMENT, "{s:?}");
    becomes(&db, |s| s.cache_dirty == 0 && held(s) <= 4 * SEGMENT).expect("it comes to rest");
    // Nothing more happens then.
    let s = db.stats();
    assert!(s.log_allocated_bytes <= 8 * SEGMENT, "{s:?}");
    std::thread::sleep(Duration::from_millis(2500));
    let later = db.stats();
    assert_eq!((s.log_tail, s.pages_written), (later.log_tail, later.pages_written));
    // What a crash leaves is soon recovered.
    let db = options().open_on(Arc::new(disk.crash(CrashModel::LoseUnsynced))).unwrap();
    let report = db.recovery_report();
    assert!(report.log_bytes <= SEGMENT && report.pages_read == 0, "{report:?}");
    assert_eq!(db.begin_read().unwrap().tree("t").unwrap().iter().count(), 20_000);
}

#[test]
fn a_little_log_is_not_worth_while() {
    let db = options().background(true).create_on(Arc::new(MemDisk::new())).unwrap();
    load(&db, 100);
    let s = db.stats();
    assert!(s.cache_dirty > 0 && held(&s) < 3 * SEGMENT);
    std::thread::sleep(Duration::from_millis(3500));
    let later = db.stats();
    assert_eq!((s.redo_point, s.pages_written), (later.redo_point, later.pages_written));
}

#[test]
fn who_writes_is_not_at_rest() {
    let db = options().background(true).create_on(Arc::new(MemDisk::new())).unwrap();
    load(&db, 20_000);
    let (s, began) = (db.stats(), Instant::now());
    while began.elapsed() < Duration::from_millis(3500) {
        load(&db, 1);
        std::thread::sleep(Duration::from_millis(10));
    }
    let later = db.stats();
    assert_eq!((s.pages_written, s.redo_point), (later.pages_written, later.redo_point));
}

#[test]
fn a_transaction_that_holds_the_log_is_not_tried_again_and_again() {
    let db = options().background(true).create_on(Arc::new(MemDisk::new())).unwrap();
    let old = db.begin_write().unwrap();
    old.create_tree("old").unwrap().put("a", "b").unwrap();
    load(&db, 20_000);
    let lower = db.stats().log_oldest;
    becomes(&db, |s| s.cache_dirty == 0).expect("its pages are written");
    std::thread::sleep(Duration::from_millis(500));
    let s = db.stats();
    std::thread::sleep(Duration::from_millis(3000));
    let later = db.stats();
    assert_eq!((s.log_tail, s.log_oldest), (later.log_tail, lower));
    old.commit().unwrap();
}

#[test]
fn rest_on_a_full_device_goes_on_when_there_is_room() {
    let disk = Arc::new(MemDisk::new());
    let db = options().background(true).create_on(disk.clone()).unwrap();
    load(&db, 20_000);
    disk.set_capacity(Some(disk.used()));
    std::thread::sleep(Duration::from_millis(3500));
    assert_eq!(db.begin_read().unwrap().tree("t").unwrap().iter().count(), 20_000);
    disk.set_capacity(None);
    becomes(&db, |s| s.cache_dirty == 0 && held(s) <= 4 * SEGMENT).expect("it comes to rest");
}

#[test]
fn closing_leaves_little_log() {
    let disk = Arc::new(MemDisk::new());
    let db = options().create_on(disk.clone()).unwrap();
    load(&db, 20_000);
    assert!(held(&db.stats()) > 40 * SEGMENT);
    db.close().unwrap();
    let db = options().open_on(disk.clone()).unwrap();
    assert!(db.recovery_report().clean);
    let s = db.stats();
    assert!(held(&s) <= 2 * SEGMENT, "{s:?}");
    // Opened and closed, it stays as it is.
    db.close().unwrap();
    let again = options().open_on(disk).unwrap().stats();
    assert_eq!((again.log_tail, again.log_oldest), (s.log_tail, s.log_oldest));
}
