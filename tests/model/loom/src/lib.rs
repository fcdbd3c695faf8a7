//! Small pieces of the log and the pool, as scenarios for loom: what two threads do, and what must hold. `tests/pieces.rs`
//! explores them. The files of the engine are compiled here as they are, with loom's atomics in the place of the standard library's.
//!
//! `docs/model-checking.md` says which pieces, and how deep.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "parts of whole files are used, by tests only")]

#[path = "../../../../crates/buffer/src/frame.rs"]
mod frame;
#[path = "../../../../crates/log/src/slots.rs"]
mod slots;
#[path = "../../../../crates/buffer/src/translate.rs"]
mod translate;

use frame::Frame;
use hamal_page::{Lsn, PageId};
use hamal_sync::atomic::{AtomicU64, Ordering::*, fence};
use hamal_sync::thread::spawn;
use slots::Slots;
use std::sync::Arc;
use translate::{Entry, Translation};

// ---- the log's ring: reserve, copy, publish (LOG-5) ----

/// A word of the ring for the appender; the leader reserves its seal, waits, and reads. Lines of `Log::append_with` and
/// `Log::lead`. `frees_early`: the slot is freed before the copy; `waits`: the leader waits.
pub fn group(frees_early: bool, waits: bool) {
    let ring = Arc::new((Slots::new(), AtomicU64::new(0), AtomicU64::new(0)));
    let other = ring.clone();
    let appender = spawn(move || {
        let (slots, tail, word) = &*other;
        let slot = slots.take(tail);
        let at = tail.fetch_add(1, SeqCst);
        let copy = || {
            // What is reserved behind the seal belongs to the next group.
            if at == 0 {
                word.store(1, Relaxed);
            }
        };
        if frees_early {
            drop(slot);
            copy();
        } else {
            copy();
            drop(slot);
        }
    });
    let (slots, tail, word) = &*ring;
    let end = tail.fetch_add(10, SeqCst);
    if waits {
        slots.wait_below(end);
    }
    assert!(end == 0 || word.load(Relaxed) == 1, "read before it was written");
    appender.join().unwrap();
}

// ---- translation (BUF-XLAT) ----

/// Two threads read one page at once: one frame is bound. Who finds it sees what its reader stored before.
pub fn translation(claims: bool) {
    let t = Arc::new(Translation::new());
    let content = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let id = PageId(3);
    // The chunk of words is there: what the standard library's cell publishes, loom does not see.
    t.claim(PageId(4), 9).unwrap();
    let read = move |t: &Translation, content: &[AtomicU64; 2], frame: u32| {
        if !claims || t.claim(id, frame).unwrap() {
            content[frame as usize].store(7, Relaxed);
            t.ready(id, frame);
            return Some(frame);
        }
        if let Entry::Resident(found) = t.get(id) {
            assert_eq!(content[found as usize].load(Relaxed), 7, "a frame is named before it is filled");
        }
        None
    };
    let (u, c) = (t.clone(), content.clone());
    let other = spawn(move || read(&u, &c, 1));
    let mine = read(&t, &content, 0);
    let theirs = other.join().unwrap();
    let bound = match (mine, theirs) {
        (Some(f), None) | (None, Some(f)) => f,
        both => panic!("one page in {both:?}"),
    };
    assert_eq!(t.get(id), Entry::Resident(bound));
}

// ---- the flight mark and B (W-1, W-6), recLSN and the scan (W-8) ----

/// Lines of `Pool::mark_flight`, `Pool::publish_checkpoint` and `Pool::scan_dirty` over the frame's own atomics. A page has an
/// image at LSN 10; B was 5 and becomes 20. Either the writer logs a new image, or the scan sees the mark of the old one.
pub fn flight(again: bool) {
    let frame = Arc::new(Frame::new());
    let begun = Arc::new(AtomicU64::new(5));
    frame.set_img(Lsn(10));
    let (f, b) = (frame.clone(), begun.clone());
    let writer = spawn(move || {
        loop {
            let seen = b.load(SeqCst);
            let covered = f.img().0 >= seen;
            f.set_flight(if covered { 10 } else { 20 });
            fence(SeqCst);
            if !again || b.load(SeqCst) == seen {
                return covered;
            }
        }
    });
    begun.store(20, SeqCst);
    fence(SeqCst);
    let redo = match frame.flight() {
        0 => 20,
        mark => mark.min(20),
    };
    let reuses = writer.join().unwrap();
    assert!(!reuses || redo <= 10, "the write relies on the image at 10 and redo begins at {redo}");
}

/// A change marks the page before it reserves its LSN; a checkpoint reserves B, then scans. Lines of `Pool::mark_pages`,
/// `Log::append_with` and `Pool::scan_dirty`.
pub fn dirty(marks_first: bool) {
    let frame = Arc::new(Frame::new());
    let tail = Arc::new(AtomicU64::new(10));
    let (f, t) = (frame.clone(), tail.clone());
    let changer = spawn(move || {
        let bound = Lsn(t.load(SeqCst));
        if marks_first {
            f.mark(bound);
            fence(SeqCst);
            t.fetch_add(1, SeqCst)
        } else {
            let lsn = t.fetch_add(1, SeqCst);
            f.mark(bound);
            lsn
        }
    });
    let begin = tail.fetch_add(1, SeqCst);
    fence(SeqCst);
    let rec = frame.rec();
    let lsn = changer.join().unwrap();
    let redo = if rec == 0 { begin } else { rec.min(begin) };
    assert!(lsn >= redo, "redo begins at {redo}, behind the change at {lsn}");
}

/// A change during a write marks `next`; the end of the write moves it to `rec`; who looks, looks at `next` first (or, a fault, at
/// `rec`).
pub fn end_of_flight(next_first: bool) {
    let frame = Arc::new(Frame::new());
    frame.start_flight();
    frame.mark(Lsn(8));
    let f = frame.clone();
    let end = spawn(move || f.end_flight());
    let clean = match next_first {
        true => frame.next() == 0 && frame.rec() == 0,
        false => frame.rec() == 0 && frame.next() == 0,
    };
    assert!(!clean, "a change that is not written looks written");
    end.join().unwrap();
    assert_eq!(frame.rec(), 8);
}
