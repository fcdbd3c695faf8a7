//! Restart as a whole: the three phases, and the checkpoints after them.
use crate::{Analysis, Progress, ProgressFn, RecoveryReport, analyse, redo, undo};
use hamal_checkpoint::{Checkpointer, Control};
use hamal_error::{Error, ErrorKind, Result};
use hamal_log::{LogEnd, LogReader};
use hamal_page::Lsn;
use hamal_trace::{Event, Phase, Trace};
use hamal_txn::TxnManager;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

/// What a restart works on: the parts of a database, wired but not yet open to anybody.
pub struct RestartContext<'a> {
    /// Transactions (and through them the pool and the log, opened at `end`).
    pub txns: &'a Arc<TxnManager>,
    /// The checkpointer.
    pub checkpointer: &'a Checkpointer,
    /// What the control file said.
    pub control: &'a Control,
    /// The end of the log, as found.
    pub end: &'a LogEnd,
    /// Reads the log's files.
    pub reader: LogReader,
    /// Seconds that finding the end took, for the report.
    pub find_end_seconds: f64,
    /// Whether pages are read past the operating system's cache. If not, every page named in [R, end] is treated as
    /// dirty whatever its pageLSN (T4).
    pub bypass: bool,
    /// Bytes of log records that redo may hold in memory at once; a longer log is passed several times.
    pub redo_memory: u64,
    /// Threads that redo pages; 1: everything in order.
    pub threads: usize,
    /// Whether checkpoints are taken after redo and after undo. Without them the next restart begins where this one did.
    pub checkpoints: bool,
    /// Called between any two steps of redo and undo.
    pub pause: Option<Pause>,
    /// Where events go.
    pub trace: Trace,
}

/// Called between the steps of a restart, with the phase (`Undo` comes once more when it is complete) and the engine, whose
/// pages and log may be looked at and flushed; `Break` stops the restart as a crash would.
pub type Pause = Arc<dyn Fn(Phase, &TxnManager) -> ControlFlow<()> + Send + Sync>;

impl RestartContext<'_> {
    /// Whether progress is to be reported at step `n`: each `often`th one, or each if somebody pauses.
    pub(crate) fn every(&self, n: u64, often: u64) -> bool {
        n.is_multiple_of(often) || self.pause.is_some()
    }
    /// Threads of redo. Who pauses between its steps wants them one after another.
    pub(crate) fn redo_threads(&self) -> usize {
        if self.pause.is_some() { 1 } else { self.threads }
    }
}

/// Calls the progress function and turns `Break` into an error.
pub(crate) fn step(progress: &mut ProgressFn<'_>, phase: Phase, done: u64, total: u64) -> Result<()> {
    match progress(Progress { phase, done, total }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => {
            Err(Error::new(ErrorKind::Cancelled, "recovery was stopped by the progress callback")
                .with_help("Nothing is lost; the next open starts recovery again"))
        }
    }
}

/// Tells the pool which versions the disk must hold of the pages that the log names (VER-3): of a page that was clean at the
/// checkpoint and has not changed since, the one that its last record made. What redo has to read first may be older: of
/// that redo itself says so. Of the other pages the table speaks that was read with the control file.
fn expect_versions(ctx: &RestartContext<'_>, analysis: &Analysis, clean: bool) {
    let versions = ctx.txns.pool().versions();
    for (&page, todo) in analysis.pages.iter().filter(|(_, todo)| !analysis.records(todo).is_empty()) {
        let untouched = todo.rec.is_null() && (ctx.bypass || clean);
        versions.set(page, if untouched { todo.last } else { Lsn::NULL });
    }
}

/// Brings the database to the state that its durable log describes: history repeated, losers rolled back.
///
/// # Errors
/// `LogCorrupt`, `PageCorrupt`, `LogBehindPages` if the files are damaged; `Cancelled`; I/O errors. Nothing acknowledged
/// is changed by a failed restart: the next one starts again.
pub fn restart(mut ctx: RestartContext<'_>, progress: ProgressFn<'_>) -> Result<RecoveryReport> {
    let (pause, engine) = (ctx.pause.clone(), ctx.txns.clone());
    let mut progress = |p: Progress| {
        progress(p)?;
        pause.as_ref().map_or(ControlFlow::Continue(()), |pause| pause(p.phase, &engine))
    };
    let mut progress: ProgressFn<'_> = &mut progress;
    let (redo_point, begin, end) = (ctx.control.redo, ctx.control.checkpoint_begin, ctx.end.end);

    let started = Instant::now();
    ctx.trace.emit(|| Event::PhaseBegin { phase: Phase::Analysis, from: begin });
    let analysis: Analysis = analyse(&mut ctx.reader, ctx.control, end, &ctx.trace, &mut progress)?;
    let mut report = RecoveryReport {
        clean: analysis.is_clean(),
        verdict: ctx.end.verdict.clone(),
        checkpoint: begin,
        redo_point,
        log_end: end,
        records_analysed: analysis.records,
        log_bytes: end.0.saturating_sub(redo_point.0),
        dirty_pages: analysis.dirty_pages(),
        redone: 0,
        skipped: Default::default(),
        pages_read: 0,
        pages_rebuilt: 0,
        redo_threads: 0,
        redo_batches: 0,
        losers: analysis.losers.iter().map(|e| e.txn).collect(),
        clrs: 0,
        seconds: [ctx.find_end_seconds, started.elapsed().as_secs_f64(), 0.0, 0.0, 0.0],
    };
    // Losers are active from before redo ends until their End (T11).
    let losers: Vec<_> = analysis.losers.iter().map(|e| (*e, ctx.txns.adopt(*e))).collect();
    ctx.txns.start_at(end);
    expect_versions(&ctx, &analysis, report.clean);
    if report.clean {
        ctx.txns.pool().publish_checkpoint(begin);
        return Ok(report);
    }

    let phase = Instant::now();
    ctx.trace.emit(|| Event::PhaseBegin { phase: Phase::Redo, from: redo_point });
    redo(&mut ctx, &analysis, &mut report, &mut progress)?;
    report.seconds[2] = phase.elapsed().as_secs_f64();

    let phase = Instant::now();
    if ctx.checkpoints && (analysis.needs_checkpoint || !losers.is_empty()) {
        ctx.checkpointer.checkpoint()?;
    }
    report.seconds[4] = phase.elapsed().as_secs_f64();

    let phase = Instant::now();
    ctx.trace.emit(|| Event::PhaseBegin { phase: Phase::Undo, from: end });
    if !losers.is_empty() {
        report.clrs = undo(&mut ctx, &losers, &mut progress)?;
    }
    report.seconds[3] = phase.elapsed().as_secs_f64();

    let phase = Instant::now();
    ctx.trace.emit(|| Event::PhaseBegin { phase: Phase::Finish, from: Lsn::NULL });
    if ctx.checkpoints && !losers.is_empty() {
        ctx.checkpointer.checkpoint()?;
    }
    report.seconds[4] += phase.elapsed().as_secs_f64();
    Ok(report)
}
