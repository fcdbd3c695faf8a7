//! The parts of an open database, wired together, and the work on all of them: relief, checkpoints, cleaning, closing.
use crate::options::{Builder, Settings};
use crate::rest::Rest;
use crate::sweep::Sweep;
use crate::{Error, ErrorKind, RecoveryReport, Result};
use hamal_btree::{Btree, Catalogue, Garbage};
use hamal_buffer::Pool;
use hamal_checkpoint::{Between, CheckpointReport, Checkpointer};
use hamal_log::Log;
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::Lsn;
use hamal_space::Space;
use hamal_sync::atomic::{AtomicUsize, Ordering::SeqCst};
use hamal_sync::thread::{self, ThreadId};
use hamal_sync::time::Instant;
use hamal_sync::{Mutex, RwLock};
use hamal_trace::{ForceReason, WriteReason};
use hamal_txn::TxnManager;
use std::sync::Arc;

/// Leaves that one step of the collector looks at, and batches of garbage that it frees.
const TIDY_LEAVES: usize = 64;
/// How many such steps a compaction makes at most.
const TIDY_ROUNDS: usize = 1 << 12;
const GARBAGE_BATCHES: usize = 16;
/// Steps of the collector after the horizon has moved.
const LOOKS: u32 = 32;
/// Bit of the gate: no new write transaction begins.
const SHUT: usize = 1 << (usize::BITS - 1);

/// The wired parts. Background threads hold this, and never the handle that closes it.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) options: Builder,
    pub(crate) settings: Settings,
    pub(crate) log: Arc<Log>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) txns: Arc<TxnManager>,
    pub(crate) space: Arc<Space>,
    pub(crate) btree: Arc<Btree>,
    pub(crate) garbage: Arc<Garbage>,
    pub(crate) catalogue: Catalogue,
    pub(crate) checkpointer: Checkpointer,
    pub(crate) report: RecoveryReport,
    /// Bytes of log that a recovery passes in a second.
    pub(crate) log_rate: f64,
    pub(crate) read_only: bool,
    /// Live write transactions, and [`SHUT`].
    gate: AtomicUsize,
    /// Held exclusively while somebody verifies: write transactions that begin wait for it.
    writers: RwLock<()>,
    /// Held by a step of the collector.
    collecting: Mutex<()>,
    last: Mutex<LastCheckpoint>,
    /// The thread that works between the steps of a checkpoint.
    between: Mutex<Option<ThreadId>>,
    /// Looking for ghosts of earlier runs.
    pub(crate) sweep: Mutex<Sweep>,
    /// The horizon that the collector saw last, and how often it looks at it again.
    hope: Mutex<(Lsn, u32)>,
    /// Since when nobody has written.
    pub(crate) rest: Rest,
    /// What background work last failed with.
    pub(crate) trouble: Mutex<Option<Error>>,
}

/// The work between two steps of a checkpoint ends with this, also in a panic.
struct Over<'a>(&'a Mutex<Option<ThreadId>>);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}

/// Where the last checkpoint left the log.
#[derive(Clone, Copy, Debug)]
struct LastCheckpoint {
    /// The tail just after it: nothing was logged since if the tail is still there and no page is dirty.
    tail: Lsn,
    begin: Lsn,
    at: Instant,
    /// Nobody was active and no page dirty.
    empty: bool,
}

/// What [`Core::new`] takes over from opening.
pub(crate) struct Parts {
    pub(crate) options: Builder,
    pub(crate) settings: Settings,
    pub(crate) txns: Arc<TxnManager>,
    pub(crate) space: Arc<Space>,
    pub(crate) btree: Arc<Btree>,
    pub(crate) garbage: Arc<Garbage>,
    pub(crate) catalogue: Catalogue,
    pub(crate) checkpointer: Checkpointer,
    pub(crate) report: RecoveryReport,
    pub(crate) read_only: bool,
}

impl Core {
    pub(crate) fn new(p: Parts) -> Core {
        let (log, pool) = (p.txns.log().clone(), p.txns.pool().clone());
        // A clean open wrote nothing, and closing it again has nothing to write.
        let sweep = Sweep::new(!p.report.clean);
        let tail = if p.report.clean { log.tail() } else { Lsn::NULL };
        let begin = p.checkpointer.current().checkpoint_begin;
        let last = LastCheckpoint { tail, begin, at: Instant::now(), empty: p.report.clean };
        Core {
            options: p.options,
            settings: p.settings,
            log,
            pool,
            txns: p.txns,
            space: p.space,
            btree: p.btree,
            garbage: p.garbage,
            catalogue: p.catalogue,
            checkpointer: p.checkpointer,
            log_rate: crate::target::log_rate(&p.report),
            report: p.report,
            read_only: p.read_only,
            gate: AtomicUsize::new(0),
            writers: RwLock::new(()),
            collecting: Mutex::new(()),
            last: Mutex::new(last),
            sweep: Mutex::new(sweep),
            between: Mutex::new(None),
            rest: Rest::new(tail),
            hope: Mutex::new((Lsn::NULL, 0)),
            trouble: Mutex::new(None),
        }
    }

    // ---- the gate: who may write, and whether the database is open ----

    /// A write transaction begins.
    pub(crate) fn enter_writer(&self) -> Result<()> {
        if self.read_only {
            return Err(Error::new(ErrorKind::ReadOnly, "the database was opened for reading only"));
        }
        // Waits while somebody verifies; whoever begins to do so counts this transaction, or has it wait.
        let _not_quiet = self.writers.read();
        if self.gate.fetch_add(1, SeqCst) & SHUT != 0 {
            self.gate.fetch_sub(1, SeqCst);
            return Err(closed());
        }
        Ok(())
    }
    /// It has ended.
    pub(crate) fn leave_writer(&self) {
        self.gate.fetch_sub(1, SeqCst);
    }
    /// Runs `f` while no write transaction is live and nothing is collected: those that begin meanwhile wait for it.
    ///
    /// # Errors
    /// `InvalidArgument` if write transactions are live or the database was closed; those of `f`.
    pub(crate) fn while_quiet<T>(&self, f: impl FnOnce() -> Result<T>) -> Result<T> {
        let _no_collector = self.collecting.lock();
        let _no_new_writers = self.writers.write();
        match self.gate.load(SeqCst) {
            0 => f(),
            n if n & SHUT != 0 => Err(closed()),
            n => Err(Error::new(ErrorKind::InvalidArgument, format!("{n} write transactions are live"))
                .with_help("Commit or roll back every write transaction first")),
        }
    }
    /// `Ok` unless the database was closed.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.gate.load(SeqCst) & SHUT != 0 { Err(closed()) } else { Ok(()) }
    }
    /// Lets no new write transaction begin.
    ///
    /// # Errors
    /// `InvalidArgument` if some are live, or if it is shut already.
    pub(crate) fn shut(&self) -> Result<()> {
        match self.gate.compare_exchange(0, SHUT, SeqCst, SeqCst) {
            Ok(_) => Ok(()),
            Err(n) if n & SHUT != 0 => Err(closed()),
            Err(n) => Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("the database cannot be closed: {n} write transactions are live"),
            )
            .with_help("Commit them or roll them back first")),
        }
    }

    // ---- work on the whole ----

    /// Takes a checkpoint.
    pub(crate) fn checkpoint(&self) -> Result<CheckpointReport> {
        self.checkpoint_with(&mut |_| Ok(()))
    }

    /// Takes a checkpoint, with work of the caller between its steps.
    pub(crate) fn checkpoint_with(
        &self,
        between: &mut dyn FnMut(Between) -> Result<()>,
    ) -> Result<CheckpointReport> {
        if self.read_only {
            return Err(Error::new(ErrorKind::ReadOnly, "the database was opened for reading only"));
        }
        if self.is_between() {
            let m =
                "a checkpoint was asked for between the steps of another one, by the thread that takes it";
            return Err(Error::new(ErrorKind::InvalidArgument, m));
        }
        let report = self.checkpointer.checkpoint_with(&mut |step| {
            *self.between.lock() = Some(thread::current().id());
            let _over = Over(&self.between);
            between(step)
        })?;
        let empty = report.dirty_pages == 0 && report.active == 0;
        let (tail, begin) = (self.log.tail(), report.begin);
        *self.last.lock() = LastCheckpoint { tail, begin, at: Instant::now(), empty };
        Ok(report)
    }

    /// Whether this thread works between the steps of a checkpoint: another one would wait for it, that is for itself.
    pub(crate) fn is_between(&self) -> bool {
        *self.between.lock() == Some(thread::current().id())
    }

    /// The most pages that may be dirty: what the pool admits (frames, and the image share of the log).
    fn dirty_cap(&self) -> u64 {
        let by_frames = (self.settings.frames - self.settings.frames / 8) as u64;
        let image = self.settings.page_size as u64 + 256;
        by_frames.min((self.settings.image_share_bytes / image).max(16))
    }

    /// One batch of the cleaner: pages whose recLSN is so old that recovery would read too much log, else the oldest pages
    /// if more than half of what may be dirty is. Returns the pages written.
    pub(crate) fn clean_step(&self) -> Result<usize> {
        let reach = self.checkpoint_bytes() / 2;
        let before = Lsn(self.log.tail().0.saturating_sub(reach));
        let written = self.pool.clean(before, usize::MAX, WriteReason::Cleaner)?.written;
        if written > 0 || self.pool.dirty_pages() <= self.dirty_cap() / 2 {
            return Ok(written);
        }
        Ok(self.pool.clean(Lsn::MAX, usize::MAX, WriteReason::Evict)?.written)
    }

    /// Takes a checkpoint if one is due: by log bytes, and by time if `clock`. Whether it did.
    pub(crate) fn checkpoint_step(&self, clock: bool) -> Result<bool> {
        let last = *self.last.lock();
        let tail = self.log.tail();
        let by_bytes = tail.0.saturating_sub(last.begin.0) >= self.checkpoint_bytes();
        let by_time = clock && tail != last.tail && last.at.elapsed() >= self.options.checkpoint_interval;
        if !by_bytes && !by_time || self.is_between() {
            return Ok(false);
        }
        // First, so that the checkpoint tells how long the file is then. Without a cut it is as necessary as with one.
        let cut = self.cut_tail();
        self.checkpoint()?;
        cut.map(|()| true)
    }

    /// Gives the end of the data file back if much more of it is free than it grows by at once.
    fn cut_tail(&self) -> Result<()> {
        let free = self.pool.file_pages().saturating_sub(self.space.high_water()?.0);
        if free >= 2 * self.pool.growth() { self.cut_file() } else { Ok(()) }
    }

    /// The begin of the last checkpoint, and where the log ended after it, if that is known.
    pub(crate) fn checked(&self) -> Option<(Lsn, Lsn)> {
        let last = self.last.lock();
        Some((last.begin, last.tail)).filter(|_| !last.tail.is_null())
    }

    /// Gives what is free at the end of the data file back. Want of room for the record, or for the cut, is no error: the file
    /// stays as it is.
    fn cut_file(&self) -> Result<()> {
        match self.space.shrink(self.checked()) {
            Err(e) if !matches!(e.kind(), ErrorKind::NoSpace | ErrorKind::LogFull) => Err(e),
            _ => Ok(()),
        }
    }

    /// Makes asynchronous commits durable. Whether there were any.
    pub(crate) fn flush_step(&self) -> Result<bool> {
        if self.log.has_pending() {
            return self.log.flush_pending();
        }
        // What tasks wait for others may have made durable.
        self.log.wake_tasks();
        Ok(false)
    }

    /// Moves the horizon, takes ghosts away, frees chains and trees. Whether another step may do more.
    pub(crate) fn collect_step(&self) -> Result<bool> {
        let _collecting = self.collecting.lock();
        self.sweep_doomed()?;
        self.txns.collect();
        let tidied = self.btree.tidy_queued(TIDY_LEAVES)?;
        let more = self.garbage.collect(GARBAGE_BATCHES)?;
        if tidied == 0 && !more {
            self.sweep_step()?;
        }
        // Ghosts that a snapshot still holds are looked at in vain, again and again: only a horizon that has moved makes
        // another look worth while, and then for as many steps as may be needed to see all of them.
        let mut hope = self.hope.lock();
        let horizon = self.txns.horizon();
        *hope = if horizon > hope.0 { (horizon, LOOKS) } else { (hope.0, hope.1.saturating_sub(1)) };
        Ok(more || (tidied > 0 && hope.1 > 0))
    }

    /// Tries again if the log was full, after making what room can be made.
    pub(crate) fn relieved<T>(&self, mut f: impl FnMut() -> Result<T>) -> Result<T> {
        match f() {
            Err(e) if e.kind() == ErrorKind::LogFull => {
                self.relieve()?;
                f()
            }
            done => done,
        }
    }

    /// Frees all that nobody can need any more.
    pub(crate) fn collect_all(&self) -> Result<()> {
        // What asynchronous commits left behind is kept until they are durable.
        self.log.flush_pending()?;
        let _collecting = self.collecting.lock();
        self.txns.collect();
        // A few at a time: all of them may take more log than there is. What a snapshot holds is queued again, so there is an end.
        for _ in 0..TIDY_ROUNDS {
            if self.relieved(|| self.btree.tidy_queued(TIDY_LEAVES))? < TIDY_LEAVES {
                break;
            }
        }
        while self.relieved(|| self.garbage.collect(GARBAGE_BATCHES))? {}
        Ok(())
    }

    /// Brings everything to disk so that the next open has nothing to do. Nobody else works on the database.
    pub(crate) fn settle(&self) -> Result<()> {
        if self.read_only || self.log.poisoned().is_set() {
            return Ok(());
        }
        // Pages that are written without an image log nothing: that none is dirty now does not say that the last checkpoint
        // knew of none.
        let last = *self.last.lock();
        if last.empty && self.log.tail() == last.tail && self.pool.dirty_pages() == 0 {
            return Ok(());
        }
        self.drain_ghosts()?;
        // Ghosts that remain do no harm; a checkpoint that does not fit would make the next open recover.
        self.log.free_slack();
        let tail = self.log.tail();
        // Pages freed by records that are durable are not needed by any recovery, so the file may be cut behind them.
        if mutants::is(Mutant::FileCutEarly) {
            self.cut_file()?;
        }
        self.log.force(tail, ForceReason::Asked)?;
        self.pool.flush_all(WriteReason::Asked)?;
        self.cut_file()?;
        // The second one is needed if the first still saw a page of a flush that was under way.
        for _ in 0..3 {
            let report = self.checkpoint()?;
            if report.dirty_pages == 0 && report.active == 0 {
                break;
            }
            self.pool.flush_all(WriteReason::Asked)?;
        }
        self.let_go_of_log()
    }

    /// From here on nothing reads or writes: the lock is about to be released.
    pub(crate) fn seal_off(&self) {
        self.log.poison(closed());
        // A reader that looks for a frame, or who waits for a ticket, may be in the middle of a write (if not everything
        // could be settled): it must not land in files that another process has opened and recovered meanwhile (T16).
        self.pool.quiesce();
        self.log.quiesce();
        self.checkpointer.quiesce();
    }
}

/// The error of every call after the database was closed.
pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::InvalidArgument, "the database is closed").with_help("Open it again")
}
