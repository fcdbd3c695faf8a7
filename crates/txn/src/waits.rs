//! Waiting for another transaction: time-out, poison, and deadlock detection.
//!
//! A waiter has one edge, to the transaction it waits for. The edge is entered before the cycle is looked
//! for, both under one mutex (TXN-WAIT), so of the transactions of a cycle exactly the one that closes it
//! sees it, and that one is the victim. An edge names the holder's *turn*: once the holder has ended or
//! rolled back to a savepoint the edge is void, though its owner may not have run yet; so a stale edge never
//! makes a deadlock out of nothing.
//!
//! A waiter is woken directly, by the holder's turn, or because the engine has failed or the waiter was doomed; nobody looks
//! again and again.
//!
//! A thread that waits in one transaction cannot go on with another. So the chain of waits also goes
//! from an idle transaction to what its thread waits for, and a chain that comes back to the waiter's own
//! thread is a deadlock.
use crate::stats::Counters;
use crate::txn::this_thread;
use crate::{LiveWait, Txn};
use hamal_error::{Error, ErrorKind, Poison, Result, Wait};
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::{TreeId, TxnId};
use hamal_sync::Mutex;
use hamal_sync::atomic::Ordering;
use hamal_sync::time::Instant;
use hamal_trace::{Event, Trace};
use std::collections::HashMap;
use std::sync::Arc;

/// What a wait is about.
#[derive(Clone, Debug, Default)]
pub(crate) struct What {
    pub(crate) tree: Option<TreeId>,
    /// None: the tree as a whole.
    pub(crate) key: Option<Vec<u8>>,
}

impl What {
    fn of(&self, e: Error) -> Error {
        let e = match self.tree {
            Some(tree) => e.with_tree(tree),
            None => e,
        };
        match &self.key {
            Some(key) => e.with_key(key),
            None => e,
        }
    }
}

#[derive(Debug)]
struct Edge {
    number: u64,
    id: TxnId,
    thread: u64,
    holder: Arc<Txn>,
    turn: u64,
    what: What,
}

impl Edge {
    /// Whether the waiter really still waits.
    fn holds(&self) -> bool {
        self.holder.turn() == self.turn
    }
    fn wait(&self) -> Wait {
        Wait {
            waiter: self.number,
            waiter_id: self.id,
            holder: self.holder.number(),
            holder_id: self.holder.id(),
            tree: self.what.tree,
            tree_name: None,
            key: self.what.key.clone(),
            by_thread: false,
        }
    }
}

/// Who waits for whom, by transaction number.
#[derive(Debug, Default)]
pub(crate) struct WaitGraph {
    edges: Mutex<HashMap<u64, Edge>>,
}

/// What a wait needs from the manager.
pub(crate) struct Waiting<'a> {
    pub(crate) poison: &'a Poison,
    pub(crate) counters: &'a Counters,
    pub(crate) trace: &'a Trace,
}

/// Removes the edge however the wait ends.
struct EdgeGuard<'g>(&'g WaitGraph, &'g Txn);

impl Drop for EdgeGuard<'_> {
    fn drop(&mut self) {
        let edge = self.0.edges.lock().remove(&self.1.number());
        drop(edge);
        self.1.note_wait(None);
    }
}

impl WaitGraph {
    /// Who waits for whom now.
    pub(crate) fn live(&self) -> Vec<LiveWait> {
        let edges = self.edges.lock();
        let live = edges.iter().filter(|(_, e)| e.holds()).map(|(waiter, e)| LiveWait {
            waiter: *waiter,
            holder: e.holder.id(),
            holder_number: e.holder.number(),
            tree: e.what.tree,
            key: e.what.key.clone(),
        });
        live.collect()
    }

    /// Waits until `holder` has turned away from `turn`.
    pub(crate) fn wait(
        &self,
        txn: &Txn,
        holder: &Arc<Txn>,
        turn: u64,
        what: What,
        with: &Waiting<'_>,
    ) -> Result<()> {
        with.poison.check()?;
        // An end sets `ended` before it turns, so one that is not seen here will be seen as a turn.
        if holder.turn() != turn || holder.is_ended() {
            return Ok(());
        }
        let Some(patience) = txn.patience() else {
            let m = format!("{} does not wait for {}", txn.name(), holder.name());
            return Err(what.of(Error::new(ErrorKind::WouldWait, m).with_txn(holder.id())));
        };
        let _edge = self.enter(txn, holder, turn, what.clone(), with)?;
        with.counters.waits.fetch_add(1, Ordering::Relaxed);
        with.trace.emit(|| Event::TxnWait { txn: txn.id(), holder: holder.id() });
        let start = Instant::now();
        let failed = || with.poison.is_set() && !mutants::is(Mutant::WaitersIgnorePoison);
        // A time beyond what the clock can tell is no limit.
        let deadline = start.checked_add(patience);
        let turned = holder.await_turn(turn, deadline, &|| failed() || txn.is_doomed());
        if failed() {
            with.poison.check()?;
        }
        if turned {
            return Ok(());
        }
        if txn.is_doomed() {
            return Err(what.of(Error::new(
                ErrorKind::TransactionEnded,
                format!("{} was ended by the engine while it waited for {}", txn.name(), holder.name()),
            )));
        }
        with.counters.timeouts.fetch_add(1, Ordering::Relaxed);
        let waited = start.elapsed();
        let m = format!("{} waited {} ms for {}", txn.name(), waited.as_millis(), holder.name());
        Err(what.of(Error::new(ErrorKind::LockTimeout, m)
            .with_txn(holder.id())
            .with_waited(waited)
            .with_help("Roll back and run it again; keep transactions short, or raise lock_timeout")))
    }

    /// The engine has failed: everybody who waits looks again.
    pub(crate) fn rouse(&self) {
        // The edge is entered before its owner looks for the failure: whoever is not found here sees it.
        let holders: Vec<_> = self.edges.lock().values().map(|e| e.holder.clone()).collect();
        holders.iter().for_each(|h| h.rouse());
    }

    /// Enters the edge, then looks for a cycle.
    fn enter<'g>(
        &'g self,
        txn: &'g Txn,
        holder: &Arc<Txn>,
        turn: u64,
        what: What,
        with: &Waiting<'_>,
    ) -> Result<EdgeGuard<'g>> {
        let me = this_thread();
        let edge =
            Edge { number: txn.number(), id: txn.id(), thread: me, holder: holder.clone(), turn, what };
        let mut edges = self.edges.lock();
        edges.insert(txn.number(), edge);
        let Some((cycle, own_thread)) = find_cycle(&edges, txn, me) else {
            drop(edges);
            txn.note_wait(Some(holder.clone()));
            return Ok(EdgeGuard(self, txn));
        };
        let edge = edges.remove(&txn.number());
        drop(edges);
        with.counters.deadlocks.fetch_add(1, Ordering::Relaxed);
        let error = if own_thread {
            let m = format!("{} would wait for a transaction of its own thread", txn.name());
            Error::new(ErrorKind::Deadlock, m).with_help(
                "A thread that waits cannot end its other transaction: end it first, or use two threads",
            )
        } else {
            let m = format!("the wait of {} would close a cycle", txn.name());
            Error::new(ErrorKind::Deadlock, m).with_help("Roll this transaction back and run it again")
        };
        let error = error.with_txn(holder.id()).with_waits(cycle);
        Err(edge.map_or(error.clone(), |e| e.what.of(error)))
    }
}

/// Follows the waits from the edge of `txn`, just entered. A cycle is the waits along it, and whether it closes over the
/// thread `me` and not over the waiter itself.
fn find_cycle(edges: &HashMap<u64, Edge>, txn: &Txn, me: u64) -> Option<(Vec<Wait>, bool)> {
    let first = edges.get(&txn.number())?;
    let mut path = vec![first.wait()];
    let mut at = &first.holder;
    // Every step takes another edge, or there is a cycle that does not go through the waiter, which was found
    // (and refused) when it was closed: the bound only guards against a mistake in that reasoning.
    for _ in 0..=edges.len() {
        if at.number() == txn.number() {
            return Some((path, false));
        }
        if let Some(e) = edges.get(&at.number()) {
            if !e.holds() {
                return None;
            }
            path.push(e.wait());
            at = &e.holder;
            continue;
        }
        // Idle, or running. If its thread waits in another transaction, it cannot run.
        let owner = at.owner();
        let by_thread = |number, id| Wait {
            waiter: at.number(),
            waiter_id: at.id(),
            holder: number,
            holder_id: id,
            tree: None,
            tree_name: None,
            key: None,
            by_thread: true,
        };
        if owner == me && !mutants::is(Mutant::OwnThreadWaits) {
            path.push(by_thread(txn.number(), txn.id()));
            return Some((path, true));
        }
        let waits = |e: &&Edge| e.thread == owner && e.holds() && e.number != txn.number();
        let e = edges.values().find(waits)?;
        path.push(by_thread(e.number, e.id));
        path.push(e.wait());
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
        let patience = Some(std::time::Duration::from_millis(50));
        let (t1, t2) = (b.begin(), b.m.begin_with(crate::Isolation::Snapshot, patience).unwrap());
        let graph = WaitGraph::default();
        // t1 waits for t2, in a thread that has not run since t2 rolled back to a savepoint and woke it.
        let what = What::default();
        let (number, id, turn) = (t1.number(), t1.id(), t2.turn());
        let edge = Edge { number, id, thread: 0, holder: t2.clone(), turn, what };
        graph.edges.lock().insert(t1.number(), edge);
        let counters = Counters::default();
        let with = Waiting { poison: b.m.log().poisoned(), counters: &counters, trace: &Trace::silent() };
        let e = graph.wait(&t2, &t1, t1.turn(), What::default(), &with).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Deadlock);
        t2.wake();
        let e = graph.wait(&t2, &t1, t1.turn(), What::default(), &with).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::LockTimeout);
        assert_eq!(graph.edges.lock().len(), 1, "a wait removes its own edge, however it ends");
    }
}
