//! What a database does that nobody writes to: it brings its dirty pages to disk, at leisure, and lets go of the log.
//!
//! Under load the cleaner leaves pages dirty as long as recovery can afford it, for most of them will be changed again, and both slots of the
//! control file hold the log from their redo points on: up to one and a half intervals of checkpoints. When the load ends, all that would stay as it is, on
//! disk and for the next recovery to read, until somebody writes again.
use crate::core::Core;
use crate::{ErrorKind, Result};
use hamal_page::Lsn;
use hamal_sync::Mutex;
use hamal_sync::time::Instant;
use hamal_trace::WriteReason;
use std::time::Duration;

/// Nobody has written for so long.
const REST: Duration = Duration::from_secs(2);

/// Segments of log that make it worth while: a database that is written to now and then is not to write its pages after each commit.
const WORTH: u64 = 4;

/// Since when nothing happens.
#[derive(Debug)]
pub(crate) struct Rest(Mutex<State>);

#[derive(Debug)]
struct State {
    /// The end of the log when it was looked at last, or after the work of here.
    tail: Lsn,
    since: Instant,
    /// The end of the log after all was done: what an active transaction or a reader holds does not go by trying again.
    done: Lsn,
}

impl Rest {
    pub(crate) fn new(tail: Lsn) -> Rest {
        Rest(Mutex::new(State { tail, since: Instant::now(), done: Lsn::NULL }))
    }
}

impl Core {
    /// Whether the log that is kept for checkpoints only is much.
    fn keeps_much(&self) -> bool {
        let kept = self.log.tail().0.saturating_sub(self.checkpointer.keep_from().0);
        kept >= WORTH * self.log.options().segment_bytes
    }

    /// One batch of pages of a database at rest, or its checkpoints.
    pub(crate) fn rest_step(&self) -> Result<()> {
        let mut rest = self.rest.0.lock();
        let tail = self.log.tail();
        if tail != rest.tail {
            (rest.tail, rest.since) = (tail, Instant::now());
            return Ok(());
        }
        let grown = tail.0.saturating_sub(rest.done.0);
        if rest.since.elapsed() < REST
            || grown < WORTH * self.log.options().segment_bytes
            || !self.keeps_much()
        {
            return Ok(());
        }
        let done = self.rest_work();
        match done {
            Ok(true) => rest.done = self.log.tail(),
            Ok(false) => {}
            // A full device, say: not again at every turn.
            Err(_) => rest.since = Instant::now(),
        }
        // Images are logged and checkpoints are, and neither ends the rest.
        rest.tail = self.log.tail();
        done.map(drop)
    }

    /// Writes a batch of pages; if none is left, takes the checkpoints. Whether all is done.
    fn rest_work(&self) -> Result<bool> {
        if self.pool.clean(Lsn::MAX, usize::MAX, WriteReason::Cleaner)?.written > 0 {
            return Ok(false);
        }
        self.checkpoint()?;
        self.let_go_of_log()?;
        Ok(true)
    }

    /// After a checkpoint of a database whose pages are all written: another one if the slot of the control file from before it holds much
    /// log, which it then no longer does (CKP-5); and the log files go that were there for images of dirty pages. Want of room is no
    /// error: everything is as it was.
    pub(crate) fn let_go_of_log(&self) -> Result<()> {
        if self.keeps_much() {
            match self.checkpoint() {
                Err(e) if !matches!(e.kind(), ErrorKind::NoSpace | ErrorKind::LogFull) => return Err(e),
                _ => {}
            }
        }
        self.log.trim().map(drop)
    }
}
