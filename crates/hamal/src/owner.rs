//! Through what a tree is read: a write transaction or a snapshot. Both keep the database open.
use crate::core::Core;
use crate::database::Shared;
use crate::write::WriteInner;
use crate::{Error, ErrorKind, Result};
use hamal_btree::{Tree, TreeInfo};
use hamal_mutants::{self as mutants, Mutant};
use hamal_txn::{Snapshot, View};
use std::ops::Bound;
use std::sync::Arc;

/// A read snapshot with the database that it belongs to.
pub(crate) struct ReadInner {
    // Dropped before the database is let go of.
    pub(crate) snapshot: Snapshot,
    pub(crate) shared: Arc<Shared>,
}

#[derive(Clone)]
pub(crate) enum Owner {
    Write(Arc<WriteInner>),
    Read(Arc<ReadInner>),
}

impl Owner {
    pub(crate) fn core(&self) -> &Arc<Core> {
        match self {
            Owner::Write(w) => &w.shared.core,
            Owner::Read(r) => &r.shared.core,
        }
    }
    /// Runs `f` with the view; within a write transaction under its operation lock. Under read committed each call sees what
    /// is committed when it begins.
    /// What it brings, and what error it meets, counts only if the snapshot was not ended meanwhile (TXN-TOO-OLD).
    pub(crate) fn with_view<T>(&self, f: impl FnOnce(&View) -> Result<T>) -> Result<T> {
        self.with_view_at(&mut None, f)
    }
    /// As [`Owner::with_view`]; under read committed all calls with the same `moment` see what was committed when the first of
    /// them began, and the transaction's own changes.
    pub(crate) fn with_view_at<T>(
        &self,
        moment: &mut Option<Snapshot>,
        f: impl FnOnce(&View) -> Result<T>,
    ) -> Result<T> {
        match self {
            Owner::Write(w) => {
                let _op = w.enter()?;
                believed(self.core(), &w.view_at(moment), f).map_err(|e| w.note_failure(e))
            }
            Owner::Read(r) => {
                r.shared.core.check_open()?;
                believed(self.core(), &r.snapshot.view(), f)
            }
        }
    }
    /// Notes that a statement tells what is at a key. Within [`Owner::with_view`].
    #[inline]
    pub(crate) fn note_key(&self, tree: Tree, key: &[u8]) {
        if let Owner::Write(w) = self {
            w.note_key(tree, key);
        }
    }
    /// Notes that a statement tells what is between two bounds.
    pub(crate) fn note_range(&self, tree: Tree, low: Bound<&[u8]>, high: Bound<&[u8]>) {
        if let Owner::Write(w) = self {
            w.note_range(tree, low, high);
        }
    }
    /// Checks that the tree is (still) there for this owner: a transaction may have dropped it itself.
    pub(crate) fn check_tree(&self, info: &TreeInfo) -> Result<()> {
        match self {
            Owner::Write(w) if w.is_gone(info.tree.id) => Err(no_tree(&info.name)),
            _ => Ok(()),
        }
    }
}

fn believed<T>(core: &Core, view: &View, f: impl FnOnce(&View) -> Result<T>) -> Result<T> {
    let early = mutants::is(Mutant::TooOldTestedFirst) && core.txns.is_too_old(view);
    let done = f(view);
    if early || (core.txns.is_too_old(view) && !mutants::is(Mutant::TooOldTestedFirst)) {
        return Err(core.txns.too_old(view));
    }
    done
}

pub(crate) fn no_tree(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no tree {name:?}"))
}
