//! Tests of the node layer alone: pages and payloads, no engine.
mod runs;

use super::codec::Sound;
use super::manager::BtreeManager;
use super::node::{LeafRecord, Node, Word, common_prefix, leaf_cost, max_inline, max_key};
use super::ops::leaf::{self, Bytes};
use super::ops::{code, tree};
use crate::BTREE_RM;
use crate::core::edit::{KIND_INNER, KIND_LEAF};
use hamal_buffer::{Applying, PageOps};
use hamal_page::{HEADER_LEN, Lsn, PageId, TreeId, TxnId};
use hamal_txn::ResourceManager;
use proptest::prelude::*;
use std::collections::BTreeMap;

const TREE: TreeId = TreeId(16);

/// A page, and a second one that gets the same records: the redo.
struct Page {
    bytes: Vec<u8>,
    redone: Vec<u8>,
}

fn at(txn: u64) -> Applying {
    Applying { lsn: Lsn(1), txn: TxnId(txn), page: PageId(7) }
}

fn init(size: usize, payload: &[u8]) -> Page {
    let mut bytes = vec![0; size];
    hamal_page::init(&mut bytes, PageId(7), BTREE_RM, payload[1], TREE);
    BtreeManager::default().apply(&at(0), code::INIT, &payload[6..], &mut bytes).unwrap();
    Page { redone: bytes.clone(), bytes }
}

impl Page {
    fn apply(&mut self, txn: u64, op: u8, payload: &[u8]) {
        let m = BtreeManager::default();
        m.apply(&at(txn), op, payload, &mut self.bytes).unwrap();
        // What an image leaves out must not matter.
        let hole = m.hole(&self.redone);
        self.redone[hole].fill(0);
        m.apply(&at(txn), op, payload, &mut self.redone).unwrap();
        m.describe(op, payload, &mut String::new()).unwrap();
        self.node().check().unwrap();
        assert_eq!(image(&self.bytes), image(&self.redone));
    }
    fn node(&self) -> Node<'_> {
        Node::open(&self.bytes).unwrap()
    }
}

/// The bytes that count.
fn image(page: &[u8]) -> Vec<u8> {
    let mut copy = page.to_vec();
    copy[BtreeManager::default().hole(page)].fill(0);
    copy
}

fn written(put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut p = Vec::new();
    put(&mut p);
    p
}

fn inline(bytes: &[u8]) -> Bytes<'_> {
    Bytes { chain: false, bytes }
}

fn shaped(lower: &[u8], upper: Option<&[u8]>) -> Vec<u8> {
    let empty = init(4096, &tree::encode_empty(TREE));
    tree::encode_init(TREE, &tree::Shape { level: 0, lower, upper, left: None }, &empty.node(), 0..0).unwrap()
}

#[derive(Clone, Debug)]
enum Op {
    Put(Vec<u8>, usize),
    Ghost(Vec<u8>),
    Purge,
    Truncate(usize),
}

fn keys() -> impl Strategy<Value = Vec<u8>> {
    (prop::collection::vec(0u8..4, 0..7), any::<bool>()).prop_map(|(tail, zero)| {
        let mut k = b"pre".to_vec();
        k.extend(tail);
        if zero {
            k.push(0);
        }
        k
    })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (keys(), 0usize..200).prop_map(|(k, n)| Op::Put(k, n)),
        3 => keys().prop_map(Op::Ghost),
        1 => Just(Op::Purge),
        1 => (0usize..100).prop_map(Op::Truncate),
    ]
}

/// What a record is: value, ghost, allotment.
type Model = BTreeMap<Vec<u8>, (Vec<u8>, bool, usize)>;

fn agree(page: &Page, model: &Model) {
    let node = page.node();
    let found: Vec<_> = (0..node.count())
        .map(|i| {
            let r = node.leaf(i).unwrap();
            (node.key(i).unwrap(), (r.value.to_vec(), r.word.ghost(), r.allot))
        })
        .collect();
    let want: Vec<_> = model.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    assert_eq!(found, want);
    for (i, key) in model.keys().enumerate() {
        assert_eq!(node.search(key).unwrap(), Ok(i));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Every operation, against a map; redo gives the same page.
    #[test]
    fn leaf_agrees_with_a_map(fenced: bool, ops in prop::collection::vec(op(), 1..120)) {
        let fences = if fenced { shaped(b"pre", Some(b"prf")) } else { tree::encode_empty(TREE) };
        let mut page = init(4096, &fences);
        let mut model = Model::new();
        for (n, op) in ops.into_iter().enumerate() {
            let txn = n as u64 + 1;
            match op {
                Op::Put(key, len) => {
                    if !page.node().contains(&key) {
                        continue;
                    }
                    let value = vec![n as u8; len];
                    match page.node().search(&key).unwrap() {
                        Err(slot) => {
                            let suffix = key.len() - page.node().prefix().len();
                            if leaf_cost(suffix, len) <= page.node().free() {
                                let insert = leaf::encode_insert(slot, &key, inline(&value));
                                page.apply(txn, code::INSERT, &insert);
                                model.insert(key, (value, false, len));
                            }
                        }
                        Ok(slot) => {
                            let old = page.node().leaf(slot).unwrap();
                            let (word, former) = (old.word, old.value.to_vec());
                            if len.saturating_sub(old.allot) > page.node().free() {
                                continue;
                            }
                            let allot = len.max(old.allot);
                            page.apply(txn, code::UPDATE, &leaf::encode_update(slot, true, inline(&value)));
                            let written = Word::new(TxnId(txn), false, true).unwrap();
                            prop_assert_eq!(page.node().leaf(slot).unwrap().word, written);
                            if n % 3 == 0 {
                                // Rolled back: word and bytes as before; the allotment stays.
                                let restore = leaf::encode_restore(slot, word, Some(inline(&former)));
                                page.apply(txn, code::RESTORE, &restore);
                                prop_assert_eq!(page.node().leaf(slot).unwrap().word, word);
                                model.insert(key, (former, word.ghost(), allot));
                            } else {
                                model.insert(key, (value, false, allot));
                            }
                        }
                    }
                }
                Op::Ghost(key) => {
                    let Some(slot) = model.keys().position(|k| *k == key) else { continue };
                    let word = page.node().leaf(slot).unwrap().word;
                    if n % 5 == 0 {
                        page.apply(txn, code::LOCK, &written(|p| leaf::put_lock(p, slot, true)));
                        let locked = Word::new(TxnId(txn), word.ghost(), true).unwrap();
                        prop_assert_eq!(page.node().leaf(slot).unwrap().word, locked);
                        page.apply(txn, code::RESTORE, &leaf::encode_restore(slot, word, None));
                    }
                    if word.ghost() {
                        page.apply(txn, code::REMOVE, &leaf::encode_remove(slot));
                        model.remove(&key);
                        continue;
                    }
                    page.apply(txn, code::MARK_GHOST, &written(|p| leaf::put_mark_ghost(p, slot, false)));
                    if n % 4 == 0 {
                        page.apply(txn, code::RESTORE, &leaf::encode_restore(slot, word, None));
                    } else if let Some(row) = model.get_mut(&key) {
                        row.1 = true;
                    }
                }
                Op::Purge => {
                    let node = page.node();
                    let all = |f: &dyn Fn(&LeafRecord<'_>) -> bool| -> Vec<usize> {
                        (0..node.count()).filter(|i| f(&node.leaf(*i).unwrap())).collect()
                    };
                    let ghosts = all(&|r| r.word.ghost());
                    let trims = all(&|r| !r.word.ghost() && r.allot > r.value.len());
                    page.apply(0, code::PURGE, &leaf::encode_purge(&trims, &ghosts));
                    model.retain(|_, row| !row.1);
                    model.values_mut().for_each(|row| row.2 = row.0.len());
                }
                Op::Truncate(keep) => {
                    if keep >= model.len() || keep == 0 {
                        continue;
                    }
                    let upper = page.node().key(keep).unwrap();
                    page.apply(0, code::TRUNCATE, &tree::encode_truncate(keep, &upper));
                    model.retain(|k, _| *k < upper);
                }
            }
            agree(&page, &model);
        }
    }

    /// Cut anywhere and merged again, a node is what it was.
    #[test]
    fn cut_and_merged(
        rows in prop::collection::btree_map(keys(), 0usize..40, 2..60),
        at in 1usize..60,
        inner: bool,
    ) {
        let mut page = if inner {
            init(4096, &tree::encode_root(TREE, 1, PageId(9), b"pre\0\0\0\0\0\0\0", PageId(10)))
        } else {
            init(4096, &tree::encode_empty(TREE))
        };
        if inner {
            page.apply(0, code::REMOVE_CHILD, &tree::encode_remove_child(0));
        }
        for (slot, (key, len)) in rows.iter().enumerate() {
            if inner {
                let child = PageId(11 + *len as u64);
                page.apply(0, code::INSERT_CHILD, &tree::encode_insert_child(slot, key, child));
            } else {
                page.apply(5, code::INSERT, &leaf::encode_insert(slot, key, inline(&vec![1; *len])));
            }
        }
        let before: Sound<Vec<_>> = (0..page.node().count()).map(|i| page.node().key(i)).collect();
        let keep = at % (rows.len() - 1) + 1;
        let node = page.node();
        let separator = node.key(keep).unwrap();
        let (from, left) = if inner { (keep + 1, Some(node.child(keep + 1).unwrap())) } else { (keep, None) };
        let shape = tree::Shape { level: node.level(), lower: &separator, upper: None, left };
        let right = init(4096, &tree::encode_init(TREE, &shape, &node, from..node.count()).unwrap());
        right.node().check().unwrap();
        page.apply(0, code::TRUNCATE, &tree::encode_truncate(keep, &separator));
        prop_assert_eq!(page.node().count(), keep);
        let absorb = tree::encode_absorb(&page.node(), &right.node()).unwrap();
        page.apply(0, code::ABSORB, &absorb);
        let after: Sound<Vec<_>> = (0..page.node().count()).map(|i| page.node().key(i)).collect();
        prop_assert_eq!(before, after);
    }

    /// Arbitrary payloads: an error or a change, never a panic.
    #[test]
    fn hostile_payloads(
        op in 0u8..16,
        payload in prop::collection::vec(any::<u8>(), 0..80),
        small: bool,
        inner: bool,
    ) {
        let mut payload = payload;
        if small {
            payload.iter_mut().for_each(|b| *b %= 5);
        }
        let mut page = filled(inner);
        let _ = BtreeManager::default().apply(&at(3), op, &payload, &mut page);
        read_all(&page);
        BtreeManager::default().describe(op, &payload, &mut String::new()).unwrap();
        let _ = super::ops::undo::decode(TxnId(3), op, &payload, &payload);
        let _ = super::ops::undo::decode_run(&payload);
    }

    /// Damaged pages: an error, or some answer, never a panic; neither from reading nor from applying.
    #[test]
    fn hostile_pages(
        flips in prop::collection::vec((0usize..4096, any::<u8>()), 1..12),
        header: bool,
        op in 1u8..16,
        slot in 0usize..40,
        inner: bool,
    ) {
        let mut page = filled(inner);
        for (at, byte) in flips {
            page[if header { HEADER_LEN + at % 60 } else { at }] = byte;
        }
        read_all(&page);
        let payloads = [
            leaf::encode_insert(slot, b"key/00000001x", inline(b"value")),
            leaf::encode_update(slot, true, inline(&[9; 300])),
            leaf::encode_remove(slot),
            leaf::encode_purge(&[0, 1], &[slot.max(2)]),
            tree::encode_truncate(slot, b"key/00000002"),
            tree::encode_insert_child(slot, b"key/00000001x", PageId(5)),
            leaf::encode_restore(slot, Word(7), Some(inline(&[1; 20]))),
            written(|p| {
                let rows: [(&[u8], &[u8]); 2] = [(b"key/00000001x", b"value"), (b"key/00000001y", &[3; 90])];
                super::ops::run::put_insert_run(p, slot, b"", &rows).unwrap();
            }),
            super::ops::run::encode_remove_run(slot, 1 + slot % 3),
        ];
        for payload in payloads {
            let _ = BtreeManager::default().apply(&at(3), op, &payload, &mut page.clone());
        }
    }
}

fn filled(inner: bool) -> Vec<u8> {
    let mut page = if inner {
        init(4096, &tree::encode_root(TREE, 1, PageId(9), b"key/", PageId(10)))
    } else {
        init(4096, &tree::encode_empty(TREE))
    };
    for i in 0..30u64 {
        let key = format!("key/{i:08}");
        if inner {
            let slot = i as usize + 1;
            page.apply(
                0,
                code::INSERT_CHILD,
                &tree::encode_insert_child(slot, key.as_bytes(), PageId(20 + i)),
            );
        } else {
            let insert = leaf::encode_insert(i as usize, key.as_bytes(), inline(&vec![i as u8; i as usize]));
            page.apply(i + 1, code::INSERT, &insert);
        }
    }
    page.bytes
}

fn read_all(page: &[u8]) {
    let Ok(node) = Node::open(page) else { return };
    let _ = node.check();
    let _ = (node.free(), node.used(), node.gap(), node.contains(b"key/00000005"), node.run());
    let _ = node.search(b"key/00000005");
    let _ = (node.child_of(b"key/00000005"), node.child_below(b"key/00000005"));
    for i in 0..node.count().min(600) + 1 {
        let _ = (node.key(i), node.leaf(i).map(|r| r.value.len()), node.child(i));
    }
    let _ = super::split::choose(&node, b"key/00000005", page.len());
    let _ = BtreeManager::default().hole(page);
}

#[test]
fn the_greatest_records_fit_every_page_size() {
    let mut size = hamal_page::MIN_PAGE_SIZE;
    while size <= hamal_page::MAX_PAGE_SIZE {
        let key = |first: u8| vec![first; max_key(size)];
        // Two fences of the greatest length with nothing in common, one record of the greatest length
        // between them.
        let (lower, upper) = (key(1), key(200));
        let mut page = init(size, &shaped(&lower, Some(&upper)));
        let value = vec![7; max_inline(size)];
        page.apply(1, code::INSERT, &leaf::encode_insert(0, &key(100), inline(&value)));
        // An inner node between them takes three separators.
        let empty = init(size, &tree::encode_root(TREE, 1, PageId(3), &key(50), PageId(4)));
        let shape = tree::Shape { level: 1, lower: &lower, upper: Some(&upper), left: Some(PageId(3)) };
        let mut inner = init(size, &tree::encode_init(TREE, &shape, &empty.node(), 0..1).unwrap());
        for (slot, k) in [(1, 60), (2, 70)] {
            inner.apply(1, code::INSERT_CHILD, &tree::encode_insert_child(slot, &key(k), PageId(5)));
        }
        assert_eq!(inner.node().count(), 3);
        size *= 2;
    }
}

/// However a leaf is filled, it can be cut for any further record, and both halves fit.
#[test]
fn every_full_leaf_can_be_cut() {
    let mut x = 1u64;
    let mut random = move |n: usize| {
        x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (x >> 33) as usize % n
    };
    for round in 0..400 {
        let size = 4096 << (round % 2);
        let mut page = init(
            size,
            &if round % 3 == 0 {
                shaped(&vec![1; max_key(size)], Some(&vec![250; max_key(size)]))
            } else {
                tree::encode_empty(TREE)
            },
        );
        loop {
            let mut key = vec![2 + random(240) as u8; 1 + random(max_key(size))];
            key.push(random(255) as u8);
            key.truncate(max_key(size));
            let value = vec![0; if random(3) == 0 { max_inline(size) } else { random(60) }];
            let slot = match page.node().search(&key).unwrap() {
                Ok(_) => continue,
                Err(slot) => slot,
            };
            let suffix = key.len() - page.node().prefix().len();
            if leaf_cost(suffix, value.len()) > page.node().free() {
                if page.node().count() > 0 {
                    super::split::choose(&page.node(), &key, size).unwrap();
                }
                break;
            }
            page.apply(1, code::INSERT, &leaf::encode_insert(slot, &key, inline(&value)));
        }
    }
}

#[test]
fn kinds_are_what_the_format_says() {
    assert_eq!((KIND_LEAF, KIND_INNER), (1, 2));
    let mut s = String::new();
    let insert = leaf::encode_insert(3, b"abc", inline(&[0; 12]));
    BtreeManager::default().describe(code::INSERT, &insert, &mut s).unwrap();
    assert_eq!(s, "insert slot=3 key=\"abc\" value=12 B");
    s.clear();
    let init = tree::encode_empty(TREE);
    for payload in [&init[..], &init[6..]] {
        BtreeManager::default().describe(code::INIT, payload, &mut s).unwrap();
    }
    assert_eq!(s, "init leaf, 0 entries, from \"\" to inf".repeat(2));
}

proptest! {
    /// BTREE-3: what two fences have in common, every key between them begins with.
    #[test]
    fn keys_between_fences_begin_with_their_prefix(
        stem in prop::collection::vec(any::<u8>(), 0..6),
        tails in prop::collection::vec(prop::collection::vec(prop_oneof![Just(0u8), Just(255), any::<u8>()], 0..5), 3),
        key in prop::collection::vec(prop_oneof![Just(0u8), Just(255), any::<u8>()], 0..8),
    ) {
        let mut keys: Vec<Vec<u8>> = tails.iter().map(|t| [&stem[..], t].concat()).collect();
        keys.push(key);
        keys.sort();
        keys.dedup();
        for (i, lower) in keys.iter().enumerate() {
            for (j, upper) in keys.iter().enumerate().skip(i + 1) {
                let prefix = &lower[..common_prefix(lower, Some(upper))];
                prop_assert!(keys[i..=j].iter().all(|k| k.starts_with(prefix)));
            }
            prop_assert_eq!(common_prefix(lower, None), 0);
        }
    }
}
