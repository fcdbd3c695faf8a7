//! A node: the layout of a leaf or inner page, reading and searching it.
//!
//! Behind the common header (40 bytes) stand 40 bytes of node header, then the slots, eight bytes each,
//! growing upwards; records and fences fill the page from its end downwards. All integers are
//! little-endian.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 40 | 1 | level: 0 is a leaf |
//! | 41 | 1 | flags: bit 0: there is no upper fence (plus infinity) |
//! | 42 | 2 | number of slots |
//! | 44 | 4 | heap low: offset of the lowest heap byte; the page's size if the heap is empty |
//! | 48 | 4 | live: heap bytes in use |
//! | 52 | 2 | prefix length: bytes that all keys of the node share |
//! | 54 | 2+2 | lower fence: offset, length (length 0: minus infinity) |
//! | 58 | 2+2 | upper fence: offset, length |
//! | 62 | 2 | slot behind the one inserted last (hint for splits) |
//! | 64 | 2 | length of the run of ascending inserts that ended there (hint for splits) |
//! | 66 | 6 | zero |
//! | 72 | 8 | inner node: the child left of all separators |
//!
//! A slot, from the high bits: head (32 bits: the first four bytes of the key behind the prefix,
//! big-endian, padded with zeros), offset of the record (16), length of the key behind the prefix (14),
//! two flags (bit 0: the value is a chain of overflow pages). Slots are in key order, and comparing heads
//! decides nearly every comparison.
//!
//! A leaf record: word (8), length of the value (2), allotment (2), key beyond prefix and head, then as
//! many bytes as the allotment says, the value at their front. An inner record: child (8), key beyond
//! prefix and head.
//!
//! *Prefix.* The node covers `lower <= key < upper`; what lower and upper have in common every key between
//! them begins with (BTREE-3), so slots leave it out.
//!
//! Everything here takes a page that may be damaged: nothing panics, nothing reads out of bounds.
use super::codec::{Broken, Sound};
use hamal_page::{HEADER_LEN, PageId, TxnId};
use std::cmp::Ordering;
use std::ops::Range;

/// First byte of the slots.
pub(crate) const SLOTS: usize = HEADER_LEN + 40;
/// Bytes of a slot.
pub(crate) const SLOT: usize = 8;
/// Bytes of a leaf record before key and value.
pub(crate) const LEAF_FIXED: usize = 12;
/// Bytes of an inner record before the key.
pub(crate) const INNER_FIXED: usize = 8;
/// Bytes of the key that the slot holds.
pub(crate) const HEAD: usize = 4;
/// Bytes of an inline reference to an overflow chain.
pub(crate) const CHAIN: usize = 16;
/// Slot flag: the value is a chain of overflow pages.
pub(crate) const FLAG_CHAIN: u8 = 1;

pub(crate) mod at {
    pub(crate) const LEVEL: usize = 40;
    pub(crate) const FLAGS: usize = 41;
    pub(crate) const COUNT: usize = 42;
    pub(crate) const LOW: usize = 44;
    pub(crate) const LIVE: usize = 48;
    pub(crate) const PREFIX: usize = 52;
    pub(crate) const LOWER: usize = 54;
    pub(crate) const UPPER: usize = 58;
    pub(crate) const LAST: usize = 62;
    pub(crate) const RUN: usize = 64;
    pub(crate) const LEFT: usize = 72;
}

/// Flag of the node header: no upper fence.
pub(crate) const UNBOUNDED: u8 = 1;

/// The longest key of a page of that size (T30).
pub(crate) const fn max_key(page_size: usize) -> usize {
    page_size / 8
}
/// The longest inline value of a page of that size.
pub(crate) const fn max_inline(page_size: usize) -> usize {
    page_size / 4
}
/// Heap and slot bytes of a leaf record.
pub(crate) const fn leaf_cost(suffix: usize, allot: usize) -> usize {
    SLOT + LEAF_FIXED + suffix.saturating_sub(HEAD) + allot
}
/// Heap and slot bytes of an inner record.
pub(crate) const fn inner_cost(suffix: usize) -> usize {
    SLOT + INNER_FIXED + suffix.saturating_sub(HEAD)
}

// BTREE-4: for every page size, two fences and three longest separators fit an inner node, and two fences
// and one longest record fit a leaf, also after the cut that `split.rs` falls back on: (space + record) /
// 2 + fences.
const _: () = {
    let mut size = hamal_page::MIN_PAGE_SIZE;
    while size <= hamal_page::MAX_PAGE_SIZE {
        let space = size - SLOTS;
        let fences = 2 * max_key(size);
        assert!(3 * inner_cost(max_key(size)) + fences <= space);
        let record = leaf_cost(max_key(size), max_inline(size));
        assert!(record + fences <= space);
        assert!((space + record) / 2 + fences <= space);
        // A node that has no room for one more longest separator holds at least two: it can be split.
        assert!(space - fences - inner_cost(max_key(size)) > 2 * inner_cost(max_key(size)));
        size *= 2;
    }
};

pub(crate) fn u16_at(page: &[u8], at: usize) -> usize {
    match page.get(at..at + 2) {
        Some(&[a, b]) => usize::from(u16::from_le_bytes([a, b])),
        _ => 0,
    }
}
pub(crate) fn u32_at(page: &[u8], at: usize) -> usize {
    match page.get(at..at + 4) {
        Some(&[a, b, c, d]) => u32::from_le_bytes([a, b, c, d]) as usize,
        _ => 0,
    }
}
pub(crate) fn u64_at(page: &[u8], at: usize) -> u64 {
    match page.get(at..at + 8).map(<[u8; 8]>::try_from) {
        Some(Ok(b)) => u64::from_le_bytes(b),
        _ => 0,
    }
}

/// The word of a leaf record: who wrote it, and how it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word(pub(crate) u64);

const GHOST: u64 = 1 << 63;
const OLDER: u64 = 1 << 62;
const WRITER: u64 = (1 << 56) - 1;

impl Word {
    /// A word; `None` if the id does not fit 56 bits.
    pub(crate) fn new(writer: TxnId, ghost: bool, older: bool) -> Option<Word> {
        let flags = if ghost { GHOST } else { 0 } | if older { OLDER } else { 0 };
        (writer.0 <= WRITER).then_some(Word(writer.0 | flags))
    }
    pub(crate) fn writer(self) -> TxnId {
        TxnId(self.0 & WRITER)
    }
    /// The row is deleted; the record stays until nobody can need it.
    pub(crate) fn ghost(self) -> bool {
        self.0 & GHOST != 0
    }
    /// V: the writer pushed an older version when it wrote the record first. If clear, the row did not
    /// exist before.
    pub(crate) fn older(self) -> bool {
        self.0 & OLDER != 0
    }
}

/// A slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(pub(crate) u64);

impl Slot {
    pub(crate) fn new(suffix: &[u8], offset: usize, flags: u8) -> Slot {
        Slot(
            u64::from(head_of(suffix)) << 32
                | (offset as u64 & 0xffff) << 16
                | (suffix.len() as u64 & 0x3fff) << 2
                | u64::from(flags & 3),
        )
    }
    pub(crate) fn head(self) -> u32 {
        (self.0 >> 32) as u32
    }
    pub(crate) fn offset(self) -> usize {
        usize::from((self.0 >> 16) as u16)
    }
    /// Length of the key behind the prefix.
    pub(crate) fn len(self) -> usize {
        (self.0 >> 2 & 0x3fff) as usize
    }
    pub(crate) fn rest_len(self) -> usize {
        self.len().saturating_sub(HEAD)
    }
    pub(crate) fn flags(self) -> u8 {
        self.0 as u8 & 3
    }
    pub(crate) fn chain(self) -> bool {
        self.flags() & FLAG_CHAIN != 0
    }
}

fn head_of(suffix: &[u8]) -> u32 {
    match suffix.first_chunk::<HEAD>() {
        Some(b) => u32::from_be_bytes(*b),
        None => {
            let mut b = [0; HEAD];
            b[..suffix.len()].copy_from_slice(suffix);
            u32::from_be_bytes(b)
        }
    }
}

/// Bytes of a key behind head and prefix.
pub(crate) fn rest_of(suffix: &[u8]) -> &[u8] {
    suffix.get(HEAD..).unwrap_or_default()
}

/// A leaf record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeafRecord<'a> {
    pub(crate) word: Word,
    /// The value is a chain: 16 bytes that say where.
    pub(crate) chain: bool,
    pub(crate) allot: usize,
    pub(crate) value: &'a [u8],
}

/// A leaf record with its slot.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeafRow<'a> {
    pub(crate) slot: Slot,
    pub(crate) record: LeafRecord<'a>,
    /// The key beyond prefix and head, and right behind it the value.
    pub(crate) tail: &'a [u8],
}

/// A node, its header checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node<'a> {
    page: &'a [u8],
    slots: &'a [[u8; SLOT]],
    count: usize,
    level: u8,
    low: usize,
    live: usize,
    prefix: &'a [u8],
    lower: &'a [u8],
    upper: Option<&'a [u8]>,
}

/// Where in a node there is room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) level: u8,
    pub(crate) count: usize,
    /// First byte of the heap.
    pub(crate) low: usize,
    /// Heap bytes in use.
    pub(crate) live: usize,
    /// Bytes of the prefix.
    pub(crate) prefix: usize,
}

impl Layout {
    /// As [`Node::free`].
    pub(crate) fn free(&self, page_size: usize) -> usize {
        (page_size - SLOTS).saturating_sub(SLOT * self.count + self.live)
    }
}

impl<'a> Node<'a> {
    /// Reads the node header and checks that slots and fences lie in the page.
    pub(crate) fn open(page: &'a [u8]) -> Sound<Node<'a>> {
        if page.len() < SLOTS || page.len() > hamal_page::MAX_PAGE_SIZE {
            return Err(Broken("the page has no valid size"));
        }
        let count = u16_at(page, at::COUNT);
        let (low, live) = (u32_at(page, at::LOW), u32_at(page, at::LIVE));
        if low > page.len() || SLOTS + SLOT * count > low || live > page.len() - low {
            return Err(Broken("slots and heap of the node overlap"));
        }
        let fence = |at: usize| -> Sound<&'a [u8]> {
            let (offset, len) = (u16_at(page, at), u16_at(page, at + 2));
            match page.get(offset..offset + len) {
                _ if len == 0 => Ok(&[]),
                Some(f) if offset >= low => Ok(f),
                _ => Err(Broken("a fence lies outside the heap")),
            }
        };
        let lower = fence(at::LOWER)?;
        let unbounded = page[at::FLAGS] & UNBOUNDED != 0;
        let upper = if unbounded { None } else { Some(fence(at::UPPER)?) };
        let n = u16_at(page, at::PREFIX);
        let prefix = lower.get(..n).ok_or(Broken("the prefix is longer than the lower fence"))?;
        if n > 0 && upper.is_none_or(|u| u.len() < n) {
            return Err(Broken("the prefix is longer than the upper fence"));
        }
        let (slots, _) = page[SLOTS..SLOTS + SLOT * count].as_chunks();
        Ok(Node { page, slots, count, level: page[at::LEVEL], low, live, prefix, lower, upper })
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }
    pub(crate) fn level(&self) -> u8 {
        self.level
    }
    pub(crate) fn is_leaf(&self) -> bool {
        self.level == 0
    }
    /// No key of the node is below it; empty: minus infinity.
    pub(crate) fn lower(&self) -> &'a [u8] {
        self.lower
    }
    /// Every key of the node is below it; none: plus infinity.
    pub(crate) fn upper(&self) -> Option<&'a [u8]> {
        self.upper
    }
    pub(crate) fn prefix(&self) -> &'a [u8] {
        self.prefix
    }
    /// Whether the fences admit the key.
    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        self.lower <= key && self.upper.is_none_or(|u| key < u)
    }
    pub(crate) fn layout(&self) -> Layout {
        let prefix = self.prefix.len();
        Layout { level: self.level, count: self.count, low: self.low, live: self.live, prefix }
    }
    /// Bytes that a new record may take, slot included, after compaction.
    pub(crate) fn free(&self) -> usize {
        self.layout().free(self.page.len())
    }
    /// Bytes between slots and heap.
    pub(crate) fn gap(&self) -> Range<usize> {
        SLOTS + SLOT * self.count..self.low
    }
    /// Bytes in use by slots and records, fences left out.
    pub(crate) fn used(&self) -> usize {
        let fences = self.lower.len() + self.upper.map_or(0, <[u8]>::len);
        (SLOT * self.count + self.live).saturating_sub(fences)
    }
    /// Slots, and bytes of the heap in use.
    pub(crate) fn load(&self) -> (usize, usize) {
        (self.count, self.live)
    }
    /// The hints for splits: slot behind the last insert, length of the ascending run.
    pub(crate) fn run(&self) -> (usize, usize) {
        (u16_at(self.page, at::LAST), u16_at(self.page, at::RUN))
    }

    /// The length of the ascending run that an insert into slot `i` goes on, or begins.
    pub(crate) fn run_after(&self, i: usize) -> usize {
        let (last, run) = self.run();
        if i == last { (run + 1).min(usize::from(u16::MAX)) } else { 0 }
    }

    #[inline]
    pub(crate) fn slot(&self, i: usize) -> Sound<Slot> {
        match self.slots.get(i) {
            Some(b) => Ok(Slot(u64::from_le_bytes(*b))),
            None => Err(Broken("a slot beyond the node's last")),
        }
    }
    /// The bytes of a separator, or of a row's key, behind the prefix: those in the slot, and the rest.
    #[inline]
    pub(crate) fn suffix_parts(&self, i: usize) -> Sound<(Slot, &'a [u8])> {
        let slot = self.slot(i)?;
        Ok((slot, self.rest(slot)?))
    }
    fn bytes(&self, range: Range<usize>) -> Sound<&'a [u8]> {
        match self.page.get(range.clone()) {
            Some(b) if range.start >= self.low => Ok(b),
            _ => Err(Broken("a record lies outside the heap")),
        }
    }
    fn fixed(&self) -> usize {
        if self.level == 0 { LEAF_FIXED } else { INNER_FIXED }
    }
    fn rest(&self, slot: Slot) -> Sound<&'a [u8]> {
        let from = slot.offset() + self.fixed();
        self.bytes(from..from + slot.rest_len())
    }
    /// The bytes of a record, allotment included.
    pub(crate) fn record(&self, slot: Slot) -> Sound<&'a [u8]> {
        let at = slot.offset();
        let mut len = self.fixed() + slot.rest_len();
        if self.level == 0 {
            self.bytes(at..at + LEAF_FIXED)?;
            len += u16_at(self.page, at + 10);
        }
        self.bytes(at..at + len)
    }

    /// Compares the key in slot `i` with one of which head and suffix are given.
    fn compare(&self, i: usize, head: u32, suffix: &[u8]) -> Sound<Ordering> {
        let slot = self.slot(i)?;
        let heads = slot.head().cmp(&head);
        if heads != Ordering::Equal {
            return Ok(heads);
        }
        // Equal heads: a key that ends within its head is a prefix of the other (zeros pad both alike), so
        // length decides.
        if slot.len() > HEAD && suffix.len() > HEAD {
            return Ok(self.rest(slot)?.cmp(&suffix[HEAD..]));
        }
        Ok(slot.len().cmp(&suffix.len()))
    }
    /// Compares the key in slot `i` with `suffix`, a key without the prefix.
    pub(crate) fn compare_suffix(&self, i: usize, suffix: &[u8]) -> Sound<Ordering> {
        self.compare(i, head_of(suffix), suffix)
    }
    pub(crate) fn suffix_of<'k>(&self, key: &'k [u8]) -> Sound<&'k [u8]> {
        key.strip_prefix(self.prefix).ok_or(Broken("the key does not begin with the node's prefix"))
    }
    /// Where the key is (`Ok`), or where it belongs (`Err`).
    pub(crate) fn search(&self, key: &[u8]) -> Sound<Result<usize, usize>> {
        let suffix = self.suffix_of(key)?;
        let head = head_of(suffix);
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = (low + high) / 2;
            match self.compare(middle, head, suffix)? {
                Ordering::Less => low = middle + 1,
                Ordering::Equal => return Ok(Ok(middle)),
                Ordering::Greater => high = middle,
            }
        }
        Ok(Err(low))
    }

    /// As [`Node::search`]; looks first behind the slot that was inserted last, where the next one of a run belongs.
    pub(crate) fn search_run(&self, key: &[u8]) -> Sound<Result<usize, usize>> {
        let (last, _) = self.run();
        if (1..=self.count).contains(&last) {
            let suffix = self.suffix_of(key)?;
            let head = head_of(suffix);
            if self.compare(last - 1, head, suffix)? == Ordering::Less
                && (last == self.count || self.compare(last, head, suffix)? == Ordering::Greater)
            {
                return Ok(Err(last));
            }
        }
        self.search(key)
    }

    /// Appends the key of slot `i`, without the prefix.
    pub(crate) fn push_suffix(&self, i: usize, out: &mut Vec<u8>) -> Sound<()> {
        let slot = self.slot(i)?;
        let head = slot.head().to_be_bytes();
        out.extend_from_slice(&head[..slot.len().min(HEAD)]);
        out.extend_from_slice(self.rest(slot)?);
        Ok(())
    }
    /// The key of slot `i`.
    pub(crate) fn key(&self, i: usize) -> Sound<Vec<u8>> {
        let mut key = Vec::with_capacity(self.prefix.len() + self.slot(i)?.len());
        key.extend_from_slice(self.prefix);
        self.push_suffix(i, &mut key)?;
        Ok(key)
    }

    /// The record of slot `i` of a leaf.
    pub(crate) fn leaf(&self, i: usize) -> Sound<LeafRecord<'a>> {
        Ok(self.row(i)?.record)
    }
    /// Record and slot `i` of a leaf.
    #[inline]
    pub(crate) fn row(&self, i: usize) -> Sound<LeafRow<'a>> {
        const OUTSIDE: Broken = Broken("a record lies outside the heap");
        if self.level != 0 {
            return Err(Broken("a leaf was expected"));
        }
        let slot = self.slot(i)?;
        let (offset, rest) = (slot.offset(), slot.rest_len());
        if offset < self.low {
            return Err(OUTSIDE);
        }
        let record = self.page.get(offset..).ok_or(OUTSIDE)?;
        let (fixed, body) = record.split_first_chunk::<LEAF_FIXED>().ok_or(OUTSIDE)?;
        let word = Word(u64_at(fixed, 0));
        let (len, allot) = (u16_at(fixed, 8), u16_at(fixed, 10));
        if len > allot || (slot.chain() && len != CHAIN) {
            return Err(Broken("a value is longer than its allotment, or no chain reference"));
        }
        if rest + allot > body.len() {
            return Err(OUTSIDE);
        }
        let tail = body.get(..rest + len).ok_or(OUTSIDE)?;
        let record = LeafRecord { word, chain: slot.chain(), allot, value: &tail[rest..] };
        Ok(LeafRow { slot, record, tail })
    }
    /// Whether the key of slot `low` is below that of slot `high`.
    pub(crate) fn in_order(&self, low: Slot, high: Slot) -> Sound<bool> {
        Ok(match low.head().cmp(&high.head()) {
            Ordering::Equal if low.len() > HEAD && high.len() > HEAD => self.rest(low)? < self.rest(high)?,
            Ordering::Equal => low.len() < high.len(),
            heads => heads == Ordering::Less,
        })
    }
    /// Offset of the record of slot `i`, whole.
    pub(crate) fn offset(&self, i: usize) -> Sound<usize> {
        let slot = self.slot(i)?;
        self.record(slot)?;
        Ok(slot.offset())
    }

    /// Child `i` of an inner node: 0 is the one left of all separators, `i` the one right of separator `i
    /// - 1`.
    pub(crate) fn child(&self, i: usize) -> Sound<PageId> {
        if self.level == 0 {
            return Err(Broken("an inner node was expected"));
        }
        let id = match i.checked_sub(1) {
            None => u64_at(self.page, at::LEFT),
            Some(slot) => u64_at(self.record(self.slot(slot)?)?, 0),
        };
        if id == 0 { Err(Broken("a child is page 0")) } else { Ok(PageId(id)) }
    }
    /// Number of the child that covers the key.
    pub(crate) fn child_of(&self, key: &[u8]) -> Sound<usize> {
        Ok(match self.search(key)? {
            Ok(i) => i + 1,
            Err(i) => i,
        })
    }
    /// Number of the child that covers the keys just below `key` (strictly).
    pub(crate) fn child_below(&self, key: &[u8]) -> Sound<usize> {
        Ok(match self.search(key)? {
            Ok(i) | Err(i) => i,
        })
    }

    /// Checks everything: order, fences, prefix, records apart from each other, the count of live bytes.
    pub(crate) fn check(&self) -> Sound<()> {
        if self.upper.is_some_and(|u| self.lower >= u) {
            return Err(Broken("the lower fence is not below the upper one"));
        }
        let max = max_key(self.page.len());
        if self.lower.len() > max || self.upper.is_some_and(|u| u.len() > max) {
            return Err(Broken("a fence is longer than any key"));
        }
        if self.upper.is_some_and(|u| !u.starts_with(self.prefix)) {
            return Err(Broken("the upper fence lacks the prefix"));
        }
        if self.prefix.len() != common_prefix(self.lower, self.upper) {
            return Err(Broken("the prefix is not what the fences have in common"));
        }
        let mut ranges = Vec::with_capacity(self.count + 2);
        let mut place = |offset: usize, len: usize| {
            if len > 0 {
                ranges.push(offset..offset + len);
            }
        };
        place(u16_at(self.page, at::LOWER), self.lower.len());
        place(u16_at(self.page, at::UPPER), self.upper.map_or(0, <[u8]>::len));
        let mut before: Option<Vec<u8>> = None;
        for i in 0..self.count {
            let slot = self.slot(i)?;
            place(slot.offset(), self.record(slot)?.len());
            let key = self.key(i)?;
            if key.len() > max {
                return Err(Broken("a key is too long"));
            }
            if !self.contains(&key) || (!self.is_leaf() && key == self.lower) {
                return Err(Broken("a key lies outside the fences"));
            }
            if before.is_some_and(|b| b >= key) {
                return Err(Broken("keys are not in order"));
            }
            if slot.len() < HEAD && slot.head() & (u32::MAX >> (8 * slot.len())) != 0 {
                return Err(Broken("the head of a short key is not padded with zeros"));
            }
            if self.is_leaf() {
                self.leaf(i)?;
            } else {
                self.child(i + 1)?;
            }
            before = Some(key);
        }
        if !self.is_leaf() {
            self.child(0)?;
        }
        ranges.sort_by_key(|r| r.start);
        if ranges.windows(2).any(|w| w[0].end > w[1].start) {
            return Err(Broken("records overlap"));
        }
        if ranges.iter().map(ExactSizeIterator::len).sum::<usize>() != self.live {
            return Err(Broken("the count of live bytes is wrong"));
        }
        Ok(())
    }
}

/// Length of what two fences have in common; 0 without an upper fence.
pub(crate) fn common_prefix(lower: &[u8], upper: Option<&[u8]>) -> usize {
    upper.map_or(0, |u| lower.iter().zip(u).take_while(|(a, b)| a == b).count())
}

/// The shortest key `s` with `low < s <= high`; `high` if `low` is not below it.
pub(crate) fn separator<'k>(low: &[u8], high: &'k [u8]) -> &'k [u8] {
    let same = low.iter().zip(high).take_while(|(a, b)| a == b).count();
    &high[..high.len().min(same + 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_are_short_and_between() {
        for (low, high, want) in
            [("abc", "abd", "abd"), ("ab", "abc", "abc"), ("", "x", "x"), ("abc", "bzz", "b")]
        {
            let s = separator(low.as_bytes(), high.as_bytes());
            assert_eq!(s, want.as_bytes());
            assert!(low.as_bytes() < s && s <= high.as_bytes());
        }
    }

    #[test]
    fn words() {
        let w = Word::new(TxnId(77), true, false).unwrap();
        assert_eq!((w.writer(), w.ghost(), w.older()), (TxnId(77), true, false));
        assert_eq!(Word::new(TxnId(1 << 56), false, false), None);
    }
}
