//! A watchdog: neither an operation nor a recovery may take for ever.
//!
//! Two bounds stand for "for ever". What goes on reading and writing is stopped by its *budget* on the disk
//! ([`SimDisk::set_budget`]): so many calls and bytes, counted, so the same on every machine. What waits, or computes, without touching
//! the disk is seen by its *pulse*: the thread that runs scenarios ([`watched`]) counts calls of the engine, and another thread looks
//! whether one is under way and the count has not moved for longer than anybody's [patience](PATIENCE). Then what is known of the
//! scenario becomes a replay file, the disk is powered off, and the thread is given up: should the call come back after all, it stops
//! there and does nothing more. It cannot be killed, so a call that computes without end keeps a core.
use crate::case::Case;
use crate::explore::{Crash, Finding};
use crate::oracles::{Oracle, Violation};
use crate::sim::{Asked, SimDisk, Site};
use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long one call of the engine may take. The longest that takes its time on purpose, a rollback on a full device, ends after two
/// seconds; all others are done in some milliseconds, on a busy machine and without optimisation in some hundred.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// How often the watchdog looks.
pub const TICK: Duration = Duration::from_millis(25);

/// What one call of the engine may do to the disk: each call counts one, and one more for each 4 KiB. The most that a scenario of the
/// harness needs is some 3,000, and the limit of the log is far below it too.
pub const BUDGET: u64 = 200_000;

thread_local! {
    static PULSE: RefCell<Option<Arc<Pulse>>> = const { RefCell::new(None) };
}

/// What another thread can see of one that runs scenarios.
#[derive(Debug, Default)]
pub struct Pulse {
    /// Calls of the engine that began or ended.
    beats: AtomicU64,
    /// Calls under way: one inside the other.
    inside: AtomicU64,
    /// Nobody waits for this thread any longer.
    given_up: AtomicBool,
    at: Mutex<At>,
}

/// Where a thread is.
#[derive(Debug, Default)]
struct At {
    /// What is run, without its crashes.
    case: Option<Arc<Case>>,
    /// The operation that has begun.
    op: Option<usize>,
    /// The crash of the scenario, then those of recoveries, if it has come to them; the last one is being recovered from.
    crashes: Vec<Crash>,
    /// What it runs on, and whether the questions that are asked there are those of the last crash.
    disk: Option<SimDisk>,
    recovering: bool,
}

fn with_pulse(f: impl FnOnce(&Arc<Pulse>)) {
    PULSE.with_borrow(|pulse| pulse.as_ref().map(f));
}

fn with_at(f: impl FnOnce(&mut At)) {
    with_pulse(|pulse| f(&mut pulse.at()));
}

/// A call of the engine is under way until this is dropped.
pub(crate) struct Call(Option<Arc<Pulse>>);

/// A call of the engine begins.
pub(crate) fn call() -> Call {
    let pulse = PULSE.with_borrow(Clone::clone);
    if let Some(pulse) = &pulse {
        pulse.inside.fetch_add(1, Relaxed);
        pulse.beats.fetch_add(1, Relaxed);
    }
    Call(pulse)
}

impl Drop for Call {
    fn drop(&mut self) {
        let Some(pulse) = &self.0 else { return };
        pulse.inside.fetch_sub(1, Relaxed);
        pulse.beats.fetch_add(1, Relaxed);
        // Its report has been written: nothing that it found from here on would be true.
        while pulse.given_up.load(Relaxed) {
            std::thread::park();
        }
    }
}

/// A scenario is run from here on, on this disk.
pub(crate) fn scenario(case: impl FnOnce() -> Case, disk: &SimDisk) {
    with_at(|at| {
        *at = At { case: Some(Arc::new(case())), disk: Some(disk.clone()), ..At::default() };
    });
}

/// An operation begins.
pub(crate) fn operation(op: Option<usize>, disk: &SimDisk) {
    with_at(|at| {
        // Work after a recovery has operations of its own.
        if at.crashes.is_empty() {
            at.op = op;
        }
        at.disk = Some(disk.clone());
    });
}

/// The power fails there, so many crashes deep.
pub(crate) fn crash(depth: usize, point: usize, site: Option<Site>, nth: usize, op: Option<usize>) {
    with_at(|at| {
        at.crashes.truncate(depth);
        at.crashes.push(Crash { point, site, nth, answers: Vec::new(), rest_survives: true });
        at.op = op.or(at.op);
    });
}

/// The crash at this depth is to be recovered from (again).
pub(crate) fn recovering(depth: usize) {
    with_at(|at| {
        at.crashes.truncate(depth + 1);
        if let Some(crash) = at.crashes.last_mut() {
            crash.answers.clear();
        }
        at.recovering = true;
    });
}

/// This is the disk that is used now.
pub(crate) fn on(disk: &SimDisk) {
    with_at(|at| at.disk = Some(disk.clone()));
}

/// The recovery of the crash at this depth ended; it asked this.
pub(crate) fn recovered(depth: usize, asked: &[Asked]) {
    with_at(|at| {
        if let Some(crash) = at.crashes.get_mut(depth) {
            crash.answers = asked.iter().map(|a| (a.question, a.answer)).collect();
        }
        at.recovering = false;
    });
}

/// Something took for ever.
#[derive(Clone, Debug)]
pub struct Hang {
    /// How to see it again, if a scenario was under way.
    pub case: Option<Case>,
    /// What was found.
    pub finding: Finding,
}

impl Pulse {
    fn at(&self) -> MutexGuard<'_, At> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the thread up and says where it was.
    fn give_up(&self, patience: Duration) -> Hang {
        self.given_up.store(true, Relaxed);
        let mut at = self.at();
        if let Some(disk) = &at.disk {
            // Whatever it does in a loop fails from here on.
            disk.power_off();
            if at.recovering {
                let answers = disk.asked().iter().map(|a| (a.question, a.answer)).collect();
                if let Some(last) = at.crashes.last_mut() {
                    last.answers = answers;
                }
            }
        }
        let doing = match (&at.case, at.crashes.len()) {
            (Some(case), 0) => match at.op.and_then(|i| case.ops.get(i)) {
                Some(op) => format!("`{op}`"),
                None => "the open".to_string(),
            },
            (_, 0) => "a call of the engine".to_string(),
            _ if at.recovering => "the recovery".to_string(),
            _ => "what is done after the recovery".to_string(),
        };
        let seconds = patience.as_secs_f64();
        let text = format!("{doing} waits or computes without end: nothing came of it in {seconds:.1} s");
        let violation = Violation::new(Oracle::Hang, text);
        let finding = Finding { violation, crashes: at.crashes.clone(), op: at.op };
        let case = at.case.as_ref().map(|case| Case {
            says: vec![finding.violation.text.clone()],
            oracle: Some(Oracle::Hang),
            crashes: finding.crashes.clone(),
            ..Case::clone(case)
        });
        Hang { case, finding }
    }
}

/// A thread that is watched.
#[derive(Debug)]
pub struct Watched<T> {
    pulse: Arc<Pulse>,
    patience: Duration,
    result: Receiver<T>,
    seen: u64,
    /// How long the pulse has not moved. Ticks are counted and no clock is read: they stop when the whole machine does.
    still: Duration,
}

impl<T: Send + 'static> Watched<T> {
    /// Runs `f` on a thread of its own.
    ///
    /// # Panics
    /// If there can be no thread.
    pub fn start(patience: Duration, f: impl FnOnce() -> T + Send + 'static) -> Watched<T> {
        let pulse = Arc::new(Pulse::default());
        let (send, result) = channel();
        let its = pulse.clone();
        let run = move || {
            PULSE.set(Some(its));
            // Nobody listens any longer if it was given up.
            let _ = send.send(f());
        };
        std::thread::Builder::new().name("scenarios".into()).spawn(run).expect("a thread");
        Watched { pulse, patience, result, seen: 0, still: Duration::ZERO }
    }

    /// Looks at it, once in each [`TICK`], waiting for so long: `None` if it is still at work.
    ///
    /// # Panics
    /// If `f` did.
    pub fn look(&mut self, wait: Duration) -> Option<Result<T, Box<Hang>>> {
        match self.result.recv_timeout(wait) {
            Ok(result) => return Some(Ok(result)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => panic!("a thread of the harness panicked"),
        }
        let beats = self.pulse.beats.load(Relaxed);
        if beats != self.seen || self.pulse.inside.load(Relaxed) == 0 {
            (self.seen, self.still) = (beats, Duration::ZERO);
            return None;
        }
        self.still += TICK;
        (self.still >= self.patience).then(|| Err(Box::new(self.pulse.give_up(self.patience))))
    }
}

/// Runs `f` on a thread of its own, which is given up when one call of the engine takes longer than `patience`.
///
/// # Errors
/// What it was at then.
pub fn watched<T: Send + 'static>(
    patience: Duration,
    f: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Box<Hang>> {
    let mut thread = Watched::start(patience, f);
    loop {
        if let Some(result) = thread.look(TICK) {
            return result;
        }
    }
}
