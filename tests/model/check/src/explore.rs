//! Schedules: who runs next is drawn from a seed, in one of several manners, and a failure names the seed.
use hamal_mutants::{Mutant, choose};
use shuttle::rand::RngCore;
use shuttle::scheduler::{Schedule, Scheduler, Task, TaskId};
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::rc::Rc;
use std::sync::Once;

/// SplitMix64.
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.draw() % n
    }
}

/// How the next one is found.
#[derive(Debug)]
enum Manner {
    /// The running one goes on, but for one time in so many.
    Bursts(u64),
    /// Priorities, drawn once; the running one gets the lowest at a few steps drawn before (probabilistic concurrency testing:
    /// Burckhardt et al., ASPLOS 2010), and whenever it says that it waits.
    Priorities { of: HashMap<TaskId, u64>, changes: Vec<u64>, lowest: u64 },
    /// One thread falls asleep at a step of its own, for long; wakes, goes on for a few steps, and falls asleep again. The
    /// others go on in bursts.
    Naps(Naps),
}

#[derive(Debug)]
struct Naps {
    /// The thread, counted from the first that is not the main one.
    who: usize,
    /// Its steps until the next nap.
    awake: u64,
    /// The step at which the present one ends.
    until: u64,
    naps: u64,
}

impl Naps {
    fn new(rng: &mut Rng) -> Naps {
        let scale = 1 << (1 + rng.below(9));
        Naps { who: 1 + rng.below(4) as usize, awake: 1 + rng.below(scale), until: 0, naps: 1 + rng.below(4) }
    }

    fn next(
        &mut self,
        ids: &[TaskId],
        here: Option<TaskId>,
        yields: bool,
        step: u64,
        rng: &mut Rng,
    ) -> TaskId {
        let is = |id: &TaskId| usize::from(*id) == self.who;
        if here.is_some_and(|h| is(&h)) && self.naps > 0 {
            self.awake -= 1;
            if self.awake == 0 {
                self.naps -= 1;
                self.until = step + 10 * 4u64.pow(rng.below(5) as u32);
                self.awake = 1 + rng.below(5);
            }
        }
        let asleep = step < self.until;
        let up: Vec<TaskId> = ids.iter().copied().filter(|id| !asleep || !is(id)).collect();
        let up = if up.is_empty() { ids } else { &up };
        match here.filter(|h| up.contains(h)) {
            Some(here) if !yields && rng.below(12) != 0 => here,
            _ => up[rng.below(up.len() as u64) as usize],
        }
    }
}

/// Draws schedules from seeds, one after another.
struct Seeds {
    next: u64,
    left: u64,
    current: Rc<Cell<u64>>,
    rng: Rng,
    data: Rng,
    manner: Manner,
    /// Steps of this execution at which there was a choice, and of the longest one so far.
    step: u64,
    longest: u64,
}

impl Seeds {
    fn new(first: u64, count: u64, current: Rc<Cell<u64>>) -> Seeds {
        let rng = Rng(0);
        Seeds {
            next: first,
            left: count,
            current,
            data: rng.clone(),
            rng,
            manner: Manner::Bursts(2),
            step: 0,
            // A guess, not what was seen: the same seed must give the same schedule.
            longest: 3000,
        }
    }
}

impl Scheduler for Seeds {
    fn new_execution(&mut self) -> Option<Schedule> {
        self.left = self.left.checked_sub(1)?;
        let seed = self.next;
        self.next += 1;
        self.current.set(seed);
        self.rng = Rng(seed);
        self.data = Rng(!seed);
        self.step = 0;
        self.manner = match self.rng.below(12) {
            0 => Manner::Bursts(2),
            1 => Manner::Bursts(6),
            2 => Manner::Bursts(20),
            3 => Manner::Bursts(80),
            4..8 => Manner::Naps(Naps::new(&mut self.rng)),
            _ => {
                let scale = self.longest >> self.rng.below(6);
                let changes = (0..1 + self.rng.below(4)).map(|_| self.rng.below(scale)).collect();
                Manner::Priorities { of: HashMap::new(), changes, lowest: 1 << 32 }
            }
        };
        Some(Schedule::new(seed))
    }

    fn next_task(&mut self, runnable: &[&Task], current: Option<TaskId>, yields: bool) -> Option<TaskId> {
        let ids: Vec<TaskId> = runnable.iter().map(|t| t.id()).collect();
        if let [only] = ids[..] {
            return Some(only);
        }
        self.step += 1;
        let rng = &mut self.rng;
        let here = current.filter(|c| ids.contains(c));
        match &mut self.manner {
            Manner::Bursts(n) => match here {
                Some(here) if !yields && rng.below(*n) != 0 => Some(here),
                _ => Some(ids[rng.below(ids.len() as u64) as usize]),
            },
            Manner::Naps(naps) => Some(naps.next(&ids, here, yields, self.step, rng)),
            Manner::Priorities { of, changes, lowest } => {
                for id in &ids {
                    of.entry(*id).or_insert_with(|| (1 << 33) + rng.below(1 << 32));
                }
                if let Some(here) = here
                    && (yields || changes.contains(&self.step))
                {
                    *lowest -= 1;
                    of.insert(here, *lowest);
                }
                ids.into_iter().max_by_key(|id| of[id])
            }
        }
    }

    fn next_u64(&mut self) -> u64 {
        self.data.draw()
    }
}

/// A number below `n` that the seed decides.
pub fn pick(n: u64) -> u64 {
    shuttle::rand::thread_rng().next_u64() % n
}

/// How many times as many schedules as usual: `HAMAL_MODEL_DEPTH`.
pub fn depth() -> u64 {
    std::env::var("HAMAL_MODEL_DEPTH").ok().and_then(|s| s.parse().ok()).unwrap_or(1)
}

/// One seed instead of all: `HAMAL_MODEL_SEED`.
fn one_seed() -> Option<u64> {
    std::env::var("HAMAL_MODEL_SEED").ok().and_then(|s| s.parse().ok())
}

fn config() -> Config {
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    config.failure_persistence = FailurePersistence::None;
    config.max_steps = MaxSteps::FailAfter(2_000_000);
    config.silence_warnings = true;
    config.ungraceful_shutdown_config.immediately_return_on_panic = true;
    config
}

thread_local! {
    /// Whether this thread explores, and what panicked first in the schedule that failed.
    static FIRST: RefCell<Option<Option<String>>> = const { RefCell::new(None) };
}

/// Has a panic inside an execution be kept, and not printed: shuttle forgets the text of those in spawned threads.
fn keep_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |info| {
            let kept = FIRST.with_borrow_mut(|first| {
                let first = first.as_mut()?;
                let text = info.payload_as_str().unwrap_or_default();
                let at = info.location().map(|l| format!("{}:{}", l.file(), l.line())).unwrap_or_default();
                first.get_or_insert_with(|| format!("{text} ({at})"));
                Some(())
            });
            if kept.is_none() {
                before(info);
            }
        }));
    });
}

/// Runs `f` under `count` schedules from the seed `first` on. The seed that failed, and how.
fn explore(first: u64, count: u64, f: impl Fn() + Send + Sync + 'static) -> Result<(), (u64, String)> {
    let current = Rc::new(Cell::new(0));
    let seeds = Seeds::new(first, count, current.clone());
    keep_panics();
    FIRST.set(Some(None));
    let run = AssertUnwindSafe(|| Runner::new(seeds, config()).run(f));
    let done = catch_unwind(run).map(|_| ());
    let text = FIRST.take().flatten().unwrap_or_default();
    done.map_err(|_| (current.get(), text))
}

/// No schedule breaks `f`.
///
/// # Panics
/// If one does, with its seed.
pub fn accepts(count: u64, f: impl Fn() + Send + Sync + 'static) {
    choose(None);
    let (first, count) = one_seed().map_or((0, count * depth()), |seed| (seed, 1));
    if let Err((seed, text)) = explore(first, count, f) {
        panic!("HAMAL_MODEL_SEED={seed}: {text}");
    }
}

/// With the planted bug some schedule breaks `f`; returns how.
///
/// # Panics
/// If none of them does: the check would not see the bug.
pub fn rejects(bug: Mutant, count: u64, f: impl Fn() + Send + Sync + 'static) -> String {
    choose(Some(bug));
    let found = explore(0, count, f);
    choose(None);
    match found {
        Err((seed, text)) => {
            eprintln!("{}: caught by schedule {} of at most {count}: {text}", bug.name(), seed + 1);
            text
        }
        Ok(()) => panic!("{} survives {count} schedules", bug.name()),
    }
}
