//! The face of `hamal-sync` over shuttle: every lock, atomic and park of the engine is a point at which the checker decides who
//! goes on. Names and meanings are those of `hamal-sync`; `docs/model-checking.md` says how the two are exchanged.
//!
//! What differs:
//! * Atomics are sequentially consistent whatever order is asked for: weak memory is for loom.
//! * Time stands still, except in waits with a time-out: see [`time::passes`].
//! * Locks know no poison, as those of `parking_lot`.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod lock;

pub use lock::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, WaitTimeoutResult};
pub use shuttle::thread_local;

/// Atomic numbers and fences.
pub mod atomic {
    pub use shuttle::sync::atomic::{
        AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
    };
}

/// Atomic numbers at which nobody else gets a turn.
pub mod aside {
    pub use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize};
}

/// What a loop that waits says: others should run.
pub mod hint {
    pub use shuttle::thread::yield_now as spin_loop;
}

mod threads;

/// Threads.
pub mod thread {
    pub use crate::threads::{Builder, JoinHandle, sleep};
    pub use shuttle::thread::{Thread, ThreadId, current, panicking, park, spawn, yield_now};
}

/// A clock that only waits with a time-out move.
pub mod time {
    use std::cell::Cell;
    use std::ops::Add;
    pub use std::time::Duration;

    // Of the thread of the operating system, which runs all threads of an execution.
    std::thread_local! {
        static NOW: Cell<u64> = const { Cell::new(0) };
        static PASSES: Cell<bool> = const { Cell::new(false) };
    }

    /// Whether waits with a time-out may end by it. If not (as at first) they end by a wake-up only, so that one which gets lost
    /// is a deadlock and is reported. If so, each ends after others had a chance to run, and its time is over.
    pub fn passes(yes: bool) {
        PASSES.set(yes);
    }

    /// A wait of that length ends by its time-out: whether that may be.
    pub(crate) fn pass(time: Duration) -> bool {
        let passes = PASSES.get();
        if passes {
            NOW.set(NOW.get() + time.as_nanos() as u64);
        }
        passes
    }

    /// A moment.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub struct Instant(u64);

    impl Instant {
        /// The present one.
        pub fn now() -> Instant {
            Instant(NOW.get())
        }
        /// What has passed since.
        pub fn elapsed(&self) -> Duration {
            Duration::from_nanos(NOW.get() - self.0)
        }
        /// Later by that; none beyond what the clock can tell.
        pub fn checked_add(self, time: Duration) -> Option<Instant> {
            Some(Instant(self.0.checked_add(u64::try_from(time.as_nanos()).ok()?)?))
        }
        pub(crate) fn until(self) -> Duration {
            Duration::from_nanos(self.0.saturating_sub(NOW.get()))
        }
    }

    impl Add<Duration> for Instant {
        type Output = Instant;
        fn add(self, time: Duration) -> Instant {
            Instant(self.0 + time.as_nanos() as u64)
        }
    }
}
