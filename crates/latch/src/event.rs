//! Where a thread sleeps until a latch changes: an event count.
//!
//! A waiter takes a *ticket*, looks at the latch once more, and sleeps only while no wake-up was announced
//! since the ticket; a wake-up first raises the count and then rouses sleepers. So a wake-up between look and
//! sleep is not lost: the count then differs from the ticket and the sleep ends at once.
//!
//! On Linux the sleep is a futex on the count, with one bit of its mask for readers and one for writers, so
//! that one writer can be roused without the herd. Elsewhere, and under a model checker (`--cfg loom`, or the feature `checked`), it is a mutex and
//! a condition variable, and every sleeper is roused; sleepers expect to be woken for nothing.
#![cfg_attr(all(target_os = "linux", not(loom), not(feature = "checked")), allow(unsafe_code))]

use crate::sync::{AtomicU32, Ordering};

/// Who sleeps or is to be roused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Readers = 1,
    Writers = 2,
}

#[derive(Debug)]
pub(crate) struct Event {
    count: AtomicU32,
    #[cfg(not(all(target_os = "linux", not(loom), not(feature = "checked"))))]
    room: room::Room,
}

impl Event {
    /// Taken before the last look.
    pub(crate) fn ticket(&self) -> u32 {
        // Acquire: who reads a count raised by `wake` sees the release of the latch that came before it.
        self.count.load(Ordering::Acquire)
    }
}

#[cfg(all(target_os = "linux", not(loom), not(feature = "checked")))]
impl Event {
    pub(crate) const fn new() -> Self {
        Event { count: AtomicU32::new(0) }
    }

    /// Sleeps until roused, unless the count has moved since `ticket`. May return for nothing.
    pub(crate) fn wait(&self, ticket: u32, who: Who) {
        // SAFETY: FUTEX_WAIT_BITSET reads the aligned 32-bit word behind a reference that outlives the call;
        // the timeout is null (none), the second address is not used. Every error (EAGAIN, EINTR) means "look
        // again".
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                self.count.as_ptr(),
                libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG,
                ticket,
                std::ptr::null::<libc::timespec>(),
                std::ptr::null::<u32>(),
                who as u32,
            );
        }
    }

    /// Ends the wait of every ticket taken before, and rouses at most `most` of those that sleep.
    pub(crate) fn wake(&self, who: Who, most: u32) {
        self.count.fetch_add(1, Ordering::Release);
        // SAFETY: FUTEX_WAKE_BITSET uses the address as a key only; the timeout and second address are not
        // used.
        unsafe {
            libc::syscall(
                libc::SYS_futex,
                self.count.as_ptr(),
                libc::FUTEX_WAKE_BITSET | libc::FUTEX_PRIVATE_FLAG,
                most.min(i32::MAX as u32),
                std::ptr::null::<libc::timespec>(),
                std::ptr::null::<u32>(),
                who as u32,
            );
        }
    }
}

#[cfg(not(all(target_os = "linux", not(loom), not(feature = "checked"))))]
mod room {
    #[cfg(not(loom))]
    use hamal_sync::{Condvar, Mutex};
    #[cfg(loom)]
    use loom::sync::{Condvar, Mutex};

    /// Where sleepers sleep: a door to go through, and a bell behind it.
    #[derive(Debug)]
    pub(super) struct Room {
        door: Mutex<()>,
        bell: Condvar,
    }

    #[cfg(not(loom))]
    impl Room {
        pub(super) const fn new() -> Self {
            Room { door: Mutex::new(()), bell: Condvar::new() }
        }
        pub(super) fn sleep_while(&self, still: impl Fn() -> bool) {
            let mut inside = self.door.lock();
            while still() {
                self.bell.wait(&mut inside);
            }
        }
        pub(super) fn rouse(&self) {
            // Through the door once: a waiter that looked before is asleep by now and hears the bell.
            drop(self.door.lock());
            self.bell.notify_all();
        }
    }

    #[cfg(loom)]
    impl Room {
        pub(super) fn new() -> Self {
            Room { door: Mutex::new(()), bell: Condvar::new() }
        }
        pub(super) fn sleep_while(&self, still: impl Fn() -> bool) {
            let mut inside = self.door.lock().unwrap();
            while still() {
                inside = self.bell.wait(inside).unwrap();
            }
        }
        pub(super) fn rouse(&self) {
            drop(self.door.lock().unwrap());
            self.bell.notify_all();
        }
    }
}

#[cfg(not(all(target_os = "linux", not(loom), not(feature = "checked"))))]
impl Event {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        Event { count: AtomicU32::new(0), room: room::Room::new() }
    }

    #[cfg(loom)]
    pub(crate) fn new() -> Self {
        Event { count: AtomicU32::new(0), room: room::Room::new() }
    }

    pub(crate) fn wait(&self, ticket: u32, _: Who) {
        self.room.sleep_while(|| self.count.load(Ordering::Acquire) == ticket);
    }

    pub(crate) fn wake(&self, _: Who, _: u32) {
        self.count.fetch_add(1, Ordering::Release);
        self.room.rouse();
    }
}
