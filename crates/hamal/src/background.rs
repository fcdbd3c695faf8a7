//! The five background threads: cleaner, checkpointer, flusher, collector, and the one that makes segments of the log. A panic in one poisons the engine; an error that
//! is not sticky (a full device) is kept for the statistics, and the work is tried again.
use crate::core::Core;
use crate::{Error, ErrorKind, Result};
use hamal_sync::atomic::{AtomicBool, Ordering::SeqCst};
use hamal_sync::thread::{self, Builder, JoinHandle, ThreadId};
use hamal_sync::{Condvar, Mutex};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

const CLEANER_PERIOD: Duration = Duration::from_millis(20);
const CHECKPOINTER_PERIOD: Duration = Duration::from_millis(50);
const COLLECTOR_PERIOD: Duration = Duration::from_millis(20);
/// How long the flusher sleeps if nobody asks for anything; and who makes segments.
const FLUSHER_IDLE: Duration = Duration::from_secs(1);
/// How long nobody tries to make a segment ahead after the device had no room for one: who needs it now is told.
const SEGMENT_RETRY: Duration = Duration::from_millis(100);

/// A thread, and its id once it runs.
type Running = (JoinHandle<()>, Arc<Mutex<Option<ThreadId>>>);

/// The running threads; dropping it stops and joins them.
pub(crate) struct Background {
    core: Arc<Core>,
    stop: Arc<Stop>,
    threads: Vec<Running>,
}

#[derive(Default)]
struct Stop {
    set: AtomicBool,
    mutex: Mutex<()>,
    wake: Condvar,
}

impl Stop {
    /// Sleeps; `false` if it is time to stop.
    fn sleep(&self, time: Duration) -> bool {
        let mut held = self.mutex.lock();
        if !self.set.load(SeqCst) && !time.is_zero() {
            self.wake.wait_for(&mut held, time);
        }
        !self.set.load(SeqCst)
    }
}

impl Background {
    pub(crate) fn start(core: &Arc<Core>) -> Result<Background> {
        let mut b = Background { core: core.clone(), stop: Arc::default(), threads: Vec::new() };
        b.spawn("hamal-cleaner", |core, stop| {
            // Goes on while there is work, rests when there is none.
            while run(core, || Ok(core.clean_step()? == 0)).unwrap_or(true) {
                if !stop.sleep(CLEANER_PERIOD) {
                    return false;
                }
            }
            stop.sleep(Duration::ZERO)
        })?;
        b.spawn("hamal-checkpointer", |core, stop| {
            stop.sleep(CHECKPOINTER_PERIOD) && {
                run(core, || if core.checkpoint_step(true)? { Ok(()) } else { core.rest_step() });
                true
            }
        })?;
        b.spawn("hamal-collector", |core, stop| {
            let busy = run(core, || core.collect_step()).unwrap_or(false);
            stop.sleep(if busy { Duration::from_millis(1) } else { COLLECTOR_PERIOD })
        })?;
        b.spawn("hamal-flusher", |core, stop| {
            let idle = FLUSHER_IDLE.max(core.options.flush_interval);
            if !core.log.wait_pending(idle) || stop.sleep(core.options.flush_interval) {
                run(core, || core.flush_step());
            }
            stop.sleep(Duration::ZERO)
        })?;
        b.spawn("hamal-segments", |core, stop| {
            core.log.wait_space_wanted(FLUSHER_IDLE);
            let made = stop.sleep(Duration::ZERO)
                && run(core, || Ok(core.log.make_ahead().is_ok())).unwrap_or(false);
            stop.sleep(if made { Duration::ZERO } else { SEGMENT_RETRY })
        })?;
        Ok(b)
    }

    /// A thread that runs `turn` until it returns false or the engine is poisoned.
    fn spawn(&mut self, name: &str, turn: fn(&Core, &Stop) -> bool) -> Result<()> {
        let (core, stop) = (self.core.clone(), self.stop.clone());
        let id = Arc::new(Mutex::new(None));
        let mine = id.clone();
        let body = move || {
            *mine.lock() = Some(thread::current().id());
            while !core.log.poisoned().is_set() && turn(&core, &stop) {}
        };
        let thread = Builder::new().name(name.to_string()).spawn(body).map_err(|e| {
            Error::new(ErrorKind::Limit, format!("cannot start the thread {name}: {e}"))
                .with_help("Open with Builder::background(false) and call maintenance_step")
        })?;
        self.threads.push((thread, id));
        Ok(())
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        {
            let _held = self.stop.mutex.lock();
            self.stop.set.store(true, SeqCst);
        }
        self.stop.wake.notify_all();
        for (t, id) in self.threads.drain(..) {
            // A task that one of these threads has woken may have dropped the last handle: the thread ends when that returns.
            if *id.lock() == Some(thread::current().id()) {
                continue;
            }
            while !t.is_finished() {
                // Again and again: a call before the flusher sleeps is remembered, but only one.
                self.core.log.wake_flusher();
                self.core.log.wake_maker();
                thread::sleep(Duration::from_millis(1));
            }
            let _ = t.join();
        }
    }
}

/// Runs a step; a panic poisons, an error is noted. `None` if it failed.
fn run<T>(core: &Core, step: impl FnOnce() -> Result<T>) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(step)) {
        Ok(Ok(v)) => {
            *core.trouble.lock() = None;
            Some(v)
        }
        Ok(Err(e)) => {
            *core.trouble.lock() = Some(e);
            None
        }
        Err(panic) => {
            let what = panic
                .downcast_ref::<&str>()
                .map(|s| s.to_string())
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_default();
            core.log.poison(Error::internal(format!("a background thread panicked: {what}")));
            None
        }
    }
}
