//! The threads of redo: who redoes which page, and who reads pages ahead.
//!
//! Pages are independent of each other (REC-3), so the list of them, ascending, is cut into blocks, and whoever is free takes the
//! next one. A page is in one block, so one thread redoes it, with all of its records, under its latch (REC-2). Other threads go
//! ahead of them and ask the pool for the pages that will be read from disk, many at once, so that the device has something to
//! do; they change nothing (REC-11).
//!
//! One thread does it all in order, without reading ahead: the same decisions in the same order each time.

use crate::ProgressFn;
use crate::records::Records;
use crate::redo::{Redoer, Rules, Tally, Todo};
use crate::restart::step;
use hamal_error::{Error, ErrorKind, Result};
use hamal_page::{Lsn, PageId};
use hamal_trace::Phase;
use parking_lot::{Condvar, Mutex};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;

/// Pages that a thread takes at once.
const BLOCK: usize = 16;
/// Pages to read from disk below which nothing is read ahead.
const WORTH_READING_AHEAD: usize = 32;
/// Threads that read ahead. They wait for the device, and take little of the processors: two cores need them as eight do.
const READERS: usize = 16;
/// Blocks that each of them may be ahead.
const AHEAD: usize = 4;

/// How many threads redo has, unless it is told: as many as there are processors, at most 1024.
pub fn processors() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(1024)
}

/// The threads of one redo, and what they have counted so far.
pub(crate) struct Crew<'a> {
    rules: Rules<'a>,
    threads: usize,
    /// Pages between two calls of the progress function, about.
    report_every: usize,
    tally: Tally,
    batches: u64,
    done: usize,
    total: usize,
}

/// What the threads share.
struct Shared<'a> {
    blocks: Vec<&'a [Todo<'a>]>,
    /// The next block to redo, and the next one to read.
    next: AtomicUsize,
    next_read: AtomicUsize,
    /// An error, or the end.
    stop: AtomicBool,
    /// Blocks that may be read before they are redone.
    window: usize,
    report_every: usize,
    gate: Mutex<()>,
    moved: Condvar,
}

/// What one thread ended with: its counts, and the number of the block that it failed in.
type Outcome = (Tally, Option<(usize, Error)>);

impl<'a> Crew<'a> {
    /// At most `threads` threads for `total` pages.
    pub(crate) fn new(rules: Rules<'a>, threads: usize, report_every: usize, total: usize) -> Crew<'a> {
        let threads = threads.min(total.div_ceil(BLOCK)).max(1);
        Crew { rules, threads, report_every, tally: Tally::default(), batches: 0, done: 0, total }
    }
    pub(crate) fn rules(&self) -> Rules<'a> {
        self.rules
    }
    pub(crate) fn tally(&self) -> Tally {
        self.tally
    }
    pub(crate) fn batches(&self) -> u64 {
        self.batches
    }
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// Redoes these pages.
    ///
    /// # Errors
    /// The first one, by page id, that a thread met; the others stop when one fails. A panic of a thread is an `Internal` error, and
    /// poisons.
    pub(crate) fn redo(
        &mut self,
        todo: &[Todo<'_>],
        records: &Records,
        progress: &mut ProgressFn<'_>,
    ) -> Result<()> {
        let (rules, done, total) = (self.rules, self.done, self.total);
        step(progress, Phase::Redo, done as u64, total as u64)?;
        let shared = Shared::new(rules, self.report_every, todo);
        let readers = shared.readers(rules, self.threads);
        let mut outcomes = Vec::new();
        thread::scope(|s| {
            let start = |name: &str, i: usize| thread::Builder::new().name(format!("hamal-{name}-{i}"));
            // A thread that cannot be had is one less: this one does its work.
            let helpers: Vec<_> = (1..self.threads)
                .filter_map(|i| {
                    start("redo", i).spawn_scoped(s, || shared.work(rules, records, &mut |_| Ok(()))).ok()
                })
                .collect();
            let readers: Vec<_> = (0..readers)
                .filter_map(|i| start("read", i).spawn_scoped(s, || shared.read_ahead(rules)).ok())
                .collect();
            let mut report = |at: usize| step(progress, Phase::Redo, (done + at) as u64, total as u64);
            outcomes.push(shared.work(rules, records, &mut report));
            outcomes.extend(
                helpers.into_iter().map(|h| h.join().unwrap_or_else(|p| failed(0, panicked(rules, p)))),
            );
            shared.stop();
            outcomes.extend(
                readers.into_iter().map(|r| r.join().unwrap_or_else(|p| failed(0, panicked(rules, p)))),
            );
        });
        self.batches += 1;
        self.done += todo.len();
        outcomes.iter().for_each(|(tally, _)| self.tally.add(tally));
        // What poisoned, rather than that it did.
        let rank = |(at, e): &(usize, Error)| (e.kind() == ErrorKind::Poisoned, *at);
        let first = outcomes.into_iter().filter_map(|(_, failed)| failed).min_by_key(rank);
        first.map_or(Ok(()), |(_, e)| Err(e))
    }
}

/// A panic is a bug. Nobody may go on with what the thread had in its hands.
fn panicked(rules: Rules<'_>, panic: Box<dyn std::any::Any + Send>) -> Error {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    let e = Error::internal(format!("a thread panicked in redo: {text}"));
    rules.pool.log().poison(e.clone());
    e
}

/// What a thread ended with that panicked in block `at`.
fn failed(at: usize, e: Error) -> Outcome {
    (Tally::default(), Some((at, e)))
}

/// Pages whose stored versions one thread looks at at once.
const LOOK: usize = 64;

/// The first of `ids` (ascending) whose version on disk proves that the log was longer ([`Pool::stored_beyond`](hamal_buffer::Pool::stored_beyond)).
/// As many threads as read ahead look at them, if redo may use more than one: this is waiting for the device.
///
/// # Errors
/// A panic of a thread is an `Internal` error, and poisons.
pub(crate) fn stored_beyond(
    rules: Rules<'_>,
    threads: usize,
    ids: &[PageId],
    end: Lsn,
) -> Result<Option<(PageId, Lsn)>> {
    // Blocks are taken in order, and one that was begun is ended: so the lowest page is found, whoever is first.
    let (next, found) = (AtomicUsize::new(0), AtomicBool::new(false));
    let look = || {
        let body = AssertUnwindSafe(|| {
            if ids.len() < WORTH_READING_AHEAD {
                return rules.pool.stored_beyond(ids, end);
            }
            while !found.load(SeqCst) {
                let block = ids.chunks(LOOK).nth(next.fetch_add(1, SeqCst))?;
                let beyond = rules.pool.stored_beyond(block, end);
                if beyond.is_some() {
                    found.store(true, SeqCst);
                    return beyond;
                }
            }
            None
        });
        catch_unwind(body).map_err(|p| panicked(rules, p))
    };
    let more = if threads < 2 { 0 } else { READERS.min(ids.len() / LOOK).saturating_sub(1) };
    let all: Vec<_> = thread::scope(|s| {
        let start = |i: usize| thread::Builder::new().name(format!("hamal-look-{i}")).spawn_scoped(s, look);
        let others: Vec<_> = (0..more).filter_map(|i| start(i).ok()).collect();
        let mine = look();
        let join = |h: thread::ScopedJoinHandle<'_, _>| h.join().unwrap_or_else(|p| Err(panicked(rules, p)));
        others.into_iter().map(join).chain([mine]).collect()
    });
    Ok(all.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().min())
}

impl<'a> Shared<'a> {
    fn new(rules: Rules<'_>, report_every: usize, todo: &'a [Todo<'a>]) -> Shared<'a> {
        // What is read ahead must not drive out what was read ahead before it.
        let window = (rules.pool.options().frames / 4 / BLOCK).min(READERS * AHEAD);
        Shared {
            blocks: todo.chunks(BLOCK).collect(),
            next: AtomicUsize::new(0),
            next_read: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            window,
            report_every,
            gate: Mutex::new(()),
            moved: Condvar::new(),
        }
    }

    /// How many threads should read ahead.
    fn readers(&self, rules: Rules<'_>, threads: usize) -> usize {
        if threads < 2 || self.window < 2 {
            return 0;
        }
        let pages = self.blocks.iter().flat_map(|b| b.iter());
        let to_read = pages.filter(|todo| rules.reads_page(todo)).take(WORTH_READING_AHEAD).count();
        if to_read < WORTH_READING_AHEAD { 0 } else { READERS.min(self.window / 2) }
    }

    fn stop(&self) {
        self.stop.store(true, SeqCst);
        let _held = self.gate.lock();
        self.moved.notify_all();
    }

    /// Takes blocks and redoes them until there are none left, or somebody fails. `report` is told now and then how many
    /// pages were taken.
    fn work(
        &self,
        rules: Rules<'_>,
        records: &Records,
        report: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Outcome {
        let mut at = 0;
        let mut redoer = Redoer::new(rules, records);
        let body = AssertUnwindSafe(|| self.take_blocks(&mut redoer, &mut at, report));
        let done = catch_unwind(body);
        let (tally, failed) = match done {
            Ok(done) => (redoer.tally, done.err().map(|e| (at, e))),
            Err(panic) => failed(at, panicked(rules, panic)),
        };
        if failed.is_some() {
            self.stop();
        }
        (tally, failed)
    }

    fn take_blocks(
        &self,
        redoer: &mut Redoer<'_>,
        at: &mut usize,
        report: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        let mut next_report = self.report_every;
        while !self.stop.load(SeqCst) {
            *at = self.next.fetch_add(1, SeqCst);
            let Some(block) = self.blocks.get(*at) else { break };
            drop(self.gate.lock());
            self.moved.notify_all();
            for (i, todo) in block.iter().enumerate() {
                let n = *at * BLOCK + i;
                if n >= next_report {
                    report(n)?;
                    next_report = n + self.report_every;
                }
                redoer.redo_page(todo)?;
            }
        }
        Ok(())
    }

    /// Asks the pool for pages that will be redone soon. What cannot be read is left to who redoes the page: it says why.
    fn read_ahead(&self, rules: Rules<'_>) -> Outcome {
        let mut at = 0;
        match catch_unwind(AssertUnwindSafe(|| self.read_blocks(rules, &mut at))) {
            Ok(()) => (Tally::default(), None),
            Err(panic) => {
                // At once: others may be waiting for the pages that this thread was reading, and then meet the poison.
                let outcome = failed(at, panicked(rules, panic));
                self.stop();
                outcome
            }
        }
    }

    fn read_blocks(&self, rules: Rules<'_>, at: &mut usize) {
        let mut pages: Vec<PageId> = Vec::new();
        loop {
            *at = self.next_read.fetch_add(1, SeqCst);
            let Some(block) = self.blocks.get(*at) else { return };
            {
                let mut held = self.gate.lock();
                while *at >= self.next.load(SeqCst) + self.window && !self.stop.load(SeqCst) {
                    self.moved.wait(&mut held);
                }
            }
            if self.stop.load(SeqCst) {
                return;
            }
            if *at < self.next.load(SeqCst) {
                continue; // too late
            }
            pages.clear();
            pages.extend(block.iter().filter(|todo| rules.reads_page(todo)).map(|todo| todo.page));
            rules.pool.prefetch(&pages);
        }
    }
}
