//! Splits. One split is one redo-only record: the left half keeps its page, the right half gets a new one,
//! the parent gets the separator, the map page the bit. A split goes on even if the transaction that
//! needed it rolls back.
//!
//! From the root down, the first node on the way that could not take one more separator of the greatest
//! length is split first; so the parent of whatever is split has room (BTREE-4), and no record names more
//! than two levels. The root is split by moving its content down into two new pages, and keeps its page id
//! for ever.
use super::codec::{Broken, Sound};
use super::descend::{Latched, Target, apart, arrived, corrupt, node, unmet};
use super::node::{Node, common_prefix, inner_cost, leaf_cost, separator};
use super::ops::code;
use super::ops::tree::{Shape, encode_init, encode_insert_child, encode_root, encode_truncate};
use super::write::record_bytes;
use super::{Btree, Tree};
use crate::BTREE_RM;
use hamal_buffer::{ExclusivePage, PageEdit};
use hamal_error::{Error, Result};
use hamal_log::Whole;
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::PageId;
use hamal_space::OP_SET;
use hamal_trace::ForceReason;
use hamal_txn::Txn;
use std::ops::Range;

/// Ascending inserts in a row that count as a run.
const RUN: usize = 8;
/// How many slots before the end of a run the cut may fall back, if the upper fence does not fit.
const BACK: usize = 8;

/// Where a node is cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Slots that stay left.
    keep: usize,
    separator: Vec<u8>,
}

/// Slots that go right: all others, but for an inner node's separator that goes up.
fn moved(node: &Node<'_>, cut: &Cut) -> Range<usize> {
    cut.keep + usize::from(!node.is_leaf())..node.count()
}

/// What has to be split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    level: u8,
    root: bool,
}

impl Btree {
    /// Splits nodes on the way to the key, and its leaf once, unless that has `need` bytes free.
    pub(crate) fn split(&self, txn: Option<&Txn>, tree: Tree, key: &[u8], need: usize) -> Result<()> {
        while let Some(plan) = self.pages_only(|| self.plan_split(tree, key, need))? {
            self.split_one(txn, tree, key, need, plan)?;
            if plan.level == 0 {
                // Whether that was enough the caller finds out: it has to look at the leaf again anyway.
                break;
            }
        }
        Ok(())
    }

    /// Whether a node on the way to a leaf that needs `need` bytes has to be split.
    fn is_full(&self, node: &Node<'_>, need: usize) -> bool {
        node.free() < if node.is_leaf() { need } else { inner_cost(self.limits().max_key) }
    }

    /// The topmost node on the way that has to be split, if the leaf has.
    fn plan_split(&self, tree: Tree, key: &[u8], need: usize) -> Latched<Option<Plan>> {
        let target = Target::At(key);
        let mut page = self.pool().try_shared(tree.root)?;
        let mut full: Option<Plan> = None;
        let mut expect = None;
        loop {
            let here = match expect {
                None => node(tree, page.id(), &page)?,
                Some(level) => arrived(tree, page.id(), &page, level, target)?,
            };
            let is_full = self.is_full(&here, need);
            if here.is_leaf() {
                let this = is_full.then_some(Plan { level: 0, root: page.id() == tree.root });
                return Ok(this.map(|p| full.unwrap_or(p)));
            }
            if is_full && full.is_none() {
                full = Some(Plan { level: here.level(), root: page.id() == tree.root });
            }
            let child = here.child_of(key).and_then(|i| here.child(i)).map_err(|b| corrupt(page.id(), b))?;
            apart(page.id(), &[child])?;
            expect = Some(here.level() - 1);
            let below = self.pool().try_shared(child)?;
            page = below;
        }
    }

    /// Splits one node by one record; does nothing if the tree has changed so that the plan does not hold
    /// any more.
    fn split_one(&self, txn: Option<&Txn>, tree: Tree, key: &[u8], need: usize, plan: Plan) -> Result<()> {
        let n = if plan.root { 2 } else { 1 };
        let reservation = self.space().reserve(n)?;
        let size = self.pool().page_size();
        // Contents of one page, fences and separators; the pages, and as many map pages as pages were
        // reserved.
        let bytes = record_bytes(2 * size, 6);
        // Rows of one page are on two afterwards (TXN-ROOM).
        let spread = usize::from(plan.level == 0);
        let mut credit = self.pool().credit_spreading(bytes, 3 + n, spread)?;
        let mut new = Vec::with_capacity(n);
        for id in reservation.pages() {
            new.push(self.pool().create(*id)?);
        }
        let done = self.paged(|| match &mut new[..] {
            [right] if !plan.root => self.split_below(txn, tree, key, need, plan.level, right, &mut credit),
            [left, right] if plan.root => {
                self.split_root(txn, tree, key, need, plan.level, left, right, &mut credit)
            }
            _ => Err(Error::internal("a split without its pages").into()),
        });
        drop(new);
        if done.map_err(unmet)? {
            reservation.allocated(n);
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "a latched section gets all that was taken before it")]
    fn split_below<'p>(
        &'p self,
        txn: Option<&Txn>,
        tree: Tree,
        key: &[u8],
        need: usize,
        level: u8,
        right: &mut ExclusivePage<'p>,
        credit: &mut hamal_buffer::OpCredit<'_>,
    ) -> Latched<bool> {
        let target = Target::At(key);
        let Some(mut parent) = self.exclusive_node(tree, target, level + 1)? else { return Ok(false) };
        let above = node(tree, parent.id(), &parent)?;
        if self.is_full(&above, need) {
            return Ok(false);
        }
        let broken = |b| corrupt(parent.id(), b);
        let slot = above.child_of(key).map_err(broken)?;
        let child = above.child(slot).map_err(broken)?;
        apart(parent.id(), &[child])?;
        let mut left = self.pool().try_exclusive(child)?;
        let here = arrived(tree, left.id(), &left, level, target)?;
        if !self.is_full(&here, need) {
            return Ok(false);
        }
        let cut = choose(&here, key, left.len()).map_err(|b| corrupt(left.id(), b))?;
        let init = right_half(tree, &here, &cut).map_err(|b| corrupt(left.id(), b))?;
        let new = right.id();
        let truncate = encode_truncate(cut.keep, &cut.separator);
        let insert = encode_insert_child(slot, &cut.separator, right.id());
        let mut maps = self.space().latch_maps(&[right.id()])?;
        let mut edits = vec![
            PageEdit { page: &mut left, op: code::TRUNCATE, whole: Whole::No, payload: &truncate },
            PageEdit { page: right, op: code::INIT, whole: Whole::Init, payload: &init },
            PageEdit { page: &mut parent, op: code::INSERT_CHILD, whole: Whole::No, payload: &insert },
        ];
        let parent = mutants::is(Mutant::SplitInTwoRecords).then(|| edits.pop());
        for (page, payload) in &mut maps {
            edits.push(PageEdit { page, op: OP_SET, whole: Whole::No, payload });
        }
        self.txns().structure(None, BTREE_RM, &mut edits, credit)?;
        if let Some(parent) = parent.flatten() {
            self.force_between()?;
            self.txns().structure(None, BTREE_RM, &mut [parent], credit)?;
        }
        if level == 0 {
            self.txns().spread_undo(txn, new, credit);
            if key >= cut.separator.as_slice() {
                let (page, leaf) = (&*right, node(tree, new, right)?);
                self.point_at(tree, page, &leaf);
            }
        }
        Ok(true)
    }

    /// Makes what was logged so far durable, as another thread might (for planted bugs).
    pub(crate) fn force_between(&self) -> Result<()> {
        self.txns().log().force(self.txns().log().tail(), ForceReason::Asked)
    }

    #[allow(clippy::too_many_arguments, reason = "a latched section gets all that was taken before it")]
    fn split_root<'p>(
        &'p self,
        txn: Option<&Txn>,
        tree: Tree,
        key: &[u8],
        need: usize,
        level: u8,
        left: &mut ExclusivePage<'p>,
        right: &mut ExclusivePage<'p>,
        credit: &mut hamal_buffer::OpCredit<'_>,
    ) -> Latched<bool> {
        let Some(mut root) = self.exclusive_node(tree, Target::At(key), level)? else { return Ok(false) };
        let here = node(tree, root.id(), &root)?;
        if root.id() != tree.root || !self.is_full(&here, need) {
            return Ok(false);
        }
        let broken = |b| corrupt(tree.root, b);
        let above = level.checked_add(1).ok_or_else(|| broken(Broken("a tree of 255 levels")))?;
        let cut = choose(&here, key, root.len()).map_err(broken)?;
        let child = if here.is_leaf() { None } else { Some(here.child(0).map_err(broken)?) };
        let shape = Shape { level, lower: here.lower(), upper: Some(&cut.separator), left: child };
        let new = right.id();
        let left_init = encode_init(tree.id, &shape, &here, 0..cut.keep).map_err(broken)?;
        let right_init = right_half(tree, &here, &cut).map_err(broken)?;
        let root_init = encode_root(tree.id, above, left.id(), &cut.separator, right.id());
        let mut maps = self.space().latch_maps(&[left.id(), right.id()])?;
        let mut edits = vec![
            PageEdit { page: left, op: code::INIT, whole: Whole::Init, payload: &left_init },
            PageEdit { page: right, op: code::INIT, whole: Whole::Init, payload: &right_init },
            PageEdit { page: &mut root, op: code::INIT, whole: Whole::Init, payload: &root_init },
        ];
        if mutants::is(Mutant::MapBitLater) {
            self.txns().structure(None, BTREE_RM, &mut edits, credit)?;
            self.force_between()?;
            edits.clear();
        }
        for (page, payload) in &mut maps {
            edits.push(PageEdit { page, op: OP_SET, whole: Whole::No, payload });
        }
        self.txns().structure(None, BTREE_RM, &mut edits, credit)?;
        if level == 0 {
            self.txns().spread_undo(txn, new, credit);
        }
        Ok(true)
    }
}

/// Payload of the new page.
fn right_half(tree: Tree, node: &Node<'_>, cut: &Cut) -> Sound<Vec<u8>> {
    let left: Option<PageId> = if node.is_leaf() { None } else { Some(node.child(cut.keep + 1)?) };
    let shape = Shape { level: node.level(), lower: &cut.separator, upper: node.upper(), left };
    encode_init(tree.id, &shape, node, moved(node, cut))
}

/// Bytes that slots, records and fences of a node take with these fences.
pub(crate) fn size_of(
    node: &Node<'_>,
    range: Range<usize>,
    lower: &[u8],
    upper: Option<&[u8]>,
) -> Sound<usize> {
    let prefix = common_prefix(lower, upper);
    let mut size = lower.len() + upper.map_or(0, <[u8]>::len);
    for i in range {
        let suffix = (node.prefix().len() + node.slot(i)?.len()).saturating_sub(prefix);
        size += if node.is_leaf() { leaf_cost(suffix, node.leaf(i)?.allot) } else { inner_cost(suffix) };
    }
    Ok(size)
}

fn fits(node: &Node<'_>, cut: &Cut, page_size: usize) -> Sound<bool> {
    let space = page_size - super::node::SLOTS;
    // New fences have in common at least what the old ones had (BTREE-3), so no record gets longer: all of them fit either half
    // if they fit with its fences.
    let fences = node.lower().len().max(node.upper().map_or(0, <[u8]>::len)) + cut.separator.len();
    if node.used() + fences <= space {
        return Ok(true);
    }
    let left = size_of(node, 0..cut.keep, node.lower(), Some(&cut.separator))?;
    let right = size_of(node, moved(node, cut), &cut.separator, node.upper())?;
    Ok(left <= space && right <= space)
}

/// Where to cut a node on the way to `key`, which a leaf has no room for.
pub(crate) fn choose(node: &Node<'_>, key: &[u8], page_size: usize) -> Sound<Cut> {
    let cut = if node.is_leaf() { choose_leaf(node, key, page_size)? } else { choose_inner(node, key)? };
    let upper = node.upper().is_none_or(|u| cut.separator.as_slice() < u);
    if cut.separator.as_slice() <= node.lower() || !upper || !fits(node, &cut, page_size)? {
        return Err(Broken("BTREE-4: no cut gives two halves that fit"));
    }
    Ok(cut)
}

fn choose_leaf(node: &Node<'_>, key: &[u8], page_size: usize) -> Sound<Cut> {
    let n = node.count();
    let (at, new) = match node.search(key)? {
        Ok(i) => (i, false),
        Err(i) => (i, true),
    };
    // A cut before slot `s`. Where the new key belongs there, it goes right, unless nothing else stays left.
    let cut = |s: usize| -> Sound<Cut> {
        let separator = match s.checked_sub(1) {
            None => separator(key, &node.key(0)?).to_vec(),
            Some(last) if new && s == at => separator(&node.key(last)?, key).to_vec(),
            Some(last) => separator(&node.key(last)?, &node.key(s)?).to_vec(),
        };
        Ok(Cut { keep: s, separator })
    };
    if n == 0 || (n == 1 && !new) {
        return Err(Broken("BTREE-4: a leaf of at most one record has room for the longest"));
    }
    if n == 1 {
        return cut(at);
    }
    // Ascending inserts fill pages: the old page stays full, the run goes on in the new one.
    let (last, run) = node.run();
    let appended = at == n && node.upper().is_none();
    if new && at > 0 && (appended || (run >= RUN && last == at)) {
        for s in (at.saturating_sub(BACK).max(1)..=at).rev() {
            let cut = cut(s)?;
            if fits(node, &cut, page_size)? {
                return Ok(cut);
            }
        }
    }
    // Else the middle by bytes; near it, where the separator is shortest.
    let cost = |i: usize| -> Sound<usize> { Ok(leaf_cost(node.slot(i)?.len(), node.leaf(i)?.allot)) };
    let middle = middle(n, cost)?;
    let near = n / 16;
    let mut best = cut(middle)?;
    for s in middle.saturating_sub(near).max(1)..=(middle + near).min(n - 1) {
        let other = cut(s)?;
        if other.separator.len() < best.separator.len() && fits(node, &other, page_size)? {
            best = other;
        }
    }
    Ok(best)
}

fn choose_inner(node: &Node<'_>, key: &[u8]) -> Sound<Cut> {
    let n = node.count();
    if n < 2 {
        return Err(Broken("BTREE-4: an inner node of one separator has room for the longest"));
    }
    let keep = if node.upper().is_none() && node.child_of(key)? == n {
        n - 1
    } else {
        middle(n, |i| Ok(inner_cost(node.slot(i)?.len())))?.min(n - 1)
    };
    Ok(Cut { keep, separator: node.key(keep)? })
}

/// The cut, from 1 to `n - 1`, after which the greater half is smallest: at most half of all and half of
/// the longest.
fn middle(n: usize, cost: impl Fn(usize) -> Sound<usize>) -> Sound<usize> {
    let costs = (0..n).map(cost).collect::<Sound<Vec<_>>>()?;
    let all: usize = costs.iter().sum();
    let (mut left, mut best) = (0, (usize::MAX, 1));
    for (i, c) in costs.iter().enumerate().take(n - 1) {
        left += c;
        best = best.min((left.max(all - left), i + 1));
    }
    Ok(best.1)
}
