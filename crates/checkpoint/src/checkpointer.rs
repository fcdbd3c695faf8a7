//! Taking a checkpoint: six steps, none of which stops a writer.
//!
//! The order of the steps is the proof (docs/invariants/checkpoint.md):
//! 1. append the begin record at B, publish B, full fence;
//! 2. scan transactions and frames: the tables and the redo point R;
//! 3. sync the data file: every page write that had completed before the scan is durable;
//! 4. append the tables in chunks and the end record, force the log;
//! 5. write the table of page versions, sync; write the other slot of the control file, sync: now R counts;
//! 6. release the log below what both slots need.

use crate::{CheckpointData, CheckpointEnd, Chunk, Control, ControlFile, VersionsFile};
use hamal_buffer::RingShares;
use hamal_error::Result;
use hamal_log::{Log, RecordKind, RecordSpec, TxnRef};
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::{Lsn, PageId, RmId};
use hamal_sync::Mutex;
use hamal_trace::{Event, ForceReason, Trace};
use hamal_txn::TxnManager;
use std::sync::Arc;

/// Bytes that a record of the log takes beside its data, at most.
const RECORD_OVERHEAD: u64 = 64;

/// What a checkpoint did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointReport {
    /// LSN of the begin record.
    pub begin: Lsn,
    /// LSN after the end record.
    pub end: Lsn,
    /// The redo point.
    pub redo: Lsn,
    /// Dirty pages in the table.
    pub dirty_pages: usize,
    /// Transactions in the table.
    pub active: usize,
    /// The log is needed from here on.
    pub keep_from: Lsn,
}

/// Two moments within a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Between {
    /// The begin record is logged, the tables are not copied yet.
    BeginAndTables,
    /// The tables are copied, the end record is not logged yet.
    TablesAndEnd,
}

/// Takes checkpoints, one at a time.
#[derive(Debug)]
pub struct Checkpointer {
    txns: Arc<TxnManager>,
    trace: Trace,
    /// Taken before `versions`.
    control: Mutex<ControlFile>,
    versions: Mutex<VersionsFile>,
    /// What the control file says, and from where on the log is needed for both of its slots: for looks that do not wait for a
    /// checkpoint that is under way.
    shown: Mutex<(Control, Lsn)>,
}

impl Checkpointer {
    /// Over an open control file and the table of page versions that it speaks of.
    pub fn new(
        txns: Arc<TxnManager>,
        control: ControlFile,
        versions: VersionsFile,
        trace: Trace,
    ) -> Checkpointer {
        let shown = Mutex::new((control.current().clone(), control.keep_from()));
        Checkpointer { txns, trace, control: Mutex::new(control), versions: Mutex::new(versions), shown }
    }

    /// Pages of whose versions nothing was known when the database was opened, because their block of the table was damaged.
    pub fn unknown_versions(&self) -> Vec<std::ops::Range<PageId>> {
        let size = hamal_buffer::TAGS_PER_BLOCK as u64;
        let versions = self.versions.lock();
        versions.damaged().iter().map(|b| PageId(b * size)..PageId((b + 1) * size)).collect()
    }

    /// What the control file says now.
    pub fn current(&self) -> Control {
        self.shown.lock().0.clone()
    }

    /// The log is needed from here for the sake of both slots of the control file.
    pub fn keep_from(&self) -> Lsn {
        self.shown.lock().1
    }

    /// Waits until no checkpoint is being taken. On a poisoned engine none begins again.
    pub fn quiesce(&self) {
        drop(self.control.lock());
    }

    fn append(&self, log: &Log, kind: RecordKind, data: &[u8]) -> Result<(Lsn, Lsn)> {
        let spec =
            RecordSpec { kind, rm: RmId(0), txn: TxnRef::None, prev: Lsn::NULL, blocks: &[], undo: data };
        // Checkpoints may go beyond the log's limit: they are what makes room in it.
        let mut credit = log.credit(data.len() as u64 + RECORD_OVERHEAD, true)?;
        let a = log.append(&spec, &mut credit)?;
        Ok((a.lsn, a.end))
    }

    /// Takes a checkpoint. Writers go on; a second caller waits for the first.
    ///
    /// # Errors
    /// `NoSpace` before anything was decided (not sticky); a failed write or sync poisons.
    pub fn checkpoint(&self) -> Result<CheckpointReport> {
        self.checkpoint_with(&mut |_| Ok(()))
    }

    /// [`Checkpointer::checkpoint`], with work of the caller between its steps: what other threads may do meanwhile anyway, done
    /// on this one. An error of `between` leaves the checkpoint unfinished, as a crash would.
    ///
    /// # Errors
    /// As there; those of `between`.
    pub fn checkpoint_with(
        &self,
        between: &mut dyn FnMut(Between) -> Result<()>,
    ) -> Result<CheckpointReport> {
        let mut control = self.control.lock();
        let pool = self.txns.pool();
        let log = self.txns.log();
        log.poisoned().check()?;
        let last = control.current().clone();
        let mut versions = self.versions.lock();
        versions.reserve(pool.file_pages())?;

        // Step 1 (CKP-1). Whoever appends a record below B has set its recLSN and its table entry before reserving, and
        // the reservation of B is a later step on the same atomic tail.
        // What a rollback on a full device relies on is made sure of before (TXN-ROOM).
        let begin = self.txns.begin_epoch(|| {
            let (begin, _) = self.append(log, RecordKind::CheckpointBegin, &[])?;
            if !mutants::is(Mutant::PublishAfterScan) {
                pool.publish_checkpoint(begin);
            }
            Ok(begin)
        })?;
        self.trace.emit(|| Event::CheckpointBegin { lsn: begin });

        between(Between::BeginAndTables)?;

        // Step 2 (CKP-2): transactions first or frames first does not matter; both after B is published.
        let att = self.txns.att();
        if mutants::is(Mutant::SyncBeforeScan) {
            pool.sync_data()?;
        }
        let scan = pool.scan_dirty(begin, last.redo);
        if mutants::is(Mutant::PublishAfterScan) {
            pool.publish_checkpoint(begin);
        }
        let redo = scan.redo;
        let data = CheckpointData { dpt: scan.pages, att };
        if self.trace.is_on() {
            let att: Vec<_> = data.att.iter().map(|e| (e.txn, e.last, e.undo_next)).collect();
            self.trace.emit(|| Event::CheckpointTables { begin, from: redo, att: &att, dpt: &data.dpt });
        }
        between(Between::TablesAndEnd)?;

        // Step 3 (CKP-3): between the scan and the publication of R, never earlier.
        let data_pages = pool.file_pages_at_checkpoint();
        // A page that has been cut off the file since is no witness.
        let (witness_page, witness_lsn) = match pool.witness() {
            (page, lsn) if page.0 < data_pages => (page, lsn),
            _ => (PageId(0), Lsn::NULL),
        };
        if !mutants::is(Mutant::CheckpointWithoutSync) && !mutants::is(Mutant::SyncBeforeScan) {
            pool.sync_data()?;
        }
        self.trace.emit(|| Event::CheckpointSync);

        // Step 4 (CKP-4).
        let one_record = mutants::is(Mutant::TableInOneRecord);
        let most = RingShares::direct(log.options().ring_bytes as u64) as usize;
        let chunk_bytes = if one_record { 1 << 30 } else { (log.options().max_record / 2).min(most) };
        for chunk in Chunk::cut(&data, begin, chunk_bytes) {
            self.append(log, RecordKind::CheckpointChunk, &chunk)?;
        }
        let tables = CheckpointEnd { begin, redo, dpt: data.dpt.len() as u64, att: data.att.len() as u64 };
        let (_, end) = self.append(log, RecordKind::CheckpointEnd, &tables.encode())?;
        if !mutants::is(Mutant::ControlBeforeEnd) {
            log.force_quietly(end, ForceReason::Checkpoint)?;
        }

        // The tags are read after the scan, so those of pages that no record from R on names are final; the moment of the
        // table is durable in the log (VER-2, VER-4).
        versions.reserve(data_pages)?;
        let written = versions.write(pool.versions(), begin, data_pages).map_err(|e| log.poison(e))?;
        self.trace.emit(|| Event::VersionsWrite { blocks: written.blocks });

        // Step 5: the one write that makes the checkpoint count. A transaction in the table pins the log from its first
        // record even if it has committed since: its commit record may be lost in a crash (T41).
        let mut keep_from = data.att.iter().map(|e| Lsn(e.txn.0)).fold(redo, Lsn::min);
        if mutants::is(Mutant::LogCutAtRedo) {
            keep_from = redo;
        }
        if mutants::is(Mutant::ReaderHoldsLog) {
            keep_from = self.txns.stats().oldest_snapshot.map_or(keep_from, |s| s.min(keep_from));
        }
        let next = Control {
            checkpoint_begin: begin,
            checkpoint_end: end,
            redo,
            keep_from,
            data_pages,
            witness_page,
            witness_lsn,
            versions: written.digest,
            ..last
        };
        if mutants::is(Mutant::RecycleBeforeSlot) {
            log.truncate(keep_from)?;
        }
        let slot = control.write(next).map_err(|e| log.poison(e))?;
        *self.shown.lock() = (control.current().clone(), control.keep_from());
        versions.commit(written);
        drop(versions);
        if mutants::is(Mutant::ControlBeforeEnd) {
            log.force_quietly(end, ForceReason::Checkpoint)?;
        }
        let sequence = control.current().sequence;
        self.trace.emit(|| Event::ControlWrite { sequence, slot });

        // Step 6 (CKP-5).
        self.txns.cut_log(control.keep_from())?;
        let report = CheckpointReport {
            begin,
            end,
            redo,
            dirty_pages: data.dpt.len(),
            active: data.att.len(),
            keep_from: control.keep_from(),
        };
        self.trace.emit(|| Event::CheckpointEnd {
            begin,
            end,
            redo,
            att: report.active,
            dpt: report.dirty_pages,
        });
        Ok(report)
    }
}
