//! Commit.
//!
//! The commit section is a mutex around four steps: reserve the commit record, store the status, publish the
//! record, store the visible LSN. So log order is commit order, a snapshot is an LSN, and neither the durable
//! nor the visible LSN ever covers a commit whose status is not stored (TXN-COMMIT). Row locks end here:
//! whoever comes next builds on the commit at once, and its own commit lies behind this one in the log. Only
//! the acknowledgement waits for the disk.
use crate::txn::{State, Touched, Txn};
use crate::{Isolation, TxnManager, Validation, rollback::END_BYTES};
use hamal_error::{Error, Result};
use hamal_log::{Appended, Credit, RecordKind, RecordSpec, Ticket, TxnRef};
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::{Lsn, RmId};
use hamal_sync::atomic::Ordering;
use hamal_trace::Event;

/// Commits between two collections.
const COLLECT_EVERY: u64 = 64;

/// What a commit did.
#[derive(Clone, Debug)]
pub struct CommitOutcome {
    /// The commit timestamp: the end of the commit record, or the snapshot of a transaction that wrote
    /// nothing.
    pub timestamp: Lsn,
    /// Becomes ready when the commit (or what it read) is durable.
    pub ticket: Ticket,
}

impl TxnManager {
    /// Commits: in the commit section reserve the record, store the status, publish. Does not wait for
    /// durability: the outcome's ticket does. The caller holds the operation lock. After an error other than
    /// `Poisoned` the transaction is as it was.
    ///
    /// # Errors
    /// `Poisoned`, `TransactionEnded`; `NoSpace` if the device is full and the transaction never registered
    /// with a tree.
    pub fn commit(&self, txn: &Txn) -> Result<CommitOutcome> {
        self.commit_looking(txn, &|_| {
            Err(Error::internal("a serializable transaction commits through `commit_looking`"))
        })
    }

    /// As [`TxnManager::commit`]; of a serializable transaction, if somebody else has committed since its snapshot, `look`
    /// brings every row that it read to [`TxnManager::check_read`], under the latch of the row's page. No latch is held.
    ///
    /// # Errors
    /// As [`TxnManager::commit`]; `Serialization`; those of `look`.
    pub fn commit_looking(
        &self,
        txn: &Txn,
        look: &dyn Fn(&Validation) -> Result<()>,
    ) -> Result<CommitOutcome> {
        self.poison.check()?;
        if txn.is_doomed() {
            return Err(txn.ended_error());
        }
        let wrote = {
            let mut core = txn.core.lock();
            match core.state {
                State::Live if core.first.is_null() => core.state = State::Committed,
                State::Live => {}
                _ => return Err(txn.ended_error()),
            }
            core.first.some().is_some()
        };
        let timestamp = match (wrote, txn.isolation()) {
            // It is as if it had run at its snapshot, which is a prefix of the order of commits (TXN-VALID).
            (false, _) => txn.snapshot(),
            (true, Isolation::Serializable) => self.commit_if_serializable(txn, look)?,
            (true, _) => self.commit_record(txn, || Ok(()))?,
        };
        if wrote {
            // Before `finish` closes the snapshot, which keeps H below the timestamp: no collector can pass
            // the versions by and settle the transaction all the same (TXN-VERSIONS).
            self.versions.committed(txn, timestamp);
        } else {
            // A change may have been refused before its record.
            self.unlist(txn);
        }
        self.finish(txn);
        let n = self.counters.committed.fetch_add(1, Ordering::Relaxed) + 1;
        if wrote && n.is_multiple_of(COLLECT_EVERY) {
            self.try_collect();
        }
        // What it read may be visible and not yet durable: then its answer has to wait as well.
        let to = if !wrote && mutants::is(Mutant::ReadCommitDoesNotWait) { Lsn::NULL } else { timestamp };
        Ok(CommitOutcome { timestamp, ticket: self.log().ticket(to) })
    }

    /// Logs the commit record if `may`, asked in the commit section, has no objection; returns its end. After an
    /// objection the transaction is as it was.
    pub(crate) fn commit_record(&self, txn: &Txn, may: impl FnOnce() -> Result<()>) -> Result<Lsn> {
        let mut credit = self.end_credit(txn)?;
        let mut core = txn.core.lock();
        let id = txn.id();
        let spec = RecordSpec {
            kind: RecordKind::Commit,
            rm: RmId(0),
            txn: TxnRef::Id(id),
            prev: core.last,
            blocks: &[],
            undo: &[],
        };
        let done = {
            let _section = self.commit_section.lock();
            // Under an ended snapshot what the transaction went by, in its writes and here, may have been forgotten before it
            // was looked at (TXN-TOO-OLD).
            let aged = || if txn.isolation() == Isolation::ReadCommitted { Ok(()) } else { txn.check_age() };
            if let Err(objection) = may().and_then(|()| aged()) {
                let kept = credit.left();
                core.end_reserve += credit.take(kept);
                return Err(objection);
            }
            let late = mutants::is(Mutant::StatusAfterRecord);
            let timestamp = |a: Appended| if mutants::is(Mutant::TimestampIsStart) { a.lsn } else { a.end };
            let store = |a: Appended| {
                self.horizon.table.commit(id, timestamp(a));
                txn.set_committed();
            };
            let done = self.log().append_with(&spec, &mut credit, |a| {
                if !late {
                    store(a)
                }
            })?;
            if late {
                store(done);
            }
            self.horizon.committed(id, timestamp(done));
            Appended { end: timestamp(done), ..done }
        };
        core.last = done.lsn;
        core.state = State::Committed;
        // Inside the same hold as the record: a checkpoint never lists a transaction that had ended before it
        // began.
        self.unlist(txn);
        drop(core);
        self.trace.emit(|| Event::TxnCommit { txn: id, lsn: done.lsn, end: done.end });
        Ok(done.end)
    }

    /// Credit for one record that ends the transaction, out of what it took at its first registration (or, if
    /// it took nothing, beyond the log's limit).
    pub(crate) fn end_credit(&self, txn: &Txn) -> Result<Credit<'_>> {
        let mut reserve = {
            let mut core = txn.core.lock();
            let take = core.end_reserve.min(END_BYTES);
            core.end_reserve -= take;
            take
        };
        let credit = self.log().credit_from(&mut reserve, END_BYTES);
        // Untouched after an error, used up otherwise.
        txn.core.lock().end_reserve += reserve;
        credit
    }

    /// The transaction has ended: gives back and releases what it holds, and wakes who waits for it.
    pub(crate) fn finish(&self, txn: &Txn) {
        let left = {
            let mut core = txn.core.lock();
            core.touched = Touched::default();
            core.images_used = 0;
            let images = std::mem::take(&mut core.images) * self.pool().image_bytes();
            images
                + std::mem::take(&mut core.undo_reserve)
                + std::mem::take(&mut core.group_reserve)
                + std::mem::take(&mut core.end_reserve)
        };
        if left != 0 {
            self.log().give_back(left);
        }
        if self.nobody_listed() {
            self.forget_spread();
        }
        self.registrations.release(txn);
        txn.close_snapshot();
        txn.set_ended();
        self.active.fetch_sub(1, Ordering::Relaxed);
        txn.wake();
    }
}
