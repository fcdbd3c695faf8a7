//! The hybrid latch: shared, exclusive and optimistic.
//!
//! # The word
//! Bit 63: held exclusively. Bits 52..=62: shared holders. Bits 0..=51: version, raised by one (wrapping) at
//! each release of an exclusive hold. 52 bits wrap after 142 years of a release every microsecond; that an
//! optimistic reader sleeps through exactly one such round is not considered.
//!
//! # Orders (LATCH-2)
//! A reader that takes nothing loads the version (acquire), loads the data (relaxed atomics), passes an
//! acquire fence and loads the version again. A writer takes the latch (acquire), passes a release fence,
//! stores the data (relaxed atomics), and releases. If the reader saw one of the writer's stores, the fences
//! pair, and its second load sees the exclusive bit at least; if it saw the release, its first load acquired
//! all of the writer's stores. So a validated read is of one version. The release *fence* after taking is not
//! idle: without it the stores of the data may become visible before the exclusive bit (on ARM and in the
//! language, though not on x86).
//!
//! # Waiting, and why no wake-up is lost (LATCH-3)
//! `waiting` counts registered readers and writers. A waiter (1) registers, (2) takes a ticket of the event,
//! (3) looks at the word by a *read-modify-write that changes nothing*, (4) sleeps if it cannot have the
//! latch, and goes back to (2). A release is one read-modify-write of the word and then, if the latch may now
//! be of use to others, one load of `waiting`; if somebody is registered it wakes. Both being
//! read-modify-writes of one word, they are ordered:
//! * *release before look*: the look sees the release, unless a third took the latch in between; then that
//!   one's release comes after the look, and the next case applies to it;
//! * *look before release*: the release reads from the look (acquire and release on both sides), so its load
//!   of `waiting` sees the registration, and it raises the event after the ticket was taken.
//!
//! A new reader also waits while writers are *registered*, though the word would let it in. The writer that
//! it saw still has to take the latch: had that writer released before the reader's look, the look would have
//! acquired its withdrawal too. So that writer's release comes after the look, and wakes the reader.
//!
//! A release wakes one writer at most. It stays registered until it has the latch; if another is faster, that
//! one's release wakes again. Hence while the latch is free and a writer is registered, at least one
//! registered writer is on its way to look.
//!
//! # Nobody starves
//! New readers wait behind registered writers; a reader that was roused once does not any more, and a release
//! of an exclusive hold rouses all readers. So both make progress; order of arrival is not kept.

use crate::event::{Event, Who};
use crate::sync::{AtomicU32, AtomicU64, Ordering, fence, spin_loop};

const EXCLUSIVE: u64 = 1 << 63;
const ONE_SHARED: u64 = 1 << 52;
const SHARED: u64 = EXCLUSIVE - ONE_SHARED;
const VERSION: u64 = ONE_SHARED - 1;

/// In `waiting`: readers below, writers above.
const ONE_READER: u32 = 1;
const ONE_WRITER: u32 = 1 << 16;
const READERS: u32 = ONE_WRITER - 1;

/// Looks before a waiter registers: a latch is held for less than a microsecond as a rule.
const SPINS: u32 = if cfg!(loom) || cfg!(feature = "checked") { 1 } else { 100 };

/// A hybrid latch: many shared holders or one exclusive holder; a version that every exclusive section raises
/// lets a reader that took nothing check that nothing changed.
///
/// A thread must not take a latch that it holds, not even shared twice: a writer waiting in between would
/// stop both. At most 2047 threads hold it shared at once (more wait); at most 65535 threads may wait.
#[derive(Debug)]
pub struct Latch {
    word: AtomicU64,
    waiting: AtomicU32,
    event: Event,
}

impl Default for Latch {
    fn default() -> Self {
        Latch::new()
    }
}

impl Latch {
    /// A free latch.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Latch { word: AtomicU64::new(0), waiting: AtomicU32::new(0), event: Event::new() }
    }

    /// A free latch. (The model checker's atomics cannot be made at compile time.)
    #[cfg(loom)]
    pub fn new() -> Self {
        Latch { word: AtomicU64::new(0), waiting: AtomicU32::new(0), event: Event::new() }
    }

    /// Waits until the latch is held shared.
    pub fn lock_shared(&self) {
        for _ in 0..SPINS {
            if self.try_lock_shared() {
                return;
            }
            spin_loop();
        }
        self.wait_shared();
    }

    /// Takes the latch shared if that needs no wait. Fails also while writers wait for it.
    pub fn try_lock_shared(&self) -> bool {
        // A hint: a writer overlooked here is only overtaken once.
        self.waiting.load(Ordering::Relaxed) < ONE_WRITER && self.share(self.word.load(Ordering::Relaxed))
    }

    /// Takes the latch shared, from a word seen as `seen`, unless it is held exclusively (or by too many).
    fn share(&self, mut seen: u64) -> bool {
        while seen & EXCLUSIVE == 0 && seen & SHARED != SHARED {
            match self.word.compare_exchange_weak(
                seen,
                seen + ONE_SHARED,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    /// As [`Latch::lock_shared`], but gives up (`false`) once `wanted` says no. Who changes what `wanted` looks
    /// at calls [`Latch::rouse`] afterwards.
    pub fn lock_shared_while(&self, wanted: impl Fn() -> bool) -> bool {
        for _ in 0..SPINS {
            if self.try_lock_shared() {
                return true;
            }
            spin_loop();
        }
        self.wait_shared_while(wanted)
    }

    /// As [`Latch::lock_exclusive`], but gives up (`false`) once `wanted` says no; see
    /// [`Latch::lock_shared_while`].
    pub fn lock_exclusive_while(&self, wanted: impl Fn() -> bool) -> bool {
        for _ in 0..SPINS {
            if self.try_lock_exclusive() {
                return true;
            }
            spin_loop();
        }
        self.wait_exclusive_while(wanted)
    }

    /// Has every waiter look again at what it waits for.
    pub fn rouse(&self) {
        // With the fence of a waiter: either it is seen here, or it sees what was changed before.
        fence(Ordering::SeqCst);
        if self.waiting.load(Ordering::Relaxed) != 0 {
            self.event.wake(Who::Readers, u32::MAX);
            self.event.wake(Who::Writers, u32::MAX);
        }
    }

    fn wait_shared(&self) {
        let taken = self.wait_shared_while(|| true);
        debug_assert!(taken);
    }

    #[cold]
    fn wait_shared_while(&self, wanted: impl Fn() -> bool) -> bool {
        self.waiting.fetch_add(ONE_READER, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        let mut polite = true;
        let taken = loop {
            let ticket = self.event.ticket();
            let seen = self.look();
            let behind = polite && self.waiting.load(Ordering::Relaxed) >= ONE_WRITER;
            if !behind && self.share_or_look_again(seen) {
                break true;
            }
            if !wanted() {
                break false;
            }
            self.event.wait(ticket, Who::Readers);
            polite = false;
        };
        self.waiting.fetch_sub(ONE_READER, Ordering::AcqRel);
        taken
    }

    /// The look of a waiter: a read-modify-write, so that it has its place among the releases.
    fn look(&self) -> u64 {
        self.word.fetch_or(0, Ordering::AcqRel)
    }

    /// As [`Latch::share`], but a failure was seen by a look. (A failed exchange only reads, and a release
    /// ordered after what it read need not see our registration.)
    fn share_or_look_again(&self, mut seen: u64) -> bool {
        while seen & EXCLUSIVE == 0 && seen & SHARED != SHARED {
            if self.share(seen) {
                return true;
            }
            seen = self.look();
        }
        false
    }

    /// Gives a shared hold back.
    pub fn unlock_shared(&self) {
        // Release: our reads come before the next writer's stores. Acquire: see LATCH-3.
        let before = self.word.fetch_sub(ONE_SHARED, Ordering::AcqRel);
        debug_assert!(before & SHARED != 0 && before & EXCLUSIVE == 0, "a shared hold that nobody had");
        let holders = before & SHARED;
        if holders == ONE_SHARED && self.waiting.load(Ordering::Relaxed) >= ONE_WRITER {
            self.event.wake(Who::Writers, 1);
        }
        if holders == SHARED && self.waiting.load(Ordering::Relaxed) & READERS != 0 {
            // The count was full: the only other reason for which readers wait.
            self.event.wake(Who::Readers, u32::MAX);
        }
    }

    /// Waits until the latch is held exclusively.
    pub fn lock_exclusive(&self) {
        for _ in 0..SPINS {
            if self.try_lock_exclusive() {
                return;
            }
            spin_loop();
        }
        self.wait_exclusive();
    }

    /// Takes the latch exclusively if that needs no wait.
    pub fn try_lock_exclusive(&self) -> bool {
        self.exclude(self.word.load(Ordering::Relaxed))
    }

    /// Takes the latch exclusively if nobody holds it and nobody has held it exclusively since it had this version.
    pub fn try_lock_exclusive_at(&self, version: u64) -> bool {
        let free =
            self.word.compare_exchange(version, version | EXCLUSIVE, Ordering::Acquire, Ordering::Relaxed);
        if free.is_ok() {
            // LATCH-2, as in `exclude`.
            fence(Ordering::Release);
        }
        free.is_ok()
    }

    /// The version that the latch will have when the exclusive hold is given back. For the holder.
    pub fn version_to_come(&self) -> u64 {
        self.word.load(Ordering::Relaxed).wrapping_add(1) & VERSION
    }

    fn exclude(&self, mut seen: u64) -> bool {
        while seen & (EXCLUSIVE | SHARED) == 0 {
            match self.word.compare_exchange_weak(
                seen,
                seen | EXCLUSIVE,
                Ordering::Acquire,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    // LATCH-2: no store of the section becomes visible before the exclusive bit.
                    fence(Ordering::Release);
                    return true;
                }
                Err(now) => seen = now,
            }
        }
        false
    }

    fn wait_exclusive(&self) {
        let taken = self.wait_exclusive_while(|| true);
        debug_assert!(taken);
    }

    #[cold]
    fn wait_exclusive_while(&self, wanted: impl Fn() -> bool) -> bool {
        self.waiting.fetch_add(ONE_WRITER, Ordering::AcqRel);
        fence(Ordering::SeqCst);
        let got = loop {
            let ticket = self.event.ticket();
            // A failed exchange is followed by another look, as in `share_or_look_again`.
            let mut seen = self.look();
            let mut taken = false;
            while seen & (EXCLUSIVE | SHARED) == 0 && !taken {
                taken = self.exclude(seen);
                if !taken {
                    seen = self.look();
                }
            }
            if taken {
                break true;
            }
            if !wanted() {
                break false;
            }
            self.event.wait(ticket, Who::Writers);
        };
        // Before the release, so that whoever sees the release sees this too.
        let before = self.waiting.fetch_sub(ONE_WRITER, Ordering::AcqRel);
        if !got && before != ONE_WRITER {
            // It may have taken the wake-up meant for another, and readers may have been polite to it.
            self.event.wake(Who::Readers, u32::MAX);
            self.event.wake(Who::Writers, 1);
        }
        got
    }

    /// Gives the exclusive hold back and raises the version.
    pub fn unlock_exclusive(&self) {
        // Nobody else changes the word now: waiters' looks write back what they read.
        let held = self.word.load(Ordering::Relaxed);
        debug_assert!(held & EXCLUSIVE != 0 && held & SHARED == 0, "an exclusive hold that nobody had");
        // Release: publishes the section's stores. Acquire: see LATCH-3.
        self.word.swap(held.wrapping_add(1) & VERSION, Ordering::AcqRel);
        let waiting = self.waiting.load(Ordering::Relaxed);
        if waiting != 0 {
            self.wake_after_exclusive(waiting);
        }
    }

    #[cold]
    fn wake_after_exclusive(&self, waiting: u32) {
        if waiting & READERS != 0 {
            self.event.wake(Who::Readers, u32::MAX);
        }
        if waiting >= ONE_WRITER {
            self.event.wake(Who::Writers, 1);
        }
    }

    /// The version to validate later, unless the latch is held exclusively.
    pub fn optimistic(&self) -> Option<u64> {
        let word = self.word.load(Ordering::Acquire);
        (word & EXCLUSIVE == 0).then_some(word & VERSION)
    }

    /// Whether nobody has held the latch exclusively since [`Latch::optimistic`] returned `version`.
    ///
    /// What was read in between, by relaxed atomic loads, may be used only if this returns true.
    pub fn validate(&self, version: u64) -> bool {
        // LATCH-2: the loads of the data stay before the second load of the word.
        fence(Ordering::Acquire);
        self.word.load(Ordering::Relaxed) & (EXCLUSIVE | VERSION) == version
    }
}
