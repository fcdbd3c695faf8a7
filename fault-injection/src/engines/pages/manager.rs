//! The resource manager of the counters: what the engine calls in normal work, in redo, and in undo.
use super::layout::*;
use hamal::raw::{
    ApplyError, Applying, Compensated, HEADER_LEN, OP_CLEAR, PageEdit, PageOps, Record, ResourceManager,
    Space, Stop, UndoCtx, Whole, header,
};
use hamal::{Error, ErrorKind, PageId, Result};
use std::fmt;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};

/// The manager's name.
pub(super) const NAME: &str = "counter-pages";

/// The counters' manager.
pub(super) struct CounterPages {
    /// The space manager of the open database: pages freed by an undo in normal running can be used again at once. Nothing
    /// during a restart.
    space: Mutex<Weak<Space>>,
}

impl CounterPages {
    pub(super) fn new() -> CounterPages {
        CounterPages { space: Mutex::new(Weak::new()) }
    }
    pub(super) fn space(&self) -> MutexGuard<'_, Weak<Space>> {
        // Only a pointer is kept there: it is whole even if a holder panicked.
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn freed(&self, page: PageId) {
        if let Some(space) = self.space().upgrade() {
            space.freed(&[page]);
        }
    }
}

impl PageOps for CounterPages {
    /// The one function that changes a page. Total: what does not fit is an error, and an undo that does not take off exactly
    /// what was added is one too.
    fn apply(
        &self,
        at: &Applying,
        op: u8,
        payload: &[u8],
        page: &mut [u8],
    ) -> std::result::Result<(), ApplyError> {
        let fail = |what: &str| ApplyError(format!("operation {op} on page {}: {what}", at.page));
        if page.len() <= HEADER_LEN {
            return Err(fail("the page is too short"));
        }
        let kind = header::kind(page);
        match op {
            OP_DIRECTORY if kind == KIND_DIRECTORY && payload.is_empty() => Ok(()), // a new page is all zeros
            OP_COUNTERS if kind == KIND_COUNTERS && payload.len() == 4 => {
                put(page, HEADER_LEN, payload).ok_or_else(|| fail("the page is too short"))
            }
            OP_LINK | OP_UNLINK if kind == KIND_DIRECTORY => {
                let (link, id) = parse_link(payload).ok_or_else(|| fail("the payload is no link"))?;
                let place = link_at(link).ok_or_else(|| fail("there is no such link"))?;
                let (before, after) = if op == OP_LINK { (0, id) } else { (id, 0) };
                if id == 0 || u64_at(page, place) != Some(before) {
                    return Err(fail("the link names another page"));
                }
                put(page, place, &after.to_le_bytes()).ok_or_else(|| fail("the page is too short"))
            }
            OP_ADD if kind == KIND_COUNTERS => {
                let (slot, amount, addition) =
                    parse_add(payload).ok_or_else(|| fail("the payload is no addition"))?;
                let old = counter(page, slot).ok_or_else(|| fail("there is no such counter"))?;
                let additions =
                    if addition { old.additions.checked_add(1) } else { old.additions.checked_sub(1) };
                let additions = additions.ok_or_else(|| fail("the number of additions is out of range"))?;
                let sum = old.sum.wrapping_add(amount);
                if additions == 0 && sum != 0 {
                    return Err(fail("no additions are left, but a sum is"));
                }
                let place = slot_at(slot, page.len()).ok_or_else(|| fail("there is no such counter"))?;
                put(page, place, &sum.to_le_bytes())
                    .and_then(|()| put(page, place + 8, &additions.to_le_bytes()))
                    .ok_or_else(|| fail("the page is too short"))
            }
            _ => Err(fail("unknown, or not for a page of this kind")),
        }
    }

    fn hole(&self, page: &[u8]) -> Range<usize> {
        // Behind the last link that is set.
        let last = |n: u32| link_at(n).filter(|at| u64_at(page, *at).is_some_and(|id| id != 0));
        if page.len() > HEADER_LEN && header::kind(page) == KIND_DIRECTORY {
            let used = (0..LINKS).rev().find_map(last).map_or(HEADER_LEN, |at| at + 8);
            // Behind the links there is nothing; were there something, it would not be a hole.
            let clean = page.get(used..).is_some_and(|rest| rest.iter().all(|b| *b == 0));
            if clean {
                return used..page.len();
            }
        }
        0..0
    }
}

/// What a latch that was asked for without waiting came to.
pub(super) fn stopped(stop: Stop) -> Error {
    match stop {
        Stop::Error(e) => e,
        Stop::Need(need) => Error::internal(format!("a pinned page is not in memory: {need:?}")),
    }
}

impl CounterPages {
    /// Undo of an addition: add the opposite.
    fn undo_add(&self, record: &Record, ctx: UndoCtx<'_>, id: PageId) -> Result<Compensated> {
        let bad = || Error::new(ErrorKind::ResourceManager, "undo bytes of an addition").with_lsn(record.lsn);
        let (slot, amount) = u32_at(record.undo(), 1)
            .zip(u64_at(record.undo(), 5))
            .filter(|_| record.undo().len() == 13)
            .ok_or_else(bad)?;
        let payload = add_payload(slot, (amount as i64).wrapping_neg(), false);
        let mut credit = ctx.credit(RECORD_BYTES, 1)?;
        let mut page = ctx.pool().exclusive(id)?;
        let edit = PageEdit { page: &mut page, op: OP_ADD, whole: Whole::No, payload: &payload };
        ctx.compensate(&mut [edit], &mut credit)
    }

    /// Undo of making a directory: frees what it names, one page at a time, then itself.
    fn undo_directory(&self, record: &Record, ctx: UndoCtx<'_>, id: PageId) -> Result<Compensated> {
        let rm = record.rm;
        loop {
            let next = links(id, rm, &ctx.pool().shared(id)?)?.pop();
            let Some((link, page)) = next else { break };
            let (map, bit) = map_of(page, ctx.pool().page_size());
            let (unlink, clear) = (link_payload(link, page), bit.to_le_bytes());
            let mut credit = ctx.credit(RECORD_BYTES, 2)?;
            let pins = [ctx.pool().fetch(id)?, ctx.pool().fetch(page)?, ctx.pool().fetch(map)?];
            let mut directory = ctx.pool().try_exclusive(id).map_err(stopped)?;
            let mut freed = ctx.pool().try_exclusive(page).map_err(stopped)?;
            let mut maps = ctx.pool().try_exclusive(map).map_err(stopped)?;
            // The frame of the freed page goes with its guard, unless it is pinned.
            drop(pins);
            let mut edits = [
                PageEdit { page: &mut directory, op: OP_UNLINK, whole: Whole::No, payload: &unlink },
                PageEdit { page: &mut freed, op: OP_FREE, whole: Whole::Free, payload: &[] },
                PageEdit { page: &mut maps, op: OP_CLEAR, whole: Whole::No, payload: &clear },
            ];
            ctx.manager().structure(Some(ctx.txn()), rm, &mut edits, &mut credit)?;
            self.freed(page);
        }
        let (map, bit) = map_of(id, ctx.pool().page_size());
        let clear = bit.to_le_bytes();
        let mut credit = ctx.credit(RECORD_BYTES, 1)?;
        let pins = [ctx.pool().fetch(id)?, ctx.pool().fetch(map)?];
        let mut directory = ctx.pool().try_exclusive(id).map_err(stopped)?;
        let mut maps = ctx.pool().try_exclusive(map).map_err(stopped)?;
        drop(pins);
        let mut edits = [
            PageEdit { page: &mut directory, op: OP_FREE, whole: Whole::Free, payload: &[] },
            PageEdit { page: &mut maps, op: OP_CLEAR, whole: Whole::No, payload: &clear },
        ];
        let done = ctx.compensate(&mut edits, &mut credit)?;
        self.freed(id);
        Ok(done)
    }
}

impl ResourceManager for CounterPages {
    fn name(&self) -> &str {
        NAME
    }
    fn version(&self) -> u32 {
        1
    }
    fn undo(&self, record: &Record, ctx: UndoCtx<'_>) -> Result<Compensated> {
        let bad =
            || Error::new(ErrorKind::ResourceManager, "undo bytes of no operation").with_lsn(record.lsn);
        let id = record.blocks.first().ok_or_else(bad)?.page;
        match record.undo().first() {
            Some(&UNDO_ADD) => self.undo_add(record, ctx, id),
            Some(&UNDO_DIRECTORY) => self.undo_directory(record, ctx, id),
            _ => Err(bad()),
        }
    }
    fn describe(&self, op: u8, payload: &[u8], f: &mut dyn fmt::Write) -> fmt::Result {
        match op {
            OP_FREE => f.write_str("free"),
            OP_DIRECTORY => f.write_str("new directory of counters"),
            OP_COUNTERS => match u32_at(payload, 0) {
                Some(number) => write!(f, "new page {number} of counters"),
                None => f.write_str("new page ? of counters"),
            },
            OP_LINK | OP_UNLINK => match parse_link(payload) {
                Some((link, page)) => {
                    write!(f, "link {link} {} page {page}", if op == OP_LINK { "to" } else { "off" })
                }
                None => f.write_str("link ?"),
            },
            OP_ADD => match parse_add(payload) {
                Some((slot, amount, true)) => write!(f, "counter {slot} += {amount}"),
                Some((slot, amount, false)) => write!(f, "counter {slot} += {amount} (undo)"),
                None => f.write_str("counter ?"),
            },
            _ => write!(f, "operation {op}?"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apply_hole_and_describe_are_total() {
        let manager = CounterPages::new();
        let at = Applying { lsn: hamal::Lsn(1), txn: hamal::TxnId(0), page: PageId(3) };
        for op in 0..=255u8 {
            for len in 0..20 {
                for byte in [0, 1, 31, 0xff] {
                    let payload = vec![byte; len];
                    for (size, fill, kind) in
                        [(4096, 0, 1), (4096, 0, 2), (4096, 0xff, 1), (4096, 0xff, 2), (64, 0, 2), (40, 0, 1)]
                    {
                        let mut page = vec![fill; size];
                        header::set_kind(&mut page, kind);
                        let _ = manager.apply(&at, op, &payload, &mut page);
                        let hole = manager.hole(&page);
                        assert!(hole.end <= page.len() && page[hole].iter().all(|b| *b == 0));
                    }
                    manager.describe(op, &payload, &mut String::new()).unwrap();
                }
            }
        }
    }
}
