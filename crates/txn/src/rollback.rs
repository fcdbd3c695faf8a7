//! Rollback: the backward half of ARIES.
//!
//! A transaction's records form a chain by prevLSN. Rollback walks it from undoNextLSN: an update is undone
//! by its resource manager, which logs exactly one CLR whose undoNextLSN is the prevLSN of the undone record;
//! everything else is followed. Because undoNextLSN moves in the `reserved` hook of the CLR, and the CLR
//! carries it, an undo that is interrupted, by a crash or by a later savepoint, goes on where it stopped and
//! undoes nothing twice (TXN-CLR). Restart's undo goes through the same [`TxnManager::undo_step`].
//!
//! A record of many changes may be undone in parts, by a CLR each (TXN-PARTS). A CLR that leaves something carries how much, and its
//! undoNextLSN is the record itself; the transaction's undoNextLSN is then the CLR's own LSN, so that whoever goes on, now or after a
//! crash, comes to the CLR first and learns from it what is left.
//!
//! Rollback is never skipped: an undo that fails or panics stops the engine, and the next open tries again
//! (TXN-STOP).
use crate::rm::{Compensated, UndoCtx, left_bytes, parts_left};
use crate::txn::{Savepoint, State, Txn};
use crate::{ResourceManager, TxnManager};
use hamal_error::{Error, ErrorKind, Result};
use hamal_log::{Appended, Credit, Record, RecordKind, RecordSpec, TxnRef};
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::{Lsn, RmId};
use hamal_sync::atomic::Ordering;
use hamal_trace::Event;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

/// Log space for one record without pages: Commit, Abort, End, DummyClr.
pub(crate) const END_BYTES: u64 = 128;
/// How often a rollback that finds the device full asks again, 20 ms apart, before it stops the engine. It comes to that only
/// if a resource manager reserved less than its undo takes (TXN-ROOM).
const SPACE_TRIES: u32 = 100;

impl TxnManager {
    /// Sets aside the log space that ending the transaction takes; [`TxnManager::register`] does it. Managers
    /// whose changes belong to no tree call it before a transaction's first change. No latch and no credit
    /// held.
    ///
    /// # Errors
    /// `LogFull`, `NoSpace`, `Poisoned`.
    pub fn prepare(&self, txn: &Txn) -> Result<()> {
        self.poison.check()?;
        // Only the transaction's own thread, under its operation lock, comes here.
        if txn.core.lock().end_reserve != 0 {
            return Ok(());
        }
        // Abort and End, and the padding and seal of the group that ends the transaction.
        let bytes = 3 * END_BYTES + 2 * self.log().options().pad as u64;
        self.log().reserve(bytes, false)?;
        txn.core.lock().end_reserve += bytes;
        Ok(())
    }

    /// Rolls the whole transaction back: CLRs in descending LSN order, then End. The caller holds the
    /// operation lock.
    ///
    /// # Errors
    /// `Poisoned`, `TransactionEnded`.
    pub fn rollback(&self, txn: &Txn) -> Result<()> {
        if self.begin_rollback(txn)? {
            if mutants::is(Mutant::StatusForgottenFirst) {
                self.horizon.table.forget(txn.id());
            }
            if mutants::is(Mutant::UndoAscending) {
                self.undo_ascending(txn)?;
            }
            while !self.until_space(|| self.undo_step(txn))?.is_null() {}
        }
        self.end_rolled_back(txn)
    }

    /// The first step of [`TxnManager::rollback`]: from here on the transaction can only be rolled back, and its Abort record is
    /// logged, unless it is already. Whether it has written anything. [`TxnManager::undo_step`] until that returns null and
    /// [`TxnManager::end_rolled_back`] are the others.
    ///
    /// # Errors
    /// `Poisoned`, `TransactionEnded`.
    pub fn begin_rollback(&self, txn: &Txn) -> Result<bool> {
        self.poison.check()?;
        let (wrote, begun) = {
            let mut core = txn.core.lock();
            let begun = match core.state {
                State::Live => false,
                State::RollingBack => true,
                _ => return Err(txn.ended_error()),
            };
            core.state = State::RollingBack;
            (core.first.some().is_some(), begun)
        };
        if wrote && !begun {
            self.trace.emit(|| Event::TxnRollback { txn: txn.id(), to: Lsn::NULL });
            self.append_plain(txn, RecordKind::Abort, None)?;
        }
        Ok(wrote)
    }

    /// A savepoint of the transaction as it is now.
    pub fn savepoint(&self, txn: &Txn) -> Savepoint {
        let mut core = txn.core.lock();
        let depth = core.next_savepoint;
        core.next_savepoint += 1;
        core.savepoints.push(depth);
        Savepoint { txn: txn.number(), undo_next: core.undo_next, depth }
    }

    /// Rolls back to a savepoint, which stays valid; later ones do not. Wakes whoever waits for the
    /// transaction.
    ///
    /// # Errors
    /// `NotFound` if the savepoint is of another transaction or was rolled back past; `TransactionEnded`;
    /// `Poisoned`.
    pub fn rollback_to(&self, txn: &Txn, to: &Savepoint) -> Result<()> {
        self.poison.check()?;
        {
            let mut core = txn.core.lock();
            if core.state != State::Live {
                return Err(txn.ended_error());
            }
            let found = core.savepoints.binary_search(&to.depth).ok().filter(|_| to.txn == txn.number());
            let Some(i) = found else {
                let why =
                    if to.txn == txn.number() { "was rolled back past" } else { "is of another transaction" };
                return Err(
                    Error::new(ErrorKind::NotFound, format!("the savepoint {why}")).with_txn(txn.id())
                );
            };
            core.savepoints.truncate(i + 1);
        }
        self.undo_to(txn, to.undo_next)?;
        if mutants::is(Mutant::SavepointTooFar) {
            self.undo_step(txn)?;
        }
        if !mutants::is(Mutant::PartialRollbackWakesNobody) {
            txn.wake();
        }
        Ok(())
    }

    /// Where the transaction is now, for [`TxnManager::rollback_to_mark`]: what a savepoint is to its owner, a mark is to
    /// a statement. It costs nothing and is forgotten with the statement.
    pub fn mark(&self, txn: &Txn) -> Lsn {
        txn.core.lock().undo_next
    }

    /// Undoes everything since the mark, which was taken earlier in the same statement: no savepoint and no rollback lies
    /// between. Wakes whoever waits for the transaction.
    ///
    /// # Errors
    /// `TransactionEnded`; `Poisoned`.
    pub fn rollback_to_mark(&self, txn: &Txn, mark: Lsn) -> Result<()> {
        self.poison.check()?;
        if txn.core.lock().state != State::Live {
            return Err(txn.ended_error());
        }
        self.undo_to(txn, mark)?;
        txn.wake();
        Ok(())
    }

    /// Undoes down to, and not including, the record `to`.
    ///
    /// The chain passes through `to`: it was undoNextLSN once, CLRs and dummy CLRs written since point to
    /// records that were written since, or to `to` itself.
    fn undo_to(&self, txn: &Txn, to: Lsn) -> Result<()> {
        let mut at = txn.core.lock().undo_next;
        if at > to {
            self.trace.emit(|| Event::TxnRollback { txn: txn.id(), to });
        }
        while at > to {
            at = self.until_space(|| self.undo_step(txn))?;
        }
        if at != to {
            let m = format!("TXN-CLR: the undo chain of {} missed {to} and came to {at}", txn.name());
            return Err(self.log().poison(Error::internal(m).with_txn(txn.id())));
        }
        Ok(())
    }

    /// Undoes the one record at the transaction's undoNextLSN (or follows its chain) and returns the next
    /// undoNextLSN (null: done). Rollback and restart's undo both go through this.
    ///
    /// # Errors
    /// `NoSpace` if the device is full and a loser of recovery, which has no space set aside, is undone: it can be tried again.
    /// Anything else stops the engine.
    pub fn undo_step(&self, txn: &Txn) -> Result<Lsn> {
        self.poison.check()?;
        let at = txn.core.lock().undo_next;
        if at.is_null() {
            return Ok(at);
        }
        self.undo_record(txn, at).map_err(|e| {
            if self.poison.is_set() {
                return self.poison.error().unwrap_or(e);
            }
            // Either no CLR was logged, and undoNextLSN still leads to the record; or it was, and leads on.
            if e.kind() == ErrorKind::NoSpace && !mutants::is(Mutant::RollbackGivesUp) {
                return e;
            }
            let m = format!("{} cannot be rolled back", txn.name());
            let kind = e.kind();
            self.log().poison(Error::new(kind, m).with_txn(txn.id()).with_lsn(at).with_cause(e))
        })
    }

    /// Undoes the updates of the chain oldest first (a planted bug).
    fn undo_ascending(&self, txn: &Txn) -> Result<()> {
        let mut chain = Vec::new();
        let mut at = txn.core.lock().undo_next;
        while !at.is_null() {
            let record = self.log().read(at)?;
            if record.kind == RecordKind::Update {
                chain.push(at);
            }
            at = record.prev;
        }
        for at in chain.into_iter().rev() {
            txn.core.lock().undo_next = at;
            self.undo_step(txn)?;
        }
        txn.core.lock().undo_next = Lsn::NULL;
        Ok(())
    }

    fn undo_record(&self, txn: &Txn, at: Lsn) -> Result<Lsn> {
        let record = self.log().read(at)?;
        let damaged = |m: String| Err(Error::new(ErrorKind::LogCorrupt, m).with_lsn(at).with_txn(txn.id()));
        if record.txn != txn.id() {
            return damaged(format!("the undo chain of {} meets a record of {}", txn.id(), record.txn));
        }
        if record.prev >= at {
            return damaged(format!("the undo chain goes forward, to {}", record.prev));
        }
        match record.kind {
            RecordKind::Update => {
                let rm = self.manager_of(record.rm)?;
                return self.undo_update(txn, &*rm, &record, None);
            }
            RecordKind::Clr if !record.undo().is_empty() => {
                let Some(left) = parts_left(record.undo()) else {
                    return damaged("a CLR with undo bytes that are no number of parts".into());
                };
                let undone = self.log().read(record.prev)?;
                let same = (undone.kind, undone.txn, undone.rm) == (RecordKind::Update, txn.id(), record.rm);
                if !same || undone.prev >= undone.lsn {
                    return damaged(format!(
                        "a CLR for a part of the record at {}, which is none of its",
                        undone.lsn
                    ));
                }
                let rm = self.manager_of(record.rm)?;
                let left = if mutants::is(Mutant::PartsForgotten) { None } else { Some(left) };
                return self.undo_update(txn, &*rm, &undone, left);
            }
            RecordKind::Structure | RecordKind::Clr | RecordKind::DummyClr | RecordKind::Abort => {
                txn.core.lock().undo_next = record.prev;
                let (kind, next) = (record.kind.name(), record.prev);
                self.trace.emit(|| Event::UndoFollow { txn: txn.id(), lsn: at, kind, next });
            }
            k => return damaged(format!("a record of kind {} in an undo chain", k.name())),
        }
        Ok(record.prev)
    }

    fn manager_of(&self, rm: RmId) -> Result<Arc<dyn ResourceManager>> {
        self.registry().get(rm).cloned().ok_or_else(|| {
            let m = format!("resource manager {rm} is not registered");
            Error::new(ErrorKind::ResourceManager, m)
        })
    }

    /// Has the resource manager undo one update record, or what is left of it, or a part of that. Returns undoNextLSN.
    fn undo_update(
        &self,
        txn: &Txn,
        rm: &dyn ResourceManager,
        record: &Record,
        left: Option<u64>,
    ) -> Result<Lsn> {
        self.trace.emit(|| Event::UndoUpdate { txn: txn.id(), lsn: record.lsn, next: record.prev });
        txn.core.lock().undoing = true;
        // No checkpoint begins while it is at work (TXN-ROOM).
        let _epoch = self.room.epoch.read();
        let (undo_next, undone) = (record.prev, record.lsn);
        let ctx = UndoCtx { manager: self, txn, undo_next, record: undone, left, rm: record.rm };
        let result = catch_unwind(AssertUnwindSafe(|| rm.undo(record, ctx)));
        let mut core = txn.core.lock();
        core.undoing = false;
        let Compensated { clr, left } = result.map_err(|p| {
            let m = format!("undo of manager `{}` panicked: {}", rm.name(), panic_text(&*p));
            Error::new(ErrorKind::ResourceManager, m)
        })??;
        // Exactly one CLR is a fact of the types; that nothing was logged behind it is not.
        let next = if left == 0 || mutants::is(Mutant::PartsLeftOut) { undo_next } else { clr.lsn };
        if (core.last != clr.lsn && !mutants::is(Mutant::NoClr)) || core.undo_next != next {
            let m = format!("undo of manager `{}` logged something after its CLR", rm.name());
            return Err(Error::new(ErrorKind::ResourceManager, m));
        }
        // The group that brings this CLR to disk may use it now.
        let group = core.group_reserve.min(self.pool().undo_group_bytes());
        core.group_reserve -= group;
        if group != 0 {
            self.log().give_back(group);
        }
        drop(core);
        self.trace.emit(|| Event::UndoClr {
            txn: txn.id(),
            undone,
            clr: clr.lsn,
            undo_next: if left == 0 { undo_next } else { undone },
            left,
        });
        Ok(next)
    }

    /// Logs the CLR of an undo, after which `left` parts of the record are left.
    pub(crate) fn log_clr(
        &self,
        ctx: &UndoCtx<'_>,
        left: u64,
        edits: &mut [hamal_buffer::PageEdit<'_, '_>],
        credit: &mut hamal_buffer::OpCredit<'_>,
    ) -> Result<Appended> {
        let mut core = ctx.txn.core.lock();
        let left = if mutants::is(Mutant::PartsLeftOut) { 0 } else { left };
        let prev = match if left == 0 { ctx.undo_next } else { ctx.record } {
            _ if mutants::is(Mutant::ClrWithoutUndoNext) => core.last,
            _ if mutants::is(Mutant::ClrEndsUndo) => Lsn::NULL,
            next => next,
        };
        let txn = TxnRef::Id(ctx.txn.id());
        let (undo, n) = left_bytes(left);
        let undo = &undo[..n];
        let mut change = hamal_buffer::Change { kind: RecordKind::Clr, rm: ctx.rm, txn, prev, undo };
        if mutants::is(Mutant::NoClr) {
            (change.kind, change.txn, change.prev) = (RecordKind::Structure, TxnRef::None, Lsn::NULL);
        }
        self.pool().change(&change, edits, credit, |a| {
            core.last = if mutants::is(Mutant::NoClr) { core.last } else { a.lsn };
            core.undo_next = if left == 0 { ctx.undo_next } else { a.lsn };
        })
    }

    /// Appends a record without pages to the transaction's chain. `prev` is lastLSN, or undoNextLSN if given
    /// (then the transaction's undoNextLSN becomes that too).
    fn append_plain(&self, txn: &Txn, kind: RecordKind, undo_next: Option<Lsn>) -> Result<Appended> {
        let mut credit =
            if txn.is_loser() { self.end_credit(txn)? } else { self.until_space(|| self.end_credit(txn))? };
        self.append_plain_with(txn, kind, undo_next, &mut credit)
    }

    fn append_plain_with(
        &self,
        txn: &Txn,
        kind: RecordKind,
        undo_next: Option<Lsn>,
        credit: &mut Credit<'_>,
    ) -> Result<Appended> {
        let mut core = txn.core.lock();
        let core = &mut *core;
        let spec = RecordSpec {
            kind,
            rm: RmId(0),
            txn: TxnRef::Id(txn.id()),
            prev: undo_next.unwrap_or(core.last),
            blocks: &[],
            undo: &[],
        };
        // What nested top actions left counts as committed from here on: as a commit does, it moves what is visible.
        let section = (kind == RecordKind::End && core.kept).then(|| self.commit_section.lock());
        let done = self.log().append_with(&spec, credit, |a| {
            core.last = a.lsn;
            if let Some(u) = undo_next {
                core.undo_next = u;
            }
        })?;
        if kind == RecordKind::End {
            core.state = State::RolledBack;
            // Undo is complete: no page carries the id any more (page, version, then status).
            self.versions.rolled_back(txn);
            self.horizon.table.forget(txn.id());
            if section.is_some() {
                self.horizon.left_behind(done.end);
            }
            self.unlist(txn);
        }
        Ok(done)
    }

    /// Appends End for a transaction whose undo is complete, releases everything it holds and wakes waiters.
    ///
    /// # Errors
    /// `Poisoned`; `Internal` if its undo is not complete; `TransactionEnded`.
    pub fn end_rolled_back(&self, txn: &Txn) -> Result<()> {
        self.poison.check()?;
        let wrote = {
            let mut core = txn.core.lock();
            if matches!(core.state, State::Committed | State::RolledBack) {
                return Err(txn.ended_error());
            }
            if !core.undo_next.is_null() {
                return Err(Error::internal("TXN-CLR: End before the undo is complete").with_txn(txn.id()));
            }
            if core.first.is_null() {
                core.state = State::RolledBack;
                // A change may have been refused before its record.
                self.unlist(txn);
            }
            core.first.some().is_some()
        };
        if wrote {
            self.append_plain(txn, RecordKind::End, None)?;
            self.trace.emit(|| Event::TxnEnd { txn: txn.id() });
        }
        self.finish(txn);
        self.counters.rolled_back.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Runs `f` as a nested top action: what it logs stays, even if the transaction rolls back (a dummy CLR
    /// at its end jumps over it). If `f` fails, or panics, what it logged is undone and nothing stays. No
    /// latch and no credit held.
    /// `f` takes no savepoints.
    ///
    /// # Errors
    /// Those of `f`; `LogFull`, `NoSpace`; `Poisoned`.
    pub fn nested_top_action<T>(&self, txn: &Txn, f: impl FnOnce() -> Result<T>) -> Result<T> {
        self.poison.check()?;
        // The dummy CLR must not fail for want of space once the action is done.
        let mut reserve = self.log().credit(END_BYTES, false)?.take(END_BYTES);
        let (before, last) = {
            let core = txn.core.lock();
            (core.undo_next, core.last)
        };
        let result = catch_unwind(AssertUnwindSafe(f));
        let result = match result {
            Ok(Ok(value)) if txn.core.lock().last == last => Ok(value),
            Ok(Ok(value)) => self
                .until_space(|| self.log().credit_from(&mut reserve, END_BYTES))
                .and_then(|mut c| self.append_plain_with(txn, RecordKind::DummyClr, Some(before), &mut c))
                .map(|_| {
                    txn.core.lock().kept = true;
                    value
                }),
            Ok(Err(e)) => self.undo_to(txn, before).and(Err(e)),
            Err(panic) => {
                // If this fails too the engine is poisoned, and the panic is the better message.
                let _ = self.undo_to(txn, before);
                self.log().give_back(reserve);
                resume_unwind(panic)
            }
        };
        self.log().give_back(reserve);
        result
    }

    /// Repeats `take` while it finds the device full, in a named state; stops the engine if it goes on doing so: then the
    /// next open rolls back. Since space for a rollback is set aside (TXN-RESERVE, TXN-ROOM) it normally waits for nothing.
    /// No latch held.
    pub(crate) fn until_space<T>(&self, mut take: impl FnMut() -> Result<T>) -> Result<T> {
        let mut full = match take() {
            Err(e) if e.kind() == ErrorKind::NoSpace && !mutants::is(Mutant::RollbackGivesUp) => e,
            done => return done,
        };
        self.counters.rollbacks_waiting_for_space.fetch_add(1, Ordering::Relaxed);
        let done = 'wait: {
            for _ in 0..SPACE_TRIES {
                self.space.wait(std::time::Duration::from_millis(20));
                if let Err(e) = self.poison.check() {
                    break 'wait Err(e);
                }
                match take() {
                    Err(e) if e.kind() == ErrorKind::NoSpace => full = e,
                    done => break 'wait done,
                }
            }
            let m = "the device is full, and what was set aside for a rollback does not reach";
            Err(self.log().poison(Error::new(ErrorKind::NoSpace, m).with_cause(full)))
        };
        self.counters.rollbacks_waiting_for_space.fetch_sub(1, Ordering::Relaxed);
        done
    }
}

/// What a panic said.
fn panic_text(p: &(dyn std::any::Any + Send)) -> &str {
    p.downcast_ref::<&str>()
        .copied()
        .or_else(|| p.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
