//! Waiting for durability later: tickets, and the flusher that serves those who only poll.
use crate::Log;
use hamal_error::{Error, ErrorKind, Result};
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::Lsn;
use hamal_sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use hamal_sync::time::{Duration, Instant};
use hamal_sync::{Condvar, Mutex};
use hamal_trace::ForceReason;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// A promise that the log will be durable up to some LSN: wait for it, poll it, or `.await` it (any runtime).
///
/// A poll does not flush, it asks for a flush: somebody must call [`Log::flush_pending`] (the flusher thread
/// of the database), or commit.
#[derive(Clone, Debug)]
pub struct Ticket {
    log: Arc<Log>,
    to: Lsn,
}

impl Ticket {
    /// The LSN: a commit's timestamp.
    pub fn lsn(&self) -> Lsn {
        self.to
    }
    /// Whether it is durable now.
    pub fn is_durable(&self) -> bool {
        self.log.durable() >= self.to || mutants::is(Mutant::TicketReadyEarly)
    }
    /// Waits; forces the log if nobody else does.
    ///
    /// # Errors
    /// `OutcomeUnknown` if the engine was poisoned before.
    pub fn wait(&self) -> Result<()> {
        self.log.force(self.to, ForceReason::Commit).or_else(|e| match e.kind() {
            ErrorKind::Poisoned if mutants::is(Mutant::AckAfterPoison) => Ok(()),
            ErrorKind::Poisoned => Err(self.unknown(e)),
            _ => Err(e),
        })
    }
    fn unknown(&self, cause: Error) -> Error {
        Error::new(ErrorKind::OutcomeUnknown, "the storage failed while a commit was in flight")
            .with_lsn(self.to)
            .with_cause(cause)
            .with_help("Open the database again: what it then holds is the outcome")
    }
    fn look(&self) -> Option<Result<()>> {
        if self.is_durable() {
            return Some(Ok(()));
        }
        self.log.poison.error().map(|e| Err(self.unknown(e)))
    }
}

impl Future for Ticket {
    type Output = Result<()>;
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(done) = self.look() {
            return Poll::Ready(done);
        }
        // Enter, then look again: whoever makes it durable, or poisons, does that first and goes through the
        // list after.
        self.log.register(self.to.0, cx.waker());
        self.log.request_flush(self.to);
        match self.look() {
            Some(done) => Poll::Ready(done),
            None => Poll::Pending,
        }
    }
}

/// Where the flusher thread sleeps.
#[derive(Debug, Default)]
pub(crate) struct Flusher {
    wanted: AtomicU64,
    sleepers: AtomicUsize,
    called: Mutex<bool>,
    wake: Condvar,
}

impl Log {
    /// A handle that can be waited for, polled or awaited.
    pub fn ticket(self: &Arc<Self>, to: Lsn) -> Ticket {
        Ticket { log: Arc::clone(self), to }
    }

    /// Makes everything appended so far durable; `false` if it is already. Wakes the tasks that are served: foreign code may run.
    ///
    /// # Errors
    /// As [`Log::force`].
    pub fn flush_pending(&self) -> Result<bool> {
        let tail = self.tail();
        let flushed = if tail <= self.durable() {
            Ok(false)
        } else {
            self.force(tail, ForceReason::Asked).map(|()| true)
        };
        // Those too that were served by somebody who could not wake them.
        self.wake_tasks();
        flushed
    }

    /// Asks the flusher to make everything below `to` durable; does not wait.
    pub fn request_flush(&self, to: Lsn) {
        self.flusher.wanted.fetch_max(to.0, SeqCst);
        if self.flusher.sleepers.load(SeqCst) != 0 {
            self.wake_flusher();
        }
    }

    /// Whether a flush was asked for that has not been done.
    pub fn has_pending(&self) -> bool {
        self.flusher.wanted.load(SeqCst) > self.durable.load(SeqCst)
    }

    /// Parks the flusher until a flush is asked for, [`Log::wake_flusher`] is called, the log is poisoned, or
    /// `timeout` is over. Returns whether there is something to flush. On a poisoned log it returns at once,
    /// and [`Log::flush_pending`] says why: the flusher should end.
    pub fn wait_pending(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        // Announce, then look: who asks stores its wish first and looks for sleepers after.
        let late = mutants::is(Mutant::FlusherUnannounced) && !self.has_pending();
        if !late {
            self.flusher.sleepers.fetch_add(1, SeqCst);
        }
        let mut called = self.flusher.called.lock();
        if late {
            self.flusher.sleepers.fetch_add(1, SeqCst);
            if self.flusher.wake.wait_until(&mut called, deadline).timed_out() {
                *called = true;
            }
        }
        while !*called && !self.has_pending() && !self.poison.is_set() {
            if self.flusher.wake.wait_until(&mut called, deadline).timed_out() {
                break;
            }
        }
        *called = false;
        drop(called);
        self.flusher.sleepers.fetch_sub(1, SeqCst);
        self.has_pending()
    }

    /// Makes [`Log::wait_pending`] return (to end the flusher thread).
    pub fn wake_flusher(&self) {
        *self.flusher.called.lock() = true;
        self.flusher.wake.notify_all();
    }
}
