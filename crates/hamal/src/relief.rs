//! A log that reaches its limit: writers are slowed down, then checkpoints, then the snapshots and transactions that keep
//! it are ended, as far as the options allow; and then the writer gets `LogFull`, with the name of what keeps it.
//!
//! Nobody waits for what a transaction keeps (T27): only what the cleaner and a checkpoint can release is waited for.
use crate::activity::{Pin, PinKind};
use crate::core::Core;
use crate::{Error, ErrorKind, Result};
use hamal_page::Lsn;
use hamal_sync::time::{Duration, Instant};
use hamal_trace::WriteReason;
use hamal_txn::Txn;
use std::sync::Arc;

/// The longest that one change is slowed down.
const SLOWEST: Duration = Duration::from_millis(10);
/// How long a statement waits for a transaction that it has doomed to let go of the call in progress.
const DOOMED_WAIT: Duration = Duration::from_secs(2);
/// How often one statement ends others to make room.
const VICTIMS: u32 = 16;

/// How far a statement that found the log full has got.
#[derive(Debug, Default)]
pub(crate) struct Relief {
    checkpointed: bool,
    ended: u32,
}

impl Core {
    /// Makes what room can be made in the log: writes every dirty page and takes a checkpoint. No latch and no credit held.
    pub(crate) fn relieve(&self) -> Result<()> {
        self.pool.flush_all(WriteReason::Asked)?;
        // Twice: the log is kept for the older slot of the control file too. In between, as everything is durable now: it may
        // be kept for a snapshot that has gone.
        self.checkpoint()?;
        self.txns.collect();
        self.checkpoint()?;
        // A rollback on another thread may wait for just that.
        self.txns.space_returned();
        Ok(())
    }

    /// After a statement of `txn` found the log, or the device, full: does the next thing that may make room. `false` if there
    /// is nothing left to do, or if that is a checkpoint which this very thread is taking. The transaction's call is over: neither
    /// latch nor credit nor its operation lock is held.
    ///
    /// # Errors
    /// `Poisoned`; those of a checkpoint.
    pub(crate) fn make_room(&self, done: &mut Relief, txn: &Txn) -> Result<bool> {
        if self.is_between() {
            return Ok(false);
        }
        if !done.checkpointed {
            done.checkpointed = true;
            return self.relieve().map(|()| true);
        }
        if done.ended >= VICTIMS {
            return Ok(false);
        }
        done.ended += 1;
        if self.end_pinning_snapshots() || self.abort_oldest_writer(txn)? {
            return self.relieve().map(|()| true);
        }
        Ok(false)
    }

    /// Ends the snapshots for which the log is kept, if nothing else keeps as much of it.
    fn end_pinning_snapshots(&self) -> bool {
        if !self.options.end_old_snapshots {
            return false;
        }
        let Some((from, ts)) = self.txns.versions().pin_of_snapshots() else { return false };
        let writer = self.txns.oldest_first_lsn().unwrap_or(Lsn::MAX);
        from < writer && self.txns.end_snapshots(ts) > 0
    }

    /// Ends the oldest write transaction, unless that is `txn` itself. Whether it has ended.
    fn abort_oldest_writer(&self, txn: &Txn) -> Result<bool> {
        if !self.options.abort_oldest_writer {
            return Ok(false);
        }
        let Some(oldest) = self.txns.oldest_writer().filter(|t| t.number() != txn.number()) else {
            return Ok(false);
        };
        oldest.doom();
        let start = Instant::now();
        // Its owner may be in a call: that one ends soon, or waits for somebody and is told.
        while !self.roll_back_doomed(&oldest)? {
            if start.elapsed() > DOOMED_WAIT {
                return Ok(false);
            }
            hamal_sync::thread::sleep(Duration::from_millis(1));
        }
        Ok(true)
    }

    /// Rolls a doomed transaction back on behalf of its owner, unless a call of it is in progress. Whether it has ended.
    fn roll_back_doomed(&self, txn: &Arc<Txn>) -> Result<bool> {
        match txn.try_enter_to_end() {
            Ok(Some(_op)) => self.txns.rollback(txn).map(|()| true),
            Ok(None) => Ok(false),
            Err(e) if e.kind() == ErrorKind::TransactionEnded => Ok(true),
            Err(e) => Err(e),
        }
    }

    /// Rolls back what was doomed and could not be rolled back at once.
    pub(crate) fn sweep_doomed(&self) -> Result<()> {
        for txn in self.txns.doomed() {
            self.roll_back_doomed(&txn)?;
        }
        Ok(())
    }

    // ---- slowing down ----

    /// How long the next change is to be slowed down: nothing below half of the log's limit, then more and more, up to
    /// [`SLOWEST`] at the limit. Nothing either if no background thread would use the time, or if what keeps the log is a
    /// transaction or a snapshot: waiting releases nothing then.
    pub(crate) fn slowdown(&self) -> Duration {
        let (limit, used) = (self.settings.log.limit_bytes, self.log.used_bytes());
        if used <= limit / 2 || !self.options.background || self.read_only {
            return Duration::ZERO;
        }
        let tail = self.log.tail();
        let kept = [self.txns.oldest_first_lsn(), self.txns.versions().pin()].into_iter().flatten().min();
        let releasable = kept.unwrap_or(tail).0.saturating_sub(self.log.oldest().0);
        if releasable < limit / 8 {
            return Duration::ZERO;
        }
        let over = (used - limit / 2) as f64 / (limit - limit / 2) as f64;
        SLOWEST.mul_f64(over.min(1.0).powi(2))
    }

    /// Slows a writer down near the log's limit. Nothing held.
    pub(crate) fn slow_down(&self) {
        if self.log.used_bytes() > self.settings.log.limit_bytes / 2 {
            let time = self.slowdown();
            if !time.is_zero() {
                hamal_sync::thread::sleep(time);
            }
        }
    }

    // ---- what keeps the log ----

    /// What keeps the log from being cut, the one that keeps the most first.
    pub(crate) fn pins(&self) -> Vec<Pin> {
        let tail = self.log.tail();
        let control = self.checkpointer.current();
        let mut pins = vec![Pin::new(PinKind::Checkpoint, control.checkpoint_begin.0, control.redo, tail)];
        let kept = self.checkpointer.keep_from();
        if kept < control.keep_from {
            pins.push(Pin::new(PinKind::FormerCheckpoint, control.checkpoint_begin.0, kept, tail));
        }
        if let Some((page, rec)) = self.pool.oldest_dirty() {
            pins.push(Pin::new(PinKind::Page, page.0, rec, tail));
        }
        if let Some(first) = self.txns.oldest_first_lsn() {
            pins.push(Pin::new(PinKind::Transaction, first.0, first, tail));
        }
        if let Some((from, _)) = self.txns.versions().pin_of_snapshots() {
            let oldest = self.txns.stats().oldest_snapshot.unwrap_or(Lsn::NULL);
            pins.push(Pin::new(PinKind::Snapshot, oldest.0, from, tail));
        }
        Pin::sort(&mut pins);
        pins
    }

    /// `LogFull`, with what keeps the log and which option moves it.
    pub(crate) fn explain_full(&self, full: Error, txn: &Txn) -> Error {
        if full.kind() != ErrorKind::LogFull {
            return full;
        }
        let limit = self.settings.log.limit_bytes;
        let help = match self.pins().into_iter().next() {
            Some(p) if p.kind == PinKind::Transaction && p.which == txn.id().0 => format!(
                "This transaction keeps {} bytes of log itself, and its rollback needs more: make it smaller, or raise \
                 log_limit_bytes ({limit})",
                p.bytes
            ),
            Some(p) => format!("Most is kept by {p}. End it, or raise log_limit_bytes ({limit})"),
            None => return full,
        };
        full.with_help(help)
    }
}
