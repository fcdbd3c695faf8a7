//! Operations on the rows of a leaf.
use super::super::codec::{Broken, Reader, Sound, put_bytes, put_varint};
use super::super::edit::{self, Body};
use super::super::node::{CHAIN, LeafRecord, Node, Word, max_inline};
use super::show;
use crate::core::PutValue;
use hamal_buffer::Applying;
use hamal_page::PageId;

/// Flag: an older version was pushed at this write (V).
const OLDER: u8 = 1;
/// Flag: the value is a chain reference.
const CHAINED: u8 = 2;

/// The bytes of a value as a record holds them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes<'a> {
    pub(crate) chain: bool,
    pub(crate) bytes: &'a [u8],
}

/// The 16 bytes of a chain reference, if the value is one.
pub(crate) fn chain_bytes(value: &PutValue<'_>) -> [u8; CHAIN] {
    let mut b = [0; CHAIN];
    if let PutValue::Chain { len, head } = value {
        b[..8].copy_from_slice(&len.to_le_bytes());
        b[8..].copy_from_slice(&head.0.to_le_bytes());
    }
    b
}

/// Length and head page of a chain reference.
pub(crate) fn chain_of(bytes: &[u8]) -> (u64, PageId) {
    use super::super::node::u64_at;
    (u64_at(bytes, 0), PageId(u64_at(bytes, 8)))
}

fn flags(older: bool, chain: bool) -> u8 {
    (if older { OLDER } else { 0 }) | (if chain { CHAINED } else { 0 })
}

fn value_of<'a>(flags: u8, bytes: &'a [u8], page: &[u8]) -> Sound<Bytes<'a>> {
    let chain = flags & CHAINED != 0;
    if flags & !(OLDER | CHAINED) != 0
        || (chain && bytes.len() != CHAIN)
        || bytes.len() > max_inline(page.len())
    {
        return Err(Broken("a value that no leaf can hold"));
    }
    Ok(Bytes { chain, bytes })
}

fn word_of(at: &Applying, ghost: bool, flags: u8) -> Sound<Word> {
    Word::new(at.txn, ghost, flags & OLDER != 0).ok_or(Broken("a transaction id of more than 56 bits"))
}

fn describe_value(flags: u8, bytes: &[u8]) -> String {
    if flags & CHAINED != 0 && bytes.len() == CHAIN {
        let (len, head) = chain_of(bytes);
        format!("value={len} B in chain {head}")
    } else {
        format!("value={} B", bytes.len())
    }
}

fn older_text(flags: u8) -> &'static str {
    if flags & OLDER != 0 { " V" } else { "" }
}

// ---- INSERT: slot, flags, key (with length), value ----

/// Appends the payload of an INSERT.
pub(crate) fn put_insert(p: &mut Vec<u8>, slot: usize, key: &[u8], value: Bytes<'_>) {
    p.reserve(8 + key.len() + value.bytes.len());
    put_varint(p, slot as u64);
    p.push(flags(false, value.chain));
    put_bytes(p, key);
    p.extend_from_slice(value.bytes);
}

pub(crate) fn encode_insert(slot: usize, key: &[u8], value: Bytes<'_>) -> Vec<u8> {
    let mut p = Vec::new();
    put_insert(&mut p, slot, key, value);
    p
}

/// The key of an INSERT's payload: what its undo needs.
pub(crate) fn key_of_insert(payload: &[u8]) -> Sound<&[u8]> {
    let mut r = Reader(payload);
    r.small()?;
    r.u8()?;
    r.bytes()
}

pub(crate) fn insert(at: &Applying, payload: &[u8], page: &mut [u8]) -> Sound<()> {
    let mut r = Reader(payload);
    let (slot, flags, key) = (r.small()?, r.u8()?, r.bytes()?);
    let value = value_of(flags, r.rest(), page)?;
    let word = word_of(at, false, flags)?;
    let node = leaf_node(page)?;
    if !node.contains(key) {
        return Err(Broken("the key lies outside the leaf's fences"));
    }
    let suffix = node.suffix_of(key)?;
    let after = slot == 0 || node.compare_suffix(slot - 1, suffix)?.is_lt();
    let before = slot >= node.count() || node.compare_suffix(slot, suffix)?.is_gt();
    if !after || !before {
        return Err(Broken("the key does not belong into that slot"));
    }
    let record = LeafRecord { word, chain: value.chain, allot: value.bytes.len(), value: value.bytes };
    let (run, layout) = (node.run_after(slot), node.layout());
    edit::insert_into(page, layout, slot, suffix, &Body::Leaf(record))?;
    edit::set_run(page, slot + 1, run)
}

pub(crate) fn describe_insert(payload: &[u8]) -> Sound<String> {
    let mut r = Reader(payload);
    let (slot, flags, key) = (r.small()?, r.u8()?, r.bytes()?);
    Ok(format!(
        "insert slot={slot} key={} {}{}",
        show(key),
        describe_value(flags, r.rest()),
        older_text(flags)
    ))
}

// ---- UPDATE: slot, flags, value ----

/// Appends the payload of an UPDATE.
pub(crate) fn put_update(p: &mut Vec<u8>, slot: usize, older: bool, value: Bytes<'_>) {
    p.reserve(4 + value.bytes.len());
    put_varint(p, slot as u64);
    p.push(flags(older, value.chain));
    p.extend_from_slice(value.bytes);
}

pub(crate) fn encode_update(slot: usize, older: bool, value: Bytes<'_>) -> Vec<u8> {
    let mut p = Vec::new();
    put_update(&mut p, slot, older, value);
    p
}

pub(crate) fn update(at: &Applying, payload: &[u8], page: &mut [u8]) -> Sound<()> {
    let mut r = Reader(payload);
    let (slot, flags) = (r.small()?, r.u8()?);
    let value = value_of(flags, r.rest(), page)?;
    let word = word_of(at, false, flags)?;
    edit::set_value(page, slot, word, value.chain, value.bytes)
}

pub(crate) fn describe_update(payload: &[u8]) -> Sound<String> {
    let mut r = Reader(payload);
    let (slot, flags) = (r.small()?, r.u8()?);
    Ok(format!("update slot={slot} {}{}", describe_value(flags, r.rest()), older_text(flags)))
}

// ---- MARK_GHOST: slot, flags; the bytes stay ----

/// Appends the payload of a MARK_GHOST.
pub(crate) fn put_mark_ghost(p: &mut Vec<u8>, slot: usize, older: bool) {
    put_varint(p, slot as u64);
    p.push(flags(older, false));
}

pub(crate) fn mark_ghost(at: &Applying, payload: &[u8], page: &mut [u8]) -> Sound<()> {
    let mut r = Reader(payload);
    let (slot, flags) = (r.small()?, r.u8()?);
    r.end()?;
    if leaf_node(page)?.leaf(slot)?.word.ghost() {
        return Err(Broken("the record is a ghost already"));
    }
    edit::set_word(page, slot, word_of(at, true, flags)?)
}

pub(crate) fn describe_mark_ghost(payload: &[u8]) -> Sound<String> {
    let mut r = Reader(payload);
    let (slot, flags) = (r.small()?, r.u8()?);
    Ok(format!("ghost slot={slot}{}", older_text(flags)))
}

// ---- LOCK: slot, flags; a ghost stays a ghost, the bytes stay ----

/// Appends the payload of a LOCK.
pub(crate) fn put_lock(p: &mut Vec<u8>, slot: usize, older: bool) {
    put_mark_ghost(p, slot, older);
}

pub(crate) fn lock(at: &Applying, payload: &[u8], page: &mut [u8]) -> Sound<()> {
    let mut r = Reader(payload);
    let (slot, flags) = (r.small()?, r.u8()?);
    r.end()?;
    let ghost = leaf_node(page)?.leaf(slot)?.word.ghost();
    edit::set_word(page, slot, word_of(at, ghost, flags)?)
}

pub(crate) fn describe_lock(payload: &[u8]) -> Sound<String> {
    let mut r = Reader(payload);
    let (slot, flags) = (r.small()?, r.u8()?);
    Ok(format!("lock slot={slot}{}", older_text(flags)))
}

// ---- REMOVE: slot ----

pub(crate) fn encode_remove(slot: usize) -> Vec<u8> {
    let mut p = Vec::with_capacity(3);
    put_varint(&mut p, slot as u64);
    p
}

pub(crate) fn remove(payload: &[u8], page: &mut [u8]) -> Sound<()> {
    let mut r = Reader(payload);
    let slot = r.small()?;
    r.end()?;
    leaf_node(page)?.leaf(slot)?;
    edit::remove(page, slot)
}

pub(crate) fn describe_remove(payload: &[u8]) -> Sound<String> {
    Ok(format!("remove slot={}", Reader(payload).small()?))
}

// ---- RESTORE: slot, word, mode (0: the bytes are unchanged; 1: bytes follow; 2: a chain follows) ----

const UNCHANGED: u8 = 0;
const INLINE: u8 = 1;
const CHAIN_FOLLOWS: u8 = 2;

pub(crate) fn encode_restore(slot: usize, word: Word, value: Option<Bytes<'_>>) -> Vec<u8> {
    let mut p = Vec::with_capacity(16 + value.map_or(0, |v| v.bytes.len()));
    put_varint(&mut p, slot as u64);
    p.extend_from_slice(&word.0.to_le_bytes());
    p.push(value.map_or(UNCHANGED, |v| if v.chain { CHAIN_FOLLOWS } else { INLINE }));
    p.extend_from_slice(value.map_or(&[], |v| v.bytes));
    p
}

pub(crate) fn restore(payload: &[u8], page: &mut [u8]) -> Sound<()> {
    let mut r = Reader(payload);
    let (slot, word, mode) = (r.small()?, Word(r.u64()?), r.u8()?);
    let old = leaf_node(page)?.leaf(slot)?;
    let flags = match mode {
        UNCHANGED => {
            r.end()?;
            return edit::set_word(page, slot, word);
        }
        INLINE => 0,
        CHAIN_FOLLOWS => CHAINED,
        _ => return Err(Broken("unknown mode")),
    };
    let value = value_of(flags, r.rest(), page)?;
    if value.bytes.len() > old.allot {
        return Err(Broken("BTREE-5: the allotment shrank while the writer could roll back"));
    }
    edit::set_value(page, slot, word, value.chain, value.bytes)
}

pub(crate) fn describe_restore(payload: &[u8]) -> Sound<String> {
    let mut r = Reader(payload);
    let (slot, word, mode) = (r.small()?, Word(r.u64()?), r.u8()?);
    let value = match mode {
        UNCHANGED => "value as it is".to_owned(),
        mode => describe_value(if mode == CHAIN_FOLLOWS { CHAINED } else { 0 }, r.rest()),
    };
    let (ghost, older) = (if word.ghost() { " ghost" } else { "" }, if word.older() { " V" } else { "" });
    Ok(format!("restore slot={slot} writer={}{ghost}{older} {value}", word.writer()))
}

// ---- REWRITE: slot, flags, value (at most as long as the allotment); the word stays ----

pub(crate) fn encode_rewrite(slot: usize, value: Bytes<'_>) -> Vec<u8> {
    encode_update(slot, false, value)
}

pub(crate) fn rewrite(payload: &[u8], page: &mut [u8]) -> Sound<()> {
    let mut r = Reader(payload);
    let (slot, flags) = (r.small()?, r.u8()?);
    let value = value_of(flags, r.rest(), page)?;
    let old = leaf_node(page)?.leaf(slot)?;
    if value.bytes.len() > old.allot {
        return Err(Broken("the new value is longer than the allotment"));
    }
    edit::set_value(page, slot, old.word, value.chain, value.bytes)
}

pub(crate) fn describe_rewrite(payload: &[u8]) -> Sound<String> {
    Ok(format!("re{}", describe_update(payload)?.replacen("update", "write", 1)))
}

// ---- PURGE: number of slots to trim, they; number of ghosts to remove, they; all ascending, as the page
// is before ----

pub(crate) fn encode_purge(trims: &[usize], ghosts: &[usize]) -> Vec<u8> {
    let mut p = Vec::with_capacity(4 + 2 * (trims.len() + ghosts.len()));
    for list in [trims, ghosts] {
        put_varint(&mut p, list.len() as u64);
        list.iter().for_each(|s| put_varint(&mut p, *s as u64));
    }
    p
}

fn slots(r: &mut Reader<'_>) -> Sound<Vec<usize>> {
    let n = r.small()?;
    // Not allocated from the number alone: each slot takes a byte at least.
    if n > r.0.len() {
        return Err(Broken("a list longer than the payload"));
    }
    let list = (0..n).map(|_| r.small()).collect::<Sound<Vec<_>>>()?;
    if list.windows(2).any(|w| w[0] >= w[1]) {
        return Err(Broken("a list of slots that does not ascend"));
    }
    Ok(list)
}

pub(crate) fn purge(payload: &[u8], page: &mut [u8]) -> Sound<()> {
    let mut r = Reader(payload);
    let (trims, ghosts) = (slots(&mut r)?, slots(&mut r)?);
    r.end()?;
    leaf_node(page)?;
    for slot in trims {
        edit::trim(page, slot)?;
    }
    for slot in ghosts.into_iter().rev() {
        if !leaf_node(page)?.leaf(slot)?.word.ghost() {
            return Err(Broken("a record to be purged is no ghost"));
        }
        edit::remove(page, slot)?;
    }
    Ok(())
}

pub(crate) fn describe_purge(payload: &[u8]) -> Sound<String> {
    let mut r = Reader(payload);
    let (trims, ghosts) = (slots(&mut r)?, slots(&mut r)?);
    Ok(format!("purge ghosts={ghosts:?} trim={trims:?}"))
}

pub(super) fn leaf_node(page: &[u8]) -> Sound<Node<'_>> {
    let node = Node::open(page)?;
    if node.is_leaf() { Ok(node) } else { Err(Broken("a leaf was expected")) }
}
