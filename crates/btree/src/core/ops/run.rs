//! Operations on a run: neighbouring rows of a leaf by one transaction, by one record (BTREE-14).
//!
//! INSERT_RUN: slot, prefix of the leaf (with length), number of rows; then of each row the lengths of key and value, the key
//! without the prefix, and the value. The prefix is in the record, so the keys can be read without the page; being the leaf's own,
//! it makes the rest of each key what the leaf keeps.
//!
//! REMOVE_RUN, its undo in parts: slot, number of slots.
use super::super::codec::{Broken, Reader, Sound, put_bytes, put_varint};
use super::super::edit;
use super::super::node::{LEAF_FIXED, Word, max_inline, max_key, rest_of};
use super::leaf::leaf_node;
use super::show;
use hamal_buffer::Applying;
use std::cmp::Ordering;

/// The most bytes that a row takes in a payload beside key and value: two lengths.
pub(crate) const ROW_LENGTHS: usize = 6;

/// Appends the payload of an INSERT_RUN; all keys begin with `prefix`.
pub(crate) fn put_insert_run(
    p: &mut Vec<u8>,
    slot: usize,
    prefix: &[u8],
    rows: &[(&[u8], &[u8])],
) -> Sound<()> {
    put_varint(p, slot as u64);
    put_bytes(p, prefix);
    put_varint(p, rows.len() as u64);
    p.reserve(rows.iter().map(|(k, v)| k.len() + v.len() + ROW_LENGTHS).sum());
    for (key, value) in rows {
        let suffix = key.strip_prefix(prefix).ok_or(Broken("a key lacks the prefix of its run"))?;
        put_varint(p, suffix.len() as u64);
        put_varint(p, value.len() as u64);
        p.extend_from_slice(suffix);
        p.extend_from_slice(value);
    }
    Ok(())
}

/// An INSERT_RUN, its front read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run<'a> {
    pub(crate) slot: usize,
    pub(crate) prefix: &'a [u8],
    /// As the record says it.
    pub(crate) count: usize,
    rows: Reader<'a>,
}

/// A row of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunRow<'a> {
    /// The key without the prefix.
    pub(crate) suffix: &'a [u8],
    pub(crate) value: &'a [u8],
    /// Both, side by side.
    pub(crate) bytes: &'a [u8],
}

impl<'a> Run<'a> {
    pub(crate) fn read(payload: &'a [u8]) -> Sound<Run<'a>> {
        let mut r = Reader(payload);
        let (slot, prefix, count) = (r.small()?, r.bytes()?, r.small()?);
        // Each row has two lengths at least: nothing is allocated from the number alone.
        if count == 0 || 2 * count > r.0.len() {
            return Err(Broken("a run of no rows, or of more than its payload holds"));
        }
        Ok(Run { slot, prefix, count, rows: r })
    }
    /// Its rows; nothing follows the last.
    pub(crate) fn rows(&self) -> RunRows<'a> {
        RunRows { left: self.count, rest: self.rows }
    }
    /// Its keys, whole.
    pub(crate) fn keys(&self) -> impl Iterator<Item = Sound<Vec<u8>>> + use<'a> {
        let prefix = self.prefix;
        self.rows().map(move |row| row.map(|row| [prefix, row.suffix].concat()))
    }
}

/// The rows of a run, one after another; an error ends them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunRows<'a> {
    left: usize,
    rest: Reader<'a>,
}

impl<'a> RunRows<'a> {
    #[inline]
    fn row(&mut self) -> Sound<RunRow<'a>> {
        let (key, value) = (self.rest.small()?, self.rest.small()?);
        let bytes = self.rest.take(key + value)?;
        let (suffix, value) = bytes.split_at(key);
        let row = RunRow { suffix, value, bytes };
        if self.left == 0 {
            self.rest.end()?;
        }
        Ok(row)
    }
}

impl<'a> Iterator for RunRows<'a> {
    type Item = Sound<RunRow<'a>>;
    #[inline]
    fn next(&mut self) -> Option<Sound<RunRow<'a>>> {
        self.left = self.left.checked_sub(1)?;
        let row = self.row();
        if row.is_err() {
            self.left = 0;
        }
        Some(row)
    }
}

pub(crate) fn insert_run(at: &Applying, payload: &[u8], page: &mut [u8]) -> Sound<()> {
    let run = Run::read(payload)?;
    let word = Word::new(at.txn, false, false).ok_or(Broken("a transaction id of more than 56 bits"))?;
    let node = leaf_node(page)?;
    if run.prefix != node.prefix() {
        return Err(Broken("the prefix of a run is not its leaf's"));
    }
    // Everything is looked at before anything is written: what the rows take, and their order.
    let (longest, prefix) = (max_key(page.len()), run.prefix.len());
    let (mut bytes, mut before, mut first) = (0, None, &[][..]);
    for row in run.rows() {
        let RunRow { suffix, value, .. } = row?;
        if prefix + suffix.len() > longest || value.len() > max_inline(page.len()) {
            return Err(Broken("a row that no leaf can hold"));
        }
        match before {
            None => first = suffix,
            Some(before) if before < suffix => {}
            Some(_) => return Err(Broken("the keys of a run do not ascend")),
        }
        before = Some(suffix);
        bytes += LEAF_FIXED + rest_of(suffix).len() + value.len();
    }
    let last = before.unwrap_or_default();
    let (slot, count) = (run.slot, node.count());
    let above = match slot.checked_sub(1) {
        None => node.lower().get(prefix..).unwrap_or_default() <= first,
        Some(i) => node.compare_suffix(i, first)? == Ordering::Less,
    };
    let below = if slot < count {
        node.compare_suffix(slot, last)? == Ordering::Greater
    } else {
        node.upper().is_none_or(|u| last < u.get(prefix..).unwrap_or_default())
    };
    if slot > count || !above || !below {
        return Err(Broken("the run does not belong into that slot"));
    }
    let hint = (node.run_after(slot) + run.count - 1).min(usize::from(u16::MAX));
    let layout = node.layout();
    edit::insert_many(page, layout, slot, run.count, bytes, word, run.rows())?;
    edit::set_run(page, slot + run.count, hint)
}

pub(crate) fn describe_insert_run(payload: &[u8]) -> Sound<String> {
    let run = Run::read(payload)?;
    let (mut first, mut last, mut bytes) = (None, Vec::new(), 0);
    for row in run.rows() {
        let RunRow { suffix, value, .. } = row?;
        last = [run.prefix, suffix].concat();
        first.get_or_insert_with(|| last.clone());
        bytes += value.len();
    }
    Ok(format!(
        "insert run slot={} rows={} keys {} to {} values={bytes} B",
        run.slot,
        run.count,
        show(&first.unwrap_or_default()),
        show(&last)
    ))
}

pub(crate) fn encode_remove_run(slot: usize, count: usize) -> Vec<u8> {
    let mut p = Vec::with_capacity(6);
    put_varint(&mut p, slot as u64);
    put_varint(&mut p, count as u64);
    p
}

fn slots(payload: &[u8]) -> Sound<(usize, usize)> {
    let mut r = Reader(payload);
    let slots = (r.small()?, r.small()?);
    r.end()?;
    Ok(slots)
}

pub(crate) fn remove_run(payload: &[u8], page: &mut [u8]) -> Sound<()> {
    let (slot, count) = slots(payload)?;
    leaf_node(page)?;
    edit::remove_many(page, slot, count)
}

pub(crate) fn describe_remove_run(payload: &[u8]) -> Sound<String> {
    let (slot, count) = slots(payload)?;
    Ok(format!("remove run slot={slot} rows={count}"))
}
