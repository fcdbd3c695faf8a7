//! Tests that need to stand between two steps of the pool.
use crate::Pool;
use hamal_page::PageId;

/// Where a test may step in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A change has read the log's tail and not marked its pages yet; their exclusive latches are held.
    TailRead,
    /// W-1: B has been read, the mark is not set.
    ReadB,
    /// W-1: the mark is set, B has not been read again.
    Marked,
    /// W-2: the copy is taken, the latch still held.
    Copied,
    /// W-2: the latch has been given back.
    Unlatched,
    /// W-3 is done.
    Forced,
    /// W-4 is done.
    Written,
    /// W-5 is done for this page.
    Ended,
    /// A frame with a page beyond the end of a cut has been found, and is not latched.
    Cutting,
}

type Call = dyn Fn(&Pool, Step, PageId) + Send + Sync;

/// What to do at a step.
#[derive(Default)]
pub(crate) struct Hook(parking_lot::Mutex<Option<std::sync::Arc<Call>>>);

impl Hook {
    pub(crate) fn set(&self, call: impl Fn(&Pool, Step, PageId) + Send + Sync + 'static) {
        *self.0.lock() = Some(std::sync::Arc::new(call));
    }
    pub(crate) fn clear(&self) {
        *self.0.lock() = None;
    }
    pub(crate) fn call(&self, pool: &Pool, step: Step, page: PageId) {
        let call = self.0.lock().clone();
        if let Some(call) = call {
            call(pool, step, page);
        }
    }
}

mod basics;
mod bench;
mod concurrent;
mod crash;
mod repair;
mod rule_w;
