//! Ghosts of earlier runs. Those of this run are queued in memory, and a clean close takes them away. After a crash nobody
//! knows where they are: the collector then reads all trees once, a few leaves at a time, when it has nothing else to do.
use crate::core::Core;
use crate::{ErrorKind, Result};
use hamal_btree::{Bound, Direction, Tree};
use hamal_mutants::{self as mutants, Mutant};
use std::collections::VecDeque;

/// Rows that one step looks at, or somewhat more.
const ROWS: usize = 256;

/// How far the sweep is.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    /// It has not begun.
    due: bool,
    trees: VecDeque<Tree>,
    /// In the first of them: behind this key.
    at: Option<Vec<u8>>,
}

impl Sweep {
    pub(crate) fn new(due: bool) -> Sweep {
        Sweep { due: due && !mutants::is(Mutant::OldGhostsStay), ..Sweep::default() }
    }
}

impl Core {
    /// Looks for ghosts in some leaves; who meets one queues it.
    pub(crate) fn sweep_step(&self) -> Result<()> {
        let mut sweep = self.sweep.lock();
        if self.btree.ghosts_lost() {
            sweep.due = true;
        }
        if !sweep.due && sweep.trees.is_empty() {
            return Ok(());
        }
        let snapshot = self.txns.snapshot()?;
        let view = snapshot.view();
        if sweep.trees.is_empty() {
            let list = self.catalogue.list(&view)?;
            *sweep = Sweep { due: false, trees: list.into_iter().map(|i| i.tree).collect(), at: None };
        }
        let Some(tree) = sweep.trees.front().copied() else { return Ok(()) };
        let mut rows = Vec::new();
        let low = sweep.at.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let more = self.btree.scan(&view, tree, low, Bound::Unbounded, Direction::Forward, ROWS, &mut rows);
        match more {
            Ok(true) => sweep.at = rows.pop().map(|row| row.key),
            // The same rows again, with another snapshot.
            Err(e) if e.kind() == ErrorKind::SnapshotTooOld => {}
            // A tree that was dropped meanwhile is gone; one that is damaged is for verification to report.
            Err(e) if e.kind() == ErrorKind::Poisoned => return Err(e),
            _ => {
                sweep.trees.pop_front();
                sweep.at = None;
            }
        }
        Ok(())
    }

    /// Takes away all ghosts that are queued and that nobody needs: at a clean close, so that the next run need not look for
    /// them. Want of room is no error: they are taken away some other time.
    pub(crate) fn drain_ghosts(&self) -> Result<()> {
        self.txns.collect();
        match self.btree.tidy_queued(usize::MAX) {
            Err(e) if matches!(e.kind(), ErrorKind::Poisoned) => Err(e),
            _ => Ok(()),
        }
    }
}
