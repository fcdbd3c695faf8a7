//! Overflow pages: values longer than a quarter page, as a chain of pages, streamed in and out.
//!
//! Each page of a chain names the next one, the head of its chain and the position of its first byte in the
//! value. A reader follows the next pointers and checks the other two: positions only rise, so it never
//! loops, and a page that belongs to another chain is noticed at once. Bytes are in
//! `docs/formats/overflow.md`.
//!
//! A chain always has an owner (GARBAGE-1): while it is built, a row of the garbage tree that was inserted by
//! the same record as the head page; then the tree record that it is linked from.
use crate::garbage::{chain_key, chain_row};
use crate::{BTREE_RM, Btree, ExtraEdit, GARBAGE_ROOT, GARBAGE_TREE, Tree};
use hamal_buffer::{ApplyError, Applying, ExclusivePage, PageEdit, Pin, Pool, Stop};
use hamal_error::{Error, ErrorKind, Result};
use hamal_log::Whole;
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::{HEADER_LEN, PageId, TreeId, header};
use hamal_space::{OP_SET, Space};
use hamal_txn::Txn;
use std::fmt;
use std::sync::Arc;

/// Page kind of an overflow page.
pub(crate) const KIND_OVERFLOW: u8 = 3;
/// Operation (initialisation): an overflow page with all its data; no next page yet.
pub(crate) const OVERFLOW_INIT: u8 = 64;
/// Operation: the page gets its next page, once.
pub(crate) const OVERFLOW_SET_NEXT: u8 = 65;
/// Operation: the root of a tree that the collector begins to free belongs to no tree from here on.
pub(crate) const DETACH_ROOT: u8 = 66;
/// The codes of this file end before this one.
pub(crate) const OVERFLOW_OPS_END: u8 = 80;

/// First byte of the data.
const DATA_AT: usize = HEADER_LEN + 32;
/// Log bytes of a record beside its payloads, generously.
pub(crate) const RECORD_OVERHEAD: u64 = 512;

/// The garbage tree.
pub(crate) const GARBAGE: Tree = Tree { id: GARBAGE_TREE, root: GARBAGE_ROOT };

/// Bytes of data that one page takes.
const fn capacity(page_size: usize) -> usize {
    page_size - DATA_AT
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// Applies an overflow operation: part of the B-tree manager's apply. Total.
pub(crate) fn apply(
    at: &Applying,
    op: u8,
    payload: &[u8],
    page: &mut [u8],
) -> std::result::Result<(), ApplyError> {
    let fail = |what: &str| Err(ApplyError(format!("overflow operation {op} on page {}: {what}", at.page)));
    if page.len() <= DATA_AT {
        return fail("the page is too short");
    }
    match op {
        OVERFLOW_INIT => {
            if header::kind(page) != KIND_OVERFLOW {
                return fail("not an overflow page");
            }
            let (Some(position), Some(head), Some(data)) =
                (u64_at(payload, 0), u64_at(payload, 8), payload.get(16..))
            else {
                return fail("the payload is too short");
            };
            if data.len() > capacity(page.len()) || (position == 0) != (head == at.page.0) {
                return fail("the payload does not fit the page");
            }
            page[HEADER_LEN + 8..HEADER_LEN + 16].copy_from_slice(&position.to_le_bytes());
            page[HEADER_LEN + 16..HEADER_LEN + 24].copy_from_slice(&head.to_le_bytes());
            page[HEADER_LEN + 24..HEADER_LEN + 28].copy_from_slice(&(data.len() as u32).to_le_bytes());
            page[DATA_AT..DATA_AT + data.len()].copy_from_slice(data);
        }
        OVERFLOW_SET_NEXT => {
            let Some(next) = u64_at(payload, 0).filter(|_| payload.len() == 8) else {
                return fail("the payload is not a page id");
            };
            if header::kind(page) != KIND_OVERFLOW || u64_at(page, HEADER_LEN) != Some(0) || next == 0 {
                return fail("not the last page of a chain");
            }
            page[HEADER_LEN..HEADER_LEN + 8].copy_from_slice(&next.to_le_bytes());
        }
        DETACH_ROOT => {
            if header::kind(page) == KIND_OVERFLOW || !payload.is_empty() {
                return fail("not a root");
            }
            header::set_tree(page, TreeId(0));
        }
        _ => return fail("unknown"),
    }
    Ok(())
}

/// Describes an overflow operation. Total; an initialisation's payload comes with or without its first six
/// bytes.
pub(crate) fn describe(op: u8, payload: &[u8], f: &mut dyn fmt::Write) -> fmt::Result {
    match op {
        OVERFLOW_INIT => {
            let body = match payload {
                [rm, KIND_OVERFLOW, 0, 0, 0, 0, body @ ..] if *rm == BTREE_RM.0 && body.len() >= 16 => body,
                _ => payload,
            };
            match (u64_at(body, 0), u64_at(body, 8)) {
                (Some(position), Some(head)) => {
                    write!(f, "overflow page of chain {head} at {position} len={}", body.len() - 16)
                }
                _ => f.write_str("overflow page ?"),
            }
        }
        OVERFLOW_SET_NEXT => match u64_at(payload, 0) {
            Some(next) => write!(f, "overflow next={next}"),
            None => f.write_str("overflow next=?"),
        },
        DETACH_ROOT => f.write_str("detach the root of a dropped tree"),
        _ => write!(f, "overflow operation {op}?"),
    }
}

/// The fields of an overflow page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OverflowPage {
    /// Next page, if there is one.
    pub(crate) next: Option<PageId>,
    /// Bytes of data.
    pub(crate) len: usize,
    /// Position of the first byte in the value.
    pub(crate) position: u64,
}

/// Reads the fields of page `id`, checked to be one of the chain `head`.
///
/// # Errors
/// `PageCorrupt`.
pub(crate) fn parse(id: PageId, page: &[u8], head: PageId) -> Result<OverflowPage> {
    let corrupt = |what: String| Err(Error::new(ErrorKind::PageCorrupt, what).with_page(id));
    if page.len() <= DATA_AT || header::rm(page) != BTREE_RM || header::kind(page) != KIND_OVERFLOW {
        return corrupt(format!("an overflow page of chain {head} was expected"));
    }
    let field = |at| u64_at(page, HEADER_LEN + at).unwrap_or_default();
    let (next, position, owner) = (field(0), field(8), field(16));
    let len = field(24) as u32 as usize;
    if owner != head.0 {
        return corrupt(format!("the page belongs to overflow chain {owner}, not {head}"));
    }
    if len > capacity(page.len())
        || (position == 0) != (id == head)
        || position.checked_add(len as u64).is_none()
    {
        return corrupt(format!("overflow page of chain {head} with {len} bytes at {position}"));
    }
    // Only a page that holds something has a successor: the positions along a chain rise, whatever the pages
    // say.
    if next == id.0 || (next != 0 && len == 0) {
        return corrupt(format!("overflow page of chain {head} names page {next} as the next one"));
    }
    Ok(OverflowPage { next: (next != 0).then_some(PageId(next)), len, position })
}

/// The head of the chain that a page says it belongs to; page 0 if the page is too short to say so.
pub(crate) fn head_of(page: &[u8]) -> PageId {
    PageId(u64_at(page, HEADER_LEN + 16).unwrap_or_default())
}

/// Checks that a page of a chain stands where it must: at `position` of a value of `len` bytes, with a
/// successor if and only if the value goes on.
///
/// # Errors
/// `PageCorrupt`.
pub(crate) fn check_place(id: PageId, fields: &OverflowPage, position: u64, len: u64) -> Result<()> {
    let end = fields.position.saturating_add(fields.len as u64);
    let ok = fields.position == position
        && end <= len
        && fields.next.is_some() == (end < len)
        && (fields.len > 0 || len == 0);
    if ok {
        return Ok(());
    }
    let next = if fields.next.is_some() { " and a next page" } else { "" };
    let what = format!(
        "overflow page with bytes {}..{end}{next} where byte {position} of {len} was expected",
        fields.position
    );
    Err(Error::new(ErrorKind::PageCorrupt, what).with_page(id))
}

/// A page to be made in the record of a row: what `prepare` of [`Btree::insert_structure`] hands out.
struct NewPage<'s> {
    pool: &'s Pool,
    guard: Option<ExclusivePage<'s>>,
    id: PageId,
    lost: bool,
}

impl<'s> NewPage<'s> {
    /// A frame for the reserved page `id`. No latch held. Nobody else can reach the page: holding its guard
    /// while other things are waited for keeps nobody waiting.
    fn new(pool: &'s Pool, id: PageId) -> Result<NewPage<'s>> {
        Ok(NewPage { pool, guard: Some(pool.create(id)?), id, lost: false })
    }
    /// The edits: the page made by `op` with `payload`, then its map page. Latches the map page first, so
    /// that the page's guard is given away only if the change can go ahead.
    fn edits(
        &mut self,
        space: &'s Space,
        op: u8,
        payload: &[u8],
    ) -> std::result::Result<Vec<ExtraEdit<'s>>, Stop> {
        if self.guard.is_none() {
            // The change was given up after the guard was handed out: the frame has to be made again without
            // a latch.
            self.lost = true;
            return Err(Error::internal("the new page's frame was given up").with_page(self.id).into());
        }
        let maps = space.latch_maps(&[self.id])?;
        let mut out = Vec::with_capacity(2);
        if let Some(page) = self.guard.take() {
            out.push(ExtraEdit { page, op, whole: Whole::Init, payload: payload.to_vec() });
        }
        for (page, payload) in maps {
            out.push(ExtraEdit { page, op: OP_SET, whole: Whole::No, payload });
        }
        Ok(out)
    }
    /// After the change failed: whether it is to be tried again, with a new frame.
    fn again(&mut self) -> Result<bool> {
        let lost = std::mem::take(&mut self.lost);
        if lost {
            self.guard = Some(self.pool.create(self.id)?);
        }
        Ok(lost)
    }
}

/// The one page of a reservation of one.
fn only(pages: &[PageId]) -> Result<PageId> {
    pages.first().copied().ok_or_else(|| Error::internal("a reservation without a page"))
}

/// Makes a new page and inserts its garbage row, in one redo-only record in the transaction's name
/// (GARBAGE-1): if the transaction does not get to linking the page and deleting the row, the collector frees
/// it.
///
/// # Errors
/// As [`Btree::put`].
pub(crate) fn make_owned_page(
    btree: &Btree,
    txn: &Txn,
    key: impl Fn(PageId) -> [u8; 8],
    row: impl Fn(PageId) -> Vec<u8>,
    op: u8,
    payload: impl Fn(PageId) -> Vec<u8>,
) -> Result<PageId> {
    let space = &**btree.space();
    let reservation = space.reserve(1)?;
    let id = only(reservation.pages())?;
    let (key, row, payload) = (key(id), row(id), payload(id));
    let extra = payload.len() as u64 + RECORD_OVERHEAD;
    let mut page = NewPage::new(btree.txns().pool(), id)?;
    loop {
        let mut prepare = || page.edits(space, op, &payload);
        match btree.insert_structure(Some(txn), GARBAGE, &key, &row, extra, &mut prepare) {
            Ok(()) => break,
            Err(e) => {
                if !page.again()? {
                    return Err(e);
                }
            }
        }
    }
    reservation.allocated(1);
    Ok(id)
}

/// Builds a chain. Its head page and its garbage row are made in one record; each later page is linked by its
/// own. If it is dropped unfinished, or the transaction rolls back, the collector frees the pages.
pub struct LargeWriter {
    btree: Arc<Btree>,
    /// Bytes not in a page yet: at most one page's worth.
    buffer: Vec<u8>,
    /// Bytes in pages.
    written: u64,
    /// Head and last page, once there are pages.
    ends: Option<(PageId, PageId)>,
}

impl fmt::Debug for LargeWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LargeWriter")
            .field("written", &self.written)
            .field("ends", &self.ends)
            .finish_non_exhaustive()
    }
}

impl LargeWriter {
    /// Begins a chain for a transaction (whose operation lock the caller holds during each call).
    ///
    /// # Errors
    /// As [`Btree::put`].
    pub fn new(btree: Arc<Btree>) -> LargeWriter {
        LargeWriter { btree, buffer: Vec::new(), written: 0, ends: None }
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// As [`Btree::put`].
    pub fn write(&mut self, txn: &Txn, mut bytes: &[u8]) -> Result<()> {
        let full = capacity(self.btree.txns().pool().page_size());
        while !bytes.is_empty() {
            // A full page waits for the byte after it, so that `finish` always has the last page to write.
            if self.buffer.len() == full {
                self.flush(txn)?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(full - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    /// Finishes the chain: writes what is buffered and returns length and head. The caller links it with
    /// [`Btree::put`] and then calls [`LargeWriter::linked`].
    ///
    /// # Errors
    /// As [`Btree::put`].
    pub fn finish(&mut self, txn: &Txn) -> Result<(u64, PageId)> {
        if !self.buffer.is_empty() || self.ends.is_none() {
            self.flush(txn)?;
        }
        match self.ends {
            Some((head, _)) => Ok((self.written, head)),
            None => Err(Error::internal("a chain without a page")),
        }
    }

    /// The chain is owned by a tree record now: deletes its garbage row (undone with the transaction).
    ///
    /// # Errors
    /// As [`Btree::put`].
    pub fn linked(self, txn: &Txn) -> Result<()> {
        match self.ends {
            Some((head, _)) => self.btree.remove(txn, GARBAGE, &chain_key(head)).map(|_| ()),
            None => Ok(()),
        }
    }

    /// Writes the buffer as the chain's next page.
    fn flush(&mut self, txn: &Txn) -> Result<()> {
        let ends = match self.ends {
            None => {
                let payload = |id| init_payload(self.written, id, &self.buffer);
                let head = make_owned_page(&self.btree, txn, chain_key, chain_row, OVERFLOW_INIT, payload)?;
                (head, head)
            }
            Some((head, last)) => (head, self.append_page(txn, head, last)?),
        };
        self.ends = Some(ends);
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Makes the page after `last` and links it, in one redo-only record.
    fn append_page(&self, txn: &Txn, head: PageId, last: PageId) -> Result<PageId> {
        let (txns, space) = (self.btree.txns(), self.btree.space());
        let pool = txns.pool();
        let reservation = space.reserve(1)?;
        let id = only(reservation.pages())?;
        let init = init_payload(self.written, head, &self.buffer);
        let next = id.0.to_le_bytes();
        let mut credit = pool.credit(init.len() as u64 + RECORD_OVERHEAD, 0, 3, false)?;
        let _pin: Pin<'_> = pool.fetch(last)?;
        let mut page = pool.create(id)?;
        // Both pages of the chain are this thread's alone; the map page is pinned by the reservation.
        let mut former = pool.try_exclusive(last).map_err(unexpected)?;
        let mut maps = space.latch_maps(&[id]).map_err(unexpected)?;
        let mut edits = vec![
            PageEdit { page: &mut page, op: OVERFLOW_INIT, whole: Whole::Init, payload: &init },
            PageEdit { page: &mut former, op: OVERFLOW_SET_NEXT, whole: Whole::No, payload: &next },
        ];
        let link = mutants::is(Mutant::ChainPageLinkedLater).then(|| edits.pop());
        for (map, bits) in &mut maps {
            edits.push(PageEdit { page: map, op: OP_SET, whole: Whole::No, payload: bits });
        }
        if let Some(link) = link.flatten() {
            txns.structure(Some(txn), BTREE_RM, &mut edits, &mut credit)?;
            self.btree.force_between()?;
            edits = vec![link];
        }
        txns.structure(Some(txn), BTREE_RM, &mut edits, &mut credit)?;
        reservation.allocated(1);
        Ok(id)
    }
}

/// A latched section whose pages are pinned cannot need anything.
fn unexpected(stop: Stop) -> Error {
    match stop {
        Stop::Error(e) => e,
        Stop::Need(need) => Error::internal(format!("a pinned page needs {need:?}")),
    }
}

/// Payload of [`OVERFLOW_INIT`] as it is logged: manager, kind, tree; position, head, data.
fn init_payload(position: u64, head: PageId, data: &[u8]) -> Vec<u8> {
    let mut p = Vec::with_capacity(22 + data.len());
    p.extend([BTREE_RM.0, KIND_OVERFLOW, 0, 0, 0, 0]);
    p.extend(position.to_le_bytes());
    p.extend(head.0.to_le_bytes());
    p.extend(data);
    p
}

/// Reads a chain. Valid while the snapshot or transaction through which it was found lives.
pub struct LargeReader {
    btree: Arc<Btree>,
    head: PageId,
    /// Length of the value.
    len: u64,
    /// Position of the next byte to read.
    at: u64,
    /// The page that holds it, and the position that this page must have.
    page: PageId,
    page_at: u64,
}

impl fmt::Debug for LargeReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LargeReader")
            .field("head", &self.head)
            .field("len", &self.len)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

impl LargeReader {
    /// A reader of the chain `head` of `len` bytes.
    pub fn new(btree: Arc<Btree>, len: u64, head: PageId) -> LargeReader {
        LargeReader { btree, head, len, at: 0, page: head, page_at: 0 }
    }

    /// Bytes left.
    pub fn remaining(&self) -> u64 {
        self.len - self.at
    }

    /// Whether the page of the next byte, or a later one of the chain, lies at or above `limit`; reads up to there.
    ///
    /// # Errors
    /// `PageCorrupt` if the chain is broken.
    pub fn reaches(mut self, limit: PageId) -> Result<bool> {
        while self.page < limit {
            let page = self.btree.txns().pool().shared(self.page)?;
            let fields = parse(self.page, &page, self.head)?;
            check_place(self.page, &fields, self.page_at, self.len)?;
            let Some(next) = fields.next else { return Ok(false) };
            (self.page, self.page_at) = (next, self.page_at + fields.len as u64);
        }
        Ok(true)
    }

    /// Reads the next bytes; 0 at the end. Fills the buffer unless the value ends before.
    ///
    /// # Errors
    /// `PageCorrupt` if the chain is broken.
    pub fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < buf.len() && self.at < self.len {
            let page = self.btree.txns().pool().shared(self.page)?;
            let fields = parse(self.page, &page, self.head)?;
            check_place(self.page, &fields, self.page_at, self.len)?;
            let from = (self.at - fields.position) as usize;
            let n = (fields.len - from).min(buf.len() - done);
            buf[done..done + n].copy_from_slice(&page[DATA_AT + from..DATA_AT + from + n]);
            done += n;
            self.at += n as u64;
            if from + n == fields.len
                && let Some(next) = fields.next
            {
                (self.page, self.page_at) = (next, self.at);
            }
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hamal_page::{Lsn, TxnId};

    fn page(id: u64, position: u64, head: u64, data: &[u8]) -> Vec<u8> {
        let mut p = vec![0u8; 4096];
        hamal_page::init(&mut p, PageId(id), BTREE_RM, KIND_OVERFLOW, TreeId(0));
        let payload = init_payload(position, PageId(head), data);
        run(id, OVERFLOW_INIT, &payload[6..], &mut p).unwrap();
        p
    }
    fn run(id: u64, op: u8, payload: &[u8], page: &mut [u8]) -> std::result::Result<(), ApplyError> {
        apply(&Applying { lsn: Lsn(9), txn: TxnId::NONE, page: PageId(id) }, op, payload, page)
    }

    #[test]
    fn pages_are_read_back() {
        let mut p = page(7, 0, 7, b"abc");
        let got = parse(PageId(7), &p, PageId(7)).unwrap();
        assert_eq!(got, OverflowPage { next: None, len: 3, position: 0 });
        run(7, OVERFLOW_SET_NEXT, &8u64.to_le_bytes(), &mut p).unwrap();
        assert!(run(7, OVERFLOW_SET_NEXT, &9u64.to_le_bytes(), &mut p.clone()).is_err(), "only once");
        let got = parse(PageId(7), &p, PageId(7)).unwrap();
        assert_eq!(got.next, Some(PageId(8)));
        check_place(PageId(7), &got, 0, 4).unwrap();
        check_place(PageId(7), &got, 0, 3).unwrap_err();
        check_place(PageId(7), &got, 1, 4).unwrap_err();
        assert!(parse(PageId(7), &p, PageId(6)).is_err(), "of another chain");
    }

    #[test]
    fn everything_is_total() {
        for op in 60..82 {
            for len in 0..40 {
                for byte in [0, 1, 3, 7, 255] {
                    let payload = vec![byte; len];
                    for mut p in [page(7, 0, 7, b"abc"), vec![byte; 4096], vec![byte; 72], vec![byte; 41]] {
                        let _ = run(7, op, &payload, &mut p);
                        let _ = parse(PageId(7), &p, PageId(7));
                    }
                    describe(op, &payload, &mut String::new()).unwrap();
                }
            }
        }
    }

    #[test]
    fn descriptions_know_both_forms_of_a_payload() {
        let payload = init_payload(4024, PageId(7), b"abc");
        for p in [&payload[..], &payload[6..]] {
            let mut s = String::new();
            describe(OVERFLOW_INIT, p, &mut s).unwrap();
            assert_eq!(s, "overflow page of chain 7 at 4024 len=3");
        }
    }
}
