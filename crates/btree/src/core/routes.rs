//! Routes: copies of inner nodes that descents read without a latch.
//!
//! A latch that every descent takes shared is a word that all processors write; and a node has to be read under a latch,
//! because writers change its bytes in place, by plain stores. So descents do not read inner nodes at all, but *routes*:
//! copies in memory of their own, of which every word is read and written by one atomic access
//! ([`Words`](hamal_latch::Words), LATCH-6), laid out for searching. A route is tagged with the frame of its node and the
//! version of the frame's latch while it was copied, under the shared latch. Whoever changes the node, or gives the frame to
//! another page, raises that version, and the route is of no use any more: nothing has to be told to forget it.
//!
//! A descent (BTREE-12) takes a *glance* at the root: its frame and version. With the route of that version it finds the
//! child; takes a glance at the child, or latches it if it is a leaf; and then asks whether the parent's version still
//! stands. If so the parent names this child at a moment at which the child's version, or latch, is ours: that is what
//! coupling latches gives. If not it begins again, and after a few rounds, or where a route is missing, it goes by latches,
//! which also makes the missing routes.
//!
//! Layout, in words: frame + 1, version, page, tree and level, count and length of the common prefix; the bytes that all
//! separators begin with; for each separator its *head*, the eight bytes behind the common ones, big-endian and padded with
//! zeros; the children; for each separator its length behind the common bytes (low half) and the place of the rest
//! behind its head (high half); those rests. Comparing heads as numbers decides nearly all.
use super::Tree;
use super::codec::{Broken, Sound};
use super::descend::Target;
use super::node::{HEAD as SLOT_HEAD, Node};
use hamal_buffer::{Glance, Pool, SharedPage};
use hamal_latch::{Reading, Words};
use hamal_page::PageId;
use hamal_sync::aside::AtomicU64;
use hamal_sync::atomic::Ordering::Relaxed;
use std::cmp::Ordering;
use std::sync::OnceLock;

/// Words before the common prefix.
const FIXED: usize = 5;
/// Bytes of a head.
const HEAD: usize = 8;
/// Inner nodes are fewer than one of so many pages.
const SHARE: usize = 32;
/// A route that went stale is made anew for every so many descents that miss it: a node that changes all the time is
/// not worth a copy after each change.
const PATIENCE: u64 = 8;

struct Route {
    words: Words,
    /// For each child the frame where it was last, plus one: a hint. Not under the sequence lock, so that it can be mended
    /// by readers.
    hints: Box<[AtomicU64]>,
    missed: AtomicU64,
}

/// The routes of all trees.
pub(crate) struct Routes {
    routes: Box<[OnceLock<Box<Route>>]>,
    next: AtomicU64,
    page_size: usize,
}

/// Where a descent by routes has come to.
pub(crate) struct Step<'r> {
    /// The node that names the child.
    pub(crate) above: Glance,
    pub(crate) child: PageId,
    /// The frame where the child was last.
    pub(crate) hint: Option<u32>,
    level: u8,
    route: &'r Route,
    at: usize,
}

impl Step<'_> {
    /// Notes where the child is.
    #[inline]
    pub(crate) fn remember(&self, frame: u32) {
        if self.hint != Some(frame)
            && let Some(h) = self.route.hints.get(self.at)
        {
            h.store(u64::from(frame) + 1, Relaxed);
        }
    }
    /// The frame where the right neighbour of the child under the same parent was last.
    pub(crate) fn neighbour(&self) -> Option<u32> {
        self.route.hint(self.at + 1)
    }
}

impl Route {
    fn new(page_size: usize) -> Route {
        // A separator takes 20 bytes of a page or more, and three words here, four if it is longer than its head.
        let n = FIXED + page_size / 8 * 3 / 2;
        let hints = (0..page_size / 16).map(|_| AtomicU64::new(0)).collect();
        Route { words: Words::new(n), hints, missed: AtomicU64::new(0) }
    }
    #[inline]
    fn hint(&self, at: usize) -> Option<u32> {
        let hint = self.hints.get(at)?.load(Relaxed);
        u32::try_from(hint).ok()?.checked_sub(1)
    }
}

impl Routes {
    pub(crate) fn new(pool: &Pool) -> Routes {
        let n = pool.options().frames / SHARE + 8;
        Routes {
            routes: (0..n).map(|_| OnceLock::new()).collect(),
            next: AtomicU64::new(0),
            page_size: pool.page_size(),
        }
    }

    #[inline]
    fn of(&self, glance: &Glance) -> Option<&Route> {
        let i = usize::try_from(glance.note()).ok()?.checked_sub(1)?;
        self.routes.get(i)?.get().map(|r| &**r)
    }

    /// Goes from the root down to the node above the target's leaf. None where a route is missing or stale, or a page is not
    /// in memory, and for a tree of one level.
    #[inline]
    pub(crate) fn follow(&self, pool: &Pool, tree: Tree, target: Target<'_>) -> Option<Step<'_>> {
        let (mut id, mut hint) = (tree.root, None);
        let mut above: Option<Step<'_>> = None;
        loop {
            let here = pool.glance(id, hint)?;
            if let Some(step) = &above {
                step.remember(here.frame());
                // BTREE-12: the parent's word counts if it stands after the glance at the child.
                if !pool.still(&step.above) {
                    return None;
                }
            }
            let step = self.find(here, id, tree, target)?;
            if above.as_ref().is_some_and(|a| step.level.checked_add(1) != Some(a.level)) {
                return None;
            }
            if let Some(frame) = step.hint {
                pool.prefetch_frame(frame);
            }
            if step.level == 1 {
                return Some(step);
            }
            (id, hint) = (step.child, step.hint);
            above = Some(step);
        }
    }

    #[inline]
    fn find(&self, here: Glance, id: PageId, tree: Tree, target: Target<'_>) -> Option<Step<'_>> {
        let route = self.of(&here)?;
        let tag = tag_of(&here, id, tree);
        let (level, child, at) = route.words.read(|w| View::of(w, &tag)?.child(target))??;
        Some(Step { above: here, child: PageId(child), hint: route.hint(at), level, route, at })
    }

    /// Copies an inner node that is held shared. Does nothing if that is not due.
    pub(crate) fn learn(&self, pool: &Pool, tree: Tree, page: &SharedPage<'_>, node: &Node<'_>) {
        let Some(here) = page.glance() else { return };
        let tag = self.of(&here).and_then(|r| r.words.read(|w| (w.get(0), w.get(1))));
        let own = tag.filter(|(frame, _)| *frame == u64::from(here.frame()) + 1);
        let route = match (own, self.of(&here)) {
            (Some((_, version)), _) if version == here.version() => return,
            (Some(_), Some(route)) => {
                if !route.missed.fetch_add(1, Relaxed).is_multiple_of(PATIENCE) {
                    return;
                }
                route
            }
            _ => {
                let i = (self.next.fetch_add(1, Relaxed) % self.routes.len() as u64) as usize;
                let route = self.routes[i].get_or_init(|| Box::new(Route::new(self.page_size)));
                pool.leave_note(&here, i as u64 + 1);
                route
            }
        };
        // A node that does not fit, or is damaged, is read under its latch.
        if let Ok(words) = copy(&tag_of(&here, page.id(), tree), node)
            && words.len() <= route.words.len()
        {
            route.words.try_write(|w| words.iter().enumerate().for_each(|(i, word)| w.set(i, *word)));
        }
    }
}

/// What a route is a copy of: frame, version, page, tree.
type Tag = [u64; 4];

#[inline]
fn tag_of(here: &Glance, id: PageId, tree: Tree) -> Tag {
    [u64::from(here.frame()) + 1, here.version(), id.0, u64::from(tree.id.0)]
}

/// The words of a route.
fn copy(tag: &Tag, node: &Node<'_>) -> Sound<Vec<u64>> {
    let n = node.count();
    let mut common = node.prefix().to_vec();
    if n > 0 {
        let last = node.key(n - 1)?;
        common = node.key(0)?;
        common.truncate(common.iter().zip(&last).take_while(|(a, b)| a == b).count());
    }
    let mut words = Vec::with_capacity(FIXED + common.len().div_ceil(8) + 4 * n + 1);
    words.extend_from_slice(tag);
    words[3] |= u64::from(node.level()) << 32;
    words.push(n as u64 | (common.len() as u64) << 32);
    words.extend((0..common.len()).step_by(8).map(|at| word(&common, at)));
    let heads = words.len();
    words.resize(heads + 3 * n + 1, 0);
    const DISORDER: Broken = Broken("its keys are not in order (BTREE-9)");
    // What all separators have in common is the node's prefix at least, and often no more.
    let more = common.len().checked_sub(node.prefix().len()).ok_or(DISORDER)?;
    let mut key = Vec::new();
    for i in 0..n {
        let (slot, rest) = node.suffix_parts(i)?;
        let len = slot.len().checked_sub(more).ok_or(DISORDER)?;
        let (head, tail) = if more == 0 {
            // Four bytes of the head are in the slot.
            (
                u64::from(slot.head()) << 32 | word(rest, 0) >> 32,
                rest.get(HEAD - SLOT_HEAD..).unwrap_or_default(),
            )
        } else {
            key.clear();
            node.push_suffix(i, &mut key)?;
            (word(&key, more), key.get(more + HEAD..).unwrap_or_default())
        };
        words[heads + i] = head;
        words[heads + 2 * n + 1 + i] = len as u64 | (words.len() as u64) << 32;
        words.extend((0..tail.len()).step_by(8).map(|at| word(tail, at)));
    }
    for i in 0..=n {
        words[heads + n + i] = node.child(i)?.0;
    }
    Ok(words)
}

/// Eight bytes of the key from `at` on as a number; zeros behind its end.
#[inline]
fn word(key: &[u8], at: usize) -> u64 {
    let rest = key.get(at..).unwrap_or_default();
    match rest.first_chunk::<8>() {
        Some(b) => u64::from_be_bytes(*b),
        None => {
            let mut b = [0; 8];
            b[..rest.len()].copy_from_slice(rest);
            u64::from_be_bytes(b)
        }
    }
}

/// A route while it is read: nothing of it need be true, so nothing of it may lead out of bounds or into a long loop.
struct View<'w> {
    words: Reading<'w>,
    heads: Reading<'w>,
    children: Reading<'w>,
    tails: Reading<'w>,
    level: u8,
    common: usize,
}

impl<'w> View<'w> {
    #[inline]
    fn of(words: Reading<'w>, tag: &Tag) -> Option<View<'w>> {
        let found = [words.get(0), words.get(1), words.get(2), words.get(3) & u64::from(u32::MAX)];
        if found != *tag {
            return None;
        }
        let (n, common) = (words.get(4) as u32 as usize, (words.get(4) >> 32) as usize);
        let heads = FIXED + common.div_ceil(8);
        Some(View {
            words,
            heads: words.part(heads..heads + n)?,
            children: words.part(heads + n..heads + 2 * n + 1)?,
            tails: words.part(heads + 2 * n + 1..heads + 3 * n + 1)?,
            level: (words.get(3) >> 32) as u8,
            common,
        })
    }

    /// Level of the node, and page and number of the target's child.
    #[inline]
    fn child(&self, target: Target<'_>) -> Option<(u8, u64, usize)> {
        let i = match target {
            Target::At(key) => self.count_to(key, true),
            Target::Below(key) => self.count_to(key, false),
            Target::Last => self.heads.len(),
        };
        let child = self.children.get(i);
        (child != 0).then_some((self.level, child, i))
    }

    /// How many separators are below the key, or at it as well.
    #[inline]
    fn count_to(&self, key: &[u8], and_equal: bool) -> usize {
        match self.compare_common(key) {
            Ordering::Less => return 0,
            Ordering::Greater => return self.heads.len(),
            Ordering::Equal => {}
        }
        let suffix = key.get(self.common..).unwrap_or_default();
        let head = word(suffix, 0);
        let from = partition(0, self.heads.len(), |i| self.heads.get(i) < head);
        if from == self.heads.len() || self.heads.get(from) != head {
            return from;
        }
        let to = partition(from, self.heads.len(), |i| self.heads.get(i) <= head);
        partition(from, to, |i| match self.compare(i, suffix) {
            Ordering::Less => true,
            Ordering::Equal => and_equal,
            Ordering::Greater => false,
        })
    }

    /// Compares the key with the bytes that all separators begin with: equal if it begins with them, too.
    #[inline]
    fn compare_common(&self, key: &[u8]) -> Ordering {
        for at in (0..self.common).step_by(8) {
            let bytes = (self.common - at).min(8);
            let mine = word(key, at) & (u64::MAX << (8 * (8 - bytes)));
            match mine.cmp(&self.words.get(FIXED + at / 8)) {
                Ordering::Equal => {}
                other => return other,
            }
        }
        if key.len() < self.common { Ordering::Less } else { Ordering::Equal }
    }

    /// Compares separator `i` with a key, both without the common bytes and with equal heads.
    fn compare(&self, i: usize, suffix: &[u8]) -> Ordering {
        let tail = self.tails.get(i);
        let (len, rest) = (tail as u32 as usize, (tail >> 32) as usize);
        for at in (HEAD..len.min(suffix.len())).step_by(8) {
            match self.words.get(rest + at / 8 - 1).cmp(&word(suffix, at)) {
                Ordering::Equal => {}
                other => return other,
            }
        }
        // One is the beginning of the other (zeros pad both alike).
        len.cmp(&suffix.len())
    }
}

/// The first of `from..to` that is not `before`; without branches that depend on what is found.
#[inline]
fn partition(from: usize, to: usize, before: impl Fn(usize) -> bool) -> usize {
    let (mut base, mut n) = (from, to - from);
    while n > 1 {
        let half = n / 2;
        base += if before(base + half - 1) { half } else { 0 };
        n -= half;
    }
    base + usize::from(n == 1 && before(base))
}

#[cfg(test)]
mod tests {
    use super::super::edit::{Body, begin, insert};
    use super::*;
    use proptest::prelude::*;

    const TAG: Tag = [3, 9, 7, 20];

    /// Few different bytes, so that heads and whole beginnings are often alike.
    fn keys() -> impl Strategy<Value = Vec<u8>> {
        let byte = prop_oneof![Just(0u8), Just(b'a'), Just(b'b'), Just(0xff)];
        (any::<bool>(), prop::collection::vec(byte, 0..14)).prop_map(|(long, tail)| {
            let mut key = if long { b"aaaaaaaaaaa".to_vec() } else { Vec::new() };
            key.extend(tail);
            key
        })
    }

    fn page_of(separators: &[Vec<u8>]) -> Vec<u8> {
        let mut page = vec![0; 8192];
        begin(&mut page, 1, &[], None, Some(PageId(100))).unwrap();
        for (i, s) in separators.iter().enumerate() {
            insert(&mut page, i, s, &Body::Inner(PageId(101 + i as u64))).unwrap();
        }
        page
    }

    fn written(words: &[u64]) -> Words {
        let to = Words::new(words.len());
        assert!(to.try_write(|w| words.iter().enumerate().for_each(|(i, x)| w.set(i, *x))));
        to
    }

    proptest! {
        /// A route sends every key to the child to which its node sends it.
        #[test]
        fn a_route_agrees_with_its_node(
            separators in prop::collection::btree_set(keys(), 0..60),
            probes in prop::collection::vec(keys(), 1..60),
        ) {
            let separators: Vec<_> = separators.into_iter().filter(|s| !s.is_empty()).collect();
            let page = page_of(&separators);
            let node = Node::open(&page).unwrap();
            let route = written(&copy(&TAG, &node).unwrap());
            let child = |target| route.read(|w| View::of(w, &TAG).unwrap().child(target)).unwrap().unwrap();
            for key in probes.iter().chain(&separators) {
                let (at, below) = (node.child_of(key).unwrap(), node.child_below(key).unwrap());
                prop_assert_eq!(child(Target::At(key)), (1, 100 + at as u64, at));
                prop_assert_eq!(child(Target::Below(key)), (1, 100 + below as u64, below));
            }
            let last = separators.len();
            prop_assert_eq!(child(Target::Last), (1, 100 + last as u64, last));
        }

        /// Words that are anything lead to no panic and no endless loop.
        #[test]
        fn torn_words_are_harmless(mut words in prop::collection::vec(any::<u64>(), 0..200), small: u8, key in keys()) {
            for (w, t) in words.iter_mut().zip(TAG) {
                *w = t;
            }
            if let Some(w) = words.get_mut(4) {
                *w = u64::from(small) | *w << 58 >> 26;
            }
            let route = written(&words);
            for target in [Target::At(&key), Target::Below(&key), Target::Last] {
                route.read(|w| View::of(w, &TAG).and_then(|v| v.child(target)));
            }
        }
    }

    #[test]
    fn a_route_of_another_version_frame_page_or_tree_is_none() {
        let page = page_of(&[b"m".to_vec()]);
        let route = written(&copy(&TAG, &Node::open(&page).unwrap()).unwrap());
        for i in 0..4 {
            let mut other = TAG;
            other[i] += 1;
            assert!(route.read(|w| View::of(w, &other).is_none()).unwrap());
        }
    }
}
