//! Reading, changing, freeing, limits, failures.
use super::Step;
use super::bench::*;
use crate::*;
use hamal_disk::{Disk, MemFault, MemOp, OpenMode};
use hamal_error::ErrorKind;
use hamal_log::{Log, Whole};
use hamal_page::*;
use hamal_trace::{Event, Trace, WriteReason};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

#[test]
fn changes_survive_a_reload() {
    let b = Bench::with_pages(4);
    for n in 0..10 {
        b.pool.bump(n % 4);
    }
    b.pool.flush_all(WriteReason::Asked).unwrap();
    b.pool.check_at_rest();
    for p in 0..4 {
        let before = b.pool.shared(PageId(p)).unwrap().to_vec();
        b.pool.forget(PageId(p));
        assert!(matches!(b.pool.try_shared(PageId(p)), Err(Stop::Need(Need::Page(x))) if x == PageId(p)));
        let after = b.pool.shared(PageId(p)).unwrap();
        assert_eq!(comparable(&before), comparable(&after));
        assert_eq!(counter(&after), if p < 2 { 3 } else { 2 });
    }
}

#[test]
fn a_tiny_pool_evicts_and_holds_more_pages_than_frames() {
    let b = Bench::with_pages(300);
    for round in 0..3 {
        for p in 0..300 {
            b.pool.bump((p * 7 + round) % 300);
        }
    }
    for p in 0..300 {
        assert_eq!(counter(&b.pool.shared(PageId(p)).unwrap()), 3);
    }
    let s = b.pool.stats();
    assert!(s.evictions > 0 && s.misses > 0 && s.resident <= 64 && s.dirty <= 56, "{s:?}");
    b.pool.check_at_rest();
}

#[test]
fn damage_is_reported_by_page_file_and_offset() {
    let b = Bench::with_pages(4);
    b.cut_log();
    (0..4).for_each(|p| b.pool.forget(PageId(p)));
    let data = b.disk.open("data", OpenMode::default()).unwrap();
    data.write_at(SIZE as u64 + 1000, &[7]).unwrap();
    data.write_at(2 * SIZE as u64, &[0; SIZE]).unwrap();
    let mut copy = vec![0; SIZE];
    data.read_at(0, &mut copy).unwrap();
    data.write_at(3 * SIZE as u64, &copy).unwrap();
    for (p, what) in [(1, "checksum"), (2, "never written"), (3, "holds page 0"), (1 << 40, "beyond the end")]
    {
        let e = b.pool.shared(PageId(p)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::PageCorrupt, "{e}");
        assert_eq!((e.page(), e.file(), e.offset()), (Some(PageId(p)), Some("data"), Some(p * SIZE as u64)));
        assert!(e.to_string().contains(what), "{e}");
        assert_eq!(b.pool.fetch(PageId(p)).unwrap_err().kind(), ErrorKind::PageCorrupt);
    }
    assert!(b.pool.shared(PageId(0)).is_ok());
    b.pool.check_at_rest();
}

#[test]
fn a_page_from_the_future_says_that_the_log_is_behind() {
    let b = Bench::with_pages(1);
    b.pool.forget(PageId(0));
    let data = b.disk.open("data", OpenMode::default()).unwrap();
    let mut page = vec![0; SIZE];
    data.read_at(0, &mut page).unwrap();
    header::set_page_lsn(&mut page, b.pool.log().tail());
    stamp(&mut page, ID.db);
    data.write_at(0, &page).unwrap();
    assert_eq!(b.pool.shared(PageId(0)).unwrap_err().kind(), ErrorKind::LogBehindPages);
}

#[test]
fn a_read_error_is_not_sticky() {
    let b = Bench::with_pages(1);
    b.cut_log();
    b.pool.forget(PageId(0));
    b.disk.inject(MemFault { at: 1, on: MemOp::Read, once: true });
    assert_eq!(b.pool.shared(PageId(0)).unwrap_err().kind(), ErrorKind::PageUnreadable);
    assert!(b.pool.shared(PageId(0)).is_ok());
    b.pool.check_at_rest();
}

#[test]
fn a_frame_created_and_not_initialised_is_given_up() {
    let b = Bench::with_pages(1);
    drop(b.pool.create(PageId(0)).unwrap());
    b.pool.grow_to(10).unwrap();
    drop(b.pool.create(PageId(9)).unwrap());
    assert!(matches!(b.pool.try_shared(PageId(9)), Err(Stop::Need(Need::Page(_)))));
    let mut credit = b.pool.credit(500, 0, 1, false).unwrap();
    let mut page = b.pool.create(PageId(9)).unwrap();
    let e = b.pool.edit(&mut page, ADD, Whole::No, &add(40, 1), &mut credit).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Internal);
    drop((page, credit));
    b.pool.check_at_rest();
    assert!(b.pool.shared(PageId(0)).is_ok());
}

#[test]
fn frames_are_a_hard_cap() {
    let b = Bench::with_pages(80);
    let pins: Vec<_> = (0..64).map(|p| b.pool.fetch(PageId(p)).unwrap()).collect();
    let e = b.pool.fetch(PageId(70)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Limit, "{e}");
    assert!(e.help().is_some());
    drop(pins);
    assert!(b.pool.fetch(PageId(70)).is_ok());
    b.pool.check_at_rest();
}

#[test]
fn scans_do_not_push_out_pages_in_use() {
    let b = Bench::with_pages(400);
    for _ in 0..3 {
        (0..20).for_each(|p| drop(b.pool.shared(PageId(p)).unwrap()));
    }
    let misses = b.pool.stats().misses;
    for p in 20..400 {
        drop(b.pool.shared(PageId(p)).unwrap());
        drop(b.pool.shared(PageId(p % 20)).unwrap());
    }
    let lost = b.pool.stats().misses - misses - 380;
    assert!(lost < 20, "{lost} misses of pages in use");
}

#[test]
fn an_operation_that_fails_stops_the_engine() {
    let b = Bench::with_pages(2);
    let e = b.pool.update(0, FAIL, &put(40, b"x")).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Poisoned);
    assert_eq!(e.cause().unwrap().kind(), ErrorKind::Internal);
    assert_eq!(b.pool.shared(PageId(1)).unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(b.pool.clean(Lsn::MAX, 10, WriteReason::Asked).unwrap_err().kind(), ErrorKind::Poisoned);
}

#[test]
fn a_panic_under_a_latch_stops_the_engine() {
    let b = Bench::with_pages(2);
    let before = b.disk.stats().writes;
    let r =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| b.pool.update(0, PANIC, &put(40, b"x"))));
    assert!(r.is_err());
    assert_eq!(b.pool.bump_error(1), ErrorKind::Poisoned);
    assert_eq!(b.pool.flush_all(WriteReason::Asked).unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(b.disk.stats().writes, before);
}

/// Whoever writes pages back, a reader that needs a frame too, may panic in the disk: the pages of its batch stay in flight.
#[test]
fn a_panic_while_pages_are_written_stops_the_engine() {
    let b = Bench::with_pages(2);
    b.pool.bump(0);
    b.pool.once_at(super::Step::Forced, 0, |_| panic!("in the disk"));
    let r = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| b.pool.flush_page(PageId(0))));
    assert!(r.is_err());
    assert!(b.pool.desc_of(0).unwrap().in_flight());
    assert_eq!(b.pool.bump_error(1), ErrorKind::Poisoned);
    assert_eq!(b.pool.create(PageId(0)).map(|p| p.id()).unwrap_err().kind(), ErrorKind::Poisoned);
}

/// The same while the thread unwinds already: the rollback of a transaction on its stack may panic, too, and who runs it
/// catches that.
#[test]
fn a_panic_under_a_latch_stops_the_engine_though_the_thread_unwinds() {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    struct Rollback<'b>(&'b Bench);
    impl Drop for Rollback<'_> {
        fn drop(&mut self) {
            self.0.pool.bump(1);
            assert!(!self.0.pool.log().poisoned().is_set(), "a rollback that ends well stops nothing");
            let r = catch_unwind(AssertUnwindSafe(|| self.0.pool.update(0, PANIC, &put(40, b"x"))));
            assert!(r.is_err());
            assert_eq!(self.0.pool.bump_error(1), ErrorKind::Poisoned);
        }
    }
    let b = Bench::with_pages(2);
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        let _rollback = Rollback(&b);
        panic!("the caller's");
    }));
    assert!(unwound.is_err());
    assert_eq!(b.pool.bump_error(1), ErrorKind::Poisoned);
}

impl Pool {
    fn bump_error(&self, p: u64) -> ErrorKind {
        self.update(p, ADD, &add(40, 1)).unwrap_err().kind()
    }
}

#[test]
fn rehearsal_finds_faulty_operations_before_anything_is_logged() {
    let b = Bench::with(PoolOptions { check_apply: true, ..options() });
    b.pool.grow_to(1).unwrap();
    b.init(0);
    b.pool.bump(0);
    let tail = b.pool.log().tail();
    for op in [FAIL, MOODY, NOSY] {
        let e = b.pool.update(0, op, &put(40, b"x")).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Internal, "{e}");
    }
    assert_eq!(b.pool.log().tail(), tail);
    b.pool.bump(0);
    assert_eq!(counter(&b.pool.shared(PageId(0)).unwrap()), 2);
}

#[test]
fn edits_that_are_not_allowed_change_nothing() {
    let b = Bench::with_pages(1);
    let tail = b.pool.log().tail();
    let mut credit = b.pool.credit(500, 0, 1, false).unwrap();
    let mut page = b.pool.exclusive(PageId(0)).unwrap();
    let bytes = page.to_vec();
    for (whole, payload) in
        [(Whole::Image, &b""[..]), (Whole::Init, b"abc"), (Whole::Init, &[8, 0, 0, 0, 0, 0])]
    {
        let e = b.pool.edit(&mut page, ADD, whole, payload, &mut credit).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Internal);
    }
    // A record longer than its credit.
    let e = b.pool.edit(&mut page, PUT, Whole::No, &put(40, &[1; 2000]), &mut credit).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Internal);
    assert_eq!(*page, bytes[..]);
    assert!(!page.guard.desc().is_dirty());
    drop((page, credit));
    assert_eq!(b.pool.log().tail(), tail);
    b.pool.check_at_rest();
}

#[test]
fn failed_writes_and_syncs_poison_and_are_not_repeated() {
    for on in [MemOp::Write, MemOp::Sync] {
        let b = Bench::with_pages(2);
        b.pool.bump(0);
        b.pool.log().force(b.pool.log().tail(), hamal_trace::ForceReason::Asked).unwrap();
        b.pool.begin();
        b.disk.inject(MemFault { at: 1, on, once: true });
        let r = b.pool.flush_all(WriteReason::Asked).and_then(|()| b.pool.sync_data());
        assert_eq!(r.unwrap_err().kind(), ErrorKind::Poisoned);
        assert_eq!(b.pool.sync_data().unwrap_err().kind(), ErrorKind::Poisoned);
        assert_eq!(b.pool.shared(PageId(1)).unwrap_err().kind(), ErrorKind::Poisoned);
    }
}

#[test]
fn a_full_device_refuses_growth_and_nothing_else() {
    let b = Bench::with_pages(2);
    let pages = b.pool.file_pages();
    b.disk.set_capacity(Some(b.disk.used() + 3 * SIZE as u64));
    let e = b.pool.grow_to(pages + 10).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::NoSpace);
    assert_eq!(b.pool.file_pages(), pages);
    b.pool.bump(0);
    b.pool.grow_to(pages + 2).unwrap();
    assert_eq!(b.pool.file_pages(), pages + 2);
    b.disk.set_capacity(None);
    b.pool.grow_to(pages + 10).unwrap();
    assert!(b.pool.file_pages() > pages + 10, "growth is in steps");
}

#[test]
fn shrinking_spares_what_is_in_use() {
    let b = Bench::with_pages(10);
    b.cut_log();
    b.pool.bump(9);
    let before = b.pool.file_pages();
    assert!(!b.pool.shrink_to(5, Lsn::MAX).unwrap());
    assert_eq!(b.pool.file_pages(), before);
    b.pool.free_page(9);
    assert!(b.pool.shrink_to(5, Lsn::MAX).unwrap());
    assert_eq!(b.pool.file_pages(), 5);
    assert_eq!(b.pool.shared(PageId(7)).unwrap_err().kind(), ErrorKind::PageCorrupt);
    b.pool.grow_to(8).unwrap();
    assert_eq!(b.pool.shared(PageId(7)).unwrap_err().kind(), ErrorKind::PageCorrupt);
    b.pool.check_at_rest();
}

/// SPACE-5: a checkpoint that begins behind the record which announces a cut may tell the former length, with nothing behind it
/// in the log.
#[test]
fn a_cut_that_was_announced_before_a_checkpoint_is_refused() {
    let b = Bench::with_pages(10);
    b.cut_log();
    b.pool.free_page(9);
    let announced = b.pool.bump(0);
    let before = b.pool.file_pages();
    b.pool.begin();
    assert!(!b.pool.shrink_to(9, announced).unwrap());
    assert_eq!(b.pool.file_pages_at_checkpoint(), before);
    let announced = b.pool.bump(0);
    assert!(b.pool.shrink_to(9, announced).unwrap());
    assert_eq!(b.pool.file_pages_at_checkpoint(), 9);
}

/// T16: who has sealed the engine off and waited for the file's locks may leave the file to another process.
#[test]
fn a_cut_that_waits_while_the_engine_is_sealed_off_is_none() {
    let b = Bench::with_pages(10);
    b.pool.free_page(9);
    let len = || b.disk.open("data", OpenMode::default()).unwrap().len().unwrap();
    let before = len();
    std::thread::scope(|s| {
        let held = b.pool.file_length.lock();
        let cut = s.spawn(|| b.pool.shrink_to(5, Lsn::MAX));
        let grown = s.spawn(|| b.pool.grow_to(10_000));
        // Time to come to the lock.
        std::thread::sleep(std::time::Duration::from_millis(100));
        b.pool.log().poison(hamal_error::Error::internal("sealed off"));
        drop(held);
        assert_eq!(cut.join().unwrap().unwrap_err().kind(), ErrorKind::Poisoned);
        assert_eq!(grown.join().unwrap().unwrap_err().kind(), ErrorKind::Poisoned);
    });
    assert_eq!(len(), before);
}

/// A frame with a page beyond the new end is given to a page that somebody makes, who then waits for the cleaner.
#[test]
fn a_cut_does_not_wait_for_a_page_that_is_made() {
    let b = Bench::with_pages(10);
    b.pool.free_page(9);
    // Somebody looked at the free page after all.
    drop(b.pool.shared(PageId(9)).unwrap());
    b.pool.forget(PageId(3));
    let (made, wait_made) = std::sync::mpsc::channel();
    let (looked, wait_looked) = std::sync::mpsc::channel();
    let (done, wait_done) = std::sync::mpsc::channel();
    let wait_made = std::sync::Mutex::new(wait_made);
    b.pool.once_at(Step::Cutting, 9, move |_| {
        looked.send(()).unwrap();
        wait_made.lock().unwrap().recv().unwrap();
    });
    let b = Arc::new(b);
    let (cutter, maker) = (b.clone(), b.clone());
    let (cut_done, made_done) = (done.clone(), done);
    std::thread::spawn(move || {
        assert!(cutter.pool.shrink_to(9, Lsn::MAX).unwrap());
        cut_done.send(()).unwrap();
    });
    std::thread::spawn(move || {
        wait_looked.recv().unwrap();
        let frame = maker.pool.desc_of(9).unwrap();
        maker.pool.forget(PageId(9));
        let page = maker.pool.create(PageId(3)).unwrap();
        assert!(frame.holds(PageId(3)), "the frame that was given up last is taken first");
        made.send(()).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
        drop(maker.pool.cleaner.lock());
        drop(page);
        made_done.send(()).unwrap();
    });
    for _ in 0..2 {
        wait_done.recv_timeout(std::time::Duration::from_secs(30)).expect("neither waits for the other");
    }
    assert_eq!(b.pool.file_pages(), 9);
}

#[test]
fn neighbours_are_written_in_one_call() {
    let b = Bench::with_pages(20);
    let calls = b.pool.stats().write_calls;
    for p in [3, 9, 4, 5, 8, 15] {
        b.pool.bump(p);
    }
    let report = b.pool.clean(Lsn::MAX, 100, WriteReason::Asked).unwrap();
    assert_eq!(report, CleanReport { written: 6, skipped: 0 });
    assert_eq!(b.pool.stats().write_calls - calls, 3);
}

#[test]
fn cleaning_takes_the_oldest_first_and_skips_the_latched() {
    let b = Bench::with_pages(8);
    let lsns: Vec<Lsn> = [5, 1, 7, 3].into_iter().map(|p| b.pool.bump(p)).collect();
    assert_eq!(b.pool.clean(lsns[2], 10, WriteReason::Asked).unwrap().written, 2);
    assert!(!b.pool.desc_of(5).unwrap().is_dirty() && !b.pool.desc_of(1).unwrap().is_dirty());
    let held = b.pool.exclusive(PageId(7)).unwrap();
    let report = b.pool.clean(Lsn::MAX, 10, WriteReason::Asked).unwrap();
    assert_eq!(report, CleanReport { written: 1, skipped: 1 });
    drop(held);
    let report = b.pool.clean(Lsn::MAX, 10, WriteReason::Asked).unwrap();
    assert_eq!(report, CleanReport { written: 1, skipped: 0 });
    assert_eq!(b.pool.clean(Lsn::MAX, 10, WriteReason::Asked).unwrap(), CleanReport::default());
    b.pool.check_at_rest();
}

#[test]
fn without_images_none_is_logged() {
    let b = Bench::with(PoolOptions { images: false, ..options() });
    b.pool.grow_to(2).unwrap();
    b.init(0);
    b.pool.begin();
    b.pool.bump(0);
    b.pool.flush_page(PageId(0)).unwrap();
    assert_eq!(b.pool.stats().images, 0);
    assert_eq!(b.pool.stats().pages_written, 1);
    assert_eq!(b.pool.log().stats().reserved_bytes, 0);
}

#[test]
fn one_image_per_page_and_checkpoint() {
    let b = Bench::with_pages(1);
    // The initialisation serves as an image until a checkpoint begins.
    b.pool.bump(0);
    b.pool.flush_page(PageId(0)).unwrap();
    assert_eq!(b.pool.stats().images, 0);
    let mut last = Control::default();
    for n in 1..4 {
        last = b.checkpoint(&last);
        for _ in 0..3 {
            b.pool.bump(0);
            b.pool.flush_page(PageId(0)).unwrap();
            assert_eq!(b.pool.stats().images, n);
            b.pool.forget(PageId(0));
        }
    }
}

#[test]
fn events_tell_what_was_done() {
    let seen = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let sink = seen.clone();
    let trace = Trace::new(Arc::new(move |e: &Event<'_>| {
        sink.lock().push(match e {
            Event::PageRead { .. } => "read",
            Event::PageFix { exclusive: false, .. } => "fix",
            Event::PageImage { .. } => "image",
            Event::PageWrite { why: WriteReason::Asked, .. } => "write",
            Event::CheckpointScan { dirty: 1, .. } => "scan",
            _ => "other",
        })
    }));
    let b = Bench::traced(options(), trace);
    b.pool.grow_to(1).unwrap();
    b.init(0);
    let begin = b.pool.begin();
    b.pool.scan_dirty(begin, Log::FIRST);
    b.pool.flush_page(PageId(0)).unwrap();
    b.pool.forget(PageId(0));
    drop(b.pool.shared(PageId(0)).unwrap());
    assert_eq!(*seen.lock(), ["scan", "image", "write", "read", "fix"]);
}

#[test]
fn reserves_go_back_to_the_log() {
    let b = Bench::with_pages(10);
    assert_eq!(b.pool.log().stats().reserved_bytes, 0);
    let mut credit = b.pool.credit(1000, 300, 2, false).unwrap();
    let mut undo = credit.take_undo(300);
    drop(credit);
    assert_eq!(b.pool.log().stats().reserved_bytes, 300);
    let credit = b.pool.credit_from(&mut undo, 100, 1).unwrap();
    assert_eq!(undo, 200);
    drop(credit);
    b.pool.log().give_back(undo);
    assert_eq!(b.pool.log().stats().reserved_bytes, 0);
    for _ in 0..3 {
        b.pool.begin();
        b.pool.bump_all(0..10);
        assert_eq!(b.pool.log().stats().reserved_bytes, 10 * b.pool.image_cost());
        b.pool.free_page(3);
        assert_eq!(b.pool.log().stats().reserved_bytes, 9 * b.pool.image_cost());
        b.pool.flush_all(WriteReason::Asked).unwrap();
        assert_eq!(b.pool.log().stats().reserved_bytes, 0);
        b.init(3);
    }
    b.pool.check_at_rest();
}

#[test]
fn too_many_pages_at_once_are_refused() {
    let b = Bench::with_pages(1);
    assert_eq!(b.pool.credit(100, 0, 57, false).unwrap_err().kind(), ErrorKind::Limit);
    assert!(b.pool.credit(100, 0, 56, false).is_ok());
    assert_eq!(b.pool.promised.load(SeqCst), 0);
    b.pool.check_at_rest();
}

/// BUF-ORDER: who waits for a page's latch, with other latches held, does not go on waiting when the frame is given to
/// another page: its new owner may wait for those latches.
#[test]
fn t25_nobody_waits_for_a_frame_that_holds_another_page() {
    for exclusive in [false, true] {
        let b = Bench::with_pages(4);
        b.pool.flush_all(WriteReason::Asked).unwrap();
        let id = PageId(2);
        let crate::translate::Entry::Resident(frame) = b.pool.xlat.get(id) else { panic!("not resident") };
        let taken = b.pool.region.write(frame);
        std::thread::scope(|s| {
            let waiter = s.spawn(|| match exclusive {
                false => b.pool.try_shared(id).map(drop),
                true => b.pool.try_exclusive(id).map(drop),
            });
            // Long enough to be asleep by then; if it is not, the test is only easier to pass.
            std::thread::sleep(std::time::Duration::from_millis(30));
            b.pool.release(&taken, id);
            // The frame stays latched, as it does while a new page is made in it.
            let got = waiter.join().unwrap();
            assert!(matches!(got, Err(Stop::Need(Need::Page(x))) if x == id), "{got:?}");
        });
        drop(taken);
    }
}

/// BUF-GLANCE: a glance is good until the page changes, or leaves its frame; a wrong hint is not believed.
#[test]
fn a_glance_ends_with_a_change_or_an_eviction() {
    let b = Bench::with_pages(3);
    let glance = |p, hint| b.pool.glance(PageId(p), hint);
    let (one, two) = (glance(1, None).unwrap(), glance(2, None).unwrap());
    assert!(b.pool.still(&one) && b.pool.still(&two));
    assert_eq!(glance(1, Some(one.frame())), Some(one));
    assert_eq!(glance(1, Some(two.frame())), Some(one), "the hint names another page's frame");
    assert_eq!(glance(1, Some(u32::MAX)), Some(one), "there is no such frame");
    {
        let held = b.pool.shared(PageId(1)).unwrap();
        assert_eq!(held.glance(), Some(one));
        assert!(b.pool.still(&one), "reading changes nothing");
    }
    b.pool.leave_note(&one, 77);
    assert_eq!(glance(1, None).unwrap().note(), 77);
    b.pool.bump(1);
    assert!(!b.pool.still(&one), "the page has changed");
    assert!(b.pool.still(&two));
    {
        let _held = b.pool.exclusive(PageId(2)).unwrap();
        assert!(!b.pool.still(&two));
        assert_eq!(glance(2, None), None, "somebody changes it");
    }
    b.pool.flush_all(WriteReason::Asked).unwrap();
    let two = glance(2, None).unwrap();
    b.pool.forget(PageId(2));
    assert!(!b.pool.still(&two), "the frame has been taken away");
    assert_eq!(glance(2, Some(two.frame())), None);
    let held = b.pool.try_shared_in(PageId(1), Some(two.frame())).unwrap();
    assert_eq!(held.id(), PageId(1));
}
