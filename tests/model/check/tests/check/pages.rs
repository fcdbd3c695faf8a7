//! Write-back against changes and checkpoints: recLSN before the append, the flight mark and B, the scan, the sync.
use hamal::{Database, Durability};
use hamal_buffer::PageEdit;
use hamal_check::bench::*;
use hamal_check::engine::*;
use hamal_check::*;
use hamal_disk::{CrashModel, MemDisk};
use hamal_log::Whole;
use hamal_mutants::Mutant;
use hamal_page::{Lsn, PageId};
use hamal_sync::thread::spawn;
use hamal_trace::WriteReason;
use std::sync::{Arc, Mutex};

fn put(db: &Database, key: &str, value: u64, durability: Durability) {
    let tx = db.begin_write().unwrap();
    tx.tree("t").unwrap().put(key, value.to_string()).unwrap();
    tx.commit_with(durability).unwrap();
}

fn get(rows: &Rows, key: &str) -> u64 {
    rows.get(key.as_bytes()).map_or(0, |v| std::str::from_utf8(v).unwrap().parse().unwrap())
}

/// A leaf that was written since the last checkpoint, so has an image, and was changed again: one thread writes it back, one changes
/// it, one takes checkpoints, and the power fails at the end of each of them, in the middle of what the others do. The pages
/// that are being written are torn.
fn write_back(changes: u64, checkpoints: u64) {
    let (db, disk) = opened(&prepared(&[("a", "0"), ("b", "0")]));
    put(&db, "a", 1, Durability::Sync);
    db.flush().unwrap();
    put(&db, "a", 2, Durability::Sync);
    let acked = Arc::new(Mutex::new(0));
    let images = Arc::new(Mutex::new(Vec::new()));
    let mut threads = Vec::new();
    let writer = db.clone();
    threads.push(spawn(move || writer.flush().unwrap()));
    let (changer, told) = (db.clone(), acked.clone());
    threads.push(spawn(move || {
        for n in 1..=changes {
            put(&changer, "b", n, Durability::Sync);
            *told.lock().unwrap() = n;
        }
    }));
    let (taker, told, power, found) = (db.clone(), acked.clone(), disk.clone(), images.clone());
    threads.push(spawn(move || {
        let mut redo = hamal::Lsn(0);
        for _ in 0..checkpoints {
            let report = taker.checkpoint().unwrap();
            assert!(report.redo >= redo, "the redo point went back from {redo} to {}", report.redo);
            redo = report.redo;
            for _ in 0..2 {
                let model = CrashModel::Random { seed: pick(1 << 32), torn_sector_bytes: 512 };
                found.lock().unwrap().push((power.crash(model), *told.lock().unwrap()));
            }
        }
    }));
    threads.into_iter().for_each(|t| t.join().unwrap());
    for model in
        [CrashModel::LoseUnsynced, CrashModel::Random { seed: pick(1 << 32), torn_sector_bytes: 512 }]
    {
        images.lock().unwrap().push((disk.crash(model), changes));
    }
    let images: Vec<(MemDisk, u64)> = std::mem::take(&mut *images.lock().unwrap());
    for (image, acked) in images {
        let rows = recovered(&image);
        assert_eq!(get(&rows, "a"), 2, "a change before the threads began");
        assert!(get(&rows, "b") >= acked, "told {acked}, found {}", get(&rows, "b"));
    }
}

fn with_changes() {
    write_back(3, 2);
}

#[test]
fn pages_are_written_beside_changes_and_checkpoints() {
    accepts(200, with_changes);
}
#[test]
fn a_late_rec_lsn_is_caught() {
    rejects(Mutant::RecLsnLate, 20_000, with_changes);
}
#[test]
fn an_image_after_the_latch_is_caught() {
    rejects(Mutant::ImageAfterLatch, 20_000, with_changes);
}
#[test]
fn a_flight_that_clears_all_is_caught() {
    rejects(Mutant::FlightClearsAll, 20_000, with_changes);
}
#[test]
fn a_latch_let_go_before_the_page_lsn_is_caught() {
    rejects(Mutant::LatchBeforeLsn, 20_000, with_changes);
}

/// A page with an image since the last checkpoint, changed again. One thread writes it back, one changes it, one takes checkpoints
/// and looks, as each comes to count, whether what may be torn or lost is in the log from the redo point on (rule W, W-8).
fn one_page(changes: u64, checkpoints: u64) {
    let b = Bench::new(1);
    b.set(0, 0, 1);
    b.pool().flush_page(PageId(0)).unwrap();
    b.set(0, 0, 2);
    let mut threads = Vec::new();
    let writer = b.clone();
    threads.push(spawn(move || writer.pool().flush_page(PageId(0)).unwrap()));
    let taker = b.clone();
    threads.push(spawn(move || {
        let mut redo = Lsn::NULL;
        for _ in 0..checkpoints {
            let report = taker.checkpointer.checkpoint().unwrap();
            assert!(report.redo >= redo, "the redo point went back from {redo} to {}", report.redo);
            redo = report.redo;
            taker.check_checkpoint(&report);
        }
    }));
    let changer = b.clone();
    threads.push(spawn(move || (0..changes).for_each(|n| changer.set(0, 0, 3 + n))));
    threads.into_iter().for_each(|t| t.join().unwrap());
    b.pool().flush_all(WriteReason::Asked).unwrap();
    assert_eq!(on_disk(b.disk.mem(), 0, 0), 2 + changes, "a change that was never written");
    let report = b.checkpointer.checkpoint().unwrap();
    b.check_checkpoint(&report);
}

fn without_changes() {
    one_page(0, 3);
}

#[test]
fn what_a_checkpoint_leaves_out_is_in_the_log_it_keeps() {
    accepts(2000, without_changes);
    accepts(2000, || one_page(3, 3));
}
#[test]
fn b_that_is_not_read_again_is_caught() {
    rejects(Mutant::BNotReadAgain, 30_000, without_changes);
}
#[test]
fn a_missing_flight_mark_is_caught() {
    rejects(Mutant::NoFlightMark, 30_000, without_changes);
}
#[test]
fn b_published_after_the_scan_is_caught() {
    rejects(Mutant::PublishAfterScan, 30_000, without_changes);
}
#[test]
fn a_sync_before_the_scan_is_caught() {
    rejects(Mutant::SyncBeforeScan, 30_000, without_changes);
}
#[test]
fn a_stale_flight_mark_is_caught() {
    rejects(Mutant::StaleFlightMark, 30_000, without_changes);
}
#[test]
fn a_stale_rec_lsn_is_caught() {
    rejects(Mutant::StaleRecLsn, 30_000, || {
        let b = Bench::new(1);
        let taker = b.clone();
        let changer = spawn(move || b.set(0, 0, 3));
        let mut redo = Lsn::NULL;
        for _ in 0..3 {
            let report = taker.checkpointer.checkpoint().unwrap();
            assert!(report.redo >= redo, "the redo point went back from {redo} to {}", report.redo);
            redo = report.redo;
        }
        changer.join().unwrap();
    });
}

/// A page is freed while it is written, and its frame is wanted for another one.
fn freed_in_flight() {
    let b = Bench::new(2);
    b.set(0, 0, 1);
    let writer = b.clone();
    let flush = spawn(move || writer.pool().flush_page(PageId(0)).unwrap());
    let maker = b.clone();
    let make = spawn(move || {
        maker.free(0);
        maker.init(2);
        maker.set(2, 0, 7);
    });
    flush.join().unwrap();
    make.join().unwrap();
    b.pool().flush_all(WriteReason::Asked).unwrap();
    assert_eq!(on_disk(b.disk.mem(), 2, 0), 7, "a change that was never written");
    assert_eq!(b.pool().stats().dirty, 0);
}

#[test]
fn a_frame_in_flight_is_given_to_nobody() {
    accepts(2000, freed_in_flight);
}
#[test]
fn a_page_that_is_freed_in_flight_and_leaves_is_caught() {
    // The pool's own assertion: with one cleaner, and a flight that is the frame's and not the page's, it ends well.
    let text = rejects(Mutant::FreedInFlightLeaves, 10_000, freed_in_flight);
    assert!(text.contains("BUF-EVICT"), "{text}");
}

/// Two pages read and changed by two threads while a third evicts: at most one frame for a page, and no change is lost
/// (BUF-XLAT, BUF-EVICT).
fn eviction() {
    let pages = hamal_buffer::MIN_FRAMES as u64 + 1;
    let b = Bench::new(pages);
    let pins: Vec<_> = (2..pages - 1).map(|p| b.pool().fetch(PageId(p)).unwrap()).collect();
    let threads: Vec<_> = (0..3u64)
        .map(|t| {
            let b = b.clone();
            spawn(move || {
                for n in 0..2 {
                    let p = [0, 1, pages - 1][pick(3) as usize];
                    b.set(p, t, n + 1);
                    drop(b.pool().shared(PageId((p + 1) % 2)).unwrap());
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    drop(pins);
    b.pool().flush_all(WriteReason::Asked).unwrap();
    let sum: u64 = [0, 1, pages - 1]
        .iter()
        .map(|p| (0..3).map(|n| on_disk(b.disk.mem(), *p, n).min(1)).sum::<u64>())
        .sum();
    assert!((3..=6).contains(&sum), "{sum}");
    for t in 0..3 {
        assert!(
            [0, 1, pages - 1].iter().any(|p| on_disk(b.disk.mem(), *p, t) == 2),
            "the last change of {t} is lost"
        );
    }
}

#[test]
fn a_page_has_one_frame_at_most() {
    accepts(300, eviction);
}

/// Whoever makes pages holds one and needs a frame for the next; every frame is dirty, pinned or held.
fn few_frames() {
    let frames = hamal_buffer::MIN_FRAMES as u64;
    let pages = frames - 1;
    let b = Bench::new(pages);
    (0..16).for_each(|p| b.set(p, 0, 1));
    let pins: Vec<_> = (16..pages).map(|p| b.pool().fetch(PageId(p)).unwrap()).collect();
    let maker = b.clone();
    let make = spawn(move || {
        let pool = maker.pool();
        let mut credit = pool.credit(1000, 0, 2, false).unwrap();
        let payload = [RM.0, 1, 7, 0, 0, 0];
        let mut first = pool.create(PageId(pages)).unwrap();
        let edit = PageEdit { page: &mut first, op: 1, whole: Whole::Init, payload: &payload };
        maker.txns.structure(None, RM, &mut [edit], &mut credit).unwrap();
        drop(pool.create(PageId(pages + 1)).unwrap());
        drop(first);
    });
    b.pool().flush_all(WriteReason::Asked).unwrap();
    make.join().unwrap();
    drop(pins);
}

#[test]
fn who_holds_a_page_finds_a_frame_for_another() {
    accepts(300, few_frames);
}
#[test]
fn a_cleaner_that_waits_for_latches_is_caught() {
    let text = rejects(Mutant::CleanerWaits, 20_000, few_frames);
    assert!(text.contains("deadlock"), "{text}");
}
