//! Locks and condition variables with the face of `parking_lot`.
use crate::time::{self, Duration, Instant};
use shuttle::sync;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::TryLockError;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// A lock.
pub struct Mutex<T: ?Sized> {
    /// How many hold it or have just let go of it, for [`Mutex::is_locked`], which must not hold it itself: who finds it held
    /// so would wait for a hand-over that nobody owes. Nobody else gets a turn at it.
    holders: AtomicUsize,
    inner: sync::Mutex<T>,
}

/// Holds a [`Mutex`].
pub struct MutexGuard<'a, T: ?Sized> {
    lock: &'a Mutex<T>,
    /// Always there, except inside a wait.
    held: Option<sync::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    /// A free lock.
    pub const fn new(value: T) -> Self {
        Mutex { holders: AtomicUsize::new(0), inner: sync::Mutex::new(value) }
    }
    /// What it guarded.
    pub fn into_inner(self) -> T {
        self.inner.into_inner().unwrap_or_else(|e| e.into_inner())
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Mutex::new(T::default())
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Waits for the lock.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        let held = self.inner.lock().unwrap_or_else(|e| e.into_inner());
        self.holders.fetch_add(1, SeqCst);
        MutexGuard { lock: self, held: Some(held) }
    }
    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let held = match self.inner.try_lock() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(e)) => e.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        self.holders.fetch_add(1, SeqCst);
        Some(MutexGuard { lock: self, held: Some(held) })
    }
    /// Whether somebody holds it.
    pub fn is_locked(&self) -> bool {
        // Others may go first.
        sync::atomic::AtomicBool::new(false).load(SeqCst);
        self.holders.load(SeqCst) != 0
    }
    /// What it guards, which nobody else can reach.
    pub fn get_mut(&mut self) -> &mut T {
        self.inner.get_mut().unwrap_or_else(|e| e.into_inner())
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            // Free first: held and not counted, it would keep others going round.
            drop(held);
            self.lock.holders.fetch_sub(1, SeqCst);
        }
    }
}

impl<T: ?Sized> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mutex")
    }
}
impl<T: ?Sized> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MutexGuard")
    }
}
impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.held.as_ref().expect("held")
    }
}
impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.held.as_mut().expect("held")
    }
}

/// Whether a wait ended by its time-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// Whether it did.
    pub fn timed_out(&self) -> bool {
        self.0
    }
}

/// A condition variable.
#[derive(Debug, Default)]
pub struct Condvar(sync::Condvar);

impl Condvar {
    /// One at which nobody waits.
    pub const fn new() -> Self {
        Condvar(sync::Condvar::new())
    }
    /// Waits to be notified.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let held = guard.held.take().expect("held");
        guard.lock.holders.fetch_sub(1, SeqCst);
        guard.held = Some(self.0.wait(held).unwrap_or_else(|e| e.into_inner()));
        guard.lock.holders.fetch_add(1, SeqCst);
    }
    /// Waits to be notified, or for the time to pass, if it [passes](time::passes).
    pub fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, timeout: Duration) -> WaitTimeoutResult {
        if !time::pass(timeout) {
            self.wait(guard);
            return WaitTimeoutResult(false);
        }
        guard.lock.holders.fetch_sub(1, SeqCst);
        drop(guard.held.take());
        shuttle::thread::yield_now();
        guard.held = guard.lock.lock().held.take();
        WaitTimeoutResult(true)
    }
    /// The same until a moment.
    pub fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, until: Instant) -> WaitTimeoutResult {
        self.wait_for(guard, until.until())
    }
    /// Wakes one.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }
    /// Wakes all.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// A lock for one writer or many readers.
#[derive(Default)]
pub struct RwLock<T>(sync::RwLock<T>);

/// Holds a [`RwLock`] shared.
pub struct RwLockReadGuard<'a, T>(sync::RwLockReadGuard<'a, T>);

/// Holds a [`RwLock`] exclusively.
pub struct RwLockWriteGuard<'a, T>(sync::RwLockWriteGuard<'a, T>);

impl<T> RwLock<T> {
    /// A free lock.
    pub const fn new(value: T) -> Self {
        RwLock(sync::RwLock::new(value))
    }
    /// Waits to hold it shared.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        RwLockReadGuard(self.0.read().unwrap_or_else(|e| e.into_inner()))
    }
    /// Waits to hold it exclusively.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        RwLockWriteGuard(self.0.write().unwrap_or_else(|e| e.into_inner()))
    }
}

impl<T> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RwLock")
    }
}
impl<T> Deref for RwLockReadGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}
impl<T> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}
impl<T> DerefMut for RwLockWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}
