//! Changing the bytes of a node: what the operations in `ops/` are made of. Each function depends on the
//! page and its arguments alone, so the space in a page after any sequence of operations is the same at
//! redo as it was at first (BTREE-1); compaction, too, is a function of the page.
use super::codec::{Broken, Sound};
use super::node::{
    FLAG_CHAIN, INNER_FIXED, LEAF_FIXED, LeafRecord, Node, SLOT, SLOTS, Slot, UNBOUNDED, Word, at,
    common_prefix, max_key, rest_of, u16_at, u32_at,
};
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::{PageId, header};

/// Page kind of a leaf.
pub(crate) const KIND_LEAF: u8 = 1;
/// Page kind of an inner node.
pub(crate) const KIND_INNER: u8 = 2;

const NO_ROOM: Broken = Broken("the node has no room for the record");

/// What stands in a slot.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Body<'a> {
    Leaf(LeafRecord<'a>),
    Inner(PageId),
}

pub(crate) fn set_u16(page: &mut [u8], at: usize, v: usize) -> Sound<()> {
    let v = u16::try_from(v).map_err(|_| Broken("a number does not fit its field"))?;
    put(page, at, &v.to_le_bytes())
}
fn set_u32(page: &mut [u8], at: usize, v: usize) -> Sound<()> {
    put(page, at, &(v as u32).to_le_bytes())
}
/// Overwrites bytes of the page.
pub(crate) fn put(page: &mut [u8], at: usize, bytes: &[u8]) -> Sound<()> {
    page.get_mut(at..at + bytes.len()).ok_or(Broken("a write beyond the page's end"))?.copy_from_slice(bytes);
    Ok(())
}

fn slot_at(i: usize) -> usize {
    SLOTS + SLOT * i
}

/// Takes `len` bytes off the heap's low end.
fn take(page: &mut [u8], len: usize) -> Sound<usize> {
    let (low, live) = (u32_at(page, at::LOW), u32_at(page, at::LIVE));
    let slots_end = slot_at(u16_at(page, at::COUNT));
    let new = low.checked_sub(len).filter(|n| *n >= slots_end && low <= page.len()).ok_or(NO_ROOM)?;
    set_u32(page, at::LOW, new)?;
    set_u32(page, at::LIVE, live + len)?;
    Ok(new)
}

/// Says that `len` heap bytes are dead.
fn give(page: &mut [u8], len: usize) -> Sound<()> {
    let live = u32_at(page, at::LIVE).checked_sub(len).ok_or(Broken("the count of live bytes is wrong"))?;
    set_u32(page, at::LIVE, live)
}

/// Makes the body of `page` an empty node. An inner node needs its first child as well.
pub(crate) fn begin(
    page: &mut [u8],
    level: u8,
    lower: &[u8],
    upper: Option<&[u8]>,
    left: Option<PageId>,
) -> Sound<()> {
    let max = max_key(page.len());
    if page.len() < SLOTS || lower.len() > max || upper.is_some_and(|u| u.len() > max || u <= lower) {
        return Err(Broken("fences that no node can have"));
    }
    if (level == 0) != left.is_none() || left == Some(PageId(0)) {
        return Err(Broken("a leaf with a child, or an inner node without one"));
    }
    page[hamal_page::HEADER_LEN..].fill(0);
    header::set_kind(page, if level == 0 { KIND_LEAF } else { KIND_INNER });
    page[at::LEVEL] = level;
    page[at::FLAGS] = if upper.is_none() { UNBOUNDED } else { 0 };
    set_u32(page, at::LOW, page.len())?;
    set_u16(page, at::PREFIX, common_prefix(lower, upper))?;
    put(page, at::LEFT, &left.unwrap_or_default().0.to_le_bytes())?;
    for (field, fence) in [(at::LOWER, lower), (at::UPPER, upper.unwrap_or_default())] {
        if !fence.is_empty() {
            let offset = take(page, fence.len())?;
            put(page, offset, fence)?;
            set_u16(page, field, offset)?;
            set_u16(page, field + 2, fence.len())?;
        }
    }
    Ok(())
}

/// Rewrites the heap without its dead bytes: fences, then records in slot order.
fn compact(page: &mut [u8]) -> Sound<()> {
    let old = page.to_vec();
    let node = Node::open(&old)?;
    set_u32(page, at::LOW, page.len())?;
    set_u32(page, at::LIVE, 0)?;
    for (field, fence) in [(at::LOWER, node.lower()), (at::UPPER, node.upper().unwrap_or_default())] {
        if !fence.is_empty() {
            let offset = take(page, fence.len())?;
            put(page, offset, fence)?;
            set_u16(page, field, offset)?;
        }
    }
    for i in 0..node.count() {
        let slot = node.slot(i)?;
        let record = node.record(slot)?;
        let offset = take(page, record.len())?;
        put(page, offset, record)?;
        let moved = Slot(slot.0 & !(0xffff << 16) | (offset as u64) << 16);
        put(page, slot_at(i), &moved.0.to_le_bytes())?;
    }
    Ok(())
}

/// Makes a slot `i` for a key without the node's prefix. The caller knows that it belongs there.
pub(crate) fn insert(page: &mut [u8], i: usize, suffix: &[u8], body: &Body<'_>) -> Sound<()> {
    let node = Node::open(page)?;
    let count = node.count();
    if i > count || suffix.len() + node.prefix().len() > max_key(page.len()) {
        return Err(Broken("a slot beyond the node's end, or a key too long"));
    }
    let rest = rest_of(suffix);
    let (len, flags) = match body {
        Body::Leaf(r) => (LEAF_FIXED + rest.len() + r.allot, if r.chain { FLAG_CHAIN } else { 0 }),
        Body::Inner(_) => (INNER_FIXED + rest.len(), 0),
    };
    if matches!(body, Body::Leaf(_)) != node.is_leaf() {
        return Err(Broken("a record of a leaf in an inner node, or the other way round"));
    }
    if len + SLOT > node.free() {
        return Err(NO_ROOM);
    }
    if len + SLOT > node.gap().len() {
        compact(page)?;
    }
    // Room for the slot first, so that the heap cannot grow into it.
    set_u16(page, at::COUNT, count + 1)?;
    let offset = take(page, len)?;
    page.copy_within(slot_at(i)..slot_at(count), slot_at(i + 1));
    put(page, slot_at(i), &Slot::new(suffix, offset, flags).0.to_le_bytes())?;
    match body {
        Body::Leaf(r) => {
            if r.value.len() > r.allot {
                return Err(Broken("a value is longer than its allotment"));
            }
            put(page, offset, &r.word.0.to_le_bytes())?;
            set_u16(page, offset + 8, r.value.len())?;
            set_u16(page, offset + 10, r.allot)?;
            put(page, offset + LEAF_FIXED, rest)?;
            let value = offset + LEAF_FIXED + rest.len();
            put(page, value, r.value)?;
            page.get_mut(value + r.value.len()..value + r.allot).ok_or(NO_ROOM)?.fill(0);
        }
        Body::Inner(child) => {
            put(page, offset, &child.0.to_le_bytes())?;
            put(page, offset + INNER_FIXED, rest)?;
        }
    }
    Ok(())
}

/// Takes slot `i` and its record away.
pub(crate) fn remove(page: &mut [u8], i: usize) -> Sound<()> {
    let node = Node::open(page)?;
    let (count, len) = (node.count(), node.record(node.slot(i)?)?.len());
    page.copy_within(slot_at(i + 1)..slot_at(count), slot_at(i));
    put(page, slot_at(count - 1), &[0; SLOT])?;
    set_u16(page, at::COUNT, count - 1)?;
    give(page, len)
}

/// Sets the word of slot `i` of a leaf.
pub(crate) fn set_word(page: &mut [u8], i: usize, word: Word) -> Sound<()> {
    let node = Node::open(page)?;
    node.leaf(i)?;
    let offset = node.offset(i)?;
    put(page, offset, &word.0.to_le_bytes())
}

/// Replaces word and value of slot `i`; the allotment grows if the value needs it, and never shrinks (T9).
pub(crate) fn set_value(page: &mut [u8], i: usize, word: Word, chain: bool, value: &[u8]) -> Sound<()> {
    let node = Node::open(page)?;
    let (allot, slot) = (node.leaf(i)?.allot, node.slot(i)?);
    if value.len() > allot {
        // Laid out anew, with room for the new value: as if it were another record.
        let mut suffix = Vec::with_capacity(slot.len());
        node.push_suffix(i, &mut suffix)?;
        remove(page, i)?;
        return insert(page, i, &suffix, &Body::Leaf(LeafRecord { word, chain, allot: value.len(), value }));
    }
    let offset = node.offset(i)?;
    let at = offset + LEAF_FIXED + slot.rest_len();
    let flags = if chain { FLAG_CHAIN } else { 0 };
    put(page, slot_at(i), &(slot.0 & !3 | u64::from(flags)).to_le_bytes())?;
    put(page, offset, &word.0.to_le_bytes())?;
    set_u16(page, offset + 8, value.len())?;
    put(page, at, value)?;
    page.get_mut(at + value.len()..at + allot).ok_or(NO_ROOM)?.fill(0);
    if mutants::is(Mutant::ShrinkingAllotment) { trim(page, i) } else { Ok(()) }
}

/// Cuts the allotment of slot `i` to the length of its value.
pub(crate) fn trim(page: &mut [u8], i: usize) -> Sound<()> {
    let node = Node::open(page)?;
    let (record, offset) = (node.leaf(i)?, node.offset(i)?);
    let slack = record.allot - record.value.len();
    set_u16(page, offset + 10, record.value.len())?;
    give(page, slack)
}

/// Notes an insert into slot `i`: whether it goes on where the last one ended (a hint for splits).
pub(crate) fn note_insert(page: &mut [u8], i: usize) -> Sound<()> {
    let node = Node::open(page)?;
    let (last, run) = node.run();
    let run = if i == last { (run + 1).min(usize::from(u16::MAX)) } else { 0 };
    set_u16(page, at::LAST, i + 1)?;
    set_u16(page, at::RUN, run)
}

/// Appends the slots `range` of `from` to the node in `page`.
pub(crate) fn append(page: &mut [u8], from: &Node<'_>, range: std::ops::Range<usize>) -> Sound<()> {
    let mut key = Vec::new();
    for i in range {
        key.clear();
        key.extend_from_slice(from.prefix());
        from.push_suffix(i, &mut key)?;
        let body = if from.is_leaf() { Body::Leaf(from.leaf(i)?) } else { Body::Inner(from.child(i + 1)?) };
        append_key(page, &key, &body)?;
    }
    Ok(())
}

/// Appends a slot behind the last one; its key must be above all others and within the fences.
pub(crate) fn append_key(page: &mut [u8], key: &[u8], body: &Body<'_>) -> Sound<()> {
    let node = Node::open(page)?;
    if !node.contains(key) {
        return Err(Broken("a key lies outside the fences"));
    }
    let (suffix, count) = (node.suffix_of(key)?, node.count());
    if count > 0 && node.compare_suffix(count - 1, suffix)?.is_ge() {
        return Err(Broken("keys are not in order"));
    }
    insert(page, count, suffix, body)
}
