//! Rule W, step by step: each test stands between two steps and does there what would lose data if the step were wrong.
use super::Step;
use super::bench::*;
use crate::*;
use hamal_disk::CrashModel;
use hamal_log::*;
use hamal_page::*;
use hamal_trace::WriteReason;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// Recovers from many crashes of the present moment.
fn survives(b: &Bench, control: &Control) {
    for seed in 0..24 {
        let torn_sector_bytes = if seed % 2 == 0 { 512 } else { 4096 };
        recover(&b.crash(CrashModel::Random { seed, torn_sector_bytes }), control);
    }
    recover(&b.crash(CrashModel::LoseUnsynced), control);
    recover(&b.crash(CrashModel::KeepAll), control);
}

#[test]
fn t1_the_image_is_reserved_under_the_latch_of_the_copy() {
    let b = Bench::with_pages(3);
    let control = b.checkpoint(&Control::default());
    b.pool.bump(0);
    let seen = Arc::new(AtomicUsize::new(0));
    let n = seen.clone();
    b.pool.hook.set(move |pool, step, page| {
        let f = pool.desc_of(page.0).unwrap();
        match step {
            Step::Copied => {
                assert!(pool.log().durable() < pool.log().tail(), "the image is appended by now");
                assert!(f.img() >= Lsn(pool.begun.load(SeqCst)), "and known");
                let frame = (0..64).find(|i| pool.region.desc(*i).holds(page)).unwrap();
                assert!(pool.region.try_write(frame).is_none(), "the latch is held");
                n.fetch_add(1, SeqCst);
            }
            Step::Unlatched => {
                pool.bump(0);
            }
            _ => {}
        }
    });
    b.pool.flush_page(PageId(0)).unwrap();
    b.pool.hook.clear();
    assert_eq!(seen.load(SeqCst), 1);
    b.pool.log().force(b.pool.log().tail(), hamal_trace::ForceReason::Asked).unwrap();
    survives(&b, &control);
}

#[test]
fn t3_a_change_during_the_write_keeps_the_page_dirty() {
    for step in [Step::Unlatched, Step::Forced, Step::Written] {
        let b = Bench::with_pages(2);
        let mut control = b.checkpoint(&Control::default());
        b.pool.bump(0);
        let lsn = Arc::new(Mutex::new(Lsn::NULL));
        let at = lsn.clone();
        b.pool.once_at(step, 0, move |pool| *at.lock() = pool.bump(0));
        assert_eq!(b.pool.clean(Lsn::MAX, 1, WriteReason::Asked).unwrap().written, 1);
        b.pool.hook.clear();
        let f = b.pool.desc_of(0).unwrap();
        let rec = Lsn(f.rec());
        assert!(!rec.is_null() && rec <= *lsn.lock() && f.next() == 0 && f.flight() == 0);
        control = b.checkpoint(&control);
        assert!(control.redo <= *lsn.lock());
        assert_eq!(control.dpt, [(PageId(0), rec)]);
        survives(&b, &control);
        b.pool.flush_all(WriteReason::Asked).unwrap();
        b.pool.check_at_rest();
        assert_eq!(b.pool.log().stats().reserved_bytes, 0);
    }
}

#[test]
fn t3_the_scan_sees_a_page_at_every_step_of_its_write() {
    let b = Bench::with_pages(2);
    let control = b.checkpoint(&Control::default());
    let first = b.pool.bump(0);
    let begin = b.pool.begin();
    let control2 = control.clone();
    b.pool.hook.set(move |pool, step, _| {
        if !matches!(step, Step::Ended | Step::TailRead) {
            let scan = pool.scan_dirty(begin, control2.redo);
            assert!(scan.redo <= first, "{step:?}");
            assert_eq!(scan.pages[0].0, PageId(0));
        }
    });
    b.pool.flush_page(PageId(0)).unwrap();
    b.pool.hook.clear();
    assert_eq!(b.pool.scan_dirty(begin, control.redo).redo, begin);
}

#[test]
fn t5_one_frame_and_one_write_per_page_id() {
    for step in [Step::Unlatched, Step::Forced, Step::Written] {
        let b = Bench::with_pages(2);
        let control = b.checkpoint(&Control::default());
        b.pool.bump(0);
        let frame = b.pool.desc_of(0).unwrap() as *const _ as usize;
        b.pool.once_at(step, 0, move |pool| {
            pool.free_page(0);
            let f = pool.desc_of(0).expect("the frame of a page in flight is kept");
            assert!(f.dead() && f.in_flight() && !f.is_dirty());
            pool.init_in_flight(0);
            let f = pool.desc_of(0).unwrap();
            assert_eq!(f as *const _ as usize, frame, "never a second frame for one page id");
            assert!(!f.dead() && f.rec() == 0 && f.next() != 0);
        });
        assert_eq!(b.pool.clean(Lsn::MAX, 1, WriteReason::Asked).unwrap().written, 1);
        b.pool.hook.clear();
        assert!(b.pool.desc_of(0).unwrap().is_dirty());
        survives(&b, &control);
        let control = b.checkpoint(&control);
        survives(&b, &control);
        b.pool.flush_all(WriteReason::Asked).unwrap();
        survives(&b, &b.checkpoint(&control));
        b.pool.check_at_rest();
    }
}

/// Who makes pages may hold one while it waits for the cleaner (for credit, for a frame of a second page). So it must
/// never hold one whose former content is being written: the cleaner waits for that latch.
#[test]
fn t25_a_page_that_is_made_is_not_in_flight() {
    let b: &'static Bench = Box::leak(Box::new(Bench::with_pages(2)));
    b.pool.bump(0);
    let (send, done) = std::sync::mpsc::channel();
    b.pool.once_at(Step::Unlatched, 0, move |pool| {
        pool.free_page(0);
        let send = send.clone();
        let (made, wait) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let page = b.pool.create(PageId(0)).unwrap();
            let _ = made.send(());
            b.pool.clean(Lsn::MAX, 1, WriteReason::Asked).unwrap();
            drop(page);
            let _ = send.send(());
        });
        // Until it has the page, or waits for the end of the write.
        let _ = wait.recv_timeout(std::time::Duration::from_millis(50));
    });
    std::thread::spawn(|| b.pool.flush_page(PageId(0)));
    done.recv_timeout(std::time::Duration::from_secs(60))
        .expect("the maker of a page and the cleaner wait for each other");
}

#[test]
fn t5_a_page_freed_in_flight_leaves_when_its_write_has_ended() {
    let b = Bench::with_pages(2);
    b.pool.bump(0);
    b.pool.once_at(Step::Unlatched, 0, |pool| pool.free_page(0));
    b.pool.flush_page(PageId(0)).unwrap();
    b.pool.hook.clear();
    assert!(b.pool.desc_of(0).is_none());
    b.pool.check_at_rest();
    assert_eq!(b.pool.log().stats().reserved_bytes, 0);
}

#[test]
fn t5_a_dirty_page_is_dropped_when_freed() {
    let b = Bench::with_pages(2);
    let control = b.checkpoint(&Control::default());
    b.pool.bump(0);
    let begin = b.pool.begin();
    b.pool.bump(0);
    b.pool.free_page(0);
    assert!(b.pool.desc_of(0).is_none());
    assert!(b.pool.scan_dirty(begin, control.redo).pages.is_empty());
    let control = b.pool.finish(begin, &control).unwrap();
    survives(&b, &control);
    b.pool.init(0);
    survives(&b, &control);
    b.pool.flush_all(WriteReason::Asked).unwrap();
    survives(&b, &control);
}

#[test]
fn a_page_freed_or_latched_before_its_copy_is_not_written() {
    let b = Bench::with_pages(3);
    b.pool.bump(0);
    b.pool.once_at(Step::Marked, 0, |pool| {
        pool.free_page(0);
        pool.init(0);
        pool.free_page(0);
    });
    assert_eq!(b.pool.clean(Lsn::MAX, 9, WriteReason::Asked).unwrap(), CleanReport::default());
    b.pool.hook.clear();
    b.pool.check_at_rest();
    assert_eq!(b.pool.log().stats().reserved_bytes, 0);
    // Freed and made anew before the copy: the new incarnation is written.
    b.pool.bump(1);
    b.pool.once_at(Step::Marked, 1, |pool| {
        pool.free_page(1);
        pool.init(1);
    });
    assert_eq!(b.pool.clean(Lsn::MAX, 9, WriteReason::Asked).unwrap().written, 1);
    b.pool.hook.clear();
    b.pool.check_at_rest();
    assert_eq!(b.pool.log().stats().reserved_bytes, 0);
    survives(&b, &Control::default());
}

#[test]
fn t6_the_mark_is_set_before_the_lsn_is_reserved() {
    let b = Bench::with_pages(1);
    b.pool.bump(0);
    let check = |pool: &Pool, next: bool| {
        let mut credit = pool.credit(500, 0, 1, false).unwrap();
        let mut page = pool.exclusive(PageId(0)).unwrap();
        let f = pool.desc_of(0).unwrap();
        let change =
            Change { kind: RecordKind::Update, rm: RM, txn: TxnRef::First, prev: Lsn::NULL, undo: b"undo" };
        let payload = add(40, 1);
        let mut edits = [PageEdit { page: &mut page, op: ADD, whole: Whole::No, payload: &payload }];
        pool.change(&change, &mut edits, &mut credit, |at| {
            let mark = if next { f.next() } else { f.rec() };
            assert!(mark != 0 && mark <= at.lsn.0);
        })
        .unwrap();
    };
    b.pool.once_at(Step::Unlatched, 0, move |pool| check(pool, true));
    b.pool.flush_page(PageId(0)).unwrap();
    b.pool.hook.clear();
    b.pool.flush_all(WriteReason::Asked).unwrap();
    check(&b.pool, false);
}

#[test]
fn t26_dirty_pages_stay_below_the_image_share_and_readers_write_nothing() {
    let share = 20 * (SIZE as u64 + 256);
    let b = Bench::with(PoolOptions { image_share_bytes: share, ..options() });
    b.pool.grow_to(300).unwrap();
    for p in 0..300 {
        b.init(p);
        assert!(b.pool.stats().dirty <= 20);
        assert!(b.pool.log().stats().reserved_bytes <= share);
    }
    let b = Bench::with_pages(300);
    b.pool.begin();
    b.pool.bump_all(0..56);
    let (tail, before) = (b.pool.log().tail(), b.pool.stats());
    assert_eq!(before.dirty, 56);
    (56..300).for_each(|p| drop(b.pool.shared(PageId(p)).unwrap()));
    let after = b.pool.stats();
    assert_eq!((b.pool.log().tail(), after.pages_written, after.dirty), (tail, before.pages_written, 56));
}

#[test]
fn t40_b_is_read_again_after_the_mark() {
    for step in [Step::ReadB, Step::Marked] {
        let b = Bench::with_pages(2);
        let control = b.checkpoint(&Control::default());
        b.pool.bump(0);
        b.pool.flush_page(PageId(0)).unwrap();
        assert_eq!(b.pool.stats().images, 1);
        b.pool.bump(0);
        let begin = Arc::new(Mutex::new(Lsn::NULL));
        let at = begin.clone();
        // The image is new enough for the checkpoint that the writer has read, and too old for the one that begins now.
        b.pool.once_at(step, 0, move |pool| *at.lock() = pool.begin());
        b.pool.flush_page(PageId(0)).unwrap();
        b.pool.hook.clear();
        assert_eq!(b.pool.stats().images, 2);
        let begin = *begin.lock();
        assert!(b.pool.desc_of(0).unwrap().img() > begin);
        let control = b.pool.finish(begin, &control).unwrap();
        assert_eq!(control.redo, begin);
        b.pool.bump(0);
        b.pool.flush_page(PageId(0)).unwrap();
        survives(&b, &control);
    }
}

#[test]
fn t40_a_checkpoint_after_the_loop_sees_the_flight_mark() {
    // The write ended its loop with an old B and reuses an old image; the checkpoint that begins now must keep it.
    for step in [Step::Copied, Step::Unlatched, Step::Forced, Step::Written] {
        let b = Bench::with_pages(2);
        let control = b.checkpoint(&Control::default());
        b.pool.bump(0);
        b.pool.flush_page(PageId(0)).unwrap();
        let img = b.pool.desc_of(0).unwrap().img();
        b.pool.bump(0);
        let found = Arc::new(Mutex::new(None));
        let at = found.clone();
        let last = control.clone();
        b.pool.once_at(step, 0, move |pool| *at.lock() = Some(pool.checkpoint(&last).unwrap()));
        b.pool.flush_page(PageId(0)).unwrap();
        b.pool.hook.clear();
        let control = found.lock().clone().unwrap();
        assert!(control.redo <= img, "{step:?}: redo {} beyond the image {img}", control.redo);
        survives(&b, &control);
    }
}

#[test]
fn t42_images_below_the_reclsn_are_found() {
    let b = Bench::with_pages(2);
    let control = b.checkpoint(&Control::default());
    b.pool.bump(1);
    let begin = b.pool.begin();
    b.pool.bump(0);
    b.pool.flush_page(PageId(0)).unwrap();
    let img = b.pool.desc_of(0).unwrap().img();
    let change = b.pool.bump(0);
    let control = b.pool.finish(begin, &control).unwrap();
    assert!(control.redo < img && img < change);
    assert!(control.dpt.contains(&(PageId(0), Lsn(b.pool.desc_of(0).unwrap().rec()))));
    b.pool.flush_page(PageId(0)).unwrap();
    assert_eq!(b.pool.desc_of(0).unwrap().img(), img, "the write reuses the image");
    survives(&b, &control);
    let again = recover(&b.crash(CrashModel::KeepAll), &control);
    let f = again.pool.desc_of(0).unwrap();
    assert_eq!((Lsn(f.rec()), f.img()), (img, img), "a page rebuilt from an image has its LSN as recLSN");
}

#[test]
fn t43_a_stale_flight_mark_does_not_pull_the_redo_point_back() {
    let b = Bench::with_pages(2);
    let control = b.checkpoint(&Control::default());
    b.pool.bump(0);
    b.pool.flush_page(PageId(0)).unwrap();
    let img = b.pool.desc_of(0).unwrap().img();
    b.pool.bump(0);
    let control = Arc::new(Mutex::new(control));
    let shared = control.clone();
    let calls = AtomicUsize::new(0);
    b.pool.hook.set(move |pool, step, _| {
        let mut last = shared.lock();
        match (step, calls.fetch_add(1, SeqCst)) {
            // A whole checkpoint between the reading of B and the mark ...
            (Step::ReadB, 0) => {
                *last = pool.checkpoint(&last).unwrap();
                assert!(last.redo > img);
            }
            // ... which is then below that checkpoint's redo point; `checkpoint` asserts that R does not go back.
            (Step::Marked, 1) => {
                assert_eq!(Lsn(pool.desc_of(0).unwrap().flight()), img);
                *last = pool.checkpoint(&last).unwrap();
            }
            _ => {}
        }
    });
    b.pool.flush_page(PageId(0)).unwrap();
    b.pool.hook.clear();
    let control = control.lock().clone();
    survives(&b, &control);
}

#[test]
fn the_log_is_durable_beyond_page_and_image_before_the_write() {
    let b = Bench::with_pages(4);
    b.checkpoint(&Control::default());
    b.pool.bump_all(0..4);
    b.pool.hook.set(|pool, step, _| {
        if step == Step::Forced {
            for p in 0..4 {
                let f = pool.desc_of(p).unwrap();
                assert!(f.in_flight());
                assert!(pool.log().durable() > f.img(), "the image of {p}");
                assert!(pool.log().durable() > header::page_lsn(&pool.shared(PageId(p)).unwrap()));
            }
        }
    });
    assert_eq!(b.pool.clean(Lsn::MAX, 4, WriteReason::Asked).unwrap().written, 4);
    b.pool.hook.clear();
}

/// A batch that logged an image and could not force it (the device was full) leaves the page with an image that is in no
/// durable group: the next batch needs no new image, and must force that one all the same (W-3).
#[test]
fn an_image_that_an_earlier_batch_could_not_force_is_forced_before_the_write() {
    let b = Bench::with_pages(1);
    b.checkpoint(&Control::default());
    b.pool.bump(0);
    let log = b.pool.log();
    log.force(log.tail(), hamal_trace::ForceReason::Asked).unwrap();

    // A full device, and a log whose slack was used up by the padding of many small groups.
    b.disk.set_capacity(Some(b.disk.used()));
    let mut small = log.credit(16_000, true).unwrap();
    let mut hoard = 0;
    while let Ok(mut credit) = log.credit(1000, true) {
        hoard += credit.take(1000);
    }
    let spec = hamal_log::RecordSpec {
        kind: hamal_log::RecordKind::CheckpointChunk,
        rm: hamal_page::RmId(0),
        txn: hamal_log::TxnRef::None,
        prev: Lsn::NULL,
        blocks: &[],
        undo: b"toy",
    };
    // Full with something to spare: an image takes less out of its reserve than the group's padding may shrink.
    let full = loop {
        let mut forced = Ok(());
        for _ in 0..8 {
            log.append(&spec, &mut small).unwrap();
            forced = log.force(log.tail(), hamal_trace::ForceReason::Asked);
            if forced.is_ok() {
                break;
            }
        }
        if let Err(e) = forced {
            break e;
        }
    };
    assert_eq!(full.kind(), hamal_error::ErrorKind::NoSpace);
    let failed = b.pool.clean(Lsn::MAX, 1, WriteReason::Asked).unwrap_err();
    assert_eq!(failed.kind(), hamal_error::ErrorKind::NoSpace);
    let img = b.pool.desc_of(0).unwrap().img();
    assert!(img >= log.durable(), "the image is logged and not durable");

    // There is room again.
    drop(small);
    log.give_back(hoard);
    b.disk.set_capacity(None);
    assert_eq!(b.pool.clean(Lsn::MAX, 1, WriteReason::Asked).unwrap().written, 1);
    assert!(log.durable() > img, "the page was written before its image was durable");
    b.pool.check_at_rest();
}

#[test]
fn t2_recovery_that_crashes_again_logs_no_second_image() {
    let b = Bench::with_pages(3);
    let control = b.checkpoint(&Control::default());
    for _ in 0..3 {
        b.pool.bump_all(0..3);
    }
    b.pool.log().force(b.pool.log().tail(), hamal_trace::ForceReason::Asked).unwrap();
    let mut disk = b.crash(CrashModel::KeepAll);
    let mut images = Vec::new();
    for seed in 0..5 {
        let again = recover(&disk, &control);
        assert_eq!(again.pool.stats().dirty, 3);
        again.pool.flush_all(WriteReason::Recovery).unwrap();
        again.pool.check_at_rest();
        images.push(again.pool.stats().images);
        disk = again.crash(CrashModel::Random { seed, torn_sector_bytes: 512 });
    }
    assert_eq!(images, [3, 0, 0, 0, 0]);
}

#[test]
fn redo_refuses_what_it_cannot_apply() {
    let b = Bench::with_pages(2);
    assert!(b.pool.redo_page(PageId(0), true).is_err(), "outside redo");
    b.pool.begin_redo(Log::FIRST);
    let tail = b.pool.log().tail();
    let mut page = b.pool.redo_page(PageId(1), false).unwrap();
    for (whole, rm, payload) in [
        (Whole::No, RM, &add(40, 1)[..]),
        (Whole::Image, RM, b"short"),
        (Whole::Init, RM, b"abc"),
        (Whole::Init, RM, &[8, 0, 0, 0, 0, 0]),
        (Whole::Init, RmId(99), b"abcdefg"),
    ] {
        let e = page.apply(tail, TxnId::NONE, rm, PUT, whole, payload).unwrap_err();
        assert_eq!((e.page(), e.lsn()), (Some(PageId(1)), Some(tail)));
    }
    drop(page);
    assert!(b.pool.desc_of(1).is_none());
    b.pool.check_at_rest();
    let mut page = b.pool.redo_page(PageId(1), true).unwrap();
    page.apply(tail, TxnId::NONE, RM, ADD, Whole::No, &add(40, 1)).unwrap();
    assert_eq!(page.page_lsn(), tail);
    drop(page);
    assert_eq!(Lsn(b.pool.desc_of(1).unwrap().rec()), tail);
    let e = b.pool.redo_page(PageId(5000), true).unwrap_err();
    assert_eq!(e.kind(), hamal_error::ErrorKind::PageCorrupt);
    assert!(b.pool.redo_page(PageId(5000), false).is_ok(), "the file grows for a page to be made");
    assert!(b.pool.redo_page(PageId(1 << 50), false).is_err());
    b.pool.end_redo().unwrap();
}

#[test]
fn a_record_that_starts_at_the_durable_end_is_forced_too() {
    let b = Bench::with_pages(1);
    b.pool.log().force(b.pool.log().tail(), hamal_trace::ForceReason::Asked).unwrap();
    let lsn = b.pool.bump(0);
    assert_eq!(lsn, b.pool.log().durable(), "the record begins where the last group ended");
    b.pool.hook.set(move |pool, step, _| assert!(step != Step::Forced || pool.log().durable() > lsn));
    b.pool.flush_page(PageId(0)).unwrap();
    assert_eq!(b.pool.stats().images, 0, "the initialisation serves as image: pageLSN alone decides");
    b.pool.hook.clear();
}

#[test]
fn t43_a_stale_reclsn_does_not_pull_the_redo_point_back() {
    let b = Bench::with_pages(2);
    let control = Arc::new(Mutex::new(b.checkpoint(&Control::default())));
    let shared = control.clone();
    // The changer has read the tail; before it sets the mark a whole checkpoint goes by, whose redo point is above.
    b.pool.once_at(Step::TailRead, 0, move |pool| {
        let mut last = shared.lock();
        pool.note(RecordKind::CheckpointChunk).unwrap();
        *last = pool.checkpoint(&last).unwrap();
    });
    let lsn = b.pool.bump(0);
    b.pool.hook.clear();
    let last = control.lock().clone();
    let f = b.pool.desc_of(0).unwrap();
    assert!(Lsn(f.rec()) < last.redo && last.redo < lsn);
    survives(&b, &last);
    // `checkpoint` asserts that the redo point does not go back.
    let next = b.checkpoint(&last);
    assert_eq!(next.dpt, [(PageId(0), last.redo)]);
    survives(&b, &next);
}
