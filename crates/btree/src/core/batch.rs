//! Rows copied out of a leaf: one buffer for all of them, used again for the next leaf.
use super::codec::{Broken, Sound};
use super::node::{HEAD, LeafRow};
use super::ops::leaf::{Bytes, chain_bytes};
use super::read::{raw, value_ref};
use super::{Bound, Direction, Entry, PutValue, ValueRef};

/// Where a row lies: the key, and right behind it the value as the leaf had it.
#[derive(Clone, Copy, Debug)]
struct Place {
    at: u32,
    key: u16,
    value: u16,
    chain: bool,
}

/// Rows of one leaf, in the order of the scan that took them out.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The first `used` of them are of rows; those behind are there to be used.
    bytes: Vec<u8>,
    used: usize,
    rows: Vec<Place>,
    /// Where the scan goes on: at or beyond this key.
    next: Vec<u8>,
    included: bool,
}

impl Batch {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }
    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
    /// The key of row `i`; empty if there is no such row.
    #[inline]
    pub fn key(&self, i: usize) -> &[u8] {
        self.rows.get(i).map_or(&[], |r| self.at(r.at, r.key))
    }
    /// The value of row `i`; empty if there is no such row.
    #[inline]
    pub fn value(&self, i: usize) -> ValueRef<'_> {
        match self.rows.get(i) {
            Some(r) => value_ref(Bytes { chain: r.chain, bytes: self.at(r.at + u32::from(r.key), r.value) }),
            None => ValueRef::Inline(&[]),
        }
    }
    #[inline]
    fn at(&self, at: u32, len: u16) -> &[u8] {
        let at = at as usize;
        self.bytes.get(at..at + usize::from(len)).unwrap_or_default()
    }
    /// Where in [`Batch::bytes`] the value of row `i` begins.
    pub fn value_at(&self, i: usize) -> usize {
        self.rows.get(i).map_or(0, |r| r.at as usize + usize::from(r.key))
    }
    /// The bytes of all rows.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.used]
    }
    /// The bound from which the scan goes on, in its direction: the lower one forward, the upper one in reverse.
    pub fn beyond(&self) -> Bound<'_> {
        if self.included { Bound::Included(&self.next) } else { Bound::Excluded(&self.next) }
    }
    /// The rows as owned entries.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry> {
        (0..self.len()).map(|i| Entry { key: self.key(i).to_vec(), value: raw(self.value(i)) })
    }

    /// Makes room for rows to come: a guess.
    pub(crate) fn reserve(&mut self, rows: usize, bytes: usize) {
        self.rows.reserve(rows);
        self.room_for(bytes);
    }
    /// Makes sure that there are so many bytes behind those in use.
    fn room_for(&mut self, bytes: usize) {
        if self.bytes.len() - self.used < bytes {
            self.bytes.resize(self.used + bytes, 0);
        }
    }
    pub(crate) fn clear(&mut self) {
        self.used = 0;
        self.rows.clear();
    }
    /// The scan goes on from `key`: at it, or beyond it.
    pub(crate) fn go_on(&mut self, key: &[u8], included: bool) {
        self.next.clear();
        self.next.extend_from_slice(key);
        self.included = included;
    }
    /// The scan goes on beyond the last row.
    pub(crate) fn go_on_behind_last(&mut self) {
        let Batch { bytes, rows, next, included, .. } = self;
        next.clear();
        if let Some(r) = rows.last() {
            next.extend_from_slice(&bytes[r.at as usize..][..usize::from(r.key)]);
        }
        *included = false;
    }
    /// The scan goes on where that of another batch does.
    pub(crate) fn go_on_as(&mut self, other: &Batch) {
        self.go_on(&other.next, other.included);
    }
    /// Gives a row another value.
    pub(crate) fn replace(&mut self, i: usize, value: ValueRef<'_>) -> Sound<()> {
        let key = self.key(i).to_vec();
        self.push_version(&key, value)?;
        if let Some(new) = self.rows.pop()
            && let Some(row) = self.rows.get_mut(i)
        {
            *row = new;
        }
        Ok(())
    }
    /// Takes a row out.
    pub(crate) fn remove(&mut self, i: usize) {
        if i < self.rows.len() {
            self.rows.remove(i);
        }
    }
    /// Adds a row of a leaf as it stands there.
    #[inline]
    pub(crate) fn push(&mut self, prefix: &[u8], row: &LeafRow<'_>) -> Sound<()> {
        let (p, key, tail) = (prefix.len(), row.slot.len().min(HEAD), row.tail.len());
        self.room_for(p + HEAD + tail);
        let at = self.used;
        let to = &mut self.bytes[at..at + p + HEAD + tail];
        to[..p].copy_from_slice(prefix);
        // What of the head is no key the tail overwrites.
        to[p..p + HEAD].copy_from_slice(&row.slot.head().to_be_bytes());
        to[p + key..p + key + tail].copy_from_slice(row.tail);
        self.used = at + p + key + tail;
        self.note(at, p + row.slot.len(), row.record.value.len(), row.record.chain)
    }
    /// Adds a row whose value lies elsewhere.
    pub(crate) fn push_version(&mut self, key: &[u8], value: ValueRef<'_>) -> Sound<()> {
        let at = self.used;
        let chained;
        let (bytes, chain) = match value {
            ValueRef::Inline(v) => (v, false),
            ValueRef::Chain { len, head } => {
                chained = chain_bytes(&PutValue::Chain { len, head });
                (&chained[..], true)
            }
        };
        self.room_for(key.len() + bytes.len());
        for part in [key, bytes] {
            self.bytes[self.used..self.used + part.len()].copy_from_slice(part);
            self.used += part.len();
        }
        self.note(at, key.len(), bytes.len(), chain)
    }
    fn note(&mut self, at: usize, key: usize, value: usize, chain: bool) -> Sound<()> {
        let too_long = |_| Broken("a row is longer than any page");
        self.rows.push(Place {
            at: u32::try_from(at).map_err(too_long)?,
            key: u16::try_from(key).map_err(too_long)?,
            value: u16::try_from(value).map_err(too_long)?,
            chain,
        });
        Ok(())
    }

    /// Checks that rows that were taken from a leaf are in the order of the scan and within its bounds. The slots were
    /// found by binary search: on a page whose keys are not in order they can be any (BTREE-9).
    pub(crate) fn check(&self, low: Bound<'_>, high: Bound<'_>, direction: Direction) -> Sound<()> {
        const DISORDER: Broken = Broken("its keys are not in order (BTREE-9)");
        let (Some(first), Some(last)) = (self.rows.first(), self.rows.last()) else { return Ok(()) };
        let ends = [self.at(first.at, first.key), self.at(last.at, last.key)];
        let [least, greatest] = match direction {
            Direction::Forward => ends,
            Direction::Reverse => [ends[1], ends[0]],
        };
        if least > greatest || !super::scan::above(least, low) || !super::scan::below(greatest, high) {
            return Err(DISORDER);
        }
        Ok(())
    }
}
