//! The operations on a map page: what normal work and redo both run, and their description.
use crate::{OP_CLEAR, OP_GIVE_UP, OP_INIT, OP_MAPS, OP_MOVE, OP_SET, bits};
use hamal_buffer::{ApplyError, Applying, PageOps};
use hamal_error::{Error, ErrorKind, Result};
use hamal_log::Record;
use hamal_page::{PageId, header};
use hamal_txn::{Compensated, ResourceManager, UndoCtx};
use std::fmt;
use std::ops::Range;

/// Page kind of a map page.
pub(crate) const KIND_MAP: u8 = 1;

/// The redo half and description of the space maps (registered under [`SPACE_RM`](crate::SPACE_RM)); nothing
/// of it is ever undone: an allocation is either part of the record that links the page, or owned by a
/// garbage row.
#[derive(Debug, Default)]
pub struct SpaceManager;

/// The bit numbers of a payload.
fn numbers(payload: &[u8]) -> std::result::Result<impl Iterator<Item = u32>, ApplyError> {
    let (chunks, rest) = payload.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(ApplyError(format!("a list of bits has {} bytes", payload.len())));
    }
    Ok(chunks.iter().map(|c| u32::from_le_bytes(*c)))
}

impl PageOps for SpaceManager {
    fn apply(
        &self,
        at: &Applying,
        op: u8,
        payload: &[u8],
        page: &mut [u8],
    ) -> std::result::Result<(), ApplyError> {
        if page.len() <= bits::FIRST || header::kind(page) != KIND_MAP {
            return Err(ApplyError(format!("page {} is no map page", at.page)));
        }
        let to = match op {
            OP_SET | OP_INIT => true,
            OP_CLEAR => false,
            OP_MAPS => return set_map_pages(at.page, payload, page),
            OP_MOVE => return move_bit(at.page, payload, page),
            _ => return Err(ApplyError(format!("unknown space operation {op}"))),
        };
        // Bit 0 is the map page itself: set for ever. A bit that has its new value already means that two
        // records allocate, or free, the same page (SPACE-1).
        for bit in numbers(payload)? {
            if (bit == 0 && !to) || !bits::flip(page, bit, to) {
                return Err(ApplyError(format!(
                    "bit {bit} of map page {} cannot be {}",
                    at.page,
                    if to { "set" } else { "cleared" }
                )));
            }
        }
        if op == OP_INIT && !bits::get(page, 0) {
            return Err(ApplyError(format!("map page {} is made without its own bit", at.page)));
        }
        if op == OP_INIT && at.page == PageId(0) {
            page[bits::COUNT_AT..bits::COUNT_AT + 8].copy_from_slice(&1u64.to_le_bytes());
        }
        Ok(())
    }

    fn hole(&self, page: &[u8]) -> Range<usize> {
        let used = page.iter().rposition(|b| *b != 0).map_or(0, |i| i + 1).max(bits::FIRST);
        used.min(page.len())..page.len()
    }
}

/// Map page 0: there is one map page more, or one less.
fn set_map_pages(id: PageId, payload: &[u8], page: &mut [u8]) -> std::result::Result<(), ApplyError> {
    let Ok(bytes) = <[u8; 8]>::try_from(payload) else {
        return Err(ApplyError("the number of map pages is no u64".into()));
    };
    let (old, new) = (bits::map_pages(page), u64::from_le_bytes(bytes));
    if id != PageId(0) || new == 0 || old.abs_diff(new) != 1 {
        return Err(ApplyError(format!("page {id} counts {old} map pages, not one more or less than {new}")));
    }
    page[bits::COUNT_AT..bits::COUNT_AT + 8].copy_from_slice(&bytes);
    Ok(())
}

/// One bit is cleared, another one set.
fn move_bit(id: PageId, payload: &[u8], page: &mut [u8]) -> std::result::Result<(), ApplyError> {
    let list: Vec<u32> = numbers(payload)?.collect();
    if let [from, to] = list[..]
        && from != 0
        && bits::flip(page, from, false)
        && bits::flip(page, to, true)
    {
        return Ok(());
    }
    Err(ApplyError(format!("bits {list:?} of map page {id} cannot be cleared and set")))
}

impl ResourceManager for SpaceManager {
    fn name(&self) -> &str {
        "space"
    }
    fn version(&self) -> u32 {
        3
    }
    fn undo(&self, record: &Record, _: UndoCtx<'_>) -> Result<Compensated> {
        Err(Error::new(ErrorKind::ResourceManager, "SPACE-2: a change of a space map is never undone")
            .with_lsn(record.lsn)
            .with_txn(record.txn))
    }
    fn describe(&self, op: u8, payload: &[u8], f: &mut dyn fmt::Write) -> fmt::Result {
        // An initialisation's payload may come with the six bytes of the page header before it.
        let payload = match payload.get(6..) {
            Some(bits) if op == OP_INIT && payload.len() % 4 == 2 => bits,
            _ => payload,
        };
        match op {
            OP_SET => f.write_str("allocate bits")?,
            OP_CLEAR => f.write_str("free bits")?,
            OP_MOVE => f.write_str("free and allocate bits")?,
            OP_INIT => f.write_str("new map page, bits")?,
            OP_GIVE_UP => return f.write_str("map page given up"),
            OP_MAPS => {
                return match <[u8; 8]>::try_from(payload) {
                    Ok(b) => write!(f, "map pages {}", u64::from_le_bytes(b)),
                    Err(_) => f.write_str("map pages ?"),
                };
            }
            _ => return write!(f, "space operation {op}?"),
        }
        let Ok(list) = numbers(payload) else { return f.write_str(" ?") };
        // A run is one word: bulk loads free and allocate hundreds of neighbours.
        let mut list = list.peekable();
        while let Some(first) = list.next() {
            let mut last = first;
            while let Some(next) = list.next_if(|n| Some(*n) == last.checked_add(1)) {
                last = next;
            }
            if last == first { write!(f, " {first}")? } else { write!(f, " {first}-{last}")? }
        }
        Ok(())
    }
}

/// Describes a map page for people: how many pages it speaks of, which are allocated. `None` if the page is no
/// map page. Takes any bytes.
pub fn describe_page(page: &[u8]) -> Option<String> {
    if page.len() <= bits::FIRST || header::rm(page) != crate::SPACE_RM || header::kind(page) != KIND_MAP {
        return None;
    }
    let mut s = format!("map       {} bits, {} allocated\n", bits::len(page), bits::count(page));
    if header::page_id(page) == PageId(0) {
        s += &format!("maps      {}\n", bits::map_pages(page));
    }
    let mut from = bits::next_set(page, 0);
    while let Some(first) = from {
        let end = bits::next_clear(page, first).unwrap_or(bits::len(page));
        let run = if end == first + 1 { first.to_string() } else { format!("{first}-{}", end - 1) };
        s += &format!("bits      {run}\n");
        from = bits::next_set(page, end);
    }
    Some(s)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SPACE_RM;
    use hamal_page::{Lsn, TreeId, TxnId};

    fn page(id: u64) -> Vec<u8> {
        let mut p = vec![0u8; 4096];
        hamal_page::init(&mut p, PageId(id), SPACE_RM, KIND_MAP, TreeId(0));
        p
    }
    fn apply(id: u64, op: u8, bits: &[u32], page: &mut [u8]) -> std::result::Result<(), ApplyError> {
        let payload: Vec<u8> = bits.iter().flat_map(|b| b.to_le_bytes()).collect();
        let at = Applying { lsn: Lsn(1), txn: TxnId::NONE, page: PageId(id) };
        SpaceManager.apply(&at, op, &payload, page)
    }

    #[test]
    fn bits_change_exactly_once() {
        let mut p = page(0);
        apply(0, OP_INIT, &[0, 1, 2], &mut p).unwrap();
        assert_eq!(bits::map_pages(&p), 1);
        apply(0, OP_SET, &[9, 3], &mut p).unwrap();
        assert!(apply(0, OP_SET, &[3], &mut p.clone()).is_err(), "set twice");
        assert!(apply(0, OP_CLEAR, &[4], &mut p.clone()).is_err(), "cleared, was clear");
        assert!(apply(0, OP_CLEAR, &[0], &mut p.clone()).is_err(), "its own bit");
        assert!(apply(0, OP_SET, &[(4096 - 64) * 8], &mut p.clone()).is_err(), "beyond the page");
        apply(0, OP_CLEAR, &[1, 9], &mut p).unwrap();
        assert_eq!((0..40).filter(|b| bits::get(&p, *b)).collect::<Vec<_>>(), [0, 2, 3]);
    }

    #[test]
    fn map_pages_come_and_go_one_by_one() {
        let mut p = page(0);
        apply(0, OP_INIT, &[0, 1, 2], &mut p).unwrap();
        let mut count = |n: u64| {
            let at = Applying { lsn: Lsn(1), txn: TxnId::NONE, page: PageId(0) };
            let done = SpaceManager.apply(&at, OP_MAPS, &n.to_le_bytes(), &mut p);
            done.map(|()| bits::map_pages(&p))
        };
        assert_eq!(
            (count(2).unwrap(), count(3).unwrap(), count(2).unwrap(), count(1).unwrap()),
            (2, 3, 2, 1)
        );
        for bad in [0, 1, 3, u64::MAX] {
            assert!(count(bad).is_err(), "from 1 to {bad}");
        }
        assert_eq!(count(2).unwrap(), 2);
        // By its free block alone: the operation does nothing to a page.
        assert!(apply(9, OP_GIVE_UP, &[], &mut page(9)).is_err());
    }

    #[test]
    fn apply_and_describe_are_total() {
        let at = Applying { lsn: Lsn(1), txn: TxnId::NONE, page: PageId(0) };
        for op in 0..=255u8 {
            for len in 0..20 {
                let payload = vec![op ^ len as u8; len];
                for mut p in [page(0), vec![0u8; 4096], vec![0u8; 64], vec![0xffu8; 4096]] {
                    let _ = SpaceManager.apply(&at, op, &payload, &mut p);
                    let hole = SpaceManager.hole(&p);
                    assert!(hole.end <= p.len() && p[hole].iter().all(|b| *b == 0));
                }
                SpaceManager.describe(op, &payload, &mut String::new()).unwrap();
            }
        }
    }

    #[test]
    fn descriptions_fold_runs() {
        let mut s = String::new();
        let payload: Vec<u8> = [1u32, 2, 3, 7].iter().flat_map(|b| b.to_le_bytes()).collect();
        SpaceManager.describe(OP_SET, &payload, &mut s).unwrap();
        assert_eq!(s, "allocate bits 1-3 7");
    }
}
