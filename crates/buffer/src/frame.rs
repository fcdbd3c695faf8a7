//! The descriptor of a frame: which page it holds and what rule W has to know about that page.
//!
//! Who may write a field, and under what:
//!
//! | field | written by | under |
//! |---|---|---|
//! | `page`, `dead` | whoever binds, frees or unbinds | exclusive latch |
//! | `rec`, `next` | changers (set), the cleaner (step W-5; and W-2 clears `next`) | exclusive latch (W-2: shared) |
//! | `flight` | the cleaner alone (there is one: `BUF-CLEANER`) | set in W-1 under no latch, cleared in W-5 or on a skip |
//! | `in_flight` | the cleaner alone | set in W-2 (shared latch), cleared in W-5 (exclusive latch) |
//! | `img` | changers (initialise, free), the cleaner in W-2, the loader | exclusive latch; W-2: shared, and there is one cleaner |
//! | `owed` | changers, the cleaner | atomic arithmetic, any |
//! | `pins` | raised under a latch of either mode, lowered under none | |
//! | `used`, `note` | anybody | none: hints |
//!
//! Because every field but `flight` changes under the latch, and changers need it exclusively, holders of either mode see
//! `rec`, `next`, `in_flight` and `dead` at rest (the cleaner apart). The atomics are there for those who look without
//! the latch: the clock, the choice of candidates, and the first glance of the checkpoint's scan, all of which look again
//! under the latch before they act (`checkpoint.rs` says why its glance misses nothing).
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::{Lsn, PageId};
use hamal_sync::aside;
use hamal_sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::*};

const NO_PAGE: u64 = u64::MAX;

/// Just read, not used yet: the first use does not count as a second one.
const FRESH: u8 = 2;

/// The descriptor. The fields that a reader needs come first: they share a cache line with the latch.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Frame {
    page: AtomicU64,
    note: aside::AtomicU64,
    used: aside::AtomicU8,
    dead: AtomicBool,
    in_flight: AtomicBool,
    pins: AtomicU32,
    rec: AtomicU64,
    next: AtomicU64,
    flight: AtomicU64,
    img: AtomicU64,
    owed: AtomicU32,
}

/// Which mark [`Frame::mark`] set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// None: the page was dirty already.
    None,
    /// `rec`: the page was clean.
    Rec,
    /// `rec_next`: the page is being written and this is its first change since the copy.
    Next,
}

impl Frame {
    pub(crate) fn new() -> Frame {
        Frame {
            page: AtomicU64::new(NO_PAGE),
            rec: AtomicU64::new(0),
            next: AtomicU64::new(0),
            flight: AtomicU64::new(0),
            img: AtomicU64::new(0),
            note: aside::AtomicU64::new(0),
            owed: AtomicU32::new(0),
            pins: AtomicU32::new(0),
            in_flight: AtomicBool::new(false),
            dead: AtomicBool::new(false),
            used: aside::AtomicU8::new(0),
        }
    }

    /// The page that the frame is bound to.
    pub(crate) fn page(&self) -> Option<PageId> {
        let p = self.page.load(Acquire);
        (p != NO_PAGE).then_some(PageId(p))
    }
    pub(crate) fn holds(&self, id: PageId) -> bool {
        self.page.load(Acquire) == id.0
    }
    /// Binds the frame to a page, clean. Exclusive latch.
    pub(crate) fn bind(&self, id: PageId, img: Lsn) {
        self.rec.store(0, Release);
        self.next.store(0, Release);
        self.img.store(img.0, Release);
        self.dead.store(false, Release);
        self.used.store(FRESH, Relaxed);
        self.page.store(id.0, Release);
    }
    /// Binds the frame to nothing. Exclusive latch; the page is clean and not in flight.
    pub(crate) fn unbind(&self) {
        self.page.store(NO_PAGE, Release);
        self.dead.store(false, Release);
        self.rec.store(0, Release);
        self.next.store(0, Release);
        self.img.store(0, Release);
    }

    /// Lower bound of the LSN of the first change that the version on disk lacks; 0: none.
    pub(crate) fn rec(&self) -> u64 {
        self.rec.load(SeqCst)
    }
    /// The same for the version that is being written.
    pub(crate) fn next(&self) -> u64 {
        self.next.load(SeqCst)
    }
    /// The mark of a write in progress: at or below the LSN of an image that covers it; 0: none.
    pub(crate) fn flight(&self) -> u64 {
        self.flight.load(SeqCst)
    }
    pub(crate) fn set_flight(&self, lsn: u64) {
        self.flight.store(lsn, SeqCst);
    }
    /// LSN of the newest whole-page record of the page; 0: not known.
    pub(crate) fn img(&self) -> Lsn {
        Lsn(self.img.load(Acquire))
    }
    pub(crate) fn set_img(&self, lsn: Lsn) {
        self.img.store(lsn.0, Release);
    }
    /// Whether the disk lacks a change.
    pub(crate) fn is_dirty(&self) -> bool {
        self.rec() != 0 || self.next() != 0
    }
    /// Whether a copy of the page has been taken and its write has not ended.
    pub(crate) fn in_flight(&self) -> bool {
        self.in_flight.load(Acquire)
    }
    pub(crate) fn dead(&self) -> bool {
        self.dead.load(Acquire)
    }
    pub(crate) fn set_dead(&self, dead: bool) {
        self.dead.store(dead, Release);
    }

    /// Notes that the page is about to change, with a lower bound of the LSN that the change will get. Exclusive latch;
    /// before the LSN is reserved.
    pub(crate) fn mark(&self, tail: Lsn) -> Mark {
        let (field, mark) = if self.in_flight() { (&self.next, Mark::Next) } else { (&self.rec, Mark::Rec) };
        if field.load(Relaxed) != 0 {
            return Mark::None;
        }
        field.store(tail.0, SeqCst);
        mark
    }
    /// Sets a mark anew, too late (a planted bug).
    pub(crate) fn move_mark(&self, mark: Mark, tail: Lsn) {
        self.unmark(mark);
        self.mark(tail);
    }
    /// Takes a mark back: nothing was changed after all. Exclusive latch, held since the mark was set.
    pub(crate) fn unmark(&self, mark: Mark) {
        match mark {
            Mark::None => {}
            Mark::Rec => self.rec.store(0, SeqCst),
            Mark::Next => self.next.store(0, SeqCst),
        }
    }
    /// Sets recLSN as found by redo, or lowers it. Exclusive latch.
    pub(crate) fn mark_rec(&self, rec: Lsn) {
        let old = self.rec();
        if old == 0 || rec.0 < old {
            self.rec.store(rec.0, SeqCst);
        }
    }
    /// Nothing of the page matters any more. Exclusive latch.
    pub(crate) fn unmark_all(&self) {
        self.rec.store(0, SeqCst);
        self.next.store(0, SeqCst);
    }
    /// W-2: the copy is taken. Latch held in either mode, by the cleaner.
    pub(crate) fn start_flight(&self) {
        self.next.store(0, SeqCst);
        self.in_flight.store(true, Release);
    }
    /// W-5: the write has ended. Exclusive latch. `rec` is stored before `next` is cleared, so that who looks without
    /// the latch, at `next` first, cannot find both empty while a change is unwritten.
    pub(crate) fn end_flight(&self) {
        self.rec.store(self.next() * u64::from(!mutants::is(Mutant::FlightClearsAll)), SeqCst);
        self.next.store(0, SeqCst);
        self.in_flight.store(false, Release);
        self.flight.store(0, SeqCst);
    }
    /// The write did not happen: everything is as dirty as before. Exclusive latch.
    pub(crate) fn cancel_flight(&self) {
        if self.rec() == 0 {
            self.rec.store(self.next(), SeqCst);
        }
        self.next.store(0, SeqCst);
        self.in_flight.store(false, Release);
        self.flight.store(0, SeqCst);
    }

    /// Adds an image reserve.
    pub(crate) fn owe(&self) {
        self.owed.fetch_add(1, AcqRel);
    }
    /// Whether it has more marks than image reserves.
    pub(crate) fn lacks_image(&self) -> bool {
        let want = u32::from(self.rec() != 0) + u32::from(self.next() != 0);
        self.owed.load(Acquire) < want
    }
    /// Takes one image reserve out, if there is one.
    pub(crate) fn take_owed(&self) -> bool {
        self.owed.fetch_update(AcqRel, Acquire, |n| n.checked_sub(1)).is_ok()
    }
    /// Takes out the reserves that the marks no longer justify; how many. Exclusive latch.
    pub(crate) fn settle(&self) -> u64 {
        let want = u32::from(self.rec() != 0) + u32::from(self.next() != 0);
        let have = self.owed.fetch_update(AcqRel, Acquire, |n| Some(n.min(want))).unwrap_or(0);
        u64::from(have.saturating_sub(want))
    }

    /// Keeps the page in memory. A latch of either mode is held: eviction needs the exclusive one.
    pub(crate) fn pin(&self) {
        self.pins.fetch_add(1, AcqRel);
    }
    pub(crate) fn unpin(&self) {
        self.pins.fetch_sub(1, AcqRel);
    }
    pub(crate) fn pinned(&self) -> bool {
        self.pins.load(Acquire) != 0
    }

    /// Notes a use for the clock. The first use after a read only ends the page's freshness: a scan, which uses each page
    /// once, leaves pages as cold as it brought them.
    #[inline]
    pub(crate) fn touch(&self) {
        match self.used.load(Relaxed) {
            FRESH => self.used.store(0, Relaxed),
            0 => self.used.store(1, Relaxed),
            _ => {}
        }
    }
    /// The clock passes: whether the page has been used since it passed last.
    pub(crate) fn cool(&self) -> bool {
        let used = self.used.load(Relaxed) == 1;
        if used {
            self.used.store(0, Relaxed);
        }
        used
    }
    /// A number that whoever reads the frame's pages keeps here; a hint, and zero at first.
    pub(crate) fn note(&self) -> u64 {
        self.note.load(Relaxed)
    }
    pub(crate) fn set_note(&self, note: u64) {
        self.note.store(note, Relaxed);
    }
    /// Whether the frame could be given to another page, as far as can be seen without the latch.
    pub(crate) fn evictable(&self) -> bool {
        !self.is_dirty() && !self.in_flight() && !self.pinned() && self.page().is_some()
    }
}
