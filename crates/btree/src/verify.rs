//! Checking a whole database: every page, order, fences, reachability exactly once, space accounting, chains.
//!
//! The walk starts from the two trees with fixed roots and reads pages as they are, not through snapshots:
//! pages of transactions that did not end count as what they are. It trusts nothing that it reads: a page is
//! looked at once, whoever names it, so that damage can make the walk shorter but never endless.
use crate::catalogue::{CATALOGUE, NEXT_TREE, decode_row};
use crate::garbage::{self, Progress};
use crate::overflow::{GARBAGE, check_place, parse};
use crate::shape::{self, Body};
use crate::{BTREE_RM, Btree, Catalogue, Entry, FIRST_USER_TREE, RawValue, Tree, TreeInfo};
use hamal_error::{Error, ErrorKind, Result};
use hamal_page::{PageId, TreeId, header};
use hamal_space::map_of;
use std::collections::{BTreeMap, HashSet};

/// Something wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The page, if it is one page's fault.
    pub page: Option<PageId>,
    /// What is wrong, in words.
    pub message: String,
}

/// The result of a verification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "plain counters, named for what they count")]
pub struct VerifyReport {
    pub findings: Vec<Finding>,
    pub pages_allocated: u64,
    pub pages_reachable: u64,
    pub trees: u64,
    pub leaves: u64,
    pub inner: u64,
    pub overflow: u64,
    pub rows: u64,
    pub ghosts: u64,
    pub garbage_rows: u64,
}

/// Verifies everything; `progress` is called with pages done and pages in all. Writers must be quiet: what
/// they change meanwhile may be reported. A page that cannot be read is a finding. Trees, leaves, inner
/// nodes, rows and ghosts are counted with the catalogue and the garbage tree; rows of trees that wait to be
/// freed are not.
///
/// # Errors
/// Only what is no finding: `Poisoned`, no frame to be had.
pub fn verify(
    btree: &Btree,
    catalogue: &Catalogue,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<VerifyReport> {
    let mut walk = Walk {
        btree,
        report: VerifyReport::default(),
        seen: HashSet::new(),
        file_pages: btree.txns().pool().file_pages(),
        total: 0,
        progress,
    };
    walk.total = match btree.space().usage() {
        Ok((allocated, _)) => allocated,
        Err(e) => walk.failed(None, e).map(|()| 0)?,
    };
    let trees = walk.catalogue()?;
    let (chains, dead) = walk.garbage()?;
    let mut ids: BTreeMap<TreeId, &str> = BTreeMap::new();
    for info in &trees {
        if let Some(other) = ids.insert(info.tree.id, &info.name) {
            walk.find(None, format!("tree {} has two names, {other:?} and {:?}", info.tree.id, info.name));
        }
        walk.tree(info.tree, &mut |_, _| {})?;
    }
    for (head, next) in chains {
        walk.rest_of_chain(head, next)?;
    }
    for (tree, at) in &dead {
        walk.dead_tree(*tree, at)?;
    }
    // What snapshots show comes from the same pages: if these are damaged, nothing new would be said.
    if walk.report.findings.is_empty() {
        walk.names(catalogue, &trees, &dead)?;
    }
    walk.space()?;
    Ok(walk.report)
}

struct Walk<'a> {
    btree: &'a Btree,
    report: VerifyReport,
    seen: HashSet<PageId>,
    file_pages: u64,
    /// Allocated pages, for the progress.
    total: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

/// A node to visit, with what its parent says of it.
struct Visit {
    page: PageId,
    level: Option<u8>,
    low: Vec<u8>,
    high: Option<Vec<u8>>,
    /// In a tree that is being freed: the depth of this node, if it is on the path of the progress.
    depth: Option<usize>,
}

impl Walk<'_> {
    fn find(&mut self, page: Option<PageId>, message: impl Into<String>) {
        self.report.findings.push(Finding { page, message: message.into() });
    }

    /// Turns an error that speaks of the database into a finding; others are handed on.
    fn failed(&mut self, page: Option<PageId>, e: Error) -> Result<()> {
        if !e.is_corruption()
            && !matches!(e.kind(), ErrorKind::Io | ErrorKind::Internal | ErrorKind::NotFound)
        {
            return Err(e);
        }
        let page = page.or(e.page());
        self.find(page, e.to_string());
        Ok(())
    }

    /// The bytes of a page that is reached for the first time.
    fn page(&mut self, id: PageId) -> Result<Option<Vec<u8>>> {
        let pool = self.btree.txns().pool();
        if id.0 >= self.file_pages {
            self.find(Some(id), "a page beyond the end of the data file is named");
            return Ok(None);
        }
        if map_of(id, pool.page_size()).0 == id {
            self.find(Some(id), "a space map is named as a page of a tree or a chain");
            return Ok(None);
        }
        if !self.seen.insert(id) {
            self.find(Some(id), "the page is reached twice");
            return Ok(None);
        }
        self.report.pages_reachable += 1;
        (self.progress)(self.report.pages_reachable, self.total.max(self.report.pages_reachable));
        let bytes = pool.shared(id).map(|p| p.to_vec());
        match bytes {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) => self.failed(Some(id), e).map(|()| None),
        }
    }

    /// Trees of the catalogue.
    fn catalogue(&mut self) -> Result<Vec<TreeInfo>> {
        let mut rows = Vec::new();
        self.tree(CATALOGUE, &mut |page, row| rows.push((page, row)))?;
        let (mut trees, mut next) = (Vec::new(), None);
        for (page, row) in rows {
            match (decode_row(&row), &row.value) {
                (Ok(Some(info)), _) => trees.push((page, info)),
                (Ok(None), RawValue::Inline(v)) => {
                    next = v.as_slice().try_into().ok().map(u32::from_le_bytes)
                }
                (Ok(None), RawValue::Chain { .. }) => {}
                (Err(e), _) => self.find(Some(page), e.message()),
            }
        }
        if next.is_none() {
            let what = format!("the catalogue has no row {NEXT_TREE:02x?} with the next tree id");
            self.find(None, what);
        }
        for (page, info) in &trees {
            let id = info.tree.id;
            if id < FIRST_USER_TREE || next.is_some_and(|n| id.0 >= n) {
                self.find(
                    Some(*page),
                    format!("tree {:?} has the id {id}, which was not given yet", info.name),
                );
            }
        }
        Ok(trees.into_iter().map(|(_, info)| info).collect())
    }

    /// Rows of the garbage tree, visible or not: chains, and trees.
    #[allow(clippy::type_complexity, reason = "two lists, taken apart at once")]
    fn garbage(&mut self) -> Result<(Vec<(PageId, Option<PageId>)>, Vec<(Tree, Progress)>)> {
        let mut rows = Vec::new();
        self.tree(GARBAGE, &mut |page, row| rows.push((page, row)))?;
        let (mut chains, mut trees) = (Vec::new(), Vec::new());
        for (page, row) in rows {
            self.report.garbage_rows += 1;
            match garbage::Row::decode(&row) {
                Ok(garbage::Row::Chain { head, next }) => chains.push((head, next)),
                Ok(garbage::Row::Tree { tree, at }) => trees.push((tree, at)),
                Err(e) => self.find(Some(page), e.message()),
            }
        }
        Ok((chains, trees))
    }

    /// Walks a live tree with the chains of its rows; hands every row that is no ghost to `each`.
    fn tree(&mut self, tree: Tree, each: &mut dyn FnMut(PageId, Entry)) -> Result<()> {
        self.report.trees += 1;
        let mut todo = vec![root_of(tree, None)];
        while let Some(visit) = todo.pop() {
            let Some(node) = self.node(tree, &visit)? else { continue };
            match node.body {
                Body::Inner { children, separators } => {
                    push_children(&mut todo, &visit, node.level, children, separators, 0)
                }
                Body::Leaf(rows) => {
                    for row in rows {
                        if row.ghost {
                            self.report.ghosts += 1;
                            continue;
                        }
                        self.report.rows += 1;
                        if let RawValue::Chain { len, head } = row.value {
                            self.chain(len, head)?;
                        }
                        each(visit.page, Entry { key: row.key, value: row.value });
                    }
                }
            }
        }
        Ok(())
    }

    /// Walks what is left of a tree that is being freed.
    fn dead_tree(&mut self, tree: Tree, at: &Progress) -> Result<()> {
        let mut todo = vec![root_of(tree, Some(0))];
        while let Some(visit) = todo.pop() {
            let Some(node) = self.node(tree, &visit)? else { continue };
            match node.body {
                Body::Inner { children, separators } => {
                    let done = visit.depth.and_then(|d| at.path.get(d)).map_or(0, |i| usize::from(*i));
                    push_children(&mut todo, &visit, node.level, children, separators, done);
                }
                Body::Leaf(rows) => {
                    let (done, next) = if visit.depth.is_some() { (at.row, at.next) } else { (0, None) };
                    for (i, row) in rows.into_iter().enumerate().skip(usize::from(done)) {
                        match row.value {
                            RawValue::Chain { head, .. } if !row.ghost && i == usize::from(done) => {
                                self.rest_of_chain(head, next)?;
                            }
                            RawValue::Chain { len, head } if !row.ghost => self.chain(len, head)?,
                            _ => {}
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads and checks a node against what its parent says.
    fn node(&mut self, tree: Tree, visit: &Visit) -> Result<Option<shape::Node>> {
        let id = visit.page;
        let Some(page) = self.page(id)? else { return Ok(None) };
        let (rm, owner) = (header::rm(&page), header::tree(&page));
        // The root of a tree that is being freed has left it.
        let detached = visit.depth == Some(0) && owner == TreeId(0);
        if rm != BTREE_RM || (owner != tree.id && !detached) {
            self.find(
                Some(id),
                format!("a node of tree {} was expected: manager {rm}, tree {owner}", tree.id),
            );
            return Ok(None);
        }
        let node = match shape::read(&page) {
            Ok(node) => node,
            Err(what) => {
                self.find(Some(id), what);
                return Ok(None);
            }
        };
        match node.body {
            Body::Leaf(_) => self.report.leaves += 1,
            Body::Inner { .. } => self.report.inner += 1,
        }
        if visit.level.is_some_and(|l| l != node.level) {
            self.find(
                Some(id),
                format!("a node of level {} below one of level {}", node.level, node.level.wrapping_add(1)),
            );
            return Ok(None);
        }
        if node.low != visit.low || node.high != visit.high {
            self.find(Some(id), "the node's fences are not the parent's separators");
        }
        let within = |k: &[u8]| k >= &visit.low[..] && visit.high.as_ref().is_none_or(|h| k < &h[..]);
        let keys: Vec<&[u8]> = match &node.body {
            Body::Leaf(rows) => rows.iter().map(|r| &r.key[..]).collect(),
            Body::Inner { separators, .. } => separators.iter().map(|s| &s[..]).collect(),
        };
        if !keys.is_sorted_by(|a, b| a < b) {
            self.find(Some(id), "the node's keys are not in order");
        }
        if !keys.iter().all(|k| within(k)) {
            self.find(Some(id), "a key lies outside the node's fences");
        }
        if let Body::Inner { children, separators } = &node.body
            && children.len() != separators.len() + 1
        {
            self.find(Some(id), format!("{} children and {} separators", children.len(), separators.len()));
            return Ok(None);
        }
        Ok(Some(node))
    }

    /// Walks a chain that holds a value of `len` bytes.
    fn chain(&mut self, len: u64, head: PageId) -> Result<()> {
        let mut at = Some(head);
        let mut position = 0;
        while let Some(id) = at {
            let Some(page) = self.page(id)? else { return Ok(()) };
            self.report.overflow += 1;
            let fields = parse(id, &page, head).and_then(|f| check_place(id, &f, position, len).map(|()| f));
            match fields {
                Ok(f) => {
                    position += f.len as u64;
                    at = f.next;
                }
                Err(e) => return self.failed(Some(id), e),
            }
        }
        Ok(())
    }

    /// Walks what is left of a chain that is being freed (or built): the head, and the pages from `next` on.
    fn rest_of_chain(&mut self, head: PageId, next: Option<PageId>) -> Result<()> {
        let mut at = Some(head);
        let mut last = None;
        while let Some(id) = at {
            let Some(page) = self.page(id)? else { return Ok(()) };
            self.report.overflow += 1;
            match parse(id, &page, head) {
                Ok(f) if last.is_some_and(|l| f.position <= l) => {
                    self.find(Some(id), format!("overflow chain {head} goes back to byte {}", f.position));
                    return Ok(());
                }
                Ok(f) => {
                    last = Some(f.position);
                    at = if id == head && next.is_some() { next } else { f.next };
                }
                Err(e) => return self.failed(Some(id), e),
            }
        }
        Ok(())
    }

    /// Every tree that a snapshot shows was walked.
    fn names(&mut self, catalogue: &Catalogue, trees: &[TreeInfo], dead: &[(Tree, Progress)]) -> Result<()> {
        let snapshot = self.btree.txns().snapshot()?;
        let walked: HashSet<Tree> =
            trees.iter().map(|i| i.tree).chain(dead.iter().map(|(t, _)| *t)).collect();
        match catalogue.list(&snapshot.view()) {
            Ok(seen) => {
                for info in seen.into_iter().filter(|i| !walked.contains(&i.tree)) {
                    self.find(None, format!("a snapshot sees tree {:?}, which has no pages", info.name));
                }
                Ok(())
            }
            Err(e) => self.failed(None, e),
        }
    }

    /// Compares the space maps with what was reached.
    fn space(&mut self) -> Result<()> {
        let (btree, size) = (self.btree, self.btree.txns().pool().page_size());
        let (mut allocated, mut maps, mut met, mut lost) = (0, 0, 0, Vec::new());
        let seen = &self.seen;
        let each = btree.space().each_allocated(&mut |id| {
            allocated += 1;
            if map_of(id, size).0 == id {
                maps += 1;
            } else if seen.contains(&id) {
                met += 1;
            } else {
                lost.push(id);
            }
            Ok(())
        });
        self.report.pages_allocated = allocated;
        self.report.pages_reachable += maps;
        for id in lost {
            self.find(Some(id), "the page is allocated, but nothing reaches it");
        }
        if let Err(e) = each {
            return self.failed(None, e);
        }
        if met != self.seen.len() as u64 {
            let mut free = Vec::new();
            for id in self.seen.iter().filter(|id| id.0 < self.file_pages) {
                match btree.space().is_allocated(*id) {
                    Ok(true) => {}
                    Ok(false) => free.push(*id),
                    Err(e) => return self.failed(None, e),
                }
            }
            free.sort_unstable();
            for id in free {
                self.find(Some(id), "the page is in use, but its bit says that it is free");
            }
        }
        let all = self.report.pages_reachable.max(allocated);
        (self.progress)(all, all);
        Ok(())
    }
}

fn root_of(tree: Tree, depth: Option<usize>) -> Visit {
    Visit { page: tree.root, level: None, low: Vec::new(), high: None, depth }
}

/// Enters the children of a node from number `done` on, so that the leftmost is visited first.
fn push_children(
    todo: &mut Vec<Visit>,
    parent: &Visit,
    level: u8,
    children: Vec<PageId>,
    separators: Vec<Vec<u8>>,
    done: usize,
) {
    let Some(below) = level.checked_sub(1) else { return };
    for (i, page) in children.iter().enumerate().skip(done).rev() {
        let low = i.checked_sub(1).and_then(|i| separators.get(i)).unwrap_or(&parent.low);
        let high = separators.get(i).or(parent.high.as_ref());
        todo.push(Visit {
            page: *page,
            level: Some(below),
            low: low.clone(),
            high: high.cloned(),
            depth: parent.depth.filter(|_| i == done).map(|d| d + 1),
        });
    }
}
