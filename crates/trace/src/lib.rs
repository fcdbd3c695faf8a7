//! Typed events: what the engine did, and why, as values.
//!
//! Each decision of normal work, checkpoint and recovery is one call of [`Trace::emit`] at the place where the decision
//! is taken, with the operands that were used. A silent trace costs one branch; the closure that builds the event is
//! not run. The report of an open, the `--verbose` output of the commands, crash points and coverage of tests all come
//! from these events.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

use hamal_page::{Lsn, PageId, RmId, TxnId};
use std::fmt::Debug;
use std::sync::Arc;

/// Why the log was forced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ForceReason {
    /// A transaction commits.
    Commit,
    /// A page is about to be written (WAL rule).
    WalRule,
    /// A checkpoint.
    Checkpoint,
    /// The ring buffer is full.
    Full,
    /// Somebody asked (flusher, ticket, close).
    Asked,
}

/// Why a page was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WriteReason {
    /// Its frame is wanted for another page.
    Evict,
    /// The background cleaner or a checkpoint.
    Cleaner,
    /// Somebody asked.
    Asked,
    /// Recovery finishes.
    Recovery,
    /// It was rebuilt from the log.
    Repair,
}

/// Why redo did not apply a record to a page. A closed list: the engine cannot skip without one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SkipReason {
    /// The page is not in the dirty page table: its version on disk was current at the checkpoint.
    PageNotInDpt,
    /// LSN < recLSN: the version on disk holds it already; the page is not read.
    LsnBelowRecLsn,
    /// pageLSN >= LSN: the page as read holds it already.
    PageLsnNotBelowLsn,
    /// A later whole-page record (image, initialisation) holds it.
    OlderThanImage,
    /// The page was freed later and not used again.
    PageFreed,
}

impl SkipReason {
    /// All of them.
    pub const ALL: [SkipReason; 5] = [
        SkipReason::PageNotInDpt,
        SkipReason::LsnBelowRecLsn,
        SkipReason::PageLsnNotBelowLsn,
        SkipReason::OlderThanImage,
        SkipReason::PageFreed,
    ];

    /// The name that traces print: stable across versions.
    pub const fn name(self) -> &'static str {
        match self {
            SkipReason::PageNotInDpt => "page-not-in-dpt",
            SkipReason::LsnBelowRecLsn => "lsn-below-reclsn",
            SkipReason::PageLsnNotBelowLsn => "pagelsn-not-below-lsn",
            SkipReason::OlderThanImage => "older-than-image",
            SkipReason::PageFreed => "page-freed",
        }
    }
}

/// A page that a record changes, as the record says it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LoggedBlock<'a> {
    /// The page.
    pub page: PageId,
    /// Its pageLSN before the record (null for a page made anew).
    pub former: Lsn,
    /// Operation code, meaning given by the resource manager.
    pub op: u8,
    /// `change`, `image`, `init` or `free`.
    pub whole: &'static str,
    /// Payload of the operation; empty for an image, whose bytes are nothing to look at.
    pub payload: &'a [u8],
}

impl Debug for LoggedBlock<'_> {
    /// Of a long payload the first 256 bytes.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = &self.payload[..self.payload.len().min(256)];
        f.debug_struct("LoggedBlock")
            .field("page", &self.page)
            .field("former", &self.former)
            .field("op", &self.op)
            .field("whole", &self.whole)
            .field("payload", &shown)
            .field("payload_len", &self.payload.len())
            .finish()
    }
}

/// A row of the active transaction table: transaction, lastLSN, undoNextLSN.
pub type AttRow = (TxnId, Lsn, Lsn);

/// The three phases of restart, and what surrounds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Normal running.
    Run,
    /// Finding the end of the log and the verdict.
    FindEnd,
    /// Analysis.
    Analysis,
    /// Redo.
    Redo,
    /// Undo.
    Undo,
    /// The closing checkpoint.
    Finish,
}

/// One event.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the field names are the field's standard terms, explained at each variant")]
pub enum Event<'a> {
    /// A record was appended to the log.
    LogAppend {
        lsn: Lsn,
        end: Lsn,
        kind: &'static str,
        rm: RmId,
        txn: TxnId,
        /// prevLSN; undoNextLSN in a CLR.
        prev: Lsn,
        blocks: &'a [LoggedBlock<'a>],
        undo_len: usize,
    },
    /// The log was made durable up to `to`.
    LogForce { to: Lsn, why: ForceReason },
    /// A segment was created or recycled; its first LSN.
    LogSegment { first: Lsn, recycled: bool },
    /// Segments below this LSN were released.
    LogTruncate { before: Lsn },
    /// A page was latched in memory, shared or exclusively. The most frequent event by far.
    PageFix { page: PageId, exclusive: bool },
    /// A page was read from disk.
    PageRead { page: PageId, page_lsn: Lsn },
    /// A page's image was appended before its write.
    PageImage { page: PageId, lsn: Lsn, page_lsn: Lsn, bytes: usize },
    /// A page that could not be used as the disk holds it was rebuilt from the whole-page record at `base` and what the log
    /// has after it.
    PageRepaired { page: PageId, base: Lsn, page_lsn: Lsn },
    /// A page was written.
    PageWrite { page: PageId, page_lsn: Lsn, why: WriteReason },
    /// A page's frame was given to another page.
    PageEvict { page: PageId },
    /// A transaction wrote its first record.
    TxnBegin { txn: TxnId },
    /// A commit record was reserved; `end` is the commit timestamp.
    TxnCommit { txn: TxnId, lsn: Lsn, end: Lsn },
    /// A rollback begins, to `to` (null: the whole transaction).
    TxnRollback { txn: TxnId, to: Lsn },
    /// A rollback of a whole transaction is complete.
    TxnEnd { txn: TxnId },
    /// A transaction waits for another.
    TxnWait { txn: TxnId, holder: TxnId },
    /// A checkpoint began.
    CheckpointBegin { lsn: Lsn },
    /// The frames were scanned: the redo point and how many pages are dirty.
    CheckpointScan { redo: Lsn, dirty: usize },
    /// The two tables that a checkpoint writes, with the moment they speak of: `from` is the redo point.
    CheckpointTables { begin: Lsn, from: Lsn, att: &'a [AttRow], dpt: &'a [(PageId, Lsn)] },
    /// The data file was synced for a checkpoint.
    CheckpointSync,
    /// A checkpoint is complete.
    CheckpointEnd { begin: Lsn, end: Lsn, redo: Lsn, att: usize, dpt: usize },
    /// Blocks of the table of page versions were written, and synced.
    VersionsWrite { blocks: usize },
    /// The control file was written.
    ControlWrite { sequence: u64, slot: u8 },
    /// A phase of restart begins.
    PhaseBegin { phase: Phase, from: Lsn },
    /// The end of the log was found.
    LogEnd { end: Lsn, verdict: &'a str },
    /// Analysis looked at a record.
    AnalysisRecord { lsn: Lsn, end: Lsn, kind: &'static str, txn: TxnId, prev: Lsn, pages: &'a [PageId] },
    /// Analysis changed a transaction's entry.
    AttSet { txn: TxnId, last: Lsn, undo_next: Lsn },
    /// Analysis met an entry of the checkpoint's table and kept what it had: `why` is `newer seen` or
    /// `already ended, not revived`.
    AttKept { txn: TxnId, why: &'static str },
    /// Analysis removed a transaction; `why` is `commit` or `end`.
    AttDelete { txn: TxnId, why: &'static str },
    /// Analysis entered a page in the dirty page table, or (`lowered`) found an older recLSN for one that was there.
    DptAdd { page: PageId, rec_lsn: Lsn, lowered: bool },
    /// Analysis is done. `redo` is the redo point, `smallest` the smallest recLSN (null: no page is dirty).
    AnalysisEnd { losers: &'a [TxnId], dirty: usize, redo: Lsn, smallest: Lsn },
    /// Redo applied a record to a page.
    RedoApply { lsn: Lsn, page: PageId, page_lsn_before: Lsn },
    /// Redo did not apply a record to a page.
    RedoSkip { lsn: Lsn, page: PageId, why: SkipReason, rec_lsn: Lsn, page_lsn: Lsn },
    /// A page was rebuilt from its image.
    RedoImage { page: PageId, lsn: Lsn, torn: bool },
    /// Undo chose the loser with the largest undoNextLSN, out of `to_undo` (in descending order; empty if there are more than
    /// 256 of them: then only their number is given). A loser that has nothing left to undo counts as the largest: its End
    /// comes at once.
    UndoPick { txn: TxnId, lsn: Lsn, losers: usize, to_undo: &'a [(TxnId, Lsn)] },
    /// The record at `lsn` is an update and will be compensated; `next` is its prevLSN, the undoNextLSN of the CLR to come.
    UndoUpdate { txn: TxnId, lsn: Lsn, next: Lsn },
    /// A record was undone, or a part of it: `left` parts are left, and undoNextLSN is the record itself if there are any. The
    /// CLR's LSN and undoNextLSN.
    UndoClr { txn: TxnId, undone: Lsn, clr: Lsn, undo_next: Lsn, left: u64 },
    /// Undo met a record that needs no undo and followed its chain.
    UndoFollow { txn: TxnId, lsn: Lsn, kind: &'static str, next: Lsn },
    /// A loser is done.
    UndoEnd { txn: TxnId, lsn: Lsn },
}

/// Receives events. Called from many threads, often with latches held: do little, never call back into the engine.
pub trait Tracer: Send + Sync {
    /// One event.
    fn event(&self, event: &Event<'_>);
}

impl<F: Fn(&Event<'_>) + Send + Sync> Tracer for F {
    fn event(&self, event: &Event<'_>) {
        self(event)
    }
}

/// A handle that every part of the engine holds: a tracer, or silence.
///
/// ```
/// use hamal_trace::{Event, Trace};
/// use std::sync::{Arc, atomic::{AtomicUsize, Ordering}};
/// let n = Arc::new(AtomicUsize::new(0));
/// let seen = n.clone();
/// let t = Trace::new(Arc::new(move |_: &Event<'_>| { seen.fetch_add(1, Ordering::Relaxed); }));
/// t.emit(|| Event::CheckpointSync);
/// Trace::silent().emit(|| unreachable!());
/// assert_eq!(n.load(Ordering::Relaxed), 1);
/// ```
#[derive(Clone, Default)]
pub struct Trace(Option<Arc<dyn Tracer>>);

impl Trace {
    /// A trace that sends events to `tracer`.
    pub fn new(tracer: Arc<dyn Tracer>) -> Self {
        Trace(Some(tracer))
    }
    /// No trace.
    pub const fn silent() -> Self {
        Trace(None)
    }
    /// Sends the event that `make` builds, if anybody listens.
    #[inline]
    pub fn emit<'a>(&self, make: impl FnOnce() -> Event<'a>) {
        if let Some(t) = &self.0 {
            t.event(&make());
        }
    }
    /// Whether anybody listens.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }
}

impl Debug for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_on() { "Trace(on)" } else { "Trace(silent)" })
    }
}
