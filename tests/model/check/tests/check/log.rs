//! Group commit: reserve, copy, publish, flush, wrap; the leader, its followers, and who leads next.
use hamal_check::*;
use hamal_disk::{CrashModel, Disk, MemDisk, MemFault, MemOp};
use hamal_error::{ErrorKind, Poison};
use hamal_log::{Log, LogIdentity, LogOptions, LogReader, RecordKind, RecordSpec, Ticket, TxnRef, find_end};
use hamal_mutants::Mutant;
use hamal_page::{DbId, Lsn, RmId};
use hamal_sync::atomic::Ordering;
use hamal_sync::thread::{park, spawn};
use hamal_trace::{ForceReason, Trace};
use std::collections::BTreeSet;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

const ID: LogIdentity = LogIdentity { db: DbId([9; 16]), timeline: 1 };

fn options() -> LogOptions {
    LogOptions { segment_bytes: 64 << 10, ring_bytes: 16 << 10, max_record: 8 << 10, ..LogOptions::default() }
}

fn log() -> (Arc<Log>, StepDisk) {
    let mem = MemDisk::new();
    mem.create_dir("wal").unwrap();
    mem.sync_dir("").unwrap();
    let disk = StepDisk::new(mem);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let poison = Arc::new(Poison::new());
    let log = Log::create(shared, options(), ID, Log::FIRST, poison, Trace::silent()).unwrap();
    (Arc::new(log), disk)
}

/// Appends a record that says `n`, with `len` bytes; where it ends.
fn note(log: &Log, n: u8, len: usize) -> Lsn {
    let mut credit = log.credit(len as u64 + 64, true).unwrap();
    let undo = vec![n; len];
    let (kind, txn) = (RecordKind::CheckpointChunk, TxnRef::None);
    let spec = RecordSpec { kind, rm: RmId(0), txn, prev: Lsn::NULL, blocks: &[], undo: &undo };
    // Between the reservation and the copy others may run.
    let turn = |_| {
        hamal_sync::atomic::AtomicBool::new(false).load(Ordering::SeqCst);
    };
    log.append_with(&spec, &mut credit, turn).unwrap().end
}

/// What the records on the disk say, up to the end of the log; each is whole.
fn notes(disk: &MemDisk) -> BTreeSet<u8> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let end = find_end(&disk, &options(), ID, Log::FIRST, Log::FIRST).unwrap();
    let mut reader = LogReader::open(&disk, ID, &end).unwrap();
    let (mut at, mut all) = (Log::FIRST, BTreeSet::new());
    while let Some(r) = reader.read(at).unwrap() {
        at = r.end;
        let bytes = r.undo();
        assert!(bytes.iter().all(|b| *b == bytes[0]), "a record of another record's bytes");
        all.insert(bytes[0]);
    }
    all
}

/// LOG-1, LOG-5, LOG-7: who was told that its record is durable has it on the disk, and nobody waits for ever.
fn group_commit() {
    commits(3, 2);
}

fn commits(threads: u8, each: u8) {
    let (log, disk) = log();
    let all: Vec<_> = (0..threads)
        .map(|t| {
            let (log, disk) = (log.clone(), disk.clone());
            spawn(move || {
                for n in 10 * t + 1..=10 * t + each {
                    let end = note(&log, n, 100);
                    log.force(end, ForceReason::Commit).unwrap();
                    let found = notes(&disk.crash(CrashModel::LoseUnsynced));
                    assert!(found.contains(&n), "acknowledged and lost: {n} of {found:?}");
                }
            })
        })
        .collect();
    all.into_iter().for_each(|t| t.join().unwrap());
    assert_eq!(notes(&disk.crash(CrashModel::LoseUnsynced)).len(), usize::from(threads * each));
}

#[test]
fn what_is_acknowledged_is_on_the_disk() {
    accepts(3000, group_commit);
}

#[test]
fn a_leader_that_does_not_wait_is_caught() {
    rejects(Mutant::LeaderDoesNotWait, 3000, group_commit);
}

#[test]
fn a_follower_that_is_served_for_nothing_is_caught() {
    let text = rejects(Mutant::FollowerAcked, 3000, group_commit);
    assert!(text.contains("acknowledged and lost"), "{text}");
}

#[test]
fn a_follower_that_parks_without_another_look_is_caught() {
    let text = rejects(Mutant::FollowerDoesNotLook, 3000, group_commit);
    assert!(text.contains("deadlock"), "{text}");
}

/// So many that a leader serves several and goes on.
fn many_commit() {
    commits(9, 1);
}

#[test]
fn a_leader_that_goes_on_leaves_nobody_asleep() {
    accepts(3000, many_commit);
}

#[test]
fn a_leader_that_forgets_whom_it_served_is_caught() {
    let text = rejects(Mutant::LeaderForgetsTheOthers, 30_000, many_commit);
    assert!(text.contains("deadlock"), "{text}");
}

/// LOG-4: records of many rings' length through a ring of 16 KiB, and a reader beside them.
fn wrap() {
    let (log, disk) = log();
    let threads: Vec<_> = (0..3u8)
        .map(|t| {
            let log = log.clone();
            spawn(move || {
                for i in 0..4u8 {
                    let end = note(&log, 1 + 10 * t + i, 1500 + 700 * usize::from(t));
                    if pick(4) == 0 {
                        log.force(end, ForceReason::Commit).unwrap();
                    }
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    log.force(log.tail(), ForceReason::Asked).unwrap();
    assert_eq!(notes(&disk.crash(CrashModel::LoseUnsynced)).len(), 12);
    assert_eq!(log.stats().reserved_bytes, 0);
}

#[test]
fn the_ring_wraps_under_its_writers() {
    accepts(600, wrap);
}

#[test]
fn a_ring_that_lets_too_much_in_is_caught() {
    rejects(Mutant::RingNotAdmitted, 600, wrap);
}

/// A write fails: whoever leads, follows or comes later is told, and nobody waits for ever.
fn failure() {
    let (log, disk) = log();
    disk.mem().inject(MemFault { at: 1 + pick(3), on: MemOp::Sync, once: true });
    let threads: Vec<_> = (0..3u8)
        .map(|t| {
            let log = log.clone();
            spawn(move || {
                for n in 0..2 {
                    let Ok(mut credit) = log.credit(200, true) else { return true };
                    let undo = [10 * t + n];
                    let (kind, txn) = (RecordKind::CheckpointChunk, TxnRef::None);
                    let spec =
                        RecordSpec { kind, rm: RmId(0), txn, prev: Lsn::NULL, blocks: &[], undo: &undo };
                    let Ok(at) = log.append(&spec, &mut credit) else { return true };
                    match log.force(at.end, ForceReason::Commit) {
                        Ok(()) => {}
                        Err(e) => {
                            assert!(matches!(e.kind(), ErrorKind::Poisoned | ErrorKind::Io), "{e}");
                            return true;
                        }
                    }
                }
                false
            })
        })
        .collect();
    let told = threads.into_iter().map(|t| t.join().unwrap()).filter(|t| *t).count();
    assert!(told > 0 || !log.poisoned().is_set());
}

#[test]
fn a_failed_sync_reaches_everybody() {
    accepts(1500, failure);
}

struct Unpark(hamal_sync::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn await_ticket(ticket: Ticket) {
    let waker = Waker::from(Arc::new(Unpark(hamal_sync::thread::current())));
    let mut ticket = pin!(ticket);
    loop {
        match ticket.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(done) => return done.unwrap(),
            Poll::Pending => park(),
        }
    }
}

/// A flusher that sleeps until it is asked, and two who only poll: nobody's wake-up is lost.
fn flusher() {
    let (log, disk) = log();
    let flushes = {
        let log = log.clone();
        spawn(move || {
            while log.durable() < log.tail() || log.stats().records < 4 {
                if log.wait_pending(Duration::from_secs(1)) {
                    log.flush_pending().unwrap();
                }
            }
        })
    };
    let threads: Vec<_> = (0..2u8)
        .map(|t| {
            let (log, disk) = (log.clone(), disk.clone());
            spawn(move || {
                for n in [10 * t + 1, 10 * t + 2] {
                    let end = note(&log, n, 50);
                    await_ticket(log.ticket(end));
                    assert!(notes(&disk.crash(CrashModel::LoseUnsynced)).contains(&n));
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    log.wake_flusher();
    flushes.join().unwrap();
}

#[test]
fn who_only_polls_is_served_by_the_flusher() {
    accepts(1500, flusher);
}

#[test]
fn a_flusher_that_sleeps_unannounced_is_caught() {
    let text = rejects(Mutant::FlusherUnannounced, 1500, flusher);
    assert!(text.contains("deadlock"), "{text}");
}
