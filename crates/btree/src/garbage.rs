//! The garbage tree and its collector: every page chain that no tree record owns is a row here.
//!
//! Freeing is never part of a transaction: a transaction that unlinks a chain or drops a tree *inserts a
//! row*, one that builds something inserts the row with the first page and deletes it as it links the thing.
//! Rollback is then ordinary undo of rows, and the collector needs to know nothing of transactions but
//! whether a row's writer has settled.
//!
//! It works in batches. A batch is one record that frees some pages, clears their map bits and moves the row
//! on to what is left (or takes it away), so that a crash between two batches loses nothing and repeats
//! nothing (GARBAGE-2). The progress lies in the row alone: pages that wait to be freed are only read. The
//! head of a chain and the root of a tree go last, because the row's key is made of them and must not be used
//! again before the row is gone (GARBAGE-3).
use crate::overflow::{DETACH_ROOT, GARBAGE, RECORD_OVERHEAD, parse};
use crate::shape::{self, Body};
use crate::{BTREE_RM, Bound, Btree, Direction, Entry, ExtraEdit, PutValue, RawValue, Tree};
use hamal_buffer::{Pin, Stop};
use hamal_error::{Error, ErrorKind, Result};
use hamal_log::Whole;
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::{Lsn, PageId, TreeId, TxnId, header};
use hamal_space::OP_CLEAR;
use hamal_sync::Mutex;
use hamal_txn::{Txn, View};
use std::fmt;
use std::sync::Arc;

/// Pages that one batch frees at most; in a small pool an eighth of the frames.
const BATCH: usize = 16;
/// Rows that one look at the garbage tree takes.
const ROWS: usize = 64;
/// Levels of the highest tree there can be.
const LEVELS: usize = 24;

const KIND_CHAIN: u8 = 1;
const KIND_TREE: u8 = 2;
const CHAIN_LEN: usize = 17;
const TREE_LEN: usize = 23 + 2 * LEVELS;

/// Key of the row of a chain.
pub(crate) fn chain_key(head: PageId) -> [u8; 8] {
    head.0.to_be_bytes()
}

/// Key of the row of a tree: above every page id.
pub(crate) fn tree_key(id: TreeId) -> [u8; 8] {
    (0xffff_ffff_0000_0000 | u64::from(id.0)).to_be_bytes()
}

/// Value of the row of a chain of which nothing was freed.
pub(crate) fn chain_row(head: PageId) -> Vec<u8> {
    Row::Chain { head, next: None }.encode()
}

/// Value of the row of a tree of which nothing was freed.
pub(crate) fn tree_row(tree: Tree) -> Vec<u8> {
    Row::Tree { tree, at: Progress::default() }.encode()
}

/// How far the collector is with a tree: everything left of the place it names is free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Number of the child to go on with, level by level from the root; zero below the last level.
    pub(crate) path: [u16; LEVELS],
    /// Number of the row to go on with, in the leaf there.
    pub(crate) row: u16,
    /// Page of that row's chain to go on with: the pages between the head and this one are free.
    pub(crate) next: Option<PageId>,
}

/// A row of the garbage tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Row {
    /// A chain of overflow pages. The pages between the head and `next` are free; without `next` none is.
    Chain { head: PageId, next: Option<PageId> },
    /// A tree.
    Tree { tree: Tree, at: Progress },
}

impl Row {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let page = |p: &Option<PageId>| p.map_or(0, |p| p.0).to_le_bytes();
        match self {
            Row::Chain { head, next } => {
                let mut v = Vec::with_capacity(CHAIN_LEN);
                v.push(KIND_CHAIN);
                v.extend(head.0.to_le_bytes());
                v.extend(page(next));
                v
            }
            Row::Tree { tree, at } => {
                let mut v = Vec::with_capacity(TREE_LEN);
                v.push(KIND_TREE);
                v.extend(tree.id.0.to_le_bytes());
                v.extend(tree.root.0.to_le_bytes());
                v.extend(at.row.to_le_bytes());
                v.extend(page(&at.next));
                v.extend(at.path.iter().flat_map(|i| i.to_le_bytes()));
                v
            }
        }
    }

    /// Reads a row and checks that it stands under its key.
    pub(crate) fn decode(entry: &Entry) -> Result<Row> {
        let row = match &entry.value {
            RawValue::Inline(v) => Row::parse(v),
            RawValue::Chain { .. } => None,
        };
        row.filter(|r| r.key()[..] == entry.key[..]).ok_or_else(|| {
            Error::new(ErrorKind::PageCorrupt, format!("garbage row {:02x?} cannot be read", entry.key))
        })
    }

    fn parse(v: &[u8]) -> Option<Row> {
        let number = |at: usize| Some(u64::from_le_bytes(v.get(at..at + 8)?.try_into().ok()?));
        let page = |n: u64| (n != 0).then_some(PageId(n));
        match (*v.first()?, v.len()) {
            (KIND_CHAIN, CHAIN_LEN) => Some(Row::Chain { head: page(number(1)?)?, next: page(number(9)?) }),
            (KIND_TREE, TREE_LEN) => {
                let id = TreeId(u32::from_le_bytes(v.get(1..5)?.try_into().ok()?));
                let row = u16::from_le_bytes(v.get(13..15)?.try_into().ok()?);
                let mut path = [0; LEVELS];
                for (i, c) in path.iter_mut().zip(v.get(23..)?.as_chunks::<2>().0) {
                    *i = u16::from_le_bytes(*c);
                }
                let at = Progress { path, row, next: page(number(15)?) };
                Some(Row::Tree { tree: Tree { id, root: page(number(5)?)? }, at })
            }
            _ => None,
        }
    }

    fn key(&self) -> [u8; 8] {
        match self {
            Row::Chain { head, .. } => chain_key(*head),
            Row::Tree { tree, .. } => tree_key(tree.id),
        }
    }
}

/// What a batch does: the pages it frees, and the row afterwards.
struct Batch {
    free: Vec<PageId>,
    row: Option<Row>,
    /// A root that is taken out of its tree in this batch.
    detach: Option<PageId>,
}

/// Frees the chains and trees of settled garbage rows, in repeatable batches.
pub struct Garbage {
    btree: Arc<Btree>,
    /// Held by the one collector at work.
    working: Mutex<()>,
}

impl fmt::Debug for Garbage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Garbage").finish_non_exhaustive()
    }
}

impl Garbage {
    /// Over the tree code.
    pub fn new(btree: Arc<Btree>) -> Garbage {
        Garbage { btree, working: Mutex::new(()) }
    }

    /// Inserts the row of an overflow chain that the transaction unlinks (overwrite, delete of a large
    /// value).
    ///
    /// # Errors
    /// As [`Btree::put`].
    pub fn discard_chain(&self, txn: &Txn, head: PageId) -> Result<()> {
        self.btree.put(txn, GARBAGE, &chain_key(head), PutValue::Inline(&chain_row(head))).map(|_| ())
    }

    /// Inserts the row of a tree that the transaction drops.
    ///
    /// # Errors
    /// As [`Btree::put`].
    pub fn discard_tree(&self, txn: &Txn, tree: Tree) -> Result<()> {
        let (key, row) = (tree_key(tree.id), tree_row(tree));
        if mutants::is(Mutant::DropNotUndone) {
            return self
                .btree
                .insert_structure(None, GARBAGE, &key, &row, RECORD_OVERHEAD, &mut || Ok(Vec::new()));
        }
        self.btree.put(txn, GARBAGE, &key, PutValue::Inline(&row)).map(|_| ())
    }

    /// Does at most `max_records` batches of work; returns whether there is more that could be done now. Off
    /// while recovery undoes (T11). If another thread collects at this moment, does nothing.
    ///
    /// A row that cannot be worked on because it, or a page that it owns, is damaged or cannot be read stays as
    /// it is and does not keep those behind it waiting; its error is returned when the others have had their
    /// turn.
    ///
    /// # Errors
    /// As a logged change; `PageCorrupt`, `Io` for the first row that could not be worked on.
    pub fn collect(&self, max_records: usize) -> Result<bool> {
        let Some(_working) = self.working.try_lock() else { return Ok(false) };
        self.btree.txns().collect();
        let mut left = max_records;
        let mut after: Option<Vec<u8>> = None;
        let mut damage: Option<Error> = None;
        loop {
            // The horizon is no registered snapshot, and need not be: a row whose writer has settled changes
            // no more but by this collector, and a row that has not is left alone.
            let early = mutants::is(Mutant::GarbageUnsettled);
            let horizon = if early { Lsn::MAX } else { self.btree.txns().horizon() };
            let (rows, more) = match self.rows(after.as_deref(), horizon) {
                // Snapshots were ended at this moment, and the horizon is about to move.
                Err(e) if e.kind() == ErrorKind::SnapshotTooOld => return damage.map_or(Ok(true), Err),
                rows => rows?,
            };
            for entry in &rows {
                let before = left;
                match Row::decode(entry).and_then(|row| self.collect_row(row, &mut left)) {
                    Ok(true) => {}
                    Ok(false) => return damage.map_or(Ok(true), Err),
                    Err(e) if e.is_corruption() || e.kind() == ErrorKind::Io => {
                        // Only what was logged counts, or some damaged rows would take all batches, each time.
                        left = (left + 1).min(before);
                        damage.get_or_insert(e);
                    }
                    Err(e) => return Err(e),
                }
            }
            match rows.last() {
                Some(last) if more => after = Some(last.key.clone()),
                _ => return damage.map_or(Ok(false), Err),
            }
        }
    }

    /// Rows waiting (for statistics).
    ///
    /// # Errors
    /// As a page read.
    pub fn waiting(&self) -> Result<u64> {
        let snapshot = self.btree.txns().snapshot()?;
        let mut n = 0;
        let mut after: Option<Vec<u8>> = None;
        loop {
            let (rows, more) = self.rows(after.as_deref(), snapshot.lsn())?;
            n += rows.len() as u64;
            match rows.last() {
                Some(last) if more => after = Some(last.key.clone()),
                _ => return Ok(n),
            }
        }
    }

    /// The next rows that a snapshot shows, and whether there may be more.
    fn rows(&self, after: Option<&[u8]>, snapshot: Lsn) -> Result<(Vec<Entry>, bool)> {
        let view = View { snapshot, own: TxnId::NONE };
        let low = after.map_or(Bound::Unbounded, Bound::Excluded);
        let (high, way) = (Bound::Unbounded, Direction::Forward);
        let mut rows = Vec::new();
        let more = self.btree.scan(&view, GARBAGE, low, high, way, ROWS, &mut rows)?;
        Ok((rows, more))
    }

    /// Works on one row until it is gone (or turns out not to be settled); `false` if batches ran out before.
    fn collect_row(&self, mut row: Row, left: &mut usize) -> Result<bool> {
        loop {
            if *left == 0 {
                return Ok(false);
            }
            *left -= 1;
            let batch = match row {
                Row::Chain { head, next } => self.chain_batch(head, next)?,
                Row::Tree { tree, at } => self.tree_batch(tree, at)?,
            };
            match self.log(&row.key(), &batch) {
                Ok(()) => {}
                // Its writer has not settled yet: nothing to do for now.
                Err(e) if e.kind() == ErrorKind::NotFound => return Ok(true),
                Err(e) => return Err(e),
            }
            match batch.row {
                Some(r) => row = r,
                None => return Ok(true),
            }
        }
    }

    /// Logs one batch: row, detached root, freed pages, map bits, in one record (GARBAGE-2).
    fn log(&self, key: &[u8], batch: &Batch) -> Result<()> {
        let (pool, space) = (self.btree.txns().pool(), self.btree.space());
        let mut free = batch.free.clone();
        free.sort_unstable();
        if let Some(twice) = free.windows(2).find(|w| w[0] == w[1]) {
            let what = "a dropped tree or chain names the page twice";
            return Err(Error::new(ErrorKind::PageCorrupt, what).with_page(twice[0]));
        }
        let _maps = space.pin_maps(&free)?;
        let mut pins: Vec<Pin<'_>> =
            free.iter().chain(&batch.detach).map(|p| pool.fetch(*p)).collect::<Result<_>>()?;
        let value = batch.row.as_ref().map(Row::encode);
        let extra = RECORD_OVERHEAD + 64 * free.len() as u64;
        let mut prepare = || -> std::result::Result<Vec<ExtraEdit<'_>>, Stop> {
            let mut out = Vec::with_capacity(free.len() + 3);
            if let Some(root) = batch.detach {
                let page = pool.try_exclusive(root)?;
                if header::rm(&page) != BTREE_RM {
                    let what =
                        format!("the root of a dropped tree is a page of manager {}", header::rm(&page));
                    return Err(Error::new(ErrorKind::PageCorrupt, what).with_page(root).into());
                }
                out.push(ExtraEdit { page, op: DETACH_ROOT, whole: Whole::No, payload: Vec::new() });
            }
            for id in &free {
                let page = pool.try_exclusive(*id)?;
                out.push(ExtraEdit { page, op: 0, whole: Whole::Free, payload: Vec::new() });
            }
            for (page, payload) in space.latch_maps(&free)? {
                out.push(ExtraEdit { page, op: OP_CLEAR, whole: Whole::No, payload });
            }
            // Latched frames stay; a pin would keep a freed one longer than need be.
            pins.clear();
            Ok(out)
        };
        if mutants::is(Mutant::GarbageRowFirst) && value.is_some() {
            self.btree.rewrite_structure(GARBAGE, key, value.as_deref(), extra, &mut || Ok(Vec::new()))?;
            self.btree.force_between()?;
        }
        self.btree.rewrite_structure(GARBAGE, key, value.as_deref(), extra, &mut prepare)?;
        space.freed(&free);
        Ok(())
    }

    /// Pages of one batch: all of them, and as many map pages, are pinned at once (BUF-FRAMES).
    fn batch(&self) -> usize {
        (self.btree.txns().pool().options().frames / 8).clamp(2, BATCH)
    }

    /// The next batch of a chain's row.
    fn chain_batch(&self, head: PageId, next: Option<PageId>) -> Result<Batch> {
        let (mut free, next) = self.chain_pages(head, next)?;
        let row = next.map(|next| Row::Chain { head, next: Some(next) });
        if row.is_none() {
            free.push(head);
        }
        Ok(Batch { free, row, detach: None })
    }

    /// The next pages of a chain behind its head, almost a batch, and the page after them.
    fn chain_pages(&self, head: PageId, next: Option<PageId>) -> Result<(Vec<PageId>, Option<PageId>)> {
        let pool = self.btree.txns().pool();
        let mut at = match next {
            Some(next) => Some(next),
            None => parse(head, &pool.shared(head)?, head)?.next,
        };
        let mut pages = Vec::new();
        let mut position = 0;
        while let Some(id) = at.filter(|_| pages.len() < self.batch() - 1) {
            let page = parse(id, &pool.shared(id)?, head)?;
            if page.position <= position {
                let what = format!("overflow chain {head} goes back to byte {}", page.position);
                return Err(Error::new(ErrorKind::PageCorrupt, what).with_page(id));
            }
            position = page.position;
            pages.push(id);
            at = page.next;
        }
        Ok((pages, at))
    }

    /// The next batch of a tree's row.
    fn tree_batch(&self, tree: Tree, at: Progress) -> Result<Batch> {
        // First of all the root leaves its tree, so that nobody who still holds an old handle descends into a
        // tree that is half free.
        let owner = header::tree(&self.btree.txns().pool().shared(tree.root)?);
        if owner == tree.id {
            // Nor does background tidying know the tree from here on.
            self.btree.forget_ghosts(tree.id);
            return Ok(Batch {
                free: Vec::new(),
                row: Some(Row::Tree { tree, at }),
                detach: Some(tree.root),
            });
        }
        // Down to the first node that has no child left to free. Its parent comes along.
        let (mut id, mut node, mut level) = (tree.root, self.dead_node(tree, tree.root)?, 0);
        let mut parent: &[PageId] = &[];
        let mut above;
        while let DeadNode::Inner(children) = &node {
            let Some(child) = children.get(usize::from(at.path[level])).copied() else { break };
            if level + 1 == LEVELS {
                let what = format!("tree {} is more than {LEVELS} levels high", tree.id);
                return Err(Error::new(ErrorKind::PageCorrupt, what).with_page(child));
            }
            above = children.clone();
            parent = &above;
            node = self.dead_node(tree, child)?;
            id = child;
            level += 1;
        }
        // A chain in that leaf is freed before the leaf.
        if let DeadNode::Leaf(chains) = &node
            && let Some((row, head)) = next_chain(chains, at.row)
        {
            let (mut free, next) = self.chain_pages(head, at.next.filter(|_| row == at.row))?;
            let at = match next {
                Some(_) => Progress { row, next, ..at },
                None => {
                    free.push(head);
                    Progress { row: row + 1, next: None, ..at }
                }
            };
            return Ok(Batch { free, row: Some(Row::Tree { tree, at }), detach: None });
        }
        // The node itself; the root ends it.
        let mut free = vec![id];
        let Some(up) = level.checked_sub(1) else {
            return Ok(Batch { free, row: None, detach: None });
        };
        let mut after = Progress { row: 0, next: None, ..at };
        after.path[level] = 0;
        after.path[up] += 1;
        // And the leaves beside it that own no chain.
        if matches!(node, DeadNode::Leaf(_)) {
            for child in parent.iter().skip(usize::from(after.path[up])).take(self.batch() - 1) {
                match self.dead_node(tree, *child)? {
                    DeadNode::Leaf(chains) if next_chain(&chains, 0).is_none() => free.push(*child),
                    _ => break,
                }
                after.path[up] += 1;
            }
        }
        Ok(Batch { free, row: Some(Row::Tree { tree, at: after }), detach: None })
    }

    /// Reads a node of a tree that is being freed.
    fn dead_node(&self, tree: Tree, id: PageId) -> Result<DeadNode> {
        let page = self.btree.txns().pool().shared(id)?;
        dead_node(tree, id, &page)
    }
}

/// A node of a tree that is being freed, as far as it matters.
enum DeadNode {
    Inner(Vec<PageId>),
    /// For each row: the head of the chain that it owns.
    Leaf(Vec<Option<PageId>>),
}

fn dead_node(tree: Tree, id: PageId, page: &[u8]) -> Result<DeadNode> {
    let owner = header::tree(page);
    let expected = if id == tree.root { TreeId(0) } else { tree.id };
    let what = if header::rm(page) != BTREE_RM || owner != expected {
        format!("a node of dropped tree {} was expected: manager {}, tree {owner}", tree.id, header::rm(page))
    } else {
        match shape::read(page) {
            Ok(node) => return Ok(DeadNode::of(node.body)),
            Err(what) => what,
        }
    };
    Err(Error::new(ErrorKind::PageCorrupt, what).with_page(id))
}

impl DeadNode {
    fn of(body: Body) -> DeadNode {
        match body {
            Body::Inner { children, .. } => DeadNode::Inner(children),
            // A ghost owns nothing: whoever deleted the row gave its chain a row of the garbage tree.
            Body::Leaf(rows) => DeadNode::Leaf(
                rows.into_iter()
                    .map(|r| match r.value {
                        RawValue::Chain { head, .. } if !r.ghost => Some(head),
                        _ => None,
                    })
                    .collect(),
            ),
        }
    }
}

/// The first row at or after `from` that owns a chain.
fn next_chain(chains: &[Option<PageId>], from: u16) -> Option<(u16, PageId)> {
    let rows = (0..=u16::MAX).zip(chains).skip(usize::from(from));
    rows.filter_map(|(i, c)| c.map(|head| (i, head))).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(row: &Row) -> Entry {
        Entry { key: row.key().to_vec(), value: RawValue::Inline(row.encode()) }
    }

    #[test]
    fn rows_are_read_back_and_keep_their_length() {
        let mut path = [0; LEVELS];
        path[..3].copy_from_slice(&[1, 515, 65535]);
        let tree = Tree { id: TreeId(77), root: PageId(1 << 33) };
        let rows = [
            Row::Chain { head: PageId(258), next: None },
            Row::Chain { head: PageId(258), next: Some(PageId(u64::MAX)) },
            Row::Tree { tree, at: Progress::default() },
            Row::Tree { tree, at: Progress { path, row: 513, next: Some(PageId(9)) } },
        ];
        for row in &rows {
            assert_eq!(Row::decode(&entry(row)).unwrap(), *row);
        }
        for pair in rows.chunks(2) {
            assert_eq!(pair[0].encode().len(), pair[1].encode().len());
        }
        assert!(tree_key(TreeId(0)) > chain_key(PageId(u64::MAX >> 32)));
    }

    #[test]
    fn damaged_rows_are_refused() {
        let row = Row::Chain { head: PageId(258), next: None };
        let good = entry(&row);
        for cut in 0..CHAIN_LEN {
            let bad = Entry { value: RawValue::Inline(row.encode()[..cut].to_vec()), ..good.clone() };
            assert!(Row::decode(&bad).is_err());
        }
        let other = Entry { key: chain_key(PageId(259)).to_vec(), ..good };
        assert!(Row::decode(&other).is_err());
    }

    #[test]
    fn chains_are_found_from_a_row_on() {
        let chains = [None, Some(PageId(5)), None, Some(PageId(6))];
        assert_eq!(next_chain(&chains, 0), Some((1, PageId(5))));
        assert_eq!(next_chain(&chains, 2), Some((3, PageId(6))));
        assert_eq!(next_chain(&chains, 4), None);
    }
}
