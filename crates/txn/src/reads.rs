//! What a serializable transaction has read: for each tree a set of disjoint intervals of keys.
//!
//! An interval is [low, high) in the order of bytes; the key after k is k with a zero byte, so every kind of bound, and a
//! single key, is such an interval exactly. Intervals that touch are one. When the set takes more memory than it may, intervals are
//! joined with their neighbours, gaps included, in the end to whole trees: the set only grows by that, nothing
//! that was read is ever forgotten (TXN-READS).
use hamal_page::{PageId, TreeId};
use std::collections::BTreeMap;
use std::ops::Bound;

/// What an interval costs beside its keys.
const INTERVAL: usize = 96;

/// The keys read in one tree.
#[derive(Clone, Debug)]
struct TreeReads {
    root: PageId,
    /// Low end to high end, exclusive; none is the end of all keys.
    intervals: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

/// A set of keys by tree: what was read.
#[derive(Clone, Debug)]
pub struct ReadSet {
    trees: BTreeMap<TreeId, TreeReads>,
    bytes: usize,
    budget: usize,
}

/// An interval of keys that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRange<'a> {
    /// The tree.
    pub tree: TreeId,
    /// Its root page.
    pub root: PageId,
    /// The lowest key.
    pub low: &'a [u8],
    /// What all keys are below; none: there is no end.
    pub high: Option<&'a [u8]>,
}

fn cost(low: &[u8], high: &Option<Vec<u8>>) -> usize {
    INTERVAL + low.len() + high.as_ref().map_or(0, Vec::len)
}

/// The key right after `key`.
fn after(key: &[u8]) -> Vec<u8> {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next
}

/// Whether a key, as a low end, lies at or before a high end.
fn reaches(high: &Option<Vec<u8>>, key: &[u8]) -> bool {
    high.as_ref().is_none_or(|h| h.as_slice() >= key)
}

impl ReadSet {
    /// Nothing, and the memory in bytes that it may take.
    pub fn new(budget: usize) -> ReadSet {
        ReadSet { trees: BTreeMap::new(), bytes: 0, budget }
    }
    /// Whether nothing was read.
    pub fn is_empty(&self) -> bool {
        self.trees.is_empty()
    }
    /// Memory in use, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a key, whether it has a row or not.
    pub fn add_key(&mut self, tree: TreeId, root: PageId, key: &[u8]) {
        if !self.covers(tree, key) {
            self.add_interval(tree, root, key.to_vec(), Some(after(key)));
        }
    }
    /// Adds all keys between two bounds.
    pub fn add_range(&mut self, tree: TreeId, root: PageId, low: Bound<&[u8]>, high: Bound<&[u8]>) {
        let low = match low {
            Bound::Included(k) => k.to_vec(),
            Bound::Excluded(k) => after(k),
            Bound::Unbounded => Vec::new(),
        };
        let high = match high {
            Bound::Included(k) => Some(after(k)),
            Bound::Excluded(k) => Some(k.to_vec()),
            Bound::Unbounded => None,
        };
        if high.as_ref().is_none_or(|h| *h > low) {
            self.add_interval(tree, root, low, high);
        }
    }

    fn add_interval(&mut self, tree: TreeId, root: PageId, mut low: Vec<u8>, mut high: Option<Vec<u8>>) {
        let reads = self.trees.entry(tree).or_insert_with(|| TreeReads { root, intervals: BTreeMap::new() });
        let before =
            reads.intervals.range::<[u8], _>((Bound::Unbounded, Bound::Included(&low[..]))).next_back();
        let join = |a: Option<Vec<u8>>, b: Option<Vec<u8>>| match (a, b) {
            (Some(a), Some(b)) => Some(a.max(b)),
            _ => None,
        };
        // What touches it from below, and then from above, becomes part of it.
        let below = before.filter(|(_, h)| reaches(h, &low)).map(|(l, _)| l.clone());
        if let Some((l, h)) = below.and_then(|l| reads.intervals.remove_entry(&l)) {
            self.bytes -= cost(&l, &h);
            low = l;
            high = join(high, h);
        }
        loop {
            let from = (Bound::Included(&low[..]), Bound::Unbounded);
            let above = reads.intervals.range::<[u8], _>(from).next();
            let above = above.filter(|(l, _)| reaches(&high, l)).map(|(l, _)| l.clone());
            let Some((l, h)) = above.and_then(|l| reads.intervals.remove_entry(&l)) else { break };
            self.bytes -= cost(&l, &h);
            high = join(high, h);
        }
        self.bytes += cost(&low, &high);
        reads.intervals.insert(low, high);
        if self.bytes > self.budget {
            self.widen();
        }
    }

    /// Joins neighbours until half of the budget suffices, or every tree is read as a whole.
    fn widen(&mut self) {
        while self.bytes > self.budget / 2 {
            let mut joined = false;
            for reads in self.trees.values_mut() {
                joined |= reads.intervals.len() > 1;
                reads.join_pairs();
            }
            self.count();
            if !joined {
                // One interval in each tree, and the keys at its ends are too long for so many trees.
                for reads in self.trees.values_mut() {
                    reads.intervals = [(Vec::new(), None)].into();
                }
                self.count();
                return;
            }
        }
    }

    fn count(&mut self) {
        self.bytes = self.trees.values().flat_map(|t| &t.intervals).map(|(l, h)| cost(l, h)).sum();
    }

    /// Whether a key belongs to what was read.
    pub fn covers(&self, tree: TreeId, key: &[u8]) -> bool {
        let Some(reads) = self.trees.get(&tree) else { return false };
        let below = (Bound::Unbounded, Bound::Included(key));
        let at = reads.intervals.range::<[u8], _>(below).next_back();
        at.is_some_and(|(_, high)| high.as_ref().is_none_or(|h| key < h.as_slice()))
    }

    /// The intervals, by tree and key.
    pub fn ranges(&self) -> impl Iterator<Item = KeyRange<'_>> {
        self.trees.iter().flat_map(|(tree, reads)| {
            reads.intervals.iter().map(|(low, high)| KeyRange {
                tree: *tree,
                root: reads.root,
                low,
                high: high.as_deref(),
            })
        })
    }
}

impl TreeReads {
    /// Every second interval is joined with the one before it.
    fn join_pairs(&mut self) {
        let mut all = std::mem::take(&mut self.intervals).into_iter();
        while let Some((low, high)) = all.next() {
            let high = all.next().map_or(high, |(_, h)| h);
            self.intervals.insert(low, high);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const TREE: TreeId = TreeId(9);
    const ROOT: PageId = PageId(3);

    #[test]
    fn a_key_is_exactly_one_key() {
        let mut r = ReadSet::new(1 << 20);
        r.add_key(TREE, ROOT, b"b");
        r.add_key(TREE, ROOT, b"");
        for (key, read) in [(&b"b"[..], true), (b"", true), (b"b\0", false), (b"a", false), (b"\0", false)] {
            assert_eq!(r.covers(TREE, key), read, "{key:?}");
        }
        assert!(!r.covers(TreeId(1), b"b"));
    }

    #[test]
    fn neighbours_become_one() {
        let mut r = ReadSet::new(1 << 20);
        r.add_range(TREE, ROOT, Bound::Unbounded, Bound::Included(b"c"));
        r.add_range(TREE, ROOT, Bound::Excluded(b"c"), Bound::Excluded(b"f"));
        r.add_key(TREE, ROOT, b"f");
        let one = KeyRange { tree: TREE, root: ROOT, low: b"", high: Some(b"f\0") };
        assert_eq!(r.ranges().collect::<Vec<_>>(), [one]);
        r.add_range(TREE, ROOT, Bound::Included(b"x"), Bound::Unbounded);
        assert_eq!(r.ranges().count(), 2);
        r.add_range(TREE, ROOT, Bound::Included(b"z"), Bound::Included(b"a"));
        assert_eq!(r.ranges().count(), 2, "nothing lies between contradicting bounds");
    }

    fn bound() -> impl Strategy<Value = Bound<u8>> {
        (0..40u8, 0..3u8).prop_map(|(k, kind)| match kind {
            0 => Bound::Included(k),
            1 => Bound::Excluded(k),
            _ => Bound::Unbounded,
        })
    }

    proptest! {
        /// Against a set of keys: exact within the budget; beyond it nothing is lost, and the memory is bounded.
        #[test]
        fn agrees_with_a_set(
            steps in prop::collection::vec((0..3u32, prop::option::of(0..40u8), bound(), bound()), 1..60),
            small in any::<bool>(),
        ) {
            let budget = if small { 3 * INTERVAL } else { 1 << 20 };
            let mut r = ReadSet::new(budget);
            let mut model = BTreeSet::new();
            for (tree, key, low, high) in steps {
                let bytes = |b: Bound<u8>| b.map(|k| [k]);
                match key {
                    Some(k) => {
                        r.add_key(TreeId(tree), ROOT, &[k]);
                        model.insert((tree, k));
                    }
                    None => {
                        let (l, h) = (bytes(low), bytes(high));
                        r.add_range(TreeId(tree), ROOT, l.as_ref().map(|k| &k[..]), h.as_ref().map(|k| &k[..]));
                        let inside = |k: &u8| {
                            let low = match low { Bound::Included(l) => *k >= l, Bound::Excluded(l) => *k > l, _ => true };
                            let high = match high { Bound::Included(h) => *k <= h, Bound::Excluded(h) => *k < h, _ => true };
                            low && high
                        };
                        model.extend((0..40).filter(inside).map(|k| (tree, k)));
                    }
                }
                for tree in 0..3 {
                    for k in 0..40 {
                        let covered = r.covers(TreeId(tree), &[k]);
                        prop_assert!(covered || !model.contains(&(tree, k)), "lost {tree} {k}");
                        prop_assert!(small || covered == model.contains(&(tree, k)), "{tree} {k}");
                    }
                }
                let all: Vec<_> = r.ranges().collect();
                for w in all.windows(2).filter(|w| w[0].tree == w[1].tree) {
                    prop_assert!(w[0].high.is_some_and(|h| h < w[1].low), "{w:?}");
                }
                let counted: usize = all.iter().map(|k| cost(k.low, &k.high.map(<[u8]>::to_vec))).sum();
                prop_assert_eq!(counted, r.bytes());
                prop_assert!(r.bytes() <= budget.max(3 * INTERVAL));
            }
        }
    }
}
