//! Names of trees that need not be looked up: what the catalogue's rows say while nobody changes them.
//!
//! A transaction finds its trees by name, and checks the row of each tree that it writes in. Both ask the same few rows again
//! and again. The answer is kept with a count of the changes of rows of the catalogue, and good while that count stands
//! (CATALOGUE-2).
use crate::Tree;
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::Lsn;
use hamal_sync::RwLock;
use hamal_sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::collections::HashMap;
use std::sync::Arc;

/// More names than this are not kept.
const MOST: usize = 4096;

/// What the row of a name says.
#[derive(Clone, Debug)]
struct Row {
    tree: Tree,
    /// Snapshots at or above this see the row so, and may write in its tree.
    since: Lsn,
}

#[derive(Debug, Default)]
struct Kept {
    /// The count of changes when the rows were read.
    changes: u64,
    rows: HashMap<Arc<str>, Row>,
}

/// The names that are known.
#[derive(Debug, Default)]
pub(crate) struct Names {
    changes: AtomicU64,
    kept: RwLock<Kept>,
}

impl Names {
    /// The count, to be read before the row that is then kept under it.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(SeqCst)
    }

    /// A row of the catalogue was changed. Before the transaction that changed it commits.
    pub(crate) fn changed(&self) {
        if mutants::is(Mutant::NamesNotForgotten) {
            return;
        }
        self.changes.fetch_add(1, SeqCst);
    }

    /// The tree of a name, for whoever sees what had committed at or below `snapshot`. That nobody has changed the row since
    /// it was kept is certain for whoever holds the row still; for others it was so at some moment of the call.
    pub(crate) fn find(&self, name: &str, snapshot: Lsn) -> Option<(Arc<str>, Tree)> {
        let kept = self.kept.read();
        let (name, row) = kept.rows.get_key_value(name)?;
        (kept.changes == self.changes() && row.since <= snapshot).then(|| (name.clone(), row.tree))
    }

    /// Keeps what a row says that was read after the count was `changes`: its writer had committed at or below `since`.
    pub(crate) fn keep(&self, changes: u64, name: &str, tree: Tree, since: Lsn) {
        let mut kept = self.kept.write();
        if kept.changes < changes || kept.rows.len() >= MOST {
            kept.rows.clear();
            kept.changes = changes;
        }
        if kept.changes == changes {
            kept.rows.insert(name.into(), Row { tree, since });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hamal_page::{PageId, TreeId};

    const A: Tree = Tree { id: TreeId(16), root: PageId(7) };
    const B: Tree = Tree { id: TreeId(17), root: PageId(8) };

    #[test]
    fn what_is_kept_is_good_until_a_row_changes_and_for_late_enough_snapshots() {
        let names = Names::default();
        let before = names.changes();
        names.keep(before, "a", A, Lsn(100));
        let find = |name, at| names.find(name, Lsn(at)).map(|(_, tree)| tree);
        assert_eq!((find("a", 100), find("a", 99), find("b", 100)), (Some(A), None, None));
        names.changed();
        assert_eq!(find("a", 100), None);
        // Read before the change and kept after it, beside what was read later: it is not believed.
        let now = names.changes();
        names.keep(now, "b", B, Lsn(0));
        names.keep(before, "a", A, Lsn(0));
        assert_eq!((find("a", 100), find("b", 100)), (None, Some(B)));
    }

    #[test]
    fn there_is_a_limit() {
        let names = Names::default();
        for i in 0..3 * MOST {
            names.keep(0, &i.to_string(), A, Lsn(0));
        }
        assert!(names.kept.read().rows.len() <= MOST);
        assert!(names.find(&(3 * MOST - 1).to_string(), Lsn(0)).is_some());
    }
}
