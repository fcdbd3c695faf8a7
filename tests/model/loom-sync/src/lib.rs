//! As much of the face of `hamal-sync` over loom as the pieces need that are checked with weak memory.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

pub use loom::thread_local;

/// Atomic numbers and fences.
pub mod atomic {
    pub use loom::sync::atomic::{
        AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
    };
}

/// Atomic numbers at which nobody else gets a turn.
pub mod aside {
    pub use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize};
}

/// What a loop that waits says: others should run.
pub mod hint {
    pub use loom::hint::spin_loop;
}

/// Threads.
pub mod thread {
    pub use loom::thread::{spawn, yield_now};
}
