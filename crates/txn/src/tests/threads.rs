//! Many threads: isolation, the horizon, the table of a checkpoint.
use super::bench::*;
use hamal_page::*;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::thread::scope;
use std::time::{Duration, Instant};

const RUN: Duration = Duration::from_millis(1200);
/// What is waited for on a slow machine comes long before, or never.
const HANG: Duration = Duration::from_secs(120);

#[test]
fn money_is_neither_made_nor_lost_in_any_snapshot() {
    let b = Bench::new();
    let t = b.begin();
    for n in 0..6 {
        b.set(&t, n % 3, n, 100).unwrap();
    }
    b.commit(&t).ticket.wait().unwrap();
    let stop = AtomicBool::new(false);
    let commits = AtomicU64::new(0);
    scope(|s| {
        let _stop = StopOnDrop(&stop);
        for w in 0..3u64 {
            let (b, stop, commits) = (&b, &stop, &commits);
            s.spawn(move || {
                let mut x = w + 1;
                while !stop.load(Relaxed) {
                    let mut rnd = |n: u64| {
                        x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                        (x >> 33) % n
                    };
                    let (from, to, n) = (rnd(6), rnd(6), rnd(20));
                    let t = b.begin();
                    let go = || {
                        b.change(&t, from % 3, from, |v| v.wrapping_sub(n))?;
                        b.change(&t, to % 3, to, |v| v.wrapping_add(n))
                    };
                    match go() {
                        Ok(()) if rnd(4) != 0 => {
                            let done = b.commit(&t);
                            if rnd(8) == 0 {
                                done.ticket.wait().unwrap();
                            }
                            commits.fetch_add(1, Relaxed);
                        }
                        Ok(()) => b.rollback(&t),
                        Err(e) if e.is_retryable() => b.rollback(&t),
                        Err(e) => panic!("{e}"),
                    }
                }
            });
        }
        for _ in 0..2 {
            let (b, stop) = (&b, &stop);
            s.spawn(move || {
                while !stop.load(Relaxed) {
                    let snapshot = b.m.snapshot().unwrap();
                    let sum = |view: &crate::View| {
                        (0..6).map(|n| b.get(view, n % 3, n).unwrap()).fold(0u64, u64::wrapping_add)
                    };
                    for _ in 0..3 {
                        assert_eq!(sum(&snapshot.view()), 600);
                        assert!(b.m.horizon() <= snapshot.lsn(), "the horizon passed an open snapshot");
                        b.m.collect();
                    }
                    drop(snapshot);
                    let w = b.begin();
                    assert_eq!(sum(&w.view()), 600, "a writer's snapshot");
                    b.commit(&w);
                }
            });
        }
        let start = Instant::now();
        while start.elapsed() < RUN || commits.load(Relaxed) <= 50 && start.elapsed() < HANG {
            b.m.log().force(b.m.log().tail(), hamal_trace::ForceReason::Asked).unwrap();
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    assert!(commits.load(Relaxed) > 50);
    let w = b.begin();
    b.commit(&w).ticket.wait().unwrap();
    b.m.log().force(b.m.log().tail(), hamal_trace::ForceReason::Asked).unwrap();
    b.m.collect();
    let s = b.m.stats();
    assert_eq!((s.active, s.snapshots, s.statuses, s.versions), (0, 0, 0, 0), "{s:?}");
}

/// Ends the other threads of a test however its own one ends.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn whoever_sees_the_second_commit_sees_the_first() {
    // T1 sets cell 0 to n; T2, begun after T1 committed visibly, copies it into cell 1 of another page.
    let b = Bench::new();
    let stop = AtomicBool::new(false);
    scope(|s| {
        let _stop = StopOnDrop(&stop);
        for _ in 0..2 {
            s.spawn(|| {
                while !stop.load(Relaxed) {
                    let snapshot = b.m.snapshot().unwrap();
                    let second = b.get(&snapshot.view(), 1, 1).unwrap();
                    let first = b.get(&snapshot.view(), 0, 0).unwrap();
                    assert!(first >= second, "saw copy {second} and original {first}");
                    b.m.collect();
                }
            });
        }
        let start = Instant::now();
        let mut n = 0;
        while start.elapsed() < RUN / 2 {
            n += 1;
            let t1 = b.begin();
            b.set(&t1, 0, 0, n).unwrap();
            b.commit(&t1);
            let t2 = b.begin();
            let seen = b.get(&t2.view(), 0, 0).unwrap();
            assert_eq!(seen, n);
            b.set(&t2, 1, 1, seen).unwrap();
            let done = b.commit(&t2);
            if n % 16 == 0 {
                done.ticket.wait().unwrap();
            }
        }
        stop.store(true, Relaxed);
    });
}

#[test]
fn the_table_misses_no_record_below_the_begin_record() {
    // Every record reserved before the scan began is covered by the table, or its transaction has ended.
    let b = Bench::new();
    let stop = AtomicBool::new(false);
    let mut scans = Vec::new();
    scope(|s| {
        for w in 0..3u64 {
            let (b, stop) = (&b, &stop);
            s.spawn(move || {
                let mut i = 0;
                while !stop.load(Relaxed) {
                    i += 1;
                    let t = b.begin();
                    for k in 0..(i % 3) + 1 {
                        b.set(&t, w, k, i).unwrap();
                    }
                    if i % 2 == 0 {
                        b.rollback(&t);
                    } else {
                        b.commit(&t);
                    }
                }
            });
        }
        let start = Instant::now();
        while start.elapsed() < RUN / 2 || scans.len() < 50 {
            let begin = b.m.log().tail();
            let att = b.m.att();
            scans.push((begin, att, b.m.log().tail()));
            std::thread::sleep(Duration::from_micros(300));
        }
        stop.store(true, Relaxed);
    });
    use hamal_log::RecordKind::*;
    let records = b.records();
    let mut checked = 0;
    for (begin, att, after) in scans {
        let mut live: std::collections::BTreeMap<TxnId, Lsn> = Default::default();
        for r in records.iter().take_while(|r| r.lsn < begin).filter(|r| !r.txn.is_none()) {
            match r.kind {
                Commit | End => live.remove(&r.txn),
                _ => live.insert(r.txn, r.lsn),
            };
        }
        for (id, last) in live {
            checked += 1;
            match att.iter().find(|e| e.txn == id) {
                Some(e) => assert!(e.last >= last && e.undo_next <= e.last),
                // It ended between the begin record and the scan; analysis meets the record that says so.
                None => assert!(records.iter().any(|r| r.txn == id
                    && matches!(r.kind, Commit | End)
                    && r.lsn >= begin
                    && r.lsn < after)),
            }
        }
    }
    assert!(checked > 10, "{checked}");
}
