//! Group commit: leader and followers among those who wait for the log.
//!
//! Whoever finds nobody flushing becomes the leader: it seals what has been appended, writes it, syncs, moves
//! `durable` and wakes those it has served. While it does so others append. If several of them wait by then, the leader
//! writes the next group at once, a few times at most: waking another to do it leaves the device idle for as long as a small
//! sync takes. Else the first to look leads it. Nobody delays a flush to collect more. A thread that commits alone never
//! touches another thread.
//!
//! A leader that goes on wakes one of those it has served, who wakes two more, as each of them does: waking a dozen takes as
//! long as a sync.
//!
//! *No wake-up is lost* (LOG-7). Leadership is the mutex `flush`, taken only by `try_lock` here. A follower
//! (1) fails to take it, (2) enters itself in the list, (3) looks again whether it is served, the engine is
//! poisoned, or `flush` is free, and if not (4) parks. Who releases `flush` (5) first releases it, then (6)
//! goes through the list. The list's mutex orders (2) and (6). If (2) is first, (6) finds the follower: it is
//! woken if it is served, and of those who are not, one is woken to lead. If (6) is first, then what precedes
//! it, `durable` and the release (5), is visible at (3): the follower does not park, unless `flush` has a new
//! owner by then, whose own (6) is still to come. One who is woken to lead either does, and then does (6)
//! itself, or finds another leading, who will, or finds itself served by another leader, whose (6) comes
//! after. A leader that goes on only takes followers off the list who are served, and wakes them; whoever is left there is
//! found by its (6) at the latest. Who finds at (3) that it need not park may have been taken off the list already: that wake
//! comes later, perhaps in the thread's next wait, which is not over then. So waits have numbers, and a wake ends the wait that it
//! was for: whoever goes on is on the list no more, and nobody is asked to lead in vain.
//!
//! *Tasks* are woken by who holds nothing. A waker is foreign code, and may run its task at once, which may wait for the log, the
//! cleaner, or a checkpoint. So [`Log::force_quietly`], for those who hold locks, leaves tasks on the list, and has the flusher
//! look there ([`Log::wake_tasks`]).
use crate::Log;
use crate::format::{self, SEAL_LEN, SECTOR, Seal};
use crate::options::SyncMethod;
use crate::segment::Segment;
use hamal_error::{Error, Result};
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::Lsn;
use hamal_sync::MutexGuard;
use hamal_sync::atomic::AtomicU64;
use hamal_sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use hamal_sync::thread::Thread;
use hamal_trace::{Event, ForceReason};
use std::sync::Arc;
use std::task::Waker;

/// How many groups a leader writes in a row, its own included: that is how much longer its own commit may take.
const TURNS: usize = 4;
/// How many have to wait for the leader to go on. For fewer the next group waits until one of them is woken to lead: some more
/// come to it meanwhile, and the leader returns.
const GO_ON: usize = 5;

/// What the leader knows of the groups: guarded by leadership.
#[derive(Debug)]
pub(crate) struct Group {
    /// Where the next group starts; all below is durable.
    pub(crate) start: u64,
    /// Checksum of the seal before it.
    pub(crate) last_seal: u32,
}

/// A parked thread. Made once per thread; a thread waits at one place at a time.
#[derive(Debug)]
pub(crate) struct Parked {
    /// How often the thread has begun to wait: the number of its newest wait.
    waits: AtomicU64,
    /// The newest of its waits that somebody has ended.
    woken: AtomicU64,
    thread: Thread,
}

hamal_sync::thread_local! {
    static PARKED: Arc<Parked> = Parked::new();
}

impl Parked {
    fn new() -> Arc<Parked> {
        let (waits, woken) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Parked { waits, woken, thread: hamal_sync::thread::current() })
    }
    /// This thread's; a fresh one if the thread is ending.
    fn mine() -> Arc<Parked> {
        PARKED.try_with(Arc::clone).unwrap_or_else(|_| Parked::new())
    }
}

#[derive(Debug)]
enum Who {
    /// A thread, and which of its waits.
    Thread(Arc<Parked>, u64),
    Task(Waker),
}

/// Somebody who waits for `durable >= to`.
#[derive(Debug)]
pub(crate) struct Waiter {
    to: u64,
    who: Who,
}

impl Who {
    fn wake(self) {
        match self {
            Who::Thread(p, wait) => {
                p.woken.fetch_max(wait, Release);
                p.thread.unpark();
            }
            Who::Task(w) => w.wake(),
        }
    }
}

impl Waiter {
    fn is_thread(&self) -> bool {
        matches!(self.who, Who::Thread(..))
    }
}

/// Takes those who are served off the list: so many threads, and all tasks or none.
fn take_served(waiters: &mut Vec<Waiter>, durable: u64, mut threads: usize, tasks: bool) -> Vec<Who> {
    let mut served = Vec::new();
    let mut i = 0;
    while i < waiters.len() {
        let is_thread = waiters[i].is_thread();
        if waiters[i].to <= durable && if is_thread { threads > 0 } else { tasks } {
            threads -= usize::from(is_thread);
            served.push(waiters.swap_remove(i).who);
        } else {
            i += 1;
        }
    }
    served
}

/// Poisons the log when it is dropped: by a panic, that is, for who gets through forgets it. (Whether the thread is panicking
/// says nothing: a rollback on the way out of a panic may lead, and may panic itself.)
struct OnPanic<'a>(&'a Log);

impl Drop for OnPanic<'_> {
    fn drop(&mut self) {
        self.0.poison(Error::internal("a panic while the log was being written"));
    }
}

impl Log {
    /// Waits until everything below `to` is durable; becomes the leader of a group if nobody is.
    ///
    /// # Errors
    /// `Poisoned` (with the cause) if a write or sync failed: what was in flight has an unknown outcome.
    /// `NoSpace` if the device is full and not even a seal fits any more: not sticky, nothing was lost, try
    /// again.
    pub fn force(&self, to: Lsn, why: ForceReason) -> Result<()> {
        self.force_and_wake(to, why, true)
    }

    /// [`Log::force`] for who holds what a task might wait for: wakes no task, but has the flusher do it.
    ///
    /// # Errors
    /// As there.
    pub fn force_quietly(&self, to: Lsn, why: ForceReason) -> Result<()> {
        self.force_and_wake(to, why, false)
    }

    fn force_and_wake(&self, to: Lsn, why: ForceReason, tasks: bool) -> Result<()> {
        loop {
            if self.durable.load(SeqCst) >= to.0 {
                return Ok(());
            }
            self.poison.check()?;
            if to.0 > self.tail.load(SeqCst) {
                return Err(Error::internal("LOG-1: the log was forced beyond its tail").with_lsn(to));
            }
            match self.flush.try_lock() {
                Some(group) => {
                    let flushed = self.lead(group, to.0, why);
                    // After a failure nobody else may come to wake them.
                    self.hand_on(tasks || self.poison.is_set());
                    flushed?;
                }
                None => {
                    self.follow(to.0, tasks);
                    if mutants::is(Mutant::FollowerAcked) {
                        return self.poison.check();
                    }
                }
            }
        }
    }

    /// Writes a group and makes it durable; then those of others, as long as [`Log::goes_on`] says so. Releases leadership on
    /// return; the caller must then [`Log::hand_on`].
    fn lead(&self, group: MutexGuard<'_, Group>, to: u64, why: ForceReason) -> Result<()> {
        if self.durable.load(SeqCst) >= to {
            return Ok(()); // Somebody led between our look and our turn.
        }
        // In a panic leadership, made later, is given up first: then tasks may be woken.
        let on_panic = OnPanic(self);
        let mut group = group;
        let written = self.lead_one(&mut group, why);
        let mut going = written.is_ok();
        for _ in 1..TURNS {
            // The leader's own group is durable. An error from here on is found by those who wait: either the engine is
            // poisoned, or one of them leads and meets it.
            going = going && self.goes_on() && self.lead_one(&mut group, why).is_ok();
        }
        drop(group);
        std::mem::forget(on_panic);
        written
    }

    fn lead_one(&self, group: &mut Group, why: ForceReason) -> Result<()> {
        if let Some(end) = self.write_group(group)? {
            self.groups.fetch_add(1, Relaxed);
            self.trace.emit(|| Event::LogForce { to: end, why });
        }
        Ok(())
    }

    /// Whether the leader writes the next group too: if enough wait for it. Then one of those who are served is woken, to wake
    /// the others, so that the device does not wait for that. Tasks are left to that one: a waker is foreign code, which may run
    /// its task at once, and a task that waits for the log would wait for the thread that it runs on.
    fn goes_on(&self) -> bool {
        let served = {
            let mut waiters = self.waiters.lock();
            let durable = self.durable.load(SeqCst);
            let served = |thread: bool| waiters.iter().any(|w| w.to <= durable && w.is_thread() == thread);
            // With nobody to leave them to, tasks are woken when leadership is given up.
            let kept = served(false) && !served(true);
            if kept || waiters.iter().filter(|w| w.to > durable).count() < GO_ON {
                return false;
            }
            let forgets = mutants::is(Mutant::LeaderForgetsTheOthers);
            take_served(&mut waiters, durable, if forgets { usize::MAX } else { 1 }, false)
        };
        let woken = if mutants::is(Mutant::LeaderForgetsTheOthers) { 1 } else { usize::MAX };
        served.into_iter().take(woken).for_each(Who::wake);
        true
    }

    /// Wakes two of the threads that are served, which do the same, and all tasks or none.
    fn wake_more(&self, tasks: bool) {
        let served = take_served(&mut self.waiters.lock(), self.durable.load(SeqCst), 2, tasks);
        served.into_iter().for_each(Who::wake);
    }

    /// Writes everything up to the tail as one group; its end, if there was anything to write.
    fn write_group(&self, group: &mut Group) -> Result<Option<Lsn>> {
        let start = group.start;
        let pad = self.options.pad as u64;
        // Reserve everything up to the end of the seal: from here on `records_end` is the end of the group's
        // records.
        let (records_end, seal_lsn) = loop {
            let tail = self.tail.load(SeqCst);
            if tail == start {
                return Ok(None);
            }
            let seal = format::seal_at(tail, pad);
            self.room_for_seal(seal + SEAL_LEN)?;
            if self.tail.compare_exchange(tail, seal + SEAL_LEN, SeqCst, SeqCst).is_ok() {
                break (tail, seal);
            }
        };
        let end = seal_lsn + SEAL_LEN;
        if end - start > self.ring.len() as u64 {
            return Err(
                self.poison(Error::internal("LOG-4: a group is longer than the ring").with_lsn(Lsn(start)))
            );
        }
        if !mutants::is(Mutant::LeaderDoesNotWait) {
            self.slots.wait_below(records_end);
        }
        // An appender that panicked left a hole and said so before it freed its slot.
        self.poison.check()?;
        // SAFETY: `[records_end, end)` was reserved above, and ring admission left room for it (LOG-4).
        unsafe { self.ring.zero(records_end, seal_lsn) };
        let crc = {
            // SAFETY: all records below were copied (LOG-5), nobody writes these LSNs again, and no LSN that
            // shares their bytes is reserved before `durable` moves, which only the leader does.
            let (a, b) = unsafe { self.ring.slices(start, seal_lsn) };
            crc32c::crc32c_append(crc32c::crc32c_append(self.seeds.group(start), a), b)
        };
        let seal = Seal::new(self.seeds, seal_lsn, start, group.last_seal, crc);
        // SAFETY: reserved by the leader, as above.
        unsafe { self.ring.write(seal_lsn, &seal.encode()) };
        if let Err(e) = self.write_out(start, end) {
            return Err(self.poison(e));
        }
        group.start = end;
        group.last_seal = seal.crc;
        self.last_seal.store(seal.crc, SeqCst);
        self.durable.store(end, SeqCst);
        Ok(Some(Lsn(end)))
    }

    /// Writes `[start, end)` from the ring to the segments and syncs them.
    fn write_out(&self, start: u64, end: u64) -> Result<()> {
        let segments = self.segments.read().clone();
        let again = mutants::is(Mutant::SectorRewritten)
            && self.groups.load(Relaxed) > 0
            && segments.first().is_some_and(|s| s.first < start);
        let mut at = if again { start - SECTOR } else { start };
        let mut i = segments.partition_point(|s| s.end() <= at);
        let touched = i;
        let no_sync = mutants::is(Mutant::AckBeforeSync) || mutants::is(Mutant::LogNeverSynced);
        if mutants::is(Mutant::AckBeforeSync) {
            let synced = |s: &Arc<Segment>| s.file.sync().map_err(|e| failed("syncing the log", e, s, 0, at));
            segments.iter().take(i + 1).try_for_each(synced)?;
        }
        while at < end {
            let Some(segment) = segments.get(i).filter(|s| s.first <= at) else {
                return Err(Error::internal("LOG-6: the log's tail is in no segment").with_lsn(Lsn(at)));
            };
            let stop = end.min(segment.end());
            // SAFETY: as in `lead`: the group's bytes do not change before `durable` moves.
            let (a, b) = unsafe { self.ring.slices(at, stop) };
            let offset = segment.offset(at);
            let written = if b.is_empty() {
                segment.file.write_at(offset, a)
            } else {
                segment.file.write_vectored_at(offset, &[a, b])
            };
            written.map_err(|e| failed("writing the log", e, segment, offset, at))?;
            at = stop;
            i += 1;
        }
        if self.options.sync == SyncMethod::Fdatasync && !no_sync {
            for segment in &segments[touched..i] {
                let synced = segment.file.sync();
                let again = synced.is_err() && mutants::is(Mutant::SyncRetried);
                if again { segment.file.sync() } else { synced }.map_err(|e| {
                    failed("syncing the log", e, segment, segment.offset(start.max(segment.first)), start)
                })?;
                self.syncs.fetch_add(1, Relaxed);
            }
        }
        Ok(())
    }

    /// Waits as a follower until served, or until it may be this thread's turn to lead.
    fn follow(&self, to: u64, tasks: bool) {
        let me = Parked::mine();
        let wait = me.waits.fetch_add(1, Relaxed) + 1;
        self.waiters.lock().push(Waiter { to, who: Who::Thread(me.clone(), wait) });
        let looks = !mutants::is(Mutant::FollowerDoesNotLook);
        if looks && (self.durable.load(SeqCst) >= to || self.poison.is_set() || !self.flush.is_locked()) {
            let taken = {
                let mut waiters = self.waiters.lock();
                let before = waiters.len();
                waiters.retain(|w| !matches!(&w.who, Who::Thread(p, _) if Arc::ptr_eq(p, &me)));
                before == waiters.len()
            };
            // The wake of who took us off is on its way. It is of this wait, so a later one does not take it for its own; and it
            // may be that of a leader who goes on.
            if taken {
                self.wake_more(tasks);
            }
            return;
        }
        while me.woken.load(Acquire) < wait {
            hamal_sync::thread::park();
        }
        self.wake_more(tasks);
    }

    /// After releasing leadership: wakes everybody who is served, and one who is not, to lead. Tasks that are served are left to
    /// the flusher unless `tasks`.
    pub(crate) fn hand_on(&self, tasks: bool) {
        let mut next = None;
        let (served, left) = {
            let mut waiters = self.waiters.lock();
            if waiters.is_empty() {
                return;
            }
            let to = self.served_to();
            let served = take_served(&mut waiters, to, usize::MAX, tasks);
            if let Some(i) = waiters.iter().position(Waiter::is_thread) {
                next = Some(waiters.swap_remove(i).who);
            }
            (served, waiters.iter().any(|w| w.to <= to && !w.is_thread()))
        };
        // The next leader first: the device should not wait for us.
        for who in next.into_iter().chain(served) {
            who.wake();
        }
        if left {
            self.wake_flusher();
        }
    }

    /// Everybody who waits for less is told: of the poison, if it is set.
    fn served_to(&self) -> u64 {
        if self.poison.is_set() { u64::MAX } else { self.durable.load(SeqCst) }
    }

    /// Wakes the tasks that are served. For who holds nothing: foreign code may run.
    pub fn wake_tasks(&self) {
        let served = take_served(&mut self.waiters.lock(), self.served_to(), 0, true);
        served.into_iter().for_each(Who::wake);
    }

    /// Enters a task that waits for `to`.
    pub(crate) fn register(&self, to: u64, waker: &Waker) {
        let mut waiters = self.waiters.lock();
        let known =
            waiters.iter().any(|w| w.to == to && matches!(&w.who, Who::Task(k) if k.will_wake(waker)));
        if !known {
            waiters.push(Waiter { to, who: Who::Task(waker.clone()) });
        }
    }

    /// Stops the engine: every waiter is woken, every later call fails. Returns the error to hand on.
    pub fn poison(&self, cause: Error) -> Error {
        let error = self.poison.set(cause);
        // Who leads, perhaps this thread, wakes the tasks when it gives leadership up.
        self.hand_on(!self.flush.is_locked());
        self.wake_ring();
        self.wake_flusher();
        error
    }
}

fn failed(what: &str, e: std::io::Error, segment: &Segment, offset: u64, lsn: u64) -> Error {
    Error::io(what, e).with_file(segment.name.clone()).with_offset(offset).with_lsn(Lsn(lsn))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LogIdentity, LogOptions, RecordKind, RecordSpec, TxnRef};
    use hamal_disk::{Disk, MemDisk};
    use hamal_page::{DbId, RmId};
    use hamal_trace::Trace;
    use std::thread;
    use std::time::Duration;

    fn again(who: &Who) -> Who {
        match who {
            Who::Thread(p, wait) => Who::Thread(p.clone(), *wait),
            Who::Task(w) => Who::Task(w.clone()),
        }
    }

    fn log(disk: &MemDisk) -> Log {
        disk.create_dir("wal").unwrap();
        let id = LogIdentity { db: DbId([1; 16]), timeline: 1 };
        let options = LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() };
        Log::create(Arc::new(disk.clone()), options, id, Log::FIRST, Arc::default(), Trace::silent()).unwrap()
    }
    fn append(log: &Log) -> Lsn {
        let (kind, txn, prev) = (RecordKind::Commit, TxnRef::First, Lsn::NULL);
        let spec = RecordSpec { kind, rm: RmId(0), txn, prev, blocks: &[], undo: &[] };
        log.append(&spec, &mut log.credit(100, false).unwrap()).unwrap().end
    }

    /// LOG-7: a wake that comes late, when the wait that it was for is over, does not end the next one. The thread would stay on
    /// the list while it does not wait, and be woken to lead in the place of one who does.
    #[test]
    fn a_late_wake_does_not_end_another_wait() {
        let log = log(&MemDisk::new());
        let end = append(&log);
        let waiting = |n: usize| {
            while log.waiters.lock().len() != n {
                thread::yield_now();
            }
        };
        thread::scope(|s| {
            let leads = log.flush.try_lock().unwrap();
            let follower = s.spawn(|| log.force(end, ForceReason::Commit));
            waiting(1);
            // Taken off the list, and woken in time by one, and too late by another.
            let late = log.waiters.lock().pop().unwrap().who;
            again(&late).wake();
            waiting(1);
            late.wake();
            thread::sleep(Duration::from_millis(100));
            let entries = log.waiters.lock().len();
            drop(leads);
            log.hand_on(true);
            follower.join().unwrap().unwrap();
            assert_eq!(entries, 1, "one thread waits once");
        });
        assert!(log.waiters.lock().is_empty() && log.durable() >= end);
    }

    /// T16: a thread that found the log sound, and leads only after it was poisoned and everybody else has let go of the files, makes
    /// no segment: the files may be another process's by now.
    #[test]
    fn who_leads_too_late_touches_no_file() {
        let disk = MemDisk::new();
        let log = log(&disk);
        let end = append(&log);
        // So much is promised that a seal has no room.
        let promised = log.usable_end.load(SeqCst) - log.tail.load(SeqCst);
        log.demand.fetch_add(promised, SeqCst);
        log.poison(Error::internal("closed"));
        log.quiesce();
        let files = disk.list("wal").unwrap();
        let late = log.lead(log.flush.try_lock().unwrap(), end.0, ForceReason::Commit);
        assert_eq!(late.unwrap_err().kind(), hamal_error::ErrorKind::Poisoned);
        assert_eq!(disk.list("wal").unwrap(), files);
        log.demand.fetch_sub(promised, SeqCst);
    }
}
