//! Who writes in which tree.
//!
//! A transaction registers with a tree before its first write there, shared; create and drop register
//! exclusively. So a tree is never dropped, and its pages never used again, while a transaction with changes
//! in it may still roll back. An exclusive registration first becomes *pending*: newcomers wait for it, and
//! it waits for one holder at a time, so it does not starve. All waits are ordinary waits for a transaction,
//! with time-out and cycle detection. Everything is released at the end of the transaction, and before its
//! waiters are woken.
use crate::waits::What;
use crate::{Txn, TxnManager};
use hamal_error::Result;
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::TreeId;
use hamal_sync::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

#[derive(Debug, Default)]
struct Tree {
    shared: Vec<Arc<Txn>>,
    exclusive: Option<Arc<Txn>>,
    pending: Option<Arc<Txn>>,
}

#[derive(Debug, Default)]
pub(crate) struct Registrations {
    trees: Mutex<HashMap<TreeId, Tree>>,
}

/// Another transaction in the way, and its turn when it was seen there.
type Obstacle = (Arc<Txn>, u64);

fn obstacle(other: &Option<Arc<Txn>>, me: &Txn) -> Option<Obstacle> {
    other.as_ref().filter(|t| t.number() != me.number()).map(|t| (t.clone(), t.turn()))
}

impl Registrations {
    fn try_shared(&self, txn: &Arc<Txn>, tree: TreeId) -> std::result::Result<(), Obstacle> {
        let mut trees = self.trees.lock();
        let t = trees.entry(tree).or_default();
        if let Some(o) = obstacle(&t.exclusive, txn).or_else(|| obstacle(&t.pending, txn)) {
            return Err(o);
        }
        t.shared.push(txn.clone());
        txn.trees.lock().push((tree, false));
        Ok(())
    }

    fn try_exclusive(&self, txn: &Arc<Txn>, tree: TreeId) -> std::result::Result<(), Obstacle> {
        let mut trees = self.trees.lock();
        let t = trees.entry(tree).or_default();
        if let Some(o) = obstacle(&t.exclusive, txn).or_else(|| obstacle(&t.pending, txn)) {
            return Err(o);
        }
        let other = |s: &&Arc<Txn>| s.number() != txn.number() && !mutants::is(Mutant::DropIgnoresWriters);
        if let Some(other) = t.shared.iter().find(other) {
            let o = (other.clone(), other.turn());
            t.pending = Some(txn.clone());
            return Err(o);
        }
        t.pending = None;
        t.shared.clear();
        t.exclusive = Some(txn.clone());
        let mut mine = txn.trees.lock();
        match mine.iter_mut().find(|(id, _)| *id == tree) {
            Some(m) => m.1 = true,
            None => mine.push((tree, true)),
        }
        Ok(())
    }

    /// Gives up waiting for the exclusive registration. Whether newcomers may have to be woken.
    fn withdraw(&self, txn: &Txn, tree: TreeId) -> bool {
        let mut trees = self.trees.lock();
        let Some(t) = trees.get_mut(&tree) else { return false };
        let mine = t.pending.as_ref().is_some_and(|p| p.number() == txn.number());
        if mine {
            t.pending = None;
        }
        mine
    }

    /// Releases everything that `txn` holds.
    pub(crate) fn release(&self, txn: &Txn) {
        let mine = std::mem::take(&mut *txn.trees.lock());
        if mine.is_empty() {
            return;
        }
        let other = |t: &Arc<Txn>| t.number() != txn.number();
        let mut trees = self.trees.lock();
        for (id, _) in mine {
            if let Some(t) = trees.get_mut(&id) {
                t.shared.retain(other);
                t.exclusive = t.exclusive.take().filter(other);
                t.pending = t.pending.take().filter(other);
                if t.shared.is_empty() && t.exclusive.is_none() && t.pending.is_none() {
                    trees.remove(&id);
                }
            }
        }
    }
}

impl TxnManager {
    /// Registers the transaction with a tree before its first write there (shared), waiting for an exclusive
    /// holder (TXN-TREE). Takes the log space that ending the transaction will need. No latch and no credit
    /// held.
    ///
    /// # Errors
    /// As [`TxnManager::wait_for`]; `LogFull`, `NoSpace`.
    pub fn register(&self, txn: &Txn, tree: TreeId) -> Result<()> {
        if txn.is_registered(tree) {
            return Ok(());
        }
        self.prepare(txn)?;
        let me = txn.arc().ok_or_else(|| txn.ended_error())?;
        while let Err((holder, turn)) = self.registrations.try_shared(&me, tree) {
            self.wait(txn, &holder, turn, What { tree: Some(tree), key: None })?;
        }
        // Whoever dropped or renamed it has committed by now: the statement has to see it (TXN-RC).
        txn.refresh();
        Ok(())
    }

    /// Registers exclusively (drop, create): newcomers wait, holders are waited for one at a time.
    ///
    /// # Errors
    /// As [`TxnManager::register`].
    pub fn register_exclusive(&self, txn: &Txn, tree: TreeId) -> Result<()> {
        if txn.trees.lock().contains(&(tree, true)) {
            return Ok(());
        }
        self.prepare(txn)?;
        let me = txn.arc().ok_or_else(|| txn.ended_error())?;
        while let Err((holder, turn)) = self.registrations.try_exclusive(&me, tree) {
            if let Err(e) = self.wait(txn, &holder, turn, What { tree: Some(tree), key: None }) {
                if self.registrations.withdraw(txn, tree) {
                    txn.wake();
                }
                return Err(e);
            }
        }
        txn.refresh();
        Ok(())
    }
}
