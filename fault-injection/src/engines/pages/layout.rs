//! The bytes of directories, counters and their records.
use hamal::raw::{HEADER_LEN, header};
use hamal::{Error, ErrorKind, PageId, Result, RmId};

/// Pages that a directory names.
pub const LINKS: u32 = 16;
/// Counters of a page.
pub const SLOTS: u32 = 32;

pub(super) const KIND_DIRECTORY: u8 = 1;
pub(super) const KIND_COUNTERS: u8 = 2;

/// The page is freed: no payload, nothing is applied.
pub(super) const OP_FREE: u8 = 0;
/// A directory is made: no payload after the head.
pub(super) const OP_DIRECTORY: u8 = 1;
/// A page of counters is made: its number (4).
pub(super) const OP_COUNTERS: u8 = 2;
/// Directory: link (4) names page (8) from here on.
pub(super) const OP_LINK: u8 = 3;
/// Directory: link (4) names page (8) no longer.
pub(super) const OP_UNLINK: u8 = 4;
/// Counters: slot (4), amount (8), 1 for an addition or 0 for its undo (1).
pub(super) const OP_ADD: u8 = 5;

/// Undo bytes: of a directory that was made.
pub(super) const UNDO_DIRECTORY: u8 = 1;
/// Undo bytes: of an addition; slot (4) and amount (8) follow.
pub(super) const UNDO_ADD: u8 = 2;

/// More than any record here takes in the log.
pub(super) const RECORD_BYTES: u64 = 320;
/// What the undo of a directory may log.
pub(super) const UNDO_DIRECTORY_BYTES: u64 = (LINKS as u64 + 1) * RECORD_BYTES;

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}
pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}
pub(super) fn put(page: &mut [u8], at: usize, bytes: &[u8]) -> Option<()> {
    page.get_mut(at..at.checked_add(bytes.len())?)?.copy_from_slice(bytes);
    Some(())
}

pub(super) fn link_at(link: u32) -> Option<usize> {
    (link < LINKS).then_some(HEADER_LEN + 8 * link as usize)
}
pub(super) fn slot_at(slot: u32, page_size: usize) -> Option<usize> {
    let first = HEADER_LEN + 8;
    let stride = (page_size.checked_sub(first)? / SLOTS as usize) & !7;
    (slot < SLOTS && stride >= 16).then_some(first + stride * slot as usize)
}

/// A counter: the sum, and how many additions it is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counter {
    pub(super) sum: i64,
    pub(super) additions: u32,
}

pub(super) fn counter(page: &[u8], slot: u32) -> Option<Counter> {
    let at = slot_at(slot, page.len())?;
    Some(Counter { sum: u64_at(page, at)? as i64, additions: u32_at(page, at + 8)? })
}

pub(super) fn link_payload(link: u32, page: PageId) -> Vec<u8> {
    [&link.to_le_bytes()[..], &page.0.to_le_bytes()].concat()
}
pub(super) fn parse_link(payload: &[u8]) -> Option<(u32, u64)> {
    (payload.len() == 12).then_some((u32_at(payload, 0)?, u64_at(payload, 4)?))
}
pub(super) fn add_payload(slot: u32, amount: i64, addition: bool) -> Vec<u8> {
    [&slot.to_le_bytes()[..], &amount.to_le_bytes(), &[u8::from(addition)]].concat()
}
pub(super) fn parse_add(payload: &[u8]) -> Option<(u32, i64, bool)> {
    let addition = match payload.get(12..)? {
        [0] => false,
        [1] => true,
        _ => return None,
    };
    Some((u32_at(payload, 0)?, u64_at(payload, 4)? as i64, addition))
}
pub(super) fn init_payload(rm: RmId, kind: u8, rest: &[u8]) -> Vec<u8> {
    [&[rm.0, kind, 0, 0, 0, 0][..], rest].concat()
}

/// The map page that speaks of `page`, and its bit there (docs/formats/space.md). Undo at restart has no handle of the space
/// manager, which is wired up after it.
pub(super) fn map_of(page: PageId, page_size: usize) -> (PageId, u32) {
    let per_map = (page_size as u64 - 64) * 8;
    (PageId(page.0 / per_map * per_map), (page.0 % per_map) as u32)
}

pub(super) fn corrupt(page: PageId, what: &str) -> Error {
    Error::new(ErrorKind::PageCorrupt, what).with_page(page)
}

/// The links of a directory, checked to be one.
pub(super) fn links(id: PageId, rm: RmId, page: &[u8]) -> Result<Vec<(u32, PageId)>> {
    if header::rm(page) != rm || header::kind(page) != KIND_DIRECTORY {
        return Err(corrupt(id, "a directory of counters was expected"));
    }
    let link = |n: u32| Some((n, u64_at(page, link_at(n)?).filter(|id| *id != 0)?));
    Ok((0..LINKS).filter_map(link).map(|(n, id)| (n, PageId(id))).collect())
}

pub(super) fn check_counters(id: PageId, rm: RmId, number: u32, page: &[u8]) -> Result<()> {
    let is = header::rm(page) == rm
        && header::kind(page) == KIND_COUNTERS
        && u32_at(page, HEADER_LEN) == Some(number);
    if is { Ok(()) } else { Err(corrupt(id, "another page of counters was expected")) }
}
