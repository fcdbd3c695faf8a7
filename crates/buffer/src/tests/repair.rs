//! Versions of pages, and pages rebuilt from the log.
use super::Step;
use super::bench::*;
use crate::*;
use hamal_disk::{CrashModel, MemFault, MemOp};
use hamal_disk::{Disk, OpenMode};
use hamal_error::ErrorKind;
use hamal_log::{Block, RecordKind, RecordSpec, TxnRef, Whole};
use hamal_page::*;
use hamal_trace::{Event, Trace, WriteReason};
use parking_lot::Mutex;
use std::sync::Arc;

fn page_of(b: &Bench, p: u64) -> Vec<u8> {
    let mut page = vec![0; SIZE];
    let data = b.disk.open("data", OpenMode::default()).unwrap();
    data.read_at(p * SIZE as u64, &mut page).unwrap();
    page
}

fn set_page(b: &Bench, p: u64, bytes: &[u8]) {
    b.disk.open("data", OpenMode::default()).unwrap().write_at(p * SIZE as u64, bytes).unwrap();
}

/// Three pages on disk in two versions each; the older bytes of page 1.
fn two_versions() -> (Bench, Vec<u8>) {
    let b = Bench::with_pages(3);
    let old = page_of(&b, 1);
    for p in 0..3 {
        b.pool.bump(p);
    }
    b.pool.flush_all(WriteReason::Asked).unwrap();
    (b, old)
}

#[test]
fn an_older_version_is_rebuilt_and_written_again() {
    let (b, old) = two_versions();
    set_page(&b, 1, &old);
    b.pool.forget(PageId(1));
    assert_eq!(counter(&b.pool.shared(PageId(1)).unwrap()), 1);
    assert_eq!(b.pool.stats().repaired, 1);
    assert_eq!(b.pool.repairs().len(), 1);
    // It was written back at once.
    assert_eq!(b.pool.stats().dirty, 0);
    assert_ne!(page_of(&b, 1), old);
    b.pool.forget(PageId(1));
    assert_eq!(counter(&b.pool.shared(PageId(1)).unwrap()), 1);
    assert_eq!((b.pool.stats().repaired, b.pool.log().stats().reserved_bytes), (1, 0));
    b.pool.check_at_rest();
}

#[test]
fn every_kind_of_bad_page_is_rebuilt() {
    let (b, _) = two_versions();
    let other = page_of(&b, 2);
    for n in 0..4 {
        match n {
            0 => set_page(&b, 1, &[0; SIZE]),
            1 => set_page(&b, 1, &other),
            2 => set_page(&b, 1, &[7; 600]),
            _ => b.disk.inject(MemFault { at: 1, on: MemOp::Read, once: true }),
        }
        b.pool.forget(PageId(1));
        assert_eq!(counter(&b.pool.shared(PageId(1)).unwrap()), 1, "{n}");
        assert_eq!(b.pool.stats().repaired, n + 1);
    }
    b.pool.check_at_rest();
}

#[test]
fn where_the_log_does_not_reach_the_page_is_an_error_and_others_go_on() {
    let (b, old) = two_versions();
    b.cut_log();
    set_page(&b, 1, &old);
    set_page(&b, 2, &[7; 600]);
    (0..3).for_each(|p| b.pool.forget(PageId(p)));
    let e = b.pool.shared(PageId(1)).unwrap_err();
    assert_eq!(
        (e.kind(), e.page(), e.lsn()),
        (ErrorKind::StalePage, Some(PageId(1)), Some(header::page_lsn(&old)))
    );
    assert_eq!(b.pool.shared(PageId(2)).unwrap_err().kind(), ErrorKind::PageCorrupt);
    assert_eq!(counter(&b.pool.shared(PageId(0)).unwrap()), 1);
    assert!(b.pool.log().poisoned().check().is_ok());
    assert_eq!(b.pool.stats().repaired, 0);
    b.pool.check_at_rest();
}

/// What the log leads to must be the version that was written last.
#[test]
fn another_version_than_the_last_is_no_repair() {
    let (b, _) = two_versions();
    b.pool.forget(PageId(1));
    b.pool.versions().set(PageId(1), Lsn(12345));
    assert_eq!(b.pool.shared(PageId(1)).unwrap_err().kind(), ErrorKind::StalePage);
    set_page(&b, 1, &[7; 600]);
    assert_eq!(b.pool.shared(PageId(1)).unwrap_err().kind(), ErrorKind::PageCorrupt);
}

#[test]
fn a_freed_page_is_not_brought_back() {
    let (b, old) = two_versions();
    b.pool.free_page(1);
    b.pool.log().force(b.pool.log().tail(), hamal_trace::ForceReason::Asked).unwrap();
    set_page(&b, 1, &old);
    assert_eq!(b.pool.shared(PageId(1)).unwrap_err().kind(), ErrorKind::StalePage);
    // Made anew, it is another page.
    b.pool.init(1);
    b.pool.flush_all(WriteReason::Asked).unwrap();
    b.pool.forget(PageId(1));
    assert_eq!(counter(&b.pool.shared(PageId(1)).unwrap()), 0);
    b.pool.check_at_rest();
}

/// A page that is cut off the file and comes back is not compared with what was there.
#[test]
fn a_page_cut_off_is_forgotten() {
    let (b, _) = two_versions();
    assert_ne!(b.pool.versions().get(PageId(2)), 0);
    b.pool.free_page(2);
    assert!(b.pool.shrink_to(2, Lsn::MAX).unwrap());
    assert_eq!(b.pool.versions().get(PageId(2)), 0);
    assert!(b.pool.versions().take_changed(0));
}

/// The tag of a page that is being written is set before anybody can read that page from disk, and changes made meanwhile
/// belong to the next write.
#[test]
fn the_tag_is_that_of_what_was_written() {
    let b = Bench::with_pages(2);
    let lsn = b.pool.bump(0);
    let newer = Arc::new(Mutex::new(Lsn::NULL));
    let at = newer.clone();
    b.pool.once_at(Step::Forced, 0, move |pool| *at.lock() = pool.bump(0));
    b.pool.clean(Lsn::MAX, 1, WriteReason::Asked).unwrap();
    b.pool.hook.clear();
    assert_eq!(b.pool.versions().get(PageId(0)), version_tag(lsn));
    b.pool.flush_all(WriteReason::Asked).unwrap();
    assert_eq!(b.pool.versions().get(PageId(0)), version_tag(*newer.lock()));
}

/// Random histories over a pool too small for them: after each, every page is damaged or put back in turn and read again.
#[test]
fn rebuilt_pages_are_what_they_were() {
    for seed in 0..8 {
        let events: Arc<Mutex<Vec<(PageId, Lsn)>>> = Arc::default();
        let seen = events.clone();
        let trace = Trace::new(Arc::new(move |e: &Event<'_>| {
            if let Event::PageRepaired { page, page_lsn, .. } = e {
                seen.lock().push((*page, *page_lsn));
            }
        }));
        let b = Bench::traced(options(), trace);
        b.pool.grow_to(100).unwrap();
        (0..100).for_each(|p| b.init(p));
        let mut rng = Rng(seed);
        let mut control = Control::default();
        let mut older = Vec::new();
        for n in 0..600 {
            let p = rng.below(100);
            match rng.below(12) {
                0 => {
                    b.pool.free_page(p);
                    b.pool.init(p);
                }
                1 => b
                    .pool
                    .update(p, PUT, &put(200 + rng.below(3000) as u16, &[n as u8; 200]))
                    .map(drop)
                    .unwrap(),
                2 if n % 5 == 0 => control = b.checkpoint(&control),
                _ => drop(b.pool.bump(p)),
            }
            if n == 300 {
                b.pool.flush_all(WriteReason::Asked).unwrap();
                older = (0..100).map(|p| page_of(&b, p)).collect();
            }
        }
        b.pool.flush_all(WriteReason::Asked).unwrap();
        let right: Vec<Vec<u8>> = (0..100).map(|p| comparable(&page_of(&b, p))).collect();
        for p in 0..100u64 {
            let bad = if rng.below(2) == 0 { vec![9; SIZE] } else { older[p as usize].clone() };
            let same = bad == page_of(&b, p);
            set_page(&b, p, &bad);
            b.pool.forget(PageId(p));
            let got = comparable(&b.pool.shared(PageId(p)).unwrap());
            assert!(got == right[p as usize], "seed {seed} page {p}");
            assert_eq!(events.lock().iter().any(|(q, _)| q.0 == p), !same, "seed {seed} page {p}");
        }
        b.pool.flush_all(WriteReason::Asked).unwrap();
        b.pool.check_at_rest();
        assert_eq!(b.pool.log().stats().reserved_bytes, 0);
        recover(&b.crash(CrashModel::LoseUnsynced), &control);
    }
}

/// Redo reads a page that is damaged, or older than the log goes on from, whose image lies below the redo point.
#[test]
fn redo_looks_further_back() {
    let mut plain = options();
    plain.images = false;
    for stale in [false, true] {
        let b = Bench::with(plain.clone());
        b.pool.grow_to(3).unwrap();
        (0..3).for_each(|p| b.init(p));
        b.pool.flush_all(WriteReason::Asked).unwrap();
        let old = page_of(&b, 1);
        b.pool.bump(1);
        b.pool.flush_all(WriteReason::Asked).unwrap();
        let control = b.checkpoint(&Control::default());
        let last = b.pool.bump(1);
        b.pool.log().force(b.pool.log().tail(), hamal_trace::ForceReason::Asked).unwrap();
        let disk = b.crash(CrashModel::KeepAll);
        let bad = if stale { old } else { vec![3; SIZE] };
        disk.open("data", OpenMode::default()).unwrap().write_at(SIZE as u64, &bad).unwrap();
        let b = reopened(&disk);
        b.pool.begin_redo(control.redo);
        let mut page = b.pool.redo_page(PageId(1), true).unwrap();
        if stale {
            assert!(page.page_lsn() < last);
            page.rebuild(last, "the test says so").unwrap();
        }
        assert_eq!((page.page_lsn(), counter(&page)), (last, 2));
        drop(page);
        b.pool.end_redo().unwrap();
        assert_eq!((b.pool.stats().repaired, b.pool.stats().dirty), (1, 0));
    }
}

/// A record that was made on another version than the log leads to: a change is missing, and nothing is made up.
#[test]
fn a_gap_in_the_page_s_records_is_no_repair() {
    let (b, _) = two_versions();
    let payload = add(HEADER_LEN as u16, 1);
    let blocks = [Block { page: PageId(1), former: Lsn(4096), op: ADD, whole: Whole::No, payload: &payload }];
    let (kind, txn, prev) = (RecordKind::Structure, TxnRef::None, Lsn::NULL);
    let spec = RecordSpec { kind, rm: RM, txn, prev, blocks: &blocks, undo: &[] };
    let log = b.pool.log();
    let at = log.append(&spec, &mut log.credit(1000, true).unwrap()).unwrap();
    log.force(at.end, hamal_trace::ForceReason::Asked).unwrap();
    set_page(&b, 1, &[7; 600]);
    b.pool.forget(PageId(1));
    b.pool.versions().set(PageId(1), Lsn::NULL);
    let e = b.pool.shared(PageId(1)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::PageCorrupt);
    assert_eq!(e.cause().and_then(|c| c.lsn()), Some(at.lsn), "{e}");
    assert_eq!(counter(&b.pool.shared(PageId(2)).unwrap()), 1);
}
