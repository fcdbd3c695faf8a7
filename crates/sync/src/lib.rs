//! Locks, atomics, threads and clocks as the engine uses them.
//!
//! The crates that share memory between threads take these from here and from nowhere else. Here they are those of `parking_lot`
//! and of the standard library, under their own names, and cost nothing. The packages below `tests/model/` compile the same
//! sources of the engine a second time, with a package of the same face in the place of this one that leaves every
//! choice of who runs next to a model checker (`docs/model-checking.md`).
#![deny(missing_docs)]
#![forbid(unsafe_code)]

pub use parking_lot::{
    Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, WaitTimeoutResult,
};
pub use std::thread_local;

/// Atomic numbers and fences.
pub mod atomic {
    pub use std::sync::atomic::{
        AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
    };
}

/// Atomic numbers that decide nothing that other threads rely on: counters of statistics, hints, names. A model checker does
/// not look at them.
pub mod aside {
    pub use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize};
}

/// What a loop that waits says to the processor.
pub mod hint {
    pub use std::hint::spin_loop;
}

/// Threads.
pub mod thread {
    pub use std::thread::{
        Builder, JoinHandle, Thread, ThreadId, current, panicking, park, sleep, yield_now,
    };
}

/// Time that passes.
pub mod time {
    pub use std::time::{Duration, Instant};
}
