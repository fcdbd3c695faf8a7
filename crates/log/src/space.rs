//! Credit: the space that appends use is secured before an operation's first latch, so that append never
//! waits and a reserved LSN always gets its bytes.
//!
//! Two budgets are kept. **Log space**: `demand` counts all credits and everything taken out of one (undo and
//! image reserves); admission keeps `tail + demand` below the end of the usable segments, with some slack for
//! padding and seals (LOG-6). **Ring space**: `ring_demand` counts credits only; admission keeps `tail +
//! ring_demand - durable` within the ring (LOG-4).
//!
//! *Why the arithmetic is free of races.* An admission first adds its bytes, then reads, then decides, and
//! takes them back if refused. An append raises the tail, and the demand is lowered later, with the credit's drop; so their sum, read
//! demand first and tail second, is never too small. `durable` is read before both, so it is never too large.
//! Of several admissions at once the one whose reads come last has counted all others; the budget holds when
//! it is admitted, hence for all.
use crate::Log;
use crate::log::Grow;
use crate::segment::{self, Plan};
use hamal_error::{Error, ErrorKind, Result};
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::Lsn;
use hamal_sync::atomic::AtomicBool;
use hamal_sync::atomic::Ordering::{Relaxed, SeqCst};
use hamal_sync::time::Duration;
use hamal_sync::{Condvar, Mutex};
use hamal_trace::Event;
use std::sync::Arc;

/// Space in the ring and in allocated segments that an operation may use without waiting (taken
/// before the first latch). What is not used is given back on drop.
///
/// The accounts change when a credit is made and when it is dropped, not with each append: in between they hold more than is
/// needed, never less.
#[derive(Debug)]
pub struct Credit<'l> {
    pub(crate) log: &'l Log,
    /// What is left for records.
    pub(crate) bytes: u64,
    /// The ring space, and as much log space, with which it was admitted.
    admitted: u64,
    /// Of that log space, what has been taken out.
    taken: u64,
    /// Log space beside it.
    reserved: u64,
}

/// Where the thread that makes segments ahead sleeps.
#[derive(Debug, Default)]
pub(crate) struct Maker {
    listens: AtomicBool,
    called: Mutex<bool>,
    wake: Condvar,
}

impl<'l> Credit<'l> {
    /// Bytes left.
    pub fn left(&self) -> u64 {
        self.bytes
    }
    /// Moves `bytes` of *log space* (not ring space) out of the credit: they stay reserved in the log's
    /// accounts until given back with [`Log::give_back`] or used through [`Log::credit_from`]. Undo reserves
    /// of transactions and image reserves of dirty pages are kept this way. Returns `bytes`.
    ///
    /// # Panics
    /// If the credit has less (a bug in the caller's worst case).
    pub fn take(&mut self, bytes: u64) -> u64 {
        assert!(bytes <= self.bytes, "a reserve of {bytes} bytes from a credit of {}", self.bytes);
        self.bytes -= bytes;
        self.taken += bytes;
        bytes
    }
    /// Moves `bytes` out of the log space beside the credit, as [`Credit::take`].
    ///
    /// # Panics
    /// If there is less (a bug in the caller's worst case).
    pub fn take_reserved(&mut self, bytes: u64) {
        assert!(bytes <= self.reserved, "a reserve of {bytes} bytes from one of {}", self.reserved);
        self.reserved -= bytes;
    }
    /// Moves log space that is reserved in the log's accounts to the space beside the credit.
    pub fn put_reserved(&mut self, bytes: u64) {
        self.reserved += bytes;
    }
    /// Gives back what records have taken: for who keeps the credit for a while after the last of them.
    pub fn settle(&mut self) {
        let spent = self.admitted - self.taken - self.bytes;
        self.log.demand.fetch_sub(spent, SeqCst);
        self.log.ring_release(self.admitted - self.bytes);
        (self.admitted, self.taken) = (self.bytes, 0);
    }
    /// The log.
    pub fn log(&self) -> &'l Log {
        self.log
    }
}

impl Drop for Credit<'_> {
    fn drop(&mut self) {
        self.log.demand.fetch_sub(self.admitted - self.taken + self.reserved, SeqCst);
        self.log.ring_release(self.admitted);
    }
}

/// Bytes of a group on average below which a new segment is written once before it is used.
const SMALL_GROUP: u64 = 64 << 10;

impl Log {
    /// Credit for an operation that appends at most `bytes` (of records, worst case). May write and sync to
    /// make room in the ring, may create a segment: call it with no latch held. `system` operations
    /// (rollback, checkpoint, images, recovery) may go beyond the size limit.
    ///
    /// # Errors
    /// [`LogFull`](hamal_error::ErrorKind::LogFull) at the limit,
    /// [`NoSpace`](hamal_error::ErrorKind::NoSpace) if the device is full; neither is sticky, nothing was
    /// changed. `Poisoned`. `Limit` if `bytes` can never fit the ring.
    pub fn credit(&self, bytes: u64, system: bool) -> Result<Credit<'_>> {
        self.credit_and_reserve(bytes, 0, system)
    }

    /// [`Log::credit`], and `reserve` bytes of log space beside it, admitted together, which take no ring space: for
    /// [`Credit::take_reserved`].
    ///
    /// # Errors
    /// As there.
    pub fn credit_and_reserve(&self, bytes: u64, reserve: u64, system: bool) -> Result<Credit<'_>> {
        self.poison.check()?;
        self.check_fits_ring(bytes)?;
        self.admit_space(bytes + reserve, system)?;
        match self.admit_ring(bytes) {
            Ok(()) => Ok(Credit { log: self, bytes, admitted: bytes, taken: 0, reserved: reserve }),
            Err(e) => {
                self.demand.fetch_sub(bytes + reserve, SeqCst);
                Err(e)
            }
        }
    }

    /// Log space without ring space, as if it had been taken out of a credit ([`Credit::take`]).
    ///
    /// # Errors
    /// `LogFull` unless `system`; `NoSpace`; `Poisoned`.
    pub fn reserve(&self, bytes: u64, system: bool) -> Result<()> {
        self.poison.check()?;
        self.admit_space(bytes, system)
    }

    /// Turns log space that was taken out of a credit into credit again (waits for ring space like
    /// [`Log::credit`], but needs no new log space). If the reserve has less than `bytes`, it is used up and
    /// the rest is admitted as system credit.
    ///
    /// # Errors
    /// `Poisoned`; `Limit` as for [`Log::credit`]; `NoSpace` if the device is full and the reserve was too
    /// small, or if a full ring could not be flushed for that reason. On an error the reserve is unchanged.
    pub fn credit_from(&self, reserve: &mut u64, bytes: u64) -> Result<Credit<'_>> {
        self.poison.check()?;
        self.check_fits_ring(bytes)?;
        let kept = bytes.min(*reserve);
        let more = bytes - kept;
        if more > 0 {
            self.admit_space(more, true)?;
        }
        if let Err(e) = self.admit_ring(bytes) {
            self.demand.fetch_sub(more, SeqCst);
            return Err(e);
        }
        *reserve -= kept;
        Ok(Credit { log: self, bytes, admitted: bytes, taken: 0, reserved: 0 })
    }

    /// Gives reserved log space back.
    pub fn give_back(&self, bytes: u64) {
        let before = self.demand.fetch_sub(bytes, SeqCst);
        debug_assert!(before >= bytes, "more log space was given back than taken");
    }

    /// Bytes that padding and a seal may add to a group.
    fn seal_share(&self) -> u64 {
        2 * self.options.pad as u64
    }

    fn check_fits_ring(&self, bytes: u64) -> Result<()> {
        let most = self.ring.len() as u64 - self.seal_share();
        if bytes <= most {
            return Ok(());
        }
        let m = format!("an operation wants to log {bytes} bytes at once; the log's ring takes {most}");
        Err(Error::new(ErrorKind::Limit, m).with_help("Open the database with a larger ring"))
    }

    // ---- log space ----

    /// Bytes kept free beyond all promises. Padding and seals use them up; the next admission, or the leader,
    /// allocates.
    fn slack(&self) -> u64 {
        ((64 << 10) + self.options.max_record as u64).min(2 * self.options.segment_bytes)
    }

    fn space_fits(&self, extra: u64) -> bool {
        let demand = self.demand.load(SeqCst);
        let tail = self.tail.load(SeqCst);
        tail + demand + extra <= self.usable_end.load(SeqCst)
    }

    fn admit_space(&self, bytes: u64, system: bool) -> Result<()> {
        self.demand.fetch_add(bytes, SeqCst);
        if self.space_fits(self.slack()) {
            if self.maker.listens.load(SeqCst) && !self.space_fits(self.slack() + self.ahead()) {
                self.wake_maker();
            }
            return Ok(());
        }
        // Out of the account while we queue: who holds the lock must not count what may never be admitted.
        self.demand.fetch_sub(bytes, SeqCst);
        let mut grow = self.grow.lock();
        self.demand.fetch_add(bytes, SeqCst);
        let admitted = match self.grow_until_fits(&mut grow, system) {
            Err(e) if e.kind() == ErrorKind::NoSpace && self.slack_is_free.load(SeqCst) => {
                if self.space_fits(self.seal_share()) { Ok(()) } else { Err(e) }
            }
            admitted => admitted,
        };
        if admitted.is_err() {
            self.demand.fetch_sub(bytes, SeqCst);
        }
        admitted
    }

    /// From here on the slack may be used where the device has no room for another segment: for who closes the log, when nobody has promises
    /// that padding could eat into, or will have any.
    pub fn free_slack(&self) {
        self.slack_is_free.store(true, SeqCst);
    }

    /// Bytes that a thread which makes segments ahead keeps free beyond the slack: it has the time that they last for making
    /// the next segment, while changes that need space go on.
    fn ahead(&self) -> u64 {
        self.options.segment_bytes
    }

    /// Makes segments before they are needed, so that nobody who needs log space waits for one to be filled and synced (who finds none
    /// makes it all the same). Stops at the log's limit.
    ///
    /// # Errors
    /// `NoSpace`, `Poisoned`.
    pub fn make_ahead(&self) -> Result<()> {
        while !self.space_fits(self.slack() + self.ahead()) {
            let mut grow = self.grow.lock();
            self.poison.check()?;
            match self.grow_one(&mut grow, false) {
                Err(e) if e.kind() == ErrorKind::LogFull => return Ok(()),
                made => made?,
            }
        }
        Ok(())
    }

    /// Parks the thread that makes segments ahead until one is wanted, [`Log::wake_maker`] is called, or `timeout` is over.
    pub fn wait_space_wanted(&self, timeout: Duration) {
        // Listen, then look: who takes space takes it first and looks for a listener after. (Should it come to nothing, an admission
        // makes the segment.)
        self.maker.listens.store(true, SeqCst);
        let mut called = self.maker.called.lock();
        if !*called && self.space_fits(self.slack() + self.ahead()) {
            self.maker.wake.wait_for(&mut called, timeout);
        }
        *called = false;
        self.maker.listens.store(false, SeqCst);
    }

    /// Makes [`Log::wait_space_wanted`] return.
    pub fn wake_maker(&self) {
        *self.maker.called.lock() = true;
        self.maker.wake.notify_all();
    }

    /// Removes the newest segments that neither promises nor [`Log::make_ahead`] need: those that were made for the images of dirty pages,
    /// when the pages have been written. Returns how many.
    ///
    /// *Nobody loses space that was promised.* `usable_end` is lowered first, then demand and tail are read. Who was admitted below the
    /// old one had added its bytes before it read it, so they are seen here; who reads the new one decides by it. The leader's padding
    /// and seal stay below the slack. *The chain has no gap at any time (LOG-8).* The newest goes first, and the directory is synced
    /// before the next one does.
    ///
    /// # Errors
    /// I/O errors: poison.
    pub fn trim(&self) -> Result<u64> {
        let mut removed = 0;
        loop {
            let mut grow = self.grow.lock();
            // Under the lock, as for every change of the files (T16).
            self.poison.check()?;
            let all = self.segments.read().clone();
            // The segment of the tail and its successor stay in any case.
            let [kept @ .., newest] = &all[..] else { return Ok(removed) };
            let Some(last) = kept.last().filter(|s| s.first > self.tail.load(SeqCst)) else {
                return Ok(removed);
            };
            let usable = self.usable_end.swap(last.first, SeqCst);
            if !self.space_fits(self.slack() + self.ahead()) {
                self.usable_end.store(usable, SeqCst);
                return Ok(removed);
            }
            // A scan holds a list with the file, and may be asked for its end.
            let _no_scan = self.scans.write();
            self.set_segments(kept.to_vec());
            if let Err(e) = self.release(&mut grow, std::slice::from_ref(newest)) {
                return Err(self.poison(e));
            }
            removed += 1;
        }
    }

    /// Makes segments until promises and slack fit.
    pub(crate) fn grow_until_fits(&self, grow: &mut Grow, system: bool) -> Result<()> {
        while !self.space_fits(self.slack()) {
            self.poison.check()?;
            self.grow_one(grow, system)?;
        }
        Ok(())
    }

    /// For the leader: makes sure that a group may end at `end` and all promises still fit below the newest
    /// segment. Normally they do; the slack is only used up if many small groups were sealed without any new
    /// credit.
    pub(crate) fn room_for_seal(&self, end: u64) -> Result<()> {
        let fits = || end + self.demand.load(SeqCst) < self.usable_end.load(SeqCst);
        if fits() || mutants::is(Mutant::SealWithoutRoom) {
            return Ok(());
        }
        let mut grow = self.grow.lock();
        while !fits() {
            // Under the lock: who seals the engine off waits for it, and may leave the files to somebody else then (T16).
            self.poison.check()?;
            self.grow_one(&mut grow, true)?;
        }
        Ok(())
    }

    /// Makes one more segment. Its directory entry is durable before the segment before it becomes usable
    /// (LOG-8): the newest one is always beyond what is promised.
    fn grow_one(&self, grow: &mut Grow, system: bool) -> Result<()> {
        let segments = self.segments.read().clone();
        let bytes = self.options.segment_bytes;
        let live: u64 = segments.iter().map(|s| s.bytes()).sum();
        if !system && live + bytes > self.options.limit_bytes {
            let m = format!("the log has {live} of at most {} bytes", self.options.limit_bytes);
            return Err(Error::new(ErrorKind::LogFull, m)
                .with_help("End old transactions and let a checkpoint run, or raise the log's limit"));
        }
        let (first, seal_before) = match segments.last() {
            // 1 stands for "no seal yet": 0 marks the first segment of a log.
            Some(last) => (last.end(), self.last_seal.load(SeqCst).max(1)),
            None => (self.tail.load(SeqCst), 0),
        };
        // Where groups are small their syncs count; a load fills a segment with a few, and has no use for the zeros.
        let groups = self.groups.load(Relaxed);
        let written = segments.len() < 2 || groups - grow.groups >= bytes / SMALL_GROUP;
        let plan = Plan { id: self.identity, first, bytes, seal_before, mode: self.write_mode(), written };
        let free = grow.free.pop();
        let recycled = free.is_some();
        let segment = segment::make(&*self.disk, plan, free.as_deref())?;
        let sync = !mutants::is(Mutant::NoDirSync);
        if let Err(e) = if sync { self.disk.sync_dir(segment::DIR) } else { Ok(()) } {
            // Whether the name will survive is unknown, and asking again proves nothing.
            return Err(self.poison(Error::io("syncing the log's directory", e).with_file(segment::DIR)));
        }
        let mut all = (*segments).clone();
        all.push(Arc::new(segment));
        self.set_segments(all);
        grow.groups = groups;
        self.usable_end.store(first, SeqCst);
        if recycled { &self.recycled } else { &self.created }.fetch_add(1, Relaxed);
        self.trace.emit(|| Event::LogSegment { first: Lsn(first), recycled });
        Ok(())
    }

    // ---- ring space ----

    fn try_ring(&self, bytes: u64) -> bool {
        self.ring_demand.fetch_add(bytes, SeqCst);
        let durable = self.durable.load(SeqCst);
        let demand = self.ring_demand.load(SeqCst);
        let demand = if mutants::is(Mutant::RingNotAdmitted) { bytes } else { demand };
        let tail = self.tail.load(SeqCst);
        let fits = tail + demand + self.seal_share() <= durable + self.ring.len() as u64;
        if !fits {
            self.ring_release(bytes);
        }
        fits
    }

    /// Waits until the ring has room: flushes what can be flushed, else waits for other operations to end.
    fn admit_ring(&self, bytes: u64) -> Result<()> {
        if self.try_ring(bytes) {
            return Ok(());
        }
        // One at a time from here on, so that two who refuse each other do not go on doing so.
        let _turn = self.ring_turn.lock();
        loop {
            self.poison.check()?;
            if self.try_ring(bytes) {
                return Ok(());
            }
            let tail = self.tail.load(SeqCst);
            if tail > self.durable.load(SeqCst) {
                self.force_quietly(Lsn(tail), hamal_trace::ForceReason::Full)?;
                continue;
            }
            // Everything is durable: the ring is full of credits. Announce, look again, sleep. Whoever gives
            // ring space back first lowers the demand and then looks whether somebody is announced; both in
            // one total order, so either it sees us, takes the mutex (we sleep by then, or have seen its
            // change) and notifies, or our second look sees its change.
            self.ring_waiters.fetch_add(1, SeqCst);
            let mut guard = self.ring_mutex.lock();
            let admitted = self.try_ring_locked(bytes);
            if !admitted && self.tail.load(SeqCst) == self.durable.load(SeqCst) && !self.poison.is_set() {
                self.ring_wake.wait(&mut guard);
            }
            drop(guard);
            self.ring_waiters.fetch_sub(1, SeqCst);
            if admitted {
                return Ok(());
            }
        }
    }

    /// [`Log::try_ring`] for the holder of the ring mutex, who must not notify itself.
    fn try_ring_locked(&self, bytes: u64) -> bool {
        self.ring_demand.fetch_add(bytes, SeqCst);
        let durable = self.durable.load(SeqCst);
        let demand = self.ring_demand.load(SeqCst);
        let tail = self.tail.load(SeqCst);
        let fits = tail + demand + self.seal_share() <= durable + self.ring.len() as u64;
        if !fits {
            self.ring_demand.fetch_sub(bytes, SeqCst);
        }
        fits
    }

    fn ring_release(&self, bytes: u64) {
        self.ring_demand.fetch_sub(bytes, SeqCst);
        self.wake_ring();
    }

    /// Wakes whoever waits for ring space.
    pub(crate) fn wake_ring(&self) {
        if self.ring_waiters.load(SeqCst) != 0 {
            drop(self.ring_mutex.lock());
            self.ring_wake.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{Log, LogIdentity, LogOptions};
    use hamal_disk::{Disk, MemDisk};
    use hamal_error::{Error, ErrorKind, Result};
    use hamal_page::{DbId, Lsn};
    use hamal_trace::Trace;
    use std::sync::Arc;
    use std::thread;
    use std::time::Duration;

    /// T16: who waits to change the files while the engine is sealed off finds that it is, and leaves them alone.
    #[test]
    fn who_comes_too_late_changes_no_file() {
        let late: [fn(&Log) -> Result<()>; 3] =
            [|log| log.trim().map(drop), |log| log.truncate(Lsn(1 << 40)), |log| log.reserve(1 << 20, true)];
        for change in late {
            let disk = MemDisk::new();
            disk.create_dir("wal").unwrap();
            let id = LogIdentity { db: DbId([1; 16]), timeline: 1 };
            let options = LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() };
            let shared = Arc::new(disk.clone());
            let log = Log::create(shared, options, id, Log::FIRST, Arc::default(), Trace::silent()).unwrap();
            // Segments that nobody needs.
            log.reserve(1 << 19, false).unwrap();
            log.give_back(1 << 19);
            let files = || disk.list("wal").unwrap();
            let before = files();
            thread::scope(|s| {
                let grow = log.grow.lock();
                let waits = s.spawn(|| change(&log));
                thread::sleep(Duration::from_millis(100));
                log.poison(Error::internal("closed"));
                drop(grow);
                assert_eq!(waits.join().unwrap().unwrap_err().kind(), ErrorKind::Poisoned);
            });
            assert_eq!(files(), before);
        }
    }
}
