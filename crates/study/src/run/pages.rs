//! Page mode: fixed pages with numbered slots, an access method of its own beside the B-tree.
//!
//! Bytes of a page: the common header (40), zeros to byte 512, then the slots, spread evenly over the rest. So a change of a slot
//! touches two sectors of the page, the header's and the slot's, and a torn write shows. A slot is a tag (0 empty, 1 number,
//! 2 text), a length, and at most 48 bytes.
//!
//! `write` is physical: its undo puts the former value back. `add` is logical: its undo subtracts what was added, whatever the
//! value is by then; so transactions may add to the same slot at once.
use crate::scenario::SlotValue;
use hamal::raw::{
    ApplyError, Applying, Compensated, HEADER_LEN, OP_SET, PageEdit, PageOps, Record, ResourceManager, Txn,
    UndoCtx, Whole,
};
use hamal::{Engine, Error, ErrorKind, PageId, Result, RmId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::ops::Range;

/// The manager's name.
pub(crate) const NAME: &str = "study-pages";

const KIND: u8 = 1;
const OP_INIT: u8 = 1;
const OP_WRITE: u8 = 2;
const OP_ADD: u8 = 3;
/// Changes nothing: fills the log.
const OP_PAD: u8 = 4;
/// Where slots begin.
const FIRST: usize = 512;
/// Bytes of a slot.
const SLOT: usize = 56;
/// More than any record here takes in the log.
const RECORD_BYTES: u64 = 512;

/// The resource manager of page mode.
pub(crate) struct SlotPages;

fn encode(value: Option<&SlotValue>) -> Vec<u8> {
    match value {
        None => vec![0],
        Some(SlotValue::Int(n)) => [&[1][..], &n.to_le_bytes()].concat(),
        Some(SlotValue::Text(t)) => [&[2, t.len() as u8][..], t.as_bytes()].concat(),
    }
}

fn decode(bytes: &[u8]) -> Option<Option<SlotValue>> {
    match bytes.split_first()? {
        (0, _) => Some(None),
        (1, rest) => Some(Some(SlotValue::Int(i64::from_le_bytes(rest.get(..8)?.try_into().ok()?)))),
        (2, rest) => {
            let (&len, text) = rest.split_first()?;
            let text = std::str::from_utf8(text.get(..usize::from(len))?).ok()?;
            Some(Some(SlotValue::Text(text.to_string())))
        }
        _ => None,
    }
}

/// Where a slot lies, in a page with 32 places.
fn place(slot: u16, page: &[u8]) -> Option<usize> {
    let stride = page.len().checked_sub(FIRST)? / 32;
    (slot < 32 && stride >= SLOT).then_some(FIRST + stride * usize::from(slot))
}

pub(crate) fn read(page: &[u8], slot: u16) -> Option<SlotValue> {
    let at = place(slot, page)?;
    decode(page.get(at..at + SLOT)?)?
}

fn slot_of(payload: &[u8]) -> Option<(u16, &[u8])> {
    let (slot, rest) = payload.split_at_checked(2)?;
    Some((u16::from_le_bytes(slot.try_into().ok()?), rest))
}

fn payload(slot: u16, rest: &[u8]) -> Vec<u8> {
    [&slot.to_le_bytes()[..], rest].concat()
}

impl PageOps for SlotPages {
    fn apply(
        &self,
        _: &Applying,
        op: u8,
        bytes: &[u8],
        page: &mut [u8],
    ) -> std::result::Result<(), ApplyError> {
        let bad = || ApplyError(format!("operation {op} of a page of slots cannot be applied"));
        if page.len() <= HEADER_LEN {
            return Err(bad());
        }
        if matches!(op, OP_INIT | OP_PAD) {
            return Ok(());
        }
        let (slot, rest) = slot_of(bytes).ok_or_else(bad)?;
        let at = place(slot, page).ok_or_else(bad)?;
        let new = match op {
            OP_WRITE => decode(rest).map(|_| rest.to_vec()).ok_or_else(bad)?,
            OP_ADD => {
                let amount = i64::from_le_bytes(rest.try_into().map_err(|_| bad())?);
                let old = match decode(&page[at..at + SLOT]).ok_or_else(bad)? {
                    None => 0,
                    Some(SlotValue::Int(n)) => n,
                    Some(SlotValue::Text(_)) => return Err(bad()),
                };
                encode(Some(&SlotValue::Int(old.wrapping_add(amount))))
            }
            _ => return Err(bad()),
        };
        if new.len() > SLOT {
            return Err(bad());
        }
        page[at..at + SLOT].fill(0);
        page[at..at + new.len()].copy_from_slice(&new);
        Ok(())
    }
}

impl ResourceManager for SlotPages {
    fn name(&self) -> &str {
        NAME
    }
    fn version(&self) -> u32 {
        1
    }
    /// The undo bytes are the operation that undoes: its code and its payload.
    fn undo(&self, record: &Record, ctx: UndoCtx<'_>) -> Result<Compensated> {
        let bad = || Error::new(ErrorKind::ResourceManager, "no undo of a slot").with_lsn(record.lsn);
        let (&op, payload) = record.undo().split_first().ok_or_else(bad)?;
        let page = record.blocks.first().ok_or_else(bad)?.page;
        let mut credit = ctx.credit(RECORD_BYTES, 1)?;
        let mut page = ctx.pool().exclusive(page)?;
        let edit = PageEdit { page: &mut page, op, whole: Whole::No, payload };
        ctx.compensate(&mut [edit], &mut credit)
    }
    fn describe(&self, op: u8, payload: &[u8], f: &mut dyn fmt::Write) -> fmt::Result {
        match (op, slot_of(payload)) {
            (OP_INIT, _) => f.write_str("new page of slots"),
            (OP_PAD, _) => f.write_str("filler"),
            (OP_WRITE, Some((slot, rest))) => write!(f, "slot {slot} = {:?}", decode(rest).flatten()),
            (OP_ADD, Some((slot, rest))) => {
                let amount = rest.try_into().map(i64::from_le_bytes).unwrap_or_default();
                write!(f, "slot {slot} += {amount}")
            }
            _ => write!(f, "operation {op}?"),
        }
    }
    fn slots(&self, op: u8, payload: &[u8], see: &mut dyn FnMut(Range<u64>)) {
        match (op, slot_of(payload)) {
            (OP_PAD, _) => {}
            (OP_WRITE | OP_ADD, Some((slot, _))) => see(u64::from(slot)..u64::from(slot) + 1),
            _ => see(0..u64::MAX),
        }
    }
}

/// Who may change a slot: one writer, or any number of adders, until their transactions end.
#[derive(Default)]
struct Lock {
    writer: bool,
    holders: BTreeSet<String>,
}

/// The pages of a scenario, while a database is open.
pub(crate) struct PageStore {
    engine: Engine,
    rm: RmId,
    pub(crate) ids: BTreeMap<String, PageId>,
    locks: HashMap<(PageId, u16), Lock>,
}

impl PageStore {
    /// Over an open database; `ids` as [`PageStore::make`] gave them.
    pub(crate) fn open(engine: Engine, ids: BTreeMap<String, PageId>) -> Result<PageStore> {
        let missing = || Error::internal("the manager of page mode is not registered");
        let rm = engine.rm_id(NAME).ok_or_else(missing)?;
        Ok(PageStore { engine, rm, ids, locks: HashMap::new() })
    }

    /// Makes the pages, and fills the log so that no record of their making is needed or kept.
    pub(crate) fn make(&mut self, names: &[String]) -> Result<()> {
        let (pool, txns, space) = (self.engine.pool(), self.engine.txns(), self.engine.space());
        for name in names {
            let reservation = space.reserve(1)?;
            let id = reservation.pages()[0];
            let mut credit = pool.credit(RECORD_BYTES, 0, 2, false)?;
            let mut page = pool.create(id)?;
            let stopped = |_| Error::internal("a pinned map page is not in memory");
            let mut maps = space.latch_maps(&[id]).map_err(stopped)?;
            let init = [self.rm.0, KIND, 0, 0, 0, 0];
            let mut edits =
                vec![PageEdit { page: &mut page, op: OP_INIT, whole: Whole::Init, payload: &init }];
            edits.extend(maps.iter_mut().map(|(page, bits)| PageEdit {
                page,
                op: OP_SET,
                whole: Whole::No,
                payload: bits,
            }));
            txns.structure(None, self.rm, &mut edits, &mut credit)?;
            drop(edits);
            reservation.allocated(1);
            self.ids.insert(name.clone(), id);
        }
        Ok(())
    }

    /// Logs `bytes` bytes of records that change nothing.
    pub(crate) fn fill_log(&self, bytes: usize) -> Result<()> {
        let Some(id) = self.ids.values().next() else { return Ok(()) };
        let filler = vec![0; 1024];
        for _ in 0..bytes / filler.len() {
            let mut credit = self.engine.pool().credit(filler.len() as u64 + RECORD_BYTES, 0, 1, false)?;
            let mut page = self.engine.pool().exclusive(*id)?;
            let edit = PageEdit { page: &mut page, op: OP_PAD, whole: Whole::No, payload: &filler };
            self.engine.txns().structure(None, self.rm, &mut [edit], &mut credit)?;
        }
        Ok(())
    }

    pub(crate) fn id(&self, page: &str) -> Result<PageId> {
        let missing = || Error::new(ErrorKind::NotFound, format!("there is no page {page}"));
        self.ids.get(page).copied().ok_or_else(missing)
    }

    pub(crate) fn value(&self, page: &str, slot: u32) -> Result<Option<SlotValue>> {
        Ok(read(&self.engine.pool().shared(self.id(page)?)?, slot as u16))
    }

    /// A lock conflict is refused, not waited for: a scenario has one thread.
    fn lock(&mut self, name: &str, page: PageId, slot: u16, writes: bool) -> Result<()> {
        let lock = self.locks.entry((page, slot)).or_default();
        let alone = lock.holders.iter().all(|h| h == name);
        if !alone && (writes || lock.writer) {
            let who: Vec<_> = lock.holders.iter().filter(|h| *h != name).cloned().collect();
            let m = format!("{} has changed the slot and has not ended", who.join(", "));
            return Err(Error::new(ErrorKind::LockTimeout, m).with_page(page));
        }
        lock.writer |= writes;
        lock.holders.insert(name.to_string());
        Ok(())
    }
    /// The transaction has ended.
    pub(crate) fn unlock(&mut self, name: &str) {
        self.locks.retain(|_, l| {
            l.holders.remove(name);
            !l.holders.is_empty()
        });
    }

    /// Writes a slot, or adds to it.
    pub(crate) fn change(
        &mut self,
        name: &str,
        txn: &Txn,
        page: &str,
        slot: u32,
        change: Change<'_>,
    ) -> Result<()> {
        let (id, slot) = (self.id(page)?, slot as u16);
        self.lock(name, id, slot, matches!(change, Change::Write(_)))?;
        let _op = txn.enter()?;
        let (pool, txns) = (self.engine.pool(), self.engine.txns());
        txns.prepare(txn)?;
        let mut credit = pool.credit(RECORD_BYTES, RECORD_BYTES, 1, false)?;
        let mut page = pool.exclusive(id)?;
        let before = read(&page, slot);
        let (op, redo, undo) = match change {
            Change::Write(value) => {
                (OP_WRITE, payload(slot, &encode(Some(value))), payload(slot, &encode(before.as_ref())))
            }
            Change::Add(_) if matches!(before, Some(SlotValue::Text(_))) => {
                let m = "the slot holds a text: nothing can be added to it";
                return Err(Error::new(ErrorKind::InvalidArgument, m).with_page(id));
            }
            Change::Add(n) => {
                let add = |n: i64| payload(slot, &n.to_le_bytes());
                (OP_ADD, add(n), add(n.wrapping_neg()))
            }
        };
        let undo = [&[op][..], &undo].concat();
        let edit = PageEdit { page: &mut page, op, whole: Whole::No, payload: &redo };
        txns.update(txn, self.rm, &mut [edit], &undo, RECORD_BYTES, &mut credit).map(|_| ())
    }
}

/// A change of a slot.
#[derive(Clone, Copy)]
pub(crate) enum Change<'a> {
    Write(&'a SlotValue),
    Add(i64),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apply_and_describe_are_total() {
        let at = Applying { lsn: hamal::Lsn(1), txn: hamal::TxnId(0), page: PageId(3) };
        for op in 0..8u8 {
            for len in 0..70 {
                for byte in [0, 1, 2, 31, 0xff] {
                    let payload = vec![byte; len];
                    for size in [40, 64, 512, 4096] {
                        let mut page = vec![byte; size];
                        let _ = SlotPages.apply(&at, op, &payload, &mut page);
                        let _ = SlotPages.describe(op, &payload, &mut String::new());
                    }
                }
            }
        }
    }

    #[test]
    fn values_come_back() {
        for v in [None, Some(SlotValue::Int(-3)), Some(SlotValue::Text("é".repeat(24)))] {
            assert_eq!(decode(&encode(v.as_ref())), Some(v));
        }
    }
}
