//! Waiting, deadlocks, registrations.
use super::bench::*;
use crate::*;
use hamal_error::{Error, ErrorKind};
use hamal_page::*;
use hamal_trace::Trace;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

/// Waits until `n` waits have begun.
fn until_waits(b: &Bench, n: u64) {
    while b.m.stats().waits < n {
        sleep(Duration::from_millis(1));
    }
}

#[test]
fn two_waiters_are_woken_by_commit_and_by_rollback() {
    for commit in [true, false] {
        let b = Bench::new();
        let t = b.begin();
        b.set(&t, 0, 1, 5).unwrap();
        b.set(&t, 0, 2, 5).unwrap();
        scope(|s| {
            let go = |n| {
                let b = &b;
                s.spawn(move || {
                    let w = b.begin();
                    let r = b.change(&w, 0, n, |v| v + 1);
                    b.rollback(&w);
                    r
                })
            };
            let (w1, w2) = (go(1), go(2));
            until_waits(&b, 2);
            let start = Instant::now();
            if commit {
                b.commit(&t);
            } else {
                b.rollback(&t);
            }
            for r in [w1.join().unwrap(), w2.join().unwrap()] {
                match commit {
                    // Its snapshot is older than the commit it waited for: first updater wins.
                    true => assert_eq!(r.unwrap_err().kind(), ErrorKind::Conflict),
                    false => r.unwrap(),
                }
            }
            assert!(start.elapsed() < PROMPT);
        });
        let s = b.m.stats();
        assert_eq!((s.conflicts, s.active), (if commit { 2 } else { 0 }, 0));
    }
}

#[test]
fn a_partial_rollback_wakes() {
    let b = Bench::new();
    let t = b.begin();
    b.set(&t, 0, 9, 5).unwrap();
    let sp = b.m.savepoint(&t);
    b.set(&t, 0, 1, 5).unwrap();
    scope(|s| {
        let w = s.spawn(|| {
            let w = b.begin();
            b.change(&w, 0, 1, |v| v + 1).unwrap();
            b.commit(&w);
        });
        until_waits(&b, 1);
        b.m.rollback_to(&t, &sp).unwrap();
        w.join().unwrap();
    });
    assert_eq!(b.raw(0, 1).1, 1);
    b.commit(&t);
}

#[test]
fn a_wake_between_the_latch_and_the_wait_is_not_missed() {
    let b = Bench::new();
    let t = b.begin();
    b.set(&t, 0, 9, 5).unwrap();
    let sp = b.m.savepoint(&t);
    b.set(&t, 0, 1, 5).unwrap();
    scope(|s| {
        s.spawn(|| {
            let w = b.begin();
            {
                let page = b.m.pool().shared(PageId(0)).unwrap();
                assert!(b.m.check_write(&w, cell(&page, 1).0).is_err());
            }
            // Here the holder rolls back to the savepoint, and goes on living.
            b.m.rollback_to(&t, &sp).unwrap();
            let start = Instant::now();
            b.m.wait_for(&w, t.id()).unwrap();
            assert!(start.elapsed() < PROMPT);
            b.rollback(&w);
        });
    });
    b.commit(&t);
}

/// `n` transactions in `n` threads, each holding a cell and then asking for the next one's.
fn cycle(n: u64) {
    let b = Bench::new();
    let results: Vec<hamal_error::Result<()>> = scope(|s| {
        let barrier = Arc::new(std::sync::Barrier::new(n as usize));
        let threads: Vec<_> = (0..n)
            .map(|i| {
                let (b, barrier) = (&b, barrier.clone());
                s.spawn(move || {
                    let t = b.begin();
                    b.set(&t, 0, i, 1).unwrap();
                    barrier.wait();
                    let r = b.set(&t, 0, (i + 1) % n, 2);
                    b.rollback(&t);
                    r
                })
            })
            .collect();
        let start = Instant::now();
        let all = threads.into_iter().map(|t| t.join().unwrap()).collect();
        assert!(start.elapsed() < PROMPT);
        all
    });
    let errors: Vec<&Error> = results.iter().filter_map(|r| r.as_ref().err()).collect();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(errors[0].kind(), ErrorKind::Deadlock);
    let waits = errors[0].waits();
    assert_eq!(waits.len() as u64, n, "{}", errors[0]);
    for (i, w) in waits.iter().enumerate() {
        assert_eq!(w.holder, waits[(i + 1) % waits.len()].waiter, "{}", errors[0]);
        assert!(!w.waiter_id.is_none() && !w.by_thread);
    }
    assert_eq!(b.m.stats().deadlocks, 1);
}

#[test]
fn deadlocks_of_two_and_three_have_one_victim_each() {
    cycle(2);
    cycle(3);
}

#[test]
fn a_thread_does_not_wait_for_itself() {
    let b = Bench::new();
    let (t1, t2) = (b.begin(), b.begin());
    b.set(&t1, 0, 1, 1).unwrap();
    let start = Instant::now();
    let e = b.set(&t2, 0, 1, 2).unwrap_err();
    assert!(e.kind() == ErrorKind::Deadlock && e.message().contains("own thread"), "{e}");
    assert!(start.elapsed() < PROMPT);
    // Also through another thread: that one waits for t1, whose thread would wait for it.
    scope(|s| {
        let (send, receive) = mpsc::channel();
        let b = &b;
        let other = s.spawn(move || {
            let t3 = b.begin();
            b.set(&t3, 0, 3, 3).unwrap();
            send.send(()).unwrap();
            let r = b.set(&t3, 0, 1, 3);
            b.rollback(&t3);
            r
        });
        receive.recv().unwrap();
        until_waits(b, 1);
        let e = b.set(&t2, 0, 3, 2).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Deadlock, "{e}");
        b.rollback(&t2);
        b.rollback(&t1);
        other.join().unwrap().unwrap();
    });
}

#[test]
fn time_out_and_poison_end_a_wait() {
    let b =
        Bench::with(TxnOptions { lock_timeout: Duration::from_millis(80), ..txn_options() }, Trace::silent());
    let t = b.begin();
    b.set(&t, 0, 1, 5).unwrap();
    scope(|s| {
        s.spawn(|| {
            let w = b.begin();
            let e = b.set(&w, 0, 1, 6).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::LockTimeout);
            assert!(e.message().contains(&t.id().to_string()) && e.txn() == Some(t.id()), "{e}");
            b.rollback(&w);
        });
    });
    let b = Bench::new();
    let t = b.begin();
    b.set(&t, 0, 1, 5).unwrap();
    scope(|s| {
        let w = s.spawn(|| {
            let w = b.begin();
            b.set(&w, 0, 1, 6)
        });
        until_waits(&b, 1);
        b.m.log().poison(Error::internal("stop"));
        assert_eq!(w.join().unwrap().unwrap_err().kind(), ErrorKind::Poisoned);
    });
}

#[test]
fn registrations_share_exclude_upgrade_and_wait_in_turn() {
    let b = Bench::new();
    let m = &b.m;
    let (t1, t2) = (b.begin(), b.begin());
    m.register(&t1, TREE).unwrap();
    m.register(&t1, TREE).unwrap();
    m.register(&t2, TREE).unwrap();
    assert!(t1.is_registered(TREE) && !t1.is_registered(TreeId(8)));
    m.register_exclusive(&t1, TreeId(8)).unwrap();
    m.register(&t1, TreeId(8)).unwrap();
    scope(|s| {
        let dropper = s.spawn(|| {
            let d = b.begin();
            m.register_exclusive(&d, TREE).unwrap();
            assert!(t1.is_ended() && t2.is_ended());
            m.register_exclusive(&d, TREE).unwrap();
            let d_number = d.number();
            b.commit(&d);
            d_number
        });
        until_waits(&b, 1);
        // A newcomer waits for the pending one, though only shared holders are there.
        let newcomer = s.spawn(|| {
            let n = b.begin();
            m.register(&n, TREE).unwrap();
            assert!(t1.is_ended() && t2.is_ended());
            b.commit(&n);
        });
        until_waits(&b, 2);
        b.commit(&t1);
        sleep(Duration::from_millis(5));
        b.rollback(&t2);
        dropper.join().unwrap();
        newcomer.join().unwrap();
    });
    // Upgrade of the only holder.
    let t = b.begin();
    m.register(&t, TREE).unwrap();
    m.register_exclusive(&t, TREE).unwrap();
    b.commit(&t);
    assert_eq!(m.stats().active, 0);
}

#[test]
fn a_dropper_that_gives_up_lets_newcomers_in() {
    let b = Bench::new();
    let t = b.begin();
    b.m.register(&t, TREE).unwrap();
    scope(|s| {
        let (b, (came_in, has_come)) = (&b, mpsc::channel());
        let dropper = s.spawn(move || {
            let d = b.m.begin_with(Isolation::Snapshot, Some(Duration::from_millis(200))).unwrap();
            let e = b.m.register_exclusive(&d, TREE).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::LockTimeout);
            // Still live, and not in the way: it ends only after the newcomer.
            has_come.recv().unwrap();
            b.rollback(&d);
        });
        until_waits(b, 1);
        // In a thread of its own: this one's transaction is what the dropper waits for.
        s.spawn(move || {
            let n = b.begin();
            b.m.register(&n, TREE).unwrap();
            b.commit(&n);
            came_in.send(()).unwrap();
        });
        dropper.join().unwrap();
    });
    b.commit(&t);
}
