//! Changing the bytes of a node: what the operations in `ops/` are made of. Each function depends on the
//! page and its arguments alone, so the space in a page after any sequence of operations is the same at
//! redo as it was at first (BTREE-1); compaction, too, is a function of the page.
use super::codec::{Broken, Sound};
use super::node::{
    FLAG_CHAIN, HEAD, INNER_FIXED, LEAF_FIXED, Layout, LeafRecord, Node, SLOT, SLOTS, Slot, UNBOUNDED, Word,
    at, common_prefix, max_key, rest_of, u16_at, u32_at,
};
use super::ops::run::RunRow;
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::{PageId, header};

/// Page kind of a leaf.
pub(crate) const KIND_LEAF: u8 = 1;
/// Page kind of an inner node.
pub(crate) const KIND_INNER: u8 = 2;

const NO_ROOM: Broken = Broken("the node has no room for the record");
const WRONG_LEVEL: Broken = Broken("a record of a leaf in an inner node, or the other way round");

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
    // The rest means nothing until it is written (BTREE-1).
    page[hamal_page::HEADER_LEN..SLOTS].fill(0);
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

/// Heap bytes of a record.
fn record_len(rest: &[u8], body: &Body<'_>) -> usize {
    match body {
        Body::Leaf(r) => LEAF_FIXED + rest.len() + r.allot,
        Body::Inner(_) => INNER_FIXED + rest.len(),
    }
}

/// Writes slot `i` and its record, which lies at `offset`.
fn write_record(page: &mut [u8], i: usize, offset: usize, suffix: &[u8], body: &Body<'_>) -> Sound<()> {
    let rest = rest_of(suffix);
    let to = page.get_mut(offset..offset + record_len(rest, body)).ok_or(NO_ROOM)?;
    let flags = match body {
        Body::Leaf(r) => {
            let (len, allot) = (u16::try_from(r.value.len()), u16::try_from(r.allot));
            let (Ok(len), Ok(allot)) = (len, allot) else {
                return Err(Broken("a number does not fit its field"));
            };
            if len > allot {
                return Err(Broken("a value is longer than its allotment"));
            }
            to[..8].copy_from_slice(&r.word.0.to_le_bytes());
            to[8..10].copy_from_slice(&len.to_le_bytes());
            to[10..12].copy_from_slice(&allot.to_le_bytes());
            let (key, value) = to[LEAF_FIXED..].split_at_mut(rest.len());
            key.copy_from_slice(rest);
            value[..r.value.len()].copy_from_slice(r.value);
            value[r.value.len()..].fill(0);
            if r.chain { FLAG_CHAIN } else { 0 }
        }
        Body::Inner(child) => {
            to[..8].copy_from_slice(&child.0.to_le_bytes());
            to[INNER_FIXED..].copy_from_slice(rest);
            0
        }
    };
    put(page, slot_at(i), &Slot::new(suffix, offset, flags).0.to_le_bytes())
}

/// Makes a slot `i` for a key without the node's prefix. The caller knows that it belongs there.
pub(crate) fn insert(page: &mut [u8], i: usize, suffix: &[u8], body: &Body<'_>) -> Sound<()> {
    let layout = Node::open(page)?.layout();
    insert_into(page, layout, i, suffix, body)
}

/// The same in a node that the caller has opened.
pub(crate) fn insert_into(
    page: &mut [u8],
    mut layout: Layout,
    i: usize,
    suffix: &[u8],
    body: &Body<'_>,
) -> Sound<()> {
    if i > layout.count || suffix.len() + layout.prefix > max_key(page.len()) {
        return Err(Broken("a slot beyond the node's end, or a key too long"));
    }
    if matches!(body, Body::Leaf(_)) != (layout.level == 0) {
        return Err(WRONG_LEVEL);
    }
    let len = record_len(rest_of(suffix), body);
    if len + SLOT > layout.free(page.len()) {
        return Err(NO_ROOM);
    }
    if len + SLOT > layout.low - slot_at(layout.count) {
        compact(page)?;
        layout = Node::open(page)?.layout();
    }
    let Layout { count, low, live, .. } = layout;
    let offset = low.checked_sub(len).filter(|o| *o >= slot_at(count + 1)).ok_or(NO_ROOM)?;
    set_u16(page, at::COUNT, count + 1)?;
    set_u32(page, at::LOW, offset)?;
    set_u32(page, at::LIVE, live + len)?;
    page.copy_within(slot_at(i)..slot_at(count), slot_at(i + 1));
    write_record(page, i, offset, suffix, body)
}

/// Makes slots from `i` on for `n` rows without the leaf's prefix, inline and of one writer, whose records take `bytes` in all.
/// The caller knows that they belong there, in that order.
pub(crate) fn insert_many<'r>(
    page: &mut [u8],
    mut layout: Layout,
    i: usize,
    n: usize,
    bytes: usize,
    word: Word,
    rows: impl Iterator<Item = Sound<RunRow<'r>>>,
) -> Sound<()> {
    if i > layout.count || layout.level != 0 {
        return Err(WRONG_LEVEL);
    }
    let need = bytes.saturating_add(SLOT * n);
    if need > layout.free(page.len()) {
        return Err(NO_ROOM);
    }
    if need > layout.low - slot_at(layout.count) {
        compact(page)?;
        layout = Node::open(page)?.layout();
    }
    let Layout { count, low, live, .. } = layout;
    let end = low.checked_sub(bytes).filter(|o| *o >= slot_at(count + n)).ok_or(NO_ROOM)?;
    set_u16(page, at::COUNT, count + n)?;
    set_u32(page, at::LOW, end)?;
    set_u32(page, at::LIVE, live + bytes)?;
    page.copy_within(slot_at(i)..slot_at(count), slot_at(i + n));
    let (mut offset, mut done) = (low, 0);
    for row in rows {
        let RunRow { suffix, value, bytes } = row?;
        // Key and value lie side by side in the payload, and will in the record.
        let tail = bytes.get(suffix.len().min(HEAD)..).unwrap_or_default();
        let len = LEAF_FIXED + tail.len();
        offset = offset.checked_sub(len).filter(|o| *o >= end && done < n).ok_or(NO_ROOM)?;
        let (fixed, to) =
            page.get_mut(offset..offset + len).and_then(|to| to.split_first_chunk_mut()).ok_or(NO_ROOM)?;
        *fixed = leaf_head(word, value.len(), value.len())?;
        to.copy_from_slice(tail);
        put(page, slot_at(i + done), &Slot::new(suffix, offset, 0).0.to_le_bytes())?;
        done += 1;
    }
    if done == n && offset == end {
        Ok(())
    } else {
        Err(Broken("the rows of a run are not what was counted"))
    }
}

/// What a leaf record begins with.
fn leaf_head(word: Word, len: usize, allot: usize) -> Sound<[u8; LEAF_FIXED]> {
    let (Ok(len), Ok(allot)) = (u16::try_from(len), u16::try_from(allot)) else {
        return Err(Broken("a number does not fit its field"));
    };
    let mut head = [0; LEAF_FIXED];
    head[..8].copy_from_slice(&word.0.to_le_bytes());
    head[8..10].copy_from_slice(&len.to_le_bytes());
    head[10..].copy_from_slice(&allot.to_le_bytes());
    Ok(head)
}

/// Fills a node that was begun, slot behind slot.
pub(crate) struct Filler<'p> {
    page: &'p mut [u8],
    layout: Layout,
}

impl<'p> Filler<'p> {
    pub(crate) fn new(page: &'p mut [u8]) -> Sound<Filler<'p>> {
        let layout = Node::open(page)?.layout();
        Ok(Filler { page, layout })
    }

    /// Appends a slot for a key without the node's prefix, above all others.
    pub(crate) fn push(&mut self, suffix: &[u8], body: &Body<'_>) -> Sound<()> {
        let Layout { level, count, low, live, prefix } = self.layout;
        if matches!(body, Body::Leaf(_)) != (level == 0) {
            return Err(WRONG_LEVEL);
        }
        let len = record_len(rest_of(suffix), body);
        let offset = low.checked_sub(len).filter(|o| *o >= slot_at(count + 1)).ok_or(NO_ROOM)?;
        if suffix.len() + prefix > max_key(self.page.len()) {
            return Err(Broken("a key too long"));
        }
        write_record(self.page, count, offset, suffix, body)?;
        self.layout = Layout { level, count: count + 1, low: offset, live: live + len, prefix };
        Ok(())
    }

    /// Appends the slots `range` of another node.
    pub(crate) fn append(&mut self, from: &Node<'_>, range: std::ops::Range<usize>) -> Sound<()> {
        // One of the two prefixes begins with the other: what this node's has more must be in every key, what it has less
        // goes back to the keys.
        let own = Node::open(self.page)?.prefix().to_vec();
        let (more, less) = match own.strip_prefix(from.prefix()) {
            Some(more) => (more, &[][..]),
            None => (&[][..], from.prefix().strip_prefix(&*own).ok_or(Broken("a prefix of another node"))?),
        };
        let mut key = Vec::new();
        for i in range {
            if less.is_empty() && self.append_record(from, i, more)? {
                continue;
            }
            key.clear();
            key.extend_from_slice(less);
            from.push_suffix(i, &mut key)?;
            let suffix = key.strip_prefix(more).ok_or(Broken("a key lies outside the fences"))?;
            let body =
                if from.is_leaf() { Body::Leaf(from.leaf(i)?) } else { Body::Inner(from.child(i + 1)?) };
            self.push(suffix, &body)?;
        }
        Ok(())
    }

    /// Appends slot `i` of another leaf, whose keys lose `more` in front, as its bytes lie there: behind the fixed part, what is left
    /// of the key and the value. `false` if the key is too short for that; then nothing is done.
    fn append_record(&mut self, from: &Node<'_>, i: usize, more: &[u8]) -> Sound<bool> {
        let Layout { level, count, low, live, prefix } = self.layout;
        if !from.is_leaf() || level != 0 {
            return Ok(false);
        }
        let slot = from.slot(i)?;
        let Some(left) = slot.len().checked_sub(more.len()).filter(|left| *left >= HEAD) else {
            return Ok(false);
        };
        let record = from.record(slot)?;
        let (fixed, tail) = record.split_first_chunk::<LEAF_FIXED>().ok_or(NO_ROOM)?;
        // The key was head and rest; its first bytes are `more`, the next four the new head.
        let head = slot.head().to_be_bytes();
        let rest = &tail[..slot.len() - HEAD];
        let (in_head, in_rest) = more.split_at(more.len().min(HEAD));
        if head[..in_head.len()] != *in_head || !rest.starts_with(in_rest) {
            return Err(Broken("a key lies outside the fences"));
        }
        let mut new = [0; HEAD];
        let kept = HEAD - in_head.len();
        new[..kept].copy_from_slice(&head[in_head.len()..]);
        new[kept..].copy_from_slice(&rest[in_rest.len()..in_rest.len() + HEAD - kept]);
        let tail = &tail[more.len()..];
        let len = LEAF_FIXED + tail.len();
        let offset = low.checked_sub(len).filter(|o| *o >= slot_at(count + 1)).ok_or(NO_ROOM)?;
        let to = self.page.get_mut(offset..offset + len).ok_or(NO_ROOM)?;
        to[..LEAF_FIXED].copy_from_slice(fixed);
        to[LEAF_FIXED..].copy_from_slice(tail);
        let moved = u64::from(u32::from_be_bytes(new)) << 32
            | (offset as u64 & 0xffff) << 16
            | (left as u64 & 0x3fff) << 2
            | u64::from(slot.flags());
        put(self.page, slot_at(count), &moved.to_le_bytes())?;
        self.layout = Layout { level, count: count + 1, low: offset, live: live + len, prefix };
        Ok(true)
    }

    /// Ends with the node's header, after a look at the order of the slots and at the fences.
    pub(crate) fn finish(self) -> Sound<()> {
        let Filler { page, layout: Layout { count, low, live, prefix, .. } } = self;
        set_u16(page, at::COUNT, count)?;
        set_u32(page, at::LOW, low)?;
        set_u32(page, at::LIVE, live)?;
        let node = Node::open(page)?;
        if count == 0 {
            return Ok(());
        }
        let mut before = node.slot(0)?;
        for i in 1..count {
            let slot = node.slot(i)?;
            if !node.in_order(before, slot)? {
                return Err(Broken("keys are not in order"));
            }
            before = slot;
        }
        let lower = node.lower().get(prefix..).unwrap_or_default();
        let above = node.compare_suffix(0, lower)?.is_ge();
        let below = match node.upper() {
            Some(upper) => node.compare_suffix(count - 1, upper.get(prefix..).unwrap_or_default())?.is_lt(),
            None => true,
        };
        if above && below { Ok(()) } else { Err(Broken("a key lies outside the fences")) }
    }
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

/// Takes `n` slots from `i` on and their records away.
pub(crate) fn remove_many(page: &mut [u8], i: usize, n: usize) -> Sound<()> {
    let node = Node::open(page)?;
    let count = node.count();
    let end = i.checked_add(n).filter(|end| n > 0 && *end <= count);
    let end = end.ok_or(Broken("slots to remove beyond the node's last"))?;
    let mut len = 0;
    for slot in i..end {
        len += node.record(node.slot(slot)?)?.len();
    }
    page.copy_within(slot_at(end)..slot_at(count), slot_at(i));
    page.get_mut(slot_at(count - n)..slot_at(count)).ok_or(NO_ROOM)?.fill(0);
    set_u16(page, at::COUNT, count - n)?;
    give(page, len)
}

/// Sets child `i` of an inner node: 0 is the one left of all separators.
pub(crate) fn set_child(page: &mut [u8], i: usize, child: PageId) -> Sound<()> {
    let node = Node::open(page)?;
    let at = match i.checked_sub(1) {
        None => at::LEFT,
        Some(slot) => node.offset(slot)?,
    };
    put(page, at, &child.0.to_le_bytes())
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

/// Sets the hints for splits: the slot behind the insert, and the length of the run that it ends.
pub(crate) fn set_run(page: &mut [u8], last: usize, run: usize) -> Sound<()> {
    set_u16(page, at::LAST, last)?;
    set_u16(page, at::RUN, run)
}
