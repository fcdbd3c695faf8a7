//! The latch under the model checker: every interleaving of a few threads, with the weak memory that loom
//! models.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p hamal-latch --release --test loom`
#![cfg(loom)]

use std::panic::catch_unwind;

use hamal_latch::{Latch, Words};
use loom::sync::Arc;
use loom::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
    fence,
};
use loom::thread;

struct Pair {
    latch: Latch,
    a: AtomicU64,
    b: AtomicU64,
}

fn pair() -> Arc<Pair> {
    Arc::new(Pair { latch: Latch::new(), a: AtomicU64::new(0), b: AtomicU64::new(0) })
}

impl Pair {
    fn raise(&self) {
        let n = self.a.load(Relaxed);
        self.a.store(n + 1, Relaxed);
        self.b.store(n + 1, Relaxed);
    }

    fn write(&self) {
        self.latch.lock_exclusive();
        self.raise();
        self.latch.unlock_exclusive();
    }

    fn read_shared(&self) {
        self.latch.lock_shared();
        let (a, b) = (self.a.load(Relaxed), self.b.load(Relaxed));
        self.latch.unlock_shared();
        assert_eq!(a, b);
    }

    fn read_optimistic(&self) {
        if let Some(v) = self.latch.optimistic() {
            let (b, a) = (self.b.load(Relaxed), self.a.load(Relaxed));
            if self.latch.validate(v) {
                assert_eq!((a, b), (v, v), "validated, but torn");
            }
        }
    }
}

fn explore(preemptions: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(model);
}

/// No increment is lost, and nobody sleeps for ever (loom reports a deadlock).
#[test]
fn exclusive_excludes() {
    explore(Some(3), || {
        let p = pair();
        let q = p.clone();
        let other = thread::spawn(move || {
            q.write();
            q.write();
        });
        p.write();
        other.join().unwrap();
        assert_eq!(p.a.load(Relaxed), 3);
        assert_eq!(p.latch.optimistic(), Some(3));
    });
}

#[test]
fn three_writers_wake_each_other() {
    explore(Some(2), || {
        let p = pair();
        let others = [p.clone(), p.clone()].map(|q| thread::spawn(move || q.write()));
        p.write();
        for t in others {
            t.join().unwrap();
        }
        assert_eq!(p.a.load(Relaxed), 3);
    });
}

#[test]
fn shared_and_exclusive_wake_each_other() {
    explore(Some(3), || {
        let p = pair();
        let q = p.clone();
        let other = thread::spawn(move || q.write());
        p.read_shared();
        other.join().unwrap();
    });
    explore(Some(2), || {
        let p = pair();
        let (q, r) = (p.clone(), p.clone());
        let writer = thread::spawn(move || q.write());
        let reader = thread::spawn(move || r.read_shared());
        p.read_shared();
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

#[test]
fn two_writers_and_a_polite_reader() {
    explore(Some(2), || {
        let p = pair();
        let (q, r) = (p.clone(), p.clone());
        let one = thread::spawn(move || q.write());
        let two = thread::spawn(move || r.write());
        p.read_shared();
        one.join().unwrap();
        two.join().unwrap();
    });
}

#[test]
fn a_validated_read_is_never_torn() {
    explore(None, || {
        let p = pair();
        let q = p.clone();
        let writer = thread::spawn(move || q.write());
        p.read_optimistic();
        writer.join().unwrap();
    });
    explore(Some(3), || {
        let p = pair();
        let q = p.clone();
        let writer = thread::spawn(move || {
            q.write();
            q.write();
        });
        p.read_optimistic();
        writer.join().unwrap();
    });
}

/// The checker must be able to fail: a reader that validates before it reads, and a writer that forgets to
/// lock, are both caught.
#[test]
fn broken_uses_are_rejected() {
    let validates_too_early = catch_unwind(|| {
        explore(Some(3), || {
            let p = pair();
            let q = p.clone();
            let writer = thread::spawn(move || q.write());
            if let Some(v) = p.latch.optimistic()
                && p.latch.validate(v)
            {
                assert_eq!(p.a.load(Relaxed), p.b.load(Relaxed), "torn");
            }
            writer.join().unwrap();
        });
    });
    assert!(validates_too_early.is_err(), "loom accepted a read after its validation");

    let writes_without_latch = catch_unwind(|| {
        explore(Some(3), || {
            let p = pair();
            let q = p.clone();
            let writer = thread::spawn(move || q.raise());
            p.read_shared();
            writer.join().unwrap();
        });
    });
    assert!(writes_without_latch.is_err(), "loom accepted a write without the latch");
}

/// LATCH-5: a waiter gives up once what it waits for is no longer wanted, although the holder never lets go before.
#[test]
fn a_waiter_that_wants_no_longer_gives_up() {
    for exclusive in [false, true] {
        explore(Some(3), move || {
            let p = pair();
            // `a` stands for what the latch belongs to: 0 is wanted.
            p.latch.lock_exclusive();
            let q = p.clone();
            let waiter = thread::spawn(move || {
                let wanted = || q.a.load(Relaxed) == 0;
                let got = if exclusive {
                    q.latch.lock_exclusive_while(wanted)
                } else {
                    q.latch.lock_shared_while(wanted)
                };
                assert!(!got, "the holder has not let go");
            });
            p.a.store(1, Relaxed);
            p.latch.rouse();
            waiter.join().unwrap();
            p.latch.unlock_exclusive();
        });
    }
}

/// LATCH-5: a waiter that gives up passes on the wake-up that it may have taken: the other one gets the latch.
#[test]
fn giving_up_takes_no_wake_up_from_others() {
    explore(Some(2), || {
        let p = pair();
        p.latch.lock_exclusive();
        let (q, r) = (p.clone(), p.clone());
        let gives_up = thread::spawn(move || {
            if q.latch.lock_exclusive_while(|| q.b.load(Relaxed) == 0) {
                q.latch.unlock_exclusive();
            }
        });
        let wants = thread::spawn(move || {
            r.latch.lock_exclusive();
            r.latch.unlock_exclusive();
        });
        p.b.store(1, Relaxed);
        p.latch.rouse();
        p.latch.unlock_exclusive();
        gives_up.join().unwrap();
        wants.join().unwrap();
    });
}

/// The same with a reader that was polite to the writer which gave up.
#[test]
fn giving_up_lets_polite_readers_in() {
    explore(Some(2), || {
        let p = pair();
        p.latch.lock_shared();
        let (q, r) = (p.clone(), p.clone());
        let gives_up = thread::spawn(move || {
            if q.latch.lock_exclusive_while(|| q.b.load(Relaxed) == 0) {
                q.latch.unlock_exclusive();
            }
        });
        let reads = thread::spawn(move || {
            r.latch.lock_shared();
            r.latch.unlock_shared();
        });
        p.b.store(1, Relaxed);
        p.latch.rouse();
        gives_up.join().unwrap();
        reads.join().unwrap();
        p.latch.unlock_shared();
    });
}

/// LATCH-6: what a reader of words is handed back is of one writer.
#[test]
fn words_are_never_torn() {
    explore(Some(3), || {
        let words = Arc::new(Words::new(2));
        let writers = [5, 7].map(|n| {
            let words = words.clone();
            thread::spawn(move || {
                words.try_write(|w| {
                    w.set(0, n);
                    w.set(1, n);
                });
            })
        });
        if let Some((b, a)) = words.read(|w| (w.get(1), w.get(0))) {
            assert_eq!(a, b, "torn");
        }
        for w in writers {
            w.join().unwrap();
        }
        let last = words.read(|w| (w.get(0), w.get(1))).unwrap();
        assert!(last == (5, 5) || last == (7, 7));
    });
}

/// The same words with one step of the sequence lock left out.
struct Broken {
    version: AtomicU64,
    a: AtomicU64,
    b: AtomicU64,
    /// The writer's fence, the reader's fence, the reader's second look.
    has: [bool; 3],
}

impl Broken {
    fn write(&self) {
        self.version.store(1, Relaxed);
        if self.has[0] {
            fence(Release);
        }
        self.a.store(1, Relaxed);
        self.b.store(1, Relaxed);
        self.version.store(2, Release);
    }
    fn read(&self) {
        let before = self.version.load(Acquire);
        if before & 1 != 0 {
            return;
        }
        let (a, b) = (self.a.load(Relaxed), self.b.load(Relaxed));
        if self.has[1] {
            fence(Acquire);
        }
        if !self.has[2] || self.version.load(Relaxed) == before {
            assert_eq!(a, b, "torn");
        }
    }
}

fn broken_words(has: [bool; 3]) -> bool {
    catch_unwind(move || {
        explore(None, move || {
            let new = || AtomicU64::new(0);
            let p = Arc::new(Broken { version: new(), a: new(), b: new(), has });
            let q = p.clone();
            let writer = thread::spawn(move || q.write());
            p.read();
            writer.join().unwrap();
        });
    })
    .is_err()
}

#[test]
fn every_step_of_the_sequence_lock_is_needed() {
    assert!(!broken_words([true, true, true]));
    assert!(broken_words([false, true, true]), "loom accepted a writer without its fence");
    assert!(broken_words([true, false, true]), "loom accepted a reader without its fence");
    assert!(broken_words([true, true, false]), "loom accepted a reader that does not look again");
}

/// A parent that names the child which holds a key, and a route: a copy of what the parent says, made for a version of
/// its latch. Moving the key holds all three pages exclusively, as a merge does.
struct Family {
    parent: Latch,
    names: AtomicU64,
    children: [Latch; 2],
    holds: [AtomicU64; 2],
    route: Words,
}

impl Family {
    fn new() -> Arc<Family> {
        let family = Family {
            parent: Latch::new(),
            names: AtomicU64::new(0),
            children: [Latch::new(), Latch::new()],
            holds: [AtomicU64::new(1), AtomicU64::new(0)],
            route: Words::new(2),
        };
        Arc::new(family)
    }
    fn move_key(&self) {
        self.parent.lock_exclusive();
        for c in &self.children {
            c.lock_exclusive();
        }
        self.holds[0].store(0, Relaxed);
        self.holds[1].store(1, Relaxed);
        self.names.store(1, Relaxed);
        for c in &self.children {
            c.unlock_exclusive();
        }
        self.parent.unlock_exclusive();
    }
    /// Copies what the parent says, under its latch.
    fn learn(&self) {
        self.parent.lock_shared();
        let (version, child) = (self.parent.optimistic().unwrap(), self.names.load(Relaxed));
        self.route.try_write(|w| {
            w.set(0, version + 1);
            w.set(1, child);
        });
        self.parent.unlock_shared();
    }
    /// Goes to the child that the route names (BTREE-12); `looks_again` after it is latched.
    fn follow(&self, looks_again: bool) {
        let Some(version) = self.parent.optimistic() else { return };
        let Some((tag, child)) = self.route.read(|w| (w.get(0), w.get(1))) else { return };
        if tag != version + 1 {
            return;
        }
        let child = child as usize;
        self.children[child].lock_shared();
        if !looks_again || self.parent.validate(version) {
            assert_eq!(self.holds[child].load(Relaxed), 1, "sent to the wrong child");
        }
        self.children[child].unlock_shared();
    }
}

fn follow_while_moving(looks_again: bool) {
    explore(Some(2), move || {
        let family = Family::new();
        family.learn();
        let other = family.clone();
        let mover = thread::spawn(move || {
            other.move_key();
            other.learn();
        });
        family.follow(looks_again);
        mover.join().unwrap();
    });
}

#[test]
fn a_route_leads_to_the_child_that_the_parent_names() {
    follow_while_moving(true);
}

#[test]
fn a_route_that_is_not_checked_after_the_child_is_latched_is_rejected() {
    assert!(catch_unwind(|| follow_while_moving(false)).is_err(), "loom accepted it");
}
