//! Append, force, read, reopen, truncate; many threads; errors.
mod common;
use common::*;
use hamal_disk::{CrashModel, Disk, MemFault, MemOp};
use hamal_error::{ErrorKind, Poison};
use hamal_log::*;
use hamal_page::{Lsn, TxnId};
use hamal_trace::{Event, ForceReason, Trace};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[test]
fn append_force_read_reopen() {
    let d = disk();
    let o = small();
    let log = create(&d, &o);
    let a = append(&log, b"one");
    assert_eq!(a.lsn, Log::FIRST);
    assert_eq!(log.read(a.lsn).unwrap().undo(), b"one", "from the ring");
    let b = on_page(&log, 9, a.lsn, b"payload");
    log.force(b.end, ForceReason::Commit).unwrap();
    assert!(log.durable() >= b.end);
    assert_eq!(log.durable(), log.tail());
    assert_eq!(log.durable().0 % 512, 0);
    let r = log.read(b.lsn).unwrap();
    assert_eq!(
        (r.payload(0), r.blocks[0].page.0, r.blocks[0].former),
        (&b"payload"[..], 9, a.lsn),
        "from the file"
    );
    assert_eq!(r.txn, TxnId(b.lsn.0));
    assert_eq!(log.read(Lsn(1)).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(log.read(log.tail()).unwrap_err().kind(), ErrorKind::NotFound);
    append(&log, b"never forced");
    drop(log);

    let e = end(&d, &o).unwrap();
    assert_eq!(e.verdict, Verdict::Clean);
    let log = open(&d, &o, &e);
    let c = append(&log, b"three");
    log.force(c.end, ForceReason::Commit).unwrap();
    drop(log);
    let e = end(&d, &o).unwrap();
    let recs = all(&d, &e);
    assert_eq!(recs.len(), 3);
    assert_eq!(recs[2].undo(), b"three");
    // From any record on, and from any group boundary.
    for r in &recs {
        let again = find_end(&dynamic(&d), &o, ID, r.lsn, r.end).unwrap();
        assert_eq!((again.end, again.last_seal), (e.end, e.last_seal));
        let again = find_end(&dynamic(&d), &o, ID, r.end, r.end).unwrap();
        assert_eq!((again.end, again.last_seal), (e.end, e.last_seal));
    }
    let again = find_end(&dynamic(&d), &o, ID, e.end, e.end).unwrap();
    assert_eq!((again.end, again.last_seal, again.verdict), (e.end, e.last_seal, Verdict::Clean));
}

#[test]
fn an_empty_log() {
    let d = disk();
    let o = small();
    drop(create(&d, &o));
    let e = end(&d, &o).unwrap();
    assert_eq!((e.end, e.last_seal, e.oldest), (Log::FIRST, 0, Log::FIRST));
    let again = Log::create(dynamic(&d), o.clone(), ID, Log::FIRST, Arc::new(Poison::new()), Trace::silent());
    assert_eq!(again.unwrap_err().kind(), ErrorKind::AlreadyExists);
    let log = open(&d, &o, &e);
    assert!(!log.flush_pending().unwrap());
    let a = append(&log, b"x");
    assert!(log.flush_pending().unwrap());
    assert!(log.durable() >= a.end);
}

#[test]
fn another_log_is_refused() {
    let d = disk();
    let o = small();
    drop(create(&d, &o));
    let other = LogIdentity { timeline: 2, ..ID };
    let e = find_end(&dynamic(&d), &o, other, Log::FIRST, Lsn::NULL).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::WrongDatabase);
}

#[test]
fn small_records_have_small_overhead() {
    let d = disk();
    let log = create(&d, &small());
    let mut prev = Lsn::NULL;
    let mut first = Lsn::NULL;
    for i in 0..200u64 {
        let blocks = [Block {
            page: hamal_page::PageId(1000),
            former: prev,
            op: 1,
            whole: Whole::No,
            payload: &[5; 24],
        }];
        let spec = RecordSpec {
            kind: RecordKind::Update,
            rm: hamal_page::RmId(2),
            txn: if i == 0 { TxnRef::First } else { TxnRef::Id(TxnId(first.0)) },
            prev,
            blocks: &blocks,
            undo: b"",
        };
        let mut credit = log.credit(Log::record_bound(&spec), false).unwrap();
        let a = log.append(&spec, &mut credit).unwrap();
        if i == 0 {
            first = a.lsn;
        }
        prev = a.lsn;
        assert!(a.end.0 - a.lsn.0 - 24 <= 18, "overhead {}", a.end.0 - a.lsn.0 - 24);
        let r = log.read(a.lsn).unwrap();
        assert_eq!((r.txn.0, r.payload(0)), (first.0, &[5; 24][..]));
    }
}

/// Many threads append and force; the tiny ring wraps hundreds of times, records and groups span segments.
#[test]
fn many_threads_wrap_and_span() {
    for pad in [512, 4096] {
        let d = disk();
        let o = LogOptions { pad, ..small() };
        let log = Arc::new(create(&d, &o));
        let done = Arc::new(Mutex::new(Vec::new()));
        std::thread::scope(|s| {
            for t in 0..8u8 {
                let (log, done) = (log.clone(), done.clone());
                s.spawn(move || {
                    let mut last = None;
                    for i in 0..150u64 {
                        let len = (i * 37 + u64::from(t) * 101) % 3500;
                        let data: Vec<u8> = (0..len).map(|k| (k as u8) ^ t ^ i as u8).collect();
                        let a = on_page(&log, u64::from(t), Lsn::NULL, &data);
                        if let Some((lsn, old)) = last.replace((a.lsn, data.clone())) {
                            assert_eq!(log.read(lsn).unwrap().payload(0), &old[..]);
                        }
                        if i % 3 == 0 {
                            log.force(a.end, ForceReason::Commit).unwrap();
                            assert!(log.durable() >= a.end);
                        }
                        done.lock().unwrap().push((a.lsn, t, data));
                    }
                });
            }
        });
        log.flush_pending().unwrap();
        let stats = log.stats();
        assert_eq!((stats.records, stats.reserved_bytes), (1200, 0));
        assert!(stats.record_bytes > 20 * o.ring_bytes as u64);
        assert!(stats.groups < stats.records);
        let mut expected = Arc::try_unwrap(done).unwrap().into_inner().unwrap();
        expected.sort();
        for (lsn, _, data) in expected.iter().step_by(17) {
            assert_eq!(log.read(*lsn).unwrap().payload(0), &data[..]);
        }
        drop(log);
        let e = end(&d.crash(CrashModel::LoseUnsynced), &o).unwrap();
        let found: Vec<_> =
            all(&d, &e).iter().map(|r| (r.lsn, r.blocks[0].page.0 as u8, r.payload(0).to_vec())).collect();
        assert!(found == expected);
    }
}

#[test]
fn direct_dsync_works_the_same() {
    let d = disk();
    let o = LogOptions { sync: SyncMethod::DirectDsync, ..small() };
    let log = create(&d, &o);
    for i in 0..300u32 {
        let a = append(&log, &[i as u8; 700]);
        log.force(a.end, ForceReason::Commit).unwrap();
        assert_eq!(log.read(a.lsn).unwrap().undo(), &[i as u8; 700]);
    }
    assert_eq!(log.stats().syncs, 0);
    let d = d.crash(CrashModel::LoseUnsynced);
    assert_eq!(all(&d, &end(&d, &o).unwrap()).len(), 300);
}

#[test]
fn truncation_recycles_and_old_bytes_never_count() {
    let d = disk();
    let o = small();
    let events = Arc::new(AtomicU64::new(0));
    let seen = events.clone();
    let trace = Trace::new(Arc::new(move |e: &Event<'_>| {
        if let Event::LogSegment { recycled: true, .. } | Event::LogTruncate { .. } = e {
            seen.fetch_add(1, SeqCst);
        }
    }));
    let log = Log::create(dynamic(&d), o.clone(), ID, Log::FIRST, Arc::new(Poison::new()), trace).unwrap();
    let mut lsns = Vec::new();
    for i in 0..2000u32 {
        let a = append(&log, &[i as u8; 400]);
        lsns.push(a);
        if i % 50 == 49 {
            log.force(a.end, ForceReason::Checkpoint).unwrap();
            let keep = lsns[lsns.len() - 50].lsn;
            log.truncate(keep).unwrap();
            assert!(log.oldest() <= keep);
        }
    }
    let s = log.stats();
    assert!(s.segments_recycled > 5, "{s:?}");
    assert!(s.allocated_bytes <= 6 * o.segment_bytes, "{s:?}");
    assert!(events.load(SeqCst) > s.segments_recycled);
    let last = lsns[1950];
    assert_eq!(log.read(lsns[0].lsn).unwrap_err().kind(), ErrorKind::NotFound);
    drop(log);
    // The recycled files behind the end hold groups that were valid once, at other LSNs.
    let e = find_end(&dynamic(&d), &o, ID, last.lsn, last.end).unwrap();
    assert_eq!(e.verdict, Verdict::Clean);
    assert!(e.end >= lsns[1999].end);
    let mut r = LogReader::with_cache(&dynamic(&d), ID, &e, 0).unwrap();
    for a in lsns.iter().filter(|a| a.lsn >= e.oldest).rev() {
        assert_eq!(r.read(a.lsn).unwrap().unwrap().end, a.end);
    }
    let log = open(&d, &o, &e);
    let a = append(&log, b"goes on");
    log.force(a.end, ForceReason::Asked).unwrap();
}

#[test]
fn the_limit_is_for_users_only_and_not_sticky() {
    let d = disk();
    let o = LogOptions { limit_bytes: 5 * (64 << 10), ..small() };
    let log = create(&d, &o);
    let spec_bytes = [1u8; 2000];
    let spec = note(&spec_bytes);
    let bound = Log::record_bound(&spec);
    let mut last = Log::FIRST;
    let full = loop {
        match log.credit(bound, false) {
            Ok(mut c) => last = log.append(&spec, &mut c).unwrap().end,
            Err(e) => break e,
        }
    };
    assert_eq!(full.kind(), ErrorKind::LogFull);
    assert_eq!(log.stats().reserved_bytes, 0, "a refused credit leaves nothing in the accounts");
    let mut c = log.credit(bound, true).unwrap();
    last = last.max(log.append(&spec, &mut c).unwrap().end);
    drop(c);
    log.force(last, ForceReason::Commit).unwrap();
    log.truncate(last).unwrap();
    log.credit(bound, false).unwrap();
    let e = log.credit(1 << 20, false).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Limit);
}

/// Who makes segments ahead is woken when less than one is left, makes one, and then nobody else has to; at the limit it makes
/// none, and who needs space is told.
#[test]
fn segments_are_made_ahead() {
    let d = disk();
    let o = LogOptions { limit_bytes: 8 * (64 << 10), ..small() };
    let log = create(&d, &o);
    let made = || {
        let s = log.stats();
        s.segments_created + s.segments_recycled
    };
    let data = [1u8; 2000];
    // On a busy machine the other thread may listen too late: then this one has to make the segment, and tries again.
    let woken = (1..50).any(|attempt| {
        log.make_ahead().unwrap();
        let before = made();
        let woken = std::thread::scope(|s| {
            let waits = s.spawn(|| log.wait_space_wanted(std::time::Duration::from_secs(3600)));
            std::thread::sleep(std::time::Duration::from_millis(10 * attempt));
            while !waits.is_finished() && made() == before {
                append(&log, &data);
                std::thread::sleep(std::time::Duration::from_millis(attempt));
            }
            let woken = made() == before;
            log.wake_maker();
            woken
        });
        log.make_ahead().unwrap();
        let ahead = made();
        // Half a segment is there without making one.
        for _ in 0..16 {
            append(&log, &data);
        }
        assert_eq!(made(), ahead);
        log.force(log.tail(), ForceReason::Asked).unwrap();
        log.truncate(log.tail()).unwrap();
        woken
    });
    assert!(woken, "nobody was woken");
    let bound = Log::record_bound(&note(&data));
    while let Ok(mut c) = log.credit(bound, false) {
        log.append(&note(&data), &mut c).unwrap();
    }
    let full = made();
    log.make_ahead().unwrap();
    assert_eq!(made(), full);
    assert_eq!(log.credit(bound, false).unwrap_err().kind(), ErrorKind::LogFull);
}

#[test]
fn a_full_device_is_not_sticky_and_reserves_hold() {
    let d = disk();
    let o = small();
    let log = create(&d, &o);
    d.set_capacity(Some(d.used() + 10_000));
    let data = [2u8; 1000];
    let spec = note(&data);
    let bound = Log::record_bound(&spec);
    let mut reserve = log.credit(20 * bound, false).unwrap().take(20 * bound);
    let mut n = 0;
    let e = loop {
        match log.credit(bound, false) {
            Ok(mut c) => log.append(&spec, &mut c).unwrap(),
            Err(e) => break e,
        };
        n += 1;
    };
    assert_eq!(e.kind(), ErrorKind::NoSpace);
    assert!(n > 0);
    assert!(!log.poisoned().is_set());
    assert_eq!(log.stats().reserved_bytes, reserve);
    // Rollback goes on from its reserve: each record forced by itself, padding included, within the slack.
    for _ in 0..20 {
        let mut c = log.credit_from(&mut reserve, bound).unwrap();
        let a = log.append(&spec, &mut c).unwrap();
        drop(c);
        log.force(a.end, ForceReason::Commit).unwrap();
        n += 1;
    }
    assert_eq!(reserve, 0);
    assert_eq!(log.credit(bound, true).unwrap_err().kind(), ErrorKind::NoSpace);
    d.set_capacity(None);
    let mut c = log.credit(bound, false).unwrap();
    let a = log.append(&spec, &mut c).unwrap();
    log.force(a.end, ForceReason::Commit).unwrap();
    drop(c);
    assert_eq!(log.stats().reserved_bytes, 0);
    let d = d.crash(CrashModel::LoseUnsynced);
    assert_eq!(all(&d, &end(&d, &o).unwrap()).len(), n + 1);
}

/// When even a seal would pass the promised space, forcing says `NoSpace`, changes nothing, and works later.
#[test]
fn a_seal_without_room_waits_for_space() {
    let d = disk();
    let o = small();
    let log = create(&d, &o);
    d.set_capacity(Some(d.used()));
    let spec = note(b"x");
    let bound = Log::record_bound(&spec);
    let mut reserve = log.credit(400 * bound, false).unwrap().take(400 * bound);
    let mut refused = 0;
    let mut appended = Vec::new();
    for _ in 0..400 {
        let mut c = match log.credit_from(&mut reserve, bound) {
            Ok(c) => c,
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::NoSpace);
                break;
            }
        };
        let a = log.append(&spec, &mut c).unwrap();
        drop(c);
        appended.push(a);
        if let Err(e) = log.force(a.end, ForceReason::Commit) {
            assert_eq!(e.kind(), ErrorKind::NoSpace);
            refused += 1;
        }
    }
    assert!(refused > 0);
    assert!(!log.poisoned().is_set());
    d.set_capacity(None);
    log.flush_pending().unwrap();
    let d = d.crash(CrashModel::LoseUnsynced);
    assert_eq!(all(&d, &end(&d, &o).unwrap()).len(), appended.len());
}

#[test]
fn a_failed_sync_poisons_and_wakes_everybody() {
    let d = disk();
    let o = small();
    let log = Arc::new(create(&d, &o));
    let a = append(&log, b"safe");
    log.force(a.end, ForceReason::Commit).unwrap();
    d.inject(MemFault { at: 3, on: MemOp::Sync, once: true });
    let ok = AtomicU64::new(0);
    std::thread::scope(|s| {
        for _ in 0..6 {
            s.spawn(|| {
                for _ in 0..50 {
                    let spec = note(b"in flight");
                    let Ok(mut c) = log.credit(100, false) else { return };
                    let Ok(a) = log.append(&spec, &mut c) else { return };
                    match log.force(a.end, ForceReason::Commit) {
                        Ok(()) => ok.fetch_add(1, SeqCst),
                        Err(e) => {
                            assert_eq!(e.kind(), ErrorKind::Poisoned);
                            assert!(e.cause().unwrap().os_error().is_some());
                            return;
                        }
                    };
                }
            });
        }
    });
    assert!(log.poisoned().is_set());
    assert_eq!(log.credit(10, true).unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(log.truncate(Lsn(9999)).unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(log.ticket(log.tail()).wait().unwrap_err().kind(), ErrorKind::OutcomeUnknown);
    assert!(log.ticket(a.end).wait().is_ok(), "what was durable before stays acknowledged");
    let d = d.crash(CrashModel::LoseUnsynced);
    assert!(all(&d, &end(&d, &o).unwrap()).len() as u64 > ok.load(SeqCst));
}

/// Nothing becomes durable past a record that is reserved and not copied yet.
#[test]
fn a_force_waits_for_whoever_reserved_before() {
    let d = disk();
    let log = create(&d, &small());
    let (reserved_tx, reserved_rx) = std::sync::mpsc::channel();
    let finished = AtomicU64::new(0);
    std::thread::scope(|s| {
        let (log, finished) = (&log, &finished);
        s.spawn(move || {
            let mut c = log.credit(100, false).unwrap();
            log.append_with(&note(b"slow"), &mut c, |at| {
                reserved_tx.send(at).unwrap();
                std::thread::sleep(Duration::from_millis(40));
                finished.store(1, SeqCst);
            })
            .unwrap();
        });
        let slow = reserved_rx.recv().unwrap();
        let fast = append(log, b"fast");
        assert!(fast.lsn >= slow.end);
        log.force(slow.end, ForceReason::Commit).unwrap();
        assert_eq!(finished.load(SeqCst), 1);
        assert_eq!(log.read(slow.lsn).unwrap().undo(), b"slow");
        assert_eq!(log.read(fast.lsn).unwrap().undo(), b"fast");
    });
}

#[test]
fn a_panic_between_reservation_and_copy_poisons() {
    let d = disk();
    let log = create(&d, &small());
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut c = log.credit(100, false).unwrap();
        let _ = log.append_with(&note(b"x"), &mut c, |_| panic!("planned"));
    }));
    assert!(caught.is_err());
    assert_eq!(log.flush_pending().unwrap_err().kind(), ErrorKind::Poisoned);
}

#[test]
fn wrong_specs_are_refused_before_anything_happens() {
    let d = disk();
    let log = create(&d, &small());
    let mut c = log.credit(20, false).unwrap();
    let tail = log.tail();
    assert_eq!(log.append(&note(&[0; 100]), &mut c).unwrap_err().kind(), ErrorKind::Internal);
    let spec = RecordSpec { prev: Lsn(1 << 40), ..note(b"") };
    assert_eq!(log.append(&spec, &mut c).unwrap_err().kind(), ErrorKind::Internal);
    assert_eq!(log.force(Lsn(1 << 40), ForceReason::Asked).unwrap_err().kind(), ErrorKind::Internal);
    assert_eq!((log.tail(), c.left()), (tail, 20));
    log.append(&note(b""), &mut c).unwrap();
    assert!(log.flush_pending().unwrap());
    for o in [
        LogOptions { segment_bytes: 5000, ..small() },
        LogOptions { ring_bytes: 100_000, ..small() },
        LogOptions { pad: 100, ..small() },
        LogOptions { max_record: 1 << 20, ..small() },
    ] {
        let e = Log::create(dynamic(&disk()), o, ID, Log::FIRST, Arc::new(Poison::new()), Trace::silent())
            .unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidOption);
    }
}

/// A ring full of other operations' credits: admission waits until one of them ends.
#[test]
fn a_ring_full_of_credits_waits() {
    let d = disk();
    let log = create(&d, &small());
    let held = log.credit(40_000, false).unwrap();
    std::thread::scope(|s| {
        let t = s.spawn(|| log.credit(40_000, false).unwrap().left());
        std::thread::sleep(Duration::from_millis(30));
        assert!(!t.is_finished());
        drop(held);
        assert_eq!(t.join().unwrap(), 40_000);
    });
    // And with threads that fight for it.
    std::thread::scope(|s| {
        for t in 0..4u8 {
            let log = &log;
            s.spawn(move || {
                for i in 0..100 {
                    let mut c = log.credit(30_000, false).unwrap();
                    log.append(&note(&[t; 1500]), &mut c).unwrap();
                    let mut kept = c.take(1000);
                    drop(c);
                    if i % 2 == 0 {
                        let mut c = log.credit_from(&mut kept, 1500).unwrap();
                        assert_eq!(kept, 0);
                        log.append(&note(&[t; 900]), &mut c).unwrap();
                    }
                    log.give_back(kept);
                }
            });
        }
    });
    assert_eq!(log.stats().reserved_bytes, 0);
}

struct Flag(std::sync::atomic::AtomicBool);
impl std::task::Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn tickets_can_be_polled() {
    let d = disk();
    let log = Arc::new(create(&d, &small()));
    let a = append(&log, b"async");
    let mut ticket = log.ticket(a.end);
    let flag = Arc::new(Flag(false.into()));
    let waker = std::task::Waker::from(flag.clone());
    let mut cx = std::task::Context::from_waker(&waker);
    assert!(std::future::Future::poll(std::pin::Pin::new(&mut ticket), &mut cx).is_pending());
    assert!(!ticket.is_durable() && log.has_pending());
    std::thread::scope(|s| {
        s.spawn(|| {
            while !log.wait_pending(Duration::from_secs(5)) {}
            log.flush_pending().unwrap();
        });
    });
    assert!(flag.0.load(SeqCst) && ticket.is_durable() && !log.has_pending());
    assert!(std::future::Future::poll(std::pin::Pin::new(&mut ticket), &mut cx).is_ready());
    assert!(!log.wait_pending(Duration::from_millis(1)));
    let b = append(&log, b"lost");
    let mut ticket = log.ticket(b.end);
    assert!(std::future::Future::poll(std::pin::Pin::new(&mut ticket), &mut cx).is_pending());
    flag.0.store(false, SeqCst);
    log.poison(hamal_error::Error::internal("test"));
    assert!(flag.0.load(SeqCst));
    match std::future::Future::poll(std::pin::Pin::new(&mut ticket), &mut cx) {
        std::task::Poll::Ready(Err(e)) => assert_eq!(e.kind(), ErrorKind::OutcomeUnknown),
        other => panic!("{other:?}"),
    }
}

/// A waker that runs its task at once, which appends and waits for the log.
struct RunsAtOnce(Arc<Log>);
impl std::task::Wake for RunsAtOnce {
    fn wake(self: Arc<Self>) {
        let a = append(&self.0, b"of the task");
        self.0.force(a.end, ForceReason::Commit).unwrap();
    }
}

/// LOG-7: no foreign code runs while the log is led, or it would wait for its own thread.
#[test]
fn a_task_that_waits_for_the_log_is_woken_by_nobody_who_leads_it() {
    let d = disk();
    let log = Arc::new(create(&d, &small()));
    let poll = |to: Lsn, waker: std::task::Waker| {
        let mut ticket = log.ticket(to);
        let mut cx = std::task::Context::from_waker(&waker);
        assert!(std::future::Future::poll(std::pin::Pin::new(&mut ticket), &mut cx).is_pending());
    };
    let a = append(&log, b"async");
    poll(a.end, Arc::new(RunsAtOnce(log.clone())).into());
    // So many wait for more that the leader goes on.
    for n in 0..8 {
        poll(Lsn(a.end.0 + (1 << 20) + n), Arc::new(Flag(false.into())).into());
    }
    let (done, wait) = std::sync::mpsc::channel();
    let leader = log.clone();
    std::thread::spawn(move || {
        leader.force(a.end, ForceReason::Commit).unwrap();
        done.send(()).unwrap();
    });
    wait.recv_timeout(Duration::from_secs(30)).expect("the leader waits for itself");
    assert!(log.durable() > a.end, "the task was woken, and its record is durable");
}

#[test]
fn segment_size_pad_and_sync_may_change_between_opens() {
    let d = disk();
    let mut count = 0;
    let base = small();
    drop(create(&d, &base));
    for (segment_bytes, pad, sync) in [
        (128 << 10, 4096, SyncMethod::Fdatasync),
        (64 << 10, 512, SyncMethod::DirectDsync),
        (96 << 10, 1024, SyncMethod::Fdatasync),
    ] {
        let o = LogOptions { segment_bytes, pad, sync, ..base.clone() };
        let e = end(&d, &o).unwrap();
        let log = open(&d, &o, &e);
        for i in 0..200u32 {
            let a = append(&log, &[i as u8; 900]);
            if i % 7 == 0 {
                log.force(a.end, ForceReason::Commit).unwrap();
            }
            count += 1;
        }
        log.flush_pending().unwrap();
    }
    let e = end(&d, &base).unwrap();
    assert_eq!(all(&d, &e).len(), count);
}

#[test]
fn rewriting_segments_keeps_their_content() {
    let d = disk();
    let o = small();
    let log = create(&d, &o);
    for i in 0..200u32 {
        append(&log, &[i as u8; 900]);
    }
    log.flush_pending().unwrap();
    drop(log);
    // The disk in memory bypasses its cache, so nothing needs to be copied.
    assert_eq!(rewrite_segments(&dynamic(&d), Log::FIRST).unwrap(), 0);
    // The real one may or may not; the log is the same after.
    let dir = std::env::temp_dir().join(format!("hamal-log-rewrite-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    let real: Arc<dyn Disk> = Arc::new(hamal_disk::PosixDisk::create(&dir).unwrap());
    real.create_dir("wal").unwrap();
    let fresh = || (Arc::new(Poison::new()), Trace::silent());
    let (p, t) = fresh();
    let log = Log::create(real.clone(), o.clone(), ID, Log::FIRST, p, t).unwrap();
    let a = append(&log, b"on a real file system");
    log.force(a.end, ForceReason::Commit).unwrap();
    drop(log);
    let before = find_end(&real, &o, ID, Log::FIRST, a.end).unwrap();
    rewrite_segments(&real, Log::FIRST).unwrap();
    let after = find_end(&real, &o, ID, Log::FIRST, a.end).unwrap();
    assert_eq!(before.end, after.end);
    for sync in [SyncMethod::Fdatasync, SyncMethod::DirectDsync] {
        let e = find_end(&real, &o, ID, Log::FIRST, a.end).unwrap();
        let (p, t) = fresh();
        let log = Log::open(real.clone(), LogOptions { sync, ..o.clone() }, ID, &e, p, t).unwrap();
        for i in 0..100u32 {
            let a = append(&log, &[i as u8; 3000]);
            log.force(a.end, ForceReason::Commit).unwrap();
            assert_eq!(log.read(a.lsn).unwrap().undo(), &[i as u8; 3000]);
        }
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Everything that is durable and still held, from the first place where a record is known to start; also when the oldest
/// segment begins inside a record, and while others append.
#[test]
fn a_scan_sees_all_that_is_held_and_durable() {
    let (d, o) = (disk(), small());
    let log = create(&d, &o);
    let mut lsns = Vec::new();
    let mut cut = 0;
    for n in 0..400usize {
        let a = append(&log, &vec![n as u8; 900 + n]);
        lsns.push(a.lsn);
        if n % 7 == 0 {
            log.force(a.end, ForceReason::Commit).unwrap();
        }
        if n % 50 == 49 {
            log.truncate(Lsn(a.lsn.0.saturating_sub(70_000))).unwrap();
            let mut seen = Vec::new();
            log.scan(|r| seen.push(r.lsn)).unwrap();
            let durable: Vec<Lsn> = lsns.iter().copied().filter(|l| *l < log.durable()).collect();
            assert!(durable.ends_with(&seen), "{n}");
            // What is left out lies in the first group or two of the oldest segment.
            let missed = durable[..durable.len() - seen.len()].iter().filter(|l| **l >= log.oldest()).count();
            assert!(missed <= 8 && seen.len() > 30, "{n}: {missed} of {}", seen.len());
            cut += usize::from(log.oldest() > Log::FIRST);
        }
    }
    assert!(cut > 3);
}
