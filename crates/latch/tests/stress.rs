//! Many threads on one latch, with the standard library's atomics and the real futex.
#![cfg(not(loom))]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use hamal_latch::Latch;

/// Runs `work`; a lost wake-up shows as a timeout instead of a test that never ends.
fn in_time(work: impl FnOnce() + Send + 'static) {
    let (done, wait) = mpsc::channel();
    let thread = thread::spawn(move || {
        work();
        let _ = done.send(());
    });
    match wait.recv_timeout(Duration::from_secs(300)) {
        Ok(()) => thread.join().unwrap(),
        Err(mpsc::RecvTimeoutError::Disconnected) => thread.join().unwrap(),
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("threads sleep for ever"),
    }
}

#[derive(Default)]
struct Pair {
    latch: Latch,
    a: AtomicU64,
    b: AtomicU64,
}

impl Pair {
    fn raise(&self) {
        let n = self.a.load(Relaxed);
        assert_eq!(n, self.b.load(Relaxed));
        self.a.store(n + 1, Relaxed);
        if n.is_multiple_of(64) {
            // Held long enough that others stop spinning and sleep.
            thread::yield_now();
        }
        self.b.store(n + 1, Relaxed);
    }
}

#[test]
fn basics() {
    let l = Latch::new();
    let v = l.optimistic().unwrap();
    assert!(l.try_lock_shared() && l.try_lock_shared() && !l.try_lock_exclusive());
    assert!(l.validate(v), "shared holders change nothing");
    l.unlock_shared();
    l.unlock_shared();
    assert!(l.try_lock_exclusive() && !l.try_lock_exclusive() && !l.try_lock_shared());
    assert!(!l.validate(v) && l.optimistic().is_none());
    l.unlock_exclusive();
    assert!(!l.validate(v));
    assert_eq!(l.optimistic(), Some(v + 1));
    assert!(size_of::<Latch>() <= 16 || !cfg!(target_os = "linux"));
}

#[test]
fn shared_exclusive_and_optimistic_together() {
    in_time(|| {
        let p = Pair::default();
        let stop = AtomicBool::new(false);
        let optimistic_reads = AtomicU64::new(0);
        thread::scope(|s| {
            let writers: Vec<_> = (0..3)
                .map(|_| {
                    s.spawn(|| {
                        for _ in 0..20_000 {
                            p.latch.lock_exclusive();
                            p.raise();
                            p.latch.unlock_exclusive();
                        }
                    })
                })
                .collect();
            for _ in 0..2 {
                s.spawn(|| {
                    while !stop.load(Relaxed) {
                        p.latch.lock_shared();
                        let (a, b) = (p.a.load(Relaxed), p.b.load(Relaxed));
                        p.latch.unlock_shared();
                        assert_eq!(a, b);
                    }
                });
            }
            s.spawn(|| {
                // At least once: on one core it may not have had a turn before the writers are done.
                while !stop.load(Relaxed) || optimistic_reads.load(Relaxed) == 0 {
                    let Some(v) = p.latch.optimistic() else { continue };
                    let (a, b) = (p.a.load(Relaxed), p.b.load(Relaxed));
                    if p.latch.validate(v) {
                        assert_eq!(a, b);
                        assert_eq!(a, v);
                        optimistic_reads.fetch_add(1, Relaxed);
                    }
                }
            });
            for w in writers {
                w.join().unwrap();
            }
            stop.store(true, Relaxed);
        });
        assert_eq!(p.a.load(Relaxed), 60_000);
        assert_eq!(p.latch.optimistic(), Some(60_000));
    });
}

/// Readers overlap so that the latch is never free by chance; a writer must get in all the same.
#[test]
fn readers_do_not_starve_a_writer() {
    in_time(|| {
        let p = Pair::default();
        let stop = AtomicBool::new(false);
        thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    while !stop.load(Relaxed) {
                        p.latch.lock_shared();
                        thread::sleep(Duration::from_micros(200));
                        p.latch.unlock_shared();
                    }
                });
            }
            for _ in 0..200 {
                p.latch.lock_exclusive();
                p.raise();
                p.latch.unlock_exclusive();
            }
            stop.store(true, Relaxed);
        });
    });
}

/// Writers without a pause: a reader must get in all the same.
#[test]
fn writers_do_not_starve_a_reader() {
    in_time(|| {
        let p = Pair::default();
        let stop = AtomicBool::new(false);
        thread::scope(|s| {
            for _ in 0..3 {
                s.spawn(|| {
                    while !stop.load(Relaxed) {
                        p.latch.lock_exclusive();
                        p.raise();
                        p.latch.unlock_exclusive();
                    }
                });
            }
            for _ in 0..200 {
                p.latch.lock_shared();
                assert_eq!(p.a.load(Relaxed), p.b.load(Relaxed));
                p.latch.unlock_shared();
            }
            stop.store(true, Relaxed);
        });
    });
}

/// Long holds, so that everybody sleeps in the kernel all the time.
#[test]
fn sleepers_are_woken() {
    in_time(|| {
        let p = Pair::default();
        thread::scope(|s| {
            for i in 0..6 {
                let p = &p;
                s.spawn(move || {
                    for _ in 0..150 {
                        if i % 2 == 0 {
                            p.latch.lock_exclusive();
                            p.raise();
                            thread::sleep(Duration::from_micros(100));
                            p.latch.unlock_exclusive();
                        } else {
                            p.latch.lock_shared();
                            assert_eq!(p.a.load(Relaxed), p.b.load(Relaxed));
                            thread::sleep(Duration::from_micros(100));
                            p.latch.unlock_shared();
                        }
                    }
                });
            }
        });
        assert_eq!(p.a.load(Relaxed), 450);
    });
}

#[test]
fn the_shared_count_does_not_overflow() {
    let l = Latch::new();
    let mut n = 0;
    while l.try_lock_shared() {
        n += 1;
    }
    assert_eq!(n, 2047);
    assert!(!l.try_lock_exclusive());
    thread::scope(|s| {
        let late = s.spawn(|| l.lock_shared());
        thread::sleep(Duration::from_millis(20));
        l.unlock_shared();
        late.join().unwrap();
    });
    for _ in 0..2047 {
        l.unlock_shared();
    }
    assert!(l.try_lock_exclusive());
}

/// LATCH-5: waiters that give up, all the time, cost nobody else a wake-up.
#[test]
fn giving_up_strands_nobody() {
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
    let latch = Latch::new();
    let wanted = AtomicU64::new(0);
    std::thread::scope(|s| {
        for t in 0..4u64 {
            let (latch, wanted) = (&latch, &wanted);
            s.spawn(move || {
                for n in 0..3000u64 {
                    let before = wanted.load(SeqCst);
                    let still = || wanted.load(SeqCst) == before;
                    if (t + n) % 3 == 0 {
                        if latch.lock_shared_while(still) {
                            latch.unlock_shared();
                        }
                    } else if latch.lock_exclusive_while(still) {
                        std::thread::yield_now();
                        latch.unlock_exclusive();
                    }
                }
            });
        }
        for t in 0..4u64 {
            let (latch, wanted) = (&latch, &wanted);
            s.spawn(move || {
                for n in 0..3000u64 {
                    if (t + n) % 2 == 0 {
                        latch.lock_exclusive();
                        wanted.fetch_add(1, SeqCst);
                        latch.rouse();
                        std::thread::yield_now();
                        latch.unlock_exclusive();
                    } else {
                        latch.lock_shared();
                        latch.unlock_shared();
                    }
                }
            });
        }
    });
}

/// The exclusive latch at a version: not while anybody holds it, and not after anybody has held it exclusively.
#[test]
fn a_latch_is_taken_at_its_version_only() {
    let latch = Latch::new();
    latch.lock_exclusive();
    let seen = latch.version_to_come();
    assert!(!latch.try_lock_exclusive_at(seen), "it is held");
    latch.unlock_exclusive();
    assert_eq!(latch.optimistic(), Some(seen));
    latch.lock_shared();
    assert!(!latch.try_lock_exclusive_at(seen), "it is held shared");
    latch.unlock_shared();
    assert!(latch.try_lock_exclusive_at(seen), "a reader does not matter");
    assert!(!latch.try_lock_exclusive());
    latch.unlock_exclusive();
    assert!(!latch.try_lock_exclusive_at(seen), "somebody has held it");
    assert!(latch.try_lock_exclusive_at(seen + 1));
    latch.unlock_exclusive();
}
