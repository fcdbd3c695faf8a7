//! Making the data file smaller while the database is in use.
use crate::{Database, Error, ErrorKind, Result};
use hamal_btree::{
    Bound, CATALOGUE_ROOT, CATALOGUE_TREE, Direction, Entry, GARBAGE_ROOT, GARBAGE_TREE, LargeReader,
};
use hamal_btree::{RawValue, Relocation, Tree, TreeInfo};
use hamal_page::PageId;

/// Parents whose nodes are moved in one transaction, which keeps the tree from being dropped.
const PARENTS: usize = 8;
/// Rows that are looked at with one snapshot.
const ROWS: usize = 256;

/// What [`Database::compact`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactReport {
    /// Pages of the data file before.
    pub pages_before: u64,
    /// Pages of the data file afterwards.
    pub pages_after: u64,
    /// Pages in use afterwards.
    pub pages_used: u64,
    /// Nodes of trees that were moved.
    pub moved: u64,
    /// Large values that were written anew.
    pub rewritten: u64,
}

impl Database {
    /// Makes the data file smaller: moves pages from its end to free ones further down, and cuts it behind the last page in
    /// use. Others read and write meanwhile. `progress` is called with what was done so far; an error of it ends the work, and
    /// what was done stays.
    ///
    /// Nodes of trees move without anybody noticing. A value longer than a quarter of a page lies in pages of its own: one
    /// of these at the end is written anew by a small transaction, with which another that writes the same row may conflict.
    /// What an open snapshot still needs stays where it is, as do the roots of trees: so the file can be longer than
    /// `pages_used` afterwards, much longer if a tree was made when the file was long. (Everybody who has a handle of a tree, and
    /// every snapshot, knows it by its root.) A space map at the end that speaks of free pages only is given up. What is moved is
    /// logged whole; a full log ends the work if checkpoints make no room. A tree that somebody is about to drop or rename is left
    /// as it is. It ends with a checkpoint.
    ///
    /// ```
    /// # fn main() -> hamal::Result<()> {
    /// let db = hamal::Database::in_memory()?;
    /// let report = db.compact(&mut |_| Ok(()))?;
    /// assert!(report.pages_after <= report.pages_before);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `ReadOnly`, `LogFull`, `NoSpace`, `PageCorrupt`, `Poisoned`; `InvalidArgument` if the database was closed; those of
    /// `progress`.
    pub fn compact(&self, progress: &mut dyn FnMut(&CompactReport) -> Result<()>) -> Result<CompactReport> {
        let core = self.core();
        core.check_open()?;
        if core.read_only {
            return Err(Error::new(ErrorKind::ReadOnly, "the database was opened for reading only"));
        }
        let mut report = CompactReport { pages_before: core.pool.file_pages(), ..CompactReport::default() };
        core.collect_all()?;
        let (used, file) = core.space.usage()?;
        if used < file {
            self.move_below(PageId(used), &mut report, progress)?;
            // Values that were written anew have left their former pages.
            core.collect_all()?;
            core.relieved(|| core.space.shrink(core.checked()))?;
            core.checkpoint()?;
        }
        self.wake_tasks();
        (report.pages_used, report.pages_after) = core.space.usage()?;
        Ok(report)
    }

    fn move_below(
        &self,
        limit: PageId,
        report: &mut CompactReport,
        progress: &mut dyn FnMut(&CompactReport) -> Result<()>,
    ) -> Result<()> {
        let core = self.core();
        // Nobody drops these trees; but who verifies waits for transactions only.
        let tx = self.begin_write()?;
        for (id, root) in [(CATALOGUE_TREE, CATALOGUE_ROOT), (GARBAGE_TREE, GARBAGE_ROOT)] {
            let mut r = Relocation::new(Tree { id, root }, limit);
            while core.relieved(|| core.btree.relocate(&mut r))? {}
            report.moved += r.moved();
        }
        tx.rollback()?;
        let trees = core.catalogue.list(&core.txns.snapshot()?.view())?;
        for info in &trees {
            self.move_nodes(info, limit, report, progress)?;
            self.rewrite_values(info, limit, report, progress)?;
        }
        Ok(())
    }

    fn move_nodes(
        &self,
        info: &TreeInfo,
        limit: PageId,
        report: &mut CompactReport,
        progress: &mut dyn FnMut(&CompactReport) -> Result<()>,
    ) -> Result<()> {
        let mut r = Relocation::new(info.tree, limit);
        let mut more = true;
        while more {
            let before = r.moved();
            // While it is registered with the tree nobody drops that.
            let tx = self.begin_write()?;
            if gone_or(tx.run(|txn| self.core().catalogue.register(txn, info)))?.is_none() {
                return Ok(());
            }
            for _ in 0..PARENTS {
                more = more && self.core().relieved(|| self.core().btree.relocate(&mut r))?;
            }
            tx.rollback()?;
            report.moved += r.moved() - before;
            progress(report)?;
        }
        Ok(())
    }

    fn rewrite_values(
        &self,
        info: &TreeInfo,
        limit: PageId,
        report: &mut CompactReport,
        progress: &mut dyn FnMut(&CompactReport) -> Result<()>,
    ) -> Result<()> {
        let core = self.core();
        let mut at: Option<Vec<u8>> = None;
        loop {
            let (more, rows) = match self.rows_behind(info, at.as_deref()) {
                Ok(found) => found,
                Err(e) if e.kind() == ErrorKind::SnapshotTooOld => continue,
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
                Err(e) => return Err(e),
            };
            for row in &rows {
                let RawValue::Chain { len, head } = row.value else { continue };
                // Another may have freed it since: then its pages say something else.
                if LargeReader::new(core.btree.clone(), len, head).reaches(limit).unwrap_or(false)
                    && core.relieved(|| self.rewrite(info, &row.key))?
                {
                    report.rewritten += 1;
                    progress(report)?;
                }
            }
            match rows.into_iter().next_back() {
                Some(last) if more => at = Some(last.key),
                _ => return Ok(()),
            }
        }
    }

    fn rows_behind(&self, info: &TreeInfo, key: Option<&[u8]>) -> Result<(bool, Vec<Entry>)> {
        let core = self.core();
        let snapshot = core.txns.snapshot()?;
        let low = key.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rows = Vec::new();
        let (view, high) = (snapshot.view(), Bound::Unbounded);
        // While a snapshot is open that sees the tree its pages are not freed. Of one that was dropped before they may be anybody's.
        if core.catalogue.find(&view, &info.name)?.is_none_or(|now| now.tree != info.tree) {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("there is no tree {:?} any more", info.name),
            ));
        }
        let more = core.btree.scan(&view, info.tree, low, high, Direction::Forward, ROWS, &mut rows)?;
        Ok((more, rows))
    }

    /// Writes a value again, which takes the lowest free pages. `false` if it is gone, or somebody else writes it.
    fn rewrite(&self, info: &TreeInfo, key: &[u8]) -> Result<bool> {
        let tx = self.begin_write()?;
        // By the transaction's own snapshot: who changes the row later is met as a conflict. One of what is durable may be older,
        // and what others committed in between would be undone without anybody's notice.
        let read = tx.read_snapshot();
        let Some(from) = gone_or(read.tree(&info.name))? else { return Ok(false) };
        let Some(mut value) = gone_or(from.reader(key))?.flatten() else { return Ok(false) };
        let Some(tree) = gone_or(tx.tree(&info.name))? else { return Ok(false) };
        let done = tree.no_wait().insert_from(key, &mut value);
        drop(tree);
        match done {
            Ok(_) => tx.commit_with(crate::Durability::Async).map(|_| true),
            Err(e) if e.is_retryable() || e.kind() == ErrorKind::WouldWait => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// `None` for what is not there any more, or not to be had now.
fn gone_or<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.kind() == ErrorKind::NotFound || e.is_retryable() => Ok(None),
        Err(e) => Err(e),
    }
}
