//! Insertion slots: who still copies into the ring, and from which LSN on.
//!
//! An appender puts a lower bound of its LSN into a slot *before* it reserves, and frees the slot after its
//! bytes are in the ring. The leader reserves its seal and *then* waits until no slot is below the seal.
//!
//! Why that is enough (invariant LOG-5): all reservations are read-modify-writes of one atomic, the tail. If
//! an appender's came before the seal's, its slot was stored before (sequenced before its reservation, which
//! the seal's reservation synchronises with), so the leader's scan finds the slot still taken, with a bound
//! below the seal, or finds a later value of it. A later value is, or follows by read-modify-writes, the
//! release store that freed the slot, and the leader's acquire load makes the copied bytes visible. An
//! appender that reserves after the seal may be waited for without need, if its bound is old; it does not
//! wait for anything, so that ends.
use crossbeam_utils::CachePadded;
use hamal_sync::aside;
use hamal_sync::atomic::{AtomicU64, Ordering};
use std::cell::Cell;

/// More threads than this may append; some of them then wait a moment for a slot.
const SLOTS: usize = if cfg!(feature = "checked") { 3 } else { 64 };
const IDLE: u64 = u64::MAX;

#[derive(Debug)]
struct Slot {
    at: AtomicU64,
    // Counters live here because the holder of the slot has the cache line anyway; only it writes them.
    records: aside::AtomicU64,
    bytes: aside::AtomicU64,
}

/// The slots of one log.
#[derive(Debug)]
pub(crate) struct Slots(Box<[CachePadded<Slot>]>);

hamal_sync::thread_local! {
    static PREFERRED: Cell<usize> = {
        static NEXT: aside::AtomicUsize = aside::AtomicUsize::new(0);
        // Under a model checker all begin at the first: one seed must be one history.
        Cell::new(if cfg!(feature = "checked") { 0 } else { NEXT.fetch_add(1, Ordering::Relaxed) })
    };
}

/// A taken slot; dropping it frees it.
#[derive(Debug)]
pub(crate) struct Taken<'a>(&'a Slot);

impl Slots {
    pub(crate) fn new() -> Slots {
        let slot = || Slot {
            at: AtomicU64::new(IDLE),
            records: aside::AtomicU64::new(0),
            bytes: aside::AtomicU64::new(0),
        };
        Slots((0..SLOTS).map(|_| CachePadded::new(slot())).collect())
    }

    /// Takes a slot with the present tail as lower bound.
    #[inline]
    pub(crate) fn take(&self, tail: &AtomicU64) -> Taken<'_> {
        let preferred = PREFERRED.with(Cell::get);
        loop {
            for i in 0..SLOTS {
                let index = (preferred.wrapping_add(i)) % SLOTS;
                let slot = &*self.0[index];
                if slot.at.load(Ordering::Relaxed) == IDLE {
                    let bound = tail.load(Ordering::SeqCst);
                    if slot.at.compare_exchange(IDLE, bound, Ordering::SeqCst, Ordering::Relaxed).is_ok() {
                        if i != 0 {
                            PREFERRED.with(|p| p.set(index));
                        }
                        return Taken(slot);
                    }
                }
            }
            hamal_sync::thread::yield_now();
        }
    }

    /// Waits until everything reserved below `limit` is in the ring. The caller must not hold a slot.
    pub(crate) fn wait_below(&self, limit: u64) {
        for slot in &self.0 {
            let mut tries = 0u32;
            while slot.at.load(Ordering::SeqCst) < limit {
                tries += 1;
                if tries < 64 {
                    hamal_sync::hint::spin_loop();
                } else {
                    // The appender may have been descheduled in the middle of its copy.
                    hamal_sync::thread::yield_now();
                }
            }
        }
    }

    /// Records and bytes appended.
    pub(crate) fn counts(&self) -> (u64, u64) {
        self.0.iter().fold((0, 0), |(r, b), s| {
            (r + s.records.load(Ordering::Relaxed), b + s.bytes.load(Ordering::Relaxed))
        })
    }
}

impl Taken<'_> {
    /// Counts a record.
    pub(crate) fn count(&self, bytes: u64) {
        self.0.records.store(self.0.records.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        self.0.bytes.store(self.0.bytes.load(Ordering::Relaxed) + bytes, Ordering::Relaxed);
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.at.store(IDLE, Ordering::SeqCst);
    }
}
