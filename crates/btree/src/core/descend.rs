//! From the root to a node, by latch coupling: the child is latched before the parent is let go, so a
//! child that a parent names is what it was when the parent was read. Root page ids never change, so a
//! descent needs no other anchor. Leaves are found without latches on the way where there are routes
//! (`routes.rs`); coupling is what that falls back on.
//!
//! Nothing here waits for anything but latches, which are asked for from root to leaf. A page that is not
//! in memory ends the section with `Need::Page`; [`Btree::paged`] fetches it without a latch and begins
//! again, keeping the pin, so every round gets further.
use super::codec::Broken;
use super::edit::{KIND_INNER, KIND_LEAF};
use super::node::Node;
use super::{Btree, Tree};
use crate::BTREE_RM;
use hamal_buffer::{ExclusivePage, FrameTurn, Need, Pin, SharedPage, Stop};
use hamal_error::{Error, ErrorKind, Result};
use hamal_page::{PageId, TreeId, header};

/// A result of a latched section.
pub(crate) type Latched<T> = std::result::Result<T, Stop>;

/// Most pins that a retried section keeps: a path from root to leaf and a few map pages.
const PINS: usize = 12;

/// Rounds of a descent by routes before it goes by latches.
const ROUNDS: usize = 4;

/// Where a descent goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target<'k> {
    /// To the node that covers the key.
    At(&'k [u8]),
    /// To the node that covers the keys just below: strictly, so that a reverse scan leaves a leaf by its
    /// lower fence (BTREE-9).
    Below(&'k [u8]),
    /// To the rightmost node.
    Last,
}

impl Target<'_> {
    fn child(&self, node: &Node<'_>) -> std::result::Result<usize, Broken> {
        match self {
            Target::At(key) => node.child_of(key),
            Target::Below(key) => node.child_below(key),
            Target::Last => Ok(node.count()),
        }
    }
    fn reached(&self, node: &Node<'_>) -> bool {
        match self {
            Target::At(key) => node.contains(key),
            Target::Below(key) => node.lower() < *key && node.upper().is_none_or(|u| *key <= u),
            Target::Last => node.upper().is_none(),
        }
    }
}

/// A page that is not what its parent, or its tree, says.
pub(crate) fn corrupt(page: PageId, Broken(why): Broken) -> Error {
    Error::new(ErrorKind::PageCorrupt, format!("a B-tree node is damaged: {why}")).with_page(page)
}

impl Btree {
    /// Runs a latched section until it needs nothing but what the caller has to see to; fetches pages that
    /// it needs.
    ///
    /// Between the need and the fetch no latch is held: a merge may free the page, and what is then on
    /// disk need not be a page at all. So an error of a fetch counts only if the section asks for the same
    /// page again.
    pub(crate) fn paged<T>(&self, mut section: impl FnMut() -> Latched<T>) -> Latched<T> {
        let mut pins: Vec<Pin<'_>> = Vec::new();
        let mut failed: Option<PageId> = None;
        let mut turn: Option<FrameTurn<'_>> = None;
        loop {
            let id = match section() {
                Err(Stop::Need(Need::Page(id))) => id,
                done => return done,
            };
            if pins.len() == PINS {
                pins.remove(0);
            }
            let fetched = match turn {
                None => self.pool().fetch_soon(id),
                Some(_) => self.pool().fetch(id).map(Some),
            };
            match fetched {
                Ok(Some(pin)) => pins.push(pin),
                Ok(None) => {
                    // In a small pool others may wait for the frames that are pinned here, as this thread does for
                    // theirs (BUF-FRAMES).
                    pins.clear();
                    turn = Some(self.pool().frame_turn());
                }
                Err(e) if e.kind() == ErrorKind::Poisoned || failed == Some(id) => return Err(e.into()),
                Err(_) => failed = Some(id),
            }
        }
    }

    /// The same for a section that needs nothing else.
    pub(crate) fn pages_only<T>(&self, section: impl FnMut() -> Latched<T>) -> Result<T> {
        self.paged(section).map_err(unmet)
    }

    /// Reads the root's node header. `NotFound` if the page is no root of this tree any more: it was dropped.
    fn root<'g>(&self, tree: Tree, page: &'g [u8]) -> Result<Node<'g>> {
        if header::rm(page) == BTREE_RM && header::tree(page) == TreeId(0) {
            return Err(Error::new(ErrorKind::NotFound, format!("tree {} was dropped", tree.id)));
        }
        let node = node(tree, tree.root, page)?;
        if !node.lower().is_empty() || node.upper().is_some() {
            return Err(corrupt(tree.root, Broken("a root with fences")));
        }
        Ok(node)
    }

    /// The leaf of the target, under a shared latch. What it is has to be checked still: [`leaf_at`].
    pub(crate) fn shared_leaf(&self, tree: Tree, target: Target<'_>) -> Latched<SharedPage<'_>> {
        Ok(self.shared_leaf_and_next(tree, target)?.0)
    }

    /// The same, and the frame where the leaf to the right of it was last, if that is known.
    pub(crate) fn shared_leaf_and_next(
        &self,
        tree: Tree,
        target: Target<'_>,
    ) -> Latched<(SharedPage<'_>, Option<u32>)> {
        for _ in 0..ROUNDS {
            let Some(step) = self.routes.follow(self.pool(), tree, target) else { break };
            match self.pool().try_shared_in(step.child, step.hint) {
                // BTREE-12: the parent's word counts if it stands after the leaf is latched.
                Ok(page) if self.pool().still(&step.above) => {
                    if let Some(now) = page.glance() {
                        step.remember(now.frame());
                    }
                    return Ok((page, step.neighbour()));
                }
                Ok(_) => {}
                Err(stop) if self.pool().still(&step.above) => return Err(stop),
                Err(_) => {}
            }
        }
        Ok((self.latched_leaf(tree, target)?, None))
    }

    /// The leaf of the target by coupling latches.
    fn latched_leaf(&self, tree: Tree, target: Target<'_>) -> Latched<SharedPage<'_>> {
        let mut page = self.pool().try_shared(tree.root)?;
        let root = self.root(tree, &page)?;
        let mut step = self.inner(tree, &page, &root, target)?;
        while let Some((level, child)) = step {
            let below = self.pool().try_shared(child)?;
            if level == 0 {
                return Ok(below);
            }
            let node = arrived(tree, child, &below, level, target)?;
            step = self.inner(tree, &below, &node, target)?;
            page = below;
        }
        Ok(page)
    }

    /// As [`next`]; copies an inner node for later descents.
    fn inner(
        &self,
        tree: Tree,
        page: &SharedPage<'_>,
        node: &Node<'_>,
        target: Target<'_>,
    ) -> Result<Option<(u8, PageId)>> {
        let step = next(node, page.id(), target)?;
        if step.is_some() {
            self.routes.learn(self.pool(), tree, page, node);
        }
        Ok(step)
    }

    /// The node of the target on that level, under a shared latch; none if the tree is lower than that.
    pub(crate) fn shared_node(
        &self,
        tree: Tree,
        target: Target<'_>,
        level: u8,
    ) -> Latched<Option<SharedPage<'_>>> {
        let mut page = self.pool().try_shared(tree.root)?;
        let root = self.root(tree, &page)?;
        if root.level() <= level {
            return Ok((root.level() == level).then_some(page));
        }
        let mut step = self.inner(tree, &page, &root, target)?;
        while let Some((below, child)) = step {
            let down = self.pool().try_shared(child)?;
            let node = arrived(tree, child, &down, below, target)?;
            if below == level {
                return Ok(Some(down));
            }
            step = self.inner(tree, &down, &node, target)?;
            page = down;
        }
        drop(page);
        Err(corrupt(tree.root, Broken("levels do not go down to the leaves")).into())
    }

    /// The node of the target on that level, under the exclusive latch; none if the tree is lower than that.
    pub(crate) fn exclusive_node(
        &self,
        tree: Tree,
        target: Target<'_>,
        level: u8,
    ) -> Latched<Option<ExclusivePage<'_>>> {
        loop {
            let mut page = self.pool().try_shared(tree.root)?;
            let root = self.root(tree, &page)?;
            if root.level() < level {
                return Ok(None);
            }
            if root.level() == level {
                drop(page);
                let page = self.pool().try_exclusive(tree.root)?;
                // It may have grown in between.
                if self.root(tree, &page)?.level() == level {
                    return Ok(Some(page));
                }
                continue;
            }
            let mut step = self.inner(tree, &page, &root, target)?;
            while let Some((below, child)) = step {
                if below == level {
                    let page = self.pool().try_exclusive(child)?;
                    arrived(tree, child, &page, level, target)?;
                    return Ok(Some(page));
                }
                let down = self.pool().try_shared(child)?;
                let node = arrived(tree, child, &down, below, target)?;
                step = self.inner(tree, &down, &node, target)?;
                page = down;
            }
            drop(page);
            return Err(corrupt(tree.root, Broken("levels do not go down to the leaves")).into());
        }
    }

    /// The leaf of a key, under the exclusive latch.
    pub(crate) fn exclusive_leaf(&self, tree: Tree, key: &[u8]) -> Latched<ExclusivePage<'_>> {
        for _ in 0..ROUNDS {
            let Some(step) = self.routes.follow(self.pool(), tree, Target::At(key)) else { break };
            match self.pool().try_exclusive(step.child) {
                // BTREE-12: as for readers.
                Ok(page) if self.pool().still(&step.above) => {
                    leaf_at(tree, step.child, &page, Target::At(key))?;
                    return Ok(page);
                }
                Ok(_) => {}
                Err(stop) if self.pool().still(&step.above) => return Err(stop),
                Err(_) => {}
            }
        }
        match self.exclusive_node(tree, Target::At(key), 0)? {
            Some(page) => Ok(page),
            None => Err(corrupt(tree.root, Broken("a tree without leaves")).into()),
        }
    }
}

/// A need that the section cannot have.
pub(crate) fn unmet(stop: Stop) -> Error {
    match stop {
        Stop::Error(e) => e,
        Stop::Need(need) => Error::internal(format!("a section that only reads pages needs {need:?}")),
    }
}

/// Level and page of the next node on the way; none from a leaf.
fn next(node: &Node<'_>, id: PageId, target: Target<'_>) -> Result<Option<(u8, PageId)>> {
    if node.is_leaf() {
        return Ok(None);
    }
    let child = target.child(node).and_then(|i| node.child(i)).map_err(|b| corrupt(id, b))?;
    apart(id, &[child])?;
    Ok(Some((node.level() - 1, child)))
}

/// Checks that the pages that are about to be latched under the latch of `id` are others, and different ones: a
/// damaged node that names itself would have its reader wait for itself.
pub(crate) fn apart(id: PageId, others: &[PageId]) -> Result<()> {
    let twice = |(i, p): (usize, &PageId)| *p == id || others[..i].contains(p);
    if others.iter().enumerate().any(twice) {
        return Err(corrupt(id, Broken("it names itself, or one child twice")));
    }
    Ok(())
}

/// Reads the node header of a page that must be a node of the tree.
pub(crate) fn node(tree: Tree, id: PageId, page: &[u8]) -> Result<Node<'_>> {
    if header::rm(page) != BTREE_RM || header::tree(page) != tree.id {
        let (rm, other) = (header::rm(page), header::tree(page));
        let what = format!("a node of tree {} was expected, found tree {other} of manager {rm}", tree.id);
        return Err(Error::new(ErrorKind::PageCorrupt, what).with_page(id));
    }
    let node = Node::open(page).map_err(|b| corrupt(id, b))?;
    let kind = if node.is_leaf() { KIND_LEAF } else { KIND_INNER };
    if header::kind(page) != kind {
        return Err(corrupt(id, Broken("kind and level disagree")));
    }
    Ok(node)
}

/// The leaf that a descent to the target has come to, checked (BTREE-8).
#[inline]
pub(crate) fn leaf_at<'g>(tree: Tree, id: PageId, page: &'g [u8], target: Target<'_>) -> Result<Node<'g>> {
    arrived(tree, id, page, 0, target)
}

/// Checks a node on arrival (BTREE-8): tree, level and fences are what its parent says.
pub(crate) fn arrived<'g>(
    tree: Tree,
    id: PageId,
    page: &'g [u8],
    level: u8,
    target: Target<'_>,
) -> Result<Node<'g>> {
    let node = node(tree, id, page)?;
    if node.level() != level {
        return Err(corrupt(id, Broken("its level is not one below its parent's")));
    }
    if !target.reached(&node) {
        return Err(corrupt(id, Broken("its fences do not cover what its parent sends here")));
    }
    Ok(node)
}
