//! Crashes at random moments of random histories, then redo, compared with the truth: one thread with the cleaner's steps
//! interleaved by the seed, and many threads.
use super::Step;
use super::bench::*;
use crate::*;
use hamal_disk::{CrashModel, MemDisk};
use hamal_log::Log;
use hamal_page::*;
use hamal_trace::{ForceReason, WriteReason};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

const PAGES: u64 = 12;

/// What a seed decides.
struct Play {
    rng: Rng,
    live: Vec<bool>,
    begun: Option<Lsn>,
    control: Control,
    crashes: Vec<(MemDisk, Control)>,
    disk: MemDisk,
}

impl Play {
    /// One action; `held` is a page that this thread has latched itself.
    fn act(&mut self, pool: &Pool, held: Option<u64>) {
        let p = self.rng.below(PAGES);
        let other = held != Some(p);
        match self.rng.below(100) {
            0..45 if self.live[p as usize] && other => {
                pool.bump(p);
            }
            45..55 if self.live[p as usize] && other => {
                let bytes: Vec<u8> =
                    (0..self.rng.below(900)).map(|i| (i as u8).wrapping_mul(p as u8)).collect();
                pool.update(p, PUT, &put(100 + self.rng.below(3000) as u16, &bytes)).unwrap();
            }
            55..60 if self.live[p as usize] && other => {
                pool.free_page(p);
                self.live[p as usize] = false;
            }
            60..68 if !self.live[p as usize] && other => {
                pool.init_in_flight(p);
                self.live[p as usize] = true;
            }
            68..76 if held.is_none() => match self.begun.take() {
                None => self.begun = Some(pool.begin()),
                Some(begin) => self.control = pool.finish(begin, &self.control).unwrap(),
            },
            76..84 => {
                let model = match self.rng.below(8) {
                    0 => CrashModel::LoseUnsynced,
                    1 => CrashModel::KeepAll,
                    n => CrashModel::Random {
                        seed: self.rng.next(),
                        torn_sector_bytes: if n < 6 { 512 } else { 4096 },
                    },
                };
                if self.crashes.len() < 6 && self.rng.below(2) == 0 {
                    self.crashes.push((self.disk.crash(model), self.control.clone()));
                }
            }
            84..88 => pool.log().force(pool.log().tail(), ForceReason::Asked).unwrap(),
            _ => {}
        }
    }
}

fn play(seed: u64) {
    let b = Bench::with_pages(PAGES);
    let play = Arc::new(Mutex::new(Play {
        rng: Rng(seed),
        live: vec![true; PAGES as usize],
        begun: None,
        control: Control::default(),
        crashes: Vec::new(),
        disk: b.disk.clone(),
    }));
    let inner = play.clone();
    b.pool.hook.set(move |pool, step, page| {
        if step == Step::TailRead {
            return;
        }
        let mut play = inner.lock();
        let held = (step == Step::Copied).then_some(page.0);
        for _ in 0..play.rng.below(3) {
            play.act(pool, held);
        }
    });
    for _ in 0..80 {
        let clean = {
            let mut play = play.lock();
            let clean = play.rng.below(5) == 0;
            if !clean {
                play.act(&b.pool, None);
            }
            clean.then(|| 1 + play.rng.below(5) as usize)
        };
        if let Some(max) = clean {
            b.pool.clean(Lsn::MAX, max, WriteReason::Cleaner).unwrap();
        }
    }
    b.pool.hook.clear();
    b.pool.check_at_rest();
    let mut play = play.lock();
    let last = (b.crash(CrashModel::Random { seed, torn_sector_bytes: 512 }), play.control.clone());
    play.crashes.push(last);
    b.pool.flush_all(WriteReason::Asked).unwrap();
    assert_eq!(b.pool.log().stats().reserved_bytes, 0, "seed {seed}");
    b.pool.check_at_rest();
    let mut rng = Rng(!seed);
    for (disk, control) in &play.crashes {
        crash_recovery_too(disk, control, &mut rng);
    }
}

/// Recovers; writes a part of it back; crashes; recovers again from the same redo point.
fn crash_recovery_too(disk: &MemDisk, control: &Control, rng: &mut Rng) {
    let once = recover(disk, control);
    for _ in 0..rng.below(3) {
        once.pool.clean(Lsn::MAX, 1 + rng.below(4) as usize, WriteReason::Recovery).unwrap();
    }
    let torn_sector_bytes = 512;
    let twice = recover(&once.crash(CrashModel::Random { seed: rng.next(), torn_sector_bytes }), control);
    let third = twice.checkpoint(control);
    twice.pool.flush_all(WriteReason::Recovery).unwrap();
    recover(&twice.crash(CrashModel::Random { seed: rng.next(), torn_sector_bytes }), &third);
}

#[test]
fn random_histories_survive_torn_crashes() {
    let seeds = std::env::var("HAMAL_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(60);
    for seed in 0..seeds {
        if let Err(e) = std::panic::catch_unwind(|| play(seed)) {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(e);
        }
    }
}

/// Changers, the cleaner and the checkpointer on threads of their own; the crash comes from outside.
#[test]
fn racing_threads_survive_torn_crashes() {
    for seed in 0..6 {
        let b = Bench::with_pages(PAGES * 8);
        let stop = AtomicBool::new(false);
        let control = Mutex::new(Control::default());
        let mut crashes = Vec::new();
        std::thread::scope(|s| {
            let (pool, stop, control) = (&b.pool, &stop, &control);
            for t in 0..3 {
                s.spawn(move || {
                    let mut rng = Rng(seed * 10 + t);
                    while !stop.load(SeqCst) {
                        let p = rng.below(PAGES * 8);
                        match rng.below(20) {
                            // Only one thread frees and makes pages: who frees owns the id.
                            0 if p % 3 == t => {
                                pool.free_page(p);
                                pool.init(p);
                            }
                            _ if p % 3 == t => drop(pool.bump(p)),
                            _ => drop(pool.shared(PageId(p)).map(|x| counter(&x))),
                        }
                    }
                });
            }
            s.spawn(move || {
                while !stop.load(SeqCst) {
                    pool.clean(Lsn::MAX, 8, WriteReason::Cleaner).unwrap();
                }
            });
            s.spawn(move || {
                while !stop.load(SeqCst) {
                    let last = control.lock().clone();
                    let new = pool.checkpoint(&last).unwrap();
                    *control.lock() = new;
                }
            });
            for n in 0..4 {
                std::thread::sleep(std::time::Duration::from_millis(15));
                // Read before the crash: an older slot of the control file serves as well.
                let known = control.lock().clone();
                let model = CrashModel::Random { seed: seed * 100 + n, torn_sector_bytes: 512 };
                crashes.push((b.crash(model), known));
            }
            stop.store(true, SeqCst);
        });
        b.pool.check_at_rest();
        for (disk, control) in &crashes {
            recover(disk, control);
        }
        assert!(b.pool.log().tail() > Log::FIRST);
    }
}
