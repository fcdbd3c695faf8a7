//! Operations on the structure of a tree. All are redo-only; each record that holds one is complete in
//! itself.
use super::super::codec::{Broken, Reader, Sound, put_bytes, put_varint};
use super::super::edit::{self, Body, Filler};
use super::super::node::{LeafRecord, Node, Word, at, u64_at};
use super::show;
use crate::BTREE_RM;
use crate::core::edit::{KIND_INNER, KIND_LEAF};
use hamal_page::{PageId, TreeId};

/// Flag of the fences: no upper one.
const UNBOUNDED: u8 = 1;
/// Flag of an entry: the value is a chain reference.
const CHAINED: u8 = 1;

// ---- entries: the records of a node, in a payload ----

/// Appends the slots `range` of `node`, keys without the first `skip` bytes: length and rest of the key;
/// leaf: word, flags, allotment, value with length; inner: child.
fn put_entries(out: &mut Vec<u8>, node: &Node<'_>, range: std::ops::Range<usize>, skip: usize) -> Sound<()> {
    let mut key = Vec::new();
    for i in range {
        key.clear();
        key.extend_from_slice(node.prefix());
        node.push_suffix(i, &mut key)?;
        put_bytes(out, key.get(skip..).ok_or(Broken("a key is shorter than the prefix"))?);
        if node.is_leaf() {
            let r = node.leaf(i)?;
            out.extend_from_slice(&r.word.0.to_le_bytes());
            out.push(if r.chain { CHAINED } else { 0 });
            put_varint(out, r.allot as u64);
            put_bytes(out, r.value);
        } else {
            put_varint(out, node.child(i + 1)?.0);
        }
    }
    Ok(())
}

fn get_entry<'a>(r: &mut Reader<'a>, level: u8) -> Sound<(&'a [u8], Body<'a>)> {
    let key = r.bytes()?;
    if level > 0 {
        return match r.varint()? {
            0 => Err(Broken("a child is page 0")),
            id => Ok((key, Body::Inner(PageId(id)))),
        };
    }
    let (word, flags, allot, value) = (Word(r.u64()?), r.u8()?, r.small()?, r.bytes()?);
    if flags & !CHAINED != 0 || value.len() > allot {
        return Err(Broken("a record that no leaf can hold"));
    }
    Ok((key, Body::Leaf(LeafRecord { word, chain: flags != 0, allot, value })))
}

/// Appends all entries to the node that is filled; their keys lack its prefix.
fn append_entries(r: &mut Reader<'_>, to: &mut Filler<'_>, level: u8) -> Sound<()> {
    for _ in 0..r.small()? {
        let (rest, body) = get_entry(r, level)?;
        to.push(rest, &body)?;
    }
    r.end()
}

// ---- INIT: level, flags, lower, upper (with lengths), first child if inner, number of entries, entries ----

/// What an initialised node holds beside entries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape<'a> {
    pub(crate) level: u8,
    pub(crate) lower: &'a [u8],
    pub(crate) upper: Option<&'a [u8]>,
    /// First child of an inner node.
    pub(crate) left: Option<PageId>,
}

fn encode_shape(tree: TreeId, shape: &Shape<'_>) -> Vec<u8> {
    let mut p = vec![BTREE_RM.0, if shape.level == 0 { KIND_LEAF } else { KIND_INNER }];
    p.extend_from_slice(&tree.0.to_le_bytes());
    p.push(shape.level);
    p.push(if shape.upper.is_none() { UNBOUNDED } else { 0 });
    put_bytes(&mut p, shape.lower);
    put_bytes(&mut p, shape.upper.unwrap_or_default());
    if let Some(left) = shape.left {
        put_varint(&mut p, left.0);
    }
    p
}

/// Payload of an initialisation, the pool's six bytes in front: the slots `range` of `node` under new fences.
pub(crate) fn encode_init(
    tree: TreeId,
    shape: &Shape<'_>,
    node: &Node<'_>,
    range: std::ops::Range<usize>,
) -> Sound<Vec<u8>> {
    let mut p = encode_shape(tree, shape);
    put_varint(&mut p, range.len() as u64);
    let skip = super::super::node::common_prefix(shape.lower, shape.upper);
    put_entries(&mut p, node, range, skip)?;
    Ok(p)
}

/// The same for an empty leaf over all keys.
pub(crate) fn encode_empty(tree: TreeId) -> Vec<u8> {
    let mut p = encode_shape(tree, &Shape { level: 0, lower: &[], upper: None, left: None });
    put_varint(&mut p, 0);
    p
}

/// The same for a root over two children.
pub(crate) fn encode_root(tree: TreeId, level: u8, left: PageId, separator: &[u8], right: PageId) -> Vec<u8> {
    let mut p = encode_shape(tree, &Shape { level, lower: &[], upper: None, left: Some(left) });
    put_varint(&mut p, 1);
    put_bytes(&mut p, separator);
    put_varint(&mut p, right.0);
    p
}

fn get_shape<'a>(r: &mut Reader<'a>) -> Sound<Shape<'a>> {
    let (level, flags, lower, upper) = (r.u8()?, r.u8()?, r.bytes()?, r.bytes()?);
    if flags & !UNBOUNDED != 0 || (flags != 0 && !upper.is_empty()) {
        return Err(Broken("an upper fence of a node that has none"));
    }
    let left = if level > 0 { Some(PageId(r.varint()?)) } else { None };
    Ok(Shape { level, lower, upper: (flags == 0).then_some(upper), left })
}

pub(crate) fn init(payload: &[u8], page: &mut [u8]) -> Sound<()> {
    let mut r = Reader(payload);
    let shape = get_shape(&mut r)?;
    edit::begin(page, shape.level, shape.lower, shape.upper, shape.left)?;
    let mut filler = Filler::new(page)?;
    append_entries(&mut r, &mut filler, shape.level)?;
    filler.finish()
}

pub(crate) fn describe_init(payload: &[u8]) -> Sound<String> {
    // With or without the pool's six bytes, which no shape begins with: a level of 2 with flags above 1.
    let kind = |k: &u8| *k == KIND_LEAF || *k == KIND_INNER;
    let body = match payload {
        [rm, k, _, _, _, _, body @ ..]
            if *rm == BTREE_RM.0 && kind(k) && get_shape(&mut Reader(body)).is_ok() =>
        {
            body
        }
        _ => payload,
    };
    let mut r = Reader(body);
    let shape = get_shape(&mut r)?;
    let n = r.small()?;
    let what =
        if shape.level == 0 { "leaf".to_owned() } else { format!("inner node, level {}", shape.level) };
    let upper = shape.upper.map_or("inf".to_owned(), show);
    Ok(format!("init {what}, {n} entries, from {} to {upper}", show(shape.lower)))
}

// ---- TRUNCATE: number of slots that stay, new upper fence ----

pub(crate) fn encode_truncate(keep: usize, upper: &[u8]) -> Vec<u8> {
    let mut p = Vec::with_capacity(4 + upper.len());
    put_varint(&mut p, keep as u64);
    p.extend_from_slice(upper);
    p
}

pub(crate) fn truncate(payload: &[u8], page: &mut [u8]) -> Sound<()> {
    let mut r = Reader(payload);
    let (keep, upper) = (r.small()?, r.rest());
    let old = page.to_vec();
    let node = Node::open(&old)?;
    if keep > node.count() || node.upper().is_some_and(|u| upper > u) {
        return Err(Broken("a split that does not fit the node"));
    }
    edit::begin(page, node.level(), node.lower(), Some(upper), first_child(&node, &old))?;
    let mut filler = Filler::new(page)?;
    filler.append(&node, 0..keep)?;
    filler.finish()
}

pub(crate) fn describe_truncate(payload: &[u8]) -> Sound<String> {
    let mut r = Reader(payload);
    let keep = r.small()?;
    Ok(format!("split: keep {keep} slots, upper fence {}", show(r.rest())))
}

fn first_child(node: &Node<'_>, page: &[u8]) -> Option<PageId> {
    (!node.is_leaf()).then(|| PageId(u64_at(page, at::LEFT)))
}

// ---- ABSORB: fences as in INIT (the new ones), number of entries, entries; an inner node's begin with
// the old separator ----

/// Payload of the left half of a merge: `left` gets all of `right`.
pub(crate) fn encode_absorb(left: &Node<'_>, right: &Node<'_>) -> Sound<Vec<u8>> {
    let mut p = Vec::new();
    p.push(if right.upper().is_none() { UNBOUNDED } else { 0 });
    put_bytes(&mut p, right.upper().unwrap_or_default());
    let skip = super::super::node::common_prefix(left.lower(), right.upper());
    let separator = usize::from(!right.is_leaf());
    put_varint(&mut p, (right.count() + separator) as u64);
    if !right.is_leaf() {
        put_bytes(&mut p, right.lower().get(skip..).ok_or(Broken("a fence is shorter than the prefix"))?);
        put_varint(&mut p, right.child(0)?.0);
    }
    put_entries(&mut p, right, 0..right.count(), skip)?;
    Ok(p)
}

pub(crate) fn absorb(payload: &[u8], page: &mut [u8]) -> Sound<()> {
    let mut r = Reader(payload);
    let (flags, upper) = (r.u8()?, r.bytes()?);
    if flags & !UNBOUNDED != 0 {
        return Err(Broken("unknown flags"));
    }
    let upper = (flags == 0).then_some(upper);
    let old = page.to_vec();
    let node = Node::open(&old)?;
    if node.upper().is_none() {
        return Err(Broken("a node without upper fence has nothing right of it"));
    }
    edit::begin(page, node.level(), node.lower(), upper, first_child(&node, &old))?;
    let mut filler = Filler::new(page)?;
    filler.append(&node, 0..node.count())?;
    append_entries(&mut r, &mut filler, node.level())?;
    filler.finish()
}

pub(crate) fn describe_absorb(payload: &[u8]) -> Sound<String> {
    let mut r = Reader(payload);
    let (flags, upper) = (r.u8()?, r.bytes()?);
    let upper = if flags == 0 { show(upper) } else { "inf".to_owned() };
    Ok(format!("merge: take over {} entries, upper fence {upper}", r.small()?))
}

// ---- INSERT_CHILD: slot, child, separator ----

pub(crate) fn encode_insert_child(slot: usize, separator: &[u8], child: PageId) -> Vec<u8> {
    let mut p = Vec::with_capacity(14 + separator.len());
    put_varint(&mut p, slot as u64);
    put_varint(&mut p, child.0);
    p.extend_from_slice(separator);
    p
}

pub(crate) fn insert_child(payload: &[u8], page: &mut [u8]) -> Sound<()> {
    let mut r = Reader(payload);
    let (slot, child, key) = (r.small()?, PageId(r.varint()?), r.rest());
    let node = inner_node(page)?;
    if child == PageId(0) || !node.contains(key) || key == node.lower() {
        return Err(Broken("a separator outside the fences, or child page 0"));
    }
    let suffix = node.suffix_of(key)?;
    let after = slot == 0 || node.compare_suffix(slot - 1, suffix)?.is_lt();
    let before = slot >= node.count() || node.compare_suffix(slot, suffix)?.is_gt();
    if !after || !before {
        return Err(Broken("the separator does not belong into that slot"));
    }
    let (run, layout) = (node.run_after(slot), node.layout());
    edit::insert_into(page, layout, slot, suffix, &Body::Inner(child))?;
    edit::set_run(page, slot + 1, run)
}

pub(crate) fn describe_insert_child(payload: &[u8]) -> Sound<String> {
    let mut r = Reader(payload);
    let (slot, child) = (r.small()?, r.varint()?);
    Ok(format!("insert child slot={slot} separator={} page={child}", show(r.rest())))
}

// ---- REMOVE_CHILD: slot ----

pub(crate) fn encode_remove_child(slot: usize) -> Vec<u8> {
    super::leaf::encode_remove(slot)
}

pub(crate) fn remove_child(payload: &[u8], page: &mut [u8]) -> Sound<()> {
    let mut r = Reader(payload);
    let slot = r.small()?;
    r.end()?;
    inner_node(page)?.slot(slot)?;
    edit::remove(page, slot)
}

pub(crate) fn describe_remove_child(payload: &[u8]) -> Sound<String> {
    Ok(format!("remove child slot={}", Reader(payload).small()?))
}

// ---- MOVE_CHILD: number of the child (0: the one left of all separators), its new page ----

pub(crate) fn encode_move_child(child: usize, to: PageId) -> Vec<u8> {
    let mut p = Vec::with_capacity(14);
    put_varint(&mut p, child as u64);
    put_varint(&mut p, to.0);
    p
}

pub(crate) fn move_child(payload: &[u8], page: &mut [u8]) -> Sound<()> {
    let mut r = Reader(payload);
    let (child, to) = (r.small()?, PageId(r.varint()?));
    r.end()?;
    if to == PageId(0) {
        return Err(Broken("child page 0"));
    }
    inner_node(page)?.child(child)?;
    edit::set_child(page, child, to)
}

pub(crate) fn describe_move_child(payload: &[u8]) -> Sound<String> {
    let mut r = Reader(payload);
    Ok(format!("child {} moves to page {}", r.small()?, r.varint()?))
}

fn inner_node(page: &[u8]) -> Sound<Node<'_>> {
    let node = Node::open(page)?;
    if node.is_leaf() { Err(Broken("an inner node was expected")) } else { Ok(node) }
}
