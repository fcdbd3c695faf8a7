//! Waiting for another transaction: time-out, poison, and deadlock detection.
//!
//! A waiter has one edge, to the transaction it waits for. The edge is entered before the cycle is looked
//! for, both under one mutex (TXN-WAIT), so of the transactions of a cycle exactly the one that closes it
//! sees it, and that one is the victim. An edge names the holder's *turn*: once the holder has ended or
//! rolled back to a savepoint the edge is void, though its owner may not have run yet; so a stale edge never
//! makes a deadlock out of nothing.
//!
//! A thread that waits in one transaction cannot go on with another. So the chain of waits also goes
//! from an idle transaction to what its thread waits for, and a chain that comes back to the waiter's own
//! thread is a deadlock.
use crate::Txn;
use crate::stats::Counters;
use crate::txn::this_thread;
use hamal_error::{Error, ErrorKind, Poison, Result};
use hamal_mutants::{self as mutants, Mutant};
use hamal_sync::Mutex;
use hamal_sync::atomic::Ordering;
use hamal_sync::time::{Duration, Instant};
use hamal_trace::{Event, Trace};
use std::collections::HashMap;
use std::sync::Arc;

/// How often a waiter looks whether the engine was poisoned.
const POLL: Duration = Duration::from_millis(50);

#[derive(Debug)]
struct Edge {
    name: String,
    thread: u64,
    holder: Arc<Txn>,
    turn: u64,
}

impl Edge {
    /// Whether the waiter really still waits.
    fn holds(&self) -> bool {
        self.holder.turn() == self.turn
    }
}

/// Who waits for whom, by transaction number.
#[derive(Debug, Default)]
pub(crate) struct WaitGraph {
    edges: Mutex<HashMap<u64, Edge>>,
}

/// What a wait needs from the manager.
pub(crate) struct Waiting<'a> {
    pub(crate) timeout: Duration,
    pub(crate) poison: &'a Poison,
    pub(crate) counters: &'a Counters,
    pub(crate) trace: &'a Trace,
}

/// Removes the edge however the wait ends.
struct EdgeGuard<'g>(&'g WaitGraph, u64);

impl Drop for EdgeGuard<'_> {
    fn drop(&mut self) {
        let edge = self.0.edges.lock().remove(&self.1);
        drop(edge);
    }
}

impl WaitGraph {
    /// Waits until `holder` has turned away from `turn`.
    pub(crate) fn wait(&self, txn: &Txn, holder: &Arc<Txn>, turn: u64, with: &Waiting<'_>) -> Result<()> {
        with.poison.check()?;
        // An end sets `ended` before it turns, so one that is not seen here will be seen as a turn.
        if holder.turn() != turn || holder.is_ended() {
            return Ok(());
        }
        let _edge = self.enter(txn, holder, turn, with)?;
        with.counters.waits.fetch_add(1, Ordering::Relaxed);
        with.trace.emit(|| Event::TxnWait { txn: txn.id(), holder: holder.id() });
        let start = Instant::now();
        loop {
            let Some(left) = with.timeout.checked_sub(start.elapsed()).filter(|d| !d.is_zero()) else {
                with.counters.timeouts.fetch_add(1, Ordering::Relaxed);
                return Err(Error::new(
                    ErrorKind::LockTimeout,
                    format!("{} waited {} ms for {}", txn.name(), with.timeout.as_millis(), holder.name()),
                )
                .with_txn(holder.id())
                .with_help("Roll back and run it again; keep transactions short, or raise lock_timeout"));
            };
            let turned = holder.await_turn(turn, left.min(POLL));
            if !mutants::is(Mutant::WaitersIgnorePoison) {
                with.poison.check()?;
            }
            if turned {
                return Ok(());
            }
            if txn.is_doomed() {
                return Err(Error::new(
                    ErrorKind::TransactionEnded,
                    format!("{} was ended by the engine while it waited for {}", txn.name(), holder.name()),
                ));
            }
        }
    }

    /// Enters the edge, then looks for a cycle.
    fn enter(&self, txn: &Txn, holder: &Arc<Txn>, turn: u64, with: &Waiting<'_>) -> Result<EdgeGuard<'_>> {
        let me = this_thread();
        let edge = Edge { name: txn.name(), thread: me, holder: holder.clone(), turn };
        let mut edges = self.edges.lock();
        edges.insert(txn.number(), edge);
        let Some((path, own_thread)) = find_cycle(&edges, txn, holder, me) else {
            drop(edges);
            return Ok(EdgeGuard(self, txn.number()));
        };
        edges.remove(&txn.number());
        drop(edges);
        with.counters.deadlocks.fetch_add(1, Ordering::Relaxed);
        let path = path.join(" -> ");
        let error = if own_thread {
            Error::new(
                ErrorKind::Deadlock,
                format!("{} would wait for a transaction of its own thread: {path}", txn.name()),
            )
            .with_help(
                "A thread that waits cannot end its other transaction: end it first, or use two threads",
            )
        } else {
            Error::new(ErrorKind::Deadlock, format!("the wait would close a cycle: {path}"))
                .with_help("Roll this transaction back and run it again")
        };
        Err(error.with_txn(holder.id()))
    }
}

/// Follows the waits from `holder`. A cycle is the names along it, and whether it closes over the thread `me`
/// and not over the waiter itself.
fn find_cycle(
    edges: &HashMap<u64, Edge>,
    txn: &Txn,
    holder: &Arc<Txn>,
    me: u64,
) -> Option<(Vec<String>, bool)> {
    let mut path = vec![txn.name()];
    let mut at = holder;
    // Every step takes another edge, or there is a cycle that does not go through the waiter, which was found
    // (and refused) when it was closed: the bound only guards against a mistake in that reasoning.
    for _ in 0..=edges.len() {
        path.push(at.name());
        if at.number() == txn.number() {
            return Some((path, false));
        }
        if let Some(e) = edges.get(&at.number()) {
            if !e.holds() {
                return None;
            }
            at = &e.holder;
            continue;
        }
        // Idle, or running. If its thread waits in another transaction, it cannot run.
        let owner = at.owner();
        if owner == me && !mutants::is(Mutant::OwnThreadWaits) {
            return Some((path, true));
        }
        let e = edges.values().find(|e| e.thread == owner && e.holds())?;
        path.push(format!("(same thread) {}", e.name));
        at = &e.holder;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::bench::Bench;

    #[test]
    fn an_edge_whose_owner_was_woken_makes_no_deadlock() {
        let b = Bench::new();
        let (t1, t2) = (b.begin(), b.begin());
        let graph = WaitGraph::default();
        // t1 waits for t2, in a thread that has not run since t2 rolled back to a savepoint and woke it.
        let edge = Edge { name: t1.name(), thread: 0, holder: t2.clone(), turn: t2.turn() };
        graph.edges.lock().insert(t1.number(), edge);
        let counters = Counters::default();
        let with = Waiting {
            timeout: Duration::from_millis(5),
            poison: b.m.log().poisoned(),
            counters: &counters,
            trace: &Trace::silent(),
        };
        let e = graph.wait(&t2, &t1, t1.turn(), &with).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Deadlock);
        t2.wake();
        let e = graph.wait(&t2, &t1, t1.turn(), &with).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::LockTimeout);
        assert_eq!(graph.edges.lock().len(), 1, "a wait removes its own edge, however it ends");
    }
}
