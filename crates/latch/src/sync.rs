//! The facade over atomics, mutex and condition variable that lets a model checker stand in: loom with `--cfg loom`, and shuttle
//! below `hamal_sync` (`docs/model-checking.md`).

#[cfg(not(loom))]
pub(crate) use hamal_sync::{
    atomic::{AtomicU32, AtomicU64, Ordering, fence},
    hint::spin_loop,
};
#[cfg(loom)]
pub(crate) use loom::{
    hint::spin_loop,
    sync::atomic::{AtomicU32, AtomicU64, Ordering, fence},
};
