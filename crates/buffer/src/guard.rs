//! Latched pages as they are handed out, and pins.
use crate::Pool;
use crate::frame::{Frame, Mark};
use crate::region::{ReadGuard, WriteGuard};
use hamal_error::Error;
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::PageId;
use hamal_sync::thread::ThreadId;
use std::fmt;
use std::ops::Deref;

/// A page under a shared latch: its bytes.
pub struct SharedPage<'p> {
    pub(crate) guard: ReadGuard<'p, Frame>,
    pub(crate) id: PageId,
}

/// What a look at a page that took nothing saw: the frame, and the version of its latch. While that version stands
/// ([`Pool::still`]) the page is in that frame and its bytes do not change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    pub(crate) frame: u32,
    pub(crate) version: u64,
    pub(crate) note: u64,
}

impl Glance {
    /// The frame: a hint for looks to come.
    pub fn frame(&self) -> u32 {
        self.frame
    }
    /// The version: with the frame it names the bytes of the page.
    pub fn version(&self) -> u64 {
        self.version
    }
    /// The number that was left at the frame last; zero if none was.
    pub fn note(&self) -> u64 {
        self.note
    }
}

impl SharedPage<'_> {
    /// The page's id.
    pub fn id(&self) -> PageId {
        self.id
    }
    /// The glance that others have of this page while it is held.
    pub fn glance(&self) -> Option<Glance> {
        let frame = self.guard.frame();
        self.guard.version().map(|version| Glance { frame, version, note: self.guard.desc().note() })
    }
}

impl Deref for SharedPage<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.guard
    }
}

impl fmt::Debug for SharedPage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedPage").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A page under the exclusive latch. Its bytes can be read; they change only through [`Pool::change`].
pub struct ExclusivePage<'p> {
    pub(crate) pool: &'p Pool,
    pub(crate) guard: WriteGuard<'p, Frame>,
    pub(crate) id: PageId,
    /// From [`Pool::create`], and not initialised yet.
    pub(crate) fresh: bool,
    /// From [`Pool::create`]. After the guard: it is dropped later.
    #[allow(dead_code, reason = "it is there to be dropped")]
    pub(crate) made: Option<Made<'p>>,
    /// Whether the thread was panicking when it took the latch.
    pub(crate) unwinding: bool,
    /// [`Pool::change`] is at work on it: the page may be half changed, or be behind the log.
    pub(crate) changing: bool,
    /// The mark that the change at work has set, and whether an image's reserve moved with it.
    pub(crate) marked: (Mark, bool),
}

/// A page as its exclusive latch was given back: where it was, and the version that it then had. As long as that version stands,
/// the page is there and as it was (`BUF-GLANCE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastSeen {
    pub(crate) page: PageId,
    pub(crate) frame: u32,
    pub(crate) version: u64,
}

impl LastSeen {
    /// The page.
    pub fn page(&self) -> PageId {
        self.page
    }
}

/// Notes that a page is being made by this thread, as long as it is there.
pub(crate) struct Made<'p>(&'p Pool, (PageId, ThreadId));

impl<'p> Made<'p> {
    pub(crate) fn new(pool: &'p Pool, id: PageId) -> Made<'p> {
        let own = (id, hamal_sync::thread::current().id());
        pool.made.lock().push(own);
        Made(pool, own)
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        let mut made = self.0.made.lock();
        if let Some(i) = made.iter().position(|m| *m == self.1) {
            made.swap_remove(i);
        }
    }
}

impl ExclusivePage<'_> {
    /// The page's id.
    pub fn id(&self) -> PageId {
        self.id
    }
    /// What this hold of the latch will leave behind: see [`Pool::try_exclusive_again`].
    pub fn last_seen(&self) -> LastSeen {
        LastSeen { page: self.id, frame: self.guard.frame(), version: self.guard.version_to_come() }
    }
}

impl Deref for ExclusivePage<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.guard
    }
}

impl Drop for ExclusivePage<'_> {
    fn drop(&mut self) {
        // The latch is given back after this, when `guard` is dropped.
        // A guard that was taken while the thread unwound already, by the rollback of a transaction on its stack, is whole,
        // unless that rollback panics too, in the middle of a change.
        if hamal_sync::thread::panicking() && (!self.unwinding || self.changing) {
            // The page may be half changed: nobody may read or write it any more (BUF-POISON).
            let e = Error::internal("a thread panicked while it held a page's exclusive latch")
                .with_page(self.id);
            self.pool.log.poison(e);
            return;
        }
        let f = self.guard.desc();
        let in_flight = f.in_flight() && !mutants::is(Mutant::FreedInFlightLeaves);
        if (f.dead() || self.fresh) && !f.is_dirty() && !in_flight && !f.pinned() {
            self.pool.unbind(&self.guard);
        }
    }
}

impl fmt::Debug for ExclusivePage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExclusivePage")
            .field("id", &self.id)
            .field("fresh", &self.fresh)
            .finish_non_exhaustive()
    }
}

/// Keeps a page in memory; holds no latch.
pub struct Pin<'p> {
    pub(crate) pool: &'p Pool,
    pub(crate) frame: u32,
    pub(crate) id: PageId,
}

impl Pin<'_> {
    /// The page's id.
    pub fn id(&self) -> PageId {
        self.id
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        self.pool.region.desc(self.frame).unpin();
    }
}

impl fmt::Debug for Pin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pin").field("id", &self.id).finish_non_exhaustive()
    }
}
